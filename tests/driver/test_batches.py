"""Random pipelines on random texts: in batches of any size, one text at a time and all at once they give the same rows, or are
refused for a reason that is true of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tessera as ts
from tessera.ir.diagnostics import Diagnostic

pytest.importorskip("tokenizers")

VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "one", "two", "three", "é")
HEAD = """use std.nn (embedding)

tokenizer words {
    from "words.json"
}

model vectors(ids: token[words, B, T], mask: bool[B, T]) -> float[B, 3] {
    x = embedding(ids, vocab=words.size, dim=3) as tok
    return sum(where(rearrange(mask, "b t -> b t 1"), x, 0.0), axis=1)
}

model segments_of(segments: i64[B, T], mask: i64[B, T]) -> i64[B] {
    return sum(segments * mask, axis=1)
}

model sizes(raw: u8[B, N], count: i64[B]) -> i64[B] {
    return sum(cast(raw, i64), axis=1) * 1000 + count
}

model alike(a: float[B, D], b: float[B, D]) -> float[B] {
    return sum(a * b, axis=1)
}

model every(a: float[B, D], b: float[C, D]) -> float[B, C] {
    return einsum("b d, c d -> b c", a, b)
}

model scaled(a: float[B, D], by: float[B]) -> float[B, D] {
    return a * unsqueeze(by, 1)
}

"""
# By what they do: (inputs, further pipelines, body, results, what is returned). `$` is the first texts.
PARTS = {
    "vectors": ("", "    {n} = vectors({f}.ids, {f}.mask)\n", "float[B, 3]"),
    "again": ("", "    {n} = words.decode({f}.ids)\n", "text[B]"),
    "bytes": ("", "    {n}_raw = utf8(texts)\n    {n} = sizes({n}_raw.bytes, {n}_raw.count)\n", "i64[B]"),
    "count": ("", "    {n}_found = {f}\n    {n} = {n}_found.count\n", "i64[B]"),
    "segments": ("", "    {n} = segments_of({f}.segments, {f}.attention_mask)\n", "i64[B]"),
    "cleaned": ("", "    {n} = clean(texts)\n", "text[B]"),
    "inner": (
        "", "    {n}, {n}_ids = inner(texts)\n    {n}_text = words.decode({n}_ids)\n    {n} = scored({n}, {n}_text)\n", "float[B]",
    ),
    "scaled": (", by: float[B]", "    {n} = scaled(vectors({f}.ids, {f}.mask), by)\n", "float[B, 3]"),
    "ids": ("", "    {n}_found = {f}\n    {n} = {n}_found.ids\n", "i64[B, T]"),
    "alike": ("", "    {n} = every(vectors({f}.ids, {f}.mask), vectors({f}.ids, {f}.mask))\n", "float[B, B]"),
    "others": (
        ", others: text[C]",
        "    {n}_o = words(others)\n    {n} = every(vectors({f}.ids, {f}.mask), vectors({n}_o.ids, {n}_o.mask))\n", "float[B, C]",
    ),
}  # fmt: skip
# Those that call a model.
MODELS = {"vectors", "bytes", "segments", "inner", "scaled", "alike", "others"}
INNER = """pipeline inner(texts: text[B]) -> (v: float[B, 3], ids: i64[B, T]) {
    found = words(texts)
    return vectors(found.ids, found.mask), found.ids
}

