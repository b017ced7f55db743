"""Tokenizers of bytes: their files, their engine, and training in bounded memory that goes on where it was killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, trainers

import tessera as ts
from tessera.driver.tokenizers import load_tokenizer, open_tokenizer, train_tokenizer
from tessera.frontends.source import loads_tokenizer, print_tokenizer
from tessera.ir.diagnostics import Diagnostic
from tessera.runtime.tokenizers.byte_pairs import Limits, learn_pairs
from tessera.runtime.tokenizers.octets_training import entropy

RUNS = 'split pattern(regex="\\\\x00+|[^\\\\x00]+", behavior=isolated)'
SPEC = f"""
tokenizer t {{
    special "<|start|>"
    normalize bytes
    {RUNS}
    model bpe(vocab=600)
    process template(single=["<|start|>", "$A"], pair=["$A", "$B:1"])
    decode fuse
    family [300, 600]
    train "corpus/*" (min_frequency=2, longest=8, chunk=1024)
    require round_trip >= 1.0, "bytes come back"
    from "t.json"
}}
"""
EVERY = bytes(range(256))


def program(size: int) -> bytes:
    """Machine code that is on every machine: some of the largest of NumPy's modules."""
    path = max(Path(np.__file__).parent.rglob("*.so"), key=lambda path: path.stat().st_size)
    with path.open("rb") as stream:
        stream.seek(path.stat().st_size // 4)
        return stream.read(size)


def write(folder: Path, data: bytes, text: str = SPEC) -> Path:
    (folder / "corpus").mkdir(exist_ok=True)
    (folder / "corpus" / "program").write_bytes(data)
    path = folder / "t.tess"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write(tmp_path_factory.mktemp("octets"), program(1 << 17))
    train_tokenizer(path)
    return path


def drawn(seed: int, most: int) -> list[bytes]:
    """Texts of few letters, in which pairs come as often as others and run over one another."""
    draw = random.Random(seed)
    letters = draw.choice([2, 3, 8, 60])
    return [bytes(draw.choices(range(letters), k=draw.choice([20, most]))) for _ in range(draw.choice([1, 5]))]


def packages(chunks: list[bytes], merges: int, least: int, longest: int | None) -> list[tuple[bytes, bytes]]:
    """What the package's trainer makes of the same bytes; it keeps tokens that are shorter than it is told."""
    own = Tokenizer(models.BPE())
    more = {} if longest is None else {"max_token_length": longest + 1}
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges, min_frequency=least, initial_alphabet=[*map(chr, range(256))], show_progress=False, **more
    )
    own.train_from_iterator([chunk.decode("latin-1") for chunk in chunks], trainer)
    return [(a.encode("latin-1"), b.encode("latin-1")) for a, b in json.loads(own.to_str())["model"]["merges"]]


def naive(chunks: list[bytes], merges: int) -> list[tuple[bytes, bytes]]:
    """By the definition: count all, merge the first one, count again."""
    rows = [[bytes([byte]) for byte in chunk] for chunk in chunks]
    ids = {bytes([byte]): byte for byte in range(256)}
    found: list[tuple[bytes, bytes]] = []
    while len(found) < merges:
        counts = Counter(pair for row in rows for pair in pairwise(row) if pair[0] + pair[1] not in ids)
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], ids[pair[0]], ids[pair[1]]))
        ids[best[0] + best[1]] = 256 + len(found)
        found.append(best)
        rows = [joined(row, best) for row in rows]
    return found


