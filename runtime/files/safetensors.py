"""One safetensors file, read and written: its header is checked before anything is believed, its data stays in the page cache.

The format (https://github.com/huggingface/safetensors): 8 bytes, the header's length; the header, a JSON object
``name -> {dtype, shape, data_offsets}``; then the tensors, one behind the other without holes.
"""

from __future__ import annotations

import json
import mmap
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic, Span
from ...ir.types import DTYPES, DType

if TYPE_CHECKING:
    import numpy as np

MAX_HEADER = 100_000_000  # the limit of the format's own library

# Bytes of one element, for every dtype the format has (those of Tessera, and those that are only passed over).
_SIZES = {dtype.name.upper(): dtype.size for dtype in DTYPES.values()} | {
    "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "C64": 8,
}  # fmt: skip
_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file. ``dtype`` is the format's name (``BF16``); ``begin`` and ``end`` are bytes of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def known(self) -> DType | None:
        """The dtype as Tessera has it, or None (F8_E4M3)."""
        return DTYPES.get(self.dtype.lower())

    def __str__(self) -> str:
        return f"{self.known or self.dtype}[{', '.join(map(str, self.shape))}]"


class SafetensorsFile:
    """One file: its ``entries`` by name, and arrays that are views of its memory map.

    Args:
        path: the file.
        span: where the program names it, for errors.

    Raises:
        Diagnostic: E0001 missing, E0002 unreadable, E0601 pickle, E0602 bad header, E0603 truncated, E0604 a lie.
    """

    def __init__(self, path: str | Path, span: Span | None = None) -> None:
        self.path = Path(path)
        self.span = span
        self.entries, self._start = _read_header(self.path, span)

    @cached_property
    def _map(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            try:
                # Copy on write: writing into a tensor gives private pages; it neither crashes nor changes the file.
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            except OSError:  # a map larger than memory may only be granted when it cannot be written to
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def array(self, name: str) -> np.ndarray:
        """The tensor as a read-only view: no byte is read before it is used, none is copied.

        Raises:
            Diagnostic: E0605 for a dtype that Tessera does not have.
        """
        import numpy as np

        entry = self.entries[name]
        if entry.known is None:
            message = f"`{name}` in {self.path.name} has dtype {entry.dtype}, which Tessera does not have"
            raise Diagnostic("E0605", message, self.span)
        dtype = entry.known.numpy
        if entry.begin == entry.end:
            array = np.empty(entry.shape, dtype)
        else:
            array = np.frombuffer(self._map, dtype, prod(entry.shape), self._start + entry.begin).reshape(entry.shape)
        if not array.flags.aligned:  # a header of odd length; everybody else writes aligned data
            array = array.copy()
        array.flags.writeable = False
        return array


def _read_header(path: Path, span: Span | None) -> tuple[dict[str, Entry], int]:
    def lie(message: str, code: str = "E0604") -> Diagnostic:
        return Diagnostic(code, f"{path.name}: {message}", span, help="copy or download the file again")

    refuse_pickle(path, span)
    try:
        if not os.path.exists(path):
            raise Diagnostic("E0001", f"there is no weights file {path}", span)
        if not os.path.isfile(path):
            raise Diagnostic("E0002", f"{path} is not a file", span)
        with path.open("rb") as file:
            total = os.fstat(file.fileno()).st_size
            head = file.read(8)
            if (head[:4] == b"PK\x03\x04" and path.suffix.lower() == ".npz") or head[:6] == b"\x93NUMPY":
                raise _arrays(path, span)
            if head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"):
                raise _pickle(path, span)
            if len(head) < 8:
                raise lie(f"is {total} bytes long, too short for a safetensors file", "E0603")
            length = int.from_bytes(head, "little")
            if length > MAX_HEADER:
                raise lie(f"claims a header of {length} bytes; no safetensors file has so large a one", "E0602")
            if length > total - 8:
                raise lie(f"claims a header of {length} bytes, but only {total - 8} follow: it is truncated", "E0603")
            raw = file.read(length)
    except OSError as error:
        raise Diagnostic("E0002", f"{path} cannot be read: {error.strerror or error}", span) from error
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise lie(f"its header is not JSON: {str(error)[:200]}", "E0602") from error
    if not isinstance(header, dict):
        raise lie("its header is not a JSON object", "E0602")
    header.pop("__metadata__", None)
    entries = {name: _entry(name, row, lie) for name, row in header.items()}
    _check_layout(entries, total - 8 - length, lie)
    return entries, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the name {name!r} occurs twice")
    return table


def _entry(name: str, row: Any, lie: Any) -> Entry:
    def count(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63

    if not isinstance(row, dict) or not {"dtype", "shape", "data_offsets"} <= row.keys():
        raise lie(f"the header's entry for `{name}` lacks dtype, shape or data_offsets", "E0602")
    dtype, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
    if not isinstance(dtype, str) or not isinstance(shape, list) or len(shape) > 64 or not all(map(count, shape)):
        raise lie(f"the header gives `{name}` the dtype {dtype!r} and the shape {str(shape)[:100]}", "E0602")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(count, offsets)) or offsets[0] > offsets[1]:
        raise lie(f"the header gives `{name}` the offsets {str(offsets)[:100]}", "E0602")
    size = _SIZES.get(dtype)
    if size is not None and prod(shape) * size != offsets[1] - offsets[0]:
        raise lie(f"`{name}` is {dtype}{shape}, {prod(shape) * size} bytes, but has {offsets[1] - offsets[0]}")
    return Entry(name, dtype, tuple(shape), offsets[0], offsets[1])


def _check_layout(entries: Mapping[str, Entry], available: int, lie: Any) -> None:
    position, before = 0, ""
    for entry in sorted(entries.values(), key=lambda e: (e.begin, e.end)):
        if entry.end > available:
            message = (
                f"`{entry.name}` should end at byte {entry.end} of the data, but there are {available}: it is truncated"
            )
            raise lie(message, "E0603")
        if entry.begin < position:
            raise lie(
                f"`{before}` and `{entry.name}` overlap: the second begins {position - entry.begin} bytes too early"
            )
        if entry.begin > position:
            raise lie(f"there is a hole of {entry.begin - position} bytes in front of `{entry.name}`")
        position, before = entry.end, entry.name
    if position != available:
        raise lie(f"the header accounts for {position} bytes of data, but the file holds {available}")


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file of these arrays, one behind the other in their order."""
    rows: dict[str, Any] = {}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        dtype = DType.from_numpy(array.dtype).name.upper()
        rows[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, end]}
    header = json.dumps(rows).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for array in arrays.values():
            stream.write(array.tobytes())


def refuse_pickle(path: Path, span: Span | None) -> None:
    """Raise E0601 for a file whose name says that it is a pickle."""
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        raise _pickle(path, span)


def _arrays(path: Path, span: Span | None) -> Diagnostic:
    return Diagnostic(
        "E0602", f"{path.name} holds NumPy arrays; Tessera loads weights only from safetensors", span,
        help=f"convert it once: `safetensors.numpy.save_file(dict(numpy.load('{path.name}')), 'weights.safetensors')`;"
        " `ts.compile` takes a mapping of arrays as `weights` too",
    )  # fmt: skip


def _pickle(path: Path, span: Span | None) -> Diagnostic:
    return Diagnostic(
        "E0601",
        f"{path.name} is a PyTorch pickle; Tessera loads weights only from safetensors",
        span,
        help="opening a pickle runs whatever code is in it. Where you trust the file, convert it once:"
        f" `safetensors.torch.save_file(torch.load('{path.name}', weights_only=True), 'weights.safetensors')`",
    )
