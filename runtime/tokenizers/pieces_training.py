"""Training models of SentencePiece by the package itself; special tokens, which change nothing that it learns, are put in
where they are declared."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

from ...ir.diagnostics import Diagnostic
from ...ir.tokenizer import Added, Tokenizer
from ...ir.tokenizer_parts import shown
from .pieces import CONTROL, NAME, SUFFIX, UNKNOWN, check_stages, package, parsed, read_pieces
from .standard import first_line
from .trainers import options_of

# What the package calls the models that it trains, and which options of `train` it takes.
_TYPES = {"unigram": "unigram", "bpe": "bpe", "wordlevel": "word"}
_OPTIONS = ("longest", "alphabet")
_RULES = ("nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity")
# The package leaves out longer lines; a file has none.
_LONGEST_LINE = 2**30


def train_pieces(tokenizer: Tokenizer, texts: Iterable[str], wanted: int) -> bytes:
    """A model of SentencePiece of so many pieces.

    Raises:
        Diagnostic: E1002 for an option that there is not, E1004 for a stage that no such model has, E1005 for ids that do not fit,
            E1010 where the training fails.
    """
    training = tokenizer.training
    assert training is not None
    options = check_pieces(tokenizer)
    normalizer = tokenizer.normalize[0]
    unknown = tokenizer.model["unknown"]
    special = [token for token in tokenizer.added if token.special and token.text != unknown]
    inside = [token for token in special if token.id is None or token.id < wanted]
    out = io.BytesIO()
    try:
        package().SentencePieceTrainer.train(
            sentence_iterator=(text.rstrip("\r\n") for text in texts), model_writer=out, model_type=_TYPES[tokenizer.model.name],
            vocab_size=wanted - len(inside), hard_vocab_limit=False, num_threads=1, minloglevel=2,
            max_sentence_length=_LONGEST_LINE,
            unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1, unk_piece=unknown, unk_surface=_unknown_surface(tokenizer),
            normalization_rule_name=normalizer["rule"], add_dummy_prefix=normalizer["prefix"],
            remove_extra_whitespaces=normalizer["collapse"], escape_whitespaces=normalizer["escape"],
            treat_whitespace_as_suffix=normalizer["suffix"],
            byte_fallback=dict(tokenizer.model.options).get("byte_fallback", False),
            user_defined_symbols=[token.text for token in tokenizer.added if not token.special],
            max_sentencepiece_length=options.get("longest", 16), required_chars="".join(options.get("alphabet", ())),
        )  # fmt: skip
    except (RuntimeError, OSError) as error:
        raise Diagnostic("E1010", f"the training failed: {first_line(error)}", training.span) from None
    data = _placed(tokenizer, out.getvalue(), inside, wanted)
    # What is declared must be what the file says.
    read_pieces(data, tokenizer)
    return data


def check_pieces(tokenizer: Tokenizer) -> dict[str, Any]:
    """The options of training.

    Raises:
        Diagnostic: E1002 for one that there is not, E1004 for stages that no model of SentencePiece has, E1005 for a family.
    """
    options = options_of(tokenizer, _OPTIONS, "a model of SentencePiece")
    check_stages(tokenizer)
    assert tokenizer.source is not None
    path = tokenizer.source.path
    if [one.name for one in tokenizer.normalize] != [NAME]:
        raise Diagnostic(
            "E1004", f"`{path}` is to be a model of SentencePiece, which normalises by itself",
            tokenizer.normalize[0].span if tokenizer.normalize else tokenizer.source.span,
            help=f"write `normalize {NAME}`, or name a tokenizer.json: `from \"{path.removesuffix(SUFFIX)}.json\"`",
        )  # fmt: skip
    normalizer = tokenizer.normalize[0]
    if normalizer["rule"] not in _RULES:
        raise Diagnostic(
            "E1004", f"SentencePiece has no rule `{normalizer['rule']}`", normalizer.span, help=f"it has {', '.join(_RULES)}"
        )  # fmt: skip
    if tokenizer.model.name not in _TYPES:
        raise Diagnostic(
            "E1004", f"there is no model of SentencePiece that is `{tokenizer.model.name}`", tokenizer.model.span,
            help=f"there is `model {'`, `model '.join(_TYPES)}`",
        )  # fmt: skip
    if tokenizer.model["unknown"] is None:
        raise Diagnostic(
            "E1004", "a model of SentencePiece has a token for what is unknown", tokenizer.model.span,
            help=f'write `model {tokenizer.model.name}(unknown="<unk>", …)`',
        )  # fmt: skip
    if tokenizer.model.name == "bpe":
        own = {"unknown", "vocab", "byte_fallback", "fuse"}
        odd = next((name for name, value in tokenizer.model.options if value not in (None, False) and name not in own), None)
        if odd is not None or tokenizer.model["fuse"] == tokenizer.model["byte_fallback"]:
            why = f"has no `{odd}`" if odd is not None else "makes one token of unknown characters in a row, or bytes of them"
            raise Diagnostic(
                "E1004", f"`model {shown('model', tokenizer.model)}`: SentencePiece {why}", tokenizer.model.span,
                help="write `fuse=true`, or `byte_fallback=true`" if odd is None else "leave it out, or name a tokenizer.json",
            )  # fmt: skip
    if [one.name for one in tokenizer.decode] not in ([], [NAME]):
        raise Diagnostic("E1004", f"`{path}` makes texts of ids by itself", tokenizer.decode[0].span, help=f"write `decode {NAME}`")
    return options


def _unknown_surface(tokenizer: Tokenizer) -> str:
    surface: str = tokenizer.decode[0]["unknown"] if tokenizer.decode else " \u2047 "
    return surface


def _placed(tokenizer: Tokenizer, data: bytes, inside: list[Added], wanted: int) -> bytes:
    """The trained file with special tokens among its pieces: where they are declared, the others in front."""
    made = parsed(data)
    if len(made.pieces) + len(inside) != wanted:
        found = len(made.pieces) + len(inside)
        raise Diagnostic(
            "E1010", f"the corpus gives {found} pieces, and {wanted} are declared", tokenizer.model.span,
            help=f"train on more text, or declare `vocab={found}`",
        )  # fmt: skip
    declared = {token.text: token.id for token in tokenizer.added}
    trained = [(row.piece, row.score, row.type) for row in made.pieces]
    rows = [trained[0], *((token.text, 0.0, CONTROL) for token in inside), *trained[1:]]
    fixed = {declared[row[0]]: row for row in rows if declared.get(row[0]) is not None}
    late = next((token for token in tokenizer.added if not token.special and (token.id or 0) >= wanted), None)
    if late is not None:
        raise Diagnostic(
            "E1005", f"`{late.text}` is declared as {late.id}, and the pieces are 0 to {wanted - 1}", late.span,
            help="what is injected is a piece: give it an id among them, or none",
        )  # fmt: skip
    others = iter([row for row in rows if declared.get(row[0]) is None])
    del made.pieces[:]
    for number in range(wanted):
        piece, score, kind = fixed[number] if number in fixed else next(others)
        made.pieces.add(piece=piece, score=score, type=kind)
        if kind == UNKNOWN:
            made.trainer_spec.unk_id = number
    made.trainer_spec.vocab_size = wanted
    result: bytes = made.SerializeToString(deterministic=True)
    return result
