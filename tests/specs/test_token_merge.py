"""The methods of std.token.merge against what their papers publish, in NumPy; and the laws that hold for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic

from .conftest import torch_artifact

Arrays = dict[str, np.ndarray]
Pairs = tuple[list[int], list[int]]


def unit(metric: np.ndarray) -> np.ndarray:
    return metric / np.maximum(np.sqrt((metric * metric).sum(-1, keepdims=True)), 1e-12)


def best(scores: np.ndarray, r: int) -> Pairs:
    """The r rows of the largest maximum, and the column of each: ties to the lowest, of rows and of columns."""
    rows = np.argsort(-scores.max(1), kind="stable")[:r]
    return list(rows), list(scores.argmax(1)[rows])


# Which tokens leave, and which they join, for one sequence: metric [T, K], noise [T].


def tomesd(
    metric: np.ndarray, noise: np.ndarray, r: int, *, rows: int, columns: int, sy: int, sx: int, protect: int = 0
) -> Pairs:
    """``bipartite_soft_matching_random2d`` of tomesd, whose random number of a cell is the place of its largest noise."""
    picture = noise[protect : protect + rows * columns].reshape(rows, columns)
    is_destination = np.zeros((rows, columns), bool)
    for i in range(rows // sy):
        for j in range(columns // sx):
            cell = picture[i * sy : (i + 1) * sy, j * sx : (j + 1) * sx].reshape(-1)
            at = int(cell.argmax())
            is_destination[i * sy + at // sx, j * sx + at % sx] = True
    a = np.flatnonzero(~is_destination.reshape(-1)) + protect
    b = np.flatnonzero(is_destination.reshape(-1)) + protect
    src, dst = best(unit(metric)[a] @ unit(metric)[b].T, r)
    return list(a[src]), list(b[dst])


def pitome(metric: np.ndarray, noise: np.ndarray, r: int, *, margin: float, protect: int = 0) -> Pairs:
    """``pitome_vision`` of PiToMe."""
    metric = unit(metric[protect:])
    similar = metric @ metric.T
    above = similar - np.float32(margin)
    energy = np.where(above > 0, above, np.expm1(np.minimum(above, 0))).astype(np.float64).mean(-1)
    mergeable = np.argsort(-energy.round(9), kind="stable")[: 2 * r]
    a, b = mergeable[::2], mergeable[1::2]
    nearest = similar[a][:, b].argmax(1) if r else []
    return list(a + protect), list(b[nearest] + protect)


def neighbours(metric: np.ndarray, noise: np.ndarray, r: int, *, window: int, protect: int = 0) -> Pairs:
    """Every second token of a window joins the more similar of the tokens beside it, in the window."""
    metric = unit(metric)
    rows = []
    for start in range(protect, len(metric), window):
        here = range(start, min(start + window, len(metric)))
        for i in here[1::2]:
            joined = {j: float(metric[i] @ metric[j]) for j in (i - 1, i + 1) if j in here}
            into = max(joined, key=lambda j: (joined[j], -j))
            rows.append((-joined[into], i, into))
    rows.sort(key=lambda row: row[:2])
    return [i for _, i, _ in rows[:r]], [j for _, _, j in rows[:r]]


@dataclass(frozen=True)
class Case:
    """A method, on tokens behind ``protect`` ones."""

    method: str
    match: Callable[..., Pairs]
    options: dict[str, Any]
    tokens: int
    most: int
    protect: int = 0

    @property
    def statics(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in {**self.options, "protect": self.protect}.items())


def grid(rows: int, columns: int, sy: int, sx: int, protect: int = 0) -> Case:
    options = {"rows": rows, "columns": columns, "sy": sy, "sx": sx}
    cells = (rows // sy) * (columns // sx)
    return Case("grid_merge", tomesd, options, rows * columns + protect, rows * columns - cells, protect)


CASES = {
    "tomesd": grid(4, 4, 2, 2),
    "tomesd, a rest": grid(5, 3, 2, 2, 1),
    "tomesd, flat cells": grid(3, 4, 1, 4, 2),
    "pitome": Case("energy_merge", pitome, {"margin": 0.5}, 12, 6),
    "pitome, class": Case("energy_merge", pitome, {"margin": 0.1}, 12, 5, 1),
    "windows": Case("window_merge", neighbours, {"window": 4}, 14, 7),
    "odd windows": Case("window_merge", neighbours, {"window": 5}, 14, 5, 1),
    "one window": Case("window_merge", neighbours, {"window": 16}, 9, 4, 0),
}

MODEL = """
use std.token (TokenMap, unmerge)
use std.token.merge ({method})

