"""The target onnx."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...ir.diagnostics import Diagnostic
from ...ir.options import option
from ..target import Checked, Compare, Readers, Target
from . import DEFAULT_OPSET

if TYPE_CHECKING:
    import onnx_ir as ox

    from ...ir.graph import Module
    from ...runtime.weights.bind import Bound
    from .session import Session

# The data file that the entry points of a program share.
WEIGHTS = "weights.data"
_BITS = {"contrib_int8": 8, "contrib_int4": 4}


@dataclass(frozen=True)
class Onnx(Target):
    """An ONNX file, for ONNX Runtime and others."""

    name = "onnx"
    suffix = ".onnx"
    preferred = True
    programs = True

    opset: int = option(DEFAULT_OPSET, "ONNX opset")
    moe: Literal["standard", "contrib", "contrib_int8", "contrib_int4"] = option(
        "standard",
        "mixtures of experts by standard ops, or as ONNX Runtime's own op, `com.microsoft.MoE`; with 8 or 4 bits for a number of the "
        "experts' matrices, `QMoE`",
    )
    attention: Literal["standard", "contrib"] = option(
        "standard", "attention over a cache by standard ops, or as ONNX Runtime's own op, `com.microsoft.GroupQueryAttention`"
    )
    form: Literal["tessera", "genai"] = option(
        "tessera", "who reads the folder of a program: with genai, onnxruntime-genai too, by the entry point `past` of add_cache"
    )
    context: int = option(4096, "form=genai: tokens of a text at most, where the model has positions for more", least=1)
    tokenizer: str | None = option(None, "form=genai: the tokenizer.json, or its folder, that belongs to the model")

    def build(self, module: Module, weights: Bound, metadata: Mapping[str, str]) -> ox.Model:
        from . import build

        if self.tokenizer is not None and self.form != "genai":
            raise Diagnostic(
                "E0011", "`tokenizer` is put beside a model for onnxruntime-genai, which nothing asks for",
                help="`--form genai` does; texts for a run are given their tokenizer there",
            )  # fmt: skip
        return build(
            module, weights, opset=self.opset, contrib=self.moe != "standard", bits=_BITS.get(self.moe),
            cached=self.attention == "contrib", metadata=metadata,
        )  # fmt: skip

    def held(self, module: Module, weights: Bound) -> Bound:
        from .rounded import as_rounded

        return as_rounded(module, weights, _BITS[self.moe]) if self.moe in _BITS else weights

    def write(self, built: ox.Model, path: Path) -> None:
        from .genai import check_form
        from .write import write_model

        if self.form == "genai":
            check_form({})
        write_model(built, path)

    def open(self, path: Path, readers: Readers, *, threads: int | None = None, measured: bool = False) -> Session:
        from .session import Session

        return Session(path, threads=threads, prepack=True if measured else None)

    def write_program(self, built: Mapping[str, ox.Model], folder: Path) -> None:
        from .write import write_sharing

        if self.form == "genai":
            from .genai import write_genai

            write_genai(built, folder, self.context, self.tokenizer)
        write_sharing({folder / f"{entry}{self.suffix}": model for entry, model in built.items()}, WEIGHTS)

    def open_program(
        self, program: Module, folder: Path, readers: Readers, *, threads: int | None = None
    ) -> dict[str, Session]:
        return {e: self.open(folder / f"{e}{self.suffix}", readers, threads=threads) for e in program.functions}

    def unrunnable(self, module: Module) -> str | None:
        from . import runnable

        return None if runnable(module.graph) else "ONNX Runtime cannot execute this dtype here"

    def check(self, path: Path, module: Module, weights: Bound, readers: Readers, compare: Compare) -> Checked:
        from .session import Session

        # Mapped, which is opened sooner; what runs it later on is opened anew.
        found = self.judge(lambda: Session(path, mapped=True), module, weights, compare)
        return Checked(found.rows, found.notes)

    def facts(self, path: Path) -> dict[str, Any]:
        from .facts import facts

        return facts(path)

    def bounds(self, path: Path) -> dict[str, int]:
        from .facts import bounds

        return bounds(path)