"""


@dataclass(frozen=True)
class Case:
    """A pipeline of some parts, with the form of its tokenizer."""

    parts: tuple[str, ...]
    pair: bool
    special: bool
    side: str | None
    multiple: int | None
    length: int | None
    words: int

    def source(self) -> str:
        """As a program."""
        chosen = {f"out{number}": PARTS[part] for number, part in enumerate(self.parts)}
        inputs = "".join(dict.fromkeys(more for more, *_ in chosen.values()))
        hosts = '    host clean = "nowhere:clean"(t: text[B]) -> text[B]\n' if "cleaned" in self.parts else ""
        hosts += (
            '    host scored = "nowhere:scored"(v: float[B, 3], t: text[B]) -> float[B]\n' if "inner" in self.parts else ""
        )
        how = "words.pair(texts, second)" if self.pair else "words(texts)"
        inputs += ", second: text[B]" if self.pair else ""
        body = "".join(code.format(n=name, f="found") for name, (_, code, _) in chosen.items())
        results = ", ".join(f"{name}: {type}" for name, (_, _, type) in chosen.items())
        main = (
            f"pipeline main(texts: text[B]{inputs}) -> ({results}) {{\n{hosts}    found = {how}\n{body}"
            f"    return {', '.join(chosen)}\n}}\n"
        )
        return HEAD + (INNER if "inner" in self.parts else "") + main

    def tokenizer(self) -> dict[str, Any]:
        """Its tokenizer.json."""
        table = {text: number for number, text in enumerate(VOCABULARY[-self.words :])}
        unknown = "[UNK]" if "[UNK]" in table else next(iter(table))
        around = self.special and "[SEP]" in table
        template = [{"Sequence": {"id": "A", "type_id": 0}}, *([{"SpecialToken": {"id": "[SEP]", "type_id": 0}}] if around else [])]
        second = [{"Sequence": {"id": "B", "type_id": 1}}]
        return {
            "version": "1.0",
            "truncation": None if self.length is None else
            {"direction": "Right", "max_length": self.length, "strategy": "LongestFirst", "stride": 0},
            "padding": None if self.side is None else
            {"strategy": "BatchLongest", "direction": self.side, "pad_to_multiple_of": self.multiple, "pad_id": 0,
             "pad_type_id": 1, "pad_token": next(iter(table))},
            "added_tokens": [
                {"id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                 "special": True}
                for text, number in table.items() if text.startswith("[")
            ],
            "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": {
                "type": "TemplateProcessing", "single": template, "pair": template + second,
                "special_tokens": {"[SEP]": {"id": "[SEP]", "ids": [table["[SEP]"]], "tokens": ["[SEP]"]}} if around else {},
            },
            "decoder": None, "model": {"type": "WordLevel", "vocab": table, "unk_token": unknown},
        }  # fmt: skip


def clean(texts: Any) -> list[str]:
    return [text.upper() + "!" for text in texts]


def scored(vectors: Any, texts: Any) -> Any:
    return (vectors.sum(axis=1) + [len(text) for text in texts]).astype(np.float32)


CASES = st.builds(
    Case, st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=3).map(tuple), st.booleans(), st.booleans(),
    st.sampled_from([None, "Right", "Left"]), st.sampled_from([None, 4]), st.sampled_from([None, 3]),
    st.integers(3, len(VOCABULARY)),
)  # fmt: skip
# Texts without any token, of white space alone, of what is unknown, and of many.
TEXTS = st.lists(st.sampled_from(["one", "two", "three", "é", "x", " ", "\u2003", "\ufeff"]), max_size=6).map(" ".join)
ROWS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=7)


def close(found: Any, expected: Any) -> bool:
    if found.dtype.kind == "f":
        return found.shape == expected.shape and bool(np.allclose(found, expected, atol=1e-5))
    return bool(np.array_equal(found, expected))


def check(case: Case, rows: list[tuple[str, str]], size: int, folder: Path) -> None:
    """Raises where batches, single texts and the whole differ."""
    folder.mkdir(exist_ok=True)
    (folder / "words.json").write_text(json.dumps(case.tokenizer()))
    (folder / "main.tess").write_text(case.source())
    if not MODELS & {*case.parts}:
        with pytest.raises(Diagnostic, match="E0521"):
            ts.load(folder / "main.tess", "main")
        return
    program = ts.load(folder / "main.tess", "main")
    opened: Any = ts.compile(program, target="torch", verify=False).program  # type: ignore[attr-defined]
    texts, second = [text for text, _ in rows], [text for _, text in rows]
    given: dict[str, Any] = {"texts": texts}
    if case.pair:
        given["second"] = second
    if "scaled" in case.parts:
        given["by"] = np.arange(1, len(rows) + 1).astype(np.float32)
    beside: dict[str, Any] = {"others": ["", "one two"]} if "others" in case.parts else {}
    functions = {"clean": clean, "scored": scored}
    host = {name: f for name, f in functions.items() if name in program.stages}
    whole = opened(**given, **beside, host=host)
    if "alike" in case.parts:
        with pytest.raises(Diagnostic, match=r"E0520.*within its rows"):
            opened(**given, **beside, host=host, batch=size)
        return
    try:
        found = opened(**given, **beside, host=host, batch=size)
    except Diagnostic as error:
        if "ids" in case.parts and error.code == "E0520" and "in different batches" in error.message:
            return
        raise
    for name, value in whole.items():
        assert close(found[name], value), (name, found[name], value)
        for row in range(len(rows)):
            alone = opened(**{key: values[row : row + 1] for key, values in given.items()}, **beside, host=host)[name]
            if alone.shape[1:] == value.shape[1:]:
                assert close(alone, value[row : row + 1]), (name, row, alone, value[row])
            else:
                assert case.parts[int(name[3:])] == "ids"


def test_rows_are_the_same(tmp_path: Path) -> None:
    rows = [("one two", ""), ("", ""), ("three é x", "two"), (" ", "one one one one")]
    for number, case in enumerate((
        Case(("vectors", "again", "bytes"), False, False, None, None, None, 8),
        Case(("inner", "again"), False, False, None, None, None, 4), Case(("segments", "scaled"), True, True, "Left", 4, 3, 8),
    )):  # fmt: skip
        for size in (1, 3):
            check(case, rows, size, tmp_path / f"{number}")


@pytest.mark.extended
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(case=CASES, rows=ROWS, size=st.integers(1, 8))
def test_rows_are_the_same_whatever_the_pipeline(
    tmp_path_factory: pytest.TempPathFactory, case: Case, rows: Any, size: int
) -> None:
    check(case, rows, size, tmp_path_factory.getbasetemp() / "batches")
