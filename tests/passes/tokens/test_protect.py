"""Protected tokens, by number, by place from either end, or by what the model reads: they take no part and keep their places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tessera as ts
from tessera.frontends.source import loads
from tessera.ir.analysis.evaluate import evaluate_graph
from tessera.ir.diagnostics import Diagnostic
from tessera.passes.engine import apply

from ..conftest import weights_of

MERGE = """use std.token (TokenMap, bipartite_merge, token_map)
model m(x: f32[2, {T}, 3], metric: f32[2, {T}, 3]) -> (y: f32[2, {N}, 3], source: i64[2, {T}], size: f32[2, {N}]) {{
    map = token_map(batch=2, tokens={T})
    y, map = bipartite_merge(x, map, metric, r={r}, protect={protect}, last={last})
    return y, map.source, map.size
}}"""


@given(
    tokens=st.integers(2, 14), protect=st.integers(0, 6), last=st.integers(0, 4), part=st.floats(0, 1), seed=st.integers(0, 99)
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_protected_tokens_take_no_part(tokens: int, protect: int, last: int, part: float, seed: int) -> None:
    free = tokens - protect - last
    if free < 2:
        return
    r = max(1, round(free // 2 * part))
    module = loads(MERGE.format(T=tokens, N=tokens - r, r=r, protect=protect, last=last))
    x, metric = np.random.default_rng(seed).standard_normal((2, 2, tokens, 3)).astype(np.float32)
    found = evaluate_graph(module.graph, {"x": x, "metric": metric}, {})
    y, source, size = (found[name] for name in ("y", "source", "size"))
    np.testing.assert_array_equal(y[:, :protect], x[:, :protect])
    np.testing.assert_array_equal(y[:, tokens - r - last :], x[:, tokens - last :])
    assert (source[:, :protect] == np.arange(protect)).all()
    assert (source[:, tokens - last :] == np.arange(tokens - r - last, tokens - r)).all()
    unit = metric / np.linalg.norm(metric, axis=2, keepdims=True)
    for row in range(2):
        counts = np.bincount(source[row], minlength=tokens - r)
        np.testing.assert_array_equal(size[row], counts)
        means = [x[row, source[row] == token].mean(0) for token in range(tokens - r)]
        np.testing.assert_allclose(y[row], means, rtol=1e-4, atol=1e-5)
        # Those that left are the even ones whose most similar odd one is the most similar, and are with it now.
        even, odd = (np.array([i for i in range(protect, tokens - last) if i % 2 == n]) for n in (0, 1))
        scores = unit[row, even] @ unit[row, odd].T
        for i in np.argsort(-scores.max(1), kind="stable")[:r]:
            assert source[row, even[i]] == source[row, odd[scores[i].argmax()]]


READS = """use std.attention (self_attention)
model m(x: f32[B, {T}, 8]) -> f32[B, 8] {{
    repeat i in 2 as block {{ x = x + self_attention(x, heads=2) as attn }}
    return {read}
}}"""
FRONT = "squeeze(x[:, :1], 1) + mean(x[:, 5:], axis=1)"
BACK = "squeeze(x[:, -1:], 1)"


@pytest.mark.parametrize("tokens", ["12", "T"])
@pytest.mark.parametrize(
    ("read", "name", "options", "ends"),
    [
        (FRONT, "merge_tokens", {}, (5, 0)),
        (BACK, "merge_tokens", {}, (0, 1)),
        (f"{FRONT} + {BACK}", "merge_tokens", {}, (5, 1)),
        (f"{FRONT} + {BACK}", "prune_tokens", {}, (5, 1)),
        (BACK, "merge_tokens", {"protect": (0, -1)}, (1, 1)),
        (BACK, "prune_tokens", {"protect": (-2,)}, (0, 2)),
        (FRONT, "merge_tokens", {"protect": 7}, (7, 0)),
    ],
)
def test_what_is_read_by_place_is_protected_by_number_by_list_or_by_itself(
    read: str, name: str, options: dict[str, Any], ends: tuple[int, int], tokens: str
) -> None:
    module = loads(READS.format(read=read, T=tokens))
    reduced, report = apply(module, name, r=1, map=True, **options)
    assert report.modified == 2
    node = next(n for n in reduced.graph.nodes() if n.op.name in ("bipartite_merge", "by_mass"))
    assert (node.attrs.get("protect", 0), node.attrs.get("last", 0)) == ends
    x, weights = np.random.default_rng(0).standard_normal((2, 12, 8)).astype(np.float32), weights_of(module)
    results = [ts.compile(reduced, weights=weights, passes=[], target=target)(x) for target in ("torch", "onnx")]
    for output, value in results[0].items():
        compared = np.testing.assert_array_equal if output.startswith("token") else np.testing.assert_allclose
        compared(
            np.asarray(results[1][output]), np.asarray(value), **({} if output.startswith("token") else {"atol": 1e-5})
        )


def test_protect_of_a_method_that_has_none_is_refused(tmp_path: Any) -> None:
    op = tmp_path / "mine.tess"
    op.write_text(
        """use std.token (TokenMap, keep_best)
op first(x: float[B, T, D], map: TokenMap[B, N, T], norms: float[B, T], *, r: int)
    -> (float[B, T - r, D], TokenMap[B, N, T - r]) {
    return keep_best(x, map, cast(norms, f32), r=r, protect=0, last=0)
}
"""
    )
    module = loads(READS.format(read="mean(x, axis=1)", T=12))
    with pytest.raises(Diagnostic, match="has no `protect: int = 0`") as caught:
        apply(module, "prune_tokens", method=f"{op}:first", r=1, protect=1)
    assert caught.value.code == "E0705"
    with pytest.raises(Diagnostic, match="has no `last: int = 0`"):
        apply(module, "prune_tokens", method=f"{op}:first", r=1, protect=(-1,))
    assert apply(module, "prune_tokens", method=f"{op}:first", r=1, protect=0)[1].modified


def test_a_method_that_merges_some_and_drops_others_is_refused(tmp_path: Any) -> None:
    op = tmp_path / "mine.tess"
    op.write_text(
        """use std.token (TokenMap)
op half(x: float[B, T, D], map: TokenMap[B, N, T], *, r: int) -> (float[B, T - r, D], TokenMap[B, N, T - r]) {
    source = minimum(map.source, T - r - 1)
    return x[:, r:], TokenMap(source=source, size=map.size[:, r:], position=map.position[:, r:], merged=true, total=false)
}
"""
    )
    with pytest.raises(Diagnostic, match="gives means of those that it merges") as caught:
        apply(loads(READS.format(read="mean(x, axis=1)", T=12)), "merge_tokens", method=f"{op}:half", r=1)
    assert caught.value.code == "E0716"


def test_messages_of_pruning_speak_of_dropping() -> None:
    module = loads(READS.format(read="squeeze(x[:, 3:4], 1)", T=12))
    with pytest.raises(Diagnostic, match="when tokens are dropped with protect=0") as caught:
        apply(module, "prune_tokens", r=1, protect=0)
    assert caught.value.notes[0].message == "the tokens were dropped behind this attention"
    assert caught.value.help == "protect=4 keeps the first 4 tokens in front"
