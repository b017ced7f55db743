"""A model in whatever form it comes: which importer reads a file, a folder or a name.

source = read_model("model.onnx")
source.module, source.weights
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..backends.mlir.target import Mlir
from ..backends.onnx.target import Onnx
from ..ir.compiling import PassSpec
from ..ir.diagnostics import Diagnostic
from ..ir.graph import Module
from ..runtime.files.pickles import refuse_pickled_model
from .compile import brings_weights, load

# The pass that finds composites.
RAISE = "raise_composites"
# Files that hold a program and its weights.
IMPORTED = frozenset({Onnx.suffix, Mlir.suffix})


def is_imported(path: Path) -> bool:
    """Whether a file or folder of that name is no spec, but brings its weights."""
    return brings_weights(path) or path.is_dir()


@dataclass(frozen=True)
class Source:
    """A model brought along, whatever form it came in.

    Args:
        module: the program as it was imported.
        kind: in words.
        weights: what ``compile`` takes; None: the program's own, or initial ones.
        file: an ONNX file, which is then itself what is compared with.
        raising: whether the program may be written in primitives.
        random: whether its weights are initial ones.
        beside: the folder where a tokenizer or a preprocessor's configuration may lie.
    """

    module: Module
    kind: str
    weights: Any = None
    notes: list[str] = field(default_factory=list)
    file: Path | None = None
    raising: bool = False
    random: bool = False
    beside: Path | None = None


def raising(source: Source) -> list[PassSpec]:
    """The pass that finds composites in imported primitives."""
    from ..passes.engine import registry

    return [PassSpec(RAISE)] if source.raising and RAISE in registry() else []


def read_model(
    name: str | os.PathLike[str],
    model: str | None = None,
    params: Mapping[str, Any] | None = None,
    weights: Sequence[str] | None = None,
    dtype: str = "f32",
    fix: Mapping[str, int] | None = None,
) -> Source:
    """The model of an .onnx file, a Hugging Face folder, a spec, or torch-dialect MLIR text.

    Args:
        name: the file, folder, or name of a shipped model.
        model, params, dtype: as for ``load``; only for specs and folders.
        weights: safetensors files, for a spec, or for arguments of MLIR text.
        fix: numbers for sizes that an .onnx file leaves free, by their names.

    Raises:
        Diagnostic: E0001 no such file, E0930 of another kind, and what the importer finds wrong.
    """
    path = Path(name)
    suffix = path.suffix.lower()
    if fix and suffix != Onnx.suffix:
        raise Diagnostic(
            "E0011", f"only the sizes of an .onnx file can be fixed, but `{path.name}` is none",
            help="of a spec they are written in its signature: `x: float[1, 128, D]`",
        )  # fmt: skip
    refuse_pickled_model(path)
    if suffix in IMPORTED:
        if not os.path.isfile(path):
            raise Diagnostic("E0001", f"there is no file `{path}`")
        if model is not None or params or (weights and suffix == Onnx.suffix):
            raise Diagnostic("E0011", f"`{path.name}` has no static parameters, and brings its own weights")
        if dtype != "f32":
            raise Diagnostic("E0011", f"`{path.name}` has its own dtypes; what `float` is can be chosen for specs only")
        return _onnx(path, fix) if suffix == Onnx.suffix else _mlir(path, weights)
    if os.path.isdir(path):
        from ..frontends import huggingface

        folder = huggingface.load(path, model, params, dtype)
        own = list(weights) if weights else folder.weights
        return Source(folder.module, "Hugging Face folder", own, folder.notes, beside=path)
    if os.path.exists(path) and suffix != ".tess":
        raise Diagnostic(
            "E0930",
            f"`{path}` is of no kind that can be read",
            help="an .onnx file, a folder with config.json and safetensors, a .tess spec, or torch MLIR text (.mlir)",
        )
    module = load(name, model, params, dtype)
    random = not weights and (module.compile is None or module.compile.weights is None)
    beside = Path(weights[0]).parent if weights else Path(module.path).parent if module.path else None
    return Source(module, "spec", list(weights) if weights else None, random=random, beside=beside)


def _onnx(path: Path, fix: Mapping[str, int] | None) -> Source:
    from ..frontends import onnx

    found = onnx.load(path, sizes=fix)
    return Source(found.module, "ONNX file", found.weights, list(found.notes), path, True, beside=path.parent)


def _mlir(path: Path, weights: Sequence[str] | None) -> Source:
    """Text with weights in it; or beside it, where Tessera wrote it; or in files, under the names of arguments."""
    from ..backends.mlir.file import has_program, read, read_text
    from ..frontends import torch
    from ..runtime.weights.open import open_weights
    from .targets import READERS

    if not weights and has_program(path):
        module, bound, _ = read(path, READERS)
        return Source(module, "torch MLIR", bound, raising=True, beside=path.parent)
    given = open_weights(weights) if weights else {}
    found = torch.load_mlir(read_text(path), weights=given)
    notes = list(found.notes)
    left = sum(name not in found.module.graph.params for name in given)
    if given and left == len(given):
        raise Diagnostic(
            "E0606", f"none of the {left} tensors has the name of an argument of `{path.name}`",
            help="as in `func.func @main(%x: …, %head.weight: …)`; a weight is an argument of its own name",
        )  # fmt: skip
    if left:
        notes.append(f"{left} of {len(given)} tensors are no arguments of `{path.name}`, and are left out")
    return Source(found.module, "torch MLIR", found.weights, notes, None, True, beside=path.parent)

