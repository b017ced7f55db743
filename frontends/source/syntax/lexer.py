"""Text to tokens, one pass, line by line. It never fails: what cannot be a token becomes one of kind ``ALIEN``, which
no rule accepts, so that the first mistake in the file is the one reported (by ``mistakes.py``)."""

from __future__ import annotations

import re
from itertools import accumulate

from .ast import Comment
from .expressions import PRECEDENCE

ALIEN = "ALIEN"
END = "$END"
MAX_NESTING = 200

# Words that other languages or later versions of this one use: names cannot be spelled like this.
LATER_WORDS = ("mesh",)
# Words that open a declaration where a name follows them, and are names everywhere else.
NAMES_TOO = ("program", "pipeline", "tokenizer")
PYTHON_VALUES = {"True": "true", "False": "false", "None": "none"}
# Everything spelled like a name that cannot be one; a test holds it to the grammar.
RESERVED = frozenset({
    "use", "const", "record", "fn", "op", "layer", "model", "rewrite", "exact", "approximate", "compile",
    "param", "buffer", "state", "random", "tap", "require", "let", "repeat", "fold", "cond", "while", "if", "else",
    "return", "as", "in", "from", "static", "and", "or", "not", "true", "false", "none", "inf", "nan",
}).union(LATER_WORDS, PYTHON_VALUES)  # fmt: skip

_TOKEN = re.compile(
    r"""[ \t\r\f\v]*(
        as[ \t]+\w+(?:\.\w+)*
      | [A-Za-z_]\w*
      | [0-9](?:[eE][+-]|[\w.])*
      | "[^"\\]*(?:\\.[^"\\]*)*"?
      | \#.*
      | -> | => | \|> | \.\.\. | == | != | <= | >= | && | \|\|
      | \*\*=? | //=? | [-+*/%@]=
      | [^ \t\r\f\v]
    )""",
    re.ASCII | re.VERBOSE,
)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_SCOPE_AFTER_AS = re.compile(r"[ \t\r\f\v]*(\w+(?:\.\w+)*)", re.ASCII)
_INT = re.compile(r"[0-9]+")
_REAL = re.compile(r"[0-9]+(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)")
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
ESCAPE = re.compile(r'\\(?:[nrt"\\]|u[0-9a-fA-F]{4})')
_NAMES_TOO = frozenset(word.upper() for word in NAMES_TOO)
_NESTING = {"LPAR": 1, "LSQB": 1, "LBRACE": 1, "RPAR": -1, "RSQB": -1, "RBRACE": -1}


class Tokens:
    """Parallel lists, one entry a token: kind, text, line, column and end column (from 1, the end exclusive).

    ``docs`` maps the index of a token to the ``##`` lines before it. ``runs`` maps the line of each comment that stands
    alone to the first line of its run: no blank line parts comments of one run. ``too_deep`` is the index of the first
    bracket nested deeper than ``MAX_NESTING``. ``known`` gives the kind of every word and sign that is no name.
    """

    __slots__ = ("columns", "comments", "docs", "ends", "kinds", "known", "lines", "runs", "texts", "too_deep")

    def __init__(self, known: dict[str, str]) -> None:
        self.known = known
        self.kinds: list[str] = []
        self.texts: list[str] = []
        self.lines: list[int] = []
        self.columns: list[int] = []
        self.ends: list[int] = []
        self.comments: list[Comment] = []
        self.docs: dict[int, list[Comment]] = {}
        self.runs: dict[int, int] = {}
        self.too_deep: int | None = None


def word_kinds(literals: dict[str, str]) -> dict[str, str]:
    """The kind of every text whose kind is fixed."""
    kinds = dict(literals)
    kinds.update({text: "BINARY" for text in PRECEDENCE if text not in literals})
    kinds.update(dict.fromkeys((*LATER_WORDS, *PYTHON_VALUES), ALIEN))
    kinds.update({"inf": "REAL", "nan": "REAL"})
    return kinds


