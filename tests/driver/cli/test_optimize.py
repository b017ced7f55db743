"""optimize and bench: the whole way with small models, what the report must have measured, and every way it goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tessera as ts
from tessera.driver.optimize import Options, optimize
from tessera.driver.read import read_model
from tessera.driver.report.measure import Target
from tessera.driver.report.results import FIRST, ORIGINAL, RANDOM, SEEDS
from tessera.ir.builder import Builder
from tessera.ir.diagnostics import Diagnostic

from .conftest import Cli

VIT = ("vit_classifier", "-p", "size=64", "-p", "patch=8", "-p", "dim=32", "-p", "depth=3", "-p", "heads=2", "-p",
       "hidden=64", "-p", "classes=5")  # fmt: skip
MERGE = ("--pass", "merge_tokens(r=12, protect=1)")
QUICK = ("--rounds", "2", "--no-memory")

TEXT = """
use std.attention (self_attention)
use std.nn (embedding, layer_norm, linear, mlp)

model words(input_ids: i64[B, T], attention_mask: i64[B, T]) -> (embedding: float[B, 16]) {
    x = embedding(input_ids, vocab=50, dim=16) as emb
    mask = unsqueeze(attention_mask != 0, [1, 2])
    repeat i in 2 as blocks {
        x = x + self_attention(layer_norm(x) as n1, mask, heads=2) as attn
        x = x + mlp(layer_norm(x) as n2, hidden=32) as mlp
    }
    weight = unsqueeze(cast(attention_mask, float), 2)
    return sum(x * weight, axis=1) / sum(weight, axis=1)
}

