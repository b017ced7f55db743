"""Caches from which tokens leave: methods that choose who stays, and positions that no longer are numbers of slots."""

from __future__ import annotations

from typing import Any

from ...ir.analysis.cost import ATTENTION
from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import Dim, as_dim, dim_min
from ...ir.graph import Graph, Initializer, Input, Node, Value
from ...ir.library import ops_of
from ...ir.naming import unique
from ...ir.op import Composite
from ...ir.signature import Pattern
from ...ir.types import TensorType, f32, i64
from ..tidy.dce import remove_dead
from ..tokens.method import statics_of
from .given import names_of
from .storage import append_behind, storage_of

STD = "std.token.evict"
_OPERANDS = ["q", "keys", "length", "count"]
_MASS = "mass"


def evicts(op: Composite) -> bool:
    """Whether an op chooses what stays in a cache: `op m(q, keys, length, count, mass?, *, k: int, …) -> i64[B, G, N]`."""
    results = op.signature.results
    types = [r.type for r in results]
    first = types[0] if types else None
    numbers = (
        isinstance(first, Pattern) and getattr(first.dtype, "kind", first.dtype) == "int" and len(first.shape) == 3
    )
    operands = [o.name for o in op.signature.operands]
    wanted = [*_OPERANDS, _MASS] if len(results) == 2 else _OPERANDS
    return numbers and operands == wanted and op.signature.static("k") is not None


def shipped() -> dict[str, Composite]:
    """The shipped methods that evict."""
    return {op.name: op for op in ops_of(STD) if evicts(op)}


