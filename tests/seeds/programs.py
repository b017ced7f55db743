"""Programs that are on the machine, as bytes: those of the system to train on, and Python's own, which every machine has."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from zlib import crc32

MAGIC = b"\x7fELF"
FOLDER = Path("/usr/bin")
# Whole programs, none so large that a few are most of the corpus.
MOST = 1 << 18


def system(held_back: bool = False, most: int = 9 << 20) -> Iterator[tuple[str, bytes]]:
    """Programs of the system but Python: (name, bytes), every other one by its name held back."""
    total = 0
    for path in sorted(FOLDER.iterdir(), key=lambda path: (crc32(path.name.encode()), path.name)):
        if "python" in path.name or bool(crc32(path.name.encode()) & 1) != held_back:
            continue
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST:
            continue
        data = path.read_bytes()
        if data.startswith(MAGIC):
            yield path.name, data
            total += len(data)
            if total >= most:
                return


@cache
def own(most: int = 1 << 20) -> bytes:
    """Bytes of Python itself and of the modules that NumPy is made of; nothing that was trained on."""
    import numpy as np

    paths = [Path(sys.executable).resolve(), *sorted(Path(np.__file__).parent.rglob("*.so"))]
    parts = [path.read_bytes() for path in paths]
    # Of each a part from within: heads of files are alike.
    size = most // len(parts)
    return b"".join(part[len(part) // 4 :][:size] for part in parts)
