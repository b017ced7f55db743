"""Launches of kernels whose text is generated: groups of elementwise ops and reductions of rows, in one pass over memory."""

from __future__ import annotations

import linecache
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import numbers
from .frame import ROW, SHORT, WHOLE, WIDEST, Joined, Spec, canonical, spans
from .launch import attempt, ceildiv, check, launch

# Elements of a tile, where a row is not longer.
TILE = 1024
# Sizes and strides are integers of 32 bits up to here.
_FAR = 1 << 31
# So many shapes are remembered.
_MOST_PLANS = 256
_Plan = tuple[tuple[int, int], list[int], dict[str, Any]]


class Generated:
    """A group that can be called."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._plans: dict[Any, _Plan] = {}

    def __call__(
        self,
        definition: Callable[..., tuple[Tensor, ...]],
        tensors: tuple[Tensor, ...],
        sizes: tuple[int, ...],
        numbers: tuple[int, ...] = (),
    ) -> Any:
        """The group's result, or a tuple of several.

        Args:
            definition: what the group stands for, in PyTorch: it is run for gradients, under ``torch.compile`` (which fuses it by
                itself), for rows that are too wide, for no elements, and where a launch failed.
            sizes: of the frame.
            numbers: sizes that the kernel computes with.
        """
        defined = partial(definition, *tensors)
        if self._left(tensors, sizes):
            made = defined()
        else:
            made = attempt(self.spec.name, self.spec.text, partial(self._launched, tensors, sizes, numbers), defined)
        return made[0] if len(made) == 1 else made

    def _left(self, tensors: Sequence[Tensor], sizes: Sequence[int]) -> bool:
        """Whether it is left to PyTorch."""
        return (
            torch.compiler.is_compiling()
            or 0 in sizes
            or (self.spec.reduces and sizes[-1] > WIDEST)
            or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
        )

    def _launched(self, tensors: Sequence[Tensor], sizes: tuple[int, ...], numbers: tuple[int, ...]) -> tuple[Tensor, ...]:
        check(self.spec.name, *tensors)
        stored: dict[int, Tensor] = {}
        made = tuple(self._result(result, stored, tensors, sizes) for result in self.spec.results)
        every = [*(tensors[operand.index] for operand in self.spec.operands), *(stored[i] for i in range(len(stored)))]
        key = (sizes, *(x.stride() for x in every))
        if key not in self._plans:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            self._plans[key] = self._plan(every, sizes)
        grid, frame, tile = self._plans[key]
        # There are no pointers of truths.
        pointers = [x.view(torch.int8) if x.dtype == torch.bool else x for x in every]
        options = {"num_warps": _warps(tile["BM"] * tile["BN"]), "enable_fp_fusion": False}
        launch(kernel_of(self.spec.name, self.spec.text), grid, *pointers, *frame, *numbers, options=options, **tile)
        return made

    def _result(
        self, result: int | Joined, stored: dict[int, Tensor], tensors: Sequence[Tensor], sizes: tuple[int, ...]
    ) -> Tensor:
        """Memory for a result; where the kernel writes is filed in ``stored``."""
        device = tensors[0].device
        if not isinstance(result, Joined):
            made = self.spec.stores[result]
            shape = {WHOLE: sizes, ROW: (*sizes[:-1], 1), SHORT: sizes[:-1]}[made.level]
            stored[result] = torch.empty(shape, dtype=getattr(torch, made.dtype), device=device)
            return stored[result]
        axis, stacked = result.axis, result.stacked
        widths = [1 if stacked else sizes[axis] if at >= 0 else tensors[-1 - at].shape[axis] for at in result.parts]
        shape = (*sizes[:axis], sum(widths), *sizes[axis + (not stacked) :])
        whole = torch.empty(shape, dtype=getattr(torch, result.dtype), device=device)
        begin = 0
        for at, width in zip(result.parts, widths, strict=True):
            view = whole.select(axis, begin) if stacked else whole.narrow(axis, begin, width)
            begin += width
            if at < 0:
                view.copy_(tensors[-1 - at])
            else:
                stored[at] = view
        return whole

    def _plan(self, every: Sequence[Tensor], sizes: tuple[int, ...]) -> _Plan:
        """The grid, the sizes and strides that the kernel is given, and its tile."""
        spec = self.spec
        places = [operand.places for operand in spec.operands]
        places += [canonical(made.level, spec.rank) for made in spec.stores]
        within = [_within(x.stride(), where, spec.rank) for x, where in zip(every, places, strict=True)]
        far = any(sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) >= _FAR for strides in within)
        frame = list(zip(sizes, *within, strict=True))
        if not spec.indexed:
            kept = [frame.pop()] if spec.columns else []
            frame = [*_joined(frame), *kept] or [(1, *[0] * len(within))]
        *leads, last = frame
        leads += [(1, *[0] * len(within))] * (spec.rank - 1 - len(leads))
        rows = 1
        for lead in leads:
            rows *= lead[0]
        strides = []
        for i, where in enumerate(places):
            along, across = spans(where, spec.rank, spec.columns)
            strides += [axis[1 + i] for axis in (*(leads if along else ()), *([last] if across else ()))]
        width = triton.next_power_of_2(last[0])
        width = width if spec.reduces else min(width, TILE)
        tile = {"WIDE": far, "BM": min(triton.next_power_of_2(rows), max(1, TILE // width)), "BN": width}
        grid = (ceildiv(rows, tile["BM"]), ceildiv(last[0], width))
        return grid, [rows, last[0], *(lead[0] for lead in leads[1:]), *strides], tile


def _within(strides: Sequence[int], places: Sequence[int | None], rank: int) -> list[int]:
    """Strides along the axes of the frame; 0 where a tensor is broadcast."""
    found = [0] * rank
    for stride, place in zip(strides, places, strict=True):
        if place is not None:
            found[place] = stride
    return found


def _joined(frame: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Axes (size, strides…) without those of size 1; what follows one another in memory in all tensors is one axis."""
    found: list[tuple[int, ...]] = []
    for size, *strides in frame:
        if size == 1:
            continue
        if found and found[-1][0] * size < _FAR and all(a == b * size for a, b in zip(found[-1][1:], strides, strict=True)):
            size *= found.pop()[0]
        found.append((size, *strides))
    return found


def _warps(elements: int) -> int:
    return 4 if elements <= 2048 else 8 if elements <= 8192 else 16


@cache
def kernel_of(name: str, text: str) -> Any:
    """The kernel of a text, which tracebacks and Triton can read."""
    file = f"<tessera kernel {name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    called = ("rounded", "tanh", "nearest", "floor_div", "floor_mod", "highest", "log_sum_exp")
    namespace = dict(triton=triton, tl=tl, __name__=__name__, **{n: getattr(numbers, n) for n in called})
    exec(compile(text, file, "exec"), namespace)
    kernel = namespace[name]
    kernel.text = text
    return kernel
