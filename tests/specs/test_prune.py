"""Pruning methods against NumPy references written from the papers: over generated ties, padding, protected tokens, maps of tokens
that were reduced before; the same indices on torch and in ONNX Runtime; laws; gradients; what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic

from .conftest import onnx_artifact, torch_artifact

Arrays = dict[str, np.ndarray]
# N original tokens, a class token and a grid of 5 rows; what is left of them is a run of T.
N, WIDTH, D, H = 21, 4, 16, 2

# Which module declares a method, what it asks for, and settings that are tried.
METHODS: dict[str, tuple[str, dict[str, str], list[dict[str, Any]]]] = {
    "by_row": ("prune", {"row": "H"}, [{}, {"heads": "max"}]),
    "fastv": ("prune", {"last_row": "H"}, [{}]),
    "by_relevance": ("prune", {"text": "L"}, [{}, {"over": "mean"}]),
    "by_repetition": ("prune", {"keys": "K"}, [{"threshold": 0.4}]),
    "by_correlation": ("prune", {"row": "H", "row_local": "H", "noise": "T"}, [{"share": 0.25}]),
    "diverse": ("prune", {"row": "H"}, [{"objective": "max_sum"}, {"objective": "k_center"}]),
    "divprune": ("prune", {}, [{}]),
    "hiprune": ("prune_layers", {"column_mass_middle": "T", "column_mass_deep": "T"},
                [{"width": WIDTH, "middle": 0, "alpha": 0.6, "mode": m} for m in ("true", "published")]
                + [{"width": WIDTH, "middle": 0, "alpha": 0.0}]),
    "hired": ("prune_layers", {"row_early": "H", "row_final": "H"},
              [{"width": WIDTH, "parts": 1}, {"width": WIDTH, "parts": 1, "alpha": 0.2}]),
    "evit": ("prune_fuse", {"row": "H"}, [{"mode": "true"}, {"mode": "published"}]),
    "dart": ("dart", {"head_keys": "HK"}, [{"pivots": 2}, {"pivots": 3}]),
    "visionzip": ("visionzip", {"row": "H", "keys": "K"}, [{"mode": m, "contextual": c} for m in ("true", "published")
                                                          for c in (0.4, 0.15625)]),
}  # fmt: skip
SHAPES = {"H": "f32[B, 2, T]", "L": "f32[B, 3, 16]", "K": "f32[B, T, 16]", "T": "f32[B, T]", "HK": "f32[B, 2, T, 16]"}
QUICK = {"by_row1", "diverse1", "hiprune1", "evit0", "visionzip0"}
CASES = [
    pytest.param(name, options, id=f"{name}{i}", marks=[] if f"{name}{i}" in QUICK else pytest.mark.extended)
    for name, (_, _, every) in METHODS.items()
    for i, options in enumerate(every)
]


def program(name: str, options: dict[str, Any], *, r: int, protect: int, last: int = 0) -> str:
    module, wants, _ = METHODS[name]
    said = "".join(f', {k}="{v}"' if isinstance(v, str) else f", {k}={v}" for k, v in options.items())
    operands = "".join(f", {w}: {SHAPES[s]}" for w, s in wants.items())
    return f"""
    use std.token (TokenMap)
    use std.token.{module} ({name})
    model m(x: f32[B, T, {D}], size: f32[B, T], source: i64[B, {N}], position: i64[B, T]{operands})
        -> (y: f32[B, T - {r}, {D}], map: TokenMap[B, {N}, T - {r}]) {{
        map = TokenMap(source=source, size=size, position=position)
        return {name}(x, map{"".join(f", {w}" for w in wants)}, r={r}, protect={protect}, last={last}{said})
    }}"""


def arguments(name: str, rng: np.random.Generator, batch: int, tokens: int, padding: int = 0) -> Arrays:
    """Features and keys from a palette of signs, and attention of few values: many are equal, and all sums of them are exact."""
    palette = rng.choice([-1.0, 1.0], (5, D)).astype(np.float32)
    made: Arrays = {
        "x": palette[rng.integers(0, 5, (batch, tokens))],
        "size": np.where(np.arange(tokens) < tokens - padding, 1, 0).astype(np.float32)[None].repeat(batch, 0),
        "position": np.stack([np.sort(np.r_[0, 1 + rng.permutation(N - 1)[: tokens - 1]]) for _ in range(batch)]),
    }
    made["source"] = np.stack([np.searchsorted(p, np.arange(N), side="right") - 1 for p in made["position"]])
    shapes = {"H": (batch, H, tokens), "L": (batch, 3, D), "K": (batch, tokens, D), "T": (batch, tokens)}
    shapes["HK"] = (batch, H, tokens, D)
    for want, shape in METHODS[name][1].items():
        size = shapes[shape]
        if want == "noise":
            made[want] = rng.random(size, np.float32) * 0.9 + 0.05
        elif want in ("text", "keys"):
            made[want] = palette[rng.integers(0, 5, size[:-1])]
        elif want == "head_keys":
            made[want] = rng.integers(-2, 3, size).astype(np.float32)
        else:
            made[want] = rng.integers(0, 4, size).astype(np.float32) / 8
    return made


# The papers, for one sequence at a time -----------------------------------------------------------------------------------


def best(score: np.ndarray, k: int) -> np.ndarray:
    """The k best, best first; ties go to the lowest index."""
    return np.argsort(-score, kind="stable")[:k]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a / np.linalg.norm(a, axis=-1, keepdims=True)) @ (b / np.linalg.norm(b, axis=-1, keepdims=True)).T


class One:
    """One sequence: the candidates (`open`: neither protected nor padding), and how many of them stay."""

    def __init__(self, arrays: Arrays, b: int, r: int, protect: int, last: int) -> None:
        self.a = {k: v[b] for k, v in arrays.items()}
        self.tokens = len(self.a["x"])
        self.protect, self.last = protect, last
        place = np.arange(self.tokens)
        here = self.a["size"] > 0
        self.ends = (place < protect) | (here & (here.sum() - here.cumsum() < last))
        self.open = ~self.ends & (self.a["size"] > 0)
        self.r = r
        self.k = self.tokens - r - protect - last

    def kept(self, score: np.ndarray) -> np.ndarray:
        score = np.where(self.a["size"] == 0, -np.inf, score.astype(np.float64))
        return np.sort(best(np.where(self.ends, np.inf, score), self.tokens - self.r))

    def marked(self, chosen: list[int]) -> np.ndarray:
        return self.kept(np.isin(np.arange(self.tokens), chosen).astype(float))

    def greedy(self, first: int, objective: str) -> list[int]:
        cosine, chosen = cosines(self.a["x"], self.a["x"]), [first]
        while len(chosen) < self.k:
            alike = cosine[chosen].sum(0) if objective == "max_sum" else cosine[chosen].max(0)
            free = self.open & ~np.isin(np.arange(self.tokens), chosen)
            if not free.any():
                break
            chosen.append(int(np.argmin(np.where(free, np.round(alike, 6), np.inf))))
        return chosen


def by_row(one: One, heads: str = "mean") -> np.ndarray:
    return one.kept(getattr(one.a["row"], heads)(0))


def fastv(one: One) -> np.ndarray:
    return one.kept(one.a["last_row"].mean(0))


def by_relevance(one: One, over: str = "max") -> np.ndarray:
    return one.kept(np.round(getattr(cosines(one.a["x"], one.a["text"]), over)(1), 5))


def by_repetition(one: One, threshold: float) -> np.ndarray:
    like = (cosines(one.a["keys"], one.a["keys"]) > threshold) & (one.a["size"] > 0)
    return one.kept(-(like.sum(1) - 1.0))


def by_correlation(one: One, share: float) -> np.ndarray:
    """Sampling without replacement as it is defined: draw by p, strike out, draw again; here by the exponential race."""
    p = one.a["row"].mean(0) * share + one.a["row_local"].mean(0) * (1 - share)
    arrival = np.where(p > 0, -np.log(one.a["noise"].astype(np.float64)) / np.where(p > 0, p, 1), np.inf)
    return one.kept(-arrival)


def diverse(one: One, objective: str) -> np.ndarray:
    first = int(np.argmax(np.where(one.open, one.a["row"].mean(0), -np.inf)))
    return one.marked(one.greedy(first, objective))


def divprune(one: One) -> np.ndarray:
    cosine = np.where(one.open[None] & ~np.eye(one.tokens, dtype=bool), cosines(one.a["x"], one.a["x"]), -1)
    first = int(np.argmax(np.where(one.open, -np.round(cosine.max(1), 6), -np.inf)))
    return one.marked(one.greedy(first, "k_center"))


def hiprune(one: One, width: int, middle: int, alpha: float, mode: str = "true") -> np.ndarray:
    """The published procedure with sets: anchors, buffers clamped and made unique, registers from what is left."""
    anchors = round(alpha * one.k / 5)
    score = np.where(one.open, one.a["column_mass_middle"], -np.inf)
    low, high, taken = one.protect, N - one.last - 1, set()
    for anchor in one.a["position"][best(score, anchors)]:
        row, column = divmod(int(anchor) - low, width)
        if mode == "published":
            taken |= {min(max(int(anchor) + step, low), high) for step in (0, -1, 1, -width, width)}
        else:
            rows = (high - low + 1) // width
            taken |= {low + y * width + x for y, x in ((row, column), (row, column - 1), (row, column + 1), (row - 1, column),
                                                       (row + 1, column)) if 0 <= y < rows and 0 <= x < width}  # fmt: skip
    at = [i for i, p in enumerate(one.a["position"]) if int(p) in taken and one.open[i]]
    registers = np.where(np.isin(np.arange(one.tokens), at) | ~one.open, -np.inf, one.a["column_mass_deep"])
    return one.marked([*at, *best(registers, one.k - len(at))])


def hired(one: One, width: int, parts: int, alpha: float = 0.5) -> np.ndarray:
    """With one region all of the budget is its, and what is kept is what the final block says."""
    assert parts == 1
    return one.kept(one.a["row_final"].mean(0))


def dart(one: One, pivots: int, prompt: int = 0) -> np.ndarray:
    length = np.abs(one.a["head_keys"]).sum((0, 2))
    pivot = best(np.where(one.open, length, -np.inf), pivots)
    asking = best(np.where(one.open | (one.a["size"] == 0), -np.inf, length), prompt)
    chosen, cosine, rest, asked = list(pivot), cosines(one.a["x"], one.a["x"]), one.k - pivots, pivots + prompt
    for i, at in enumerate([*pivot, *asking]):
        free = one.open & ~np.isin(np.arange(one.tokens), chosen)
        unlike = best(np.where(free, -np.round(cosine[at], 6), -np.inf), rest * (i + 1) // asked - rest * i // asked)
        chosen += [j for j in unlike if free[j]]
    return one.marked(chosen)


REFERENCES: dict[str, Callable[..., np.ndarray]] = {f.__name__: f for f in (
    by_row, fastv, by_relevance, by_repetition, by_correlation, diverse, divprune, hiprune, hired, dart)}  # fmt: skip


def evit(one: One, mode: str) -> tuple[np.ndarray, list[list[int]], int]:
    """x, who is in which token, and where the fused one stands."""
    attention = np.where(one.a["size"] == 0, 0, one.a["row"].mean(0))
    score = np.where(one.ends, np.inf, np.where(one.a["size"] == 0, -np.inf, attention))
    kept = np.sort(best(score, one.tokens - one.r - 1))
    gone = np.setdiff1d(np.arange(one.tokens), kept)
    weight = attention[gone]
    if mode == "true":
        weight = weight / weight.sum() if weight.sum() else (one.a["size"][gone] > 0) / max((one.a["size"][gone] > 0).sum(), 1)
    fused = (weight[:, None] * one.a["x"][gone]).sum(0)
    place = len(kept) - one.last
    y = np.concatenate([one.a["x"][kept[:place]], fused[None], one.a["x"][kept[place:]]])
    return y, [*([int(i)] for i in kept[:place]), gone.tolist(), *([int(i)] for i in kept[place:])], place


def visionzip(one: One, mode: str, contextual: float) -> tuple[np.ndarray, list[list[int]], int]:
    targets = max(round(contextual * one.k), 1)
    score = np.where(one.open, one.a["row"].mean(0), -np.inf)
    kept = np.sort(best(np.where(one.ends, np.inf, score), one.tokens - one.r - targets))
    others = np.setdiff1d(np.arange(one.tokens), kept)
    # Targets are spread over those that are there; padding comes behind them.
    empty = one.a["size"][others] == 0
    others = np.concatenate([others[~empty], others[empty]])
    step = max((~empty).sum() // targets, 1)
    target = others[::step][:targets]
    groups: list[list[int]] = [[int(t)] for t in target]
    for i in others:
        if i not in target:
            alike = np.round(cosines(one.a["keys"][i][None], one.a["keys"][target]), 6)
            # Padding is the last to be chosen, and adds nothing.
            groups[int(np.argmax(np.where(one.a["size"][target] > 0, alike, -2)))].append(int(i))
    merged = []
    for group in groups:
        size = one.a["size"][group]
        x = np.where(size[:, None] > 0, one.a["x"][group], 0)
        mean = (x * size[:, None]).sum(0) / size.sum() if size.sum() else x[0]
        merged.append(mean if mode == "true" else x[0] + x[1:].sum(0) / max((size[1:] > 0).sum(), 1))
    place = len(kept) - one.last
    y = np.concatenate([one.a["x"][kept[:place]], np.stack(merged), one.a["x"][kept[place:]]])
    return y, [*([int(i)] for i in kept[:place]), *groups, *([int(i)] for i in kept[place:])], place


def check(got: Arrays, name: str, options: dict[str, Any], arrays: Arrays, r: int, protect: int, last: int = 0) -> None:
    """One artifact's results against the reference: places, sizes and sources exactly, features to rounding."""
    for b in range(len(arrays["x"])):
        one = One(arrays, b, r, protect, last)
        a = one.a
        if name in REFERENCES:
            kept = REFERENCES[name](one, **options)
            np.testing.assert_array_equal(got["map_position"][b], a["position"][kept])
            np.testing.assert_array_equal(got["map_size"][b], a["size"][kept])
            np.testing.assert_array_equal(got["y"][b], a["x"][kept])
            owner = np.maximum(np.searchsorted(kept, a["source"], side="right") - 1, 0)
            np.testing.assert_array_equal(got["map_source"][b], owner)
            continue
        y, groups, place = (evit if name == "evit" else visionzip)(one, **options)
        owner = np.zeros(one.tokens, int)
        for i, group in enumerate(groups):
            owner[group] = i
        np.testing.assert_array_equal(got["map_source"][b], owner[a["source"]])
        np.testing.assert_array_equal(got["map_size"][b], [a["size"][g].sum() for g in groups])
        np.testing.assert_allclose(got["y"][b], y, atol=1e-5)
        fixed = [i for i in range(len(groups)) if len(groups[i]) == 1]
        np.testing.assert_array_equal(got["map_position"][b][fixed], a["position"][[groups[i][0] for i in fixed]])
        assert got["map_position"][b][place] in a["position"][groups[place]]


