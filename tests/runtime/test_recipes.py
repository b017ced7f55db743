"""Recipes on checkpoints: what published files store otherwise binds to the model's parameters, streamed."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import tessera as ts
from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module
from tessera.ir.recipe import apply
from tessera.ir.types import bf16, f32
from tessera.runtime.weights.bind import bind, initialise
from tessera.runtime.weights.open import open_weights

RNG = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def program(params: str, rows: str) -> Module:
    """A model that only reads its parameters."""
    lines = params.split(";")
    names = [line.split(":")[0].strip() for line in lines]
    body = "\n".join(f"    param {line.strip()} = zeros" for line in lines)
    total = " + ".join(f"cast(reshape({name}, [-1])[0], f32)" for name in names)
    return loads(f"""
model m(x: f32[B, 1]) -> f32[B, 1] {{
{body}
    return x + {total}
}}
compile m {{ weights {{ {rows} }} }}
""")  # fmt: skip


def bound(params: str, rows: str, weights: Any) -> dict[str, np.ndarray]:
    module = program(params, rows)
    return {name: t.numpy() for name, t in bind(module.graph, weights, recipes=module.recipes).items()}


def refused(params: str, rows: str, weights: Any) -> Diagnostic:
    with pytest.raises(Diagnostic) as caught:
        bound(params, rows, weights)
    return caught.value


# What checkpoints store otherwise --------------------------------------------------------------------------------------

LLAMA = {"vocab": 20, "dim": 16, "depth": 2, "heads": 4, "kv_heads": 2, "head_dim": 4, "hidden": 24}
PACKED = """
    "layers.*.self_attn.q_proj.weight" = split("layers.*.qkv.weight", [16, 8, 8], part=0)
    "layers.*.self_attn.k_proj.weight" = split("layers.*.qkv.weight", [16, 8, 8], part=1)
    "layers.*.self_attn.v_proj.weight" = split("layers.*.qkv.weight", [16, 8, 8], part=2)
"""
ZOO = Path(ts.__file__).parent / "specs" / "zoo"


def separate() -> dict[str, np.ndarray]:
    return {name: t.numpy() for name, t in initialise(ts.load("zoo/llama", "llama", LLAMA).graph).items()}


def packed(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With one tensor for the three projections of each layer."""
    rest = {
        name: array for name, array in weights.items() if not any(p in name for p in ("q_proj", "k_proj", "v_proj"))
    }
    for i in range(LLAMA["depth"]):
        parts = [weights[f"layers.{i}.self_attn.{p}_proj.weight"] for p in "qkv"]
        rest[f"layers.{i}.qkv.weight"] = np.concatenate(parts)
    return rest


def test_a_packed_checkpoint_binds_to_separate_projections(tmp_path: Path) -> None:
    weights = separate()
    save_file({f"model.{name}": array for name, array in packed(weights).items()}, tmp_path / "w.safetensors")
    text = (ZOO / "llama.tess").read_text()
    text = text.replace('        "model.*" => "*"\n', f'        "model.*" => "*"\n{PACKED}', 1)
    (tmp_path / "llama.tess").write_text(text)
    module = ts.load(tmp_path / "llama.tess", "llama", LLAMA)
    feeds = {"input_ids": np.arange(12).reshape(2, 6)}
    want = ts.compile(ts.load("zoo/llama", "llama", LLAMA), weights=weights, verify=False)(**feeds)
    artifact = ts.compile(module, weights=tmp_path / "w.safetensors", verify=False)
    np.testing.assert_array_equal(artifact(**feeds)["last_hidden_state"], want["last_hidden_state"])
    assert not artifact.report.notes


def test_separate_projections_bind_to_a_packed_parameter(tmp_path: Path) -> None:
    weights = separate()
    save_file(weights, tmp_path / "w.safetensors")
    rows = '"qkv" = concat("layers.1.self_attn.q_proj.weight", "layers.1.self_attn.k_proj.weight",'
    rows += ' "layers.1.self_attn.v_proj.weight")'
    found = bound("qkv: f32[32, 16]", rows, open_weights(tmp_path / "w.safetensors"))
    np.testing.assert_array_equal(found["qkv"], packed(weights)["layers.1.qkv.weight"])


def test_separate_experts_stack_into_one_tensor(tmp_path: Path) -> None:
    experts = {f"experts.{i}.w1.weight": draw(6, 4) for i in range(8)}
    save_file({name: array.astype(ml_dtypes.bfloat16) for name, array in experts.items()}, tmp_path / "w.safetensors")
    weights = open_weights(tmp_path / "w.safetensors")
    found = bound("w: f32[8, 6, 4]", '"w" = stack("experts.{0..7}.w1.weight")', weights)
    want = np.stack(list(experts.values())).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(found["w"], want.astype(np.float32))
    counted = bound("w: f32[8, 6, 4]", '"w" = stack("experts.{0..2 * 4 - 1}.w1.weight")', weights)
    np.testing.assert_array_equal(counted["w"], found["w"])
    (again,) = bound("w: f32[6, 4]", '"w" = "all"[5]', {"all": found["w"]}).values()
    np.testing.assert_array_equal(again, found["w"][5])


