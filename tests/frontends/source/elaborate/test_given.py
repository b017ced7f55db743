"""Static parameters of a model that are given from outside: by a compile block, from Python, on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tessera as ts
from tessera.driver.cli import main
from tessera.ir.diagnostics import Diagnostic

PROGRAM = """\
use std.nn (gelu, silu)

const WIDE = 32

fn twice(x: float[...]) -> float[...] {
    return x * 2.0
}

op chain(x: float[...], *, fs: list = [gelu, exp]) -> float[...] {
    repeat f in fs {
        x = f(x)
    }
    return x
}

model m(x: float[B, 8], *, act: fn = gelu, to: dtype = f32, mode: str = "a", n: int = 8, fs: list = [gelu])
    -> (float[B, 8], f32[n]) {
    x = cast(chain(act(x), fs=fs), to)
    if mode == "f16" {
        x = -x
    }
    param w: f32[n]
    return cast(x, f32), w
}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "m.tess"
    path.write_text(PROGRAM)
    return path


def ops(module: Any) -> list[str]:
    return [node.op.name for node in module.graph.nodes() if node.op.name not in ("constant", "cast", "chain")]


@pytest.mark.parametrize(
    ("act", "found"),
    [
        ("silu", ["silu"]),
        ("std.nn.gelu_tanh", ["gelu_tanh"]),
        ("exp", ["exp"]),
        ("twice", ["mul"]),
        (ts.std.nn.relu, ["relu"]),
        (ts.ops.tanh, ["tanh"]),
    ],
)
def test_a_function_by_name(file: Path, act: Any, found: list[str]) -> None:
    module = ts.load(file, params={"act": act})
    assert ops(module) == found
    assert ts.loads(ts.source(module)) == module


def test_a_function_of_a_used_file(file: Path) -> None:
    assert ops(ts.load(file, params={"act": ts.use(file).twice})) == ["mul"]


def test_other_kinds_by_name(file: Path) -> None:
    module = ts.load(file, params={"to": "f16", "n": "WIDE", "fs": ["silu", ts.ops.exp]})
    assert [str(v.type) for v in module.graph.outputs] == ["f32[B, 8]", "f32[32]"]
    assert "chain(gelu_1, fs=[silu, exp])" in ts.source(module)
    assert "cast(chain_1, f16)" in ts.source(module)
    assert ts.loads(ts.source(module)) == module


@pytest.mark.parametrize(
    ("params", "code", "message", "help"),
    [
        ({"act": "sillu"}, "E0201", "`sillu` is not defined; `act` is a `fn`", "did you mean `silu`?"),
        ({"act": "relu"}, "E0201", "`relu` is not defined; `act` is a `fn`", "write `std.nn.relu`"),
        ({"act": "std.nn.sillu"}, "E0201", "`std.nn` declares no `sillu`", "did you mean `silu`?"),
        ({"act": "std.nm.silu"}, "E0202", "there is no module `std.nm`", "did you mean `std.nn`?"),
        ({"act": "WIDE"}, "E0402", "`act` of `m` must be of kind `fn`, but is the int 32", None),
        ({"to": "float16"}, "E0201", "`float16` is not defined; `to` is a `dtype`", "did you mean `f16`?"),
        ({"n": "six"}, "E0402", '`n` of `m` must be of kind `int`, but is the str "six"', None),
    ],
)
def test_what_has_no_such_name(file: Path, params: dict[str, Any], code: str, message: str, help: str | None) -> None:
    with pytest.raises(Diagnostic) as caught:
        ts.load(file, params=params)
    assert (caught.value.code, caught.value.message, caught.value.help) == (code, message, help)


def test_on_the_command_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["-p", "act=std.nn.gelu_tanh", "-p", "to=bf16", "-p", "mode=f16", "-p", "fs=[silu]"]
    assert main(["show", str(file), *given]) == 0
    out = capsys.readouterr().out
    for part in ("use std.nn (gelu, gelu_tanh, silu)", "gelu_tanh(x)", "fs=[silu]", "bf16", " = -"):
        assert part in out
    assert main(["show", str(file), "-p", "act=sillu"]) == 1
    assert "did you mean `silu`?" in capsys.readouterr().err


def test_in_a_compile_block(file: Path) -> None:
    file.write_text(f"{PROGRAM}\ncompile m(act=std.nn.relu, to=f64, n=WIDE) {{\n}}\n")
    assert ops(ts.load(file)) == ["relu"]
    assert ops(ts.load(file, params={"act": "silu"})) == ["silu"]
    file.write_text(f"{PROGRAM}\ncompile m(act=sillu) {{\n}}\n")
    with pytest.raises(Diagnostic) as caught:
        ts.check(file)
    assert caught.value.span is not None
    assert (caught.value.code, caught.value.span.line, caught.value.span.column) == ("E0201", 26, 15)
