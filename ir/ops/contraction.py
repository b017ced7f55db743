"""einsum, matmul, matmul by group, and convolution."""

from __future__ import annotations

from typing import Any

from ..diagnostics import Span
from ..dims.dim import Dim, const, product, prove_ge
from ..numeric import np
from ..op import Attrs, Bad, Sample, Trait, fail
from ..signature import broadcast_shapes
from ..types import TensorType
from . import define
from .meaning import plain


def parse_einsum(equation: str) -> tuple[list[list[str]], list[str]]:
    """``"b t d, o d -> b t o"`` as lists of axis names: the operands', and the result's."""
    left, _, right = equation.partition("->")
    return [term.split() for term in left.split(",")], right.split()


def _einsum_dims(types: list[TensorType], attrs: Attrs, span: Span | None) -> tuple[dict[str, Dim], list[str]]:
    equation = attrs["equation"]
    terms, out = parse_einsum(equation)
    if "->" not in equation or not all(name.isidentifier() for term in [*terms, out] for name in term):
        raise fail("E0405", f"`{equation}` is not an einsum equation", span,
                   'name the axes, separated by spaces: `einsum("b t d, o d -> b t o", x, w)`')  # fmt: skip
    if len(terms) != len(types):
        raise fail("E0404", f"einsum `{equation}` names {len(terms)} operand(s), but {len(types)} were given", span)
    sizes: dict[str, Dim] = {}
    for i, (term, type) in enumerate(zip(terms, types, strict=True)):
        if len(term) != type.rank:
            raise fail(
                "E0301", f"operand {i} of einsum `{equation}` names {len(term)} axes, but has {type.rank}: {type}", span,
                "axes are words with spaces between them: `b t d, b s d -> b t s`" if " " not in equation else None,
            )  # fmt: skip
        for name, dim in zip(term, type.shape, strict=True):
            if sizes.setdefault(name, dim) != dim:
                raise fail(
                    "E0302", f"axis `{name}` of einsum `{equation}` is {sizes[name]} and {dim} (operand {i})", span
                )
    if len(set(out)) != len(out):
        raise fail("E0405", f"einsum `{equation}`: an axis occurs twice in the result", span)
    for name in out:
        if name not in sizes:
            raise fail("E0405", f"einsum `{equation}`: `{name}` is in the result but in no operand", span)
    return sizes, out


def _einsum_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    sizes, out = _einsum_dims(types, attrs, span)
    return [TensorType(types[0].dtype, tuple(sizes[name] for name in out))]


def _einsum_flops(types: list[TensorType], outputs: list[TensorType], attrs: Attrs) -> Dim:
    sizes, _ = _einsum_dims(types, attrs, None)
    return product(sizes.values()) * 2


