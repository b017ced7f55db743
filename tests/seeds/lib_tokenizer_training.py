"""What `seeds/lib_tokenizer` is trained on, lines of man pages, and its lexicon.

    python -m tessera.tests.seeds.lib_tokenizer_training       # trains it (minutes), and writes what is committed
"""

from __future__ import annotations

import re
from pathlib import Path

import tessera as ts

from .texts import corpus

SEED = (Path(ts.__file__).parent / "specs/seeds/lib_tokenizer.tess").read_text(encoding="utf-8")
UNITS = Path(__file__).parent / "data/lib_units.json"


def lines(held_back: bool = False) -> list[str]:
    """Lines of English man pages with single spaces, for training about 0.9 MB, held back about 0.1."""
    text = corpus("english", held_back).tobytes().decode("utf-8", "ignore")
    return [line for raw in text.split("\n") if (line := re.sub(r"\s+", " ", raw).strip())]


def write(folder: Path, source: str = SEED) -> Path:
    """The seed in a folder of its own, beside its corpus."""
    (folder / "corpus").mkdir()
    (folder / "corpus/pages.txt").write_text("\n".join(lines()), encoding="utf-8")
    path = folder / "lib.tess"
    path.write_text(source, encoding="utf-8")
    return path


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as name:
        path = write(Path(name))
        ts.train_tokenizer(path, name="units")
        UNITS.write_bytes((path.parent / "lib_units.json").read_bytes())
        print(ts.open_tokenizer(path, name="units").size, "units,", UNITS.stat().st_size, "bytes")
