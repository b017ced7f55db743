"""Constants, and ops that move elements without computing on them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ..diagnostics import Span
from ..dims.dim import Dim, as_dim, const, product, prove_ge
from ..numeric import np
from ..op import Attrs, Bad, Sample, Trait, fail
from ..signature import broadcast_shapes
from ..types import TensorType, f32, i64
from . import define
from .axes import normal_axes, normal_axis
from .meaning import along


def _f32(rng: Any, *shape: int) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


# Constants -----------------------------------------------------------------------------------------------------------


def _constant_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    shape: list[Dim] = []
    value = attrs["value"]
    while isinstance(value, tuple):
        shape.append(const(len(value)))
        value = value[0] if value else None
    _check_rectangular(attrs["value"], [int(d) for d in shape], span)
    return [TensorType(attrs["dtype"], tuple(shape))]


def _check_rectangular(value: Any, shape: list[int], span: Span | None) -> None:
    if not shape:
        if isinstance(value, tuple) or not isinstance(value, (int, float, bool)):
            raise fail("E0405", "a constant tensor is a number, or nested lists of numbers of equal lengths", span)
        return
    if not isinstance(value, tuple) or len(value) != shape[0]:
        raise fail("E0405", "a constant tensor is a number, or nested lists of numbers of equal lengths", span)
    for item in value:
        _check_rectangular(item, shape[1:], span)


define("constant(*, value: any, dtype: dtype) -> any[...]",
       "A constant: a number, or nested lists of numbers: `constant([[1, 2], [3, 4]], dtype=f32)`.", family="shape",
       rule=_constant_rule, traits=(Trait.MAKES, Trait.HOLDS), meaning=lambda xs, attrs, types: [np.array(attrs["value"])],
       samples=lambda rng: [Sample((), {"value": v, "dtype": f32}) for v in (1.5, ((1, 2), (3, 4)))],
       bad=(Bad((), {"value": ((1, 2), (3,)), "dtype": i64}, "E0405"),))  # fmt: skip


def _full_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    value = attrs["value"]
    if not isinstance(value, (bool, int, float, Dim)):
        raise fail("E0405", f"full: the value must be a number, but is {value!r}", span)
    return [TensorType(attrs["dtype"], _dims(attrs["shape"], "full", span))]


define("full(*, shape: list, value: any, dtype: dtype) -> any[...]",
       "A tensor of one repeated value; the value may be a dimension, so `full([], T, dtype=i64)` is T as a tensor.",
       family="shape", rule=_full_rule, traits=(Trait.MAKES, Trait.HOLDS, Trait.SHAPED),
       meaning=lambda xs, attrs, types: [np.full(attrs["shape"], attrs["value"])],
       samples=lambda rng: [Sample((), {"shape": (2, 3), "value": 1.5, "dtype": f32})],
       bad=(Bad((), {"shape": (2,), "value": 1}, "E0401"),))  # fmt: skip


def _iota_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    return [TensorType(attrs["dtype"], _dims((attrs["n"],), "iota", span))]


define("iota(*, n: int, dtype: dtype = i64) -> any[...]", "`0, 1, …, n - 1`.", family="shape", rule=_iota_rule,
       traits=(Trait.MAKES,), meaning=lambda xs, attrs, types: [np.arange(attrs["n"])],
       samples=lambda rng: [Sample((), {"n": 5})], bad=(Bad((), {}, "E0401"),))  # fmt: skip


def _dims(shape: Any, op: str, span: Span | None) -> tuple[Dim, ...]:
    if any(isinstance(d, bool) or not isinstance(d, (int, Dim)) for d in shape):
        raise fail("E0405", f"{op}: a shape is a list of dimensions, like `[B, 1, 768]`", span)
    dims = tuple(as_dim(d) for d in shape)
    for dim in dims:
        if prove_ge(-1, dim) and not (op == "reshape" and dim == -1):
            raise fail("E0306", f"{op}: a dimension is {dim}, but must not be negative", span)
    return dims


# Rearranging ---------------------------------------------------------------------------------------------------------

_MOVES = (Trait.MOVES, Trait.KEEPS, Trait.SCALES)
_RESHAPES = (*_MOVES, Trait.RESHAPES, Trait.VIEWS, Trait.STILL)
_ALONG = (Trait.MOVES, Trait.KEEPS, Trait.AXIS)


def _reshape_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    x = types[0]
    shape = list(_dims(attrs["shape"], "reshape", span))
    if x.numel == 0 and any(d == -1 for d in shape):
        raise fail("E0307", f"reshape: {x} has no elements, so that -1 could be anything", span)
    holes = [i for i, d in enumerate(shape) if d == -1]
    if len(holes) > 1:
        raise fail("E0307", "reshape: at most one axis may be -1", span)
    if holes:
        rest = product(d for d in shape if d != -1)
        missing = x.numel // rest if rest != 0 else const(0)
        if missing * rest != x.numel:
            raise fail("E0307", f"reshape: {x} has {x.numel} elements, which {rest} does not divide", span)
        shape[holes[0]] = missing
        attrs["shape"] = tuple(d.value if d.value is not None else d for d in shape)
    if product(shape) != x.numel:
        shown = TensorType(x.dtype, tuple(shape))
        raise fail("E0307", f"reshape: {x} has {x.numel} elements, but {shown} has {product(shape)}", span)
    return [TensorType(x.dtype, tuple(shape))]


define("reshape(x: any[...], *, shape: list) -> any[...]",
       "The same elements in row-major order under another shape; one axis may be -1. Prefer `rearrange`, which names them.",
       family="shape", rule=_reshape_rule, traits=(*_RESHAPES, Trait.SHAPED),
       meaning=lambda xs, attrs, types: [xs[0].reshape(attrs["shape"])],
       samples=lambda rng: [Sample((_f32(rng, 2, 3, 4),), {"shape": s}) for s in [(6, 4), (2, -1), (24,), (1, 24, 1)]],
       bad=(Bad((TensorType.of("f32", ["B", 3]),), {"shape": (5, 7)}, "E0307"),))  # fmt: skip

Group = tuple[str, ...]


@lru_cache(maxsize=4096)
def parse_rearrange(pattern: str) -> tuple[tuple[Group, ...], tuple[Group, ...]] | None:
    """``"b t (h k) -> b h t k"`` as groups of names for each side; None when it is malformed. ``1`` is a group of none."""
    before, arrow, after = pattern.partition("->")
    left, right = _groups(before), _groups(after)
    if not arrow or left is None or right is None:
        return None
    names = [sorted(n for g in side for n in g) for side in (left, right)]
    if len(set(names[0])) != len(names[0]) or names[0] != names[1]:
        return None
    return left, right


def _groups(text: str) -> tuple[Group, ...] | None:
    groups: list[Group] = []
    inner: list[str] | None = None
    for token in text.replace("(", " ( ").replace(")", " ) ").split():
        if token == "(" and inner is None:
            inner = []
        elif token == ")" and inner is not None:
            groups.append(tuple(inner))
            inner = None
        elif token.isidentifier() or token == "1":
            names = () if token == "1" else (token,)
            if inner is None:
                groups.append(names)
            else:
                inner += names
        else:
            return None
    return None if inner is not None else tuple(groups)


def rearrange_plan(
    x: TensorType, attrs: Attrs, span: Span | None = None, checking: bool = False
) -> tuple[list[Dim], list[int], list[Dim]]:
    """How to do a rearrange: (shape after splitting, permutation of those axes, final shape).

    Args:
        checking: whether the sizes are compared; those of a node fit, be it by what its graph requires of them.

    Raises:
        Diagnostic: E0405 for a malformed pattern, E0301 rank, E0307 sizes that do not fit.
    """
    pattern = attrs["pattern"]
    parsed = parse_rearrange(pattern)
    if parsed is None:
        raise fail("E0405", f'`{pattern}` is not a rearrange pattern', span,
                   'both sides name the same axes once: `rearrange(x, "b t (h k) -> b h t k", h=heads)`')  # fmt: skip
    left, right = parsed
    for name, size in attrs["axes"]:
        if isinstance(size, bool) or not isinstance(size, (int, Dim)) or prove_ge(0, size):
            raise fail(
                "E0405", f"rearrange `{pattern}`: the size of `{name}` must be a positive integer, but is {size}", span
            )
    if len(left) != x.rank:
        raise fail("E0301", f"rearrange `{pattern}` names {len(left)} axes, but x has {x.rank}: {x}", span)
    sizes = {name: as_dim(size) for name, size in attrs["axes"]}
    unknown = set(sizes) - {n for g in left for n in g}
    if unknown:
        raise fail("E0403", f"rearrange `{pattern}` has no axis `{sorted(unknown)[0]}`", span)
    for group, dim in zip(left, x.shape, strict=True):
        missing = [name for name in group if name not in sizes]
        if len(missing) > 1:
            raise fail("E0307", f"rearrange `{pattern}`: the sizes of {missing[0]} and {missing[1]} are not known", span,
                       f"give one of them: `{missing[0]}=…`")  # fmt: skip
        known = product(sizes[name] for name in group if name in sizes)
        if missing:
            sizes[missing[0]] = dim // known
            known = known * sizes[missing[0]]
        if checking and known != dim:
            raise fail(
                "E0307", f"rearrange `{pattern}`: {' '.join(group) or '1'} makes {known}, but the axis is {dim}", span
            )
    order = [name for group in left for name in group]
    split = [sizes[name] for name in order]
    permutation = [order.index(name) for group in right for name in group]
    return split, permutation, [product(sizes[name] for name in group) for group in right]


def _rearrange_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    return [TensorType(types[0].dtype, tuple(rearrange_plan(types[0], attrs, span, checking=True)[2]))]


def _rearrange(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    split, permutation, final = rearrange_plan(TensorType.of("f32", xs[0].shape), attrs)
    return [xs[0].reshape(list(map(int, split))).transpose(permutation).reshape(list(map(int, final)))]


def _rearrange_samples(rng: Any) -> list[Sample]:
    return [
        Sample((_f32(rng, 2, 5, 12),), {"pattern": "b t (h k) -> b h t k", "axes": (("h", 3),)}),
        Sample((_f32(rng, 2, 3, 5, 4),), {"pattern": "b h t k -> b t (h k)", "axes": ()}),
        Sample((_f32(rng, 2, 3, 4),), {"pattern": "a b c -> c a b", "axes": ()}),
        Sample((_f32(rng, 2, 1, 4),), {"pattern": "a 1 b -> a b 1", "axes": ()}),
    ]


define("rearrange(x: any[...], *, pattern: str, axes: list = []) -> any[...]",
       "Split, permute and join named axes, einops style: `rearrange(x, \"b t (h k) -> b h t k\", h=heads)`.",
       family="shape", rule=_rearrange_rule, traits=_MOVES, meaning=_rearrange, samples=_rearrange_samples,
       open_attrs=True,
       bad=(Bad((TensorType.of("f32", ["B", 10]),), {"pattern": "b (h k) -> b h k", "axes": (("h", 3),)}, "E0307"),))  # fmt: skip


def _transpose_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    x, perm = types[0], attrs["perm"]
    if not all(isinstance(i, int) for i in perm) or sorted(perm) != list(range(x.rank)):
        raise fail("E0305", f"transpose: {list(perm)} is not an order of the {x.rank} axes of {x}", span)
    return [TensorType(x.dtype, tuple(x.shape[i] for i in perm))]


define("transpose(x: any[...], *, perm: list) -> any[...]", "Axes in another order.", family="shape", rule=_transpose_rule,
       traits=_MOVES, meaning=lambda xs, attrs, types: [xs[0].transpose(attrs["perm"])],
       samples=lambda rng: [Sample((_f32(rng, 2, 3, 4),), {"perm": p}) for p in [(2, 0, 1), (0, 2, 1)]],
       bad=(Bad((TensorType.of("f32", ["B", 3]),), {"perm": (0, 2)}, "E0305"),))  # fmt: skip


def _expand_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    x, shape = types[0], _dims(attrs["shape"], "expand", span)
    if broadcast_shapes(x.shape, shape) != shape:
        raise fail("E0304", f"expand: {x} does not broadcast to {TensorType(x.dtype, shape)}", span)
    return [TensorType(x.dtype, shape)]


define("expand(x: any[...], *, shape: list) -> any[...]", "Broadcast to a shape: axes of size 1 are repeated.",
       family="shape", rule=_expand_rule, traits=(*_MOVES, Trait.VIEWS, Trait.STILL, Trait.SHAPED),
       meaning=lambda xs, attrs, types: [np.broadcast_to(xs[0], attrs["shape"])],
       samples=lambda rng: [Sample((_f32(rng, 1, 3, 1),), {"shape": (2, 3, 4)}), Sample((_f32(rng, 3),), {"shape": (2, 3)})],
       bad=(Bad((TensorType.of("f32", [2, 3]),), {"shape": (4, 3)}, "E0304"),))  # fmt: skip


def _squeeze_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    x = types[0]
    axes = attrs["axis"] = normal_axes(attrs["axis"], x, span)
    for axis in axes:
        if x.shape[axis] != 1:
            raise fail("E0307", f"squeeze: axis {axis} of {x} is {x.shape[axis]}, not 1", span)
    return [TensorType(x.dtype, tuple(d for i, d in enumerate(x.shape) if i not in axes))]


define("squeeze(x: any[...], *, axis: any) -> any[...]", "Without the given axes, which have size 1.", family="shape",
       rule=_squeeze_rule, traits=_RESHAPES, meaning=along("squeeze"),
       samples=lambda rng: [Sample((_f32(rng, 1, 3, 1),), {"axis": a}) for a in (0, -1, [0, 2])],
       bad=(Bad((TensorType.of("f32", [2, 3]),), {"axis": 0}, "E0307"),))  # fmt: skip


def _unsqueeze_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    x, given = types[0], attrs["axis"]
    if given is None:
        raise fail("E0305", "unsqueeze: `axis` is the place of the new axis, or a list of places", span)
    count = len(given) if isinstance(given, tuple) else 1
    axes = attrs["axis"] = normal_axes(given, x, span, extra=count)
    rest = iter(x.shape)
    return [TensorType(x.dtype, tuple(const(1) if i in axes else next(rest) for i in range(x.rank + count)))]


define("unsqueeze(x: any[...], *, axis: any) -> any[...]", "With new axes of size 1 at the given places of the result.",
       family="shape", rule=_unsqueeze_rule, traits=_RESHAPES, meaning=along("expand_dims"),
       samples=lambda rng: [Sample((_f32(rng, 3, 4),), {"axis": a}) for a in (0, -1, [0, 2])],
       bad=(Bad((TensorType.of("f32", [2, 3]),), {"axis": 4}, "E0305"),))  # fmt: skip


def _concat_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    if not types:
        raise fail("E0404", "concat needs at least one tensor", span)
    first = types[0]
    axis = attrs["axis"] = normal_axis(attrs["axis"], first, span)
    total = const(0)
    for i, type in enumerate(types):
        if type.rank != first.rank:
            raise fail("E0301", f"concat: tensor {i} is {type}, but the first is {first}", span)
        for a, (d, e) in enumerate(zip(type.shape, first.shape, strict=True)):
            if a != axis and d != e:
                raise fail(
                    "E0302",
                    f"concat: axis {a} of tensor {i} is {d}, but of the first {e}; only axis {axis} may differ",
                    span,
                )
        total = total + type.shape[axis]
    return [TensorType(first.dtype, (*first.shape[:axis], total, *first.shape[axis + 1 :]))]


define("concat(xs: any[...]*, *, axis: int) -> any[...]", "Tensors one behind the other along an axis.", family="shape",
       rule=_concat_rule, packs="free", traits=_ALONG,
       meaning=lambda xs, attrs, types: [np.concatenate(xs, attrs["axis"])],
       samples=lambda rng: [Sample((_f32(rng, 2, 3), _f32(rng, 2, 1), _f32(rng, 2, 2)), {"axis": -1}),
                            Sample((_f32(rng, 2, 3), _f32(rng, 4, 3)), {"axis": 0})],
       bad=(Bad((TensorType.of("f32", ["B", 3]), TensorType.of("f32", ["C", 3])), {"axis": 1}, "E0302"),))  # fmt: skip


def slice_bounds(attrs: Attrs, size: Dim) -> tuple[Dim, Dim]:
    """Where a slice of an axis of that size starts and stops; what is counted from the end is counted from the front."""

    def from_front(value: Any, default: Dim) -> Dim:
        at = default if value is None else as_dim(value)
        return size + at if at.value is not None and at.value < 0 else at

    return from_front(attrs["start"], const(0)), from_front(attrs["stop"], size)


def _from_end(given: Any, at: Dim) -> int | Dim:
    if given is not None and as_dim(given).value is not None and as_dim(given).value < 0:  # type: ignore[operator]
        return int(as_dim(given))
    return at.value if at.value is not None else at


def _slice(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    part = slice(attrs["start"], attrs["stop"], attrs["step"])
    return [xs[0][(*[slice(None)] * attrs["axis"], part)]]


def _slice_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    x = types[0]
    axis = attrs["axis"] = normal_axis(attrs["axis"], x, span)
    dim, step = x.shape[axis], as_dim(attrs["step"])
    if step.value is None or step.value < 1:
        raise fail("E0405", f"slice: the step is {step}, but must be a positive integer; use `flip` to reverse", span)
    start, stop = slice_bounds(attrs, dim)
    if prove_ge(-1, start) or prove_ge(start, dim + 1) or prove_ge(stop, dim + 1) or prove_ge(start, stop + 1):
        raise fail("E0306", f"slice {start}:{stop} reaches outside axis {axis} of {x}, which has {dim} elements", span)
    # What is counted from the end stays so, and an open end stays open: the slice follows when a pass shrinks the axis.
    attrs["start"] = _from_end(attrs["start"], start)
    attrs["stop"] = None if stop == dim else _from_end(attrs["stop"], stop)
    length = (stop - start + step - 1) // step
    return [TensorType(x.dtype, (*x.shape[:axis], length, *x.shape[axis + 1 :]))]


define("slice(x: any[...], *, axis: int, start: int? = none, stop: int? = none, step: int = 1) -> any[...]",
       "`x[start:stop:step]` along one axis; written with brackets in source.", family="shape", rule=_slice_rule,
       traits=(*_ALONG, Trait.VIEWS, Trait.SCALES, Trait.STILL), meaning=_slice,
       samples=lambda rng: [Sample((_f32(rng, 3, 7),), {"axis": 1, "start": a, "stop": b, "step": s})
                            for a, b, s in [(0, 3, 1), (1, None, 2), (-3, -1, 1), (2, 2, 1)]],
       bad=(Bad((TensorType.of("f32", [2, 3]),), {"axis": 1, "start": 0, "stop": 5}, "E0306"),
            Bad((TensorType.of("f32", [2, 3]),), {"axis": 1, "start": "T"}, "E0402")))  # fmt: skip


def _pad(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    widths = [(0, 0)] * xs[0].ndim
    widths[attrs["axis"]] = (attrs["before"], attrs["after"])
    if attrs["mode"] == "constant":
        return [np.pad(xs[0], widths, constant_values=attrs["value"])]
    return [np.pad(xs[0], widths, PAD_MODES[attrs["mode"]])]


# What NumPy calls the ways to fill with elements that are there.
PAD_MODES: dict[str, Any] = {"reflect": "reflect", "edge": "edge", "circular": "wrap"}


def _pad_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    x = types[0]
    axis = attrs["axis"] = normal_axis(attrs["axis"], x, span)
    before, after = as_dim(attrs["before"]), as_dim(attrs["after"])
    if prove_ge(-1, before) or prove_ge(-1, after):
        raise fail("E0306", f"pad: {before} and {after} must not be negative", span)
    mode = attrs["mode"]
    if mode != "constant":
        if mode not in PAD_MODES:
            raise fail("E0405", f'pad: there is no mode "{mode}"', span, f"modes: constant, {', '.join(PAD_MODES)}")
        if x.shape[axis] == 0 and (before != 0 or after != 0):
            raise fail("E0306", f"pad: axis {axis} of {x} has no elements to repeat", span)
    return [TensorType(x.dtype, (*x.shape[:axis], x.shape[axis] + before + after, *x.shape[axis + 1 :]))]


def _pad_samples(rng: Any) -> list[Sample]:
    plain: list[Attrs] = [{"before": 2, "after": 1, "value": v} for v in (0, 1.5)]
    modes: list[Attrs] = [{"before": b, "after": a, "mode": mode} for mode in PAD_MODES for b, a in ((2, 1), (0, 3), (9, 10))]
    return [Sample((_f32(rng, 3, 4),), {"axis": 1, **attrs}) for attrs in [*plain, *modes]]


define("pad(x: num[...], *, axis: int, before: int = 0, after: int = 0, value: any = 0, mode: str = \"constant\") -> num[...]",
       "With more elements in front of and behind one axis: of the mode \"constant\" `value`; \"reflect\" mirrors x at its ends,"
       " which it does not repeat (`[1, 2, 3]` by 2 is `[3, 2, 1, 2, 3, 2, 1]`), \"edge\" repeats the first and the last element,"
       " \"circular\" x itself. As numpy.pad, whose \"wrap\" is the last.", family="shape", rule=_pad_rule,
       traits=(Trait.AXIS, Trait.STILL), meaning=_pad,
       samples=_pad_samples,
       bad=(Bad((TensorType.of("f32", [2, 3]),), {"axis": 1, "before": -1}, "E0306"),
            Bad((TensorType.of("f32", [2, 0]),), {"axis": 1, "before": 1, "mode": "edge"}, "E0306"),
            Bad((TensorType.of("f32", [2, 3]),), {"axis": 1, "before": 1, "mode": "mirror"}, "E0405")))  # fmt: skip


def _flip_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    attrs["axis"] = normal_axis(attrs["axis"], types[0], span)
    return [types[0]]


define("flip(x: any[...], *, axis: int) -> any[...]", "In reverse order along one axis.", family="shape", rule=_flip_rule,
       traits=(*_ALONG, Trait.SCALES), meaning=along("flip"),
       samples=lambda rng: [Sample((_f32(rng, 3, 4),), {"axis": a}) for a in (0, -1)],
       bad=(Bad((TensorType.of("f32", [2, 3]),), {"axis": 2}, "E0305"),))  # fmt: skip
