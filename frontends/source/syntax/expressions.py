"""Builder methods for expressions and lists, and the precedence of operators."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic, Note, Span
from . import ast

if TYPE_CHECKING:
    from .lexer import Tokens

# Binding strength of the binary operators, loosest first.
PRECEDENCE = {
    "|>": 0,
    "or": 1,
    "and": 2,
    "==": 4, "!=": 4, "<": 4, "<=": 4, ">": 4, ">=": 4, "in": 4,
    "+": 5, "-": 5,
    "*": 6, "/": 6, "//": 6, "%": 6, "@": 6,
    "**": 8,
}  # fmt: skip
PREFIX = {"not": 3, "-": 7}
COMPARISON = 4
POWER = 8
# How deep an expression may be, counting operators, calls and lists: what reads the tree may recurse.
MAX_DEPTH = 200

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")
_TWO_OPERANDS = 3


def unescape(literal: str) -> str:
    """The value of a string literal, quotes included."""
    body = literal[1:-1]
    if "\\" not in body:
        return body
    return _ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else _ESCAPES[m[2]], body)


class ExpressionBuilder:
    """Makes expression nodes. ``tokens`` gives the positions, ``path`` the file that spans name."""

    def __init__(self, path: str, tokens: Tokens) -> None:
        self.path = path
        self.tokens = tokens
        self._lines = tokens.lines
        self._columns = tokens.columns
        self._ends = tokens.ends
        # `= zeros as "a.b"` is read as part of the expression: (name, index of its last token) until the statement
        # around it claims it.
        self._quoted: tuple[str, int] | None = None
        # The index of the last token of the latest `f(x) as scope`.
        self._scoped_end = -1

    def span(self, i: int, j: int) -> Span:
        """From the start of token ``i`` to the end of token ``j``."""
        return tuple.__new__(Span, (self.path, self._lines[i], self._columns[i], self._lines[j], self._ends[j], None))

    # Lists and passing on -------------------------------------------------------------------------------------------

    def empty(self, i: int, j: int) -> list[Any]:
        return []

    def one(self, i: int, j: int, item: Any) -> list[Any]:
        return [item]

    def append(self, i: int, j: int, items: list[Any], item: Any, _comma: str = "") -> list[Any]:
        items.append(item)
        return items

    def append_after(self, i: int, j: int, items: list[Any], _comma: str, item: Any) -> list[Any]:
        items.append(item)
        return items

    def trailing(self, i: int, j: int, items: list[Any], _comma: str) -> list[Any]:
        return items

    def enclosed(self, i: int, j: int, _open: str, inner: Any, *_close: str) -> Any:
        return inner

    def absent(self, i: int, j: int) -> None:
        return None

    # Atoms and what follows them -------------------------------------------------------------------------------------

    def name(self, i: int, j: int, text: str) -> ast.Name:
        return ast.Name(text, span=self.span(i, i))

    def integer(self, i: int, j: int, text: str) -> ast.Int:
        return ast.Int(int(text), span=self.span(i, i))

    def real(self, i: int, j: int, text: str) -> ast.Real:
        return ast.Real(float(text), text, span=self.span(i, i))

    def string(self, i: int, j: int, text: str) -> ast.Str:
        return ast.Str(unescape(text), span=self.span(i, i))

    def constant(self, i: int, j: int, text: str) -> ast.Bool | ast.NoneValue:
        span = self.span(i, i)
        return ast.NoneValue(span=span) if text == "none" else ast.Bool(text == "true", span=span)

    def list_(self, i: int, j: int, _open: str, *items: Any) -> ast.ListExpr:
        return ast.ListExpr(items[0] if len(items) > 1 else [], span=self.span(i, j))

    def call(self, i: int, j: int, function: ast.Expr, _open: str, args: list[ast.Arg], _close: str) -> ast.Call:
        return ast.Call(function, self.ordered(args), span=self.span(i, j))

    def index(self, i: int, j: int, value: ast.Expr, _open: str, items: list[ast.Expr], _close: str) -> ast.Index:
        return ast.Index(value, items, span=self.span(i, j))

    def attribute(self, i: int, j: int, value: ast.Expr, _dot: str, name: str) -> ast.Attribute:
        return ast.Attribute(value, name, span=self.span(i, j))

    def positional(self, i: int, j: int, value: ast.Expr) -> ast.Arg:
        return ast.Arg(None, value, span=self.span(i, j))

    def keyword(self, i: int, j: int, name: str, _equal: str, value: ast.Expr) -> ast.Arg:
        return ast.Arg(name, value, span=self.span(i, j))

    def ordered(self, args: list[ast.Arg]) -> list[ast.Arg]:
        """``args``, if no positional one follows a named one."""
        named: ast.Arg | None = None
        for arg in args:
            if arg.name is not None:
                named = arg
            elif named is not None:
                raise Diagnostic(
                    "E0119",
                    f"a positional argument follows the named argument `{named.name}`",
                    arg.span,
                    [Note("named here", named.span)],
                    "move it before the named ones, or name it too",
                )
        return args

    def not_in(self, i: int, j: int, _not: str, _in: str) -> str:
        return "not in"

    def ellipsis(self, i: int, j: int, _dots: str) -> ast.Ellipsis_:
        return ast.Ellipsis_(span=self.span(i, i))

    def slice(
        self, i: int, j: int, start: ast.Expr | None, _colon: str, stop: ast.Expr | None, *step: Any
    ) -> ast.Slice:
        return ast.Slice(start, stop, step[1] if step else None, span=self.span(i, j))

    def scoped(self, i: int, j: int, value: ast.Expr, scope: str) -> ast.Scoped:
        self._scoped_end = j
        return ast.Scoped(value, scope[2:].lstrip(), span=self.span(i, j))

    def quoted(self, i: int, j: int, value: ast.Expr, _as: str, name: str) -> ast.Expr:
        if self._quoted is not None:
            self.refuse_quoted()
        self._quoted = unescape(name), j
        return value

    def claim_quoted(self, j: int) -> str | None:
        """The name of an `as "name"` that ends the statement whose last token is ``j``."""
        if self._quoted is None or self._quoted[1] != j:
            return None
        (name, _), self._quoted = self._quoted, None
        return name

    def refuse_quoted(self) -> None:
        """Raise if an `as "name"` has not been claimed by a statement."""
        if self._quoted is not None:
            (name, at), self._quoted = self._quoted, None
            raise Diagnostic(
                "E0122",
                "a name in quotes after `as` is what a weight, a state, an input or a result of a `model` is called outside",
                self.span(at - 1, at),
                help=f"a scope is written without quotes: `as {name}`",
            )

    # Operators ------------------------------------------------------------------------------------------------------
    # A chain is a flat list: operands are nodes, operators are (text, index of the token).

    def head_prefix(self, i: int, j: int, sign: str) -> list[Any]:
        return [(sign, j)]

    def head_more(self, i: int, j: int, chain: list[Any], sign: str) -> list[Any]:
        chain.append((sign, j))
        return chain

    def head_binary(self, i: int, j: int, operand: ast.Expr, sign: str) -> list[Any]:
        return [operand, (sign, j)]

    def head_chain(self, i: int, j: int, chain: list[Any], sign: str) -> list[Any]:
        chain.append((sign, j))
        return chain

    def chain(self, i: int, j: int, chain: list[Any], operand: ast.Expr) -> list[Any]:
        chain.append(operand)
        return chain

    def resolve(self, i: int, j: int, chain: list[Any]) -> ast.Expr:
        """The tree of a chain: shunting-yard, so that ten thousand operators need no recursion."""
        if len(chain) == _TWO_OPERANDS and type(chain[1]) is tuple and type(chain[0]) is not tuple:
            left, (sign, _), right = chain
            return self._binary(sign, left, right, self.span(i, j))
        # Operands as (node, first token); operators as (strength, text, token, prefix).
        operands: list[tuple[Any, int]] = []
        operators: list[tuple[int, str, int, bool]] = []
        start = i
        after_operand = False
        for item in chain:
            if type(item) is not tuple:
                operands.append((item, start))
                after_operand = True
                continue
            sign, at = item
            start = at + 1
            if after_operand:
                strength = PRECEDENCE[sign.removeprefix("not ")]
                while operators and (
                    operators[-1][0] > strength or (operators[-1][0] == strength and strength != POWER)
                ):
                    if operators[-1][0] == strength == COMPARISON:
                        self._refuse_comparison(operators[-1], sign, at)
                    self._apply(operands, operators.pop(), at - 1)
                operators.append((strength, sign, at, False))
            else:
                strength = PREFIX[sign]
                if sign == "not" and operators and operators[-1][0] > strength:
                    raise Diagnostic(
                        "E0121",
                        f"`not` binds looser than the `{operators[-1][1]}` before it",
                        self.span(at, at),
                        help="put the negated part in parentheses: `a == (not b)`",
                    )
                operators.append((strength, sign, at, True))
            after_operand = False
        while operators:
            self._apply(operands, operators.pop(), j)
        return operands[0][0]

    def _apply(self, operands: list[tuple[Any, int]], operator: tuple[int, str, int, bool], end: int) -> None:
        _, sign, at, prefix = operator
        right, _ = operands.pop()
        if prefix:
            operands.append((ast.Unary(sign, right, span=self.span(at, end)), at))
            return
        left, start = operands.pop()
        operands.append((self._binary(sign, left, right, self.span(start, end)), start))

    def _binary(self, sign: str, left: ast.Expr, right: ast.Expr, span: Span) -> ast.Expr:
        if sign == "not in":
            return ast.Unary("not", ast.Binary("in", left, right, span=span), span=span)
        if sign != "|>":
            return ast.Binary(sign, left, right, span=span)
        target = right.value if isinstance(right, ast.Scoped) else right
        if not isinstance(target, ast.Name | ast.Call):
            raise Diagnostic(
                "E0120",
                "the right side of `|>` must be a function or a call",
                right.span,
                help="`x |> f(a)` means `f(x, a)`; write `x |> f` or `x |> f(a)`",
            )
        return ast.Pipe(left, right, span=span)

    def _refuse_comparison(self, first: tuple[int, str, int, bool], sign: str, at: int) -> None:
        raise Diagnostic(
            "E0113",
            f"comparisons do not chain: `{first[1]}` is followed by `{sign}`",
            self.span(at, at),
            [Note("the first comparison is here", self.span(first[2], first[2]))],
            "join two comparisons with `and`: `a < b and b < c`",
        )

    # Depth ----------------------------------------------------------------------------------------------------------

    def checked(self, i: int, j: int, node: Any) -> Any:
        """``node``, whose expressions are no deeper than ``MAX_DEPTH``; so few tokens cannot be deeper."""
        if j - i > MAX_DEPTH:
            check_depth(node)
        return node


def check_depth(root: ast.Node) -> None:
    """Raise E0118 where an expression within ``root`` is deeper than ``MAX_DEPTH``."""
    stack: list[tuple[Any, int]] = [(root, 0)]
    while stack:
        value, depth = stack.pop()
        if isinstance(value, list | tuple):
            stack.extend((item, depth) for item in value if not isinstance(item, str))
        elif isinstance(value, ast.Node):
            if depth > MAX_DEPTH:
                raise Diagnostic(
                    "E0118",
                    f"this expression is more than {MAX_DEPTH} operators and calls deep",
                    value.span,
                    help="give a part of it a name first: `part = ...`",
                )
            deeper = depth + (not isinstance(value, ast.Arg))
            for name in value.__dataclass_fields__:
                if name not in ("span", "name_span", "target_spans", "else_span"):
                    stack.append((getattr(value, name), deeper))
