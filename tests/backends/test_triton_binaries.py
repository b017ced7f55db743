"""Binaries in an artifact for the Triton target: made for GPUs that are not there, and found again where Triton looks for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.backends.torch.file import header_strings
from tessera.backends.triton.binaries import BINARIES, offered
from tessera.ir.diagnostics import Diagnostic
from tessera.kernels.launch import planning
from tessera.runtime.program import ProgramRunner
from tessera.runtime.weights.open import open_weights

SOFTMAX = """model m(x: f32[B, 48]) -> (y: f32[B, 48]) {
    e = exp(x - max(x, axis=-1, keepdims=true))
    return e / sum(e, axis=-1, keepdims=true)
}
"""
PROGRAM = """model soft(x: f32[B, 48]) -> (y: f32[B, 48]) {
    e = exp(x)
    return e / sum(e, axis=-1, keepdims=true)
}
model gate(x: f32[B, T]) -> (y: f32[B, T]) { return x * sigmoid(x) * tanh(x) }
program both {
    entry first = soft
    entry then = gate
}
"""
# Opens an artifact as on a GPU of this kind, with nothing compiled before, and launches what it planned as far as compiling goes.
REHEARSAL = """
import json, sys
from pathlib import Path
import triton
from tessera.backends.triton import binaries
from tessera.kernels import ahead, shipped
from tessera.runtime.weights.open import open_weights

binaries._machine = lambda: "sm_90"
file, said, rows = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
offered = binaries.offered(said, open_weights(file), file)
found = []
triton.knobs.compilation.listener = lambda cache_hit, **facts: found.append(cache_hit)
for row in rows:
    ahead.built(row, "sm_90", Path(sys.argv[4]))
print(json.dumps({"offered": offered, "hits": found, "taken": shipped.taken()}))
"""


def planned(sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """What the softmax would launch."""
    import torch

    from tessera.backends.triton import build

    network = build(ts.loads(SOFTMAX))
    with planning() as rows, torch.no_grad():
        network(torch.zeros(sizes))
    return json.loads(json.dumps(rows))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("binaries") / "m.triton"
    ts.compile(ts.loads(SOFTMAX), target="triton", binaries="sm_90,gfx942", at="B=5", output=file)
    return file


@pytest.mark.slow
def test_an_artifact_brings_binaries_and_says_which(artifact: Path, tmp_path: Path) -> None:
    said = json.loads(header_strings(artifact)[BINARIES])
    assert said["sizes"] == {"B": 5}
    assert [row["target"] for row in said["binaries"]] == ["sm_90", "gfx942"]
    tensors = open_weights(artifact)
    for row, ending, magic in zip(said["binaries"], (".cubin", ".hsaco"), (b"\x7fELF", b"\x7fELF"), strict=True):
        (name,) = [n for n in row["sha256"] if n.endswith(ending)]
        assert np.asarray(tensors[f"tessera.binary/{row['key']}/{name}"]).tobytes().startswith(magic)
        (told,) = [n for n in row["sha256"] if n.endswith(".json")]
        text = np.asarray(tensors[f"tessera.binary/{row['key']}/{told}"]).tobytes().decode()
        assert str(Path(sys.prefix)) not in text
    x = np.random.default_rng(0).standard_normal((3, 48)).astype("f4")
    np.testing.assert_allclose(ts.open(artifact)(x=x)["y"].sum(1), np.ones(3), rtol=1e-5)


@pytest.mark.slow
def test_triton_takes_a_binary_where_it_would_compile_the_same_and_compiles_otherwise(artifact: Path, tmp_path: Path) -> None:
    rows = planned((5, 48))
    # Rows that are a multiple of 16 apart, and another number of warps: other kernels to Triton.
    other = [{**row, "options": {**row["options"], "num_warps": 8}} for row in rows]
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    given = [str(artifact), header_strings(artifact)[BINARIES], json.dumps(rows + other), str(tmp_path / "made")]
    call = [sys.executable, "-c", REHEARSAL, *given]
    run = subprocess.run(call, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {"offered": 1, "hits": [True, False], "taken": 1}


@pytest.mark.slow
def test_a_program_brings_those_of_all_entry_points(tmp_path: Path) -> None:
    ts.compile(ts.loads(PROGRAM), target="triton", binaries="sm_80", at="B=5,T=7", output=tmp_path / "both", verify=False)
    said = json.loads(header_strings(tmp_path / "both" / "weights.safetensors")[BINARIES])
    assert [row["kernel"].split(".")[1].split("_")[0] for row in said["binaries"]] == ["exp", "sigmoid"]
    opened = ts.open(tmp_path / "both")
    assert isinstance(opened, ProgramRunner)
    y = opened["then"](x=np.zeros((1, 3), "f4"))["y"]
    np.testing.assert_array_equal(y, np.zeros((1, 3), "f4"))


@pytest.mark.slow
def test_a_binary_that_was_changed_is_refused(artifact: Path, tmp_path: Path) -> None:
    data = bytearray(artifact.read_bytes())
    place = data.index(b"\x7fELF")
    data[place + 100] ^= 1
    changed = tmp_path / "m.triton"
    changed.write_bytes(data)
    with pytest.raises(Diagnostic, match=r"the kernel `\w+.(cubin|hsaco)` in `m.triton` is another one than was") as caught:
        ts.open(changed)
    assert caught.value.code == "E0528"


@pytest.mark.parametrize(
    "said",
    [
        "{", "[]",
        '{"triton": "3", "sizes": {}, "binaries": [{"key": "00", "kernel": "k", "target": "sm_90", "sha256": {"../x": ""}}]}',
    ],
    ids=["no JSON", "no object", "a file elsewhere"],
)
def test_what_was_not_written_so_is_refused(said: str) -> None:
    with pytest.raises(Diagnostic, match=r"`m.triton` says of its kernels what was not written so"):
        offered(said, {}, "m.triton")


@pytest.mark.parametrize(
    ("options", "message", "help"),
    [
        ({"binaries": "sm_70"}, "names GPUs among sm_80, sm_90, gfx942, or `all`, but `sm_70` is none of them", None),
        ({"binaries": "all", "at": "B"}, "`at` of the target `triton` is written NAME=SIZE, as in B=1,T=128", None),
        ({"binaries": "all"}, "kernels are compiled for known sizes, and nothing says what `B` is", "--at B=1, or others"),
        ({"binaries": "all", "at": "C=3"}, "the program has no size `C` to compile kernels for", "its sizes are B"),
    ],
    ids=["a GPU", "a size", "no size", "another size"],
)  # fmt: skip
def test_what_cannot_be_compiled_for_is_refused(options: dict[str, str], message: str, help: str | None, tmp_path: Path) -> None:
    with pytest.raises(Diagnostic) as caught:
        ts.compile(ts.loads(SOFTMAX), target="triton", output=tmp_path / "m.triton", **options)
    assert (caught.value.code, caught.value.help) == ("E0012", help)
    assert message in caught.value.message
    assert not list(tmp_path.iterdir())
