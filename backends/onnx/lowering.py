"""From the IR to ONNX nodes: walks graphs, claims composites or lowers their bodies, and leaves out what nothing needs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace

import onnx_ir as ox

from ...ir.graph import Graph, Node, Require, Value
from ...ir.op import Composite
from ...ir.requirements import requirements
from ...ir.types import TensorType
from .emit import Emitter
from .registry import claims, lowerings

# Changes a node's operands before they are lowered; a parallel scan aligns their axes.
Prepare = Callable[[Node, list[ox.Value | None]], list[ox.Value | None]]


class Lowerer(Emitter):
    """An emitter that lowers nodes of the IR, in the graph or the loop's body that it builds."""

    def __init__(self, opset: int, claims: bool = True, parent: Lowerer | None = None) -> None:
        super().__init__(opset, claims, parent)
        # What the sizes of a call must satisfy, in the main graph's symbols; None where it is proved.
        self.requires: dict[Hashable, Require | None] = {} if parent is None else parent.requires
        self._bodies: dict[Hashable, Graph] = {} if parent is None else parent._bodies
        self._live: dict[Hashable, tuple[dict[Node, frozenset[int]], set[Value]]] = (
            {} if parent is None else parent._live
        )
        self._depth: int = 0 if parent is None else parent._depth

    def walk(
        self,
        graph: Graph,
        env: dict[Value, ox.Value],
        wanted: frozenset[int] | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        """Lower the nodes on which an output depends; ``env`` maps values to their ONNX values, and is extended.

        Args:
            wanted: which outputs; None: all.
        """
        self._note_requirements(graph)
        live, _ = self._liveness(graph, wanted)
        for node in graph.nodes():
            outputs = live.get(node)
            if outputs is None:
                continue
            if self._depth == 0:
                # Within a composite's body the user's line stays to blame.
                self.root.span, self.scope = node.span, node.scope
            operands = [None if v is None else env.get(v) for v in node.inputs]
            results = self._lower(node, prepare(node, operands) if prepare else operands, outputs)
            for value, made in zip(node.outputs, results, strict=True):
                if made is not None:
                    env[value] = made
                    if made.shape is None and prepare is None:
                        self._describe(made, value)

    def inline(self, graph: Graph, xs: Sequence[ox.Value], prepare: Prepare | None = None) -> list[ox.Value]:
        """The results of a body for given operands."""
        results = self._inline(graph, xs, None, prepare)
        return [y for y in results if y is not None]

    def _inline(
        self, graph: Graph, xs: Sequence[ox.Value | None], wanted: frozenset[int] | None, prepare: Prepare | None = None
    ) -> list[ox.Value | None]:
        saved = self.sizes
        self.sizes = saved.nested(graph)
        env: dict[Value, ox.Value] = {v: x for v, x in zip(graph.inputs, xs, strict=True) if x is not None}
        self.walk(graph, env, wanted, prepare)
        self.sizes = saved
        return [env.get(v) for v in graph.outputs]

    def _lower(self, node: Node, operands: list[ox.Value | None], wanted: frozenset[int]) -> Sequence[ox.Value | None]:
        if not isinstance(node.op, Composite):
            return _several(lowerings()[node.op.name](self, node, *operands) or ())
        claim = claims().get(node.op.qualified) if self.claims else None
        claimed = claim(self, node, *operands) if claim is not None else None
        if claimed is not None:
            return _several(claimed)
        self._depth += 1
        given = [x for v, x in zip(node.inputs, operands, strict=True) if v is not None]
        results = self._inline(self._body(node), given, wanted)
        self._depth -= 1
        return results

    def _liveness(self, graph: Graph, wanted: frozenset[int] | None) -> tuple[dict[Node, frozenset[int]], set[Value]]:
        """The nodes that the wanted outputs need, each with which of its results, and the values that they read.

        It looks into bodies, so that what only an unwanted result of a composite needs is left out.
        """
        key = (id(graph), wanted)
        if key not in self._live:
            live: dict[Node, frozenset[int]] = {}
            needed = {v for i, v in enumerate(graph.outputs) if wanted is None or i in wanted}
            for node in graph.reversed_nodes():
                outputs = frozenset(i for i, v in enumerate(node.outputs) if v in needed)
                if outputs:
                    live[node] = outputs
                    needed.update(self._read(node, outputs))
            self._live[key] = live, needed
        return self._live[key]

    def _read(self, node: Node, wanted: frozenset[int]) -> Iterator[Value]:
        given = [v for v in node.inputs if v is not None]
        if not isinstance(node.op, Composite) or (self.claims and node.op.qualified in claims()):
            yield from given
            return
        body = self._body(node)
        _, needed = self._liveness(body, wanted)
        yield from (v for v, inner in zip(given, body.inputs, strict=True) if inner in needed)

    def _note_requirements(self, graph: Graph) -> None:
        for require in requirements(graph):
            left, right = self.sizes.outer(require.left), self.sizes.outer(require.right)
            if left is None or right is None:
                continue
            key = (left, require.op, right)
            if key not in self.requires:
                # What `let` names hide may still be proved: then nothing is left to check.
                proved = self.sizes.proved(left, require.op, right)
                self.requires[key] = None if proved else replace(require, left=left, right=right)

    def _body(self, node: Node) -> Graph:
        types = tuple(None if v is None else v.type for v in node.inputs)
        key = (node.op, types, tuple(node.attrs.items()))
        body = self._bodies.get(key)
        if body is None:
            body = self._bodies[key] = node.op.instantiate(types, dict(node.attrs))  # type: ignore[union-attr]
        return body

    def _describe(self, made: ox.Value, value: Value) -> None:
        """The source's name, and the shape where its symbols mean the same in the whole graph."""
        if value.name and self._depth == 0:
            made.name = self.unique(f"{self.scope}/{value.name}" if self.scope else value.name)
        if self.sizes.public(value.type.shape):
            made.shape = ox.Shape(known_type(value.type))


def _several(results: ox.Value | Sequence[ox.Value]) -> Sequence[ox.Value]:
    return [results] if isinstance(results, ox.Value) else results


def known_type(type: TensorType) -> list[int | str]:
    """A tensor type's shape as ONNX dims: integers, and the printed expression of everything else."""
    return [str(d) if d.value is None else d.value for d in type.shape]
