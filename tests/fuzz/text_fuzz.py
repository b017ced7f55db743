"""Fuzzing what reads tokenizers and archives of pipelines: whatever the bytes, something legal or one diagnostic comes out.

    python -m tessera.tests.fuzz.text_fuzz --seconds 1800 --seed 1 --keep /tmp/crashes

Cases are `tokenizer.json` files, models of SentencePiece, files of ranks and archives with changed bytes, or with changed
values, names, sizes and links. What is read is printed, and encodes and decodes texts. Cases run in processes of their own, some
hundreds in each, whose memory is limited: one that ends by a signal, or takes too long, failed. The last line says how many
cases there were; the exit status is 1 when one failed.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tessera as ts
from tessera.frontends import source
from tessera.ir.diagnostics import Diagnostic

from .onnx_fuzz import FLOATS, NUMBERS, arguments, change_bytes, hang, run_for

ERRORS = Path(__file__).parents[1] / "errors" / "tokenizers"
TEXTS = ["", "one two \u00e9", "a" * 300, "\u6f22\u5b57 \U0001f468\u200d\U0001f469 <s>", "\ufeff\t x\u0000y"]
NAMES = [
    "../out", "/tmp/out", "a/../../out", "c:\\out", "./a", "a//b", "a/", "program.json", "\u0000", "x" * 300,
    "tokenizers/words.json",
]  # fmt: skip
LIMIT = 30  # seconds of a case
MEMORY = 6 * 2**30  # what a process may map, libraries and all
CASES = 200  # of one process
SPEC = """
tokenizer words {
    from "words.json"
}

model most(ids: token[words, B, T]) -> i64[B] {
    return max(ids, axis=1)
}

pipeline main(texts: text[B]) -> i64[B] {
    return most(words(texts).ids)
}
"""


# The corpus ----------------------------------------------------------------------------------------------------------------


def corpus(folder: Path) -> dict[str, list[bytes]]:
    """Files to change, by their suffix."""
    from ..driver.test_tokenized import small
    from ..driver.test_tokenized_letters import FORMS

    found = {".json": [make().to_str().encode() for make in FORMS.values()] + [small().to_str().encode()]}
    found[".json"] += [path.read_bytes() for path in sorted(ERRORS.glob("*.json"))]
    ranks = [*(bytes([byte]) for byte in range(256)), b"ab", b"abc", b" a"]
    found[".tiktoken"] = [b"\n".join(base64.b64encode(token) + f" {rank}".encode() for rank, token in enumerate(ranks))]
    found[".model"] = [pieces(kind, folder) for kind in ("unigram", "bpe", "word", "char")]
    found[".zip"] = [archive(folder)]
    return found


def pieces(kind: str, folder: Path) -> bytes:
    """A small model of SentencePiece."""
    import sentencepiece

    made = io.BytesIO()
    words = ["a", "few", "words", "that", "it", "is", "made", "of", "é漢字", "and", "some", "others", "again"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(words[i % 7 :]) for i in range(50)]), model_writer=made, model_type=kind,
        vocab_size={"word": 12, "char": 25}.get(kind, 320), byte_fallback=kind in ("unigram", "bpe"), hard_vocab_limit=False,
        minloglevel=2,
    )  # fmt: skip
    return made.getvalue()


def archive(folder: Path) -> bytes:
    """A compiled pipeline."""
    shutil.copy(ERRORS / "words.json", folder / "words.json")
    (folder / "main.tess").write_text(SPEC)
    ts.compile(ts.load(folder / "main.tess", "main"), target="torch", verify=False, output=folder / "main.zip")
    return (folder / "main.zip").read_bytes()


# Changing ------------------------------------------------------------------------------------------------------------------


def change_json(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Values, keys and rows changed."""
    try:
        whole = json.loads(data)
    except ValueError:
        return change_bytes(data, others, rng)
    for _ in range(rng.choice([1, 1, 2, 4])):
        places = list(walk(whole))
        if not places:
            break
        holder, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            holder[key] = rng.choice([None, True, "", "a", "\u2581", [], {}, [[]], *NUMBERS, *FLOATS[:6], "x" * 3000, "(?:a|"])
        elif kind == 2:
            twin, there = rng.choice(places)
            holder[key] = copy.deepcopy(twin[there])
        elif kind == 3:
            other = list(walk(json.loads(rng.choice(others))))
            twin, there = rng.choice(other)
            holder[key] = copy.deepcopy(twin[there])
        elif kind == 4 and isinstance(holder, dict):
            holder[rng.choice([str(key) + "x", "type", "vocab", "id", "\ufffd"])] = holder.pop(key)
        elif isinstance(holder[key], str):
            holder[key] = change_bytes(holder[key].encode(), [b"ab"], rng).decode(errors="replace")
        else:
            holder[key] = [holder[key], holder[key]]
    return json.dumps(whole).encode()


