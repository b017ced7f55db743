"""Passes that reduce tokens find what passes before them reduced: in whatever order, they make what one pass would."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tessera.frontends.source import loads, print_module
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module
from tessera.passes.engine import apply, registry

from ..conftest import Arrays, run, weights_of

ENCODER = """
use std.attention (self_attention)
use std.nn (layer_norm, mlp)
use std.pooling (mean_pool)

model encoder(x: f32[B, T, 8], keep: i64[B, T]) -> (y: f32[B, T, 8], m: f32[B, 8], p: f32[B, 8]) {
    mask = unsqueeze(keep != 0, [1, 2])
    early = x * 2.0
    repeat i in 2 as blocks {
        x = x + self_attention(layer_norm(x) as n1, mask, heads=2) as attn
        x = x + mlp(layer_norm(x) as n2, hidden=16) as mlp
    }
    return x + early, mean(x, axis=1), mean_pool(x, cast(keep, f32))
}
"""
X = np.random.default_rng(0).standard_normal((2, 9, 8)).astype(np.float32)
KEEP = (np.arange(9) < np.array([[9], [6]])).astype(np.int64)


def encoder(fixed: bool = False) -> Module:
    return loads(re.sub(r"\bT\b", "9", ENCODER) if fixed else ENCODER)


def reduced(module: Module, *steps: tuple[str, dict[str, Any]], printed: bool) -> Module:
    """The module after passes, printed and read again behind each."""
    for name, options in steps:
        module, _ = apply(module, name, **options)
        if printed:
            again = loads(print_module(module))
            assert module.difference(again) is None
            module = again
    return module


def out(module: Module) -> Arrays:
    return run(module, weights_of(encoder()), x=X, keep=KEEP)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("printed", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("options", [{"r": 2}, {"r": 2, "restore": True}, {"r": 1, "proportional": False}], ids=str)
def test_block_by_block_is_all_at_once(
    options: dict[str, Any], fixed: bool, printed: bool, order: tuple[int, int]
) -> None:
    options = {**options, "map": True}
    whole = out(reduced(encoder(fixed), ("merge_tokens", options), printed=printed))
    steps = [("merge_tokens", {**options, "blocks": (block,)}) for block in order]
    parts = out(reduced(encoder(fixed), *steps, printed=printed))
    assert whole.keys() == parts.keys()
    np.testing.assert_array_equal(parts["token_source"], whole["token_source"])
    np.testing.assert_array_equal(parts["token_size"].sum(1), [9, 6])
    for key, value in whole.items():
        np.testing.assert_allclose(parts[key], value, atol=2e-5, err_msg=key)


@pytest.mark.parametrize("printed", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize(
    "steps",
    [
        (("merge_tokens", {"r": 1}), ("prune_tokens", {"r": 1})),
        (("prune_tokens", {"r": 1}), ("merge_tokens", {"r": 1})),
        (("prune_tokens", {"r": 1, "blocks": (1,)}), ("merge_tokens", {"r": 3, "blocks": (0,)})),
        (("merge_tokens", {"r": 2, "blocks": (0,)}), ("prune_tokens", {"r": 2, "method": "random", "blocks": (1,)})),
    ],
    ids=str,
)
def test_merging_and_pruning_go_together(steps: Any, fixed: bool, printed: bool) -> None:
    """Sizes count what is still there, and every feature is that of the tokens that the map names."""
    module = reduced(encoder(fixed), *[(n, {**o, "map": True}) for n, o in steps], printed=printed)
    noise = {
        v.name: np.random.default_rng(1).random((2, 9), np.float32) for v in module.graph.inputs if v.role == "random"
    }
    found = run(module, weights_of(encoder()), x=X, keep=KEEP, **noise)
    source, size = found["token_source"], found["token_size"]
    assert found["y"].shape[:2] == size.shape == (2, 5)
    assert (source < 5).all()
    for row, real in enumerate((9, 6)):
        counted = np.bincount(source[row], weights=KEEP[row], minlength=5)
        # A token that was dropped is counted where it is restored from, but is in no size.
        assert (size[row] <= counted).all()
        assert size[row].sum() <= real
    assert all(np.isfinite(value).all() for value in found.values())


def test_a_merge_of_what_is_left_averages_what_is_left() -> None:
    """A feature from before both: picked where tokens were dropped, averaged where they were merged."""
    text = ENCODER.replace("return x + early,", "return x * 0.0 + early,")
    steps = (
        ("prune_tokens", {"r": 3, "blocks": (0,), "protect": 1}),
        ("merge_tokens", {"r": 2, "blocks": (1,), "map": True}),
    )
    module = reduced(loads(text), *steps, printed=True)
    keep = np.ones((2, 9), np.int64)
    weights = weights_of(loads(text))
    found = run(module, weights, x=X, keep=keep)
    alone, _ = apply(loads(text), "prune_tokens", r=3, blocks=(0,), protect=1, map=True)
    source = run(alone, weights, x=X, keep=keep)["token_source"]
    for row in range(2):
        # The first token of each group is the one that stayed.
        stayed = np.unique(source[row], return_index=True)[1]
        owner = found["token_source"][row][stayed]
        want = np.stack([2 * X[row][stayed[owner == t]].mean(0) for t in range(4)])
        np.testing.assert_allclose(found["y"][row], want, atol=1e-5)
        np.testing.assert_array_equal(found["token_size"][row], np.bincount(owner, minlength=4))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("names", [("merge_tokens", "prune_tokens"), ("prune_tokens", "merge_tokens")])
def test_a_mean_counts_what_is_left(names: tuple[str, str], order: tuple[int, int]) -> None:
    """Whichever pass runs first: numerator and denominator are those of the last tokens."""
    text = ENCODER.replace("return x + early,", "return x * 1.0,")
    steps = [(names[block], {"r": 2, "blocks": (block,), "map": True}) for block in order]
    found = run(reduced(loads(text), *steps, printed=True), weights_of(loads(text)), x=X, keep=KEEP)
    size = found["token_size"][..., None]
    want = (found["y"] * size).sum(1) / size.sum(1)
    np.testing.assert_allclose(found["m"], want, atol=1e-5)
    np.testing.assert_allclose(found["p"], want, atol=1e-5)
    both = run(reduced(loads(text), *steps[::-1], printed=False), weights_of(loads(text)), x=X, keep=KEEP)
    for key, value in both.items():
        np.testing.assert_allclose(found[key], value, atol=1e-5)


def test_a_share_is_reached_or_refused() -> None:
    """Half of the tokens at most merge in a block: 0.3 of 40 in two blocks takes 20, then 8."""
    text = re.sub(r"\bT\b", "40", ENCODER)
    _, report = apply(loads(text), "merge_tokens", keep=0.3)
    assert report.facts["tokens"] == [["40", "24", "12"]]
    with pytest.raises(Diagnostic, match="cannot be reached in 2 block") as caught:
        apply(loads(text), "merge_tokens", keep=0.1)
    assert caught.value.code == "E0709"
    _, report = apply(loads(text), "prune_tokens", keep=0.1)
    assert report.facts["tokens"][0][-1] == "4"
    _, report = apply(encoder(fixed=True), "merge_tokens", keep=0.25, protect=2)
    assert any("are left" in note for note in report.notes)


def test_a_list_of_shares_says_what_each_block_leaves() -> None:
    """A share that repeats reduces nothing, a short list goes on with its last one."""
    text = re.sub(r"\bT\b", "40", ENCODER)
    for keep, counts in (((0.75, 0.5), ["40", "30", "20"]), ((1.0, 0.9), ["40", "36"]), ((0.6,), ["40", "24"])):
        _, report = apply(loads(text), "merge_tokens", keep=keep)
        assert report.facts["tokens"] == [counts]
    _, report = apply(encoder(), "merge_tokens", keep=(0.75, 0.5))
    assert len(report.facts["tokens"][0]) == 3


@pytest.mark.parametrize(
    ("keep", "code", "told"),
    [
        ((0.5, 0.6), "E0704", "none larger than the one before it"),
        ((), "E0704", "a share for each block"),
        ((1.2, 0.5), "E0704", "from 0 to 1"),
        ((0.9, 0.8, 0.7), "E0705", "lists 3 numbers for 2 block"),
        ((0.9, 0.4), "E0709", "lists 0.4 for a block that leaves at least 0.45"),
    ],
)
def test_a_list_of_shares_that_cannot_be(keep: tuple[float, ...], code: str, told: str) -> None:
    with pytest.raises(Diagnostic, match=told) as caught:
        apply(loads(re.sub(r"\bT\b", "40", ENCODER)), "merge_tokens", keep=keep)
    assert caught.value.code == code


TOWERS = """
use std.attention (self_attention)

