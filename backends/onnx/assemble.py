"""From a module to an ONNX model: inputs, weights, nodes, outputs, metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import onnx_ir as ox

from ...ir.analysis.bounds import index_limits
from ...ir.analysis.room import count_limits
from ...ir.binding import axis_symbol, encode_dim, solve_inputs
from ...ir.diagnostics import Diagnostic
from ...ir.graph import Graph, Input, Module, Output, Parameter, Value
from .cached import with_cached
from .lowering import Lowerer, known_type
from .sizes import Sizes
from .weights import Weight

if TYPE_CHECKING:
    import numpy as np

    from ...runtime.weights.bind import LazyTensor

OPSETS = range(18, 25)
# The oldest IR version that each opset came with, so that old readers accept the file.
_IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12}


def build_model(
    module: Module, weights: Mapping[str, LazyTensor], *, opset: int, claims: bool, contrib: bool, bits: int | None, cached: bool,
    metadata: Mapping[str, str],
) -> ox.Model:
    """See :func:`tessera.backends.onnx.build`; ``weights`` holds a tensor for every parameter."""
    if opset not in OPSETS:
        raise Diagnostic(
            "E0801", f"ONNX opset {opset} is not supported: Tessera writes opsets {OPSETS[0]} to {OPSETS[-1]}",
            help="write `target onnx(opset=24)`",
        )  # fmt: skip
    graph = with_cached(module.graph) if cached else module.graph
    e = Lowerer(opset, claims, contrib=contrib, bits=bits, cached=cached)
    problem = e.plan.refused(graph) if contrib else None
    if problem is not None:
        raise problem
    env: dict[Value, ox.Value] = {}
    inputs: list[ox.Value] = []
    for source in graph.inputs:
        made = e.value(source.public, source.type.dtype, known_type(source.type))
        inputs.append(made)
        env[source] = made
    # Taken first, so that no inner value has the name of an output. A state is an input and an output of one name, but ONNX
    # has one name space for both; only what is given back as it came has the name of the input.
    outgoing = list(zip(graph.outputs, graph.output_info, strict=True))
    names = [i.public if _given_back(v, i) else e.unique(i.public) for v, i in outgoing]
    axes = {axis_symbol(v.name, i): (env[v], i) for v in graph.inputs for i in range(v.type.rank)}
    e.sizes = Sizes(e, graph, {name: at.dim for name, at in solve_inputs(graph).items()}, axes)
    for param in graph.params.values():
        env[param] = _parameter(e, param, weights[param.full_name])
    e.walk(graph, env)
    outputs = _outputs(e, outgoing, env, names)
    model_graph = ox.Graph(
        inputs, outputs, nodes=e.nodes, opset_imports={"": opset, **dict.fromkeys(e.domains, 1)}, name=module.name, doc_string=module.doc or None
    )
    _drop_unused(model_graph)
    for value in _initializers(model_graph):
        model_graph.register_initializer(value)
    _drop_types(model_graph)
    props = _metadata(module, names, e) | _in_place(graph, env, outputs) | dict(metadata)
    return ox.Model(
        model_graph, ir_version=_IR_VERSIONS[opset], producer_name="tessera", metadata_props=props,
        producer_version=props["tessera.version"],
    )  # fmt: skip


def _parameter(e: Lowerer, param: Parameter, tensor: LazyTensor) -> ox.Value:
    made: dict[tuple[tuple[int, ...] | None, int | None], ox.Value] = {}
    held: list[np.ndarray] = []

    def stored(perm: tuple[int, ...] | None, row: int | None) -> ox.Value:
        """The weight with its axes in another order, or a row of that."""
        if (perm, row) not in made:
            weight = Weight(tensor, perm, row, held)
            suffix = "" if perm is None else ".T" if perm == (1, 0) else f".{''.join(map(str, perm))}"
            suffix += "" if row is None else f".{row}"
            value = e.value(param.full_name + suffix, param.type.dtype, weight.shape)
            value.const_value = weight.onnx(value.name)
            made[perm, row] = value
            if len(param.uses) == 1 and row is None:
                e.weights[value] = lambda then, row: stored(_after(perm, then), row)
        return made[perm, row]

    return stored(None, None)


def _after(perm: tuple[int, ...] | None, then: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Two orders of axes, one after the other."""
    return then if perm is None else perm if then is None else tuple(perm[i] for i in then)


def _given_back(value: Value, info: Output) -> bool:
    """Whether an output is an input as it came, under its name: in a file that is one value."""
    return isinstance(value, Input) and info.role == "output" and info.public == value.public


