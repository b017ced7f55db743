"""Which blocks `raise_composites` recognises in imported models: the table of `docs/raise.md`.

Every architecture of :mod:`.architectures` is exported by ``torch.onnx.export`` and by ``torch.export``, imported, and raised;
those of :mod:`.architectures_more` by ``torch.export``.

    python -m benchmarks.raise_table            # print the table
    python -m benchmarks.raise_table --write    # and write it into docs/raise.md
"""

from __future__ import annotations

import argparse
import re
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tessera  # noqa: F401  (lets passes find composites)
from tessera.ir.diagnostics import Diagnostic
from tessera.passes.engine import apply

from .architectures import ARCHITECTURES, Architecture
from .architectures_more import MORE
from .common import markdown_table

if TYPE_CHECKING:
    from tessera.ir.graph import Module
    from tessera.ir.imported import Imported

DOCS = Path(__file__).resolve().parents[1] / "docs" / "raise.md"
START, END = "<!-- table: python -m benchmarks.raise_table --write -->", "<!-- end of the table -->"
NORMS = ("layer_normalize", "rms_normalize")
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "silu", "swiglu", "relu")


@dataclass(frozen=True)
class Row:
    """One architecture by one importer: ``error`` is why there are no figures."""

    name: str
    importer: str
    present: int
    composites: Counter[str]
    left: tuple[str, ...] = ()
    merged: str = ""
    difference: float = 0.0
    error: str = ""

    @property
    def cells(self) -> list[str]:
        if self.error:
            return [self.name, self.importer, f"– / {self.present}", "", "", "", "", self.error]
        norms, acts = (sum(self.composites[n] for n in names) for names in (NORMS, ACTIVATIONS))
        found = f"{self.composites['attention']} / {self.present}"
        difference = f"{self.difference:.0e}"
        return [self.name, self.importer, found, str(norms), str(acts), difference, self.merged, "; ".join(self.left)]


def model_path(architecture: Architecture, folder: Path) -> Path:
    """Where the exported file goes."""
    return folder / f"{architecture.name}.onnx"


def export_onnx(architecture: Architecture, folder: Path, opset: int = 18) -> Path:
    """The model as ``torch.onnx.export`` writes it."""
    import torch

    path = model_path(architecture, folder)
    program = torch.onnx.export(
        architecture.build(), (), kwargs=architecture.example(), dynamo=True, opset_version=opset, verbose=False,
        dynamic_shapes={n: dict(axes) for n, axes in architecture.axes.items()},
    )  # fmt: skip
    assert program is not None
    program.save(str(path))
    return path


def imported(architecture: Architecture, importer: str, folder: Path) -> Imported:
    """The architecture by ``onnx`` or ``torch``. Raises whatever export and import raise."""
    if importer == "onnx":
        from tessera.frontends.onnx import load as load_onnx

        return load_onnx(export_onnx(architecture, folder))
    from tessera.frontends.torch import load as load_torch

    return load_torch(architecture.build(), kwargs=architecture.example(), dynamic_shapes=architecture.dynamic_shapes())


def survey(architecture: Architecture, importer: str, folder: Path) -> Row:
    """Export, import, raise, and try to merge tokens."""
    try:
        found = imported(architecture, importer, folder)
    except Exception as error:  # what an exporter raises is its own affair; the table says what it was
        return Row(architecture.name, importer, architecture.blocks, Counter(), error=short(error))
    try:
        raised, report = apply(found.module, "raise_composites")
    except Diagnostic as error:
        return Row(architecture.name, importer, architecture.blocks, Counter(), error=short(error))
    composites = Counter(report.facts["composites"])
    told = [re.sub(r"\S*/site-packages/", "", note) for note in report.notes if note.startswith("no ")]
    notes = tuple(f"{count} × {note}" if count > 1 else note for note, count in Counter(told).items())
    difference = max(_difference(found, raised, architecture.example(which)) for which in (0, 1))
    return Row(architecture.name, importer, architecture.blocks, composites, notes, merged(raised), difference)


def _difference(found: Imported, raised: Module, inputs: dict[str, Any]) -> float:
    """The largest difference of any output, relative to the largest element of it, on the torch backend."""
    import torch

    from tessera.backends.torch import build

    results = []
    for module in (found.module, raised):
        built = build(module, {name: found.weights[name] for name in module.graph.params})
        with torch.no_grad():
            results.append(built(**{v.name: inputs[v.name] for v in module.graph.inputs}))
    want, got = results
    return max(float((got[n] - v).abs().max() / v.abs().max().clamp(min=1e-9)) for n, v in want.items())


def merged(module: Module) -> str:
    """How many blocks merge_tokens merges in, or the code of what keeps it from it."""
    for protect in (0, 1, 2):
        try:
            _, report = apply(module, "merge_tokens", r=1, protect=protect, restore=True)
        except Diagnostic as error:
            last = error
        else:
            return str(report.modified) if not protect else f"{report.modified} with protect={protect}"
    return last.code


def short(error: Exception) -> str:
    message = error.message if isinstance(error, Diagnostic) else f"{type(error).__name__}: {error}"
    code = f"{error.code}: " if isinstance(error, Diagnostic) else ""
    line = next((text for text in message.splitlines() if text.strip()), "").strip()
    return f"{code}{line[:160]}"


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    head = [
        "model",
        "importer",
        "attention found / present",
        "norms",
        "activations",
        "difference",
        "merged",
        "left, and why",
    ]
    return markdown_table(head, (row.cells for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="architectures; all when none is given")
    parser.add_argument("--importer", choices=("onnx", "torch"), help="only this one")
    parser.add_argument("--write", action="store_true", help="write the table into docs/raise.md")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names or (*ARCHITECTURES, *MORE):
            both = ["torch"] if name in MORE else ["onnx", "torch"]
            for importer in [options.importer] if options.importer else both:
                row = survey({**ARCHITECTURES, **MORE}[name], importer, Path(folder))
                print(" | ".join(row.cells), flush=True)
                rows.append(row)
    if options.write:
        text = DOCS.read_text(encoding="utf-8")
        before, after = text.split(START)[0], text.split(END)[1]
        DOCS.write_text(f"{before}{START}\n\n{table(rows)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
