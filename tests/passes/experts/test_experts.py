"""Rewrites of experts keep what they promise: on torch and in ONNX Runtime, in the same order of addition or up to rounding."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.driver.cli.common import parse_passes
from tessera.frontends.source import loads, print_module
from tessera.ir.compiling import PassSpec
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module
from tessera.passes.engine import apply, run_pipeline
from tessera.passes.experts.mixtures import find_mixtures

from ..conftest import weights_of

DENSE = """
use std.nn (conv1d_linear, gelu, mlp, relu, swiglu_mlp)
model m(x: f32[B, T, 8]) -> (y: f32[B, T, 8]) {
    x = x + mlp(x, hidden=12) as biased
    x = x + mlp(x, hidden=12, act=relu, bias=false) as plain
    x = x + swiglu_mlp(x, hidden=12, bias=true) as gated_biased
    x = x + swiglu_mlp(x, hidden=12) as gated
    return x + swiglu_mlp(reshape(x, [B * T, 8]), hidden=12)[0, 0]
}
"""
BLOCKS = ["biased", "plain", "gated_biased", "gated", ""]
ROUTED = """
use std.moe.experts (gated, mixture, plain)
use std.moe.route (token_choice)
use std.nn (gelu, linear)
model m(x: f32[B, T, 8]) -> (y: f32[B, T, 8]) {
    x = x + mixture(x, experts=4, k=2, hidden=6) as soft
    x = x + mixture(x, experts=4, k=2, hidden=6, score="chosen", shared=5) as chosen
    tokens = reshape(x, [B * T, 8])
    param bias: f32[4] = zeros as "sigmoid.e_score_correction_bias"
    param up: f32[4, 8, 6] = normal(0.02) as "sigmoid.up"
    param down: f32[4, 6, 8] = normal(0.02) as "sigmoid.down"
    param up_bias: f32[4, 6] = zeros as "sigmoid.up_bias"
    param down_bias: f32[4, 8] = zeros as "sigmoid.down_bias"
    r = token_choice(linear(tokens, out=4) as sigmoid.gate, bias, k=2, score="sigmoid", scale=2.5)
    return x + reshape(plain(tokens, r, up, down, up_bias, down_bias, act=gelu), [B, T, 8])
}
"""
MIXTURES = ["soft", "chosen", "sigmoid"]
X = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
Arrays = dict[str, np.ndarray]


def changed(module: Module, *specs: PassSpec) -> Module:
    after, _ = run_pipeline(module, specs, verify_each=True)
    assert loads(print_module(after)).difference(after) is None
    return after


def outputs(module: Module, weights: Arrays, target: str, *specs: PassSpec) -> np.ndarray:
    run = ts.compile(module, target=target, weights=weights, passes=list(specs), verify=False)
    return np.asarray(run(X)["y"])


def agree(module: Module, *specs: PassSpec, like: tuple[PassSpec, ...] = (), weights: Arrays | None = None) -> None:
    weights = weights_of(module) if weights is None else weights
    changed(module, *specs)
    for target in ("torch", "onnx"):
        want = outputs(module, weights, "torch", *like)
        np.testing.assert_allclose(outputs(module, weights, target, *specs), want, rtol=1e-4, atol=1e-4, err_msg=target)


# Upcycling ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"experts": 3},
        {"experts": 1},
        {"experts": 4, "k": 4},
        {"experts": 4, "method": "split"},
        {"experts": 12, "method": "split"},
    ],
    ids=str,
)
def test_an_upcycled_block_computes_what_it_did(options: dict[str, Any]) -> None:
    module = loads(DENSE)
    _, report = apply(module, "upcycle", **options)
    assert (report.contract, report.facts["blocks"]) == ("exact", BLOCKS)
    agree(module, PassSpec("upcycle", options))


def test_a_part_of_a_split_is_a_part_of_the_block() -> None:
    """With one expert of weight 1 the block computes with a run of its neurons; all runs add up to the block."""
    module = loads("use std.nn (mlp)\nmodel m(x: f32[B, T, 8]) -> (y: f32[B, T, 8]) { return mlp(x, hidden=12) as a }")
    weights, split = weights_of(module), PassSpec("upcycle", {"experts": 3, "k": 1, "method": "split"})
    after, report = apply(module, "upcycle", experts=3, k=1, method="split")
    assert report.contract == "approximate"
    assert "1 of 3 parts" in report.notes[0]
    from scipy.special import erf

    h = X @ weights["a.fc1.weight"].T + weights["a.fc1.bias"]
    h = h * 0.5 * (1 + erf(h / np.sqrt(2)))
    parts = [
        h[..., 4 * e : 4 * e + 4] @ weights["a.fc2.weight"][:, 4 * e : 4 * e + 4].T + weights["a.fc2.bias"]
        for e in range(3)
    ]
    for target in ("torch", "onnx"):
        found = outputs(module, weights, target, split)
        errors = np.min([np.abs(found - part).max(-1) for part in parts], axis=0)
        assert errors.max() < 1e-4
    assert not {"a.fc1.weight", "a.fc2.weight"} & set(after.graph.params)


def test_layers_of_gpt2_are_upcycled_behind_raise_composites() -> None:
    """Its weights are stored [I, O], the other way round, and are found once they are affine maps."""
    module = ts.load("zoo/gpt2", "gpt2", {"depth": 2, "dim": 16, "heads": 2, "vocab": 20, "positions": 12})
    _, (_, report) = run_pipeline(
        module, [PassSpec("raise_composites"), PassSpec("upcycle", {"experts": 2, "layers": [1]})]
    )
    assert report.facts["blocks"] == ["h.1.mlp"]
    specs = [PassSpec("raise_composites"), PassSpec("upcycle", {"experts": 2})]
    weights, feeds = weights_of(module), np.arange(8).reshape(1, 8)
    dense = ts.compile(module, target="torch", weights=weights, passes=[], verify=False)(feeds)
    for target in ("torch", "onnx"):
        found = ts.compile(module, target=target, weights=weights, passes=specs, verify=False)(feeds)
        for name, value in dense.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4)


# Null experts ------------------------------------------------------------------------------------------------------------


def test_no_null_expert_is_the_parent_bit_by_bit() -> None:
    module = loads(ROUTED)
    for options in ({"m": 0}, {"m": 0, "k": 2}):
        after, report = apply(module, "add_null_experts", **options)
        assert (after == module, report.modified, report.contract) == (True, 0, "exact")
        for target in ("torch", "onnx"):
            weights = weights_of(module)
            found = outputs(module, weights, target, PassSpec("add_null_experts", options))
            np.testing.assert_array_equal(found, outputs(module, weights, target))


def test_null_experts_that_are_never_best_change_nothing() -> None:
    """Their rows are made zeros, and the logits of the true experts are all above 0: the pairs are those that there were."""
    text = ROUTED.replace("reshape(x, [B * T, 8])", "abs(reshape(x, [B * T, 8]))")
    module = loads(text)
    weights = weights_of(module)
    for name in ("soft.gate.weight", "chosen.gate.weight", "sigmoid.gate.weight", "sigmoid.gate.bias"):
        weights[name] = np.abs(weights[name])
    options = {"m": 3, "rows": "zeros", "layers": [2]}
    agree(module, PassSpec("add_null_experts", options), weights=weights)


def test_repeated_rows_halve_the_pairs() -> None:
    """As published: null rows that are the true ones over again tie with them, and the true ones go first."""
    module = loads(ROUTED)
    options = PassSpec("add_null_experts", {"m": 8, "k": 6, "layers": [0, 1]})
    after = changed(module, options)
    assert [m.width for m in find_mixtures(after.graph)] == [12, 12, 4]
    assert str(after.recipes["soft.gate.weight"]).count("soft.gate.weight") == 3
    # Three copies of the best two are the six that are taken; of each only the first is a true one.
    agree(module, options)


@pytest.mark.parametrize("score", ["softmax", "sigmoid", "chosen", "none", "one"])
@pytest.mark.parametrize("renormalize", [True, False])
def test_null_experts_against_numpy(score: str, renormalize: bool) -> None:
    text = f"""
