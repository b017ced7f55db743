"""Whose ids a tensor of integers holds, and how a table over one vocabulary becomes one over another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from .graph import Initializer
    from .tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Ids from 0 to ``size``, less one. ``name`` is the tokenizer's that makes them, where one was named."""

    size: int
    name: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"of `{self.name}` ({self.size} tokens)" if self.name else f"of a vocabulary of {self.size} tokens"


@dataclass(frozen=True)
class Exchange:
    """What the rows of a table over one vocabulary are made of, for another one: ``rows`` of the old table, ``width`` for each
    token, i32[N, width], and how much of each, f32[N, width].

    Args:
        old, new: how many ids there are.
        facts: what is to be said of the tokens, by name.
    """

    old: int
    new: int
    width: int
    rows: Initializer
    weights: Initializer
    facts: Mapping[str, Any]


Exchanger = Callable[[str, str, Mapping[str, Any], "str | None"], Exchange]
Declarer = Callable[["Path", "str | None"], "Tokenizer"]
_exchanger: Exchanger | None = None
_declarer: Declarer | None = None


def set_exchanger(exchanger: Exchanger, declarer: Declarer) -> None:
    """Called once by the package: ``exchanger(to, old, options, folder)`` reads the files of two tokenizers, ``declarer(path,
    name)`` one that a ``.tess`` file declares."""
    global _exchanger, _declarer
    _exchanger, _declarer = exchanger, declarer


def declared(path: Path, name: str | None) -> Tokenizer:
    """The tokenizer of that name in a ``.tess`` file. Raises Diagnostic for whatever is wrong with it."""
    if _declarer is None:
        raise RuntimeError("the package is not loaded: import tessera first")
    return _declarer(path, name)


def exchange(to: str, old: str, options: Mapping[str, Any], folder: str | None) -> Exchange:
    """What stands for each token of the tokenizer in the file ``to`` among those of the tokenizer in ``old``.

    Args:
        folder: where the files are looked for first; then the working directory.

    Raises:
        Diagnostic: E0001, E1003 for the files, E1014 for tokens without a counterpart, or options that do not fit.
    """
    if _exchanger is None:
        raise RuntimeError("the package is not loaded: import tessera first")
    return _exchanger(to, old, options, folder)
