"""E00xx: files, includes, the command line."""

from __future__ import annotations

from . import Code

CODES = {
    "E0001": Code(
        "no such file",
        'A file named on the command line or by `use "…"` does not exist. A path in `use` is relative to the file '
        "that names it.",
    ),
    "E0002": Code(
        "the file cannot be read",
        "The path is a directory, or the file's permissions forbid reading it. The message has the reason.",
    ),
    "E0003": Code(
        "the file is not UTF-8",
        "Source files are UTF-8 text. The message names the first byte that is not; an editor can save the file again "
        "with that encoding. A compiled artifact (`.onnx`, `.safetensors`) is no source file.",
    ),
    "E0004": Code(
        "the file is too large",
        "A source file holds at most 64 MB; weights and tables belong into a `.safetensors` file.",
    ),
    "E0005": Code(
        "the included file is outside of the project",
        "A program may use files in the folder of its main file and below it, so that opening somebody's spec "
        "cannot read "
        "other files of yours. A program that is not in a file can only use the shipped modules.\n\n"
        '  wrong:  use "../../secret.tess" (f)\n'
        '  right:  use "blocks/mixer.tess" (mixer)',
    ),
    "E0006": Code(
        "files use each other in a circle",
        "`a.tess` uses `b.tess`, which uses `a.tess`. Neither can be read first.\n\n"
        "  right:  move what both need into a third file, and use that from both",
    ),
}