model merge(x: float[B, {T}, 6], metric: float[B, {T}, 16], noise: f32[B, {T}], size: f32[B, {T}], source: i64[B, {N}],
            position: i64[B, {T}])
    -> (y: float[B, {T} - {r}, 6], map: TokenMap[B, {N}, {T} - {r}], back: float[B, {N}, 6]) {{
    map = TokenMap(source=source, size=size, position=position)
    y, after = {method}(x, map, metric, {noise}r={r}, {statics})
    return y, after, unmerge(y, after)
}}
"""


def program(case: Case, r: int, originals: int | None = None) -> Any:
    noise = "noise, " if case.method == "grid_merge" else ""
    return loads(
        MODEL.format(
            method=case.method, T=case.tokens, N=originals or case.tokens, r=r, noise=noise, statics=case.statics
        )
    )


def arguments(rng: np.random.Generator, batch: int, tokens: int, ties: bool) -> Arrays:
    """Tokens that were not merged yet. Ties: the rows of the metric are of four kinds and of length 4: equals are equal bits."""
    metric = rng.standard_normal((batch, tokens, 16)).astype(np.float32)
    noise = rng.random((batch, tokens)).astype(np.float32)
    if ties:
        kinds = rng.choice([-1.0, 1.0], (4, 16)).astype(np.float32)
        metric, noise = kinds[rng.integers(0, 4, (batch, tokens))], np.round(noise * 2) / 2
    row = np.tile(np.arange(tokens), (batch, 1))
    x = rng.standard_normal((batch, tokens, 6)).astype(np.float32)
    ones = np.ones((batch, tokens), np.float32)
    return {"x": x, "metric": metric, "noise": noise.astype(np.float32), "size": ones, "source": row, "position": row}


def merged_before(rng: np.random.Generator, given_: Arrays, originals: int) -> Arrays:
    """The same, but every token stands for one or more of ``originals`` tokens already, and positions ascend."""
    batch, tokens, _ = given_["x"].shape
    source = np.stack(
        [np.sort(np.r_[np.arange(tokens), rng.integers(0, tokens, originals - tokens)]) for _ in range(batch)]
    )
    size = np.stack([np.bincount(s, minlength=tokens) for s in source]).astype(np.float32)
    position = np.stack([[np.flatnonzero(s == t)[0] for t in range(tokens)] for s in source])
    return {**given_, "size": size, "source": source, "position": position}


def expected(case: Case, arrays: Arrays, b: int, r: int) -> Arrays:
    """Merging by the book: what leaves is added to what it joins, and what stays keeps its order."""
    noise = arrays["noise"][0]
    leaves, into = case.match(arrays["metric"][b], noise, r, **case.options, protect=case.protect)
    size, x = arrays["size"][b].astype(np.float64), arrays["x"][b].astype(np.float64)
    total, weight, goes = x * size[:, None], size.copy(), np.arange(case.tokens)
    for i, j in zip(leaves, into, strict=True):
        assert j not in leaves
        total[j] += size[i] * x[i]
        weight[j] += size[i]
        goes[i] = j
    stays = np.setdiff1d(np.arange(case.tokens), leaves)
    place = {token: n for n, token in enumerate(stays)}
    return {
        "y": total[stays] / weight[stays, None],
        "map_size": weight[stays],
        "map_source": np.array([place[goes[s]] for s in arrays["source"][b]]),
        "map_position": arrays["position"][b][stays],
    }


def check(case: Case, got: Arrays, arrays: Arrays, r: int) -> None:
    for b in range(len(arrays["x"])):
        wanted = expected(case, arrays, b, r)
        for name in ("map_source", "map_size", "map_position"):
            np.testing.assert_array_equal(got[name][b], wanted[name], err_msg=name)
        np.testing.assert_allclose(got["y"][b], wanted["y"], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(got["back"][b], got["y"][b][got["map_source"][b]])


QUICK = ("tomesd, a rest", "pitome, class", "windows")
HEAVY = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.extended) for name in CASES]


@pytest.mark.parametrize("name", HEAVY)
def test_as_published(compiled: Callable[..., Any], name: str) -> None:
    case = CASES[name]
    rng = np.random.default_rng(len(name))
    for r in (case.most // 2, case.most):
        run = compiled(program(case, r))
        for batch, ties in ((1, False), (5, False), (5, True), (1, True)):
            arrays = arguments(rng, batch, case.tokens, ties)
            check(case, run(**arrays), arrays, r)


@pytest.mark.extended
@pytest.mark.parametrize("name", QUICK)
def test_on_tokens_that_were_merged_before(compiled: Callable[..., Any], name: str) -> None:
    case = CASES[name]
    rng = np.random.default_rng(5)
    run = compiled(program(case, case.most - 1, originals=2 * case.tokens))
    arrays = merged_before(rng, arguments(rng, 3, case.tokens, False), 2 * case.tokens)
    check(case, run(**arrays), arrays, case.most - 1)


def test_norms_are_kept(compiled: Callable[..., Any]) -> None:
    """Against the match of `bipartite_merge`, whose own test is the published algorithm."""
    text = """
    use std.token (bipartite_merge, token_map)
    use std.token.merge (norm_merge)
    model merge(x: float[B, 11, 6], metric: float[B, 11, 16])
        -> (mean: float[B, 8, 6], source: i64[B, 11], exactly: float[B, 8, 6], coded: float[B, 8, 6], same: i64[B, 11]) {
        map = token_map(batch=B, tokens=11)
        y, after = bipartite_merge(x, map, metric, r=3, protect=1)
        a, first = norm_merge(x, map, metric, r=3, protect=1)
        b, second = norm_merge(x, map, metric, r=3, protect=1, mode="published")
        return y, after.source, a, b, second.source
    }
    """
    rng = np.random.default_rng(0)
    x, metric = (rng.standard_normal((4, 11, n)).astype(np.float32) for n in (6, 16))
    x[0, 4] = 0
    got = compiled(loads(text))(x=x, metric=metric)
    np.testing.assert_array_equal(got["source"], got["same"])
    merged = 0
    for b in range(4):
        for t in range(8):
            members = np.flatnonzero(got["source"][b] == t)
            lengths = np.linalg.norm(x[b][members], axis=1)
            mean = x[b][members].mean(0)
            np.testing.assert_allclose(got["mean"][b, t], mean, rtol=1e-5, atol=1e-6)
            if len(members) == 1:
                np.testing.assert_array_equal(got["exactly"][b, t], x[b][members[0]])
                continue
            merged += 1
            np.testing.assert_allclose(got["exactly"][b, t], mean * lengths.max() / np.linalg.norm(mean), rtol=1e-4)
            # The destination is the odd one.
            own = lengths[members % 2 == 1][0]
            np.testing.assert_allclose(got["coded"][b, t], mean * lengths.max() / own, rtol=1e-4)
    assert merged >= 8


PADDED = """
use std.token (token_map, unmerge)
use std.token.merge ({method})

