"""Where the declaration of a tokenizer says other than the file of its tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ....ir.diagnostics import Diagnostic, Note
from ....ir.tokenizer import Added, Part, Tokenizer
from ....ir.tokenizer_parts import REPEATED, STAGES, shown


def differences_of(written: Tokenizer, found: Tokenizer) -> Iterator[Diagnostic]:
    """Where a declaration says other than its file."""
    assert written.source is not None
    for stage in STAGES:
        ours, theirs = getattr(written, stage), getattr(found, stage)
        if stage == "round" or not ours or (stage == "model" and not ours.name):
            continue
        rows = list(ours) if stage in REPEATED else [ours]
        others = list(theirs) if stage in REPEATED else [theirs] if theirs is not None else []
        loose = {"vocab"} if written.round is not None else set()
        if len(rows) == len(others) and all(_agree(stage, a, b, loose) for a, b in zip(rows, others, strict=True)):
            continue
        text = ", ".join(f"`{stage} {shown(stage, one)}`" for one in others) or "none"
        yield Diagnostic(
            "E1004", f"`{written.source.path}` has another `{stage}` than is declared here", rows[0].span,
            notes=[Note(f"the file has {text}", written.source.span)],
            help="leave the clause out, so that the file says it; or train a file of this declaration",
        )  # fmt: skip
    known = {token.text: token for token in found.added}
    for token in written.added:
        other = known.get(token.text)
        if other is not None and other == replace(token, id=other.id if token.id is None else token.id):
            continue
        name = written.source.path
        yield Diagnostic(
            "E1004",
            f"`{name}` has no token `{token.text}`" if other is None
            else f"`{token.text}` is another token in `{name}`: {_told(other)}", token.span,
            help="leave the clause out, so that the file says it; or train a file of this declaration",
        )  # fmt: skip


def _agree(stage: str, ours: Part, theirs: Part, loose: set[str]) -> bool:
    """Whether two parts mean the same; what lies in the file need not be written."""
    if ours.name != theirs.name:
        return False
    left_out = {opt.name for opt in STAGES[stage][ours.name].options if opt.form == "table" and ours[opt.name] is None}
    return all(value == theirs[name] for name, value in ours.options if name not in left_out | loose)


def _told(token: Added) -> str:
    """What an added token is, in words."""
    flags = [name for name in ("single_word", "lstrip", "rstrip", "normalized") if getattr(token, name)]
    word = "special" if token.special else "injected"
    return f"{word}, with the id {token.id}{', ' if flags else ''}{', '.join(flags)}"
