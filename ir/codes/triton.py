"""E083x: the target triton."""

from . import Code

CODES = {
    "E0830": Code(
        "there is nothing here to run Triton's kernels on",
        "The target triton writes for GPUs. Where there is none it is written all the same, without being compared; running it\n"
        "takes Triton and a GPU, or Triton's interpreter, which is slow and there to try things.\n\n"
        "  right:  TRITON_INTERPRET=1 tessera bench vit.triton\n"
        "  right:  --target torch, or --target onnx",
    ),
}
