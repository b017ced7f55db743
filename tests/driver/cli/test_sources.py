"""check, fmt, show, ops, passes, specs, help."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest

import tessera as ts

from .conftest import Cli


def test_check_names_the_models(cli: Cli, tiny: Path) -> None:
    result = cli("check", tiny)
    assert (result.code, result.out, result.err) == (0, f"{tiny}: ok (tiny)\n", "")


def test_check_goes_on_after_a_wrong_file(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.tess"
    wrong.write_text("model m(x: float[B]) -> float[B] { return nosuch(x) }")
    result = cli("check", wrong, tiny)
    assert result.code == 1
    assert "error[E0201]" in result.err
    assert f"{tiny}: ok" in result.out


@pytest.mark.parametrize(
    ("block", "code", "text"),
    [
        ("pass nosuch", "E0701", "pass nosuch"),
        ("pass dce(x=2)", "E0702", "the pass `dce` has no option `x`"),
        ('pass merge_tokens(r="a")', "E0703", "`r` of the pass `merge_tokens` must be"),
        ("target nowhere", "E0012", "there is no target `nowhere`"),
        ("target onnx(level=3)", "E0012", "has no option `level`"),
    ],
)
def test_check_reads_compile_blocks(cli: Cli, tiny: Path, block: str, code: str, text: str) -> None:
    tiny.write_text(f"{tiny.read_text()}\ncompile tiny {{\n    {block}\n}}\n")
    result = cli("check", tiny)
    assert result.code == 1
    assert f"error[{code}]" in result.err
    assert text in result.err


def test_check_as_json(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    result = cli("check", tiny, tmp_path / "none.tess", "--json")
    good, bad = json.loads(result.out)
    assert result.code == 1
    assert good == {"file": str(tiny), "ok": True, "models": ["tiny"]}
    assert bad["error"]["code"] == "E0001"


def test_check_takes_shipped_names(cli: Cli) -> None:
    assert cli("check", "zoo/minilm", "vit_s16", "std/nn").code == 0


def test_a_name_that_is_nothing(cli: Cli) -> None:
    result = cli("check", "vit_s61")
    assert result.code == 1
    assert "error[E0001]" in result.err
    assert "did you mean `vit_s16`?" in result.err


UGLY = "model m(x:float[B,4])->float[B,4]{return exp( x )}  # a comment"
PRETTY = "model m(x: float[B, 4]) -> float[B, 4] {\n    return exp(x)\n} # a comment\n"


@pytest.fixture
def ugly(tmp_path: Path) -> Path:
    path = tmp_path / "ugly.tess"
    path.write_text(UGLY)
    return path


def test_fmt_in_place_and_again(cli: Cli, ugly: Path) -> None:
    ugly.chmod(0o640)
    assert cli("fmt", ugly).out == f"{ugly}: formatted\n"
    first = ugly.read_text()
    assert "# a comment" in first
    assert "float[B, 4]" in first
    assert ugly.stat().st_mode & 0o777 == 0o640
    assert cli("fmt", ugly).out == ""
    assert ugly.read_text() == first


def test_fmt_check_and_diff_change_nothing(cli: Cli, ugly: Path) -> None:
    result = cli("fmt", ugly, "--check")
    assert (result.code, result.out) == (1, f"{ugly}: would be formatted\n")
    result = cli("fmt", ugly, "--diff")
    assert result.code == 0
    assert f"-{UGLY}" in result.out
    assert ugly.read_text() == UGLY


def test_fmt_of_stdin(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(UGLY.encode())))
    result = cli("fmt", "-")
    assert result.code == 0
    assert result.out.startswith("model m(x: float[B, 4]) -> float[B, 4] {\n")


def test_fmt_of_bytes_that_are_no_text(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "latin.tess"
    path.write_bytes("# caf\u00e9\n".encode("latin-1"))
    result = cli("fmt", path)
    assert result.code == 1
    assert "error[E0003]" in result.err


RULES = """\
rewrite exact twice(x: float[...]) { neg(neg(x)) => x }
model m(x: float[B]) -> float[B] {
    y = exp(-x)
    return -(y + 1.0)
}
"""


def test_show_prints_source_that_reads_back(cli: Cli, tiny: Path) -> None:
    import tessera as ts

    result = cli("show", tiny, "-p", "classes=5")
    assert ts.loads(result.out) == ts.load(tiny, params={"classes": 5})


def test_show_prints_what_is_written(cli: Cli, tmp_path: Path) -> None:
    spec = tmp_path / "m.tess"
    spec.write_text(f"# A remark that stays.\n{RULES}", encoding="utf-8")
    assert cli("show", spec).out == spec.read_text(encoding="utf-8")
    assert json.loads(cli("show", spec, "--json").out)["source"] == spec.read_text(encoding="utf-8")
    inlined = cli("show", spec, "--inlined").out
    assert "remark" not in inlined
    assert "y_1 = " in inlined or "exp(" in inlined


@pytest.mark.parametrize("name", ["vit_s16", "gpt2", "minilm", "whisper_encoder"])
def test_equal_blocks_are_one_repeat(cli: Cli, name: str) -> None:
    import tessera as ts

    module = ts.load(name)
    shown = cli("show", name, "--inlined").out
    assert ts.loads(shown) == module
    assert " in " in shown.split("repeat", 1)[1].splitlines()[0]
    assert len(shown.splitlines()) * 2 < len(ts.source(module).splitlines())


def test_blocks_that_differ_stay_apart(cli: Cli, tmp_path: Path) -> None:
    import tessera as ts

    spec = tmp_path / "apart.tess"
    spec.write_text(
        "use std.nn (linear)\n"
        "model m(x: float[B, 8], y: float[B, 8]) -> (float[B, 8], float[B, 8]) {\n"
        "    first = x\n"
        "    repeat i in 3 as blocks {\n"
        "        first = x\n"
        "        x = linear(x, out=8) as a + y\n"
        "    }\n"
        "    repeat i in 3 as uneven { x = linear(x, out=8, bias=i == 1) as a }\n"
        "    return x, first\n"
        "}\n"
    )
    shown = cli("show", spec, "--inlined").out
    assert ts.loads(shown) == ts.load(spec)
    assert "repeat" not in shown


def test_show_after_a_pass(cli: Cli, tmp_path: Path) -> None:
    spec = tmp_path / "merge.tess"
    spec.write_text(
        "use zoo.vit (vit_s16)\n"
        "model m(image: float[B, 3, 32, 32]) -> float[B, 10] { return vit_s16(image, size=32, depth=1, classes=10) }\n"
        "compile m { pass dce  pass merge_tokens(r=1, protect=1)  pass cse }"
    )
    assert "bipartite_merge" not in cli("show", spec).out
    assert "bipartite_merge" not in cli("show", spec, "--after", "dce").out
    assert "bipartite_merge" in cli("show", spec, "--after", "merge_tokens").out
    each = cli("show", spec, "--each", "--verify-each").out
    assert [line.strip("# -") for line in each.splitlines() if line.startswith("# ---")] == [
        "before any pass", "after dce", "after merge_tokens", "after cse",
    ]  # fmt: skip
    wrong = cli("show", spec, "--after", "fold_constants")
    assert wrong.code == 1
    assert "it runs dce, merge_tokens, cse" in wrong.err


def test_show_each_as_json(cli: Cli, tiny: Path) -> None:
    stages = json.loads(cli("show", tiny, "--pass", "fold_constants", "--pass", "cse", "--each", "--json").out)
    assert [s["after"] for s in stages] == [None, "fold_constants", "cse"]
    assert stages[1]["report"]["pass"] == "fold_constants"


def test_why_a_rule_does_not_fire(cli: Cli, tmp_path: Path) -> None:
    spec = tmp_path / "rules.tess"
    spec.write_text(RULES)
    text = cli("show", spec, "--why", "twice").out
    assert text.startswith("`twice` matches nowhere; 1 of 2 calls matched at ")
    facts = json.loads(cli("show", spec, "--why", "twice", "--json").out)
    assert (facts["matches"], facts["nearest"]["matched"], facts["nearest"]["of"]) == ([], 1, 2)
    spec.write_text(RULES.replace("-(y + 1.0)", "-(-y)"))
    assert cli("show", spec, "--why", "twice").out.startswith(f"`twice` matches 1 time(s): {spec}:4:")
    wrong = cli("show", spec, "--why", "thrice")
    assert wrong.code == 1
    assert "error[E0711]" in wrong.err


def test_a_wrong_pass_or_option(cli: Cli, tiny: Path) -> None:
    assert "error[E0701]" in cli("show", tiny, "--pass", "merge_tokenz(r=8)").err
    assert "error[E0702]" in cli("show", tiny, "--pass", "fold_constants(limits=8)").err
    assert cli("show", tiny, "--pass", "dce(").code == 1


@pytest.mark.parametrize("value", ["classes", "classes=", "classes=[", "=4", "cl asses=4"])
def test_a_malformed_parameter(cli: Cli, tiny: Path, value: str) -> None:
    result = cli("show", tiny, "-p", value)
    assert result.code == 1
    assert "error[E0011]" in result.err


def test_an_unknown_parameter_and_a_wrong_kind(cli: Cli, tiny: Path) -> None:
    assert "error[E0403]" in cli("show", tiny, "-p", "clases=4").err
    assert "error[E0402]" in cli("show", tiny, "-p", "classes=1.5").err


def test_which_model(cli: Cli, tmp_path: Path) -> None:
    several = tmp_path / "several.tess"
    several.write_text("".join(f"model {n}(x: f32[B]) -> f32[B] {{\n    return x\n}}\n" for n in ("a", "b")))
    result = cli("show", several)
    assert result.code == 1
    assert "error[E0207]" in result.err
    assert "choose one with `--model`: a, b" in result.err
    assert "did you mean `vit_s16`?" in cli("show", "zoo/vit", "--model", "vit_s61").err


def test_ops(cli: Cli) -> None:
    listing = cli("ops").out
    assert "elementwise\n" in listing
    assert "  topk " in listing
    assert cli("ops", "topk").out.startswith("topk(x: num[...], ")
    assert "Gaussian error linear unit" in cli("ops", "std.nn.gelu").out
    assert {row["name"] for row in json.loads(cli("ops", "--json").out)} >= {"exp", "matmul"}
    assert "error[E0013]" in cli("ops", "tokp").err


@pytest.mark.parametrize("search", ["linear", "RoPE", "LSTM", "token map"])
def test_what_a_search_finds_can_be_shown(cli: Cli, search: str) -> None:
    for row in json.loads(cli("ops", "--search", search, "--json").out):
        assert row["doc"] in cli("ops", row["name"]).out


def test_an_op_of_std_without_its_module(cli: Cli) -> None:
    assert "std declares it: `tessera ops std.nn.softmax`" in cli("ops", "softmax").err
    assert "std declares it: `tessera ops std.recurrent.lstm`" in cli("ops", "lstm").err
    assert "did you mean `softmax`?" in cli("ops", "sofmax").err


def test_passes(cli: Cli) -> None:
    listing = cli("passes").out
    assert re.search(r"merge_tokens +approximate +Merges", listing)
    options = json.loads(cli("passes", "merge_tokens", "--json").out)["options"]
    assert "r" in {o["name"] for o in options}
    assert "did you mean `fold_constants`?" in cli("passes", "fold_constant").err


def test_aliases_of_passes(cli: Cli, tmp_path: Path) -> None:
    assert re.search(r"^raise_composites, raise +exact", cli("passes").out, re.MULTILINE)
    assert cli("passes", "raise").out == cli("passes", "raise_composites").out
    assert json.loads(cli("passes", "raise", "--json").out)["aliases"] == ["raise"]
    path = tmp_path / "m.tess"
    path.write_text(
        "model m(x: f32[B]) -> f32[B] { return x * (1.0 / (1.0 + exp(-x))) }\n"
        "compile m { pass raise_composites pass inline }"
    )
    for args in (("--pass", "raise"), ("--after", "raise")):
        result = cli("show", path, *args)
        assert result.code == 0
        assert "silu(x)" in result.out


def test_specs(cli: Cli) -> None:
    rows = {row["name"]: row["models"] for row in json.loads(cli("specs", "--json").out)}
    assert "vit_s16" in rows["zoo/vit"]
    assert "model minilm(" in cli("specs", "zoo/minilm").out
    assert cli("specs", "minilm").out == cli("specs", "zoo/minilm").out
    assert "error[E0013]" in cli("specs", "zoo/vitt").err


def test_ops_and_specs_are_found_by_words(cli: Cli) -> None:
    found = cli("ops", "--search", "running along").out
    assert "cumsum" in found
    assert "std.math.cumprod" in found
    assert "matmul" not in found
    named = [r["name"] for r in json.loads(cli("ops", "--search", "bipartite merge", "--json").out)]
    assert "std.token.bipartite_merge" in named
    assert all(name.startswith("std.token.") for name in named)
    assert "zoo/vit " in cli("specs", "--search", "Dosovitskiy PATCH").out
    assert "zoo/llama" not in cli("specs", "--search", "Dosovitskiy PATCH").out
    assert "no op has the words" in cli("ops", "--search", "xylophone").out
    assert "no spec has the words" in cli("specs", "--search", "xylophone").out


def test_explain_says_what_each_name_of_a_type_is(cli: Cli) -> None:
    shown = cli("explain", "zoo/vit").out
    assert "the file also has vit_s16, vit_b16, vit_l16, vit_classifier" in shown
    rows = json.loads(cli("explain", "zoo/vit", "--json").out)["dimensions"]
    assert {r["name"] for r in rows} == {"B", "H", "W"}
    assert next(r["type"] for r in rows if r["name"] == "H").startswith("the size of axis 2 of `image`")


def test_help_explains_codes(cli: Cli) -> None:
    assert cli("help", "e0001").out.startswith("E0001: no such file\n")
    assert "E0010" in json.loads(cli("help", "--json").out)
    assert "error[E0013]" in cli("help", "E9999").err


def test_an_unknown_command_and_option(cli: Cli) -> None:
    result = cli("chekc", "x")
    assert result.code == 2
    assert "did you mean `check`?" in result.err
    assert cli("check").code == 2
    assert cli("check", "--nosuch", "x").code == 2


def test_version(cli: Cli) -> None:
    from importlib.metadata import version

    assert cli("--version").out == f"tessera {version('tessera')}\n"


@pytest.mark.parametrize("command", [("show",), ("explain",), ("compile", "--no-verify", "--json", "-o", "OUT")])
def test_a_file_means_the_model_of_its_own_name(cli: Cli, tmp_path: Path, command: tuple[str, ...]) -> None:
    path = tmp_path / "second.tess"
    path.write_text("".join(f"model {n}(x: f32[B]) -> f32[B] {{\n    return x\n}}\n" for n in ("first", "second")))
    verb, *options = (str(tmp_path / "out.onnx") if word == "OUT" else word for word in command)
    result = cli(verb, path, *options)
    assert (result.code, result.err) == (0, "")
    assert "second" in result.out.replace(str(tmp_path), "")
    assert ts.load(path).name == "second"
    assert ts.load("vit").name == "vit"


def test_an_error_of_a_pass_shows_what_was_typed(cli: Cli, tiny: Path) -> None:
    result = cli("show", tiny, "--pass", "inline(only=[3])")
    assert result.err.splitlines()[1:5] == ["  --> --pass:1:13", "   |", " 1 | inline(only=[3])", "   |             ^^^"]
    result = cli("show", tiny, "--pass", "dce", "--pass", "cse(x=1")
    assert result.err.splitlines()[1:5] == ["  --> --pass 2:1:4", "   |", " 1 | cse(x=1", "   |    ^"]
    assert "  --> --after:1:1" in cli("show", tiny, "--after", "3 + 4").err
