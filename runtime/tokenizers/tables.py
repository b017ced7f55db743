"""Tables of a tokenizer as values of parameters: `table("tokenizer.json", "…", "base")`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...ir.diagnostics import Diagnostic, did_you_mean
from .automaton import automaton
from .files import open_tables

if TYPE_CHECKING:
    import numpy as np


def table(file: str, sha256: str, part: str, shape: tuple[int, ...]) -> np.ndarray:
    """A table of the tokenizer in a file.

    Raises:
        Diagnostic: E0001, E1003 for the file, E1004 when its hash is another one, E1012 when it is no automaton, or has no
            such table.
    """
    data, digest = open_tables(Path(file), file)
    if digest != sha256:
        raise Diagnostic(
            "E1004", f"`{file}` is another file than the model was made with",
            help=f'its hash is now "{digest}"; compile the program that calls the tokenizer anew',
        )  # fmt: skip
    tables = automaton(data, file).tables
    if part not in tables:
        raise Diagnostic(
            "E1012", f"the tokenizer in `{file}` has no table `{part}`",
            help=did_you_mean(part, tables) or f"it has {', '.join(tables)}",
        )  # fmt: skip
    if tables[part].shape != shape:
        raise Diagnostic(
            "E1012", f"the table `{part}` of `{file}` is {list(tables[part].shape)}, and not {list(shape)}"
        )
    return tables[part]