def _outputs(
    e: Lowerer, outgoing: list[tuple[Value, Output]], env: Mapping[Value, ox.Value], names: list[str]
) -> list[ox.Value]:
    """The model's outputs. Each is a value of its own: not an input, unless it has its name, a weight, nor another output."""
    outputs: list[ox.Value] = []
    for (source, info), name in zip(outgoing, names, strict=True):
        made = env[source]
        if (made.producer() is None or made in outputs) and not _given_back(source, info):
            made = e.raw("Identity", [made], [source.type.dtype], {})[0]
        made.name = name
        made.shape = ox.Shape(known_type(source.type))
        outputs.append(made)
    return outputs


def _drop_unused(graph: ox.Graph) -> None:
    """Remove the nodes that a claim or a peephole has made superfluous."""
    for node in reversed(graph):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)


def _initializers(graph: ox.Graph) -> list[ox.Value]:
    """Those that some node reads, in order of first use."""
    found: dict[ox.Value, None] = {}
    for node in ox.traversal.RecursiveGraphIterator(graph):
        for value in node.inputs:
            if value is not None and value.const_value is not None:
                found.setdefault(value)
    return list(found)


def _drop_types(graph: ox.Graph) -> None:
    """Keep the types of values whose shapes are known too: a type alone says nothing that the op does not."""
    for node in ox.traversal.RecursiveGraphIterator(graph):
        for value in node.outputs:
            if value.shape is None and not value.is_graph_output():
                value.type = None


# ONNX Runtime writes a result into an operand where it may: which operand, by the number of the result.
_FIRST = {0: 0}
_UPDATES = {"TensorScatter": _FIRST, "ScatterND": _FIRST, "ScatterElements": _FIRST, "GroupQueryAttention": {1: 3, 2: 4}}
# What such an op does not write is not copied into a buffer of its own.
_ONLY_IN_PLACE = frozenset({"GroupQueryAttention"})


def _in_place(graph: Graph, env: Mapping[Value, ox.Value], outputs: list[ox.Value]) -> dict[str, str]:
    """Which states one op updates and nothing else reads, or nothing changes: their input and output may be one buffer; and those of
    which they have to be one."""
    made = {info.public: value for info, value in zip(graph.output_info, outputs, strict=True) if info.role == "state"}
    names: dict[str, list[str]] = {"tessera.in_place": [], "tessera.only_in_place": []}
    for source in graph.inputs:
        reads = [use for use in env[source].uses() if use.node.op_type != "Shape"] if source.public in made else []
        value = made[source.public] if reads else None
        node = None if value is None else value.producer()
        if node is None or value is None:
            continue
        same = node.op_type == "Identity" and node.inputs[0] is env[source]
        at = _UPDATES.get(node.op_type, {}).get(node.outputs.index(value))
        if same or (at is not None and reads == [(node, at)]):
            names["tessera.in_place"].append(source.public)
            if node.op_type in _ONLY_IN_PLACE:
                names["tessera.only_in_place"].append(source.public)
    return {key: json.dumps(said) for key, said in names.items() if said}


def _metadata(module: Module, names: list[str], e: Lowerer) -> dict[str, str]:
    from importlib.metadata import version

    graph = module.graph
    limits, most = index_limits(graph), count_limits(graph)

    def row(value: Input) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "name": value.public, "dtype": value.type.dtype.name, "shape": [encode_dim(d) for d in value.type.shape],
        }  # fmt: skip
        if value.outside is not None:
            entry["own"] = value.name
        if value.role != "input":
            init = value.init
            entry |= {"role": value.role, "init": [init.name, *init.args] if init else ["zeros"]}
        if value.name in limits:
            entry["below"] = [encode_dim(d) for d in limits[value.name]]
        if value.name in most:
            entry["most"] = [encode_dim(d) for d in most[value.name]]
        return entry

    outputs = [
        {"name": info.public, "role": info.role, "value": name}
        for info, name in zip(graph.output_info, names, strict=True)
    ]
    requires = [
        [encode_dim(r.left), r.op, encode_dim(r.right), r.message] for r in e.requires.values() if r is not None
    ]
    lets = {name: encode_dim(d) for name, d in graph.lets.items()}
    passes = module.compile.passes if module.compile else ()
    return {
        "tessera.version": version("tessera"),
        "tessera.model": module.name,
        "tessera.inputs": json.dumps([row(v) for v in graph.inputs]),
        "tessera.outputs": json.dumps(outputs),
        "tessera.requires": json.dumps(requires),
        "tessera.lets": json.dumps(lets),
        "tessera.selects": json.dumps(e.selects),
        "tessera.passes": json.dumps([[p.name, {k: str(v) for k, v in p.options.items()}] for p in passes]),
    }
