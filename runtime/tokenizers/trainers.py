"""What trains each model: tokens in the order of their ids, with what makes them.

The same words give the same tables. The package `tokenizers` is so for BPE and whole words; with a prefix of continuing pieces it
numbers characters in an order that changes from run to run, and ties fall accordingly. There characters that continue a word are
other characters in training. Its Unigram sums in such an order as well; that of `sentencepiece` does not.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

from ...ir.diagnostics import Diagnostic, Note
from ...ir.tokenizer import Part, Tokenizer, Training
from ...ir.tokenizer_parts import part
from .files import Tables, write_json
from .less import DEFAULTS, learn_units
from .standard import first_line, package

# Which options of `train` each model takes.
OPTIONS = {
    "bpe": ("min_frequency", "longest", "alphabet", "limit_alphabet", "within", "words"),
    "wordpiece": ("min_frequency", "longest", "alphabet", "limit_alphabet"),
    "unigram": ("longest", "alphabet"),
    "wordlevel": ("min_frequency",),
    "longest": (*DEFAULTS, "listed"),
}
# Characters that no text has a meaning for: planes 15 and 16 of Unicode.
_PRIVATE = range(0xF0000, 0x10FFFE)
_LONGEST_WORD = 4096
# Options that are a share.
_SHARES = ("memorize", "forget", "step")


@dataclass(frozen=True)
class Trained:
    """Tokens from the first id on; ``merges`` by rank, ``scores`` in the order of the tokens; ``letters`` are those without which
    a text of the corpus would lose something, one letter each; ``bytes`` says that they are bytes."""

    tokens: list[str]
    merges: list[tuple[str, str]] | None = None
    scores: list[float] | None = None
    letters: frozenset[str] = frozenset()
    bytes: bool = False


def options_of(tokenizer: Tokenizer, known: Iterable[str], owner: str) -> dict[str, Any]:
    """The options of training that are given, without the key. Raises E1002 for one that is not known."""
    training = tokenizer.training
    assert training is not None
    found = {option: value for option, value in training.options if value not in (None, ()) and option != "key"}
    unknown = next((option for option in found if option not in known), None)
    if unknown is not None:
        raise Diagnostic(
            "E1002", f"the training of {owner} has no option `{unknown}`", training.span,
            help=f"its options are key, {', '.join(known)}",
        )  # fmt: skip
    return found


def check_options(tokenizer: Tokenizer, size: int | None) -> None:
    """What can be told of the options of training without a corpus, for so many trained tokens.

    Raises:
        Diagnostic: E1002 for an option that such a model does not have, or that does not go with others; E1005 where the first of
            two stages leaves nothing to the second.
    """
    model, training = tokenizer.model, tokenizer.training
    assert training is not None
    found = options_of(tokenizer, OPTIONS[model.name], f"`model {model.name}`")
    wrong = next((name for name in _SHARES if found.get(name, 0.0) > 1.0), None)
    if wrong is not None:
        raise Diagnostic("E1002", f"`{wrong}` is a share, from 0 to 1, but is {found[wrong]:g}", training.span)
    if found.get("listed") and len(found) > 1:
        raise Diagnostic(
            "E1002", "a lexicon that is listed is not learnt: `listed` goes with no other option", training.span,
            help="leave the others out, or `listed`",
        )  # fmt: skip
    within, words = found.get("within"), found.get("words")
    if within is None and words is None:
        return
    odd = next((f"`{name}`" for name in ("longest", "limit_alphabet") if name in found), None)
    odd = odd or next((f"a `{name}`" for name in ("prefix", "suffix") if model[name]), None)
    if within is None or words is None or odd is not None:
        missing = "within" if within is None else "words"
        raise Diagnostic(
            "E1002", f"{odd} does not go with two stages" if odd else f"two stages of training need `{missing}` too", training.span,
            help='write how many tokens are merged within words, and what words are: `within=4096, words=" ?[^ ]+| +"`',
        )  # fmt: skip
    if within > len(_PRIVATE):
        raise Diagnostic("E1002", f"`within` is {len(_PRIVATE):,} at most, but is {within}", training.span)
    if size is not None and within >= size:
        raise Diagnostic(
            "E1005", f"`within={within}` leaves nothing of {size} trained tokens to be merged over words", training.span,
            [Note("the vocabulary is declared here", model.span)],
            f"write `within={size // 2}`, or a larger `vocab`" if size > 1 else "declare a larger `vocab`",
        )  # fmt: skip


def learn(
    tokenizer: Tokenizer, texts: Iterable[str], size: int | None, progress: Callable[[str, int, int], None] | None = None
) -> Trained:
    """So many tokens for the texts, as far as these give them; None for as many as they are worth, of `model longest`.

    Raises:
        Diagnostic: E1002 for an option that such a model does not have, E1010 where the training fails, E0015.
    """
    training, model = tokenizer.training, tokenizer.model
    assert training is not None
    options = options_of(tokenizer, OPTIONS[model.name], f"`model {model.name}`")
    try:
        if model.name == "longest":
            return _units(tokenizer, training, texts, size, options, progress)
        assert size is not None
        if model.name == "unigram":
            return _unigram(words_of(tokenizer, texts), size, options)
        if "within" in options:
            return superwords(tokenizer, training, texts, size, options)
        if dict(model.options).get("prefix"):
            return _continued(
                words_of(tokenizer, texts), size, options, model["prefix"], dict(model.options).get("suffix")
            )
        return _plain(tokenizer, texts, size, options)
    except Diagnostic:
        raise
    except Exception as error:  # both packages raise bare Exceptions
        raise Diagnostic("E1010", f"the training failed: {first_line(error)}", training.span) from None


def skeleton(tokenizer: Tokenizer, table: dict[str, Any] | None = None) -> Any:
    """A tokenizer of the package with the stages before the model, and a model of this table, or an empty one."""
    empty: dict[str, Any] = {"vocab": [] if tokenizer.model.name == "unigram" else {}}
    if tokenizer.model.name == "bpe":
        empty["merges"] = []
    options = tuple(
        (n, None if tokenizer.model.name == "unigram" and n == "unknown" else v) for n, v in tokenizer.model.options
    )
    # What a lexicon splits a text into is not known before there is one.
    model = part("model", "wordlevel") if tokenizer.model.name == "longest" else Part(tokenizer.model.name, options)
    bare = Tokenizer("", model, (), tokenizer.normalize, tokenizer.split)
    return package().Tokenizer.from_str(write_json(bare, Tables({}, table or empty)).decode())


def superwords(
    tokenizer: Tokenizer, training: Training, texts: Iterable[str], size: int, given: dict[str, Any]
) -> Trained:
    """BPE in two stages (SuperBPE, Liu et al. 2025): the first ``within`` tokens are merged within the words that ``words`` finds,
    the others over what the split leaves together.

    The second training is the package's own: its letters are the ids of the first, a character each.

    Raises:
        Diagnostic: E1010 where the corpus gives fewer tokens within words.
    """
    within, words = given["within"], given["words"]
    lines = list(texts)
    own = {name: value for name, value in given.items() if name not in ("within", "words")}
    inner = part("split", "pattern", {"regex": words, "behavior": "isolated"})
    first = _plain(replace(tokenizer, split=(inner, *tokenizer.split)), lines, within, own)
    if len(first.tokens) < within:
        raise Diagnostic(
            "E1010", f"the corpus gives {len(first.tokens)} tokens within words, and `within` says {within}", training.span
        )
    merges = first.merges or []
    table = {"vocab": {text: number for number, text in enumerate(first.tokens)}, "merges": [list(m) for m in merges]}
    reader = skeleton(tokenizer, table)
    rows: Counter[str] = Counter()
    for row in reader.encode_batch(lines, add_special_tokens=False):
        for _, run in groupby(zip(row.word_ids, row.ids, strict=True), itemgetter(0)):
            rows["".join(chr(_PRIVATE[number]) for _, number in run)] += 1
    letters = len(set().union(*map(set, rows)))
    outer = package().Tokenizer(package().models.BPE())
    outer.pre_tokenizer = package().pre_tokenizers.CharDelimiterSplit("\n")

    def text_of(token: str) -> str:
        return "".join(first.tokens[ord(letter) - _PRIVATE.start] for letter in token)

    wanted = size - within
    often = {name: value for name, value in own.items() if name == "min_frequency"}
    while True:
        outer.train_from_iterator(_repeated(sorted(rows.items())), _trainer("BpeTrainer", letters + wanted, often))
        found = _found(outer)
        # Two ways of merging may end in one text, which is one token.
        tokens = list(dict.fromkeys([*first.tokens, *(text_of(t) for t in found.tokens if len(t) > 1)]))
        if len(tokens) >= size or len(found.tokens) < letters + wanted:
            pairs = [(text_of(a), text_of(b)) for a, b in found.merges or ()]
            return Trained(tokens[:size], [*merges, *pairs], letters=first.letters, bytes=first.bytes)
        wanted += size - len(tokens)


def words_of(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """How often each piece of the split comes."""
    return Counter(_pieces(tokenizer, texts))


def _pieces(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[str]:
    """What the split makes of texts, in order."""
    own = skeleton(tokenizer)
    normalise = own.normalizer.normalize_str if own.normalizer is not None else str
    for text in texts:
        normal = normalise(text)
        split = [normal] if own.pre_tokenizer is None else [w for w, _ in own.pre_tokenizer.pre_tokenize_str(normal)]
        yield from filter(None, split)


def _trainer(name: str, size: int, given: dict[str, Any], alphabet: Iterable[str] = (), **more: Any) -> Any:
    options: dict[str, Any] = {key: given[key] for key in ("min_frequency", "limit_alphabet") if key in given}
    if "longest" in given:
        # The package keeps tokens that are shorter.
        options["max_token_length"] = given["longest"] + 1
    if letters := [*alphabet, *given.get("alphabet", ())]:
        options["initial_alphabet"] = letters
    return getattr(package().trainers, name)(vocab_size=size, show_progress=False, **options, **more)


def _plain(tokenizer: Tokenizer, texts: Iterable[str], size: int, given: dict[str, Any]) -> Trained:
    """BPE without a prefix, and whole words."""
    own = skeleton(tokenizer)
    letters: list[str] = []
    if tokenizer.model.name == "wordlevel":
        trainer = _trainer("WordLevelTrainer", size, given)
    else:
        bytes_ = any(part.name == "byte_level" for part in (*tokenizer.normalize, *tokenizer.split))
        suffix = tokenizer.model["suffix"]
        more = {"end_of_word_suffix": suffix} if suffix else {}
        letters = sorted(package().pre_tokenizers.ByteLevel.alphabet()) if bytes_ else []
        trainer = _trainer("BpeTrainer", size, given, letters, **more)
    own.train_from_iterator(texts, trainer)
    return replace(_found(own), bytes=bool(letters))


def _units(
    tokenizer: Tokenizer, training: Training, texts: Iterable[str], size: int | None, given: dict[str, Any],
    progress: Callable[[str, int, int], None] | None,
) -> Trained:
    """Units of a lexicon; where fewer are asked for than there are, letters stay."""
    pieces = list(_pieces(tokenizer, texts))
    lines = [line for piece in pieces if (line := piece.rstrip("\r\n"))]
    if not lines:
        raise Diagnostic("E1010", "the corpus is empty", training.span)
    own = {name: value for name, value in given.items() if name != "listed"}
    units = list(dict.fromkeys(lines)) if given.get("listed") else learn_units(lines, training["key"], own, progress)
    units += sorted({letter for piece in pieces for letter in piece}.difference(units))
    letters = [unit for unit in units if len(unit) == 1]
    kept = set([*letters, *(unit for unit in units if len(unit) > 1)][: size or len(units)])
    return Trained([unit for unit in units if unit in kept], letters=frozenset(letters))


def _found(own: Any) -> Trained:
    model = json.loads(own.to_str())["model"]
    merges = [(a, b) for a, b in model["merges"]] if "merges" in model else None
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    letters = frozenset() if merges is None else frozenset(tokens).difference(a + b for a, b in merges)
    return Trained(tokens, merges, letters=letters)


def _continued(words: Counter[str], size: int, given: dict[str, Any], prefix: str, suffix: str | None) -> Trained:
    """BPE whose pieces behind the first of a word begin with a prefix: characters that continue a word are private ones."""
    letters = sorted({letter for word in words for letter in word[1:]})
    private = dict(zip(letters, map(chr, _PRIVATE), strict=False))
    if len(letters) > len(_PRIVATE) or any(ord(letter) in _PRIVATE for word in words for letter in word):
        raise Diagnostic("E1010", "the corpus has private characters of Unicode, which the training needs for itself")
    shown = {char: letter for letter, char in private.items()}
    own = package().Tokenizer(package().models.BPE())
    own.pre_tokenizer = package().pre_tokenizers.CharDelimiterSplit("\n")
    coded = {word: word[0] + "".join(map(private.__getitem__, word[1:])) for word in sorted(words)}
    # A line break parts words here: one within a word is another private character.
    breaks = chr(_PRIVATE[-1])
    shown[breaks] = "\n"
    more = {"end_of_word_suffix": suffix} if suffix else {}

    def surface(token: str) -> str:
        text = "".join(shown.get(char, char) for char in token)
        return prefix + text if token[0] in shown and token[0] != breaks else text

    wanted = size
    while True:
        rows = _repeated((code.replace("\n", breaks), words[word]) for word, code in coded.items())
        own.train_from_iterator(rows, _trainer("BpeTrainer", wanted, given, **more))
        found = _found(own)
        # A word that begins with the prefix itself may give a token of the same text as one that continues another.
        tokens = list(dict.fromkeys(map(surface, found.tokens)))
        if len(tokens) >= size or len(found.tokens) < wanted:
            merges = [(surface(a), surface(b)) for a, b in found.merges or ()]
            return Trained(tokens[:size], merges, letters=frozenset(map(surface, found.letters)))
        wanted += size - len(tokens)


def _repeated(counted: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Words as often as they were counted, in texts of some words each."""
    for word, count in counted:
        while count > 0:
            some = min(count, 1024)
            yield "\n".join([word] * some)
            count -= some


