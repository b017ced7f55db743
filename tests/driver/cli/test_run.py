"""run and explain: real files in, results, pictures and refusals out."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import Cli


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with compiled models: tiny.onnx, tiny.safetensors, vit.onnx (64 × 64, with its token map), bert.onnx."""
    from tessera.driver.cli import main

    from .conftest import TINY

    folder = tmp_path_factory.mktemp("artifacts")
    spec = folder / "tiny.tess"
    spec.write_text(TINY)
    vit = [
        "vit_s16",
        "-p",
        "size=64",
        "-p",
        "depth=2",
        "-p",
        "classes=5",
        "--pass",
        "merge_tokens(r=4, protect=1)",
        "--map",
    ]
    bert = ["zoo/bert", "-p", "dim=16", "-p", "depth=1", "-p", "heads=2", "-p", "hidden=32", "-p", "vocab=40"]
    for args in (
        [str(spec), "-o", str(folder / "tiny.onnx")],
        [str(spec), "-t", "torch", "-o", str(folder / "tiny.safetensors")],
        [*vit, "-o", str(folder / "vit.onnx")],
        [*bert, "-o", str(folder / "bert.onnx")],
    ):
        assert main(["compile", *args, "--no-verify"]) == 0
    return folder


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A word-level tokenizer.json of a few words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    made = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "to": 2, "be": 3, "or": 4, "not": 5}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return path


