"""How options of stages lie in a ``tokenizer.json``: one reader and one writer for each form."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from ...ir.diagnostics import Diagnostic
from ...ir.tokenizer_parts import Opt

_TYPED = re.compile(r"(.*):(\d+)", re.DOTALL)


class Misread(Exception):
    """Why a file is no ``tokenizer.json`` that can be read, in words."""


# Reading --------------------------------------------------------------------------------------------------------------


def read_option(opt: Opt, value: Any, said: Mapping[str, Any], tokens: Mapping[str, int], maps: dict[str, str]) -> Any:
    """The value of an option; ``said`` is all that the file says of the part. Character maps go to ``maps``. Raises Misread."""
    if opt.form == "pattern":
        wanted = "String" if opt.name == "text" else "Regex"
        if not isinstance(value, dict) or len(value) != 1 or not {"String", "Regex"}.issuperset(value):
            raise Misread(f"a pattern is neither a text nor a regular expression: {value!r:.80}")
        return value.get(wanted)
    if opt.form == "token":
        return _token(value, tokens)
    if opt.form == "pieces":
        return _pieces(value, said.get("special_tokens"), tokens)
    if opt.name == "unknown" and opt.form == "index":
        return None if value is None else _surface(value, tokens)
    if opt.form == "index":
        return None if tokens.get(str(said.get("pad_token"))) == value else value
    if opt.name == "sha256" and opt.form == "table":
        if not isinstance(value, str):
            raise Misread("a character map is no text")
        digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
        maps[digest] = value
        return digest
    if opt.words and isinstance(value, str):
        return next((ours for ours, theirs in opt.words if theirs == value), value)
    return tuple(value) if isinstance(value, list) else value


def _token(value: Any, tokens: Mapping[str, int]) -> str:
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str):
        raise Misread(f"a token has no text and id: {value!r:.80}")
    _check_id(value[0], value[1], tokens)
    return value[0]


def _check_id(text: str, number: Any, tokens: Mapping[str, int]) -> None:
    if tokens.get(text) != number:
        raise Misread(
            f"`{text}` has the id {number!r:.20} around texts, and {tokens.get(text, 'none')} in the vocabulary"
        )


def _surface(value: Any, tokens: Mapping[str, int]) -> str:
    found = next((text for text, number in tokens.items() if number == value), None)
    if found is None:
        raise Misread(f"the unknown token {value!r:.20} is not in the vocabulary")
    return found


def _pieces(value: Any, means: Any, tokens: Mapping[str, int]) -> tuple[str, ...]:
    """A template as texts: ``[CLS]``, ``$A``, ``[SEP]:1``; a token that begins with ``$`` gets another one."""
    if not isinstance(value, list) or not isinstance(means, dict):
        raise Misread("a template is no list of pieces with `special_tokens`")
    pieces = []
    for row in value:
        kind, inner = next(iter(row.items())) if isinstance(row, dict) and len(row) == 1 else (None, None)
        if (
            not isinstance(inner, dict)
            or kind not in ("SpecialToken", "Sequence")
            or not isinstance(inner.get("id"), str)
        ):
            raise Misread(f"a template has a piece that is no token and no text: {row!r:.80}")
        name, segment = inner["id"], inner.get("type_id", 0)
        if type(segment) is not int or segment < 0:
            raise Misread(f"a template has a piece of the segment {segment!r:.20}")
        if kind == "SpecialToken":
            meant = means.get(name)
            text, number = (meant.get(key) for key in ("tokens", "ids")) if isinstance(meant, dict) else (None, None)
            if not (isinstance(text, list) and isinstance(number, list) and len(text) == len(number) == 1):
                raise Misread(f"`{name}` of a template stands for no token, or for several")
            token = str(text[0])
            _check_id(token, number[0], tokens)
            name = f"${token}" if token.startswith("$") else token
        elif name in ("A", "B"):
            name = f"${name}"
        else:
            raise Misread(f"a template has the text `{name}`, which is neither `A` nor `B`")
        pieces.append(f"{name}:{segment}" if segment or _TYPED.fullmatch(name) else name)
    return tuple(pieces)


# Writing --------------------------------------------------------------------------------------------------------------


def write_option(
    opt: Opt, value: Any, said: dict[str, Any], tokens: Mapping[str, int], maps: Mapping[str, str]
) -> None:
    """Put an option into what a file says of a part. Raises E1004 for a token that the vocabulary does not have."""
    key = opt.key or opt.name
    if opt.form == "pattern":
        if value is not None:
            said[key] = {"String" if opt.name == "text" else "Regex": value}
    elif opt.form == "token":
        said[key] = [value, id_of(value, tokens)]
    elif opt.form == "pieces":
        said[key] = [_piece(text) for text in value]
        means = said.setdefault("special_tokens", {})
        for token in template_tokens(value):
            means[token] = {"id": token, "ids": [id_of(token, tokens)], "tokens": [token]}
    elif opt.form == "index":
        named = said.get("pad_token") if opt.name == "id" and value is None else value
        said[key] = value if isinstance(value, int) or named is None else id_of(named, tokens)
    elif opt.form == "table":
        if opt.name == "sha256":
            said[key] = maps[value]
    elif opt.words:
        said[key] = dict(opt.words)[value]
    else:
        said[key] = list(value) if isinstance(value, tuple) else value


def id_of(token: str, tokens: Mapping[str, int]) -> int:
    """The id of a token. Raises E1004 when the vocabulary has none."""
    if token not in tokens:
        raise Diagnostic(
            "E1004", f"the vocabulary has no token `{token}`, which a stage names",
            help=f'declare it: `special "{token}"`',
        )  # fmt: skip
    return tokens[token]


def template_tokens(pieces: tuple[str, ...]) -> list[str]:
    """The tokens that a template puts around texts."""
    names = [split_piece(piece)[0] for piece in pieces]
    return [name.removeprefix("$") for name in names if name not in ("$A", "$B")]


def split_piece(piece: str) -> tuple[str, int]:
    """The text of a piece of a template, and its segment."""
    typed = _TYPED.fullmatch(piece)
    return (typed[1], int(typed[2])) if typed else (piece, 0)


def _piece(text: str) -> dict[str, Any]:
    name, segment = split_piece(text)
    if name in ("$A", "$B"):
        return {"Sequence": {"id": name[1:], "type_id": segment}}
    return {"SpecialToken": {"id": name.removeprefix("$"), "type_id": segment}}