compile words {
    pass merge_tokens(keep=0.5)
}
"""


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.tess"
    path.write_text(TEXT)
    return path


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "calib.npz"
    ids = np.random.default_rng(0).integers(0, 50, (3, 24))
    np.savez(path, input_ids=ids, attention_mask=np.ones_like(ids))
    return path


@pytest.fixture
def vit_onnx(tmp_path: Path) -> Path:
    """An ONNX file that Tessera wrote, without what it says of its making: as any other file."""
    path = tmp_path / "vit.onnx"
    params = {"size": 64, "patch": 8, "dim": 32, "depth": 3, "heads": 2, "hidden": 64, "classes": 5}
    ts.compile(ts.load("vit_classifier", params=params), opset=20, verify=False).save(path)
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    return path


def test_a_spec(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "fast.onnx"
    result = cli("optimize", *VIT, *MERGE, *QUICK, "-o", out)
    assert (result.code, result.err) == (0, "")
    assert f"wrote {out}" in result.out
    for words in ("at B = 1", "random dropping", "fixed indices", "no weights were given", "on random inputs"):
        assert words in result.out
    assert max(map(len, result.out.splitlines())) <= 100
    logits = ts.open(out)({"image": np.zeros((2, 3, 64, 64), np.float32)})["logits"]
    assert logits.shape == (2, 5)


def test_the_report_as_data_and_as_a_page(cli: Cli, tmp_path: Path) -> None:
    out, html = tmp_path / "fast.onnx", tmp_path / "fast.html"
    result = cli(
        "optimize", *VIT, *MERGE, "--rounds", 2, "--int8", "-o", out, "--json", "--html", html, "--size", "B=2"
    )
    report = json.loads(result.out)
    assert (result.code, report["sizes"]) == (0, {"B": 2})
    assert [(b["tokens"], b["tokens_after"]) for b in report["cost"]["blocks"][1:]] == [(65, 65), (65, 53), (65, 41)]
    names = ["original", "optimized", "fixed indices", "int8", "optimized + int8"]
    assert list(report["latency"]["rows"]) == names
    assert report["latency"]["rounds"] == 2
    assert set(report["memory"]) == {"original", "optimized", "int8", "optimized + int8"}
    assert all(row["peak_bytes"] > 0 for row in report["memory"].values())
    (output,) = report["fidelity"]["outputs"]
    assert set(output["rows"]) == {"optimized", "int8", "optimized + int8", "random dropping"}
    assert 0.9 < output["rows"]["int8"]["cosine"] < 1
    assert report["files"]["int8"] < report["files"]["original"]
    assert report["verified"]
    assert report["written"] == [str(out), str(tmp_path / "fast.int8.onnx")]
    assert "<svg" in html.read_text("utf-8")
    assert {p.name for p in tmp_path.iterdir()} == {"fast.onnx", "fast.int8.onnx", "fast.html"}


def run(source: Any, out: Path, passes: list[str] | None = None, **options: Any) -> dict[str, Any]:
    return optimize(source, passes=passes, output=out, options=Options(rounds=1, memory=False, **options))


def test_an_onnx_file_is_compared_with_itself(vit_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: dict[str, Path] = {}
    real = Target.open

    def spy(path: Path, *module: Any, **options: Any) -> Target:
        opened[options["name"]] = path
        return real(path, *module, **options)

    monkeypatch.setattr(Target, "open", staticmethod(spy))
    report = run(vit_onnx, tmp_path / "fast.onnx", ["merge_tokens(r=12, protect=1)"])
    assert opened[ORIGINAL] == vit_onnx
    assert [r["pass"] for r in report["passes"]] == ["raise_composites", "merge_tokens"]
    assert [b["tokens_after"] for b in report["cost"]["blocks"][1:]] == [65, 53, 41]


def test_without_a_pass_nothing_changes(vit_onnx: Path, tmp_path: Path) -> None:
    report = run(vit_onnx, tmp_path / "fast.onnx")
    (output,) = report["fidelity"]["outputs"]
    assert output["rows"]["optimized"]["cosine"] == pytest.approx(1.0, abs=1e-6)
    assert set(output["rows"]) == {"optimized"}
    assert report["cost"]["ratio"] == 1.0


def test_the_passes_of_the_compile_block_run(words: Path, texts: Path, tmp_path: Path) -> None:
    report = run(words, tmp_path / "fast.onnx", calib=texts)
    assert [r["pass"] for r in report["passes"]] == ["merge_tokens"]
    assert report["sizes"] == {"B": 1, "T": 24}
    assert report["fidelity"]["what"] == "3 examples of calib.npz"
    became = report["became"]
    assert became["facts"].startswith("24 tokens: 12 stay, 12 are merged into others")
    assert len(became["words"]) == 24
    assert became["words"][0]["text"].startswith("#")
    assert run(words, tmp_path / "fast.onnx", calib=texts, sizes={"T": 40})["sizes"] == {"B": 1, "T": 40}


@pytest.mark.slow
def test_the_random_baseline_is_really_run(
    words: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs once a seed on every example, and each seed drops other tokens."""
    seen: dict[int, list[np.ndarray]] = {}
    call = Target.__call__

    def spy(self: Target, feeds: Any, seed: int = 0) -> dict[str, np.ndarray]:
        outputs = call(self, feeds, seed)
        if self.name == RANDOM:
            seen.setdefault(seed, []).append(outputs["embedding"])
        return outputs

    monkeypatch.setattr(Target, "__call__", spy)
    report = run(words, tmp_path / "fast.onnx", calib=texts)
    assert {seed: len(rows) for seed, rows in seen.items()} == dict.fromkeys(range(SEEDS), 3)
    assert len({rows[0].tobytes() for rows in seen.values()}) == SEEDS
    ours, chance = (report["fidelity"]["outputs"][0]["rows"][n] for n in ("optimized", RANDOM))
    assert ours["cosine"] != chance["cosine"]


