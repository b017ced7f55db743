"""Dimensions: canonical integer expressions of symbols, hash-consed, with exact equality on the polynomial part.

A ``Dim`` is a sum of products. A product's factors are *atoms*: a symbol (``T``) or a call that no polynomial expresses
(``a // b``, ``a % b``, ``min(a, b)``, ``max(a, b)``). ``ceildiv(a, b)`` is ``(a + b - 1) // b``, so that one number has one form.

Canonical forms hold for every integer, whatever its sign; that sizes are at least 1 is used only where something is proved
(:func:`prove_ge`). A dimension that shrinks layer after layer is a small graph with a huge printed form:
every operation here walks the graph, only ``str`` writes the form out.

    >>> T, r = sym("T"), sym("r")
    >>> (T - r) + r == T
    True
    >>> str(dim_min(const(8), (T - 1) // 2))
    'min(8, (T - 1) // 2)'
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import gcd
from operator import index
from typing import Any, ClassVar, Union

from .monomials import (
    Atom,
    DimCall,
    Monomial,
    Terms,
    atom_key,
    evaluate,
    exact_quotient,
    monomial_key,
    multiply,
    short_key,
)

DimLike = Union["Dim", int, str]


class Dim:
    """One integer expression. Make it with :func:`const`, :func:`sym`, :func:`as_dim` and arithmetic; compare with ``==``."""

    __slots__ = ("_hash", "_key", "_str", "_symbols", "_weight", "terms")
    _interned: ClassVar[dict[tuple[tuple[Monomial, int], ...], Dim]] = {}

    terms: tuple[tuple[Monomial, int], ...]
    _hash: int
    _key: str | None
    _str: str | None
    _symbols: frozenset[str] | None
    _weight: int | None

    def __new__(cls, terms: Terms) -> Dim:
        rows = [(m, c) for m, c in terms if c]
        if len(rows) > 1:
            rows.sort(key=lambda row: monomial_key(row[0]))
        key = tuple(rows)
        found = cls._interned.get(key)
        if found is None:
            found = super().__new__(cls)
            found.terms = key
            known = found.value
            # Equal to its integer, hence the hash of its integer.
            found._hash = hash(key) if known is None else hash(known)
            found._key = None
            found._str = None
            found._symbols = None
            found._weight = None
            found = cls._interned.setdefault(key, found)
        return found

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, int):
            return self.value == other
        return False if isinstance(other, Dim) else NotImplemented

    def __reduce__(self) -> tuple[Any, ...]:
        return (Dim, (self.terms,))

    # Reading -----------------------------------------------------------------------------------------------------

    @property
    def value(self) -> int | None:
        """The integer, or None when symbols remain."""
        if not self.terms:
            return 0
        if len(self.terms) == 1 and not self.terms[0][0]:
            return self.terms[0][1]
        return None

    @property
    def weight(self) -> int:
        """The number of atoms in the printed form: how long it is to read. Name a heavy dimension with ``let``."""
        if self._weight is None:
            self._weight = sum(1 if isinstance(atom, str) else atom.weight for m, _ in self.terms for atom, _ in m)
        return self._weight

    @property
    def key(self) -> str:
        """A short text that differs for different dimensions and is the same in every process: what to sort by."""
        if self._key is None:
            text = "+".join(f"{c}*{'*'.join(f'{atom_key(a)[1]}^{p}' for a, p in m)}" for m, c in self.terms)
            self._key = short_key(text, self.weight)
        return self._key

    @property
    def atom(self) -> Atom | None:
        """The symbol or call, when the dimension is one bare atom."""
        if len(self.terms) == 1:
            monomial, coefficient = self.terms[0]
            if coefficient == 1 and len(monomial) == 1 and monomial[0][1] == 1:
                return monomial[0][0]
        return None

    @property
    def symbol(self) -> str | None:
        """The name, when this is one bare symbol."""
        atom = self.atom
        return atom if isinstance(atom, str) else None

    @property
    def symbols(self) -> frozenset[str]:
        """The names of all symbols in it."""
        if self._symbols is None:
            names: set[str] = set()
            for monomial, _ in self.terms:
                for atom, _ in monomial:
                    if isinstance(atom, str):
                        names.add(atom)
                    else:
                        names.update(*(arg.symbols for arg in atom.args))
            self._symbols = frozenset(names)
        return self._symbols

    def __int__(self) -> int:
        if self.value is None:
            raise ValueError(f"{self} is not a known integer")
        return self.value

    def __index__(self) -> int:
        return int(self)

    def __str__(self) -> str:
        if self._str is None:
            from .text import render

            self._str = render(self)
        return self._str

    def __repr__(self) -> str:
        return f"Dim({self})"

    # Arithmetic --------------------------------------------------------------------------------------------------

    def __add__(self, other: DimLike) -> Dim:
        other = as_dim(other)
        if not other.terms:
            return self
        if not self.terms:
            return other
        rows = dict(self.terms)
        for monomial, coefficient in other.terms:
            rows[monomial] = rows.get(monomial, 0) + coefficient
        return Dim(rows.items())

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return Dim((m, -c) for m, c in self.terms)

    def __sub__(self, other: DimLike) -> Dim:
        return self + (-as_dim(other))

    def __rsub__(self, other: DimLike) -> Dim:
        return as_dim(other) + (-self)

    def __mul__(self, other: DimLike) -> Dim:
        other = as_dim(other)
        # One is what most sums and products start from.
        if other is _ONE or self is _ONE:
            return self if other is _ONE else other
        rows: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in other.terms:
                product = multiply(left, right)
                rows[product] = rows.get(product, 0) + a * b
        return Dim(rows.items())

    __rmul__ = __mul__

    def __pow__(self, power: int) -> Dim:
        if power < 0:
            raise ValueError(f"({self}) ** {power} is not an integer")
        return product([self] * power)

    def __floordiv__(self, other: DimLike) -> Dim:
        other = as_dim(other)
        if other.value is not None:
            return self._floordiv_const(other.value)
        quotient = _exact_quotient(self, other)
        if quotient is not None:
            return quotient
        # (n*X + rest) // n == X + rest // n for a symbol n too, which is positive.
        whole = const(0)
        rest = const(0)
        for term in self.terms:
            part = _exact_quotient(Dim([term]), other)
            if part is None:
                rest = rest + Dim([term])
            else:
                whole = whole + part
        return whole + _call("floordiv", (rest, other))

    def __rfloordiv__(self, other: DimLike) -> Dim:
        return as_dim(other) // self

    def __mod__(self, other: DimLike) -> Dim:
        other = as_dim(other)
        n = other.value
        if n == 0:
            raise ZeroDivisionError(f"{self} % 0")
        if n is not None:
            rest = Dim((m, c % n) for m, c in self.terms)
            if rest.value is not None:
                return const(rest.value % n)
            return _call("mod", (rest, other))
        return const(0) if _exact_quotient(self, other) is not None else _call("mod", (self, other))

    def __rmod__(self, other: DimLike) -> Dim:
        return as_dim(other) % self

    def _floordiv_const(self, n: int) -> Dim:
        if n == 0:
            raise ZeroDivisionError(f"{self} // 0")
        if self.value is not None:
            return const(self.value // n)
        if n < 0:
            return (-self)._floordiv_const(-n)
        # (n*X + rest) // n == X + rest // n, for the coefficients that n divides.
        whole = Dim((m, c // n) for m, c in self.terms if c % n == 0 or not m)
        rest = Dim((m, c if m else c % n) for m, c in self.terms if c % n)
        if rest.value is not None:
            return whole + rest.value // n
        # (g*X + k) // (g*n) == (X + k // g) // n.
        g = gcd(n, *(c for m, c in rest.terms if m))
        if g > 1:
            return whole + Dim((m, c // g) for m, c in rest.terms)._floordiv_const(n // g)
        # (X // a + k) // n == (X + k*a) // (a*n).
        offset = sum(c for m, c in rest.terms if not m)
        inner = (rest - offset).atom
        if isinstance(inner, DimCall) and inner.fn == "floordiv" and (a := inner.args[1].value or 0) > 0:
            return whole + (inner.args[0] + offset * a)._floordiv_const(a * n)
        # -X // n == -((X + n - 1) // n): rounded up has one form, whichever way it is written.
        if rest.terms[0][1] < 0:
            return whole - (n - 1 - rest)._floordiv_const(n)
        return whole + _call("floordiv", (rest, const(n)))

    # Substitution ------------------------------------------------------------------------------------------------

    def subs(self, values: Mapping[str, Dim]) -> Dim:
        """Replace symbols, all at once; those not in ``values`` stay."""
        return _subs(self, values, {})

    def evaluate(self, values: Mapping[str, int]) -> int:
        """The integer for given symbols. Raises KeyError for a symbol without a value, ZeroDivisionError."""
        return evaluate(self.terms, values, {})


def _subs(dim: Dim, values: Mapping[str, Dim], done: dict[Atom, Dim]) -> Dim:
    if dim.symbols.isdisjoint(values):
        return dim
    total: dict[Monomial, int] = {}
    for monomial, coefficient in dim.terms:
        product = const(coefficient)
        for atom, power in monomial:
            factor = done.get(atom)
            if factor is None:
                if isinstance(atom, str):
                    factor = as_dim(values[atom]) if atom in values else sym(atom)
                else:
                    factor = apply(atom.fn, *(_subs(a, values, done) for a in atom.args))
                done[atom] = factor
            product = product * factor**power
        for m, c in product.terms:
            total[m] = total.get(m, 0) + c
    return Dim(total.items())


_CONSTS: dict[int, Dim] = {}


def const(value: int) -> Dim:
    """The dimension that is one integer."""
    found = _CONSTS.get(value)
    if found is None:
        found = _CONSTS[value] = Dim([((), int(value))])
    return found


_ONE = const(1)


def sym(name: str) -> Dim:
    """The dimension that is one symbol."""
    return Dim([(((name, 1),), 1)])


def as_dim(value: DimLike) -> Dim:
    """An int, a symbol's name, or a Dim, as a Dim. Raises TypeError for anything else, a float included."""
    if isinstance(value, Dim):
        return value
    if isinstance(value, str):
        return sym(value)
    return const(index(value))


