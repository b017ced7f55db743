"""``tokenizer.json``: what it says as a declaration, and back. Only :mod:`...ir.tokenizer_parts` knows stages by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...ir.diagnostics import Diagnostic, Span
from ...ir.tokenizer import Added, Part, Tokenizer
from ...ir.tokenizer_parts import STAGES, Row, part, shown
from .forms import Misread, read_option, write_option
from .lexicon import recognised, spelled_out
from .octets import plain, recognised_octets

MAX_BYTES = 512 * 2**20
# Where a stage lies in the file, and what a sequence of several calls them.
PLACES = {
    "normalize": ("normalizer", "normalizers"), "split": ("pre_tokenizer", "pretokenizers"),
    "process": ("post_processor", "processors"), "decode": ("decoder", "decoders"),
}  # fmt: skip
_TOP = {"version", "truncation", "padding", "added_tokens", "model", *(place for place, _ in PLACES.values())}
_ADDED = ("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")
# Keys of the model that are its tables.
_TABLES = ("vocab", "merges")
_TYPES = {stage: {row.type: name for name, row in rows.items() if row.type} for stage, rows in STAGES.items()}


@dataclass(frozen=True, eq=False)
class Tables:
    """What stays in the file.

    Args:
        tokens: the ids of all tokens, added ones too.
        model: `vocab`, and `merges` of a model that has them, as the file has them.
        maps: character maps by the hash of their text.
    """

    tokens: Mapping[str, int]
    model: Mapping[str, Any]
    maps: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self.tokens.values(), default=-1) + 1

    def model_ids(self) -> Mapping[str, int]:
        """The ids of the model's own tokens."""
        vocab = self.model["vocab"]
        return vocab if isinstance(vocab, Mapping) else {text: number for number, (text, _) in enumerate(vocab)}


def open_tables(path: Path, shown: str, span: Span | None = None) -> tuple[bytes, str]:
    """The bytes of a file with tables, and their hash. Raises E0001, E1003."""
    if not path.is_file():
        raise Diagnostic(
            "E0001", f"there is no file `{shown}`", span, help="`tessera tokenizer train` writes the one of a `train` clause"
        )  # fmt: skip
    if path.stat().st_size > MAX_BYTES:
        raise Diagnostic("E1003", f"`{shown}` is larger than {MAX_BYTES // 2**20} MB", span)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Diagnostic("E1003", f"cannot read `{shown}`: {error.strerror}", span) from None
    return data, hashlib.sha256(data).hexdigest()


@lru_cache(maxsize=4)
def _decoded(data: bytes) -> Any:
    return json.loads(data)


def read_json(data: bytes, shown: str, span: Span | None = None) -> tuple[Tokenizer, Tables]:
    """The declaration that a ``tokenizer.json`` amounts to, without a name, and its tables. Raises E1003 for what is none."""
    try:
        whole = _decoded(data)
    except (ValueError, RecursionError) as error:
        raise Diagnostic("E1003", f"`{shown}` is no JSON: {str(error).splitlines()[0]}", span) from None
    try:
        return _Reader(whole).read()
    except Misread as error:
        raise Diagnostic("E1003", f"`{shown}` is no tokenizer.json that can be read: {error}", span) from None
    except Diagnostic as error:
        raise Diagnostic("E1003", f"`{shown}` is no tokenizer.json that can be read: {error.message}", span) from None


