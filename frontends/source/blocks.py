"""``compile`` blocks: which model they are of, and their clauses and options as values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...ir.compiling import CompileSpec, PassSpec
from ...ir.diagnostics import Diagnostic, FollowUp, Note, Span, did_you_mean
from .elaborate.elaborate import Elaborator
from .elaborate.library import Unit
from .elaborate.options import dotted, places
from .elaborate.options import options as values_of
from .syntax import ast
from .syntax.parser import parse_pass_text


def spans(block: ast.Compile | None) -> dict[str, Span | None]:
    """Where a compile block gives the value of each parameter."""
    return {arg.name: arg.value.span for arg in block.args if arg.name} if block is not None else {}


def compiles(unit: Unit) -> list[ast.Compile]:
    """The ``compile`` blocks of a file. Raises E0204 for two of one model."""

    blocks: dict[str, ast.Compile] = {}
    for item in unit.file.items:
        if isinstance(item, ast.Compile) and blocks.setdefault(item.model, item) is not item:
            raise Diagnostic(
                "E0204", f"the model `{item.model}` has two compile blocks", item.span,
                notes=[Note("the first one is here", blocks[item.model].span)],
                help="leave one of them; what differs can be given on the command line",
            )  # fmt: skip
    return list(blocks.values())


def choose(unit: Unit, model: str | None, span: Span | None = None) -> tuple[str, ast.Compile | None]:
    blocks = compiles(unit)
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
            help=f"choose one with `--model`: {', '.join(names)}" if names else _instead(unit),
        )  # fmt: skip
    if model in unit.broken:
        raise FollowUp
    if model not in names:
        raise Diagnostic(
            "E0207", f"{unit.path} has no model `{model}`", span,
            help=did_you_mean(model, names) or f"its models are {', '.join(names) or 'none'}",
        )  # fmt: skip
    return model, next((b for b in blocks if b.model == model), None)


def _instead(unit: Unit) -> str:
    """What to do with a file that has no model."""
    return "`tessera tokenizer` runs its tokenizers" if unit.tokenizers else "declare a `model`"


def choose_tokenizer(unit: Unit, name: str | None) -> str:
    """The tokenizer that is meant. Raises E0207 where there are several, or none of that name."""
    names = list(unit.tokenizers)
    if name is None and Path(unit.path).stem in names:
        name = Path(unit.path).stem
    if name is None and len(names) == 1:
        name = names[0]
    if name is not None and name in unit.broken:
        raise FollowUp
    if name not in names:
        counted = f"no tokenizer `{name}`" if name else f"{len(names) or 'no'} tokenizers"
        raise Diagnostic(
            "E0207", f"{unit.path} has {counted}",
            help=did_you_mean(name or "", names) or (f"there are {', '.join(names)}" if names else "declare a `tokenizer`"),
        )  # fmt: skip
    return str(name)


def _counted(unit: Unit) -> str:
    """``2 models``, ``2 programs``, ``no models``."""
    programs = len(unit.programs)
    return f"{programs} programs" if programs else f"{len(unit.models) or 'no'} models"


def compile_spec(
    elaborator: Elaborator, unit: Unit, block: ast.Compile | None
) -> tuple[CompileSpec | None, dict[str, Any]]:

    if block is None:
        return None, {}
    weights: ast.WeightsClause | None = None
    passes = []
    target: ast.TargetClause | None = None
    for clause in block.clauses:
        if isinstance(clause, ast.PassClause):
            values = options(clause.args, elaborator, unit)
            passes.append(PassSpec(clause.name, values, clause.span, places(clause.args)))
        elif isinstance(clause, ast.WeightsClause):
            if weights is not None:
                raise Diagnostic("E0204", "a compile block has one `weights` clause", clause.span)
            weights = clause
        else:
            if target is not None:
                raise Diagnostic("E0204", "a compile block has one `target` clause", clause.span)
            target = clause
    renames = tuple((r.old, r.new) for r in weights.rows if isinstance(r, ast.Rename)) if weights else ()
    rows = [row for row in weights.rows if isinstance(row, ast.Rename)] if weights else []
    for i, row in enumerate(rows):
        first = next((other for other in rows[:i] if other.old == row.old), None)
        if first is not None:
            raise Diagnostic(
                "E0204", f"`{row.old}` is renamed twice", row.span, notes=[Note("the first time is here", first.span)],
                help="leave one of them",
            )  # fmt: skip
    spec = CompileSpec(
        weights.file if weights else None, renames, tuple(passes),
        target.name if target else None, options(target.args, elaborator, unit) if target else {}, block.span,
    )  # fmt: skip
    return spec, options(block.args, elaborator, unit)


def options(args: list[ast.Arg], elaborator: Elaborator | None = None, unit: Unit | None = None) -> dict[str, Any]:
    """Arguments of a pass, target or model as values; a bare word that is no constant is a string."""
    if elaborator is None:
        from . import shared_elaborator

        elaborator = shared_elaborator()
    return values_of(args, elaborator, unit)


def parse_pass(text: str, shown: str = "<pass>") -> Any:
    """``merge_tokens(r=8, metric=keys)``, or a bare name, as a :class:`PassSpec`; ``shown`` names the text in messages.

    Raises:
        Diagnostic: E01xx, E0405 for other text.
    """

    expr = parse_pass_text(text, shown)
    name = dotted(expr.function if isinstance(expr, ast.Call) else expr)
    if name is None:
        raise Diagnostic("E0405", f"`{text}` is not a pass", expr.span, help="write `merge_tokens(r=8)`")
    args = expr.args if isinstance(expr, ast.Call) else []
    return PassSpec(name, options(args), expr.span, places(args))
