"""What `raise_composites` could not recognise, and why: the places that look like a composite and became none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...ir.analysis.cost import ATTENTION
from ...ir.diagnostics import Span
from ...ir.graph import Graph, Node
from ...ir.library import RAISING, rules_of
from ...ir.op import Trait, has
from ...ir.pattern import Rule
from ..rewrite.matcher import Matcher, NearMiss
from .shared import PRODUCTS

_NN = ("affine", "gelu", "gelu_tanh", "layer_normalize", "log_softmax", "quick_gelu", "relu", "rms_normalize", "silu",
       "softmax", "softplus", "swiglu")  # fmt: skip
_EXPERTS = ("std.moe.experts.gated", "std.moe.experts.plain")
_ROUTERS = ("std.moe.route.token_choice", "std.moe.route.sparse_mixer")
RAISED = frozenset({*(f"std.nn.{name}" for name in _NN), ATTENTION, "std.attention.rope", *_EXPERTS, *_ROUTERS})

# How far below a softmax the product with the values may lie: a cast, a dropout, a reshape.
_REACH = 3
# Rules that end in each composite, for the reason why one was not found: (what it looks like, op, rules).
_SUSPECTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "rsqrt": ("norm", ("layer_normalize_from_mean", "rms_normalize_from_mean")),
    "sqrt": ("norm", ("divided_by_sqrt", "rsqrt_from_sqrt")),
    "erf": ("gelu", ("gelu_half_first", "gelu_half_last", "gelu_half_inside_divided")),
}
_ATTENTION = ("attention_from_softmax", "attention_from_guarded", "attention_from_einsum", "attention_of_one_head")


@dataclass(frozen=True)
class Leftover:
    """A node that looks like part of a composite: ``what`` that would be, and the reason why it is none."""

    what: str
    span: Span | None
    reason: str

    def __str__(self) -> str:
        place = f" at {self.span}" if self.span is not None else ""
        return f"no {self.what}{place}: {self.reason}"


def leftovers(graph: Graph) -> list[Leftover]:
    """The places that came close, in order."""
    rules = {name: rule for unit in RAISING for name, rule in rules_of(unit).items()}
    found: list[Leftover] = []
    for node in graph.nodes():
        name = node.op.qualified
        if name == "std.nn.softmax":
            found.append(Leftover("attention", node.span, _softmax(node, rules)))
        elif name == "grouped_matmul":
            told = "what is done to these rows is not what `gated` or `plain` of std.moe does between two products"
            found.append(Leftover("mixture of experts", node.span, told))
        elif name in _SUSPECTS and (name == "erf" or _of_mean(node)):
            what, names = _SUSPECTS[name]
            miss = _nearest(_below(node), [rules[n] for n in names])
            found.append(Leftover(what, node.span, f"this `{name}` belongs to none: {_told(miss)}"))
    return found


def _softmax(node: Node, rules: dict[str, Rule]) -> str:
    below = [n for n in _below(node) if n.op.qualified in ("matmul", "einsum")]
    if not below and any(n.op.qualified == "std.nn.affine" for n in _below(node)):
        return "a linear map mixes what this softmax gives (talking heads), which `std.attention.attention` does not"
    if not below:
        return "nothing is multiplied with this softmax"
    if not _of_product(node):
        return "this softmax is taken of something else than products of queries and keys"
    miss = _nearest(iter(below), [rules[name] for name in _ATTENTION])
    return f"this softmax belongs to none: {_told(miss)}"


def _of_product(node: Node) -> bool:
    """Whether a softmax is taken of a product, to which other things were done element by element, or that was moved."""
    ring, seen = [node], {node}
    while ring:
        ring = [v.node for n in ring for v in n.inputs if v is not None and v.node is not None and v.node not in seen]
        seen.update(ring)
        if any(n.op.qualified in PRODUCTS for n in ring):
            return True
        ring = [n for n in ring if n.op.family == "elementwise" or has(n, Trait.KEEPS)]
    return False


def _of_mean(node: Node) -> bool:
    """Whether a root is taken of a mean, with an epsilon added: of what a norm divides by."""
    ring = [node]
    for _ in range(_REACH):
        ring = [v.node for n in ring for v in n.inputs if v is not None and v.node is not None]
        if any(n.op.qualified == "mean" for n in ring):
            return True
    return False


def _told(miss: NearMiss | None) -> str:
    return str(miss) if miss is not None else "nothing behind it fits a rule"


def _below(node: Node) -> Iterator[Node]:
    """The readers of a node, and their readers, nearest first."""
    ring, seen = [node], {node}
    for _ in range(_REACH):
        ring = [u for n in ring for v in n.outputs for u in v.users if u.op is not None and u not in seen]
        seen.update(ring)
        yield from dict.fromkeys(ring)


def _nearest(nodes: Iterator[Node], rules: list[Rule]) -> NearMiss | None:
    """The deepest partial match of any of the rules at any of the nodes."""
    best: NearMiss | None = None
    for node in nodes:
        for rule in rules:
            if node.op.qualified != rule.pattern.op:
                continue
            matcher = Matcher(rule)
            matcher.match(node)
            if matcher.nearest is not None and (best is None or matcher.nearest.matched > best.matched):
                best = matcher.nearest
    return best
