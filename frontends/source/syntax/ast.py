"""The syntax tree of a `.tess` file. Plain data: the parser makes it, the formatter prints it, elaboration reads it.

Every node carries its span; synthesised nodes (the printer's) carry None.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ....ir.diagnostics import Span
from .exprs import (
    Arg,
    Attribute,
    Binary,
    Bool,
    Call,
    Ellipsis_,
    Expr,
    Index,
    Int,
    ListExpr,
    Name,
    Node,
    NoneValue,
    Pipe,
    Real,
    Scoped,
    Slice,
    Str,
    Unary,
)  # fmt: skip
from .typed import Param, Result, TypeExpr

# Expressions and types are nodes of this tree as well.
__all__ = [
    "Arg", "Attribute", "Binary", "Bool", "Call", "Ellipsis_", "Expr", "Index", "Int", "ListExpr", "Name",
    "Node", "NoneValue", "Param", "Pipe", "Real", "Result", "Scoped", "Slice", "Str", "TypeExpr", "Unary",
]  # fmt: skip


# Statements ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Assign(Node):
    targets: list[str]
    value: Expr
    target_spans: list[Span | None] = field(default_factory=list, compare=False, repr=False)


@dataclass(slots=True)
class ParamStmt(Node):
    """``param w: float[O, I] = normal(0.02) as "a.b.weight"``; ``kind`` is ``param`` (trained) or ``buffer`` (not)."""

    kind: str
    name: str
    type: TypeExpr
    init: Expr | None = None
    external: str | None = None


@dataclass(slots=True)
class StateStmt(Node):
    """``state cache: f32[B, 4] = zeros as "past.0"``: an input and an output; the name's last value is the new state."""

    name: str
    type: TypeExpr
    init: Expr | None = None
    external: str | None = None


@dataclass(slots=True)
class RandomStmt(Node):
    """``random u: f32[B, T] = uniform(0, 1)``: an input that the runtime fills from a seed."""

    name: str
    type: TypeExpr
    distribution: Expr
    external: str | None = None


@dataclass(slots=True)
class TapStmt(Node):
    name: str
    value: Expr
    external: str | None = None


@dataclass(slots=True)
class RequireStmt(Node):
    condition: Expr
    message: str


@dataclass(slots=True)
class LetStmt(Node):
    """``let r1 = min(8, (T - 1) // 2)``: names a dimension, so that types stay short however deep a model shrinks."""

    name: str
    value: Expr


@dataclass(slots=True)
class RepeatStmt(Node):
    """``repeat i in 12 as blocks { … }``, unrolled; iterates over a count or a static list."""

    variable: str
    iterable: Expr
    scope: str | None
    body: list[Stmt]


@dataclass(slots=True)
class IfStmt(Node):
    """A chain: one (condition, body) for each ``if`` / ``else if``. ``else_span`` is the word before ``orelse``."""

    branches: list[tuple[Expr, list[Stmt]]]
    orelse: list[Stmt] | None = None
    else_span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class FoldStmt(Node):
    """``fold i in n from (a, b) stack (y) { … }``: a bounded sequential loop; ``carried`` names are rebound by the body.

    What the names in ``stacked`` hold at the end of each step stands side by side behind the loop.
    """

    variable: str
    count: Expr
    carried: list[str]
    body: list[Stmt]
    stacked: list[str] = field(default_factory=list)


@dataclass(slots=True)
class CondStmt(Node):
    """``cond p from (a, b) { … } else { … }``: a scalar chooses at run time; ``carried`` names are rebound by the branches.

    ``else_span`` is the word before ``orelse``, which is None where the second branch leaves everything as it is.
    """

    condition: Expr
    carried: list[str]
    body: list[Stmt]
    orelse: list[Stmt] | None = None
    else_span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class WhileStmt(Node):
    """``while i < n from (i, x) limit 64 { … }``: as ``fold``, as long as a scalar is true and for ``limit`` steps at most."""

    condition: Expr
    carried: list[str]
    limit: Expr
    body: list[Stmt]


@dataclass(slots=True)
class ReturnStmt(Node):
    values: list[Expr]


Stmt = (
    Assign | ParamStmt | StateStmt | RandomStmt | TapStmt | RequireStmt | LetStmt | RepeatStmt | IfStmt | FoldStmt
    | CondStmt | WhileStmt | ReturnStmt
)  # fmt: skip


# Declarations --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Use(Node):
    """``use std.nn (linear, mlp as feed_forward)``; ``path`` is dotted, or ends in ``.tess`` if quoted (``quoted``)."""

    path: str
    names: list[tuple[str, str | None]]
    quoted: bool = False


@dataclass(slots=True)
class Const(Node):
    name: str
    value: Expr
    doc: str | None = None


@dataclass(slots=True)
class Field(Node):
    """A field of a record; a ``static`` one has a static type, and may have a default."""

    name: str
    type: TypeExpr
    static: bool = False
    default: Expr | None = None


