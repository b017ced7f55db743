"""Whether a program that looks at no later token still looks at none behind passes that change values.

Late tokens are changed. What the program gives for those before them must not change: where the original keeps to that, what the
passes made of it has to as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..ir.analysis.bounds import index_bounds
from ..ir.analysis.sizes import default_sizes
from ..ir.diagnostics import Diagnostic, Note
from ..ir.graph import Graph, Input, Module
from .verify import TOLERANCE, draw_input

if TYPE_CHECKING:
    import numpy as np

    from ..passes.report import Report
    from ..runtime.weights.bind import Bound

# Tokens of the trial: as many as blocks can remove some of, or fewer where a model takes no more. A quarter of them come late, and
# are drawn anew so often.
_TOKENS = (32, 16, 8)
_DRAWS = 3

Run = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Leak:
    """An output whose early tokens moved with late ones, by ``error`` of its largest magnitude."""

    output: str
    symbol: str
    error: float


def check_one_way(
    before: Module, after: Module, weights: Callable[[], Bound], made: Bound, reports: list[Report], seed: int,
    sizes: Mapping[str, int] | None = None,
) -> list[str]:  # fmt: skip
    """Compare what the passes made of a program with the program itself, as far as later tokens go.

    Args:
        before: the program before any pass, with ``weights``.
        after: the program behind the passes, with those that are ``made`` for it.
        reports: of the passes; only those that change values are of interest.
        sizes: what to keep to, by symbol.

    Returns:
        Notes: tokens that were picked by what later ones are like change with these, as published methods mean it; or why nothing
        was tried.

    Raises:
        Diagnostic: E0810 when an early output changes with a late token, and did not before.
    """
    changed = [r.name for r in reports if r.contract != "exact" and r.modified]
    rows = list(_along(before.graph, after.graph)) if changed else []
    if not rows:
        return []
    from ..backends import torch
    from ..backends.torch.runner import TorchRunner

    original, result = (TorchRunner(m, torch.build(m, w), {}) for m, w in ((before, weights()), (after, made)))
    reason = "the sizes that were tried are none that it takes"
    for tokens in _TOKENS:
        chosen = {**default_sizes(before.graph, tokens), **(sizes or {})}
        if not (original.holds(before.graph.sizes(chosen)) and result.holds(after.graph.sizes(chosen))):
            continue
        try:
            found = _leak(before.graph, rows, partial(original, seed=seed), partial(result, seed=seed), chosen, seed)
            break
        except Diagnostic as error:
            reason = error.message
    else:
        return [f"whether early outputs see later tokens was not tried: {reason}"]
    if found is None:
        return []
    said = f"a change of late tokens moves `{found.output}` of those before them by {found.error:.2g} of its largest magnitude"
    if _picks(after.graph):
        return [f"{said}: which tokens stay is chosen by what later ones are like"]
    raise Diagnostic(
        "E0810", f"{said}, and did not before {' and '.join(dict.fromkeys(changed))}",
        notes=[Note(f"at {', '.join(f'{k} = {v}' for k, v in chosen.items())}; `{found.symbol}` counts the tokens")],
        help="reduce tokens where every one sees all others, chosen with `blocks=[…]`; `--no-verify` writes it all the same",
    )  # fmt: skip


def _picks(graph: Graph) -> bool:
    """Whether tokens are only picked, and none is merged."""
    from ..passes.tokens.stream import facts_of, reductions

    facts = [facts_of(node) for node in reductions(graph)]
    return bool(facts) and not any(each.merged for each in facts)


def _along(before: Graph, after: Graph) -> Iterator[tuple[str, str, int, Input, int]]:
    """(symbol, output, its axis, input, its axis) where both have a size of tokens, before and after; each axis behind the
    first, which is that of the batch."""
    kept = {i.public: v.type for v, i in zip(after.outputs, after.output_info, strict=True) if i.role == "output"}
    for value, info in zip(before.outputs, before.output_info, strict=True):
        if info.role != "output" or value.type.dtype.kind != "float" or info.public not in kept:
            continue
        for axis, dim in enumerate(value.type.shape):
            same = kept[info.public].rank == value.type.rank and kept[info.public].shape[axis] == dim
            if axis and dim.symbol is not None and same:
                for given in before.inputs:
                    places = [i for i, d in enumerate(given.type.shape) if i and d == dim]
                    if given.role == "input" and len(places) == 1:
                        yield dim.symbol, info.public, axis, given, places[0]


def _leak(
    graph: Graph, rows: list[tuple[str, str, int, Input, int]], original: Run, result: Run, sizes: Mapping[str, int], seed: int
) -> Leak | None:  # fmt: skip
    """The first output that looks ahead behind the passes, and did not before them."""
    import numpy as np

    rng = np.random.default_rng(seed)
    bounds = index_bounds(graph)
    values = graph.sizes(dict(sizes))
    symbols = dict.fromkeys(row[0] for row in rows)
    ahead: set[str] = set()
    for symbol in [*symbols] * _DRAWS:
        if symbol in ahead:
            continue
        own = [row for row in rows if row[0] == symbol]
        early = max(1, values[symbol] * 3 // 4)
        feeds = {v.public: draw_input(v, values, bounds.get(v), rng) for v in graph.inputs if v.role == "input"}
        late = dict(feeds)
        for given, axis in {(row[3], row[4]) for row in own}:
            bound = bounds.get(given)
            content = given.type.dtype.kind == "float" if bound is None else not bound.ascending
            if content:  # masks say the same of every token
                drawn = draw_input(given, values, bound, rng)
                parts = np.split(feeds[given.public], [early], axis)[0], np.split(drawn, [early], axis)[1]
                late[given.public] = np.concatenate(parts, axis)
        before, behind = original(feeds), original(late)
        moves = {(name, axis): _moves(before[name], behind[name], axis, early) for _, name, axis, _, _ in own}
        wanted = [at for at, (first, last) in moves.items() if last and not first]
        if not wanted:
            ahead.add(symbol)
            continue
        before, behind = result(feeds), result(late)
        for name, axis in wanted:
            error, _ = _moves(before[name], behind[name], axis, early)
            if error:
                return Leak(name, symbol, error)
    return None


def _moves(a: np.ndarray, b: np.ndarray, axis: int, early: int) -> tuple[float, float]:
    """How much the first ``early`` places along an axis differ, and the others, of the largest magnitude; 0 within rounding."""
    import numpy as np

    tolerance = TOLERANCE.get(a.dtype.name.replace("float", "f"), TOLERANCE["bf16"])
    x, y = np.nan_to_num(a.astype(np.float64)), np.nan_to_num(b.astype(np.float64))
    gap = np.abs(x - y) / max(np.abs(x).max(initial=0.0), np.finfo(np.float64).tiny)
    first, last = (float(part.max(initial=0.0)) for part in np.split(gap, [early], axis))
    return (first if first > tolerance else 0.0), (last if last > tolerance else 0.0)