def _einsum_samples(rng: Any) -> list[Sample]:
    def x(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    return [
        Sample((x(2, 5, 8), x(3, 8)), {"equation": "b t d, o d -> b t o"}),
        Sample((x(2, 3, 4, 8), x(2, 3, 5, 8)), {"equation": "b h t k, b h s k -> b h t s"}),
        Sample((x(2, 3, 4, 5), x(2, 3, 5, 8)), {"equation": "b h t s, b h s v -> b t h v"}),
        Sample((x(4, 5),), {"equation": "i j -> j i"}),
        Sample((x(4, 5), x(5), x(4)), {"equation": "i j, j, i -> i"}),
        Sample((x(4),), {"equation": "i ->"}),
    ]


def _einsum(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    terms, out = parse_einsum(attrs["equation"])
    letters: dict[str, int] = {}
    operands: list[Any] = []
    for x, term in zip(xs, terms, strict=True):
        operands += [x, [letters.setdefault(name, len(letters)) for name in term]]
    return [np.einsum(*operands, [letters[name] for name in out], optimize=True)]


define("einsum(operands: num[...]*, *, equation: str) -> num[...]",
       "Sums of products over named axes, einops style: `einsum(\"b t d, o d -> b t o\", x, w)`.",
       family="contraction", rule=_einsum_rule, packs="free", flops=_einsum_flops,
       traits=(Trait.SUMS,), meaning=_einsum, samples=_einsum_samples,
       bad=(Bad((TensorType.of("f32", ["B", 3]), TensorType.of("f32", [4])), {"equation": "b k, k -> b"}, "E0302"),))  # fmt: skip


def _matmul_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    a, b = types
    if a.shape[-1] != b.shape[-2]:
        raise fail("E0302", f"matmul of {a} and {b}: the inner dimensions are {a.shape[-1]} and {b.shape[-2]}", span)
    lead = broadcast_shapes(a.shape[:-2], b.shape[:-2])
    if lead is None:
        raise fail("E0304", f"matmul of {a} and {b}: the leading axes do not broadcast", span)
    return [TensorType(a.dtype, (*lead, a.shape[-2], b.shape[-1]))]


def _matmul_flops(types: list[TensorType], outputs: list[TensorType], attrs: Attrs) -> Dim:
    return outputs[0].numel * types[0].shape[-1] * 2


def _matmul_samples(rng: Any) -> list[Sample]:
    shapes = [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (3, 4, 2))]
    return [Sample(tuple(rng.standard_normal(s).astype(np.float32) for s in pair)) for pair in shapes]


define("matmul(a: num[..., M, K], b: num[..., P, N]) -> num[..., M, N]",
       "`a @ b` over the last two axes; leading axes broadcast.", family="contraction", rule=_matmul_rule,
       packs="free", flops=_matmul_flops, traits=(Trait.SUMS,), meaning=plain("matmul"), samples=_matmul_samples,
       bad=(Bad((TensorType.of("f32", [2, 3]), TensorType.of("f32", [4, 5])), {}, "E0302"),))  # fmt: skip


def _grouped_flops(types: list[TensorType], outputs: list[TensorType], attrs: Attrs) -> Dim:
    return outputs[0].numel * types[0].shape[-1] * 2


def _grouped_samples(rng: Any) -> list[Sample]:
    def of(rows: int, ends: list[int], k: int = 8, m: int = 16) -> Sample:
        shapes = (rows, k), (len(ends), k, m)
        x, w = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
        return Sample((x, w, np.array(ends)))

    return [
        of(9, [2, 2, 7, 9]),  # the second group is empty
        of(9, [0, 9, 9]),
        of(9, [3, 5], k=5, m=3),  # four rows are in no group
        of(1, [0, 1, 1]),
        of(7, [4, 2, -1, 9], k=4, m=4),  # neither ascending nor within the rows
        of(6, [6], m=1),
    ]


def _grouped(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    x, w, ends = xs
    group = (np.arange(len(x))[:, None] >= np.maximum.accumulate(ends)).sum(axis=1)
    own = np.concatenate([w, np.zeros_like(w, shape=(1, *w.shape[1:]))])[group]
    # 0 times NaN would be NaN in a row of no group.
    return [np.where((group < len(w))[:, None], np.einsum("nk,nkm->nm", x, own), 0)]


define("grouped_matmul(x: float[N, K], w: float[E, K, M], ends: i64[E]) -> float[N, M]",
       "Rows in groups, each group by its own matrix: row i is `x[i] @ w[e]` for the first e with `ends[e] > i`, and 0 when there"
       " is none. With ascending ends, group e is the rows `ends[e - 1]` to `ends[e]`; rows behind the last end give 0, and an end"
       " that is smaller than one before it counts as that.",
       family="contraction", flops=_grouped_flops, meaning=_grouped, samples=_grouped_samples,
       bad=(Bad((TensorType.of("f32", ["N", 4]), TensorType.of("f32", [3, 4, 5]), TensorType.of("i64", [4])), {}, "E0302"),
            Bad((TensorType.of("f32", ["N", 4]), TensorType.of("f32", [3, 5, 4]), TensorType.of("i64", [3])), {}, "E0302"),
            Bad((TensorType.of("f32", ["N", 4]), TensorType.of("f32", [3, 4, 5]), TensorType.of("f32", [3])), {}, "E0303")))  # fmt: skip


def _conv_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    x, w = types
    spatial = w.rank - 2
    if x.rank != w.rank or spatial < 1:
        raise fail(
            "E0301",
            f"conv needs x [B, C, spatial…] and weight [O, C / groups, spatial…] of one rank, not {x} and {w}",
            span,
        )
    if spatial > 3:
        raise fail("E0301", f"conv: at most 3 spatial axes, but the weight {w} has {spatial}", span)
    for name, least in (("stride", 1), ("padding", 0), ("dilation", 1)):
        value = attrs[name]
        attrs[name] = value if isinstance(value, tuple) else (value,) * spatial
        if len(attrs[name]) != spatial:
            raise fail("E0405", f"conv: `{name}` has {len(attrs[name])} entries for {spatial} spatial axes", span)
        if not all(isinstance(v, int) and v >= least for v in attrs[name]):
            code = "E0402" if any(isinstance(v, Dim) for v in attrs[name]) else "E0405"  # a free size is no number yet
            shown = ", ".join(map(str, attrs[name]))
            raise fail(code, f"conv: `{name}` must be integers from {least}, but is [{shown}]", span)
    groups = attrs["groups"]
    if not isinstance(groups, int) or groups < 1 or (w.shape[0] % groups) != 0:
        raise fail("E0405", f"conv: groups = {groups} does not divide the {w.shape[0]} output channels", span)
    if x.shape[1] != w.shape[1] * groups:
        raise fail(
            "E0302",
            f"conv: x has {x.shape[1]} channels, but the weight takes {w.shape[1]} in each of {groups} group(s)",
            span,
        )
    shape: list[Dim] = [x.shape[0], w.shape[0]]
    for i in range(spatial):
        reach = (w.shape[2 + i] - 1) * attrs["dilation"][i] + 1
        room = x.shape[2 + i] + attrs["padding"][i] * 2 - reach
        if prove_ge(-1, room):
            raise fail(
                "E0306",
                f"conv: the kernel reaches over {reach} elements of axis {2 + i} of {x}, padding included",
                span,
            )
        shape.append(room // attrs["stride"][i] + 1)
    return [TensorType(x.dtype, tuple(shape))]


def _conv_flops(types: list[TensorType], outputs: list[TensorType], attrs: Attrs) -> Dim:
    return outputs[0].numel * product(types[1].shape[1:]) * const(2)


def _conv(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    x, weight = xs
    groups, kernel = attrs["groups"], weight.shape[2:]
    x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in attrs["padding"])])
    steps: list[tuple[int, ...]] = list(zip(kernel, attrs["stride"], attrs["dilation"], x.shape[2:], strict=True))
    sizes = [(size - (k - 1) * dilation - 1) // stride + 1 for k, stride, dilation, size in steps]
    # [B, groups, C / groups, …] with [groups, O / groups, C / groups], once for each place of the kernel.
    x = x.reshape(len(x), groups, weight.shape[1], *x.shape[2:])
    split = weight.reshape(groups, len(weight) // groups, *weight.shape[1:])
    out = np.zeros((len(x), groups, split.shape[1], *sizes), x.dtype)
    for at in np.ndindex(*kernel):
        seen: Any = [slice(a * d, a * d + (n - 1) * s + 1, s) for a, (_, s, d, _), n in zip(at, steps, sizes, strict=True)]
        out += np.einsum("bgc...,goc->bgo...", x[(..., *seen)], split[(..., *at)])
    return [out.reshape(len(x), len(weight), *sizes)]


def _conv_samples(rng: Any) -> list[Sample]:
    def x(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    return [
        Sample((x(2, 3, 8, 8), x(4, 3, 4, 4)), {"stride": (4, 4)}),
        Sample((x(2, 3, 9), x(4, 3, 3)), {"stride": 2, "padding": 1}),
        Sample((x(1, 4, 7, 6), x(4, 1, 3, 3)), {"groups": 4, "padding": 2, "dilation": 2}),
    ]


define("conv(x: float[...], weight: float[...], *, stride: any = 1, padding: any = 0, dilation: any = 1, groups: int = 1)"
       " -> float[...]",
       "Convolution (cross-correlation) over 1 to 3 spatial axes: x [B, C, …], weight [O, C / groups, …]; zero padding on"
       " both sides.", family="contraction", rule=_conv_rule, packs="free", flops=_conv_flops, meaning=_conv,
       samples=_conv_samples,
       bad=(Bad((TensorType.of("f32", ["B", 3, 8, 8]), TensorType.of("f32", [4, 5, 2, 2])), {}, "E0302"),))  # fmt: skip