def test_the_first_tokens_cost_as_many_flops(
    words: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tessera.ir.analysis.cost import cost

    lengths: list[int] = []
    call = Target.__call__

    def spy(self: Target, feeds: Any, seed: int = 0) -> dict[str, np.ndarray]:
        if self.name == ORIGINAL:
            lengths.append(feeds["input_ids"].shape[1])
            assert feeds["attention_mask"].shape == feeds["input_ids"].shape
        return call(self, feeds, seed)

    monkeypatch.setattr(Target, "__call__", spy)
    report = run(words, tmp_path / "fast.onnx", calib=texts)
    # The first run looks for masks that are true where there is padding.
    probe, whole, cut = lengths[0], lengths[1:4], lengths[4:]
    assert [probe, *whole] == [24] * 4
    assert len(set(cut)) == 1
    original = cost(ts.load(words).graph)
    budget = report["cost"]["flops_after"]
    assert original.at({"B": 1, "T": cut[0]}).total.flops <= budget
    assert original.at({"B": 1, "T": cut[0] + 1}).total.flops > budget
    assert FIRST in report["fidelity"]["outputs"][0]["rows"]


def test_tokens_that_left_are_told(tmp_path: Path) -> None:
    path = tmp_path / "m.tess"
    path.write_text(TEXT.replace("(embedding: float[B, 16])", "(y: float[B, T, 16])").replace(
        "return sum(x * weight, axis=1) / sum(weight, axis=1)", "return x * weight"))  # fmt: skip
    report = run(path, tmp_path / "fast.onnx", ["merge_tokens(keep=0.5, restore=true)"])
    assert "optimized" in report["fidelity"]["outputs"][0]["rows"]
    assert "its shape became" in report["fidelity"]["outputs"][0]["skipped"][FIRST]


def test_a_hugging_face_folder(cli: Cli, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
                                    image_size=32, patch_size=8, num_labels=4)  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    out = tmp_path / "fast.onnx"
    result = cli("optimize", tmp_path / "vit", "--pass", "merge_tokens(r=3, protect=1)", *QUICK, "--json", "-o", out)
    report = json.loads(result.out)
    assert (result.code, report["source"], report["model"]) == (0, "Hugging Face folder", "vit_classifier")
    assert not report["random_weights"]


def test_the_original_is_not_overwritten(cli: Cli, vit_onnx: Path) -> None:
    before = vit_onnx.read_bytes()
    result = cli("optimize", vit_onnx, *MERGE, "-o", vit_onnx)
    assert result.code == 1
    assert "E0010" in result.err
    assert vit_onnx.read_bytes() == before


def test_mlir(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("torch_mlir")
    tensor = "!torch.vtensor<[?,4],f32>"
    (tmp_path / "m.mlir").write_text(
        f"func.func @main(%x: {tensor}) -> {tensor} {{\n"
        f"  %y = torch.aten.relu %x : {tensor} -> {tensor}\n  return %y : {tensor}\n}}\n"
    )
    result = cli("optimize", tmp_path / "m.mlir", *QUICK, "--json", "-o", tmp_path / "fast.onnx")
    report = json.loads(result.out)
    assert (result.code, report["source"]) == (0, "torch MLIR")
    assert report["fidelity"]["outputs"][0]["rows"]["optimized"]["relative_error"] == 0.0


def test_a_mistake_in_a_pass_shows_that_pass(cli: Cli, vit_onnx: Path, tmp_path: Path) -> None:
    result = cli("optimize", vit_onnx, "--pass", "merge_tokens(r=[60])", "-o", tmp_path / "fast.onnx")
    assert "--> --pass:1:1" in result.err
    assert "| merge_tokens(r=[60])" in result.err


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.bin", "m.pt2", "m.pkl", "m.ckpt"])
def test_pickles_are_refused_unopened(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'echo'\ntR.")
    result = cli("optimize", tmp_path / name)
    assert result.code == 1
    assert "E0930" in result.err
    assert "runs whatever code is in it" in result.err


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["none.onnx"], "E0001"),
        (["none"], "E0001"),
        (["none.mlir"], "E0001"),
        (["notes.md"], "E0930"),
        (["bytes.mlir"], "E0930"),
        (["empty"], "E0931"),
        (["words.tess", "-o", "fast.pb"], "E0012"),
        (["words.tess", "-o", "no/such/folder/fast.onnx"], "E0010"),
        (["words.tess", "--html", "no/such/folder/fast.html"], "E0010"),
        (["words.tess", "--size", "T"], "E0011"),
        (["words.tess", "--size", "T=0"], "E0011"),
        (["words.tess", "--size", "Q=3"], "E0935"),
        (["words.tess", "--calib", "none.npz"], "E0001"),
        (["words.tess", "--calib", "notes.md"], "E0934"),
        (["words.tess", "--pass", "merge_tokenz(r=3)"], "E0701"),
        (["words.tess", "-m", "sentences"], "E0207"),
        (["tiny.tess", "--pass", "merge_tokens(r=3)"], "E0707"),
        (["broken.onnx", "-p", "classes=3"], "E0011"),
    ],
    ids=" ".join,
)
def test_mistakes(
    cli: Cli, words: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], code: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.md").write_text("notes")
    (tmp_path / "bytes.mlir").write_bytes(b"ML\xefR\xff\xfe")
    (tmp_path / "broken.onnx").write_bytes(b"not a protobuf")
    (tmp_path / "empty").mkdir()
    result = cli("optimize", *args)
    assert (result.code, f"error[{code}]" in result.err) == (1, True), result.err
    assert not list(tmp_path.glob("*.fast.onnx")) or code in ("E0934", "E0935", "E0001")


