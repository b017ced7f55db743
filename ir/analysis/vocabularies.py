"""Ids fit what they choose from: tables of as many rows, and no ids of another tokenizer beside them."""

from __future__ import annotations

from ..diagnostics import Diagnostic, Note
from ..graph import Graph, Input, Node, Value
from ..op import Trait, has


def check_vocabularies(graph: Graph) -> None:
    """Follow ids from the inputs that say whose they are, through all that keeps them as they are.

    Raises:
        Diagnostic: E1011 with both places.
    """
    source: dict[Value | None, Input] = {value: value for value in graph.inputs if value.vocabulary is not None}
    if not source:
        return
    for node in graph.nodes():
        indexed = has(node, Trait.INDEXES) and len(node.inputs) > 1
        table, places = node.inputs[:2] if indexed else (None, None)
        if table is not None and places in source:
            _check_rows(node, table, source[places])
        kept = [source[value] for value in ((table,) if indexed else node.inputs) if value in source]
        if not kept or not (has(node, Trait.KEEPS) or has(node, Trait.MOVES)):
            continue
        first = kept[0]
        for other in kept[1:]:
            _check_same(node, first, other)
        source[node.outputs[0]] = first


def _check_rows(node: Node, table: Value, ids: Input) -> None:
    """Raises E1011 for a table of another number of rows along the axis that ids index."""
    vocabulary = ids.vocabulary
    axis = node.attrs.get("axis")
    shape = table.type.shape
    if vocabulary is None or not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
        return
    rows = shape[axis].value
    if rows is not None and rows != vocabulary.size:
        raise Diagnostic(
            "E1011", f"`{ids.name}` holds ids {vocabulary}, and chooses among {rows} here", node.span,
            [Note("the ids come from here", ids.span)],
            f"make the table of {vocabulary.size} rows; a vocabulary that is filled up to {rows} says so: `round multiple(of=…)`",
        )  # fmt: skip


def _check_same(node: Node, first: Input, other: Input) -> None:
    """Raises E1011 where ids of two vocabularies come together."""
    ours, theirs = first.vocabulary, other.vocabulary
    assert ours is not None
    assert theirs is not None
    if ours != theirs or ours.name != theirs.name:
        raise Diagnostic(
            "E1011", f"ids {ours} and ids {theirs} come together", node.span,
            [Note(f"`{first.name}` comes from here", first.span), Note(f"`{other.name}` comes from here", other.span)],
            "ids of another tokenizer mean other texts: decode and encode them again",
        )  # fmt: skip