def ceildiv(a: DimLike, b: DimLike) -> Dim:
    """``a / b`` rounded up, for ``b > 0``."""
    b = as_dim(b)
    return (as_dim(a) + b - 1) // b


def divisors(dim: Dim) -> Iterator[Dim]:
    """What a dimension divides by that is no number, the parts of its parts included."""
    for monomial, _ in dim.terms:
        for atom, _ in monomial:
            if isinstance(atom, DimCall):
                if atom.fn in ("floordiv", "mod") and atom.args[1].value is None:
                    yield atom.args[1]
                for arg in atom.args:
                    yield from divisors(arg)


def dim_min(*args: DimLike) -> Dim:
    """The smallest; arguments that are never the smallest are left out."""
    return _extremum("min", args)


def dim_max(*args: DimLike) -> Dim:
    """The largest; arguments that are never the largest are left out."""
    return _extremum("max", args)


def apply(fn: str, *args: Dim) -> Dim:
    """The canonical form of ``fn(args)``; ``fn`` is floordiv, mod, min or max."""
    if fn == "floordiv":
        return args[0] // args[1]
    if fn == "mod":
        return args[0] % args[1]
    return _extremum(fn, args)


def _extremum(fn: str, args: Iterable[DimLike]) -> Dim:
    from .proofs import ANY_INTEGER

    flat: set[Dim] = set()
    for arg in map(as_dim, args):
        atom = arg.atom
        flat.update(atom.args if isinstance(atom, DimCall) and atom.fn == fn else [arg])
    # Sorted first, so that the same set of arguments always loses the same ones.
    kept = sorted(flat, key=lambda d: (d.value is None, d.weight, d.key))
    for arg in list(kept)[::-1]:
        others = [other for other in kept if other is not arg]
        loses = (
            (lambda a, b: prove_ge(a, b, ANY_INTEGER)) if fn == "min" else (lambda a, b: prove_ge(b, a, ANY_INTEGER))
        )
        if any(loses(arg, other) for other in others):
            kept = others
    return kept[0] if len(kept) == 1 else _call(fn, tuple(kept))


