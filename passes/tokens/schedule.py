"""How many tokens leave at each block: a number, a list, linearly changing, a share of those present or left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from ...ir.dims.dim import Dim, as_dim, const, dim_max, dim_min, prove_ge
from .method import Limits

# Sizes at which a share is told from a number.
_LARGE = 10**9


@dataclass(frozen=True)
class Schedule:
    """What each of ``count`` blocks removes.

    Args:
        limits: how many tokens the method lets go.
        r: tokens for each block (an entry a block), or a share of those present; None when ``keep`` says.
        keep: the share of the first block's tokens that is left after the last block, removed in equal parts as far as the
            limits allow; where a block may not remove as much as its part, the blocks before it remove more. A list has the
            share that is left behind each block.
        stay: instead of both: how many tokens the first block leaves, and the others keep.
        strict: whether an entry that is too large is an error rather than cut.
        among: whether others remove tokens between these blocks.
    """

    count: int
    limits: Limits
    r: tuple[int, ...] | float | None = None
    keep: float | tuple[float, ...] | None = None
    stay: int | None = None
    strict: bool = False
    among: bool = False

    def left(self, index: int, present: Dim, first: Dim) -> Dim:
        """How many of ``present`` tokens block ``index`` leaves; ``first`` is how many there were before any block.

        Of a number that only run time knows at least as many are left as the method needs.

        Raises:
            TooMany: when the entry is certainly larger than the tokens allow.
        """
        left = self._left(index, present, first)
        return left if left is present or left.value is not None else larger(left, const(self.limits.fewest))

    def _left(self, index: int, present: Dim, first: Dim) -> Dim:
        cap = self.limits.cap(present)
        if self.stay is not None and index > 0:
            return present
        if isinstance(self.keep, tuple) and self.shares[index] == (self.shares[index - 1] if index else 1):
            return present
        if self.stay is not None:
            return larger(smaller(as_dim(self.stay), present), present - cap)
        if self.keep is not None:
            wanted = self._wanted(index, first)
            # Never more than are present: each block before left at least what it wanted, which was more.
            return larger(smaller(wanted, present) if self.among else wanted, present - cap)
        if isinstance(self.r, float):
            share = exact(self.r)
            return present - smaller((present * share.numerator) // share.denominator, cap)
        assert self.r is not None
        r = as_dim(self.r[index])
        if self.strict and prove_ge(r, cap + 1):
            raise TooMany(int(r), present, cap)
        return present - smaller(r, cap)

    def _wanted(self, index: int, first: Dim) -> Dim:
        """The tokens that ``keep`` leaves behind one block: as listed, in equal parts, or as the limits force it."""
        assert self.keep is not None
        share = self.shares[index]
        gone = 1 - self.shares[-1]
        if not isinstance(self.keep, tuple) and share == 1 - gone * (index + 1) / self.count:
            return first - (first * (index + 1) * gone.numerator) // (self.count * gone.denominator)
        return first - (first * (1 - share).numerator) // (1 - share).denominator

    @cached_property
    def shares(self) -> list[Fraction]:
        """The share of the first tokens that ``keep`` leaves behind each block.

        Raises:
            Unreachable: when as much as every block may remove is not enough.
        """
        assert self.keep is not None
        cap = self.limits.cap(as_dim(_LARGE)).value
        assert cap is not None
        least = 1 - Fraction(cap, _LARGE).limit_denominator(1000)
        if isinstance(self.keep, tuple):
            return self._listed(self.keep, least)
        keep = exact(self.keep)
        shares = [keep]
        for index in range(self.count - 2, -1, -1):
            equal = 1 - (1 - keep) * (index + 1) / self.count
            shares.append(min(equal, shares[-1] / least) if least else equal)
        if shares[-1] < least:
            raise Unreachable(least**self.count)
        return shares[::-1]

    def _listed(self, keep: tuple[float, ...], least: Fraction) -> list[Fraction]:
        """As given; a short list goes on with its last share."""
        shares = [exact(share) for share in (*keep, *([keep[-1]] * (self.count - len(keep))))]
        for was, now in zip([Fraction(1), *shares], shares, strict=False):
            if now < was * least:
                raise Unreachable(was * least, now)
        return shares


class Unreachable(Exception):
    """``keep`` asks for less than ``least``, what is left when every block removes as much as it may; ``entry`` of a list is
    what one block should leave."""

    def __init__(self, least: Fraction, entry: Fraction | None = None) -> None:
        super().__init__(f"at least {float(least):.3g} of the tokens stay")
        self.least, self.entry = least, entry


class TooMany(Exception):
    """An entry of a list removes more than the ``cap`` of ``present`` tokens."""

    def __init__(self, r: int, present: Dim, cap: Dim) -> None:
        super().__init__(f"{r} of {present} tokens, at most {cap}")
        self.r, self.present, self.cap = r, present, cap


def smaller(a: Dim, b: Dim) -> Dim:
    """``min(a, b)``, decided where sizes of at least 1 decide it."""
    return b if prove_ge(a, b) else a if prove_ge(b, a) else dim_min(a, b)


def larger(a: Dim, b: Dim) -> Dim:
    return a if prove_ge(a, b) else b if prove_ge(b, a) else dim_max(a, b)


def exact(share: float) -> Fraction:
    """The share as it was written: 0.1 is one tenth, so that token counts do not hang on rounding."""
    return Fraction(repr(share))


def linear(count: int, r: int, inflect: float) -> tuple[int, ...]:
    """The published ``parse_r``: from ``r * (1 - inflect)`` in equal steps to ``r * (1 + inflect)``, rounded down.

    ``inflect`` 0 is constant; -1 falls from 2 r to 0, 1 rises from 0 to 2 r.
    """
    least = int(r * (1.0 - inflect))
    most = 2 * r - least
    step = (most - least) / (count - 1) if count > 1 else 0.0
    return tuple(int(least + step * i) for i in range(count))


def padded(values: Sequence[int], count: int) -> tuple[int, ...]:
    """A list with an entry a block: a short one is continued with 0, as published."""
    return (*values, *([0] * (count - len(values))))
