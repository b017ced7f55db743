"""Programs as texts of tokens: the leaves of their syntax trees, each name and literal as a kind and a number (Tokompiler).

What a name means is not told by how it is spelled: the same program with other names gives the same leaves. Which name a kind and a
number stand for is told beside them, by a scope, with which the program is written again; comments and layout are lost.

>>> leaves, scope = named("int twice(int n) { return 2 * n; }", "c", key=7)
>>> leaves
'int func 818 ( int arg 258 ) { return num 440 * arg 258 ; }'
>>> written(leaves, scope)
'int twice ( int n ) { return 2 * n ; }'
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..ir.diagnostics import Diagnostic, did_you_mean

if TYPE_CHECKING:
    import numpy as np

KINDS = ("arg", "arr", "func", "var", "field", "type", "num", "char", "str")
# Numbers are drawn from so many, for each kind.
NUMBERS = 1001
# Where a line ends that a program needs.
LINE = "<line>"
# Which package has the grammar of a language, and what its function is called.
LANGUAGES = {"c": "tree_sitter_c", "cpp": "tree_sitter_cpp", "fortran": "tree_sitter_fortran"}
# Nodes that are one leaf, or leaves that are no keywords: what kind each is.
_LITERALS = {
    "number_literal": "num", "char_literal": "char", "string_literal": "str", "raw_string_literal": "str",
    "system_lib_string": "str", "preproc_arg": "str", "filename": "str", "type_identifier": "type", "namespace_identifier": "type",
    "type_name": "type", "module_name": "type", "field_identifier": "field", "type_member": "field", "statement_identifier": "var",
}  # fmt: skip
_NAMES = ("identifier", "name", "operator_name", "method_name")
# Declarators that a name stands in, between it and what says whether it is an argument.
_WITHIN = ("pointer_declarator", "array_declarator", "reference_declarator", "sized_declarator", "parenthesized_declarator")
_ARGUMENTS = ("parameter_declaration", "optional_parameter_declaration", "preproc_params", "parameters")
_FUNCTIONS = (
    "function_declarator", "call_expression", "preproc_function_def", "subroutine_statement", "function_statement",
    "end_subroutine_statement", "end_function_statement", "subroutine_call", "preproc_call",
)  # fmt: skip
_ARRAYS = ("array_declarator", "sized_declarator", "subscript_expression")
# What a name is that several places say something of: an argument, wherever it is one.
_ORDER = ("arg", "arr", "func", "var")


@dataclass
class Scope:
    """The names of a program by kind and number, ``arr_88``."""

    key: int
    names: dict[str, str] = field(default_factory=dict)
    _numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    _drawn: dict[str, Iterator[int]] = field(default_factory=dict)

    def number(self, kind: str, name: str) -> int:
        """The number of a name, drawn where it is new. Raises E1016 where there are more names than numbers."""
        found = self._numbers.get((kind, name))
        if found is None:
            if kind not in self._drawn:
                self._drawn[kind] = iter(random.Random(f"{self.key} {kind}").sample(range(NUMBERS), NUMBERS))
            found = next(self._drawn[kind], None)
            if found is None:
                raise Diagnostic(
                    "E1016", f"the program has more than {NUMBERS} names of the kind `{kind}`",
                    help="take one function at a time: each has a scope of its own",
                )  # fmt: skip
            self._numbers[kind, name] = found
            self.names[f"{kind}_{found}"] = name
        return found


def named(source: str, language: str, *, key: int = 0, strict: bool = True) -> tuple[str, str]:
    """The leaves of a program, and its scope, as texts.

    Args:
        language: one of :data:`LANGUAGES`; Fortran is taken in lower case.
        key: the seed of the numbers.
        strict: whether a program that its grammar cannot parse is refused.

    Raises:
        Diagnostic: E1016 for another language, a program that cannot be parsed, more than 1,001 names of a kind; E0015.
    """
    if language == "fortran":
        source = source.lower()
    data = source.encode()
    root = parser(language).parse(data).root_node
    if strict and root.has_error:
        wrong = next(node for node in _nodes(root) if node.type == "ERROR" or node.is_missing)
        raise Diagnostic(
            "E1016", f"line {wrong.start_point[0] + 1} is no {language}: `{_text(wrong)[:40]}`",
            help="what a preprocessor writes is parsed behind it; `strict=False` takes the leaves of what could be read",
        )  # fmt: skip
    found = list(_leaves(root))
    kinds: dict[str, str] = {}
    for node, kind in found:
        if kind in _ORDER and node.type in _NAMES:
            name = _text(node)
            kinds[name] = min(kinds.get(name, "var"), kind, key=_ORDER.index)
    scope = Scope(key)
    lines = _lines(source, language)
    parts: list[str] = []
    last, parted = 0, False
    for node, kind in found:
        line = lines[node.start_point[0]]
        if parts and line[0] != last and (line[1] or parted):
            parts.append(LINE)
        parted, last = line[1], lines[node.end_point[0]][0]
        text = _text(node)
        if kind is None:
            parts.append(text)
        else:
            kind = kinds.get(text, kind) if node.type in _NAMES else kind
            parts += [kind, str(scope.number(kind, text))]
    return " ".join(parts), json.dumps(scope.names)


def written(leaves: str, scope: str) -> str:
    """The program that leaves with their scope stand for. Raises E1016 without the scope, or with another one's."""
    try:
        names = json.loads(scope)
        if not isinstance(names, dict):
            raise ValueError
    except ValueError:
        raise Diagnostic(
            "E1016", "names cannot be put back without the scope of the program",
            help="keep what `named` gives beside the leaves, and hand it over with them",
        ) from None  # fmt: skip
    parts = leaves.split(" ")
    made: list[str] = []
    place = 0
    while place < len(parts):
        kind, number = (*parts[place : place + 2], "")[:2]
        if kind not in KINDS or not number.isdigit():
            # The parameters of a macro stand at its name.
            glued = kind == "(" and made[-2:-1] == ["#define"]
            made[-1:] = [made[-1] + kind] if glued else [*made[-1:], "\n" if kind == LINE else kind]
            place += 1
            continue
        name = names.get(f"{kind}_{number}")
        if name is None:
            raise Diagnostic("E1016", f"the scope has no `{kind}_{number}`", help="each program has a scope of its own")
        made.append(name)
        place += 2
    return " ".join(made).replace(" \n ", "\n")


