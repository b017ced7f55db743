"""Room for recursion over a syntax tree: the parser bounds how deep one can be, beyond Python's default limit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_FRAMES = 20_000


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Let walks over a tree that the parser accepted recurse to its depth (some 200 blocks of 200 operators).

    Frames of Python functions live on the heap, so a higher limit costs nothing and cannot overflow the C stack.
    """
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _FRAMES))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
