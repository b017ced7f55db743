"""Low-rank adapters beside linear maps (Hu et al. 2022, "LoRA"), one or several that a router chooses among for each token."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import as_dim, product
from ...ir.graph import Initializer, Module, Node, Parameter
from ...ir.library import composite
from ...ir.naming import unique
from ...ir.recipe import Fill, Recipe, Take, apply
from ...ir.recipe_functions import Typed
from ...ir.types import TensorType
from ..engine import Pass
from ..options import option
from ..report import Report
from .mixtures import AFFINE, TOKEN_CHOICE

LOW_RANK = "std.moe.lora.low_rank"
SCORES = "std.moe.lora.standardized_scores"
# What the parts of an adapter are called behind the linear map's name: here, and in files of trained ones.
_CALLED = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "lora_gate": "lora_gate"}


@dataclass(frozen=True)
class AttachLora(Pass):
    """Adds low-rank adapters to linear maps, `W x + alpha / rank * B A x` (Hu et al. 2022): A at random and B zeros, so that the
    model computes what it did, bit by bit, until they are trained.

    With several `experts` each linear map has as many adapters, and a router that chooses `k` of them for each token, whose weights
    add up to 1. `router=standardized` scores them by the gates that each brings, normed like the token (PHATGOOSE).

    `weights` says what trained adapters are called in the files, which are given beside the model's: `base_model.model.{}` for
    those of PEFT, `expert.{i}.{}` for several, with the linear map's own name for `{}`. A [rank, in] is at `….lora_A.weight`
    there, B [out, rank] at `….lora_B.weight`, and a gate [in] at `….lora_gate`.

    before: `y = affine(x, w)`
    after:  `y = affine(x, w) + affine(affine(x, lora_a), lora_b) * 2.0`
    """

    name = "attach_lora"
    contract = "exact"

    rank: int | None = option(None, "the rank of the adapters", least=1)
    alpha: float | None = option(None, "what the adapters are multiplied with, times the rank; the rank when none")
    targets: tuple[str, ...] = option(
        (), "the linear maps, by the names of their weights (`*.q_proj.*`); all when empty"
    )
    experts: int = option(1, "how many adapters each has", least=1)
    k: int = option(1, "how many of them a token takes", least=1)
    router: Literal["linear", "standardized"] = option(
        "linear", "how several are scored: by a linear map, or by their gates, both sides normed (PHATGOOSE)"
    )
    weights: str | None = option(
        None, "what trained adapters are called in the files: `base_model.model.{}`; none: they begin as zeros"
    )

    def run(self, module: Module) -> Report:
        if self.rank is None:
            raise Diagnostic(
                "E0705", "attach_lora is not told the rank of the adapters", help="write `attach_lora(rank=16)`"
            )
        given = self.weights
        if given is not None and ("{}" not in given or ("{i}" in given) != (self.experts > 1)):
            raise Diagnostic(
                "E0704",
                f'`weights` of the pass `{self.name}` is "{given}", which does not name {self.experts} adapters of each linear map',
                help="`{}` stands for the linear map's name, and of several `{i}` for the adapter's number: `expert.{i}.{}`",
            )  # fmt: skip
        if self.k > self.experts:
            raise Diagnostic(
                "E0704", f"`k` of the pass `{self.name}` is {self.k}, but there are {self.experts} adapters",
                help="a token takes no more adapters than there are",
            )  # fmt: skip
        found = [
            node
            for node in module.graph.nodes()
            if node.op.qualified == AFFINE and isinstance(node.inputs[1], Parameter) and not _is_adapter(node)
        ]
        chosen = [node for node in found if self._wanted(node)]
        if not chosen:
            names = ", ".join(sorted(_name(node) for node in found)[:8])
            raise Diagnostic(
                "E0722", "attach_lora found no linear map" + (f" of these names: there are {names}, …" if names else ""),
                help="it looks for `std.nn.affine` whose weight is a parameter; behind an import, run `raise_composites` first",
            )  # fmt: skip
        reads: dict[str, Typed] = {}
        for node in chosen:
            self._attach(module, node, self.rank, reads)
        report = Report.of(self, len(chosen), linears=[_name(node) for node in chosen])
        report.reads = reads
        if reads:
            report.contract = "approximate"
        return report

    def _wanted(self, node: Node) -> bool:
        return not self.targets or any(fnmatchcase(_name(node), pattern) for pattern in self.targets)

    def _attach(self, module: Module, node: Node, rank: int, reads: dict[str, Typed]) -> None:
        """``reads``: tensors of the adapters' files, to be added to."""
        graph, x, out = module.graph, node.inputs[0], node.output
        assert x is not None
        width, made = int(x.type.shape[-1]), int(out.type.shape[-1])
        builder = Builder(graph).before(node.next)
        builder.span, builder.scope = node.span, node.scope
        readers = list(out.uses)
        drawn, zeros = Initializer("normal", (0.02,)), Initializer("zeros")
        if self.experts == 1:
            a = self._parameter(module, node, reads, "lora_a", drawn, (rank, width))
            b = self._parameter(module, node, reads, "lora_b", zeros, (made, rank))
            more = builder.op(composite(AFFINE), builder.op(composite(AFFINE), x, a, None), b, None)
        else:
            rows = (
                x if x.type.rank == 2 else builder.op("reshape", x, shape=(product(x.type.shape[:-1]), as_dim(width)))
            )
            gate = self._parameter(module, node, reads, "lora_gate", drawn, (self.experts, width))
            a = self._parameter(module, node, reads, "lora_a", drawn, (self.experts, width, rank))
            b = self._parameter(module, node, reads, "lora_b", zeros, (self.experts, rank, made))
            if self.router == "standardized":
                scores = builder.op(composite(SCORES), rows, gate)
            else:
                scores = builder.op(composite(AFFINE), rows, gate, None)
            routes = builder.multi(composite(TOKEN_CHOICE), scores, None, k=self.k)
            more = builder.op(composite(LOW_RANK), rows, *routes, a, b)
            if x.type.rank != 2:
                more = builder.op("reshape", more, shape=out.type.shape)
        scale = builder.constant((rank if self.alpha is None else self.alpha) / rank, out.type.dtype)
        total = builder.op("add", out, builder.op("mul", more, scale))
        for user, index in readers:
            user.set_input(index, total)

    def _parameter(
        self, module: Module, node: Node, reads: dict[str, Typed], tail: str, init: Initializer, shape: tuple[int, ...]
    ) -> Parameter:
        """A weight of an adapter beside the linear map's: ``attn.q_proj.lora_a``."""
        like = node.inputs[1]
        assert isinstance(like, Parameter)
        type = TensorType.of(like.type.dtype, shape)
        name = unique(f"{like.full_name.removesuffix('.weight')}.{tail}", set(module.graph.params))
        if self.weights is None:
            module.recipes[name] = Fill(init, shape, type.dtype)
        else:
            own = module.recipe(like.full_name)
            module.recipes[name] = self._trained(own, like.full_name, reads, tail, Typed(type.dtype, shape))
        return module.graph.add_param(Parameter(type, name, init, True, like.span))

    def _trained(self, own: Recipe, name: str, reads: dict[str, Typed], tail: str, made: Typed) -> Recipe:
        """What files have of a weight of a linear map's adapters: of several each matrix is [in, out] here, and [out, in] there."""
        assert self.weights is not None
        stem = (own.name if isinstance(own, Take) else name).removesuffix(".weight")
        called = f"{self.weights.replace('{}', stem)}.{_CALLED[tail]}"
        if self.experts == 1:
            reads[called] = made
            return Take(called)
        names = [called.replace("{i}", str(i)) for i in range(self.experts)]
        reads |= dict.fromkeys(names, Typed(made.dtype, made.shape[:0:-1]))
        parts = [Take(one) if tail == "lora_gate" else apply("transpose", one, perm=(1, 0)) for one in names]
        return apply("stack", *parts, axis=0)


def _is_adapter(node: Node) -> bool:
    """Whether it is part of an adapter that was added before: a second one goes beside it, to the linear map itself."""
    return _name(node).rpartition(".")[2].startswith("lora_")


def _name(node: Node) -> str:
    weight = node.inputs[1]
    assert isinstance(weight, Parameter)
    return weight.full_name
