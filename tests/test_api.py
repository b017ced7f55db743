"""The public Python API: ``import tessera as ts``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts

SOURCE = """\
use std.nn (gelu, linear)

## A tiny model.
model tiny(x: float[B, T, 8], *, classes: int = 3) -> float[B, T, classes] {
    h = gelu(linear(x, out=16) as inner)
    return linear(h, out=classes) as head
}
"""
VIT = {"size": 64, "depth": 2, "classes": 5}


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)


def test_every_public_name_is_there_and_documented() -> None:
    for name in ts.__all__:
        value = getattr(ts, name)
        assert name in dir(ts)
        if inspect.isfunction(value) or inspect.isclass(value):
            assert value.__doc__, name
    assert callable(ts.compile)
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = ts.nosuch
    assert ts.__version__


def test_load_by_path_by_name_and_from_text(tmp_path: Path) -> None:
    path = tmp_path / "tiny.tess"
    path.write_text(SOURCE)
    assert ts.load(path) == ts.loads(SOURCE)
    assert ts.load(str(path), params={"classes": 4}).graph.outputs[0].type.shape[2] == 4
    assert ts.load("vit_s16").name == "vit_s16"
    assert ts.load("zoo/vit", "vit_b16").name == "vit_b16"
    assert ts.models("vit") == ["vit", "vit_s16", "vit_b16", "vit_l16", "vit_classifier"]
    assert [m.name for m in ts.check(path)] == ["tiny"]
    assert str(ts.loads(SOURCE, dtype="f16").graph.inputs[0].type) == "f16[B, T, 8]"


def test_what_is_not_there() -> None:
    with pytest.raises(ts.Diagnostic) as error:
        ts.load("vit_s61")
    assert error.value.code == "E0001"
    assert error.value.help == "did you mean `vit_s16`?"


def test_source_and_print(capsys: pytest.CaptureFixture[str]) -> None:
    module = ts.loads(SOURCE)
    assert ts.loads(ts.source(module)) == module
    ts.print(module)
    assert capsys.readouterr().out == ts.source(module)


def test_apply_leaves_the_module_as_it_is() -> None:
    module = ts.load("vit_s16", params=VIT)
    before = ts.source(module)
    merged = ts.apply(module, "merge_tokens", r=4, protect=1)
    assert ts.source(module) == before
    assert "bipartite_merge" in ts.source(merged)
    with pytest.raises(ts.Diagnostic, match="E0702"):
        ts.apply(module, "merge_tokens", rr=4)


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_compile_call_save_open(target: str, x: np.ndarray, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    module = ts.loads(SOURCE)
    weights = {
        n: rng.standard_normal([int(d) for d in p.type.shape]).astype(np.float32)
        for n, p in module.graph.params.items()
    }
    artifact = ts.compile(module, target=target, weights=weights)
    assert artifact.report.verified
    assert [str(s) for s in artifact.inputs] == ["x: f32[B, T, 8]"]
    result = artifact(x=x)["output"]
    np.testing.assert_array_equal(artifact(x)["output"], result)
    path = artifact.save(tmp_path / f"tiny{artifact.suffix}")
    opened = ts.open(path)
    np.testing.assert_array_equal(opened({"x": x})["output"], result)
    assert opened.metadata["tessera.model"] == "tiny"
    # Against the formula, written out.
    inner = x @ weights["inner.weight"].T + weights["inner.bias"]
    from math import erf

    inner = inner * 0.5 * (1 + np.vectorize(erf)(inner / np.sqrt(2)))
    np.testing.assert_allclose(result, inner @ weights["head.weight"].T + weights["head.bias"], rtol=0, atol=1e-4)


def test_a_mapping_gives_the_inputs(x: np.ndarray) -> None:
    artifact = ts.compile(ts.loads(SOURCE), verify=False)
    np.testing.assert_array_equal(artifact({"x": x})["output"], artifact(x=x)["output"])
    with pytest.raises(ts.Diagnostic, match="given twice"):
        artifact({"x": x}, x=x)
    with pytest.raises(ts.Diagnostic, match="has no input `y`"):
        artifact({"y": x})


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_inputs_tell_states_and_random_inputs(target: str) -> None:
    text = "model m(x: f32[B, 4]) -> f32[B, 4] {\n    state s: f32[B, 4] = zeros\n    random u: f32[B, 4] = uniform(0, 1)\n"
    artifact = ts.compile(ts.loads(f"{text}    s = s + x\n    return s + u\n}}\n"), target=target, verify=False)
    assert [(i.name, i.role) for i in artifact.inputs] == [("x", "input"), ("s", "state"), ("u", "random")]
    assert artifact(np.ones((1, 4), np.float32)).keys() >= {"output", "s"}


def test_a_program_is_told_in_one_line() -> None:
    assert repr(ts.loads(SOURCE)) == "<model tiny(x: f32[B, T, 8]) -> (output: f32[B, T, 3]), 4 parameters>"
    one = "model a(x: f32[B]) -> f32[B] { return x }\n"
    assert repr(ts.loads(f"{one}program p {{ entry e = a  entry f = a }}\n")) == "<program p: e, f>"


@pytest.mark.parametrize("ask", ["load", "open", "check", "models"])
@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.ckpt", "m.pt2"])
def test_pickles_are_refused(ask: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ts.Diagnostic, match="pickle") as refused:
        getattr(ts, ask)(tmp_path / name)
    assert refused.value.code == "E0930"


def test_saving_twice_and_to_output(x: np.ndarray, tmp_path: Path) -> None:
    artifact = ts.compile(ts.loads(SOURCE), output=tmp_path / "a.onnx")
    first = (tmp_path / "a.onnx").read_bytes()
    assert artifact.report.size == len(first)
    artifact.save(tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx").read_bytes() == first
    assert artifact(x=x)["output"].shape == (2, 5, 3)
    assert {p.name for p in tmp_path.iterdir()} == {"a.onnx", "b.onnx"}


def test_an_artifact_stays_itself_whatever_becomes_of_its_file(x: np.ndarray, tmp_path: Path) -> None:
    module, path = ts.loads(SOURCE), tmp_path / "m.onnx"
    first = ts.compile(module, output=path, seed=1)
    second = ts.compile(module, output=path, seed=2)
    gone = ts.compile(module, output=tmp_path / "gone.onnx", seed=1)
    (tmp_path / "gone.onnx").unlink()
    np.testing.assert_array_equal(second(x)["output"], ts.open(path)({"x": x})["output"])
    np.testing.assert_array_equal(first(x)["output"], gone(x)["output"])
    assert not np.array_equal(first(x)["output"], second(x)["output"])


def test_unverified_artifacts_open_when_they_are_called(x: np.ndarray) -> None:
    artifact = ts.compile(ts.loads(SOURCE), verify=False)
    assert artifact.report.verified == []
    assert artifact(x=x)["output"].shape == (2, 5, 3)
    assert repr(artifact) == "<onnx artifact of tiny>"


def test_calls_that_do_not_fit(x: np.ndarray) -> None:
    for target in ("onnx", "torch"):
        artifact = ts.compile(ts.loads(SOURCE), target=target, verify=False)
        cases: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
            ((), {}, "E0901"), ((x, x), {}, "E0901"), ((x,), {"x": x}, "E0901"), ((), {"y": x}, "E0901"),
            ((x[0],), {}, "E0902"), ((x[..., :7],), {}, "E0902"), ((x > 0,), {}, "E0903"),
        ]  # fmt: skip
        for args, named, code in cases:
            with pytest.raises(ts.Diagnostic) as error:
                artifact(*args, **named)
            assert error.value.code == code


def test_passes_in_every_form(x: np.ndarray) -> None:
    from tessera.ir.compiling import PassSpec
    from tessera.passes.engine import make

    module = ts.load("vit_s16", params=VIT)
    image = np.random.default_rng(2).standard_normal((1, 3, 64, 64)).astype(np.float32)
    spec = PassSpec("merge_tokens", {"r": 4, "protect": 1})
    results = [
        ts.compile(module, passes=[form], verify=False)(image)["logits"]
        for form in ("merge_tokens(r=4, protect=1)", spec, make(spec))
    ]
    results.append(ts.compile(ts.apply(module, "merge_tokens", r=4, protect=1), verify=False)(image)["logits"])
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])
    plain = ts.compile(module, passes=[], verify=False)(image)["logits"]
    assert np.abs(plain - results[0]).max() > 1e-4


def test_progress_is_told() -> None:
    stages: list[str] = []
    ts.compile(ts.loads(SOURCE), progress=lambda stage, done, total: stages.append(stage))
    assert stages == [
        "running the passes", "reading the weights", "building for onnx", "writing", "comparing with the reference",
    ]  # fmt: skip


def test_metadata_says_how_to_make_it_again() -> None:
    artifact = ts.compile(ts.load("vit_s16", params=VIT), passes=["merge_tokens(r=4, protect=1)"], verify=False, seed=3)
    assert artifact.metadata["tessera.seed"] == "3"
    again = ts.loads(artifact.metadata["tessera.source"])
    assert again == artifact.module


def test_wrong_targets_and_options() -> None:
    module = ts.loads(SOURCE)
    with pytest.raises(ts.Diagnostic, match="E0012"):
        ts.compile(module, target="tensorrt")
    text = SOURCE + "compile tiny { target onnx(opste=20) }"
    with pytest.raises(ts.Diagnostic, match="E0012"):
        ts.compile(ts.loads(text))
    with pytest.raises(ts.Diagnostic, match="E0012"):
        ts.compile(ts.loads(SOURCE + 'compile tiny { target onnx(opset="new") }'))


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda m: ts.loads(SOURCE, params=[3]), "E0402"),
        (lambda m: ts.load("vit_s16", params=[3]), "E0402"),
        (lambda m: ts.compile(m, passes="dce"), "E0701"),
        (lambda m: ts.compile(m, passes=3), "E0701"),
        (lambda m: ts.apply(m, "dce()"), "E0701"),
        (lambda m: ts.compile(m, passes=[3]), "E0701"),  # type: ignore[list-item]
        (lambda m: ts.compile(m, verify=False)(x=np.zeros((1, 2, 8), "f4"), sizes=[3]), "E0902"),
        (lambda m: ts.compile(m, target="torch", verify=False)(x=np.zeros((1, 2, 8), "f4"), sizes=[3]), "E0902"),
        (lambda m: ts.compile(m, verify=False).session(sizes=[3]), "E0902"),
        (lambda m: ts.compile(m, verify=False).session(states=[3]), "E0901"),
    ],
)
def test_what_is_given_by_name_is_a_mapping(call: Callable[[ts.Module], Any], code: str) -> None:
    with pytest.raises(ts.Diagnostic) as caught:
        call(ts.loads(SOURCE))
    assert caught.value.code == code
