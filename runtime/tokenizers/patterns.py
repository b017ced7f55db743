"""Regular expressions that find words, as steps over sets of characters: those that never give back what they took.

Which characters are in a set is asked of the engine.

>>> sets = Sets("ab1 .")
>>> rules_of(r" ?\\p{L}+|[^\\s\\p{L}]|\\s+(?!\\S)|\\s", sets)
(((1, 0, 0), (2, 1, 0)), ((0, 2, 0),), ((6, 3, 0),), ((0, 3, 0),))
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .standard import package

if TYPE_CHECKING:
    import numpy as np

# Steps as `std.text.pairs.word_starts` has them: (kind, set, more).
ONE, PERHAPS, SOME, ANY, UP_TO, LAST, LESS = range(7)
Step = tuple[int, int, int]
Rule = tuple[Step, ...]

# One character: a class by name, a bracket without others in it, a character that means itself.
_SET = re.compile(
    r"\\[pP]\{\^?\w+\}|\\[sSdDwWrnt]|\\x[0-9A-Fa-f]{2}|\[\^?(?:\\[pP]\{\^?\w+\}|\\.|[^\\\[\]&])+\]|\\[^\w\s]|[^\\\[\](){}|?*+.^$]"
)
# Possessive ones, `++`, take what greedy ones take where nothing is given back.
_TIMES = re.compile(r"([?+*])\+?(?![?+*{])|\{1,([1-9]\d?)\}(?![?+*{])")
_KINDS = {"?": PERHAPS, "+": SOME, "*": ANY}
# Letters that one character stands for together where case does not count.
_TOGETHER = ("ff", "fi", "fl", "ss", "st")
# The engine is asked about so many characters at once.
_MANY = 4096


class Unfit(Exception):
    """Why a regular expression cannot be steps, in words."""


class Sets:
    """Sets of the characters that are asked about, by the texts of their expressions, in the order in which they were met."""

    def __init__(self, asked: str) -> None:
        self.asked = asked
        self.names: list[str] = []
        self.members: list[np.ndarray] = []

    def number(self, name: str) -> int:
        """The number of a set. Raises Unfit where it fits what is not one character."""
        if name not in self.names:
            self.members.append(self._members(name))
            self.names.append(name)
        return self.names.index(name)

    def _members(self, name: str) -> np.ndarray:
        import numpy as np

        normalizers, regex = package().normalizers, package().Regex(name)
        found: list[bool] = []
        for start in range(0, len(self.asked), _MANY):
            block = self.asked[start : start + _MANY]
            # A character that fits becomes the one here and the other there.
            one, other = (normalizers.Replace(regex, by).normalize_str(block) for by in ("x", "y"))
            if len(one) != len(block):
                raise Unfit(f"`{name}` fits more than one character")
            found += [a != b for a, b in zip(one, other, strict=True)]
        return np.array(found, bool)


def rules_of(pattern: str, sets: Sets) -> tuple[Rule, ...]:
    """The alternatives of a regular expression, each as steps. Raises Unfit."""
    parser = _Parser(pattern, sets)
    rules = parser.alternatives(fold=False)
    if parser.at < len(pattern):
        raise Unfit(f"nothing is known of `{pattern[parser.at :][:20]}`")
    for rule in rules:
        _check(rule, sets)
    _check_total(rules, sets)
    return tuple(map(tuple, rules))


class _Parser:
    def __init__(self, pattern: str, sets: Sets) -> None:
        self.pattern = pattern
        self.sets = sets
        self.at = 0

    def alternatives(self, fold: bool) -> list[list[Step]]:
        found = self._sequences(fold)
        while self._take("|"):
            found += self._sequences(fold)
        return found

    def _sequences(self, fold: bool) -> list[list[Step]]:
        """One alternative; of a group in it, one for each of the group's."""
        found: list[list[Step]] = [[]]
        letters = ""
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            if self._take("(?i:") or self._take("(?:"):
                inner = self.alternatives(fold or self.pattern[self.at - 2] == "i")
                if not self._take(")"):
                    raise Unfit("it has a group that does not end")
                found = [[*before, *steps] for before in found for steps in inner]
                letters = ""
            elif self._take("(?!"):
                found = [self._less(steps) for steps in found]
            else:
                name, step = self._step(fold)
                letters += name
                if fold and any(text in letters.lower() for text in _TOGETHER):
                    raise Unfit(f"`{letters}` without case may be one character")
                found = [[*steps, step] for steps in found]
        return found

    def _take(self, text: str) -> bool:
        there = self.pattern.startswith(text, self.at)
        self.at += len(text) if there else 0
        return there

    def _match(self, what: re.Pattern[str]) -> re.Match[str] | None:
        found = what.match(self.pattern, self.at)
        self.at = found.end() if found else self.at
        return found

    def _step(self, fold: bool) -> tuple[str, Step]:
        found = self._match(_SET)
        if found is None:
            raise Unfit(f"nothing is known of `{self.pattern[self.at :][:20]}`")
        name = found[0]
        if fold and not (name.isascii() and "^" not in name and "\\" not in name):
            raise Unfit(f"nothing is known of `{name}` without case")
        number = self.sets.number(f"(?i:{name})" if fold else name)
        times = self._match(_TIMES)
        if times is None:
            if self.at < len(self.pattern) and self.pattern[self.at] in "?+*{":
                raise Unfit(f"nothing is known of `{self.pattern[self.at :][:20]}`")
            return name, (ONE, number, 0)
        return name, (_KINDS[times[1]], number, 0) if times[1] else (UP_TO, number, int(times[2]))

    def _less(self, steps: list[Step]) -> list[Step]:
        """Of `x+(?!y)`, where y is all that is not x, the one step that it is."""
        found = self._match(_SET)
        if found is None or not self._take(")") or not steps or steps[-1][0] != SOME:
            raise Unfit("it looks ahead otherwise than by `x+(?!y)`")
        number = steps[-1][1]
        if (self.sets.members[number] == self.sets.members[self.sets.number(found[0])]).any():
            raise Unfit(f"`{self.sets.names[number]}` and `{found[0]}` are not all characters, each of one of them")
        return [*steps[:-1], (LESS, number, 0)]


