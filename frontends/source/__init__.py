"""The source frontend: `.tess` text to IR and back."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic, Note, Span, did_you_mean
from ...ir.library import RAISING
from ...ir.types import DTYPES
from .syntax.depth import deep_recursion

if TYPE_CHECKING:
    from ...ir.compiling import CompileSpec
    from ...ir.graph import Module
    from ...ir.op import Composite
    from ...ir.pattern import Rule
    from ...ir.recipe import Recipe
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
    return _load(lambda library: library.file(path), model, params, dtype)


def loads(
    text: str, path: str = "<string>", model: str | None = None, params: dict[str, Any] | None = None,
    dtype: str = "f32",
) -> Module:  # fmt: skip
    """As :func:`load`, from text. ``path`` names it in messages."""
    return _load(lambda library: library.text(text, path), model, params, dtype)


def models(path: str | Path) -> list[str]:
    """The names of a file's models and programs."""
    unit = _library().file(path)
    return [*unit.models, *unit.programs]


def check(path: str | Path) -> list[Module]:
    """Type-check a whole file: every model, and each other declaration as far as it can be checked by itself.

    Raises:
        Diagnostic: the first mistake.
    """
    return _check(lambda library: library.file(path))


def check_text(text: str, path: str = "<string>") -> list[Module]:
    """As :func:`check`, from text."""
    return _check(lambda library: library.text(text, path))


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
    """The ops that a shipped module declares, in order. Raises Diagnostic E0202 when there is no such module."""
    elaborator = shared_elaborator()
    return [elaborator.composite(d) for d in _ops(elaborator.library.std(qualified)).values()]


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
        raise Diagnostic("E0001", f"there is no file `{path}` in {looked}")
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
    return _rules(elaborator, elaborator.library.std(qualified))


def _library() -> Library:
    from .elaborate.library import Library

    return Library()


@deep_recursion()
def _load(unit_of: Callable[[Library], Unit], model: str | None, params: dict[str, Any] | None, dtype: str) -> Module:
    from .elaborate.elaborate import Elaborator

    if dtype not in DTYPES or DTYPES[dtype].kind != "float":
        raise Diagnostic("E0402", f"`{dtype}` is not a float dtype", help="one of f32, f16, bf16, f64")
    library = _library()
    unit = unit_of(library)
    elaborator = Elaborator(library, DTYPES[dtype])
    name, block = _choose(unit, model)
    spec, statics = _compile_spec(elaborator, unit, block)
    outside = params or {}
    spans = {n: span for n, span in _spans(block).items() if n not in outside}
    given = {**statics, **outside}
    module = elaborator.model(unit, name, given, spans)
    module.compile = spec
    module.recipes = _recipes(elaborator, unit, module, block, given)
    module.rules = _rules(elaborator, unit)
    return module


def _recipes(
    elaborator: Elaborator, unit: Unit, module: Module, block: ast.Compile | None, params: dict[str, Any]
) -> dict[str, Recipe]:
    from .syntax import ast

    clauses = [c for c in block.clauses if isinstance(c, ast.WeightsClause)] if block is not None else []
    rows = [row for clause in clauses for row in clause.rows if isinstance(row, ast.Recipe)]
    if not rows:
        return {}
    from .elaborate.recipes import recipes_of_program

    return recipes_of_program(elaborator, unit, module, rows, params)


def _rules(elaborator: Elaborator, unit: Unit) -> dict[str, Rule]:
    """The ``rewrite`` declarations that a unit can name."""
    from .syntax import ast

    declared = {n: d for n, d in unit.names.items() if isinstance(d.node, ast.Rewrite)}
    if not declared:
        return {}
    from .elaborate.rules import rule_of

    return {n: rule_of(elaborator, d) for n, d in declared.items()}


@deep_recursion()
def _check(unit_of: Callable[[Library], Unit]) -> list[Module]:
    from .elaborate.elaborate import Elaborator
    from .elaborate.generic import check_declarations

    library = _library()
    unit = unit_of(library)
    elaborator = Elaborator(library)
    modules = []
    declared: list[ast.Function | ast.Program] = [*unit.models.values(), *unit.programs.values()]
    for node in declared:
        name = node.name
        blocks = [c for c in _compiles(unit) if c.model == name]
        block = blocks[0] if blocks else None
        spec, statics = _compile_spec(elaborator, unit, block)
        if any(s.default is None and s.name not in statics for s in node.statics):
            continue
        module = elaborator.model(unit, name, statics, _spans(block))
        module.compile = spec
        module.recipes = _recipes(elaborator, unit, module, block, statics)
        modules.append(module)
    for block in _compiles(unit):
        _choose(unit, block.model, block.span)
    check_declarations(elaborator, unit)
    _rules(elaborator, unit)
    return modules


def _spans(block: ast.Compile | None) -> dict[str, Span | None]:
    """Where a compile block gives the value of each parameter."""
    return {arg.name: arg.value.span for arg in block.args if arg.name} if block is not None else {}


def _compiles(unit: Unit) -> list[ast.Compile]:
    """The ``compile`` blocks of a file. Raises E0204 for two of one model."""
    from .syntax import ast

    blocks: dict[str, ast.Compile] = {}
    for item in unit.file.items:
        if isinstance(item, ast.Compile) and blocks.setdefault(item.model, item) is not item:
            raise Diagnostic(
                "E0204", f"the model `{item.model}` has two compile blocks", item.span,
                notes=[Note("the first one is here", blocks[item.model].span)],
                help="leave one of them; what differs can be given on the command line",
            )  # fmt: skip
    return list(blocks.values())


