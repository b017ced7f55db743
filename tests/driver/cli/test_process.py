"""The program as a process: bugs, interrupts, broken pipes, programs that try its patience."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import Cli

TESSERA = [sys.executable, "-m", "tessera"]


def run(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TESSERA, *map(str, args)], capture_output=True, text=True, check=False, env={**os.environ, **env}, timeout=60
    )


def test_a_bug_is_called_one(cli: Cli, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tessera.frontends import source

    def broken(*args: object) -> None:
        raise ZeroDivisionError("one\ntwo")

    monkeypatch.setattr(source, "examine", broken)
    result = cli("check", tiny)
    assert result.code == 70
    first = result.err.splitlines()[0]
    assert first.startswith("internal error: ZeroDivisionError: one at ")
    assert first.endswith(f"{Path(__file__).name}:{broken.__code__.co_firstlineno + 1}")
    assert "a bug in Tessera" in result.err


def test_the_traceback_on_demand(tiny: Path) -> None:
    code = (
        "import sys, tessera.frontends.source as s\n"
        "def broken(*args): raise ZeroDivisionError\n"
        "s.examine = broken\n"
        "from tessera.driver.cli import main\n"
        f"sys.exit(main(['check', {str(tiny)!r}]))"
    )
    shown = {}
    for debug in ("", "1"):
        env = {**os.environ, "TESSERA_DEBUG": debug}
        shown[debug] = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env
        ).stderr
    assert "Traceback" not in shown[""]
    assert "Traceback" in shown["1"]


def test_a_reader_that_goes_away() -> None:
    process = subprocess.Popen([*TESSERA, "ops"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def _with_streams(redirected: str, *args: object) -> subprocess.CompletedProcess[str]:
    command = f'"$@" {redirected}'
    return subprocess.run(
        ["bash", "-c", command, "bash", *TESSERA, *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("args", [("--help",), ("compile", "--help"), ("--version",), ("check", "nosuch", "--json")])
def test_a_reader_that_was_never_there(args: tuple[str, ...]) -> None:
    result = _with_streams("| exit 0; echo ${PIPESTATUS[0]}", *args)
    assert result.stdout == "141\n"
    assert "internal error" not in result.stderr
    assert "Exception ignored" not in result.stderr


@pytest.mark.parametrize(
    ("args", "code"), [(("ops",), 0), (("--help",), 0), (("check", "nosuch"), 1), (("fmt", "-"), 0)]
)
def test_closed_streams(args: tuple[str, ...], code: int) -> None:
    result = _with_streams("<&- >&-", *args)
    assert result.returncode == code
    assert ("E0001" in result.stderr) == (code == 1)
    assert "internal error" not in result.stderr
    assert _with_streams("<&- >&- 2>&-", *args).returncode == code


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("args", [("ops",), ("--help",), ("help", "--json")])
def test_a_full_disk_is_no_bug(args: tuple[str, ...]) -> None:
    result = _with_streams(">/dev/full", *args)
    assert result.returncode == 1
    assert result.stderr == "error[E0010]: cannot write: No space left on device\n"


def test_an_artifact_does_not_take_the_place_of_a_closed_stream(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.onnx"
    assert _with_streams("<&- >&- 2>&-", "compile", tiny, "-o", out).returncode == 0
    assert run("explain", out).stdout.startswith(f"{out}: onnx of tiny\n")


@pytest.mark.slow
def test_paths_with_spaces_and_other_letters(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ein Ordner für π"
    folder.mkdir()
    spec = folder / "mödel é.tess"
    spec.write_text(tiny.read_text())
    for target, suffix in (("onnx", "onnx"), ("torch", "safetensors")):
        out = folder / f"aus gäbe.{suffix}"
        result = run("compile", spec, "-t", target, "-o", out, LC_ALL="C")
        assert (result.returncode, result.stderr) == (0, "")
        assert run("explain", out).stdout.startswith(f"{out}: ")
    wrong = run("run", spec)
    assert f"tessera compile '{spec}' -o 'mödel é.onnx'" in wrong.stderr
    assert f"mkdir -p '{folder}/no folder'" in run("compile", spec, "-o", folder / "no folder/x.onnx").stderr


_SLOW = """
import signal, sys, time
# A job in the background of a shell starts with SIGINT ignored, one behind `nohup` with SIGHUP, and so would its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from tessera.backends.onnx.target import Onnx
from tessera.driver.cli import main
def slow(self, model, path):
    path.write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