def test_low_rank_updates_are_merged(tmp_path: Path) -> None:
    w, a, b = draw(12, 8), draw(2, 8), draw(12, 2)
    save_file({"w": w.astype(ml_dtypes.bfloat16)}, tmp_path / "base.safetensors")
    save_file({"lora.a": a, "lora.b": b}, tmp_path / "lora.safetensors")
    weights = open_weights([tmp_path / "base.safetensors", tmp_path / "lora.safetensors"])
    rows = '"w" = "w" + 16 / 2 * ("lora.b" @ "lora.a")'
    want = w.astype(ml_dtypes.bfloat16).astype(np.float32) + 8 * (b @ a)
    np.testing.assert_allclose(bound("w: f32[12, 8]", rows, weights)["w"], want, rtol=1e-6)
    # Rounded once, from f32.
    half = bound("w: bf16[12, 8]", rows, weights)["w"]
    np.testing.assert_array_equal(half, want.astype(ml_dtypes.bfloat16))


def test_tied_and_sharded_weights(tmp_path: Path) -> None:
    embed, norm = draw(5, 3), draw(3)
    save_file({"model.embed": embed}, tmp_path / "m-1.safetensors")
    save_file({"model.norm": norm}, tmp_path / "m-2.safetensors")
    table = {"model.embed": "m-1.safetensors", "model.norm": "m-2.safetensors"}
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    weights = open_weights(tmp_path, [("model.*", "*")])
    rows = '"head" = "embed" "scaled" = "embed" * "norm"'
    found = bound("embed: f32[5, 3]; head: f32[5, 3]; scaled: f32[5, 3]", rows, weights)
    assert np.shares_memory(found["embed"], found["head"])
    np.testing.assert_array_equal(found["scaled"], embed * norm)


def test_initialisers_fill_what_no_file_has() -> None:
    rows = '"a" = normal(0.5) "b" = concat(normal(0.5, shape=[4, 3]), normal(0.5, shape=[4, 3]), "w")'
    module = program("a: f32[4, 3]; b: f32[9, 3]", rows)
    one, other = (bind(module.graph, {"w": draw(1, 3)}, recipes=module.recipes, seed=s) for s in (1, 2))
    a, b = one["a"].numpy(), one["b"].numpy()
    assert 0.1 < a.std() < 1
    np.testing.assert_array_equal(a, one["a"].numpy())
    assert not np.array_equal(b[:4], b[4:8])
    assert not np.array_equal(a, other["a"].numpy())


# Lazily ----------------------------------------------------------------------------------------------------------------


def test_recipes_that_only_move_are_views_of_the_file(tmp_path: Path) -> None:
    save_file({"w": draw(6, 4)}, tmp_path / "w.safetensors")
    weights = open_weights(tmp_path / "w.safetensors")
    found = bound("a: f32[2, 4]; b: f32[4, 6]", '"a" = split("w", 3, part=1) "b" = transpose("w")', weights)
    assert all(np.shares_memory(array, weights["w"]) for array in found.values())


def test_nothing_is_computed_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    module = program("w: f32[4, 3]", '"w" = 2.0 * "v"')
    values = {"v": draw(4, 3)}
    found = bind(module.graph, values, recipes=module.recipes)
    values["v"][:] = 1
    assert found["w"].numpy().tolist() == [[2.0] * 3] * 4
    assert found["w"].nbytes == 48
    assert (found["w"].dtype, found["w"].shape) == (f32, (4, 3))


def test_conversions_are_told(tmp_path: Path) -> None:
    module = program("w: f32[4, 3]", '"w" = transpose("v")')
    found = bind(module.graph, {"v": draw(3, 4).astype(ml_dtypes.bfloat16), "u": draw(2)}, recipes=module.recipes)
    assert found.converted == {(bf16, f32): 1}
    assert found.unexpected == ["u"]


# Refusals --------------------------------------------------------------------------------------------------------------