class _Reader:
    def __init__(self, whole: Any) -> None:
        self.whole = _object(whole, "the file")
        unknown = sorted(self.whole.keys() - _TOP)
        if unknown:
            raise Misread(f"nothing is known of its `{unknown[0]}`")
        self.maps: dict[str, str] = {}
        self.tokens: dict[str, int] = {}

    def read(self) -> tuple[Tokenizer, Tables]:
        model = _object(self.whole.get("model"), "`model`")
        self.tokens.update(_vocabulary(model.get("vocab")))
        _check_merges(model.get("merges"))
        size = _rows(self.tokens)
        added = tuple(map(self._added, _list(self.whole.get("added_tokens") or [], "`added_tokens`")))
        self._number(added)
        kind = _TYPES["model"].get(str(model.get("type") or _untagged(model)))
        if kind is None:
            raise Misread(f"there is no model `{model.get('type')}`")
        said = {name: value for name, value in model.items() if name not in ("type", *_TABLES)}
        options = self._options(STAGES["model"][kind], {**said, "vocab": size}, "the model")
        tokenizer = Tokenizer(
            "", part("model", kind, options), tuple(sorted(added, key=lambda a: a.id or 0)),
            tuple(self._stage("normalize")), tuple(self._stage("split")), tuple(self._stage("process")),
            tuple(self._stage("decode")), self._truncation(), self._padding(), size=_rows(self.tokens),
        )  # fmt: skip
        tables = Tables(self.tokens, {key: model[key] for key in _TABLES if key in model}, self.maps)
        vocab = tables.model.get("vocab", {})
        return recognised_octets(recognised(tokenizer, vocab), vocab), tables

    def _added(self, row: Any) -> Added:
        said = _object(row, "a row of `added_tokens`")
        if set(said) - set(_ADDED):
            raise Misread(f"nothing is known of `{sorted(set(said) - set(_ADDED))[0]}` of an added token")
        text, number, special = said.get("content"), said.get("id"), said.get("special", False)
        if not isinstance(text, str) or not text or type(number) is not int or number < 0:
            raise Misread(f"an added token has no text, or no id: {json.dumps(row)[:80]}")
        flags = {name: said.get(name, False) for name in ("single_word", "lstrip", "rstrip", "normalized")}
        if any(type(flag) is not bool for flag in (*flags.values(), special)):
            raise Misread(f"what is said of the added token `{text}` is neither true nor false")
        return Added(text, number, special, **flags)

    def _number(self, added: tuple[Added, ...]) -> None:
        """Take the ids of added tokens into the table of all. Raises Misread for two of one id, or of one text."""
        seen: set[str] = set()
        owners = {number: text for text, number in self.tokens.items()}
        for token in added:
            assert token.id is not None
            if token.text in seen:
                raise Misread(f"`{token.text}` is added twice")
            if self.tokens.get(token.text, token.id) != token.id or owners.get(token.id, token.text) != token.text:
                raise Misread(
                    f"the added token `{token.text}` has the id {token.id}, which its vocabulary gives to another token"
                )
            seen.add(token.text)
            owners[token.id] = token.text
            self.tokens[token.text] = token.id

    def _stage(self, stage: str) -> Iterator[Part]:
        place, several = PLACES[stage]
        pending = [self.whole.get(place)]
        while pending:
            said = pending.pop(0)
            if said is None:
                continue
            type_ = _object(said, f"`{place}`").get("type")
            if type_ == "Sequence":
                pending = [*_list(said.get(several), f"`{several}`"), *pending]
                continue
            name = _TYPES[stage].get(str(type_))
            if name is None:
                raise Misread(f"there is no {place} `{type_}`")
            said = {key: value for key, value in said.items() if key != "type"}
            yield part(stage, name, self._options(STAGES[stage][name], said, f"the {place} `{type_}`"))

    def _truncation(self) -> Part | None:
        said = self.whole.get("truncation")
        if said is None:
            return None
        said = dict(_object(said, "`truncation`"))
        name = _TYPES["truncate"].get(str(said.pop("strategy", None)))
        if name is None:
            raise Misread("`truncation` has no strategy that is known")
        return part("truncate", name, self._options(STAGES["truncate"][name], said, "`truncation`"))

    def _padding(self) -> Part | None:
        said = self.whole.get("padding")
        if said is None:
            return None
        said = dict(_object(said, "`padding`"))
        strategy = said.pop("strategy", None)
        if isinstance(strategy, dict) and list(strategy) == ["Fixed"]:
            said["length"], strategy = strategy["Fixed"], "Fixed"
        name = _TYPES["pad"].get(strategy) if isinstance(strategy, str) else None
        if name is None:
            raise Misread("`padding` has no strategy that is known")
        return part("pad", name, self._options(STAGES["pad"][name], said, "`padding`"))

    def _options(self, row: Row, said: dict[str, Any], owner: str) -> dict[str, Any]:
        """The options of a part as the file has them. Raises Misread for what it says beside them."""
        options: dict[str, Any] = {}
        left = dict(said)
        for opt in row.options:
            key = opt.key or opt.name
            if key in said:
                options[opt.name] = read_option(opt, said[key], said, self.tokens, self.maps)
                left.pop(key, None)
        for key in _older(row.type, left, options):
            left.pop(key, None)
        left.pop("special_tokens", None)
        if left:
            raise Misread(f"nothing is known of `{next(iter(left))}` of {owner}")
        return options


