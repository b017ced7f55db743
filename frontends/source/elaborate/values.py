"""What a name can stand for while elaborating: tensors, records of tensors, functions, and static Python values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ....ir.dims.dim import Dim
from ....ir.dims.ratio import Ratio
from ....ir.graph import Value
from ....ir.notation import show_value
from ....ir.op import FuncRef, Op
from ....ir.signature import RecordDef
from ....ir.types import DType
from ..syntax import ast
from .library import Declared, Unit


@dataclass(frozen=True, slots=True)
class Bundle:
    """A record: one tensor a field, and the values of its static fields."""

    record: RecordDef
    fields: dict[str, Value]
    statics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Multi:
    """The results of a call with several; only an assignment to as many names takes it apart."""

    items: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class DeclValue:
    """A declared function or record by name: called, or passed as a static parameter of kind ``fn``."""

    declared: Declared

    @property
    def ref(self) -> FuncRef:
        return FuncRef(self.declared.unit.module, self.declared.node.name)


@dataclass(frozen=True, slots=True)
class OpValue:
    """A core op by name."""

    op: Op


@dataclass(frozen=True, slots=True)
class BuiltinValue:
    """A function of static values, or a special form, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Partial:
    """A function that has been given some of its static parameters: ``mlp(hidden=16)``. Its tensors come with each call."""

    function: DeclValue | OpValue
    given: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """A function with a scope of its own, ``mlp(hidden=16) as shared``: every call of it has the same weights.

    ``weights`` are those of its earlier calls by full name, ``fresh`` those that the call under way has made.
    """

    function: DeclValue
    given: tuple[tuple[str, Any], ...]
    scope: str
    weights: dict[str, Value] = field(default_factory=dict)
    fresh: dict[str, Value] = field(default_factory=dict)


# What a call or a static parameter of kind ``fn`` takes.
FUNCTIONS = (DeclValue, OpValue, BuiltinValue, Partial, Instance, FuncRef)


@dataclass(frozen=True, slots=True)
class KindValue:
    """``float`` or ``int`` used as a value: the dtype that the variable stands for."""

    kind: str


class Poison:
    """What a name stands for whose statement is wrong: a use of it is no further mistake."""


POISON = Poison()


def is_tensor(value: Any) -> bool:
    return isinstance(value, Value)


def holds_tensors(value: Any) -> bool:
    """Whether a value is a list with a tensor or a record in it, however deep."""
    return isinstance(value, tuple) and any(isinstance(v, (Value, Bundle)) or holds_tensors(v) for v in value)


def tensors_of(value: Any) -> tuple[Value, ...]:
    """The tensors of a tensor or a record; none for anything else."""
    return (value,) if is_tensor(value) else tuple(value.fields.values()) if isinstance(value, Bundle) else ()


def like(value: Value | Bundle, tensors: Iterator[Value]) -> Value | Bundle:
    """The next tensors as what ``value`` is: one of them, or a record."""
    if not isinstance(value, Bundle):
        return next(tensors)
    return Bundle(value.record, {name: next(tensors) for name in value.fields}, value.statics)


def same_structure(a: Any, b: Any) -> bool:
    """Whether both are tensors, or records with the same fields and the same static values."""
    if isinstance(a, Bundle):
        return isinstance(b, Bundle) and (a.record, a.statics) == (b.record, b.statics)
    return is_tensor(a) and is_tensor(b)


def describe(value: Any) -> str:
    """How a message names a value."""
    if isinstance(value, Value):
        return f"a tensor {value.type}"
    if isinstance(value, Bundle):
        return f"a record {value.record.name}"
    if isinstance(value, Multi):
        return f"{len(value.items)} results"
    if isinstance(value, DeclValue):
        return f"the {_kind(value.declared.node)} `{value.declared.node.name}`"
    if isinstance(value, Partial):
        return f"{describe(value.function)} without its tensors"
    if isinstance(value, Instance):
        return f"{describe(value.function)} as `{value.scope}`"
    if isinstance(value, (OpValue, BuiltinValue)):
        return f"the built-in `{value.op.name if isinstance(value, OpValue) else value.name}`"
    if value is None:
        return "none"
    if isinstance(value, Dim):
        return f"the dimension {value}"
    if isinstance(value, Ratio):
        return f"the real {value}, which depends on a size"
    if holds_tensors(value):
        return f"a list of {len(value)}, of which the first is {describe(value[0])}"
    return f"the {static_kind(value)} {show_value(value)}"


def _kind(node: ast.Function | ast.Record | ast.Const | ast.Rewrite | ast.Program | ast.Tokenizer) -> str:
    return node.kind if isinstance(node, ast.Function) else type(node).__name__.lower()


def static_kind(value: Any) -> str:
    """The kind of a static value, as it is written in a signature."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, Dim)):
        return "int"
    if isinstance(value, float):
        return "real"
    if isinstance(value, str):
        return "str"
    if isinstance(value, tuple):
        return "list"
    if isinstance(value, DType):
        return "dtype"
    if isinstance(value, FUNCTIONS):
        return "fn"
    return "none" if value is None else type(value).__name__


__all__ = [
    "FUNCTIONS",
    "POISON",
    "BuiltinValue",
    "Bundle",
    "DeclValue",
    "Instance",
    "KindValue",
    "Multi",
    "OpValue",
    "Partial",
    "Unit",
    "describe",
    "holds_tensors",
    "is_tensor",
    "like",
    "same_structure",
    "static_kind",
    "tensors_of",
]
