"""Parsed files kept as JSON, so that std need not be parsed again.

An entry is keyed by the text of the file and by the sources of the parser, so it is never stale; it is data, so reading
it cannot run anything; and one that cannot be read or decoded is as good as none.
"""

from __future__ import annotations

import contextlib
import gc
import os
from dataclasses import fields
from functools import cache, lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any

from ....ir.diagnostics import Span, register_source
from . import ast
from .parser import parse, read_source
from .store import digest, load_json, save_json

_PARSER_FILES = (
    "tess.lark",
    "ast.py",
    "exprs.py",
    "typed.py",
    "lexer.py",
    "builder.py",
    "members.py",
    "stages.py",
    "expressions.py",
    "parser.py",
    "tables.py",
    "cache.py",
)
# The first item of each list in an entry says what it stands for; nodes count from _FIRST.
_SPAN, _LIST, _TUPLE, _COMMENT, _FIRST = range(5)
_NODES = sorted(
    (c for c in vars(ast).values() if isinstance(c, type) and issubclass(c, ast.Node) and c is not ast.Node),
    key=lambda cls: cls.__name__,
)
_CLASSES: list[Any] = [None] * _FIRST + _NODES
_CODES: dict[type, int] = {cls: code for code, cls in enumerate(_NODES, _FIRST)} | {ast.Comment: _COMMENT}
# A node's own span is kept apart, in the columns of positions.
_FIELDS: dict[type, list[str]] = {cls: [f.name for f in fields(cls) if f.name != "span"] for cls in _CODES}


def load_ast(path: str | os.PathLike[str]) -> ast.File:
    """The syntax tree of the file at ``path``, from the cache if it has been parsed before.

    The text is registered for diagnostics in either case. Raises ``Diagnostic``: E00xx where the file cannot be read,
    E01xx where it does not parse.
    """
    name = os.fspath(path)
    text = read_source(path)
    register_source(name, text)
    return tree_of(name, text)


# Nobody changes a tree, so that all programs of a process share those of std.
@lru_cache(maxsize=256)
def tree_of(name: str, text: str) -> ast.File:
    key = "ast-" + digest(_parser_digest(), text.encode())
    entry = load_json(key)
    file = None if entry is None else decode(entry, name)
    if file is not None:
        return file
    file = parse(text, name)
    with contextlib.suppress(RecursionError):
        save_json(key, encode(file))
    return file


@cache
def _parser_digest() -> bytes:
    here = Path(__file__).parent
    return digest(*((here / name).read_bytes() for name in _PARSER_FILES)).encode()


def encode(file: ast.File) -> list[Any]:
    """``file`` as JSON data: the tree as nested lists, and the positions of its spans in the order of the walk."""
    positions: list[tuple[Any, ...]] = []

    def walk(value: Any) -> Any:
        kind = type(value)
        if kind is Span:
            positions.append(value[1:5])
            return [_SPAN]
        if kind is list or kind is tuple:
            return [_LIST if kind is list else _TUPLE, *[walk(item) for item in value]]
        code = _CODES.get(kind)
        if code is None:
            return value
        if kind is not ast.Comment:
            positions.append(value.span[1:5])
        return [code, *[walk(getattr(value, name)) for name in _FIELDS[kind]]]

    tree = walk(file)
    return [tree, *map(list, zip(*positions, strict=True))]


def decode(entry: Any, path: str) -> ast.File | None:
    """The tree that ``encode`` made ``entry`` of, with spans in ``path``; None if it is no such thing."""
    try:
        tree, *columns = entry
        # One span for each node: made in C, where a loop would take most of the time.
        next_span = map(tuple.__new__, repeat(Span), zip(repeat(path), *columns, repeat(None), strict=False)).__next__

        def node(row: list[Any]) -> Any:
            code = row[0]
            if code >= _FIRST:
                span = next_span()
                return _CLASSES[code](*[node(v) if type(v) is list else v for v in row[1:]], span=span)
            if code == _LIST:
                return [node(v) if type(v) is list else v for v in row[1:]]
            if code == _TUPLE:
                return tuple([node(v) if type(v) is list else v for v in row[1:]])
            return ast.Comment(*row[1:]) if code == _COMMENT else next_span()

        collecting = gc.isenabled()
        gc.disable()
        try:
            file = node(tree)
        finally:
            if collecting:
                gc.enable()
    except (TypeError, ValueError, IndexError, StopIteration, RecursionError):
        return None
    if not isinstance(file, ast.File):
        return None
    file.path = path
    return file
