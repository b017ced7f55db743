"""Whether a model that was given a cache goes on as it would have when given all tokens at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..ir.analysis.bounds import index_bounds
from ..ir.diagnostics import Diagnostic
from ..ir.graph import Graph, Module
from .verify import draw_input, relative_error, tolerances_of

if TYPE_CHECKING:
    import numpy as np

    from ..passes.report import Report
    from ..runtime.program import ProgramRunner
    from ..runtime.weights.bind import Bound

# Two rows: how many tokens the prompt of each has, then how many each call after it brings.
_CALLS = ((4, 2), (2, 3), (1, 1), (1, 0))
_SLOTS = 12
# The free sizes of what is given once beside a text.
_BESIDE = 6


def check_continues(
    read: Module, weights: Callable[[], Bound], made: ProgramRunner, reports: Sequence[Report], entries: tuple[str, str],
    lengths: str, seed: int, sizes: Mapping[str, int] | None = None,
) -> list[str]:  # fmt: skip
    """Read two texts in parts, and compare every output with that of the model that reads them at once.

    Args:
        read: the model before it was given a cache, with ``weights``.
        made: what it became; ``entries`` reads prompts, and what follows.
        reports: of the passes by which it became that.
        lengths: the input that says how many tokens of a row count.
        sizes: what to keep to, by symbol.

    Returns:
        Why nothing was compared, if so.

    Raises:
        Diagnostic: E0809 where they differ.
    """
    import numpy as np

    from ..backends import torch
    from ..backends.torch.runner import TorchRunner

    changing = dict.fromkeys(f"`{r.name}`" for r in reports if r.contract != "exact" and r.modified)
    if changing:
        return [f"whether it goes on as the model does was not tried: {', '.join(changing)} may change what it gives"]
    start, go_on = entries
    graph = read.graph
    ids = next(v for v in graph.inputs if v.public in {spec.name for spec in made.runners[go_on].inputs})
    total = max(map(sum, zip(*_CALLS, strict=True)))
    first = ids.type.shape[0]
    batch = 2 if first.value is None else first.value
    beside = [v for v in graph.inputs if v.public != ids.public and v.type.shape[:2] != ids.type.shape[:2]]
    free = {s: _BESIDE for v in beside for d in v.type.shape for s in d.symbols}
    chosen = {**free, **{s: d for s, d in ((first.symbol, batch), (ids.type.shape[1].symbol, total)) if s}, **(sizes or {})}
    original = TorchRunner(read, torch.build(read, weights()), {})
    values = graph.sizes(chosen)
    if set(graph.symbols()) - chosen.keys() or not original.holds(values):
        return ["whether it goes on as the model does was not tried: the sizes that were tried are none that it takes"]
    rng = np.random.default_rng(seed)
    text = draw_input(ids, values, index_bounds(graph).get(ids), rng)
    given = {v.public: draw_input(v, values, index_bounds(graph).get(v), rng) for v in beside}
    wanted = original({ids.public: text, **given, **_told(graph, {ids.public, *given}, batch, total)}, seed=seed)
    # What only the prompt tells is no output of what follows.
    tolerances = {
        info.public: error
        for info, error in zip(graph.output_info, _outputs(graph), strict=True)
        if info.public in made.runners[go_on].outputs
    }
    states: dict[str, Any] = {}
    done = np.zeros(batch, np.int64)
    for call, counts in enumerate(_CALLS):
        count = np.asarray(counts[:batch])
        rows = np.zeros((batch, count.max(), *text.shape[2:]), text.dtype)
        for b, n in enumerate(count):
            rows[b, :n] = text[b, done[b] : done[b] + n]
        entry = made[go_on if call else start]
        capacity = {s: _SLOTS for s in made.program.functions[start].symbols() if s not in chosen} if not call else {}
        further = states if call else given
        found = entry(**{ids.public: rows, lengths: count, **further}, seed=seed, sizes=capacity)
        states = {spec.name: found[spec.name] for spec in entry.runner.optional if spec.name in found}
        for name, tolerance in tolerances.items():
            for b, n in enumerate(count):
                here = wanted[name][b, done[b] : done[b] + n]
                ours = found[name][b, :n] if call else found[name][b][None]
                _compare(name, ours, here if call else here[-1:], tolerance, entry.name)
        done += count
    return []


def _outputs(graph: Graph) -> list[float]:
    tolerances = tolerances_of(graph)
    return [tolerances[v] for v in graph.outputs]


def _told(graph: Graph, given: Collection[str], batch: int, total: int) -> dict[str, np.ndarray]:
    """Masks and positions of texts without padding."""
    import numpy as np

    told = {}
    for value in graph.inputs:
        if value.public not in given:
            row = np.ones(total) if "mask" in value.public else np.arange(total)
            told[value.public] = np.broadcast_to(row, (batch, total)).astype(value.type.dtype.numpy)
    return told


def _compare(name: str, ours: np.ndarray, wanted: np.ndarray, tolerance: float, entry: str) -> None:
    error = relative_error(ours, wanted)
    if not error <= tolerance:
        raise Diagnostic(
            "E0809", f"`{name}` of `{entry}` differs by {error:.3g} of its largest magnitude (allowed: {tolerance:.3g}) from what "
            "the model gives that reads all tokens at once",
            help="something in it depends on how many tokens there are, or on later ones; `--no-verify` writes it all the same",
        )  # fmt: skip
