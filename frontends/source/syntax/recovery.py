"""Parsing on behind a mistake: all that is wrong with a file, and the tree of what is not.

The parser goes on where it is sure of the place: at the next line that starts a statement of an open block or closes it, as
its first words and its indentation say, or else at the next declaration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from ....ir.diagnostics import Diagnostic, register_source
from . import ast
from .builder import AstBuilder
from .lexer import END, Tokens, tokenize, word_kinds
from .parser import Stack, drive
from .site import CLOSERS, DECLARATIONS, OPENERS, STATEMENTS, accepts
from .tables import tables

# What blocks are lists of, and the lists: a row that goes on with one of these is inside of a block.
_ITEMS = {"stmt": "stmts", "step": "steps", "member": "members", "clause": "clauses", "stage": "stages"}
_MOST = 100


class Parsed(NamedTuple):
    """``file`` holds the declarations that parse; ``broken`` are the names of those that do not."""

    file: ast.File
    errors: list[Diagnostic]
    broken: set[str]


def parse_all(text: str, path: str) -> Parsed:
    """Parse a whole file, on behind each mistake. Never raises ``Diagnostic``."""
    text = text.removeprefix("\ufeff")
    register_source(path, text)
    table = tables()
    tokens = tokenize(text, word_kinds(table.literals))
    builder = AstBuilder(path, tokens)
    stack = Stack(table.start["file"])
    errors: list[Diagnostic] = []
    broken: set[str] = set()
    file = ast.File(path, [], [])
    while len(errors) < _MOST:
        try:
            file = drive(builder, stack, table.end["file"])
            break
        except Diagnostic as error:
            errors.append(error)
        _settle(builder, stack)
        level = _outermost(stack)
        begun, wrong = _begun(stack, level), stack.at
        # What only the whole file shows to be wrong is told once: there the parser just goes on.
        if tokens.kinds[begun] != END:
            if not _at_statement(stack, tokens):
                _at_declaration(stack, tokens, level, begun)
            broken.update(_declared(tokens, begun, max(wrong + 1, stack.at)))
    # However much of a declaration parses, it is lost to those who use it.
    file.items = [item for item in file.items if isinstance(item, ast.Compile) or item.name not in broken]
    return Parsed(file, errors, broken)


def _settle(builder: AstBuilder, stack: Stack) -> None:
    """Finish a declaration that is complete where only what stands behind it is wrong."""
    while not isinstance(action := stack.rows[-1].get("CONST"), dict):
        if action is None or not accepts(stack.rows, "CONST"):
            return
        size, symbol, method = action
        first = stack.firsts[-size] if size else stack.at
        operands = stack.values[len(stack.values) - size :]
        try:
            value = method(builder, first, stack.at - 1, *operands) if method else operands[0]
        except Diagnostic:
            # It is this that is wrong with it.
            return
        _cut(stack, len(stack.values) - size, stack.at)
        stack.values.append(value)
        stack.firsts.append(first)
        stack.rows.append(stack.rows[-1][symbol])


def _outermost(stack: Stack) -> int:
    """How many symbols lie before the declaration or `use` that is wrong."""
    return max(n for n, row in enumerate(stack.rows) if "item" in row or "use" in row)


def _begun(stack: Stack, level: int) -> int:
    """The first token behind the first ``level`` symbols."""
    return stack.firsts[level] if level < len(stack.firsts) else stack.at


def _cut(stack: Stack, level: int, at: int) -> None:
    """Forget all but the first ``level`` symbols, and go on at a token."""
    del stack.rows[level + 1 :], stack.values[level:], stack.firsts[level:]
    stack.at = at


def _skip(stack: Stack, tokens: Tokens, level: int, at: int) -> None:
    """As :func:`_cut`; brackets that are left out open and close nothing."""
    for index in range(_begun(stack, level), at):
        if tokens.kinds[index] in (*OPENERS, *CLOSERS):
            tokens.kinds[index] = "SKIPPED"
    _cut(stack, level, at)


def _at_statement(stack: Stack, tokens: Tokens) -> bool:
    """Go on at the next statement of an open block, or at its end; whether there is one."""
    blocks = list(_blocks(stack, tokens))
    if not blocks:
        return False
    start = _begun(stack, blocks[0][0])
    depth = 0
    for at in range(start + 1, len(tokens.kinds) - 1):
        before = tokens.kinds[at - 1]
        depth += (before in OPENERS) - (before in CLOSERS)
        if tokens.lines[at - 1] == tokens.lines[at]:
            continue
        if tokens.texts[at] in DECLARATIONS and tokens.columns[at] == 1:
            return False
        for level, column, outer, form in blocks:
            closes = tokens.kinds[at] == "RBRACE" and tokens.columns[at] == outer
            if closes or (tokens.columns[at] == column and _starts(tokens, at, form, depth == 0)):
                _skip(stack, tokens, level, at)
                return True
    return False


def _blocks(stack: Stack, tokens: Tokens) -> Iterator[tuple[int, int, int, str]]:
    """Of the open blocks, innermost first: (symbols before what is wrong in it, column of its items, column of its end, kind)."""
    for level in range(len(stack.rows) - 1, 1, -1):
        row = stack.rows[level]
        form = next((item for item, items in _ITEMS.items() if item in row or items in row), None)
        if form is None:
            continue
        brace = stack.firsts[level - (2 if form in row else 1)]
        first = brace + 1
        if tokens.kinds[brace] != "LBRACE" or tokens.lines[first] == tokens.lines[brace]:
            continue
        line = brace
        while line and tokens.lines[line - 1] == tokens.lines[brace]:
            line -= 1
        yield level, tokens.columns[first], tokens.columns[line], form


def _starts(tokens: Tokens, at: int, form: str, balanced: bool) -> bool:
    """Whether a token that starts a line, as far in as the items of a block, is sure to start one."""
    word = tokens.kinds[at] == "NAME"
    if balanced or form != "stmt":
        return word or tokens.texts[at] in STATEMENTS
    return tokens.texts[at] in STATEMENTS or (word and tokens.texts[at + 1] in ("=", ","))


def _at_declaration(stack: Stack, tokens: Tokens, level: int, begun: int) -> None:
    """Go on at the next declaration, or at the end of the file."""
    uses = "use" in stack.rows[level]
    at = begun + 1
    while tokens.kinds[at] != END:
        word = tokens.texts[at]
        if tokens.columns[at] == 1 and word in DECLARATIONS and (word != "use" or uses):
            break
        at += 1
    _skip(stack, tokens, level, at)


def _declared(tokens: Tokens, first: int, last: int) -> Iterator[str]:
    """The names that may be declared by tokens which do not parse."""
    if tokens.texts[first] == "use":
        yield from (re.sub(r"^as\s+", "", t) for t in tokens.texts[first + 1 : last])
    # Behind a word that should have been a keyword.
    yield from (tokens.texts[at] for at in (first, first + 1) if at < last and tokens.kinds[at] == "NAME")
    for at in range(first, last):
        if tokens.texts[at] in DECLARATIONS and tokens.texts[at] != "compile":
            yield next((tokens.texts[i] for i in (at + 1, at + 2) if tokens.kinds[i : i + 1] == ["NAME"]), "")
