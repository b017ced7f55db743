"""Dtypes and tensor types."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .dims.dim import Dim, DimLike, as_dim, product

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class DType:
    """A concrete element type. ``kind`` is ``float``, ``int`` or ``bool``; ``size`` is in bytes."""

    name: str
    kind: str
    size: int

    def __str__(self) -> str:
        return self.name

    @property
    def numpy(self) -> np.dtype:
        """The NumPy dtype (bfloat16 comes from ml_dtypes)."""
        import numpy as np

        if self.name == "bf16":
            import ml_dtypes

            return np.dtype(ml_dtypes.bfloat16)
        return np.dtype(_NUMPY[self.name])

    @staticmethod
    def from_numpy(dtype: object) -> DType:
        """The dtype of a NumPy array. Raises KeyError for one that Tessera does not have."""
        return _FROM_NUMPY[str(dtype)]


f64 = DType("f64", "float", 8)
f32 = DType("f32", "float", 4)
f16 = DType("f16", "float", 2)
bf16 = DType("bf16", "float", 2)
i64 = DType("i64", "int", 8)
i32 = DType("i32", "int", 4)
i16 = DType("i16", "int", 2)
i8 = DType("i8", "int", 1)
u8 = DType("u8", "int", 1)
boolean = DType("bool", "bool", 1)

DTYPES: dict[str, DType] = {d.name: d for d in (f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean)}
_NUMPY = {
    "f64": "float64", "f32": "float32", "f16": "float16", "i64": "int64", "i32": "int32",
    "i16": "int16", "i8": "int8", "u8": "uint8", "bool": "bool",
}  # fmt: skip
_FROM_NUMPY = {numpy: DTYPES[name] for name, numpy in _NUMPY.items()} | {"bfloat16": bf16}

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
