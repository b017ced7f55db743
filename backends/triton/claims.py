"""Composites and core ops that a kernel of ours computes; all others are PyTorch's calls, or go through their bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.op import Composite, FuncRef
from ..torch.claims import CLAIMS, UNLESS, Claim, Claims
from .reads import READ

if TYPE_CHECKING:
    from ...ir.graph import Graph, Node
    from ..torch.emit import Call


def _call(function: str) -> Claim:
    """``fused.function(operands, attribute=value, …)``, without what operands' records say of themselves, and what is claimed as false
    alone."""

    def claim(call: Call) -> str:
        given = [f"{name}={call.value(value)}" for name, value in call.attrs.items() if "." not in name and name != "counted"]
        return f"fused.{function}({', '.join([*call.args, *given])})"

    return claim


def _double(node: Node) -> bool:
    """Whether it computes in f64, which no kernel does."""
    return any(v is not None and v.type.dtype.name == "f64" for v in node.inputs)


def _unserved(node: Node) -> bool:
    """Whether no kernel computes it: nor where tokens are counted from the first that is there."""
    return _double(node) or bool(node.attrs.get("counted"))


def _grouped(call: Call) -> str:
    return f"{'ops' if _double(call.node) else 'fused'}.grouped_matmul({', '.join(call.args)})"


# Gates g * sigmoid(slope * g).
_SLOPES = {FuncRef("std.nn", "silu"): 1.0, FuncRef("std.nn", "quick_gelu"): 1.702}


def _experts(call: Call) -> str:
    options = ", ".join(f"{name}={call.value(call.attrs[name])}" for name in ("interleaved", "limit", "offset"))
    return f"fused.gated_experts({', '.join(call.args)}, slope={_SLOPES[call.attrs['act']]}, {options})"


def _experts_unserved(node: Node) -> bool:
    """Whether experts are gated otherwise than the kernel does it."""
    return _unserved(node) or node.attrs["act"] not in _SLOPES


def _choice_unserved(node: Node) -> bool:
    """Whether experts are chosen by groups of them."""
    return _unserved(node) or node.attrs["limit"] != node.attrs["groups"]


KERNELS: dict[str, Claim] = {
    "std.attention.attention": _call("attention"),
    "std.attention.attend": _call("attention"),
    "std.attention.attention_row": _call("attention_row"),
    "std.attention.column_mass": _call("column_mass"),
    "std.moe.experts.gated": _experts,
    "std.moe.route.token_choice":
        "fused.token_choice({0}, {1}, k={k}, score={score}, renormalize={renormalize}, scale={scale})",
    "std.ragged.varlen_attention": _call("varlen_attention"),
    "std.ragged.sort_by_group": "fused.sort_by_group({0}, {groups})",
    "std.token.prune.spread_out": _call("spread_out"),
    "std.token.select_top": "fused.select_top({0}, {k})",
    "std.token.bipartite_merge": _call("bipartite_merge"),
    "std.token.slots.token_vote": _call("token_vote"),
}
ROWS: dict[str, Claim] = {"grouped_matmul": _grouped}

TABLE = {**CLAIMS, **KERNELS, READ: _call("read")}
EXCEPT = {
    **UNLESS, **dict.fromkeys(KERNELS, _unserved),
    "std.moe.experts.gated": _experts_unserved, "std.moe.route.token_choice": _choice_unserved,
}  # fmt: skip


def launched(node: Node) -> bool:
    """Whether a kernel of ours computes a node."""
    if node.op.qualified in KERNELS:
        return not EXCEPT[node.op.qualified](node)
    return (node.op.qualified == READ or node.op.name in ROWS) and not _unserved(node)


def claims(*graphs: Graph) -> Claims:
    """PyTorch's table with our kernels in it, and with the groups of fused graphs. Imports torch and Triton."""
    from ...kernels.generated import Generated
    from . import fused
    from .fuse import GROUP, specs

    groups = list(dict.fromkeys(spec for graph in graphs for spec in specs(graph)))

    def group(call: Call) -> str:
        assert isinstance(call.node.op, Composite)
        place, body = groups.index(call.node.op.decl), call.writer.plan.body(call.node)
        sizes, numbers = (call.value(call.attrs[name]) for name in ("sizes", "numbers"))
        given = f", {numbers}" if call.attrs["numbers"] else ""
        return f"groups[{place}]({call.function(body)}, {call.tuple(call.args)}, {sizes}{given})"

    names = {"fused": fused, "groups": [Generated(spec) for spec in groups]}
    return Claims({**TABLE, GROUP: group}, EXCEPT, ROWS, names)
