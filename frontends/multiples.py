"""Free sizes of which a model takes a half or a quarter: what must be a multiple of what, so that the sizes of the model agree.

>>> T = sym("T")
>>> multiples(24 * T - 48 * (T // 2))
{'T': 2}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import lcm

from ..ir.dims.dim import Dim, DimLike, as_dim, sym
from ..ir.dims.monomials import DimCall

# Nobody divides a size by more; a number like this is no divisor but a size itself.
_LARGEST = 1 << 16


def multiples(difference: Dim, among: Iterable[str] | None = None) -> dict[str, int]:
    """Numbers that divide symbols, such that ``difference`` is 0 for all multiples; empty when there are none.

    Args:
        difference: of two sizes that must be equal, or a remainder that must be 0.
        among: the symbols that may be taken for multiples; all of them by default.
    """
    if difference.value is not None or difference.weight > 400:
        return {}
    divisors: dict[str, int] = {}
    for dividend, n in _divisions(difference):
        for symbol in dividend.symbols if among is None else dividend.symbols & set(among):
            divisors[symbol] = lcm(divisors.get(symbol, 1), n)
    divisors = {symbol: n for symbol, n in divisors.items() if 1 < n <= _LARGEST}
    choices = [{symbol: n} for symbol, n in sorted(divisors.items())]
    if len(divisors) > 1:
        choices.append(divisors)
    return next((chosen for chosen in choices if _with(difference, chosen) == 0), {})


def remainder(dividend: Dim, divisor: DimLike) -> Dim:
    """By a known number as what the quotient leaves, so that what is padded to a multiple is seen to be one.

    >>> T = sym("T")
    >>> str(T + remainder(4 - remainder(T, 4), 4))
    '4 * ((T + 3) // 4)'
    """
    n = as_dim(divisor).value
    if n is None or n <= 0 or dividend.value is not None:
        return dividend % divisor
    # The nearest multiples are left out first: what 3 * T leaves by 4 is what -T leaves.
    rest = Dim((m, c - n * ((2 * abs(c) + n - 1) // (2 * n)) * (1 if c > 0 else -1)) for m, c in dividend.terms)
    return rest - rest // n * n


def _with(dim: Dim, divisors: dict[str, int]) -> Dim:
    """The dimension for multiples: each symbol stands for how many times its divisor goes into the size."""
    return dim.subs({symbol: sym(symbol) * n for symbol, n in divisors.items()})


def _divisions(dim: Dim) -> Iterator[tuple[Dim, int]]:
    """What is divided by a known number anywhere in a dimension."""
    for monomial, _ in dim.terms:
        for atom, _ in monomial:
            if isinstance(atom, DimCall):
                n = atom.args[1].value if atom.fn in ("floordiv", "mod") else None
                if n is not None and n > 1:
                    yield atom.args[0], n
                for argument in atom.args:
                    yield from _divisions(argument)
