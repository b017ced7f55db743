"""A real of sizes, exactly: ``0.7 * T``, and what floating-point code makes of sizes: exporters write ``floor(cast(H, f32) * 0.5)``
for ``H // 2``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Union

from .dim import Dim, DimLike, as_dim, ceildiv, const, dim_max, dim_min

if TYPE_CHECKING:
    from fractions import Fraction

Number = Union["Ratio", int, float]


class Unfoldable(Exception):
    """The result is no expression of sizes: it must be computed by the graph."""


class Ratio:
    """``top / bottom``, where ``bottom`` is a positive number, or an integer of sizes."""

    __slots__ = ("bottom", "top")

    def __init__(self, top: DimLike, bottom: DimLike = 1) -> None:
        self.top, self.bottom = as_dim(top), as_dim(bottom)
        if self.bottom == 0:
            raise Unfoldable
        if (number := self.bottom.value) is not None and number < 0:
            self.top, self.bottom = -self.top, -self.bottom
        if self.top.value is None and self.bottom != 1:
            whole = self.top // self.bottom
            if whole * self.bottom == self.top:
                self.top, self.bottom = whole, const(1)

    @staticmethod
    def of(value: Number) -> Ratio:
        """A number as a ratio. Raises Unfoldable for one whose fraction is not short, 1/3 as a float."""
        if isinstance(value, Ratio):
            return value
        if isinstance(value, int):
            return Ratio(value)
        if value != value or value in (float("inf"), float("-inf")):
            raise Unfoldable
        from fractions import Fraction

        fraction = Fraction(value)
        if fraction.denominator > 1 << 16:
            raise Unfoldable
        return Ratio(fraction.numerator, fraction.denominator)

    @staticmethod
    def written(value: Number | Dim) -> Ratio:
        """As :meth:`of`, of a number as it is written: 0.7 is seven tenths. Raises Unfoldable for one that is not finite."""
        if isinstance(value, Ratio):
            return value
        if isinstance(value, (int, Dim)):
            return Ratio(value)
        fraction = exactly(value)
        if fraction is None:
            raise Unfoldable
        return Ratio(fraction.numerator, fraction.denominator)

    @property
    def number(self) -> float | None:
        top, bottom = self.top.value, self.bottom.value
        return None if top is None or bottom is None else top / bottom

    def __add__(self, other: Number) -> Ratio:
        b = Ratio.of(other)
        return Ratio(self.top * b.bottom + b.top * self.bottom, self.bottom * b.bottom)

    def __mul__(self, other: Number) -> Ratio:
        b = Ratio.of(other)
        return Ratio(self.top * b.top, self.bottom * b.bottom)

    def __neg__(self) -> Ratio:
        return Ratio(-self.top, self.bottom)

    def __sub__(self, other: Number) -> Ratio:
        return self + -Ratio.of(other)

    def __truediv__(self, other: Number) -> Ratio:
        b = Ratio.of(other)
        return Ratio(self.top * b.bottom, self.bottom * b.top)

    def __rtruediv__(self, other: Number) -> Ratio:
        return Ratio.of(other) / self

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: Number) -> Ratio:
        return Ratio.of(other) - self

    def floor(self) -> Ratio:
        return Ratio(self.top // self.bottom)

    def ceil(self) -> Ratio:
        return Ratio(ceildiv(self.top, self.bottom))

    def rounded(self) -> Dim:
        """To the nearest integer, and to the even one of two."""
        twice = self.top * 2 + self.bottom
        nearest = twice // (self.bottom * 2)
        # A tie is where this division is exact; it went up, to the odd one if that is odd.
        tie = 1 - dim_min(1, twice % (self.bottom * 2))
        return nearest - tie * (nearest % 2)

    def cut(self) -> Dim:
        """Rounded toward zero, whatever its sign."""
        return dim_max(self.top, 0) // self.bottom - dim_max(-self.top, 0) // self.bottom

    def __str__(self) -> str:
        top, bottom = (f"({d})" if len(d.terms) > 1 else str(d) for d in (self.top, self.bottom))
        return str(self.top) if self.bottom == 1 else f"{top} / {bottom}"

    def whole(self) -> Dim:
        """Rounded toward zero, which is down: sizes are not negative."""
        return self.top // self.bottom


class Exact(float):
    """A static real that keeps the fraction it was computed as, for whoever rounds it: ``0.55 * 100`` is 55."""

    __slots__ = ("fraction",)
    fraction: Fraction

    def __new__(cls, value: float, fraction: Fraction) -> Exact:
        made = super().__new__(cls, value)
        made.fraction = fraction
        return made

    def __getnewargs__(self) -> tuple[float, Fraction]:  # type: ignore[override]
        return float(self), self.fraction


def exactly(value: float) -> Fraction | None:
    """The fraction that a number is as it is written or was computed; None for one that is not finite."""
    from fractions import Fraction  # brings decimal numbers along

    if isinstance(value, Exact):
        return value.fraction
    return Fraction(repr(value)) if math.isfinite(value) else None
