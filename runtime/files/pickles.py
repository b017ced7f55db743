"""Files that are never opened: pickles, which run whatever code is in them."""

from __future__ import annotations

import os
from pathlib import Path

from ...ir.diagnostics import Diagnostic

SUFFIXES = frozenset({".pt", ".pth", ".bin", ".pt2", ".pkl", ".ckpt", ".jit"})


def refuse_pickled_model(name: str | os.PathLike[str]) -> None:
    """Raise E0930 where a model is asked for and the name is that of a pickle."""
    path = Path(name)
    if path.suffix.lower() not in SUFFIXES:
        return
    how = "holds pickles (torch.export.load opens them)" if path.suffix.lower() == ".pt2" else "is a pickle"
    raise Diagnostic(
        "E0930",
        f"`{path.name}` {how}: opening one runs whatever code is in it, and Tessera never does",
        help="where you trust it: load it in Python, `torch.onnx.export(model, args, 'model.onnx', dynamo=True)`, and optimize"
        " that; or give the ExportedProgram to `tessera.frontends.torch.load`",
    )
