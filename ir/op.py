"""Operations. A core :class:`Op` carries meaning of its own; a :class:`Composite` is defined by a body in Tessera source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .diagnostics import Diagnostic, Span
from .dims.dim import Dim, const
from .signature import Signature
from .types import TensorType

if TYPE_CHECKING:
    from .graph import Graph

Attrs = dict[str, Any]
# (operand types, attributes, where) -> result types. May bring attributes to their canonical form, in place.
Infer = Callable[[list[TensorType], Attrs, "Span | None"], list[TensorType]]
Cost = Callable[[list[TensorType], list[TensorType], Attrs], Dim]


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
    """

    signature: Signature
    module: str
    doc: str
    decl: Any
    instantiate: Callable[[Sequence[TensorType | None], Attrs], Graph]
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


@dataclass(frozen=True, slots=True)
class FuncRef:
    """The value of a static parameter of kind ``fn``: a function by its module and name."""

    module: str
    name: str

    def __str__(self) -> str:
        return self.name


def fail(code: str, message: str, span: Span | None, help: str | None = None) -> Diagnostic:
    """A diagnostic from a shape rule."""
    return Diagnostic(code, message, span, help=help)
