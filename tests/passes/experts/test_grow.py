"""`grow` and `attach_lora`: what changes nothing until it is trained; and what is measured of experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import tessera as ts
from tessera.driver.report.expert_scores import expert_scores, scored
from tessera.frontends.source import loads, print_module
from tessera.ir.compiling import PassSpec
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module
from tessera.passes.engine import apply, run_pipeline
from tessera.runtime.weights.bind import initialise

TOKENS = """
use std.nn (pattention)
model m(x: f64[B, T, 8]) -> (y: f64[B, T, 8]) {
    x = x + pattention(x, tokens=8, out=8FORM) as attn
    return x + pattention(x, tokens=12, out=8) as mlp
}
"""
LINEAR = """
use std.nn (mlp, linear)
model m(x: f32[B, T, 8]) -> (y: f32[B, T, 8]) {
    x = x + mlp(x, hidden=12) as mlp
    return linear(x, out=8) as head
}
"""


def values(module: Module) -> dict[str, np.ndarray]:
    return {name: t.numpy() for name, t in initialise(module.graph, 3).items()}


def outputs(module: Module, x: np.ndarray, *passes: PassSpec, target: str = "torch", weights: Any = None) -> np.ndarray:
    weights = values(module) if weights is None else weights
    return np.asarray(ts.compile(module, target=target, weights=weights, passes=list(passes), verify=False)(x)["y"])


@pytest.mark.parametrize("form", ["l2_norm_gelu", "gelu_l2_norm"])
def test_grown_tokens_change_nothing(form: str) -> None:
    """Three times in a row, to the last bits of f64; the scale stays what it was."""
    module = loads(TOKENS.replace("FORM", f', form="{form}"'))
    x = np.random.default_rng(0).standard_normal((2, 5, 8))
    passes = [
        PassSpec("grow", {"times": 2}),
        PassSpec("grow", {"tokens": 40}),
        PassSpec("grow", {"times": 1.5, "only": ["mlp.*"]}),
    ]
    after, reports = run_pipeline(module, passes, verify_each=True)
    assert reports[0].facts["tokens"] == {"attn.key_param_tokens": [8, 16], "mlp.key_param_tokens": [12, 24]}
    assert reports[2].facts["tokens"] == {"mlp.key_param_tokens": [40, 60]}
    assert loads(print_module(after)).difference(after) is None
    np.testing.assert_allclose(outputs(module, x, *passes), outputs(module, x), rtol=0, atol=1e-12)
    # ONNX Runtime has no `erf` of f64.
    single, x = loads(TOKENS.replace("FORM", f', form="{form}"').replace("f64", "f32")), x.astype(np.float32)
    np.testing.assert_allclose(outputs(single, x, *passes, target="onnx"), outputs(single, x), rtol=1e-5, atol=1e-5)
    weights = values(module)
    grown = initialise(after.graph, 3)
    assert {name for name in weights if grown[name].shape != weights[name].shape} == {
        f"{scope}.{which}_param_tokens" for scope in ("attn", "mlp") for which in ("key", "value")
    }


def test_what_cannot_grow_is_refused() -> None:
    cases = {
        TOKENS.replace("FORM", ', form="softmax"'): "weighs its tokens by `softmax`",
        """
use std.nn (parameter_attention)
model m(x: f32[B, 8]) -> f32[B, 8] {
    param keys: f32[8, 8] = normal(1.0)
    param tokens: f32[8, 8] = normal(1.0)
    return parameter_attention(x, keys, tokens, sqrt(full([], 8.0, dtype=f32)))
}
""": "is computed, and no buffer",
        """
