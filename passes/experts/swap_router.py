"""Another router in the place of a mixture's own, over the same scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...ir.builder import Builder
from ...ir.compiling import PassSpec
from ...ir.diagnostics import Diagnostic, did_you_mean
from ...ir.graph import Module, Node, Value
from ...ir.library import composite, ops_of, written
from ...ir.notation import show_signature, show_value
from ...ir.op import Composite
from ...ir.signature import REQUIRED, Pattern
from ..options import Option, check_further, option
from ..report import Report
from ..tidy.dce import remove_dead
from ..tokens.method import further_options, statics_of
from ..weights.remake import follow
from .mixtures import AFFINE, ExpertsPass, Mixture, emitted, is_routes

STD = "std.moe"
# What an operand of a router is, by its name: the logits, the tokens that they were made of, the rows of the gate.
WANTS = {
    "logits": "logits",
    "scores": "logits",
    "x": "tokens",
    "tokens": "tokens",
    "prototypes": "gate",
    "centroids": "gate",
}


@dataclass(frozen=True)
class SwapRouter(ExpertsPass):
    """Lets another router choose among the experts of a mixture, or the same one with other options.

    A router is an op `op m(logits: float[N, E], *, k: int, <options>) -> Routes[N, k]`, of std.moe or of your own; its static
    parameters are options of the pass. Those that are not given are as the router had them, where it is the same op.

    before: `routes = token_choice(logits, k=2)`
    after:  `routes = token_choice(logits, k=2, score="sigmoid", scale=2.5)`
    """

    name = "swap_router"
    contract = "approximate"

    method: str = option("token_choice", "the router: an op of std.moe, or one of your own, `mine.tess:name`")
    k: int | None = option(None, "how many experts a token takes; as before when none", least=1)
    further: tuple[tuple[str, Any], ...] = option((), "", hidden=True)

    @classmethod
    def further_options(cls, spec: PassSpec) -> dict[str, Option] | None:
        """Those of the router; None for one whose file is only known beside a module."""
        method = spec.options.get("method", cls.method)
        return None if not isinstance(method, str) or ":" in method else further_options(find_router(method, None))

    @classmethod
    def method_help(cls, method: str | None) -> str:
        """All routers by the first line of their text, or one with its signature and what it adds to the options."""
        if method is not None:
            op = find_router(method, None)
            options = [f"  {o.name}: {o.kind} = {show_value(o.default)}" for o in further_options(op).values()]
            return "\n\n".join([show_signature(op.signature), op.doc, "its options\n" + "\n".join(options)])
        lines = [f"  {op.name}  {op.doc.splitlines()[0]}" for op in routers().values()]
        return "\n".join(
            ["routers (`--method NAME` tells more)", *lines, "  one of your own: an op of a file, `mine.tess:name`"]
        )

    def run(self, module: Module) -> Report:
        op = find_router(self.method, module)
        settings = check_further(type(self), further_options(op), dict(self.further))
        mixtures = self.mixtures(module, own=False)
        changed = [mixture.name for mixture in mixtures if self._swap(module, mixture, op, settings)]
        # Logits that the new router does not ask for.
        remove_dead(module.graph)
        return Report.of(self, len(changed), mixtures=changed)

    def _swap(self, module: Module, mixture: Mixture, op: Composite, settings: dict[str, Any]) -> bool:
        router = mixture.router
        k = self.k or mixture.k
        if k > mixture.width:
            raise Diagnostic(
                "E0704", f"`k` of the pass `{self.name}` is {k}, but the router of `{mixture.name}` scores {mixture.width} experts",
                help="a token takes no more experts than there are",
            )  # fmt: skip
        same = op.qualified == router.op.qualified
        attrs = {**(_regrouped(router, settings) if same else {}), **settings, "k": k}
        if same and attrs == router.attrs:
            return False
        for static in statics_of(op).values():
            if static.default is REQUIRED and not static.optional and static.name not in attrs:
                raise Diagnostic(
                    "E0705", f"the router `{op.name}` needs `{static.name}: {static.kind}`",
                    help=f'write `swap_router(method="{self.method}", …, {static.name}=…)`',
                )  # fmt: skip
        builder = Builder(module.graph).before(router)
        builder.span, builder.scope = router.span, router.scope
        made = emitted(builder, router, op, list(router.inputs) if same else _operands(op, mixture, builder), attrs)
        types = [None if v is None else v.type for v in made.inputs]
        # What it requires of its options is told now.
        op.instantiate(types, made.attrs)
        for old, new in zip(router.outputs, made.outputs, strict=True):
            old.replace_uses(new)
        module.graph.remove(router)
        follow(made.outputs)
        return True


def _regrouped(router: Node, settings: dict[str, Any]) -> dict[str, Any]:
    """The options that a router had, but for what follows from those that are given."""
    attrs = dict(router.attrs)
    if "groups" in settings:
        attrs.pop("limit", None)
    return attrs


def _operands(op: Composite, mixture: Mixture, builder: Builder) -> list[Value | None]:
    """What a router asks for, by the names of its operands."""
    gate = mixture.gate
    have = {"logits": mixture.router.inputs[0], "tokens": gate.inputs[0], "gate": gate.inputs[1]}
    if gate is mixture.router and any(WANTS.get(o.name) == "logits" for o in op.signature.operands):
        have["logits"] = builder.op(composite(AFFINE), *gate.inputs[:2], None)
    return [have[WANTS[o.name]] if o.name in WANTS else None for o in op.signature.operands]


def routers() -> dict[str, Composite]:
    """The routers of std.moe by name."""
    return {op.name: op for op in ops_of(STD) if misfit(op) is None}


def find_router(name: str, module: Module | None) -> Composite:
    """The op that ``name`` means. Raises E0001, E0201, E0716."""
    op = written(name, module)
    known = routers()
    listed = f'the routers are {", ".join(known)}; one of your own is `method="mine.tess:name"`'
    if op is None:
        if name not in known:
            raise Diagnostic("E0201", f"there is no router `{name}`", help=did_you_mean(name, known) or listed)
        op = known[name]
    problem = misfit(op)
    if problem is not None:
        # Nobody changes the signature of an op of the library.
        own = not op.module.startswith("std.")
        raise Diagnostic(
            "E0716", f"the op `{op.name}` cannot be a router: {problem}",
            help=f"a router is `op {op.name}(logits: float[N, E], *, k: int) -> Routes[N, k]`" if own else listed,
        )  # fmt: skip
    return op


def misfit(op: Composite) -> str | None:
    """What about an op's signature keeps it from being a router."""
    results = op.signature.results
    if len(results) != 1 or not is_routes(results[0].type):
        return "it must return the record `Routes` of std.moe.route"
    if "k" not in statics_of(op):
        return "it needs the static parameter `k: int`, how many experts a token takes"
    for operand in op.signature.operands:
        if operand.name not in WANTS and not operand.optional:
            return f"nothing is known of its operand `{operand.name}`; it may ask for {', '.join(WANTS)}"
        if not isinstance(operand.type, Pattern):
            return f"its operand `{operand.name}` must be a tensor"
    return None