def joined(row: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    made: list[bytes] = []
    place = 0
    while place < len(row):
        both = (*row[place : place + 2],) == pair
        made.append(pair[0] + pair[1] if both else row[place])
        place += 1 + both
    return made


@pytest.mark.parametrize("seed", range(12))
def test_merges_are_the_packages_and_those_of_the_definition(seed: int) -> None:
    chunks = drawn(seed, 600)
    draw = random.Random(seed)
    limits = Limits(draw.choice([20, 150]), draw.choice([1, 3]), draw.choice([None, 3, 16]))
    found = learn_pairs([(chunk, []) for chunk in chunks], limits)
    assert found == packages(chunks, limits.merges, limits.least, limits.longest)
    assert learn_pairs([(c, []) for c in chunks], Limits(60)) == naive(chunks, 60)


def test_merges_of_a_program_are_the_packages() -> None:
    data = program(1 << 17)
    chunks = [data[i : i + 8192] for i in range(0, len(data), 8192)]
    assert learn_pairs([(c, []) for c in chunks], Limits(400, 2, 16)) == packages(chunks, 400, 2, 16)


def test_pieces_are_merged_apart() -> None:
    chunks = [b"ababab\0\0abab\0", b"\0\0\0abc"]
    parts = [part for chunk in chunks for part in chunk.replace(b"\0", b"|\0|").split(b"|") if part]
    pieces = [(chunk, [i for i in range(1, len(chunk)) if 0 in chunk[i - 1 : i + 1]]) for chunk in chunks]
    assert learn_pairs(pieces, Limits(20)) == learn_pairs([(part, []) for part in parts], Limits(20)) == naive(parts, 20)


def test_a_file_alone_says_that_it_is_one_of_bytes(trained: Path) -> None:
    """In any other reader its letters are the bytes in Latin-1."""
    alone = load_tokenizer(trained.parent / "t.json")
    assert [part.name for part in alone.normalize] == ["bytes"]
    declared = load_tokenizer(trained)
    assert loads_tokenizer(print_tokenizer(declared), str(trained)).difference(declared) is None
    data = program(1 << 16)[-5000:]
    found = open_tokenizer(trained).encode([data])
    own = Tokenizer.from_file(str(trained.parent / "t.json"))
    assert found.ids[0].tolist() == own.encode(data.decode("latin-1")).ids
    assert found.offsets[0, -1].tolist()[1] == len(data)
    assert open_tokenizer(trained.parent / "t.json").encode([data]).ids.tolist() == found.ids.tolist()


def test_all_bytes_come_back_and_none_is_a_special_token(trained: Path) -> None:
    engine = open_tokenizer(trained)
    draw = random.Random(0)
    rows = [EVERY, b"", b"\0" * 5000, b"a<|start|>b", draw.randbytes(5000), *(bytes([b]) for b in range(256))]
    found = engine.encode(rows, around=False)
    ids = [row[mask].tolist() for row, mask in zip(found.ids, found.mask, strict=True)]
    assert engine.decode(ids, special=True) == rows
    assert all(0 not in row for row in ids)
    assert engine.encode([b"x"]).ids[0, 0] == 0
    for text in ("a text", ""):
        with pytest.raises(Diagnostic, match=r"E1007.*is a text, and `t` is a tokenizer of bytes"):
            engine.encode([text])


def test_a_member_is_the_others_without_their_later_merges(trained: Path) -> None:
    data = program(1 << 17)[-20000:]
    large, small = open_tokenizer(trained), open_tokenizer(trained, size=300)
    texts = {number: text for text, number in large.vocabulary().items()}
    merges = {a + b: (a, b) for a, b in json.loads((trained.parent / "t.json").read_bytes())["model"]["merges"]}
    known = small.vocabulary()

    def parts(text: str) -> list[str]:
        return [text] if text in known else [*parts(merges[text][0]), *parts(merges[text][1])]

    unmade = [known[part] for number in large.encode([data], around=False).ids[0] for part in parts(texts[int(number)])]
    assert small.encode([data], around=False).ids[0].tolist() == unmade


@pytest.mark.slow
@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_within_a_model_bytes_are_what_the_engine_makes_of_them(target: str, trained: Path) -> None:
    path = trained.with_name(f"model_{target}.tess")
    model = (
        "model ids(text: u8[B, N], count: i64[B]) -> (ids: i64[B, N + 1], tokens: i64[B]) {\n"
        "    return t(text, count, length=N + 1) as words\n}\n"
    )
    path.write_text(SPEC + model, encoding="utf-8")
    run = ts.compile(ts.load(path, model="ids"), target=target)
    rows = [EVERY, b"a<|start|>b", b"\xef\xbf\xbd\xff\xfe", b"\0" * 99, b"", program(1 << 17)[-700:]]
    text = np.zeros((len(rows), max(map(len, rows))), np.uint8)
    for number, row in enumerate(rows):
        text[number, : len(row)] = np.frombuffer(row, np.uint8)
    found = {name: np.asarray(value) for name, value in run(text=text, count=np.array([*map(len, rows)])).items()}
    expected = open_tokenizer(trained).encode(rows)
    for ids, count, own, mask in zip(found["ids"], found["tokens"], expected.ids, expected.mask, strict=True):
        assert ids[:count].tolist() == own[mask].tolist()


class Killed(Exception):
    pass


def test_a_training_that_was_stopped_goes_on(tmp_path: Path) -> None:
    data = program(1 << 16)
    chunks: list[tuple[bytes, list[int]]] = [(data[i : i + 4096], []) for i in range(0, len(data), 4096)]
    limits, note = Limits(250, 2, 16), tmp_path / "note"
    whole = learn_pairs(chunks, limits)
    noted = 0
    for stop in (3, 60, 200):
        seen: list[int] = []

        def progress(text: str, done: int, total: int, seen: list[int] = seen, stop: int = stop) -> None:
            seen.append(done)
            if done >= stop:
                raise Killed

        with pytest.raises(Killed):
            learn_pairs(chunks, limits, progress, note, pause=0.0)
        assert seen[0] > noted
        noted = len(json.loads(note.read_text())["merges"])
        assert stop // 2 < noted < seen[-1]
    # It goes on from what was noted, but for another corpus, other limits, or what is no note.
    steps: list[int] = []
    assert learn_pairs(chunks, limits, lambda _, done, total: steps.append(done), note) == whole
    assert steps[0] > 100
    for others, more in ((chunks[1:], limits), (chunks, Limits(249, 2, 16)), ([(c, [1]) for c, _ in chunks], limits)):
        steps.clear()
        learn_pairs(others, more, lambda _, done, total: steps.append(done), note)
        assert steps[0] < 16
    for text in ("", "[]", "{}", '{"corpus": 1}', "\0"):
        note.write_text(text)
        assert learn_pairs(chunks[:2], Limits(5), checkpoint=note) == learn_pairs(chunks[:2], Limits(5))


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_file(tmp_path: Path) -> None:
    """With SIGKILL, whose process tidies nothing up."""
    text = SPEC.replace("600", "3000")
    path = write(tmp_path, program(1 << 20), text)
    part = tmp_path / "t.json.part"
    code = (
        "import tessera.runtime.tokenizers.byte_pairs as pairs; pairs.learn_pairs.__defaults__ = "
        "(*pairs.learn_pairs.__defaults__[:-1], 0.0); import tessera; tessera.train_tokenizer('t.tess')"
    )
    child = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    until = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < until:
        if part.exists() and len(json.loads(part.read_text())["merges"]) > 200:
            break
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "t.json").exists()
    first: list[int] = []
    train_tokenizer(path, progress=lambda text, done, total: first.append(done or 0))
    assert first[0] > 200
    assert not part.exists()
    (tmp_path / "once").mkdir()
    once = write(tmp_path / "once", program(1 << 20), text)
    train_tokenizer(once)
    assert (tmp_path / "t.json").read_bytes() == once.with_name("t.json").read_bytes()