use std.nn (parameter_attention)
model m(x: f32[B, 8]) -> f32[B, 8] {
    param keys: f32[8, 8] = normal(1.0)
    buffer tau: f32[] = ones
    return parameter_attention(parameter_attention(x, keys, keys, tau), keys, keys, tau)
}
""": "no parameters of their own",
    }
    for text, told in cases.items():
        with pytest.raises(Diagnostic, match=told) as caught:
            apply(loads(text), "grow", times=2)
        assert caught.value.code == "E0724"
    with pytest.raises(Diagnostic, match="but `attn") as caught:
        apply(loads(TOKENS.replace("FORM", "")), "grow", tokens=4)
    assert caught.value.code == "E0704"


@pytest.mark.parametrize(
    "options",
    [{"rank": 4}, {"rank": 4, "alpha": 8.0, "targets": ["mlp.*"]}, {"rank": 2, "experts": 3, "k": 2}],
    ids=str,
)
def test_adapters_change_nothing_until_they_are_trained(options: dict[str, Any]) -> None:
    module = loads(LINEAR)
    spec = PassSpec("attach_lora", options)
    after, (report,) = run_pipeline(module, [spec], verify_each=True)
    assert report.facts["linears"] == [
        "mlp.fc1.weight",
        "mlp.fc2.weight",
        *([] if "targets" in options else ["head.weight"]),
    ]
    assert loads(print_module(after)).difference(after) is None
    x = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
    for target in ("torch", "onnx"):
        np.testing.assert_array_equal(outputs(module, x, spec, target=target), outputs(module, x, target=target))


@pytest.mark.parametrize("experts", [1, 3])
def test_a_second_adapter_stands_beside_the_first(experts: int) -> None:
    module = loads(LINEAR)
    spec = PassSpec("attach_lora", {"rank": 2, "experts": experts})
    first, second = run_pipeline(module, [spec, spec], verify_each=True)[1]
    assert first.facts["linears"] == second.facts["linears"]
    x = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
    for target in ("torch", "onnx"):
        np.testing.assert_array_equal(outputs(module, x, spec, spec, target=target), outputs(module, x, target=target))


def test_a_trained_adapter_is_added() -> None:
    """`W x + alpha / rank B A x`, and with several adapters the weighted sum of those that were chosen."""
    module = loads("use std.nn (linear)\nmodel m(x: f32[B, 8]) -> (y: f32[B, 6]) { return linear(x, out=6) as head }")
    x = np.random.default_rng(0).standard_normal((7, 8)).astype(np.float32)
    for experts, k in ((1, 1), (3, 2)):
        after, _ = apply(module, "attach_lora", rank=2, alpha=3.0, experts=experts, k=k)
        rng = np.random.default_rng(1)
        w = {
            n: rng.standard_normal([int(d) for d in p.type.shape]).astype(np.float32)
            for n, p in after.graph.params.items()
        }
        after.recipes.clear()
        want = x @ w["head.weight"].T + w["head.bias"]
        if experts == 1:
            want = want + x @ w["head.lora_a"].T @ w["head.lora_b"].T * 1.5
        else:
            scores = x @ w["head.lora_gate"].T
            chosen = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            share = np.exp(np.take_along_axis(scores, chosen, 1))
            share = share / share.sum(1, keepdims=True)
            for t in range(7):
                parts = [x[t] @ w["head.lora_a"][e] @ w["head.lora_b"][e] for e in chosen[t]]
                want[t] += 1.5 * (share[t] @ np.array(parts))
        for target in ("torch", "onnx"):
            np.testing.assert_allclose(outputs(after, x, target=target, weights=w), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("experts", "router"), [(1, "linear"), (3, "linear"), (3, "standardized")])
def test_trained_adapters_come_from_files_of_their_own(experts: int, router: str, tmp_path: Path) -> None:
    """Of PEFT's names and shapes, of several with a gate each: what the model computes is the sum that a loop says."""
    module = loads("use std.nn (linear)\nmodel m(x: f32[B, 8]) -> (y: f32[B, 6]) { return linear(x, out=6) as head }")
    rng = np.random.default_rng(2)
    base = {"head.weight": (6, 8), "head.bias": (6,)}
    parts = {"lora_A.weight": (2, 8), "lora_B.weight": (6, 2), "lora_gate": (8,)}
    called = "base_model.model.{}" if experts == 1 else "expert.{i}.{}"
    files: list[dict[str, np.ndarray]] = [{n: rng.standard_normal(s).astype(np.float32) for n, s in base.items()}]
    for i in range(experts):
        stem = called.replace("{i}", str(i)).replace("{}", "head")
        files.append({f"{stem}.{n}": rng.standard_normal(s).astype(np.float32) for n, s in parts.items()})
    for i, held in enumerate(files):
        save_file(held, tmp_path / f"{i}.safetensors")
    x = rng.standard_normal((7, 8)).astype(np.float32)
    want = x @ files[0]["head.weight"].T + files[0]["head.bias"]
    a, b, gate = ([next(v for n, v in f.items() if n.endswith(tail)) for f in files[1:]] for tail in parts)
    if experts == 1:
        want = want + 2 * x @ a[0].T @ b[0].T
    else:
        rows, gates = x, np.stack(gate)
        if router == "standardized":
            rows, gates = ((v - v.mean(1, keepdims=True)) / np.sqrt(v.var(1, keepdims=True) + 1e-5) for v in (rows, gates))
        scores = rows @ gates.T * (8**-0.5 if router == "standardized" else 1)
        for t, best in enumerate(np.argsort(-scores, axis=1, kind="stable")[:, :2]):
            share = np.exp(scores[t, best] - scores[t].max())
            want[t] += sum(2 * s * x[t] @ a[e].T @ b[e].T for s, e in zip(share / share.sum(), best, strict=True))
    options = {"rank": 2, "alpha": 4.0, "experts": experts, "k": min(experts, 2), "router": router, "weights": called}
    spec = PassSpec("attach_lora", options)
    after, (report,) = run_pipeline(module, [spec], verify_each=True)
    assert report.contract == "approximate"
    assert loads(print_module(after)).difference(after) is None
    paths = [str(tmp_path / f"{i}.safetensors") for i in range(experts + 1)]
    for target in ("torch", "onnx"):
        run = ts.compile(module, target=target, weights=paths, passes=[spec], verify=False)
        np.testing.assert_allclose(run(x)["y"], want, rtol=1e-4, atol=1e-4)
    with pytest.raises(Diagnostic, match="lora_"):
        ts.compile(module, target="torch", weights=paths[:-1], passes=[spec], verify=False)


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        ({"rank": 2, "weights": "base_model"}, "E0704", "does not name 1 adapters"),
        ({"rank": 2, "weights": "{}", "experts": 2}, "E0704", "does not name 2 adapters"),
        ({"rank": 2, "weights": "{i}.{}"}, "E0704", "does not name 1 adapters"),
        ({}, "E0705", "the rank"), ({"rank": 0}, "E0704", "at least 1"), ({"rank": 2, "k": 2}, "E0704", "there are 1 adapters"),
        ({"rank": 2, "targets": ["attn.*"]}, "E0722", "of these names: there are head.weight"),
    ],
)  # fmt: skip
def test_adapters_that_cannot_be(options: dict[str, Any], code: str, told: str) -> None:
    with pytest.raises(Diagnostic, match=told) as caught:
        apply(loads(LINEAR), "attach_lora", **options)
    assert caught.value.code == code