def _choose(unit: Unit, model: str | None, span: Span | None = None) -> tuple[str, ast.Compile | None]:
    blocks = _compiles(unit)
    names = [*unit.models, *unit.programs]
    if model is None and len({b.model for b in blocks}) == 1:
        model, span = blocks[0].model, blocks[0].span
    for only in (unit.programs, unit.models):
        if model is None and len(only) == 1:
            model = next(iter(only))
    if model is None and Path(unit.path).stem in names:
        model = Path(unit.path).stem
    if model is None:
        raise Diagnostic(
            "E0207", f"{unit.path} has {_counted(unit)}", span,
            help=f"choose one with `--model`: {', '.join(names)}" if names else "declare a `model`",
        )  # fmt: skip
    if model not in names:
        raise Diagnostic(
            "E0207", f"{unit.path} has no model `{model}`", span,
            help=did_you_mean(model, names) or f"its models are {', '.join(names) or 'none'}",
        )  # fmt: skip
    return model, next((b for b in blocks if b.model == model), None)


def _counted(unit: Unit) -> str:
    """``2 models``, ``2 programs``, ``no models``."""
    programs = len(unit.programs)
    return f"{programs} programs" if programs else f"{len(unit.models) or 'no'} models"


def _compile_spec(
    elaborator: Elaborator, unit: Unit, block: ast.Compile | None
) -> tuple[CompileSpec | None, dict[str, Any]]:
    from ...ir.compiling import CompileSpec, PassSpec
    from .syntax import ast

    if block is None:
        return None, {}
    weights: ast.WeightsClause | None = None
    passes = []
    target: ast.TargetClause | None = None
    for clause in block.clauses:
        if isinstance(clause, ast.PassClause):
            values = options(clause.args, elaborator, unit)
            passes.append(PassSpec(clause.name, values, clause.span, _places(clause.args)))
        elif isinstance(clause, ast.WeightsClause):
            if weights is not None:
                raise Diagnostic("E0204", "a compile block has one `weights` clause", clause.span)
            weights = clause
        else:
            if target is not None:
                raise Diagnostic("E0204", "a compile block has one `target` clause", clause.span)
            target = clause
    renames = tuple((r.old, r.new) for r in weights.rows if isinstance(r, ast.Rename)) if weights else ()
    spec = CompileSpec(
        weights.file if weights else None, renames, tuple(passes),
        target.name if target else None, options(target.args, elaborator, unit) if target else {}, block.span,
    )  # fmt: skip
    return spec, options(block.args, elaborator, unit)


def options(args: list[ast.Arg], elaborator: Elaborator | None = None, unit: Unit | None = None) -> dict[str, Any]:
    """Arguments of a pass, target or model as values; a bare word that is no constant is a string."""
    elaborator = elaborator or shared_elaborator()
    values: dict[str, Any] = {}
    for arg in args:
        if arg.name is None:
            raise Diagnostic("E0405", "options are given by name: `name=value`", arg.span)
        if arg.name in values:
            raise Diagnostic("E0406", f"`{arg.name}` is given twice", arg.span)
        values[arg.name] = _option(arg.value, elaborator, unit)
    return values


def _option(expr: ast.Expr, elaborator: Elaborator, unit: Unit | None) -> Any:
    from .syntax import ast

    if isinstance(expr, ast.ListExpr):
        return tuple(_option(item, elaborator, unit) for item in expr.items)
    if isinstance(expr, ast.Attribute) and (word := _dotted(expr)):
        return word
    if isinstance(expr, ast.Name):
        declared = unit.names.get(expr.id) if unit is not None else None
        if expr.id in DTYPES:
            return DTYPES[expr.id]
        if declared is None or not isinstance(declared.node, ast.Const):
            return expr.id
    return elaborator.static(unit or elaborator.library.text("", "<options>"), expr, {})


def _dotted(expr: ast.Expr) -> str | None:
    """``std.nn.gelu`` as the word that it is; None for another expression."""
    from .syntax import ast

    if isinstance(expr, ast.Attribute):
        head = _dotted(expr.value)
        return f"{head}.{expr.name}" if head else None
    return expr.id if isinstance(expr, ast.Name) else None


def _places(args: list[ast.Arg]) -> dict[str, Span]:
    """Where the value of each option stands."""
    return {arg.name: arg.value.span for arg in args if arg.name and arg.value.span}


def parse_pass(text: str, shown: str = "<pass>") -> Any:
    """``merge_tokens(r=8, metric=keys)``, or a bare name, as a :class:`PassSpec`; ``shown`` names the text in messages.

    Raises:
        Diagnostic: E01xx, E0405 for other text.
    """
    from ...ir.compiling import PassSpec
    from .syntax import ast
    from .syntax.parser import parse_expr

    expr = parse_expr(text, shown)
    name = _dotted(expr.function if isinstance(expr, ast.Call) else expr)
    if name is None:
        raise Diagnostic("E0405", f"`{text}` is not a pass", expr.span, help="write `merge_tokens(r=8)`")
    args = expr.args if isinstance(expr, ast.Call) else []
    return PassSpec(name, options(args), expr.span, _places(args))
