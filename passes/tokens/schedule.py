"""How many tokens leave at each block: a number, a list, linearly changing, a share of those present or left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ...ir.dims.dim import Dim, as_dim, const, dim_max, dim_min, prove_ge

# The fewest tokens that can be matched.
FEWEST = 2


@dataclass(frozen=True)
class Schedule:
    """What each of ``count`` blocks removes.

    Args:
        r: tokens for each block (an entry a block), or a share of those present; None when ``keep`` says.
        keep: the share of the first block's tokens that is left after the last block, removed in equal parts.
        strict: whether an entry that is too large is an error rather than cut.
    """

    count: int
    r: tuple[int, ...] | float | None
    keep: float | None = None
    strict: bool = False

    def left(self, index: int, present: Dim, first: Dim, protect: int) -> Dim:
        """How many of ``present`` tokens block ``index`` leaves; ``first`` is how many there were before any block.

        Of a number that only run time knows at least :data:`FEWEST` are left, since one token has none to be compared with.

        Raises:
            TooMany: when the entry is certainly larger than the tokens allow.
        """
        left = self._left(index, present, first, protect)
        return left if left is present or left.value is not None else _larger(left, const(FEWEST))

    def _left(self, index: int, present: Dim, first: Dim, protect: int) -> Dim:
        cap = (present - protect) // 2
        if self.keep is not None:
            gone = 1 - exact(self.keep)
            wanted = first - (first * (index + 1) * gone.numerator) // (self.count * gone.denominator)
            # Never more than are present: each block before left at least what it wanted, which was more.
            return _larger(wanted, present - cap)
        if isinstance(self.r, float):
            share = exact(self.r)
            return present - _smaller((present * share.numerator) // share.denominator, cap)
        assert self.r is not None
        r = as_dim(self.r[index])
        if self.strict and prove_ge(r, cap + 1):
            raise TooMany(int(r), present, cap)
        return present - _smaller(r, cap)


class TooMany(Exception):
    """An entry of a list removes more than the ``cap`` of ``present`` tokens."""

    def __init__(self, r: int, present: Dim, cap: Dim) -> None:
        super().__init__(f"{r} of {present} tokens, at most {cap}")
        self.r, self.present, self.cap = r, present, cap


def _smaller(a: Dim, b: Dim) -> Dim:
    """``min(a, b)``, decided where sizes of at least 1 decide it."""
    return b if prove_ge(a, b) else a if prove_ge(b, a) else dim_min(a, b)


def _larger(a: Dim, b: Dim) -> Dim:
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