def test_what_the_quantizer_cannot_do(tmp_path: Path) -> None:
    from tessera.driver.report.quantize import quantize
    (tmp_path / "broken.onnx").write_bytes(b"not a protobuf")
    with pytest.raises(Diagnostic) as caught:
        quantize(tmp_path / "broken.onnx", tmp_path / "int8.onnx")
    assert caught.value.code == "E0937"


def test_a_model_of_one_file_is_read_once(vit_onnx: Path) -> None:
    source = read_model(vit_onnx)
    assert (source.file, source.raising, source.beside) == (vit_onnx, True, vit_onnx.parent)


def test_imported_models_are_shown_and_compiled_like_any(cli: Cli, vit_onnx: Path, tmp_path: Path) -> None:
    shown = cli("show", vit_onnx, "--pass", "raise_composites", "--pass", "merge_tokens(r=12, protect=1)")
    assert (shown.code, shown.out.count("bipartite_merge(")) == (0, 3)
    out = tmp_path / "again.onnx"
    assert cli("compile", vit_onnx, "-o", out).code == 0
    image = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    np.testing.assert_allclose(*(ts.open(f)({"image": image})["logits"] for f in (vit_onnx, out)), atol=1e-5)
    assert "E0930" in cli("compile", tmp_path / "m.pt").err


def test_a_free_size_is_fixed(cli: Cli, vit_onnx: Path, tiny: Path, tmp_path: Path) -> None:
    def batches(path: Path) -> list[str | int]:
        graph = onnx.load(path).graph
        return [d.dim_value or d.dim_param for d in graph.input[0].type.tensor_type.shape.dim[:1]]

    (free,) = batches(vit_onnx)
    out = tmp_path / "fixed.onnx"
    assert cli("compile", vit_onnx, "--fix", f"{free}=3", "-o", out).code == 0
    assert batches(out) == [3]
    assert f"there is {free}" in cli("compile", vit_onnx, "--fix", "Q=3", "-o", out).err
    assert "E0011" in cli("compile", tiny, "--fix", "B=3", "-o", out).err
    assert "`--fix B` is not NAME=SIZE" in cli("optimize", vit_onnx, "--fix", "B", "-o", out).err


