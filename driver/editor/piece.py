"""One declaration of a text: its tokens, its tree as far as it parses, and every name in it."""

from __future__ import annotations

import re
from bisect import bisect_left
from functools import cached_property
from itertools import count

from ...frontends.source.syntax import ast
from ...frontends.source.syntax.lexer import Tokens, tokenize, word_kinds
from ...frontends.source.syntax.parser import parse
from ...frontends.source.syntax.recovery import parse_all
from ...frontends.source.syntax.tables import tables
from ...ir.diagnostics import Diagnostic, Span
from .names import Occurrence, occurrences

# So many lines are taken out of a declaration that does not parse, until the rest does.
MOST_REPAIRS = 6
_CLOSERS = {"(": ")", "[": "]", "{": "}"}
_versions = count(1)


class Piece:
    """A piece of a text. Places in its tree count from its own first line, in a file of the name ``key``, so that it stays
    what it is when lines come or go above it.

    Attributes:
        file: the tree; of a text that does not parse, that of what is left without the lines at fault.
        errors: what is wrong with the syntax.
        broken: the names of declarations that do not parse.
        version: another number for each text.
    """

    def __init__(self, key: str, text: str) -> None:
        self.key = key
        self.text = text
        self.version = next(_versions)
        self.errors: list[Diagnostic] = []
        self.broken: set[str] = set()
        self.file = self._parsed()

    def _parsed(self) -> ast.File:
        text = self.text
        for _ in range(MOST_REPAIRS):
            try:
                return parse(text, self.key)
            except Diagnostic as error:
                if not self.errors:
                    _, self.errors, self.broken = parse_all(text, self.key)
                text = _repaired(text, error.span)
        return ast.File(self.key, [], [])

    @cached_property
    def tokens(self) -> Tokens:
        return tokenize(self.text, word_kinds(tables().literals))

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        return list(zip(self.tokens.lines, self.tokens.columns, strict=True))

    def token_at(self, line: int, column: int) -> int:
        """The index of the first token at or behind a place; lines and columns from 1."""
        return bisect_left(self._places, (line, column))

    def token_span(self, index: int) -> Span:
        tokens = self.tokens
        line = tokens.lines[index]
        return Span(self.key, line, tokens.columns[index], line, tokens.ends[index])

    @cached_property
    def occurrences(self) -> list[Occurrence]:
        """Every name in it, by place."""
        return occurrences(self)

    @cached_property
    def words(self) -> frozenset[str]:
        """Every text of a name in it: what it may depend on."""
        return frozenset(t for t, k in zip(self.tokens.texts, self.tokens.kinds, strict=True) if k == "NAME")

    @cached_property
    def rows(self) -> list[str]:
        return self.text.split("\n")

    @property
    def items(self) -> list[ast.Declaration]:
        return self.file.items


def _repaired(text: str, span: Span | None) -> str:
    """The text without the line at fault, and with the brackets closed that are open at its end."""
    rows = text.split("\n")
    at = len(rows) if span is None else span.line - 1
    if at < len(rows) and not _ends(text, span):
        assert span is not None
        if rows[at][: span.column - 1].strip() == "" and rows[at].lstrip()[:1] in ("}", ")", "]"):
            # What is unfinished is the line before a bracket that comes too early.
            at = next((i for i in range(at - 1, 0, -1) if rows[i].strip()), at)
        rows[at] = ""
    text = "\n".join(rows)
    tokens = tokenize(text, {})
    stack: list[str] = []
    for word in tokens.texts:
        if word in _CLOSERS:
            stack.append(_CLOSERS[word])
        elif stack and word == stack[-1]:
            stack.pop()
    return text + "\n" + "\n".join(reversed(stack)) if stack else text


def _ends(text: str, span: Span | None) -> bool:
    """Whether a place is behind everything that is written."""
    assert span is not None
    rest = text.split("\n")[span.line - 1 :]
    rest[0] = rest[0][span.column - 1 :]
    return all(re.fullmatch(r"\s*(?:#.*)?", row) for row in rest)
