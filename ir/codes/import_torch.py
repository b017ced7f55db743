"""E0780-E0799: importing PyTorch programs and torch-dialect MLIR."""

from . import Code

CODES = {
    "E0780": Code(
        "operations that cannot be imported",
        "The program uses operations that have no counterpart here. All of them are listed, with how often they occur and the\n"
        "first line of Python that makes each. Not importable are above all operations whose result has a size that depends on\n"
        "values: `x[mask]`, `nonzero`, `unique`; random numbers; decompositions of matrices; control flow on values.\n\n"
        "  wrong:  y = x[scores > 0.5]\n"
        "  right:  y = torch.where((scores > 0.5)[..., None], x, 0.0)",
    ),
    "E0781": Code(
        "the PyTorch model cannot be exported",
        "A model is read through torch.export, which must be able to trace it: in eval mode, without branches on values, with\n"
        "example inputs of the right shapes. What torch says follows in the message.\n\n"
        "  right:  program = torch.export.export(model.eval(), args, dynamic_shapes=…)\n"
        "          tessera.frontends.torch.load(program)",
    ),
    "E0782": Code(
        "an input or a weight has no counterpart",
        "Inputs are tensors of f64, f32, f16, bf16, i64, i32, i16, i8, u8 or bool, whose sizes are integers, names, or integer\n"
        "expressions of names. Complex numbers, 8-bit floats, numbers and objects are not.",
    ),
    "E0783": Code(
        "an output or a state has no counterpart",
        "A model returns tensors, in tuples, dictionaries or data classes. One that changes its own buffers when it runs (batch\n"
        "normalisation in training mode, a cache kept in the module) is refused: return what changes instead.",
    ),
    "E0784": Code(
        "this is not torch-dialect MLIR",
        "`load_mlir` takes the text or the module that torch-mlir's importer writes (output_type \"raw\" or \"torch\"), with one\n"
        "function. What the parser or the verifier says follows in the message.",
    ),
    "E0785": Code(
        "a package is missing",
        "Reading and lowering MLIR needs torch-mlir, which is an extra.\n\n"
        "  right:  pip install 'tessera[mlir]'",
    ),
}  # fmt: skip
