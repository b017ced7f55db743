"""Writing a model so that weights pass from their files to the artifact without a copy of them all in memory.

``model.onnx`` is a protocol buffer: a message is a sequence of (tag, length, bytes) fields in any order. The model without its
weights is serialised by protobuf; the weights follow as further ``initializer`` fields of the graph, streamed block by block.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic
from ...runtime.files.wire import GRAPH, INITIALIZER, RAW_DATA, tag, varint
from .weights import Weight

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ox

# A protobuf message ends at 2 GiB; ONNX Runtime also maps external data instead of copying it.
EXTERNAL_FROM = 3 << 29
_LIMIT = (1 << 31) - (1 << 20)
_ALIGNMENT = 4096

Write = Callable[[Any], Any]


def save_model(
    model: ox.Model, path: str | PathLike[str], *, external: bool | None, before: Callable[[Path], None] | None
) -> Path:
    """See :func:`tessera.backends.onnx.save`."""
    from ...runtime.files.aside import written_aside

    target = Path(fspath(path))
    with written_aside(target) as aside:
        write_model(model, aside, external=external)
        if before is not None:
            before(aside)
    return target


def write_model(model: ox.Model, path: Path, *, external: bool | None = None) -> None:
    """Check and write a model in place, and its data file beside it. Raises E0804, E0805."""
    check_model(model)
    if weight_bytes(model) > EXTERNAL_FROM if external is None else external:
        _write_external(model, path)
    else:
        with open(path, "wb") as file:
            _write_embedded(model, file)


def serialize_model(model: ox.Model) -> bytes:
    """The model with its weights as one protobuf message."""
    buffer = io.BytesIO()
    _write_embedded(model, buffer)
    return buffer.getvalue()


def weight_bytes(model: ox.Model) -> int:
    """The size of the weights."""
    return sum(weight.nbytes for _, weight in _weights(model))


def _weights(model: ox.Model) -> Iterator[tuple[ox.Value, Weight]]:
    import onnx_ir as ox

    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ox.LazyTensor) and isinstance(tensor.raw, Weight):
            yield value, tensor.raw


def skeleton(model: ox.Model) -> onnx.ModelProto:
    """The model's message without its weights."""
    import onnx_ir as ox

    weights = [value for value, _ in _weights(model)]
    held = [value.const_value for value in weights]
    for value in weights:
        del model.graph.initializers[str(value.name)]
    try:
        return ox.to_proto(model)
    finally:
        for value, tensor in zip(weights, held, strict=True):
            value.const_value = tensor
            model.graph.register_initializer(value)


def _header(value: ox.Value) -> onnx.TensorProto:
    import onnx

    tensor = value.const_value
    assert tensor is not None
    return onnx.TensorProto(name=value.name, data_type=int(tensor.dtype), dims=tensor.shape.numpy())


def _write_embedded(model: ox.Model, file: IO[bytes]) -> None:
    proto = skeleton(model)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    rows = [(_header(value).SerializeToString(), weight) for value, weight in _weights(model)]
    sizes = [len(head) + 1 + len(varint(w.nbytes)) + w.nbytes for head, w in rows]
    total = len(graph) + sum(1 + len(varint(size)) + size for size in sizes)
    if total > _LIMIT:
        raise Diagnostic(
            "E0804", f"the model with its weights is {total / 2**30:.1f} GiB, but one ONNX file holds at most 2 GiB",
            help="write the weights beside it: external data",
        )  # fmt: skip
    file.write(proto.SerializeToString())
    file.write(tag(GRAPH) + varint(total) + graph)
    for (head, weight), size in zip(rows, sizes, strict=True):
        file.write(tag(INITIALIZER) + varint(size) + head + tag(RAW_DATA) + varint(weight.nbytes))
        for block in weight.blocks():
            file.write(block.data)


def write_sharing(models: Mapping[Path, ox.Model], location: str) -> None:
    """Check and write models of one folder over one data file, into which each weight goes once. Raises E0805."""
    for model in models.values():
        check_model(model)
    placed: dict[Any, int] = {}
    with open(next(iter(models)).with_name(location), "wb") as file:
        for path, model in models.items():
            _write_over(model, path, file, location, placed)


def _write_external(model: ox.Model, path: Path) -> None:
    location = path.name + ".data"
    with open(path.with_name(location), "wb") as file:
        _write_over(model, path, file, location, {})


def _write_over(model: ox.Model, path: Path, file: IO[bytes], location: str, placed: dict[Any, int]) -> None:
    """Write a model without its weights, and those into an open data file. ``placed`` is what that has already, and where."""
    import onnx

    proto = skeleton(model)
    for value, weight in _weights(model):
        key = (id(weight.tensor), weight.perm, weight.row)
        if key not in placed:
            # Pages of its own for each weight, so that it can be mapped.
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            placed[key] = file.tell()
            for block in weight.blocks():
                file.write(block.data)
        header = _header(value)
        header.data_location = onnx.TensorProto.EXTERNAL
        for name, entry in (("location", location), ("offset", placed[key]), ("length", weight.nbytes)):
            header.external_data.add(key=name, value=str(entry))
        proto.graph.initializer.append(header)
    path.write_bytes(proto.SerializeToString())


def check_model(model: ox.Model) -> None:
    """``onnx.checker`` with shape inference. Weights take part as inputs, so that nothing is read or copied.

    Raises:
        Diagnostic: E0805, which is a bug in Tessera, with the checker's words.
    """
    import onnx
    import onnx.checker

    proto = skeleton(model)
    for value, weight in _weights(model):
        kind = int(value.const_value.dtype)  # type: ignore[union-attr]
        proto.graph.input.append(onnx.helper.make_tensor_value_info(str(value.name), kind, weight.shape))
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise Diagnostic(
            "E0805", f"onnx.checker refuses the model `{model.graph.name}`: {str(error)[:600]}",
            help="this is a bug in Tessera: please report it with the program",
        ) from error  # fmt: skip
