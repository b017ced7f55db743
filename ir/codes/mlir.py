"""E082x: the target mlir."""

from . import Code

CODES = {
    "E0820": Code(
        "an op has no lowering to MLIR",
        "The target mlir writes ops of torch-mlir's torch dialect. A few core ops have no counterpart there, or none that\n"
        "torch-mlir lowers: `cummax`, `linear_recurrence`, `scan`, `cond`, `while`, and loops of more than 64 steps.\n\n"
        "  right:  --target onnx, or --target torch",
    ),
    "E0821": Code(
        "torch-mlir is not installed",
        "Writing MLIR needs nothing; checking it, lowering it to linalg and running it need torch-mlir, which is an extra.\n\n"
        "  right:  pip install 'tessera[mlir]'",
    ),
    "E0822": Code(
        "torch-mlir refuses the module",
        "The text was parsed, verified or lowered by torch-mlir, and it reports what follows in the message. For text that\n"
        "Tessera wrote this should never happen when parsing; lowering depends on what torch-mlir supports.",
    ),
}  # fmt: skip