@pytest.mark.slow
def test_training_takes_less_than_twice_its_corpus() -> None:
    """Of memory, for 12 MB of machine code of which nothing is split."""
    import torch

    size = 12 << 20
    with (Path(torch.__file__).parent / "lib" / "libtorch_cpu.so").open("rb") as stream:
        stream.seek(64 << 20)
        chunks: Iterator[tuple[bytes, list[int]]] = ((stream.read(8192), []) for _ in range(size // 8192))
        tracemalloc.start()
        try:
            merges = learn_pairs(chunks, Limits(30, 4, 16))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    print(f"{peak / size:.2f} of the corpus")
    assert len(merges) == 30
    assert size <= peak <= 2 * size


def test_entropy_of_chunks() -> None:
    assert entropy(b"\0" * 99) == 0.0
    assert entropy(EVERY) == 8.0
    assert entropy(b"ab" * 50) == 1.0


BAD = {
    "too few for the bytes": (("vocab=600", "vocab=256"), ("[300, 600]", "[256]"), r"E1005.*256 tokens are fewer than the 256"),
    "a member too small": (("[300, 600]", "[200, 600]"), ("", ""), r"E1005.*200 tokens are fewer than the 256 bytes"),
    "not nested": (("[300, 600]", "[600, 300]"), ("", ""), r"E1005.*not nested"),
    "another normalizer": (("normalize bytes", "normalize bytes normalize nfc"), ("", ""), r"E1004.*bytes are none"),
    "words": ((RUNS, "split words"), ("", ""), r"E1004.*does not keep each byte"),
    "another model": (("model bpe", "model wordpiece"), ("", ""), r"E1004.*does not read bytes"),
    "what is unknown": (("vocab=600", 'vocab=600, unknown="<|start|>"'), ("", ""), r"E1004.*no meaning for bytes"),
    "another way back": (("decode fuse", "decode byte_level"), ("", ""), r"E1004.*come back as they are"),
    "an option of others": (("chunk=1024", "limit_alphabet=9"), ("", ""), r"E1002.*has no option `limit_alphabet`"),
    "no range": (("chunk=1024", "entropy=[7.0, 1.0]"), ("", ""), r"E1002.*from 0 to 8"),
    "an empty corpus": (("chunk=1024", "entropy=[7.9, 8.0]"), ("", ""), r"E1010.*no bytes to train on"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    *changes, message = BAD[name]
    text = SPEC
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = write(tmp_path, program(4096), text)
    with pytest.raises(Diagnostic, match=message):
        train_tokenizer(path) if name == "an empty corpus" else load_tokenizer(path, tables=False)
