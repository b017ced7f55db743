"""Models that were never written for us, all the way through: the tables of `docs/architectures.md`.

Each architecture is exported by ``torch.export`` and by ``torch.onnx.export``, imported, printed and read again, raised to
composites, compiled to ONNX, and run at two sizes against what was imported: the PyTorch model, or the exported file.

    python -m benchmarks.end_to_end                 # the promised architectures
    python -m benchmarks.end_to_end vit bert        # of these only
    python -m benchmarks.end_to_end --of more       # further ones of transformers; `timm`: where timm can be imported
    python -m benchmarks.end_to_end --write         # and write the table into docs/architectures.md
"""

from __future__ import annotations

import argparse
import gc
import logging
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import tessera as ts
from tessera.backends.onnx.session import Session
from tessera.frontends.source import loads, print_module
from tessera.passes.engine import apply

from .architectures import ARCHITECTURES, Architecture
from .architectures_more import MORE
from .architectures_wider import WIDER
from .common import markdown_table
from .raise_table import imported, merged, model_path, short
from .timm_architectures import TIMM, unavailable

if TYPE_CHECKING:
    import torch

DOCS = Path(__file__).resolve().parents[1] / "docs" / "architectures.md"
SETS = {"promised": ARCHITECTURES, "more": MORE, "wider": WIDER, "timm": TIMM}
IMPORTERS = ("torch", "onnx")
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Row:
    """How far one architecture came by one importer.

    Args:
        name: of the architecture.
        importer: ``torch`` or ``onnx``.
        present: how many attention blocks it holds.
        imported: it became a module.
        round_trip: printed and read again, it is the same module.
        found: attention blocks recognised.
        differences: the largest difference of any element of any output from the original's, at each size; relative to the
            largest element of the output where that is below 1, so that small outputs prove as much as others.
        merges: what ``merge_tokens`` does with it.
        error: what failed, and why; empty when nothing did.
        note: what else there is to know.
    """

    name: str
    importer: str
    present: int
    imported: bool = False
    round_trip: bool = False
    found: int = 0
    differences: tuple[float, ...] = ()
    merges: str = ""
    error: str = ""
    note: str = ""

    @property
    def passes(self) -> bool:
        """Everything held: also that all blocks were recognised."""
        return not self.error and self.round_trip and self.found == self.present and len(self.differences) == 2

    @property
    def cells(self) -> list[str]:
        yes = {True: "yes", False: "**no**"}
        differences = " · ".join(f"{d:.0e}" for d in self.differences) or "–"
        return [
            self.name, self.importer, yes[self.imported], yes[self.round_trip], f"{self.found} / {self.present}",
            differences, self.merges or "–", self.error or self.note,
        ]  # fmt: skip


def survey(architecture: Architecture, importer: str, folder: Path) -> Row:
    """One row. What fails ends it, with the stage and the error in the row."""
    row = Row(architecture.name, importer, architecture.blocks)
    stage = "import"
    try:
        model = imported(architecture, importer, folder)
        row = replace(row, imported=True)
        stage = "round trip"
        if changed := model.module.difference(loads(print_module(model.module))):
            raise ValueError(changed)
        row = replace(row, round_trip=True)
        stage = "raise"
        raised, report = apply(model.module, "raise_composites")
        row = replace(row, found=report.facts["composites"].get("attention", 0), merges=merged(raised))
        stage = "compile"
        path = folder / f"{architecture.name}.{importer}.out.onnx"
        ts.compile(raised, target="onnx", passes=[], weights=model.weights, verify=False, output=path)
        stage = "run"
        differences, note = judged(architecture, path, model_path(architecture, folder) if importer == "onnx" else None)
        row = replace(row, differences=differences, note=note)
        if max(differences) > TOLERANCE:
            # Raising may be approximate, and then says where.
            notes = "; ".join(report.notes) if report.contract == "approximate" else ""
            raise ValueError(f"outputs differ by more than {TOLERANCE:g}{notes and f' ({notes})'}")
    except Exception as error:  # exporters raise anything; the table says what it was
        return replace(row, error=f"{stage}: {short(error)}")
    return row


