"""From the IR to ONNX nodes: the walk of :mod:`tessera.backends.lower` with ONNX's tables, names and shapes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

import onnx_ir as ox

from ...ir.graph import Graph, Node, Require, Value
from ...ir.requirements import requirements
from ...ir.types import TensorType
from ..lower import Plan, Walk
from .cached import CACHED, cached_attention
from .contrib import LOWERINGS as contrib_lowerings
from .contrib import refused
from .emit import Emitter
from .registry import claimed, claims, lowerings
from .sizes import Sizes

# Composites that become an op of ONNX Runtime's own where that was asked for.
_ASKED_FOR: dict[str, Callable[..., ox.Value | Sequence[ox.Value]]] = {**contrib_lowerings, CACHED: cached_attention}
# Changes a node's operands before they are lowered; a parallel scan aligns their axes.
Prepare = Callable[[Node, list[ox.Value | None]], list[ox.Value | None]]


class Lowerer(Emitter, Walk[ox.Value]):
    """An emitter that lowers nodes of the IR, in the graph or the loop's body that it builds.

    Args:
        claims: whether composites may become one ONNX op; else their bodies are lowered.
        contrib: whether mixtures of experts become ONNX Runtime's own op.
        bits: of their matrices; as they are when None.
        cached: whether attention over a cache becomes ONNX Runtime's own op.
    """

    sizes: Sizes

    def __init__(
        self, opset: int, claims: bool = True, parent: Lowerer | None = None, contrib: bool = False, bits: int | None = None,
        cached: bool = False,
    ) -> None:  # fmt: skip
        Emitter.__init__(self, opset, parent)
        self.bits: int | None = bits if parent is None else parent.bits
        self.cached = cached if parent is None else parent.cached
        if parent is None:
            own = {*(contrib_lowerings if contrib else ()), *((CACHED,) if cached else ())}

            def chosen(node: Node) -> bool:
                return node.op.qualified in own or (claims and claimed(node, opset))

            Walk.__init__(self, Plan(chosen, (lambda node: refused(node, bits)) if contrib else lambda node: None))
        else:
            Walk.__init__(self, parent.plan, parent.depth)
        # What the sizes of a call must satisfy, in the main graph's symbols; None where it is proved.
        self.requires: dict[Hashable, Require | None] = {} if parent is None else parent.requires
        self._prepare: Prepare | None = None

    def at(self, node: Node) -> None:
        self.root.span, self.scope = node.span, node.scope

    def operands(self, node: Node, env: Mapping[Value, ox.Value]) -> list[ox.Value | None]:
        operands = super().operands(node, env)
        return operands if self._prepare is None else self._prepare(node, operands)

    def core(self, node: Node, operands: list[ox.Value | None]) -> Sequence[ox.Value | None]:
        return _several(lowerings()[node.op.name](self, node, *operands))

    def claim(self, node: Node, operands: list[ox.Value | None]) -> Sequence[ox.Value | None]:
        # The plan claims these only where they were asked for.
        table = _ASKED_FOR if node.op.qualified in _ASKED_FOR else claims()
        self._note_body(self.plan.body(node))
        return _several(table[node.op.qualified](self, node, *operands))

    def bind(self, node: Node, results: Sequence[ox.Value | None], env: dict[Value, ox.Value]) -> None:
        super().bind(node, results, env)
        for value, made in zip(node.outputs, results, strict=True):
            if made is not None and made.shape is None and self._prepare is None:
                self._describe(made, value)

    def walk(self, graph: Graph, env: dict[Value, ox.Value], wanted: frozenset[int] | None = None) -> None:
        self._note_requirements(graph)
        super().walk(graph, env, wanted)

    def aligned(self, body: Graph, operands: Sequence[ox.Value], prepare: Prepare) -> list[ox.Value]:
        """The results of a body whose nodes' operands are prepared; their shapes are then not the program's."""
        self._prepare = prepare
        results = self.inline(body, operands)
        self._prepare = None
        return results

    def _note_body(self, body: Graph) -> None:
        """What a claimed composite requires, whose body nobody walks."""
        around = self.sizes
        self.sizes = around.nested(body)
        self._note_requirements(body)
        for inner in self.plan.within(body):
            self._note_body(inner)
        self.sizes = around

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

    def _describe(self, made: ox.Value, value: Value) -> None:
        """The source's name, and the shape where its symbols mean the same in the whole graph."""
        if value.name and self.depth == 0:
            made.name = self.unique(f"{self.scope}/{value.name}" if self.scope else value.name)
        if self.sizes.public(value.type.shape):
            made.shape = ox.Shape(known_type(value.type))


def _several(results: ox.Value | Sequence[ox.Value]) -> Sequence[ox.Value]:
    return [results] if isinstance(results, ox.Value) else results


def known_type(type: TensorType) -> list[int | str]:
    """A tensor type's shape as ONNX dims: integers, and the printed expression of everything else."""
    return [str(d) if d.value is None else d.value for d in type.shape]
