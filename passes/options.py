"""A pass's options: declared as dataclass fields, checked against their types whoever gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..ir.options import Mistakes, Option, check_values, checked, describe, option, options_of

if TYPE_CHECKING:
    from ..ir.compiling import PassSpec
    from .engine import Pass

_CODES = Mistakes("E0702", "E0703", "E0704")

__all__ = ["Option", "check_further", "check_options", "describe", "option", "options_of"]


def check_options(cls: type[Pass], spec: PassSpec) -> dict[str, Any]:
    """The values of ``spec`` in the types of the fields.

    Raises:
        Diagnostic: E0702 unknown option, E0703 wrong type, E0704 out of range; with the place of ``spec``.
    """
    known = options_of(cls)
    own = {n: v for n, v in spec.options.items() if n in known}
    values = check_values(cls, f"the pass `{cls.name}`", own, spec.span, _CODES, spec.places)
    others = {n: v for n, v in spec.options.items() if n not in known}
    further = cls.further_options(spec) if others else {}
    if others:
        if further is not None:
            others = check_further(cls, known | further, others, spec)
        values["further"] = tuple(sorted(others.items()))
    return values


def check_further(
    cls: type[Pass], known: Mapping[str, Option], given: Mapping[str, Any], spec: PassSpec | None = None
) -> dict[str, Any]:
    """The given values in the types of the options that are ``known``. Raises E0702, E0703."""
    span, places = (None, None) if spec is None else (spec.span, spec.places)
    return checked(known, f"the pass `{cls.name}`", given, span, _CODES, places)
