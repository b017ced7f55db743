"""`...` in the notations of axes: spelled out as the axes that it stands for in this call."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ....ir.diagnostics import Diagnostic, Span
from .values import is_tensor

if TYPE_CHECKING:
    from .arguments import Argument

# The ops with such a notation, and the name of the parameter that holds it.
WITH_ELLIPSIS = {"einsum": "equation", "rearrange": "pattern"}


def spelled_out(op: str, arguments: list[Argument], span: Span | None) -> list[Argument]:
    """The arguments of an einsum or a rearrange with names for the axes of each `...`; the same ones, from the last, in each.

    Raises:
        Diagnostic: E0405 for a `...` that only one side has, or that occurs twice in an operand.
    """
    text = next((v for n, v, _ in arguments if isinstance(v, str) and n in (None, WITH_ELLIPSIS[op])), None)
    if text is None or "..." not in text or "->" not in text:
        return arguments
    left, _, right = text.partition("->")
    terms = left.split(",")
    tensors = [v for _, v, _ in arguments if is_tensor(v)]
    if any(side.count("...") > 1 for side in (*terms, right)) or ("..." in left) != ("..." in right):
        raise Diagnostic(
            "E0405", f"`...` of `{text}` stands once in the result, and at most once in each operand", span,
            help=f"write the axes with names where they are not the same on both sides: `{op}` sums over none of them unseen",
        )  # fmt: skip
    if len(terms) != len(tensors):
        return arguments
    counts = [max(0, t.type.rank - _axes(term)) for term, t in zip(terms, tensors, strict=True) if "..." in term]
    taken = set(re.findall(r"\w+", text))
    names = [name for i in range(1000) if (name := f"axis{i}") not in taken][: max(counts)]

    def spelled(term: str, count: int) -> str:
        return re.sub(r"\s+", " ", term.replace("...", f" {' '.join(names[len(names) - count :])} ")).strip()

    counted = iter(counts)
    shown = ", ".join(spelled(term, next(counted)) if "..." in term else term.strip() for term in terms)
    made = f"{shown} -> {spelled(right, len(names))}"
    return [(n, made if v is text else v, where) for n, v, where in arguments]


def _axes(term: str) -> int:
    """How many axes a term names beside its `...`; a group in parentheses is one."""
    return len(re.sub(r"\([^)]*\)", "g", term.replace("...", " ")).split())
