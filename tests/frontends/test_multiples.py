"""Free sizes of which a model takes a part: they stay free, as multiples, in whatever form the model says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.export import Dim as TorchDim

from tessera.backends.torch import build
from tessera.frontends.multiples import multiples
from tessera.frontends.onnx import load as load_onnx
from tessera.frontends.source import loads, print_module
from tessera.frontends.torch import load
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.dims.dim import ceildiv, sym

from .onnx.support import model, node, run_imported

T, H = sym("T"), sym("H")


@given(st.integers(2, 64), st.integers(1, 9), st.integers(1, 4))
def test_a_size_that_is_split_is_a_multiple(n: int, width: int, more: int) -> None:
    assert multiples(width * n * (T // n) - width * T) == {"T": n}
    assert multiples(T % n) == {"T": n}
    assert multiples(ceildiv(T, n) - T // n) == {"T": n}
    assert multiples(more * T * H - more * n * n * (T // n) * (H // n)) == {"T": n, "H": n}


@given(st.integers(2, 64), st.integers(1, 63))
def test_what_no_multiple_makes_equal_is_left_alone(n: int, rest: int) -> None:
    assert multiples(T // n - T) == {}
    assert multiples(T - H) == {}
    assert multiples(T // n * n - T, among=["H"]) == {}
    if rest % n:
        assert multiples((T + rest) % n) == {}


def _windows(x: torch.Tensor, n: int) -> torch.Tensor:
    b, t, d = x.shape
    return x.view(b, t // n, n, d).mean(2)


FORMS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "tokens joined": lambda x, n: x.reshape(x.shape[0], x.shape[1] // n, n * x.shape[2]),
    "windows": _windows,
    "windows and back": lambda x, n: x.view(x.shape[0], x.shape[1] // n, n, -1).flip(2).view(x.shape),
    "every nth joined": lambda x, n: torch.cat([x[:, i::n] for i in range(n)], -1),
    "unflatten": lambda x, n: x.unflatten(1, (-1, n)).sum(2),
    "halves of the rest": lambda x, n: x + x.view(x.shape[0], -1, n, x.shape[2]).sum(2).repeat_interleave(n, 1),
    "unshuffled": lambda x, n: F.pixel_unshuffle(x.transpose(1, 2)[:, :, None].expand(-1, -1, n, -1), n),
    "averages": lambda x, n: F.avg_pool1d(x.mT, n).mT + x[:, ::n],
    "a channel for each": lambda x, n: x.mT.reshape(x.shape[0], -1, n).softmax(-1),
    "heads of tokens": lambda x, n: x.view(x.shape[0], x.shape[1] // n, n, 4, -1).transpose(2, 3).flatten(2),
}


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("form", FORMS)
def test_a_free_size_stays_free(form: str, n: int) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return FORMS[form](x, n)

    imported = load(Model().eval(), (torch.randn(2, 4 * n, 8),), dynamic_shapes=({0: "B", 1: TorchDim.AUTO},))
    assert all(d.value is None for d in imported.module.graph.inputs[0].type.shape[:2])
    again = loads(print_module(imported.module))
    assert imported.module.difference(again) is None
    for size in (2 * n, 7 * n):
        x = torch.randn(3, size, 8)
        (found,) = build(again, imported.weights)(x).values()
        torch.testing.assert_close(found, FORMS[form](x, n))


@pytest.mark.parametrize("padding", [lambda T: (8 - T % 8) % 8, lambda T: -T % 8])
def test_what_pads_to_a_multiple_takes_every_size(padding: Callable[[int], int]) -> None:
    """Mamba's and LongT5's chunks."""

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.pad(x, (0, 0, 0, padding(x.shape[1])))
            return y.reshape(x.shape[0], -1, 8, x.shape[2]).cumsum(2).flatten(1, 2)[:, : x.shape[1]]

    imported = load(Model().eval(), (torch.randn(2, 30, 4),), dynamic_shapes=({1: "T"},))
    for size in (3, 8, 21):
        x = torch.randn(2, size, 4)
        (found,) = build(imported.module, imported.weights)(x).values()
        torch.testing.assert_close(found, Model()(x))


# Decisions by the sizes T and S of two inputs, of each of which torch.export takes the branch of its example.
DECISIONS: dict[str, Callable[[int, int], bool]] = {
    "odd": lambda T, S: T % 2 == 1,
    "no multiple": lambda T, S: T % 4 != 0,
    "leaves 2": lambda T, S: T % 3 == 2,
    "together": lambda T, S: (T + S) % 3 == 1,
    "order": lambda T, S: T > S,
    "half": lambda T, S: T // 2 > 3,
    "area": lambda T, S: T * S > 20,
    "twice": lambda T, S: 2 * T <= S + 3,
}


@pytest.mark.extended
@pytest.mark.parametrize("example", [(7, 5), (8, 9), (3, 6)])
@pytest.mark.parametrize("decision", DECISIONS)
def test_what_a_model_decides_by_its_sizes_is_kept(decision: str, example: tuple[int, int]) -> None:
    """A program does at every size what the model does there, or does not take it; what it was exported with it takes."""
    sizes = (*product((3, 4, 5, 6, 8, 9, 12), repeat=2), example)
    assert example in decided(DECISIONS[decision], example, sizes)


def test_a_size_of_which_the_rest_decides_has_a_form() -> None:
    taken = decided(DECISIONS["leaves 2"], (8, 5), [(T, 4) for T in range(2, 9)])
    assert taken == {(2, 4), (5, 4), (8, 4)}


def decided(decide: Callable[[int, int], bool], example: tuple[int, int], sizes: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
    """The sizes that a model which decides by them takes, when it was exported at those of the example."""

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (x * 2 if decide(x.shape[1], y.shape[1]) else x - 1).sum(1) + y.sum(1)

    given = tuple(torch.randn(2, size, 4) for size in example)
    imported = load(Model().eval(), given, dynamic_shapes=({1: "T"}, {1: "S"}))
    assert imported.module.difference(loads(print_module(imported.module))) is None
    run, taken = build(imported.module, imported.weights), set()
    for T, S in sizes:
        x, y = torch.randn(2, T, 4), torch.randn(2, S, 4)
        try:
            (found,) = run(x, y).values()
        except Diagnostic:
            continue
        torch.testing.assert_close(found, Model()(x, y))
        taken.add((T, S))
    return taken


def test_slices_from_the_end() -> None:
    """Falcon-H1's `-T:T`, and the last frame cut off (wav2vec2)."""
    weight = torch.randn(4, 1, 16)

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            frames = F.conv1d(x[:, None], weight, stride=16)
            return x[:, -x.shape[1] :] + x, F.pad(frames, (0, 1))[:, :, :-1] + frames

    imported = load(Model().eval(), (torch.randn(2, 320),), dynamic_shapes=({1: "T"},))
    x = torch.randn(2, 99)
    for found, wanted in zip(build(imported.module, imported.weights)(x).values(), Model()(x), strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_size_that_torch_fixes_is_told() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.ones(6, 1)

    imported = load(Model().eval(), (torch.randn(2, 6, 4),), dynamic_shapes=({0: TorchDim.AUTO, 1: TorchDim.AUTO},))
    assert "axis 1 of `x` was to be free, but torch.export fixed it: 6" in imported.notes


def test_a_size_that_a_loop_fixes_is_refused_with_what_leads_on() -> None:
    """Mamba's steps, one after the other."""

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x[:, i] * (i + 1) for i in range(x.shape[1])], 1)

    with pytest.raises(Diagnostic, match=r"axis 1 of `x` was to be free, but torch\.export fixed it: 6") as error:
        load(Model().eval(), (torch.randn(2, 6, 4),), dynamic_shapes=({0: "B", 1: "T"},))
    assert error.value.code == "E0781"
    assert "leave these axes out of `dynamic_shapes`" in (error.value.help or "")
    load(Model().eval(), (torch.randn(2, 6, 4),), dynamic_shapes=({0: "B"},))


