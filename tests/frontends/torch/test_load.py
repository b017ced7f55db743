"""Whole programs: names, sizes, weights, outputs, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tessera.backends.torch import build
from tessera.frontends.source import print_module
from tessera.frontends.torch import load
from tessera.ir.diagnostics import Diagnostic


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 8)
        self.register_buffer("scale", torch.linspace(1, 2, 8))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"hidden": (y := torch.relu(self.first(x))), "result": self.second(y) * self.scale}


def test_names_sizes_and_source() -> None:
    imported = load(Block().eval(), (torch.randn(2, 3, 8),), dynamic_shapes=({0: "batch", 1: "tokens"},))
    graph = imported.module.graph
    assert set(graph.params) == {"first.weight", "first.bias", "second.weight", "second.bias", "scale"}
    assert not graph.params["scale"].trainable
    assert graph.symbols() == ["batch", "tokens"]
    assert [o.name for o in graph.output_info] == ["hidden", "result"]
    text = print_module(imported.module)
    assert "model Block(x: f32[batch, tokens, 8])" in text
    assert "affine(x, first_weight, first_bias)" in text


def test_a_node_knows_its_line_and_its_module() -> None:
    graph = load(Block().eval(), (torch.randn(2, 3, 8),)).module.graph
    nodes = {n.op.name: n for n in graph.nodes()}
    assert nodes["relu"].span.file == __file__
    assert "self.second(y) * self.scale" in Path(__file__).read_text().split("\n")[nodes["mul"].span.line - 1]
    assert [n.scope for n in graph.nodes() if n.op.name == "affine"] == ["first", "second"]


def test_weights_are_views() -> None:
    model = Block().eval()
    imported = load(model, (torch.randn(2, 3, 8),))
    array = imported.weights["first.weight"].numpy()
    with torch.no_grad():
        model.first.weight[0, 0] = 42.0
    assert array[0, 0] == 42.0
    half = load(Block().eval().bfloat16(), torch.randn(2, 3, 8, dtype=torch.bfloat16))
    assert str(half.weights["first.weight"].numpy().dtype) == "bfloat16"


def test_sizes_without_names_get_the_usual_ones() -> None:
    program = torch.export.export(
        nn.Linear(8, 8).eval(),
        (torch.randn(2, 3, 8),),
        dynamic_shapes=({0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO},),
    )
    assert load(program).module.graph.symbols() == ["B", "T"]


def test_bounds_of_sizes_are_required() -> None:
    dim = torch.export.Dim("tokens", min=3, max=9)
    graph = load(nn.Linear(8, 8).eval(), (torch.randn(4, 8),), dynamic_shapes=({0: dim},)).module.graph
    assert [(str(r.left), r.op, int(r.right)) for r in graph.requires] == [("tokens", ">=", 3), ("tokens", "<=", 9)]


def test_tied_weights_are_one_parameter() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 4)
            self.head = nn.Linear(4, 9, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(ids))

    imported = load(Tied().eval(), (torch.zeros(2, 3, dtype=torch.long),))
    assert set(imported.module.graph.params) == {"embed.weight"}
    assert set(imported.weights) == {"embed.weight"}


def test_outputs_are_named() -> None:
    @dataclass
    class Output:
        first: torch.Tensor
        rest: tuple[torch.Tensor, ...]

    torch.export.register_dataclass(Output, serialized_type_name="test_load.Output")

    class Many(nn.Module):
        def forward(self, x: torch.Tensor) -> Output:
            return Output(x + 1, (x + 2, x + 3))

    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor]:
            return x + 1, None, x + 2

    x = torch.randn(3)
    assert [o.name for o in load(Many().eval(), (x,)).module.graph.output_info] == ["first", "rest_0", "rest_1"]
    assert [o.name for o in load(Pair().eval(), (x,)).module.graph.output_info] == ["output_0", "output_2"]


def test_computed_buffers_and_unused_things_vanish() -> None:
    class Positions(nn.Module):
        position_ids: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("position_ids", torch.arange(16)[None], persistent=False)
            self.unused = nn.Linear(3, 3)
            self.embed = nn.Embedding(16, 4)

        def forward(self, x: torch.Tensor, ignored: torch.Tensor) -> torch.Tensor:
            self.unused(ignored)
            return x + self.embed(self.position_ids[:, : x.shape[1]])

    imported = load(
        Positions().eval(),
        (torch.randn(2, 5, 4), torch.randn(2, 3)),
        dynamic_shapes=({1: torch.export.Dim("T", max=16)}, None),
    )
    assert set(imported.module.graph.params) == {"embed.weight"}
    assert "iota(T)" in print_module(imported.module)
    assert imported.notes == ["no output depends on the input `ignored`"]
    np.testing.assert_array_equal(imported.weights["embed.weight"].numpy().shape, (16, 4))


def test_an_import_compiles() -> None:
    """The artifact is compared with the reference, at two sizes, before it is given back."""
    from tessera.driver.compile import compile

    imported = load(Block().eval(), (torch.randn(2, 3, 8),), dynamic_shapes=({0: "B", 1: "T"},))
    artifact = compile(imported.module, weights=imported.weights)
    assert len(artifact.report.verified) == 4
    x = torch.randn(2, 5, 8)
    found = artifact(x=x.numpy())["result"]
    model = Block().eval()
    assert found.shape == tuple(model(x)["result"].shape)


# Refusals ------------------------------------------------------------------------------------------------------------


def test_all_unsupported_operations_are_listed_at_once() -> None:
    class Bad(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = torch.linalg.qr(x)[0]
            b = torch.special.i0(x)
            c = torch.special.i0(x * 2)
            return a + b + c + torch.rand_like(x)

    with pytest.raises(Diagnostic) as error:
        load(Bad().eval(), (torch.randn(4, 4),))
    assert error.value.code == "E0780"
    assert "aten.special_i0.default` (of which `prims.bessel_i0.default` is a part), 2 times" in error.value.message
    assert "aten.linalg_qr.default`, 1 time" in error.value.message
    assert "aten.rand_like.default`, 1 time" in error.value.message
    assert any("torch.linalg.qr(x)[0]" in line for line in error.value.render().splitlines())


def test_a_model_that_cannot_be_exported() -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(Diagnostic) as error:
        load(Branch().eval(), (torch.randn(3),))
    assert error.value.code == "E0781"
    with pytest.raises(Diagnostic, match="E0781"):
        load(Branch().train(), (torch.randn(3),))


def test_inputs_and_outputs_without_counterpart() -> None:
    class Complex(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    with pytest.raises(Diagnostic) as error:
        load(Complex().eval(), (torch.randn(3, dtype=torch.complex64),))
    assert error.value.code == "E0782"

    class Counter(nn.Module):
        count: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count.add_(1)
            return x + self.count

    with pytest.raises(Diagnostic) as error:
        load(Counter().eval(), (torch.randn(3),))
    assert error.value.code == "E0783"
    assert "`count`" in error.value.message


class Spans(nn.Module):
    """A size that becomes a tensor, and a number again: how DeBERTa cuts its table of relative positions."""

    def forward(self, x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        span = torch.tensor(x.shape[1])
        return table[8 - span : 8 + span].clamp(max=(span * 2).item())


def test_a_size_that_was_a_tensor_is_a_size_again() -> None:
    model, tokens = Spans().eval(), torch.export.Dim("tokens", min=2, max=8)
    table = torch.arange(16.0)
    imported = load(model, (torch.randn(2, 3), table), dynamic_shapes=({1: tokens}, None))
    assert str(imported.module.graph.outputs[0].type) == "f32[2 * tokens]"
    for count in (2, 5):
        x = torch.randn(2, count)
        (got,) = build(imported.module)(x, table).values()
        torch.testing.assert_close(got, model(x, table))


def test_a_number_from_the_values_of_a_tensor_is_refused() -> None:
    class Cut(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.sum().item()

    with pytest.raises(Diagnostic, match="depends on what is in a tensor"):
        load(Cut().eval(), (torch.randn(2, 3),))
