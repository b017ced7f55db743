"""Comparing an artifact with the torch reference on random inputs, before anybody relies on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..ir.analysis.bounds import Bound as IndexBound
from ..ir.analysis.bounds import index_bounds
from ..ir.analysis.cost import working_bytes
from ..ir.analysis.sizes import GROUPS, TOKENS, Role, roles
from ..ir.diagnostics import Diagnostic, Note, did_you_mean
from ..ir.graph import Graph, Input, Module, Value
from ..ir.types import DType

if TYPE_CHECKING:
    import numpy as np

    from ..backends.target import Checked
    from ..runtime.runner import Runner
    from ..runtime.weights.bind import Bound

# The largest difference allowed, relative to the largest magnitude in the output (or to 1 where that is smaller).
TOLERANCE = {"f64": 1e-8, "f32": 2e-4, "f16": 2e-2, "bf16": 1e-1}
# With random inputs two scores are now and then so close that rounding decides which token is selected. A wrong
# artifact fails on every draw.
_DRAWS = 3
_BATCH = 2
# So many choices of sizes that the model does not run at are enough, and bytes that a call may need.
_REFUSED, _LARGEST = 24, 1 << 30


@dataclass(frozen=True)
class Row:
    """One output at one choice of sizes: ``error`` is its largest difference, over the largest magnitude (at least 1)."""

    sizes: Mapping[str, int]
    output: str
    error: float
    tolerance: float

    def to_dict(self) -> dict[str, Any]:
        return {"sizes": dict(self.sizes), "output": self.output, "error": self.error, "tolerance": self.tolerance}


@dataclass
class VerifyReport:
    """What was compared."""

    rows: list[Row] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {"rows": [r.to_dict() for r in self.rows]}


def verify(
    module: Module,
    runner: Runner,
    reference: Callable[..., Mapping[str, Any]],
    *,
    sizes: int = 2,
    given: Mapping[str, int] | None = None,
    seed: int = 0,
    finite: bool = False,
) -> VerifyReport:
    """Run the artifact and the reference on the same random inputs and compare every output.

    Floats must agree within :data:`TOLERANCE`, integers and booleans exactly. A model that selects tokens may be drawn for
    anew twice, because rounding can break a near tie either way.

    Args:
        module: the program.
        runner: the artifact; its requirements decide which sizes it takes.
        reference: the torch module of the same program and weights: ``reference(**inputs) -> {output: tensor}``.
        sizes: how many different choices of the free sizes.
        given: sizes to keep to, by symbol; the others are chosen.
        seed: for sizes and values.
        finite: compare only where the reference has finite numbers.

    Raises:
        Diagnostic: E0807 when no sizes satisfy the requirements, E0809 with the output, the difference and the sizes.
    """
    import numpy as np

    report = VerifyReport()
    rng = np.random.default_rng(seed)
    bounds = index_bounds(module.graph)
    refused: list[dict[str, int]] = []
    first: Diagnostic | None = None
    for choice in choose_sizes(module.graph, runner, sizes, rng, given, refused):
        attempts = _DRAWS if runner.selects else 1
        for attempt in range(attempts):
            try:
                rows, worst = _compare(module.graph, runner, reference, choice, bounds, rng, seed, finite)
            except _NotTaken as error:
                # How many positions a model has learned is often known only when it runs.
                refused.append(choice)
                first = first or error.reason
                break
            if worst is None:
                report.rows += rows
                break
            if attempt == attempts - 1:
                raise worst
    if first is not None and not report.rows and module.graph.outputs:
        raise first
    return report


def compared(
    module: Module, runner: Runner, reference: Module, values: Bound, seed: int, sizes: Mapping[str, int] | None = None
) -> Checked:
    """As :func:`verify`, with the torch reference of the program ``reference`` and these weights."""
    from ..backends import torch
    from ..backends.target import Checked

    found = verify(module, runner, torch.build(reference, values, claims=False), given=sizes, seed=seed)
    return Checked([row.to_dict() for row in found.rows], runner=runner)


class _NotTaken(Exception):
    """The reference itself does not run at a choice of sizes; ``reason`` is what it says."""

    def __init__(self, reason: Diagnostic) -> None:
        self.reason = reason


def _compare(
    graph: Graph, runner: Runner, reference: Callable[..., Mapping[str, Any]], choice: dict[str, int],
    bounds: Mapping[Input, IndexBound | None], rng: np.random.Generator, seed: int, finite: bool,
) -> tuple[list[Row], Diagnostic | None]:  # fmt: skip
    import numpy as np
    import torch

    from ..backends.torch.inputs import from_numpy, to_numpy

    values = graph.sizes(choice)
    given = [v for v in graph.inputs if v.role == "input"]
    feeds = {v.name: _draw(v, values, bounds.get(v), rng) for v in given}
    told = {s for v in given for d in v.type.shape for s in graph.expand_lets(d).symbols}
    capacities = {s: size for s, size in choice.items() if s not in told}
    extra: dict[str, Any] = {"sizes": capacities} if capacities else {}
    tensors = {name: from_numpy(np.asarray(array, order="C")) for name, array in feeds.items()}
    try:
        with torch.no_grad():
            wanted = reference(**tensors, seed=seed, **extra)
    except Diagnostic as reason:
        raise _NotTaken(reason) from None
    except (IndexError, RuntimeError) as failed:
        shown = ", ".join(f"{k} = {v}" for k, v in choice.items()) or "its sizes"
        message = f"the model does not run at {shown}: {str(failed).splitlines()[0][:200]}"
        raise _NotTaken(Diagnostic("E0935", message, help="choose sizes that it takes with `--size`")) from None
    found = runner(feeds, seed=seed, **extra)
    rows: list[Row] = []
    tolerances = _tolerances(graph)
    for value, info in zip(graph.outputs, graph.output_info, strict=True):
        a, b = np.asarray(found[info.name]), to_numpy(wanted[info.name])
        if finite and a.shape == b.shape and value.type.dtype.kind == "float":
            a = np.where(np.isfinite(b.astype(np.float32)), a, b)
        tolerance = tolerances[value]
        error = relative_error(a, b)
        rows.append(Row(choice, info.name, error, tolerance))
        if not error <= tolerance:
            return rows, _mismatch(info.name, value, a, b, error, tolerance, choice)
    return rows, None


def _tolerances(graph: Graph) -> dict[Value, float]:
    """What each output may differ by: that of the least precise step it depends on, whatever dtype it is given out in."""
    found: dict[Value, float] = {v: TOLERANCE.get(v.type.dtype.name, 0.0) for v in graph.inputs}
    for node in graph.nodes():
        reached = max((found.get(v, 0.0) for v in node.inputs if v is not None), default=0.0)
        for value in node.outputs:
            own = TOLERANCE.get(value.type.dtype.name, 0.0)
            found[value] = max(own, reached)
    exact = {v: 0.0 for v in graph.outputs if v.type.dtype.kind != "float"}
    return found | exact


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, over the largest finite magnitude of ``b`` (at least 1). Infinite where shapes, dtypes, or the
    places of NaN and infinities differ. Integers and booleans: the largest difference itself."""
    import numpy as np

    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if a.size == 0:
        return 0.0
    if a.dtype.kind not in "fV":
        return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(y)
    if not np.array_equal(np.where(finite, 0.0, x), np.where(finite, 0.0, y), equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    if not np.isfinite(x[finite]).all():
        return float("inf")
    return float(np.abs(x[finite] - y[finite]).max() / max(1.0, np.abs(y[finite]).max()))


def _mismatch(
    name: str, value: Value, a: np.ndarray, b: np.ndarray, error: float, tolerance: float, sizes: Mapping[str, int]
) -> Diagnostic:
    import numpy as np

    shown = ", ".join(f"{k} = {v}" for k, v in sizes.items())
    at = f" at {shown}" if shown else ""
    span = value.node.span if value.node else None
    if a.shape != b.shape or a.dtype != b.dtype:
        ours, theirs = (f"{x.dtype}{list(x.shape)}" for x in (a, b))
        return Diagnostic(
            "E0809", f"the output `{name}` is {ours} in the artifact, but {theirs} in the reference{at}", span
        )
    with np.errstate(invalid="ignore"):
        difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
    place = np.unravel_index(int(np.argmax(np.nan_to_num(difference, nan=np.inf))), a.shape)
    what = f"differs by {error:.3g}"
    if tolerance:
        what += f" of its largest magnitude (allowed: {tolerance:.3g})"
    where = [int(i) for i in place]
    note = Note(f"the largest difference is at {where}: {a[place]} in the artifact, {b[place]} in the reference")
    return Diagnostic("E0809", f"the output `{name}` of the artifact {what}{at}", span, [note])


# Sizes ---------------------------------------------------------------------------------------------------------------


def choose_sizes(
    graph: Graph, runner: Runner, count: int, rng: np.random.Generator, given: Mapping[str, int] | None = None,
    refused: Sequence[Mapping[str, int]] = (),
) -> Iterator[dict[str, int]]:  # fmt: skip
    """``count`` different choices of the free sizes that the model takes; small ones, all symbols different where they can be.

    Args:
        given: sizes to keep to.
        refused: where the caller puts choices that turned out to be none: they do not count.

    Raises:
        Diagnostic: E0807 when none is found, E0935 for a given size that the model does not have.
    """
    known = roles(graph)
    given = dict(given or {})
    for name in given:
        if name not in known:
            shown = f"it has {', '.join(known)}" if known else "all of its sizes are fixed"
            raise Diagnostic("E0935", f"the model has no size `{name}`", help=did_you_mean(name, known) or shown)
    symbols = [s for s in known if s not in given]
    seen: list[dict[str, int]] = []
    # Growing ranges: small models of small inputs first, and up to what an image or a text may have.
    for high in (8, 16, 32, 64, 160, 320, 640, 1600):
        for _ in range(24 if symbols else 1):
            # What the model did not run at was too large as often as too small.
            low = min((max(other.values()) for other in refused), default=high) if len(refused) % 2 else high
            top = min(low, high)
            choice = {s: given[s] if s in given else _size(graph, s, role, top, rng) for s, role in known.items()}
            crowded = len({choice[s] for s in symbols}) < len(symbols) and high < 64 and not refused
            near = any(_close(choice, other, symbols) for other in seen if other not in refused)
            if crowded or near or choice in seen or not _fits(graph, runner, choice):
                continue
            if high > 64 and working_bytes(graph, choice) > _LARGEST:
                continue
            seen.append(choice)
            yield choice
            if len(seen) - len(refused) == count or not symbols or len(refused) == _REFUSED:
                return
    if not seen:
        names = ", ".join(f"`{s}`" for s in symbols)
        message = f"no sizes of {names} up to 1600 were found that the model's requirements allow"
        if given:
            message += f" at {', '.join(f'{s} = {size}' for s, size in given.items())}"
        raise Diagnostic("E0807", message if symbols else "the model's requirements never hold", help="`--no-verify`")


def _size(graph: Graph, symbol: str, role: Role, high: int, rng: np.random.Generator) -> int:
    least, greatest = graph.facts.get(symbol, (1, None))
    low = max(1 if least is None else least, 2 if greatest is None or greatest >= 2 else 1)
    leads = all(symbol not in dim.symbols for value in graph.inputs for dim in value.type.shape[1:])
    if role == "batch":
        # One and two show what more would: a size that was built in, rows that are mixed up.
        low, high = max(1, least or 1), _BATCH if high < 64 else 2 * _BATCH
    elif role == "groups":
        low, high = max(1, least or 1), GROUPS
    elif leads and high < 64:
        # Of one or two flat tokens nothing is seen of how they mix, nor of how they fall into groups.
        low, high = max(low, TOKENS * 3 // 4), TOKENS * 5 // 4
    top = max(low, high if greatest is None else min(high, greatest))
    return int(rng.integers(min(low, top), top + 1))


def _close(choice: Mapping[str, int], other: Mapping[str, int], symbols: Sequence[str]) -> bool:
    """Whether some symbol that could differ has the same size in both."""
    return any(choice[s] == other[s] for s in symbols)


def _fits(graph: Graph, runner: Runner, choice: dict[str, int]) -> bool:
    values = graph.sizes(choice)
    shapes = [d.evaluate(values) for v in (*graph.inputs, *graph.outputs) for d in v.type.shape]
    # ONNX Runtime takes no image that is smaller than a kernel or a window.
    windows = [n for n in graph.nodes() if n.op.name == "conv" or "_pool" in n.op.name]
    maps = [d.evaluate(values) for n in windows for d in n.output.type.shape]
    if min(shapes, default=0) < 0 or min(maps, default=1) < 1:
        return False
    return all(r.holds(values) for r in graph.requires) and runner.holds(choice)


# Values --------------------------------------------------------------------------------------------------------------


def _draw(value: Input, sizes: Mapping[str, int], bound: IndexBound | None, rng: np.random.Generator) -> np.ndarray:
    """Random contents of an input.

    Floats are normal. Integers that index a table are below its length, and borders ascend. Other integers, and booleans, are
    taken for masks: 1 up to some place of the last axis, then 0, as at the end of padded text; at least one 1 a row. A scalar
    is a small number, 0 only where it indexes; or a truth.
    """
    import numpy as np

    shape = [d.evaluate(dict(sizes)) for d in value.type.shape]
    dtype: DType = value.type.dtype
    if bound is not None:
        return bound.draw(shape, dtype, sizes, rng)
    if dtype.kind == "float":
        return rng.standard_normal(shape).astype(dtype.numpy)
    if not shape:
        return np.asarray(rng.integers(0, 2) if dtype.kind == "bool" else rng.integers(1, 5)).astype(dtype.numpy)
    length = rng.integers(1, max(2, shape[-1] + 1), [*shape[:-1], 1])
    return np.broadcast_to(np.arange(shape[-1]) < length, shape).astype(dtype.numpy)
