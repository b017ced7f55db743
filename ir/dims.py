"""Dimensions: canonical integer expressions of symbols, hash-consed, with exact equality on the polynomial part.

A ``Dim`` is a sum of products. A product's factors are *atoms*: a symbol (``T``) or a call that no polynomial expresses
(``a // b``, ``a % b``, ``min(a, b)``, ``max(a, b)``). ``ceildiv(a, b)`` is ``(a + b - 1) // b``, so that one number has one form.
Symbols stand for sizes, hence are at least 1 unless a fact says otherwise.

    >>> T, r = sym("T"), sym("r")
    >>> (T - r) + r == T
    True
    >>> str(dim_min(const(8), (T - 1) // 2))
    'min(8, (T - 1) // 2)'
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Union

DimLike = Union["Dim", int, str]


class DimCall:
    """An atom that is not a symbol: ``fn`` is ``floordiv``, ``mod``, ``min`` or ``max``. Interned: compare with ``is``."""

    __slots__ = ("_hash", "args", "fn", "key")
    _interned: dict[tuple[str, tuple[Dim, ...]], DimCall] = {}

    fn: str
    args: tuple[Dim, ...]
    key: str

    def __new__(cls, fn: str, args: tuple[Dim, ...]) -> DimCall:
        found = cls._interned.get((fn, args))
        if found is None:
            found = super().__new__(cls)
            found.fn, found.args = fn, args
            found.key = f"{fn}({','.join(str(a) for a in args)})"
            found._hash = hash((fn, args))
            cls._interned[(fn, args)] = found
        return found

    def __hash__(self) -> int:
        return self._hash


Atom = Union[str, DimCall]
Monomial = tuple[tuple[Atom, int], ...]


def _atom_key(atom: Atom) -> tuple[int, str]:
    return (0, atom) if isinstance(atom, str) else (1, atom.key)


def _monomial_key(monomial: Monomial) -> tuple[int, list[tuple[tuple[int, str], int]]]:
    return (-sum(p for _, p in monomial), [(_atom_key(a), p) for a, p in monomial])


class Dim:
    """One integer expression. Make it with :func:`const`, :func:`sym`, :func:`as_dim` and arithmetic; compare with ``==``."""

    __slots__ = ("_hash", "_str", "_symbols", "_weight", "terms")
    _interned: dict[tuple[tuple[Monomial, int], ...], Dim] = {}

    terms: tuple[tuple[Monomial, int], ...]

    def __new__(cls, terms: Iterable[tuple[Monomial, int]]) -> Dim:
        rows = [(m, c) for m, c in terms if c]
        if len(rows) > 1:
            rows.sort(key=lambda row: _monomial_key(row[0]))
        key = tuple(rows)
        found = cls._interned.get(key)
        if found is None:
            found = super().__new__(cls)
            found.terms = key
            found._hash = hash(key)
            found._str = None
            found._symbols = None
            found._weight = None
            cls._interned[key] = found
        return found

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int):
            return self.value == other
        return self is other

    def __reduce__(self) -> tuple[Callable[..., Dim], tuple[object, ...]]:
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
            self._weight = sum(
                1 if isinstance(atom, str) else sum(arg.weight for arg in atom.args) for m, _ in self.terms for atom, _ in m
            )
        return self._weight

    @property
    def is_const(self) -> bool:
        return self.value is not None

    @property
    def symbol(self) -> str | None:
        """The name, when this is one bare symbol."""
        if len(self.terms) == 1:
            monomial, coefficient = self.terms[0]
            if coefficient == 1 and len(monomial) == 1 and monomial[0][1] == 1 and isinstance(monomial[0][0], str):
                return monomial[0][0]
        return None

    @property
    def symbols(self) -> frozenset[str]:
        if self._symbols is None:
            names: set[str] = set()
            for monomial, _ in self.terms:
                for atom, _ in monomial:
                    if isinstance(atom, str):
                        names.add(atom)
                    else:
                        for arg in atom.args:
                            names |= arg.symbols
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
            self._str = _render(self)
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
        rows: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in other.terms:
                product = _multiply(left, right)
                rows[product] = rows.get(product, 0) + a * b
        return Dim(rows.items())

    __rmul__ = __mul__

    def __pow__(self, power: int) -> Dim:
        result = const(1)
        for _ in range(power):
            result = result * self
        return result

    def __floordiv__(self, other: DimLike) -> Dim:
        other = as_dim(other)
        if other.value is not None:
            return self._floordiv_const(other.value)
        quotient = _exact_quotient(self, other)
        return quotient if quotient is not None else _call("floordiv", (self, other))

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
        return whole + (rest if n == 1 else _call("floordiv", (rest, const(n))))

    # Substitution ------------------------------------------------------------------------------------------------

    def subs(self, values: Mapping[str, Dim]) -> Dim:
        """Replace symbols; those not in ``values`` stay."""
        if self.symbols.isdisjoint(values):
            return self
        name = self.symbol
        if name is not None:
            return values[name]
        total = const(0)
        for monomial, coefficient in self.terms:
            product = const(coefficient)
            for atom, power in monomial:
                if isinstance(atom, str):
                    factor = values.get(atom) or sym(atom)
                else:
                    factor = apply(atom.fn, *(a.subs(values) for a in atom.args))
                product = product * factor**power
            total = total + product
        return total

    def evaluate(self, values: Mapping[str, int]) -> int:
        """The integer for given symbols. Raises KeyError for a symbol without a value."""
        total = 0
        for monomial, coefficient in self.terms:
            product = coefficient
            for atom, power in monomial:
                if isinstance(atom, str):
                    factor = values[atom]
                else:
                    factor = _INT_FUNCTIONS[atom.fn](*(a.evaluate(values) for a in atom.args))
                product *= factor**power
            total += product
        return total


_INT_FUNCTIONS: dict[str, Callable[..., int]] = {
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "min": min,
    "max": max,
}

_CONSTS: dict[int, Dim] = {}


def const(value: int) -> Dim:
    """The dimension that is one integer."""
    found = _CONSTS.get(value)
    if found is None:
        found = _CONSTS[value] = Dim([((), int(value))])
    return found


def sym(name: str) -> Dim:
    """The dimension that is one symbol."""
    return Dim([(((name, 1),), 1)])


def as_dim(value: DimLike) -> Dim:
    """An int, a symbol's name, or a Dim, as a Dim."""
    if isinstance(value, Dim):
        return value
    if isinstance(value, str):
        return sym(value)
    return const(int(value))


