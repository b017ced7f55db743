"""The text of a group's kernel, from the graph that defines it: what :mod:`tessera.kernels.generated` launches.

A value of half precision is held in f32, and rounded to its dtype by each op, as PyTorch does: selecting by what a group computes
selects the same. The same graph gives the same text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...ir.dims.dim import Dim
from ...ir.op import Composite
from ...ir.types import DTYPES, DType
from ...kernels.frame import WHOLE, Places, canonical, spans

if TYPE_CHECKING:
    from ...ir.graph import Graph, Node, Value

# What rounds: its result has more digits than a half.
ARITHMETIC: dict[str, str] = {
    "exp": "tl.exp({0})",
    "log": "tl.log({0})",
    "sqrt": "tl.sqrt_rn({0})",
    "rsqrt": "tl.rsqrt({0})",
    "sin": "tl.sin({0})",
    "cos": "tl.cos({0})",
    "tanh": "tanh({0})",
    "sigmoid": "tl.sigmoid({0})",
    "erf": "tl.erf({0})",
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "tl.div_rn({0}, {1})",
}
# What gives a number that its operand's dtype has.
EXACT: dict[str, str] = {
    "neg": "-{0}",
    "abs": "tl.abs({0})",
    "sign": "tl.where({0} > 0, 1, tl.where({0} < 0, -1, {0}))",
    "floor": "tl.floor({0})",
    "ceil": "tl.ceil({0})",
    "round": "nearest({0})",
    "floordiv": "floor_div({0}, {1})",
    "mod": "floor_mod({0}, {1})",
    "minimum": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "maximum": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "logical_and": "{0} & {1}",
    "logical_or": "{0} | {1}",
    "logical_not": "{0} == 0",
    "bitwise_and": "{0} & {1}",
    "bitwise_or": "{0} | {1}",
    "bitwise_xor": "{0} ^ {1}",
    "bitwise_not": "~{0}",
    "left_shift": "{0} << {1}",
    "right_shift": "{0} >> {1}",
    "is_nan": "{0} != {0}",
    "where": "tl.where({0}, {1}, {2})",
    "stop_gradient": "{0}",
    "straight_through": "{0}",
    "scale_gradient": "{0}",
}
ELEMENTWISE = {**ARITHMETIC, **EXACT}
# Over rows: {0} the elements, {1} which of them count.
REDUCTIONS: dict[str, str] = {
    "sum": "tl.sum(tl.where({1}, {0}, 0), 1, keep_dims=True)",
    "mean": "tl.div_rn(tl.sum(tl.where({1}, {0}, 0), 1, keep_dims=True), D * 1.0)",
    "logsumexp": "log_sum_exp({0}, {1})",
    "max": "highest({0}, {1})",
    "min": "-highest(-{0}, {1})",
    "any": "tl.max(({0} & {1}).to(tl.int32), 1, keep_dims=True) != 0",
    "all": "tl.min(({0} | ~{1}).to(tl.int32), 1, keep_dims=True) != 0",
}
VIEWS = frozenset({"unsqueeze", "squeeze", "expand", "transpose"})
_HALVES = {"f16": "tl.float16", "bf16": "tl.bfloat16"}
held_dtypes = DTYPES.keys() - {"f64"}


def core(node: Node) -> str:
    """The name of a core op; of a composite, which may be called like one, nothing."""
    return "" if isinstance(node.op, Composite) else node.op.name


def operand_places(node: Node, places: Places) -> list[Places] | None:
    """Where the operands of an elementwise op, or of a view, lie when its result lies at ``places``; None for other ops."""
    name, types = core(node), [v.type for v in node.inputs if v is not None]
    if name == "unsqueeze":
        return [tuple(p for i, p in enumerate(places) if i not in node.attrs["axis"])]
    if name == "squeeze":
        left = iter(places)
        return [tuple(None if i in node.attrs["axis"] else next(left) for i in range(types[0].rank))]
    if name == "transpose":
        perm = node.attrs["perm"]
        return [tuple(places[perm.index(i)] for i in range(types[0].rank))]
    if name == "pow":
        return [places, ()]
    if name not in ELEMENTWISE and name not in ("cast", "expand"):
        return None
    return [
        tuple(None if d == 1 else p for d, p in zip(t.shape, places[len(places) - t.rank :], strict=True))
        for t in types
    ]


def held(dtype: DType) -> str:
    """The dtype that a kernel computes in: halves in single precision."""
    return {"float": "tl.float32", "bool": "tl.int1"}.get(dtype.kind, f"tl.{dtype.long}")


def exponent(node: Node) -> int | None:
    """The exponent of a power that is a product of two or three factors; None of any other."""
    power = node.inputs[1]
    if power is None or power.type.shape or power.node is None or core(power.node) not in ("constant", "full"):
        return None
    number = power.node.attrs["value"]
    return int(number) if isinstance(number, (int, float)) and number in (2, 3) else None


class Text:
    """Writes the kernel of a body.

    Args:
        rank: how many axes the frame has.
        level: what each value that the group makes itself has of the frame.
    """

    def __init__(self, body: Graph, rank: int, level: Mapping[Value, int]) -> None:
        self.body = body
        self.rank = rank
        self.level = level
        self.reads: dict[tuple[int, Places], str] = {}
        self.stores: list[Value] = []
        self.numbers: dict[Dim, str] = {}
        self.reduces = False
        self.indexed = False
        self._lines: list[str] = []
        self._made: dict[tuple[Value, Places], str] = {}
        self._stored: list[str] = []

    def store(self, value: Value) -> int:
        """Have what the group makes stored; gives the number of the store."""
        self._stored.append(self._tile(value, canonical(self.level[value], self.rank)))
        self.stores.append(value)
        return len(self.stores) - 1

    # Values ----------------------------------------------------------------------------------------------------------

    def _tile(self, value: Value, places: Places) -> str:
        """The variable that holds a value which lies at these places."""
        key = (value, places)
        if key not in self._made:
            self._made[key] = self._read(value, places) if value.node is None else self._computed(value.node, places)
        return self._made[key]

    def _read(self, value: Value, places: Places) -> str:
        index = next(i for i, v in enumerate(self.body.inputs) if v is value)
        return self.reads.setdefault((index, places), f"x{len(self.reads)}")

    def _computed(self, node: Node, places: Places) -> str:
        name, dtype = node.op.name, node.output.type.dtype
        if name in ("constant", "full"):
            return self._line(self._number(node))
        if name == "iota":
            return self._line(f"({self._index(places[0])}).to({held(dtype)})")
        if name in REDUCTIONS:
            return self._reduction(node)
        below = operand_places(node, places)
        assert below is not None
        given = [v for v in node.inputs if v is not None]
        power = exponent(node) if name == "pow" else None
        read = given[:1] if power else given
        args = [self._tile(v, p) for v, p in zip(read, below, strict=power is None)]
        if name in VIEWS:
            return args[0]
        if name == "cast":
            return self._cast(args[0], given[0].type.dtype, dtype)
        text = " * ".join([args[0]] * power) if power else ELEMENTWISE[name].format(*args)
        return self._line(text if name in EXACT else _rounded(text, dtype))

    def _number(self, node: Node) -> str:
        number, dtype = node.attrs["value"], node.output.type.dtype
        if isinstance(number, Dim):
            return f"tl.full([1, 1], 0, {held(dtype)}) + {self.numbers.setdefault(number, f'N{len(self.numbers)}')}"
        if dtype.kind == "float":
            number = float(dtype.numpy.type(number))
            shown = repr(number) if math.isfinite(number) else f'float("{number}")'
        else:
            shown = repr(int(number))
        return f"tl.full([1, 1], {shown}, {held(dtype)})"

    def _index(self, place: int | None) -> str:
        self.indexed = True
        return "row * 0" if place is None else "column" if place == self.rank - 1 else f"i{place}"

    def _cast(self, arg: str, source: DType, target: DType) -> str:
        if target == source:
            return arg
        if target.kind == "bool":
            return self._line(f"{arg} != 0")
        wide = arg if held(source) == held(target) else f"{arg}.to({held(target)})"
        text = wide if source.kind == "bool" else _rounded(wide, target)
        return arg if text == arg else self._line(text)

    def _reduction(self, node: Node) -> str:
        self.reduces = True
        x, dtype, name = node.inputs[0], node.output.type.dtype, node.op.name
        assert x is not None
        wide = self._line(f"tl.broadcast_to({self._tile(x, canonical(0, self.rank))}, [BM, BN])")
        if dtype.kind == "int":
            return self._line(f"{_integers(name, dtype, wide)}.to({held(dtype)})")
        text = REDUCTIONS[name].format(wide, "counts")
        return self._line(text if name in ("max", "min") else _rounded(text, dtype))

    def _line(self, text: str) -> str:
        self._lines.append(text)
        return f"v{len(self._lines) - 1}"

    # The whole -------------------------------------------------------------------------------------------------------

    @property
    def columns(self) -> bool:
        """Whether the last axis stays by itself: something has one element a row."""
        ends = self.rank - 1
        return self.reduces or any(self.level.values()) or any(p and ends not in p and any(q is not None for q in p) for _, p in self.reads)

    def source(self, name: str) -> str:
        """The text of the function of that name."""
        ends = self.rank - 1
        places = {f"X{i}": where for i, (_, where) in enumerate(self.reads)}
        places |= {f"Y{i}": canonical(self.level[v], self.rank) for i, v in enumerate(self.stores)}
        strides = [f"{p}_{a}" for p, where in places.items() for a in self._axes(where)]
        sizes = ["R", "D", *(f"S{a}" for a in range(1, ends))]
        parameters = [*places, *sizes, *strides, *self.numbers.values(), *(f"{c}: tl.constexpr" for c in ("WIDE", "BM", "BN"))]
        lines = [
            "row = tl.program_id(0) * BM + tl.arange(0, BM)[:, None]",
            "column = tl.program_id(1) * BN + tl.arange(0, BN)[None, :]",
            "if WIDE:",
            "    row = row.to(tl.int64)",
            "    column = column.to(tl.int64)",
            "counts = column < D",
        ]
        rest = "row"
        for a in range(ends - 1, 0, -1):
            lines += [f"i{a} = {rest} % S{a}", f"r{a} = {rest} // S{a}"]
            rest = f"r{a}"
        if ends:
            lines.append(f"i0 = {rest}")
        for (index, where), variable in self.reads.items():
            dtype = self.body.inputs[index].type.dtype
            pointer, mask = self._address(variable.upper(), where)
            wide = " != 0" if dtype.kind == "bool" else ".to(tl.float32)" if dtype.name in _HALVES else ""
            lines.append(f"{variable} = tl.load({pointer}{f', {mask}, 0' if mask else ''}){wide}")
        lines += [f"v{i} = {text}" for i, text in enumerate(self._lines)]
        for i, (value, made) in enumerate(zip(self.stores, self._stored, strict=True)):
            level = self.level[value]
            pointer, mask = self._address(f"Y{i}", canonical(level, self.rank))
            shape = "[BM, BN]" if level == WHOLE else "[BM, 1]"
            store = f"tl.store({pointer}, tl.broadcast_to({made}, {shape}).to(Y{i}.dtype.element_ty), {mask})"
            # Several programs may share a row.
            lines += [store] if level == WHOLE else ["if tl.program_id(1) == 0:", f"    {store}"]
        body = "\n".join(f"    {line}" for line in lines)
        return f"@triton.jit\ndef {name}({', '.join(parameters)}):\n{body}\n"

    def _axes(self, where: Places) -> list[int]:
        """The axes of the frame along which a pointer has a stride."""
        leads, last = spans(where, self.rank, self.columns)
        return [*(range(self.rank - 1) if leads else ()), *([self.rank - 1] if last else [])]

    def _address(self, pointer: str, where: Places) -> tuple[str, str]:
        """Where a tensor's elements are, and which of them there are."""
        axes = self._axes(where)
        ends = self.rank - 1
        terms = [f"{'column' if a == ends else f'i{a}'} * {pointer}_{a}" for a in axes] or ["tl.zeros([1, 1], tl.int32)"]
        masks = [*(["(row < R)"] if len(axes) > (ends in axes) else []), *(["counts"] if ends in axes else [])]
        return " + ".join([pointer, *terms]), " & ".join(masks)


def _rounded(text: str, dtype: DType) -> str:
    return f"rounded({text}, {_HALVES[dtype.name]})" if dtype.name in _HALVES else text


def _integers(name: str, dtype: DType, wide: str) -> str:
    """A reduction of integers."""
    if name == "sum":
        return f"tl.sum(tl.where(counts, {wide}, 0), 1, keep_dims=True)"
    bits = 8 * dtype.size
    least, most = (0, (1 << bits) - 1) if dtype.name == "u8" else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    return f"tl.{name}(tl.where(counts, {wide}, {least if name == 'max' else most}), 1, keep_dims=True)"
