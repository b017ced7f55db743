"""Rules of ``mistakes.explain`` for text that is no token, and for habits from Python and its relatives."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from ....ir.diagnostics import Diagnostic
from ....ir.types import DTYPES, KINDS
from .lexer import ALIEN, ESCAPE, LATER_WORDS, PYTHON_VALUES, is_closed
from .site import OPERAND_STARTS, Site

_OPERATORS = {
    "&&": "write `and`",
    "||": "write `or`",
    "!": "write `not a`, or `a != b`",
    "&": "masks are joined by `and`, bits by `bitwise_and(a, b)`",
    "|": "masks are joined by `or`, bits by `bitwise_or(a, b)`; a pipe is `|>`",
    "^": "a power is written `**`, of bits `bitwise_xor(a, b)`",
    "~": "a mask is turned by `not a`, bits by `bitwise_not(a)`",
}
_CHARACTERS = {
    "'": 'strings stand in double quotes: `"text"`',
    ";": "statements need no separator: remove it",
    "→": "write `->`",
    "⇒": "write `=>`",
    "≤": "write `<=`",
    "≥": "write `>=`",
    "≠": "write `!=`",
    "×": "write `*`",
    "·": "write `*`",
    "÷": "write `/`",
    "−": "write `-`, the ASCII minus",
    "–": "write `-`, the ASCII minus",
    "—": "write `-`, the ASCII minus",
    "“": 'write `"`, the ASCII quote',
    "”": 'write `"`, the ASCII quote',
    "‘": 'write `"`, the ASCII quote',
    "’": 'write `"`, the ASCII quote',
    "…": "write `...`, three dots",
    "∞": "write `inf`",
    "\\": "a line may end anywhere: remove it",
    "\xa0": "replace the no-break space by an ordinary space",
}
# What the word would be here.
_WORDS = {
    "def": "a function is written `fn f(x: float[B, D]) -> float[B, D] { … }`",
    "func": "a function is written `fn f(x: float[B, D]) -> float[B, D] { … }`",
    "function": "a function is written `fn f(x: float[B, D]) -> float[B, D] { … }`",
    "class": "a layer is written `layer name(…) -> float[B, D] { … }`, a group of tensors `record Name { … }`",
    "struct": "a group of tensors is written `record Name[B] { size: f32[B] }`",
    "import": "names come from another file with `use std.nn (linear, mlp)`",
    "include": "names come from another file with `use std.nn (linear, mlp)`",
    "lambda": "write a `fn` with a name, and pass the name",
    "for": "write `repeat i in 12 { … }` to unroll, or `fold i in n from (a, b) { … }` to loop",
    "elif": "write `else if c { … }`",
    "assert": 'write `require c, "message"`',
    "print": "write `tap name = expression` to expose a value",
    "var": "write `name = expression`",
    "with": "write `f(x) as scope` to name a scope",
    "pass": "an empty block is written `{ }`",
    "del": "a name needs no deletion",
    "global": "names of the file are seen everywhere; a constant is written `const N = 12`",
    "nonlocal": "a name is seen in the whole function; a loop carries it: `fold i in n from (x) { … }`",
    "break": "a loop ends by its condition: `while go from (x) limit 64 { … }`",
    "continue": "choose by a condition: `where(c, a, b)`, or `if` while compiling",
    "foreach": "write `repeat i in 12 { … }`",
    "try": "there are no exceptions: state what must hold with `require`",
    "raise": 'write `require c, "message"`',
    "yield": "write `tap name = expression` to expose a value",
    "async": "there is nothing to wait for",
    "await": "there is nothing to wait for",
    "switch": "write `if a { … } else if b { … } else { … }`",
    "match": "write `if a { … } else if b { … } else { … }`",
}
_NUMBER = re.compile(r"[0-9]+")


def _alien(site: Site) -> Diagnostic | None:
    if site.kind != ALIEN:
        return None
    text = site.text
    if text in LATER_WORDS:
        return site.error(
            "E0110",
            f"`{text}` is reserved for a later version of the language",
            f"there is no `{text}` declaration yet; as a name, choose another, such as `{text}_`",
        )
    if text == "None" and site.inside == "LSQB" and site.tokens.kinds[site.open[-1] - 1] in ("NAME", "RPAR", "RSQB"):
        return site.error("E0112", "`None` is no index here", "a new axis is made by `unsqueeze`: `unsqueeze(x, axis=1)`")
    if text in PYTHON_VALUES:
        return site.error("E0112", f"`{text}` is not a value here", f"write `{PYTHON_VALUES[text]}`")
    if text[0] == '"':
        return _string(site)
    if _NUMBER.match(text):
        return _number(site)
    if text in _OPERATORS:
        return site.error("E0112", f"`{text}` is not an operator", _OPERATORS[text])
    if len(text) > 1:
        sign = text[:-1]
        return site.error("E0112", f"there is no `{text}`: values do not change", f"write `x = x {sign} …`")
    shown = f"`{text}`" if text.isprintable() else f"U+{ord(text):04X}"
    named = "" if text.isascii() and text.isprintable() else f" ({unicodedata.name(text, 'a control character')})"
    help_ = _CHARACTERS.get(text)
    if help_ is None and text.isalpha():
        help_ = "names are made of the letters a to z and A to Z, digits and `_`"
    return site.error("E0106", f"the character {shown}{named} has no meaning here", help_)


def _string(site: Site) -> Diagnostic:
    if not is_closed(site.text):
        last = site.builder.span(site.at, site.at)
        start = last._replace(end_column=last.column + 1)
        return Diagnostic("E0105", "this string is not closed", start, help='end it with `"` on the same line')
    bad = next(m for m in re.finditer(r"\\.", site.text) if not ESCAPE.match(site.text, m.start()))
    span = site.builder.span(site.at, site.at)
    at = span.column + bad.start()
    return Diagnostic(
        "E0108",
        f"`{bad[0]}` is not an escape",
        span._replace(column=at, end_column=at + 2),
        help='the escapes are `\\n`, `\\t`, `\\r`, `\\"`, `\\\\` and `\\u` with four hexadecimal digits',
    )


def _number(site: Site) -> Diagnostic:
    text = site.text
    shown = text if len(text) <= 40 else text[:40] + "…"
    if text.isdigit():
        help_ = "an integer has at most 63 bits"
    elif text.endswith(".") and text[:-1].isdigit():
        help_ = f"write `{text}0`"
    elif "_" in text and text.replace("_", "").isdigit():
        help_ = f"write `{text.replace('_', '')}`"
    elif re.fullmatch(r"[0-9]+(\.[0-9]+)?[eE][+-]?[0-9]+|[0-9]+\.[0-9]+", text):
        help_ = "a real number has at most 64 bits; write `inf` for infinity"
    elif re.match(r"0[xXbBoO]", text):
        help_ = "write it in decimal"
    else:
        help_ = "numbers are written `12`, `0.5`, `1e-5`"
    return site.error("E0107", f"`{shown}` is not a number", help_)


def _foreign_word(site: Site) -> Diagnostic | None:
    """`def f(x)`, `for i in xs`, `from a import b`: the word is this token or the one before."""
    if site.kind == "FROM" and "CONST" in site.expected:
        return site.error("E0111", "`from` starts no declaration", _WORDS["import"])
    for offset in (0, -1, -2):
        word = site.text_at(offset)
        if offset == -2 and word != "lambda":
            continue
        if word not in _WORDS or site.kind_at(offset) != "NAME":
            continue
        if (offset == -1 and site.kind in ("COMMA", "EQUAL", "DOT")) or site.kind_at(offset - 1) == "DOT":
            continue
        # `print(x)` may be a function's name; only as a statement it is Python's.
        if word == "for" and site.inside == "LSQB":
            help = "write the items, or `repeat i in 12 { … }`"
            return site.error("E0111", "there are no comprehensions", help, site.at + offset)
        if word in ("print", "match") and site.kind == "LPAR" and "EQUAL" not in site.expected:
            continue
        return site.error("E0111", f"`{word}` is not a keyword of this language", _WORDS[word], site.at + offset)
    return None


def _ternary(site: Site) -> Diagnostic | None:
    """`a if c else b`: the parser takes the `if` for a new statement, or stops at it within brackets."""
    if site.kind == "IF" and site.inside in ("LPAR", "LSQB") and "BINARY" in site.expected:
        at = site.at
    elif site.kind == "ELSE" and "LBRACE" in site.expected:
        at = next((n for n in range(site.at - 1, -1, -1) if site.tokens.kinds[n] == "IF"), 0)
        if site.starts_line(at) or site.tokens.kinds[at - 1] in ("LBRACE", "RBRACE", "ELSE"):
            return None
    else:
        return None
    return site.error("E0112", "there is no `a if c else b`", "write `where(c, a, b)`", at)


def _membership(site: Site) -> Diagnostic | None:
    for offset in (0, -1):
        if site.kind_at(offset) == "NAME" and site.text_at(offset) == "is":
            help_ = "compare with `==`; ask `given(x)` whether `x` was passed"
            return site.error("E0112", "there is no `is`", help_, site.at + offset)
    return None


def _signs(site: Site) -> Diagnostic | None:
    """`f"{x}"`, `c ? a : b`, `float(B, T)`, `x // and so on`."""
    for at in (site.at, site.at + 1):
        if site.kind_at(at - site.at) == "STRING" and site.kind_at(at - site.at - 1) == "NAME" and _touching(site, at):
            return site.error("E0112", "a string takes no prefix", 'it is fixed text: `"text"`', at - 1)
    if site.kind == "STRING" and site.kind_at(-1) == "STRING":
        return site.error("E0112", "two strings do not join", "write one")
    if site.text == "?" and "BINARY" in site.expected and site.kind_at(1) in OPERAND_STARTS:
        return site.error("E0112", "there is no `c ? a : b`", "write `where(c, a, b)`")
    if site.kind == "LPAR" and site.text_at(-1) in (*DTYPES, *KINDS) and "LSQB" in site.expected and "TRUE" not in site.expected:
        name = site.text_at(-1)
        return site.error("E0112", f"`{name}` is a type, whose sizes stand in square brackets", f"write `{name}[B, T]`")
    line = site.tokens.lines[site.at - 1] if site.at else 0
    for index in range(site.at - 1, -1, -1):
        if site.tokens.lines[index] != line:
            break
        if site.tokens.texts[index] == "//" and site.kind_at(-1) == "NAME" and site.kind == "NAME":
            return site.error("E0112", "a comment does not start with `//`", "it starts with `#`; `//` divides integers", index)
    return None


def _touching(site: Site, at: int) -> bool:
    """Whether nothing stands between a token and the one before."""
    return (site.tokens.lines[at], site.tokens.columns[at]) == (site.tokens.lines[at - 1], site.tokens.ends[at - 1])


FOREIGN_RULES: tuple[Callable[[Site], Diagnostic | None], ...] = (
    _signs, _foreign_word, _alien, _ternary, _membership,
)  # fmt: skip
