"""Products of atoms, the terms that a dimension is a sum of, and their keys, which sort the same in every process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from .dim import Dim

# Above this many atoms a sort key is a digest.
_KEY_WEIGHT = 16
# A long division that has made so many terms more is given up.
_MOST_LEFT = 64


class DimCall:
    """An atom that is not a symbol: ``fn`` is ``floordiv``, ``mod``, ``min`` or ``max``. Interned: compare with ``is``."""

    __slots__ = ("_hash", "args", "fn", "key", "weight")
    _interned: ClassVar[dict[tuple[str, tuple[Dim, ...]], DimCall]] = {}

    fn: str
    args: tuple[Dim, ...]
    key: str
    weight: int
    _hash: int

    def __new__(cls, fn: str, args: tuple[Dim, ...]) -> DimCall:
        found = cls._interned.get((fn, args))
        if found is None:
            found = super().__new__(cls)
            found.fn, found.args = fn, args
            found.weight = sum(a.weight for a in args)
            found.key = short_key(f"{fn}({','.join(a.key for a in args)})", found.weight)
            found._hash = hash((fn, args))
            found = cls._interned.setdefault((fn, args), found)
        return found

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return (DimCall, (self.fn, self.args))


Atom = str | DimCall
Monomial = tuple[tuple[Atom, int], ...]
# The product of no atoms is 1: the term of a plain integer.
Term = tuple[Monomial, int]
Terms = Iterable[Term]


def short_key(key: str, weight: int) -> str:
    """A key that is the same in every process and does not grow with the expression."""
    return key if weight <= _KEY_WEIGHT else f"~{blake2b(key.encode(), digest_size=16).hexdigest()}"


def atom_key(atom: Atom) -> tuple[int, str]:
    """Symbols sort before calls."""
    return (0, atom) if isinstance(atom, str) else (1, atom.key)


def monomial_key(monomial: Monomial) -> tuple[int, list[tuple[tuple[int, str], int]]]:
    """Higher degrees sort first, so that a dimension reads as a polynomial."""
    return (-sum(p for _, p in monomial), [(atom_key(a), p) for a, p in monomial])


def multiply(left: Monomial, right: Monomial) -> Monomial:
    """Their product, with one power for each atom."""
    if not left or not right:
        return left or right
    powers = dict(left)
    for atom, power in right:
        powers[atom] = powers.get(atom, 0) + power
    return tuple(sorted(powers.items(), key=lambda row: atom_key(row[0])))


def divide(left: Monomial, right: Monomial) -> Monomial | None:
    """``left / right``, or None where ``right`` does not divide it."""
    powers = dict(left)
    for atom, power in right:
        rest = powers.get(atom, 0) - power
        if rest < 0:
            return None
        powers[atom] = rest
    return tuple((atom, p) for atom, p in powers.items() if p)


def exact_quotient(dividend: Sequence[Term], divisor: Sequence[Term]) -> list[Term] | None:
    """The polynomial that times ``divisor`` is ``dividend``; None where there is none, and for a divisor of no terms.

    Term by term, as numbers are divided on paper: what is left has its highest term taken out until nothing is.
    """
    if not divisor:
        return None
    atoms = sorted({atom for m, _ in divisor for atom, _ in m}, key=atom_key)

    def height(monomial: Monomial) -> list[int]:
        powers = dict(monomial)
        return [powers.get(atom, 0) for atom in atoms]

    highest, coefficient = max(divisor, key=lambda term: height(term[0]))
    whole: list[Term] = []
    rest = dict(dividend)
    while rest:
        # Of one term, each step takes out a term and adds none: any order will do.
        m = max(rest, key=height) if len(divisor) > 1 else next(iter(rest))
        part = divide(m, highest)
        times, over = divmod(rest[m], coefficient)
        if part is None or over or len(rest) > len(dividend) + _MOST_LEFT:
            return None
        whole.append((part, times))
        for other, c in divisor:
            product = multiply(part, other)
            left = rest.pop(product, 0) - c * times
            if left:
                rest[product] = left
    return whole


_INT_FUNCTIONS: dict[str, Callable[..., int]] = {
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "min": min,
    "max": max,
}


def evaluate(terms: Terms, values: Mapping[str, int], done: dict[DimCall, int]) -> int:
    """The sum for given symbols; ``done`` keeps the value of each call, which may occur many times."""
    total = 0
    for monomial, coefficient in terms:
        product = coefficient
        for atom, power in monomial:
            if isinstance(atom, str):
                factor = values[atom]
            elif atom in done:
                factor = done[atom]
            else:
                factor = done[atom] = _INT_FUNCTIONS[atom.fn](*(evaluate(a.terms, values, done) for a in atom.args))
            product *= factor**power
        total += product
    return total
