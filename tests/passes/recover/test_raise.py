"""Recovering composites: every rule fires on the form it is for, the result is the same function, the zoo comes back."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tessera.frontends.source import load, loads, models, print_module
from tessera.ir.compiling import PassSpec
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module
from tessera.ir.library import RAISING, rule, rules_of
from tessera.passes.engine import apply
from tessera.passes.recover.composites import explain
from tessera.passes.recover.report import RAISED
from tessera.specs import catalog

from ..conftest import passed, run, weights_of
from .raise_cases import CASES, HEADER, HEADS, Case
from .raise_decomposed_cases import DECOMPOSED
from .raise_variant_cases import VARIANTS

RAISE = PassSpec("raise_composites")
FORMS = {**CASES, **DECOMPOSED, **VARIANTS}
SIZES = {"B": 2, "T": 5, "S": 6}


def program(body: str, type: str = HEADS) -> Module:
    return loads(f"use std.nn (gelu, softmax)\n{HEADER}{type} {{ {body} }}")


def inputs_of(module: Module, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for value in module.graph.inputs:
        shape = [d.evaluate(sizes) for d in value.type.shape]
        kind = value.type.dtype.kind
        arrays[value.name] = rng.standard_normal(shape).astype(np.float32)
        if kind == "bool":
            arrays[value.name] = rng.random(shape) < 0.7
            # The first key may be seen: what a row without keys gives is another test.
            arrays[value.name][..., 0] = True
        elif kind == "int":
            arrays[value.name] = (rng.random(shape) < 0.7).astype(np.int64)
            arrays[value.name][..., 0] = 1
    return arrays


def agree(before: Module, after: Module, tolerance: float, sizes: dict[str, int] = SIZES) -> None:
    inputs, weights = inputs_of(before, sizes), weights_of(before)
    want, got = run(before, weights, **inputs), run(after, weights, **inputs)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=tolerance, atol=tolerance)


def composites(module: Module) -> Counter[str]:
    return Counter(n.op.name for n in module.graph.nodes() if n.op.qualified in RAISED)


@pytest.mark.parametrize("name", FORMS)
def test_form(name: str) -> None:
    case: Case = FORMS[name]
    before = program(case.body, case.type)
    after, (report,) = passed(before, RAISE)
    missing = set(case.rules.split()) - set(report.facts["rules"])
    assert not missing, f"{missing} did not fire, but {report.facts['rules']}\n{print_module(after)}"
    assert composites(after) == Counter(case.composites.split())
    assert not any(n.op.family == "composite" and n.op.module in RAISING for n in after.graph.nodes())
    agree(before, after, case.tolerance)
    assert loads(print_module(after)) == after


def test_every_rule_fires_in_some_form() -> None:
    tested = {name for case in FORMS.values() for name in case.rules.split()}
    assert tested == {name for unit in RAISING for name in rules_of(unit)}


SMALL = {
    "llama": {"depth": 2, "dim": 32, "heads": 4, "kv_heads": 2, "hidden": 48, "vocab": 99},
    "minilm": {"depth": 2},
    "bert": {"depth": 2},
    "gpt2": {"depth": 2},
    "vit": {"depth": 2},
    "deit": {"depth": 2},
    "clip_vision": {"depth": 2},
    "clip_vision_projected": {"depth": 2},
    "siglip_vision": {"depth": 2},
    "segmenter": {"depth": 2},
    "dna": {"depth": 2},
    "clip_text": {"text_depth": 2},
    "clip_text_projected": {"text_depth": 2},
    "clip": {"depth": 2, "text_depth": 2},
    "llava": {"depth": 2, "text_depth": 2},
    "qwen2_vl": {"depth": 2, "text_depth": 2},
    "llava_prompt": {"depth": 2, "text_depth": 2, "image_at": 3},
    "qwen2_vl_prompt": {"depth": 2, "text_depth": 2, "image_at": 3},
    "mixtral_lm": {"depth": 2},
    "qwen3_moe_lm": {"depth": 2},
    "olmoe_lm": {"depth": 2},
    "qwen2_moe_lm": {"depth": 2},
    "granitemoe_lm": {"depth": 2},
    "phimoe_lm": {"depth": 2},
    "gpt_oss_lm": {"depth": 2},
    "deepseek_v2_lm": {"depth": 2},
    "deepseek_v3_lm": {"depth": 2, "dense": 1},
}
# Composites of one line that the rules do not look for.
UNSOUGHT = {"mean_pool", "unit_length", "l2_normalize", "bicubic_matrix", "bilinear_matrix", "base_number"}
ZOO = [
    (path, model)
    for path in catalog.names()
    if path.startswith("zoo/")
    for model in models(catalog.find(path)[0])
]


@pytest.mark.parametrize(("path", "model"), ZOO, ids=[m for _, m in ZOO])
def test_the_zoo_comes_back_from_its_primitives(path: str, model: str) -> None:
    file = catalog.find(path)[0]
    module = load(file, model, SMALL.get(model) or SMALL.get(path.removeprefix("zoo/")))
    inlined, _ = apply(module, "inline")
    raised, _ = passed(inlined, RAISE)
    want = Counter(n.op.name for n in module.graph.nodes() if n.op.family == "composite" and n.op.name not in UNSOUGHT)
    found = composites(raised)
    if path == "zoo/gpt2":
        # Its weights are stored the other way round, which the spec multiplies with by itself.
        want["affine"] += 8
    if path == "zoo/gpt_oss":
        # The share of a sink is made of the sums in attention, which no rule looks for.
        del want["attention"]
    # What is written in primitives may be another composite by itself: `maximum(x, 0)` in a matrix of weights.
    want["relu"] += any(n.op.name == "bilinear_matrix" for n in module.graph.nodes())
    assert found == want
    causal = [n.attrs["causal"] for n in raised.graph.nodes() if n.op.name == "attention"]
    assert causal == [n.attrs["causal"] for n in module.graph.nodes() if n.op.name == "attention" and "attention" in want]


# What is left, and why -------------------------------------------------------------------------------------------------


def test_a_model_without_composites_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(Diagnostic) as caught:
        apply(program("return tanh(x) * y", "f32[B, T, 8]"), RAISE)
    assert caught.value.code == "E0715"
    assert "softmax(q @ transpose(k)) @ v" in caught.value.message
    with pytest.raises(Diagnostic) as caught:
        apply(program("return erf(x * 0.7) * x", "f32[B, T, 8]"), RAISE)
    note = caught.value.notes[0]
    assert caught.value.code == "E0715"
    assert "this `erf` belongs to none" in note.message
    assert note.span is not None


def test_what_is_left_is_told_with_its_reason() -> None:
    body = "s = q @ transpose(k, perm=[0, 1, 3, 2])  return softmax(abs(s), axis=-1) @ v"
    _, report = apply(program(body), RAISE)
    assert report.facts["left"] == {"attention": 1}
    assert "where this is `abs`" in report.notes[0]
    _, report = apply(program("return softmax(q, axis=-1)"), RAISE)
    assert "nothing is multiplied with this softmax" in report.notes[0]
    _, report = apply(program("return softmax(x, axis=-1) @ m", "f32[B, T, 8]"), RAISE)
    assert "taken of something else than products of queries and keys" in report.notes[0]
    weights = "softmax(q @ transpose(k, perm=[0, 1, 3, 2]), axis=-1)"
    mix = "full([4, 4], 0.5, dtype=f32), full([4], 0.1, dtype=f32)"
    mixed = f"transpose(affine(transpose({weights}, perm=[0, 2, 3, 1]), {mix}), perm=[0, 3, 1, 2])"
    module = loads(f"use std.nn (affine, softmax)\n{HEADER}{HEADS} {{ return {mixed} @ v }}")
    assert "(talking heads)" in apply(module, RAISE)[1].notes[0]


def test_roots_of_other_things_are_no_norms() -> None:
    body = "return relu(x) / sqrt(sum(x * x, axis=-1, keepdims=true))"
    module = loads(f"use std.nn (relu){HEADER}f32[B, T, 8] {{ {body} }}")
    assert apply(module, RAISE)[1].facts["left"] == {}
    body = "return relu(x) / sqrt(mean(x * x, axis=1, keepdims=true) + 1e-5)"
    module = loads(f"use std.nn (relu){HEADER}f32[B, T, 8] {{ {body} }}")
    _, report = apply(module, RAISE)
    assert report.facts["left"] == {"norm": 1}
    assert "[B, T] was expected by `divided_by_sqrt`" in report.notes[0]


def test_weights_that_are_asked_for_are_not_taken_in() -> None:
    body = "p = softmax(q @ transpose(k, perm=[0, 1, 3, 2]), axis=-1)  tap weights = p  return p @ v"
    after, report = apply(program(body), RAISE)
    assert composites(after) == {"softmax": 1}
    assert "`softmax` is read elsewhere too" in report.notes[0]


def test_explaining_a_rule_by_its_name() -> None:
    module = program("return softmax((q @ transpose(k, perm=[0, 1, 3, 2])) * 0.5 + bias, axis=-1) @ v")
    assert str(explain(module, rule("scores_bias", module))).startswith("`scores_bias` matches 1 time(s)")
    told = str(explain(module, rule("scores_masked", module)))
    assert told.startswith("`scores_masked` matches nowhere;")
    assert rule("std.recover.scores.scores_bias", module) is rule("scores_bias", module)


def test_a_second_run_finds_nothing_to_do() -> None:
    first, _ = apply(program(CASES["attention, bias"].body), RAISE)
    second, report = apply(first, RAISE)
    assert report.modified == 0
    assert second == first
