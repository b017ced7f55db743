"""Which keys a query of attention sees: its mask and bias are computed, at sizes that show it, whatever they are made of.

Comparisons of positions, `where`, products, running sums, tables, minima, slices of larger tables: all of them are numbers once
sizes and inputs are chosen. What a network learns (products of features and weights) is finite: random numbers stand for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..dims.dim import Dim
from ..graph import Graph, Input, Node, Parameter, Value
from ..op import Composite
from .bounds import Bound, index_bounds
from .evaluate import Array, evaluate_node

# A key whose score is so much below the best one that it has no share in f32.
_HIDDEN = -50.0
# A number that hides when it is added, or times what is.
_LARGE = 1e3
# How many tokens are looked at, and how many at most where a number in the mask says that fewer would not show it.
_TOKENS, _MOST = 24, 1100
# The greatest size that is tried to have so many tokens.
_LONGEST = 1 << 16
# What inputs hold, one after the other: masks of both kinds, lengths, positions.
_CONTENTS = ("ones", "zeros", "lengths", "places")


@dataclass(frozen=True)
class Sight:
    """What the queries of an attention see.

    Args:
        one_way: whether some query sees an earlier token that does not see it, as in causal attention.
        unknown: why that cannot be told; None where it can.
        given: a bias of pairs of places that is an input, and is taken for one that says how far apart they are.
    """

    one_way: bool
    unknown: str | None = None
    given: str | None = None


class Sights:
    """Those of a graph's attentions, remembered for each mask and bias."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._known: dict[tuple[Value | None, Value | None, Dim, Dim], Sight] = {}
        self._bounds: dict[Input, Bound | None] | None = None
        self._learnt = _learnt(graph)

    def of(self, attention: Node) -> Sight:
        """Of a node of ``std.attention.attention``, whose operands are q, k, v, mask, bias."""
        q, k, _, mask, bias = attention.inputs
        assert q is not None
        assert k is not None
        causal = bool(attention.attrs["causal"])
        masks, biases = _of_pairs(mask, "logical_and"), _of_pairs(bias, "add")
        if causal or not (masks or biases):
            return Sight(causal)
        key = (mask, bias, q.type.shape[2], k.type.shape[2])
        if key not in self._known:
            self._known[key] = self._look(masks, biases, *key[2:])
        return self._known[key]

    def _look(self, masks: list[Value], biases: list[Value], queries: Dim, keys: Dim) -> Sight:
        nodes, leaves = self._slice([*masks, *biases])
        pairs = [v for v in leaves if isinstance(v, Input) and v.type.rank > 1 and v.type.shape[-2:] == (queries, keys)]
        for leaf in pairs if (queries, keys) != (1, 1) else ():
            if not _is_bias_of_heads(leaf):
                return Sight(False, f"the input `{leaf.name}` says it for each pair of places")
        given = pairs[0].name if pairs else None
        if self._bounds is None:
            self._bounds = index_bounds(self.graph)
        told = False
        for tokens in _counts(nodes):
            sizes = self._sizes(queries, tokens)
            for contents in _CONTENTS if sizes is not None else ():
                assert sizes is not None
                run = _Run(self._learnt)
                try:
                    run.start(leaves, self._bounds, contents, queries.evaluate(sizes), sizes)
                    run.through(nodes, sizes)
                    seen = _seen(run.masks(masks), [run.known[v] for v in biases], queries.evaluate(sizes))
                except Exception:  # numbers that do not fit one another, in whatever op: other ones may
                    continue
                if run.unknown is not None:
                    return Sight(False, run.unknown)
                if _one_way(seen):
                    return Sight(True)
                told |= bool((seen.sum(2) > 1).any())
                if not any(isinstance(leaf, Input) for leaf in leaves):
                    break
        return Sight(False, None if told else "its mask could not be computed at any sizes that were tried", given)

    def _slice(self, ends: list[Value]) -> tuple[list[Node], list[Value]]:
        """The nodes that values are computed by, in order, and the inputs and parameters they are computed from."""
        found: set[Node] = set()
        leaves: dict[Value, None] = {}
        pending = list(ends)
        while pending:
            value = pending.pop()
            node = value.node
            if node is None:
                leaves[value] = None
            elif node not in found:
                found.add(node)
                if not _is_learnt(node, self._learnt):
                    pending += [v for v in node.inputs if v is not None]
        return [node for node in self.graph.nodes() if node in found], list(leaves)

    def _sizes(self, queries: Dim, tokens: int) -> dict[str, int] | None:
        """Sizes at which there are ``tokens`` tokens or a little more, and which the graph takes."""
        graph = self.graph
        free = graph.symbols()
        for extra in range(tokens + 1):
            for others, last in product((2, 3, tokens + extra), (False, True)):
                choice = {symbol: self._within(symbol, others) for symbol in free}
                choice |= self._counting(graph.expand_lets(queries), tokens + extra, choice, last)
                values = graph.sizes(choice)
                count = queries.evaluate(values)
                enough = count >= tokens or self._most(queries, values)
                if enough and count > 0 and all(r.holds(values) for r in graph.requires):
                    return values
        return None

    def _within(self, symbol: str, size: int) -> int:
        least, most = self.graph.facts.get(symbol, (1, None))
        size = max(size, 1 if least is None else least)
        return size if most is None else min(size, most)

    def _counting(self, queries: Dim, tokens: int, others: Mapping[str, int], last: bool) -> dict[str, int]:
        """The sizes that the number of tokens depends on, all of them one: the least with which there are enough, or the ``last``
        before there are more."""
        named = sorted(queries.symbols)

        def choice(size: int) -> dict[str, int]:
            return {symbol: self._within(symbol, size) for symbol in named}

        def few(size: int) -> bool:
            return queries.evaluate({**others, **choice(size)}) < tokens + last

        # A token may stand for hundreds of samples of a sound.
        low, high = 0, tokens
        while few(high) and high < _LONGEST and named:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if few(middle) else (low, middle)
        return choice(high - last)

    def _most(self, queries: Dim, values: Mapping[str, int]) -> bool:
        """Whether there can be no more tokens: every size that decides it is the greatest that it may be."""
        symbols = self.graph.expand_lets(queries).symbols
        return all(values[symbol] == self.graph.facts.get(symbol, (1, None))[1] for symbol in symbols)