def vocabulary(*languages: str) -> list[str]:
    """What the leaves of programs are, without what is unknown: kinds, numbers, and the words and signs of the languages."""
    found = dict.fromkeys([LINE, *KINDS, *map(str, range(NUMBERS))])
    for name in languages:
        language = parser(name).language
        symbols = (
            str(language.node_kind_for_id(number))
            for number in range(language.node_kind_count)
            if language.node_kind_is_visible(number) and not language.node_kind_is_named(number)
        )
        words = (symbol.lower() if name == "fortran" else symbol for symbol in symbols)
        found.update(dict.fromkeys(sorted(word for word in words if word.strip() and " " not in word)))
        found.update(dict.fromkeys(_WORDS[name]))
    return list(found)


# Leaves that a grammar has no sign of their own for.
_C = (
    "int", "char", "float", "double", "void", "bool", "size_t", "ssize_t", "ptrdiff_t", "intptr_t", "uintptr_t", "nullptr_t",
    *(f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)), "true", "false", "NULL", "nullptr", "...",
    "#pragma", "#error", "#warning", "#undef", "#line", "#", "this", "auto",
)  # fmt: skip
_WORDS = {"c": _C, "cpp": _C, "fortran": (".true.", ".false.", "*", "&")}


# Hosts of a pipeline ---------------------------------------------------------------------------------------------------


