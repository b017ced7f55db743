"""The source frontend: `.tess` text to IR and back."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic, did_you_mean, several
from ...ir.library import RAISING

if TYPE_CHECKING:
    from ...ir.compiling import PassSpec
    from ...ir.graph import Module
    from ...ir.op import Composite
    from ...ir.pattern import Rule
    from ...ir.tokenizer import Tokenizer
    from .checking import Checked
    from .elaborate.elaborate import Elaborator
    from .elaborate.library import Declared, Library, Unit
    from .syntax import ast


def load(
    path: str | Path, model: str | None = None, params: dict[str, Any] | None = None, dtype: str = "f32"
) -> Module:
    """Read, type-check and elaborate one model or program of a file.

    Args:
        path: a `.tess` file.
        model: which model or program; may be left out when the file has one ``compile`` block, one program, one model, or a
            model of the file's own name.
        params: values for the model's static parameters; they go before those of the ``compile`` block.
        dtype: what ``float`` means in the model's signature: f32, f16, bf16 or f64.

    Raises:
        Diagnostic: whatever is wrong with the program.
    """
    from .checking import load_unit

    return load_unit(lambda library: library.file(path), model, params, dtype)


def loads(
    text: str, path: str = "<string>", model: str | None = None, params: dict[str, Any] | None = None,
    dtype: str = "f32", root: Path | None = None,
) -> Module:  # fmt: skip
    """As :func:`load`, from text. ``path`` names it in messages; only below the folder ``root`` may it name files of tokenizers."""
    from .checking import load_unit

    return load_unit(lambda library: library.text(text, path, root), model, params, dtype)


def may_be_named(name: str) -> bool:
    """Whether a size or an input can be called so, with everything built in still meaning what it does."""
    from .elaborate.builtin import BUILTIN
    from .syntax.lexer import is_name

    return is_name(name) and name not in BUILTIN


def load_tokenizer(
    path: str | Path, name: str | None = None, params: Mapping[str, Any] | None = None, tables: bool = True
) -> Tokenizer:
    """Read and check one tokenizer of a file, with what the file of its tables says.

    Args:
        path: a `.tess` file.
        name: which one; may be left out when the file has one, or one of its own name.
        params: values of its static parameters.
        tables: whether it is compared with the file of its tables; else it is what stands in the declaration.

    Raises:
        Diagnostic: whatever is wrong with it.
    """
    from .checking import load_tokenizer as load_

    return load_(lambda library: library.file(path), name, params, tables)


def loads_tokenizer(text: str, path: str = "<string>", name: str | None = None) -> Tokenizer:
    """As :func:`load_tokenizer`, from text; files are looked for beside ``path``."""
    from .checking import load_tokenizer as load_

    return load_(lambda library: library.edited(text, path), name)


def print_tokenizer(tokenizer: Tokenizer) -> str:
    """The tokenizer as source; ``loads_tokenizer(print_tokenizer(t), path) == t``."""
    from .format.tokenizers import print_tokenizer as print_

    return print_(tokenizer)


def models(path: str | Path) -> list[str]:
    """The names of a file's models and programs."""
    unit = _library().file(path)
    return [*unit.models, *unit.programs]


def tokenizers(path: str | Path) -> tuple[list[str], list[str]]:
    """The names of a file's tokenizers, and of its models and programs."""
    unit = _library().file(path)
    return list(unit.tokenizers), [*unit.models, *unit.programs]


def check(path: str | Path) -> list[Module]:
    """Type-check a whole file: every model, and each other declaration as far as it can be checked by itself.

    Raises:
        Diagnostic: the first mistake; its ``others`` are the further ones.
    """
    return _right(examine(path))


def check_text(text: str, path: str = "<string>") -> list[Module]:
    """As :func:`check`, from text."""
    from .checking import check_unit

    return _right(check_unit(lambda library: library.text(text, path)))


def warnings(checked: Checked) -> list[Diagnostic]:
    """What is legal in a file and probably wrong."""
    from .lint import beside, lint

    return beside(lint(checked.file), checked.errors) if checked.file is not None else []


def _right(checked: Checked) -> list[Module]:
    if checked.errors:
        raise several(checked.errors)
    return checked.modules


def examine(path: str | Path, text: str | None = None) -> Checked:
    """As :func:`check`, and nothing is raised: the models that are right, and all that is wrong.

    Args:
        text: what the file holds, where that is not saved yet; files that it uses are looked for beside ``path``.
    """
    from .checking import check_unit

    return check_unit(lambda library: library.file(path) if text is None else library.edited(text, str(path)))


def print_module(module: Module) -> str:
    """The module as source; ``loads(print_module(m)) == m``."""
    from .format.printer import print_module as print_

    return print_(module)


@lru_cache(maxsize=1)
def shared_elaborator() -> Elaborator:
    """The elaborator of shipped files that passes and the Python API share."""
    from .elaborate.elaborate import Elaborator

    return Elaborator(_library())


