"""Recovering composites from the primitives that exporters write: attention, norms, activations, affine maps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ...ir.diagnostics import Diagnostic, Note, Span
from ...ir.graph import Graph, Module
from ...ir.inlining import inline_composites
from ...ir.library import RAISING, rules_of
from ...ir.pattern import Rule
from ..engine import Pass
from ..options import option
from ..report import Report
from ..rewrite.matcher import Why, why
from ..rewrite.replacing import rewrite
from ..tidy.cse import merge_equal
from ..tidy.dce import remove_dead
from ..tidy.fold_constants import fold_graph
from .casts import cast_late
from .closed import close_split
from .einsums import order_einsums, order_products
from .experts import raise_experts
from .folded import split_heads
from .layout import name_axes
from .masks import leaves_scores, raise_masks
from .opened import open_joined
from .report import RAISED, Leftover, leftovers
from .rows import rejoin_rows
from .shared import split_shared
from .streams import batch_first

# Constants of more elements are not worth folding: the numbers that patterns hold are scalars.
_FOLD = 64
# What folding and the merging of equal nodes changed, among the counts of the rules.
TIDIED = "tidied"
# Rules that add a very low number to scores that it took the place of.
_ADDED = ("scores_masked_by_lowest", "scores_biased_masked_by_lowest")


@dataclass(frozen=True)
class RaiseComposites(Pass):
    """Recovers attention, norms, activations and affine maps from the primitives that exporters write.

    before: `y = softmax(q @ transpose(k, perm=[0, 1, 3, 2]) * 0.125) @ v`    after: `y = attention(q, k, v)`
    """

    name = "raise_composites"
    aliases = ("raise",)
    contract = "exact"

    padding: bool = option(
        False, "let a mask of the lowest number hide keys altogether: a query without any key gives 0, not the mean"
    )
    layout: bool = option(True, "also write reshapes as `rearrange`, which names heads and tokens")

    def run(self, module: Module) -> Report:
        graph = module.graph
        before = _composites(graph)
        skipped: list[str] = []
        fired = recover(graph, self.padding, skipped=skipped)
        fired["experts"] = raise_experts(module)
        # Told while the steps are there: `scores` says more than the product and the sums that it becomes again.
        left = leftovers(graph)
        inline_composites(graph, lambda node: node.op.qualified.rpartition(".")[0] in RAISING)
        fired[TIDIED] += _tidy(graph)
        if self.layout:
            fired["rows_rejoined"] = rejoin_rows(graph)
            fired["rearrange_named"] = name_axes(graph, skipped)
            fired["heads_split"] = split_heads(graph)
            fired["joined_opened"] = open_joined(graph)
            if fired["joined_opened"]:
                merge_equal(graph)
            remove_dead(graph)
            fired["batch_first"] = _in_one_layout(module, skipped)
            graph = module.graph
            fired["split_closed"] = close_split(graph)
            remove_dead(graph)
        after = _composites(graph)
        if not after:
            raise _nothing(left)
        report = Report.of(self, sum(fired.values()))
        report.facts["composites"] = dict(after)
        report.facts["recognised"] = {name: n - before[name] for name, n in after.items() if n > before[name]}
        report.facts["left"] = dict(Counter(item.what for item in left))
        report.facts["rules"] = {name: n for name, n in fired.items() if n}
        report.notes = [str(item) for item in left] + list(dict.fromkeys(skipped))
        if fired["mask_from_lowest"]:
            report.contract = "approximate"
            report.notes.append(
                f"{fired['mask_from_lowest']} mask(s) of the lowest number hide keys altogether: a query that may attend to "
                "nothing, as in a row of padding, gives 0, where it gave the mean of all values"
            )
        added = sum(n for name, n in fired.items() if name in _ADDED)
        if rounded := min(added, leaves_scores(graph)):
            report.contract = "approximate"
            report.notes.append(
                f"{rounded} mask(s) put a number in the place of scores, to which they are added now: of a query that may attend "
                "to nothing, scores beyond those that the number swallows (±32 with -1e9) change the result"
            )
        return report


def recover(
    graph: Graph,
    padding: bool,
    places: dict[str, list[Span | None]] | None = None,
    skipped: list[str] | None = None,
) -> Counter[str]:
    """Apply the rules in place; how often each fired. Steps such as `scores` are still there.

    ``padding``: whether a mask of the lowest number is one where some query may see no key. ``skipped``: is given what did not fit;
    what a model is recovered from stays a program in any case.
    """
    fired: Counter[str] = Counter({TIDIED: _tidy(graph), "cast_late": cast_late(graph)})
    # Before a rule takes values and weights for queries and keys.
    fired["order_einsums"] = order_einsums(graph)
    skipped = [] if skipped is None else skipped
    while True:
        rules: list[Rule] = []
        for unit in RAISING:
            # Scores take in all that they can before a softmax of them becomes attention.
            rules += rules_of(unit).values()
            try:
                fired.update(rewrite(graph, rules, 20 * len(graph) + 1000, places, skipped))
            except Diagnostic as error:
                skipped.append(f"recovering stopped: {error.message}")
                return fired
        masks = raise_masks(graph, padding, skipped)
        fired.update(masks)
        ordered = order_einsums(graph) + order_products(graph)
        fired["order_einsums"] += ordered
        if not sum(masks.values()) and not ordered and not split_shared(graph):
            return fired


def explain(module: Module, rule: Rule) -> Why:
    """Where a rule matches, or what comes closest. A rule of this pass works on what the others left: they are applied first."""
    if not any(rule is own for unit in RAISING for own in rules_of(unit).values()):
        return why(module.graph, rule)
    copy = module.clone()
    places: dict[str, list[Span | None]] = {}
    recover(copy.graph, False, places)
    if places.get(rule.name):
        return Why(rule.name, tuple(places[rule.name]), None)
    return why(copy.graph, rule)


def _in_one_layout(module: Module, skipped: list[str]) -> int:
    """Bring streams with tokens in front to [B, T, D], or leave the module as it is."""
    trial = module.clone()
    try:
        count = batch_first(trial.graph)
    except Diagnostic as error:
        skipped.append(f"tokens were left in front of the batch: {error.message}")
        return 0
    if count:
        module.graph = trial.graph
    return count


def _tidy(graph: Graph) -> int:
    """Equal nodes become one and constants numbers: what a rule names twice has to be one value. How many nodes changed."""
    changed = remove_dead(graph)
    changed += sum(fold_graph(graph, _FOLD)) + merge_equal(graph)
    return changed + remove_dead(graph)


def _composites(graph: Graph) -> Counter[str]:
    return Counter(node.op.name for node in graph.nodes() if node.op.qualified in RAISED)


def _nothing(left: list[Leftover]) -> Diagnostic:
    notes = [Note(item.reason, item.span) for item in left[:1]]
    return Diagnostic(
        "E0715",
        "raise_composites found no attention, norm, activation or affine map in this model: it looks for "
        "`softmax(q @ transpose(k)) @ v` with a scale, masks and biases, for `x * rsqrt(mean(x * x) + eps)`, for `erf`, "
        "`tanh` and `sigmoid` times their argument, and for `x @ weight + bias`",
        notes=notes,
        help=None if notes else "the model has no `softmax`, `exp`, `sqrt` or `erf` that could belong to one",
    )
