"""Which blocks a pass reduces tokens in: those that are asked for, as far as what they see lets the method do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...ir.analysis.sight import Sight, Sights
from ...ir.diagnostics import Diagnostic
from ...ir.graph import Graph
from .method import Method
from .places import AttentionBlock

if TYPE_CHECKING:
    from .reduce import ReduceTokens


@dataclass(frozen=True)
class Choice:
    """The blocks that are chosen.

    Args:
        causal: those of them that hide later tokens from earlier ones, or may do so.
        method: the method, settled for their tokens.
        notes: what the report says of those that were left out.
    """

    chosen: list[AttentionBlock]
    causal: list[AttentionBlock]
    method: Method
    notes: list[str]


def choose(options: ReduceTokens, method: Method, graph: Graph, found: list[AttentionBlock]) -> Choice:
    """Among the blocks that were ``found``. Raises E0708 for causal ones in which tokens cannot merge, E0704, E0705."""
    chosen = [found[i] for i in options.chosen(len(found))]
    named = options.blocks is not None or options.begin is not None
    known = Sights(graph)
    sights = {block: known.of(block.attention) for block in chosen}
    causal = [b for b, sight in sights.items() if sight.one_way]
    if chosen:
        method = options.settled(method, chosen[0].stream.type.shape[1])
    facts = method.limits(0, 0).facts
    if options.where == "keys":
        return Choice(chosen, [b for b, sight in sights.items() if sight.one_way or sight.unknown is not None], method, [])
    if facts.ordered and not facts.merged:
        return Choice(chosen, causal, method, [])
    kept = [b for b, sight in sights.items() if not sight.one_way and (named or sight.unknown is None)]
    left = [b for b in chosen if b not in kept]
    if left and (named or not kept):
        raise _causal(left[0], sights[left[0]])
    notes = []
    for told in ("attend causally", "may attend causally"):
        numbers = [str(b.index) for b in left if (b in causal) == (told == "attend causally")]
        if numbers:
            notes.append(f"block(s) {', '.join(numbers)} {told}: the pass {options.verbs[0]} none")
    notes += dict.fromkeys(
        f"the input `{name}` is taken for a bias of distances: where it hides later tokens, early ones see them now"
        for name in (sights[block].given for block in kept)
        if name is not None
    )
    return Choice(kept, [], method, notes)


def _causal(block: AttentionBlock, sight: Sight) -> Diagnostic:
    span = block.attention.span
    if sight.unknown is None:
        return Diagnostic(
            "E0708",
            f"block {block.index} attends causally: merging its tokens would let early places see later ones",
            span,
            help="merge in blocks that see all tokens, chosen with `blocks=[…]`, or use `prune_tokens` and a method that merges "
            "none; keys and values alone may merge, `place=keys`",
        )
    return Diagnostic(
        "E0708",
        f"whether block {block.index} attends causally cannot be told: {sight.unknown}",
        span,
        help=f"where every token sees those behind it, name the blocks, `blocks=[{block.index}]`; else use `prune_tokens`",
    )
