"""Rows split into groups whose sizes only run time knows, a product each, and one behind the other again: one product by group.

`parts = Split(x, sizes)   y = Concat(MatMul(parts[0], w[0]), MatMul(parts[1], w[1]), …)`, which is how standard ops compute
experts. Taken one by one, each part would have a number of rows of its own that depends on data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from .order import ordered, read_names

# What stands for all of them while importing, `(x, sizes, zero?, first?, w[0], …) -> y`: of a last group that is multiplied with
# nothing, the number in its place and which group it is.
GROUPED = "Split, MatMul, Concat"


def grouped(nodes: Sequence[Any], wanted: Iterable[str]) -> list[Any]:
    """The nodes, ordered, with one in the place of each product by group. ``wanted``: what is read besides."""
    splits = [n for n in nodes if n.op_type == "Split" and not n.domain and len(n.input) > 1 and n.input[1]]
    if not splits:
        return list(nodes)
    wanted = list(wanted)
    reads = Counter(name for node in nodes for name in read_names(node)) + Counter(wanted)
    made = {name: node for node in nodes for name in node.output}
    reader = {name: node for node in nodes for name in node.input}
    put: dict[int, Any] = {}
    gone: set[int] = set()
    for split in splits:
        sizes = made.get(split.input[1])
        last = _concat(split, made, reader, reads)
        if last is None or sizes is None or sizes.op_type == "Constant":
            continue
        products = [reader[name] for name in split.output if reads[name]]
        rest = _rest(last.input[-1], split, made) if len(last.input) > len(products) else ("", "")
        if rest is None:
            continue
        one = type(last)(op_type=GROUPED, name=last.name, output=last.output)
        one.input.extend([*split.input[:2], *rest, *(node.input[1] for node in products)])
        put[id(last)] = one
        gone |= {id(split), *map(id, products)}
    # What made the zeros of a last group is needed no more.
    return ordered([put.get(id(node), node) for node in nodes if id(node) not in gone], wanted, set()) if put else list(nodes)


def _concat(split: Any, made: dict[str, Any], reader: dict[str, Any], reads: Counter[str]) -> Any | None:
    """The node that puts the products of a split's parts one behind the other, and zeros for a last part that nobody multiplies."""
    parts = list(split.output)
    if any(a.name == "axis" and a.i for a in split.attribute):
        return None
    rest = not reads[parts[-1]]
    parts = parts[:-1] if rest else parts
    products = [reader.get(name) for name in parts]
    if not parts or any(
        node is None or node.op_type != "MatMul" or node.domain or node.input[0] != name or reads[name] != 1
        for node, name in zip(products, parts, strict=True)
    ):
        return None
    results = [node.output[0] for node in products if node is not None]
    last = reader.get(results[0])
    if last is None or last.op_type != "Concat" or any(reads[name] != 1 for name in results):
        return None
    along = next((a.i for a in last.attribute if a.name == "axis"), None)
    behind = list(last.input)[len(results) :]
    return last if along == 0 and list(last.input)[: len(results)] == results and len(behind) == rest else None


def _rest(name: str, split: Any, made: dict[str, Any]) -> tuple[str, str] | None:
    """Of one number in as many rows as the groups from some one on have: the number, and which group is the first."""
    expand = made.get(name)
    shape = made.get(expand.input[1]) if expand is not None and expand.op_type == "Expand" else None
    rows = made.get(shape.input[0]) if shape is not None and shape.op_type == "Concat" else None
    if expand is None or rows is None or rows.op_type != "Slice" or rows.input[0] != split.input[1]:
        return None
    return expand.input[0], rows.input[1]