model towers(a: f32[B, 16, 8], b: f32[B, 16, 8]) -> (y: f32[B, 16, 8], z: f32[B, 16, 8]) {
    repeat i in 2 as left { a = a + self_attention(a, heads=2) as attn }
    repeat i in 2 as right { b = b + self_attention(b, heads=2) as attn }
    return a, b
}
"""


@pytest.mark.parametrize("restore", [True, False])
def test_towers_stay_apart_behind_cse(restore: bool) -> None:
    """Their maps are equal before they are reduced, and yet not of the same tokens."""
    merge = ("merge_tokens", {"r": 2, "restore": restore})
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((2, 16, 8)).astype(np.float32) for name in "ab"}
    weights = weights_of(loads(TOWERS))
    apart, tidied = (
        run(reduced(loads(TOWERS), *steps, printed=False), weights, **feeds)
        for steps in ([merge, merge], [merge, ("cse", {}), merge])
    )
    for name, value in apart.items():
        np.testing.assert_array_equal(tidied[name], value)


TWO = """
use std.attention (self_attention)
use std.nn (layer_norm, mlp)
use std.token (bipartite_merge, token_map)

layer block(x: f32[B, T, D]) -> f32[B, T, D] {
    x = x + self_attention(layer_norm(x) as n1, heads=2) as attn
    return x + mlp(layer_norm(x) as n2, hidden=16) as mlp
}

