"""The operands that the regions of a node capture, which passes leave unread, double or out of order."""

from __future__ import annotations

from .graph import Graph, Node, Value


def first_captured(node: Node) -> tuple[int, int]:
    """From which operand on a control node's operands are captured values, and from which input on its regions take them."""
    carried: int = node.attrs["carried"]
    name = node.op.qualified
    return carried + (name == "cond"), {"fold": carried + 1, "scan": 2 * carried}.get(name, carried)


def settle_captured(node: Node) -> None:
    """Capture what some region reads, once each, in the order in which it is first read: what reading the source would give."""
    operand, inner = first_captured(node)
    regions = node.bodies
    captured = node.inputs[operand:]
    places: dict[Value | None, int] = {}
    for region in regions:
        for at in read_places(region, inner):
            first = places.setdefault(captured[at], at)
            if first != at:
                region.inputs[inner + at].replace_uses(region.inputs[inner + first])
    kept = list(places.values())
    if kept == list(range(len(captured))):
        return
    for i in range(operand, len(node.inputs)):
        node.set_input(i, None)
    del node.inputs[operand:]
    for at in kept:
        node.add_input(captured[at])
    for region in regions:
        region.inputs[inner:] = [region.inputs[inner + at] for at in kept]


def read_places(region: Graph, inner: int) -> list[int]:
    """The places of the captured inputs, those from number ``inner`` on, that a region reads, in the order in which it does."""
    places: dict[Value | None, int] = {value: i for i, value in enumerate(region.inputs[inner:])}
    nodes = [*region.nodes(), region.end]
    return list(dict.fromkeys(places[v] for n in nodes for v in n.inputs if v in places))
