"""How many of the tokens that a text is made of are words of its language, and how many have one meaning (Bayram et al. 2025)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ...ir.diagnostics import Diagnostic
from ...ir.tokenizer import Tokenizer
from .analysers import Analyser, Place, bare, lowered, of_word, words_in
from .surfaces import surfaces

# Models of which every token is a text by itself.
_WHOLE = ("wordlevel", "longest")


@dataclass(frozen=True)
class WordCounts:
    """Different tokens of a corpus: ``silent`` are without a letter, and count for nothing; of the others, ``words`` are a word of
    the language and ``pure`` a root or an affix. Bytes that are no text are ``lettered``, and neither."""

    silent: frozenset[int]
    lettered: frozenset[int]
    words: frozenset[int]
    pure: frozenset[int]

    def metrics(self) -> dict[str, float]:
        """The metrics of :data:`~tessera.ir.tokenizer_parts.OF_WORDS`."""
        whole = max(len(self.lettered), 1)
        return {"word_share": len(self.words) / whole, "pure_share": len(self.pure) / whole}

    def counts(self) -> dict[str, int]:
        """What they are shares of."""
        return {
            "distinct_tokens": len(self.silent) + len(self.lettered), "tokens_with_letters": len(self.lettered),
            "words": len(self.words), "pure": len(self.pure),
        }  # fmt: skip


@dataclass
class Seen:
    """What a corpus has: its words, and the tokens that it was made into, each with the places of words where it stands."""

    language: str | None
    words: set[str] = field(default_factory=set)
    tokens: dict[int, set[tuple[str, Place]]] = field(default_factory=dict)

    def add(self, text: str, ids: Sequence[int], offsets: Sequence[Sequence[int]]) -> None:
        """Take a text in, with its ids and where each begins and ends."""
        spans = words_in(text)
        words = [lowered(text[begin:end], self.language) for begin, end in spans]
        self.words.update(words)
        begins = [begin for begin, _ in spans]
        for number, (begin, end) in zip(ids, offsets, strict=True):
            places = self.tokens.setdefault(number, set())
            # The token without what stands around its letters.
            at = bisect_right(begins, end - 1) - 1 if end > begin else -1
            if at >= 0 and spans[at][1] > begin:
                first = spans[at][0]
                inside = begin >= first or not any(map(of_word, text[begin:first]))
                place = (max(begin, first) - first, min(end, spans[at][1]) - first)
                # What goes over two words is no place of one.
                places.add((words[at], place if inside else (-1, -1)))


def texts_of_tokens(tokenizer: Tokenizer, vocabulary: Mapping[str, int]) -> dict[int, str | None]:
    """What is looked up of each token, by id: None of bytes that are no text. Special tokens are no text either, and left out.

    Raises:
        Diagnostic: E1015 where nothing says what tokens become.
    """
    if not tokenizer.decode and tokenizer.model.name not in _WHOLE:
        raise Diagnostic(
            "E1015", f"nothing says what text the tokens of `{tokenizer.name}` are, so that no analyser can be asked",
            tokenizer.span, help="declare how ids become text, as in `decode wordpiece`",
        )  # fmt: skip
    return {
        number: None if one.text is None else bare(one.text) for number, one in surfaces(tokenizer, vocabulary).items()
    }


def counted(
    seen: Seen, texts: Mapping[int, str | None], analyser: Analyser, progress: Callable[[str, int, int], None] | None = None
) -> WordCounts:
    """What an analyser says of the tokens of a corpus.

    A token is pure that is a root or an affix, whole and alone, in at least half of the different words that it stands in, as far
    as the analyser knows these; where it knows none, one that is so by itself.

    Args:
        texts: what is looked up of each token; see :func:`texts_of_tokens`.

    Raises:
        Diagnostic: E1010 where the corpus has no word.
    """
    if not seen.words:
        raise Diagnostic("E1010", "the texts have no word that an analyser could be asked about", help="measure on other files")
    units: dict[str, set[Place]] = {}
    for place, word in enumerate(sorted(seen.words)):
        if progress is not None and place % 256 == 0:
            progress("analysing words", place, len(seen.words))
        if found := analyser.units(word):
            units[word] = found
    asked = {number: (texts[number], places) for number, places in seen.tokens.items() if number in texts}
    words, pure = set(), set()
    for number, (text, places) in asked.items():
        if text:
            small = lowered(text, seen.language)
            known = [where in units[word] for word, where in places if word in units]
            if analyser.word(small):
                words.add(number)
            if 2 * sum(known) >= len(known) if known else (0, len(small)) in analyser.units(small):
                pure.add(number)
    return WordCounts(
        frozenset(number for number, (text, _) in asked.items() if text == ""),
        frozenset(number for number, (text, _) in asked.items() if text != ""), frozenset(words), frozenset(pure),
    )  # fmt: skip
