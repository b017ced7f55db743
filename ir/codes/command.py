"""E001x: the command line and the Python API."""

from __future__ import annotations

from . import Code

CODES = {
    "E0010": Code(
        "the output cannot be written",
        "The folder does not exist, may not be written to, or the disk is full. Output is first written aside and then "
        "renamed, so nothing was changed: an earlier file of that name is still whole.\n\n"
        "  wrong:  tessera compile vit.tess -o /no/such/folder/vit.onnx\n"
        "  right:  tessera compile vit.tess -o vit.onnx",
    ),
    "E0011": Code(
        "an option's value cannot be understood",
        "`-p name=value` takes a literal of the language: a number, `true`, a string, a bare word, or a list; "
        "`--pass` takes "
        "a pass with its options.\n\n"
        "  wrong:  tessera compile vit.tess -p classes\n"
        "  right:  tessera compile vit.tess -p classes=10 --pass 'merge_tokens(r=8)'",
    ),
    "E0012": Code(
        "the target, or one of its options, is not known",
        "The targets are `onnx` (a file for ONNX Runtime and others, with the option `opset`) and `torch` (a "
        "safetensors "
        "file that carries its program).\n\n"
        "  wrong:  target tensorrt\n"
        "  right:  target onnx(opset=24)",
    ),
    "E0013": Code(
        "nothing of that name is known",
        "`ops`, `passes`, `specs` and `help` show what there is when they are called without a name.\n\n"
        "  wrong:  tessera help E9999\n"
        "  right:  tessera help",
    ),
    "E0014": Code(
        "this is not an artifact of Tessera",
        "`run` takes what `compile` wrote: an ONNX file, or for the target torch a safetensors file that carries its "
        "source. A `.tess` file must be compiled first.\n\n"
        "  wrong:  tessera run vit.tess --input image=cat.png\n"
        "  right:  tessera compile vit.tess -o vit.onnx && tessera run vit.onnx --input image=cat.png",
    ),
    "E0015": Code(
        "an optional package is not installed",
        "Some commands need a package that Tessera itself does not: tokenizers, to turn text into token ids; pygls, to serve "
        "editors.\n\n"
        "  right:  pip install 'tessera[real]'\n"
        "  right:  pip install 'tessera[lsp]'",
    ),
    "E0016": Code(
        "the values given in Python do not fit together",
        "A model built in Python mixes values of two models, is used after it was finished, or declares a name "
        "twice.\n\n"
        '  wrong:  with ts.model("a") as a: x = a.input("x", "float[B]")\n'
        '          with ts.model("b") as b: b.output(x)\n'
        "  right:  declare the inputs of a model in the model itself",
    ),
    "E0017": Code(
        "an editor cannot give this name another one",
        "Names of the text and of files beside it can change; those that are built in, shipped, or fields of a record cannot, and "
        "none can become a word that means something else already.\n\n"
        "  wrong:  linear -> fully_connected, where `linear` comes from std.nn\n"
        "  right:  use std.nn (linear as fully_connected)",
    ),
}
