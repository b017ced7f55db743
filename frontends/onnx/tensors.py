"""Tensors of an ONNX file: what shape and dtype they claim is checked at once, their data is read when asked for."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic
from ...ir.types import DTYPES, DType, TensorType, f32, f64, i64
from ...runtime.files.wire import Extent
from .narrow import NARROW, Narrow

if TYPE_CHECKING:
    import numpy as np

# TensorProto.DataType by number; those without a counterpart only by name, for messages.
_NUMBERED = {dtype.onnx: dtype for dtype in DTYPES.values()}
# The field of a tensor that holds the elements of a dtype where they are not raw bytes; `int32_data` of all others.
_TYPED = {f32: "float_data", f64: "double_data", i64: "int64_data"}
_OTHERS = {
    0: "undefined", 4: "uint16", 8: "string", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128",
    24: "float8e8m0", 27: "float6e2m3", 28: "float6e3m2", **{number: narrow.name for number, narrow in NARROW.items()},
}  # fmt: skip


def dtype_of(number: int, what: str) -> DType:
    """The dtype of that number. Raises E0757, which names ``what`` has it."""
    found = _NUMBERED.get(number)
    if found is None:
        shown = _OTHERS.get(number, f"number {number}")
        raise Diagnostic("E0757", f"{what} has the element type {shown}, which Tessera does not have")
    return found


@dataclass(eq=False, slots=True)
class Weight:
    """An initializer or a constant. ``load`` gives its data in the shape; a weight of the file is a view of it.

    ``narrow``: ONNX's number of the element type in the file, where that is one of 8 bits or less that Tessera does not have.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]
    narrow: int = 0

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def type(self) -> TensorType:
        return TensorType.of(self.dtype, self.shape)


