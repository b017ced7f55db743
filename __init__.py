"""Tessera: a language and a compiler for the token level of transformers.

    import tessera as ts

    m = ts.load("vit_s16")                                  # or a path to a .tess file
    m = ts.apply(m, "merge_tokens", r=13)
    f = ts.compile(m, target="onnx", weights="vit.safetensors")
    f(image=x)["logits"]                                    # NumPy in, NumPy out
    f.save("vit.onnx")

    with ts.model("tiny") as m:                             # the same, built in Python
        x = m.input("x", "float[B, T, 64]")
        m.output(ts.std.nn.linear(x, out=3, name="head"))
    ts.print(m)                                             # … prints as source

Mistakes raise :class:`Diagnostic`. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .ir import library as _library
from .ir import vocabulary as _vocabulary
from .ir.diagnostics import Diagnostic

if TYPE_CHECKING:
    from pathlib import Path

    from .driver.artifact import Artifact, CompileReport
    from .driver.check import check, diagnose
    from .driver.compile import compile, load
    from .driver.generating import generate
    from .driver.programs import open_any as open
    from .driver.tokenizers import embed_tokens, load_tokenizer, open_tokenizer, spell_tokens, train_tokenizer
    from .frontends.python.model import Model, Namespace, Record, Tensor, model, use
    from .frontends.python.program import program
    from .ir.op import Composite
    from .ir.pattern import Rule
    from .ir.program import Program
    from .ir.tokenizer import Tokenizer
    from .ir.vocabulary import Exchange

    Module = Program

    std: Namespace
    zoo: Namespace
    ops: Namespace
    __version__: str

__all__ = [
    "Artifact", "CompileReport", "Diagnostic", "Model", "Module", "Program", "Record", "Tensor", "Tokenizer", "apply", "check",
    "compile", "diagnose", "embed_tokens",
    "generate", "load", "load_tokenizer", "loads", "model", "models", "open", "open_tokenizer", "ops",
    "print", "program", "source", "spell_tokens", "std", "train_tokenizer", "use", "zoo",
]  # fmt: skip


def loads(
    text: str,
    path: str = "<string>",
    model: str | None = None,
    params: Mapping[str, Any] | None = None,
    dtype: str = "f32",
) -> Module:
    """As :func:`load`, from source text.

    Args:
        text: a whole file.
        path: names the text in messages; files that it uses are looked for beside it.
        model: which model, where the text holds several.
        params: values of its static parameters.
        dtype: what ``float`` means in its signature: ``f32``, ``f16``, ``bf16`` or ``f64``.

    Raises:
        Diagnostic: whatever is wrong with the program.
    """
    from .frontends import source as frontend
    from .runtime.states import named

    return frontend.loads(text, path, model, named(params, "params", "E0402"), dtype)


def models(name: str | os.PathLike[str]) -> list[str]:
    """The names of the models of a ``.tess`` file or of a shipped spec.

    Raises:
        Diagnostic: E0001 when there is none, E01xx when it cannot be read.
    """
    from .frontends import source as frontend
    from .runtime.files.pickles import refuse_pickled_model
    from .specs.catalog import find

    refuse_pickled_model(name)
    return frontend.models(find(name)[0])


def apply(module: Module | Model, name: str, **options: Any) -> Module:
    """The module after one pass; the given one stays as it is. ``tessera.passes.engine.apply`` also returns the report.

        ts.apply(m, "merge_tokens", r=8)

    Args:
        name: ``tessera passes`` lists them.
        options: the pass's own; ``tessera passes merge_tokens`` lists them.

    Raises:
        Diagnostic: E07xx: no such pass, an option it does not take, or a program that it does not fit.
    """
    from .passes.engine import apply as run

    return run(_module(module), name, **options)[0]


def source(module: Module | Model | Tokenizer) -> str:
    """The module or tokenizer as source, which :func:`loads` and :func:`load_tokenizer` read back to an equal one.

    Raises:
        Diagnostic: E0016 for a model whose ``with`` block is still open.
    """
    from .frontends import source as frontend
    from .ir.tokenizer import Tokenizer

    return frontend.print_tokenizer(module) if isinstance(module, Tokenizer) else frontend.print_module(_module(module))


def print(module: Module | Model | Tokenizer) -> None:
    """Print the module or tokenizer as source."""
    import sys

    sys.stdout.write(source(module))


def _module(module: Module | Model) -> Module:
    from .ir.program import Program

    return module if isinstance(module, Program) else module.module


def _resolve(qualified: str, kind: str) -> Composite:
    from .frontends import source as frontend

    return frontend.resolve(qualified, kind)


def _resolve_local(path: str, name: str, module: Module | None) -> Composite:
    from .frontends import source as frontend

    return frontend.resolve_local(path, name, module)


def _resolve_ops(qualified: str) -> list[Composite]:
    from .frontends import source as frontend

    return frontend.resolve_ops(qualified)


def _resolve_rule(name: str, module: Module) -> Rule:
    from .frontends import source as frontend

    return frontend.resolve_rule(name, module)


def _resolve_rules(qualified: str) -> dict[str, Rule]:
    from .frontends import source as frontend

    return frontend.resolve_rules(qualified)


def _may_be_named(name: str) -> bool:
    from .frontends import source as frontend

    return frontend.may_be_named(name)


def _exchange(to: str, old: str, options: Mapping[str, Any], folder: str | None) -> Exchange:
    from .runtime.tokenizers.exchange import exchange

    return exchange(to, old, options, folder)


def _declared(path: Path, name: str | None) -> Tokenizer:
    from .driver.tokenizers import load_tokenizer

    return load_tokenizer(path, name)


_vocabulary.set_exchanger(_exchange, _declared)
_library.set_names(_may_be_named)
_library.set_resolver(_resolve)
_library.set_op_resolvers(_resolve_local, _resolve_ops)
_library.set_rule_resolver(_resolve_rule, _resolve_rules)

_TOKENIZERS = ("embed_tokens", "load_tokenizer", "open_tokenizer", "spell_tokens", "train_tokenizer")
# Name -> the module that has it, and its name there: nobody waits for what he does not use. `Module` is what a program of one model
# was called; the name stays.
_LAZY = {
    "Artifact": ("driver.artifact", "Artifact"), "CompileReport": ("driver.artifact", "CompileReport"),
    "check": ("driver.check", "check"), "diagnose": ("driver.check", "diagnose"),
    "compile": ("driver.compile", "compile"), "load": ("driver.compile", "load"),
    "open": ("driver.programs", "open_any"), "generate": ("driver.generating", "generate"),
    "Program": ("ir.program", "Program"), "Module": ("ir.program", "Program"),
    **{name: ("frontends.python.model", name) for name in ("model", "use", "Model", "Record", "Tensor")},
    "program": ("frontends.python.program", "program"), "Tokenizer": ("ir.tokenizer", "Tokenizer"),
    **{name: ("driver.tokenizers", name) for name in _TOKENIZERS},
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        module, there = _LAZY[name]
        value = getattr(import_module(f"{__name__}.{module}"), there)
    elif name in ("std", "zoo"):
        from .frontends.python.model import folder

        value = folder(name)
    elif name == "ops":
        from .frontends.python.model import core_ops

        value = core_ops()
    elif name == "__version__":
        from importlib.metadata import version

        value = version("tessera")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