def _call(fn: str, args: tuple[Dim, ...]) -> Dim:
    return Dim([(((DimCall(fn, args), 1),), 1)])


def _exact_quotient(a: Dim, b: Dim) -> Dim | None:
    """``a / b`` as polynomials of their atoms, when nothing is left over; else None."""
    if a is b:
        return const(1)
    rows = exact_quotient(a.terms, b.terms)
    return None if rows is None else Dim(rows)


# Proofs --------------------------------------------------------------------------------------------------------------

Facts = Mapping[str, tuple[int | None, int | None]]


def prove_ge(a: DimLike, b: DimLike, facts: Facts | None = None) -> bool:
    """True when ``a >= b`` holds for every size that ``facts`` admits (symbol -> (least, greatest), None: no bound).

    A symbol without a fact is at least 1. False means *not proved*, not *false*: ask ``prove_ge(b, a + 1)`` for that.
    """
    from .proofs import nonnegative

    return nonnegative(as_dim(a) - as_dim(b), {} if facts is None else facts)


def product(dims: Iterable[DimLike]) -> Dim:
    """The number of elements of a shape."""
    number, result = 1, _ONE
    for dim in map(as_dim, dims):
        known = dim.value
        if known is None:
            result = result * dim
        else:
            number *= known
    return result * number
