"""Tables of a tokenizer as values of parameters: `table("tokenizer.json", "…", "base")`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ...ir.diagnostics import Diagnostic, did_you_mean
from .automaton import automaton
from .files import open_tables
from .ranks import with_stages

if TYPE_CHECKING:
    import numpy as np


def open_json(path: Path, file: str, named: str) -> tuple[bytes, bool]:
    """The ``tokenizer.json`` that a file is, and whether it is the one that was named.

    Args:
        named: its hash; of a file of ranks, behind a space, what was declared beside it.

    Raises:
        Diagnostic: E0001, E1003 for the file.
    """
    digest, _, stages = named.partition(" ")
    data, found = open_tables(path, file)
    if found != digest:
        return data, False
    return (with_stages(data, file, stages) if stages else data), True


def table(file: str, sha256: str, part: str, shape: tuple[int, ...]) -> np.ndarray:
    """A table of the tokenizer in a file.

    Raises:
        Diagnostic: E0001, E1003 for the file, E1004 when its hash is another one, E1012 when it is no automaton, or has no
            such table.
    """
    data, same = open_json(Path(file), file, sha256)
    if not same:
        raise Diagnostic(
            "E1004", f"`{file}` is another file than the model was made with",
            help=f'its hash is now "{hashlib.sha256(data).hexdigest()}"; compile the program that calls the tokenizer anew',
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
