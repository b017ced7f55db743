"""Source text to syntax tree.

    >>> parse("const N = 12", "x.tess").items[0].name
    'N'

An LALR driver over the tables that lark makes from ``tess.lark``: one pass over the token list, each reduction a call
of a ``builder.AstBuilder`` method, no parse tree in between.
"""

from __future__ import annotations

import gc
import os
from typing import Any

from ....ir.diagnostics import Diagnostic, register_source
from . import ast
from .builder import AstBuilder
from .expressions import check_depth
from .lexer import END, tokenize, word_kinds
from .tables import Row, tables

MAX_BYTES = 64 * 2**20


def parse(text: str, path: str) -> ast.File:
    """Parse the file ``path``, whose contents are ``text``.

    The text is registered, so that diagnostics show its lines. Raises ``Diagnostic`` (E01xx) at the first mistake.
    """
    return _parse(text, path, "file")


def parse_expr(text: str, path: str = "<expr>") -> ast.Expr:
    """Parse one expression, such as ``linear(x, out=3) as head``. Raises ``Diagnostic`` (E01xx)."""
    return _parse(text, path, "expr")


def parse_pass_text(text: str, path: str = "<pass>") -> ast.Expr:
    """Parse a pass as the command line names it, ``rewrite(rules=["a"])``: a word, whatever else it is, or a call of one."""
    return _parse(text, path, "pass")


def parse_type(text: str, path: str = "<type>") -> ast.TypeExpr:
    """Parse one type, such as ``float[B, T - 1]?``. Raises ``Diagnostic`` (E01xx)."""
    return _parse(text, path, "type")


def parse_clause(text: str, path: str = "<clause>") -> ast.WeightsClause | ast.PassClause | ast.TargetClause:
    """Parse one clause of a ``compile`` block, such as ``pass merge_tokens(r=8)``. Raises ``Diagnostic`` (E01xx)."""
    return _parse(text, path, "clause")


def read_source(path: str | os.PathLike[str]) -> str:
    """The text of a source file, without a byte order mark.

    Raises ``Diagnostic``: E0001 where there is no such file, E0002 where it cannot be read (a directory, permissions),
    E0003 where it is not UTF-8, E0004 where it is larger than 64 MB.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise Diagnostic("E0001", f"there is no file `{name}`", help=_nearby(name)) from None
    except IsADirectoryError:
        raise Diagnostic("E0002", f"`{name}` is a directory", help="name a `.tess` file in it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Diagnostic("E0002", f"cannot read `{name}`: {reason}") from None
    if len(data) > MAX_BYTES:
        raise Diagnostic("E0004", f"`{name}` is larger than {MAX_BYTES // 2**20} MB", help="split it up")
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Diagnostic(
            "E0003",
            f"`{name}` is not UTF-8: byte 0x{data[error.start]:02x} on line {line}",
            help="save the file as UTF-8",
        ) from None


def _nearby(name: str) -> str | None:
    from ....ir.diagnostics import did_you_mean

    try:
        return did_you_mean(os.path.basename(name), os.listdir(os.path.dirname(name) or "."))
    except (OSError, ValueError):
        return None


def _parse(text: str, path: str, start: str) -> Any:
    text = text.removeprefix("\ufeff")
    register_source(path, text)
    collecting = gc.isenabled()
    # The nodes are no garbage and hold no cycles: collections while they are made only cost time.
    gc.disable()
    try:
        node = _run(text, path, start)
    finally:
        if collecting:
            gc.enable()
    if start != "file":
        check_depth(node)
    return node


class Stack:
    """Where a parse stands: the rows of the states, the values of the symbols, the index of the first token of each, and
    that of the next token."""

    __slots__ = ("at", "firsts", "rows", "values")

    def __init__(self, row: Row) -> None:
        self.rows: list[Row] = [row]
        self.values: list[Any] = []
        self.firsts: list[int] = []
        self.at = 0


def _run(text: str, path: str, start: str) -> Any:
    table = tables()
    tokens = tokenize(text, word_kinds(table.literals))
    if start == "pass":
        start = "expr"
        tokens.kinds[0] = "NAME" if tokens.texts[0].isidentifier() else tokens.kinds[0]
    return drive(AstBuilder(path, tokens), Stack(table.start[start]), table.end[start])


def drive(builder: AstBuilder, stack: Stack, end: Row) -> Any:
    """Parse from where ``stack`` stands, to the end. Raises ``Diagnostic`` (E01xx) at a mistake: the stack is as it was then."""
    kinds, texts = builder.tokens.kinds, builder.tokens.texts
    rows, values, firsts, at = stack.rows, stack.values, stack.firsts, stack.at
    row = rows[-1]
    kind = kinds[at]
    try:
        while True:
            action = row.get(kind)
            if type(action) is dict:
                row = action
                rows.append(row)
                values.append(texts[at])
                firsts.append(at)
                at += 1
                kind = kinds[at]
                continue
            if action is None:
                if row is end and kind == END:
                    return values[0]
                from .mistakes import explain

                raise explain(builder, rows, at)
            size, symbol, method = action
            if size == 1:
                if method is not None:
                    values[-1] = method(builder, firsts[-1], at - 1, values[-1])
                rows.pop()
            elif size:
                first = firsts[-size]
                value = method(builder, first, at - 1, *values[-size:])
                del rows[-size:], values[-size:], firsts[-size:]
                values.append(value)
                firsts.append(first)
            else:
                values.append(method(builder, at, at - 1))
                firsts.append(at)
            row = rows[-1][symbol]
            rows.append(row)
    except Diagnostic:
        stack.at = at
        raise