def tokenize(text: str, known: dict[str, str]) -> Tokens:
    """Split ``text``. ``known`` is ``word_kinds`` of the grammar; it is left as it was."""
    tokens = Tokens(known)
    # Every spelling is classified once, then looked up.
    kind_of = dict(known)
    get = kind_of.get
    find = _TOKEN.finditer
    kinds, texts, lines, columns, ends = tokens.kinds, tokens.texts, tokens.lines, tokens.columns, tokens.ends
    add_kind, add_text, add_line = kinds.append, texts.append, lines.append
    add_column, add_end = columns.append, ends.append
    number = 0
    for number, row in enumerate(text.split("\n"), 1):
        row = row.rstrip(" \t\r\f\v")
        if not row:
            continue
        position = 0
        if kinds and kinds[-1] == "AS":
            position = _join_scope(tokens, row, number)
        for match in find(row, position):
            word = match[1]
            kind = get(word)
            if kind is None:
                if word[0] == "#":
                    _comment(tokens, word, number, match.start(1) + 1, not row[: match.start(1)].strip())
                    break
                kind = kind_of[word] = _classify(word)
            add_kind(kind)
            add_text(word)
            add_line(number)
            add_column(match.start(1) + 1)
            add_end(match.end() + 1)
    add_kind(END)
    add_text("")
    last_row = text[text.rfind("\n") + 1 :]
    add_line(max(number, 1))
    add_column(len(last_row) + 1)
    add_end(len(last_row) + 1)
    if not _NAMES_TOO.isdisjoint(kinds):
        _names_too(tokens)
    _names_of_arguments(tokens)
    _check_nesting(tokens)
    return tokens


def is_name(text: str) -> bool:
    """Whether a text can be the name of something: letters, digits and `_` of ASCII, and no word of the language."""
    return _NAME.fullmatch(text) is not None and text not in RESERVED


def is_closed(literal: str) -> bool:
    """Whether a text that starts with a quote ends with its closing one."""
    return _STRING.fullmatch(literal) is not None


def _classify(word: str) -> str:
    first = word[0]
    if first == '"':
        valid = is_closed(word) and all(ESCAPE.match(word, at.start()) for at in re.finditer(r"\\.", word))
        return "STRING" if valid else ALIEN
    if "0" <= first <= "9":
        if _INT.fullmatch(word):
            # int() of thousands of digits is an error of its own; 2**63 is the magnitude of the least i64.
            return "INT" if len(word) < 40 and int(word) <= 2**63 else ALIEN
        return "REAL" if _REAL.fullmatch(word) and float(word) != float("inf") else ALIEN
    if word[:2] == "as" and word[2:3] in (" ", "\t"):
        return "SCOPE"
    return "NAME" if first == "_" or (first.isascii() and first.isalpha()) else ALIEN


def _join_scope(tokens: Tokens, row: str, line: int) -> int:
    """Complete an ``as`` at the end of a line with the scope that starts the next; return where the scope ends."""
    match = _SCOPE_AFTER_AS.match(row)
    if match is None or match[1] in RESERVED:
        return 0
    tokens.kinds[-1] = "SCOPE"
    tokens.texts[-1] = "as " + match[1]
    tokens.lines[-1] = line
    tokens.columns[-1] = match.start(1) + 1
    tokens.ends[-1] = match.end() + 1
    return match.end()


def _comment(tokens: Tokens, text: str, line: int, column: int, own_line: bool) -> None:
    comment = Comment(text, line, column, own_line)
    tokens.comments.append(comment)
    if own_line:
        tokens.runs[line] = tokens.runs.get(line - 1, line)
        if text.startswith("##") and not text.startswith("###"):
            tokens.docs.setdefault(len(tokens.kinds), []).append(comment)


def _names_too(tokens: Tokens) -> None:
    """Make names of words such as `program` that open no declaration: those in brackets, or without a name behind them."""
    depth = 0
    for index, kind in enumerate(tokens.kinds):
        depth += _NESTING.get(kind, 0)
        if kind in _NAMES_TOO and (depth > 0 or tokens.kinds[index + 1] not in ("NAME", *_NAMES_TOO)):
            tokens.kinds[index] = "NAME"


def _names_of_arguments(tokens: Tokens) -> None:
    """Make names of the words that name an argument, whatever else they are: `rewrite(rules=["a"], approximate=true)`."""
    kinds, texts = tokens.kinds, tokens.texts
    for index, text in enumerate(texts):
        if text != "=" or index < 2 or kinds[index - 1] == "NAME" or kinds[index - 2] not in ("LPAR", "COMMA"):
            continue
        if texts[index - 1].isidentifier() and _in_parentheses(kinds, index - 2):
            kinds[index - 1] = "NAME"


def _in_parentheses(kinds: list[str], index: int) -> bool:
    """Whether the innermost bracket that is open behind a token is a round one."""
    depth = 0
    while index >= 0:
        depth += _NESTING.get(kinds[index], 0)
        if depth > 0:
            return kinds[index] == "LPAR"
        index -= 1
    return False


def _check_nesting(tokens: Tokens) -> None:
    if max(accumulate(_NESTING.get(kind, 0) for kind in tokens.kinds)) <= MAX_NESTING:
        return
    depth = 0
    for index, kind in enumerate(tokens.kinds):
        depth += _NESTING.get(kind, 0)
        if depth > MAX_NESTING:
            tokens.too_deep = index
            tokens.kinds[index] = ALIEN
            return