def _unigram(words: Counter[str], size: int, given: dict[str, Any]) -> Trained:
    try:
        import sentencepiece
    except ImportError:
        raise Diagnostic(
            "E0015", "training `model unigram` needs the package `sentencepiece`", help="pip install 'tessera[text]'"
        ) from None
    # What the package takes for a mark of its own, or an end of a line, is another character in training.
    marks = dict(zip("\t\n\r \0\u2581\u2585", map(chr, _PRIVATE), strict=False))
    coded, shown = str.maketrans(marks), {ord(char): mark for mark, char in marks.items()}
    rows = (f"{word.translate(coded)}\t{words[word]}" for word in sorted(words) if len(word) <= _LONGEST_WORD)
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(rows), model_writer=out, model_type="unigram", input_format="tsv", vocab_size=size + 1,
        normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False, split_by_whitespace=False,
        split_by_unicode_script=False, split_by_number=False, character_coverage=1.0, unk_id=0, bos_id=-1, eos_id=-1,
        pad_id=-1, hard_vocab_limit=False, num_threads=1, minloglevel=2, max_sentence_length=_LONGEST_WORD * 8,
        max_sentencepiece_length=given.get("longest", 16), required_chars="".join(given.get("alphabet", ())).translate(coded),
    )  # fmt: skip
    made = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    pieces = [(made.id_to_piece(i).translate(shown), made.get_score(i)) for i in range(1, made.get_piece_size())]
    return Trained([piece for piece, _ in pieces], scores=[score for _, score in pieces])
