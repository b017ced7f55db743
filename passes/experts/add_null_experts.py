"""Null experts (Zeng et al. 2024, "AdaMoE"): a token that takes some computes less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic
from ...ir.graph import Initializer, Module, Parameter
from ...ir.library import composite
from ...ir.recipe import Fill, Recipe, apply
from ..options import option
from ..report import Report
from ..weights.remake import follow, resized
from .mixtures import OTHER_ROUTER, TOKEN_CHOICE, ExpertsPass, Mixture, emitted, routes_at

NULLS = "std.moe.route.without_null"


@dataclass(frozen=True)
class AddNullExperts(ExpertsPass):
    """Adds experts that compute nothing, so that a token may take fewer true ones (Zeng et al. 2024, "AdaMoE").

    The router scores them beside the others; pairs with them are left out, and the weights of the true ones that are left
    add up to 1 where they did. `m=0` with the `k` there was is the model as it was, bit by bit.

    before: `routes = token_choice(logits, k=2)`
    after:  `routes = without_null(token_choice(logits, k=4, renormalize=false), experts=8)`
    """

    name = "add_null_experts"
    contract = "approximate"

    m: int | None = option(None, "how many null experts; 0 is the model as it is", least=0)
    k: int | None = option(
        None, "how many experts, null ones among them, a token takes now; as before when none", least=1
    )
    rows: Literal["repeat", "zeros"] = option(
        "repeat", "the router's rows for them: those of the true experts over and over, as published, or zeros"
    )
    renormalize: bool | None = option(
        None, "whether the weights of the true experts that are left add up to 1; when none, as those of the router did"
    )

    def run(self, module: Module) -> Report:
        if self.m is None:
            raise Diagnostic(
                "E0705", "add_null_experts is not told how many null experts there are to be",
                help="write `add_null_experts(m=8, k=4)`",
            )  # fmt: skip
        mixtures = self.mixtures(module)
        for mixture in mixtures:
            self._check(mixture)
        changed = [mixture for mixture in mixtures if self.m or self.k not in (None, mixture.k)]
        for mixture in changed:
            self._extend(module, mixture, self.m)
        report = Report.of(self, len(changed))
        report.facts["mixtures"] = [mixture.name for mixture in changed]
        if not changed:
            report.contract = "exact"
        return report

    def _check(self, mixture: Mixture) -> None:
        assert self.m is not None
        name, most = mixture.name, mixture.width + self.m
        other = mixture.router.op.qualified != TOKEN_CHOICE
        if other or len(mixture.chain) > 1:
            what = mixture.router if other else mixture.chain[-1]
            way = OTHER_ROUTER if other else "add them once, and before experts are merged"
            raise Diagnostic(
                "E0721", f"null experts go beside a `token_choice` that the experts read, but `{name}` has "
                f"`{what.op.name}`", what.span,
                help=f"{way}; or leave this one out with `layers=[…]`",
            )  # fmt: skip
        if mixture.router.attrs["limit"] < mixture.router.attrs["groups"]:
            raise Diagnostic(
                "E0721", f"the router of `{name}` chooses among groups of experts, and null experts lie in none",
                mixture.router.span, help="choose without groups first: `swap_router(groups=1)`",
            )  # fmt: skip
        if self.k is not None and self.k > most:
            raise Diagnostic(
                "E0704", f"`k` of the pass `{self.name}` is {self.k}, but `{name}` has {mixture.experts} experts and "
                f"{self.m} null ones", help=f"a token takes at most {most}",
            )  # fmt: skip

    def _extend(self, module: Module, mixture: Mixture, count: int) -> None:
        router, experts = mixture.router, mixture.experts
        if count:
            follow(
                [resized(module, p, self._recipe(module, p, experts, count), experts + count) for p in mixture.rows()]
            )
        builder = Builder(module.graph).before(router.next)
        builder.span, builder.scope = router.span, router.scope
        shares = _adds_up(mixture)
        attrs = {**router.attrs, "k": self.k or mixture.k, "groups": 1, "limit": 1}
        left = {"experts": experts, "renormalize": shares if self.renormalize is None else self.renormalize}
        if count:
            attrs["renormalize"] = False
            if left["renormalize"]:
                # What the weights add up to.
                left["scale"], attrs["scale"] = attrs["scale"], 1.0
        chosen = emitted(builder, router, router.op, router.inputs, attrs)
        routes = builder.multi(composite(NULLS), *chosen.outputs, **left) if count else chosen.outputs
        at = routes_at(mixture.node)
        assert at is not None
        for i, value in enumerate(routes):
            mixture.node.set_input(at + i, value)
        for old, new in zip(router.outputs, chosen.outputs, strict=True):
            # Losses see the null experts.
            old.replace_uses(new)
        module.graph.remove(router)
        follow(chosen.outputs)

    def _recipe(self, module: Module, param: Parameter, experts: int, count: int) -> Recipe:
        """The rows of a router's weight with those of `count` null experts behind them."""
        whole = module.recipe(param.full_name)
        if self.rows == "zeros":
            rest = tuple(int(d) for d in param.type.shape[1:])
            return apply("concat", whole, Fill(Initializer("zeros"), (count, *rest), param.type.dtype), axis=0)
        times, left = divmod(count, experts)
        parts = [whole] * times + ([apply("slice", whole, axis=0, start=0, stop=left)] if left else [])
        return apply("concat", whole, *parts, axis=0)


def _adds_up(mixture: Mixture) -> bool:
    """Whether the weights that a router gives a token add up to 1."""
    attrs = mixture.router.attrs
    return bool(attrs["renormalize"]) if attrs["score"] not in ("chosen", "one") else attrs["score"] == "chosen"