def anonymise(source: Sequence[str], language: Sequence[str], key: np.ndarray) -> list[np.ndarray]:
    """``host anonymise = "tessera.runtime.code:anonymise"(source: text[B], language: text[B], key: i64[1]) -> (leaves: text[B],
    scope: text[B])``: :func:`named` of each program. Raises E1016 with the row."""
    rows = []
    for place, (text, name) in enumerate(zip(source, language, strict=True)):
        try:
            rows.append(named(text, name, key=int(key[0])))
        except Diagnostic as error:
            error.message = f"program {place}: {error.message}"
            raise
    return [_texts([leaves for leaves, _ in rows]), _texts([scope for _, scope in rows])]


def restore(leaves: Sequence[str], scope: Sequence[str]) -> np.ndarray:
    """``host restore = "tessera.runtime.code:restore"(leaves: text[B], scope: text[B]) -> text[B]``: :func:`written` of each."""
    return _texts([written(text, names) for text, names in zip(leaves, scope, strict=True)])


def _texts(rows: list[str]) -> np.ndarray:
    from .stages import texts

    return texts(rows)


# Trees ----------------------------------------------------------------------------------------------------------------


@cache
def parser(language: str) -> Any:
    """Raises E1016 for a language without a grammar, E0015 without its package."""
    if language not in LANGUAGES:
        raise Diagnostic(
            "E1016", f"there is no grammar of `{language}`",
            help=did_you_mean(language, LANGUAGES) or f"there is one of {', '.join(LANGUAGES)}",
        )  # fmt: skip
    try:
        import tree_sitter

        grammar = import_module(LANGUAGES[language])
    except ImportError:
        raise Diagnostic(
            "E0015", f"programs are parsed by the packages `tree-sitter` and `{LANGUAGES[language].replace('_', '-')}`",
            help="pip install 'tessera[code]'",
        ) from None  # fmt: skip
    return tree_sitter.Parser(tree_sitter.Language(grammar.language()))


def _text(node: Any) -> str:
    text: str = node.text.decode()
    return text


def _nodes(root: Any) -> Iterator[Any]:
    """A node and all below it, in order; trees may be deeper than Python's stack."""
    pending = [root]
    while pending:
        node = pending.pop()
        yield node
        pending += reversed(node.children)


def _leaves(root: Any) -> Iterator[tuple[Any, str | None]]:
    """The leaves of a tree in order, each with its kind; None of keywords and signs. Comments are left out."""
    pending = [root]
    while pending:
        node = pending.pop()
        kind = _LITERALS.get(node.type)
        if node.type == "comment" or not (node.text.strip() or node.children):
            continue
        if kind is not None or not node.children:
            yield node, kind or (_kind(node) if node.type in _NAMES else None)
        else:
            pending += reversed(node.children)


def _kind(node: Any) -> str:
    """What a name is where it stands."""
    parent = node.parent
    above = parent
    while above is not None and above.type in _WITHIN:
        above = above.parent
    if parent is None or above is None:
        return "var"
    if above.type in _ARGUMENTS:
        return "arg"
    first = parent.child_by_field_name("function") or parent.child_by_field_name("argument") or parent.children[0]
    if parent.type in _ARRAYS and (parent.type != "subscript_expression" or first == node):
        return "arr"
    if parent.type in _FUNCTIONS and (node.type != "identifier" or parent.type != "call_expression" or first == node):
        return "func"
    return "var"


def _lines(source: str, language: str) -> list[tuple[int, bool]]:
    """Of each line its number, one with those that go on with it, and whether it must end where it ends."""
    rows: list[tuple[int, bool]] = []
    number, goes_on, directive = 0, False, False
    for line in [*source.split("\n"), ""]:
        bare = line.strip()
        if not goes_on:
            number += 1
            directive = language == "fortran" or bare.startswith("#")
        rows.append((number, directive))
        goes_on = bare.split("!")[0].rstrip().endswith("&") if language == "fortran" else bare.endswith("\\")
    return rows
