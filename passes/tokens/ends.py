"""The ends of a stream: what a model reads by its place there, and what may be cut off."""

from __future__ import annotations

from ...ir.analysis.cost import ATTENTION
from ...ir.dims.dim import as_dim
from ...ir.graph import Node
from .carry import CannotFollow, Carrier, Targets
from .stream import Stream

# Of so many tokens at an end somebody may have put them there on purpose.
_FEW = 16
# Class and distillation token; more that are read by themselves are read as any others are.
_ENDS = 2


def read_by_place(carrier: Carrier, stream: Stream, behind: Node, restore: bool) -> tuple[list[int], int]:
    """What is taken by its place behind a node: after how many first tokens each cut is, and how many last ones are read.

    ``restore``: whether any place can be had again, so that one in the middle is read from there.
    """
    firsts: list[int] = []
    last, node = 0, behind.next
    while node is not None and node is not carrier.graph.end:
        value = node.inputs[0] if node.inputs else None
        if value is not None and node.op.qualified == "slice" and carrier.is_feature(value, stream):
            cut = next((f for a, s, f, _ in carrier.token_axes(value) if s is stream and a == node.attrs["axis"]), None)
            start, stop = node.attrs["start"], node.attrs["stop"]
            reach = start if stop is None else stop
            if cut is not None and isinstance(start, int) and isinstance(reach, int):
                if start < 0:
                    last = max(last, -start)
                elif reach >= 0 and (stop is None or cut + reach <= _ENDS or not restore):
                    firsts.append(cut + reach)
        elif node.op.qualified == ATTENTION and node.attrs["row"] is not None:
            row = node.attrs["row"]
            firsts.append(row + 1)
            last = max(last, -row)
        node = node.next
    return [first for first in firsts if first > 0], last


def check_cut(carrier: Carrier, node: Node, targets: Targets) -> None:
    """Only tokens that every reduction keeps at their ends may be taken, or all but the first of them."""
    value, axis = node.inputs[0], node.attrs["axis"]
    assert value is not None
    first, given = next((f, g) for a, _, f, g in carrier.token_axes(value) if a == axis)
    stream, stage = targets[given]
    start, stop, step = (node.attrs[name] for name in ("start", "stop", "step"))
    protect, last = stream.kept(stage)
    kept = protect - first
    reach = start if stop is None else stop
    if step == 1 and isinstance(start, int) and isinstance(reach, int):
        if start >= 0 and 0 <= reach <= kept:
            return
        if -last <= start < 0 and (stop is None or start < stop < 0):
            return
    if step == 1 and start == 0 and first == 0 and all(s.facts.first == stop for s in stream.until(stage)):
        return  # all that stand in front of a segment, of a number that only run time knows
    ends = ["" if at is None or at == 0 else str(at) for at in (start, stop)]
    one = stop is not None and as_dim(stop) == as_dim(start) + 1
    taken = f"number {start}" if one else f"[{':'.join(ends)}]"
    names = {0: "no token keeps its place", 1: "only the first token keeps its place"}
    fixed = names.get(kept, f"only the first {'two' if kept == 2 else kept} keep theirs")
    help = None
    needed = start + 1 if isinstance(start, int) and one else start
    can = all(s.node is not None and "protect" in s.node.attrs for s in stream.until(stage))
    if isinstance(needed, int) and 0 < needed <= _FEW and not can:
        help = f"a static `protect: int = 0` of the method's op, as `keep_best` has it, keeps the {_first(needed)} in front"
    elif isinstance(needed, int) and 0 < needed <= _FEW:
        help = f"protect={needed} keeps the {_first(needed)} in front"
    elif isinstance(start, int) and -_FEW <= start < 0 and can:
        help = (
            f"`protect=[{start}]` keeps it behind the others"
            if start == -1
            else f"`protect=[{start}]` keeps the last {-start}"
        )
    raise CannotFollow(
        f"this takes tokens {taken} by place, but {fixed} when tokens are {stream.said(stage)} with protect={protect}",
        help,
    )


def _first(number: int) -> str:
    return {1: "class token", 2: "class and distillation tokens"}.get(number, f"first {number} tokens")
