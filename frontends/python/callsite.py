"""Where a call into the Python API stands in the user's file, and the names that its result is assigned to.

Diagnostics point at Python lines as they do at source lines, and a graph built in Python prints with the names its author used.
"""

from __future__ import annotations

import dis
import linecache
import sys
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType

from ...ir.diagnostics import Span, register_source

_FOLDER = Path(__file__).resolve().parent
# The files of the API itself: a user's call comes from outside of them.
_HERE = {str(path) for path in (*_FOLDER.glob("*.py"), _FOLDER.parents[1] / "__init__.py")}
_seen: set[str] = set()


def call_site() -> tuple[Span | None, tuple[str, ...]]:
    """The nearest frame outside of the API: its place, and the names that it assigns the result to (none when it does not)."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename in _HERE:
        frame = frame.f_back
    if frame is None:
        return None, ()
    code, at = frame.f_code, frame.f_lasti
    file = code.co_filename
    if file not in _seen:
        _seen.add(file)
        register_source(file, "".join(linecache.getlines(file)))
    return _position(code, at, file), _assignments(code).get(at, ())


def _position(code: CodeType, at: int, file: str) -> Span | None:
    line, end_line, column, end_column = next(islice(code.co_positions(), at // 2, None), (None,) * 4)
    if line is None or end_line is None or column is None or end_column is None:
        return None
    return Span(file, line, column + 1, end_line, end_column + 1)


@lru_cache(maxsize=1024)
def _assignments(code: CodeType) -> dict[int, tuple[str, ...]]:
    """Offset of an instruction -> the names that its result is stored in right away: ``x = …`` or ``a, b = …``."""
    steps = [i for i in dis.get_instructions(code) if i.opname not in ("EXTENDED_ARG", "CACHE")]
    table: dict[int, tuple[str, ...]] = {}
    for at, step in enumerate(steps[:-1]):
        following = steps[at + 1]
        if following.opname == "UNPACK_SEQUENCE":
            count = int(following.arg or 0)
            names = tuple(name for store in steps[at + 2 : at + 2 + count] for name in _stored(store))[:count]
            names = names if len(names) == count else ()
        else:
            names = _stored(following)[:1]
        if names:
            # During a call some versions stand at the last of the instruction's cache entries, behind it.
            table.update((offset, names) for offset in range(step.offset, following.offset, 2))
    return table


def _stored(step: dis.Instruction) -> tuple[str, ...]:
    if step.opname in ("STORE_FAST", "STORE_NAME", "STORE_GLOBAL", "STORE_DEREF"):
        return (str(step.argval),)
    # Python 3.13 fuses neighbours.
    if step.opname == "STORE_FAST_LOAD_FAST":
        return (step.argval[0],)
    return tuple(step.argval) if step.opname == "STORE_FAST_STORE_FAST" else ()
