"""From a path to a message that protobuf has parsed, with its functions and opsets; everything about files is here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...ir.diagnostics import Diagnostic
from ...runtime.files.wire import Extent, Malformed, strip
from .order import subgraphs
from .tensors import Store

FIRST_OPSET, LAST_OPSET = 7, 28
# ONNX's own domain has two names.
OWN = ("", "ai.onnx")
# A message of this size holds far more than structure.
_MOST = 1 << 30

FunctionKey = tuple[str, str, str]


@dataclass(slots=True)
class File:
    """A parsed file. ``extents``: where the data of each initializer lies. ``functions`` by domain, name and overload.
    ``nodes``: how many there are in the graph and in the branches and bodies within it."""

    path: Path
    graph: Any
    store: Store
    extents: list[Extent | None]
    opset: int
    nodes: int
    functions: dict[FunctionKey, Any] = field(default_factory=dict)


def domain(name: str) -> str:
    """The domain under one name."""
    return "" if name in OWN else name


def read(path: Path) -> File:
    """Open and parse a file.

    Raises:
        Diagnostic: E0001 E0002 there is none, E0751 it is no ONNX file, E0753 its opset is not read, E0754 no graph.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if not path.exists():
        raise Diagnostic("E0001", f"there is no ONNX file {path}")
    if not path.is_file():
        raise Diagnostic("E0002", f"{path} is not a file")
    store = Store(path)
    try:
        if not path.stat().st_size:
            raise Diagnostic("E0751", f"{path.name} is empty")
        skeleton = strip(memoryview(store.model.bytes()))
        if len(skeleton.message) > _MOST:
            raise Diagnostic("E0762", f"{path.name} has {len(skeleton.message) >> 20} MiB of structure besides weights")
        model = onnx.ModelProto.FromString(skeleton.message)
    except OSError as error:
        raise Diagnostic("E0002", f"{path} cannot be read: {error.strerror or error}") from error
    except (Malformed, DecodeError) as error:
        help = "it is a text file; a git-lfs pointer?" if _is_text(store) else None
        raise Diagnostic("E0751", f"{path.name} is not an ONNX file, or damaged: {error}", help=help) from error
    if not _is_unicode(model):
        raise Diagnostic("E0751", f"{path.name} is damaged: there are names in it that are no text")
    if len(model.graph.initializer) != len(skeleton.extents):
        raise Diagnostic("E0751", f"{path.name} is damaged: its initializers cannot be counted")
    file = File(path, model.graph, store, skeleton.extents, _opset(model, path), _count(model.graph))
    for function in model.functions:
        file.functions[(domain(function.domain), function.name, function.overload)] = function
    return file


def _count(graph: Any) -> int:
    graphs, total = [graph], 0
    while graphs:
        inner = graphs.pop()
        total += len(inner.node)
        for node in inner.node:
            graphs += subgraphs(node)
    return total


def _is_text(store: Store) -> bool:
    head = store.model.bytes()[:256]
    return all(byte in (9, 10, 13) or 32 <= byte < 127 for byte in head)


def _is_unicode(model: Any) -> bool:
    """Whether all names are text: protobuf gives those that are not as bytes."""
    graphs = [model.graph, *model.functions]
    while graphs:
        graph = graphs.pop()
        for node in graph.node:
            texts = [*node.input, *node.output, node.op_type, node.domain, node.name, node.overload]
            for attribute in node.attribute:
                texts += [attribute.name, attribute.ref_attr_name]
            for entry in node.metadata_props:
                texts += [entry.key, entry.value]
            if any(isinstance(text, bytes) for text in texts):
                return False
            graphs += subgraphs(node)
        if not all(isinstance(text, str) for text in _names(graph)):
            return False
    return all(isinstance(entry.domain, str) for entry in model.opset_import)


def _names(graph: Any) -> Iterator[Any]:
    """The names of a graph's or a function's own."""
    if not hasattr(graph, "initializer"):
        yield from (graph.name, graph.domain, graph.overload, *graph.input, *graph.output, *graph.attribute)
        yield from (attribute.name for attribute in graph.attribute_proto)
        return
    for value in (*graph.input, *graph.output):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    for tensor in graph.initializer:
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)


def _opset(model: Any, path: Path) -> int:
    found = [entry.version for entry in model.opset_import if entry.domain in OWN]
    if not found:
        raise Diagnostic("E0753", f"{path.name} does not say which opset of ONNX it uses")
    if not FIRST_OPSET <= found[0] <= LAST_OPSET:
        raise Diagnostic(
            "E0753",
            f"{path.name} uses opset {found[0]}, but the importer reads {FIRST_OPSET} to {LAST_OPSET}",
            help="convert it: `onnx.version_converter.convert_version(onnx.load(path), 17)`",
        )
    return int(found[0])
