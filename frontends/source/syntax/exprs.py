"""The expressions of a syntax tree, and what every node of one is. Used as names of :mod:`.ast`."""

from __future__ import annotations

from dataclasses import dataclass, field

from ....ir.diagnostics import Span


@dataclass(slots=True, kw_only=True)
class Node:
    span: Span | None = field(default=None, compare=False, repr=False)


# Expressions ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Name(Node):
    id: str


@dataclass(slots=True)
class Int(Node):
    value: int


@dataclass(slots=True)
class Real(Node):
    """``text`` is the literal as written, so that formatting keeps ``1e-5``. ``inf`` and ``nan`` are reals too."""

    value: float
    text: str


@dataclass(slots=True)
class Str(Node):
    value: str


@dataclass(slots=True)
class Bool(Node):
    value: bool


@dataclass(slots=True)
class NoneValue(Node):
    pass


@dataclass(slots=True)
class ListExpr(Node):
    items: list[Expr]


@dataclass(slots=True)
class Unary(Node):
    """``op`` is ``-`` or ``not``."""

    op: str
    operand: Expr


@dataclass(slots=True)
class Binary(Node):
    """``op`` is one of ``or and == != < <= > >= in + - * / // % @ **``."""

    op: str
    left: Expr
    right: Expr


@dataclass(slots=True)
class Arg(Node):
    name: str | None
    value: Expr


@dataclass(slots=True)
class Call(Node):
    function: Expr
    args: list[Arg]


@dataclass(slots=True)
class Pipe(Node):
    """``x |> f(a)`` is ``f(x, a)``; the right side is a Name, a Call or a Scoped one of these."""

    left: Expr
    right: Expr


@dataclass(slots=True)
class Attribute(Node):
    """A record's field, ``map.size``."""

    value: Expr
    name: str


@dataclass(slots=True)
class Slice(Node):
    start: Expr | None
    stop: Expr | None
    step: Expr | None


@dataclass(slots=True)
class Ellipsis_(Node):
    pass


@dataclass(slots=True)
class Index(Node):
    value: Expr
    items: list[Expr]


@dataclass(slots=True)
class Scoped(Node):
    """``expr as a.b``: parameters that ``expr`` owns live in the scope ``a.b``."""

    value: Expr
    scope: str


Expr = (
    Name | Int | Real | Str | Bool | NoneValue | ListExpr | Unary | Binary | Call | Pipe | Attribute | Slice | Ellipsis_
    | Index | Scoped
)  # fmt: skip
