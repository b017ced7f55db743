"""A pass's options: declared as dataclass fields, checked against their types whoever gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..ir.options import Mistakes, Option, check_values, convert, describe, option, options_of

if TYPE_CHECKING:
    from ..ir.compiling import PassSpec
    from .engine import Pass

__all__ = ["Option", "check_options", "convert", "describe", "option", "options_of"]


def check_options(cls: type[Pass], spec: PassSpec) -> dict[str, Any]:
    """The values of ``spec`` in the types of the fields.

    Raises:
        Diagnostic: E0702 unknown option, E0703 wrong type, E0704 out of range; with the place of ``spec``.
    """
    codes = Mistakes("E0702", "E0703", "E0704")
    return check_values(cls, f"the pass `{cls.name}`", spec.options, spec.span, codes, spec.places)
