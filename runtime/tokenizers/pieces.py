"""Files of SentencePiece, ``x.model``: what they say as a declaration, and which id each of their pieces has."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import count
from typing import Any

from ...ir.diagnostics import Diagnostic
from ...ir.tokenizer import Added, Part, Tokenizer
from ...ir.tokenizer_parts import part, shown
from .forms import Misread
from .rows import check_named

SUFFIX = ".model"
NAME = "sentencepiece"
# What `type` of a piece, and `model_type` of a trainer, are called in the file.
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_KINDS = {1: "unigram", 2: "bpe", 3: "wordlevel"}
# Stages that a declaration may have beside those of its file.
_BESIDE = ("process", "truncate", "pad")


def is_pieces(tokenizer: Tokenizer) -> bool:
    """Whether the tables of a declaration are a file of SentencePiece."""
    return tokenizer.source is not None and tokenizer.source.path.endswith(SUFFIX)


def package() -> Any:
    """The package `sentencepiece`. Raises E0015 without it."""
    try:
        import sentencepiece
        import sentencepiece.sentencepiece_model_pb2
        import sentencepiece.sentencepiece_pb2
    except ImportError:
        raise Diagnostic(
            "E0015", "models of SentencePiece need the package `sentencepiece`", help="pip install 'tessera[text]'"
        ) from None
    return sentencepiece


def read_pieces(data: bytes, tokenizer: Tokenizer) -> Tokenizer:
    """A declaration with what its file says: all stages up to the model, how ids become text, and the tokens that are no text.

    Raises:
        Diagnostic: E1003 for a file that is none, or says what is not known; E1004 for a token that a stage names and nothing
            has, or a stage that no such file has; E1005 for ids that are those of others; E0015.
    """
    source = tokenizer.source
    assert source is not None
    try:
        found, ids = _read(data, source.first)
    except Misread as error:
        raise Diagnostic(
            "E1003", f"`{source.path}` is no model of SentencePiece that can be read: {error}", source.span
        ) from None
    check_stages(tokenizer)
    added = list(found.added)
    known = {token.text: token for token in added}
    size = found.size or 0
    for token in tokenizer.added:
        if token.text in known:
            continue
        if not token.special or token.id != size:
            why = "it is injected" if not token.special else "it has no id" if token.id is None else f"the next id is {size}"
            raise Diagnostic(
                "E1005", f"`{token.text}` is no piece of `{source.path}`, and cannot stand behind them: {why}", token.span,
                help=f'behind the pieces stand special tokens, numbered one by one: `special "{token.text}" = {size}`',
            )  # fmt: skip
        added.append(token)
        size += 1
    check_named(tokenizer, {**ids, **{token.text: token.id or 0 for token in added}})
    beside = {stage: getattr(tokenizer, stage) for stage in _BESIDE}
    return replace(found, name=tokenizer.name, added=tuple(added), size=size, source=source, span=tokenizer.span, **beside)


def check_stages(tokenizer: Tokenizer) -> None:
    """Raises E1004 for a stage that stands beside no model of SentencePiece, E1005 for a family."""
    assert tokenizer.source is not None
    path = tokenizer.source.path
    wrong = [("split", one) for one in tokenizer.split] + [
        ("process", one) for one in tokenizer.process if one.name != "template"
    ]
    if tokenizer.round is not None:
        wrong.append(("round", tokenizer.round))
    for stage, one in wrong:
        raise Diagnostic(
            "E1004", f"`{path}` is a model of SentencePiece, beside which there is no `{stage} {shown(stage, one)}`", one.span,
            help="tokens around texts are put there by `process template(single=…, pair=…)`" if stage == "process"
            else f"leave it out, or name a tokenizer.json, which may have it: `from \"{path.removesuffix(SUFFIX)}.json\"`",
        )  # fmt: skip
    if len(tokenizer.process) > 1:
        raise Diagnostic("E1004", f"beside `{path}` there is one `process`", tokenizer.process[1].span, help="leave one of them")
    if tokenizer.family:
        raise Diagnostic(
            "E1005", f"the pieces of `{path}` are one vocabulary, without members", tokenizer.span,
            help="leave `family` out, or name a tokenizer.json",
        )  # fmt: skip


def parsed(data: bytes) -> Any:
    """The message that a file is. Raises Misread for what is none."""
    made = package().sentencepiece_model_pb2.ModelProto()
    from google.protobuf.message import DecodeError

    try:
        made.ParseFromString(data)
    except (DecodeError, ValueError):
        raise Misread("its bytes are none") from None
    return made


@lru_cache(maxsize=2)
def _read(data: bytes, first: Sequence[str]) -> tuple[Tokenizer, dict[str, int]]:
    """What a file says, without a name, and the ids of its pieces."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    made = parsed(data)
    for what, message in (("file", made), ("training", made.trainer_spec), ("normaliser", made.normalizer_spec)):
        for unknown in UnknownFieldSet(message):
            raise Misread(f"nothing is known of the field {unknown.field_number} of its {what}")
    if made.denormalizer_spec.precompiled_charsmap:
        raise Misread("it has a character map for the way back, which no declaration has")
    kind = _KINDS.get(made.trainer_spec.model_type)
    if kind is None:
        raise Misread("its pieces are single characters: there are models of kind unigram, bpe and word")
    _check_text(made.normalizer_spec.name, made.trainer_spec.unk_surface)
    texts = _texts(made)
    unknown = [text for text, row in zip(texts, made.pieces, strict=True) if row.type == UNKNOWN]
    if len(unknown) != 1:
        raise Misread(f"{len(unknown)} of its pieces are the unknown one")
    ids = numbering(texts, first)
    added = [
        Added(text, number, row.type == CONTROL) for text, row, number in zip(texts, made.pieces, ids, strict=True)
        if row.type in (CONTROL, USER)
    ] + [Added(text, number, True) for number, text in enumerate(first) if text not in set(texts)]
    options: dict[str, Any] = {"vocab": len(texts), "unknown": unknown[0]}
    if kind != "wordlevel":
        options["byte_fallback"] = made.trainer_spec.byte_fallback
    if kind == "bpe":
        # Unknown characters in a row are one token.
        options["fuse"] = not made.trainer_spec.byte_fallback
    found = Tokenizer(
        "", part("model", kind, options), tuple(sorted(added, key=lambda token: token.id or 0)), (_normalizer(made),),
        decode=(part("decode", NAME, {"unknown": made.trainer_spec.unk_surface}),),
        size=max(*ids, len(first) - 1) + 1,
    )  # fmt: skip
    return found, dict(zip(texts, ids, strict=True))