class Mapped:
    """A file in memory, mapped when first read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes: mmap.mmap | None = None

    def bytes(self) -> mmap.mmap:
        if self._bytes is None:
            with open(self.path, "rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._bytes


class Store:
    """The model's file and those beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = Mapped(path)
        self._beside: dict[str, tuple[Mapped, int]] = {}

    def weight(self, proto: Any, extent: Extent | None = None) -> Weight:
        """A tensor message as a weight; ``extent``: where its data lies in the model's file.

        Raises:
            Diagnostic: E0755 sizes that contradict each other, E0756 external data, E0757 an unknown dtype.
        """
        shown = f"the tensor `{proto.name}`"
        packed = NARROW.get(proto.data_type)
        dtype = packed.dtype if packed is not None else dtype_of(proto.data_type, shown)
        shape = tuple(proto.dims)
        if any(d < 0 for d in shape):
            raise Diagnostic("E0755", f"{shown} has a negative size: {list(shape)}")
        if proto.HasField("segment"):
            raise Diagnostic("E0757", f"{shown} is stored in segments, which nobody writes")
        needed = prod(shape) * dtype.size if packed is None else packed.room(prod(shape))
        if packed is not None:
            return self._packed(proto, packed, shape, shown, needed, extent)
        if proto.data_location == 1:
            file, at = self._external(proto, shown, needed)
            return Weight(proto.name, dtype, shape, _view(file, at, dtype, shape))
        if extent is not None:
            _enough(shown, dtype, shape, extent.length, needed)
            return Weight(proto.name, dtype, shape, _view(self.model, extent.offset, dtype, shape))
        if proto.HasField("raw_data"):
            _enough(shown, dtype, shape, len(proto.raw_data), needed)
        else:
            _enough(shown, dtype, shape, len(getattr(proto, _TYPED.get(dtype, "int32_data"))) * dtype.size, needed)
        return Weight(proto.name, dtype, shape, lambda: _decode(proto, dtype, shape, shown))

    def _packed(
        self, proto: Any, packed: Narrow, shape: tuple[int, ...], shown: str, needed: int, extent: Extent | None
    ) -> Weight:
        """A tensor of an element type that Tessera does not have, in one that holds all its numbers."""
        load: Callable[[], np.ndarray]
        if proto.data_location == 1 or extent is not None:
            file, at = self._external(proto, shown, needed) if extent is None else (self.model, extent.offset)
            if extent is not None:
                _enough(shown, packed.name, shape, extent.length, needed)
            load = lambda: packed.read(file.bytes()[at : at + needed], shape)  # noqa: E731
        else:
            if proto.HasField("raw_data"):
                _enough(shown, packed.name, shape, len(proto.raw_data), needed)
            load = lambda: _decode(proto, packed.dtype, shape, shown)  # noqa: E731
        return Weight(proto.name, packed.dtype, shape, load, proto.data_type)

    def _external(self, proto: Any, shown: str, needed: int) -> tuple[Mapped, int]:
        entries = {entry.key: entry.value for entry in proto.external_data}
        location = entries.get("location", "")
        try:
            offset, length = int(entries.get("offset", "0") or 0), int(entries.get("length", needed) or 0)
        except ValueError as error:
            raise Diagnostic("E0756", f"{shown}: the offset or length of its external data is no number") from error
        file, size = self._open(location, shown)
        if length != needed:
            raise Diagnostic("E0755", f"{shown} needs {needed} bytes, but its external data has {length}")
        if offset < 0 or offset + length > size:
            raise Diagnostic(
                "E0755", f"{shown} is at bytes {offset} to {offset + length} of `{location}`, which has {size} bytes"
            )
        return file, offset

    def _open(self, location: str, shown: str) -> tuple[Mapped, int]:
        """A file beside the model. Raises E0756 when it is missing or elsewhere."""
        found = self._beside.get(location)
        if found is not None:
            return found
        folder = self.path.parent
        inside = f"{shown} has external data in `{location[:200]}`"
        parts = location.replace("\\", "/").split("/")
        if not location or "\0" in location or os.path.isabs(location) or ":" in parts[0] or ".." in parts:
            raise Diagnostic(
                "E0756", f"{inside}, outside of the model's folder", help="put the file beside the model, and name it so"
            )
        path = folder / location
        try:
            real, base = os.path.realpath(path), os.path.realpath(folder)
            if os.path.commonpath([real, base]) != base:
                raise Diagnostic("E0756", f"{inside}, a link that leads outside of the model's folder")
            if not os.path.isfile(real):
                raise Diagnostic(
                    "E0756", f"{inside}, but there is no such file in {folder}",
                    help="external data is a part of the model: copy or download both",
                )  # fmt: skip
            entry = Mapped(Path(real)), os.path.getsize(real)
        except OSError as error:
            raise Diagnostic("E0756", f"{inside}, which cannot be read: {error.strerror or error}") from error
        self._beside[location] = entry
        return entry


def _enough(shown: str, dtype: DType | str, shape: tuple[int, ...], have: int, needed: int) -> None:
    if have != needed:
        raise Diagnostic("E0755", f"{shown} is {dtype}{list(shape)}, {needed} bytes, but the file holds {have} for it")


def _view(file: Mapped, offset: int, dtype: DType, shape: tuple[int, ...]) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        import numpy as np

        count = prod(shape)
        if not count:
            return np.zeros(shape, dtype.numpy)
        if offset % dtype.size:  # NumPy takes an unaligned view, but nothing else does
            raw = file.bytes()[offset : offset + count * dtype.size]
            return np.frombuffer(raw, dtype.numpy).reshape(shape)
        return np.frombuffer(file.bytes(), dtype.numpy, count, offset).reshape(shape)

    return load


def _decode(proto: Any, dtype: DType, shape: tuple[int, ...], shown: str) -> np.ndarray:
    import onnx_ir

    try:
        return onnx_ir.TensorProtoTensor(proto).numpy().astype(dtype.numpy, copy=False).reshape(shape)
    except (ValueError, TypeError) as error:
        raise Diagnostic("E0755", f"{shown} cannot be decoded: {error}") from error
