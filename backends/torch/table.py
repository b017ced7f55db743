"""The core ops in PyTorch: op -> the expression that computes it.

In a template ``{0}``, ``{1}`` are the operands, ``{axis}`` and the like the attributes, ``{dtype}`` the result's dtype and
``{device}`` where new tensors are made. What a template cannot say is a function of the :class:`Call`. Names in the
expressions: ``torch``, ``F`` (torch.nn.functional) and ``ops`` (``kernels.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...ir.ops.contraction import parse_einsum
from ...ir.ops.shape import rearrange_plan

if TYPE_CHECKING:
    from .emit import Call

Lowering = str | Callable[["Call"], str]

ELEMENTWISE: dict[str, Lowering] = {
    "neg": "-{0}",
    "abs": "torch.abs({0})",
    "sign": "ops.sign({0})",
    "exp": "torch.exp({0})",
    "log": "torch.log({0})",
    "sqrt": "torch.sqrt({0})",
    "rsqrt": "torch.rsqrt({0})",
    "sin": "torch.sin({0})",
    "cos": "torch.cos({0})",
    "atan": "torch.atan({0})",
    "tanh": "torch.tanh({0})",
    "sigmoid": "torch.sigmoid({0})",
    "erf": "torch.erf({0})",
    "floor": "torch.floor({0})",
    "ceil": "torch.ceil({0})",
    "round": "torch.round({0})",
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "floordiv": "torch.div({0}, {1}, rounding_mode='floor')",
    "mod": "torch.remainder({0}, {1})",
    "pow": "{0} ** {1}",
    "minimum": "torch.minimum({0}, {1})",
    "maximum": "torch.maximum({0}, {1})",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "logical_and": "{0} & {1}",
    "logical_or": "{0} | {1}",
    "logical_not": "~{0}",
    "bitwise_and": "{0} & {1}",
    "bitwise_or": "{0} | {1}",
    "bitwise_xor": "{0} ^ {1}",
    "bitwise_not": "~{0}",
    "left_shift": "{0} << {1}",
    "right_shift": "{0} >> {1}",
    "is_nan": "torch.isnan({0})",
    "where": "torch.where({0}, {1}, {2})",
    "cast": lambda call: call.args[0] if call.types[0] == call.out else call.render("{0}.to({dtype})"),
}

# Operands that may be a number instead of a tensor, when another operand is a tensor of that dtype. Not the divisor: on a GPU
# PyTorch multiplies by the reciprocal of a number, which rounds otherwise than dividing.
SCALAR_OPERANDS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("add", "sub", "mul", "pow", "eq", "ne", "lt", "le", "gt", "ge"), (0, 1)),
    **dict.fromkeys(("floordiv", "mod"), (1,)),
    "div": (0,),
    "where": (1, 2),
}

GRADIENT: dict[str, Lowering] = {
    "stop_gradient": "{0}.detach()",
    "straight_through": "ops.StraightThrough.apply({0}, {1})",
    "scale_gradient": "ops.ScaleGradient.apply({0}, {scale})",
}


def _reduction(template: str) -> Lowering:
    # An empty list of axes means none to us, and all of them to PyTorch.
    return lambda call: call.render(template) if call.attrs["axis"] else call.args[0]


def _einsum(call: Call) -> str:
    terms, out = parse_einsum(call.attrs["equation"])
    letters: dict[str, str] = {}
    free = list("zyxwvutsrqponmlkjihgfedcbaABCDEFGHIJKLMNOPQRSTUVWXYZ")
    for name in dict.fromkeys(n for term in terms for n in term):
        letters[name] = name[0] if name[0] in free else free[0]
        free.remove(letters[name])
    left = ",".join("".join(letters[n] for n in term) for term in terms)
    equation = f"{left}->{''.join(letters[n] for n in out)}"
    # PyTorch sums narrow integers in i64, and then does not multiply the sum by what is narrow still.
    narrow = call.out.dtype.kind == "int" and call.out.dtype.size < 8
    wide = [f"{arg}.long()" if narrow else arg for arg in call.args]
    return f'torch.einsum("{equation}", {", ".join(wide)}){call.render(".to({dtype})") if narrow else ""}'


def _conv(call: Call) -> str:
    spatial = call.types[0].rank - 2
    return call.render(
        f"F.conv{spatial}d({{0}}, {{1}}, stride={{stride}}, padding={{padding}}, dilation={{dilation}}, groups={{groups}})"
    )


CONTRACTION: dict[str, Lowering] = {
    "einsum": _einsum,
    "matmul": "{0} @ {1}",
    "grouped_matmul": "ops.grouped_matmul({0}, {1}, {2})",
    "conv": _conv,
    **{
        op: f"F.{op}({{0}}, {{kernel}}, {{stride}}, {{padding}}, ceil_mode={{ceil_mode}})" for op in ("max_pool1d", "max_pool2d")
    },
    **{
        op: f"F.{op}({{0}}, {{kernel}}, {{stride}}, {{padding}}, {{ceil_mode}}, {{count_include_pad}})"
        for op in ("avg_pool1d", "avg_pool2d")
    },
}

REDUCTION: dict[str, Lowering] = {
    "sum": _reduction("torch.sum({0}, {axis}, keepdim={keepdims}, dtype={dtype})"),
    "mean": _reduction("torch.mean({0}, {axis}, keepdim={keepdims})"),
    "logsumexp": _reduction("ops.logsumexp({0}, {axis}, {keepdims})"),
    "prod": _reduction("ops.prod({0}, {axis}, {keepdims})"),
    "max": _reduction("torch.amax({0}, {axis}, keepdim={keepdims})"),
    "min": _reduction("torch.amin({0}, {axis}, keepdim={keepdims})"),
    "any": _reduction("torch.any({0}, {axis}, keepdim={keepdims})"),
    "all": _reduction("torch.all({0}, {axis}, keepdim={keepdims})"),
    "argmax": "torch.argmax({0}, {axis}, keepdim={keepdims})",
    "argmin": "torch.argmin({0}, {axis}, keepdim={keepdims})",
}

ORDER: dict[str, Lowering] = {
    "sort": "torch.sort({0}, dim={axis}, descending={descending}, stable=True)",
    "topk": "ops.topk({0}, {k}, {axis}, {largest})",
    "searchsorted": "torch.searchsorted({0}, {1}, right={right})",
}


def _take(call: Call) -> str:
    axis, batch, rank = call.attrs["axis"], call.attrs["batch"], call.types[1].rank
    if batch:
        return f"ops.take({call.args[0]}, {call.index(1)}, {axis}, {batch})"
    if axis == 0 and call.types[0].rank == 2 and call.types[0].dtype.kind == "float":
        return f"F.embedding({call.index(1)}, {call.args[0]})"
    if rank == 1:
        return f"torch.index_select({call.args[0]}, {axis}, {call.index(1)})"
    if rank == 0:
        return f"torch.index_select({call.args[0]}, {axis}, {call.index(1)}.reshape(1)).squeeze({axis})"
    return f"{call.args[0]}[{':, ' * axis}{call.index(1)}]"


def _indexed(function: str, *names: str) -> Lowering:
    """``ops.function(x, index, …)`` with the index as i64, which PyTorch asks for."""

    def lower(call: Call) -> str:
        rest = [*call.args[2:], *(call.value(call.attrs[name]) for name in names)]
        return f"ops.{function}({', '.join([call.args[0], call.index(1), *rest])})"

    return lower


def _scatter_set(call: Call) -> str:
    made = f"ops.scatter_set({call.args[0]}, {call.index(1)}, {call.args[2]}, {call.value(call.attrs['batch'])}"
    donated = call.donated(0)
    return f"{made})" if donated == "False" else f"{made}, {donated})"


def _cumsum(call: Call) -> str:
    if call.attrs["exclusive"] or call.attrs["reverse"]:
        return call.render("ops.cumsum({0}, {axis}, {exclusive}, {reverse})")
    return call.render("torch.cumsum({0}, {axis}, dtype={dtype})")


INDEXING: dict[str, Lowering] = {
    "gather": lambda call: f"torch.gather({call.args[0]}, {call.attrs['axis']}, {call.index(1)})",
    "take": _take,
    "scatter_set": _scatter_set,
    "scatter_add": _indexed("scatter_add", "batch"),
    "scatter_min": _indexed("scatter_min", "batch"),
    "scatter_max": _indexed("scatter_max", "batch"),
    "compact": "ops.compact({0}, {capacity})",
    "segment_sum": _indexed("segment_sum", "segments"),
    "segment_mean": _indexed("segment_mean", "segments"),
    "segment_max": _indexed("segment_max", "segments"),
    "segment_softmax": _indexed("segment_softmax", "segments"),
    "cumsum": _cumsum,
    "cummax": "torch.cummax({0}, {axis}).values",
    "linear_recurrence": "ops.linear_recurrence({0}, {1}, {axis})",
}


def _rearrange(call: Call) -> str:
    split, permutation, final = rearrange_plan(call.types[0], dict(call.attrs))
    text, shape = call.args[0], list(call.types[0].shape)
    if split != shape:
        text += f".reshape({call.value(tuple(split))})"
    if permutation != sorted(permutation):
        text += f".permute({call.value(tuple(permutation))})"
    if final != [split[i] for i in permutation]:
        text += f".reshape({call.value(tuple(final))})"
    return text


def _unsqueeze(call: Call) -> str:
    return call.args[0] + "".join(f".unsqueeze({axis})" for axis in call.attrs["axis"])


def _slice(call: Call) -> str:
    start, stop, step = call.attrs["start"], call.attrs["stop"], call.attrs["step"]
    first = "" if start in (None, 0) else call.value(start)
    last = "" if stop is None else call.value(stop)
    every = "" if step == 1 else f":{call.value(step)}"
    return f"{call.args[0]}[{':, ' * call.attrs['axis']}{first}:{last}{every}]"


def _pad(call: Call) -> str:
    if call.attrs["mode"] != "constant":
        return call.render("ops.pad({0}, {axis}, {before}, {after}, {mode})")
    behind = "0, 0, " * (call.types[0].rank - 1 - call.attrs["axis"])  # PyTorch counts from the last axis
    return call.render(f"F.pad({{0}}, ({behind}{{before}}, {{after}}), value={{value}})")


SHAPE: dict[str, Lowering] = {
    "constant": lambda call: call.constant(),
    "full": "torch.full({shape}, {value}, dtype={dtype}, device={device})",
    "iota": "torch.arange({n}, dtype={dtype}, device={device})",
    "reshape": "{0}.reshape({shape})",
    "rearrange": _rearrange,
    "transpose": "{0}.permute({perm})",
    "expand": "{0}.expand({shape})",
    "squeeze": "{0}.squeeze({axis})",
    "unsqueeze": _unsqueeze,
    "concat": lambda call: f"torch.cat(({', '.join(call.args)},), dim={call.attrs['axis']})",
    "slice": _slice,
    "pad": _pad,
    "flip": "torch.flip({0}, ({axis},))",
}


def _fold(call: Call) -> str:
    step = call.function(call.attrs["body"])
    carried = call.attrs["carried"]
    start, captured = call.tuple(call.args[:carried]), call.tuple(call.args[carried:])
    stacked = [value.type for value in call.node.outputs[carried:]]
    rows = "".join(f", ({call.value(type.shape[1:])}, torch.{type.dtype.long})" for type in stacked)
    return f"ops.fold({call.value(call.attrs['n'])}, {step}, {start}, {captured}, {call.device()}{rows})"


def _scan(call: Call) -> str:
    combine = call.function(call.attrs["body"])
    carried = call.attrs["carried"]
    scanned, captured = call.tuple(call.args[:carried]), call.tuple(call.args[carried:])
    return f"ops.scan({combine}, {scanned}, {captured}, {call.attrs['axis']})"


def _cond(call: Call) -> str:
    then, orelse = (call.function(call.attrs[branch]) for branch in ("then", "orelse"))
    return f"ops.cond({call.args[0]}, {then}, {orelse}, {call.tuple(call.args[1:])})"


def _while(call: Call) -> str:
    test, body = (call.function(call.attrs[region]) for region in ("test", "body"))
    carried = call.attrs["carried"]
    start, captured = call.tuple(call.args[:carried]), call.tuple(call.args[carried:])
    return f"ops.while_({call.value(call.attrs['limit'])}, {test}, {body}, {start}, {captured})"


CONTROL: dict[str, Lowering] = {"fold": _fold, "scan": _scan, "cond": _cond, "while": _while}

LOWERINGS: dict[str, Lowering] = {
    **ELEMENTWISE, **GRADIENT, **CONTRACTION, **REDUCTION, **ORDER, **INDEXING, **SHAPE, **CONTROL,
}  # fmt: skip
