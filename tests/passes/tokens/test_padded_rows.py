"""A row that is padded to a longer length keeps what it keeps by itself, with the same features: every method that reduces."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.passes.tokens.method import methods

from ..conftest import weights_of

# A class token and a picture whose rows have four tokens, padded by whole rows of it.
LEAST, MOST, WIDTH = 9, 13, 4
MODEL = """
use std.attention (self_attention)
use std.nn (layer_norm, mlp)
use std.pooling (mean_pool)

model m(x: f32[B, T, 8], here: i64[B, T], prompt: f32[B, 8])
    -> (all: f32[B, T, 8], read: f32[B, 8], pooled: f32[B, 8], length: f32[B]) {
    mask = unsqueeze(here != 0, [1, 2])
    repeat i in 2 as blocks {
        x = x + self_attention(layer_norm(x) as n1, mask, heads=2, causal=%CAUSAL%) as attn
        x = x + mlp(layer_norm(x) as n2, hidden=16) as mlp
    }
    return x, x[:, %READ%], mean_pool(x, cast(here, f32)), sum(prompt, axis=1)
}
"""


@dataclass(frozen=True)
class Use:
    """How a method is used, and how many more tokens leave where ``p`` are padding."""

    options: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)
    kind: str = "prune_tokens"
    causal: bool = True


def kept(**options: Any) -> Use:
    """As many are left, of however many."""
    return Use({"k": 6, **options})


def merged(more: int, causal: bool = False, **options: Any) -> Use:
    """Of four that are padding so many may leave."""
    return Use({"r": 2, **options}, {"r": 2 + more}, "merge_tokens", causal)


USES = {
    "bipartite_merge": merged(2),
    "by_chance": kept(),
    "by_correlation": kept(),
    "by_mass": kept(),
    "by_relevance": kept(text="prompt"),
    "by_repetition": kept(threshold=0.3),
    "by_row": kept(),
    "dart": kept(pivots=2),
    "diverse": kept(),
    "divprune": kept(),
    "drop_span": Use({"r": 3, "start": 2}),
    "energy_merge": merged(2),
    "evit": Use({"k": 6}, causal=False),
    "fastv": kept(),
    "grid_merge": Use({"r": 2, "rows": 3, "columns": 4, "sy": 1, "protect": 1}, {"r": 4, "rows": 4}, "merge_tokens", False),
    "hiprune": kept(width=WIDTH, middle=0, alpha=0.4),
    "hired": kept(width=WIDTH, parts=1),
    "norm_merge": merged(2),
    "span_first": Use({"k": 6}, {"k": 7}),
    "span_mean": Use({"k": 6}, {"k": 7}, "merge_tokens", False),
    "visionzip": Use({"k": 6, "contextual": 0.5}, causal=False),
    "window_merge": merged(2, window=4),
}
# The cells of a picture are those of all of it, so that a picture with more rows is another one; and what goes with no pass.
WHOLE = {"adaptive_pool", "superpixels", "span_softmax"}


def compiled(method: str, use: Use, causal: bool, target: str, padded: bool, read: str = "") -> Any:
    text = MODEL.replace("%CAUSAL%", str(causal).lower()).replace("x[:, %READ%]", read or f"x[:, {'-1' if causal else '0'}]")
    module = ts.loads(text)
    options = {**use.options, **(use.more if padded else {})}
    made = ts.apply(module, use.kind, method=method, blocks=[1], map=True, restore=True, **options)
    return ts.compile(made, target=target, passes=[], weights=weights_of(module), verify=False)


def rows(seed: int, n: int) -> dict[str, np.ndarray]:
    """Two sequences of ``n`` and four tokens; those of the first behind the ``n``-th are padding, and a span of their own."""
    rng, length = np.random.default_rng(seed), n + WIDTH
    spans = np.tile(np.minimum(np.arange(length), 5), (2, 1))
    spans[0, n:] = spans[1, -1] = 6
    here = np.ones((2, length), np.int64)
    here[0, n:] = 0
    x = rng.standard_normal((2, length, 8)) * (1, 3)[seed // 2]
    return {"x": x.astype(np.float32), "here": here, "spans": spans, "prompt": rng.standard_normal((2, 8)).astype(np.float32)}


def same_groups(source: np.ndarray) -> list[int]:
    """Which tokens went where others went, whatever the number of that place."""
    return [int(np.flatnonzero(source == place)[0]) for place in source]


def check(method: str, causal: bool, target: str, in_front: bool, protect: tuple[int, ...] = ()) -> None:
    """``protect``: in a model that reads no token by its place."""
    use, read = USES[method], "x[:, -1]" if causal else "max(x, axis=1)"
    if protect:
        use = replace(use, options={**use.options, "protect": protect})
    alone, beside = (compiled(method, use, causal, target, padded, read if protect else "") for padded in (False, True))
    names = {v.name for v in alone.inputs}
    for seed in range(4):
        n = MOST if "rows" in use.options else (LEAST, MOST)[seed % 2]
        feeds = rows(seed, n)
        drawn = np.random.default_rng(seed).random((2, n + WIDTH)).astype(np.float32)
        feeds |= {v.name: drawn for v in alone.inputs if v.role == "random"}
        feeds = {name: value for name, value in feeds.items() if name in names}
        of_tokens = [name for name, value in feeds.items() if value.shape[1:2] == (n + WIDTH,)]
        one = alone(**{name: v[:1, :n] if name in of_tokens else v[:1] for name, v in feeds.items()})
        if in_front:
            feeds |= {name: np.concatenate([np.roll(v[:1], WIDTH, axis=1), v[1:]]) for name in of_tokens for v in [feeds[name]]}
        both = beside(**feeds)
        there = slice(WIDTH, None) if in_front else slice(n)
        groups, own = (same_groups(np.asarray(v)[0]) for v in (both["token_source"][:, there], one["token_source"]))
        assert groups == own, f"seed {seed}"
        np.testing.assert_allclose(np.asarray(both["all"])[0, there], np.asarray(one["all"])[0], atol=1e-4, err_msg=f"seed {seed}")
        np.testing.assert_allclose(np.asarray(both["pooled"])[0], np.asarray(one["pooled"])[0], atol=1e-4)
        for end in protect:
            first, count = (0, end + 1) if end >= 0 else (n + end, -end)
            stays = [own[at] == at and (use.kind == "prune_tokens" or own.count(at) == 1) for at in range(first, first + count)]
            assert all(stays), f"seed {seed}"


@pytest.mark.extended
@pytest.mark.parametrize("target", ["torch", "onnx"])
@pytest.mark.parametrize(
    ("method", "causal"), [(name, causal) for name, use in USES.items() for causal in ((False, True) if use.causal else (False,))]
)
def test_a_padded_row_is_the_row(method: str, causal: bool, target: str) -> None:
    check(method, causal, target, in_front=False)


@pytest.mark.extended
@pytest.mark.parametrize("target", ["torch", "onnx"])
@pytest.mark.parametrize("method", [m for m, use in USES.items() if use.causal and use.options.keys() <= {"k", "pivots", "text"}])
def test_padding_may_stand_in_front(method: str, target: str) -> None:
    """Of a decoder, which reads the last token."""
    check(method, True, target, in_front=True)


# Methods of pictures count their places, and what a prompt drops stands at its own.
PLACED = {"grid_merge", "hiprune", "hired", "drop_span"}


@pytest.mark.extended
@pytest.mark.parametrize("target", ["torch", "onnx"])
@pytest.mark.parametrize("protect", [(0,), (1,), (2,), (1, -1), (0, -2)], ids=str)
@pytest.mark.parametrize("in_front", [True, False])
@pytest.mark.parametrize("method", [m for m in USES if m not in PLACED])
def test_protected_tokens_are_those_that_are_there(method: str, in_front: bool, protect: tuple[int, ...], target: str) -> None:
    """Nothing is read by its place, so that `protect` counts from the first token that is there, and back from the last."""
    if method.startswith("span_") and protect[-1] < 0:
        pytest.skip("spans protect no last ones")
    check(method, USES[method].causal, target, in_front, protect)


def test_the_table_has_every_method() -> None:
    assert set(USES) | WHOLE == set(methods())
