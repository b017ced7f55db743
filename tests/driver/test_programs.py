"""Programs of several entry points compiled: one set of weights, entries, flows, and host stages that nobody imports unasked."""

from __future__ import annotations

import json
import shutil
import sys
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.backends.torch.target import Torch
from tessera.driver.cli import main
from tessera.ir.diagnostics import Diagnostic

FILE = Path(__file__).parents[1] / "frontends" / "source" / "elaborate" / "programs" / "chat.tess"
IDS = np.arange(6).reshape(2, 3)


def greedy(logits: np.ndarray) -> np.ndarray:
    return logits.argmax(-1)[:, None]


@pytest.fixture(scope="module", params=["onnx", "torch", "triton"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(request.param) / "chat"
    artifact = ts.compile(ts.load(FILE), target=request.param, output=out)
    assert {row["entry"] for row in artifact.report.verified} == {"prefill", "step"}
    return out


def test_the_weights_are_written_once(folder: Path) -> None:
    weights = [p for p in folder.iterdir() if p.name.startswith("weights")]
    numbers = sum(prod(d.value or 0 for d in p.type.shape) for p in ts.load(FILE).parameters().values())
    pages = 4096 * (1 + len(ts.load(FILE).parameters()))
    assert len(weights) == 1
    assert 4 * numbers <= weights[0].stat().st_size <= 4 * numbers + pages
    assert {p.name for p in folder.iterdir()} - {weights[0].name, "program.json", "prefill.onnx", "step.onnx"} == set()


def test_every_entry_that_has_a_given_size_is_compared_at_it(tmp_path: Path) -> None:
    program = ts.load(FILE)
    rows = ts.compile(program, output=tmp_path / "chat", sizes={"B": 3}).report.verified
    assert {(row["entry"], row["sizes"]["B"]) for row in rows} == {("prefill", 3), ("step", 3)}
    with pytest.raises(Diagnostic, match=r"E0935.*no entry point has a size `Q`"):
        ts.compile(program, output=tmp_path / "other", sizes={"Q": 3})
    assert not (tmp_path / "other").exists()


def test_entries_compute_the_same_as_each_model_alone(folder: Path) -> None:
    chat: Any = ts.open(folder)
    assert chat.entries == ["prefill", "step"]
    alone = ts.compile(ts.load(FILE, "decoder", {"layers": 1}), target="torch", passes=[])
    assert np.allclose(chat.prefill(ids=IDS)["output"], alone(IDS)["output"], atol=1e-5)
    assert np.allclose(chat["prefill"](IDS)["output"], alone(IDS)["output"], atol=1e-5)
    # What is filled when it is not given is given by name, as to an artifact of one model.
    length = chat.prefill(ids=IDS)["length"]
    assert chat.step(IDS[:, :1], length=length)["length"].tolist() == [4, 4]
    with pytest.raises(Diagnostic, match=r"E0901.*takes 1 input\(s\), but 2 are given(.|\n)*by name: length="):
        chat.step(IDS[:, :1], length)
    with pytest.raises(Diagnostic, match=r"E0521.*no entry point `prefil`(.|\n)*did you mean `prefill`"):
        chat["prefil"]
    with pytest.raises(AttributeError):
        _ = chat.prefil


def test_a_flow_threads_states(folder: Path) -> None:
    chat: Any = ts.open(folder)
    seen: list[int] = []

    def counting(logits: np.ndarray) -> np.ndarray:
        seen.append(len(logits))
        return greedy(logits)

    found = chat.run("answer", {"ids": IDS}, host={"sample": counting})
    first = greedy(chat.prefill(ids=IDS)["output"])
    length = chat.prefill(ids=IDS)["length"]
    second = chat.step(ids=first, length=length)
    assert seen == [2, 2]
    assert np.array_equal(found["first"], first)
    assert np.array_equal(found["second"], greedy(second["output"]))
    assert second["length"].tolist() == [4, 4]


def test_nothing_is_imported_unasked(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chat_sampling.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"
        "def greedy(logits):\n    return logits.argmax(-1)[:, None]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("chat_sampling", None)
    chat: Any = ts.open(folder)
    with pytest.raises(Diagnostic, match="E0913"):
        chat.run("answer", {"ids": IDS})
    assert not (tmp_path / "ran").exists()
    assert "chat_sampling" not in sys.modules
    assert chat.run("answer", {"ids": IDS}, allow_host=True)["first"].shape == (2, 1)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda logits: logits, r"does not keep to its types: `result 0` of `sample` must be i64"),
        (lambda logits: (logits, logits), r"gave 2 result\(s\), and declares 1"),
        (lambda logits: 1 / 0, "failed: ZeroDivisionError"),
        (lambda logits: logits.argmax(-1)[:1, None], "does not keep to its types: axis 0 of `result 0`"),
        (lambda logits: np.array(["a"]), "is no tensor"),
    ],
)
def test_a_host_stage_keeps_to_its_types(folder: Path, function: Any, message: str) -> None:
    chat: Any = ts.open(folder)
    with pytest.raises(Diagnostic, match=rf"E0914(.|\n)*{message}"):
        chat.run("answer", {"ids": IDS}, host={"sample": function})