def _texts(made: Any) -> list[str]:
    """The pieces as texts. Raises Misread where they are none, or one is there twice."""
    texts = [row.piece for row in made.pieces]
    _check_text(*texts)
    if not all(texts):
        raise Misread("one of its pieces is empty")
    if len(set(texts)) != len(texts):
        again = Counter(texts).most_common(1)[0][0]
        raise Misread(f"it has the piece `{again}` twice")
    return texts


def _check_text(*values: Any) -> None:
    """Raises Misread for what is not UTF-8, of which the package gives the bytes."""
    wrong = next((value for value in values if not isinstance(value, str)), None)
    if wrong is not None:
        raise Misread(f"a text in it is not UTF-8: {wrong!r:.40}")


def _normalizer(made: Any) -> Part:
    spec = made.normalizer_spec
    name = spec.name
    rule = "identity" if not spec.precompiled_charsmap else name if name not in ("", "identity") else "user_defined"
    return part("normalize", NAME, {
        "rule": rule, "prefix": spec.add_dummy_prefix, "collapse": spec.remove_extra_whitespaces,
        "escape": spec.escape_whitespaces, "suffix": made.trainer_spec.treat_whitespace_as_suffix,
        "sha256": hashlib.sha256(spec.precompiled_charsmap).hexdigest() if spec.precompiled_charsmap else None,
    })  # fmt: skip


def numbering(texts: Sequence[str], first: Sequence[str]) -> list[int]:
    """The id of each piece of a file: those that are among the ``first`` tokens have their place there, the others follow."""
    places = {text: number for number, text in enumerate(first)}
    behind = count(len(first))
    return [places[text] if text in places else next(behind) for text in texts]