def test_a_name_that_the_file_does_not_have() -> None:
    error = refused("w: f32[4, 3]", '"w" = transpose("layer.0.v")', {"layers.0.v": draw(3, 4)})
    assert error.code == "E0613"
    assert error.message == "the recipe of `w` reads `layer.0.v`, which the weights do not have"
    assert error.help == "did you mean `layers.0.v`?"
    assert error.span is not None
    error = refused("w: f32[4, 3]", '"w" = transpose("v")', {"some.other.prefix.v": draw(3, 4)})
    assert error.help == (
        'the names in the file begin with `some.other.prefix.`: write `weights "…" { "some.other.prefix.*" => "*" }`'
    )
    error = refused("w: f32[4, 3]", '"w" = transpose("v")', {"abcdef": draw(3, 4)})
    assert error.help == "they have abcdef"


def test_a_pass_that_reads_what_is_missing_is_told_as_missing() -> None:
    module = program("w: f32[6, 4]", "")
    module.recipes["w"] = apply("concat", "a", "b")
    with pytest.raises(Diagnostic) as caught:
        bind(module.graph, {"m.a": draw(3, 4), "m.b": draw(3, 4)}, recipes=module.recipes)
    assert caught.value.code == "E0606"
    assert caught.value.help is not None
    assert '"m.*" => "*"' in caught.value.help


def test_a_recipe_of_another_shape() -> None:
    error = refused("w: f32[4, 3]", '"w" = "v"', {"v": draw(3, 4)})
    assert error.code == "E0606"
    assert error.notes[0].message == "of another shape: w is f32[3, 4] by its recipe, but the model has f32[4, 3]"


@pytest.mark.parametrize("text", ['"v"[:2, :, :]', '"v"[:2][:, :, :]', '"v"[:, :, :]', '"v"[0, 0, :]'])
def test_an_axis_that_is_not_there_is_none_to_take_all_of(text: str) -> None:
    error = refused("w: f32[2, 4]", f'"w" = {text}', {"v": draw(3, 4)})
    assert error.code == "E0615"
    assert refused("w: f32[9]", '"w" = "v"[:2, :]', {"v": draw(3, 4)}).code == "E0606"


def test_tensors_that_do_not_fit() -> None:
    error = refused("w: f32[4, 3]", '"w" = concat("u", "v")', {"u": draw(3, 4), "v": draw(3, 3)})
    assert error.code == "E0615"
    assert error.span is not None
    assert refused("w: f32[2]", '"w" = "v"', {"v": np.arange(2)}).code == "E0607"


# Through the driver ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_artifacts_hold_what_recipes_made(tmp_path: Path, target: str) -> None:
    module = program("w: f32[4, 3]", '"w" = 2.0 * transpose("v")')
    weights = {"v": draw(3, 4)}
    artifact = ts.compile(
        module, target=target, weights=weights, output=tmp_path / f"m{'.onnx' if target == 'onnx' else '.safetensors'}"
    )
    x = np.zeros((2, 1), np.float32)
    np.testing.assert_allclose(artifact(x=x)["output"], x + 2 * weights["v"][0, 0], rtol=1e-5)
    assert '"w" = 2.0 * transpose("v")' in artifact.metadata["tessera.source"]


def test_the_reference_maps_what_recipes_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tessera.driver import mapped as driver

    kept = []
    mapped = driver.mapped

    @contextmanager
    def watched(found: Any, beside: Path) -> Any:
        with mapped(found, beside) as values:
            kept.append(values)
            yield values

    monkeypatch.setattr(driver, "LEAST", 1)
    monkeypatch.setattr(driver, "mapped", watched)
    module = program("w: f32[4, 3]; u: f32[3, 4]", '"w" = 2.0 * transpose("v") "u" = "v"')
    weights = {"v": draw(3, 4)}
    artifact = ts.compile(module, weights=weights, output=tmp_path / "m.onnx")
    assert artifact.report.verified
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert not kept[0]["w"].made
    assert isinstance(kept[0]["w"].numpy().base, np.ndarray)
    np.testing.assert_array_equal(kept[0]["w"].numpy(), 2 * weights["v"].T)
    assert np.shares_memory(kept[0]["u"].numpy(), weights["v"])


def test_recipes_without_a_checkpoint_are_told() -> None:
    text = """model m(x: float[B, 4]) -> float[B, 4] {
    param w: float[4]
    return x * w
}

compile m {
    weights "m.safetensors" {
        "w" = "all"[4:]
    }
}
"""
    # What is printed says what a parameter is made of, not where the file lies.
    again = ts.loads(ts.source(ts.loads(text)))
    assert "recipes read a checkpoint: parameters are initialised with seed 0" in "".join(
        ts.compile(again, verify=False).report.notes
    )
    given = ts.compile(again, weights={"all": np.arange(8, dtype=np.float32)}, verify=False)
    assert given.report.notes == []
    np.testing.assert_array_equal(given(x=np.ones((1, 4), np.float32))["output"], [[4, 5, 6, 7]])
