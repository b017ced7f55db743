"""``nn.RNN``, ``nn.LSTM`` and ``nn.GRU`` of a free length and a free batch against PyTorch."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from tessera.frontends.torch import load
from tessera.ir.diagnostics import Diagnostic

from .agreeing import agree

KINDS = {"rnn": (nn.RNN, {}), "relu": (nn.RNN, {"nonlinearity": "relu"}), "lstm": (nn.LSTM, {}), "gru": (nn.GRU, {})}
FORMS = [
    pytest.param(kind, layers, both, first, bias, marks=() if layers == 2 and bias and first != both else pytest.mark.extended)
    for kind, layers, both, first, bias in product(KINDS, (1, 2), (False, True), (False, True), (False, True))
]


def tokens(first: bool) -> Any:
    return lambda size: (torch.randn(3 if first else size, size if first else 3, 5),)


@pytest.mark.parametrize(("kind", "layers", "both", "first", "bias"), FORMS)
def test_layers_and_directions(kind: str, layers: int, both: bool, first: bool, bias: bool) -> None:
    torch.manual_seed(0)
    made, options = KINDS[kind]
    model = made(5, 6, num_layers=layers, bidirectional=both, batch_first=first, bias=bias, **options)
    agree(model, tokens(first), ({0: "B", 1: "T"} if first else {0: "T", 1: "B"},))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_state_that_is_given(kind: str) -> None:
    """Streaming: a state goes in, and comes out."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = KINDS[kind][0](5, 6, num_layers=2, batch_first=True)

        def forward(self, x: torch.Tensor, *state: torch.Tensor) -> Any:
            return self.rows(x, state if kind == "lstm" else state[0])

    count = 2 if kind == "lstm" else 1
    torch.manual_seed(0)
    shapes: Any = ({1: "T"}, tuple({} for _ in range(count)))
    agree(Model(), lambda size: (torch.randn(3, size, 5), *(torch.randn(2, 3, 6) for _ in range(count))), shapes)


def test_projected_states_are_refused_by_name() -> None:
    with pytest.raises(Diagnostic, match="projected") as error:
        load(nn.LSTM(5, 6, proj_size=3, batch_first=True).eval(), torch.randn(2, 4, 5), dynamic_shapes=({1: "T"},))
    assert error.value.code == "E0780"