def test_experts_are_measured_on_data(tmp_path: Any) -> None:
    """Loads, lengths of what each added, and which experts' scores go together; `prune_experts` reads what it wrote."""
    import json

    module = loads("""
use std.moe.experts (mixture)
model m(x: f32[B, T, 8]) -> (y: f32[B, T, 8]) { return mixture(x, experts=4, k=2, hidden=6) as moe }
""")
    weights = values(module)
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((2, 3, 8)).astype(np.float32) for _ in range(2)]
    run = ts.compile(scored(module), target="torch", weights=weights, passes=[], verify=False)
    (row,) = expert_scores(module, run, batches).values()
    x = np.concatenate([b.reshape(-1, 8) for b in batches]).astype(np.float64)
    logits = x @ weights["moe.gate.weight"].T
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, :2]
    share = np.exp(np.take_along_axis(logits, chosen, 1))
    share = share / share.sum(1, keepdims=True)
    added = np.zeros(4)
    for t in range(len(x)):
        for e, s in zip(chosen[t], share[t], strict=True):
            gate, up = np.split(x[t] @ weights["moe.experts.gate_up"][e], 2)
            added[e] += np.linalg.norm(s * (gate / (1 + np.exp(-gate)) * up) @ weights["moe.experts.down"][e])
    load = np.bincount(chosen.ravel(), minlength=4)
    assert row["load"] == load.tolist()
    np.testing.assert_allclose(row["saliency"], added / np.maximum(load, 1), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(row["similarity"], np.corrcoef(logits.T), rtol=1e-3, atol=1e-4)
    # What a report tells of routers will do too.
    (tmp_path / "report.json").write_text(json.dumps({"routers": [{"router": "moe", "load": row["load"]}]}))
    least = [int(e) for e in sorted(np.argsort(-load, kind="stable")[:3])]
    assert apply(module, "prune_experts", keep=3, scores=str(tmp_path / "report.json"))[1].facts["kept"] == {"moe": least}
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"moe": row}))
    worst = [int(e) for e in sorted(np.argsort(row["saliency"])[-3:])]
    assert apply(module, "prune_experts", keep=3, scores=str(path), by="saliency")[1].facts["kept"] == {"moe": worst}
