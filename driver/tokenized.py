"""Tokenizers within a model, compared with their engines before an artifact is written."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from ..ir.diagnostics import Diagnostic
from ..ir.notation import show_value

if TYPE_CHECKING:
    from ..backends.target import Target
    from ..ir.graph import Module
    from ..runtime.tokenizers.automaton import Automaton

Run = Callable[[list[bytes]], "list[list[int]]"]

_PIECES = 40  # of the vocabulary in each text that is made of it
_ROWS = 32  # of one call
_HARD = (
    "", " ", "\t\n ", "\ufeffA first mark", "Caf\u00e9 cafe\u0301 \ufb01ne", "\u0130\u00df\u1e9e\u01c4 \u03c3\u03c2",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627", "\u6f22\u5b57\u304b\u306a \ud55c\uad6d\uc5b4 \u0e44\u0e17\u0e22",
    "a\u0000b\u00adc\u200bd\u2028e\ufffdf", "a" * 99 + " " + "b" * 101, "x" * 40_000, "1234567890 3.14 1,000", "don't I'M",
    "e\u0301\u0323\u0308 \U0001d16d\U0001d165\u302e", "\U000e0001", "\ue000", "\u0378", "\U000fffff",
    "\U0010fffd", "\U0010ffff",
)  # fmt: skip
_NO_UTF8 = (
    bytes(range(256)), b"\xff\xfe", b"a\xe2\x82b", b"\xf0\x9f\x98", b"\xed\xa0\x80 \xc0\x80 \xf4\x90\x80\x80", b"\x80\x80\xe2\x82",
)  # fmt: skip


def check_tokenizers(module: Module, target: Target) -> list[str]:
    """Compare the tokenizers of a module, built for a target, with their engines; what is to be said of that.

    Raises:
        Diagnostic: E1013 with the text of which they make other ids.
    """
    notes = []
    tables = {p.init.args[:2]: p for p in module.everything().params.values() if p.init.name == "table"}
    for (file, digest), param in tables.items():
        from ..runtime.tokenizers.automaton import automaton
        from ..runtime.tokenizers.tables import open_json

        data, same = open_json(Path(param.init.folder) / file, file, digest)
        if same:
            run = _runner(automaton(data, file), file, digest, param.init.folder, target)
            notes.append(f"`{file}`: the ids of {_compared(data, file, run)} texts are its engine's")
    return notes


def _runner(made: Automaton, file: str, digest: str, folder: str, target: Target) -> Run:
    """What makes ids of texts by the tokenizer alone, built for a target."""
    import numpy as np

    from ..frontends.source import loads, print_module
    from ..runtime.weights.bind import initialise
    from .artifact import Artifact, CompileReport

    # Rows begin with their tokens, whatever side is padded.
    named = {**made.named(file, digest), "left": False}
    statics = ", ".join(f"{name}={show_value(value)}" for name, value in named.items())
    length = f"N * {made.each} + {made.around}"
    text = (
        f"use {made.module} (encoded)\n"
        f"model ids(text: u8[B, N], count: i64[B]) -> (ids: i64[B, {length}], tokens: i64[B]) {{\n"
        f"    return encoded(text, count, length={length}, {statics}) as words\n"
        "}\n"
    )
    module = loads(text, str(Path(folder) / "ids.tess"))
    facts = {"tessera.source": print_module(module)}
    artifact = Artifact(module, target, target.build(module, initialise(module.graph), facts), facts, CompileReport())

    def run(rows: list[bytes]) -> list[list[int]]:
        texts = np.zeros((len(rows), max(1, *map(len, rows))), np.uint8)
        for i, row in enumerate(rows):
            texts[i, : len(row)] = np.frombuffer(row, np.uint8)
        found = artifact(text=texts, count=np.array([len(row) for row in rows], np.int64))
        return [ids[:count].tolist() for ids, count in zip(found["ids"], found["tokens"], strict=True)]

    return run


def _compared(data: bytes, file: str, run: Run) -> int:
    """How many texts were compared. Raises E1013."""
    from ..runtime.tokenizers.files import read_json
    from ..runtime.tokenizers.standard import Standard

    tokenizer, tables = read_json(data, file)
    opened = Standard(data, tokenizer)
    engine = opened.own
    engine.no_truncation()
    engine.no_padding()
    # By length, since those of one call are as long as the longest; which stands alone.
    texts = sorted(_texts(list(tables.tokens)), key=len)
    *starts, last = *range(0, len(texts) - 1, _ROWS), len(texts) - 1
    for start, stop in zip([*starts, last], [*starts[1:], last, len(texts)], strict=True):
        rows = texts[start:stop]
        for row, ids in zip(rows, run(rows), strict=True):
            expected = engine.encode(row.decode("latin-1") if opened.octets else row.decode(errors="replace")).ids
            if ids != expected:
                pairs = zip_longest(ids, expected)
                at, (made, own) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
                raise Diagnostic(
                    "E1013", f"of {row[:60]!r} the model makes other ids than the tokenizer in `{file}`",
                    help=f"its token {at} is {made}, and the engine's {own} (None: there is none); please report it",
                )  # fmt: skip
    return len(texts)


def _texts(vocabulary: list[str]) -> Iterator[bytes]:
    """Hard texts, and texts of what the vocabulary has and of other characters."""
    yield from (text.encode() for text in _HARD)
    yield from _NO_UTF8
    draw = random.Random(0)
    ranges = ((0x20, 0x7F), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000), (0x10000, 0x20000), (0x1F300, 0x1FB00))
    for between in ("", " ", "-"):
        for _ in range(48):
            yield between.join(draw.choices(vocabulary, k=_PIECES)).encode(errors="replace")
            yield "".join(chr(draw.randrange(*draw.choice(ranges))) for _ in range(_PIECES)).encode()
            yield bytes(draw.choices(range(256), k=_PIECES))
