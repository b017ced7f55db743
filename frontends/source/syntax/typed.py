"""Types as they are written, and what has one: parameters and results."""

from __future__ import annotations

from dataclasses import dataclass

from .exprs import Expr, Node


@dataclass(slots=True)
class TypeExpr(Node):
    """``float[B, T]``, ``TokenMap[B, N, T]``, ``i64[B]?``; ``dims`` is None for a static type (``int``, ``list``)."""

    name: str
    dims: list[Expr] | None = None
    optional: bool = False


@dataclass(slots=True)
class Param(Node):
    """A parameter of a declaration, before or after ``*``; ``external`` is what the input of a model is called outside."""

    name: str
    type: TypeExpr
    default: Expr | None = None
    external: str | None = None


@dataclass(slots=True)
class Result(Node):
    """``float[B, S]``, named ``mass: float[B, S]``, and present only ``if`` a static condition holds; ``external`` is what the
    result of a model is called outside."""

    type: TypeExpr
    name: str | None = None
    condition: Expr | None = None
    external: str | None = None
