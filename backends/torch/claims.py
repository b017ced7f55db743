"""Composites that PyTorch computes in one call: qualified name -> the expression, but for the uses that ``UNLESS`` names.

A composite that is not here, or a use that is excepted, is lowered through its body. Each row is tested against that body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...ir.graph import Node
    from .emit import Call

Claim = str | Callable[["Call"], str]


def _normalized(function: str) -> Claim:
    """``F.function(x, (D,), weight, …, eps)``: normalised over the last axis."""

    def claim(call: Call) -> str:
        shape = call.value(call.types[0].shape[-1:])
        return f"F.{function}({call.args[0]}, {shape}, {', '.join(call.args[1:])}, {call.value(call.attrs['eps'])})"

    return claim


def _attention(call: Call) -> str:
    q, _, _, mask, bias = call.args
    queries, keys = call.types[0].shape[2], call.types[1].shape[2]
    causal, terms = call.attrs["causal"], []
    if causal and mask == bias == "None" and queries == keys:  # PyTorch's own causal mask starts at the upper left
        terms.append("is_causal=True")
    else:
        if causal:
            allowed = f"ops.causal_mask({call.value(queries)}, {call.value(keys)}, {q}.device)"
            mask = allowed if mask == "None" else f"{mask} & {allowed}"
        if bias != "None" and mask != "None":
            terms.append(f"attn_mask=torch.where({mask}, {bias}, -inf)")
        elif bias != "None" or mask != "None":
            terms.append(f"attn_mask={mask if bias == 'None' else bias}")
    if call.types[0].shape[1] != call.types[1].shape[1]:
        terms.append("enable_gqa=True")
    return f"F.scaled_dot_product_attention({', '.join([*call.args[:3], *terms])}, scale={call.value(call.attrs['scale'])})"


def _append(call: Call) -> str:
    return f"ops.append({', '.join(call.args)}, {call.donated(0)}, {call.donated(1)})"


def _gather_path(call: Call) -> str:
    return f"ops.gather_path({', '.join(call.args)}, {call.donated(0)}, {call.donated(1)})"


CLAIMS: dict[str, Claim] = {
    "std.math.expm1": "torch.expm1({0})",
    "std.math.log1p": "torch.log1p({0})",
    "std.math.erfc": "torch.erfc({0})",
    "std.math.atan2": "torch.atan2({0}, {1})",
    "std.math.asin": "torch.asin({0})",
    "std.math.acos": "torch.acos({0})",
    "std.math.cumprod": "torch.cumprod({0}, {axis}, dtype={dtype})",
    "std.math.cummin": "torch.cummin({0}, {axis}).values",
    "std.nn.affine": "F.linear({0}, {1}, {2})",
    "std.nn.softmax": "torch.softmax({0}, {axis})",
    "std.nn.log_softmax": "torch.log_softmax({0}, {axis})",
    "std.nn.relu": "F.relu({0})",
    "std.nn.gelu": "F.gelu({0})",
    "std.nn.gelu_tanh": "F.gelu({0}, approximate='tanh')",
    "std.nn.silu": "F.silu({0})",
    "std.nn.softplus": "F.softplus({0})",
    "std.nn.swiglu": "F.silu({0}) * {1}",
    "std.nn.layer_normalize": _normalized("layer_norm"),
    "std.nn.rms_normalize": _normalized("rms_norm"),
    "std.nn.group_normalize": "torch.group_norm({0}, {groups}, {1}, {2}, {eps})",
    "std.nn.batch_normalize": "F.batch_norm({0}, {1}, {2}, {3}, {4}, eps={eps})",
    "std.attention.attention": _attention,
    "std.attention.attend": _attention,
    "std.cache.write_rows": lambda call: f"ops.write_rows({', '.join(call.args)}, {call.donated(0)})",
    "std.cache.append": _append,
    "std.cache.gather_path": _gather_path,
}

# Which uses of a claimed composite go through its body.
UNLESS: dict[str, Callable[[Node], bool]] = {
    # Statistics and soft caps have no argument in scaled_dot_product_attention.
    "std.attention.attention": lambda node: len(node.outputs) > 1 or node.attrs["softcap"] != 0,
    "std.attention.attend": lambda node: node.attrs["softcap"] != 0,
}


@dataclass(frozen=True)
class Claims:
    """What is computed by a call of its own instead of through its definition.

    Args:
        table: of composites, by their qualified names.
        unless: which of their uses go through their body all the same.
        rows: core ops that are lowered otherwise than by PyTorch.
        names: what the generated source knows besides ``torch``, ``F`` and ``ops``.
    """

    table: Mapping[str, Claim] = field(default_factory=dict)
    unless: Mapping[str, Callable[[Node], bool]] = field(default_factory=dict)
    rows: Mapping[str, Claim] = field(default_factory=dict)
    names: Mapping[str, Any] = field(default_factory=dict)


FUSED = Claims(CLAIMS, UNLESS)
NONE = Claims()
