"""Names that exist everywhere: core ops, dtypes, and functions of static values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ....ir.diagnostics import Diagnostic, Span
from ....ir.dims import dim as dims
from ....ir.dims.dim import Dim, as_dim
from ....ir.dims.ratio import Ratio, exactly
from ....ir.ops import OPS
from ....ir.types import DTYPES, KINDS

Static = Any

# Steps that can be built one by one.
LONGEST = 100_000


def known(value: Dim) -> int | Dim:
    """A Python int when the dimension is one."""
    return value if value.value is None else value.value


def _extremum(dim_function: Callable[..., Dim], function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(*args: Any) -> Any:
        items = args[0] if len(args) == 1 and isinstance(args[0], tuple) else args
        if any(isinstance(a, Dim) for a in items):
            return known(dim_function(*items))
        return function(items)

    return apply


def _broadcasts(shape: tuple[Any, ...], to: tuple[Any, ...]) -> bool:
    """Whether a shape is known to broadcast to another: each axis, counted from the last, is the same or 1."""
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(shape[::-1], to[::-1], strict=False))


def _rounding(of_number: Callable[[Any], int], of_ratio: Callable[[Ratio], Dim]) -> Callable[[Any], Any]:
    """A function from reals to integers: of a number as it is written, of a real of sizes exactly."""

    def apply(value: Any) -> Any:
        if isinstance(value, Dim):
            return value
        if isinstance(value, Ratio):
            return known(of_ratio(value))
        fraction = exactly(value) if isinstance(value, float) else None
        return of_number(value if fraction is None else fraction)

    return apply


def _range(*args: Any) -> tuple[int, ...]:
    steps = range(*(int(a) for a in args))
    short(len(steps))
    return tuple(steps)


def short(count: int, span: Span | None = None) -> int:
    """A number of steps that can be built one by one. Raises E0408."""
    if count > LONGEST:
        message = f"{count:,} steps are more than the {LONGEST:,} that can be built one by one"
        raise Diagnostic("E0408", message, span, help="is a number mistyped? steps that share what they do: `fold`")
    return count


# Applied when every argument is static. Where the name is also a core op (`max`), a tensor argument means the op.
STATIC_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": _extremum(dims.dim_min, min),
    "max": _extremum(dims.dim_max, max),
    "ceildiv": lambda a, b: known(dims.ceildiv(as_dim(a), as_dim(b))),
    "broadcasts": _broadcasts,
    "known": lambda value: not isinstance(value, Dim),
    "len": len,
    "range": _range,
    "int": _rounding(int, Ratio.cut),
    "real": lambda value: float(value),
    "str": str,
    "sum": lambda items: sum(items, 0),
    "abs": abs,
    "sqrt": lambda x: math.sqrt(x),
    "exp": lambda x: math.exp(x),
    "log": lambda x: math.log(x),
    "sin": lambda x: math.sin(x),
    "cos": lambda x: math.cos(x),
    "floor": _rounding(math.floor, lambda x: x.floor().top),
    "ceil": _rounding(math.ceil, lambda x: x.ceil().top),
    "round": _rounding(round, Ratio.rounded),
    "minimum": _extremum(dims.dim_min, min),
    "maximum": _extremum(dims.dim_max, max),
}

# Handled by the elaborator itself, since they see names or build bodies.
SPECIAL = frozenset({"given", "scan", "stack", "where"})

BUILTIN: frozenset[str] = frozenset(OPS) | frozenset(STATIC_FUNCTIONS) | SPECIAL | frozenset(DTYPES) | frozenset(KINDS)

BINARY: dict[str, str] = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "//": "floordiv", "%": "mod", "**": "pow", "@": "matmul",
    "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge", "and": "logical_and", "or": "logical_or",
}  # fmt: skip