def test_a_flow_says_what_it_takes(folder: Path) -> None:
    chat: Any = ts.open(folder)
    with pytest.raises(Diagnostic, match=r"E0901.*the flow `first` has no input `tokens`"):
        chat.run("first", {"tokens": IDS}, host={"sample": greedy})
    with pytest.raises(Diagnostic, match=r"E0521.*no flow `anser`"):
        chat.run("anser", {"ids": IDS})


def leaving(logits: np.ndarray) -> np.ndarray:
    sys.exit(3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"host": {"sampl": greedy}, "allow_host": True}, r"E0913.*no host stage `sampl`(.|\n)*did you mean `sample`"),
        ({"host": {"sample": greedy, "other": greedy}}, r"E0913.*no host stage `other`(.|\n)*its host stages are sample"),
        ({"host": {"sample": 0}}, r"E0913.*is no function: 0"),
        ({"host": [greedy]}, r"E0913.*by name"),
        ({"host": {"sample": leaving}}, r"E0914.*`sample` failed: SystemExit: 3"),
        ({"host": {"sample": greedy}, "sizes": {"Q": 3}}, r"E0902.*has a size `Q`"),
        ({"host": {"sample": greedy}, "sizes": [3]}, r"E0902.*by name"),
        ({"host": {"sample": lambda x: np.full((2, 1), -1)}}, r"E0905.*stage `sample` gave has the element -1.* 0 to 15"),
        ({"host": {"sample": lambda x: np.full((2, 1), 16)}}, r"E0905.*stage `sample` gave has the element 16"),
    ],
)
def test_what_a_flow_is_given_means_something(folder: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(Diagnostic, match=message):
        ts.open(folder).run("answer", {"ids": IDS}, **given)


def test_ids_are_places_of_their_table(folder: Path) -> None:
    chat: Any = ts.open(folder)
    with pytest.raises(Diagnostic, match=r"E0905.*`ids` of `prefill` has the element -5"):
        chat.run("answer", {"ids": -IDS}, host={"sample": greedy})
    with pytest.raises(Diagnostic, match=r"E0901.*by name"):
        chat.run("answer", [IDS], host={"sample": greedy})


def test_a_module_that_leaves_does_not_end_the_process(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chat_sampling.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "chat_sampling", raising=False)
    with pytest.raises(Diagnostic, match=r"E0914.*cannot be imported from `chat_sampling:greedy`"):
        ts.open(folder).run("first", {"ids": IDS}, allow_host=True)


def test_a_file_of_another_entry_point_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ts.compile(ts.load(FILE), target="onnx", verify=False).save(tmp_path / "chat")
    shutil.copy(tmp_path / "chat" / "prefill.onnx", tmp_path / "chat" / "step.onnx")
    with pytest.raises(Diagnostic, match=r"E0528.*`step.onnx` in .* is another file than was compiled"):
        ts.open(tmp_path / "chat")
    # A folder of before files had hashes.
    manifest = tmp_path / "chat" / "program.json"
    said = json.loads(manifest.read_text())
    del said["tessera.files"]
    manifest.write_text(json.dumps(said))
    with pytest.raises(Diagnostic, match=r"E0014.*entry point `step`.*is that of another program"):
        ts.open(tmp_path / "chat")
    assert main(["explain", str(tmp_path / "chat")]) == 1
    assert "E0014" in capsys.readouterr().err


def test_the_files_of_a_program_are_checked_by_their_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Torch.write_program

    def other_weights(self: Torch, built: Any, path: Path) -> None:
        real(self, built, path)
        file = path / "weights.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)

    monkeypatch.setattr(Torch, "write_program", other_weights)
    with pytest.raises(Diagnostic, match=r"E0809.*does not read back as the same program: the weight"):
        ts.compile(ts.load(FILE), target="torch", output=tmp_path / "chat")
    assert not (tmp_path / "chat").exists()


def test_a_missing_module_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "chat_sampling", None)
    chat: Any = ts.open(folder)
    with pytest.raises(Diagnostic, match=r"E0914.*cannot be imported from `chat_sampling:greedy`"):
        chat.run("first", {"ids": IDS}, allow_host=True)