def resolve(qualified: str, kind: str = "op") -> Composite:
    """The composite of a shipped module: ``std.token.bipartite_merge``; or that of a ``fn``. Raises Diagnostic E0201/E0202."""
    from .syntax import ast

    elaborator = shared_elaborator()
    module, _, name = qualified.rpartition(".")
    unit = elaborator.library.std(module)
    declared = unit.names.get(name)
    if declared is None or not isinstance(declared.node, ast.Function) or declared.node.kind != kind:
        own = [n for n, d in unit.names.items() if isinstance(d.node, ast.Function) and d.node.kind == kind]
        raise Diagnostic("E0201", f"`{module}` declares no {kind} `{name}`", help=did_you_mean(name, own))
    return elaborator.composite(declared)


def resolve_ops(qualified: str) -> list[Composite]:
    """The ops that a shipped module declares and those below it: of ``std.token`` and of ``std.token.merge``, in order. Raises
    Diagnostic E0202 when there is no such module."""
    elaborator = shared_elaborator()
    units = [elaborator.library.std(module) for module in elaborator.library.below(qualified)]
    return [elaborator.composite(declared) for unit in units for declared in _ops(unit).values()]


def resolve_local(path: str, name: str, module: Module | None) -> Composite:
    """An op of a user's file, which is looked for beside the module's file, then in the working directory. The module declares
    it from now on, so that it prints.

    Raises:
        Diagnostic: E0001 when there is no such file, E0201 when it declares no such op, E0204 when the module has another
            declaration of that name.
    """
    from .elaborate.elaborate import Elaborator
    from .elaborate.gather import gather_ops

    folders = [Path.cwd()] if module is None or module.path is None else [Path(module.path).parent, Path.cwd()]
    found = next((folder / path for folder in folders if (folder / path).is_file()), None)
    if found is None:
        looked = " or ".join(dict.fromkeys(f"`{folder}`" for folder in folders))
        dotted = f"write an op of a shipped module with a dot, `{path}.{name}`" if path.startswith(("std.", "zoo.")) else None
        file = None if path.endswith(".tess") else f"an op of a file is `{path}.tess:{name}`"
        raise Diagnostic("E0001", f"there is no file `{path}` in {looked}", help=dotted or file)
    elaborator = Elaborator(_library())
    unit = elaborator.library.file(found)
    ops = _ops(unit)
    if name not in ops:
        raise Diagnostic(
            "E0201", f"`{path}` declares no op `{name}`",
            help=did_you_mean(name, ops) or f"its ops are {', '.join(ops) or 'none'}",
        )  # fmt: skip
    op = elaborator.composite(ops[name])
    if module is not None:
        declarations, uses = gather_ops(elaborator, unit, [ops[name]])
        for own, declaration in declarations.items():
            if module.locals.setdefault(own, declaration) != declaration:
                raise Diagnostic(
                    "E0204", f"`{own}` is declared in `{path}` and, as something else, in the model's file",
                    ops[name].node.span, help="give one of them another name",
                )  # fmt: skip
        for alias, target in uses.items():
            if module.uses.setdefault(alias, target) != target:
                raise Diagnostic(
                    "E0204", f"`{alias}` means one thing in `{path}` and another in the model's file",
                    ops[name].node.span, help=f"use it under another name: `use {target[0]} ({target[1]} as …)`",
                )  # fmt: skip
    return op


def _ops(unit: Unit) -> dict[str, Declared]:
    """The ops that a unit declares itself."""
    from .syntax import ast

    local = ((n, d) for n, d in unit.names.items() if unit.local(n))
    return {n: d for n, d in local if isinstance(d.node, ast.Function) and d.node.kind == "op"}


def resolve_rule(name: str, module: Module) -> Rule:
    """The ``rewrite`` that ``name`` means: of the module's own file, a shipped one by its qualified name, or one of the
    rules of ``raise_composites`` by its name alone.

    Raises:
        Diagnostic: E0711 when there is none.
    """
    known = dict(module.rules)
    unit = name.rpartition(".")[0]
    if name not in known:
        for shipped in [unit] if unit else RAISING:
            known.update((f"{unit}.{n}" if unit else n, rule) for n, rule in resolve_rules(shipped).items())
    if name not in known:
        raise Diagnostic(
            "E0711", f"there is no rewrite rule `{name}`",
            help=did_you_mean(name, known) or "declare `rewrite exact name(…) { pattern => replacement }` in the file",
        )  # fmt: skip
    return known[name]


@lru_cache(maxsize=8)
def resolve_rules(qualified: str) -> dict[str, Rule]:
    """The ``rewrite`` declarations of a shipped module by name. Raises Diagnostic E0202 when there is no such module."""
    elaborator = shared_elaborator()
    from .checking import rules

    return rules(elaborator, elaborator.library.std(qualified))


def _library() -> Library:
    from .elaborate.library import Library

    return Library()


def parse_pass(text: str, shown: str = "<pass>") -> PassSpec:
    """``merge_tokens(r=8, metric=keys)``, or a bare name, as a :class:`PassSpec`; ``shown`` names the text in messages.

    Raises:
        Diagnostic: E01xx, E0405 for other text.
    """
    from .blocks import parse_pass as parse

    return parse(text, shown)


def options(args: list[ast.Arg]) -> dict[str, Any]:
    """Arguments of a pass, target or model as values; a bare word is a string. Raises Diagnostic E0405, E0406."""
    from .blocks import options as values

    return values(args)