class Eviction:
    """Lets tokens leave the caches of one entry point; all of them keep as many."""

    def __init__(self, graph: Graph, op: Composite, attrs: dict[str, Any]) -> None:
        self.graph, self.op, self.attrs = graph, op, attrs
        self.lasting = len(op.signature.operands) > len(_OPERANDS)

    def run(self, appends: list[Node], read: list[Node]) -> int:
        """The number of caches that tokens leave in a call. Raises E0707 for what depends on where the tokens of slots stand."""
        counter = self._counter(appends[0])
        if read:
            self._follow(counter, appends, read)
        for index, append in enumerate(appends):
            self._choose(append, index, read)
        remove_dead(self.graph)
        return len(appends) if self.lasting or not read else 0

    # Positions -------------------------------------------------------------------------------------------------------

    def _counter(self, append: Node) -> Input:
        """A state that counts the tokens of each row, those that left among them."""
        length, count = append.inputs[-4], append.inputs[-1]
        assert length is not None
        assert count is not None
        type = TensorType(i64, length.type.shape)
        name = unique("seen", names_of(self.graph))
        counter = self.graph.add_input(Input(type, name, "state", Initializer("zeros"), append.span))
        builder = Builder(self.graph).before(append)
        started = isinstance(length, Input)
        before = counter if started else builder.constant(0, i64)
        self.graph.add_output(builder.op("add", count, before), name, "state")
        return counter

    def _follow(self, counter: Input, appends: list[Node], read: list[Node]) -> None:
        """Let masks go by slots, each by the length of its own cache, and everything else by the counter."""
        lengths = [append.inputs[-4] for append in appends]
        first = next(iter(self.graph.nodes()))
        own: set[Node] = set()
        for node in read:
            append = append_behind(node.inputs[1])
            assert append is not None
            mask = self._mask(first, append)
            self._refuse_places(node)
            own.update(mask)
            node.set_input(3, mask[-1].output)
        remove_dead(self.graph)
        for length in lengths:
            assert length is not None
            for user, i in list(length.uses):
                if user not in own and user not in appends:
                    user.set_input(i, counter)
        self._unclip(counter)

    def _mask(self, first: Node, append: Node) -> list[Node]:
        """Which slots of one cache new tokens see: those up to their own."""
        b = Builder(self.graph).before(first)
        keys, new, length = append.outputs[0], append.inputs[-3], append.inputs[-4]
        assert new is not None
        steps = [b.op("unsqueeze", length, axis=(1,)), b.op("unsqueeze", b.op("iota", n=new.type.shape[2]), axis=(0,))]
        steps.append(b.op("add", *steps))
        steps.append(b.op("unsqueeze", steps[-1], axis=(2,)))
        slots = b.op("unsqueeze", b.op("iota", n=keys.type.shape[2]), axis=(0, 1))
        steps.append(b.op("le", slots, steps[-1]))
        steps.append(b.op("unsqueeze", steps[-1], axis=(1,)))
        return [value.node for value in steps if value.node is not None]

    def _refuse_places(self, node: Node) -> None:
        """Raises E0707 for a mask or a bias of an attention that is more than who came before whom."""
        mask, bias = node.inputs[3:5]
        at = None if mask is None or mask.node is None or mask.node.inputs[0] is None else mask.node.inputs[0].node
        plain = mask is not None and mask.node is not None and mask.node.op.qualified == "unsqueeze"
        if not plain or at is None or at.op.qualified != "le" or bias is not None:
            raise Diagnostic(
                "E0707", f"`{self.op.name}` lets tokens leave the cache, and this attention asks where those in its slots stand",
                node.span, help="a window or a bias by places goes with methods that choose what is read, such as `token_vote`",
            )  # fmt: skip

    def _unclip(self, counter: Input) -> None:
        """Positions go on beyond the last slot. Raises E0707 where they are rows of a table, which end."""
        told: set[Value] = {counter}
        for node in list(self.graph.nodes()):
            given = [v for v in node.inputs if v is not None]
            if not any(v in told for v in given):
                continue
            if node.op.qualified == "minimum":
                (place,) = (v for v in given if v in told)
                node.output.replace_uses(place)
            elif node.op.qualified in ("unsqueeze", "add"):
                told.update(node.outputs)
            elif node.op.qualified == "take":
                raise Diagnostic(
                    "E0707", f"`{self.op.name}` lets texts be longer than a cache, and positions are rows of a table here",
                    node.span, help="methods that choose what is read, such as `token_vote`, keep to the table",
                )  # fmt: skip

    # What stays ------------------------------------------------------------------------------------------------------

    def _choose(self, append: Node, index: int, read: list[Node]) -> None:
        """Behind a prompt, only what stays is written; behind what follows, the rest leaves."""
        new = append.inputs[-3]
        readers = [n for n in read if append_behind(n.inputs[1]) is append] or [
            n for n in self.graph.nodes() if n.op.qualified == ATTENTION and n.inputs[1] is new
        ]
        (node,) = readers
        keys = node.inputs[1]
        assert keys is not None
        slots = append.outputs[0].type.shape[2]
        mass = self._mass(append, index, slots) if self.lasting else None
        if read and not self.lasting:
            return
        b = Builder(self.graph).before(node if read else append)
        b.span, b.scope = append.span, append.scope
        count, k = append.inputs[-1], self.attrs["k"]
        length = append.outputs[-1] if read else count
        before: Value | None = mass
        if mass is not None and not read:
            before = b.op("full", shape=keys.type.shape[:3], value=0.0, dtype=f32)
        own = {"scale": node.attrs["scale"]} if "scale" in statics_of(self.op) else {}
        operands = [node.inputs[0], keys, length, count, *([before] if self.lasting else [])]
        made = b.multi(self.op, *operands, **{**self.attrs, **own})
        assert made[0].node is not None
        # What it requires of the budget is told now.
        self.op.instantiate([None if v is None else v.type for v in operands], made[0].node.attrs)
        kept = dim_min(as_dim(k), keys.type.shape[2])
        if read:
            attrs = {name: value for name, value in append.attrs.items() if name.startswith("cache.")}
            fields = b.multi(storage_of(append).op("keep"), *append.outputs, made[0], **attrs)
            for value, field in zip(append.outputs, fields, strict=True):
                self._give(value, field)
        else:
            end = len(append.inputs)
            for i in (end - 3, end - 2):
                append.set_input(i, b.op("take", append.inputs[i], made[0], axis=2, batch=2))
            append.set_input(end - 1, b.op("minimum", count, b.dim_value(kept)))
        if mass is not None:
            rest = b.op("full", shape=(*mass.type.shape[:2], slots - kept), value=0.0, dtype=f32)
            self.graph.add_output(b.op("concat", made[1], rest, axis=2), mass.name, "state")

    def _mass(self, append: Node, index: int, slots: Dim) -> Input:
        batch, heads = append.outputs[0].type.shape[:2]
        name = unique(f"mass_{index}", names_of(self.graph))
        type = TensorType(f32, (batch, heads, slots))
        return self.graph.add_input(Input(type, name, "state", Initializer("zeros"), append.span))

    def _give(self, value: Value, field: Value) -> None:
        """Let the state that a value of an append was be another one."""
        values = [field if v is value else v for v in self.graph.outputs]
        self.graph.set_outputs(values, self.graph.output_info)
