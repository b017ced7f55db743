"""What a ``compile`` block asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .diagnostics import Span


@dataclass(frozen=True)
class PassSpec:
    """``merge_tokens(r=8)``: a pass by name, with the values of its options. ``places``: where each of these stands."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    span: Span | None = field(default=None, compare=False)
    places: dict[str, Span] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class CompileSpec:
    """A ``compile`` block: weights file and renames (name in the file -> name in the model), passes, target and its options."""

    weights: str | None = None
    renames: tuple[tuple[str, str], ...] = ()
    passes: tuple[PassSpec, ...] = ()
    target: str | None = None
    target_options: dict[str, Any] = field(default_factory=dict)
    span: Span | None = field(default=None, compare=False)
