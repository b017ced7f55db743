"""Members of a family: the same stages over a vocabulary whose ids are the first of those of the largest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...ir.diagnostics import Diagnostic
from ...ir.tokenizer import Part, Tokenizer
from .files import Tables, read_json, write_json
from .training import joined


def member(data: bytes, tokenizer: Tokenizer, size: int) -> tuple[bytes, Tokenizer]:
    """The ``tokenizer.json`` of the member of that size, and its declaration.

    Args:
        data: the file of the largest one.

    Raises:
        Diagnostic: E1005 where the family has no such member, or a token of one letter is not among so few.
    """
    if size not in tokenizer.family:
        known = ", ".join(map(str, tokenizer.family))
        raise Diagnostic(
            "E1005", f"the tokenizer `{tokenizer.name}` has no member of {size} tokens", tokenizer.span,
            help=f"its family is {known}" if known else f"declare one: `family [{size}, …]`",
        )  # fmt: skip
    found, tables = read_json(data, tokenizer.name, tokenizer.span)
    lost = next((t for t, number in tables.tokens.items() if number >= size and len(t) == 1 and found.model.name == "bpe"), None)
    if lost is not None:
        raise Diagnostic(
            "E1005", f"the first {size} tokens of `{tokenizer.name}` leave out the letter `{lost}`", tokenizer.span,
            help="the smallest member needs every letter of the corpus: make it larger, or train with `limit_alphabet`",
        )  # fmt: skip
    tokens = {text: number for text, number in tables.tokens.items() if number < size}
    model: dict[str, Any] = {"vocab": {text: number for text, number in tables.model["vocab"].items() if number < size}}
    if "merges" in tables.model:
        rows = (row.split(" ") if isinstance(row, str) else row for row in tables.model["merges"])
        model["merges"] = [[a, b] for a, b in rows if {a, b, joined(tokenizer, (a, b))} <= tokens.keys()]
    options = tuple((name, size if name == "vocab" else value) for name, value in tokenizer.model.options)
    smaller = replace(tokenizer, model=Part(tokenizer.model.name, options), size=size)
    return write_json(smaller, Tables(tokens, model, tables.maps)), smaller
