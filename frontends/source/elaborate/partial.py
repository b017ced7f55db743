"""Functions as values: with some of their static parameters given, and with a scope that all calls share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic, Span
from ....ir.graph import Value
from ....ir.notation import show_value
from ....ir.types import TensorType
from ..syntax import ast
from .values import DeclValue, Instance, OpValue, Partial, describe

if TYPE_CHECKING:
    from .arguments import Argument
    from .calls import Calls
    from .frame import Frame


def unwrapped(
    callee: Any, arguments: list[Argument], scope: str, span: Span | None
) -> tuple[Any, list[Argument], str, Instance | None]:
    """The function behind a callee, with what that has been given before the arguments of the call, and its scope.

    Raises:
        Diagnostic: E0405 for another scope of what has one.
    """
    if not isinstance(callee, (Partial, Instance)):
        return callee, arguments, scope, None
    named = {name for name, _, _ in arguments}
    arguments = [*arguments, *((name, value, None) for name, value in callee.given if name not in named)]
    if isinstance(callee, Partial):
        return callee.function, arguments, scope, None
    if scope:
        raise Diagnostic(
            "E0405", f"{describe(callee)} has its scope already, and is called `as {scope}`", span,
            help="its calls share their weights; for weights of its own call the layer itself",
        )  # fmt: skip
    return callee.function, arguments, scope, callee


def partial(
    calls: Calls, frame: Frame, callee: DeclValue | OpValue, arguments: list[Argument], scope: str, instance: Instance | None = None
) -> Any:
    """What a call is that gives static parameters by name and no tensor, where one is needed: a function. Else None.

    That of an ``instance`` shares its weights.
    """
    if isinstance(callee, OpValue):
        signature = callee.op.signature
    elif isinstance(callee.declared.node, ast.Function):
        signature = calls.elaborator.signatures.of(callee.declared)
    else:
        return None
    statics = {s.name: s for s in signature.statics if "." not in s.name}
    needed = any(not o.optional for o in signature.operands)
    if not needed or not (arguments or scope) or any(name not in statics for name, _, _ in arguments):
        return None
    given = {
        name: calls.static_value(statics[name].kind, statics[name].optional, value, signature.name, name, where)
        for name, value, where in arguments if name is not None
    }  # fmt: skip
    made = Partial(callee, tuple((name, given[name]) for name in statics if name in given))
    if instance is not None:
        return replace(instance, given=made.given)
    return instance_of(frame, made, scope) if scope else made


def forgotten(value: Any) -> str | None:
    """What to write where a function stands and a tensor is wanted: a call of it with one; None for anything else."""
    given = value.given if isinstance(value, (Partial, Instance)) else ()
    function = value.function if isinstance(value, (Partial, Instance)) else value
    if isinstance(function, OpValue):
        name, operands = function.op.name, [o.name for o in function.op.signature.operands if not o.optional]
    elif isinstance(function, DeclValue) and isinstance(function.declared.node, ast.Function):
        name, node = function.declared.node.name, function.declared.node
        operands = [p.name for p in node.params if not p.type.optional]
    else:
        return None
    options = [f"{option}={show_value(v)}" for option, v in given]
    return f"it is a function until it is called with its tensors: `{name}({', '.join([*operands, *options])})`"


def instance_of(frame: Frame, value: Any, scope: str) -> Any:
    """``value as scope``: a function that can own weights keeps that scope; anything else is as it is."""
    function = value.function if isinstance(value, Partial) else value
    if not isinstance(function, DeclValue):
        return value
    node = function.declared.node
    if not isinstance(node, ast.Function) or node.kind == "op":
        return value
    given = value.given if isinstance(value, Partial) else ()
    return Instance(function, given, f"{frame.scope}.{scope}" if frame.scope else scope)


def instances(values: Iterable[Any]) -> Iterator[Instance]:
    """The instances among static values, those in lists and those given to others included."""
    for value in values:
        if isinstance(value, Instance):
            yield value
            yield from instances(given for _, given in value.given)
        elif isinstance(value, Partial):
            yield from instances(given for _, given in value.given)
        elif isinstance(value, tuple):
            yield from instances(value)


@contextmanager
def sharing(frame: Frame, instance: Instance) -> Iterator[None]:
    """A call of an instance from ``frame``: what is declared within has the weights of its earlier calls."""
    outer = frame.instances
    frame.instances = (*outer, instance)
    try:
        yield
    finally:
        frame.instances = outer
    instance.weights.update(instance.fresh)
    instance.fresh.clear()


def shared_weight(frame: Frame, name: str, type: TensorType, span: Span | None) -> Value | None:
    """The weight of that full name, if an earlier call of an instance has declared it. Raises E0206 for one of another type."""
    for instance in frame.instances:
        found = instance.weights.get(name)
        if found is not None and found.type == type:
            return found
        if found is not None:
            raise Diagnostic(
                "E0206", f"the weight `{name}` is {found.type} in one call of {describe(instance)}, and {type} in another", span,
                help="calls that share weights take tensors with the same features; for weights of its own call the layer itself",
            )  # fmt: skip
    return None
