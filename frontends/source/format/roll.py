"""Blocks of a printed program that are equal but for their parameters, written as one `repeat` again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any, NamedTuple, TypeGuard

from ....ir.naming import unique
from ..syntax import ast
from ..syntax.rename import renamed

# A parameter of a block: what its name has before and behind the block's number.
_NUMBERED = re.compile(r"(.+?)\.(\d+)\.(.+)")


class _Run(NamedTuple):
    """``times`` equal runs of ``length`` statements, the first at ``start``. ``pairs`` maps each name that the first reads or binds
    to what it is in every one of them."""

    start: int
    length: int
    times: int
    pairs: dict[str, list[str]]


def rolled(file: ast.File) -> ast.File:
    """A printed file, with `repeat` where blocks of a model are equal."""
    items = [_model(i) if isinstance(i, ast.Function) and i.kind == "model" else i for i in file.items]
    return replace(file, items=items)


def _model(model: ast.Function) -> ast.Function:
    body = model.body
    for prefix in dict.fromkeys(m[1] for s in body if (m := _numbered(s))):
        body = _fold(body, prefix) or body
    return replace(model, body=body)


def _numbered(s: ast.Stmt) -> re.Match[str] | None:
    return _NUMBERED.fullmatch(s.external or s.name) if isinstance(s, ast.ParamStmt) else None


def _fold(body: list[ast.Stmt], prefix: str) -> list[ast.Stmt] | None:
    """The statements with the blocks of one prefix as a `repeat`; None where they are not equal."""
    params = {
        s.name: (int(m[2]), m[3], s)
        for s in body
        if (m := _numbered(s)) and m[1] == prefix and isinstance(s, ast.ParamStmt)
    }
    count = len({number for number, _, _ in params.values()})
    if count < 2 or any(number >= count for number, _, _ in params.values()):
        return None
    firsts = [_first_use(body, {name for name, row in params.items() if row[0] == k}) for k in range(count)]
    if None in firsts:
        return None
    starts = [at for at in firsts if at is not None]
    length = starts[1] - starts[0]
    if length < 1 or any(b - a != length for a, b in pairwise(starts)):
        return None
    for start in range(starts[0], max(starts[0] - length, -1), -1):
        run = _run(body, start, length, count)
        if run is not None:
            return _written(body, run, prefix, params)
    return None


def _first_use(body: Sequence[ast.Stmt], names: set[str]) -> int | None:
    return next((i for i, s in enumerate(body) if isinstance(s, ast.Assign) and names & set(_read(s.value))), None)


def _read(node: Any) -> Iterator[str]:
    """The names in a tree, in order."""
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _read(item)
    elif isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Node):
        for f in fields(node):
            yield from _read(getattr(node, f.name))


def _run(body: Sequence[ast.Stmt], start: int, length: int, count: int) -> _Run | None:
    """The runs, if all are equal but for names."""
    if start < 0 or start + length * count > len(body):
        return None
    pairs: dict[str, list[str]] = {}
    for k in range(count):
        seen: dict[str, str] = {}
        for a, b in zip(body[start : start + length], body[start + k * length :], strict=False):
            if not isinstance(a, ast.Assign) or not isinstance(b, ast.Assign) or len(a.targets) != len(b.targets):
                return None
            if not _alike(a.value, b.value, seen):
                return None
            for mine, its in zip(a.targets, b.targets, strict=True):
                if seen.setdefault(mine, its) != its:
                    return None
        for mine, its in seen.items():
            pairs.setdefault(mine, []).append(its)
    return _Run(start, length, count, pairs)


def _alike(a: Any, b: Any, seen: dict[str, str]) -> bool:
    """Whether two trees are equal but for names, each of which is always the same other one."""
    if isinstance(a, ast.Name) and isinstance(b, ast.Name):
        return seen.setdefault(a.id, b.id) == b.id
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_alike(x, y, seen) for x, y in zip(a, b, strict=True))
    if not isinstance(a, ast.Node) or type(a) is not type(b):
        return bool(a == b)
    return all(_alike(getattr(a, f.name), getattr(b, f.name), seen) for f in fields(a) if "span" not in f.name)


def _written(
    body: list[ast.Stmt], run: _Run, prefix: str, params: dict[str, tuple[int, str, ast.ParamStmt]]
) -> list[ast.Stmt] | None:
    """The statements with the runs as one `repeat`; None where what a block reads is neither carried nor always the same."""
    first = body[run.start : run.start + run.length]
    bound = [t for s in first if isinstance(s, ast.Assign) for t in s.targets]
    own: list[ast.ParamStmt] = []
    carried: dict[str, str] = {}
    for name, found in run.pairs.items():
        if name in bound or len(set(found)) == 1:
            continue
        if name in params:
            rows = [params.get(n) for n in found]
            if any(row is None or row[:2] != (k, params[name][1]) for k, row in enumerate(rows)):
                return None
            _, rest, statement = params[name]
            own.append(replace(statement, external=None if rest == name else rest))
            continue
        # Otherwise the first block has it from before, each other one from the block before it.
        source = next((t for t in bound if run.pairs[t][:-1] == found[1:]), None)
        if source is None or source in carried.values() or not _free_by(first, name, source):
            return None
        carried[name] = source
    order = [s for s in body if _is_param(s)]
    own.sort(key=lambda s: next(i for i, other in enumerate(order) if other.name == s.name))
    used = {n for name in run.pairs if name in params for n in run.pairs[name]}
    after = body[run.start + run.length * run.times :]
    inner = {n for t in bound for n in run.pairs[t][:-1]} - {run.pairs[t][-1] for t in bound}
    if inner & set(_read(after)) or used != set(params):
        return None
    taken = {n for s in body for n in (*_read(s), *(s.targets if isinstance(s, ast.Assign) else ()))}
    variable = next((v for v in ("i", "j", "k", "step", "block_number") if v not in taken), "") or unique("i", taken, joint="")
    block = [renamed(s, carried) for s in first]
    loop = ast.RepeatStmt(variable, ast.Int(run.times), prefix, [*own, *block])
    starts: list[ast.Stmt] = [ast.Assign([source], ast.Name(name)) for name, source in carried.items()]
    last = {run.pairs[t][-1]: t for t in bound}
    # Parameters keep their order: those that are declared behind the block's stand behind the loop.
    places = [i for i, s in enumerate(body) if isinstance(s, ast.ParamStmt) and s.name in params]
    before = [s for i, s in enumerate(body[: run.start]) if i not in places and (i < places[0] or not _is_param(s))]
    later = [s for i, s in enumerate(body[: run.start]) if i not in places and i > places[0] and _is_param(s)]
    return [*before, *starts, loop, *later, *(renamed(s, last) for s in after)]


def _is_param(s: ast.Stmt) -> TypeGuard[ast.ParamStmt]:
    return isinstance(s, ast.ParamStmt)


def _free_by(first: Sequence[ast.Stmt], name: str, source: str) -> bool:
    """Whether a carried name is read no more where a block binds what the next block has instead."""
    at = next(i for i, s in enumerate(first) if isinstance(s, ast.Assign) and source in s.targets)
    return name not in set(_read(list(first[at + 1 :])))
