"""Comparing an artifact with the torch reference on random inputs, before anybody relies on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..ir.analysis.bounds import Bound as IndexBound
from ..ir.analysis.bounds import index_bounds
from ..ir.diagnostics import Diagnostic, Note
from ..ir.graph import Graph, Input, Module, Value
from ..ir.types import DType
from ..runtime.distributions import advanced
from ..runtime.failures import divides_by_zero
from .sizes import choose_sizes

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
# Calls of a model with states, each on the reference's new ones; from its initialisers, and from states drawn as inputs are.
_STEPS = 3


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
    anew twice, because rounding can break a near tie either way. One with states is called several times on what the
    reference made of them, from its initialisers and from states that are drawn.

    Args:
        module: the program.
        runner: the artifact; its requirements decide which sizes it takes.
        reference: the torch module of the same program and weights: ``reference(inputs) -> {output: tensor}``.
        sizes: how many different choices of the free sizes.
        given: sizes to keep to, by symbol; the others are chosen.
        seed: for sizes and values.
        finite: compare only where the reference has finite numbers.

    Raises:
        Diagnostic: E0807 when no sizes satisfy the requirements, or the artifact does not run at some; E0809 with the
            output, the difference and the sizes; what the model says where it runs at none.
    """
    import numpy as np

    report = VerifyReport()
    rng = np.random.default_rng(seed)
    bounds = index_bounds(module.graph)
    tolerances = tolerances_of(module.graph)
    refused: list[dict[str, int]] = []
    first: Diagnostic | None = None

    def calls(choice: dict[str, int], draw: _Draw) -> tuple[list[Row], Diagnostic | None]:
        return _calls(module.graph, runner, reference, choice, bounds, tolerances, rng, draw, seed, finite)

    for choice in choose_sizes(module.graph, runner, sizes, rng, given, refused):
        attempts = _DRAWS if runner.selects else 1
        for attempt in range(attempts):
            try:
                try:
                    rows, worst = calls(choice, draw_input)
                except _NotTaken:
                    # A model may refuse what is no share, or what is padded.
                    rows, worst = calls(choice, draw_plain)
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


_Draw = Callable[[Input, Mapping[str, int], "IndexBound | None", "np.random.Generator"], "np.ndarray"]


class _NotTaken(Exception):
    """The reference itself does not run at a choice of sizes; ``reason`` is what it says."""

    def __init__(self, reason: Diagnostic) -> None:
        self.reason = reason


def _calls(
    graph: Graph, runner: Runner, reference: Callable[..., Mapping[str, Any]], choice: dict[str, int],
    bounds: Mapping[Input, IndexBound | None], tolerances: Mapping[Value, float], rng: np.random.Generator, draw: _Draw, seed: int,
    finite: bool,
) -> tuple[list[Row], Diagnostic | None]:  # fmt: skip
    """Every output's largest error over some calls at one choice of sizes, and what is wrong."""
    values = graph.sizes(choice)
    given = [v for v in graph.inputs if v.role == "input"]
    states = [v for v in graph.inputs if v.role == "state"]
    told = {s for v in given for d in v.type.shape for s in graph.expand_lets(d).symbols}
    rows: list[Row] = []
    for drawn in (False, True) if states else (False,):
        held = {v.public: draw(v, values, bounds.get(v), rng) for v in states} if drawn else {}
        for step in range(_STEPS if states else 1):
            feeds = {v.public: draw(v, values, bounds.get(v), rng) for v in given} | held
            extra: dict[str, Any] = {"seed": advanced(seed, step)}
            if not held and choice.keys() - told:
                extra["sizes"] = {s: size for s, size in choice.items() if s not in told}
            found, problem, made = _compare(graph, runner, reference, feeds, extra, choice, tolerances, finite)
            if problem is not None:
                return found, problem
            rows = [max(pair, key=lambda row: row.error) for pair in zip(rows, found, strict=True)] if rows else found
            held = {v.public: made[v.public] for v in states}
            if not all(is_finite(array) for array in held.values()):
                break  # nothing to learn from what has overflowed, and sessions refuse NaN
    return rows, None


def is_finite(array: np.ndarray) -> bool:
    """Whether there is neither NaN nor infinity in it; integers have none."""
    import numpy as np

    return array.dtype.kind not in "fV" or bool(np.isfinite(array.astype(np.float64)).all())


