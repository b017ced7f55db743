"""The entry point that is given keys and values and returns them: what onnxruntime-genai and optimum call a decoder with past."""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import Dim, sym
from ...ir.graph import Graph, Input, Module, Node, Output, Value
from ...ir.library import composite
from ...ir.naming import unique
from ...ir.types import TensorType, i64
from .add_cache import Half
from .given import names_of, token_input
from .places import Places

PAST = "past"
IDS, MASK, POSITIONS, SCORES = "input_ids", "attention_mask", "position_ids", "logits"
# Keys and values of attention number %d.
GIVEN = ("past_key_values.%d.key", "past_key_values.%d.value")
RETURNED = ("present.%d.key", "present.%d.value")


def add_past(module: Module, model: Graph, named: str | None, capacity: Dim, *, grown: bool) -> None:
    """Give a program the entry point; ``model`` is given all tokens at once."""
    module.functions[PAST] = read_past(model.clone(), named, capacity, grown=grown)
    module.docs[PAST] = f"{module.doc}\n\nReads what follows, behind keys and values that it is given.".strip()


def read_past(graph: Graph, named: str | None, capacity: Dim, *, grown: bool) -> Graph:
    """Tokens [B, T] at positions [B, T] behind the keys and values of an attention each, [B, G, P, K], which are returned with
    theirs; a mask [B, S] says which of all S tokens, the new ones last, are no padding.

    Args:
        grown: whether what is returned is [B, G, P + T, K], where S = P + T; else it is of the size that is given, P >= S, and the
            new ones are written at S - T on.

    Raises:
        Diagnostic: E0731, E0732 as `add_cache`; E0731 where it is not clear which output holds the scores.
    """
    tokens = token_input(graph, named).type.shape[1]
    taken = names_of(graph)
    past = sym(unique("P", taken, joint=""))
    slots = past + tokens if grown else capacity
    half = Half(graph, named, slots)
    if half.once.inputs:
        raise Diagnostic(
            "E0731", f"`{half.once.inputs[0].public}` is given beside the tokens, which an entry point without states would need "
            "at every step", help="without `past=`, `prefill` takes it, and `decode` reads what is kept of it",
        )  # fmt: skip
    b, batch = half.builder, half.batch
    length = slots if grown else sym(unique("S", taken, joint=""))
    _call(half.ids, IDS)
    mask = _given(half, MASK, (batch, length))
    positions = _given(half, POSITIONS, (batch, tokens))
    half.caches = [
        [_cached(half, node, i, past if grown else slots, index) for i in (0, 1)]
        for index, node in enumerate(half.attentions)
    ]
    real = b.op("ne", mask, b.constant(0, i64))
    if not grown:
        # What lies behind the last token is seen by nobody, whatever stands there.
        slot = b.op("minimum", b.op("iota", n=slots), b.dim_value(length - 1))
        real = b.op("take", real, slot, axis=1, batch=0)
    start = b.dim_value(length - tokens)
    own = b.op("add", b.op("unsqueeze", b.op("iota", n=tokens), axis=(1,)), start)
    behind = b.op("le", b.op("unsqueeze", b.op("iota", n=slots), axis=(0,)), own)
    seen = b.op("logical_and", b.op("unsqueeze", behind, axis=(0, 1)), b.op("unsqueeze", real, axis=(1, 2)))
    counted = b.op("sub", b.op("cumsum", b.op("cast", real, dtype=i64), axis=1), b.constant(1, i64))
    stands = b.op("maximum", counted, b.constant(0, i64))
    places = Places(graph, tokens, batch, slots, positions, half.masks, half.positions, half.known, stands)

    def written(half: Half, node: Node, cache: list[Value]) -> list[Value]:
        at = Builder(graph).before(node)
        if grown:
            return [at.op("concat", cache[i], node.inputs[1 + i], axis=2) for i in (0, 1)]
        first = at.op("expand", start, shape=(batch,))
        return [at.op(composite("std.cache.write_rows"), cache[i], first, node.inputs[1 + i]) for i in (0, 1)]

    kept = half.read_behind(seen, places, written)
    scores = _scores(graph)
    graph.set_outputs([scores], [Output(SCORES)])
    for index, values in enumerate(kept):
        for value, called in zip(values, RETURNED, strict=True):
            graph.add_output(value, _plain(called % index), outside=called % index)
    half.leave_out()
    return graph


def _given(half: Half, called: str, shape: tuple[Dim, Dim]) -> Input:
    made = half.input(called, TensorType(i64, shape))
    return _call(made, called)


def _cached(half: Half, node: Node, which: int, slots: Dim, index: int) -> Input:
    """The keys (0) or the values (1) that an attention is given."""
    new = node.inputs[1 + which]
    assert new is not None
    batch, heads, _, size = new.type.shape
    made = half.input(_plain(GIVEN[which] % index), TensorType(new.type.dtype, (batch, heads, slots, size)))
    return _call(made, GIVEN[which] % index)


def _call(made: Input, called: str) -> Input:
    """An input under that name for callers and files."""
    made.outside = None if made.name == called else called
    return made


def _plain(called: str) -> str:
    """As a name in source."""
    return called.replace(".", "_")


def _scores(graph: Graph) -> Value:
    """The output [B, T, V]. Raises E0731 where there are several, or none."""
    told = list(zip(graph.outputs, graph.output_info, strict=True))
    found = [value for value, info in told if info.role == "output" and value.type.rank == 3]
    named = [value for value, info in told if info.public == SCORES and value in found]
    if len(named or found) != 1:
        shown = ", ".join(f"`{info.public}: {value.type}`" for value, info in told)
        raise Diagnostic(
            "E0731", f"which output holds the scores [B, T, V] is not clear: {shown}",
            help="an output that is called `logits` is taken; without `past=` the outputs may be any",
        )  # fmt: skip
    return (named or found)[0]
