"""What values that depend on places alone are, as numbers: computed for some number of tokens that shows what they do.

Positions that a model counts together from a padding mask are still 0, 1, 2, …; a mask that an exporter wrote for texts packed
behind one another is all true for one text; what is left of a causal mask is a triangle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ...ir.analysis.evaluate import Array, evaluate_node
from ...ir.dims.dim import Dim
from ...ir.graph import Graph, Node, Value
from ...ir.op import Composite

if TYPE_CHECKING:
    import numpy as np

# How many tokens are looked at; and how many at most, one by one and in pairs, where a number in the way says that fewer would not
# show what it does.
_TOKENS, _MOST, _MOST_PAIRS = 24, 1 << 14, 1100
# A float that hides what it is added to.
_LOW = -1e4


class Known:
    """Numbers for the values of a graph that nothing but places decides.

    Args:
        tokens: the size of the axis of tokens.
        batch: the number of rows.
        masks, positions: inputs [batch, tokens], of texts without padding here.
    """

    def __init__(
        self, graph: Graph, tokens: Dim, batch: Dim, masks: Collection[Value], positions: Collection[Value]
    ) -> None:  # fmt: skip
        self._graph, self._tokens, self._batch = graph, tokens, batch
        self._masks, self._positions = masks, positions
        self._arrays: dict[tuple[Value, int], Array] = {}

    def line(self, value: Value) -> tuple[int, int] | None:
        """(first, step) of integers [first, first + step, …] along the tokens, the same in all other axes; else None."""
        if value.type.dtype.kind not in ("int", "bool"):
            return None
        chain = self._chain(value)
        pairs = any(sum(d is self._tokens for d in v.type.shape) > 1 for node in chain or () for v in node.outputs)
        found = self._array(value, chain, _MOST_PAIRS if pairs else _MOST)
        if found is None:
            return None
        axis = next(i for i, d in enumerate(value.type.shape) if d is self._tokens)
        rows = found.swapaxes(axis, -1).reshape(-1, found.shape[axis])
        first, step = int(rows[0, 0]), int(rows[0, 1]) - int(rows[0, 0])
        return (first, step) if all((row == _counted(first, step, row)).all() for row in rows) else None

    def seen(self, mask: Value | None, bias: Value | None) -> np.ndarray | None:
        """Which keys [T, T] the queries of an attention see by its mask and bias; None where numbers do not tell."""
        import numpy as np

        found: Any = np.ones((1, 1), bool)
        for value in (mask, bias):
            if value is None:
                continue
            array = self._array(value, self._chain(value), _MOST_PAIRS)
            if array is None:
                return None
            each = array if array.dtype.kind == "b" else array > _LOW
            first = each.reshape(-1, *each.shape[-2:])[0]
            if not (each == first).all():
                return None
            found = found & first
        return np.asarray(found)

    def _array(self, value: Value, chain: list[Node] | None, most: int) -> Array | None:
        """Its numbers for more tokens than any number in its way, or None."""
        if chain is None:
            return None
        needed = max((n + 9 for node in chain for n in _numbers(node.attrs.values())), default=_TOKENS)
        count = self._allowed(max(_TOKENS, needed))
        sizes = self._sizes(count)
        if count > most or any(d.symbols - sizes.keys() for node in chain for v in node.outputs for d in v.type.shape):
            return None
        for node in chain:
            given = [self._leaf(v, count) if v.node is None else self._arrays[v, count] for v in node.inputs if v is not None]
            if (node.output, count) not in self._arrays:
                for out, array in zip(node.outputs, evaluate_node(node, given, sizes), strict=True):
                    self._arrays[out, count] = array
        return self._leaf(value, count) if value.node is None else self._arrays[value, count]

    def _sizes(self, count: int) -> dict[str, int]:
        return dict.fromkeys(self._batch.symbols, 1) | dict.fromkeys(self._tokens.symbols, count)

    def _allowed(self, count: int) -> int:
        """That many tokens, or as many as the model takes."""
        needs = [r for r in self._graph.requires if (r.left.symbols | r.right.symbols) <= self._sizes(count).keys()]
        while count > 1 and not all(need.holds(self._sizes(count)) for need in needs):
            count -= 1
        return count

    def _leaf(self, value: Value, count: int) -> Array:
        import numpy as np

        row = np.ones(count) if value in self._masks else np.arange(count)
        return row[None].astype(value.type.dtype.numpy)

    def _chain(self, value: Value) -> list[Node] | None:
        """The nodes that it is computed by, in order; None where something else than places has a say."""
        found: set[Node] = set()
        pending = [value]
        while pending:
            here = pending.pop()
            if here.node is None and here not in self._masks and here not in self._positions:
                return None
            node = here.node
            if node is None or node in found:
                continue
            if isinstance(node.op, Composite) or node.bodies:
                return None
            found.add(node)
            pending += [v for v in node.inputs if v is not None]
        return [node for node in self._graph.nodes() if node in found]


def _counted(first: int, step: int, like: np.ndarray) -> np.ndarray:
    import numpy as np

    return first + step * np.arange(len(like))


def _numbers(values: Iterable[Any]) -> Iterator[int]:
    """The magnitudes of the numbers among attributes, in lists too."""
    for value in values:
        if isinstance(value, tuple):
            yield from _numbers(value)
        elif isinstance(value, Dim):
            yield from () if value.value is None else (abs(value.value),)
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9:
            yield int(abs(value))
