"""Which modules Python files import, one after another, and what those modules are for: choices that are on every machine."""

from __future__ import annotations

import ast
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from tessera.benchmarks.peers import minilm_folder

# Files of these packages are read beside the standard library; they come with what develops this package.
PACKAGES = (
    "_pytest", "click", "hypothesis", "joblib", "jinja2", "networkx", "numpy", "onnx", "onnxscript", "pip", "pygments", "rich",
    "scipy", "setuptools", "skimage", "sklearn", "sympy", "torch",
)  # fmt: skip
LEAST, MOST, LENGTH, TENTH = 12, 3, 8, 10
_IMPORT = re.compile(r"^(?:from\s+([A-Za-z_][\w.]*)\s+import\b|import\s+([A-Za-z_][\w., \t]*))", re.M)


@dataclass(frozen=True)
class Imports:
    """Modules as a catalogue, and the files that choose among them.

    Args:
        names: of the modules, the warm ones first.
        warm: how many have rows of collaborative filtering.
        train: what each file imports, warm modules in order.
        test: the same of files that are held back: some warm modules, and the one that comes next.
        cold: the same, where a module comes next that no file of ``train`` has.
        cf: f32[warm, 64], from which modules are imported together.
        embedding: f32[N, 384], MiniLM's of each name and what the module says of itself.
    """

    names: list[str]
    warm: int
    train: list[list[int]]
    test: list[tuple[list[int], int]]
    cold: list[tuple[list[int], int]]
    cf: np.ndarray
    embedding: np.ndarray


def _roots() -> list[Path]:
    library, packages = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    return [library, *(packages / name for name in PACKAGES if (packages / name).is_dir())]


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*.py")):
        if "site-packages" not in path.relative_to(root).parts and path.stat().st_size < 1 << 17:
            yield path


def _imported(text: str) -> list[str]:
    """The modules that a file imports at its beginnings of lines, each once, in order."""
    found: dict[str, None] = {}
    for match in _IMPORT.finditer(text):
        for part in (match[1] or match[2]).split(","):
            words = part.split()
            if words:
                found.setdefault(words[0])
    return list(found)


def _purpose(name: str) -> str:
    """The first lines of what a module says of itself; nothing where it is not in Python, or says nothing."""
    for base in (Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))):
        place = base.joinpath(*name.split("."))
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                try:
                    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")[:300]
                except (SyntaxError, UnicodeDecodeError):
                    return ""
    return ""


def embedded(texts: list[str]) -> np.ndarray:
    """MiniLM's embeddings f32[N, 384], of unit length."""
    from tokenizers import Tokenizer

    import tessera as ts

    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(48)
    tokenizer.enable_padding()
    run = ts.compile(ts.load("minilm"), target="onnx", weights=minilm_folder() / "model.safetensors", verify=False)
    found = []
    for i in range(0, len(texts), 32):
        rows = tokenizer.encode_batch(texts[i : i + 32])
        ids, mask = (np.array([getattr(row, name) for row in rows]) for name in ("ids", "attention_mask"))
        found.append(np.asarray(next(iter(run(input_ids=ids, attention_mask=mask).values()))))
    return np.concatenate(found)


@cache
def imports() -> Imports:
    """Every tenth file is held back; a tenth of the modules is cold."""
    files = [_imported(p.read_text(encoding="utf-8", errors="replace")) for root in _roots() for p in _files(root)]
    counts = Counter(name for names in files for name in names)
    known = [name for name, count in counts.most_common() if count >= LEAST]
    rng = np.random.default_rng(0)
    # The most common ones are known to everybody.
    cold = set(np.array(known[20:])[rng.permutation(len(known) - 20)[: len(known) // TENTH]].tolist())
    names = [name for name in known if name not in cold] + [name for name in known if name in cold]
    number, warm = {name: i for i, name in enumerate(names)}, len(known) - len(cold)
    rows = [row for row in ([number[name] for name in file if name in number] for file in files) if len(row) >= MOST]
    held = np.arange(len(rows)) % TENTH == TENTH - 1
    train = [[i for i in row if i < warm] for row, out in zip(rows, held, strict=True) if not out]
    tests: tuple[list[tuple[list[int], int]], list[tuple[list[int], int]]] = ([], [])
    for row in (row for row, out in zip(rows, held, strict=True) if out):
        for at in range(2, len(row)):
            before = [i for i in row[:at] if i < warm][-LENGTH:]
            if len(before) >= 2:
                tests[row[at] >= warm].append((before, row[at]))
    # Which modules files have together.
    has = np.zeros((len(train), warm), np.float32)
    for i, row in enumerate(train):
        has[i, row] = 1
    together = has.T @ has
    often = np.maximum(np.diag(together), 1)
    share = together / np.sqrt(np.outer(often, often))
    values, vectors = np.linalg.eigh(share)
    cf = (vectors[:, -64:] * np.sqrt(np.maximum(values[-64:], 0))).astype(np.float32)
    texts = [f"{name.replace('.', ' ').replace('_', ' ')}: {_purpose(name)}" for name in names]
    return Imports(names, warm, [row for row in train if len(row) >= MOST], *tests, cf, embedded(texts))