def _older(type_: str, left: Mapping[str, Any], options: dict[str, Any]) -> list[str]:
    """Keys that older files have, taken into the options that they became."""
    if type_ != "Metaspace":
        return []
    if "add_prefix_space" in left and "scheme" not in options:
        options["scheme"] = "always" if left["add_prefix_space"] else "never"
    return ["add_prefix_space", "str_rep"]


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Misread(f"{what} is no object")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise Misread(f"{what} is no list")
    return value


def _vocabulary(vocab: Any) -> dict[str, int]:
    """The ids of the model's tokens. Raises Misread for what is no table of them."""
    if isinstance(vocab, list):
        pieces = [row[0] if isinstance(row, list) and len(row) == 2 else None for row in vocab]
        if not all(isinstance(piece, str) for piece in pieces) or not all(_is_number(row[1]) for row in vocab):
            raise Misread("`vocab` has a row that is no token with a score")
        # Of pieces that are there twice the package keeps the last.
        return {str(piece): number for number, piece in enumerate(pieces)}
    table = _object(vocab, "`vocab`")
    if not all(type(number) is int and 0 <= number < 2**31 for number in table.values()):
        raise Misread("`vocab` has an id that is no number of a token")
    if len(set(table.values())) != len(table):
        raise Misread("`vocab` has one id twice")
    return dict(table)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_merges(merges: Any) -> None:
    if merges is None:
        return
    for row in _list(merges, "`merges`"):
        pair = row.split(" ") if isinstance(row, str) else row
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise Misread(f"`merges` has a row that is no pair: {json.dumps(row)[:80]}")


def _rows(tokens: Mapping[str, int]) -> int:
    return max(tokens.values(), default=-1) + 1


def _untagged(model: Mapping[str, Any]) -> str:
    """The type of a model whose file is too old to say it."""
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


# Writing --------------------------------------------------------------------------------------------------------------


def write_json(tokenizer: Tokenizer, tables: Tables) -> bytes:
    """A ``tokenizer.json`` that means the same, with these tables. Raises E1004 for a stage or token that it cannot have."""
    tokenizer = spelled_out(tokenizer, tables.model["vocab"]) if tokenizer.model.name == "longest" else plain(tokenizer)
    whole: dict[str, Any] = {"version": "1.0"}
    whole["truncation"] = _written("truncate", tokenizer.truncate, tables, "strategy")
    whole["padding"] = _written("pad", tokenizer.pad, tables, "strategy")
    if tokenizer.pad is not None and tokenizer.pad.name == "fixed":
        whole["padding"]["strategy"] = {"Fixed": whole["padding"].pop("length")}
    whole["added_tokens"] = [
        _added_row(token, tables) for token in sorted(tokenizer.added, key=lambda a: tables.tokens[a.text])
    ]
    for stage, (place, several) in PLACES.items():
        rows = [_written(stage, one, tables) for one in getattr(tokenizer, stage)]
        whole[place] = rows[0] if len(rows) == 1 else {"type": "Sequence", several: rows} if rows else None
    model = _written("model", tokenizer.model, tables)
    assert model is not None
    whole["model"] = {**{key: value for key, value in model.items() if key not in _TABLES}, **tables.model}
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()


def _written(stage: str, one: Part | None, tables: Tables, kind: str = "type") -> dict[str, Any] | None:
    if one is None:
        return None
    row = STAGES[stage][one.name]
    if not row.type:
        raise Diagnostic(
            "E1004", f"no tokenizer.json has the stage `{stage} {shown(stage, one)}`", one.span,
            help='it is one of a model of SentencePiece: `from "x.model"`',
        )  # fmt: skip
    said: dict[str, Any] = {kind: row.type}
    for opt in row.options:
        write_option(opt, one[opt.name], said, tables.tokens, tables.maps)
    return said


def _added_row(token: Added, tables: Tables) -> dict[str, Any]:
    return {
        "id": tables.tokens[token.text], "content": token.text, "single_word": token.single_word, "lstrip": token.lstrip,
        "rstrip": token.rstrip, "normalized": token.normalized, "special": token.special,
    }  # fmt: skip
