"""Rewrite rules: what a ``rewrite`` declaration becomes.

A pattern is a tree. Its leaves are variables (tensors that the rule's parameters name) and numbers, its inner nodes are
calls of ops. The frontend builds rules, the rewriting engine matches them; both know only this.

    >>> x = Var("x")
    >>> rule = Rule("double_negation", "exact", Call("neg", (Call("neg", (x,)),)), lambda b, m: [m.tensors["x"]])
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .diagnostics import Span

if TYPE_CHECKING:
    from .builder import Builder
    from .graph import Node, Value
    from .recipe import Recipe
    from .signature import Bindings, Signature


@dataclass(frozen=True)
class Var:
    """A parameter of the rule: any tensor. The same name twice must be the same value.

    An ``optional`` one may stand for an optional operand that was not passed; it is then left unbound.
    """

    name: str
    optional: bool = False


@dataclass(frozen=True)
class Number:
    """A literal: a constant whose elements all have this value, up to the rounding of its dtype."""

    value: float


@dataclass(frozen=True)
class Scalar:
    """A static parameter of the rule as an operand: a constant whose elements are all the same; binds that number."""

    name: str


@dataclass(frozen=True)
class Static:
    """A static parameter of the rule as the value of an attribute: binds what the node has."""

    name: str


@dataclass(frozen=True)
class Call:
    """A node that applies ``op``.

    Args:
        op: qualified name: ``exp``, ``std.nn.gelu``.
        inputs: one pattern for each tensor of the op's signature, records flattened; None where nothing was passed.
        attrs: the attributes that the pattern mentions: values, or :class:`Static`. Others must have their defaults.
        result: which of several results is meant.
        names: names of its results, in order, records flattened: bound by matching. A pattern that holds a call with names
            more than once means one node.
    """

    op: str
    inputs: tuple[Pattern | None, ...]
    attrs: tuple[tuple[str, Any], ...] = ()
    result: int = 0
    names: tuple[str, ...] = ()
    span: Span | None = field(default=None, compare=False)


Pattern = Var | Number | Scalar | Call


@dataclass
class Match:
    """What a pattern was matched to: tensors (``map.size`` for a field) and static values by the rule's names, and the nodes
    of its calls. ``recipes`` says what the parameters that the replacement brought are made of, over those of the graph."""

    tensors: dict[str, Value] = field(default_factory=dict)
    statics: dict[str, Any] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    bindings: Bindings | None = None
    recipes: dict[str, Recipe] = field(default_factory=dict)

    @property
    def scope(self) -> str:
        """The scope that all of its nodes lie in."""
        paths = [node.scope.split(".") for node in self.nodes]
        shared = zip(*paths, strict=False)
        return ".".join(names[0] for names in itertools.takewhile(lambda names: len(set(names)) == 1, shared))

    @property
    def root(self) -> Node:
        return self.nodes[0]


@dataclass(frozen=True)
class Rule:
    """``rewrite exact name(params) { pattern => replacement where condition }``.

    Args:
        contract: ``exact`` or ``approximate``.
        replace: adds the replacement with the builder (which stands in front of the matched root) and returns one
            value for each result of the root, of the same type.
        where: whether a structural match counts; True, or the reason why not.
        signature: the types of the parameters, when they are declared; the matched tensors must unify with it.
        kept: names of results that the replacement uses: their nodes stay, and may be read elsewhere too.
    """

    name: str
    contract: str
    pattern: Call
    replace: Callable[[Builder, Match], Sequence[Value]]
    where: Callable[[Match], bool | str] | None = None
    signature: Signature | None = None
    doc: str = ""
    kept: tuple[str, ...] = ()
    span: Span | None = field(default=None, compare=False)
