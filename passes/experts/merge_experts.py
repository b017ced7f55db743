"""Experts that are alike, made one."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic
from ...ir.graph import Module
from ...ir.library import composite
from ...ir.recipe import Recipe, apply
from ..options import option
from ..report import Report
from ..weights.remake import follow, resized
from .mixtures import ExpertsPass, Mixture, routes_at
from .scores import best, read_scores, scores_of, similarity_of

RENUMBERED = "std.moe.route.renumbered"


@dataclass(frozen=True)
class MergeExperts(ExpertsPass):
    """Makes one expert of several that are alike, the mean of their weights; the router stays as it is, and what it sends to any of
    them goes to the one (Li et al. 2024, "Merge, Then Compress").

    With `scores`, the `keep` experts of the highest load each take in those that are most like them, and count by their load;
    without, runs of neighbours are merged. Experts that are equal compute the same when they are merged.

    before: `gated(x, routes, gate_up, down)                                    # gate_up: f32[8, D, 2 F]`
    after:  `gated(x, renumbered(routes, table=[0, 0, 1, 1, …]), gate_up, down)   # gate_up: f32[4, D, 2 F]`
    """

    name = "merge_experts"
    contract = "approximate"

    keep: int | None = option(None, "how many experts of each mixture are left", least=1)
    scores: str | None = option(
        None, "the JSON file of what was measured: `load`, and `similarity` of each pair of experts"
    )

    def run(self, module: Module) -> Report:
        if self.keep is None:
            raise Diagnostic(
                "E0705", "merge_experts is not told how many experts are left", help="write `merge_experts(keep=4)`"
            )
        data = read_scores(self.scores, module) if self.scores is not None else None
        mixtures = self.mixtures(module)
        groups = {mixture.name: self._groups(mixture, data) for mixture in mixtures}
        changed = [mixture for mixture in mixtures if self.keep < mixture.experts]
        for mixture in changed:
            _merge(module, mixture, groups[mixture.name])
        report = Report.of(self, len(changed))
        report.facts["groups"] = {m.name: [[e for e, _ in group] for group in groups[m.name]] for m in changed}
        if not changed:
            report.contract = "exact"
        return report

    def _groups(self, mixture: Mixture, data: dict[str, object] | None) -> list[list[tuple[int, float]]]:
        """Which experts become one, and how much each counts."""
        assert self.keep is not None
        count = mixture.experts
        if self.keep > count:
            raise Diagnostic(
                "E0704", f"`keep` of the pass `{self.name}` is {self.keep}, but `{mixture.name}` has {count} experts"
            )
        if data is None:
            if count % self.keep:
                raise Diagnostic(
                    "E0704", f"`keep` of the pass `{self.name}` is {self.keep}, but runs of one size are merged, and "
                    f"`{mixture.name}` has {count} experts",
                    help="choose a divisor, or name a file of what was measured, `scores`",
                )  # fmt: skip
            size = count // self.keep
            return [[(g * size + i, 1 / size) for i in range(size)] for g in range(self.keep)]
        assert self.scores is not None
        load = scores_of(data, mixture, "load", self.scores)
        alike = similarity_of(data, mixture, self.scores)
        leaders = best(load, self.keep)
        groups: dict[int, list[int]] = {leader: [leader] for leader in leaders}
        for e in range(count):
            if e not in groups:
                groups[max(leaders, key=lambda leader: (alike[e][leader], -leader))].append(e)
        return [[(e, _share(load, e, group)) for e in sorted(group)] for group in groups.values()]


def _share(load: list[float], e: int, group: list[int]) -> float:
    total = sum(load[i] for i in group)
    return load[e] / total if total > 0 else 1 / len(group)


def _merge(module: Module, mixture: Mixture, groups: list[list[tuple[int, float]]]) -> None:
    table = [0] * mixture.experts
    for number, group in enumerate(groups):
        for e, _ in group:
            table[e] = number
    made = []
    for param in mixture.stacked.values():
        whole = module.recipe(param.full_name)
        made.append(
            resized(module, param, apply("stack", *(_mean(whole, group) for group in groups), axis=0), len(groups))
        )
    node, at = mixture.node, routes_at(mixture.node)
    assert at is not None
    builder = Builder(module.graph).before(node)
    routes = builder.multi(composite(RENUMBERED), *node.inputs[at : at + 2], table=table)
    for i, value in enumerate(routes):
        node.set_input(at + i, value)
    follow(made)


def _mean(whole: Recipe, group: list[tuple[int, float]]) -> Recipe:
    if len(group) == 1:
        return apply("select", whole, index=group[0][0], axis=0)
    parts: list[Recipe] = [apply("scale", apply("select", whole, index=e, axis=0), by=share) for e, share in group]
    total = parts[0]
    for part in parts[1:]:
        total = apply("add", total, part)
    return total
