"""Whose ids a tensor of integers holds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Ids from 0 to ``size``, less one. ``name`` is the tokenizer's that makes them, where one was named."""

    size: int
    name: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"of `{self.name}` ({self.size} tokens)" if self.name else f"of a vocabulary of {self.size} tokens"
