"""Whose line a mistake is shown at: the user's first, that of the library behind it."""

from __future__ import annotations

from ....ir.diagnostics import IN_THE_LIBRARY, Diagnostic, Note, Span
from .library import SPECS

# A chain of calls is told up to this length; the innermost ones matter.
MOST_NOTES = 6


def shipped(span: Span | None) -> bool:
    """Whether a place lies in a file that is shipped."""
    return span is not None and span.file.startswith(str(SPECS))


def blame_user(error: Diagnostic, call: Span | None) -> bool:
    """Show a mistake in the library at a call that stands elsewhere, as that is what the user can change; whether it is so."""
    if not shipped(error.span) or call is None or shipped(call):
        return False
    error.notes.insert(0, Note(IN_THE_LIBRARY, error.span))
    error.span = call._replace(origin=None)
    return True


def blame_call(error: Diagnostic, call: Span | None, what: str) -> None:
    """Tell mistakes found within ``what`` from the place of its call: the user's line first, else a note."""
    for one in (error, *error.others):
        if blame_user(one, call) or len(one.notes) >= MOST_NOTES:
            continue
        if one.span is None or call is None or one.span[:5] != call[:5]:
            one.notes.append(Note(f"{what}, called here", call))
