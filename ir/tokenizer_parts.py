"""Which stages tokenizers have: a row for each, with what a ``tokenizer.json`` calls it, its options and their defaults.
What has no such name is no stage of one.

The elaborator, the printer, the reader and the writer of ``tokenizer.json`` know no stage by name: they follow this table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .diagnostics import Diagnostic, Note, Span, did_you_mean
from .notation import show_value
from .tokenizer import Part

NEEDED: Any = type("Needed", (), {"__repr__": lambda self: "NEEDED"})()

# A piece of a template that begins as a text does and is none.
_NO_TEXT = re.compile(r"\$(?![AB](:\d+)?$|\$)")
# Kinds of options: (what it is called, the Python type of a value).
_KINDS: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "bool": ("bool", bool),
    "int": ("int", int),
    "real": ("real", (int, float)),
    "text": ("str", str),
    "texts": ("list of str", tuple),
    "reals": ("list of real", tuple),
}


@dataclass(frozen=True, slots=True)
class Opt:
    """One option of a stage.

    Args:
        kind: a key of ``_KINDS``; where ``none`` is the default, ``none`` may be written.
        key: what a ``tokenizer.json`` calls it, if otherwise.
        words: the only values it takes, ours and theirs.
        form: how it lies in the file: ``plain``; ``pattern`` (with its twin, under one key); ``token`` (a text and its id);
            ``pieces`` of a template; ``index`` of a token; ``table`` (what stays in the file: its size or its hash).
        least: of a number.
    """

    name: str
    kind: str
    default: Any = NEEDED
    key: str = ""
    words: tuple[tuple[str, str], ...] = ()
    form: str = "plain"
    least: float | None = None

    @property
    def shown(self) -> str:
        """The kind in words: ``str or none``."""
        kind = " | ".join(ours for ours, _ in self.words) or _KINDS[self.kind][0]
        return f"{kind} or none" if self.default is None else kind

    def accepts(self, value: Any) -> bool:
        """Whether a value is of the option's kind."""
        if value is None or self.words:
            return (value is None and self.default is None) or value in [ours for ours, _ in self.words]
        if isinstance(value, bool) or not isinstance(value, _KINDS[self.kind][1]):
            return self.kind == "bool" and isinstance(value, bool)
        if isinstance(value, tuple):
            return all(type(item) is str if self.kind == "texts" else type(item) in (int, float) for item in value)
        return not isinstance(value, (int, float)) or self.least is None or value >= self.least


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of stage: what a ``tokenizer.json`` calls it, and its options; ``text`` says what it does."""

    type: str
    text: str
    options: tuple[Opt, ...] = ()


def _flag(name: str, default: bool | None, key: str = "") -> Opt:
    return Opt(name, "bool", default, key)


_PATTERN = (Opt("text", "text", None, "pattern", form="pattern"), Opt("regex", "text", None, "pattern", form="pattern"))
_BEHAVIOR = tuple(
    (ours, "".join(word.capitalize() for word in ours.split("_")))
    for ours in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous")
)
_SIDE = Opt("side", "text", "right", "direction", words=(("right", "Right"), ("left", "Left")))
_BYTES = (
    _flag("space", True, "add_prefix_space"), _flag("trim", True, "trim_offsets"), _flag("regex", True, "use_regex"),
)  # fmt: skip
_METASPACE = (
    Opt("replacement", "text", "\u2581"),
    Opt("scheme", "text", "always", "prepend_scheme", words=tuple((w, w) for w in ("always", "first", "never"))),
    _flag("split", True),
)
_REPLACE = Row("Replace", "another text for what fits a text or a regular expression", (
    *_PATTERN, Opt("by", "text", key="content"),
))  # fmt: skip
_VOCAB = Opt("vocab", "int", None, form="table", least=1)
_TRUNCATE = (Opt("length", "int", key="max_length", least=0), Opt("stride", "int", 0, least=0), _SIDE)
_PAD = (
    Opt("token", "text", "[PAD]", "pad_token"), Opt("id", "int", None, "pad_id", form="index", least=0),
    Opt("segment", "int", 0, "pad_type_id", least=0), _SIDE, Opt("multiple", "int", None, "pad_to_multiple_of", least=1),
)  # fmt: skip
_FILL = Opt("fill", "texts", ())

STAGES: dict[str, dict[str, Row]] = {
    "normalize": {
        "bert": Row("BertNormalizer", "control characters, Chinese characters, accents, case, as BERT does", (
            _flag("clean", True, "clean_text"), _flag("chinese", True, "handle_chinese_chars"),
            _flag("accents", None, "strip_accents"), _flag("lowercase", True),
        )),
        "nfc": Row("NFC", "Unicode's composed form"),
        "nfd": Row("NFD", "Unicode's decomposed form"),
        "nfkc": Row("NFKC", "Unicode's composed form of compatible characters"),
        "nfkd": Row("NFKD", "Unicode's decomposed form of compatible characters"),
        "lowercase": Row("Lowercase", "lower case"),
        "strip_accents": Row("StripAccents", "no combining marks"),
        "strip": Row("Strip", "no white space at the ends", (
            _flag("left", True, "strip_left"), _flag("right", True, "strip_right"),
        )),
        "nmt": Row("Nmt", "control characters become spaces, or go"),
        "charsmap": Row("Precompiled", "a character map of SentencePiece, which stays in the file", (
            Opt("sha256", "text", None, "precompiled_charsmap", form="table"),
        )),
        "replace": _REPLACE,
        "prepend": Row("Prepend", "a text in front", (Opt("text", "text", key="prepend"),)),
        "byte_level": Row("ByteLevel", "a printable character for each byte"),
        "bytes": Row("", "a text is the bytes of a file, whatever they mean: each is a letter"),
        "sentencepiece": Row("", "as a model of SentencePiece does it: its rule, white space, a visible character for each space", (
            Opt("rule", "text", "nmt_nfkc"), Opt("sha256", "text", None, form="table"), _flag("prefix", True),
            _flag("collapse", True), _flag("escape", True), _flag("suffix", False),
        )),
    },
    "split": {
        "bert": Row("BertPreTokenizer", "at white space and around punctuation, as BERT does"),
        "byte_level": Row("ByteLevel", "words as GPT-2 has them, a printable character for each byte", _BYTES),
        "delimiter": Row("CharDelimiterSplit", "at a character, which goes", (Opt("text", "text", key="delimiter"),)),
        "metaspace": Row("Metaspace", "a visible character for each space, as SentencePiece does", _METASPACE),
        "words": Row("Whitespace", "words and what stands between them"),
        "spaces": Row("WhitespaceSplit", "at white space"),
        "pattern": Row("Split", "at what fits a text or a regular expression", (
            *_PATTERN, Opt("behavior", "text", words=_BEHAVIOR), _flag("invert", False),
        )),
        "punctuation": Row("Punctuation", "around punctuation", (Opt("behavior", "text", "isolated", words=_BEHAVIOR),)),
        "digits": Row("Digits", "around numbers, or digits", (_flag("individual", False, "individual_digits"),)),
        "scripts": Row("UnicodeScripts", "where the script changes"),
        "chunks": Row("FixedLength", "into pieces of so many characters", (Opt("length", "int", least=1),)),
    },
    "model": {
        "bpe": Row("BPE", "pairs merged by rank", (
            _VOCAB, Opt("unknown", "text", None, "unk_token"), Opt("prefix", "text", None, "continuing_subword_prefix"),
            Opt("suffix", "text", None, "end_of_word_suffix"), Opt("dropout", "real", None, least=0.0),
            _flag("fuse", False, "fuse_unk"), _flag("byte_fallback", False), _flag("ignore_merges", False),
        )),
        "unigram": Row("Unigram", "the likeliest pieces", (
            _VOCAB, Opt("unknown", "text", None, "unk_id", form="index"), _flag("byte_fallback", False),
        )),
        "wordpiece": Row("WordPiece", "the longest pieces of a word, from its begin", (
            _VOCAB, Opt("unknown", "text", "[UNK]", "unk_token"), Opt("prefix", "text", "##", "continuing_subword_prefix"),
            Opt("longest", "int", 100, "max_input_chars_per_word", least=0),
        )),
        "wordlevel": Row("WordLevel", "whole words", (_VOCAB, Opt("unknown", "text", "<unk>", "unk_token"))),
        "longest": Row("", "the longest entry of a lexicon at each place, from the left; a character without one is `unknown`", (
            _VOCAB, Opt("unknown", "text", "<unk>"),
        )),
    },
    "process": {
        "template": Row("TemplateProcessing", "tokens around a text, or a pair of texts", (
            Opt("single", "texts", form="pieces"), Opt("pair", "texts", form="pieces"),
        )),
        "bert": Row("BertProcessing", "tokens around a text, as BERT has them", (
            Opt("sep", "text", "[SEP]", form="token"), Opt("cls", "text", "[CLS]", form="token"),
        )),
        "roberta": Row("RobertaProcessing", "tokens around a text, as RoBERTa has them", (
            Opt("sep", "text", "</s>", form="token"), Opt("cls", "text", "<s>", form="token"),
            _flag("trim", True, "trim_offsets"), _flag("space", True, "add_prefix_space"),
        )),
        "byte_level": Row("ByteLevel", "offsets without the spaces of a byte-level split", _BYTES),
    },
    "decode": {
        "byte_level": Row("ByteLevel", "the bytes of printable characters", _BYTES),
        "wordpiece": Row("WordPiece", "spaces between words, none before pieces", (
            Opt("prefix", "text", "##"), _flag("cleanup", True),
        )),
        "bpe": Row("BPEDecoder", "a space where a suffix stands", (Opt("suffix", "text", "</w>"),)),
        "metaspace": Row("Metaspace", "spaces for the visible character", _METASPACE),
        "ctc": Row("CTC", "no repeated tokens, no padding", (
            Opt("pad", "text", "<pad>", "pad_token"), Opt("word", "text", "|", "word_delimiter_token"), _flag("cleanup", True),
        )),
        "replace": _REPLACE,
        "strip": Row("Strip", "so many of a character less at the ends of tokens", (
            Opt("text", "text", " ", "content"), Opt("left", "int", 0, "start", least=0), Opt("right", "int", 0, "stop", least=0),
        )),
        "fuse": Row("Fuse", "one token of all"),
        "byte_fallback": Row("ByteFallback", "the bytes that tokens such as <0x0A> stand for"),
        "sentencepiece": Row("", "as a model of SentencePiece does it: spaces, bytes, a text for unknown tokens", (
            Opt("unknown", "text", " \u2047 "),
        )),
    },
    "truncate": {
        "longest_first": Row("LongestFirst", "the longer text of a pair loses tokens", _TRUNCATE),
        "only_first": Row("OnlyFirst", "the first text loses tokens", _TRUNCATE),
        "only_second": Row("OnlySecond", "the second text loses tokens", _TRUNCATE),
    },
    "pad": {
        "longest": Row("BatchLongest", "to the longest row of a batch", _PAD),
        "fixed": Row("Fixed", "to a length", (Opt("length", "int", least=0), *_PAD)),
    },
    "round": {
        "pow2": Row("", "to the next power of two", (_FILL,)),
        "multiple": Row("", "to the next multiple", (Opt("of", "int", least=1), _FILL)),
        "size": Row("", "to so many", (Opt("of", "int", least=1), _FILL)),
    },
}  # fmt: skip
# Tokens that are injected together.
SERIES = {
    "numbers": Row("", "the whole numbers between two, and both", (
        Opt("first", "int", least=0), Opt("last", "int", least=0),
    )),
    "runs": Row("", "a text over and over, so many times", (
        Opt("text", "text"), Opt("first", "int", least=1), Opt("last", "int", least=1),
    )),
}  # fmt: skip
_ROWS = {**STAGES, "inject": SERIES}
# Stages that a declaration may have several of.
REPEATED = ("normalize", "split", "process", "decode")

# Options of special and injected tokens; `normalized` is true of injected ones.
ADDED = Row("", "a token that is found before the model sees the text", (
    _flag("single_word", False), _flag("lstrip", False), _flag("rstrip", False), _flag("normalized", None),
))  # fmt: skip
FROM = Row("", "the file that has the tables", (Opt("sha256", "text", None), Opt("first", "texts", ())))
MEASURE = Row("", "files that `require` is measured on, if others than those of the training", (
    Opt("analyser", "text", None), Opt("language", "text", None),
))  # fmt: skip
TRAIN = Row("", "files that the tables are trained on", (
    Opt("key", "int", 0, least=0), Opt("min_frequency", "int", None, least=0), Opt("longest", "int", None, least=1),
    Opt("alphabet", "texts", ()), Opt("limit_alphabet", "int", None, least=0), Opt("within", "int", None, least=1),
    Opt("words", "text", None), Opt("epochs", "int", None, least=1),
    Opt("lines", "int", None, least=1), Opt("memorize", "real", None, least=0.0), Opt("forget", "real", None, least=0.0),
    Opt("life", "int", None, least=1), Opt("step", "real", None, least=0.0), Opt("listed", "bool", None),
    Opt("chunk", "int", None, least=1), Opt("entropy", "reals", ()),
))  # fmt: skip

# What `require` may compare, and what it says of a corpus.
METRICS = {
    "tokens_per_character": "tokens, by the characters of the texts",
    "tokens_per_byte": "tokens, by the bytes of the texts in UTF-8",
    "tokens_per_word": "tokens, by the words between white space",
    "unknown_share": "of the tokens, those that are the unknown one",
    "round_trip": "of the texts, those that come back from their ids",
    "size": "one more than the largest id",
    "word_share": "of the different tokens, those that are a word of the language",
    "pure_share": "of the different tokens, those that mostly are a root or an affix of the word they stand in, whole and alone",
}
# Those that an analyser answers.
OF_WORDS = ("word_share", "pure_share")


def find(stage: str, name: str, span: Span | None = None) -> Row:
    """The row of a kind of stage. Raises E1001 when there is none."""
    rows = _ROWS[stage]
    if name not in rows:
        raise Diagnostic(
            "E1001", f"there is no `{stage} {name}`", span,
            help=did_you_mean(name, rows) or f"`{stage}` knows {', '.join(rows)}",
        )  # fmt: skip
    return rows[name]


def values(
    row: Row, owner: str, given: Mapping[str, Any], span: Span | None = None, places: Mapping[str, Span] | None = None
) -> tuple[tuple[str, Any], ...]:
    """All options of a row: those given, and the defaults of the others.

    Raises:
        Diagnostic: E1002 for an option that there is not, of another kind, or missing.
    """
    places = places or {}
    known = {opt.name: opt for opt in row.options}
    for name, value in given.items():
        where = places.get(name, span)
        if name not in known:
            raise Diagnostic(
                "E1002", f"`{owner}` has no option `{name}`", where,
                help=did_you_mean(name, known) or (f"its options are {', '.join(known)}" if known else "it has none"),
            )  # fmt: skip
        opt = known[name]
        if not opt.accepts(value):
            bound = f" of at least {opt.least:g}" if opt.least is not None else ""
            raise Diagnostic("E1002", f"`{name}` of `{owner}` must be {opt.shown}{bound}, but is {show_value(value)}", where)
    found = {opt.name: given.get(opt.name, opt.default) for opt in row.options}
    found.update((n, float(v)) for n, v in found.items() if known[n].kind == "real" and v is not None)
    missing = next((name for name, value in found.items() if value is NEEDED), None)
    if missing is not None:
        raise Diagnostic("E1002", f"`{owner}` needs `{missing}`: {known[missing].shown}", span, help=f"{owner}: {row.text}")
    patterns = [name for name, opt in known.items() if opt.form == "pattern" and found[name] is not None]
    if any(opt.form == "pattern" for opt in row.options) and len(patterns) != 1:
        raise Diagnostic(
            "E1002", f"`{owner}` has {'two patterns' if patterns else 'no pattern'}", places.get("regex", span),
            [Note("the other one is here", places.get("text"))] if patterns else [],
            'write one of `text=" "` and `regex="\\\\s+"`',
        )  # fmt: skip
    for name in (name for name, opt in known.items() if opt.form == "pieces"):
        wrong = next((piece for piece in found[name] if _NO_TEXT.match(piece)), None)
        if wrong is not None:
            raise Diagnostic(
                "E1002", f"`{wrong}` of `{owner}` is no text: these are `$A` and `$B`", places.get(name, span),
                help="a token that begins with `$` gets another one in front: `$$x`",
            )  # fmt: skip
    return tuple(found.items())


def part(
    stage: str, name: str, given: Mapping[str, Any] | None = None, span: Span | None = None,
    places: Mapping[str, Span] | None = None,
) -> Part:  # fmt: skip
    """A stage with all of its options. Raises E1001, E1002."""
    return Part(name, values(find(stage, name, span), f"{stage} {name}", given or {}, span, places), span)


def shown(stage: str, one: Part) -> str:
    """A stage as it is written: ``bert(lowercase=false)``."""
    rows = [(opt, one[opt.name]) for opt in _ROWS[stage][one.name].options]
    options = ", ".join(f"{opt.name}={show_value(value)}" for opt, value in rows if not is_default(opt, value))
    return f"{one.name}({options})" if options else one.name


def is_default(opt: Opt, value: Any) -> bool:
    """Whether an option need not be written."""
    return opt.default is not NEEDED and type(value) is type(opt.default) and bool(value == opt.default)
