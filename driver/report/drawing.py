"""What artifacts are tried and timed with when nobody says: sizes that they take, and random inputs that mean something."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...ir.analysis.cost import working_bytes
from ...ir.analysis.sizes import BATCH, TOKENS, default_sizes
from ...ir.diagnostics import Diagnostic, did_you_mean
from ...ir.types import DTYPES
from ...runtime.memory import available
from ..verify import is_finite

if TYPE_CHECKING:
    import numpy as np

    from .measure import Target

# Numbers of tokens to try where the usual one does not run.
OTHER_SIZES = (224, 112, 96, 64, 48, 32, 16, 8, 4, 2)


def sizes_of(target: Target, given: Mapping[str, int] | None = None, tokens: int = TOKENS) -> dict[str, int]:
    """A size for every symbol: what is given, else 1 of a batch, 8 groups, and what makes 128 tokens of everything else
    (:func:`~tessera.ir.analysis.sizes.default_sizes`; in a foreign file, what only ever leads an input is taken for a batch,
    and everything else for tokens).

    Raises:
        Diagnostic: E0935 for a symbol that the artifact does not have.
    """
    names = target.symbols
    for name in given or {}:
        if name not in names:
            known = f"it has {', '.join(names)}" if names else "all of its sizes are fixed"
            raise Diagnostic("E0935", f"`{target.name}` has no size `{name}`", help=did_you_mean(name, names) or known)
    if target.graph is not None:
        return {**default_sizes(target.graph, tokens), **(given or {})}
    inner = {s for f in target.fields for d in f.shape[1:] for s in d.symbols}
    return {name: (given or {}).get(name, tokens if name in inner else BATCH) for name in names}


def workable_sizes(
    targets: Sequence[Target], given: Mapping[str, int] | None = None, tell: Callable[[str], None] | None = None
) -> dict[str, int]:
    """As :func:`sizes_of` of the first, but for another number of tokens where one of them does not run at 128, or where that
    would take more memory than there is to spare.

    How many positions a model has learned, or what its patches divide, is often known only when it runs.

    Args:
        tell: told in a sentence when memory was the reason.

    Raises:
        Diagnostic: E0935 as there, and for sizes that are given and too large for this machine's memory; what the model says to
            its usual sizes when it runs at none.
    """
    first: Diagnostic | None = None
    tried: list[dict[str, int]] = []
    for tokens in (TOKENS, *OTHER_SIZES):
        trial = sizes_of(targets[0], given, tokens)
        if trial in tried:
            continue
        tried.append(trial)
        too_large = _too_large(targets[0], trial)
        if too_large is not None:
            first = first or too_large
            continue
        for target in targets:
            target.capacities.update((name, trial[name]) for name in target.capacities if name in trial)
        try:
            feeds = draw_inputs(targets[0], trial)
            for target in targets:
                target(feeds)
        except Diagnostic as error:
            first = first or error
            continue
        if first is not None and first.code == "E0935" and tell is not None:
            tell(f"{first.message}; measured at fewer tokens")
        return trial
    assert first is not None
    raise first


def _too_large(target: Target, sizes: Mapping[str, int]) -> Diagnostic | None:
    """E0935 when a call at these sizes takes more memory than this machine has to spare."""
    if target.graph is None:
        return None
    try:
        needed = working_bytes(target.graph, sizes)
    except KeyError:
        return None
    free = available()
    if free is None or needed <= free // 2:
        return None
    shown = ", ".join(f"{k} = {v}" for k, v in sizes.items())
    message = f"at {shown} a call of `{target.name}` takes about {needed / 2**30:.1f} GiB, of {free / 2**30:.1f} GiB that are free"
    return Diagnostic("E0935", message, help="choose smaller sizes with `--size`")


def find_inverted_masks(target: Target, sizes: Mapping[str, int], others: Sequence[Target] = ()) -> frozenset[str]:
    """The masks of ``target`` that are true where there is padding, so that all true leaves nothing to look at: those by whose
    inverse its outputs, and those of ``others``, become finite. Nothing where they are finite as it is, or never."""
    masks = [f.name for f in target.fields if f.bound is None and f.shape and DTYPES[f.dtype].kind != "float"]
    for inverted in ([], *([name] for name in masks), masks) if masks else ():
        trial = replace(target, inverted=frozenset(inverted))
        feeds = draw_inputs(trial, sizes)
        try:
            if all(is_finite(array) for each in (trial, *others) for array in each(feeds).values()):
                return trial.inverted
        except Diagnostic:
            continue
    return frozenset()


def draw_inputs(target: Target, sizes: Mapping[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs: normal floats, integers below the length of the table that they index, ascending borders, and for masks
    what says that nothing is padding: 1, or 0 for those of ``target.inverted``.

    Raises:
        Diagnostic: E0935 when the sizes are none that the artifact takes.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    values = target.graph.sizes(dict(sizes)) if target.graph is not None else dict(sizes)
    feeds: dict[str, np.ndarray] = {}
    for f in target.fields:
        shape = [d.evaluate(values) for d in f.shape]
        if any(size < 0 for size in shape):
            shown = ", ".join(f"{k} = {v}" for k, v in sizes.items())
            raise Diagnostic("E0935", f"`{f.name}` would be of shape {shape} at {shown}")
        dtype = DTYPES[f.dtype]
        if f.bound is not None:
            feeds[f.name] = f.bound.draw(shape, dtype, values, rng)
        elif dtype.kind == "float":
            feeds[f.name] = rng.standard_normal(shape).astype(dtype.numpy)
        else:
            feeds[f.name] = np.full(shape, f.name not in target.inverted, dtype.numpy)
    return feeds
