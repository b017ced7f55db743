"""Local rules, written as ``rewrite`` declarations in Tessera source."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.diagnostics import Diagnostic
from ...ir.graph import Module
from ...ir.library import rule
from ...ir.pattern import Rule
from ...ir.recipe import Recipe, Take
from ..engine import Pass
from ..options import option
from ..report import Report
from .replacing import rewrite


@dataclass(frozen=True)
class Rewrite(Pass):
    """Applies ``rewrite`` rules until none fires.

    before: `y = neg(neg(x))`    after, with `neg(neg(x)) => x`: `y = x`
    """

    name = "rewrite"
    contract = "exact"

    rules: tuple[str | Rule, ...] = option((), "rules by name: of the model's file, or qualified (`std.rules.name`)")
    approximate: bool = option(False, "also apply rules that are declared approximate")

    def run(self, module: Module) -> Report:
        rules = [r if isinstance(r, Rule) else rule(r, module) for r in self.rules]
        for r in rules:
            if r.contract != "exact" and not self.approximate:
                raise Diagnostic(
                    "E0705",
                    f"the rule `{r.name}` is declared {r.contract}",
                    r.span,
                    help="say that this is wanted: `rewrite(rules=[…], approximate=true)`",
                )
        # A rule that shrinks the program, or moves something once through it, stays far below this.
        recipes: dict[str, Recipe] = {}
        fired = rewrite(module.graph, rules, limit=10 * len(module.graph) + 1000, recipes=recipes)
        if recipes:
            # Recipes of the parameters before, which may go now, over the checkpoint: those that an earlier match brought as well.
            for name, recipe in recipes.items():
                sources: dict[Recipe, Recipe] = {Take(read): module.recipe(read) for read in recipe.names()}
                module.recipes[name] = recipe.replaced(sources)
            for name in [name for name, param in module.graph.params.items() if not param.uses]:
                del module.graph.params[name]
                module.recipes.pop(name, None)
        report = Report.of(self, sum(fired.values()), rules=fired)
        if any(r.contract != "exact" and fired[r.name] for r in rules):
            report.contract = "approximate"
        return report
