"""E091x: artifacts in ONNX Runtime."""

from . import Code

CODES = {
    "E0910": Code(
        "the artifact cannot be loaded",
        "The file is missing, truncated or not ONNX, or the data file beside it (`model.onnx.data`) is: the two belong\n"
        "together and must be moved together.\n\n"
        "  right:  mv model.onnx model.onnx.data elsewhere/",
    ),
    "E0911": Code(
        "this ONNX Runtime cannot execute the artifact",
        "The artifact is valid ONNX, but the CPU provider has no kernel for some op in that dtype: it executes nothing in bf16.\n\n"
        "  wrong:  tessera compile m.tess --dtype bf16 && tessera run m.onnx …\n"
        "  right:  compile for f32 or f16, or run it where ONNX Runtime has a CUDA provider",
    ),
    "E0912": Code(
        "ONNX Runtime or PyTorch failed while running the artifact",
        "The inputs fit the model's declaration, but an op refused its operands: an index that was computed lies outside of its\n"
        "axis, an integer is divided by 0, or there is too little memory. The message says which op.\n\n"
        "  wrong:  take(table, ids + 1000)\n"
        "  right:  take(table, minimum(ids + 1000, 4999))",
    ),
}  # fmt: skip