@dataclass(slots=True)
class Record(Node):
    name: str
    dims: list[str]
    fields: list[Field]
    doc: str | None = None


@dataclass(slots=True)
class Function(Node):
    """``kind`` is ``fn``, ``op``, ``layer``, ``model``, or ``flow`` within a program. ``name_span`` is the name alone."""

    kind: str
    name: str
    params: list[Param]
    statics: list[Param]
    results: list[Result]
    body: list[Stmt]
    doc: str | None = None
    name_span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class Rewrite(Node):
    """``rewrite exact double_neg(x: float[...]) { neg(neg(x)) => x where … }``; statics bind by matching.

    ``named`` are results of calls that the pattern mentions: ``let values, indices = topk(x, k=k) in`` before it. ``weights``
    says what the parameters of layers in the replacement are made of.
    """

    name: str
    contract: str
    params: list[Param]
    statics: list[Param]
    pattern: Expr
    replacement: list[Expr]
    condition: Expr | None = None
    doc: str | None = None
    named: list[Assign] = field(default_factory=list)
    weights: list[Recipe] = field(default_factory=list)


@dataclass(slots=True)
class Entry(Node):
    """``entry prefill = decoder(layers=2) as small``: a model as an entry point, under a name of the program's, and the scope
    of its parameters and states."""

    name: str
    model: str
    args: list[Arg]
    scope: str | None = None


@dataclass(slots=True)
class Host(Node):
    """``host sample = "package.module:function"(logits: float[B, V]) -> i64[B, 1]``."""

    name: str
    reference: str
    params: list[Param]
    results: list[Result]


@dataclass(slots=True)
class Program(Node):
    """Entry points, host stages and flows; a flow is a :class:`Function` of the kind ``flow``."""

    name: str
    statics: list[Param]
    members: list[Entry | Host | Function]
    doc: str | None = None
    name_span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class Pipeline(Program):
    """``pipeline embed(text: text[B]) -> float[B, 64] { … }``: host stages and one flow, of the pipeline's own name, whose calls
    say what the entry points are. ``clauses`` say what is measured, and what must hold of it."""

    clauses: list[StageFiles | StageList | RequireStmt] = field(default_factory=list)


@dataclass(slots=True)
class StagePart(Node):
    """``normalize bert(lowercase=true)``: ``stage`` is the word, ``name`` the kind of it."""

    stage: str
    name: str
    args: list[Arg]


@dataclass(slots=True)
class StageToken(Node):
    """``special "[PAD]" = 0 (lstrip=true)``, or ``inject`` with a token that is text."""

    word: str
    text: str
    id: int | None
    args: list[Arg]


@dataclass(slots=True)
class StageFiles(Node):
    """``from "tokenizer.json" (sha256="…")``, ``train "corpus/*.txt" (key=7)``, ``measure "held/*.txt"``."""

    word: str
    path: str
    args: list[Arg]


@dataclass(slots=True)
class StageList(Node):
    """``family [4096, 8192]``, ``inject ["<td>", "</td>"]``."""

    word: str
    items: list[Expr]


@dataclass(slots=True)
class Tokenizer(Node):
    """``tokenizer minilm(*, size: int = 8192) { normalize bert … from "tokenizer.json" }``."""

    name: str
    stages: list[StagePart | StageToken | StageFiles | StageList | RequireStmt]
    doc: str | None = None
    statics: list[Param] = field(default_factory=list)
    name_span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class Rename(Node):
    """``"bert.*" => "*"``: a name in the file, and what the model calls it."""

    old: str
    new: str


@dataclass(slots=True)
class Recipe(Node):
    """``"qkv.weight" = concat("q.weight", "k.weight")``: what a parameter of that name is made of."""

    name: str
    value: Expr


@dataclass(slots=True)
class WeightsClause(Node):
    """``weights "a.safetensors" { "bert.*" => "*" "w" = transpose("v") }``."""

    file: str | None
    rows: list[Rename | Recipe]


@dataclass(slots=True)
class PassClause(Node):
    """``pass merge_tokens(r=8, metric=keys)``; a bare identifier is the string of its name."""

    name: str
    args: list[Arg]


@dataclass(slots=True)
class TargetClause(Node):
    name: str
    args: list[Arg]


@dataclass(slots=True)
class Compile(Node):
    """``compile vit(depth=6) { weights … pass … target … }``."""

    model: str
    args: list[Arg]
    clauses: list[WeightsClause | PassClause | TargetClause]
    doc: str | None = None


Declaration = Const | Record | Function | Rewrite | Program | Tokenizer | Compile


@dataclass(slots=True)
class Comment:
    """A ``#`` comment. ``own_line`` tells a comment that stands alone from one at the end of a line of code."""

    text: str
    line: int
    column: int
    own_line: bool


@dataclass(slots=True)
class File(Node):
    """``doc`` is the leading ``##`` block when a blank line parts it from the first declaration."""

    path: str
    uses: list[Use]
    items: list[Declaration]
    comments: list[Comment] = field(default_factory=list, compare=False)
    doc: str | None = None
