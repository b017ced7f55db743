"""Which nodes are needed, in an order in which each comes after what it reads. Nothing here recurses: files may be deep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ...ir.diagnostics import Diagnostic
from .call import where

_GRAPH, _GRAPHS = 5, 10


def ordered(nodes: Iterable[Any], wanted: Iterable[str], given: set[str]) -> list[Any]:
    """The nodes that ``wanted`` needs. ``given``: names that are there already.

    Raises:
        Diagnostic: E0754 for a name that is produced twice, and for a cycle.
    """
    every = list(nodes)
    producer: dict[str, int] = {}
    for i, node in enumerate(every):
        for name in node.output:
            if name and (name in producer or name in given):
                raise Diagnostic("E0754", f"`{name[:200]}` is produced twice, the second time by {where(node)}")
            if name:
                producer[name] = i
    reads: dict[int, list[int]] = {}
    stack = [producer[name] for name in wanted if name in producer]
    while stack:
        i = stack.pop()
        if i not in reads:
            reads[i] = sorted({producer[name] for name in read_names(every[i]) if name in producer})
            stack += reads[i]
    chosen = sorted(reads)
    if all(not reads[i] or reads[i][-1] < i for i in chosen):
        return [every[i] for i in chosen]
    return [every[i] for i in _sorted(chosen, reads, every)]


def _sorted(chosen: list[int], reads: dict[int, list[int]], every: list[Any]) -> list[int]:
    readers: dict[int, list[int]] = {}
    missing = {i: len(reads[i]) for i in chosen}
    for i in chosen:
        for j in reads[i]:
            readers.setdefault(j, []).append(i)
    ready = [i for i in reversed(chosen) if not missing[i]]
    result: list[int] = []
    while ready:
        i = ready.pop()
        result.append(i)
        for reader in readers.get(i, ()):
            missing[reader] -= 1
            if not missing[reader]:
                ready.append(reader)
    if len(result) < len(chosen):
        stuck = next(i for i in chosen if missing[i])
        raise Diagnostic("E0754", f"the graph has a cycle: {where(every[stuck])} needs its own result")
    return result


def read_names(node: Any) -> Iterator[str]:
    """The names that a node reads, those that its subgraphs take from outside included."""
    yield from node.input
    graphs = list(subgraphs(node))
    while graphs:
        graph = graphs.pop()
        yield from (value.name for value in graph.output)
        for inner in graph.node:
            yield from inner.input
            graphs += subgraphs(inner)


def subgraphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.type == _GRAPH:
            yield attribute.g
        elif attribute.type == _GRAPHS:
            yield from attribute.graphs
