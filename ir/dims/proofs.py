"""What can be proved about a dimension: interval arithmetic, and relaxations that remove one call at a time."""

from __future__ import annotations

from types import MappingProxyType

from .dim import Dim, Facts, sym
from .monomials import Atom, DimCall, Monomial

Interval = tuple[int | None, int | None]
# Goals tried for one question: enough for a cap such as `r <= (T - 1) // 2` a few layers deep, and quick to give up.
# Canonical forms ask for every `min` that is built, so they give up sooner.
_GOALS = 48
_CANONICAL_GOALS = 6
_SHIFT_WEIGHT = 200


# Facts under which no symbol is bounded: what holds under them holds for every integer. Known by its identity.
ANY_INTEGER: Facts = MappingProxyType({})


def nonnegative(d: Dim, facts: Facts) -> bool:
    """Whether ``d >= 0`` is proved for all symbols within ``facts``."""
    if d.value is not None:
        return d.value >= 0
    if _Prover(facts).nonnegative(d):
        return True
    if facts is ANY_INTEGER or d.weight > _SHIFT_WEIGHT:
        return False
    # With every symbol written as its least value plus a rest >= 0, `T * r - r` shows as a sum of non-negative terms.
    ranges = {name: facts.get(name, (1, None)) for name in d.symbols}
    least = {name: low for name, (low, _) in ranges.items() if low}
    if not least:
        return False
    shifted = {
        name: (None if low is None else 0, high if low is None or high is None else high - low)
        for name, (low, high) in ranges.items()
    }
    return _Prover(shifted).nonnegative(d.subs({name: sym(name) + low for name, low in least.items()}))


class _Prover:
    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.goals = _CANONICAL_GOALS if facts is ANY_INTEGER else _GOALS
        self.intervals: dict[Atom, Interval] = {}
        self.tried: set[Dim] = set()

    @property
    def exhausted(self) -> bool:
        return len(self.tried) >= self.goals

    def nonnegative(self, d: Dim) -> bool:
        if d.value is not None:
            return d.value >= 0
        if d in self.tried or self.exhausted:
            return False
        self.tried.add(d)
        low = self.bound(d, lower=True)
        if low is not None and low >= 0:
            return True
        return any(self.relax(d, monomial, c) for monomial, c in d.terms)

    def relax(self, d: Dim, monomial: Monomial, c: int) -> bool:
        """Replace one call of the term ``c * monomial`` by something that bounds ``d`` from below, and prove that."""
        if self.exhausted:
            return False
        call = next((a for a, power in monomial if isinstance(a, DimCall) and power == 1), None)
        if call is None:
            return False
        others = Dim([(tuple(row for row in monomial if row[0] is not call), 1)])
        low = self.bound(others, lower=True)
        if low is None or low < 0:
            return False
        rest = d - Dim([(monomial, c)])
        factor = others * c
        if call.fn in ("min", "max"):
            # min(a, b) * c with c > 0 needs every argument; with c < 0 it is at least a * c, so one argument is enough.
            quantifier = all if (call.fn == "min") == (c > 0) else any
            return quantifier(self.nonnegative(rest + arg * factor) for arg in call.args)
        n = call.args[1].value
        if call.fn == "floordiv" and n is not None and n > 0:
            # a/n - (n-1)/n <= a // n <= a/n; multiplied by n to stay in integers.
            bound = call.args[0] if c < 0 else call.args[0] - (n - 1)
            return self.nonnegative(rest * n + bound * factor)
        if call.fn == "mod" and c < 0:
            low = self.bound(call.args[0], lower=True)
            return low is not None and low >= 0 and self.nonnegative(rest + call.args[0] * factor)
        return False

    def bound(self, d: Dim, lower: bool) -> int | None:
        """A lower (or upper) bound of ``d``, or None for infinity."""
        total = 0
        for monomial, c in d.terms:
            low, high = self.product(monomial)
            end = low if (c > 0) == lower else high
            if end is None:
                return None
            total += c * end
        return total

    def product(self, monomial: Monomial) -> Interval:
        if len(monomial) == 1 and monomial[0][1] == 1:
            return self.interval(monomial[0][0])
        low, high = 1, 1
        bounded = True
        for atom, power in monomial:
            a_low, a_high = self.interval(atom)
            if a_low is None or a_low < 0:
                return None, None
            low *= a_low**power
            bounded = bounded and a_high is not None
            high *= (a_high or 0) ** power
        return low, high if bounded else None

    def interval(self, atom: Atom) -> Interval:
        """The least and the greatest value of one atom."""
        if isinstance(atom, str):
            return self.facts.get(atom, (1, None)) if self.facts is not ANY_INTEGER else (None, None)
        found = self.intervals.get(atom)
        if found is None:
            found = self.intervals[atom] = self.call_interval(atom)
        return found

    def call_interval(self, call: DimCall) -> Interval:
        lows = [self.bound(a, lower=True) for a in call.args]
        highs = [self.bound(a, lower=False) for a in call.args]
        known_lows = [x for x in lows if x is not None]
        known_highs = [x for x in highs if x is not None]
        if call.fn == "min":
            return (min(known_lows) if len(known_lows) == len(lows) else None), min(known_highs, default=None)
        if call.fn == "max":
            return max(known_lows, default=None), (max(known_highs) if len(known_highs) == len(highs) else None)
        n = call.args[1].value
        if n is None or n <= 0:
            positive = lows[0] is not None and lows[0] >= 0 and lows[1] is not None and lows[1] > 0
            return (0, highs[0]) if positive else (None, None)
        if call.fn == "mod":
            return 0, n - 1
        return (None if lows[0] is None else lows[0] // n), (None if highs[0] is None else highs[0] // n)
