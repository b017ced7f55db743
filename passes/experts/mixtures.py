"""Mixtures of experts in a graph: what chooses, what applies the experts, and whose weights are whose.

A mixture is what `std.moe` makes of one: logits of a linear map, an op that gives `Routes` for them, others behind it that change
them, and an op that takes the routes and weights of which the first axis is the experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic, Note
from ...ir.dims.dim import Dim
from ...ir.graph import Graph, Module, Node, Parameter, Value
from ...ir.op import Composite
from ...ir.signature import Pattern, RecordPattern
from ..engine import Pass
from ..options import option

RECORD = ("std.moe.route", "Routes")
TOKEN_CHOICE = "std.moe.route.token_choice"
AFFINE = "std.nn.affine"
# What passes advise that go beside a `token_choice` only.
OTHER_ROUTER = "run `swap_router(method=token_choice)` before, with which the same scores choose, but weigh otherwise than now"


def is_routes(type: Any) -> bool:
    """Whether the type of an operand or a result is what a router gives."""
    return isinstance(type, RecordPattern) and (type.record.module, type.record.name) == RECORD


@dataclass(frozen=True)
class Mixture:
    """A mixture of experts.

    Args:
        name: of the block, by its gate: ``layers.0.mlp``.
        node: applies the experts.
        chain: from the op that chose to the one whose routes ``node`` reads.
        gate: the linear map whose result the logits are; the router itself where it takes tokens and a row for each expert.
        stacked: the weights of the experts by the operand's number; the first axis is the experts.
    """

    name: str
    node: Node
    chain: tuple[Node, ...]
    gate: Node
    stacked: dict[int, Parameter]

    @property
    def router(self) -> Node:
        return self.chain[0]

    @property
    def experts(self) -> int:
        """How many experts there are."""
        return int(next(iter(self.stacked.values())).type.shape[0])

    @property
    def width(self) -> int:
        """How many the router scores: null ones too."""
        return int(self.gate.inputs[1].type.shape[0])  # type: ignore[union-attr]

    @property
    def k(self) -> int:
        """How many experts a token takes at most."""
        return int(self.router.output.type.shape[1])

    def rows(self) -> list[Parameter]:
        """The weights of the router that have a row for each that it scores: of the gate, its bias, a bias for choosing."""
        found = dict.fromkeys(owner(v) for v in (*self.gate.inputs[1:], *self.router.inputs[1:]))
        return [p for p in found if p is not None and p.type.shape[0] == self.width]


def find_mixtures(graph: Graph) -> list[Mixture]:
    """The mixtures of a graph in order, whose experts and gate are parameters."""
    found, names = [], set[str]()
    for node in graph.nodes():
        stacked = _stacked(node)
        chain = _chain(node) if stacked else ()
        if not chain:
            continue
        gate = linear_of(chain[0].inputs[0]) or chain[0]
        weight = owner(gate.inputs[1]) if len(gate.inputs) > 1 else None
        if weight is None or any(owner(v) is None for v in stacked.values()):
            continue
        name = weight.full_name.removesuffix(".weight").rpartition(".")[0] or weight.full_name
        while name in names:
            name += "'"
        names.add(name)
        params = {index: p for index, v in stacked.items() if (p := owner(v)) is not None}
        found.append(Mixture(name, node, chain, gate, params))
    return found


def owner(value: Value | None) -> Parameter | None:
    """The parameter that a value is, with its later axes in another order at most."""
    while value is not None and value.node is not None and value.node.op.qualified == "transpose":
        if value.type.rank == 3 and value.node.attrs["perm"][0] != 0:
            return None
        value = value.node.inputs[0]
    return value if isinstance(value, Parameter) else None


def linear_of(value: Value | None) -> Node | None:
    """The linear map that a value comes from, cast or in another shape at most."""
    node = value.node if value is not None else None
    while node is not None and node.op.qualified in ("cast", "reshape"):
        node = node.inputs[0].node if node.inputs[0] is not None else None
    return node if node is not None and node.op.qualified == AFFINE else None


def _stacked(node: Node) -> dict[int, Value]:
    """The operands of an op on routes whose first axis is the experts, by number."""
    if not isinstance(node.op, Composite) or any(is_routes(r.type) for r in node.op.signature.results):
        return {}
    operands = node.op.signature.operands
    routed = {d.symbol for o in operands if is_routes(o.type) for d in o.type.dims}  # type: ignore[union-attr]
    found: dict[int, Value] = {}
    index = 0
    for operand in operands:
        pattern = operand.type
        value = node.inputs[index] if index < len(node.inputs) else None
        first = pattern.shape[0] if isinstance(pattern, Pattern) and len(pattern.shape) > 1 else None
        if routed and value is not None and isinstance(first, Dim) and first.symbol not in {None, *routed}:
            found[index] = value
        index += len(operand.leaves())
    # All of them have as many: what has not is something else.
    return found if len({v.type.shape[0] for v in found.values()}) == 1 else {}


def routes_at(node: Node) -> int | None:
    """Which input of a node is the first of its routes."""
    index = 0
    for operand in node.op.signature.operands if isinstance(node.op, Composite) else ():
        if is_routes(operand.type):
            return index
        index += len(operand.leaves())
    return None


def _chain(node: Node) -> tuple[Node, ...]:
    """The ops that made the routes which a node reads, from the one that chose."""
    chain: list[Node] = []
    while (at := routes_at(node)) is not None:
        experts = node.inputs[at]
        made = experts.node if experts is not None else None
        if (
            made is None
            or not isinstance(made.op, Composite)
            or not any(is_routes(r.type) for r in made.op.signature.results)
        ):
            return ()
        chain.insert(0, made)
        node = made
    return tuple(chain)


def emitted(builder: Builder, node: Node, op: Any, inputs: Sequence[Value | None], attrs: dict[str, Any]) -> Node:
    """A node of ``op`` with the names of another one's results."""
    made = builder.emit(op, inputs, attrs, names=[v.name for v in node.outputs])[0].node
    assert made is not None
    return made


