"""Dense feed-forward blocks made mixtures of experts, whose weights are made of the block's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import as_dim, product
from ...ir.graph import Initializer, Module, Parameter, Value
from ...ir.library import composite
from ...ir.naming import unique
from ...ir.recipe import Fill, Recipe, apply
from ...ir.types import TensorType
from ..engine import Pass
from ..options import option
from ..report import Report
from ..tidy.dce import remove_dead
from .feed_forward import FeedForward, Weight, find_blocks
from .mixtures import AFFINE, TOKEN_CHOICE, chosen_of


@dataclass(frozen=True)
class Upcycle(Pass):
    """Makes mixtures of experts of dense feed-forward blocks (Komatsuzaki et al. 2023, "Sparse Upcycling").

    `copies`: every expert is the block, and a token's weights add up to 1, so that the model computes what it did, whatever the
    router says. `split`: the neurons of the block are dealt out to the experts in runs, each with the weight 1 (MoEfication, Zhang
    et al. 2022): with `k` as many as the experts the model computes what it did, with fewer only a part of it. The router starts at
    random.

    before: `y = affine(gelu(affine(x, w1, b1)), w2, b2)`
    after:  `routes = token_choice(affine(x, gate), k=2)   y = plain(x, routes, up, down, up_bias, down_bias, act=gelu)`
    """

    name = "upcycle"
    contract = "exact"

    experts: int | None = option(None, "how many experts a block becomes", least=1)
    k: int | None = option(
        None, "how many of them a token takes: 2 copies when none, and all parts of a split", least=1
    )
    method: Literal["copies", "split"] = option(
        "copies", "what the experts are: copies of the block, or runs of its neurons"
    )
    layers: tuple[int, ...] | None = option(None, "the feed-forward blocks to change, counted from 0; all when none")

    def run(self, module: Module) -> Report:
        if self.experts is None:
            raise Diagnostic(
                "E0705", "upcycle is not told how many experts a block becomes", help="write `upcycle(experts=8, k=2)`"
            )
        k = self.k or (self.experts if self.method == "split" else min(2, self.experts))
        if k > self.experts:
            raise Diagnostic(
                "E0704", f"`k` of the pass `{self.name}` is {k}, but a block becomes {self.experts} experts",
                help="a token takes no more experts than there are",
            )  # fmt: skip
        blocks = find_blocks(module.graph)
        if not blocks:
            raise Diagnostic(
                "E0722", "upcycle found no dense feed-forward block",
                help="it looks for two linear maps with an activation between, or for a gated unit of three; behind an import, run "
                "`raise_composites` first",
            )  # fmt: skip
        chosen = [blocks[i] for i in chosen_of(self, self.layers, len(blocks), "feed-forward blocks")]
        for block in chosen:
            if self.method == "split" and block.hidden % self.experts:
                raise Diagnostic(
                    "E0722", f"the {block.hidden} neurons of `{block.name}` do not part into {self.experts} experts of one size",
                    block.last.span, help="choose a divisor, or `method=copies`",
                )  # fmt: skip
        for block in chosen:
            _Change(module, block, self.experts, k, self.method == "split").make()
        remove_dead(module.graph)
        for name in [name for name, param in module.graph.params.items() if not param.uses]:
            del module.graph.params[name]
            module.recipes.pop(name, None)
        report = Report.of(self, len(chosen), blocks=[block.name for block in chosen])
        if self.method == "split" and k < self.experts:
            report.contract = "approximate"
            report.notes.append(
                f"a token takes {k} of {self.experts} parts of its block: what the others would add is left out"
            )
        return report


@dataclass(frozen=True)
class _Change:
    """One block on its way to a mixture."""

    module: Module
    block: FeedForward
    experts: int
    k: int
    split: bool

    @property
    def hidden(self) -> int:
        """The width of an expert."""
        return self.block.hidden // self.experts if self.split else self.block.hidden

    def make(self) -> None:
        block, x, graph = self.block, self.block.x, self.module.graph
        builder = Builder(graph).before(block.last)
        dim = int(x.type.shape[-1])
        rows = x if x.type.rank == 2 else builder.op("reshape", x, shape=(product(x.type.shape[:-1]), as_dim(dim)))
        drawn = Fill(Initializer("normal", (0.02,)), (self.experts, dim), x.type.dtype)
        gate = self._parameter("gate.weight", drawn, self.experts, dim)
        logits = builder.op(composite(AFFINE), rows, gate, None)
        score = {"score": "one"} if self.split else {}
        routes = builder.multi(composite(TOKEN_CHOICE), logits, None, k=self.k, **score)
        up, outer = self._up(), None
        down = self._stack("down", block.down, along=0)
        biases: list[Value | None] = [self._biases("up"), None]
        if "down" in block.biases:
            # The parts of a split add up, and their bias is added once.
            outer = block.biases["down"][0] if self.split else None
            biases[1] = None if self.split else self._biases("down")
        kind = "plain" if block.gate is None else "gated"
        y = builder.op(composite(f"std.moe.experts.{kind}"), rows, *routes, up, down, *biases, act=block.act)
        if outer is not None:
            y = builder.op("add", y, outer)
        if x.type.rank != 2:
            y = builder.op("reshape", y, shape=block.last.output.type.shape)
        y.name = block.last.output.name
        block.last.output.replace_uses(y)
        graph.remove(block.last)

    # Weights -----------------------------------------------------------------------------------------------------

    def _parameter(self, tail: str, recipe: Recipe, *shape: int) -> Parameter:
        graph, like = self.module.graph, self.block.down.param
        name = unique(f"{self.block.name}.{tail}" if self.block.name else tail, set(graph.params))
        self.module.recipes[name] = recipe
        init = Initializer("normal", (0.02,))
        return graph.add_param(Parameter(TensorType.of(like.type.dtype, shape), name, init, like.trainable, like.span))

    def _up(self) -> Parameter:
        block = self.block
        if block.gate is None:
            return self._stack("up", block.up, along=1)
        parts = [self._stacked(weight, along=1) for weight in (block.gate, block.up)]
        dim = int(block.x.type.shape[-1])
        return self._parameter("experts.gate_up", apply("concat", *parts, axis=2), self.experts, dim, 2 * self.hidden)

    def _stack(self, name: str, weight: Weight, *, along: int) -> Parameter:
        dim = int(self.block.x.type.shape[-1]) if along else int(self.block.last.output.type.shape[-1])
        shape = (dim, self.hidden) if along else (self.hidden, dim)
        return self._parameter(f"experts.{name}", self._stacked(weight, along=along), self.experts, *shape)

    def _stacked(self, weight: Weight, *, along: int) -> Recipe:
        """A matrix [I, O] for each expert; neurons lie along axis ``along``."""
        matrix = weight.recipe(self.module, columns=True)
        if not self.split:
            return apply("stack", *[matrix] * self.experts, axis=0)
        parts = [apply("split", matrix, sizes=self.experts, part=i, axis=along) for i in range(self.experts)]
        return apply("stack", *parts, axis=0)

    def _biases(self, which: str) -> Parameter | None:
        """The biases of the experts, of gate and up one behind the other."""
        block = self.block
        if which == "down":
            found: list[Recipe | None] = [self._bias("down", int(block.last.output.type.shape[-1]))]
        else:
            names = ["up"] if block.gate is None else ["gate", "up"]
            if not set(names) & set(block.biases):
                return None
            found = [self._bias(name, self.hidden) for name in names]
        recipes: list[Any] = [r for r in found if r is not None]
        whole = recipes[0] if len(recipes) == 1 else apply("concat", *recipes, axis=1)
        size = int(block.last.output.type.shape[-1]) if which == "down" else len(found) * self.hidden
        tail = {"up": "up" if block.gate is None else "gate_up"}.get(which, which)
        return self._parameter(f"experts.{tail}_bias", whole, self.experts, size)

    def _bias(self, name: str, size: int) -> Recipe:
        """[E, size]: of each expert."""
        if name not in self.block.biases:
            return Fill(Initializer("zeros"), (self.experts, size), self.block.down.param.type.dtype)
        param, start, stop = self.block.biases[name]
        whole = self.module.recipe(param.full_name)
        if stop - start != int(param.type.shape[0]):
            whole = apply("slice", whole, axis=0, start=start, stop=stop)
        parts = [whole] * self.experts
        if self.split and name != "down":
            parts = [apply("split", whole, sizes=self.experts, part=i, axis=0) for i in range(self.experts)]
        return apply("stack", *parts, axis=0)