use std.moe.experts (plain)
use std.moe.route (token_choice)
use std.nn (linear)
model m(x: f32[B, T, 8]) -> (y: f32[B, T, 8]) {{
    tokens = reshape(x, [B * T, 8])
    param up: f32[3, 8, 6] = zeros
    param down: f32[3, 6, 8] = zeros
    r = token_choice(linear(tokens, out=3) as gate, k=2, score="{score}", renormalize={str(renormalize).lower()}, scale=1.5)
    return reshape(plain(tokens, r, up, down, act=tanh), [B, T, 8])
}}
"""
    module = loads(text)
    weights = weights_of(module)
    x = X.reshape(-1, 8).astype(np.float64)
    logits = x @ weights["gate.weight"].T + weights["gate.bias"]
    wide = np.concatenate([logits, logits[:, :2]], 1)
    chosen = np.argsort(-wide, axis=1, kind="stable")[:, :3]
    taken = np.take_along_axis(wide, chosen, 1)
    e = np.exp(wide)
    p = {
        "softmax": e / e.sum(1, keepdims=True),
        "sigmoid": 1 / (1 + np.exp(-wide)),
        "none": wide,
        "one": np.ones_like(wide),
    }
    w = (
        np.take_along_axis(p[score], chosen, 1)
        if score != "chosen"
        else np.exp(taken) / np.exp(taken).sum(1, keepdims=True)
    )
    w = np.where(chosen < 3, w, 0)
    if score == "chosen" or (renormalize and score != "one"):
        w = w / np.where(w.sum(1, keepdims=True) == 0, 1, w.sum(1, keepdims=True))
    made = [np.tanh(x @ weights["up"][i]) @ weights["down"][i] for i in range(3)]
    want = sum((w * (chosen == i)).sum(1, keepdims=True) * made[i] for i in range(3)) * 1.5
    for target in ("torch", "onnx"):
        found = outputs(module, weights, target, PassSpec("add_null_experts", {"m": 2, "k": 3}))
        np.testing.assert_allclose(found.reshape(-1, 8), want, rtol=1e-4, atol=1e-4)


# Fewer experts -----------------------------------------------------------------------------------------------------------


def measured(path: Path, **more: Any) -> str:
    scores = {"load": [5, 0, 9, 1], "saliency": [0.1, 3, 0.2, 4], "similarity": np.eye(4).tolist(), **more}
    path.write_text(json.dumps(dict.fromkeys(MIXTURES, scores)))
    return str(path)


def test_an_expert_that_nobody_takes_may_go(tmp_path: Path) -> None:
    """Where a bias keeps experts 1 and 3 from being chosen, the others compute what all did."""
    module = loads(ROUTED)
    weights = weights_of(module)
    weights["sigmoid.e_score_correction_bias"] = np.array([0, -9, 0, -9], np.float32)
    options = {"keep": 2, "scores": measured(tmp_path / "s.json"), "layers": [2]}
    after, report = apply(module, "prune_experts", **options)
    assert report.facts["kept"] == {"sigmoid": [0, 2]}
    assert [m.experts for m in find_mixtures(after.graph)] == [4, 4, 2]
    agree(module, PassSpec("prune_experts", options), weights=weights)
    agree(module, PassSpec("prune_experts", {"drop": [3, 1], "layers": [-1]}), weights=weights)
    assert apply(module, "prune_experts", **options, by="saliency")[1].facts["kept"] == {"sigmoid": [1, 3]}
    assert apply(module, "prune_experts", keep=4, scores=options["scores"])[0] == module


def test_groups_keep_one_size(tmp_path: Path) -> None:
    module, options = loads(ROUTED), {"keep": 2, "scores": measured(tmp_path / "s.json"), "layers": [0]}
    grouped, _ = apply(module, "swap_router", groups=2, limit=1, layers=[0])
    # Without groups 0 and 2 stay; of groups 0 1 and 2 3 the best of each.
    assert apply(grouped, "prune_experts", **options, by="saliency")[1].facts["kept"] == {"soft": [1, 3]}
    with pytest.raises(Diagnostic, match="of one size") as caught:
        apply(grouped, "prune_experts", drop=[0, 1], layers=[0])
    assert caught.value.code == "E0721"


@pytest.mark.parametrize("source", ["runs", "file"])
def test_equal_experts_merge_into_what_they_were(source: str, tmp_path: Path) -> None:
    """Copies of a block, merged, are the block: pairs that went to different copies add up."""
    module, up = loads(DENSE), PassSpec("upcycle", {"experts": 4, "k": 3})
    path = tmp_path / "s.json"
    scores = {"load": [5, 0, 9, 1], "similarity": np.random.default_rng(0).random((4, 4)).tolist()}
    path.write_text(json.dumps(dict.fromkeys(BLOCKS, scores) | {"gate.weight": scores, "gate": scores}))
    more = {"scores": str(path)} if source == "file" else {}
    agree(module, up, PassSpec("merge_experts", {"keep": 2, **more}))
    agree(module, up, PassSpec("merge_experts", {"keep": 1}))


def test_merged_experts_are_means_by_load(tmp_path: Path) -> None:
    module = loads(ROUTED)
    alike = [[1, 0, 0, 0], [0.9, 1, 0.2, 0], [0, 0, 1, 0], [0.1, 0, 0.8, 1]]
    options = {"keep": 2, "scores": measured(tmp_path / "s.json", similarity=alike, load=[6, 2, 9, 1]), "layers": [0]}
    after, report = apply(module, "merge_experts", **options)
    assert report.facts["groups"] == {"soft": [[0, 1], [2, 3]]}
    (node,) = [n for n in after.graph.nodes() if n.op.name == "renumbered"]
    assert node.attrs["table"] == (0, 0, 1, 1)
    assert "scale" in str(after.recipes["soft.experts.down"])
    agree(module, PassSpec("merge_experts", {"keep": 4}))


# Routers -----------------------------------------------------------------------------------------------------------------


def test_a_router_with_other_options() -> None:
    module = loads(ROUTED)
    after, report = apply(module, "swap_router", score="sigmoid", k=3, layers=[0])
    router = find_mixtures(after.graph)[0].router
    assert (router.attrs["score"], router.attrs["k"], router.attrs["renormalize"]) == ("sigmoid", 3, True)
    assert report.facts["mixtures"] == ["soft"]
    assert apply(module, "swap_router")[1].modified == 0
    written = ROUTED.replace("k=2, hidden=6) as soft", 'k=3, hidden=6, score="sigmoid") as soft')
    weights = weights_of(module)
    for target in ("torch", "onnx"):
        found = outputs(module, weights, target, PassSpec("swap_router", {"score": "sigmoid", "k": 3, "layers": [0]}))
        np.testing.assert_array_equal(found, outputs(loads(written), weights, target))


def test_a_router_of_ones_own(tmp_path: Path) -> None:
    """It gets what it names: the tokens and the rows of the gate, here as prototypes of which the nearest is taken."""
    (tmp_path / "mine.tess").write_text("""