def walk(value: Any) -> Any:
    """(what holds a value, under which key) of everything within."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from walk(value[key])


def change_pieces(data: bytes, rng: random.Random) -> bytes:
    """Pieces, their scores and kinds, and what the model was trained with, changed."""
    from sentencepiece import sentencepiece_model_pb2 as protos

    model = protos.ModelProto.FromString(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        row = rng.choice(list(model.pieces)) if model.pieces else model.pieces.add()
        kind = rng.randrange(7)
        if kind == 0:
            row.piece = rng.choice(["", "a", "\u2581", "<unk>", "<0x41>", "x" * 3000, row.piece + "a"])
        elif kind == 1:
            row.score = rng.choice(FLOATS)
        elif kind == 2:
            row.type = rng.choice([1, 2, 3, 4, 5, 6])
        elif kind == 3 and len(model.pieces) > 1:
            del model.pieces[rng.randrange(len(model.pieces))]
        elif kind == 4:
            model.pieces.add().CopyFrom(row)
        elif kind == 5:
            charsmap = model.normalizer_spec.precompiled_charsmap or b"a"
            model.normalizer_spec.precompiled_charsmap = change_bytes(charsmap, [b"abc"], rng)
        else:
            model.trainer_spec.model_type = rng.choice([1, 2, 3, 4])
            model.trainer_spec.unk_id = rng.choice([-1, 0, 1, 5, 10**6])
    return model.SerializeToString()


def change_archive(data: bytes, rng: random.Random) -> bytes:
    """Files renamed, changed, compressed, doubled, made links, or larger than they say."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        files = [(name, old.read(name)) for name in old.namelist()]
        for _ in range(rng.choice([1, 1, 2, 3])):
            place = rng.randrange(len(files))
            name, content = files[place]
            kind = rng.randrange(5)
            if kind == 0:
                files[place] = rng.choice(NAMES), content
            elif kind == 1:
                files.append((rng.choice([name, *NAMES]), content))
            elif kind == 2:
                del files[place]
            elif kind == 3 and name.endswith(".json"):
                files[place] = name, change_json(content, [content], rng)
            else:
                files[place] = name, change_bytes(content or b"a", [content or b"a"], rng)
            if not files:
                break
        if rng.random() < 0.6:
            files = rehashed(files)
        for name, content in files:
            info = zipfile.ZipInfo(name.replace("\0", "") or "a")
            kind = rng.randrange(40)
            info.external_attr = (0o120777 if kind == 0 else 0o040755 if kind == 1 else 0o100644) << 16
            body = bytes(10_000_000) if kind == 2 else content
            new.writestr(info, body, zipfile.ZIP_DEFLATED if kind in (2, 3) else zipfile.ZIP_STORED)
        if rng.random() < 0.2:
            # One whose size is not that of what lies there.
            new.filelist[-1].file_size = rng.choice([0, 1, 2**20, 2**31])
            new.filelist[-1].compress_size = new.filelist[-1].file_size
    return made.getvalue()


