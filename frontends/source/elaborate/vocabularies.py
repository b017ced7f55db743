"""``ids: token[words, B, T]``: ids, i64[B, T], of the vocabulary of a tokenizer, or of one of so many tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ....ir.diagnostics import Diagnostic, Span
from ....ir.dims.dim import Dim
from ....ir.signature import Bindings
from ....ir.vocabulary import Vocabulary
from ..syntax import ast
from .library import Declared, Unit
from .values import describe

if TYPE_CHECKING:
    from .elaborate import Elaborator

WORD = "token"
_HELP = "write `token[words, B, T]` with the name of a `tokenizer`, or how many ids there are: `token[30522, B, T]`"


def erased(unit: Unit, type: ast.TypeExpr) -> ast.TypeExpr:
    """The type of the tensor that an input of a model is. Raises E0310 for ids without a vocabulary."""
    if not is_ids(unit, type):
        return type
    if not type.dims or isinstance(type.dims[0], ast.Ellipsis_):
        raise Diagnostic("E0310", "ids need their vocabulary before their axes", type.span, help=_HELP)
    return replace(type, name="i64", dims=type.dims[1:])


def is_ids(unit: Unit, type: ast.TypeExpr) -> bool:
    """Whether a type is that of ids; a record may have the word for its name."""
    return type.name == WORD and unit.find(WORD) is None


def vocabulary_of(elaborator: Elaborator, declared: Declared, span: Span | None) -> Vocabulary:
    """That of a tokenizer. Raises E1006 where it was not trained yet."""
    tokenizer = elaborator.tokenizer(declared)
    if tokenizer.size is None:
        raise Diagnostic(
            "E1006", f"nobody knows yet how many ids the tokenizer `{tokenizer.name}` has", span,
            help="train it with `tessera tokenizer train`",
        )  # fmt: skip
    return Vocabulary(tokenizer.size, tokenizer.name)


def vocabulary(elaborator: Elaborator, unit: Unit, type: ast.TypeExpr, bound: Bindings) -> Vocabulary | None:
    """Whose ids an input holds; None of another input.

    Raises:
        Diagnostic: E0403 for what is neither a tokenizer nor a number, E1006 for a tokenizer that was not trained yet.
    """
    if not is_ids(unit, type):
        return None
    assert type.dims
    whose = type.dims[0]
    declared = unit.find(whose.id) if isinstance(whose, ast.Name) else None
    if declared is not None and isinstance(declared.node, ast.Tokenizer):
        return vocabulary_of(elaborator, declared, whose.span)
    size = elaborator.static(unit, whose, dict(bound.statics))
    size = size.value if isinstance(size, Dim) else size
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise Diagnostic("E0403", f"a vocabulary is a tokenizer or a number of ids, not {describe(size)}", whose.span, help=_HELP)
    return Vocabulary(size)
