"""Weights inside an ONNX model: read when they are written, and transposed on the way where that is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ox

from .schema import ONNX_TYPES

if TYPE_CHECKING:
    from ...runtime.weights.bind import LazyTensor

# Bytes held in memory at once while a weight is written.
BLOCK = 32 << 20
# Rows turned at a time: both the rows read and the columns written then stay in the cache (9x faster than one copy).
_STRIPE = 32


class Weight:
    """A parameter's value with its axes in the order ``perm``, or number ``row`` of its rows. Calling it loads the whole;
    :meth:`blocks` streams it.

    ``held`` is shared by the rows of one parameter, which are written one after the other: a value that is computed (stacked from
    several files, converted) is so once, and let go with the last row.
    """

    def __init__(
        self, tensor: LazyTensor, perm: tuple[int, ...] | None = None, row: int | None = None,
        held: list[np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        self.tensor = tensor
        self.perm = perm
        self.row = row
        self.held = [] if held is None else held
        order = range(len(tensor.shape)) if perm is None else perm
        self._whole = tuple(tensor.shape[i] for i in order)
        self.shape = self._whole if row is None else self._whole[1:]
        self.nbytes = prod(self.shape) * tensor.dtype.size

    def __call__(self) -> ox.TensorProtocol:
        return ox.Tensor(np.ascontiguousarray(self._array()), ONNX_TYPES[self.tensor.dtype], shape=ox.Shape(self.shape))

    def _array(self) -> np.ndarray:
        array = self.held.pop() if self.held else self.tensor.numpy()
        if self.row is not None and self.row + 1 < self._whole[0]:
            self.held.append(array)
        turned = array if self.perm is None else array.transpose(self.perm)
        return turned if self.row is None else turned[self.row]

    def onnx(self, name: str | None) -> ox.LazyTensor:
        """The tensor of an initializer; its ``raw`` is this object."""
        return ox.LazyTensor(self, ONNX_TYPES[self.tensor.dtype], ox.Shape(self.shape), name=name)

    def blocks(self) -> Iterator[np.ndarray]:
        """The contents in row-major order, as contiguous ``u8`` arrays of about :data:`BLOCK` bytes."""
        array = self._array()
        if array.ndim == 2 and array.T.flags.c_contiguous:
            yield from _turned(array.T)
            return
        whole = np.ascontiguousarray(array)
        flat = whole.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, BLOCK):
            yield flat[start : start + BLOCK]


def _turned(array: np.ndarray) -> Iterator[np.ndarray]:
    rows, columns = array.shape
    width = max(1, BLOCK // max(1, rows * array.itemsize))
    for left in range(0, columns, width):
        part = array[:, left : left + width]
        out = np.empty((part.shape[1], rows), array.dtype)
        for top in range(0, rows, _STRIPE):
            out[:, top : top + _STRIPE] = part[top : top + _STRIPE].T
        yield out.reshape(-1).view(np.uint8)
