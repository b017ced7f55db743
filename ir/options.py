"""Options of passes and targets: declared as dataclass fields, checked against their types whoever gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .diagnostics import Diagnostic, Span, did_you_mean
from .notation import show_value
from .types import DType


def option(
    default: Any,
    doc: str,
    *,
    least: float | None = None,
    most: float | None = None,
    check: Callable[[Any], str | None] | None = None,
    hidden: bool = False,
) -> Any:
    """A field of a pass or a target.

    Args:
        doc: one line for ``tessera passes``.
        least, most: bounds of a number, or of every number in a list.
        check: returns what is wrong with a value that types and bounds admit, or None.
        hidden: holds what is no option of its own name.
    """
    metadata = {"doc": doc, "least": least, "most": most, "check": check, "hidden": hidden}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Option:
    """One option, as ``tessera passes`` shows it."""

    name: str
    type: Any
    default: Any
    doc: str

    @property
    def kind(self) -> str:
        """The type in words: ``int | list of int``."""
        return describe(self.type)


def options_of(cls: type) -> dict[str, Option]:
    """The options of a pass or a target by name."""
    hints = get_type_hints(cls)
    return {
        f.name: Option(f.name, hints[f.name], f.default, f.metadata.get("doc", ""))
        for f in dataclasses.fields(cls)
        if f.init and not f.metadata.get("hidden")
    }


@dataclasses.dataclass(frozen=True)
class Mistakes:
    """The codes of what is wrong with options: one that there is not, of the wrong type, out of range."""

    unknown: str
    type: str
    range: str


def check_values(
    cls: type,
    owner: str,
    given: Mapping[str, Any],
    span: Span | None,
    codes: Mistakes,
    places: Mapping[str, Span] | None = None,
) -> dict[str, Any]:
    """The given values in the types of the fields of ``cls``.

    Args:
        owner: what has these options, ``the pass `dce```.
        span: where the values stand, all together.
        places: where each stands, as far as that is known.

    Raises:
        Diagnostic: of ``codes``.
    """
    values = checked(options_of(cls), owner, given, span, codes, places)
    places = places or {}
    for field in dataclasses.fields(cls):
        problem = _out_of_range(field, values[field.name]) if field.name in values else None
        if problem:
            raise Diagnostic(codes.range, f"`{field.name}` of {owner} {problem}", places.get(field.name, span))
    return values


def checked(
    known: Mapping[str, Option],
    owner: str,
    given: Mapping[str, Any],
    span: Span | None,
    codes: Mistakes,
    places: Mapping[str, Span] | None = None,
) -> dict[str, Any]:
    """The given values in the types of the ``known`` options. Raises Diagnostic of ``codes``."""
    values: dict[str, Any] = {}
    places = places or {}
    for name, value in given.items():
        place = places.get(name, span)
        if name not in known:
            shown = ", ".join(known)
            help = did_you_mean(name, known) or (f"its options are {shown}" if known else "it has no options")
            raise Diagnostic(codes.unknown, f"{owner} has no option `{name}`", place, help=help)
        fits, converted = convert(value, known[name].type)
        if not fits:
            message = f"`{name}` of {owner} must be {known[name].kind}, but is {show_value(value)}"
            raise Diagnostic(codes.type, message, place, help=known[name].doc or None)
        values[name] = converted
    return values


def _out_of_range(field: dataclasses.Field[Any], value: Any) -> str | None:
    least, most, check = (field.metadata.get(key) for key in ("least", "most", "check"))
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            # `not >=` rather than `<`, so that nan is refused.
            low = least is not None and not number >= least
            high = most is not None and not number <= most
            if low or high:
                both = f"from {least} to {most}" if least is not None and most is not None else None
                bounds = both or (f"at least {least}" if low else f"at most {most}")
                return f"must be {bounds}, but is {number}"
    return check(value) if check is not None else None


def convert(value: Any, hint: Any) -> tuple[bool, Any]:
    """Whether ``value`` is of the type ``hint``, and the value in that type (lists become tuples, an int a real)."""
    if get_origin(hint) in (Union, UnionType):
        # An exact member first: 8 for `float | int` stays the integer 8.
        for member in sorted(get_args(hint), key=lambda m: type(value) is not m):
            fits, converted = convert(value, member)
            if fits:
                return True, converted
        return False, None
    if get_origin(hint) is Literal:
        # A word that is a dtype where one may stand.
        value = value.name if isinstance(value, DType) else value
        return (True, value) if any(type(value) is type(a) and value == a for a in get_args(hint)) else (False, None)
    if get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple, range)):
            return False, None
        items = [convert(item, get_args(hint)[0]) for item in value]
        return all(fits for fits, _ in items), tuple(item for _, item in items)
    if hint is NoneType:
        return value is None, None
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return True, float(value)
    if hint is int and isinstance(value, bool):
        return False, None
    return isinstance(value, hint), value


def describe(hint: Any) -> str:
    """A type as a user writes it."""
    if get_origin(hint) in (Union, UnionType):
        return " | ".join(describe(member) for member in get_args(hint))
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"list of {describe(get_args(hint)[0])}"
    names = {int: "int", float: "real", bool: "bool", str: "str", NoneType: "none"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