def _compare(
    graph: Graph, runner: Runner, reference: Callable[..., Mapping[str, Any]], feeds: Mapping[str, np.ndarray],
    extra: Mapping[str, Any], choice: Mapping[str, int], tolerances: Mapping[Value, float], finite: bool,
) -> tuple[list[Row], Diagnostic | None, Mapping[str, np.ndarray]]:  # fmt: skip
    """One call of both: a row for every output, what is wrong, and what the reference gives."""
    import numpy as np
    import torch

    from ..backends.torch.inputs import from_numpy, to_numpy

    # Copies, because a state may be the array of an earlier call.
    tensors = {name: from_numpy(np.array(array, order="C")) for name, array in feeds.items()}
    try:
        with torch.no_grad():
            wanted = {name: to_numpy(tensor) for name, tensor in reference(tensors, **extra).items()}
    except Diagnostic as reason:
        raise _NotTaken(reason) from None
    except (IndexError, RuntimeError) as failed:
        note = Note(f"PyTorch says: {str(failed).splitlines()[0][:200]}")
        help = "choose sizes that it takes with `--size`, or state them: `require T <= 512, \"…\"`"
        message = f"the model does not run{_at(choice)}"
        if divides_by_zero(str(failed)):
            # So a model says that it does not take what it is given.
            message += ": an integer is divided by 0"
            help = (
                "if it refuses weights that are not filled, give them with `--weights`; if it takes no inputs that are drawn, "
                "compile with `--no-verify`, and compare with your own"
            )
        raise _NotTaken(Diagnostic("E0935", message, notes=[note], help=help)) from None
    try:
        found = runner(feeds, **extra)
    except Diagnostic as failed:
        if failed.code != "E0912":
            raise
        notes = [Note(failed.message), *failed.notes]
        raise Diagnostic(
            "E0807", f"the artifact does not run{_at(choice)}, where the reference does", notes=notes,
            help="state the sizes that it takes, `require T >= 8, \"…\"`, and keep indices that are computed within their axes",
        ) from failed  # fmt: skip
    rows: list[Row] = []
    for value, info in zip(graph.outputs, graph.output_info, strict=True):
        a, b = np.asarray(found[info.public]), wanted[info.public]
        if finite and a.shape == b.shape and value.type.dtype.kind == "float":
            a = np.where(np.isfinite(b.astype(np.float32)), a, b)
        floating = value.type.dtype.kind == "float"
        if finite and not floating and tolerances[value] >= TOLERANCE["f16"]:
            # Half precision decides otherwise where two values are as near as it rounds; both are right.
            continue
        tolerance = tolerances[value] if floating else 0.0
        error = relative_error(a, b)
        rows.append(Row(choice, info.public, error, tolerance))
        if not error <= tolerance:
            return rows, _mismatch(info.public, value, a, b, error, tolerance, choice), wanted
    return rows, None, wanted


def _at(sizes: Mapping[str, int]) -> str:
    shown = ", ".join(f"{k} = {v}" for k, v in sizes.items())
    return f" at {shown}" if shown else ""


def tolerances_of(graph: Graph) -> dict[Value, float]:
    """What each output may differ by: that of the least precise step it depends on, whatever dtype it is given out in."""
    found: dict[Value, float] = {v: TOLERANCE.get(v.type.dtype.name, 0.0) for v in graph.inputs}
    for node in graph.nodes():
        reached = max((found.get(v, 0.0) for v in node.inputs if v is not None), default=0.0)
        if node.op.qualified.startswith("std.quantized."):
            # Where rounding decides otherwise, a number of 8 bits is a step away.
            reached = max(reached, TOLERANCE["f16"])
        for value in node.outputs:
            own = TOLERANCE.get(value.type.dtype.name, 0.0)
            found[value] = max(own, reached)
    return found


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

    at = _at(sizes)
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


# Values --------------------------------------------------------------------------------------------------------------


def draw_input(value: Input, sizes: Mapping[str, int], bound: IndexBound | None, rng: np.random.Generator) -> np.ndarray:
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


def draw_plain(value: Input, sizes: Mapping[str, int], bound: IndexBound | None, rng: np.random.Generator) -> np.ndarray:
    """As :func:`draw_input`, of what fewer models refuse: shares, those of a row adding up to 1, and masks without padding."""
    import numpy as np

    drawn = draw_input(value, sizes, bound, rng)
    if bound is not None:
        return drawn
    if value.type.dtype.kind != "float":
        return np.ones_like(drawn)
    shares = np.abs(drawn.astype(np.float64)) + 1e-3
    shares = shares / shares.sum(-1, keepdims=True) if shares.ndim else np.minimum(shares, 1.0)
    return shares.astype(drawn.dtype)
