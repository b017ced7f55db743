"""Regions of control ops: each is a graph of its own, into which outer values are captured when they are first used."""

from __future__ import annotations

from collections.abc import Sequence

from ....ir.builder import Builder
from ....ir.graph import Graph, Input, Value
from ....ir.regions import read_places
from ....ir.types import TensorType


class Region:
    """One region of a node under construction.

    ``captured`` are the outer values, in the order of the body's last inputs; with ``parent`` the outer graph is itself
    a body.
    """

    def __init__(self, name: str, outer: Builder, parent: Region | None) -> None:
        self.graph = Graph(name)
        self.builder = Builder(self.graph, span=outer.span, scope=outer.scope)
        self.root: Builder = outer if parent is None else parent.root
        self.parent = parent
        self.captured: list[Value] = []
        self._twins: dict[Value, Value] = {}
        self.graph.lets = self.root.graph.lets
        self.graph.facts = self.root.graph.facts
        self.graph.requires = self.root.graph.requires

    def argument(self, name: str, type: TensorType) -> Value:
        """An input of the body that is not captured."""
        value = self.graph.add_input(Input(type, name))
        self._twins[value] = value
        return value

    def local(self, value: Value) -> Value:
        """The value inside the body: itself when made here, else its captured twin."""
        if value.node is not None and value.node.graph is self.graph:
            return value
        twin = self._twins.get(value)
        if twin is None:
            outer = value if self.parent is None else self.parent.local(value)
            twin = self.graph.add_input(Input(value.type, value.name or f"captured{len(self.captured)}"))
            self._twins[value] = self._twins[twin] = twin
            self.captured.append(outer)
        return twin

    def used(self) -> list[Value]:
        """What is captured, in the order in which the finished body reads it: without the values that nothing in it reads after
        all (a branch not taken, an argument that is passed on and dropped), which may also have been the first to be captured."""
        first = len(self.graph.inputs) - len(self.captured)
        places = read_places(self.graph, first)
        self.graph.inputs[first:] = [self.graph.inputs[first + at] for at in places]
        self.captured = [self.captured[at] for at in places]
        return self.captured

    def take(self, captured: list[Value]) -> None:
        """Capture exactly these values of the graph around it, in this order; all that are captured so far are among them."""
        first = len(self.graph.inputs) - len(self.captured)
        known = dict(zip(self.captured, self.graph.inputs[first:], strict=True))
        self.graph.inputs[first:] = [
            known.get(v) or Input(v.type, v.name or f"captured{i}") for i, v in enumerate(captured)
        ]
        self.captured = captured


def share_captured(regions: Sequence[Region]) -> list[Value]:
    """Let the regions of one node capture the same values, which are returned: those of all, in the order of first use."""
    captured = list(dict.fromkeys(value for region in regions for value in region.used()))
    for region in regions:
        region.take(captured)
    return captured
