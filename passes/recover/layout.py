"""Reshapes that split or join axes, written as `rearrange`: it names them, so that tokens can be followed and may shrink."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import Dim, const
from ...ir.graph import Graph, Node, Value
from ...ir.op import AnyOp

# Axes of a reshape that hold the same elements: those of its operand, and those of its result.
Group = tuple[list[int], list[int]]

# Rows, tokens, heads, features: what axes are called where three become four or four three.
_USUAL = "bthk"
# Rows, channels, height, width: where the last two are joined and then moved.
_IMAGE = "bchw"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def name_axes(graph: Graph, skipped: list[str]) -> int:
    """Replace each reshape that splits or joins axes, with the transpose behind or before it, by one `rearrange`.

    before: `y = transpose(reshape(x, shape=[B, T, 4, 8]), perm=[0, 2, 1, 3])`
    after:  `y = rearrange(x, "b t (h k) -> b h t k", h=4)`

    Returns how many there were; ``skipped`` is given why one stays as it is.
    """
    count = 0
    for node in graph.nodes():
        if node.op.qualified == "reshape":
            try:
                count += _name(node)
            except Diagnostic as error:
                skipped.append(f"the reshape at {node.span} was left as it is: {error.message}")
    return count


def _name(node: Node) -> bool:
    source, result = node.inputs[0], node.output
    assert source is not None
    groups = axis_groups(source.type.shape, result.type.shape)
    if groups is None or all(len(before) <= 1 and len(after) <= 1 for before, after in groups):
        return False
    splits = any(len(after) > 1 for _, after in groups)
    last, behind = node, _only_reader(result, "transpose")
    names = _names(groups, source.type.shape, result.type.shape, _USUAL if splits or behind is None else _IMAGE)
    left, right = _side(groups, names, 0), _side(groups, names, 1)
    if behind is not None:
        last = behind
        right = [right[axis] for axis in behind.attrs["perm"]]
    elif not splits and (moved := _made_by(source, "transpose")) is not None:
        # Joining: what was moved just for it is read in the order that it had.
        perm = moved.attrs["perm"]
        left = [left[perm.index(axis)] for axis in range(len(perm))]
        source = moved.inputs[0]
    sizes = [
        (names[1, axis], result.type.shape[axis])
        for before, after in groups
        # One size of each split follows from the others: `h=4` says it all.
        for axis in _wide(after, result.type.shape)[: -1 if before else None]
        if len(after) > 1
    ]
    builder = Builder(node.graph).before(last)  # type: ignore[arg-type]
    made = builder.op("rearrange", source, pattern=f"{' '.join(left)} -> {' '.join(right)}", axes=tuple(sizes))
    made.name = last.output.name
    last.output.replace_uses(made)
    for dead in (last, node):
        if dead.graph is not None and not dead.output.uses:
            dead.graph.remove(dead)
    return True


def axis_groups(a: Sequence[Dim], b: Sequence[Dim]) -> list[Group] | None:
    """Which axes of shape ``a`` become which of shape ``b``; None when one group would be several on both sides.

    >>> axis_groups([const(2), const(32)], [const(2), const(4), const(8)])
    [([0], [0]), ([1], [1, 2])]
    """
    groups: list[Group] = []
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            groups.append(([i], [j]))
            i, j = i + 1, j + 1
        elif a[i] == 1:
            groups.append(([i], []))
            i += 1
        elif b[j] == 1:
            groups.append(([], [j]))
            j += 1
        elif split := _run(b, j, a[i]):
            groups.append(([i], list(range(j, split))))
            i, j = i + 1, split
        elif joined := _run(a, i, b[j]):
            groups.append((list(range(i, joined)), [j]))
            i, j = joined, j + 1
        else:
            return None
    groups += [([axis], []) for axis in range(i, len(a))] + [([], [axis]) for axis in range(j, len(b))]
    return groups


def _run(shape: Sequence[Dim], start: int, size: Dim) -> int | None:
    """Where the axes from ``start`` on that make ``size`` together end."""
    product = const(1)
    for axis in range(start, len(shape)):
        product = product * shape[axis]
        if product == size:
            return axis + 1
    return None


def _names(groups: list[Group], a: Sequence[Dim], b: Sequence[Dim], four: str) -> dict[tuple[int, int], str]:
    """(side, axis) -> its name, for every axis that is not 1; both sides of a pair have one. Four are called ``four``."""
    places: list[list[tuple[int, int]]] = []
    for before, after in groups:
        if len(before) == len(after) == 1:
            places += [[(0, before[0]), (1, after[0])]] if b[after[0]] != 1 else []
        elif len(after) > 1:
            places += [[(1, axis)] for axis in _wide(after, b)]
        else:
            places += [[(0, axis)] for axis in _wide(before, a)]
    usual = len(places) == len(four) and {len(a), len(b)} == {len(four), len(four) - 1}
    letters = four if usual else _LETTERS
    return {place: letters[n] for n, both in enumerate(places) for place in both}


def _side(groups: list[Group], names: dict[tuple[int, int], str], side: int) -> list[str]:
    """One word for each axis of a side: a name, the names that are joined in it, or 1."""
    words: list[str] = []
    for group in groups:
        own, others = group[side], group[1 - side]
        if len(own) == 1 and len(others) > 1:
            words.append(f"({' '.join(names[1 - side, axis] for axis in others if (1 - side, axis) in names)})")
        else:
            words += [names.get((side, axis), "1") for axis in own]
    return words


def _wide(axes: Sequence[int], shape: Sequence[Dim]) -> list[int]:
    return [axis for axis in axes if shape[axis] != 1]


def _is(op: AnyOp | None, name: str) -> bool:
    return op is not None and op.qualified == name


def _only_reader(value: Value, name: str) -> Node | None:
    users = value.users
    return users[0] if len(value.uses) == 1 and _is(users[0].op, name) else None


def _made_by(value: Value, name: str) -> Node | None:
    return value.node if value.node is not None and _is(value.node.op, name) else None
