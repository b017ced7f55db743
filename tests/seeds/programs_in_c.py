"""Sources that are on every machine: C and Fortran among NumPy's files, and the vocabulary of `seeds/tokompiler`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

import tessera as ts
from tessera.ir.diagnostics import Diagnostic
from tessera.runtime.code import named, vocabulary

SEED = (Path(ts.__file__).parent / "specs/seeds/tokompiler.tess").read_text(encoding="utf-8")
TABLE = Path(ts.__file__).parent / "specs/seeds/tokompiler.json"
SUFFIXES = {"c": (".c", ".h"), "fortran": (".f90", ".f")}


@cache
def sources(language: str) -> dict[str, str]:
    """Files of a language by their names, those in UTF-8."""
    found = {}
    for path in sorted(Path(np.__file__).parent.rglob("*")):
        if path.suffix in SUFFIXES[language]:
            try:
                found[path.name] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
    return found


@cache
def parsed(language: str) -> dict[str, tuple[str, str, str]]:
    """Those that their grammar parses: (source, leaves, scope)."""
    found = {}
    for name, text in sources(language).items():
        try:
            found[name] = (text, *named(text, language, key=3))
        except Diagnostic:
            continue
    return found


def tokens() -> list[str]:
    return ["[PAD]", "[UNK]", *vocabulary("c", "fortran")]


def table() -> bytes:
    """The file of these tokens, as the seed has it beside it."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    own = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens())}, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    own.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("[PAD]", "[UNK]")])
    own.enable_padding(pad_id=0, pad_token="[PAD]")
    return json.dumps(json.loads(own.to_str())).encode()


def write(folder: Path, more: str = "") -> Path:
    """The seed in a folder of its own, beside its vocabulary."""
    (folder / TABLE.name).write_bytes(TABLE.read_bytes())
    path = folder / "tokompiler.tess"
    path.write_text(SEED + more, encoding="utf-8")
    return path