model merge(x: float[B, {T}, 6], metric: float[B, {T}, 16], noise: f32[B, {T}], valid: bool[B, {T}])
    -> (back: float[B, {T}, 6], size: f32[B, {T} - {r}]) {{
    y, map = {method}(x, token_map(valid, batch=B, tokens={T}), metric, r={r}, {statics})
    return unmerge(y, map), map.size
}}
"""


@pytest.mark.parametrize("method", ["energy_merge", "window_merge", "norm_merge"])
def test_padding_leaves_first_and_loses_nothing(compiled: Callable[..., Any], method: str) -> None:
    statics = "window=4" if method == "window_merge" else "protect=0"
    run = compiled(loads(PADDED.format(method=method, T=16, r=3, statics=statics)))
    arrays = arguments(np.random.default_rng(1), 3, 16, False)
    valid = np.arange(16) < np.array([[8], [10], [3]])
    got = run(x=arrays["x"], metric=arrays["metric"], noise=arrays["noise"], valid=valid)
    np.testing.assert_array_equal(got["size"].sum(1), [8, 10, 3])
    np.testing.assert_array_equal(got["back"][valid], arrays["x"][valid])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("grid_merge(x, map, metric, noise, r=11, rows=4, columns=3)", "one token of every cell stays"),
        ("grid_merge(x, map, metric, noise, r=1, rows=4, columns=4)", "rows x columns tokens"),
        ("grid_merge(x, map, metric, noise, r=1, rows=4, columns=3, sx=5)", "within the picture"),
        ("energy_merge(x, map, metric, r=7)", "r is larger"),
        ("energy_merge(x, map, metric, r=1, margin=2.0)", "a margin is a cosine"),
        ("norm_merge(x, map, metric, r=7)", "r is larger"),
        ("norm_merge(x, map, metric, r=1, mode=\"code\")", "the mode is"),
        ("window_merge(x, map, metric, r=5, window=3)", "r is larger than the windows allow"),
        ("window_merge(x, map, metric, r=1, window=1)", "at least two"),
        ("window_merge(x, map, metric, r=-1)", "number of tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(call: str, message: str) -> None:
    r = call.partition("r=")[2].partition(",")[0].rstrip(")")
    text = f"""
    use std.token (TokenMap, token_map)
    use std.token.merge (grid_merge, energy_merge, norm_merge, window_merge)
    model merge(x: float[B, 12, 6], metric: float[B, 12, 16], noise: f32[B, 12]) -> float[B, 12 - {r}, 6] {{
        map = token_map(batch=B, tokens=12)
        y, after = {call}
        return y
    }}
    """
    with pytest.raises(Diagnostic, match=message) as caught:
        loads(text)
    assert caught.value.code == "E0501"


# Laws ----------------------------------------------------------------------------------------------------------------

TWICE = """
use std.token (TokenMap, token_map, unmerge)
use std.token.merge ({method})

