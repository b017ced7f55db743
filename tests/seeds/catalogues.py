"""Messages of Django in about a hundred languages, which say the same, and man pages that are there in several."""

from __future__ import annotations

import gettext
import gzip
import re
from functools import cache
from pathlib import Path

import pytest

from .texts import MARKUP

# What is no text: places for values, tags, what is between braces.
_PLACE = re.compile(r"%\(\w+\)[a-z]|%[a-z%]|</?\w[^>]*>|\{\w*\}|&\w+;")
_PAGES = Path("/usr/share/man")


@cache
def messages(language: str) -> dict[str, str]:
    """What each message of Django is in a language, by what it is in English, one line each; skips without the package."""
    django = pytest.importorskip("django")
    found: dict[str, str] = {}
    for path in sorted(Path(django.__file__).parent.glob(f"**/locale/{language}/LC_MESSAGES/*.mo")):
        with path.open("rb") as stream:
            catalogue = gettext.GNUTranslations(stream)._catalog  # type: ignore[attr-defined]
        for key, text in catalogue.items():
            # Of a text that changes with a number, the first form.
            name = key[0] if isinstance(key, tuple) and key[1] == 0 else key
            if isinstance(name, str) and name and text:
                found.setdefault(name, " ".join(_PLACE.sub(" ", text).split()))
    return {key: text for key, text in found.items() if text}


def parallel(languages: tuple[str, ...]) -> dict[str, list[str]]:
    """The messages that all of the languages have, in one order."""
    shared = sorted(set.intersection(*(set(messages(language)) for language in languages)))
    return {language: [messages(language)[key] for key in shared] for language in languages}


def pages(language: str) -> dict[str, str]:
    """The man pages in a language, by their names; in English where it is empty."""
    found = {}
    for path in sorted((_PAGES / language).glob("man*/*.gz")):
        text = MARKUP.sub(b"", gzip.decompress(path.read_bytes()))
        found[path.name] = re.sub(rb"\n\s*\n+", b"\n", text).decode("utf-8", "replace")
    return found
