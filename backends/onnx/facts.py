"""What an ONNX file says of itself, whoever wrote it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ...ir.diagnostics import Diagnostic


def facts(file: Path) -> dict[str, Any]:
    """Inputs, outputs, opset, nodes by op, files and metadata. Raises E0014 for a file that is none."""
    import onnx

    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as error:  # protobuf's own exceptions are not public
        raise Diagnostic(
            "E0014", f"`{file}` is not an ONNX file: {str(error).splitlines()[0] if str(error) else 'unreadable'}"
        ) from None
    if not model.HasField("graph"):
        raise Diagnostic("E0014", f"`{file}` is not an ONNX file: it has no graph")
    external = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
    files = [file, *(file.parent / name for name in sorted(external))]
    return {
        "kind": "onnx",
        "inputs": [_row(v) for v in model.graph.input],
        "outputs": [_row(v) for v in model.graph.output],
        "opset": {o.domain or "ai.onnx": o.version for o in model.opset_import},
        "nodes": dict(Counter(n.op_type for n in model.graph.node).most_common()),
        "files": [f.name for f in files],
        "size": sum(f.stat().st_size for f in files if f.is_file()),
        "metadata": {p.key: p.value for p in model.metadata_props},
    }


def _row(value: Any) -> dict[str, str]:
    import onnx

    tensor = value.type.tensor_type
    dims = [d.dim_param or (str(d.dim_value) if d.HasField("dim_value") else "?") for d in tensor.shape.dim]
    dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    return {"name": value.name, "type": f"{dtype}[{', '.join(dims)}]"}


def bounds(file: Path) -> dict[str, int]:
    """Which inputs index a table (directly, or cast, or reshaped), and its length."""
    import onnx

    graph = onnx.load(str(file), load_external_data=False).graph
    lengths = {t.name: t.dims[0] for t in graph.initializer if t.dims}
    origin = {v.name: v.name for v in graph.input}
    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in ("Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity") and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
        elif node.op_type == "Gather" and node.input[0] in lengths and node.input[1] in origin:
            name = origin[node.input[1]]
            found[name] = min(found.get(name, 1 << 62), lengths[node.input[0]])
    return found
