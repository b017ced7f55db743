"""Parameter tokens (Wang et al. 2025, "TokenFormer"): more of them, without another function."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from ...ir.diagnostics import Diagnostic
from ...ir.graph import Graph, Initializer, Module, Node, Parameter
from ...ir.recipe import Fill, apply
from ..engine import Pass
from ..options import option
from ..report import Report
from ..weights.remake import follow, resized

ATTENTION = "std.nn.parameter_attention"
# The forms in which a key of zeros adds nothing, whatever its value.
_KEEPING = ("l2_norm_gelu", "gelu_l2_norm")


@dataclass(frozen=True)
class Grow(Pass):
    """Appends parameter tokens to those that a model has (Wang et al. 2025, "TokenFormer"): keys of zeros, values at random.

    A key of zeros gives the score 0, and GeLU of 0 is 0, so that the model computes what it did, as long as the scale stays what it
    was: it must be a buffer, and no number that grows with the tokens. Where it does, or the scores go through a softmax, the pass
    refuses.

    before: `parameter_attention(x, keys, values, tau)    # keys: f32[768, D]`
    after:  `parameter_attention(x, keys, values, tau)    # keys: f32[1792, D]  with "keys" = concat("keys", zeros([1024, D]))`
    """

    name = "grow"
    contract = "exact"

    tokens: int | None = option(None, "how many tokens there are afterwards", least=1)
    times: float | None = option(None, "instead of tokens: how many times as many", least=1)
    only: tuple[str, ...] = option((), "the weights to grow, by the names of their keys (`*.mlp.*`); all when empty")

    def run(self, module: Module) -> Report:
        if (self.tokens is None) == (self.times is None):
            told = "neither `tokens` nor `times`" if self.tokens is None else "both `tokens` and `times`"
            raise Diagnostic(
                "E0705",
                f"grow is given {told}, but needs exactly one of them",
                help="write `grow(tokens=1792)` or `grow(times=2)`",
            )
        found = [node for node in module.graph.nodes() if node.op.qualified == ATTENTION]
        chosen = [node for node in found if self._wanted(node)]
        if not chosen:
            names = ", ".join(p.full_name for p in map(_keys, found) if p is not None)
            raise Diagnostic(
                "E0724", "grow found no parameter tokens" + (f" of these names: it has {names}" if names else ""),
                help="it looks for `std.nn.parameter_attention` whose keys and values are parameters",
            )  # fmt: skip
        sizes = {node: self._size(module.graph, node) for node in chosen}
        grown = [node for node, size in sizes.items() if size > _count(node)]
        report = Report.of(self, len(grown))
        report.facts["tokens"] = {_named(node): [_count(node), sizes[node]] for node in grown}
        for node in grown:
            _append(module, node, sizes[node] - _count(node))
        return report

    def _wanted(self, node: Node) -> bool:
        keys = _keys(node)
        return keys is not None and (
            not self.only or any(fnmatchcase(keys.full_name, pattern) for pattern in self.only)
        )

    def _size(self, graph: Graph, node: Node) -> int:
        """How many tokens there are to be. Raises E0704 for fewer, E0724 where the function would change."""
        count, name = _count(node), _named(node)
        size = self.tokens if self.tokens is not None else round(count * (self.times or 1))
        if size < count:
            raise Diagnostic(
                "E0704",
                f"`tokens` of the pass `{self.name}` is {size}, but `{name}` has {count}",
                help="tokens only grow",
            )
        form, tau = node.attrs["form"], node.inputs[3]
        if form not in _KEEPING:
            raise Diagnostic(
                "E0724", f"`{name}` weighs its tokens by `{form}`, in which a new one takes part at once: the function changes",
                node.span, help=f"grow where the form is {' or '.join(_KEEPING)}",
            )  # fmt: skip
        if not isinstance(tau, Parameter):
            raise Diagnostic(
                "E0724", f"the scale of `{name}` is computed, and no buffer: with more tokens it and the function are others",
                node.span, help="let it be a buffer that keeps what it was, as in `std.nn.pattention`",
            )  # fmt: skip
        for param in node.inputs[1:3]:
            if not isinstance(param, Parameter) or len(param.uses) > 1:
                raise Diagnostic(
                    "E0724", f"the tokens of `{name}` are no parameters of their own", node.span,
                    help="tokens that several layers share, or that are computed, stay as they are",
                )  # fmt: skip
        return size


def _keys(node: Node) -> Parameter | None:
    keys = node.inputs[1]
    return keys if isinstance(keys, Parameter) else None


def _named(node: Node) -> str:
    keys = _keys(node)
    assert keys is not None
    return keys.full_name


def _count(node: Node) -> int:
    keys = _keys(node)
    assert keys is not None
    return int(keys.type.shape[0])


def _append(module: Module, node: Node, more: int) -> None:
    made = []
    for param, init in zip(node.inputs[1:3], (Initializer("zeros"), Initializer("normal", (0.02,))), strict=True):
        assert isinstance(param, Parameter)
        rows = Fill(init, (more, *(int(d) for d in param.type.shape[1:])), param.type.dtype)
        recipe = apply("concat", module.recipe(param.full_name), rows, axis=0)
        made.append(resized(module, param, recipe, int(param.type.shape[0]) + more))
    follow(made)