class _Run:
    """One computation: values that are known, which of them are learnt or a parameter's, and why the result says nothing."""

    def __init__(self, learnt: set[Value]) -> None:
        import numpy as np

        self.known: dict[Value, Array] = {}
        self.unknown: str | None = None
        self._learnt, self._open, self._doubtful = learnt, set[Value](), set[Value]()
        self._rng = np.random.default_rng(0)

    def start(
        self, leaves: Iterable[Value], bounds: Mapping[Input, Bound | None], contents: str, tokens: int, sizes: dict[str, int]
    ) -> None:  # fmt: skip
        """Give inputs and parameters what they hold. A parameter's numbers are not known: what they decide is not, either."""
        import numpy as np

        for leaf in leaves:
            shape = [d.evaluate(sizes) for d in leaf.type.shape]
            if isinstance(leaf, Parameter):
                self._open.add(leaf)
                if leaf.type.dtype.kind == "bool":
                    self._doubtful.add(leaf)
                drawn = self._rng.standard_normal(shape) if leaf.type.dtype.kind == "float" else np.zeros(shape)
            else:
                drawn = self._contents(
                    contents, shape, tokens, bounds.get(leaf) if isinstance(leaf, Input) else None, sizes
                )
            self.known[leaf] = drawn.astype(leaf.type.dtype.numpy)

    def _drawn(self, value: Value, shape: list[int]) -> Array:
        """What is learnt is finite, and what it chooses are places."""
        import numpy as np

        if _is_int(value):
            return np.broadcast_to(np.arange(shape[-1] if shape else 1), shape)
        return self._rng.standard_normal(shape)

    @staticmethod
    def _contents(contents: str, shape: list[int], tokens: int, bound: Bound | None, sizes: dict[str, int]) -> Array:
        import numpy as np

        number = {"ones": 1, "zeros": 0, "lengths": tokens}.get(contents)
        line = np.arange(shape[-1] if shape else 1) if number is None else np.array(number)
        drawn = np.broadcast_to(line, shape) if shape else line.reshape(-1)[0]
        if bound is None or bound.limit is None:
            return np.asarray(drawn)
        limit = bound.limit.evaluate(sizes) if isinstance(bound.limit, Dim) else bound.limit
        return np.asarray(drawn % max(1, limit))

    def through(self, nodes: Iterable[Node], sizes: dict[str, int]) -> None:
        for node in nodes:
            self._node(node, sizes)

    def _node(self, node: Node, sizes: dict[str, int]) -> None:
        if _is_learnt(node, self._learnt):
            self._open.update(node.outputs)
            for value in node.outputs:
                shape = [d.evaluate(sizes) for d in value.type.shape]
                self.known[value] = self._drawn(value, shape).astype(value.type.dtype.numpy)
            return
        given = [v for v in node.inputs if v is not None]
        self._doubt(node, given)
        if isinstance(node.op, Composite):
            self._body(node, node.op, sizes)
        else:
            arrays = [self.known[v] for v in given]
            self.known.update(zip(node.outputs, evaluate_node(node, arrays, sizes), strict=True))

    def _doubt(self, node: Node, given: list[Value]) -> None:
        """What is compared with numbers that are not known, or counted in them, is in doubt; that matters where it hides."""
        floats = [v for v in node.outputs if v.type.dtype.kind == "float"]
        if any(v in self._open for v in given):
            self._open.update(node.outputs)
            counts = floats and any(v in self._open and v.type.dtype.kind == "int" for v in given)
            if (counts and node.op.qualified == "cast") or any(v.type.dtype.kind == "bool" for v in node.outputs):
                self._doubtful.update(node.outputs)
        if any(v in self._doubtful for v in given):
            self._doubtful.update(node.outputs)
            hides = any(v.type.dtype.kind == "float" and (abs(self.known[v]) >= _LARGE).any() for v in given)
            if floats and hides and self.unknown is None:
                self.unknown = f"`{node.op.name}` decides it by numbers that the model learns or that a file holds"

    def masks(self, values: list[Value]) -> list[Array]:
        """Masks that were computed."""
        if any(v in self._doubtful for v in values) and self.unknown is None:
            self.unknown = "its mask is made of numbers that the model learns or that a file holds"
        return [self.known[v] for v in values]

    def _body(self, node: Node, op: Composite, sizes: dict[str, int]) -> None:
        body = op.instantiate([None if v is None else v.type for v in node.inputs], dict(node.attrs))
        given = [v for v in node.inputs if v is not None]
        inner = _Run(_learnt(body, [b for v, b in zip(given, body.inputs, strict=True) if v in self._learnt]))
        inner.known.update(zip(body.inputs, (self.known[v] for v in given), strict=True))
        for mine, theirs in ((self._open, inner._open), (self._doubtful, inner._doubtful)):
            theirs.update(b for v, b in zip(given, body.inputs, strict=True) if v in mine)
        inner.through(body.nodes(), body.sizes(sizes))
        if self.unknown is None:
            self.unknown = inner.unknown
        self.known.update(zip(node.outputs, (inner.known[v] for v in body.outputs), strict=True))