def ceildiv(a: DimLike, b: DimLike) -> Dim:
    """``a / b`` rounded up, for ``b > 0``."""
    b = as_dim(b)
    return (as_dim(a) + b - 1) // b


def dim_min(*args: DimLike) -> Dim:
    """The smallest; arguments that provably are not the smallest are left out."""
    return _extremum("min", args)


def dim_max(*args: DimLike) -> Dim:
    """The largest; arguments that provably are not the largest are left out."""
    return _extremum("max", args)


def apply(fn: str, *args: Dim) -> Dim:
    """The canonical form of ``fn(args)``; ``fn`` is floordiv, mod, min or max."""
    if fn == "floordiv":
        return args[0] // args[1]
    if fn == "mod":
        return args[0] % args[1]
    return _extremum(fn, args)


def _extremum(fn: str, args: Iterable[DimLike]) -> Dim:
    flat: list[Dim] = []
    for arg in map(as_dim, args):
        monomial, coefficient = arg.terms[0] if len(arg.terms) == 1 else ((), 0)
        atom = monomial[0][0] if coefficient == 1 and len(monomial) == 1 and monomial[0][1] == 1 else None
        flat += atom.args if isinstance(atom, DimCall) and atom.fn == fn else [arg]
    kept: list[Dim] = []
    for arg in flat:
        beats = prove_ge if fn == "min" else (lambda a, b: prove_ge(b, a))
        if any(beats(arg, other) for other in kept):
            continue
        kept = [other for other in kept if not beats(other, arg)] + [arg]
    if len(kept) == 1:
        return kept[0]
    kept.sort(key=lambda d: (d.value is None, str(d)))
    return _call(fn, tuple(kept))


def _call(fn: str, args: tuple[Dim, ...]) -> Dim:
    return Dim([(((DimCall(fn, args), 1),), 1)])


def _multiply(left: Monomial, right: Monomial) -> Monomial:
    if not left or not right:
        return left or right
    powers = dict(left)
    for atom, power in right:
        powers[atom] = powers.get(atom, 0) + power
    return tuple(sorted(powers.items(), key=lambda row: _atom_key(row[0])))