def rehashed(files: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Files whose manifest has their hashes, as whoever changes them would write it."""
    said = [name for name, _ in files].index("program.json") if "program.json" in dict(files) else None
    if said is None:
        return files
    try:
        whole = json.loads(files[said][1])
        whole["tessera.files"] = {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in files if name != "program.json"
        }  # fmt: skip
    except (ValueError, TypeError):
        return files
    return [("program.json", json.dumps(whole).encode()) if place == said else row for place, row in enumerate(files)]


# Running -------------------------------------------------------------------------------------------------------------------


class Fuzzer:
    """Makes cases from the corpus and runs them; ``failures`` holds what went wrong."""

    def __init__(self, seed: int, folder: Path, keep: Path | None = None) -> None:
        self.rng = random.Random(seed)
        self.folder = folder
        self.files = corpus(folder)
        self.keep = keep
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.place = folder / "cases"
        self.place.mkdir()

    def case(self) -> tuple[str, bytes]:
        """A suffix, and bytes."""
        rng = self.rng
        suffix = rng.choice([".json", ".json", ".json", ".model", ".model", ".tiktoken", ".zip", ".zip"])
        data = rng.choice(self.files[suffix])
        if suffix == ".tiktoken" or rng.random() < 0.3:
            return suffix, change_bytes(data, self.files[suffix], rng)
        if suffix == ".json":
            return suffix, change_json(data, self.files[suffix], rng)
        return suffix, change_pieces(data, rng) if suffix == ".model" else change_archive(data, rng)

    def run(self, count: int = CASES) -> None:
        """So many cases in a process of their own."""
        cases = [self.case() for _ in range(count)]
        done, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(done)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            with os.fdopen(write, "w") as told:
                for suffix, data in cases:
                    told.write(json.dumps(self.judged(suffix, data)) + "\n")
                    told.flush()
            os._exit(0)
        os.close(write)
        with os.fdopen(done) as lines:
            found = [json.loads(line) for line in lines]
        _, status = os.waitpid(child, 0)
        for outcome, (suffix, data) in zip(found, cases, strict=False):
            self.count(outcome, suffix, data)
        if len(found) < len(cases):
            self.count(f"!the process ended by status {status}", *cases[len(found)])

    def count(self, outcome: str, suffix: str, data: bytes) -> None:
        self.counts[f"{suffix} {'FAILED' if outcome.startswith('!') else outcome}"] += 1
        if outcome.startswith("!"):
            self.failures.append(outcome[1:])
            if self.keep is not None:
                self.keep.mkdir(exist_ok=True, parents=True)
                (self.keep / f"case{len(self.failures)}{suffix}").write_bytes(data)
                (self.keep / f"case{len(self.failures)}.txt").write_text(outcome[1:])

    def judged(self, suffix: str, data: bytes) -> str:
        """What became of a case; behind `!`, what went wrong."""
        path = self.place / f"case{suffix}"
        path.write_bytes(data)
        # Seconds of its own: how busy the machine is must not decide.
        signal.signal(signal.SIGPROF, hang)
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        try:
            return OUTCOMES[suffix](path)
        except Diagnostic as error:
            error.render()
            return error.code
        except BaseException:  # a panic of the package is no Exception
            return "!" + traceback.format_exc()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            left = {p.name for p in self.folder.iterdir()} - {"cases", "words.json", "main.tess", "main.zip"}
            assert not left, left


def tokenizer(path: Path) -> str:
    """Read, printed, read back, and run."""
    tokenizer = ts.load_tokenizer(path)
    printed = source.print_tokenizer(tokenizer)
    engine = ts.open_tokenizer(path)
    for text in TEXTS:
        try:
            found = engine.encode([text])
            engine.decode([row[:count].tolist() for row, count in zip(found.ids, found.count, strict=True)])
        except Diagnostic as error:
            error.render()
    return "read" if printed else "!nothing is printed"


def ranks(path: Path) -> str:
    """Run by the declaration of a file of ranks."""
    spec = path.with_suffix(".tess")
    spec.write_text(
        'tokenizer words {\n    split byte_level(space=false, regex=false)\n    decode byte_level\n    from "case.tiktoken"\n}\n'
    )
    engine = ts.open_tokenizer(spec)
    engine.decode([row.tolist() for row in engine.encode(TEXTS).ids])
    return "read"


def bundle(path: Path) -> str:
    """Opened and run; nothing lies beside it then."""
    opened: Any = ts.open(path)
    opened(texts=TEXTS)
    return "opened"


OUTCOMES: dict[str, Callable[[Path], str]] = {".json": tokenizer, ".model": tokenizer, ".tiktoken": ranks, ".zip": bundle}


def main() -> int:
    options = arguments(__doc__)
    with tempfile.TemporaryDirectory() as name:
        fuzzer = Fuzzer(options.seed, Path(name), options.keep)
        return run_for(options.seconds, fuzzer.run, fuzzer.counts, fuzzer.failures)


if __name__ == "__main__":
    sys.exit(main())