def _learnt(graph: Graph, given: Iterable[Value] = ()) -> set[Value]:
    """The values that features or weights are in: floats among inputs and parameters, and what is computed from them."""
    found = (
        {v for v in (*graph.inputs, *graph.params.values()) if v.type.dtype.kind == "float"}
        if not given
        else set(given)
    )
    for node in graph.nodes():
        if any(v in found for v in node.inputs):
            found.update(node.outputs)
    return found


def _is_learnt(node: Node, learnt: set[Value]) -> bool:
    """Whether a node is a product of what is learnt, which says nothing of places; or chooses places by it, as a reduction of
    tokens does, which leaves them in their order where order means something."""
    chooses = isinstance(node.op, Composite) and any(map(_is_int, node.outputs))
    return (chooses or node.op.family == "contraction") and any(v in learnt for v in node.inputs)


def _of_pairs(value: Value | None, joined: str) -> list[Value]:
    """The parts of a mask or a bias, all of which hold or are added, that have a row for each query."""
    if value is None or value.type.rank < 2 or value.type.shape[-2] == 1:
        return []
    if value.node is not None and value.node.op.qualified == joined:
        return [part for operand in value.node.inputs for part in _of_pairs(operand, joined)]
    return [value]


def _is_bias_of_heads(value: Value) -> bool:
    """Whether a number for each head, the same in all rows: of how far apart places are, not of who may see whom."""
    shape = value.type.shape
    return value.type.dtype.kind == "float" and len(shape) == 4 and shape[0] == 1 and shape[1] != 1


def _is_int(value: Value) -> bool:
    return value.type.dtype.kind == "int"


def _counts(nodes: Sequence[Node]) -> list[int]:
    """Numbers of tokens that show what a mask does: more than each number in it, be it a window, a chunk, or a block."""
    numbers = {
        abs(int(n)) for node in nodes for n in _numbers(list(node.attrs.values())) if n == n and abs(n) <= _MOST - 9
    }
    return [_TOKENS, *sorted(n + 9 for n in numbers if n + 9 > _TOKENS)]


def _numbers(values: Iterable[Any]) -> Iterator[float]:
    for value in values:
        if isinstance(value, (list, tuple)):
            if len(value) <= 8:
                yield from _numbers(value)
        elif isinstance(value, Dim):
            yield from () if value.value is None else (value.value,)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield value


def _seen(masks: list[Array], biases: list[Array], tokens: int) -> Array:
    """[rows, T, T]: whether any head of a query sees a key."""
    import numpy as np

    scores = sum((bias.astype(np.float64) for bias in biases), np.zeros((1, 1, tokens, tokens)))
    for mask in masks:
        scores = np.where(mask, scores, -np.inf)
    with np.errstate(invalid="ignore"):
        return np.asarray((scores - scores.max(-1, keepdims=True) > _HIDDEN).any(1))


def _one_way(seen: Array) -> bool:
    """Whether a token does not see one behind it that sees it. Those that nobody sees are padding."""
    import numpy as np

    live = seen.any(2) & seen.any(1)
    missing = ~seen & seen.swapaxes(1, 2) & live[:, :, None] & live[:, None, :]
    return bool((missing & np.triu(np.ones(seen.shape[1:], bool), 1)).any())
