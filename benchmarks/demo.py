"""`make demo`: compile MiniLM from its spec, plain and with merged tokens, and ask real documents a few questions.

python -m benchmarks.demo [--documents N] [--keep 0.7] [--threads N]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console

import tessera as ts
from tessera.driver.report.tables import grid, table
from tessera.ir.analysis.cost import cost

from .common import speedup
from .minilm_quality import cosine, tokenized
from .peers import minilm_folder
from .texts import docstrings, man_pages

QUESTIONS = (
    "How do I search for a word in many files?",
    "compress a file to make it smaller",
    "show which processes use the most memory",
    "count the lines and words of a text",
    "compare two files line by line",
)

# Documents of a turn.
TURN = 32


def documents(count: int) -> list[tuple[str, str]]:
    """(name, text): man pages, or docstrings of the standard library where the machine has no man pages."""
    pages = list(man_pages(count, least=200))
    if len(pages) >= 20:
        return pages
    return [(text.split(".")[0][:40], text) for text in docstrings(count)]


def embed(
    artifacts: dict[str, ts.Artifact], rows: list[np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Embeddings of token rows and the seconds each took.

    The artifacts take turns, so that both meet the same machine. A turn is long, since threads of the one that ran before still
    spin at its start.
    """
    vectors: dict[str, list[np.ndarray]] = {name: [] for name in artifacts}
    seconds: dict[str, list[float]] = {name: [] for name in artifacts}
    for first in range(0, len(rows), TURN):
        for name, artifact in artifacts.items():
            for row in rows[first : first + TURN]:
                start = time.perf_counter()
                vectors[name].append(artifact(input_ids=row, attention_mask=np.ones_like(row))["embedding"][0])
                seconds[name].append(time.perf_counter() - start)
    return {name: np.stack(found) for name, found in vectors.items()}, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=428)
    parser.add_argument("--keep", type=float, default=0.7)
    options = parser.parse_args()
    console = Console(width=110)
    weights = minilm_folder() / "model.safetensors"

    console.print("[bold]1. The spec[/bold]: zoo/minilm, 6 layers, published weights of all-MiniLM-L6-v2")
    plain = ts.load("zoo/minilm")
    merged = ts.apply(plain, "merge_tokens", keep=options.keep, protect=1)
    console.print(f"   with `merge_tokens(keep={options.keep}, protect=1)`, 128 tokens shrink block by block:")
    before, after = (cost(m.graph).at({"B": 1, "T": 128}) for m in (plain, merged))
    figures = [
        [old.name, str(new.tokens or ""), f"{old.cost.flops / 1e6:.0f}", f"{new.cost.flops / 1e6:.0f}"]
        for old, new in zip(before.blocks, after.blocks, strict=True)
    ]
    figures.append(["total", "", f"{before.total.flops / 1e6:.0f}", f"{after.total.flops / 1e6:.0f}"])
    console.print(table(["block", "tokens in", "MFLOPs plain", "MFLOPs merged"], figures, last=True))

    console.print("[bold]2. Two ONNX files[/bold], each compared with PyTorch at two sizes before it is written")
    with tempfile.TemporaryDirectory() as folder:
        artifacts = {}
        for name, module in (("plain", plain), ("merged", merged)):
            path = Path(folder) / f"minilm_{name}.onnx"
            start = time.perf_counter()
            artifacts[name] = ts.compile(module, target="onnx", weights=weights, output=path)
            size = path.stat().st_size / 1e6
            console.print(f"   {path.name}: {size:.0f} MB in {time.perf_counter() - start:.1f} s")

        pages = documents(options.documents)
        rows = [row[:, :128] for row in tokenized([f"{name}: {text}" for name, text in pages])]
        questions = tokenized(list(QUESTIONS))
        tokens = sum(row.shape[1] for row in rows)
        console.print(f"[bold]3. Real input[/bold]: {len(pages)} documents, {tokens} tokens")
        embed(artifacts, rows[:5])
        vectors, seconds = embed(artifacts, rows)
        asked, _ = embed(artifacts, questions)
    answers = {name: np.argsort(-(asked[name] @ vectors[name].T), axis=1, kind="stable")[:, :3] for name in artifacts}

    console.print("   the three nearest documents of each question, plain and merged:")
    console.print(
        grid(
            [question, *(", ".join(pages[j][0] for j in answers[name][i]) for name in artifacts)]
            for i, question in enumerate(QUESTIONS)
        )
    )
    agree = int(np.sum(answers["plain"][:, 0] == answers["merged"][:, 0]))
    console.print(f"   time: plain {sum(seconds['plain']):.2f} s, merged {sum(seconds['merged']):.2f} s;")
    console.print(f"   for the median document merging is {speedup(seconds, 'merged', 'plain'):.2f} x as fast;")
    console.print(
        f"   mean cosine between plain and merged embeddings {cosine(vectors['plain'], vectors['merged']):.4f};"
    )
    console.print(f"   the first answer is the same for {agree} of {len(QUESTIONS)} questions.")


if __name__ == "__main__":
    main()
