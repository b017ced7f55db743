"""What encoding costs beside the engine that encodes, called directly; and what a byte of a long run costs.

    python -m benchmarks.encoding          # writes results/encoding.json

Both encode the same texts in turn; figures are medians of CPU time, and the speed is the median of what the turns give. Ours
gives rows of ids of one length, the package lists. Tokenizers are trained here, on the pages of the documentation.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import tessera as ts

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/encoding.json"
ROUNDS = 15
RUNS = (1_000, 10_000, 100_000, 1_000_000)


def clock(run: Callable[[], Any]) -> float:
    begin = process_time()
    run()
    return process_time() - begin


def ratio(direct: Callable[[], Any], ours: Callable[[], Any]) -> dict[str, float]:
    """Medians in milliseconds, and how fast ours is: 1 where it costs nothing more."""
    direct(), ours()
    rows = [(clock(direct), clock(ours)) for _ in range(ROUNDS)]
    a, b = (median(row[i] for row in rows) for i in (0, 1))
    each = median(x / y for x, y in rows)
    return {"direct ms": round(1e3 * a, 3), "ours ms": round(1e3 * b, 3), "speed": round(each, 3)}


def repeated(run: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        run()


def ids(engine: Any, rows: Sequence[str | bytes]) -> Any:
    return engine.encode(rows).ids


def corpus() -> dict[str, list[str]]:
    pages = [page.read_text("utf-8") for page in sorted((ROOT / "docs").glob("*.md"))]
    lines = [line for page in pages for line in page.split("\n") if line.strip()]
    return {
        "lines": lines[:2000], "lines, 64 at once": lines[:64],
        "pages of 20 lines": ["\n".join(lines[i : i + 20]) for i in range(0, 2000, 20)],
    }  # fmt: skip


def pieces(folder: Path, texts: list[str]) -> Path:
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=out, vocab_size=4000, hard_vocab_limit=False, minloglevel=2
    )
    path = folder / "pieces.model"
    path.write_bytes(out.getvalue())
    return path


def octets(folder: Path) -> Path:
    """A tokenizer of bytes, of the documentation's, with nothing that splits them."""
    (folder / "corpus").mkdir()
    (folder / "corpus/page").write_bytes((ROOT / "docs/passes.md").read_bytes())
    path = folder / "octets.tess"
    path.write_text(
        'tokenizer octets { normalize bytes model bpe(vocab=1500) decode fuse train "corpus/*" from "octets.json" }',
        encoding="utf-8",
    )
    ts.train_tokenizer(path)
    return path


def main() -> None:
    import sentencepiece
    from tokenizers import Tokenizer

    found: dict[str, Any] = {}
    texts = corpus()
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = pieces(folder, texts["lines"])
        own, ours = sentencepiece.SentencePieceProcessor(model_file=str(path)), ts.open_tokenizer(path)
        for kind, rows in texts.items():
            again = 30 if len(rows) < 100 else 3
            direct = partial(own.encode, rows, num_threads=1)
            beside = partial(ids, ours, rows)
            found[f"sentencepiece, {kind}"] = ratio(partial(repeated, direct, again), partial(repeated, beside, again))
        path = octets(folder)
        plain, engine = Tokenizer.from_file(str(folder / "octets.json")), ts.open_tokenizer(path)
        data = (ROOT / "docs/passes.md").read_bytes()
        data = (data * (RUNS[-1] // len(data) + 1))[: RUNS[-1]]
        for kind, whole in (("text", data), ("equal bytes", b"a" * RUNS[-1])):
            costs = {}
            for size in RUNS:
                some = [whole[i : i + size] for i in range(0, max(100_000, size), size)]
                costs[size] = median(clock(partial(engine.encode, some)) for _ in range(5)) / sum(map(len, some))
            found[f"a run of {kind}, ns a byte"] = {f"{size:,}": round(1e9 * cost, 1) for size, cost in costs.items()}
        chunks = [data[i : i + 4096] for i in range(0, 200_000, 4096)]
        shown = [chunk.decode("latin-1") for chunk in chunks]
        found["bytes, 4096 each"] = ratio(lambda: [row.ids for row in plain.encode_batch(shown)], partial(ids, engine, chunks))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