def _check(rule: list[Step], sets: Sets) -> None:
    """Raises Unfit where a step may have to give back what it took, which no step does; makes one step of `x*y+`."""
    if len(rule) > 1 and rule[-2][0] == ANY and rule[-1][0] == SOME:
        (_, wide, _), (_, narrow, _) = rule[-2:]
        if not (sets.members[narrow] & ~sets.members[wide]).any():
            rule[-2:] = [(LAST, wide, narrow)]
    if all(kind in (PERHAPS, ANY) for kind, _, _ in rule):
        raise Unfit("it fits where there is nothing")
    for place, (kind, number, _) in enumerate(rule[:-1]):
        if kind in (UP_TO, LESS):
            raise Unfit("something follows what is counted, or what looks ahead")
        for after, other, _ in rule[place + 1 :] if kind != ONE else ():
            if (sets.members[number] & sets.members[other]).any():
                raise Unfit(f"`{sets.names[number]}` may have to give back what `{sets.names[other]}` needs")
            if after not in (PERHAPS, ANY):
                break


def _check_total(rules: list[list[Step]], sets: Sets) -> None:
    """Raises Unfit where there are characters that no alternative surely takes."""
    import numpy as np

    taken = np.zeros(len(sets.asked), bool)
    for rule in rules:
        needed = [(kind, number) for kind, number, _ in rule if kind not in (PERHAPS, ANY)]
        if len(needed) == 1 and needed[0][0] in (ONE, SOME, UP_TO):
            taken |= sets.members[needed[0][1]]
    if not taken.all():
        left = sets.asked[int((~taken).argmax())]
        raise Unfit(f"it leaves out some characters, such as U+{ord(left):04X}")
