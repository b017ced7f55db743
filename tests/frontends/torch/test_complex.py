"""Complex numbers and Fourier transforms, imported as pairs of real tensors, against PyTorch on both backends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import pytest
import torch

from tessera.frontends.torch import load
from tessera.ir.diagnostics import Diagnostic

from .agreeing import agree


def chosen(rows: Iterable[Any], *quick: Any) -> list[Any]:
    """Rows of a table: those that are always run, and the others among the extended tests."""
    marked = ((row, row if isinstance(row, tuple) else (row,)) for row in rows)
    return [pytest.param(*values, marks=() if row in quick else pytest.mark.extended) for row, values in marked]


def pairs(*rest: int) -> Callable[[int], tuple[torch.Tensor, ...]]:
    """Two tensors [size, …, 2] of real and imaginary parts."""

    def make(size: int) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(size)
        return tuple(torch.randn(size, *rest, 2, generator=generator) for _ in range(2))

    return make


def on_complex(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of complex tensors as one of their parts."""

    def call(*tensors: torch.Tensor) -> Any:
        results = function(*(torch.view_as_complex(t) for t in tensors))
        rows = results if isinstance(results, tuple) else (results,)
        return tuple(torch.view_as_real(y) if y.is_complex() else y for y in rows)

    return call


ARITHMETIC: dict[str, Callable[..., Any]] = {
    "sums": lambda a, b: (a + b, a - b, a + 1.5, 2 - a, a - 1j, torch.add(a, b, alpha=2), a + b.real, -a),
    "products": lambda a, b: (a * b, a * 2, a * b.real, b.imag * a, a * (1 - 2j), a**3, a.square()),
    "quotients": lambda a, b: (a / b, a / 2, a / (1 + b.real.abs()), 1 / b, a / (1 + 2j), b.reciprocal()),
    "parts": lambda a, b: (a.real, a.imag, a.abs(), a.angle(), a.conj() * b, torch.conj_physical(a), (a * a.conj()).real),
    "functions": lambda a, b: (a.exp(), a.log(), torch.polar(a.abs(), b.angle()), torch.complex(a.real, b.imag)),
    "moves": lambda a, b: (
        a.unsqueeze(1), a.mT, a.transpose(0, 1), a.flatten(), a[:, 1:], a[:, 0], torch.cat([a, b], 1), torch.stack([a, b]),
        a.flip(1), a.roll(1, 1), torch.cat([a, b.real], 1), a.chunk(2, 1)[1], a[:, [0, 2]], a.expand(3, *a.shape),
        a.reshape(-1, 2), a.unbind(1)[1], a.repeat(1, 2), a.repeat_interleave(2, 1),
    ),
    "sums along axes": lambda a, b: (a.sum(1), a.mean(1), a.sum(), a.cumsum(1)),
    "products of matrices": lambda a, b: (a @ b.mT, torch.einsum("n d, m d -> n m", a, b), torch.einsum("n d -> d", a)),
    "choices": lambda a, b: (
        torch.where(a.real > 0, a, b), torch.where(a.real > 0, a, 0.0), a == b, a != a, a.masked_fill(a.imag > 0, 2.0),
    ),
    "conversions": lambda a, b: (
        a.real.to(torch.complex64) * b, a.to(torch.complex128), torch.ones_like(a) + a, torch.zeros_like(b) + b,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", chosen(ARITHMETIC, "products"))
def test_arithmetic(name: str) -> None:
    agree(on_complex(ARITHMETIC[name]), pairs(4), ({0: "N"}, {0: "N"}))


NORMS = ["backward", "ortho", "forward"]
REAL: dict[str, Callable[..., Any]] = {
    "rfft": lambda x, norm: torch.fft.rfft(x, norm=norm),
    "rfft of another length": lambda x, norm: torch.fft.rfft(x, n=9, dim=1, norm=norm),
    "rfft cut": lambda x, norm: torch.fft.rfft(x, n=3, dim=2, norm=norm),
    "fft": lambda x, norm: torch.fft.fft(x, dim=1, norm=norm),
    "rfft2": lambda x, norm: torch.fft.rfft2(x, norm=norm),
    "fftn": lambda x, norm: torch.fft.fftn(x, dim=(1, 2), norm=norm),
    "ihfft": lambda x, norm: torch.fft.ihfft(x, norm=norm),
    "hfft": lambda x, norm: torch.fft.hfft(x, norm=norm),
    "irfft": lambda x, norm: torch.fft.irfft(torch.fft.rfft(x, norm=norm), n=x.shape[-1], norm=norm),
    "irfft2": lambda x, norm: torch.fft.irfft2(torch.fft.rfft2(x, norm=norm), s=x.shape[-2:], norm=norm),
    "ifft": lambda x, norm: torch.fft.ifft(torch.fft.fft(x, norm=norm), norm=norm),
    "shifted": lambda x, norm: torch.fft.fftshift(torch.fft.fft(x, norm=norm)),
}


@pytest.mark.parametrize(("name", "norm"), chosen(product(REAL, NORMS), ("rfft", "ortho"), ("fftn", "backward")))
def test_transforms(name: str, norm: str) -> None:
    def call(x: torch.Tensor) -> torch.Tensor:
        y = REAL[name](x, norm)
        return torch.view_as_real(y.resolve_conj()) if y.is_complex() else y

    agree(call, lambda size: (torch.randn(2, size, 6),), ({1: "T"},))


@pytest.mark.parametrize("name", chosen(["rfft", "fft", "irfft", "ifft", "hfft"], "irfft"))
def test_transforms_over_a_free_length(name: str) -> None:
    def call(x: torch.Tensor) -> torch.Tensor:
        y = REAL[name](x, "ortho")
        return torch.view_as_real(y.resolve_conj()) if y.is_complex() else y

    agree(call, lambda size: (torch.randn(2, 5, size),), ({2: "T"},), sizes=(6, 8, 9))


@pytest.mark.parametrize(
    ("length", "step", "width", "normalized", "center"),
    chosen(
        ((*frame, *how) for frame, how in product([(16, 4, 16), (16, 5, 12), (18, 5, 18)], product([True, False], repeat=2))),
        (16, 5, 12, False, True),
    ),
)
def test_frames_there_and_back(length: int, step: int, width: int, normalized: bool, center: bool) -> None:
    window = torch.hann_window(width) + 0.1

    def call(x: torch.Tensor) -> Any:
        options: Any = {"n_fft": length, "hop_length": step, "win_length": width, "window": window}
        options |= {"normalized": normalized, "center": center}
        z = torch.stft(x, return_complex=True, **options)
        back = torch.istft(z, **options) if width == length or center else z.abs()
        return torch.view_as_real(z), z.abs(), back

    agree(call, lambda size: (torch.randn(2, 60 + size),), ({1: "L"},), rtol=1e-3)


class Rotated(torch.nn.Module):
    """Rotary positions by complex numbers, as Llama 4 and DeepSeek have them."""

    def __init__(self, kept: bool) -> None:
        super().__init__()
        self.kept = kept
        angle = torch.outer(torch.arange(32.0), 10000 ** (-torch.arange(0, 8, 2) / 8))
        self.register_buffer("turns", torch.polar(torch.ones_like(angle), angle), persistent=False)
        self.register_buffer("speed", 10000 ** (-torch.arange(0, 8, 2) / 8), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kept:
            turns = self.turns[: x.shape[1]]  # type: ignore[index]
        else:
            angle = torch.outer(torch.arange(x.shape[1]).float(), self.speed)
            turns = torch.polar(torch.ones_like(angle), angle)
        z = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2)) * turns[None, :, None, :]
        return torch.view_as_real(z).flatten(3).type_as(x)


@pytest.mark.parametrize("kept", [True, False])
def test_rotary_positions_by_complex_numbers(kept: bool) -> None:
    imported = agree(Rotated(kept), lambda size: (torch.randn(2, size, 3, 8),), ({0: "B", 1: "T"},))
    assert set(imported.weights) == ({"turns.real", "turns.imag"} if kept else {"speed"})


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.view_as_complex(x), "the output `output` is complex"),
        (lambda x: torch.view_as_complex(x).sqrt().real, "complex numbers"),
        (lambda x: (torch.view_as_complex(x) ** 0.5).real, "to the power 0.5"),
    ],
)
def test_what_is_not_covered_is_refused_by_name(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(Diagnostic, match=message):
        agree(function, lambda size: (torch.randn(size, 2),))


def test_a_complex_input_is_refused_by_name() -> None:
    with pytest.raises(Diagnostic, match="complex64") as error:
        load(torch.nn.Identity().eval(), torch.randn(3, dtype=torch.complex64))
    assert error.value.code == "E0782"