def test_a_program_is_not_loaded_without_its_weights(vit_onnx: Path) -> None:
    with pytest.raises(Diagnostic) as caught:
        ts.load(vit_onnx)
    assert (caught.value.code, "read_model" in str(caught.value.help)) == ("E0930", True)


# bench -------------------------------------------------------------------------------------------------------------------


def test_bench(cli: Cli, vit_onnx: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(vit_onnx.read_bytes())
    result = cli("bench", vit_onnx, other, "--rounds", 2, "--size", "B=2", "--threads", 1, "--memory", "--json")
    report = json.loads(result.out)
    assert (result.code, report["sizes"], report["rounds"]) == (0, {"B": 2}, 2)
    assert [row["artifact"] for row in report["rows"]] == ["vit.onnx", "other.onnx"]
    assert report["rows"][0]["speedup"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert report["rows"][1]["ms"]["median"] > 0
    assert report["rows"][1]["peak_bytes"] > 0
    shown = cli("bench", vit_onnx, other, "--rounds", 2, "--memory")
    assert shown.out.splitlines()[0].startswith("2 interleaved rounds at B = 1 on ")
    assert "1.00x" in shown.out


def test_bench_of_both_targets(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    files = [tmp_path / "tiny.onnx", tmp_path / "tiny.safetensors"]
    for file, target in zip(files, ("onnx", "torch"), strict=True):
        assert cli("compile", tiny, "-t", target, "--no-verify", "-o", file).code == 0
    result = cli("bench", *files, "--rounds", 1, "--json")
    assert [row["artifact"] for row in json.loads(result.out)["rows"]] == ["tiny.onnx", "tiny.safetensors"]


def test_bench_of_equal_names(cli: Cli, vit_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / "vit.onnx"
    other.write_bytes(vit_onnx.read_bytes())
    result = cli("bench", vit_onnx, other, "--rounds", 1, "--json")
    assert [row["artifact"] for row in json.loads(result.out)["rows"]] == [str(vit_onnx), str(other)]


def test_bench_mistakes(cli: Cli, vit_onnx: Path, tiny: Path, tmp_path: Path) -> None:
    other = tmp_path / "tiny.onnx"
    assert cli("compile", tiny, "--no-verify", "-o", other).code == 0
    for args, code in (
        ([vit_onnx, vit_onnx], "E0936"),
        ([vit_onnx, other], "E0936"),
        ([tmp_path / "none.onnx"], "E0001"),
        ([tiny], "E0014"),
        ([vit_onnx, "--size", "X=3"], "E0935"),
    ):
        result = cli("bench", *args, "--rounds", 1)
        assert (result.code, f"error[{code}]" in result.err) == (1, True), result.err


def test_nothing_is_done_twice(vit_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Primitives are raised once, and no program is read back from a file that was just written."""
    from tessera.frontends import source
    from tessera.passes.engine import registry

    raising = registry()["raise_composites"]
    runs: list[str] = []
    run, loads = raising.run, source.loads

    def told(what: str, of: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            runs.append(what)
            return of(*args, **named)

        return call

    monkeypatch.setattr(raising, "run", told("raised", run))
    monkeypatch.setattr(source, "loads", told("read", loads))
    report = optimize(
        vit_onnx, passes=["merge_tokens(r=12, protect=1)"], output=tmp_path / "fast.onnx", options=Options(rounds=1, memory=False)
    )  # fmt: skip
    assert runs == ["raised"]
    assert report["passes"][0]["pass"] == "raise_composites"
    assert report["cost"]["ratio"] > 1


def test_what_was_read_is_compared_with_the_file_itself(vit_onnx: Path, tmp_path: Path) -> None:
    report = run(vit_onnx, tmp_path / "fast.onnx", ["merge_tokens(r=12, protect=1)"])
    rows = report["compared_with_original"]
    assert len({tuple(row["sizes"].items()) for row in rows}) == 2
    assert all(row["error"] <= row["tolerance"] for row in rows)
    assert report["latency"]["base"] == "re-exported"


def test_an_importer_that_reads_something_else_is_found(vit_onnx: Path, tmp_path: Path) -> None:
    """Our own comparison cannot see it: reference and artifact agree on the wrong program."""
    other = read_model(vit_onnx)
    (_, product, *_) = [n for n in other.module.graph.nodes() if n.op.qualified == "matmul"]
    wrong = Builder(other.module.graph).before(product.next).op("exp", product.output)
    assert wrong.node is not None
    product.output.replace_uses(wrong, skip=[wrong.node])
    out = tmp_path / "fast.onnx"
    out.write_text("earlier")
    with pytest.raises(Diagnostic, match="what was read from `vit") as caught:
        run(other, out, ["merge_tokens(r=12, protect=1)"])
    assert caught.value.code == "E0939"
    assert out.read_text() == "earlier"


def test_the_data_is_read_before_anything_is_replaced(cli: Cli, vit_onnx: Path, tmp_path: Path) -> None:
    out = tmp_path / "fast.onnx"
    out.write_text("earlier")
    for more in (("--calib", tmp_path / "none.npz"), ("--calib", vit_onnx), ("--size", "Q=3")):
        result = cli("optimize", vit_onnx, *MERGE, *QUICK, "-o", out, *more)
        assert result.code == 1
        assert out.read_text() == "earlier"
        assert {p.name for p in tmp_path.iterdir()} == {"fast.onnx", "vit.onnx"}


def test_no_file_is_kept_in_dev_null(cli: Cli, vit_onnx: Path, tmp_path: Path) -> None:
    result = cli("optimize", vit_onnx, *MERGE, *QUICK, "-o", "/dev/null")
    assert (result.code, result.err) == (0, "")
    assert "wrote" not in result.out
    assert [p.name for p in tmp_path.iterdir()] == ["vit.onnx"]


@pytest.mark.slow
def test_quantized_files_stay_quantized(cli: Cli, vit_onnx: Path, tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

    class Data(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{"image": np.ones((1, 3, 64, 64), np.float32)}])

        def get_next(self) -> Any:
            return next(self.left, None)

    from tessera.driver.report.quantize import integer_products

    quantize_dynamic(vit_onnx, tmp_path / "dynamic.onnx", weight_type=QuantType.QUInt8)
    quantize_static(vit_onnx, tmp_path / "qdq.onnx", Data(), op_types_to_quantize=["Conv", "Gemm"])
    for name in ("dynamic", "qdq"):
        result = cli("optimize", tmp_path / f"{name}.onnx", *MERGE, *QUICK, "-o", tmp_path / "fast.onnx")
        assert (result.code, result.err) == (0, "")
        assert integer_products(tmp_path / "fast.onnx") == integer_products(tmp_path / f"{name}.onnx") > 0


def test_integer_products_are_not_lost(cli: Cli, tmp_path: Path) -> None:
    """A zero for each row of the first factor has no form of its own here."""
    nodes = [
        onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        onnx.helper.make_node("MatMulInteger", ["q", "w", "zeros"], ["p"]),
        onnx.helper.make_node("Cast", ["p"], ["real"], to=1),
        onnx.helper.make_node("Softmax", ["real"], ["y"]),
    ]
    weight = onnx.numpy_helper.from_array(np.ones((4, 3), np.int8), "w")
    zeros = onnx.numpy_helper.from_array(np.array([1, 2], np.uint8), "zeros")
    x = onnx.helper.make_tensor_value_info("x", 1, [2, 4])
    graph = onnx.helper.make_graph(nodes, "g", [x], [onnx.ValueInfoProto(name="y")], [weight, zeros])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    result = cli("optimize", tmp_path / "m.onnx", "-o", tmp_path / "fast.onnx")
    assert (result.code, "error[E0940]: `m.onnx` is quantized" in result.err) == (1, True), result.err
    assert not (tmp_path / "fast.onnx").exists()
