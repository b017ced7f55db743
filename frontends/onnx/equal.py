"""Sizes that a file leaves free and that must be equal: which symbol stands for which."""

from __future__ import annotations

from collections.abc import Mapping

from ...ir.dims.dim import Dim, const, prove_ge, sym
from ...ir.dims.monomials import DimCall
from ..multiples import multiples

# The largest size tried for images whose sides the file leaves free.
_LARGEST_SIDE = 1024


class Unify(Exception):
    """Raised while importing: with ``values`` put for symbols, or for the extrema of sizes, the import starts again."""

    def __init__(self, values: dict[str, Dim] | dict[DimCall, Dim], reason: str) -> None:
        super().__init__(reason)
        self.values = values
        self.reason = reason


def solve(a: Dim, b: Dim, order: Mapping[str, int]) -> dict[str, Dim] | None:
    """Values for symbols that make ``a`` and ``b`` equal, or None. ``order``: the symbols that may be replaced, by rank;
    the last of them is."""
    difference = a - b
    for symbol in sorted(difference.symbols & order.keys(), key=lambda s: -order[s]):
        coefficient = next((c for m, c in difference.terms if m == ((symbol, 1),)), 0)
        rest = difference - sym(symbol) * coefficient
        if not coefficient or symbol in rest.symbols or any(c % coefficient for _, c in rest.terms):
            continue
        value = -rest // coefficient
        if not prove_ge(0, value):
            return {symbol: value}
    divided = multiples(difference, order)
    if divided:
        return {symbol: sym(f"{symbol}_{n}") * n for symbol, n in divided.items()}
    found = _paired(a, b, order) or _multiple(difference, order) or _factored(difference, order)
    return found or (_square(difference, order) if a.value is not None or b.value is not None else None)


def _paired(a: Dim, b: Dim, order: Mapping[str, int]) -> dict[str, Dim] | None:
    """Products of as many free sizes, such as the axes that a norm takes together and those of its weight: one by one."""
    factors = []
    if len(a.terms) != 1 or len(b.terms) != 1 or a.terms[0][1] != b.terms[0][1]:
        return None
    for dim, other in ((a, b), (b, a)):
        rest = dict(other.terms[0][0])
        own = [(atom, power - min(power, rest.get(atom, 0))) for atom, power in dim.terms[0][0]]
        if not all(isinstance(atom, str) and atom in order and power in (0, 1) for atom, power in own):
            return None
        factors.append(sorted((str(atom) for atom, power in own if power), key=order.__getitem__))
    first, second = factors
    if len(first) != len(second) or not first:
        return None
    ranked = [sorted(pair, key=order.__getitem__) for pair in zip(first, second, strict=True)]
    return {later: sym(earlier) for earlier, later in ranked}


def _multiple(difference: Dim, order: Mapping[str, int]) -> dict[str, Dim] | None:
    """``G * (H // G) - H`` is 0 when ``H`` is a multiple of ``G``, whatever ``G`` is."""
    for monomial, _ in difference.terms:
        for atom, _ in monomial:
            if not isinstance(atom, DimCall) or atom.fn != "floordiv":
                continue
            (symbol, divisor) = (atom.args[0].symbol, atom.args[1])
            if symbol is None or symbol not in order or symbol in divisor.symbols or not divisor.symbols <= order.keys():
                continue
            value = divisor * sym(f"{symbol}_n")
            if difference.subs({symbol: value}) == 0:
                return {symbol: value}
    return None


def _factored(difference: Dim, order: Mapping[str, int]) -> dict[str, Dim] | None:
    """``B * (T - 5)`` is 0 when ``T`` is 5."""
    for symbol in difference.symbols:
        quotient = difference // sym(symbol)
        if quotient * sym(symbol) == difference and quotient != difference:
            return solve(quotient, const(0), order)
    return None


def _square(difference: Dim, order: Mapping[str, int]) -> dict[str, Dim] | None:
    """Both sides of an image left free, while the number of its patches is fixed: the smallest square that has it."""
    symbols = difference.symbols
    if not 1 <= len(symbols) <= 2 or not symbols <= order.keys() or difference.weight > 40:
        return None
    # Two numbers that both grow are no number of patches that is fixed.
    if len({c > 0 for m, c in difference.terms if m}) != 1:
        return None
    for side in range(1, _LARGEST_SIDE + 1):
        try:
            if difference.evaluate(dict.fromkeys(symbols, side)) == 0:
                return {s: const(side) for s in symbols}
        except ZeroDivisionError:
            continue
    return None


def choose(a: Dim, b: Dim) -> dict[DimCall, Dim] | None:
    """Which argument of a ``min`` or ``max`` makes ``a`` and ``b`` equal: with ``max(0, 512 - T)`` as ``512 - T``, the last
    T of 512 positions are T."""
    difference = a - b
    atoms = dict.fromkeys(atom for monomial, _ in difference.terms for atom, _ in monomial)
    for call in atoms:
        if isinstance(call, DimCall) and call.fn in ("min", "max"):
            for argument in call.args:
                if _put(difference, call, argument) == 0:
                    return {call: argument}
    return None


def _put(dim: Dim, call: DimCall, argument: Dim) -> Dim:
    """``dim`` with ``argument`` in the place of ``call``."""
    total = const(0)
    for monomial, coefficient in dim.terms:
        powers = dict(monomial)
        power = powers.pop(call, 0)
        total += Dim([(tuple(powers.items()), coefficient)]) * argument**power
    return total
