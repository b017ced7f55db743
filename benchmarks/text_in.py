"""A tokenizer within an ONNX file beside the same tokenizer in Rust: MiniLM from bytes to the embedding.

    python -m benchmarks.text_in [--texts N]
    python -m benchmarks.text_in --tables

The second measures ids alone, of larger tables: pairs of bytes with GPT-2's split, pairs of characters in Llama 2's form,
and Unigram, trained on Python's own source.

Needs the extra `real`. Texts are man pages and docstrings (`benchmarks/texts.py`). Both sides run on one thread; of a batch every
row is as long as its longest.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import tessera as ts
from tessera.driver.report.measure import interleaved

from .common import write
from .peers import minilm_folder
from .texts import corpus

SPEC = """
use zoo.minilm (minilm)

tokenizer words {
    from "tokenizer.json"
}

## From bytes to ids.
model ids(text: u8[B, N], count: i64[B]) -> (ids: i64[B, min(N + 2, 128)], tokens: i64[B]) {
    ids, tokens = words(text, count) as tokenizer
    return ids, tokens
}

## From bytes to the embedding.
model embed(text: u8[B, N], count: i64[B]) -> (embedding: float[B, 384]) {
    ids, tokens = words(text, count) as tokenizer
    mask = unsqueeze(iota(ids.shape[1]), 0) < unsqueeze(tokens, 1)
    return minilm(ids, cast(mask, i64))
}
"""
BATCHES = (1, 32)
ROUNDS = 15


def arrays(texts: list[str]) -> dict[str, np.ndarray]:
    """Texts as rows of bytes, and how many of each row count."""
    rows = [np.frombuffer(text.encode(), np.uint8) for text in texts]
    text = np.zeros((len(rows), max(1, *map(len, rows))), np.uint8)
    for i, row in enumerate(rows):
        text[i, : len(row)] = row
    return {"text": text, "count": np.array([len(row) for row in rows])}


def session(module: Any, weights: Path | None, path: Path, compared: bool = True) -> Any:
    """An artifact in plain ONNX Runtime, on one thread; ``compared`` with its reference and its tokenizer first."""
    import onnxruntime as ort

    ts.compile(module, target="onnx", weights=weights, verify=compared and weights is None, output=path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def figures(count: int) -> dict[str, Any]:
    """Whether ids and embeddings are those of the tokenizer in Rust with the model, and what both cost."""
    from tokenizers import Tokenizer

    rust = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    weights = minilm_folder() / "model.safetensors"
    texts = corpus(count)
    # Where the machine has fewer, the second halves of these are others.
    texts += [text[len(text) // 2 :] for text in texts[: count - len(texts)]]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copy(minilm_folder() / "tokenizer.json", folder)
        (folder / "spec.tess").write_text(SPEC, encoding="utf-8")
        ids = session(ts.load(folder / "spec.tess", "ids"), None, folder / "ids.onnx")
        embed = session(ts.load(folder / "spec.tess", "embed"), weights, folder / "embed.onnx")
        plain = session(ts.load("minilm"), weights, folder / "plain.onnx")
        sizes = {name: (folder / f"{name}.onnx").stat().st_size for name in ("ids", "embed", "plain")}

    def in_two(rows: list[str]) -> np.ndarray:
        rust.enable_padding()
        found = rust.encode_batch(rows)
        feeds = {"input_ids": [row.ids for row in found], "attention_mask": [row.attention_mask for row in found]}
        made: np.ndarray = plain.run(None, {name: np.array(value) for name, value in feeds.items()})[0]
        return made

    def in_one(rows: list[str]) -> np.ndarray:
        made: np.ndarray = embed.run(None, arrays(rows))[0]
        return made

    same, apart = 0, 0.0
    for start in range(0, len(texts), 32):
        rows = texts[start : start + 32]
        found, counts = ids.run(None, arrays(rows))
        rust.no_padding()
        expected = [row.ids for row in rust.encode_batch(rows)]
        same += sum(row[:n].tolist() == own for row, n, own in zip(found, counts, expected, strict=True))
        apart = max(apart, float(np.abs(in_one(rows) - in_two(rows)).max()))
    result: dict[str, Any] = {"texts": len(texts), "same_ids": same, "largest_difference": apart, "bytes": sizes}
    for name, most in (("short", 100), ("long", 1000)):
        for batch in BATCHES:
            rows = [text[:most] for text in texts[:batch]]
            feeds = arrays(rows)
            runs = {
                "tokenizers": lambda rows=rows: rust.encode_batch(rows),
                "in_onnx": lambda feeds=feeds: ids.run(None, feeds),
                "tokenizers_then_model": lambda rows=rows: in_two(rows),
                "bytes_to_embedding": lambda feeds=feeds: embed.run(None, feeds),
            }
            times = interleaved(runs, ROUNDS)
            result[f"{name}, {batch} at once: microseconds a text"] = {
                key: round(statistics.median(row) / batch * 1e6) for key, row in times.items()
            }
    return result


def source_files(most: int) -> list[str]:
    """Python files of this environment, up to so many characters."""
    found: list[str] = []
    for place in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for path in sorted(Path(place).rglob("*.py")):
            text = path.read_text(encoding="utf-8", errors="replace")[:most]
            found.append(text)
            most -= len(text)
            if most <= 0:
                return found
    return found


def trained() -> Iterator[tuple[str, Any]]:
    """Tokenizers with large tables, by what they are."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    texts = source_files(6_000_000)
    of_bytes = Tokenizer(models.BPE())
    of_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    of_bytes.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    of_bytes.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=50_256, initial_alphabet=letters, show_progress=False))
    yield "pairs of bytes", of_bytes
    octets = [f"<0x{byte:02X}>" for byte in range(256)]
    llama = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    # Words are parted while pairs are counted only, as SentencePiece does it.
    llama.pre_tokenizer = pre_tokenizers.Metaspace()
    some = texts[:100]
    llama.train_from_iterator(
        some, trainers.BpeTrainer(vocab_size=32_000, special_tokens=["<unk>", *octets], limit_alphabet=500, show_progress=False)
    )
    said = json.loads(llama.to_str())
    said["added_tokens"] = said["added_tokens"][:1]
    said["pre_tokenizer"] = None
    llama = Tokenizer.from_str(json.dumps(said))
    llama.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    yield "pairs of characters, Llama 2's form", llama
    pieces = Tokenizer(models.Unigram())
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.train_from_iterator(
        some, trainers.UnigramTrainer(vocab_size=8000, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    )
    yield "Unigram", pieces


def table_figures() -> dict[str, Any]:
    """What ids cost within a file beside the same tokenizer in Rust, as ratios of medians in one run."""
    texts = [text for text in corpus(64) if len(text) >= 1000] or corpus(64)
    result: dict[str, Any] = {}
    for title, own in trained():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "tokenizer.json").write_text(own.to_str(), encoding="utf-8")
            spec = SPEC.partition("## From bytes to the embedding.")[0].replace("min(N + 2, 128)", "T")
            (folder / "spec.tess").write_text(
                spec.replace("use zoo.minilm (minilm)", "").replace("words(text, count)", "words(text, count, length=LENGTH)")
                .replace("LENGTH", "1024").replace("[B, T]", "[B, 1024]"), encoding="utf-8",
            )  # fmt: skip
            began = time.perf_counter()
            module = ts.load(folder / "spec.tess", "ids")
            ids = session(module, None, folder / "ids.onnx", compared=False)
            rows: dict[str, Any] = {
                "tokens": own.get_vocab_size(), "seconds_to_compile": round(time.perf_counter() - began, 1),
                "bytes": (folder / "ids.onnx").stat().st_size,
            }  # fmt: skip
        for name, most in (("short", 100), ("long", 1000)):
            for batch in BATCHES:
                some = [text[:most] for text in texts[:batch]]
                feeds = arrays(some)
                found, counts = ids.run(None, feeds)
                expected = [row.ids for row in own.encode_batch(some)]
                assert [row[:n].tolist() for row, n in zip(found, counts, strict=True)] == expected
                runs = {
                    "tokenizers": lambda some=some, own=own: own.encode_batch(some),
                    "in_onnx": lambda feeds=feeds, ids=ids: ids.run(None, feeds),
                }
                times = {key: statistics.median(row) for key, row in interleaved(runs, ROUNDS).items()}
                rows[f"{name}, {len(some)} at once"] = {
                    "microseconds_a_text": {key: round(value / len(some) * 1e6) for key, value in times.items()},
                    "ratio": round(times["in_onnx"] / times["tokenizers"], 2),
                }
        result[title] = rows
        print(title, rows, flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--tables", action="store_true", help="of larger tables, ids alone")
    options = parser.parse_args()
    if options.tables:
        write("text_in_tables", table_figures())
    else:
        write("text_in", figures(options.texts))


if __name__ == "__main__":
    main()
