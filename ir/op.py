"""Operations. A core :class:`Op` carries meaning of its own; a :class:`Composite` is defined by a body in Tessera source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from .diagnostics import Diagnostic, Span
from .dims.dim import Dim, const
from .signature import Pattern, Signature
from .types import TensorType

if TYPE_CHECKING:
    from .graph import Graph, Node

Attrs = dict[str, Any]
# (operand types, attributes, where) -> result types. May bring attributes to their canonical form, in place.
Infer = Callable[[list[TensorType], Attrs, "Span | None"], list[TensorType]]
Cost = Callable[[list[TensorType], list[TensorType], Attrs], Dim]
# (operands, attributes, result types) -> results, as NumPy arrays. Dimensions among the attributes are integers by then,
# and a region is a function from arrays to arrays. Halves arrive as f32; results are brought to their dtype afterwards.
Meaning = Callable[[list[Any], Attrs, list[TensorType]], list[Any]]


class Trait(Enum):
    """What an op is. Whoever asks, asks the declaration: no other list of names says it once more."""

    MAKES = "makes its result from attributes alone"
    HOLDS = "its result is its attribute `value`, written out or the same for every element"
    MOVES = "the elements of its operands in other places, which values have no say in"
    STILL = "where its result has the type of its first operand, it is that operand"
    SHAPED = "its attribute `shape` is the shape of its result"
    RESHAPES = "the same elements in row-major order under another shape"
    VIEWS = "moves no byte: a backend reads its operand under another shape, or as it is"
    KEEPS = "each element of its first result is an element of an operand of the same kind, in another dtype at most"
    AXIS = "works along the axis that its attribute `axis` names, and walks every other axis in step"
    INDEXES = "its second operand holds places in the first"
    SELECTS = "what it returns depends on the order of elements, in which NaN has no place and rounding may have a say"
    COMPARES = "compares two elements"
    COMMUTES = "its two operands may be exchanged"
    IDEMPOTENT = "an element that occurs twice counts no more than once"
    SUMS = "a sum over elements, each weighing the same"
    SCALES = "a factor that its first operand's elements have in common is one of its result's"
    ADDS = "a sum of its operands, each as it is or negated"
    CONNECTS = "makes a mask of 0 and 1 of masks of 0 and 1, place by place"
    MEETS = "of masks of 0 and 1 it makes the one that holds where all of them do"
    NONEMPTY = "no elements have no result"
    REGION = "runs a graph that it holds as an attribute"


@dataclass(frozen=True, slots=True)
class Sample:
    """Arguments for a generated test: NumPy arrays and attributes."""

    inputs: tuple[Any, ...]
    attrs: Attrs = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bad:
    """Operand types and attributes that must be refused with ``code``."""

    types: tuple[TensorType, ...]
    attrs: Attrs
    code: str


@dataclass(frozen=True, eq=False)
class Op:
    """A core op: one declaration from which the shape rule, verifier, builder, documentation and tests follow.

    Args:
        signature: in the language's notation.
        doc: one sentence or more; shown by ``tessera ops``.
        family: elementwise, contraction, reduction, order, indexing, segment, scan, shape, gradient, control.
        infer: the shape rule where the signature alone does not state it.
        packs: how occurrences of ``...`` relate: ``same``, ``broadcast``, ``free`` (the rule says) or ``mixed`` (dtypes too).
        flops: floating-point operations; one for each output element unless given.
        traits: what it is; ask with :func:`has`.
        meaning: what it computes, in NumPy: the reference of every backend, and what constants are folded with.
        neutral: the number that, as the second operand, gives back the first; of an op that commutes, either way round.
        samples: makes inputs for generated tests, from a NumPy generator.
        bad: calls that must be refused.
        open_attrs: unknown keyword arguments are axis sizes and are collected in ``axes`` (rearrange).
    """

    signature: Signature
    doc: str
    family: str
    rule: Infer | None = None
    packs: str = "same"
    flops: Cost | None = None
    traits: frozenset[Trait] = frozenset()
    meaning: Meaning | None = None
    neutral: float | None = None
    samples: Callable[[Any], list[Sample]] | None = None
    bad: tuple[Bad, ...] = ()
    open_attrs: bool = False

    @property
    def name(self) -> str:
        return self.signature.name

    @property
    def qualified(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<op {self.qualified}>"

    def infer(
        self,
        types: Sequence[TensorType | None],
        attrs: Attrs,
        *,
        span: Span | None = None,
        spans: Sequence[Span | None] | None = None,
    ) -> list[TensorType]:
        """Result types. Fills in default attributes and brings attributes to canonical form, in place.

        Raises:
            Diagnostic: what does not fit, and where it was bound.
        """
        bindings = self.signature.unify(types, attrs, span=span, spans=spans, packs=self.packs)
        if self.rule is not None:
            return self.rule([t for t in types if t is not None], attrs, span)
        return self.signature.result_types(bindings, span)

    def cost(self, inputs: list[TensorType], outputs: list[TensorType], attrs: Attrs) -> Dim:
        """Floating-point operations."""
        if self.flops is not None:
            return self.flops(inputs, outputs, attrs)
        return outputs[0].numel if outputs and self.family != "shape" else const(0)


@dataclass(frozen=True, eq=False)
class Composite:
    """An ``op`` declared in Tessera source: one node until lowering; its body is its definition and its reference.

    Args:
        signature: from the declaration; record operands are flattened in nodes.
        module: where it is declared, ``std.attention``, or a file's path.
        doc: its ``##`` text.
        decl: the declaration's syntax tree, opaque here; the printer writes it back.
        instantiate: makes the body for given operand types and complete attributes.
        record_statics: the static fields of each record that such a body returns.
    """

    signature: Signature
    module: str
    doc: str
    decl: Any
    instantiate: Callable[[Sequence[TensorType | None], Attrs], Graph]
    record_statics: Callable[[Graph], list[Attrs]] = lambda body: []
    family: str = "composite"

    @property
    def name(self) -> str:
        return self.signature.name

    @property
    def qualified(self) -> str:
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        return f"<op {self.qualified}>"

    def infer(
        self,
        types: Sequence[TensorType | None],
        attrs: Attrs,
        *,
        span: Span | None = None,
        spans: Sequence[Span | None] | None = None,
    ) -> list[TensorType]:
        """Result types, from the signature alone: the body is checked when it is instantiated."""
        return self.signature.result_types(self.signature.unify(types, attrs, span=span, spans=spans), span)


AnyOp = Op | Composite


def has(node: Node, trait: Trait) -> bool:
    """Whether the op of a node has a trait. A composite has none: ask its body."""
    return isinstance(node.op, Op) and trait in node.op.traits


def moves_whole(node: Node) -> bool:
    """Whether it moves whole axes and all of their elements: it cuts none, and joins none to others."""
    return has(node, Trait.MOVES) and not has(node, Trait.AXIS)


def kept(node: Node) -> list[int]:
    """The operands whose elements the first result holds: of an op that ``KEEPS``, those of the result's kind."""
    if not isinstance(node.op, Op) or Trait.KEEPS not in node.op.traits:
        return []
    signature = node.op.signature
    types = [*(operand.type for operand in signature.operands), signature.results[0].type]
    *kinds, result = [type.dtype for type in types if isinstance(type, Pattern)]
    return [i for i in range(len(node.inputs)) if kinds[min(i, len(kinds) - 1)] == result]


@dataclass(frozen=True, slots=True)
class FuncRef:
    """The value of a static parameter of kind ``fn``: a function by its module and name, and the static parameters that it
    has been given, in the order of its signature."""

    module: str
    name: str
    given: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return self.name + (f"({', '.join(f'{n}={v}' for n, v in self.given)})" if self.given else "")


def fail(code: str, message: str, span: Span | None, help: str | None = None) -> Diagnostic:
    """A diagnostic from a shape rule."""
    return Diagnostic(code, message, span, help=help)