Onnx.write = slow
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupt_leaves_nothing(tiny: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-c", _SLOW, "compile", str(tiny), "-o", str(tmp_path / "x.onnx")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in err
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.tess"}


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("long line", "E01", "model m(x: float[B]) -> float[B] { return x " + "+ x " * 250_000 + "$ }"),
        ("nesting", "E01", "model m(x: float[B]) -> float[B] { return " + "(" * 10_000 + "x" + ")" * 10_000 + " }"),
        ("brackets never closed", "E01", "model m(x: float[B]) -> float[B] { return " + "[" * 100_000),
        ("one token of a megabyte", "E0201", "model m(x: float[B]) -> float[B] { return " + "a" * 1_000_000 + " }"),
        ("zero bytes", "E01", "model m(x: float[B]) -> float[B] { return x \0 }"),
        ("include outside", "E0005", 'use "../outside.tess" (f)\nmodel m(x: float[B]) -> float[B] { return f(x) }'),
        ("include of itself", "E0006", 'use "program.tess" (m)\nmodel m(x: float[B]) -> float[B] { return x }'),
        ("include of nothing", "E0001", 'use "none.tess" (f)\nmodel m(x: float[B]) -> float[B] { return f(x) }'),
        ("empty include", "E0", 'use "" (f)\nmodel m(x: float[B]) -> float[B] { return f(x) }'),
    ],
)
def test_hostile_programs(cli: Cli, tmp_path: Path, name: str, code: str, text: str) -> None:
    (tmp_path / "outside.tess").write_text("fn f(x: float[B]) -> float[B] { return x }")
    folder = tmp_path / "project"
    folder.mkdir()
    path = folder / "program.tess"
    path.write_text(text)
    for command in (["check", path], ["compile", path, "-o", folder / "x.onnx"]):
        result = cli(*command)
        assert result.code == 1, name
        assert result.err.count("error[") == 1
        assert f"error[{code}" in result.err
        assert len(result.err) < 5_000
    assert {p.name for p in folder.iterdir()} == {"program.tess"}


def test_both_ways_to_start_it(tiny: Path) -> None:
    assert run("check", tiny).stdout == f"{tiny}: ok (tiny)\n"
    script = Path(sys.executable).with_name("tessera")
    if script.exists():
        result = subprocess.run([script, "check", str(tiny)], capture_output=True, text=True, check=False)
        assert result.stdout == f"{tiny}: ok (tiny)\n"


def test_no_colour_where_nobody_looks(tmp_path: Path) -> None:
    result = run("check", tmp_path / "none.tess", FORCE_COLOR="1")
    assert result.returncode == 1
    assert "\033" not in result.stderr


def _on_a_terminal(columns: int, *args: object, **env: str) -> str:
    """What a command writes to a terminal of that width."""
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*TESSERA, *map(str, args)], stdout=follower, stderr=follower, stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm", **env},
    )  # fmt: skip
    os.close(follower)
    text = b""
    try:
        while part := os.read(leader, 65536):
            text += part
    except OSError:  # Linux says so when the other end is closed
        pass
    os.close(leader)
    process.wait(timeout=60)
    return text.decode().replace("\r\n", "\n")


def test_colours_on_terminals_that_want_them() -> None:
    assert _on_a_terminal(80, "check", "nosuch").startswith("\033[31;1merror[E0001]:")
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert _on_a_terminal(80, "check", "nosuch", **env).startswith("error[E0001]:")


def test_narrow_terminals_wrap_the_last_column() -> None:
    text = _on_a_terminal(60, "passes")
    assert max(map(len, text.splitlines())) <= 60
    assert "\n" + " " * 38 in text
    assert len(_on_a_terminal(300, "passes").splitlines()) < len(text.splitlines())


def test_errors_as_json(cli: Cli, tmp_path: Path) -> None:
    import json

    result = cli("show", tmp_path / "none.tess", "--json")
    assert result.code == 1
    assert json.loads(result.out)["error"]["code"] == "E0001"
    assert "error[E0001]" in result.err


@pytest.mark.parametrize(
    "name", ["x" * 5000 + "{}", "\0{}", "{}", ".{}", "/{}"], ids=["long", "zero", "nothing", "dot", "root"]
)
@pytest.mark.parametrize(
    "command",
    [
        ["check", ".tess"], ["fmt", ".tess"], ["show", ""], ["compile", ".tess"], ["explain", ".onnx"], ["explain", ""],
        ["run", ".onnx"], ["run", ".safetensors"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_impossible_paths(
    cli: Cli, command: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    verb, suffix = command
    result = cli(verb, name.format(suffix))
    assert result.code == 1
    assert "error[E0" in result.err
    assert len(result.err) < 10_000


@pytest.mark.parametrize("option", ["-w", "-o"])
def test_impossible_paths_as_options(
    cli: Cli, tiny: Path, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x" * 5000 + ".onnx", "\0.onnx", ".", "/"):
        result = cli("compile", tiny, option, name)
        assert (result.code, result.err.count("error[E0")) == (1, 1), name[:20]