def test_an_artifact_runs_before_it_is_saved(tmp_path: Path) -> None:
    artifact: Any = ts.compile(ts.load(FILE), target="torch", verify=False)
    assert artifact.entries == ["prefill", "step"]
    assert artifact.prefill(IDS)["output"].shape == (2, 16)
    assert artifact.run("first", {"ids": IDS}, host={"sample": greedy})["output"].shape == (2, 1)
    with pytest.raises(Diagnostic, match="E0520"):
        artifact(IDS)
    artifact.save(tmp_path / "chat")
    artifact.save(tmp_path / "chat")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(Diagnostic, match=r"E0010.*something else is there"):
        artifact.save(tmp_path / "other")


def test_a_target_of_one_entry_refuses() -> None:
    several = "`--target onnx`, `--target torch`, `--target triton`"
    with pytest.raises(Diagnostic, match=rf"E0527.*the target mlir writes one entry point(.|\n)*{several}"):
        ts.compile(ts.load(FILE), target="mlir")


@pytest.mark.parametrize("out", ["chat", "chat.mlir"])
def test_a_target_of_one_entry_refuses_wherever_it_would_write(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", str(FILE), "--target", "mlir", "-o", out]) == 1
    assert "error[E0527]: the target mlir writes one entry point" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["{}", "[" * 100_000, '{"tessera.source": "model m(x: f32[B]) -> f32[B] { return x }", "tessera.target": "mlir"}']
)
def test_a_folder_that_is_damaged(text: str, tmp_path: Path) -> None:
    (tmp_path / "program.json").write_text(text)
    with pytest.raises(Diagnostic, match="E0014"):
        ts.open(tmp_path)


def test_torch_modules_share_their_parameters() -> None:
    from tessera.backends.torch import build_program

    network = build_program(ts.load(FILE), trainable=True)
    assert network.entries == ["prefill", "step"]
    assert len(list(network.parameters())) == len(ts.load(FILE).parameters())
    network.prefill(ids=_tensor(IDS))["output"].sum().backward()
    assert network["step"].head.weight.grad is not None
    assert network["step"].head.weight is network["prefill"].head.weight


def _tensor(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(array)


# Python -----------------------------------------------------------------------------------------------------------------


def test_a_program_put_together_in_python() -> None:
    made = {}
    for name, size in (("short", 2), ("long", 5)):
        with ts.model(name, doc=name.title()) as m:
            x = m.input("x", f"float[B, {size}, 4]")
            m.output(ts.std.nn.linear(x, out=3, name="head"))
        made[name] = m
    program = ts.program("both", made, doc="Two lengths.")
    assert ts.loads(ts.source(program)) == program
    assert list(program.parameters()) == ["head.weight", "head.bias"]
    with ts.model("other") as m:
        m.output(ts.std.nn.linear(m.input("x", "float[B, 4]"), out=5, name="head"))
    with pytest.raises(Diagnostic, match=r"E0522.*the parameter `head.weight`"):
        ts.program("both", {**made, "other": m})
    with pytest.raises(Diagnostic, match="E0521"):
        ts.program("none", {})


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_a_cache_passes_from_entry_to_entry_and_weights_come_by_recipe(target: str, tmp_path: Path) -> None:
    program = ts.load(FILE.with_name("everything.tess"))
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(size=(4, 8)).astype("float32") for n in ("q", "k")} | {"fc.bias": np.zeros(8, "float32")}
    ts.compile(program, target=target, weights=weights, output=tmp_path / "out")
    opened: Any = ts.open(tmp_path / "out")
    x = rng.normal(size=(2, 3, 8)).astype("float32")
    found = opened.run("run", {"x": x}, host={"last": lambda y: y[:, -1:]}, sizes={"C": 16})["output"]
    filled = opened.fill(x, sizes={"C": 16})
    state = {name: value for name, value in filled.items() if name.startswith("cache.")}
    stepped = opened.step(filled["output"][:, -1:], **state)
    assert np.allclose(found, stepped["output"], atol=1e-5)
    before = x @ np.concatenate([weights["q"], weights["k"]]).T + 1
    assert np.allclose(filled["output"], before + 1 if before.sum() > 0 else before * 2, atol=1e-4)
    assert (stepped["cache.k"] != 0).any(axis=(1, 3)).sum(axis=1).tolist() == [4, 4]
