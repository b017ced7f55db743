"""What is known of the sizes of a program: bounds, sizes of tensors, and which argument of a `min` or `max` it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ...ir.dims.dim import Dim, apply, const, product, prove_ge, sym
from ...ir.dims.monomials import DimCall


@dataclass(slots=True)
class Known:
    """Sizes made plainer by what holds wherever the program runs.

    Args:
        facts: the least and the greatest value of symbols.
        chosen: which argument an extremum is.
        sizes: of axes of tensors that there are, none of which is below 0.
        decided: what the model's code went by: (size, `>=` or `<=`, size).
    """

    facts: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    chosen: dict[DimCall, Dim] = field(default_factory=dict)
    sizes: set[Dim] = field(default_factory=set)
    decided: list[tuple[Dim, str, Dim]] = field(default_factory=list)

    def equal(self, a: Dim, b: Dim) -> None:
        """Learn from a size that must be another one: an extremum without which they would be the same is that argument."""
        difference = a - b
        for monomial, coefficient in difference.terms:
            call = monomial[0][0] if len(monomial) == 1 and monomial[0][1] == 1 else None
            if not isinstance(call, DimCall) or call.fn not in ("min", "max"):
                continue
            rest = difference - Dim([(monomial, coefficient)])
            fitting = [arg for arg in call.args if rest + arg * coefficient == 0]
            if len(fitting) == 1:
                self.chosen[call] = fitting[0]

    def needs(self) -> Iterable[tuple[Dim, str, Dim]]:
        """What must hold for the chosen arguments, and for what the model decided: (size, `>=` or `<=`, size)."""
        yield from dict.fromkeys(self.decided)
        for call, one in self.chosen.items():
            for other in call.args:
                if other != one:
                    yield one, "<=" if call.fn == "min" else ">=", other

    def size(self, dim: Dim) -> Dim:
        """The size with every `min` and `max` decided that can be."""
        if not any(isinstance(atom, DimCall) for monomial, _ in dim.terms for atom, _ in monomial):
            return dim
        total = const(0)
        for monomial, coefficient in dim.terms:
            factors = (
                sym(atom) if isinstance(atom, str) else self._decided(atom) for atom, power in monomial for _ in range(power)
            )
            total = total + product(factors) * coefficient
        return total

    def _decided(self, call: DimCall) -> Dim:
        if call in self.chosen:
            return self.size(self.chosen[call])
        args = [self.size(arg) for arg in call.args]
        if call.fn in ("min", "max"):
            for one in args:
                if all(self._at_most(one, other) if call.fn == "min" else self._at_most(other, one) for other in args):
                    return one
        return apply(call.fn, *args)

    def _at_most(self, a: Dim, b: Dim) -> bool:
        return prove_ge(b, a, self.facts) or (a == 0 and b in self.sizes)
