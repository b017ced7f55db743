"""The table from op types to importer functions, filled by the modules of ``ops/``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    from ...ir.graph import Value
    from .call import Call
    from .scope import Frame
    from .values import Tensor

Result = Union["Value", "Tensor"]
# An importer function returns the results of one node; None for one that is left out.
Import = Callable[["Call"], Result | Sequence[Result | None]]
# Known numbers in, known numbers out: shapes are computed while importing. Raises Unfoldable where they cannot be.
Fold = Callable[..., Any]

IMPORTS: dict[tuple[str, str], Import] = {}
FOLDS: dict[tuple[str, str], Fold] = {}
# Ops with graphs inside: they give the nodes to go on with, or None when they are done.
CONTROL: dict[tuple[str, str], Callable[[Call], Frame | None]] = {}

MICROSOFT = "com.microsoft"


def imports(*names: str, domain: str = "") -> Callable[[Import], Import]:
    """Register a function for op types: ``@imports("Add", "Sub")``."""

    def register(function: Import) -> Import:
        for name in names:
            IMPORTS[(domain, name)] = function
        return function

    return register


def folds(*names: str) -> Callable[[Fold], Fold]:
    """Register how op types compute on known numbers: ``function(call, *arrays)``; an absent input is None."""

    def register(function: Fold) -> Fold:
        for name in names:
            FOLDS[("", name)] = function
        return function

    return register
