"""From scores to a token: the rules that leave out tokens, and the draw.

Probabilities are f64, and a draw is one uniform number looked up in their running sum, tokens in the order of their ids: scores
that differ by rounding, as those of two backends do, give the same tokens for a seed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from ...ir.diagnostics import Diagnostic


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from scores; the rules apply in the order of the arguments, as elsewhere.

    Args:
        repetition_penalty: scores of tokens that were there already are divided by it where positive, and else multiplied
            (Keskar et al. 2019, "CTRL"); 1 leaves them.
        temperature: divides the scores; 0 takes the best token, of equal ones that of the lowest id, and draws nothing.
        top_k: only the k best; 0 for all. Those as good as the k-th stay.
        top_p: only the fewest best whose probabilities sum to at least p (Holtzman et al. 2020, "nucleus sampling").
        min_p: only those at least that share of the best one's probability (Nguyen et al. 2024).
        seed: of the draws.

    Raises:
        Diagnostic: E0952 for a number that there is no such rule of.
    """

    repetition_penalty: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind, fits, rule in (
            ("repetition_penalty", Real, lambda x: x > 0, "above 0; 1 changes nothing"),
            ("temperature", Real, lambda x: x >= 0, "at least 0; 0 takes the best token"),
            ("top_k", Integral, lambda x: x >= 0, "a whole number, at least 0; 0 leaves all tokens"),
            ("top_p", Real, lambda x: 0 < x <= 1, "above 0 and at most 1; 1 leaves all tokens"),
            ("min_p", Real, lambda x: 0 <= x <= 1, "from 0 to 1; 0 leaves all tokens"),
            ("seed", Integral, lambda x: 0 <= x < 1 << 64, "a whole number from 0 to 2^64 - 1"),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind) or not _is_finite(value) or not fits(value):
                raise Diagnostic("E0952", f"`{name}` is {value!r}, and must be {rule}")

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0


def is_count(value: Any) -> bool:
    """Whether a value is a whole number, at least 1."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _is_finite(value: Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def generator(seed: int, index: int = 0) -> np.random.Generator:
    """The numbers of one row of a seed: rows draw independently, and what one draws does not depend on the others."""
    digest = hashlib.sha256(f"{seed}:row {index}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def allowed_scores(
    scores: np.ndarray, sampling: Sampling, seen: Iterable[int], allowed: np.ndarray | None = None
) -> np.ndarray:
    """Scores [V] in f64 after the repetition penalty, -inf where a constraint allows no token. Raises E0955."""
    found = np.asarray(scores, np.float64).copy()
    odd = int((~(found < np.inf)).sum())
    if odd:
        raise Diagnostic("E0955", f"{odd} of the {len(found)} scores that the model gives are NaN or infinite")
    if sampling.repetition_penalty != 1:
        index = np.unique(np.fromiter(seen, np.int64))
        part = found[index]
        found[index] = np.where(part > 0, part / sampling.repetition_penalty, part * sampling.repetition_penalty)
    if allowed is not None:
        allowed = np.asarray(allowed)
        if allowed.shape != found.shape or allowed.dtype != bool:
            raise Diagnostic(
                "E0955", f"a constraint gave {allowed.dtype}{list(allowed.shape)}, and must give bool[{len(found)}], one a token"
            )
        found[~allowed] = -np.inf
    if not (found > -np.inf).any():
        raise Diagnostic("E0955", "no token is left to choose: the constraint, or the model, rules out all of them")
    return found


def distribution(
    scores: np.ndarray, sampling: Sampling, seen: Iterable[int] = (), allowed: np.ndarray | None = None
) -> np.ndarray:
    """The probabilities [V] that a token is drawn with; 1 for the best one where nothing is drawn.

    Args:
        scores: of the next token [V], in any float dtype.
        seen: the tokens so far, for the repetition penalty.
        allowed: bool [V], which tokens a constraint leaves; None for all.

    Raises:
        Diagnostic: E0955 where no token is left, scores are NaN, or ``allowed`` is no such mask.
    """
    found = allowed_scores(scores, sampling, seen, allowed)
    if sampling.greedy:
        return np.eye(1, len(found), int(np.argmax(found)))[0]
    with np.errstate(over="ignore"):
        found = (found - found.max()) / sampling.temperature
    if 0 < sampling.top_k < len(found):
        found[found < np.partition(found, -sampling.top_k)[-sampling.top_k]] = -np.inf
    p = _softmax(found)
    if sampling.top_p < 1:
        p = _nucleus(p, sampling.top_p)
    if sampling.min_p > 0:
        p = _normal(np.where(p >= sampling.min_p * p.max(), p, 0))
    return p


def draw(p: np.ndarray, u: float) -> int:
    """The token of a uniform number from 0 up to 1, from probabilities [V]; never one of probability 0."""
    running = np.cumsum(p)
    # Rounding may leave the sum below u; the last token that can be drawn is then meant.
    return min(int(np.searchsorted(running, u * running[-1], "right")), int(np.flatnonzero(p)[-1]))


def pick(scores: np.ndarray, sampling: Sampling, rng: np.random.Generator, seen: Iterable[int] = (),
         allowed: np.ndarray | None = None) -> int:  # fmt: skip
    """The next token. Raises as :func:`distribution`; greedy choices draw no number."""
    if sampling.greedy:
        return int(np.argmax(allowed_scores(scores, sampling, seen, allowed)))
    return draw(distribution(scores, sampling, seen, allowed), rng.random())


@dataclass(frozen=True)
class Ranked:
    """How likely the model found a token: natural logarithms of probabilities, before any rule of sampling.

    Args:
        token: the one that was made.
        logprob: its own.
        best: the likeliest tokens and theirs, of equal ones that of the lowest id first; none that is impossible.
    """

    token: int
    logprob: float
    best: tuple[tuple[int, float], ...]


def ranked(scores: np.ndarray, token: int, count: int, known: np.ndarray | None = None) -> Ranked:
    """How likely a token is by scores [V], and the ``count`` likeliest of the ``known`` ones, bool [V]; None for all."""
    found = np.asarray(scores, np.float64)
    found = found - found.max()
    found -= np.log(np.exp(found).sum())
    possible = found > -np.inf if known is None else known & (found > -np.inf)
    choice = np.flatnonzero(possible)
    if count < len(choice):
        least = np.partition(found[choice], -count)[-count] if count else np.inf
        choice = choice[found[choice] >= least]
    best = choice[np.argsort(-found[choice], kind="stable")][:count]
    return Ranked(token, float(found[token]), tuple((int(i), float(found[i])) for i in best))


def _softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max())
    found: np.ndarray = e / e.sum()
    return found


def _normal(p: np.ndarray) -> np.ndarray:
    found: np.ndarray = p / p.sum()
    return found


def _nucleus(p: np.ndarray, least: float) -> np.ndarray:
    """The fewest best tokens that reach ``least``; of equal ones those of the lowest ids."""
    # All tokens below this together are less than what may be left out.
    candidates = np.flatnonzero(p >= (1 - least) / len(p))
    order = candidates[np.argsort(-p[candidates], kind="stable")]
    before = np.cumsum(p[order]) - p[order]
    kept = np.zeros(len(p), bool)
    kept[order[before < least]] = True
    return _normal(np.where(kept, p, 0))
