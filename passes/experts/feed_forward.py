"""Dense feed-forward blocks, whoever wrote them: two linear maps with an activation between, or a gated unit of three."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.graph import Graph, Module, Node, Parameter, Value
from ...ir.op import Composite, FuncRef, Trait, has
from ...ir.ops.shape import slice_bounds
from ...ir.recipe import Recipe, apply
from .mixtures import AFFINE

_SILU = FuncRef("std.nn", "silu")


@dataclass(frozen=True)
class Weight:
    """A weight [O, I] of a linear map, or rows of it: the parameter, whether it is stored as [I, O], and which outputs."""

    param: Parameter
    turned: bool
    start: int
    stop: int

    def recipe(self, module: Module, *, columns: bool) -> Recipe:
        """The matrix, with outputs as columns ([I, O]) or as rows."""
        whole = module.recipe(self.param.full_name)
        size = int(self.param.type.shape[1 if self.turned else 0])
        if (self.start, self.stop) != (0, size):
            whole = apply("slice", whole, axis=1 if self.turned else 0, start=self.start, stop=self.stop)
        return whole if self.turned == columns else apply("transpose", whole, perm=(1, 0))


@dataclass(frozen=True)
class FeedForward:
    """A dense block.

    Args:
        name: of the block, by its last weight: ``blocks.3.mlp``.
        x: what goes in.
        last: the node that makes the result.
        act: the activation.
        up, gate, down: the weights; without a gate the activation is of `up`.
        biases: of up, gate and down, where they have one.
    """

    name: str
    x: Value
    last: Node
    act: FuncRef
    up: Weight
    gate: Weight | None
    down: Weight
    biases: dict[str, tuple[Parameter, int, int]]

    @property
    def hidden(self) -> int:
        """The width between the two products."""
        return self.up.stop - self.up.start


@dataclass(frozen=True)
class _Linear:
    """What one linear map, or a part of its outputs, makes."""

    x: Value
    weight: Weight
    bias: Parameter | None

    @property
    def place(self) -> tuple[Parameter, int, int] | None:
        return None if self.bias is None else (self.bias, self.weight.start, self.weight.stop)


def find_blocks(graph: Graph) -> list[FeedForward]:
    """The feed-forward blocks of a graph, in order, whose values nobody else reads and whose weights are parameters."""
    return [found for node in graph.nodes() if (found := _block(node)) is not None]


def _block(last: Node) -> FeedForward | None:
    down = _linear(last.output)
    if down is None or down.weight.start or last.op.qualified != AFFINE or down.x.type.rank < 2:
        return None
    unit = _unit(down.x)
    if unit is None:
        return None
    act, up, gate = unit
    if last.output.type.shape[-1] != up.x.type.shape[-1]:
        return None
    parts = {"up": up, "down": down, **({"gate": gate} if gate is not None else {})}
    if gate is not None and (
        gate.x is not up.x or gate.weight.stop - gate.weight.start != up.weight.stop - up.weight.start
    ):
        return None
    biases = {name: place for name, part in parts.items() if (place := part.place) is not None}
    name = down.weight.param.full_name.removesuffix(".weight").rpartition(".")[0]
    return FeedForward(name, up.x, last, act, up.weight, gate.weight if gate is not None else None, down.weight, biases)


def _unit(h: Value) -> tuple[FuncRef, _Linear, _Linear | None] | None:
    """The activation, what it is multiplied with or taken of, and the gate."""
    node = _only(h)
    if node is None:
        return None
    if node.op.qualified == "std.nn.swiglu":
        gate, up = (_linear(v) for v in node.inputs)
        return None if gate is None or up is None else (_SILU, up, gate)
    if node.op.qualified == "mul":
        for one, other in (node.inputs, reversed(node.inputs)):
            act, up = _activation(one), _linear(other)
            if act is not None and up is not None:
                return act[0], up, act[1]
        return None
    act = _activation(h)
    return None if act is None else (*act, None)


def _activation(value: Value | None) -> tuple[FuncRef, _Linear] | None:
    """A function of one value with the linear map that it is taken of."""
    node = _only(value)
    if node is None or len(node.inputs) != 1 or node.attrs or node.output.type != node.inputs[0].type:  # type: ignore[union-attr]
        return None
    inner = _linear(node.inputs[0])
    if inner is None or not _elementwise(node):
        return None
    return FuncRef(node.op.module if isinstance(node.op, Composite) else "", node.op.name), inner


def _elementwise(node: Node) -> bool:
    """Whether a node takes each element by itself."""
    if isinstance(node.op, Composite):
        body = node.op.instantiate([None if v is None else v.type for v in node.inputs], dict(node.attrs))
        return all(map(_elementwise, body.nodes()))
    return node.op.family == "elementwise" or has(node, Trait.MAKES) or node.op.qualified == "cast"


def _linear(value: Value | None) -> _Linear | None:
    """The linear map of parameters that a value is the result of, or a slice of the results of."""
    node = _node(value)
    start, stop = 0, None
    if node is not None and node.op.qualified == "slice" and node.attrs["axis"] == node.output.type.rank - 1:
        if node.attrs["step"] != 1:
            return None
        whole = node.inputs[0]
        assert whole is not None
        begin, stop = (d.value for d in slice_bounds(node.attrs, whole.type.shape[-1]))
        if begin is None or stop is None:
            return None
        start = begin
        node = _node(whole)
    elif node is not None and len(node.output.uses) > 1:
        return None
    if node is None or node.op.qualified != AFFINE:
        return None
    x, weight, bias = node.inputs
    turned = weight is not None and weight.node is not None and weight.node.op.qualified == "transpose"
    param = weight.node.inputs[0] if turned and weight is not None and weight.node is not None else weight
    if x is None or not isinstance(param, Parameter) or (bias is not None and not isinstance(bias, Parameter)):
        return None
    outputs = int(node.output.type.shape[-1])
    return _Linear(x, Weight(param, turned, start, outputs if stop is None else stop), bias)


def _node(value: Value | None) -> Node | None:
    return None if value is None or value.node is None or value.node.op is None else value.node


def _only(value: Value | None) -> Node | None:
    """The node of a value that is read once."""
    node = _node(value)
    return node if node is not None and len(value.uses) == 1 else None  # type: ignore[union-attr]
