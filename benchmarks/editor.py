"""How long the editor's answers take after an edit of a file of 1,000 lines: a key in a layer, in a model, a new line above all.

python -m benchmarks.editor
"""

from __future__ import annotations

import gc
import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tessera.driver.editor import complete, describe, hints, hover, navigation
from tessera.driver.editor.document import Document
from tessera.driver.editor.text import Place, Range

from .common import write

ZOO = Path(__file__).resolve().parents[1] / "specs" / "zoo" / "vit.tess"
COPIES = 7
REPEAT = 9


def program() -> str:
    """The models, layers and compile blocks of zoo/vit several times over, under other names: layers that models of 12 and 24
    blocks call."""
    head, _, body = ZOO.read_text(encoding="utf-8").partition("## Attention and feed-forward")
    uses = "\n".join(line for line in head.splitlines() if line.startswith("use "))
    copies = [re.sub(r"\b(block|encoder|classifier|vit\w*)\b(?=[\s(])", rf"\1_{k}", body) for k in range(COPIES)]
    return uses + "\n" + "\n".join(f"\n## Attention and feed-forward{copy}" for copy in copies)


EDITS = {
    "a statement in a layer that five models call": ("    side = size // patch\n", "    key{n} = {n}\n"),
    "a statement in a model": ("    if pooler {", "    key{n} = {n}\n"),
    "a line above everything": ("use std.nn", "\n"),
}


def answers(place: Place) -> dict[str, Callable[[Document], object]]:
    near = Range((max(place[0] - 25, 0), 0), (place[0] + 25, 0))
    return {
        "hover": lambda d: hover.hover(d, (place[0] + 1, 8)),
        "completion": lambda d: complete.complete(d, (place[0] + 1, 8)),
        "shapes on the screen": lambda d: hints.hints(d, near),
        "colours": hints.encoded,
        "outline": navigation.symbols,
        "definition": lambda d: navigation.definition(d, (place[0] + 1, 8)),
        "diagnostics": lambda d: d.diagnostics(),
    }


def after_an_edit(document: Document, at: str, new: str) -> dict[str, list[float]]:
    """Milliseconds from an edit to each answer, asked first after it, and those of the processor: medians over edits."""
    rows: dict[str, list[tuple[float, float]]] = {}
    for name in answers((0, 0)):
        for _ in range(REPEAT):
            offset = document.text.index(at)
            text = document.text[:offset] + new.format(n=len(document.text)) + document.text[offset:]
            place = (text.count("\n", 0, offset), 0)
            start, busy = time.perf_counter(), time.process_time()
            document.edit(text)
            answers(place)[name](document)
            rows.setdefault(name, []).append(((time.perf_counter() - start) * 1e3, (time.process_time() - busy) * 1e3))
            document.diagnostics()
    return {name: [round(statistics.median(t), 1) for t in zip(*times, strict=True)] for name, times in rows.items()}


def main() -> None:
    text = program()
    describe.library()
    start = time.perf_counter()
    document = Document(text, "big.tess")
    opened = time.perf_counter()
    assert document.diagnostics() == []
    whole = time.perf_counter()
    # As the server does, so that collections pass over the library.
    gc.collect()
    gc.freeze()
    rows = {name: after_an_edit(document, *edit) for name, edit in EDITS.items()}
    slowest = [max(both[i] for row in rows.values() for both in row.values()) for i in (0, 1)]
    write(
        "editor",
        {
            # Where others compute as well, the processor's time tells more than the clock's.
            "load_average": round(os.getloadavg()[0], 1),
            "lines": text.count("\n"),
            "open_ms": round((opened - start) * 1e3),
            "first_diagnostics_ms": round((whole - opened) * 1e3),
            "after_an_edit_ms_and_cpu_ms": rows,
            "slowest_ms_and_cpu_ms": slowest,
        },
    )


if __name__ == "__main__":
    main()
