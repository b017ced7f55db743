"""What legal IR is. Run after every pass in tests and under ``--verify-each``: a failure is a bug in a pass, not in a program."""

from __future__ import annotations

from typing import Any

from .compare import same_attr
from .diagnostics import Diagnostic
from .dims.dim import Dim
from .equalities import infer_within, same_within
from .graph import Graph, Node, Parameter, Value
from .program import Program
from .types import TensorType
from .wiring import check


class VerifyError(Exception):
    """The graph breaks an invariant. Names the node and its source place."""


def verify(graph: Graph) -> None:
    """Check links, order, def-use chains, inferred types, names and symbols of a graph and of its regions.

    Raises:
        VerifyError: at the first broken invariant.
    """
    _verify_names(graph)
    _verify(graph, frozenset())


def verify_program(program: Program) -> None:
    """Check every function of a program, what they share, and how flows wire them.

    Raises:
        VerifyError: at the first broken invariant.
    """
    for graph in program.functions.values():
        verify(graph)
    try:
        check(program)
    except Diagnostic as error:
        raise VerifyError(f"the program {program.name}: {error.message}") from error


def _verify(graph: Graph, around: frozenset[str]) -> None:
    """``around``: the dimension symbols of the graph that this one is a region of; it shares the definitions."""
    known = {*around, *(s for v in graph.inputs for s in _symbols(v.type))}
    for name, dim in graph.lets.items():
        if name in around:
            continue
        _need(name not in known, f"`let {name}` names a symbol that is bound already")
        _need(dim.symbols <= known, f"`let {name} = {dim}` uses a symbol that is not bound before it")
        known.add(name)
    defined: set[Value] = {*graph.inputs, *graph.params.values()}
    for value in defined:
        _verify_uses(value, graph, repr(value))
    previous: Node | None = None
    count = 0
    for node in graph.nodes():
        count += 1
        _need(node.graph is graph and node.prev is previous, f"{_at(node)}: broken links")
        _need(node.op is not None, "the terminator is linked as a node")
        previous = node
        _verify_inputs(node, defined)
        _verify_types(node)
        loose = _attr_symbols(node.attrs) - known
        _need(not loose, f"{_at(node)}: an attribute uses the dimension {sorted(loose)}, which no input binds")
        for i, value in enumerate(node.outputs):
            _need(value.node is node and value.index == i, f"{_at(node)}: output {i} does not point back")
            _verify_uses(value, graph, f"{_at(node)}: output {i}")
            loose = _symbols(value.type) - known
            _need(not loose, f"{_at(node)}: output {i} has the dimension {sorted(loose)}, which no input binds")
            defined.add(value)
        for region in node.bodies:
            _verify(region, frozenset(known))
    _need(count == len(graph), f"the graph counts {len(graph)} nodes but links {count}")
    _need(graph.end.prev is None and graph.end.next is None, "the terminator is linked as a node")
    _need(len(graph.end.inputs) == len(graph.output_info), "outputs and their names differ in number")
    _verify_inputs(graph.end, defined)
    _need(None not in graph.end.inputs, "an output is missing")


def _verify_names(graph: Graph) -> None:
    for name, param in graph.params.items():
        _need(isinstance(param, Parameter) and param.full_name == name, f"parameter {name} is filed under another name")
    for inputs in ([v.name for v in graph.inputs], [v.public for v in graph.inputs]):
        _need(len(set(inputs)) == len(inputs), f"two inputs have one name: {inputs}")
    infos = graph.output_info
    for outputs in ([(info.role, info.name) for info in infos], [(info.role, info.public) for info in infos]):
        _need(len(set(outputs)) == len(outputs), f"two outputs have one name: {outputs}")


def _verify_inputs(node: Node, defined: set[Value]) -> None:
    for i, value in enumerate(node.inputs):
        if value is not None:
            _need(value in defined, f"{_at(node)}: input {i} ({value!r}) is not defined before its use")
            _need((node, i) in value.uses, f"{_at(node)}: the use of {value!r} is not recorded")


def _verify_uses(value: Value, graph: Graph, what: str) -> None:
    for user, i in value.uses:
        fresh = user.graph is graph and i < len(user.inputs) and user.inputs[i] is value
        _need(fresh, f"{what}: a recorded use by {_at(user)} is stale")


def _verify_types(node: Node) -> None:
    attrs = dict(node.attrs)
    try:
        types = infer_within(node.graph, node.op, node.inputs, attrs, span=node.span)
    except Diagnostic as error:
        raise VerifyError(f"{_at(node)}: {error.message}") from error
    has = [v.type for v in node.outputs]
    assert node.graph is not None
    alike = len(types) == len(has) and all(same_within(node.graph, a, b) for a, b in zip(types, has, strict=True))
    _need(alike, f"{_at(node)}: has {list(map(str, has))}, infers {list(map(str, types))}")
    _need(same_attr(attrs, node.attrs), f"{_at(node)}: attributes {node.attrs} are not canonical, should be {attrs}")


def _symbols(type: TensorType) -> set[str]:
    return {s for d in type.shape for s in d.symbols}


def _attr_symbols(value: Any) -> set[str]:
    if isinstance(value, Dim):
        return set(value.symbols)
    if isinstance(value, (tuple, dict)):
        return set().union(*map(_attr_symbols, value.values() if isinstance(value, dict) else value))
    return set()


def _at(node: Node) -> str:
    name = node.op.qualified if node.op is not None else "return"
    return f"{name} at {node.span}" if node.span else name


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise VerifyError(message)
