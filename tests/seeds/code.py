"""Functions of Python's standard library with their identifiers, and weights of `seeds/token_merging_code`.

    python -m tessera.tests.seeds.code      # trains and writes them
"""

from __future__ import annotations

import ast
import io
import keyword
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import tessera as ts
from tessera.benchmarks.peers import minilm_folder
from tessera.runtime.spans import token_spans

WEIGHTS = Path(__file__).parent / "data" / "code_merge.safetensors"
# Modules for training, and others that are held back.
TRAIN = ("argparse", "ast", "bdb", "calendar", "cmd", "configparser", "csv", "difflib", "doctest", "ftplib", "gettext", "gzip")
HELD = ("shutil", "smtplib", "socketserver", "statistics", "tarfile", "textwrap", "trace", "traceback", "unittest.case", "zipfile")
LEARNED = "encoder.layer.0.merge.weight"


@dataclass(frozen=True)
class Sample:
    """One function: token ids [1, T], and the span of each."""

    ids: np.ndarray
    spans: np.ndarray

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        return {"input_ids": self.ids, "attention_mask": np.ones_like(self.ids), "spans": self.spans}


def functions(module: str, least: int, most: int) -> Iterator[str]:
    """The functions of a module of the standard library that have so many lines."""
    origin = find_spec(module).origin
    text = Path(origin).read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and least <= node.end_lineno - node.lineno + 1 <= most:
            body = lines[node.lineno - 1 : node.end_lineno]
            indent = len(body[0]) - len(body[0].lstrip())
            yield "".join(line[min(indent, len(line) - len(line.lstrip())) :] for line in body)


def identifiers(text: str) -> list[tuple[int, int]]:
    """Where each name of a program begins and ends."""
    starts = np.cumsum([0, *(len(line) for line in text.splitlines(keepends=True))])
    names = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
            (row, column), (_, end) = token.start, token.end
            names.append((int(starts[row - 1] + column), int(starts[row - 1] + end)))
    return names


def samples(modules: tuple[str, ...], each: int, least: int = 8, most: int = 40, tokens: int = 256) -> list[Sample]:
    """Up to ``each`` functions of ``least`` to ``most`` lines of every module, cut to ``tokens``."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(tokens)
    found = []
    for module in modules:
        for _, text in zip(range(each), functions(module, least, most), strict=False):
            encoded = tokenizer.encode(text)
            spans = token_spans(encoded.offsets, identifiers(text))
            found.append(Sample(np.array([encoded.ids], dtype=np.int64), spans[None]))
    return found


def weights() -> dict[str, Any]:
    """MiniLM's, and the learned ones where there are any."""
    from safetensors.numpy import load_file

    own = load_file(WEIGHTS) if WEIGHTS.exists() else {}
    return {**load_file(minilm_folder() / "model.safetensors"), **own}


def reference(rows: list[Sample]) -> np.ndarray:
    """MiniLM's own embeddings, one sample at a time."""
    plain = ts.compile(ts.load("minilm"), target="torch", weights=minilm_folder() / "model.safetensors", verify=False)
    return np.concatenate([np.asarray(plain(input_ids=s.ids, attention_mask=np.ones_like(s.ids))["embedding"]) for s in rows])


def train(rows: list[Sample], epochs: int = 4, rate: float = 0.02) -> np.ndarray:
    """The score's weight [384] with which merged embeddings are most like MiniLM's own; all else stays as it is."""
    import torch

    from tessera.backends.torch import build

    torch.manual_seed(0)
    torch.set_num_threads(1)
    wanted = torch.as_tensor(reference(rows))
    program = ts.load("token_merging_code")
    given = weights() | {LEARNED: np.zeros(384, np.float32)}
    model = build(program, {name: given[name] for name in program.graph.params})
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name == LEARNED)
    weight = dict(model.named_parameters())[LEARNED]
    optimizer = torch.optim.Adam([weight], lr=rate)
    order = np.random.default_rng(0)
    for epoch in range(epochs):
        total = 0.0
        for count, i in enumerate(order.permutation(len(rows)), start=1):
            found = model(**{n: torch.as_tensor(v) for n, v in rows[i].inputs.items()})["embedding"][0]
            loss = 1 - found @ wanted[i]
            (loss / 4).backward()
            total += float(loss.detach())
            if count % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()
        print(f"epoch {epoch}: cosine {1 - total / len(rows):.4f}")
    return weight.detach().numpy()


def main() -> None:
    from safetensors.numpy import save_file

    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file({LEARNED: train(samples(TRAIN, 10))}, WEIGHTS)


if __name__ == "__main__":
    main()