def _exact_quotient(a: Dim, b: Dim) -> Dim | None:
    """``a / b`` when ``b`` has one term that divides every term of ``a``, or when ``a == k * b``; else None."""
    if a is b:
        return const(1)
    if len(b.terms) != 1:
        if len(a.terms) == len(b.terms) and a.terms[0][1] % b.terms[0][1] == 0:
            k = a.terms[0][1] // b.terms[0][1]
            return const(k) if b * k is a else None
        return None
    monomial, coefficient = b.terms[0]
    rows = []
    for m, c in a.terms:
        powers = dict(m)
        for atom, power in monomial:
            left = powers.get(atom, 0) - power
            if left < 0:
                return None
            powers[atom] = left
        if c % coefficient:
            return None
        rows.append((tuple((atom, p) for atom, p in powers.items() if p), c // coefficient))
    return Dim(rows)


# Printing ------------------------------------------------------------------------------------------------------------


def _render(dim: Dim) -> str:
    if not dim.terms:
        return "0"
    # The constant comes last, and a leading minus is avoided where a positive term exists: `T - r`, not `-r + T`.
    terms = sorted(dim.terms, key=lambda row: (not row[0], row[1] < 0))
    text = ""
    for monomial, coefficient in terms:
        sign = "-" if coefficient < 0 else "+"
        factors = [] if abs(coefficient) == 1 and monomial else [str(abs(coefficient))]
        for atom, power in monomial:
            base = _render_atom(atom, alone=abs(coefficient) == 1 and len(monomial) == 1 and power == 1)
            factors += [base] * power
        product = " * ".join(factors)
        text = (f"-{product}" if sign == "-" else product) if not text else f"{text} {sign} {product}"
    return text


def _render_atom(atom: Atom, alone: bool) -> str:
    if isinstance(atom, str):
        return atom
    if atom.fn in ("min", "max"):
        return f"{atom.fn}({', '.join(map(str, atom.args))})"
    left, right = (s if s.replace("_", "").isalnum() else f"({s})" for s in map(str, atom.args))
    text = f"{left} {'//' if atom.fn == 'floordiv' else '%'} {right}"
    return text if alone else f"({text})"


# Bounds --------------------------------------------------------------------------------------------------------------

Facts = Mapping[str, tuple[int, int | None]]
_DEPTH = 6


def prove_ge(a: DimLike, b: DimLike, facts: Facts | None = None) -> bool:
    """True when ``a >= b`` holds for every size that ``facts`` admits (symbol -> (least, greatest or None)).

    False means *not proved*, not *false*: ask ``prove_ge(b, a + 1)`` for that.
    """
    return _nonnegative(as_dim(a) - as_dim(b), facts or {}, _DEPTH)


def _nonnegative(d: Dim, facts: Facts, depth: int) -> bool:
    if d.value is not None:
        return d.value >= 0
    low = _lower(d, facts)
    if low is not None and low >= 0:
        return True
    if depth == 0:
        return False
    # Remove one call by a sound relaxation: each branch below bounds d from below, or splits on the call's value.
    for monomial, c in d.terms:
        if len(monomial) != 1 or monomial[0][1] != 1 or not isinstance(monomial[0][0], DimCall):
            continue
        call = monomial[0][0]
        rest = d - Dim([(monomial, c)])
        if call.fn in ("min", "max"):
            every = (call.fn == "min") == (c > 0)
            quantifier = all if every else any
            return quantifier(_nonnegative(rest + arg * c, facts, depth - 1) for arg in call.args)
        n = call.args[1].value
        if call.fn == "floordiv" and n is not None and n > 0:
            # a/n - (n-1)/n <= a // n <= a/n; multiplied by n to stay in integers.
            bound = call.args[0] if c < 0 else call.args[0] - (n - 1)
            return _nonnegative(rest * n + bound * c, facts, depth - 1)
    return False


def _lower(d: Dim, facts: Facts) -> int | None:
    return _bound(d, facts, lower=True)


def _bound(d: Dim, facts: Facts, lower: bool) -> int | None:
    """A lower (or upper) bound by interval arithmetic, or None for infinity."""
    total = 0
    for monomial, c in d.terms:
        low, high = 1, 1
        unbounded = False
        for atom, power in monomial:
            a_low, a_high = _interval(atom, facts)
            if a_low is None or a_low < 0:
                return None
            low *= a_low**power
            if a_high is None:
                unbounded = True
            else:
                high *= a_high**power
        want_low = (c > 0) == lower
        if not want_low and unbounded:
            return None
        total += c * (low if want_low else high)
    return total


def _interval(atom: Atom, facts: Facts) -> tuple[int | None, int | None]:
    if isinstance(atom, str):
        return facts.get(atom, (1, None))
    lows = [_bound(a, facts, True) for a in atom.args]
    highs = [_bound(a, facts, False) for a in atom.args]
    known_lows = [x for x in lows if x is not None]
    known_highs = [x for x in highs if x is not None]
    if atom.fn == "min":
        return (min(known_lows) if len(known_lows) == len(lows) else None), (min(known_highs) if known_highs else None)
    if atom.fn == "max":
        return (max(known_lows) if known_lows else None), (max(known_highs) if len(known_highs) == len(highs) else None)
    n = atom.args[1].value
    if n is None or n <= 0:
        return (0, None) if lows[0] is not None and lows[0] >= 0 and (lows[1] or 0) > 0 else (None, None)
    if atom.fn == "mod":
        return 0, n - 1
    return (None if lows[0] is None else lows[0] // n), (None if highs[0] is None else highs[0] // n)


def equal(a: DimLike, b: DimLike) -> bool:
    """Exact equality of the canonical forms."""
    return as_dim(a) is as_dim(b)


def product(dims: Iterable[DimLike]) -> Dim:
    """The number of elements of a shape."""
    result = const(1)
    for dim in dims:
        result = result * as_dim(dim)
    return result