# Passes ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExpertsPass(Pass):
    """What the passes on mixtures have in common: which of them."""

    layers: tuple[int, ...] | None = option(None, "the mixtures to change, counted from 0; all when none")

    def mixtures(self, module: Module, *, own: bool = True) -> list[Mixture]:
        """The chosen ones; with ``own`` their weights are to be changed.

        Raises E0720 without any, or where others read weights that are to be changed; E0704 for a number that there is not.
        """
        found = find_mixtures(module.graph)
        if not found:
            raise Diagnostic(
                "E0720", f"{self.name} found no mixture of experts to work on", notes=_nearest(module.graph),
                help="it looks for an op on `std.moe.route.Routes` that `token_choice`, or another router, made of a linear map: "
                "behind an import, run `raise_composites` first; of a dense model, `upcycle` makes one",
            )  # fmt: skip
        chosen = [found[i] for i in chosen_of(self, self.layers, len(found), "mixtures of experts")]
        for mixture in chosen if own else ():
            for param in (*mixture.stacked.values(), *mixture.rows()):
                if len(param.uses) > 1:
                    raise Diagnostic(
                        "E0720", f"{self.name} cannot change `{param.full_name}`: it is read in {len(param.uses)} places",
                        param.span, help="mixtures that share weights stay as they are: leave them out with `layers=[…]`",
                    )  # fmt: skip
        return chosen


def chosen_of(what: Pass, numbers: tuple[int, ...] | None, count: int, things: str) -> list[int]:
    """The numbers of a list as places among ``count``. Raises E0704."""
    for index in numbers or ():
        if not -count <= index < count:
            raise Diagnostic(
                "E0704", f"`layers` of the pass `{what.name}` names {index}, but the model has {count} {things}"
            )
    return list(range(count)) if numbers is None else sorted({i % count for i in numbers})


def _nearest(graph: Graph) -> list[Note]:
    """Where there are experts whose router or weights are something else."""
    for node in graph.nodes():
        if _stacked(node):
            told = f"this `{node.op.name}` is one whose logits are of no linear map, or whose weights are no parameters"
            return [Note(told, node.span)]
    return []
