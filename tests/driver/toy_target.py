"""A target in one file, as another package would bring it: the program as text, run by the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.backends import torch
from tessera.backends.target import Readers, Target
from tessera.backends.torch.runner import TorchRunner
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module
from tessera.ir.options import option


@dataclass(frozen=True)
class Dump(Target):
    """The program as numbered lines of text."""

    name = "dump"
    suffix = ".dump"
    width: int = option(3, "Digits of a line's number", least=1)

    def refuses(self, module: Module) -> Diagnostic | None:
        found = next((n for n in module.graph.nodes() if n.op.name == "cummax"), None)
        return Diagnostic("E0820", "a dump has no `cummax`", found.span) if found else None

    def build(self, module: Module, weights: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
        lines = metadata["tessera.source"].splitlines()
        return "\n".join(f"{i:0{self.width}} {line}" for i, line in enumerate(lines))

    def write(self, built: str, path: Path) -> None:
        path.write_text(built, "utf-8")

    def open(self, path: Path, readers: Readers, *, threads: int | None = None, measured: bool = False) -> TorchRunner:
        lines = (line.partition(" ")[2] for line in path.read_text("utf-8").splitlines())
        module = readers.source("\n".join(lines), path.name)
        return TorchRunner(module, torch.build(module), {}, threads)
