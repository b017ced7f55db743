"""How tokens come: one by one, with a draft, or with two models and a router. Each way is an engine."""

from __future__ import annotations

from collections.abc import Callable

from ...ir.diagnostics import Diagnostic
from .decoder import Decoder
from .engine import Engine
from .routed import RoutedEngine
from .speculative.engine import SpeculativeEngine
from .speculative.tree import Growth


def engine(
    decoder: Decoder, rows: int, capacity: int | None, text: Callable[[list[int]], str] | None = None, known: int | None = None, *,
    chunk: int | None = None, width: int | None = None, draft: tuple[Decoder, Growth] | None = None,
    threshold: float | None = None,
) -> Engine:  # fmt: skip
    """What computes requests, in the way that is asked for.

    Args:
        decoder: the program.
        rows: how many requests at a time, where the program leaves that open; with a draft it is one.
        capacity, text, known, chunk, width: as for any engine.
        draft: a smaller program that proposes tokens, and how.
        threshold: of a program with a larger model and a router, above which chance that model is asked.

    Raises:
        Diagnostic: E0957 for ways that exclude each other, and what each engine raises.
    """
    if threshold is not None and (draft is not None or width is not None):
        other = "a draft" if draft is not None else "`deterministic_rows`"
        raise Diagnostic("E0957", f"a threshold of a router and {other} exclude each other")
    if draft is not None:
        return SpeculativeEngine(decoder, *draft, capacity, text, known, width, chunk)
    several = decoder.decode.batch.value or rows
    if threshold is not None:
        return RoutedEngine(decoder, threshold, several, capacity, text, known, chunk)
    return Engine(decoder, several, capacity, text, known, width, chunk)
