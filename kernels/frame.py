"""What is known of a generated kernel besides its text. It needs no torch: programs are written where none is installed.

A group works on a frame of sizes [..., D], rows of D columns. What it reads is of the frame's size or broadcast to it: each axis of
an operand lies along one of the frame. What it makes has the frame's size, or one element a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Along which axis of the frame each axis of a tensor lies; None for one of size 1.
Places = tuple[int | None, ...]
# What a result has of a frame [..., D]: all of it, [..., 1], or [...].
WHOLE, ROW, SHORT = range(3)
# The widest row that a program reduces in its registers: wider ones are PyTorch's.
WIDEST = 16384


@dataclass(frozen=True)
class Operand:
    """What a group reads: the number of the tensor, and where it lies in the frame."""

    index: int
    places: Places


@dataclass(frozen=True)
class Made:
    """What a group stores: its dtype, as torch calls it, and what it has of the frame."""

    dtype: str
    level: int


@dataclass(frozen=True)
class Joined:
    """A result that is made of parts along an axis.

    Args:
        parts: what is stored by its number from 0 on; tensors that are given by -1 and below, -1 the first.
        stacked: the axis is a new one, and each part one element of it.
    """

    dtype: str
    axis: int
    parts: tuple[int, ...]
    stacked: bool


@dataclass(frozen=True)
class Spec:
    """A group as a kernel.

    Args:
        name: of the kernel's function.
        text: its source. Its parameters are the pointers of operands and stores, R and D, the sizes of the frame's leading axes but
            the first, the strides of operands and stores, numbers, and the constants WIDE, BM and BN.
        rank: how many axes the frame has.
        results: what it gives: numbers of stores, or what is joined.
        reduces: whether it goes over whole rows.
        columns: whether the last axis stays by itself: something has one element a row.
        indexed: whether it asks where in the frame an element is.
    """

    name: str
    text: str
    rank: int
    operands: tuple[Operand, ...]
    stores: tuple[Made, ...]
    results: tuple[int | Joined, ...]
    reduces: bool
    columns: bool
    indexed: bool


def canonical(level: int, rank: int) -> Places:
    """Where in its frame a result lies."""
    ends: dict[int, Places] = {WHOLE: (rank - 1,), ROW: (None,), SHORT: ()}
    return (*range(rank - 1), *ends[level])


def spans(places: Sequence[int | None], rank: int, columns: bool) -> tuple[bool, bool]:
    """Whether what lies so is given strides of the frame's leading axes, and of the last one.

    Where the last axis does not stay by itself, what lies along some axis is given all.
    """
    leads, last = any(p is not None and p < rank - 1 for p in places), rank - 1 in places
    return (leads, last) if columns else (leads or last, leads or last)
