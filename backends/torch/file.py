"""The torch target's file: one safetensors file that carries the program as source in its header. Nothing in it is executed.

The header's ``__metadata__`` holds ``tessera.source`` (the printed module) beside what else is known of the artifact; the tensors
are the parameters under their full names, so that any safetensors reader can use them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ...ir.diagnostics import Diagnostic

if TYPE_CHECKING:
    import numpy as np

    from ...ir.types import DType

SOURCE = "tessera.source"
_MAX_HEADER = 100_000_000
_ALIGN = 64


class Tensor(Protocol):
    """What is written: a dtype, a shape, and the values when they are asked for."""

    @property
    def dtype(self) -> DType: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...
    def numpy(self) -> np.ndarray: ...


def write_torch_file(path: str | os.PathLike[str], metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Write one tensor after another, so that never more than one is in memory.

    Raises:
        OSError: when the disk is full or the file cannot be written.
    """
    import numpy as np

    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": tensor.dtype.name.upper(),
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-(len(text) + 8) % _ALIGN)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The strings in a safetensors file's header. Raises E0014 when it has no Tessera source, or is no such file."""
    metadata = header_strings(path)
    if SOURCE not in metadata:
        raise Diagnostic(
            "E0014",
            f"`{Path(path).name}` holds weights, but no program",
            help="`tessera compile SPEC --target torch --weights WEIGHTS -o OUT.safetensors` makes a file with both",
        )
    return metadata


def header_strings(path: str | os.PathLike[str]) -> dict[str, str]:
    """The strings in a safetensors file's header, whatever they are. Raises E0001, E0014."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _MAX_HEADER:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
    except FileNotFoundError:
        raise Diagnostic("E0001", f"there is no file `{os.fspath(path)}`") from None
    except (OSError, ValueError, RecursionError) as error:
        raise Diagnostic("E0014", f"`{os.fspath(path)}` is not a safetensors file: {str(error)[:200]}") from None
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return {str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {}
