"""Linear layers of one value as one product: the weights are joined by a recipe, the result is sliced."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...ir.builder import Builder
from ...ir.dims.dim import as_dim
from ...ir.graph import Module, Node, Parameter
from ...ir.naming import unique
from ...ir.recipe import apply
from ...ir.types import TensorType
from ..engine import Pass
from ..report import Report

AFFINE = "std.nn.affine"


@dataclass(frozen=True)
class PackLinears(Pass):
    """Joins linear layers that read one value into one product, which is then sliced: queries, keys and values.

    before: `q = affine(x, wq)  k = affine(x, wk)`    after: `qk = affine(x, w)  q = qk[..., :64]  k = qk[..., 64:]`

    The joined weight is made of the checkpoint's by a recipe, `"w" = concat("wq", "wk")`. Weights that somebody else reads stay.

    It pays where reading the weights is what takes the time: one token at a time. With many tokens the slices, which ONNX Runtime
    copies on CPUs, cost more than one product saves.
    """

    name = "pack_linears"
    contract = "exact"

    def run(self, module: Module) -> Report:
        groups: dict[tuple[Any, ...], list[Node]] = defaultdict(list)
        for node in module.graph.nodes():
            if node.op.qualified == AFFINE and all(map(_own, node.inputs[1:])):
                weight, bias = node.inputs[1:]
                trained = [None if p is None else p.trainable for p in (weight, bias)]  # type: ignore[attr-defined]
                groups[(node.inputs[0], *trained)].append(node)
        packed = [nodes for nodes in groups.values() if len(nodes) > 1]
        for nodes in packed:
            _pack(module, nodes)
        return Report.of(self, len(packed), layers=sum(map(len, packed)))


def _own(value: Any) -> bool:
    """Whether an operand of a linear layer is left out, or a parameter that nobody else reads."""
    return value is None or (isinstance(value, Parameter) and len(value.uses) == 1)


def _pack(module: Module, nodes: list[Node]) -> None:
    graph, first = module.graph, nodes[0]
    builder = Builder(graph).before(first)
    joined = [None if first.inputs[i] is None else _join(module, [node.inputs[i] for node in nodes]) for i in (1, 2)]
    (whole,) = builder.emit(first.op, [first.inputs[0], *joined], dict(first.attrs))
    start = 0
    for node in nodes:
        old = node.output
        stop = start + int(old.type.shape[-1])
        part = builder.op("slice", whole, axis=old.type.rank - 1, start=start, stop=stop)
        part.name, start = old.name, stop
        old.replace_uses(part)
    for node in nodes:
        params = [p for p in node.inputs[1:] if isinstance(p, Parameter)]
        graph.remove(node)
        for param in params:
            del graph.params[param.full_name]
            module.recipes.pop(param.full_name, None)


def _join(module: Module, params: Sequence[Any]) -> Parameter:
    """The parameter of all rows, and its recipe."""
    first = params[0]
    rows = sum(int(p.type.shape[0]) for p in params)
    type = TensorType(first.type.dtype, (as_dim(rows), *first.type.shape[1:]))
    name = unique(_joint_name([p.full_name for p in params]), set(module.graph.params))
    module.recipes[name] = apply("concat", *(module.recipe(p.full_name) for p in params))
    return module.graph.add_param(Parameter(type, name, first.init, first.trainable, first.span))


def _joint_name(names: Sequence[str]) -> str:
    """``attn.q_proj.weight`` and ``attn.k_proj.weight`` as ``attn.q_proj_k_proj.weight``."""
    parts = [name.split(".") for name in names]
    least = min(map(len, parts))
    head = next((i for i in range(least) if len({p[i] for p in parts}) > 1), least - 1)
    tail = next((i for i in range(least - head) if len({p[-1 - i] for p in parts}) > 1), 0)
    middles = [".".join(p[head : len(p) - tail]) for p in parts]
    return ".".join([*parts[0][:head], "_".join(middles), *parts[0][len(parts[0]) - tail :]])
