"""What the caches of a decoder hold: keys and values as they are, in f16, or as whole numbers of 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ...ir.builder import Builder
from ...ir.dims.dim import Dim
from ...ir.graph import Graph, Initializer, Input, Node, Part, Value
from ...ir.library import composite
from ...ir.op import Composite
from ...ir.signature import RecordPattern
from ...ir.types import DType, TensorType

Kind = Literal["f16", "i8"]

_NARROW = "std.cache.narrow"
# The ops of each storage are called as those of std.cache, behind this.
_FAMILY: dict[Kind | None, str] = {None: "std.cache.", "f16": f"{_NARROW}.half_", "i8": f"{_NARROW}.narrow_"}
APPENDS = tuple(f"{family}append" for family in _FAMILY.values())
_HALVES, _NARROWED, _WIDENED = f"{_NARROW}.halves", f"{_NARROW}.narrowed", f"{_NARROW}.widened"
_ROPE = "std.attention.rope"


class Storage:
    """The caches of a decoder, one for each attention."""

    def __init__(self, kind: Kind | None = None) -> None:
        self.kind = kind
        type = self.op("append").signature.operands[0].type
        assert isinstance(type, RecordPattern)
        self.record = type

    def op(self, name: str) -> Composite:
        """The op of std.cache of that name, for this storage."""
        return composite(f"{_FAMILY[self.kind]}{name}")

    @property
    def fields(self) -> list[str]:
        return [name for name, _ in self.record.fields()]

    def states(self, graph: Graph, name: str, node: Node, batch: Dim, capacity: Dim) -> list[Value]:
        """The fields of the cache of one attention, as inputs of the graph; the last is its length."""
        _, k, v = node.inputs[:3]
        assert k is not None
        assert v is not None
        sizes = (batch, k.type.shape[1], capacity, k.type.shape[3], v.type.shape[3])
        record = RecordPattern(self.record.record, sizes)
        part = Part(record, (("rotated", is_turned(node)),))
        zeros, found = Initializer("zeros"), []
        for field, pattern in record.fields():
            dtype = pattern.dtype if isinstance(pattern.dtype, DType) else k.type.dtype
            type = TensorType(dtype, tuple(d for d in pattern.shape if isinstance(d, Dim)))
            found.append(graph.add_input(Input(type, f"{name}.{field}", "state", zeros, node.span, part)))
        return list(found)

    def append(self, node: Node, cache: list[Value], length: Value, count: Value) -> list[Value]:
        """The cache with the keys and values of an attention behind ``length``."""
        assert node.graph is not None
        builder = Builder(node.graph).before(node)
        attrs = {"cache.rotated": is_turned(node)}
        return builder.multi(self.op("append"), *cache[:-1], length, *node.inputs[1:3], count, **attrs)

    def rows(self, node: Node, builder: Builder) -> list[Value]:
        """The keys and values of an attention as a cache holds them, in the order of its fields."""
        given = [v for v in node.inputs[1:3] if v is not None]
        if self.kind == "i8":
            pairs = [builder.multi(composite(_NARROWED), value) for value in given]
            return [value for parts in zip(*pairs, strict=True) for value in parts]
        return given if self.kind is None else [builder.op(composite(_HALVES), value) for value in given]

    def read(self, node: Node, kept: list[Value]) -> None:
        """Let an attention read what a cache holds."""
        assert node.graph is not None
        builder = Builder(node.graph).before(node)
        for i in (1, 2):
            new, value = node.inputs[i], kept[i - 1]
            assert new is not None
            if self.kind == "i8":
                value = builder.op(composite(_WIDENED), value, kept[i + 1])
            if value.type.dtype != new.type.dtype:
                value = builder.op("cast", value, dtype=new.type.dtype)
            node.set_input(i, value)


def is_turned(attention: Node) -> bool:
    """Whether the keys were turned by their positions."""
    k = attention.inputs[1]
    return k is not None and k.node is not None and k.node.op.qualified == _ROPE


def append_behind(value: Value | None) -> Node | None:
    """The append of whose first result ``value`` is made, as it is read; None for anything else."""
    while value is not None and value.node is not None:
        if value.node.op.qualified in APPENDS:
            return value.node if value.index == 0 else None
        if not _reads(value.node):
            break
        value = value.node.inputs[0]
    return None


def taken(value: Value, pick: Callable[[Value], Value], builder: Builder) -> Value:
    """What is read of a cache, of some of its slots: these are picked before they are made wide."""
    node = value.node
    if node is None or not _reads(node):
        return pick(value)
    return builder.op(node.op, *(taken(v, pick, builder) for v in node.inputs if v is not None), **node.attrs)


def held(value: Value) -> list[Value]:
    """What of a cache is read where ``value`` is."""
    node = value.node
    if node is None or not _reads(node):
        return [value]
    return [part for v in node.inputs if v is not None for part in held(v)]


def _reads(node: Node) -> bool:
    return node.op.qualified in ("cast", _WIDENED)


def storage_of(append: Node) -> Storage:
    """What a cache behind an append holds."""
    return Storage(next(kind for kind, family in _FAMILY.items() if append.op.qualified == f"{family}append"))


def steps_of(append: Node) -> Value | None:
    """The steps in which a cache counts its keys, where it holds whole numbers."""
    return append.outputs[2] if storage_of(append).kind == "i8" else None
