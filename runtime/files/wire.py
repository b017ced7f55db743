"""The file as bytes: the weights stay in it, and only what is left goes through protobuf.

An ``.onnx`` file is one message: fields of (tag, value), where a length precedes nested messages and bytes. Parsing it
whole would copy every weight into memory. Here the fields are walked, and large ``raw_data`` of the graph's initializers
is left out of the message that protobuf parses; where it lies in the file is remembered.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Fields of onnx.proto by number: ModelProto.graph, GraphProto.initializer, TensorProto.raw_data; all are length-delimited.
GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
# Smaller data is not worth a place of its own.
_LARGE = 1024


class Malformed(Exception):
    """The bytes are no protocol buffer message, or end too early."""


class Extent(NamedTuple):
    """A range of bytes of the file."""

    offset: int
    length: int


class Skeleton(NamedTuple):
    """The message without large weights; for the i-th initializer where its ``raw_data`` lies, if it was left out."""

    message: bytes
    extents: list[Extent | None]


def strip(data: memoryview) -> Skeleton:
    """Separate the weights from the message. Raises Malformed."""
    parts: list[bytes] = []
    extents: list[Extent | None] = []
    found = False
    for number, start, body, end in _fields(data, 0, len(data)):
        if number == GRAPH:
            found = True
            graph = _graph(data, body, end, extents)
            parts += [tag(GRAPH), varint(len(graph)), graph]
        else:
            parts.append(bytes(data[start:end]))
    if not found:
        raise Malformed("there is no graph in it")
    return Skeleton(b"".join(parts), extents)


def mapped_model(path: str | os.PathLike[str]) -> bytes:
    """The model of a file with its large weights as external data that lies in the very file.

    Whoever loads it, told the file's folder, can map the weights rather than copy them. Raises Malformed.
    """
    import onnx

    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
    ):
        found = strip(view)
    model = onnx.ModelProto.FromString(found.message)
    for tensor, extent in zip(model.graph.initializer, found.extents, strict=True):
        if extent is not None:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            entries = {"location": Path(path).name, "offset": extent.offset, "length": extent.length}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
    message: bytes = model.SerializeToString()
    return message


def _graph(data: memoryview, start: int, end: int, extents: list[Extent | None]) -> bytes:
    parts: list[bytes] = []
    copied = start  # what precedes this place is in `parts`
    for number, first, body, after in _fields(data, start, end):
        if number != INITIALIZER:
            continue
        tensor, extent = _tensor(data, body, after)
        extents.append(extent)
        if extent is not None:
            parts += [bytes(data[copied:first]), tag(INITIALIZER), varint(len(tensor)), tensor]
            copied = after
    parts.append(bytes(data[copied:end]))
    return b"".join(parts)


def _tensor(data: memoryview, start: int, end: int) -> tuple[bytes, Extent | None]:
    parts: list[bytes] = []
    extent = None
    for number, first, body, after in _fields(data, start, end):
        if number == RAW_DATA and after - body >= _LARGE:
            extent = Extent(body, after - body)
        else:
            parts.append(bytes(data[first:after]))
    return b"".join(parts), extent


def _fields(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, first byte, first byte of the value, end) of each field."""
    while at < end:
        start = at
        tag, at = _read(data, at, end)
        kind = tag & 7
        if tag >> 3 == 0:
            raise Malformed(f"there is no field number at byte {start}")
        if kind == 0:
            body = at
            _, at = _read(data, at, end)
        elif kind == 1:
            body, at = at, at + 8
        elif kind == 5:
            body, at = at, at + 4
        elif kind == 2:
            length, body = _read(data, at, end)
            at = body + length
        else:
            raise Malformed(f"byte {start} begins no field")
        if at > end:
            raise Malformed(f"it ends at byte {end}, but a field reaches to byte {at}")
        yield tag >> 3, start, body, at


def _read(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """A variable-length integer, and where it ends."""
    value = shift = 0
    while shift < 70:
        if at >= end:
            raise Malformed(f"it ends at byte {end} within a number")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise Malformed(f"byte {at} is within a number that does not end")


def tag(number: int) -> bytes:
    """What a length-delimited field begins with; its length follows."""
    return bytes([number << 3 | 2])


def varint(value: int) -> bytes:
    """A number of variable length, as lengths are written."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
