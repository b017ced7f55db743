"""Binary BPE: what a card asks of `seeds/binary_bpe`. Tokens and decoders: `binary_bpe_training.py` makes them."""

from __future__ import annotations

import gzip
import json
import random
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.ir.diagnostics import Diagnostic

from .binary_bpe_training import MEMBERS, SEED, TOKENS, bits, decoder, rows_of, weights, write
from .programs import own, system

TARGETS = ("torch", "onnx")
FAMILY = (4096, 8192, 16384)
# It goes when the tests end.
FOLDERS: list[TemporaryDirectory[str]] = []
MODEL = """
tokenizer small { from "small.json" }
## Bytes as scores of what follows.
model follow(bytes: u8[B, N], count: i64[B]) -> (scores: float[B, 64, 4096], ids: i64[B, 64], tokens: i64[B]) {
    ids, tokens = small(bytes, count, length=64) as tokenizer
    return decoder(ids) as decoder, ids, tokens
}
"""


@cache
def folder() -> Path:
    """The seed beside its tokens."""
    FOLDERS.append(TemporaryDirectory(prefix="binary-"))
    return write(Path(FOLDERS[-1].name))


@cache
def engine(size: int = FAMILY[-1]) -> Any:
    return ts.open_tokenizer(folder(), name="programs", size=size)


def rate(size: int, data: bytes) -> float:
    """Bytes of a token."""
    rows = [data[i : i + 65536] for i in range(0, len(data), 65536)]
    return len(data) / int(engine(size).encode(rows, around=False).count.sum())


def test_members_take_the_fewer_tokens_the_larger_they_are() -> None:
    """Of Python and NumPy, on which nothing was trained; what is packed is hardly any shorter."""
    data = own()[1 << 18 :][: 1 << 16]
    rates = [rate(size, data) for size in FAMILY]
    assert rates == sorted(rates)
    assert rates[0] >= 1.8
    assert all(rate(size, gzip.compress(data)) <= 1.1 for size in FAMILY)


@pytest.mark.slow
def test_programs_that_were_held_back() -> None:
    data = b"".join(data for _, data in system(held_back=True, most=1 << 22))
    if len(data) < 1 << 20:
        pytest.skip("there are few programs on this machine")
    rates = [rate(size, data) for size in FAMILY]
    print([f"{each:.3f}" for each in rates])
    assert rates[0] >= 2.2
    assert rates == sorted(rates)


def test_all_bytes_come_back() -> None:
    draw = random.Random(0)
    rows = [bytes(range(256)), draw.randbytes(10000), b"\0" * 1000, b"<|end|>", own()[:10000]]
    for size in FAMILY:
        found = engine(size).encode(rows, around=False)
        ids = [row[mask].tolist() for row, mask in zip(found.ids, found.mask, strict=True)]
        assert engine(size).decode(ids) == rows
        # Special tokens come first, and none of a file's bytes is one.
        assert min(map(min, ids)) >= 7


def test_a_member_is_the_largest_without_its_later_merges() -> None:
    merges = {a + b: (a, b) for a, b in json.loads(TOKENS.read_bytes())["model"]["merges"]}
    texts = {number: text for text, number in engine().vocabulary().items()}
    whole = [int(number) for number in engine().encode([own()[: 1 << 16]], around=False).ids[0]]
    for size in FAMILY[:-1]:
        known = engine(size).vocabulary()
        assert known == {text: number for number, text in texts.items() if number < size}
        pending, parts = [texts[number] for number in reversed(whole)], []
        while pending:
            text = pending.pop()
            if text in known:
                parts.append(known[text])
            else:
                pending += reversed(merges[text])
        assert engine(size).encode([own()[: 1 << 16]], around=False).ids[0].tolist() == parts


# Of x86-64, as a disassembler reads them.
INSTRUCTIONS = {
    "4889df": "mov rdi, rbx", "4885c0": "test rax, rax", "4889ef": "mov rdi, rbp", "4c89e7": "mov rdi, r12",
    "4889c7": "mov rdi, rax", "4885ff": "test rdi, rdi", "4889c3": "mov rbx, rax", "660fefc0": "pxor xmm0, xmm0",
    "4531c9": "xor r9d, r9d", "4531c0": "xor r8d, r8d", "4c89ef": "mov rdi, r13", "4889ee": "mov rsi, rbp",
    "4c89f7": "mov rdi, r14", "4889de": "mov rsi, rbx", "4885db": "test rbx, rbx", "4883c408": "add rsp, 8",
    "4883ec08": "sub rsp, 8", "488b442408": "mov rax, qword ptr [rsp + 8]", "4885f6": "test rsi, rsi",
    "4885d2": "test rdx, rdx",
}  # fmt: skip


def test_tokens_are_whole_instructions() -> None:
    known = {text.encode("latin-1") for text, number in engine(4096).vocabulary().items() if number >= 7}
    found = [name for code, name in INSTRUCTIONS.items() if bytes.fromhex(code) in known]
    assert len(found) >= 10, found


