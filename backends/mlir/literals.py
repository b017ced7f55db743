"""Constants and weights as MLIR attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...ir.types import TensorType
from .emit import Call, Emitter, Tensor, tensor_text

if TYPE_CHECKING:
    import numpy as np

# Arrays of at most so many bytes are written as text in place; larger ones as resources at the end of the file.
INLINE_BYTES = 64


def constant(call: Call) -> Tensor:
    """The core op ``constant``."""
    import numpy as np

    return literal(
        call.emitter,
        np.asarray(call.attrs["value"], call.out.dtype.numpy).reshape([int(d) for d in call.out.shape]),
        call.out,
    )


def literal(emitter: Emitter, array: np.ndarray, type: TensorType) -> Tensor:
    """``torch.vtensor.literal`` of an array."""
    builtin = f"tensor<{''.join(f'{d}x' for d in array.shape)}{type.dtype.mlir}>"
    if array.size <= 1 or array.nbytes <= INLINE_BYTES or type.dtype.kind == "bool":
        attribute = f"dense<{_nested(array, type.dtype.kind)}>" if array.size else "dense<>"
    else:
        name = f"blob{len(emitter.resources)}"
        emitter.resources[name] = _blob(array, type.dtype.size)
        attribute = f"dense_resource<{name}>"
    name = emitter.fresh()
    emitter.lines.append(f"{name} = torch.vtensor.literal({attribute} : {builtin}) : {tensor_text(type)}")
    return Tensor(name, type)


def _nested(array: np.ndarray, kind: str) -> str:
    if array.ndim:
        return "[" + ", ".join(_nested(row, kind) for row in array) + "]"
    if kind == "bool":
        return str(bool(array)).lower()
    return str(int(array)) if kind == "int" else _float(array)


def _float(value: Any) -> str:
    """By its bits, which is exact for every dtype."""
    import numpy as np

    bits = np.asarray(value).view(f"u{value.dtype.itemsize}")
    return f"0x{int(bits):0{2 * value.dtype.itemsize}X}"


def _blob(array: np.ndarray, alignment: int) -> str:
    import numpy as np

    data = np.ascontiguousarray(array).tobytes()
    return "0x" + (max(alignment, 4).to_bytes(4, "little") + data).hex().upper()
