"""Declarations of a program's own files: kept with the module, and written back where its graph comes to use them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .op import Composite, FuncRef

if TYPE_CHECKING:
    from .graph import Graph

# The module of everything that is not shipped: printed, it becomes one file.
LOCAL = "local"


@dataclass(frozen=True)
class Declaration:
    """A declaration's syntax tree, and the names of the others (or of what shipped modules declare) that it mentions."""

    syntax: Any
    needs: tuple[str, ...] = ()


def reachable(graph: Graph, known: Mapping[str, Declaration]) -> dict[str, Declaration]:
    """Those of ``known`` that the graph uses, directly or not, by name."""
    found: dict[str, Declaration] = {}
    pending = [name for module, name in used_by(graph) if module == LOCAL]
    while pending:
        name = pending.pop()
        if name in known and name not in found:
            found[name] = known[name]
            pending += known[name].needs
    return dict(sorted(found.items()))


def used_by(graph: Graph) -> Iterator[tuple[str, str]]:
    """(module, name) of each record of a state, of each composite in a graph and its regions, and of functions among attributes."""
    for value in graph.inputs:
        if value.record is not None:
            yield value.record.pattern.record.module, value.record.pattern.record.name
    for node in graph.nodes():
        if isinstance(node.op, Composite):
            yield node.op.module, node.op.name
            yield from ((ref.module, ref.name) for ref in references(node.attrs.values()))
        for region in node.bodies:
            yield from used_by(region)


def references(values: Iterable[Any]) -> Iterator[FuncRef]:
    """The functions among static values, those in lists and those given to other functions included."""
    for value in values:
        if isinstance(value, FuncRef):
            yield value
            yield from references(given for _, given in value.given)
        elif isinstance(value, tuple):
            yield from references(value)
