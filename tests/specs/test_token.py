"""Token selection and merging: ToMe against its published algorithm in NumPy, the laws of the token map, padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic

from .conftest import torch_artifact

MERGE = """
use std.token (TokenMap, bipartite_merge, unmerge)

model merge(x: float[B, {T}, 6], metric: float[B, {T}, 16], size: f32[B, {T}], source: i64[B, {N}],
            position: i64[B, {T}], *, r: int = {r}, protect: int = {protect}, padding: bool = true)
    -> (y: float[B, {T} - r, 6], map: TokenMap[B, {N}, {T} - r], back: float[B, {N}, 6]) {{
    map = TokenMap(source=source, size=size, position=position)
    y, after = bipartite_merge(x, map, metric, r=r, protect=protect, padding=padding)
    return y, after, unmerge(y, after)
}}
"""


def published(
    x: np.ndarray, metric: np.ndarray, size: np.ndarray, source: np.ndarray, r: int, protect: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ToMe for one sequence, as facebookresearch/ToMe has it: x [T, D], size [T], and source as a 0/1 matrix [T, N].

    Ties, of which the paper says nothing, go to the lowest index.
    """
    if r <= 0:
        return x, size, source
    metric = metric / np.sqrt((metric * metric).sum(-1, keepdims=True))
    a, b = metric[0::2], metric[1::2]
    scores = a @ b.T
    if protect >= 1:
        scores[0, :] = -np.inf
    if protect == 2:
        scores[:, 0] = -np.inf
    node_max, node_idx = scores.max(-1), scores.argmax(-1)
    edge = np.argsort(-node_max, kind="stable")
    unmerged, src = edge[r:], edge[:r]
    dst = node_idx[src]
    if protect >= 1:
        unmerged = np.sort(unmerged)

    def merge(values: np.ndarray, combine: Any) -> np.ndarray:
        even, odd = values[0::2], values[1::2].copy()
        for i, j in zip(src, dst, strict=True):
            odd[j] = combine(odd[j], even[i])
        kept = even[unmerged]
        if protect == 2:
            return np.concatenate([kept[:1], odd[:1], kept[1:], odd[1:]])
        return np.concatenate([kept, odd])

    new_size = merge(size, np.add)
    merged = merge(x * size[:, None], np.add) / new_size[:, None]
    return merged, new_size, merge(source, np.maximum)


