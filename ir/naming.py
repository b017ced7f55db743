"""Names that nothing else has."""

from __future__ import annotations


def unique(base: str, taken: set[str], joint: str = "_") -> str:
    """``base``, or ``base_1``, ``base_2``, … where that is taken. What is returned is put into ``taken``.

    >>> taken = {"x", "x_1"}
    >>> unique("x", taken), unique("y", taken), unique("y", taken, joint="")
    ('x_2', 'y', 'y1')
    """
    if base not in taken:
        taken.add(base)
        return base
    # The names that are taken are numbered without gaps as a rule, and there may be a hundred thousand: bisection.
    high = 1
    while f"{base}{joint}{high}" in taken:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if f"{base}{joint}{middle}" in taken else (low, middle)
    name = f"{base}{joint}{high}"
    taken.add(name)
    return name
