"""The part of the builder that makes the declaration `tokenizer`: a clause a line, whose words are ordinary names elsewhere."""

from __future__ import annotations

from typing import Any

from ....ir.diagnostics import Diagnostic, did_you_mean
from . import ast
from .expressions import unescape
from .members import ProgramBuilder

# What each word is followed by.
_PARTS = ("normalize", "split", "model", "process", "decode", "truncate", "pad", "round", "inject")
_FORMS = {word: f"write `{word} {example}`" for word, example in {
    "normalize": "bert(lowercase=true)", "split": "bert", "model": "bpe(vocab=8192)",
    "process": 'template(single=["[CLS]", "$A"], pair=["[CLS]", "$A", "$B:1"])', "decode": "wordpiece",
    "truncate": "longest_first(length=128)", "pad": 'longest(token="[PAD]")', "round": "pow2",
    "special": '"[PAD]" = 0', "inject": '"<td>"', "from": '"tokenizer.json"', "train": '"corpus/*.txt" (key=7)',
    "measure": '"held/*.txt"', "family": "[4096, 8192]",
}.items()}  # fmt: skip
_TOKENS = ("special", "inject")
_FILES = ("from", "train", "measure")


class TokenizerBuilder(ProgramBuilder):
    """The part of :class:`.builder.AstBuilder` that makes tokenizers."""

    def tokenizer(self, i: int, j: int, _tokenizer: str, name: str, *rest: Any) -> ast.Tokenizer:
        tensors, statics = self._split_params(rest[1]) if len(rest) == 6 else ([], [])
        if tensors:
            raise Diagnostic(
                "E0131", f"`{tensors[0].name}` is no static parameter of the tokenizer `{name}`", tensors[0].span,
                help=f"write `tokenizer {name}(*, {tensors[0].name}: int)`: a tokenizer takes texts, and what is static",
            )  # fmt: skip
        node = ast.Tokenizer(
            name, rest[-2], self._doc(i), statics, name_span=self.span(i + 1, i + 1), span=self.span(i, j)
        )
        return self.checked(i, j, node)

    def stage_part(self, i: int, j: int, word: str, name: str, *rest: Any) -> ast.StagePart:
        self._is_one_of(i, word, _PARTS)
        args = self.ordered(rest[1]) if rest else []
        return self.checked(i, j, ast.StagePart(word, name, args, span=self.span(i, j)))

    def stage_text(self, i: int, j: int, word: str, text: str, *rest: Any) -> ast.StageToken | ast.StageFiles:
        numbered = bool(rest) and rest[0] == "="
        self._is_one_of(i, word, _TOKENS if numbered else (*_TOKENS, *_FILES))
        args = self.ordered(rest[-2]) if rest and rest[-1] == ")" else []
        if word in _FILES:
            return self.checked(i, j, ast.StageFiles(word, unescape(text), args, span=self.span(i, j)))
        number = int(rest[1]) if numbered else None
        return self.checked(i, j, ast.StageToken(word, unescape(text), number, args, span=self.span(i, j)))

    def stage_list(self, i: int, j: int, word: str, _open: str, items: list[ast.Expr], *_close: str) -> ast.StageList:
        self._is_one_of(i, word, ("family", *_TOKENS))
        return self.checked(i, j, ast.StageList(word, items, span=self.span(i, j)))

    def _is_one_of(self, i: int, word: str, words: tuple[str, ...]) -> None:
        """Raise E0131 where ``word`` does not introduce the form that the grammar has recognised."""
        if word in words:
            return
        found = f"this `{word}` clause is malformed" if word in _FORMS else f"`{word}` is no clause of a tokenizer"
        help_ = _FORMS.get(word) or did_you_mean(word, _FORMS) or f"its clauses are {', '.join(_FORMS)} and require"
        raise Diagnostic("E0131", found, self.span(i, i), help=help_)
