"""Names that nothing else has."""

from __future__ import annotations


def unique(base: str, taken: set[str], joint: str = "_") -> str:
    """``base``, or ``base_1``, ``base_2``, … where that is taken. What is returned is put into ``taken``.

    >>> taken = {"x", "x_1"}
    >>> unique("x", taken), unique("y", taken), unique("y", taken, joint="")
    ('x_2', 'y', 'y1')
    """
    name, n = base, 0
    while name in taken:
        n += 1
        name = f"{base}{joint}{n}"
    taken.add(name)
    return name