model two(a: f32[B, 12, 8], b: f32[B, 12, 8]) -> (one: f32[B, 10, 8], other: f32[B, 10, 8]) {
    map = token_map(batch=B, tokens=12)
    x = block(a) as a1
    x, m = bipartite_merge(x, map, x, r=2)
    x = block(x) as a2
    y = block(b) as b1
    y, n = bipartite_merge(y, %MAP%, y, r=2)
    y = block(y) as b2
    return x, y
}
"""


@pytest.mark.parametrize("printed", [False, True])
def test_one_map_of_two_towers_is_a_map_each(printed: bool) -> None:
    """Written once or twice, the towers' tokens are not the same."""
    steps = ("merge_tokens", {"r": 1}), ("prune_tokens", {"r": 1, "method": "divprune"})
    one, twice = (loads(TWO.replace("%MAP%", m)) for m in ("map", "token_map(batch=B, tokens=12)"))
    rng = np.random.default_rng(1)
    feeds = {name: rng.standard_normal((2, 12, 8)).astype(np.float32) for name in "ab"}
    found, wanted = (run(reduced(m, *steps, printed=printed), weights_of(one), **feeds) for m in (one, twice))
    for name, value in found.items():
        assert value.shape == (2, 6, 8)
        np.testing.assert_array_equal(value, wanted[name])


def test_blocks_that_were_reduced_around_come_last() -> None:
    around, merged = ("merge_tokens", {"r": 2, "place": "around_attention"}), ("merge_tokens", {"r": 1})
    with pytest.raises(Diagnostic, match="a pass before reduced its tokens around it") as caught:
        reduced(encoder(fixed=True), around, merged, printed=False)
    assert caught.value.code == "E0707"
    # As it says what to do.
    assert out(reduced(encoder(fixed=True), merged, around, printed=False))["p"].shape == (2, 8)
    some = ("merge_tokens", {"r": 2, "place": "around_attention", "blocks": [0]})
    module, _ = apply(encoder(fixed=True), some[0], **some[1])
    _, report = apply(module, "prune_tokens", r=1)
    assert any("1 block(s) are not counted" in note for note in report.notes)


JOINED = """
use std.attention (self_attention)
use std.nn (layer_norm, mlp)

layer block(x: f32[B, T, D]) -> f32[B, T, D] {
    x = x + self_attention(layer_norm(x) as n1, heads=2) as attn
    return x + mlp(layer_norm(x) as n2, hidden=16) as mlp
}

model joined(a: f32[B, 12, 8], text: f32[B, 4, 8]) -> f32[B, 8] {
    repeat i in 2 as tower {
        a = block(a)
    }
    x = concat(text, a, axis=1)
    repeat i in 2 as decoder {
        x = block(x)
    }
    return x[:, 0]
}
"""


@pytest.mark.parametrize("methods", [("bipartite_merge", "by_mass"), ("by_mass", "bipartite_merge"), ("by_mass", "by_mass")])
def test_two_passes_before_one_join_are_told_why_not(methods: tuple[str, str]) -> None:
    first, second = (("prune_tokens", {"method": m, "r": 2, "blocks": [i]}) for i, m in enumerate(methods))
    with pytest.raises(Diagnostic, match="reduced before that by an earlier pass already") as caught:
        reduced(loads(JOINED), first, second, printed=False)
    assert caught.value.code == "E0710"
    assert caught.value.help == "reduce them in one pass: its `r` or `keep` may be a list, one number a block"
    both, _ = apply(loads(JOINED), "prune_tokens", method="by_mass", blocks=[0, 1], r=[2, 2])
    assert both.graph.output_info


def test_a_list_of_methods_is_of_those_that_go_with_the_pass() -> None:
    listed = registry()["cluster_tokens"].method_help(None)
    assert "superpixels" in listed
    assert "by_mass" not in listed
    assert "span_softmax" not in registry()["merge_tokens"].method_help(None)
    # What is compared in front of the first attention is the tokens.
    assert apply(encoder(fixed=True), "cluster_tokens", method="bipartite_merge", k=6, back="copy", begin=1)[0]
    with pytest.raises(Diagnostic, match="in a pass: nothing is known of its operand `score`") as caught:
        apply(encoder(), "merge_tokens", method="span_softmax", k=3, blocks=[0])
    assert "call `span_softmax` in the program" in str(caught.value.help)
