"""Giving a causal decoder a cache of keys and values: one entry point for prompts, one for what follows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Self

from ...ir.analysis.along import Along, along
from ...ir.analysis.axes import Axes
from ...ir.analysis.cost import ATTENTION
from ...ir.analysis.sight import Sights
from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic, Note
from ...ir.dims.dim import Dim, sym
from ...ir.graph import Graph, Input, Module, Node, Value
from ...ir.inlining import instantiate, splice
from ...ir.library import readable
from ...ir.naming import unique
from ...ir.op import Composite, Trait, has
from ...ir.types import TensorType, i64
from ..engine import Pass
from ..options import option
from ..report import Report
from ..tidy.dce import remove_dead
from .given import names_of, token_input
from .known import Known
from .last import Last
from .once import Once
from .places import Places, Stuck, Where
from .storage import Kind, Storage

PREFILL, DECODE = "prefill", "decode"
LENGTHS = "lengths"
# What inputs and states are called that come with a cache.
_OWN = re.compile(r"lengths|depth|ancestors|path|count|(cache|given)_[0-9]+")
# The operands of attention that say who sees whom: one row a query, one column a key.
_PAIRS = (3, 4)


@dataclass(frozen=True)
class AddCache(Pass):
    """Gives a causal decoder a cache, so that a token is computed once: entry points `prefill` and `decode`, one set of weights.

    Both take token ids [B, T] and `lengths` [B], how many of each row's tokens count; padding stands behind them. `prefill` starts
    each row anew and gives the scores behind its last token; `decode` goes on where the rows ended, with one token or several, and
    gives the scores behind each. The states are a KVCache for each attention, whose capacity the caller chooses.

    before: `model lm(input_ids: i64[B, T]) -> (logits: f32[B, T, V])`
    after:  `program lm { entry prefill = …  entry decode = … }`
    """

    name = "add_cache"
    contract = "exact"
    splits = True

    tokens: str | None = option(
        None, "the input whose second axis counts the tokens; found when there is one such input of ids"
    )
    capacity: str = option("C", "what the capacity is called")
    tree: bool = option(
        False, "entry points `verify` and `commit` too, which read a tree of drafted tokens and keep a path of it"
    )

    past: Literal["grown", "shared"] | None = option(
        None, "an entry point `past` too, which is given keys and values and returns them, as onnxruntime-genai and optimum call "
        "them: behind its own, or in buffers of fixed size that are bound in and out"
    )  # fmt: skip

    storage: Literal["f16", "i8"] | None = option(
        None, "keys and values in the caches as f16, or as whole numbers of 8 bits with a step for each row; as they are when none"
    )

    def requires(self, module: Module) -> None:
        if not readable(self.capacity) or _OWN.fullmatch(self.capacity):
            raise Diagnostic(
                "E0703", f"`capacity` of the pass `add_cache` must be a name, but is {self.capacity!r}",
                help='`capacity="C"`: a name has letters, digits and `_`, and is no word of the language and no input here',
            )  # fmt: skip
        if module.several:
            raise Diagnostic(
                "E0731", f"`add_cache` makes entry points of one model, but `{module.name}` has {', '.join(module.functions)}",
                help="run it on the model itself, before others are put beside it",
            )  # fmt: skip

    def run(self, module: Module) -> Report:
        graph = module.graph
        states = [v.name for v in graph.inputs if v.role == "state"]
        if states:
            raise Diagnostic(
                "E0731", f"`{module.name}` keeps the state `{states[0]}` already",
                help="`add_cache` is for models that are given all tokens at once",
            )  # fmt: skip
        capacity = sym(unique(self.capacity, names_of(graph), joint=""))
        prefill, decode = (Half(graph.clone(), self.tokens, capacity, self.storage).with_states() for _ in range(2))
        prefill.read_prompt()
        decode.go_on()
        module.docs = {
            PREFILL: f"{module.doc}\n\nReads prompts from their first token on.".strip(),
            DECODE: f"{module.doc}\n\nReads what follows.".strip(),
        }
        module.functions = {PREFILL: prefill.graph, DECODE: decode.graph}
        if self.tree:
            from .tree import add_tree

            add_tree(module, Half(graph.clone(), self.tokens, capacity, self.storage).with_states())
        if self.past:
            from .past import add_past

            add_past(module, graph, self.tokens, capacity, grown=self.past == "grown")
        report = Report.of(self, len(prefill.attentions))
        if self.storage:
            report.contract = "approximate"
        report.facts["capacity"] = str(capacity)
        report.facts["states"] = prefill.names
        return report


class Half:
    """One of the two entry points, on the way from the model that is given all tokens."""

    def __init__(self, graph: Graph, named: str | None, capacity: Dim, kind: Kind | None = None) -> None:
        self.graph, self.capacity, self.storage = graph, capacity, Storage(kind)
        self.ids = token_input(graph, named)
        self.batch, self.tokens = self.ids.type.shape[:2]
        told = [v for v in graph.inputs if v is not self.ids and v.type.shape == (self.batch, self.tokens)]
        self.masks = [v for v in told if "mask" in v.public]
        self.positions = [v for v in told if "position" in v.public]
        beside = self._beside()
        self._learn()
        self.once = Once(graph, beside, self.tokens, self.features | self.placed)
        self.known = Known(graph, self.tokens, self.batch, self.masks, self.positions)
        self.attentions = self._find_attentions()
        self._refuse_mixing()
        self.builder = Builder(graph).before(next(iter(graph.nodes()), None))

    def with_states(self) -> Self:
        """With a cache for each attention, and how many tokens of each row count."""
        self.lengths = self.input(LENGTHS, TensorType.of("i64", [self.batch]))
        taken = names_of(self.graph)
        self.names = [unique(f"cache_{i}", taken) for i in range(len(self.attentions))]
        self.caches = [
            self.storage.states(self.graph, name, node, self.batch, self.capacity)
            for name, node in zip(self.names, self.attentions, strict=True)
        ]
        self.once.with_states(self.batch)
        return self

    # What there is ---------------------------------------------------------------------------------------------------

    def _beside(self) -> list[Input]:
        """Inputs that are given once for each row. Raises E0731 for others that are no token ids, mask nor positions."""
        known = {self.ids, *self.masks, *self.positions}
        found = [value for value in self.graph.inputs if value not in known]
        for value in found:
            rows = value.type.shape[:1] == (self.batch,)
            if not rows or any(self.tokens.symbols & d.symbols for d in value.type.shape):
                raise Diagnostic(
                    "E0731", f"`{value.public}: {value.type}` is neither token ids nor a padding mask nor positions: what it is "
                    "for tokens that come later is not known", value.span,
                    help="`tokens=` names the input of ids, if this is it; else write the cache into the model, with std.cache",
                )  # fmt: skip
        return found

    def _learn(self) -> None:
        """Which values belong to tokens, and which only to places."""
        self.features: set[Value] = {self.ids}
        self.placed: set[Value] = {*self.masks, *self.positions}
        for node in list(self.graph.nodes()):
            given = [v for v in node.inputs if v is not None]
            if any(v in self.features for v in given):
                self.features.update(node.outputs)
            elif any(v in self.placed for v in given) or self._is_place(node):
                if isinstance(node.op, Composite):
                    # What it computes of places is looked at op by op.
                    body = splice(node, instantiate(node))
                    for value in body.values():
                        if value.node is not None and value.node.graph is self.graph:
                            self.placed.add(value)
                else:
                    self.placed.update(node.outputs)

    def _is_place(self, node: Node) -> bool:
        """Whether a node makes a number for each place of nothing. One for each of all tokens of all rows is no place in a text."""
        if node.op.qualified == "full":
            return isinstance(node.attrs["value"], Dim) and self._is_count(node.attrs["value"])
        makes = has(node, Trait.MAKES) or node.op.qualified == "slice" or node.op.family == "scan"
        return makes and any(self._is_count(d) for v in node.outputs for d in v.type.shape)

    def _is_count(self, dim: Dim) -> bool:
        return (dim - self.tokens).value is not None

    def _find_attentions(self) -> list[Node]:
        """Those among tokens. Raises E0731 where there is none, or one that sees later tokens."""
        found = []
        for node in self.graph.nodes():
            if node.op.qualified != ATTENTION or not self._has_tokens(node.inputs[1], 2):
                continue
            if not self._is_causal(node):
                raise Diagnostic(
                    "E0731", "this attention sees tokens that come later: what a token gives changes with those", node.span,
                    help="`add_cache` is for causal decoders; behind an import, run `raise_composites` first",
                )  # fmt: skip
            found.append(node)
        if not found:
            raise Diagnostic(
                "E0731", f"`add_cache` found no causal `std.attention.attention` over the tokens of `{self.ids.public}`",
                help="behind an import, run `raise_composites` first; `tokens=` names another input",
            )  # fmt: skip
        return found

    def _is_causal(self, node: Node) -> bool:
        """Whether no query sees a later key. A mask that says no more than that is left out."""
        import numpy as np

        mask, bias = node.inputs[3:5]
        causal = bool(node.attrs["causal"])
        seen = self.known.seen(mask, bias)
        if seen is None:
            return causal or Sights(self.graph).of(node).one_way
        if not causal and (seen.shape[0] == 1 or np.triu(seen, 1).any()):
            return False
        plain = seen if bias is None else self.known.seen(mask, None)
        if mask is not None and plain is not None and (plain | ~np.tri(max(plain.shape), dtype=bool)).all():
            hides = not np.triu(plain, 1).any() and plain.shape[0] > 1
            if causal or hides:
                node.set_input(3, None)
                node.attrs["causal"] = True
        return True

    def _has_tokens(self, value: Value | None, axis: int) -> bool:
        return value is not None and value in self.features and value.type.shape[axis] is self.tokens

    def _refuse_mixing(self) -> None:
        """Raises E0732 for what brings tokens together that is no attention: it would need a state of its own."""
        axes = Axes(self.graph)
        root = axes.find(self.ids, 1)

        def axes_of(value: Value) -> list[int]:
            if value not in self.features:
                return []
            return [i for i, d in enumerate(value.type.shape) if d is self.tokens and axes.find(value, i) == root]

        for node in self.graph.nodes():
            if node in self.attentions or not any(axes_of(v) for v in node.inputs if v is not None):
                continue
            kind = along(node, axes_of, axes)
            if kind in (Along.SUM, Along.EXTREME) or (kind is Along.MIXED and node.op.family not in ("shape",)):
                raise Diagnostic(
                    "E0732", f"`{node.op.name}` brings tokens together, and has nothing to go on from when others come later",
                    node.span, help="`add_cache` keeps what attention reads; any other memory is a state that the model declares",
                )  # fmt: skip

    # What both get ---------------------------------------------------------------------------------------------------

    def input(self, name: str, type: TensorType) -> Input:
        return self.graph.add_input(Input(type, unique(name, names_of(self.graph))))

    def finish(self, kept: Iterable[list[Value]]) -> None:
        """Return the states, and leave inputs out that nobody reads any more."""
        for name, fields in zip(self.names, kept, strict=True):
            for field, value in zip(self.storage.fields, fields, strict=True):
                self.graph.add_output(value, f"{name}.{field}", "state")
        self.once.finish()
        self.leave_out()

    def leave_out(self) -> None:
        """Without what nobody reads any more."""
        remove_dead(self.graph)
        self.graph.params = {name: param for name, param in self.graph.params.items() if param.uses}
        gone = {*self.masks, *self.positions, *(v for v in self.once.inputs if not v.uses)}
        self.graph.inputs = [v for v in self.graph.inputs if v not in gone]

    # Prompts ---------------------------------------------------------------------------------------------------------

    def read_prompt(self) -> None:
        """All tokens at once, as the model does; keys and values are kept. Padding behind is seen by nothing that counts."""
        self._fill_told()
        none = self.builder.op("full", shape=(self.batch,), value=0, dtype=i64)
        kept = [
            self.storage.append(node, cache, none, self.lengths)
            for node, cache in zip(self.attentions, self.caches, strict=True)
        ]
        self._take_last()
        self.finish(kept)

    def _fill_told(self) -> None:
        """Masks and positions of a prompt that starts at its first token."""
        place = self.builder.op("unsqueeze", self.builder.op("iota", n=self.tokens), axis=(0,))
        for value in (*self.masks, *self.positions):
            made = place
            if value in self.masks:
                made = self.builder.op("lt", place, self.builder.op("unsqueeze", self.lengths, axis=(1,)))
            else:
                made = self.builder.op("expand", place, shape=value.type.shape)
            if made.type.dtype != value.type.dtype:
                made = self.builder.op("cast", made, dtype=value.type.dtype)
            value.replace_uses(made)

    def _take_last(self) -> None:
        """Let outputs that have tokens be those of each row's last one; what follows tokens one by one is computed for it alone."""
        builder = Builder(self.graph).before(None)
        one = builder.constant(1, i64)
        last = builder.op("maximum", builder.op("sub", self.lengths, one), builder.constant(0, i64))
        values = []
        for value in self.graph.outputs:
            if value in self.features and value.type.rank > 1 and value.type.shape[1] is self.tokens:
                value = Last(self.graph, self.tokens, last, self.features).of(value)
            values.append(value)
        self.graph.set_outputs(values, self.graph.output_info)

    # What follows ----------------------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """New tokens behind those of the cache."""
        b = self.builder
        # Where `append` writes, which leaves room for all of a call.
        length = b.op("minimum", self.caches[0][-1], b.dim_value(self.capacity - self.tokens))
        place = b.op(
            "add", b.op("unsqueeze", length, axis=(1,)), b.op("unsqueeze", b.op("iota", n=self.tokens), axis=(0,))
        )
        slots = b.op("unsqueeze", b.op("iota", n=self.capacity), axis=(0, 1))
        seen = b.op("unsqueeze", b.op("le", slots, b.op("unsqueeze", place, axis=(2,))), axis=(1,))
        places = Places(
            self.graph, self.tokens, self.batch, self.capacity, place, self.masks, self.positions, self.known
        )

        def put(half: Half, node: Node, cache: list[Value]) -> list[Value]:
            return half.storage.append(node, cache, cache[-1], half.lengths)

        self.finish(self.read_behind(seen, places, put))

    def read_behind(
        self, seen: Value, places: Places, write: Callable[[Half, Node, list[Value]], list[Value]]
    ) -> list[list[Value]]:
        """Let tokens at other places read the slots that they see, and write their keys and values into the caches; what
        these hold then."""
        self.once.read_states()
        caches = dict(zip(self.attentions, self.caches, strict=True))
        kept: list[list[Value]] = []
        # In their order: what is made for one is used by those behind it.
        for node in list(self.graph.nodes()):
            if node in caches:
                kept.append(self._attend(node, write(self, node, caches[node]), seen, places))
            elif any(v in self.features for v in node.outputs):
                self._place_operands(node, places)
        for value in self.graph.outputs:
            if value in self.placed:
                span = None if value.node is None else value.node.span
                raise Diagnostic("E0731", "an output tells places, and nothing of the tokens there", span)
        return kept

    def _attend(self, node: Node, kept: list[Value], seen: Value, places: Places) -> list[Value]:
        """Let an attention read a cache that has its own keys and values."""
        self.storage.read(node, kept)
        node.attrs["causal"] = False
        for i in _PAIRS:
            value = node.inputs[i]
            if value is None:
                continue
            if value in self.features:
                raise _stuck(node, value, "it is computed from the tokens themselves")
            counts = [axis for axis in (2, 3) if value.type.shape[axis] is self.tokens]
            roles = {axis: Where.NEW if axis == 2 else Where.SLOT for axis in counts}
            node.set_input(i, self._fitted(value, roles, node, places))
        mask = node.inputs[3]
        node.set_input(3, seen if mask is None else Builder(self.graph).before(node).op("logical_and", mask, seen))
        return kept

    def _place_operands(self, node: Node, places: Places) -> None:
        """Give a node what belongs to places at those of the new tokens."""
        rank = max(v.type.rank for v in node.outputs)
        for i, value in enumerate(node.inputs):
            if value is None or value not in self.placed:
                continue
            try:
                roles = places.roles(value, Where.NEW)
            except Stuck as error:
                raise _stuck(node, value, str(error)) from None
            if len(roles) > 1:
                raise _stuck(node, value, "it compares places")
            own = rank if node.op.family in ("elementwise", "gradient") else value.type.rank
            node.set_input(i, self._fitted(value, roles, node, places, own))

    def _fitted(
        self, value: Value, roles: dict[int, Where], node: Node, places: Places, rank: int | None = None
    ) -> Value:
        try:
            return places.fitted(value, roles, node, value.type.rank if rank is None else rank)
        except Stuck as error:
            raise _stuck(node, value, str(error), error.node) from None


def _stuck(node: Node, value: Value, why: str, where: Node | None = None) -> Diagnostic:
    """What says that ``node`` reads something that cannot be told for tokens that come later."""
    notes = [Note("it is made here", where.span)] if where is not None and where.span is not None else []
    return Diagnostic(
        "E0732",
        f"an operand of `{node.op.name}`, {value.type}, cannot be made for tokens that come later: {why}",
        node.span,
        notes,
    )
