"""Every diagnostic code, with the text that ``tessera help CODE`` prints.

One module a family; each defines ``CODES: dict[str, Code]``. The table is the union, found by scanning this package.

    E00xx  files, includes, the command line      E05xx  program structure (cycles, unused, require, shadowing)
    E01xx  syntax                                 E06xx  weights and artifacts
    E02xx  names                                  E07xx  passes and rewrites
    E03xx  dimensions, ranks, dtypes              E08xx  backends
    E04xx  static parameters and arguments        E09xx  running: inputs, shapes, values
    E10xx  tokenizers
    W01xx  warnings of `tessera lint`
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import NamedTuple


class Code(NamedTuple):
    """``title`` is one line; ``text`` says why it is wrong and shows a wrong and a right program."""

    title: str
    text: str


def all_codes() -> dict[str, Code]:
    """Code -> explanation, sorted by code."""
    table: dict[str, Code] = {}
    for module in iter_modules(__path__):
        table.update(import_module(f"{__name__}.{module.name}").CODES)
    return dict(sorted(table.items()))
