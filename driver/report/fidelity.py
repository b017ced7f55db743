"""How much of a model's outputs survives: what is compared, with which measures, and what is not and why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Outputs = Mapping[str, "np.ndarray"]

_SCORES = re.compile(r"logit|score|prob|class|lm_head", re.IGNORECASE)
_FEATURES = re.compile(r"embed|hidden|feature|pool|state|token", re.IGNORECASE)
# How a reason begins that is about fewer tokens.
SHAPE = "its shape became"
# Of fewer examples the nearest one says little.
_NEIGHBOURS = 8
# Inputs that say which tokens are padding.
_MASKS = ("attention_mask", "mask")


@dataclass(frozen=True)
class Kind:
    """What an output is taken for, and why."""

    scores: bool
    why: str


@dataclass
class Tally:
    """Sums over examples for one output and one candidate."""

    rows: int = 0
    cosine: float = 0.0
    worst: float = 1.0
    difference: float = 0.0
    magnitude: float = 0.0
    top1: int = 0
    kl: float = 0.0
    each: list[float] = field(default_factory=list)

    def add(self, ours: np.ndarray, theirs: np.ndarray, scores: bool) -> None:
        """Rows [N, D]; ``theirs`` is the original."""
        import numpy as np

        a, b = ours.astype(np.float64), theirs.astype(np.float64)
        length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosine = np.where(length > 0, np.sum(a * b, axis=1) / np.where(length > 0, length, 1.0), (a == b).all(axis=1))
        self.rows += len(a)
        self.cosine += float(cosine.sum())
        self.each.append(round(float(cosine.mean()), 6) if len(cosine) else 1.0)
        self.worst = min(self.worst, float(cosine.min(initial=1.0)))
        self.difference += float(np.sum((a - b) ** 2))
        self.magnitude += float(np.sum(b**2))
        if scores:
            self.top1 += int((a.argmax(axis=1) == b.argmax(axis=1)).sum())
            p, q = _log_probabilities(b, a)
            self.kl += float(np.sum(np.exp(p) * (p - q)))

    def result(self, scores: bool) -> dict[str, float]:
        """Means over all rows; the relative error is that of everything together."""
        n = max(self.rows, 1)
        found = {
            "cosine": self.cosine / n,
            "worst_cosine": self.worst,
            "relative_error": (self.difference / self.magnitude) ** 0.5 if self.magnitude else self.difference**0.5,
        }
        return {**found, "top1": self.top1 / n, "kl": max(self.kl / n, 0.0)} if scores else found


@dataclass
class OutputFidelity:
    """One output: ``skipped`` says why nothing was compared, ``rows`` holds the measures of each candidate.

    ``varies`` is how far the original's rows for different examples lie from their mean, over the length of that; None where
    examples cannot be set side by side. ``each`` has the mean cosine of every example, run after run."""

    name: str
    shape: str
    kind: Kind
    varies: float | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    each: dict[str, list[float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "output": self.name,
            "shape": self.shape,
            "kind": "scores" if self.kind.scores else "features",
            "why": self.kind.why,
            "varies": self.varies,
            "rows": self.rows,
            "each": self.each,
            "skipped": self.skipped,
        }


def kind_of(name: str, example: np.ndarray) -> Kind:
    """Scores get top-1 agreement and KL besides cosine and relative error, which everything gets.

    Exporters name outputs as they like (``linear_24``), so that after the name the shape decides, and the length of the rows.
    """
    import numpy as np

    if _SCORES.search(name):
        return Kind(True, "scores, by its name")
    if _FEATURES.search(name):
        return Kind(False, "features, by its name")
    if example.ndim == 2 and np.allclose(np.linalg.norm(example.astype(np.float64), axis=1), 1.0, atol=1e-3):
        return Kind(False, "taken for features, because its rows are of length 1")
    if example.ndim == 2:
        return Kind(True, "taken for class scores, because it is [batch, n]")
    return Kind(False, "taken for features, because of its shape")


def compare(
    feeds: Sequence[Mapping[str, np.ndarray]],
    original: Sequence[Outputs],
    candidates: Mapping[str, Sequence[Sequence[Outputs]]],
) -> list[OutputFidelity]:
    """Compare candidates with the original, output by output in the original's order.

    Args:
        feeds: what each example was; a mask among it excludes padding from outputs that have a row a token.
        original: the outputs of each example.
        candidates: name -> runs (one, or one a seed) -> outputs of each example. Outputs go by name, or else by place.
    """
    found = []
    for place, (name, first) in enumerate(original[0].items()):
        if first.dtype.kind not in "fV":
            continue
        shape = f"{first.dtype}{list(first.shape)}"
        row = OutputFidelity(name, shape, kind_of(name, first))
        together = _one_row_each([outputs[name] for outputs in original])
        row.varies = None if together is None else _spread(together)
        found.append(row)
        for candidate, runs in candidates.items():
            tally = Tally()
            for outputs in runs:
                reason = _add(tally, row.kind, feeds, original, outputs, name, place)
                if reason is not None:
                    row.skipped[candidate] = reason
                    break
            else:
                row.rows[candidate] = tally.result(row.kind.scores)
                row.each[candidate] = tally.each
                if together is not None and not row.kind.scores and len(together) >= _NEIGHBOURS:
                    theirs = [_one_row_each([_output(o, name, place) for o in outputs]) for outputs in runs]
                    row.rows[candidate]["same_nearest"] = _same_nearest(together, [t for t in theirs if t is not None])
    return found


def _add(
    tally: Tally,
    kind: Kind,
    feeds: Sequence[Mapping[str, np.ndarray]],
    original: Sequence[Outputs],
    outputs: Sequence[Outputs],
    name: str,
    place: int,
) -> str | None:
    for feed, want, got in zip(feeds, original, outputs, strict=True):
        ours, theirs = _output(got, name, place), want[name]
        if ours is None:
            return "it has no such output"
        if ours.shape != theirs.shape:
            return f"{SHAPE} {list(ours.shape)}, from {list(theirs.shape)}"
        if not theirs.size:
            return "it is empty"
        reason = _not_finite(ours, theirs)
        if reason is not None:
            return reason
        a, b = (_rows(x, kind) for x in (ours, theirs))
        valid = _valid(feed, theirs.shape)
        if valid is not None:
            a, b = a[valid], b[valid]
        tally.add(a, b, kind.scores)
    return None


def _output(outputs: Outputs, name: str, place: int) -> np.ndarray | None:
    """By name, or else by place."""
    values = list(outputs.values())
    return outputs[name] if name in outputs else values[place] if place < len(values) else None


def _one_row_each(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """[examples, D] of outputs [batch, D]; None for what has other axes, or not the same D."""
    import numpy as np

    rows = [a for a in arrays if a is not None and a.ndim == 2]
    if len(rows) < len(arrays) or len({a.shape[1] for a in rows}) != 1:
        return None
    joined: np.ndarray = np.concatenate(rows).astype(np.float64)
    return joined if len(joined) > 1 and np.isfinite(joined).all() else None


def _spread(rows: np.ndarray) -> float:
    import numpy as np

    middle = rows.mean(axis=0)
    length = float(np.linalg.norm(middle))
    return float(np.linalg.norm(rows - middle, axis=1).mean()) / length if length else float("inf")


def _same_nearest(original: np.ndarray, runs: Sequence[np.ndarray]) -> float:
    """For how many of the rows [N, D] the nearest other one, by cosine, is the same as in the original; the mean of the runs."""
    import numpy as np

    wanted = _nearest(original)
    return float(np.mean([(_nearest(run) == wanted).mean() for run in runs])) if runs else 0.0


def _nearest(rows: np.ndarray) -> np.ndarray:
    import numpy as np

    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    near = unit @ unit.T
    np.fill_diagonal(near, -np.inf)
    found: np.ndarray = near.argmax(axis=1)
    return found


def _rows(x: np.ndarray, kind: Kind) -> np.ndarray:
    """Rows along the last axis; along the second for scores of pixels, which are [batch, classes, height, width]."""
    if kind.scores and x.ndim > 3:
        x = x.reshape(*x.shape[:2], -1).swapaxes(1, 2)
    return x.reshape(-1, x.shape[-1]) if x.ndim > 1 else x.reshape(1, -1)


def _not_finite(ours: np.ndarray, theirs: np.ndarray) -> str | None:
    import numpy as np

    a, b = (np.isfinite(x.astype(np.float64)).all() for x in (ours, theirs))
    if a and b:
        return None
    return f"{'it' if b else 'the original'} has infinite numbers, or ones that are none"


def _valid(feed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray | None:
    """Which rows of an output [batch, tokens, D] are not padding; None: all are, or nobody says."""
    mask = next((feed[n] for n in _MASKS if n in feed), None)
    if mask is None or len(shape) != 3 or mask.shape != shape[:2]:
        return None
    found: np.ndarray = mask.reshape(-1) != 0
    return found


def _log_probabilities(original: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The logarithms of both softmaxes, or of both as they are where the original's rows are probabilities."""
    import numpy as np

    if (original >= 0).all() and np.allclose(original.sum(axis=1), 1.0, atol=1e-3):
        # Quantized probabilities may miss 1 a little.
        kept = [np.maximum(rows, 1e-30) for rows in (original, other)]
        p, q = (np.log(rows / rows.sum(axis=1, keepdims=True)) for rows in kept)
        return p, q
    p, q = (_log_softmax(rows) for rows in (original, other))
    return p, q


def _log_softmax(rows: np.ndarray) -> np.ndarray:
    import numpy as np

    shifted = rows - rows.max(axis=1, keepdims=True)
    found: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found
