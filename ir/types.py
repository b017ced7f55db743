"""Dtypes and tensor types."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .dims.dim import Dim, DimLike, as_dim, product

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class DType:
    """A concrete element type, with its names elsewhere: this table is the only one.

    Args:
        name: ours; in capitals that of safetensors.
        kind: ``float``, ``int`` or ``bool``.
        size: in bytes.
        long: what NumPy and torch call it.
        onnx: ONNX's number of it (``TensorProto.DataType``).
        torch: torch's number of it, which torch-dialect MLIR writes.
        mlir: the element type of a tensor in that dialect.
    """

    name: str
    kind: str
    size: int
    long: str = field(compare=False)
    onnx: int = field(compare=False)
    torch: int = field(compare=False)
    mlir: str = field(compare=False)

    def __str__(self) -> str:
        return self.name

    @property
    def numpy(self) -> np.dtype:
        """The NumPy dtype (bfloat16 comes from ml_dtypes)."""
        import numpy as np

        if self.name == "bf16":
            import ml_dtypes

            return np.dtype(ml_dtypes.bfloat16)
        return np.dtype(self.long)

    @property
    def onnx_type(self) -> str:
        """The type of its tensors in ONNX's schemas and sessions: ``tensor(float)``."""
        return f"tensor({_ONNX_NAMES.get(self.long, self.long)})"

    @staticmethod
    def from_numpy(dtype: object) -> DType:
        """The dtype of a NumPy array. Raises KeyError for one that Tessera does not have."""
        return _FROM_NUMPY[str(dtype)]


f64 = DType("f64", "float", 8, "float64", 11, 7, "f64")
f32 = DType("f32", "float", 4, "float32", 1, 6, "f32")
f16 = DType("f16", "float", 2, "float16", 10, 5, "f16")
bf16 = DType("bf16", "float", 2, "bfloat16", 16, 15, "bf16")
i64 = DType("i64", "int", 8, "int64", 7, 4, "si64")
i32 = DType("i32", "int", 4, "int32", 6, 3, "si32")
i16 = DType("i16", "int", 2, "int16", 5, 2, "si16")
i8 = DType("i8", "int", 1, "int8", 3, 1, "si8")
u8 = DType("u8", "int", 1, "uint8", 2, 0, "ui8")
boolean = DType("bool", "bool", 1, "bool", 9, 11, "i1")

# A text, which is a value on the host only: in a model texts are bytes, or ids.
TEXT = DType("text", "text", 0, "object", 0, 0, "")

DTYPES: dict[str, DType] = {d.name: d for d in (f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean)}
_ONNX_NAMES = {"float64": "double", "float32": "float"}
_FROM_NUMPY = {d.long: d for d in DTYPES.values()}

# A dtype variable of a signature, and what it may stand for.
KINDS: dict[str, frozenset[str]] = {
    "float": frozenset({"float"}),
    "int": frozenset({"int"}),
    "num": frozenset({"float", "int"}),
    "any": frozenset({"float", "int", "bool"}),
}


@dataclass(frozen=True, slots=True)
class TensorType:
    """``f32[B, T, 768]``: a dtype and one dimension an axis."""

    dtype: DType
    shape: tuple[Dim, ...]

    @staticmethod
    def of(dtype: DType | str, shape: Iterable[DimLike] = ()) -> TensorType:
        """Build from names and integers: ``TensorType.of("f32", ["B", 3])``."""
        return TensorType(DTYPES[dtype] if isinstance(dtype, str) else dtype, tuple(as_dim(d) for d in shape))

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def numel(self) -> Dim:
        """The number of elements."""
        return product(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"
