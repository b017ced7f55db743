"""The tokenizer of a model that generates: prompts to ids, ids to text, and which tokens end a text."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ...ir.diagnostics import Diagnostic, did_you_mean
from ..inputs import Options
from ..text import load_tokenizer

# What ends a text in the vocabularies of published models, where no file beside the tokenizer says it.
ENDS = (
    "</s>", "<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>", "<eos>", "<end_of_turn>", "<|end|>", "<|return|>",
)  # fmt: skip


class Vocabulary:
    """A ``tokenizer.json`` with what a model needs of it.

    Args:
        path: the file, or its folder.
        vocab: how many tokens the model scores.
        eos: tokens that end a text, by name; those that the files beside the tokenizer name without, else well-known ones.

    Attributes:
        ends: their ids.
        begin, end: the tokens around a conversation, as its template names them; empty where nothing says them.
        size: one more than the largest id that it knows.

    Raises:
        Diagnostic: E0015 no `tokenizers`, E0924 no tokenizer, E0953 one of another model, or without such a token.
    """

    def __init__(self, path: str | os.PathLike[str], vocab: int, eos: Iterable[str] | None = None) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise Diagnostic("E0924", f"a tokenizer is a `tokenizer.json` or its folder, not {type(path).__name__}")
        self._tokenizer = load_tokenizer(Options(tokenizer=Path(path)))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        known = self._tokenizer.get_vocab(with_added_tokens=True)
        self.size = max(known.values(), default=-1) + 1
        if not 0 < self.size <= vocab:
            raise Diagnostic(
                "E0953", f"`{path}` has {self.size} tokens, and the model scores {vocab}: it is another model's tokenizer",
                help="the tokenizer.json that belongs to the weights",
            )  # fmt: skip
        named = _ends(Path(path), known) if eos is None else list(eos)
        for name in named:
            if name not in known:
                raise Diagnostic(
                    "E0953", f"the tokenizer `{path}` has no token `{name}`, which is to end a text",
                    help=did_you_mean(name, known) or "a token of its vocabulary, as its file spells it",
                )  # fmt: skip
        self.ends = frozenset(known[name] for name in named)
        said = read_object(_folder(Path(path)) / "tokenizer_config.json")
        self.begin, self.end = (_token(said.get(name)) or "" for name in ("bos_token", "eos_token"))

    def encode(self, text: str, *, around: bool = True) -> list[int]:
        """The ids of a text, with the tokens that the tokenizer puts around one, unless it holds them already. Raises E0953."""
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=around).ids
        except Exception as error:  # the package raises bare Exceptions
            raise Diagnostic("E0953", f"the tokenizer cannot read the text: {str(error).splitlines()[0]}") from None
        return ids

    def id_of(self, token: str) -> int | None:
        """The id of a token, None where there is none of that name."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


def _ends(path: Path, known: dict[str, int]) -> list[str]:
    """The tokens that end a text: what a `generation_config.json`, `config.json` or
    `tokenizer_config.json` says, else well-known ones."""
    folder = _folder(path)
    by_id = {index: name for name, index in known.items()}
    for file in ("generation_config.json", "config.json", "tokenizer_config.json"):
        said = read_object(folder / file)
        ids = said.get("eos_token_id")
        named = [by_id[i] for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int) and i in by_id]
        named += [name for name in [_token(said.get("eos_token"))] if name in known]
        if named:
            return named
    return [name for name in ENDS if name in known]


def _folder(path: Path) -> Path:
    return path if os.path.isdir(path) else path.parent


def _token(said: Any) -> str | None:
    """A token as these files name one: a text, or an object with its content."""
    text = said.get("content") if isinstance(said, dict) else said
    return text if isinstance(text, str) else None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; nothing where the file is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
