"""Static parameters that are given from outside (a compile block, the command line, Python), where a word is a string."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....ir.declarations import LOCAL
from ....ir.diagnostics import Diagnostic, Span, did_you_mean
from ....ir.op import FuncRef
from ....ir.ops import OPS
from ....ir.signature import Bindings, Static
from ....ir.types import DTYPES, DType
from ..syntax import ast
from .library import Unit
from .values import DeclValue, static_kind

if TYPE_CHECKING:
    from .elaborate import Elaborator


def given_value(elaborator: Elaborator, unit: Unit, static: Static, value: Any, span: Span | None) -> Any:
    """What ``value`` means for the parameter ``static`` of a model of ``unit``.

    Where a function, a dtype or a constant may stand, a string is the name of one: looked up as in the file itself, or, with
    dots, in a shipped module (``std.nn.gelu_tanh``). Anything else is taken as it is.

    Raises:
        Diagnostic: E0201 when there is no function or dtype of that name, E0202 when there is no such module.
    """
    if static.kind == "list" and isinstance(value, (list, tuple)):
        kind = _item_kind(static)
        return tuple(_value(elaborator, unit, kind, item, static.name, span) for item in value)
    return _value(elaborator, unit, static.kind, value, static.name, span)


def _item_kind(static: Static) -> str:
    """The kind of a list's items, which only its default tells."""
    try:
        default = static.default(Bindings()) if callable(static.default) else static.default
    except (Diagnostic, KeyError):
        return "str"
    return static_kind(default[0]) if isinstance(default, tuple) and default else "str"


def _value(elaborator: Elaborator, unit: Unit, kind: str, value: Any, parameter: str, span: Span | None) -> Any:
    callee = getattr(value, "callee", value)  # a function of `ts.std`, `ts.ops` or `ts.use`
    if isinstance(callee, DeclValue):
        return _same_function(elaborator, unit, callee, span)
    if kind == "str":
        return value.name if isinstance(value, DType) else value  # the bare word `f16`
    if not isinstance(value, str):
        return callee
    if kind == "fn" and "." in value:
        return _shipped(elaborator, value, span)
    declared = unit.find(value)
    if declared is None and kind in ("fn", "dtype"):
        known = [*unit.names, *OPS] if kind == "fn" else list(DTYPES)
        if value not in known:
            raise Diagnostic(
                "E0201", f"`{value}` is not defined; `{parameter}` is a `{kind}`", span,
                help=_hint(elaborator, value, kind) or did_you_mean(value, known),
            )  # fmt: skip
    elif declared is None or (kind not in ("fn", "dtype") and not isinstance(declared.node, ast.Const)):
        return value
    return elaborator.static(unit, ast.Name(value, span=span), {})


def _same_function(elaborator: Elaborator, unit: Unit, callee: DeclValue, span: Span | None) -> Any:
    """The function as this elaborator knows it: Python's is of another library, which has read the same files."""
    declared = callee.declared
    if declared.unit.module != LOCAL:
        return elaborator.function_value(callee.ref, span)
    return DeclValue(elaborator.library.file(declared.unit.path, unit.root).names[declared.node.name])


def _shipped(elaborator: Elaborator, qualified: str, span: Span | None) -> Any:
    module, _, name = qualified.rpartition(".")
    own = elaborator.library.std(module, span)
    if not own.local(name):
        raise Diagnostic(
            "E0201", f"`{module}` declares no `{name}`", span,
            help=did_you_mean(name, [n for n in own.names if own.local(n)]) or f"`tessera specs {module}` lists what it has",
        )  # fmt: skip
    return elaborator.function_value(FuncRef(module, name), span)


def _hint(elaborator: Elaborator, name: str, kind: str) -> str | None:
    module = elaborator.library.declaring(name) if kind == "fn" else None
    return f"write `{module}.{name}`" if module else None
