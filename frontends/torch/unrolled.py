"""Recurrences that torch.export would unroll step by step, as ops of their own, so that their length stays free. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules import rnn

_OPTIONS = "Tensor[] weights, bool biases, int layers, float dropout, bool train, bool both, bool batch_first"
# How the states are given, and what comes back.
_STATES = {"lstm": ("Tensor[]", 3), "gru": ("Tensor", 2), "rnn_tanh": ("Tensor", 2), "rnn_relu": ("Tensor", 2)}
_LIBRARY = torch.library.Library("tessera", "FRAGMENT")


def _define(name: str) -> None:
    states, results = _STATES[name]
    _LIBRARY.define(f"{name}(Tensor x, {states} start, {_OPTIONS}) -> ({', '.join(['Tensor'] * results)})")
    _LIBRARY.impl(name, getattr(torch._VF, name), "CompositeExplicitAutograd")  # type: ignore[attr-defined]

    @torch.library.register_fake(f"tessera::{name}", lib=_LIBRARY)
    def shapes(x: torch.Tensor, start: Any, weights: Any, biases: bool, layers: int, dropout: float, train: bool, both: bool,
               batch_first: bool) -> tuple[torch.Tensor, ...]:  # fmt: skip
        given: Sequence[torch.Tensor] = start if isinstance(start, (list, tuple)) else (start,)
        y = x.new_empty(*x.shape[:-1], given[0].shape[-1] * (2 if both else 1))
        return y, *(torch.empty_like(state) for state in given)


for _name in _STATES:
    _define(_name)


class _Whole:
    """What the modules call in the place of torch's functions."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.ops.tessera if name in _STATES else torch._VF, name)  # type: ignore[attr-defined]


@contextmanager
def recurrences_whole() -> Iterator[None]:
    """Within it, ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU`` are traced as one op each."""
    before = rnn._VF
    rnn._VF = _Whole()  # type: ignore[assignment]
    try:
        yield
    finally:
        rnn._VF = before
