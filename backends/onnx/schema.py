"""ONNX's dtypes, and what the schemas of its ops and ONNX Runtime's kernels take."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import onnx_ir as ox

from ...ir.types import DTYPES, DType, bf16, boolean, f16, f32, f64, i8, i16, i32, i64, u8

ONNX_TYPES = {dtype: ox.DataType(dtype.onnx) for dtype in DTYPES.values()}
TENSOR_TYPES = {dtype: ox.TensorType(kind) for dtype, kind in ONNX_TYPES.items()}
SCHEMA_NAMES = {dtype.onnx_type: dtype for dtype in DTYPES.values()}

# What an operand is computed in when an ONNX op does not take its own dtype: the first of these that the op takes.
WIDER: dict[DType, tuple[DType, ...]] = {
    boolean: (u8, i32, i64, f32), u8: (i32, i64, f32), i8: (i32, i64, f32), i16: (i32, i64, f32), i32: (i64, f64),
    i64: (f64,), f16: (f32,), bf16: (f32,), f32: (f64,), f64: (),
}  # fmt: skip

# Integer and boolean dtypes that ONNX allows but for which ONNX Runtime's CPU provider has no kernel. (Missing half
# kernels need no entry: ONNX Runtime itself computes them in f32.)
_NO_KERNEL: dict[str, frozenset[DType]] = {
    "Min": frozenset({i16}), "Max": frozenset({i16}), "Where": frozenset({i16, boolean}), "Pad": frozenset({i16}),
    "ArgMax": frozenset({i16}), "ArgMin": frozenset({i16}),
}  # fmt: skip


class Formal(NamedTuple):
    """What a schema says: type variables of inputs and outputs, and the dtypes each may have."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    allowed: dict[str, frozenset[DType]]


@lru_cache(maxsize=1024)
def formal(op_type: str, opset: int) -> Formal | None:
    """The schema of a standard op, or None when that opset does not have it."""
    import onnx.defs

    try:
        schema = onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    allowed: dict[str, frozenset[DType]] = {}
    for c in schema.type_constraints:
        types = frozenset(SCHEMA_NAMES[t] for t in c.allowed_type_strs if t in SCHEMA_NAMES)
        allowed[c.type_param_str] = types if len(types) == 1 else types - _NO_KERNEL.get(op_type, frozenset())
    for formals in (schema.inputs, schema.outputs):
        for parameter in formals:
            if parameter.type_str in SCHEMA_NAMES:
                allowed[parameter.type_str] = frozenset({SCHEMA_NAMES[parameter.type_str]})
    return Formal(tuple(p.type_str for p in schema.inputs), tuple(p.type_str for p in schema.outputs), allowed)
