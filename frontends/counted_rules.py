"""What ops are given along an axis of which only a part counts: operands in which the rest changes nothing, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from ..ir.analysis.axes import rearranged
from ..ir.builder import Builder
from ..ir.dims.dim import as_dim, dim_max, product, prove_ge
from ..ir.dims.monomials import DimCall
from ..ir.graph import Node, Value
from ..ir.numeric import np
from ..ir.op import Op
from ..ir.ops.contraction import parse_einsum
from ..ir.types import DType, boolean, i64

if TYPE_CHECKING:
    from .counted import Walk


class Uncountable(Exception):
    """A use of a counted axis that cannot be followed; the text says which."""


def _lowest(dtype: DType) -> float | int | bool:
    return False if dtype == boolean else -inf if dtype.kind == "float" else int(np.iinfo(dtype.numpy).min)


def _highest(dtype: DType) -> float | int | bool:
    return True if dtype == boolean else inf if dtype.kind == "float" else int(np.iinfo(dtype.numpy).max)


# What does not change a result along an axis.
_NEUTRAL: dict[str, Callable[[DType], float | int | bool]] = {
    "sum": lambda dtype: 0, "mean": lambda dtype: 0, "prod": lambda dtype: 1, "any": lambda dtype: False,
    "all": lambda dtype: True, "max": _lowest, "argmax": _lowest, "logsumexp": _lowest, "min": _highest, "argmin": _highest,
}  # fmt: skip


# May change the operands and the attributes, or return the results itself.
Rule = Callable[["Walk", Builder, Node, "list[Any]", "dict[str, Any]"], "list[Value] | None"]
_FAMILIES: dict[str, Rule] = {}
_RULES: dict[str, Rule] = {}


def _rule(*names: str, family: str = "") -> Callable[[Rule], Rule]:
    """Register what is done for ops, or for a whole family of them."""

    def register(rule: Rule) -> Rule:
        if family:
            _FAMILIES[family] = rule
        for name in names:
            _RULES[name] = rule
        return rule

    return register


def rule_of(op: Op) -> Rule:
    """What is done for an op; what has no rule takes no counted axes."""
    return _RULES.get(op.qualified) or _FAMILIES.get(op.family, _refused)


def _refused(w: Walk, b: Builder, node: Node, inputs: list[Any], attrs: dict[str, Any]) -> None:
    if any(map(w.axes, node.inputs)) or any(map(w.axes, node.outputs)):
        raise Uncountable(f"`{node.op.name}` of an axis of which only a part counts")


def _first(node: Node) -> Value:
    value = node.inputs[0]
    assert value is not None
    return value


@_rule(family="reduction")
def _reduction(w: Walk, b: Builder, node: Node, inputs: list[Any], attrs: dict[str, Any]) -> list[Value] | None:
    x, given = _first(node), node.attrs["axis"]
    axes = set(given if isinstance(given, tuple) else range(x.type.rank) if given is None else (given,)) & w.axes(x).keys()
    if not axes:
        return None
    name = node.op.qualified
    inputs[0] = w.filled(b, inputs[0], x, _NEUTRAL[name](x.type.dtype), axes)
    if name != "mean":
        return None
    total = b.op("sum", *inputs, **attrs)
    over = given if isinstance(given, tuple) else range(x.type.rank) if given is None else (given,)
    count = w.number(b, product(x.type.shape[a] for a in over))
    return [b.op("div", total, b.op("cast", count, dtype=x.type.dtype))]


@_rule("sort", "topk")
def _sorted(w: Walk, b: Builder, node: Node, inputs: list[Any], attrs: dict[str, Any]) -> None:
    last = _lowest if node.attrs.get("descending", node.attrs.get("largest")) else _highest
    inputs[0] = w.filled(b, inputs[0], _first(node), last(_first(node).type.dtype), [node.attrs["axis"]])


@_rule("searchsorted")
def _searched(w: Walk, b: Builder, node: Node, inputs: list[Any], attrs: dict[str, Any]) -> None:
    if w.axes(_first(node)):
        raise Uncountable("a search in a row of which only a part counts")


@_rule("take", "gather")
def _picked(w: Walk, b: Builder, node: Node, inputs: list[Any], attrs: dict[str, Any]) -> None:
    index = node.inputs[1]
    assert index is not None
    inputs[1] = w.filled(b, inputs[1], index, 0)


@_rule("scatter_set", "scatter_add", "scatter_min", "scatter_max")
def _scattered(w: Walk, b: Builder, node: Node, inputs: list[Any], attrs: dict[str, Any]) -> list[Value] | None:
    """What does not count is written to one row more, which is taken away again."""
    index, axis = node.inputs[1], node.attrs["batch"]
    assert index is not None
    if index.type.rank - 1 not in w.axes(index):
        return None
    x, size = inputs[0], inputs[0].type.shape[axis]
    dtype = x.type.dtype
    shape = (*x.type.shape[:axis], 1, *x.type.shape[axis + 1 :])
    row = b.op("full", shape=shape, value=False if dtype == boolean else 0, dtype=dtype)
    behind = b.op("cast", b.dim_value(size), dtype=index.type.dtype)
    mask = w.mask(b, index.type.shape[-1])
    places = b.op("where", mask, inputs[1], behind)
    y = b.op(node.op, b.op("concat", x, row, axis=axis), places, inputs[2], **attrs)
    return [b.op("slice", y, axis=axis, start=0, stop=size)]


@_rule("compact")
def _compacted(w: Walk, b: Builder, node: Node, inputs: list[Any], attrs: dict[str, Any]) -> None:
    inputs[0] = w.filled(b, inputs[0], _first(node), False)


@_rule("matmul")
def _product(w: Walk, b: Builder, node: Node, inputs: list[Any], attrs: dict[str, Any]) -> None:
    for at, axis in ((0, -1), (1, -2)):
        old = node.inputs[at]
        assert old is not None
        inputs[at] = w.filled(b, inputs[at], old, 0, [old.type.rank + axis])


@_rule("einsum")
def _einsum(w: Walk, b: Builder, node: Node, inputs: list[Any], attrs: dict[str, Any]) -> None:
    terms, out = parse_einsum(node.attrs["equation"])
    for at, (term, old) in enumerate(zip(terms, node.inputs, strict=True)):
        assert old is not None
        inputs[at] = w.filled(b, inputs[at], old, 0, [a for a, name in enumerate(term) if name not in out])


@_rule("conv")
def _convolution(w: Walk, b: Builder, node: Node, inputs: list[Any], attrs: dict[str, Any]) -> None:
    if set(w.axes(_first(node))) - {0} or w.axes(node.inputs[1]):
        raise Uncountable("a convolution along an axis of which only a part counts")


@_rule("full")
def _full(w: Walk, b: Builder, node: Node, inputs: list[Any], attrs: dict[str, Any]) -> list[Value] | None:
    value, type = node.attrs["value"], node.output.type
    if not w.counts.of(value):
        return None
    number = w.number(b, value)
    number = number if type.dtype == i64 else b.op("cast", number, dtype=type.dtype)
    return [number if not type.rank else b.op("expand", number, shape=attrs["shape"])]


def _as_it_is(w: Walk, b: Builder, node: Node, inputs: list[Any], attrs: dict[str, Any]) -> None:
    """Element by element, or up to each element."""


for _family in ("elementwise", "gradient", "scan"):
    _rule(family=_family)(_as_it_is)
_rule("iota", "transpose", "expand", "squeeze", "unsqueeze", "constant")(_as_it_is)


@_rule("reshape")
def _reshaped(w: Walk, b: Builder, node: Node, inputs: list[Any], attrs: dict[str, Any]) -> None:
    """What counts comes first in row-major order where the axis that is taken apart or joined is the first of those that change."""
    before, after = list(_first(node).type.shape), list(node.output.type.shape)
    while before and after and before[0] == after[0]:
        before, after = before[1:], after[1:]
    while before and after and before[-1] == after[-1]:
        before, after = before[:-1], after[:-1]
    if any(map(w.counts.of, [*before[1:], *after[1:]])):
        raise Uncountable("a reshape that puts rows that do not count between those that do")
    attrs["shape"] = tuple(d.subs(w.sizes) for d in node.output.type.shape)


@_rule("rearrange")
def _rearranged(w: Walk, b: Builder, node: Node, inputs: list[Any], attrs: dict[str, Any]) -> None:
    if not set(w.axes(_first(node))) <= {i for i, _ in rearranged(node)}:
        raise Uncountable("a rearrange that joins an axis of which only a part counts")


@_rule("concat")
def _concat(w: Walk, b: Builder, node: Node, inputs: list[Any], attrs: dict[str, Any]) -> list[Value] | None:
    """Rows that count, one behind the other."""
    axis = node.attrs["axis"]
    parts = [v.type.shape[axis] for v in node.inputs if v is not None]
    if not any(map(w.counts.of, parts[:-1])):
        return None  # only the last one ends early
    masks = [w.mask(b, d) if w.counts.of(d) else b.op("full", shape=(d,), value=True, dtype=boolean) for d in parts]
    joined = b.op("concat", *inputs, axis=axis)
    places, _ = b.multi("compact", b.op("concat", *masks, axis=0), capacity=joined.type.shape[axis])
    return [b.op("take", joined, places, axis=axis)]


@_rule("slice")
def _cut(w: Walk, b: Builder, node: Node, inputs: list[Any], attrs: dict[str, Any]) -> None:
    start, step = as_dim(node.attrs["start"] or 0), node.attrs["step"]
    axis, whole = node.attrs["axis"], _first(node)
    size = w.axes(whole).get(axis)
    if size is None:
        # As many as rows are written to: no more than there are, or the original fails. Up to the capacity stands what does not
        # count.
        short = as_dim(attrs["stop"] or 0) - whole.type.shape[axis]
        if not prove_ge(0, short) and all(u.op is not None and u.op.qualified == "scatter_set" for u in node.output.users):
            inputs[0] = b.op("pad", inputs[0], axis=axis, after=short.value or dim_max(short, 0))
        return
    # `min(k, rows)`: where there are fewer rows than k, nothing is left.
    atom = start.atom
    bounds = atom.args if isinstance(atom, DimCall) and atom.fn == "min" else (start,)
    if step != 1 or not prove_ge(start, 0) or any(w.counts.of(d) and d != size for d in bounds):
        raise Uncountable("a slice that is counted from the last row that counts")


@_rule("pad")
def _padded(w: Walk, b: Builder, node: Node, inputs: list[Any], attrs: dict[str, Any]) -> list[Value] | None:
    axis, x = node.attrs["axis"], _first(node)
    if axis not in w.axes(x):
        return None
    if node.attrs["before"] != 0 or node.attrs["mode"] != "constant":
        raise Uncountable("padding in front of rows of which only a part counts")
    # Behind what counts stands the value already.
    value = w.filled(b, inputs[0], x, node.attrs["value"], [axis])
    size = node.output.type.shape[axis]
    if w.counts.of(size):
        inputs[0] = value
        return None
    # To a size of its own, which may be below the capacity.
    attrs["after"] = size
    return [b.op("slice", b.op("pad", value, **attrs), axis=axis, start=0, stop=size)]


@_rule("flip")
def _flipped(w: Walk, b: Builder, node: Node, inputs: list[Any], attrs: dict[str, Any]) -> None:
    if node.attrs["axis"] in w.axes(_first(node)):
        raise Uncountable("an axis of which only a part counts, turned round")