# What comes out --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny.onnx", "tiny.safetensors"])
def test_arrays(cli: Cli, artifacts: Path, x: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.npz"
    result = cli("run", artifacts / name, "--input", f"x={x}", "--save", out)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("output  float32[2, 5, 3]  min ")
    assert f"wrote {out}" in result.out
    assert np.load(out)["output"].shape == (2, 5, 3)


def test_an_npz_brings_its_names_or_is_asked_for_one(cli: Cli, artifacts: Path, x: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, x=np.load(x), other=np.zeros(3))
    assert cli("run", artifacts / "tiny.onnx", "--input", f"x={path}").code == 0
    result = cli("run", artifacts / "tiny.onnx", "--input", path)
    assert "there is no input `other`" in result.err
    np.savez(path, x=np.load(x))
    assert cli("run", artifacts / "tiny.onnx", "--input", path).code == 0


def test_the_capacity_of_a_state_is_given_as_a_size(cli: Cli, tmp_path: Path) -> None:
    spec = tmp_path / "seen.tess"
    spec.write_text(
        "model seen(x: f32[B]) -> (full: f32[B]) {\n    state rows: f32[B, C] = ones\n"
        "    rows = rows + unsqueeze(x, 1)\n    return sum(rows, axis=1)\n}\n"
    )
    np.save(tmp_path / "x.npy", np.zeros(2, np.float32))
    assert cli("compile", str(spec), "-o", str(tmp_path / "seen.onnx")).code == 0
    command = ["run", str(tmp_path / "seen.onnx"), "-i", f"x={tmp_path / 'x.npy'}", "--save", str(tmp_path / "out.npz")]
    assert "[E0901]" in cli(*command).err
    assert cli(*command, "--size", "C=7").code == 0
    with np.load(tmp_path / "out.npz") as found:
        assert found["full"].tolist() == [7, 7]
    assert "C = 9" in cli("bench", str(tmp_path / "seen.onnx"), "--rounds", "1", "--size", "C=9").out


def test_several_files_are_a_batch(cli: Cli, artifacts: Path, x: Path) -> None:
    result = json.loads(cli("run", artifacts / "tiny.onnx", "-i", f"x={x}", "-i", f"x={x}", "--json").out)
    assert result["outputs"]["output"]["shape"] == [4, 5, 3]


def test_doubles_become_floats_but_integers_do_not(cli: Cli, artifacts: Path, tmp_path: Path) -> None:
    path = tmp_path / "d.npy"
    np.save(path, np.ones((1, 2, 8)))
    assert cli("run", artifacts / "tiny.onnx", "-i", f"x={path}").code == 0
    np.save(path, np.ones((1, 2, 8), np.int64))
    assert "error[E0903]" in cli("run", artifacts / "tiny.onnx", "-i", f"x={path}").err


def test_top(cli: Cli, artifacts: Path, photo: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("ant\nbee\ncat\ndog\nelk\n")
    args = (
        "run",
        artifacts / "vit.onnx",
        "-i",
        f"image={photo}",
        "--fit",
        "crop",
        "--top",
        "2",
        "--labels",
        labels,
        "--save",
        tmp_path / "o.npz",
    )
    top = json.loads(cli(*args, "--json").out)["top"][0]
    logits = np.load(tmp_path / "o.npz")["logits"][0]
    assert [t["index"] for t in top] == list(np.argsort(-logits)[:2])
    assert top[0]["label"] == ["ant", "bee", "cat", "dog", "elk"][top[0]["index"]]
    assert cli(*args).out.count(top[0]["label"]) == 1


# Images ----------------------------------------------------------------------------------------------------------------


def test_an_image_of_the_wrong_size_teaches_fit(cli: Cli, artifacts: Path, photo: Path) -> None:
    result = cli("run", artifacts / "vit.onnx", "--input", f"image={photo}")
    assert result.code == 1
    assert "error[E0921]" in result.err
    assert "96 × 64" in result.err
    assert "--fit crop" in result.err


@pytest.mark.parametrize("fit", ["resize", "crop"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_fit(cli: Cli, artifacts: Path, photo: Path, tmp_path: Path, fit: str, suffix: str) -> None:
    path = tmp_path / f"copy{suffix}"
    Image.open(photo).save(path)
    assert cli("run", artifacts / "vit.onnx", "--input", f"image={path}", "--fit", fit).code == 0


def test_normalisation(artifacts: Path, tmp_path: Path) -> None:
    from tessera.runtime.inputs import IMAGENET_MEAN, IMAGENET_STD, InputSpec, Options, read_inputs

    path = tmp_path / "grey.png"
    Image.fromarray(np.full((4, 6, 3), 51, np.uint8)).save(path)
    spec = [InputSpec("image", "f32", ("B", 3, 4, 6))]
    plain = read_inputs(spec, [("image", str(path))])["image"]
    assert plain.shape == (1, 3, 4, 6)
    np.testing.assert_allclose(plain[0, :, 0, 0], (0.2 - np.array(IMAGENET_MEAN)) / IMAGENET_STD, rtol=1e-6)
    own = read_inputs(spec, [("image", str(path))], Options(mean=(0.5,), std=(0.5,)))["image"]
    np.testing.assert_allclose(own, -0.6, rtol=1e-6)
    metadata = {"image_mean": "0.2,0.2,0.2", "image_std": "1"}
    np.testing.assert_allclose(
        read_inputs(spec, [("image", str(path))], Options(metadata=metadata))["image"], 0, atol=1e-7
    )
    last = read_inputs([InputSpec("image", "u8", (1, "H", "W", 3))], [("image", str(path))])["image"]
    assert last.shape == (1, 4, 6, 3)
    assert last.dtype == np.uint8
    assert (last == 51).all()


def test_the_map_shows_equal_patches_as_one(cli: Cli, artifacts: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.png"
    result = cli("run", artifacts / "vit.onnx", "-i", f"image={photo}", "--fit", "resize", "--save-map", out)
    assert result.code == 0
    assert f"wrote {out}" in result.out
    picture = np.asarray(Image.open(out))
    assert picture.shape == (64, 64, 3)
    # The middle of the left upper patch: the mean of its group. Only the red quarter's patches look like it.
    red = picture[8, 8].astype(int)
    assert red[0] > 150
    assert red[1] < 80
    assert red[2] < 80


def test_one_map_for_each_image(cli: Cli, artifacts: Path, photo: Path, tmp_path: Path) -> None:
    args = ("-i", f"image={photo}", "-i", f"image={photo}", "--fit", "crop", "--save-map", tmp_path / "m.png")
    assert cli("run", artifacts / "vit.onnx", *args).code == 0
    assert {p.name for p in tmp_path.glob("m*")} == {"m-0.png", "m-1.png"}


def test_drawing_a_known_map() -> None:
    from tessera.driver.report.picture import draw_map, patch_grid

    assert patch_grid(197, 224, 224) == (14, 14, 1)
    assert patch_grid(198, 224, 224) == (14, 14, 2)
    assert patch_grid(8, 32, 64) == (2, 4, 0)
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 100
    # Patches 0 and 2 (left), and 1 (right upper) with 3 apart: three groups, after a class token.
    picture = np.asarray(draw_map(image, np.array([0, 1, 2, 1, 3])))
    assert (picture[1:7, 1:3] == 0).all()
    assert (picture[1:3, 5:7] == 100).all()
    left, upper, lower = picture[0, 0], picture[0, 4], picture[4, 4]
    assert (picture[3, 0] == left).all()
    assert (picture[4, 1] == 0).all()
    assert not (left == upper).all()
    assert not (upper == lower).all()


def test_no_map(cli: Cli, artifacts: Path, x: Path, tmp_path: Path) -> None:
    result = cli("run", artifacts / "tiny.onnx", "-i", f"x={x}", "--save-map", tmp_path / "m.png")
    assert "error[E0925]" in result.err
    assert "--map" in result.err
    array = tmp_path / "image.npy"
    np.save(array, np.zeros((1, 3, 64, 64), np.float32))
    result = cli("run", artifacts / "vit.onnx", "-i", f"image={array}", "--save-map", tmp_path / "m.png")
    assert "give an image file" in result.err
    assert not (tmp_path / "m.png").exists()


# Text ------------------------------------------------------------------------------------------------------------------


def test_text(cli: Cli, artifacts: Path, tokenizer: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.txt"
    page.write_text("to be or not\nto be\n")
    base = ("run", artifacts / "bert.onnx", "-i", f"input_ids={page}", "--tokenizer", tokenizer, "--json")
    whole = json.loads(cli(*base).out)["outputs"]
    assert next(iter(whole.values()))["shape"][:2] == [1, 6]
    lines = json.loads(cli(*base, "--lines").out)["outputs"]
    assert next(iter(lines.values()))["shape"][:2] == [2, 4]
    cut = json.loads(cli(*base, "--max-length", "3").out)["outputs"]
    assert next(iter(cut.values()))["shape"][:2] == [1, 3]


def test_ids_and_mask(tokenizer: Path, tmp_path: Path) -> None:
    from tessera.runtime.inputs import InputSpec, Options, read_inputs

    page = tmp_path / "page.txt"
    page.write_text("to be\nto be or not\n")
    specs = [InputSpec("input_ids", "i64", ("B", "T")), InputSpec("attention_mask", "i64", ("B", "T"))]
    arrays = read_inputs(specs, [("input_ids", str(page))], Options(tokenizer=tokenizer, lines=True))
    assert arrays["input_ids"].tolist() == [[2, 3, 0, 0], [2, 3, 4, 5]]
    assert arrays["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    fixed = read_inputs([InputSpec("ids", "i64", ("B", 3))], [("ids", str(page))], Options(tokenizer=tokenizer))
    assert fixed["ids"].tolist() == [[2, 3, 2]]


def test_text_that_cannot_be_used(cli: Cli, artifacts: Path, tokenizer: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.txt"
    page.write_text("to be")
    base = ("run", artifacts / "bert.onnx", "-i", f"input_ids={page}")
    assert "error[E0924]" in cli(*base).err
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert "error[E0924]" in cli(*base, "--tokenizer", broken).err
    assert "error[E0923]" in cli("run", artifacts / "tiny.onnx", "-i", f"x={page}").err
    page.write_bytes(b"\xff\xfe\x00")
    assert "error[E0920]" in cli(*base, "--tokenizer", tokenizer).err
    page.write_text(" \n")
    assert "holds no text" in cli(*base, "--tokenizer", tokenizer).err


def test_text_without_the_package(
    cli: Cli, artifacts: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.txt"
    page.write_text("to be")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    result = cli("run", artifacts / "bert.onnx", "-i", f"input_ids={page}", "--tokenizer", tokenizer)
    assert "error[E0015]" in result.err
    assert "pip install" in result.err


# Refusals --------------------------------------------------------------------------------------------------------------


def test_nan(cli: Cli, artifacts: Path, x: Path, tmp_path: Path) -> None:
    array = np.load(x)
    array[1, 2, 3] = np.nan
    np.save(x, array)
    result = cli("run", artifacts / "tiny.onnx", "-i", f"x={x}", "--save", tmp_path / "out.npz")
    assert result.code == 1
    assert "error[E0922]" in result.err
    assert "[1, 2, 3]" in result.err
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("shape", "dtype", "code"),
    [
        ((2, 5, 7), np.float32, "E0902"),
        ((2, 8), np.float32, "E0902"),
        ((2, 5, 8), np.complex64, "E0903"),
        ((2, 5, 8), np.bool_, "E0903"),
    ],
)
def test_arrays_that_do_not_fit(
    cli: Cli, artifacts: Path, tmp_path: Path, shape: tuple[int, ...], dtype: type, code: str
) -> None:
    path = tmp_path / "bad.npy"
    np.save(path, np.zeros(shape, dtype))
    for name in ("tiny.onnx", "tiny.safetensors"):
        result = cli("run", artifacts / name, "-i", f"x={path}")
        assert result.code == 1
        assert f"error[{code}]" in result.err


def _broken_files(folder: Path) -> dict[str, bytes]:
    whole = io.BytesIO()
    np.save(whole, np.zeros((2, 5, 8), np.float32))
    lying = whole.getvalue().replace(b"(2, 5, 8)", b"(2, 5,99999999)".ljust(9))[: len(whole.getvalue())]
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("x.npy", pickled.getvalue())
    short = io.BytesIO()
    with zipfile.ZipFile(short, "w") as z:
        z.writestr("x.npy", whole.getvalue()[:-50])
    return {
        "cut.npy": whole.getvalue()[:-50], "lie.npy": lying, "empty.npy": b"", "text.npy": b"hello",
        "pickle.npy": pickled.getvalue(), "pickle.npz": archive.getvalue(), "short.npz": short.getvalue(),
        "text.npz": b"hello", "cut.npz": archive.getvalue()[:-40],
        "text.png": b"hello", "x.pt": b"hello", "noending": b"hello",
    }  # fmt: skip


@pytest.mark.parametrize("name", list(_broken_files(Path())))
def test_files_that_are_broken(cli: Cli, artifacts: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(_broken_files(tmp_path)[name])
    artifact, key = ("vit.onnx", "image") if name.endswith(".png") else ("tiny.onnx", "x")
    result = cli("run", artifacts / artifact, "-i", f"{key}={path}")
    assert result.code == 1
    assert "error[E0920]" in result.err


def test_a_truncated_picture(cli: Cli, artifacts: Path, photo: Path) -> None:
    photo.write_bytes(photo.read_bytes()[:-60])
    assert "error[E0920]" in cli("run", artifacts / "vit.onnx", "-i", f"image={photo}", "--fit", "crop").err


def test_json_has_no_nan(cli: Cli, tmp_path: Path) -> None:
    spec, out, inputs = tmp_path / "log.tess", tmp_path / "log.onnx", tmp_path / "x.npy"
    spec.write_text("model log_of(x: float[B, 2]) -> float[B, 2] { return log(x) }")
    np.save(inputs, np.array([[-1.0, 0.0]], np.float32))
    assert cli("compile", spec, "-o", out, "--no-verify").code == 0
    result = cli("run", out, "-i", f"x={inputs}", "--top", 2, "--json", "--save", tmp_path / "y.npz")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads(result.out, parse_constant=refuse)
    assert found["outputs"]["output"]["min"] is None
    assert [row["value"] for row in found["top"][0]] == [None, None]
    assert found["written"] == [str(tmp_path / "y.npz")]


def test_names(cli: Cli, artifacts: Path, x: Path) -> None:
    result = cli("run", artifacts / "tiny.onnx", "-i", f"y={x}")
    assert "error[E0901]" in result.err
    assert "`x: f32[B, T, 8]`" in result.err
    assert "error[E0901]" in cli("run", artifacts / "tiny.onnx").err
    assert "which input is the file for?" in cli("run", artifacts / "tiny.onnx", "-i", x).err
    assert "error[E0001]" in cli("run", artifacts / "tiny.onnx", "-i", "x=none.npy").err


def test_what_is_no_artifact(cli: Cli, artifacts: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    assert "error[E0001]" in cli("run", tmp_path / "none.onnx").err
    result = cli("run", artifacts / "tiny.tess")
    assert "error[E0014]" in result.err
    assert "compile it first" in result.err
    plain = tmp_path / "plain.safetensors"
    save_file({"a": np.zeros(2)}, plain)
    assert "holds weights, but no program" in cli("run", plain).err
    for name in ("a.onnx", "a.safetensors"):
        (tmp_path / name).write_bytes(b"\x08\x07 not a model at all")
        assert cli("run", tmp_path / name).code == 1
        assert cli("explain", tmp_path / name).code == 1
    whole = (artifacts / "tiny.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    assert cli("run", tmp_path / "cut.onnx").code == 1


@pytest.mark.parametrize("option", ["--mean=a,b", "--mean=1,2", "--std=0", "--std=1,1,0"])
def test_wrong_statistics(cli: Cli, artifacts: Path, photo: Path, option: str) -> None:
    result = cli("run", artifacts / "vit.onnx", "-i", f"image={photo}", "--fit", "crop", option)
    assert result.code == 1
    assert "error[E0011]" in result.err


def test_an_output_that_cannot_be_written(cli: Cli, artifacts: Path, x: Path) -> None:
    result = cli("run", artifacts / "tiny.onnx", "-i", f"x={x}", "--save", "/no/such/folder/o.npz")
    assert result.code == 1
    assert "error[E0010]" in result.err


# explain ---------------------------------------------------------------------------------------------------------------


def test_explain_a_spec(cli: Cli) -> None:
    facts = json.loads(cli("explain", "vit_s16", "--at", "B=2", "--json").out)
    assert facts["kind"] == "spec"
    assert facts["inputs"] == [{"name": "image", "type": "f32[B, 3, 224, 224]"}]
    assert facts["parameters"]["elements"] == 22_050_664
    assert facts["sizes"] == {"B": 2}
    assert [row["tokens"] for row in facts["cost"]][1:13] == [197] * 12
    text = cli("explain", "vit_s16", "--pass", "merge_tokens(r=13, protect=1)").out
    assert "pass merge_tokens (approximate): 12 modified" in text


def test_explain_runs_no_pass_on_an_artifact(cli: Cli, artifacts: Path) -> None:
    result = cli("explain", artifacts / "tiny.onnx", "--pass", "merge_tokens(r=13)")
    assert result.code == 2
    assert "--pass is for specs" in result.err


@pytest.mark.parametrize("command", ["explain", "show"])
def test_the_ending_of_a_model_in_capitals(cli: Cli, artifacts: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "TINY.ONNX").write_bytes((artifacts / "tiny.onnx").read_bytes())
    result = cli(command, tmp_path / "TINY.ONNX")
    assert result.code == 0, result.err


def test_explain_sizes_that_are_not(cli: Cli) -> None:
    assert "error[E0011]" in cli("explain", "vit_s16", "--at", "T=2").err
    assert "error[E0011]" in cli("explain", "vit_s16", "--at", "B=x").err


@pytest.mark.parametrize("name", ["vit.onnx", "tiny.safetensors"])
def test_explain_an_artifact(cli: Cli, artifacts: Path, name: str) -> None:
    facts = json.loads(cli("explain", artifacts / name, "--json").out)
    assert facts["size"] == (artifacts / name).stat().st_size
    assert facts["metadata"]["tessera.weights"] == "initialised with seed 0"
    text = cli("explain", artifacts / name).out
    assert "parameters: " in text
    assert "cost at B = 1" in text
    if name == "vit.onnx":
        assert [p["pass"] for p in facts["passes"]] == ["merge_tokens"]
        assert [t["name"] for t in facts["taps"]] == ["token_source", "token_size"]


def test_explain_a_foreign_onnx_file(cli: Cli, tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    row = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in "ab"]
    graph = helper.make_graph([helper.make_node("Exp", ["a"], ["b"])], "g", row[:1], row[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "f.onnx")
    assert "opset ai.onnx 20; 1 nodes: Exp 1" in cli("explain", tmp_path / "f.onnx").out
    np.save(tmp_path / "a.npy", np.zeros((2, 3), np.float32))
    assert cli("run", tmp_path / "f.onnx", "-i", f"a={tmp_path / 'a.npy'}").code == 0


def test_explain_says_that_the_passes_of_a_block_are_not_run(cli: Cli, tmp_path: Path) -> None:
    spec = tmp_path / "m.tess"
    spec.write_text("model m(x: f32[B]) -> f32[B] {\n    return x + 1.0\n}\n\ncompile m {\n    pass dce\n}\n")
    assert "is the program before these passes" in cli("explain", spec).out
    assert "is the program before these passes" not in cli("explain", spec, "--pass", "dce").out


def test_a_scalar_is_given_as_a_number(cli: Cli, tmp_path: Path) -> None:
    spec = tmp_path / "m.tess"
    body = "return where(b, x * t + cast(n, f32), x)"
    spec.write_text(f"model m(x: f32[2], t: f32[], n: i64[], b: bool[]) -> f32[2] {{\n    {body}\n}}\n")
    np.save(tmp_path / "x.npy", np.ones(2, np.float32))
    assert cli("compile", spec, "-o", tmp_path / "m.onnx", "--no-verify").code == 0
    given = ["-i", f"x={tmp_path / 'x.npy'}", "-i", "t=0.5", "-i", "n=3", "-i", "b=true"]
    assert cli("run", tmp_path / "m.onnx", *given, "--save", tmp_path / "o.npz").code == 0
    assert np.load(tmp_path / "o.npz")["output"].tolist() == [3.5, 3.5]
    odd = cli("run", tmp_path / "m.onnx", "-i", "x=0.5", *given[2:])
    assert odd.code != 0
    assert "only a scalar may be given as a number" in odd.err
    assert "there is no file `half`" in cli("run", tmp_path / "m.onnx", *given[:2], "-i", "t=half", *given[4:]).err