model merge(x: float[B, T, 6], metric: float[B, T, 16], noise: f32[B, T], valid: bool[B, T])
    -> (y: float[B, T - 5, 6], map: TokenMap[B, T, T - 5], back: float[B, T, 6], untouched: float[B, T, 6]) {{
    start = token_map(valid, batch=B, tokens=T)
    y, map = {method}(x, start, metric, r=3, protect=1)
    m, seen = {method}(metric, start, metric, r=3, protect=1)
    y, map = {method}(y, map, m, r=2, protect=1)
    untouched, same = {method}(x, start, metric, r=0, protect=1)
    return y, map, unmerge(y, map), untouched
}}
"""


@pytest.fixture(scope="module", params=["energy_merge", "window_merge"])
def twice(request: pytest.FixtureRequest) -> Callable[..., Arrays]:
    return torch_artifact(loads(TWICE.format(method=request.param)), None)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 3),
    tokens=st.integers(10, 24),
    padded=st.booleans(),
    ties=st.booleans(),
)
def test_laws_of_the_map(
    twice: Callable[..., Arrays], seed: int, batch: int, tokens: int, padded: bool, ties: bool
) -> None:
    rng = np.random.default_rng(seed)
    arrays = arguments(rng, batch, tokens, ties)
    valid = np.arange(tokens) < rng.integers(1, tokens + 1, (batch, 1)) if padded else np.ones((batch, tokens), bool)
    got = twice(x=arrays["x"], metric=arrays["metric"], noise=arrays["noise"], valid=valid)
    size, source, position = got["map_size"], got["map_source"], got["map_position"]
    np.testing.assert_array_equal(size.sum(1), valid.sum(1))
    np.testing.assert_array_equal(got["untouched"], arrays["x"])
    assert (np.diff(position, axis=1) > 0).all()
    for b in range(batch):
        np.testing.assert_array_equal(np.unique(source[b]), np.arange(tokens - 5))
        np.testing.assert_array_equal(np.bincount(source[b], valid[b], tokens - 5), size[b])
        np.testing.assert_array_equal(source[b][position[b]], np.arange(tokens - 5))
        np.testing.assert_array_equal(got["y"][b, 0], arrays["x"][b, 0])
        total = (got["y"][b] * size[b][:, None]).sum(0)
        np.testing.assert_allclose(total, arrays["x"][b][valid[b]].sum(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(got["back"][b], got["y"][b][source[b]])


@pytest.mark.parametrize("call", [
    "grid_merge(x, map, metric, noise, r=4, rows=4, columns=3)", "energy_merge(x, map, metric, r=4)",
    "window_merge(x, map, metric, r=4, window=4)", "norm_merge(x, map, metric, r=4)",
])  # fmt: skip
def test_gradients_reach_the_features_and_not_the_match(call: str) -> None:
    import torch

    from tessera.backends.torch import build

    method = call.partition("(")[0]
    text = f"""
    use std.token (token_map)
    use std.token.merge ({method})
    model merge(x: float[B, 12, 6], metric: float[B, 12, 16], noise: f32[B, 12]) -> (y: float[B, 8, 6]) {{
        map = token_map(batch=B, tokens=12)
        y, after = {call}
        return y
    }}
    """
    arrays = arguments(np.random.default_rng(0), 2, 12, False)
    x, metric, noise = (torch.tensor(arrays[n], requires_grad=n != "noise") for n in ("x", "metric", "noise"))
    given_ = {"noise": noise} if "noise" in call else {}
    build(loads(text if given_ else text.replace(", noise: f32[B, 12]", "")))(x=x, metric=metric, **given_)[
        "y"
    ].sum().backward()
    # Every token is part of one mean.
    assert x.grad.abs().sum(-1).min() > 0
    assert metric.grad is None or not metric.grad.any()
