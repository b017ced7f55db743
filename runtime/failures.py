"""What a runtime says when it stops in the middle of a run, in a user's words."""

from __future__ import annotations

import re

from ..ir.diagnostics import Diagnostic, Note

_BY_ZERO = r"(?:divi\w+|modulo) by zero|ZeroDivision"
# What its text looks like, what that means, what to do.
_CAUSES = (
    (
        r"out of (?:data )?bounds|out of range|invalid ind(?:ex|ices)|index \S+ is out",
        "an index that is computed lies outside its axis",
        "keep it within: `minimum(maximum(i, 0), full([], T - 1, dtype=i64))`",
    ),
    (
        _BY_ZERO, "an integer is divided by 0",
        "choose another divisor there: `x // where(d == 0, 1, d)`",
    ),
    (r"alloc|out of memory", "there is not enough memory", "give it smaller inputs, or smaller sizes of states"),
)  # fmt: skip


def failed(runtime: str, text: str) -> Diagnostic:
    """E0912: what went wrong as far as the runtime's text tells; the text itself is a note."""
    lines = text.strip().splitlines() or ["nothing"]
    note = Note(f"{runtime} says: {lines[0][:400]}")
    for pattern, cause, help in _CAUSES:
        if re.search(pattern, text, re.IGNORECASE):
            return Diagnostic("E0912", f"the run stopped: {cause}", notes=[note], help=help)
    return Diagnostic("E0912", f"{runtime} stopped the run", notes=[note], help="`tessera help E0912` says what may be the cause")


def divides_by_zero(text: str) -> bool:
    """Whether a runtime says that an integer is divided by 0, which is how a model refuses what it is given."""
    return re.search(_BY_ZERO, text, re.IGNORECASE) is not None