def _joined(n: int) -> onnx.ModelProto:
    constants = {"n": np.int64(n), "head": np.array([0], "i8"), "tail": np.array([8 * n], "i8"), "one": np.array([1], "i8")}
    nodes = [
        node("Shape", "x", "shape"), node("Gather", "shape one", "t"), node("Div", "t n", "part"),
        node("Concat", "head part tail", "wanted", axis=0), node("Reshape", "x wanted", "y"),
    ]  # fmt: skip
    return model(nodes, {"x": ("f32", ["B", "T", 8])}, ["y"], constants)


@pytest.mark.parametrize("n", [2, 5])
def test_a_file_keeps_its_free_size(n: int, tmp_path: Path) -> None:
    """The same in an ONNX file, whose tokens are joined."""
    onnx.save(_joined(n), tmp_path / "m.onnx")
    imported = load_onnx(tmp_path / "m.onnx")
    assert any(f"`T` is {n} * T_{n}" in note for note in imported.notes)
    x = np.random.default_rng(0).standard_normal((2, 3 * n, 8)).astype("f4")
    (found,) = run_imported(imported, [x])
    np.testing.assert_array_equal(found, x.reshape(2, 3, 8 * n))


def test_a_size_that_is_no_multiple_is_refused() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.view(x.shape[0] // 2, 2, 4)

    imported = load(Model().eval(), (torch.randn(6, 4),), dynamic_shapes=({0: TorchDim.AUTO},))
    with pytest.raises(Diagnostic, match="must be 2"):
        build(imported.module, imported.weights)(torch.randn(5, 4))
