"""What tokenizers make of one corpus, beside each other."""

from __future__ import annotations

import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from math import log
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from ...ir.diagnostics import Diagnostic
from ...ir.tokenizer import Tokenizer
from ...runtime.tokenizers.engine import Engine, tables_of
from ...runtime.tokenizers.metrics import Counts, batches, lines_of, unknown_id, whole

Grouping = Callable[[Path, str], str]


@dataclass
class Comparison:
    """Several tokenizers on the same lines.

    Args:
        totals, seconds: what each made of all lines, and how long it took to encode them.
        groups: the same of the lines of each group.
        same: of the lines, those that each cuts as the first one does.
        samples: lines that are cut differently: the text, and where each cuts it.
    """

    sizes: dict[str, int]
    totals: dict[str, Counts]
    seconds: dict[str, float]
    groups: dict[str, dict[str, Counts]] = field(default_factory=dict)
    same: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each tokenizer, its metrics in it."""
        return [
            {
                "tokenizer": name, "size": self.sizes[name], **counts.metrics(),
                "same_as_first": self.same[name] / max(counts.texts, 1),
                "megabytes_per_second": counts.octets / 1e6 / max(self.seconds[name], 1e-9),
            }
            for name, counts in self.totals.items()
        ]  # fmt: skip


def corpus_of(path: Path) -> list[Path]:
    """A file, or all files below a folder but hidden ones, in order. Raises E0001, E1010."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise Diagnostic("E0001", f"there is no file or folder `{path}`")
    found = sorted(file for file in path.rglob("*") if file.is_file())
    found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if not found:
        raise Diagnostic("E1010", f"there is no file in `{path}`")
    return found


def compare(tokenizers: Mapping[str, Tokenizer], files: Sequence[Path], group: Grouping, show: int = 0) -> Comparison:
    """Encode every line of the files with each of the tokenizers, without what stands around texts and without truncation.

    Args:
        group: the group of a line of a file.
        show: how many lines that are cut differently are kept.

    Raises:
        Diagnostic: E1007 for a file that is not UTF-8; as :func:`~tessera.runtime.tokenizers.engine.tables_of`.
    """
    engines = {name: whole(tables_of(tokenizer), tokenizer) for name, tokenizer in tokenizers.items()}
    unknown = {name: unknown_id(engines[name], tokenizer) for name, tokenizer in tokenizers.items()}
    made = Comparison(
        {n: e.size for n, e in engines.items()}, {n: Counts() for n in engines}, dict.fromkeys(engines, 0.0)
    )
    for file in files:
        if file.stat().st_size == 0:
            # A language without a text is one that says less than the others.
            made.groups.setdefault(group(file, ""), {name: Counts() for name in engines})
        for rows in batches(lines_of([file])):
            if not any(made.seconds.values()):
                # What is made or imported once, when ids are first asked for, is none of its speed.
                for engine in engines.values():
                    _ = engine.encode(rows[:1], around=False).ids
            cuts = {name: _counted(made, engines[name], name, file, rows, group, unknown[name]) for name in engines}
            first = next(iter(cuts.values()))
            for place, text in enumerate(rows):
                for name, own in cuts.items():
                    made.same[name] += own[place] == first[place]
                if len(made.samples) < show and any(own[place] != first[place] for own in cuts.values()):
                    made.samples.append((text, {name: _pieces(text, own[place]) for name, own in cuts.items()}))
    return made


def _counted(
    made: Comparison, engine: Engine, name: str, file: Path, rows: list[str], group: Grouping, unknown: int | None
) -> list[frozenset[int]]:
    """Take lines in; where each is cut."""
    begin = time.perf_counter()
    found = engine.encode(rows, around=False)
    ids, counts = found.ids, found.count
    made.seconds[name] += time.perf_counter() - begin
    numbers = [row[:n].tolist() for row, n in zip(ids, counts, strict=True)]
    for text, own, back in zip(rows, numbers, engine.decode(numbers, special=True), strict=True):
        made.totals[name].add(text, own, back, unknown)
        made.groups.setdefault(group(file, text), {}).setdefault(name, Counts()).add(text, own, back, unknown)
    return [frozenset(ends[:n, 1].tolist()) for ends, n in zip(found.offsets, counts, strict=True)]


def _pieces(text: str, ends: frozenset[int]) -> list[str]:
    """A text cut there."""
    places = sorted(ends | {len(text)})
    return [text[a:b] for a, b in zip([0, *places], places, strict=False) if a < b]


