"""Element types of 8 bits or less that Tessera does not have: held in a dtype that has all their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log2, nan
from typing import TYPE_CHECKING

from ...ir.diagnostics import Diagnostic
from ...ir.graph import Value
from ...ir.types import DType, f16, i8, u8
from .values import Tensor

if TYPE_CHECKING:
    import numpy as np

    from .call import Call
    from .registry import Result
    from .values import Region


@dataclass(frozen=True, slots=True)
class Narrow:
    """An element type of a file.

    Args:
        name: what ONNX calls it.
        bits: of one element.
        dtype: what it is held in.
        numpy: what ``ml_dtypes`` calls it.
        rounds: of floats, the bits behind the leading one, the least exponent and the greatest number.
        beyond: of floats, what becomes of a number that is too large where it is not cut off.
        ends: of integers, the least and the greatest number.
    """

    name: str
    bits: int
    dtype: DType
    numpy: str
    rounds: tuple[int, int, float] | None = None
    beyond: float = nan
    ends: tuple[int, int] = (0, 0)

    def room(self, count: int) -> int:
        """How many bytes so many elements take."""
        return -(-count * self.bits // 8)

    def read(self, data: bytes, shape: Sequence[int]) -> np.ndarray:
        """Packed elements, the lowest bits first."""
        import ml_dtypes
        import numpy as np

        raw: np.ndarray = np.frombuffer(data, np.uint8)
        if self.bits < 8:
            places = np.arange(0, 8, self.bits, dtype=np.uint8)
            raw = (raw[:, None] >> places & ((1 << self.bits) - 1)).reshape(-1)[: int(np.prod(shape))]
        if self.ends[0] < 0:  # two's complement
            raw = np.where(raw >> (self.bits - 1) & 1, raw.astype(np.int16) - (1 << self.bits), raw)
        elif self.rounds is not None:
            raw = raw.view(getattr(ml_dtypes, self.numpy))
        return raw.astype(self.dtype.numpy).reshape(shape)


# By ONNX's number.
NARROW = {
    17: Narrow("float8e4m3fn", 8, f16, "float8_e4m3fn", (3, -6, 448.0)),
    18: Narrow("float8e4m3fnuz", 8, f16, "float8_e4m3fnuz", (3, -7, 240.0)),
    19: Narrow("float8e5m2", 8, f16, "float8_e5m2", (2, -14, 57344.0), inf),
    20: Narrow("float8e5m2fnuz", 8, f16, "float8_e5m2fnuz", (2, -15, 57344.0)),
    21: Narrow("uint4", 4, u8, "uint4", ends=(0, 15)),
    22: Narrow("int4", 4, i8, "int4", ends=(-8, 7)),
    23: Narrow("float4e2m1", 4, f16, "float4_e2m1fn", (1, 0, 6.0)),
    25: Narrow("uint2", 2, u8, "uint2", ends=(0, 3)),
    26: Narrow("int2", 2, i8, "int2", ends=(-2, 1)),
}
# Ops that move such elements, and those that read them as numbers of another type.
_MOVING = frozenset({
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "Concat", "Identity", "Flatten", "Split", "Expand",
})  # fmt: skip
_READING = frozenset({"Cast", "DequantizeLinear", "QuantizeLinear", "Shape", "Size"})


def of_operands(c: Call) -> int:
    """The narrow element type that the results of a node have too. Raises E0757 where an op computes with one, or mixes them."""
    found = {t.narrow for t in c.inputs if t is not None and t.narrow}
    if not found or c.op_type in _READING:
        return 0
    if c.op_type not in _MOVING or len(found) > 1:
        names = " and ".join(NARROW[number].name for number in sorted(found))
        raise Diagnostic("E0757", f"{c.where} computes with {names}, which Tessera does not have")
    return found.pop()


def marked(results: Result | Sequence[Result | None], number: int, region: Region) -> list[Tensor | None]:
    """The results of a node as tensors of that element type."""
    rows: Sequence[Result | None] = [results] if isinstance(results, (Value, Tensor)) else results
    made = [Tensor(r.type, value=r, region=region) if isinstance(r, Value) else r for r in rows]
    for tensor in made:
        if tensor is not None:
            tensor.narrow = number
    return made


def whole(tensor: Tensor, name: str) -> Tensor:
    """A result of the graph as it is. Raises E0757 for one of a narrow type, which would come out as another."""
    if tensor.narrow:
        help = "give out what is dequantized from it"
        raise Diagnostic("E0757", f"the output `{name[:200]}` has the element type {NARROW[tensor.narrow].name}", help=help)
    return tensor


def rounded(c: Call, x: Value, number: int) -> Tensor:
    """x converted to a float of that narrow type. Raises E0758 for a conversion to one of integers."""
    kind = NARROW[number]
    if kind.rounds is None:
        c.refuse(f"a conversion to {kind.name}")
    digits, least, most = kind.rounds
    options = {"digits": digits, "least": least, "steps": int(log2(most)) - least, "most": most, "beyond": kind.beyond}
    y = c.foreign("narrow.nearest", x, **options, cut=bool(c.attr("saturate", 1)))
    return Tensor(y.type, value=y, region=c.region, narrow=number)