def compiled_on(target: str, text: str, path: Path) -> Callable[..., Arrays]:
    return torch_artifact(loads(text), None) if target == "torch" else onnx_artifact(loads(text), None, path / "m.onnx")


@pytest.mark.parametrize("target", ["torch", "onnx"])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_what_the_paper_keeps(name: str, options: dict[str, Any], target: str, tmp_path: Path) -> None:
    """One artifact for every number of tokens and batch, over generated ties."""
    text = program(name, options, r=5, protect=1)
    run = compiled_on(target, text, tmp_path)
    rng = np.random.default_rng(7)
    for tokens, batch, padding in ((N, 3, 0), (13, 1, 0), (17, 2, 3)):
        arrays = arguments(name, rng, batch, tokens, padding)
        check(run(**arrays), name, options, arrays, 5, 1)


@pytest.mark.extended
@pytest.mark.parametrize("target", ["torch", "onnx"])
@pytest.mark.parametrize(("r", "protect", "last"), [(1, 0, 0), (8, 1, 0), (4, 0, 1), (3, 5, 2), (9, 1, 0)])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_budget_and_end(
    name: str, options: dict[str, Any], r: int, protect: int, last: int, target: str, tmp_path: Path
) -> None:
    if "width" in options and (N - protect - last) % WIDTH:
        options = {**options, "width": next(w for w in (2, 3, 5, 7, 1) if (N - protect - last) % w == 0)}
    run = compiled_on(target, program(name, options, r=r, protect=protect, last=last), tmp_path)
    rng = np.random.default_rng(r)
    for tokens, batch, padding in ((N, 4, 0), (15, 2, 0), (18, 3, 2)):
        for _ in range(4):
            arrays = arguments(name, rng, batch, tokens, padding)
            check(run(**arrays), name, options, arrays, r, protect, last)


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_pivots_may_be_of_the_prompt(target: str, tmp_path: Path) -> None:
    """Of the longest protected tokens, which leave no token themselves."""
    options = {"pivots": 2, "prompt": 3}
    run = compiled_on(target, program("dart", options, r=6, protect=2, last=2), tmp_path)
    alone = compiled_on(target, program("dart", {"pivots": 2}, r=6, protect=2, last=2), tmp_path)
    rng, other = np.random.default_rng(11), False
    for tokens, batch, padding in ((N, 3, 0), (18, 3, 2)):
        arrays = arguments("dart", rng, batch, tokens, padding)
        check(run(**arrays), "dart", options, arrays, 6, 2, 2)
        other |= bool((run(**arrays)["map_position"] != alone(**arrays)["map_position"]).any())
    assert other
    with pytest.raises(Diagnostic, match="pivots of the prompt are protected tokens"):
        compiled_on(target, program("dart", options, r=6, protect=1), tmp_path)
