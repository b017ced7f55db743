"""Solving for one symbol: what a caller must have meant by `2 * D` where 16 stands."""

from __future__ import annotations

from .dim import Dim, sym


def solve(value: Dim, symbol: str, found: Dim) -> Dim | None:
    """``x`` with ``value(x) == found``, where ``value`` is ``a * x + b`` with a constant ``a`` that divides; else None."""
    coefficient = next((c for m, c in value.terms if m == ((symbol, 1),)), 0)
    rest = value - sym(symbol) * coefficient
    if not coefficient or symbol in rest.symbols:
        return None
    numerator = found - rest
    return numerator // coefficient if all(c % coefficient == 0 for _, c in numerator.terms) else None