def premiums(made: Comparison, reference: str) -> dict[str, dict[str, float]]:
    """How many tokens each group takes for one of the reference, which says the same. Raises E0011 where it does not."""
    if reference not in made.groups:
        raise Diagnostic(
            "E0011", f"there is no text `{reference}` to compare with", help=f"there are {', '.join(sorted(made.groups))}"
        )  # fmt: skip
    base = made.groups[reference]
    lines = next(iter(base.values())).texts
    for name, counts in made.groups.items():
        if (own := next(iter(counts.values())).texts) != lines:
            raise Diagnostic(
                "E0011", f"`{name}` has {own} lines and `{reference}` {lines}: they are not the same text in two languages",
                help="premiums need a file for each language, line by line the same",
            )  # fmt: skip
    return {
        name: {key: c.tokens / max(base[key].tokens, 1) for key, c in counts.items()} for name, counts in made.groups.items()
    }  # fmt: skip


def variation(priced: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """How much the tokens of the groups differ, for each tokenizer: their standard deviation by their mean."""
    rows: dict[str, list[float]] = {}
    for one in priced.values():
        for name, value in one.items():
            rows.setdefault(name, []).append(value)
    return {name: pstdev(found) / fmean(found) if fmean(found) else 0.0 for name, found in rows.items()}


@dataclass(frozen=True)
class Told:
    """A comparison as tables of text: what each tokenizer makes of all lines, and of those of each group."""

    rows: list[list[str]]
    by: str
    group_heads: list[str]
    groups: list[list[str]]


HEADS = ("size", "tokens/char", "tokens/byte", "tokens/word", "unknown", "round trip", "same cuts", "MB/s")


def told(made: Comparison, by: str, priced: Mapping[str, Mapping[str, float]]) -> Told:
    """A comparison in words.

    Args:
        by: what the groups are.
        priced: how many tokens each group takes for one of a reference; none where there is no reference.
    """
    rows = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in made.rows()]
    what, figure = ("file", "tokens for one") if priced else (by, "tokens/char")
    groups = [
        [name, str(next(iter(counts.values())).texts)]
        + [f"{priced[name][k] if priced else c.metrics()['tokens_per_character']:.4g}" for k, c in counts.items()]
        for name, counts in sorted(made.groups.items())
    ]
    if priced:
        varied = variation(priced)
        groups.append(["variation", "", *(f"{varied[name]:.4g}" for name in made.totals)])
    return Told(rows, what, [what, "lines", *(f"{figure}, {name}" for name in made.totals)], groups)


def page(made: Comparison, tables: Told, corpus: str) -> str:
    """A comparison as one page that needs nothing else; every string is escaped."""
    from .html import filled
    from .measure import machine

    return filled(
        "tokenizers.html", names=list(made.totals), corpus=corpus, machine=machine(1), heads=["", *HEADS], rows=tables.rows,
        by=f"By {tables.by}", group_heads=tables.group_heads, groups=tables.groups, samples=made.samples,
    )  # fmt: skip


def sizes_for(tokens: Mapping[str, Mapping[int, float]], target: float) -> dict[str, int]:
    """The size of a vocabulary at which each language takes ``target`` tokens, between two sizes that were tried: tokens fall as
    a power of the size.

        sizes_for({"de": {1024: 7800, 2048: 6900}}, 7300)

    Args:
        tokens: by language, how many it takes at each size.

    Raises:
        Diagnostic: E0011 for a language that takes so many at none of its sizes: nothing is extrapolated.
    """
    found = {}
    for language, counts in tokens.items():
        rows = sorted(counts.items())
        pair = next((pair for pair in pairwise(rows) if pair[0][1] >= target >= pair[1][1]), None)
        if pair is None:
            tried = f"between {min(counts.values()):g} and {max(counts.values()):g}" if counts else "no"
            raise Diagnostic(
                "E0011", f"`{language}` takes {tried} tokens at the sizes that were tried, and never {target:g}",
                help="try smaller or larger vocabularies, or another target: nothing is guessed beyond them",
            )  # fmt: skip
        (low, more), (high, less) = pair
        share = 0.0 if more == less else log(more / target) / log(more / less)
        found[language] = round(low * (high / low) ** share)
    return found


def script(file: Path, text: str) -> str:
    """The script of most letters of a text: the first word of their names in Unicode."""
    found = Counter(_script(char) for char in text if char.isalpha())
    return found.most_common(1)[0][0] if found else "no letters"


@lru_cache(maxsize=65536)
def _script(char: str) -> str:
    return unicodedata.name(char, "unnamed").split(maxsplit=1)[0].split("-")[0].lower()
