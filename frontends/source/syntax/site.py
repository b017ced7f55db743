"""The place where the parser stopped: what surrounds it, what could stand there, and how to say so."""

from __future__ import annotations

from functools import cached_property

from ....ir.diagnostics import Diagnostic, Note
from .builder import AstBuilder
from .lexer import END
from .tables import Row

OPENERS = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
CLOSERS = {close: open_ for open_, close in OPENERS.items()}
DECLARATIONS = ("const", "record", "fn", "op", "layer", "model", "rewrite", "program", "pipeline", "tokenizer", "compile", "use")
STATEMENTS = (
    "param", "buffer", "state", "random", "tap", "require", "let", "repeat", "fold", "cond", "while", "if", "return",
)  # fmt: skip
OPERAND_STARTS = ("NAME", "INT", "REAL", "STRING", "TRUE", "FALSE", "NONE", "LPAR", "LSQB", "MINUS", "NOT")
_SHOWN = 40


class Site:
    """The place where the parser stopped: ``at`` is the index of the token that no rule accepts."""

    def __init__(self, builder: AstBuilder, rows: list[Row], at: int) -> None:
        self.builder = builder
        self.tokens = builder.tokens
        self.at = at
        self.kind = self.tokens.kinds[at]
        self.text = self.tokens.texts[at]
        self._rows = rows

    @cached_property
    def expected(self) -> set[str]:
        """The kinds of token that could stand here."""
        return {kind for kind in self._rows[-1] if kind.isupper() and accepts(self._rows, kind)} | (
            {END} if accepts(self._rows, END) else set()
        )

    @cached_property
    def open(self) -> list[int]:
        """The indices of the brackets that are open here, outermost first."""
        stack: list[int] = []
        for index, kind in enumerate(self.tokens.kinds[: self.at]):
            if kind in OPENERS:
                stack.append(index)
            elif kind in CLOSERS and stack:
                stack.pop()
        return stack

    @property
    def inside(self) -> str:
        """The kind of the innermost open bracket, or nothing."""
        return self.tokens.kinds[self.open[-1]] if self.open else ""

    def is_word(self) -> bool:
        return self.text.isidentifier() and self.kind not in ("NAME", END)

    def kind_at(self, offset: int) -> str:
        index = self.at + offset
        return self.tokens.kinds[index] if 0 <= index < len(self.tokens.kinds) else ""

    def text_at(self, offset: int) -> str:
        index = self.at + offset
        return self.tokens.texts[index] if 0 <= index < len(self.tokens.texts) else ""

    def starts_line(self, index: int | None = None) -> bool:
        index = self.at if index is None else index
        return index == 0 or self.tokens.lines[index - 1] != self.tokens.lines[index]

    def indent(self, index: int) -> int:
        """The column of the first token on the line of token ``index``."""
        while not self.starts_line(index):
            index -= 1
        return self.tokens.columns[index]

    def error(
        self, code: str, message: str, help: str | None = None, at: int | None = None, notes: list[Note] | None = None
    ) -> Diagnostic:
        index = self.at if at is None else at
        return Diagnostic(code, message, self.builder.span(index, index), notes or [], help)

    def note(self, message: str, index: int) -> Note:
        return Note(message, self.builder.span(index, index))


def accepts(rows: list[Row], kind: str) -> bool:
    """Whether the parser, here, would shift a token of this kind (a reduction may be all that the row promises)."""
    rows = list(rows)
    while True:
        action = rows[-1].get(kind)
        if action is None:
            return kind == END and not rows[-1]
        if isinstance(action, dict):
            return True
        size, symbol, _ = action
        if size:
            del rows[-size:]
        rows.append(rows[-1][symbol])


def found_words(site: Site) -> str:
    """The token at the site, in words."""
    text = site.text if len(site.text) <= _SHOWN else site.text[:_SHOWN] + "…"
    if site.kind == END:
        return "the end of the file"
    if site.kind == "NAME":
        return f"the name `{text}`"
    if site.kind in ("INT", "REAL"):
        return f"the number `{text}`"
    return f"the string {text}" if site.kind == "STRING" else f"`{text}`"


def expected_words(site: Site) -> str:
    """What could stand at the site, in words: a few things at most."""
    kinds = set(site.expected)
    spelled = {kind: f"`{text}`" for text, kind in site.tokens.known.items()}
    words: list[str] = []
    if "CONST" in kinds:
        words.append("a declaration")
        kinds -= {word.upper() for word in DECLARATIONS} | {"NAME"}
    elif {"FN", "OP"} <= kinds:
        words.append("a declaration")
    if "RETURN" in kinds:
        words.append("a statement")
        kinds -= {word.upper() for word in STATEMENTS} | {"NAME"}
    if "TRUE" in kinds:
        words.append("an expression")
        kinds -= set(OPERAND_STARTS)
    if "BINARY" in kinds:
        words.append("an operator")
        kinds -= {"BINARY", "MINUS", "STAR", "IN", "NOT", "LPAR", "LSQB", "DOT", "SCOPE", "AS"}
    if kinds == {"NAME", "FN"} or kinds == {"NAME", "FN", "LPAR"}:
        words.append("a type")
        kinds.clear()
    for kind, phrase in (
        ("NAME", "a name"), ("STRING", "a string"), ("INT", "an integer"), ("SCOPE", "`as`"), (END, "the end"),
    ):  # fmt: skip
        if kind in kinds and not (kind == END and words):
            words.append(phrase)
        kinds.discard(kind)
    words = sorted(spelled[kind] for kind in kinds if kind in spelled) + words
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
