"""What the functions of weight recipes compute: for each its help, its types and its meaning on arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from .types import DType, f32, f64

if TYPE_CHECKING:
    import numpy as np


class Typed(NamedTuple):
    """Dtype and sizes of a tensor."""

    dtype: DType
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


class Misfit(Exception):
    """Tensors that do not fit together, in words."""


NEEDED = object()


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, float) or _whole(value)


def _list(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_whole, value))


Option = tuple[Any, Callable[[Any], bool], str]  # (default, whether a value is one, what it is in words)
_AXIS: Option = (0, _whole, "an axis")
_SIZES: Option = (NEEDED, _list, "a list of integers")


@dataclass(frozen=True)
class Function:
    """What a name in a recipe means.

    Args:
        text: one line of help, which shows how it is written.
        infer: types and options -> the result's type; raises :class:`Misfit`.
        meaning: arrays and options -> the result.
        options: in the order in which they may be given without their names.
        operands: how many tensors it takes, or with ``variadic`` at least.
        view: whether the result is a view of its operand.
    """

    text: str
    infer: Callable[..., Typed]
    meaning: Callable[..., np.ndarray]
    options: Mapping[str, Option] = field(default_factory=dict)
    operands: int = 1
    variadic: bool = False
    view: bool = False


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise Misfit(f"there is no axis {axis}")
    return axis % rank


def _resized(x: Typed, axis: int, size: int) -> Typed:
    """``x`` with another size along an axis that is not negative."""
    return Typed(x.dtype, (*x.shape[:axis], size, *x.shape[axis + 1 :]))


def _one_dtype(types: list[Typed]) -> DType:
    dtypes = list(dict.fromkeys(t.dtype for t in types))
    if len(dtypes) > 1:
        raise Misfit(f"{dtypes[0]} beside {dtypes[1]}; write `cast(…, {dtypes[0]})` around one")
    return dtypes[0]


def _stack(types: list[Typed], axis: int) -> Typed:
    dtype, shape = _one_dtype(types), types[0].shape
    if any(t.shape != shape for t in types):
        raise Misfit("all must have one shape")
    at = _axis(axis, len(shape) + 1)
    return Typed(dtype, (*shape[:at], len(types), *shape[at:]))


def _concat(types: list[Typed], axis: int) -> Typed:
    first = Typed(_one_dtype(types), types[0].shape)
    at = _axis(axis, len(first.shape))
    if any(len(t.shape) != len(first.shape) or _resized(t, at, 0) != _resized(first, at, 0) for t in types):
        raise Misfit(f"all axes but axis {axis} must have one size")
    return _resized(first, at, sum(t.shape[at] for t in types))


def _join(arrays: list[np.ndarray], axis: int) -> np.ndarray:
    import numpy as np

    return np.concatenate(arrays, axis)


def _pile(arrays: list[np.ndarray], axis: int) -> np.ndarray:
    import numpy as np

    return np.stack(arrays, axis)


def _bounds(x: tuple[int, ...], sizes: int | tuple[int, ...], part: int, axis: int) -> tuple[int, int, int]:
    """(axis, first, last + 1) of a part."""
    at = _axis(axis, len(x))
    if isinstance(sizes, int):
        if sizes < 1 or x[at] % sizes:
            raise Misfit(f"{x[at]} does not part into {sizes} equal sizes")
        sizes = (x[at] // sizes,) * sizes
    if any(s < 0 for s in sizes) or sum(sizes) != x[at]:
        raise Misfit(f"the sizes {list(sizes)} do not add up to {x[at]}")
    if not 0 <= part < len(sizes):
        raise Misfit(f"there is no part {part} of {len(sizes)}")
    start = sum(sizes[:part])
    return at, start, start + sizes[part]


def _split(types: list[Typed], sizes: Any, part: int, axis: int) -> Typed:
    at, start, stop = _bounds(types[0].shape, sizes, part, axis)
    return _resized(types[0], at, stop - start)


def _part(arrays: list[np.ndarray], sizes: Any, part: int, axis: int) -> np.ndarray:
    at, start, stop = _bounds(arrays[0].shape, sizes, part, axis)
    return _cut(arrays, at, start, stop, 1)


def _slice(types: list[Typed], axis: int, start: int | None, stop: int | None, step: int) -> Typed:
    at = _axis(axis, len(types[0].shape))
    if step < 1:
        raise Misfit(f"the step must be positive, but is {step}")
    size = len(range(*slice(start, stop, step).indices(types[0].shape[at])))
    if size == 0:
        raise Misfit(f"nothing of the {types[0].shape[at]} places of axis {axis} is left")
    return _resized(types[0], at, size)


def _cut(arrays: list[np.ndarray], axis: int, start: int | None, stop: int | None, step: int) -> np.ndarray:
    return arrays[0][(slice(None),) * axis + (slice(start, stop, step),)]


def _select(types: list[Typed], index: int, axis: int) -> Typed:
    shape = types[0].shape
    at = _axis(axis, len(shape))
    if not -shape[at] <= index < shape[at]:
        raise Misfit(f"axis {axis} has no place {index}")
    return Typed(types[0].dtype, (*shape[:at], *shape[at + 1 :]))


def _transpose(types: list[Typed], perm: tuple[int, ...] | None) -> Typed:
    shape = types[0].shape
    order = tuple(reversed(range(len(shape)))) if perm is None else perm
    if sorted(order) != list(range(len(shape))):
        raise Misfit(f"{list(order)} is not an order of {len(shape)} axes")
    return Typed(types[0].dtype, tuple(shape[i] for i in order))


def _reshape(types: list[Typed], shape: tuple[int, ...]) -> Typed:
    total, known = prod(types[0].shape), prod(s for s in shape if s != -1)
    if shape.count(-1) > 1 or any(s < -1 for s in shape):
        raise Misfit(f"{list(shape)} is not a shape")
    if -1 in shape and known and total % known == 0:
        shape = tuple(total // known if s == -1 else s for s in shape)
    if -1 in shape or prod(shape) != total:
        raise Misfit(f"{total} elements do not make {list(shape)}")
    return Typed(types[0].dtype, shape)


def _repeat(types: list[Typed], times: int, axis: int) -> Typed:
    at = _axis(axis, len(types[0].shape))
    if times < 1:
        raise Misfit(f"`times` must be positive, but is {times}")
    return _resized(types[0], at, types[0].shape[at] * times)


def _pad(types: list[Typed], before: int, after: int, axis: int, value: float) -> Typed:
    at = _axis(axis, len(types[0].shape))
    if before < 0 or after < 0:
        raise Misfit("`before` and `after` must not be negative")
    return _resized(types[0], at, before + types[0].shape[at] + after)


def _padded(arrays: list[np.ndarray], before: int, after: int, axis: int, value: float) -> np.ndarray:
    import numpy as np

    widths = [(0, 0)] * arrays[0].ndim
    widths[axis] = (before, after)
    return np.pad(arrays[0], widths, constant_values=value)


def _cast(types: list[Typed], dtype: DType) -> Typed:
    if types[0].dtype.kind != dtype.kind:
        raise Misfit(f"{types[0].dtype} does not become {dtype}")
    return Typed(dtype, types[0].shape)


def _arithmetic(types: list[Typed]) -> DType:
    """Arithmetic is done in f32 at least, so that half floats are rounded once, at the end."""
    other = next((t for t in types if t.dtype.kind != "float"), None)
    if other is not None:
        raise Misfit(f"{other.dtype} is no float")
    return f64 if any(t.dtype == f64 for t in types) else f32


def _wide(arrays: list[np.ndarray]) -> list[np.ndarray]:
    wide = "float64" if any(a.dtype == "float64" for a in arrays) else "float32"
    return [a.astype(wide, copy=False) for a in arrays]


def _elementwise(types: list[Typed]) -> Typed:
    import numpy as np

    try:
        return Typed(_arithmetic(types), np.broadcast_shapes(*(t.shape for t in types)))
    except ValueError:
        raise Misfit("the shapes do not broadcast") from None


def _matmul(types: list[Typed]) -> Typed:
    a, b = (t.shape for t in types)
    if len(a) < 2 or len(b) != len(a) or a[:-2] != b[:-2] or a[-1] != b[-2]:
        raise Misfit("the columns of the first must be as many as the rows of the second")
    return Typed(_arithmetic(types), (*a[:-1], b[-1]))


def _combine(types: list[Typed], axis: int) -> Typed:
    x, rows, weights = types
    at = _axis(axis, len(x.shape))
    if rows.dtype.kind != "int" or len(rows.shape) != 2 or rows.shape != weights.shape:
        raise Misfit("rows are integers, [N, K], and each has a weight")
    return Typed(_arithmetic([x, weights]), (*x.shape[:at], rows.shape[0], *x.shape[at + 1 :]))


def _combined(arrays: list[np.ndarray], axis: int) -> np.ndarray:
    """Column by column of the rows; what has no weight is left out, so that one row of weight 1 is that row."""
    import numpy as np

    x, weights = _wide([arrays[0], arrays[2]])
    x, rows = np.moveaxis(x, axis, 0), arrays[1]
    if rows.size and not 0 <= rows.min() <= rows.max() < len(x):
        raise ValueError(f"rows are 0 to {len(x) - 1}, but there are {rows.min()} to {rows.max()}")
    result = np.zeros((len(rows), *x.shape[1:]), x.dtype)
    for column in range(rows.shape[1]):
        given = np.flatnonzero(weights[:, column])
        part = x[rows[given, column]] * weights[given, column].reshape(-1, *[1] * (x.ndim - 1))
        if column:
            result[given] += part
        else:
            result[given] = part
    return np.moveaxis(result, 0, axis)


def _added(arrays: list[np.ndarray]) -> np.ndarray:
    a, b = _wide(arrays)
    return a + b


def _multiplied(arrays: list[np.ndarray]) -> np.ndarray:
    a, b = _wide(arrays)
    return a * b


def _product(arrays: list[np.ndarray]) -> np.ndarray:
    a, b = _wide(arrays)
    return a @ b


FUNCTIONS: dict[str, Function] = {
    "stack": Function(
        'along a new axis: `stack("experts.{0..7}.w", axis=0)`', _stack, _pile, {"axis": _AXIS}, variadic=True,
    ),
    "concat": Function(
        'along an axis: `concat("q.weight", "k.weight", axis=0)`', _concat, _join, {"axis": _AXIS}, variadic=True,
    ),
    "split": Function(
        'one part of an axis: `split("qkv.weight", [64, 16, 16], part=0)`, or of `3` equal ones', _split, _part,
        {"sizes": (NEEDED, lambda v: _whole(v) or _list(v), "a number of parts, or a list of their sizes"),
         "part": (NEEDED, _whole, "an index"), "axis": _AXIS}, view=True,
    ),
    "slice": Function(
        'places of an axis: `"embed.weight"[:50257]`', _slice, _cut,
        {"axis": _AXIS, "start": (None, _whole, "an integer"), "stop": (None, _whole, "an integer"),
         "step": (1, _whole, "an integer")}, view=True,
    ),
    "select": Function(
        'one place of an axis, which goes: `"experts.w"[3]`', _select,
        lambda arrays, index, axis: arrays[0][(slice(None),) * (axis % arrays[0].ndim) + (index,)],
        {"index": (NEEDED, _whole, "an integer"), "axis": _AXIS}, view=True,
    ),
    "transpose": Function(
        'axes in another order, the reverse one by default: `transpose("w", [1, 0])`', _transpose,
        lambda arrays, perm: arrays[0].transpose(perm), {"perm": (None, _list, "a list of integers")}, view=True,
    ),
    "reshape": Function(
        'another shape, in row-major order; one size may be -1: `reshape("w", [12, 64, -1])`', _reshape,
        lambda arrays, shape: arrays[0].reshape(shape), {"shape": _SIZES}, view=True,
    ),
    "repeat_interleave": Function(
        'each place of an axis several times: `repeat_interleave("k.weight", 4, axis=0)`', _repeat,
        lambda arrays, times, axis: arrays[0].repeat(times, axis),
        {"times": (NEEDED, _whole, "an integer"), "axis": _AXIS},
    ),
    "pad": Function(
        'more places around an axis: `pad("embed.weight", after=47)`', _pad, _padded,
        {"before": (0, _whole, "an integer"), "after": (0, _whole, "an integer"), "axis": _AXIS,
         "value": (0.0, _number, "a number")},
    ),
    "cast": Function(
        'another dtype: `cast("w", f32)`', _cast,
        lambda arrays, dtype: arrays[0].astype(dtype.numpy, copy=False),
        {"dtype": (NEEDED, lambda v: isinstance(v, DType), "a dtype")},
    ),
    "scale": Function(
        'times a number: `2.0 * "w"`', lambda types, by: Typed(_arithmetic(types), types[0].shape),
        lambda arrays, by: _wide(arrays)[0] * by, {"by": (NEEDED, _number, "a number")},
    ),
    "add": Function('`"a" + "b"`', _elementwise, _added, operands=2),
    "mul": Function('elementwise, `"a" * "b"`', _elementwise, _multiplied, operands=2),
    "matmul": Function('`"b" @ "a"`', _matmul, _product, operands=2),
    "combine": Function(
        'sums of some rows, each with a weight, `[N, K]` both: `combine("embed.weight", "rows", "weights")`', _combine, _combined,
        {"axis": _AXIS}, operands=3,
    ),
}  # fmt: skip
