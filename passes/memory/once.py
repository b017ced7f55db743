"""What is given once beside a text, such as an audio or a page: what no token changes is kept for the tokens that follow."""

from __future__ import annotations

from collections.abc import Collection

from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import Dim
from ...ir.graph import Graph, Initializer, Input, Node, Value
from ...ir.naming import unique
from .given import names_of


class Once:
    """Values that inputs beside the tokens decide.

    Args:
        inputs: those inputs, a row a text.
        tokens: the size of the axis of tokens.
        changing: values that tokens or their places decide.

    Attributes:
        kept: the values that are read together with those; each is a state behind a prompt.

    Raises:
        Diagnostic: E0731 for one of them that has no row for each text, or a size that it does not tell.
    """

    def __init__(self, graph: Graph, inputs: list[Input], tokens: Dim, changing: Collection[Value]) -> None:
        self.graph, self.inputs = graph, inputs
        self._values: set[Value] = set(inputs)
        for node in graph.nodes():
            sized = any(tokens.symbols & d.symbols for v in node.outputs for d in v.type.shape)
            if (
                not sized
                and any(v in self._values for v in node.inputs)
                and not any(v in changing for v in node.outputs)
            ):
                self._values.update(node.outputs)
        self.kept = [value for value in self._ordered() if any(self._is_text(node) for node, _ in value.uses)]
        self.states: list[Input] = []

    def _ordered(self) -> list[Value]:
        return [*self.inputs, *(v for node in self.graph.nodes() for v in node.outputs if v in self._values)]

    def _is_text(self, node: Node) -> bool:
        """Whether a node is of the text, not of what is given beside it, nor the end of the graph."""
        return bool(node.outputs) and node.outputs[0] not in self._values

    def with_states(self, batch: Dim) -> None:
        """A state for each value that is kept."""
        for value in self.kept:
            odd = next((d for d in value.type.shape if d.value is None and d.symbol is None), None)
            if value.type.shape[:1] != (batch,) or odd is not None:
                why = "it has no row for each text" if odd is None else f"its size {odd} is not told by what is kept"
                raise Diagnostic(
                    "E0731", f"{value.type} is computed from `{self.inputs[0].public}` and read with every token: {why}",
                    None if value.node is None else value.node.span,
                    help=None if odd is None else f"give that input a fixed size, as in `--fix {min(odd.symbols)}=3000`",
                )  # fmt: skip
            name = unique(f"given_{len(self.states)}", names_of(self.graph))
            self.states.append(self.graph.add_input(Input(value.type, name, "state", Initializer("zeros"))))

    def read_states(self) -> None:
        """Read what was kept in the place of what would be computed again, and give nothing that only the prompt tells."""
        outgoing = list(zip(self.graph.outputs, self.graph.output_info, strict=True))
        told = [(value, info) for value, info in outgoing if value not in self._values]
        self.graph.set_outputs([value for value, _ in told], [info for _, info in told])
        for value, state in zip(self.kept, self.states, strict=True):
            value.replace_uses(state)
        self.kept = list(self.states)

    def finish(self) -> None:
        """Return the states."""
        for value, state in zip(self.kept, self.states, strict=True):
            self.graph.add_output(value, state.name, "state")
