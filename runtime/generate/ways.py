"""How tokens come: one by one, with a draft, with two models and a router, or in groups. Each way is an engine."""

from __future__ import annotations

from collections.abc import Callable

from ...ir.diagnostics import Diagnostic
from .decoder import Decoder
from .engine import Engine
from .routed import RoutedEngine
from .smashed import SmashedEngine
from .speculative.engine import SpeculativeEngine
from .speculative.tree import Growth


def engine(
    decoder: Decoder, rows: int, capacity: int | None, text: Callable[[list[int]], str] | None = None, known: int | None = None, *,
    chunk: int | None = None, width: int | None = None, draft: tuple[Decoder, Growth] | None = None,
    threshold: float | None = None, confidence: float | None = None,
) -> Engine:  # fmt: skip
    """What computes requests, in the way that is asked for.

    Args:
        decoder: the program.
        rows: how many requests at a time, where the program leaves that open; with a draft it is one.
        capacity, text, known, chunk, width: as for any engine.
        draft: a smaller program that proposes tokens, and how.
        threshold: of a program with a larger model and a router, above which chance that model is asked.
        confidence: of a program that writes groups of tokens, above which chance a group goes on.

    Raises:
        Diagnostic: E0957, E0958 for ways that exclude each other, and what each engine raises.
    """
    ways = {"a draft": draft, "`deterministic_rows`": width, "a threshold of a router": threshold}
    given = [way for way, value in ways.items() if value is not None]
    if confidence is not None and given:
        raise Diagnostic("E0958", f"a confidence of groups and {given[0]} exclude each other")
    if threshold is not None and len(given) > 1:
        raise Diagnostic("E0957", f"a threshold of a router and {given[0]} exclude each other")
    if draft is not None:
        return SpeculativeEngine(decoder, *draft, capacity, text, known, width, chunk)
    several = decoder.decode.batch.value or rows
    if threshold is not None:
        return RoutedEngine(decoder, threshold, several, capacity, text, known, chunk)
    if confidence is not None:
        return SmashedEngine(decoder, confidence, several, capacity, text, known, chunk)
    return Engine(decoder, several, capacity, text, known, width, chunk)