def judged(architecture: Architecture, path: Path, exported: Path | None) -> tuple[tuple[float, ...], str]:
    """The differences between the artifact's outputs and the original's (see :class:`Row`), and a note.

    The original is what was imported: a file says what the exporter made of the model, which the note tells where it is not
    the same.

    Raises:
        ValueError: the outputs' number, their shapes or what is NaN differ; or the model's do not depend on its inputs.
    """
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session, model = Session(path), architecture.build()
    file = None if exported is None else onnxruntime.InferenceSession(exported, options)
    found, apart = [], 0.0
    for which in (0, 1):
        inputs = architecture.example(which)
        with torch.no_grad():
            wanted = [tensor.numpy() for tensor in _tensors(model(**inputs))]
        arrays = {name: value.numpy() for name, value in inputs.items()}
        if not any(np.ptp(w, axis=0).max() > 1e-2 * np.abs(w).max() for w in wanted):
            raise ValueError("the model's outputs do not depend on its inputs: nothing is compared")
        if file is not None:
            original = file.run(None, {i.name: arrays[i.name] for i in file.get_inputs()})
            apart = max(apart, difference(original, wanted))
            wanted = original
        found.append(difference(list(session(arrays).values()), wanted))
    note = f"the exported file itself differs from PyTorch's outputs by {apart:.0e}" if apart > TOLERANCE else ""
    return tuple(found), note


def difference(got: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """The largest difference of any element, as in :class:`Row`. Raises ValueError where shapes, or what is NaN, differ."""
    shapes = [list(v.shape) for v in got], [list(v.shape) for v in wanted]
    if shapes[0] != shapes[1]:
        raise ValueError(f"outputs are {shapes[0]}, but should be {shapes[1]}")
    pairs = list(zip(got, wanted, strict=True))
    if any((np.isnan(g) != np.isnan(w)).any() for g, w in pairs):
        raise ValueError("NaN where the original has none, or the reverse")
    return max(float(np.nanmax(np.abs(g - w)) / min(1.0, float(np.nanmax(np.abs(w))))) for g, w in pairs)


def _tensors(outputs: Any) -> list[torch.Tensor]:
    import torch
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def rows(architectures: Sequence[Architecture], importers: Sequence[str] = IMPORTERS) -> list[Row]:
    """All rows, printed as they come."""
    found = []
    for architecture in architectures:
        for importer in importers:
            with tempfile.TemporaryDirectory() as folder:
                found.append(survey(architecture, importer, Path(folder)))
            print(" | ".join(found[-1].cells), flush=True)
            gc.collect()  # exported programs hold their models in cycles
    return found


def table(found: Sequence[Row]) -> str:
    """The rows as Markdown, and how many pass."""
    head = [
        "model",
        "by",
        "imports",
        "round trip",
        "attention found / present",
        "difference",
        "merges",
        "what fails, and why",
    ]
    passing = sum(row.passes for row in found)
    return f"{passing} of {len(found)} rows pass entirely.\n\n{markdown_table(head, (row.cells for row in found))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="architectures; all when none is given")
    parser.add_argument("--of", choices=SETS, default="promised", help="which of the tables")
    parser.add_argument("--importer", choices=IMPORTERS, help="only this one")
    parser.add_argument("--write", action="store_true", help="write the table into docs/architectures.md")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)  # what exporters say while they work
    if options.of == "timm" and (reason := unavailable()):
        parser.exit(1, f"{reason}\n")
    known = SETS[options.of]
    found = rows(
        [known[name] for name in options.names or known], [options.importer] if options.importer else IMPORTERS
    )
    text = table(found)
    print(text.partition("\n")[0])
    if options.write:
        page = DOCS.read_text(encoding="utf-8")
        start, end = f"<!-- {options.of}: begin -->", f"<!-- {options.of}: end -->"
        before, after = page.split(start)[0], page.split(end)[1]
        DOCS.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