use std.moe.route (Routes)
op nearest(tokens: float[N, D], prototypes: float[E, D], *, k: int, shift: real) -> Routes[N, k] {
    d = sum((unsqueeze(tokens, 1) - unsqueeze(prototypes, 0)) ** 2.0, axis=2)
    best, expert = topk(-d, k=k)
    return Routes(expert=expert, weight=cast(best + shift, f32))
}
""")
    (tmp_path / "m.tess").write_text(ROUTED)
    module = ts.load(tmp_path / "m.tess")
    spec = PassSpec("swap_router", {"method": "mine.tess:nearest", "shift": 1.5, "layers": [0]})
    after = changed(module, spec)
    assert find_mixtures(after.graph)[0].router.op.name == "nearest"
    weights = weights_of(module)
    np.testing.assert_allclose(
        outputs(module, weights, "onnx", spec), outputs(module, weights, "torch", spec), atol=1e-4
    )
    # And back: the rows of the gate make logits again.
    back = PassSpec("swap_router", {"layers": [0]})
    np.testing.assert_allclose(
        outputs(module, weights, "onnx", spec, back), outputs(module, weights, "torch"), atol=1e-4
    )
    with pytest.raises(Diagnostic, match="needs `shift: real`"):
        apply(module, "swap_router", method="mine.tess:nearest")


# What is refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "options", "code", "told"),
    [
        (DENSE, "add_null_experts", {"m": 2}, "E0720", "found no mixture"),
        (DENSE, "upcycle", {}, "E0705", "how many experts"),
        (DENSE, "upcycle", {"experts": 2, "k": 3}, "E0704", "becomes 2 experts"),
        (DENSE, "upcycle", {"experts": 5, "method": "split"}, "E0722", "12 neurons of `biased`"),
        (DENSE, "upcycle", {"experts": 2, "layers": [9]}, "E0704", "5 feed-forward blocks"),
        ("model m(x: f32[B]) -> f32[B] { return exp(x) }", "upcycle", {"experts": 2}, "E0722", "no dense"),
        (ROUTED, "add_null_experts", {}, "E0705", "how many null"),
        (ROUTED, "add_null_experts", {"m": -1}, "E0704", "at least 0"),
        (ROUTED, "add_null_experts", {"m": 2, "k": 7}, "E0704", "4 experts and 2 null ones"),
        (ROUTED, "add_null_experts", {"m": 2, "layers": [3]}, "E0704", "3 mixtures"),
        (ROUTED.replace("soft", "same").replace("hidden=6, score=\"chosen\", shared=5) as chosen", "hidden=6) as same"),
         "add_null_experts", {"m": 2}, "E0206", "declared twice"),
        (ROUTED, "swap_router", {"method": "token_chioce"}, "E0201", "no router"),
        (ROUTED, "swap_router", {"method": "std.moe.route.without_null"}, "E0716", "parameter `k: int`"),
        (ROUTED, "swap_router", {"method": "std.moe.route.expert_choice"}, "E0716", "`Routes`"),
        (ROUTED, "swap_router", {"k": 5}, "E0704", "scores 4 experts"),
        (ROUTED, "swap_router", {"score": "relu"}, "E0501", "score is softmax"),
        (ROUTED, "swap_router", {"soft": 1}, "E0702", "no option `soft`"),
        (ROUTED, "prune_experts", {}, "E0705", "either"),
        (ROUTED, "prune_experts", {"keep": 2, "drop": [1]}, "E0705", "either"),
        (ROUTED, "prune_experts", {"drop": [4]}, "E0704", "names expert 4"),
        (ROUTED, "prune_experts", {"drop": [0, 1, 2, 3]}, "E0704", "leaves no expert"),
        (ROUTED, "prune_experts", {"keep": 2, "scores": "nowhere.json"}, "E0001", "nowhere.json"),
        (DENSE, "grow", {"times": 2}, "E0724", "no parameter tokens"),
        (DENSE, "grow", {}, "E0705", "neither"),
        (DENSE, "grow", {"times": 2, "tokens": 8}, "E0705", "both"),
        (ROUTED, "merge_experts", {}, "E0705", "how many experts are left"),
        (ROUTED, "merge_experts", {"keep": 3}, "E0704", "runs of one size"),
        (ROUTED, "merge_experts", {"keep": 5}, "E0704", "has 4 experts"),
    ],
)  # fmt: skip
def test_what_does_not_go(text: str, name: str, options: dict[str, Any], code: str, told: str) -> None:
    with pytest.raises(Diagnostic, match=told) as caught:
        apply(loads(text), name, **options)
    assert caught.value.code == code
    # Of an op of the library nobody changes the signature: others are named.
    assert code != "E0716" or "the routers are" in (caught.value.help or "")


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (("add_null_experts", {"m": 2}), ("add_null_experts", {"m": 2}), "has `without_null`"),
        (("swap_router", {"groups": 2, "limit": 1}), ("add_null_experts", {"m": 2}), "lie in none"),
        (("merge_experts", {"keep": 2}), ("prune_experts", {"drop": [1]}), "has `renumbered`"),
        (("merge_experts", {"keep": 2}), ("add_null_experts", {"m": 1}), r"has `renumbered`(.|\n)*before experts are merged"),
        (("swap_router", {"method": "sparse_mixer"}), ("prune_experts", {"drop": [1]}), r"has `sparse_mixer`(.|\n)*swap_router\("),
        (("swap_router", {"method": "sparse_mixer"}), ("add_null_experts", {"m": 1}), r"has `sparse_mixer`(.|\n)*swap_router\("),
    ],
)
def test_changes_that_do_not_follow_one_another(first: Any, second: Any, told: str) -> None:
    module, _ = apply(loads(ROUTED), first[0], **first[1])
    with pytest.raises(Diagnostic, match=told) as caught:
        apply(module, second[0], **second[1])
    assert caught.value.code == "E0721"
    assert caught.value.help
    if "swap_router(" in caught.value.help:
        # What it advises helps.
        (advised,) = parse_passes([re.findall(r"swap_router\([^)]*\)", caught.value.help)[0]])
        module, _ = apply(module, advised.name, **advised.options)
        assert apply(module, second[0], **second[1])[1].modified == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "holds a list"),
        ("{", "no JSON"),
        ('{"softer": {}}', "says nothing of the experts of `soft`"),
        ('{"soft": {"saliency": [1, 2, 3, 4]}}', "no `load`"),
        ('{"soft": {"load": [1, 2, 3]}}', "must be 4 numbers"),
        ('{"soft": {"load": [1, 2, 3, "4"]}}', "must be 4 numbers"),
        ('{"soft": {"load": [1, 2, 3, NaN]}}', "must be 4 numbers"),
        ('{"soft": {"load": [1, 2, 3, 4]}}', "4 lists of 4 numbers"),
        ('{"soft": {"load": [1, 2, 3, 4], "similarity": [[1], [1], [1], [1]]}}', "must be 4 numbers"),
    ],
)
def test_files_of_measured_experts_that_are_none(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(Diagnostic, match=told) as caught:
        apply(loads(ROUTED), "merge_experts", keep=2, scores=str(tmp_path / "s.json"), layers=[0])
    assert caught.value.code == "E0723"


def test_shared_weights_stay_as_they_are() -> None:
    text = """
use std.moe.experts (gated)
use std.moe.route (token_choice)
use std.nn (affine)
model m(x: f32[N, 8]) -> (y: f32[N, 8]) {
    param gate: f32[4, 8] = normal(0.02)
    param a: f32[4, 8, 12] = normal(0.02)
    param b: f32[4, 6, 8] = normal(0.02)
    x = gated(x, token_choice(affine(x, gate), k=2), a, b)
    return gated(x, token_choice(affine(x, gate), k=2), a, b)
}
"""
    with pytest.raises(Diagnostic, match="read in 2 places") as caught:
        apply(loads(text), "add_null_experts", m=2)
    assert caught.value.code == "E0720"
