"""A dimension as text: what ``str(dim)`` shows, in messages and in source."""

from __future__ import annotations

from .dim import Dim
from .monomials import Atom, DimCall, Monomial

# A call of more atoms than this is shown as `min(…)`: only a message could hold it, source names such a dimension by `let`.
_PRINT_WEIGHT = 2000


def render(dim: Dim) -> str:
    """``dim`` as an expression of the language, which reads back as the same dimension."""
    if not dim.terms:
        return "0"
    # The constant comes last, and a leading minus is avoided where a positive term exists: `T - r`, not `-r + T`.
    terms = sorted(_absorb(dim.terms), key=lambda row: (not row[0], row[1] < 0))
    text = ""
    for monomial, coefficient in terms:
        negative = coefficient < 0
        factors = [] if abs(coefficient) == 1 and monomial else [str(abs(coefficient))]
        # A leading minus would bind tighter than `//`: `-(a // b)`, but `x - a // b`.
        alone = abs(coefficient) == 1 and len(monomial) == 1 and monomial[0][1] == 1 and (bool(text) or not negative)
        for atom, power in monomial:
            factors += [_render_atom(atom, alone)] * power
        product = " * ".join(factors)
        if not text:
            text = f"-{product}" if negative else product
        else:
            text += f" {'-' if negative else '+'} {product}"
    return text


def _absorb(terms: tuple[tuple[Monomial, int], ...]) -> list[tuple[Monomial, int]]:
    """For reading only: `(T - 1) // 2` instead of `(T + 1) // 2 - 1`, the canonical form of the same number."""
    rows = list(terms)
    offset = next((c for m, c in rows if not m), 0)
    for i, (monomial, c) in enumerate(rows):
        atom = monomial[0][0] if len(monomial) == 1 and monomial[0][1] == 1 else None
        if not isinstance(atom, DimCall) or atom.fn != "floordiv" or abs(c) != 1 or offset * c != -1:
            continue
        left, right = atom.args
        if (right.value or 0) > 0 and left.terms[-1][0] == ():
            rows[i] = (((DimCall("floordiv", (left + right * offset * c, right)), 1),), c)
            return [row for row in rows if row[0]]
    return rows


def _render_atom(atom: Atom, alone: bool) -> str:
    if isinstance(atom, str):
        return atom
    if atom.weight > _PRINT_WEIGHT:
        return f"{atom.fn}(…)"
    if atom.fn in ("min", "max"):
        return f"{atom.fn}({', '.join(map(str, atom.args))})"
    left, right = map(_render_operand, atom.args)
    text = f"{left} {'//' if atom.fn == 'floordiv' else '%'} {right}"
    return text if alone else f"({text})"


def _render_operand(dim: Dim) -> str:
    atom = dim.atom
    simple = dim.value is not None and dim.value >= 0
    simple = simple or isinstance(atom, str) or (isinstance(atom, DimCall) and atom.fn in ("min", "max"))
    return str(dim) if simple else f"({dim})"
