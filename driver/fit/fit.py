"""From a model, a budget and examples to the pass that keeps to the budget: what ``optimize --budget`` runs before everything else.

fitted = fit(source, before, passes, budget, examples, how, folder, tell)
fitted.passes                       # what to run; fitted.held_back is what to judge it on
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...backends.onnx.target import Onnx
from ...ir.analysis.cost import cost
from ...ir.compiling import CompileSpec, PassSpec
from ...ir.diagnostics import Diagnostic
from ..compile import compile as drive
from ..report.calibration import Examples
from ..report.measure import Target
from .budget import Budget
from .search import Found, search
from .trials import Trial, Trials, scheduled, show_pass

if TYPE_CHECKING:
    from ...ir.graph import Module
    from ..compile import Progress
    from ..read import Source

# Fewer examples cannot be parted into some to search on and some to judge on.
FEWEST = 8
# What is tried when nobody says.
METHODS = ("merge_tokens", "prune_tokens")
# The options that say how many tokens leave.
_SCHEDULES = frozenset({"r", "keep", "k"})


@dataclass(frozen=True)
class Fitted:
    """What came out of a search.

    Args:
        passes: what to run on the program.
        even: the same with the constant schedule of as much cost; None where what was chosen is that one.
        held_back: the examples that the search did not see.
        searched: how many it did.
    """

    passes: list[PassSpec]
    even: list[PassSpec] | None
    held_back: Examples
    searched: int
    budget: Budget
    found: Found

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the report."""
        return {
            "budget": str(self.budget),
            "examples": {"searched": self.searched, "held_back": len(self.held_back.feeds)},
            "chosen": self.found.chosen.to_dict(),
            "constant": self.found.constant.to_dict() if self.even is not None and self.found.constant else None,
            "tried": [trial.to_dict() for trial in self.found.trials],
            "notes": self.found.notes,
        }


def fit(
    source: Source,
    before: Module,
    passes: Sequence[PassSpec],
    budget: Budget,
    examples: Examples | None,
    how: How,
    folder: Path,
    tell: Progress,
) -> Fitted:
    """Search on every second example; the others judge.

    Args:
        before: the program with every token, its composites found.
        passes: those without a schedule are the methods to choose from (none: merging and pruning), others run first.
        folder: where candidates are built.

    Raises:
        Diagnostic: E0011 without enough data, and what :func:`~.search.search` raises.
    """
    if examples is None:
        raise Diagnostic(
            "E0011", "`--budget` without `--calib`: what a schedule loses shows on real data only",
            help="give examples of what the model is for: an .npz, a folder of images, a .txt with a text on each line",
        )  # fmt: skip
    if len(examples.feeds) < FEWEST:
        raise Diagnostic(
            "E0011", f"`--budget` needs at least {FEWEST} examples, and {examples.what} are fewer",
            help="half of them are searched on, the others judge what was found",
        )  # fmt: skip
    methods = [p for p in passes if _is_method(p)] or [PassSpec(name) for name in METHODS]
    leading = [p for p in passes if not _is_method(p)]
    searched, held_back = examples.feeds[::2], examples.feeds[1::2]
    tell("building the model with every token", None, None)
    whole = folder / f"every_token{Onnx.suffix}"
    made = drive(
        before, target=Onnx.name, weights=source.weights, passes=leading, opset=how.opset, seed=how.seed, verify=False, output=whole
    )
    target = Target.open(whole, made.module, name="every token", threads=how.threads)
    timed = Examples(list(searched), "").middle
    sizes = {**target.sizes(timed), **how.sizes}
    trials = Trials(
        source, before, leading, source.file or whole, target, searched, timed, sizes, folder, how.threads, how.seed, how.opset,
        tell,
    )  # fmt: skip
    first = next((b.tokens for b in cost(made.module.graph).at(sizes).blocks if b.tokens), None)
    found = search(trials, methods, budget, first)
    chosen, even = (_spec(t, methods) for t in (found.chosen, found.constant))
    assert chosen is not None
    different = even is not None and found.constant is not None and found.constant.spec != found.chosen.spec
    judged = Examples(list(held_back), f"{len(held_back)} of {examples.what}, held back from the search", examples.random)
    return Fitted(
        [*leading, chosen], [*leading, even] if different and even is not None else None, judged, len(searched), budget, found
    )


@dataclass(frozen=True)
class How:
    """How candidates are built and timed; as the options of ``optimize`` of these names."""

    sizes: Mapping[str, int]
    threads: int | None
    seed: int
    opset: int | None


def program_text(before: Module, passes: Sequence[PassSpec], source: Source, folder: Path) -> str:
    """The program with every token and, in its ``compile`` block, its weights as seen from ``folder`` and the passes that were
    chosen: to read, change and compile."""
    from ...frontends.source.format.printer import print_compiled

    own = source.module.compile
    given: Path | None = source.file
    if given is None and isinstance(source.weights, list) and len(source.weights) == 1:
        given = Path(source.weights[0])
    if given is None and own is not None and own.weights is not None and source.beside is not None:
        given = source.beside / own.weights
    weights = os.path.relpath(given, folder) if given is not None else None
    renames = own.renames if own is not None else ()
    return print_compiled(before, CompileSpec(weights=weights, renames=renames, passes=tuple(passes)))


def _is_method(spec: PassSpec) -> bool:
    """Whether a pass reduces tokens and does not say how many."""
    from ...passes.engine import registry
    from ...passes.tokens.reduce import ReduceTokens

    kind = registry().get(spec.name)
    return kind is not None and issubclass(kind, ReduceTokens) and not _SCHEDULES & spec.options.keys()


def _spec(trial: Trial | None, methods: Sequence[PassSpec]) -> PassSpec | None:
    if trial is None:
        return None
    return scheduled(next(m for m in methods if show_pass(m) == trial.method), trial.schedule)
