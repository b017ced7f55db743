"""What legal IR is. Run after every pass in tests and under ``--verify-each``: a failure is a bug in a pass, not in a program."""

from __future__ import annotations

from .diagnostics import Diagnostic
from .dims import Dim
from .graph import Graph, Node, Parameter, Value
from .op import Op
from .types import TensorType


class VerifyError(Exception):
    """The graph breaks an invariant. Names the node and its source place."""


def verify(graph: Graph) -> None:
    """Check links, order, def-use chains, inferred types and symbols of a graph and the bodies of its loops.

    Raises:
        VerifyError: at the first broken invariant.
    """
    defined: set[Value] = set(graph.inputs) | set(graph.params.values())
    known = {s for v in graph.inputs for d in v.type.shape for s in d.symbols} | set(graph.lets)
    for name, param in graph.params.items():
        _need(isinstance(param, Parameter) and param.full_name == name, f"parameter {name} is filed under another name")
    previous: Node | None = None
    count = 0
    for node in graph.nodes():
        count += 1
        _need(node.graph is graph and node.prev is previous, f"{_at(node)}: broken links")
        previous = node
        for i, value in enumerate(node.inputs):
            if value is None:
                continue
            _need(value in defined, f"{_at(node)}: input {i} ({value!r}) is not defined before its use")
            _need((node, i) in value.uses, f"{_at(node)}: the use of {value!r} is not recorded")
        _verify_types(node)
        for i, value in enumerate(node.outputs):
            _need(value.node is node and value.index == i, f"{_at(node)}: output {i} does not point back")
            for use, j in value.uses:
                _need(j < len(use.inputs) and use.inputs[j] is value, f"{_at(node)}: a recorded use of output {i} is stale")
            for symbol in _symbols(value.type):
                _need(symbol in known, f"{_at(node)}: the dimension `{symbol}` of output {i} is not bound by any input")
            defined.add(value)
        if node.body is not None:
            verify_body(node.body, known)
    _need(count == len(graph), f"the graph counts {len(graph)} nodes but links {count}")
    for value, info in zip(graph.end.inputs, graph.output_info, strict=True):
        _need(value is not None and value in defined, f"the output `{info.name}` is not defined")


def verify_body(body: Graph, known: set[str]) -> None:
    """A loop's body: as :func:`verify`, with the symbols of the graph around it."""
    saved = dict(body.lets)
    try:
        body.lets.update((s, Dim([])) for s in known if s not in body.lets)
        verify(body)
    finally:
        body.lets.clear()
        body.lets.update(saved)


def _verify_types(node: Node) -> None:
    if not isinstance(node.op, Op) and node.op is None:
        raise VerifyError("the terminator is linked as a node")
    attrs = dict(node.attrs)
    try:
        types = node.op.infer([None if v is None else v.type for v in node.inputs], attrs, span=node.span)
    except Diagnostic as error:
        raise VerifyError(f"{_at(node)}: {error.message}") from error
    _need(types == [v.type for v in node.outputs], f"{_at(node)}: has {[str(v.type) for v in node.outputs]}, infers {list(map(str, types))}")
    _need(attrs == node.attrs, f"{_at(node)}: attributes are not canonical: {node.attrs}, should be {attrs}")


def _symbols(type: TensorType) -> set[str]:
    return {s for d in type.shape for s in d.symbols}


def _at(node: Node) -> str:
    return f"{node.op.qualified if node.op else 'return'} at {node.span}" if node.span else repr(node)


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise VerifyError(message)
