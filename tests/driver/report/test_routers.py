"""What is told of routers: counts beside a loop in NumPy, before and without a run, on a page, and by the commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import tessera as ts
from tessera.driver.cli import main
from tessera.driver.compile import apply_passes
from tessera.driver.optimize import Options, optimize
from tessera.driver.report import routers
from tessera.driver.report.html import page
from tessera.driver.report.text import render
from tessera.driver.seen import see
from tessera.ir.compiling import PassSpec
from tessera.ir.diagnostics import Diagnostic

TEXT = """
use std.attention (self_attention)
use std.moe.experts (gated, mixture)
use std.moe.route (token_choice, without_null)
use std.nn (linear)
use std.vision (patch_embed)

## Patches of an image through two mixtures, of which the second has two null experts.
model patches(image: f32[B, 3, 16, 16]) -> (scores: f32[B, 16, 4]) {
    x = patch_embed(image, patch=4, out=8) as embed
    x = x + self_attention(x, heads=2) as attn
    x = x + mixture(x, experts=4, k=2, hidden=6) as first
    param gate_up: f32[4, 8, 12] = normal(0.5)
    param down: f32[4, 6, 8] = normal(0.5)
    tokens = reshape(x, [B * 16, 8])
    chosen = token_choice(linear(tokens, out=6, bias=false) as second.gate, k=2, renormalize=false)
    y = gated(tokens, without_null(chosen, experts=4), gate_up, down)
    return linear(x + reshape(y, [B, 16, 8]), out=4) as head
}
"""
IMAGES = np.random.default_rng(0).standard_normal((5, 3, 16, 16)).astype(np.float32)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "patches.tess").write_text(TEXT)
    np.savez(tmp_path / "images.npz", image=IMAGES)
    pixels = np.random.default_rng(1).integers(0, 255, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "patches.tess"


def test_what_is_known_without_a_run() -> None:
    first, second = routers.mixtures(ts.loads(TEXT).graph)
    assert (first["router"], first["experts"], first["null"], first["k"]) == ("first", 4, 0, 2)
    assert (second["router"], second["experts"], second["null"], second["k"]) == ("second", 4, 2, 2)
    # Two products: 8 x 12 and 6 x 8.
    assert first["pair_flops"] == 2 * (8 * 12 + 6 * 8)
    assert (first["most_flops"], first["dense_flops"]) == (2 * first["pair_flops"], 4 * first["pair_flops"])
    assert routers.mixtures(ts.load("vit_classifier").graph) == []


def test_counts_are_those_of_a_loop() -> None:
    """Two batches of six tokens and three; expert 4 and beyond is none."""
    runs = [np.array([[0, 1], [0, 4], [4, 5], [0, 2], [0, 1], [0, 1]]), np.array([[3, 0], [3, 4], [3, 2]])]
    row = {"router": "r", "experts": 4, "null": 2, "k": 2, "pair_flops": 10, "dense_flops": 40}
    (found,) = routers.counted([row], [{"router0": run} for run in runs])
    assert (found["tokens"], found["load"]) == (9, [6, 3, 2, 3])
    assert found["taken"] == pytest.approx(14 / 9)
    assert found["none"] == pytest.approx(1 / 9)
    assert found["flops"] == pytest.approx(10 * 14 / 9)
    assert found["most"] == pytest.approx(6 * 4 / 14)
    share = np.array([6, 3, 2, 3]) / 14
    assert found["entropy"] == pytest.approx(-(share * np.log(share)).sum() / np.log(4))
    # Even shares are 9 / 4 and 5 / 4: 3 and 2 pairs fit, at twice that 5 and 3.
    assert found["dropped"] == pytest.approx({"1": 3 / 14, "1.25": 3 / 14, "2": 0})
    (nothing,) = routers.counted([row], [{"router0": np.full((3, 2), 5)}])
    assert (nothing["none"], nothing["taken"], nothing["entropy"]) == (1, 0, 0)


def test_what_is_counted_is_what_the_program_chose() -> None:
    module = ts.loads(TEXT)
    outputs = ts.compile(routers.traced(module), target="onnx", passes=[], verify=False)(image=IMAGES)
    first, second = routers.counted(routers.mixtures(module.graph), [outputs])
    assert (first["tokens"], sum(first["load"]), first["none"]) == (80, 160, 0)
    true_ones = outputs["router1"][outputs["router1"] < 4]
    np.testing.assert_array_equal(second["load"], np.bincount(true_ones, minlength=4))
    assert second["taken"] < 2


def test_optimize_tells_of_routers(spec: Path) -> None:
    how = Options(calib=spec.parent / "images.npz", rounds=1, memory=False)
    report = optimize(spec, output=spec.parent / "out.onnx", options=how)
    json.dumps(report)
    assert [(row["router"], row["tokens"]) for row in report["routers"]] == [("first", 80), ("second", 80)]
    text = render(report)
    assert "Routers on 5 examples of images.npz" in text
    assert "4 + 2 null" in text
    assert max(map(len, text.split("\n"))) <= 100
    html = page(report)
    assert "<h2>Routers</h2>" in html
    assert "<h2>Routers</h2>" not in page({name: value for name, value in report.items() if name != "routers"})


def test_explain_counts_what_an_input_is_routed_to(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(spec), "--json"]) == 0
    without = json.loads(capsys.readouterr().out)["routers"]
    assert [row["router"] for row in without] == ["first", "second"]
    assert "load" not in without[0]
    np.save(spec.parent / "image.npy", IMAGES)
    assert main(["explain", str(spec), "-i", f"image={spec.parent / 'image.npy'}"]) == 0
    shown = capsys.readouterr().out
    assert "share of each expert, in percent" in shown
    assert main(["explain", "vit_classifier", "-i", f"image={spec.parent / 'image.npy'}"]) == 1
    assert "nothing is routed" in capsys.readouterr().err


def test_explain_writes_what_passes_on_experts_read(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(spec.parent / "image.npy", IMAGES)
    scores = spec.parent / "experts.json"
    assert main(["explain", str(spec), "--scores", str(scores)]) == 2
    assert "add --input" in capsys.readouterr().err
    assert main(["explain", str(spec), "-i", f"image={spec.parent / 'image.npy'}", "--scores", str(scores), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["routers"]
    written = json.loads(scores.read_text())
    assert {row["router"]: row["load"] for row in told} == {name: row["load"] for name, row in written.items()}
    best = {name: sorted(np.argsort(row["saliency"])[-3:].tolist()) for name, row in written.items()}
    prune = PassSpec("prune_experts", {"keep": 3, "by": "saliency", "scores": "experts.json"})
    _, (report,) = apply_passes(ts.load(str(spec)), [prune])
    assert report.facts["kept"] == best


def test_explain_reads_the_program_of_a_file_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights that a recipe made lie in the file under the names that the program has for them."""
    text = """
use std.moe.experts (mixture)
model m(x: f32[B, 3, 8]) -> (y: f32[B, 3, 8]) { return mixture(x, experts=4, k=2, hidden=6) as first }
compile m { weights { "first.gate.weight" = scale("other", by=2.0) } }
"""
    for file in ("m.safetensors", "m.onnx"):
        target = "torch" if file == "m.safetensors" else "onnx"
        ts.compile(ts.loads(text), target=target, verify=False).save(tmp_path / file)
    np.save(tmp_path / "x.npy", IMAGES[:, :, :1, :8].reshape(5, 3, 8))
    shown = []
    for file in ("m.safetensors", "m.onnx"):
        assert main(["explain", str(tmp_path / file), "-i", f"x={tmp_path / 'x.npy'}", "--json"]) == 0
        shown.append(json.loads(capsys.readouterr().out)["routers"])
    assert sum(shown[0][0]["load"]) > 0
    assert shown[0] == shown[1]
    # A weight that is not there as it was.
    proto = onnx.load(tmp_path / "m.onnx")
    (gate,) = (t for t in proto.graph.initializer if t.name.startswith("first.gate.weight"))
    for node in proto.graph.node:
        node.input[:] = ["folded" if name == gate.name else name for name in node.input]
    gate.name = "folded"
    onnx.save(proto, tmp_path / "m.onnx")
    assert main(["explain", str(tmp_path / "m.onnx"), "-i", f"x={tmp_path / 'x.npy'}"]) == 1
    assert "the weights in `m.onnx` cannot be told from its nodes" in capsys.readouterr().err


def test_a_page_shows_where_each_patch_went(spec: Path) -> None:
    from tessera.driver.report.explain import sizes_for
    from tessera.driver.report.view import page as view_page

    seen = see(spec)
    ran = seen.run([("image", str(spec.parent / "photo.png"))])
    text = view_page(seen.module, sizes_for(seen.module, ran.sizes), ran.steps, ran.shown, ran.routers)
    assert text.count("Where tokens went in") == 2
    assert text.count("by the first of 2 experts") == 4
    with pytest.raises(Diagnostic, match="neither an image nor token ids"):
        seen.run([("image", str(spec.parent / "images.npz"))])