def arguments(
    rng: np.random.Generator, batch: int, tokens: int, metric: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Inputs of the model ``merge`` for tokens that were not merged yet."""
    if metric is None:
        metric = rng.standard_normal((batch, tokens, 16)).astype(np.float32)
    row = np.tile(np.arange(tokens), (batch, 1))
    x = rng.standard_normal((batch, tokens, 6)).astype(np.float32)
    return {"x": x, "metric": metric, "size": np.ones((batch, tokens), np.float32), "source": row, "position": row}


def merged_before(rng: np.random.Generator, given_: dict[str, np.ndarray], originals: int) -> dict[str, np.ndarray]:
    """The same, but every token stands for one or more of ``originals`` tokens already."""
    batch, tokens, _ = given_["x"].shape
    source = np.stack(
        [rng.permutation(np.r_[np.arange(tokens), rng.integers(0, tokens, originals - tokens)]) for _ in range(batch)]
    )
    size = np.stack([np.bincount(s, minlength=tokens) for s in source]).astype(np.float32)
    position = np.stack([[np.flatnonzero(s == t)[0] for t in range(tokens)] for s in source])
    return {**given_, "size": size, "source": source, "position": position}


def check(run: Callable[..., dict[str, np.ndarray]], arrays: dict[str, np.ndarray], r: int, protect: int) -> None:
    """Compare one artifact with the published algorithm: indices exactly, features to rounding."""
    got = run(**arrays)
    for b in range(len(arrays["x"])):
        tokens = arrays["x"].shape[1]
        matrix = (arrays["source"][b][None] == np.arange(tokens)[:, None]).astype(np.float32)
        y, size, source = published(arrays["x"][b], arrays["metric"][b], arrays["size"][b], matrix, r, protect)
        np.testing.assert_array_equal(got["map_source"][b], source.argmax(0))
        np.testing.assert_array_equal(got["map_size"][b], size)
        np.testing.assert_allclose(got["y"][b], y, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(got["back"][b], got["y"][b][got["map_source"][b]])


@pytest.mark.parametrize("protect", [0, 1, 2])
@pytest.mark.parametrize("tokens", [10, 11])
def test_tome_exactly(compiled: Callable[..., Any], tokens: int, protect: int) -> None:
    rng = np.random.default_rng(tokens)
    for r in range((tokens - protect) // 2 + 1):
        run = compiled(loads(MERGE.format(T=tokens, N=tokens, r=r, protect=protect)))
        for batch in (1, 5):
            check(run, arguments(rng, batch, tokens), r, protect)


@pytest.mark.parametrize("protect", [0, 1, 2])
@pytest.mark.parametrize("tokens", [12, 17])
def test_ties_go_to_the_lowest_index(compiled: Callable[..., Any], tokens: int, protect: int) -> None:
    """Duplicate patches. Rows of the metric have length 4, scores are multiples of 1/16: equals are equal bits."""
    rng = np.random.default_rng(tokens)
    for r in range((tokens - protect) // 2 + 1):
        run = compiled(loads(MERGE.format(T=tokens, N=tokens, r=r, protect=protect)))
        for batch in (1, 5):
            palette = rng.choice([-1.0, 1.0], (4, 16)).astype(np.float32)
            check(run, arguments(rng, batch, tokens, palette[rng.integers(0, 4, (batch, tokens))]), r, protect)
        check(run, arguments(rng, 1, tokens, np.ones((1, tokens, 16), np.float32)), r, protect)


@pytest.mark.parametrize("protect", [0, 1, 2])
@pytest.mark.parametrize("padding", [True, False])
def test_tome_on_tokens_that_were_merged_before(compiled: Callable[..., Any], protect: int, padding: bool) -> None:
    rng = np.random.default_rng(7)
    run = compiled(loads(MERGE.format(T=13, N=29, r=4, protect=protect), params={"padding": padding}))
    check(run, merged_before(rng, arguments(rng, 5, 13), 29), 4, protect)


def test_free_token_count(compiled: Callable[..., Any]) -> None:
    """One artifact for every number of tokens; r follows it."""
    text = """
    use std.token (bipartite_merge, token_map)
    model merge(x: float[B, T, 6], metric: float[B, T, 16])
        -> (y: float[B, T - min(3, (T - 1) // 2), 6], source: i64[B, T]) {
        let r = min(3, (T - 1) // 2)
        y, map = bipartite_merge(x, token_map(batch=B, tokens=T), metric, r=r, protect=1)
        return y, map.source
    }
    """
    run = compiled(loads(text))
    rng = np.random.default_rng(0)
    for tokens in (2, 5, 8, 33):
        arrays = arguments(rng, 2, tokens)
        got = run(x=arrays["x"], metric=arrays["metric"])
        for b in range(2):
            y, _, source = published(
                arrays["x"][b], arrays["metric"][b], arrays["size"][b], np.eye(tokens, dtype=np.float32),
                min(3, (tokens - 1) // 2), 1,
            )  # fmt: skip
            # With r = 0 known only at run time the tokens are still reordered, which the map tells.
            if tokens > 2:
                np.testing.assert_allclose(got["y"][b], y, rtol=1e-5, atol=1e-6)
                np.testing.assert_array_equal(got["source"][b], source.argmax(0))
            np.testing.assert_allclose(got["y"][b][got["source"][b]].shape, arrays["x"][b].shape)


def test_padding_goes_first_and_loses_nothing(compiled: Callable[..., Any]) -> None:
    """20 tokens, 11 of them real: up to the number of even padding tokens, merging leaves every real token as it is."""
    rng = np.random.default_rng(3)
    text = """
    use std.token (bipartite_merge, size_bias, size_mask, token_map, unmerge)
    model merge(x: float[B, 20, 6], metric: float[B, 20, 16], valid: bool[B, 20], *, r: int = 4)
        -> (back: float[B, 20, 6], size: f32[B, 20 - r], bias: f32[B, 1, 1, 20 - r], mask: bool[B, 1, 1, 20 - r]) {
        y, map = bipartite_merge(x, token_map(valid, batch=B, tokens=20), metric, r=r, protect=1)
        return unmerge(y, map), map.size, size_bias(map), size_mask(map)
    }
    """
    arrays = arguments(rng, 3, 20)
    x, metric = arrays["x"], arrays["metric"]
    valid = np.arange(20) < np.array([[11], [20], [1]])
    got = compiled(loads(text))(x=x, metric=metric, valid=valid)
    np.testing.assert_array_equal(got["back"][0, :11], x[0, :11])
    np.testing.assert_array_equal(got["back"][2, 0], x[2, 0])
    np.testing.assert_array_equal(got["size"].sum(1), [11, 20, 1])
    assert np.isfinite(got["back"]).all()
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(got["bias"][:, 0, 0], np.log(got["size"]), rtol=1e-6)
    np.testing.assert_array_equal(got["mask"][:, 0, 0], got["size"] > 0)


def test_tokens_that_must_go_into_padding_do_not_meet_there(compiled: Callable[..., Any]) -> None:
    """Every odd token is padding, and every even one has to merge."""
    text = """
    use std.token (bipartite_merge, token_map, unmerge)
    model merge(x: float[B, 8, 6], metric: float[B, 8, 16], valid: bool[B, 8]) -> (back: float[B, 8, 6], size: f32[B, 4]) {
        y, map = bipartite_merge(x, token_map(valid, batch=B, tokens=8), metric, r=4)
        return unmerge(y, map), map.size
    }
    """
    arrays = arguments(np.random.default_rng(0), 2, 8)
    valid = np.tile(np.arange(8) % 2 == 0, (2, 1))
    got = compiled(loads(text))(x=arrays["x"], metric=arrays["metric"], valid=valid)
    np.testing.assert_allclose(got["back"][:, ::2], arrays["x"][:, ::2], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got["size"], np.ones((2, 4)))


def test_a_metric_of_zeros_gives_no_nan(compiled: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    run = compiled(loads(MERGE.format(T=8, N=8, r=3, protect=0)))
    got = run(**arguments(rng, 2, 8, np.zeros((2, 8, 16), np.float32)))
    assert all(np.isfinite(v).all() for v in got.values())


@pytest.mark.parametrize(
    ("r", "protect", "message"),
    [
        (6, 0, "r is larger than the tokens allow"),
        (5, 1, "r is larger"),
        (-1, 0, "number of tokens"),
        (1, -1, "protect and last are numbers"),
        (3, 5, "r is larger"),
    ],
)
def test_more_than_the_tokens_allow_is_refused(r: int, protect: int, message: str) -> None:
    with pytest.raises(Diagnostic, match=message) as caught:
        loads(MERGE.format(T=10, N=10, r=r, protect=protect))
    assert caught.value.code == "E0501"


# Laws ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_rounds() -> Callable[..., dict[str, np.ndarray]]:
    """Two merges in a row with free batch and tokens, on torch."""
    text = """
    use std.token (TokenMap, bipartite_merge, token_map, unmerge)
    model merge(x: float[B, T, 6], metric: float[B, T, 16], valid: bool[B, T])
        -> (y: float[B, T - 5, 6], map: TokenMap[B, T, T - 5], back: float[B, T, 6]) {
        y, map = bipartite_merge(x, token_map(valid, batch=B, tokens=T), metric, r=3, protect=1)
        m, seen = bipartite_merge(metric, token_map(valid, batch=B, tokens=T), metric, r=3, protect=1)
        y, map = bipartite_merge(y, map, m, r=2, protect=1)
        return y, map, unmerge(y, map)
    }
    """
    return torch_artifact(loads(text), None)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 3),
    tokens=st.integers(9, 24),
    padded=st.booleans(),
    ties=st.booleans(),
)
def test_laws_of_the_map(
    two_rounds: Callable[..., dict[str, np.ndarray]], seed: int, batch: int, tokens: int, padded: bool, ties: bool
) -> None:
    rng = np.random.default_rng(seed)
    metric = rng.choice([-1.0, 1.0], (batch, tokens, 16)).astype(np.float32) if ties else None
    arrays = arguments(rng, batch, tokens, metric)
    valid = np.arange(tokens) < rng.integers(1, tokens + 1, (batch, 1)) if padded else np.ones((batch, tokens), bool)
    got = two_rounds(x=arrays["x"], metric=arrays["metric"], valid=valid)
    size, source, position = got["map_size"], got["map_source"], got["map_position"]
    np.testing.assert_array_equal(size.sum(1), valid.sum(1))
    for b in range(batch):
        # Every original token went somewhere, every present one came from somewhere, and its size counts its sources.
        np.testing.assert_array_equal(np.unique(source[b]), np.arange(tokens - 5))
        np.testing.assert_array_equal(np.bincount(source[b], valid[b], tokens - 5), size[b])
        # A token has the position of one of its own sources, and the class token stays what it was.
        np.testing.assert_array_equal(source[b][position[b]], np.arange(tokens - 5))
        np.testing.assert_array_equal(got["y"][b, 0], arrays["x"][b, 0])
        # The mean weighted by size is kept, and going back copies.
        total = (got["y"][b] * size[b][:, None]).sum(0)
        np.testing.assert_allclose(total, arrays["x"][b][valid[b]].sum(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(got["back"][b], got["y"][b][source[b]])


# Selecting -----------------------------------------------------------------------------------------------------------


def test_select_top(agrees: Callable[..., None]) -> None:
    rng = np.random.default_rng(0)
    score = np.round(rng.standard_normal((4, 9)), 0).astype(np.float32)
    score[1, 2] = 0.0
    score[2] = 1.0
    # 0 / 0 inside of the program, since an input with NaN is refused.
    below = np.ones_like(score)
    below[1, 2] = 0.0
    ranked = score.copy()
    ranked[1, 2] = -np.inf
    order = np.argsort(-ranked, axis=1, kind="stable")
    for k in (0, 1, 5, 9):
        expected = np.sort(order[:, :k], axis=1)
        agrees("std.token.select_top", f"select_top(score / below, k={k})", expected, score=score, below=below)


def test_gather_and_scatter(agrees: Callable[..., None]) -> None:
    rng = np.random.default_rng(0)
    x, tokens = (rng.standard_normal((2, n, 4)).astype(np.float32) for n in (7, 3))
    index = np.array([[0, 3, 6], [5, 1, 2]])
    rows = np.arange(2)[:, None]
    agrees("std.token.gather_tokens", "gather_tokens(x, index)", x[rows, index], x=x, index=index)
    replaced = x.copy()
    replaced[rows, index] = tokens
    agrees("std.token.scatter_tokens", "scatter_tokens(x, index, tokens)", replaced, x=x, index=index, tokens=tokens)