@pytest.mark.extended
def test_a_disassembler_reads_them_so() -> None:
    capstone = pytest.importorskip("capstone")
    reader = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    for code, name in INSTRUCTIONS.items():
        (one,) = reader.disasm(bytes.fromhex(code), 0)
        assert (f"{one.mnemonic} {one.op_str}", one.size) == (name, len(code) // 2)


@cache
def following() -> Path:
    """The seed with a model from bytes to scores, of the smallest member."""
    from tessera.runtime.tokenizers.family import member

    declared = ts.load_tokenizer(folder(), name="programs")
    path = folder().with_name("follow.tess")
    path.with_name("small.json").write_bytes(member(TOKENS.read_bytes(), declared, FAMILY[0])[0])
    path.write_text(SEED + MODEL, encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_bytes_within_a_model_are_the_engines_tokens(target: str) -> None:
    """64 KiB of programs and bytes of every kind, and the scores of a decoder of its own behind them."""
    names = ts.load(following(), model="follow").graph.params
    own_weights = weights("tokens")
    given = {name: own_weights[name.removeprefix("decoder.")] for name in names if name.startswith("decoder.")}
    run = ts.compile(ts.load(following(), model="follow"), target=target, weights=given)
    data = own()[: 1 << 16]
    rows = [data[i : i + 128] for i in range(0, len(data), 128)] + [bytes(range(128)), bytes(range(128, 256)), b"\0" * 128, b"x"]
    text = np.zeros((len(rows), 128), np.uint8)
    for number, row in enumerate(rows):
        text[number, : len(row)] = np.frombuffer(row, np.uint8)
    count = np.array([*map(len, rows)], np.int64)
    expected = engine(FAMILY[0]).encode(rows, around=False)
    plain = ts.compile(decoder("tokens"), target="torch", weights=weights("tokens"), verify=False)
    for start in range(0, len(rows), 64):
        some = slice(start, start + 64)
        found = {name: np.asarray(value) for name, value in run(bytes=text[some], count=count[some]).items()}
        for ids, tokens, row, mask in zip(found["ids"], found["tokens"], expected.ids[some], expected.mask[some], strict=True):
            assert tokens == min(mask.sum(), 64)
            assert ids[:tokens].tolist() == row[mask].tolist()[:64]
        if start == 0:
            np.testing.assert_allclose(found["scores"], plain(ids=found["ids"])["scores"], atol=1e-4)


def test_members_read_the_first_rows_of_one_table() -> None:
    small = ts.load("binary_bpe", model="decoder", params={"vocab": 263, "rows": 4096})
    ids = np.random.default_rng(0).integers(0, 263, (2, 20))
    whole = ts.compile(decoder("tokens"), target="onnx", weights=weights("tokens"), verify=False)(ids=ids)["scores"]
    first = ts.compile(small, target="onnx", weights=weights("tokens"), verify=False)(ids=ids)["scores"]
    assert first.shape == (2, 20, 263)
    np.testing.assert_allclose(first, np.asarray(whole)[..., :263], atol=1e-5)


@pytest.mark.slow
def test_a_decoder_of_tokens_needs_fewer_bits_than_one_of_bytes() -> None:
    """At equal steps of as many ids each, on Python and NumPy."""
    data = own()[len(own()) // 2 :][: 1 << 16]
    found = {}
    for kind in MEMBERS:
        run = ts.compile(decoder(kind), target="onnx", weights=weights(kind), verify=False)
        found[kind] = bits(kind, run, data)
    print({kind: f"{each:.3f} bits a byte" for kind, each in found.items()})
    assert found["tokens"] <= found["bytes"] - 0.1
    # Both have learned something: bytes that are drawn need 8.
    assert found["bytes"] < 7


def test_ids_and_sizes_of_either_are_all_bytes() -> None:
    data = own()[:5000]
    for kind in MEMBERS:
        ids, sizes = rows_of(kind, data)
        assert len(ids) == len(sizes)
        assert sizes.sum() == len(data)


BAD = {
    "fewer than the bytes": (("vocab=16384", "vocab=262"), ("[4096, 8192, 16384]", "[262]"), r"E1005.*262 tokens are fewer than"),
    "not nested": (("[4096, 8192, 16384]", "[8192, 4096, 16384]"), ("", ""), r"E1005.*not nested"),
    "an empty corpus": (("", ""), ("", ""), r"E1010.*no file"),
    "all of it filtered": (("[0.5, 7.3]", "[0.1, 0.2]"), ("", ""), r"E1010.*no bytes to train on"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    *changes, message = BAD[name]
    text = SEED
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1) if old else text
    path = tmp_path / "binary.tess"
    path.write_text(text, encoding="utf-8")
    if name == "all of it filtered":
        (tmp_path / "programs").mkdir()
        (tmp_path / "programs" / "one").write_bytes(own()[:20000])
    with pytest.raises(Diagnostic, match=message):
        ts.train_tokenizer(path, name="programs")


def test_a_text_is_refused() -> None:
    with pytest.raises(Diagnostic, match=r"E1007.*tokenizer of bytes"):
        engine().encode(["#!/bin/sh"])


@pytest.mark.extended
def test_training_gives_such_tokens(tmp_path: Path) -> None:
    """Over whole chunks, nothing split: fewer tokens than behind a split at runs of zeros."""
    data = own()
    (tmp_path / "programs").mkdir()
    path = tmp_path / "binary.tess"
    path.write_text(SEED.replace("vocab=4096", "vocab=1500").replace("16384", "1500").replace("4096, 8192, ", ""), encoding="utf-8")
    (tmp_path / "programs" / "half").write_bytes(data[: len(data) // 2])
    held = data[len(data) // 2 :]
    rows = [held[i : i + 65536] for i in range(0, len(held), 65536)]
    rates = {}
    for name in ("programs", "whole"):
        ts.train_tokenizer(path, name=name)
        rates[name] = len(held) / int(ts.open_tokenizer(path, name=name).encode(rows, around=False).count.sum())
    print(rates)
    assert rates["whole"] > rates["programs"] > 1.7
