"""Experts that are hardly used, left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...ir.diagnostics import Diagnostic
from ...ir.graph import Module
from ..options import option
from ..report import Report
from ..weights.remake import follow, resized, rows_of
from .mixtures import OTHER_ROUTER, TOKEN_CHOICE, ExpertsPass, Mixture
from .scores import best, read_scores, scores_of


@dataclass(frozen=True)
class PruneExperts(ExpertsPass):
    """Leaves experts out, those that were taken least often or added least on calibration data, and their rows of the router.

    `scores` is a file of what was measured, a mixture by its name: `{"layers.0.mlp": {"load": [12, 3, …], "saliency": […]}}`. An
    expert's load is how many pairs it had, its saliency the mean length of what it added, weight and all (Lasby et al. 2025).

    before: `gate: f32[8, D]   experts.gate_up: f32[8, D, 2 F]`
    after:  `gate: f32[6, D]   experts.gate_up: f32[6, D, 2 F]   with "gate" = concat("gate"[0:2], "gate"[4:8])`
    """

    name = "prune_experts"
    contract = "approximate"

    keep: int | None = option(None, "how many experts of each mixture stay", least=1)
    scores: str | None = option(None, "the JSON file of what was measured: the lowest go")
    by: Literal["load", "saliency"] = option("load", "which of the file's numbers: `load` or `saliency`")
    drop: tuple[int, ...] | None = option(
        None, "instead of `keep` and `scores`: the numbers of the experts that go", least=0
    )

    def run(self, module: Module) -> Report:
        measured = self.keep is not None and self.scores is not None
        if measured == (self.drop is not None) or (self.drop is not None and (self.keep, self.scores) != (None, None)):
            raise Diagnostic(
                "E0705", "prune_experts needs either `keep` and `scores`, or `drop`",
                help='write `prune_experts(keep=6, scores="loads.json")` or `prune_experts(drop=[2, 3])`',
            )  # fmt: skip
        data = read_scores(self.scores, module) if self.scores is not None else {}
        mixtures = self.mixtures(module)
        kept = {mixture.name: self._kept(mixture, data) for mixture in mixtures}
        changed = [mixture for mixture in mixtures if len(kept[mixture.name]) < mixture.experts]
        for mixture in changed:
            _shrink(module, mixture, kept[mixture.name])
        report = Report.of(self, len(changed))
        report.facts["kept"] = {mixture.name: kept[mixture.name] for mixture in changed}
        if not changed:
            report.contract = "exact"
        return report

    def _kept(self, mixture: Mixture, data: dict[str, object]) -> list[int]:
        """The numbers of the experts that stay, as many in each group that the router chooses among."""
        count, name = mixture.experts, mixture.name
        other = mixture.router.op.qualified != TOKEN_CHOICE
        what = mixture.router if other else next((node for node in mixture.chain if node.op.name == "renumbered"), None)
        if what is not None:
            way = OTHER_ROUTER if other else "prune before experts are merged"
            raise Diagnostic(
                "E0721", f"experts leave beside a `token_choice` of their own numbers, but `{name}` has "
                f"`{what.op.name}`", what.span,
                help=f"{way}; or leave this one out with `layers=[…]`",
            )  # fmt: skip
        if self.drop is not None:
            outside = next((e for e in self.drop if e >= count), None)
            if outside is not None:
                raise Diagnostic(
                    "E0704", f"`drop` of the pass `{self.name}` names expert {outside}, but `{name}` has {count}"
                )
            kept = [e for e in range(count) if e not in self.drop]
        else:
            assert self.keep is not None
            assert self.scores is not None
            if self.keep > count:
                raise Diagnostic(
                    "E0704", f"`keep` of the pass `{self.name}` is {self.keep}, but `{name}` has {count} experts"
                )
            numbers = scores_of(data, mixture, self.by, self.scores)
            kept = self._best_of_groups(mixture, numbers)
        if not kept:
            raise Diagnostic("E0704", f"`drop` of the pass `{self.name}` leaves no expert of `{name}`")
        groups = _groups(mixture)
        sizes = {sum(e // (count // groups) == g for e in kept) for g in range(groups)}
        if len(sizes) > 1:
            raise Diagnostic(
                "E0721", f"the router of `{name}` chooses among {groups} groups of experts, which must be of one size",
                mixture.router.span, help=f"let as many leave each group; `keep` is a multiple of {groups}",
            )  # fmt: skip
        return kept

    def _best_of_groups(self, mixture: Mixture, numbers: list[float]) -> list[int]:
        assert self.keep is not None
        groups = _groups(mixture)
        size, each = mixture.experts // groups, self.keep // groups
        if self.keep % groups:
            return best(numbers, self.keep)
        return [g * size + i for g in range(groups) for i in best(numbers[g * size : (g + 1) * size], each)]


def _groups(mixture: Mixture) -> int:
    """How many groups the router chooses among; 1 when it takes experts of all."""
    attrs = mixture.router.attrs
    return int(attrs["groups"]) if attrs["limit"] < attrs["groups"] else 1


def _shrink(module: Module, mixture: Mixture, kept: list[int]) -> None:
    experts, width, router = mixture.experts, mixture.width, mixture.router
    # Null experts stay behind the true ones.
    rows = [*kept, *range(experts, width)]
    made = [resized(module, p, rows_of(module.recipe(p.full_name), rows), len(rows)) for p in mixture.rows()]
    made += [resized(module, p, rows_of(module.recipe(p.full_name), kept), len(kept)) for p in mixture.stacked.values()]
    groups = _groups(mixture)
    attrs = {"k": min(mixture.k, len(rows)), "groups": groups, "limit": router.attrs["limit"] if groups > 1 else 1}
    attrs["best"] = min(router.attrs["best"], len(rows) // groups)
    router.attrs = {**router.attrs, **attrs}
    for node in mixture.chain[1:]:
        if node.op.name == "without_null":
            node.attrs = {**node.attrs, "experts": len(kept)}
    follow(made)
