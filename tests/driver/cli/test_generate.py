"""generate: text comes as it is made; what does not fit together is said before anything runs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

import tessera as ts

from ...runtime.generate.support import TARGETS, greedy, said, weights, words
from ...seeds.routing import known
from .conftest import Cli


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate") / "chat"
    program = ts.load("dyspec")
    ts.compile(program, target="onnx", weights=weights(program, 0), verify=False).save(folder)
    words(folder)
    return folder


def text(ids: list[int], count: int) -> str:
    return said(greedy(ids, count))


def test_text_on_stdout_and_speed_on_stderr(cli: Cli, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cli("generate", chat, "--prompt", "w5 w9 w33", "-n", 6)
    assert (found.code, found.out) == (0, text([5, 9, 33], 6) + "\n")
    assert found.err.startswith("6 tokens, ")
    assert " tokens/s; the first after " in found.err
    file = tmp_path / "page.txt"
    file.write_text("w7 w8\n", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("w40"))
    several = cli("generate", chat, "--prompt", "w5 w9 w33", "--prompt-file", file, "--prompt-file", "-", "-n", 6, "--rows", 2)
    assert several.out == "\n\n".join(text(ids, 6) for ids in ([5, 9, 33], [7, 8], [40])) + "\n"


def test_json_and_draws_from_a_seed(cli: Cli, chat: Path) -> None:
    options = ("--prompt", "w5 w9", "-n", 9, "--temperature", 1, "--top-p", 0.95, "--top-k", 40, "--min-p", 0.001, "--json")
    found = json.loads(cli("generate", chat, *options, "--seed", 4).out)
    expected = ts.generate(
        chat, "w5 w9", tokenizer=chat, max_tokens=9, temperature=1.0, top_p=0.95, top_k=40, min_p=0.001, seed=4
    )
    assert found["completions"][0]["tokens"] == expected.tokens
    assert found["completions"][0]["text"] == expected.text
    assert (found["completions"][0]["finish"], found["tokens"]) == (expected.finish, len(expected.tokens))
    assert found["tokens_per_second"] > 0
    assert json.loads(cli("generate", chat, *options, "--seed", 5).out)["completions"] != found["completions"]


@pytest.mark.extended
def test_a_draft_proposes_and_the_model_decides(cli: Cli, chat: Path) -> None:
    found = cli("generate", chat, "--prompt", "w5 w9 w33", "-n", 7, "--draft", chat, "--shape", "dynamic", "--budget", 3)
    assert (found.code, found.out) == (0, text([5, 9, 33], 7) + "\n")
    assert found.err.rstrip().endswith(" a pass of the model")


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("seed", "option", "chance", "counted", "says"),
    [("r2r", "threshold", 0.2, "asked", "the large model chose {}"), ("hamburger", "confidence", 0.7, "passes", " a group")],
)
def test_programs_of_more_entry_points(
    cli: Cli, tmp_path: Path, target: str, seed: str, option: str, chance: float, counted: str, says: str
) -> None:
    """A large model that is asked, and groups of tokens: what Python gives, and more or less of it with the chance."""
    program = ts.load(seed)
    own = known(trained=True) if seed == "r2r" else weights(program, 0, 0.2)
    ts.compile(program, target=target, weights=own, verify=False).save(tmp_path / "made")
    words(tmp_path / "made")
    options = ("generate", tmp_path / "made", "--prompt", "w5 w9 w33", "--prompt", "w7", "-n", 24)
    seen = []
    for value in (0.0, chance, 1.0):
        found = json.loads(cli(*options, f"--{option}", value, "--json").out)["completions"]
        seen.append(sum(c[counted] for c in found))
    assert len(set(seen)) == 3
    expected: Any = ts.generate(
        tmp_path / "made", ["w5 w9 w33", "w7"], tokenizer=tmp_path / "made", max_tokens=24, **{option: chance}
    )
    found = cli(*options, f"--{option}", chance)
    assert found.out == "\n\n".join(c.text for c in expected) + "\n"
    assert found.err.rstrip().endswith(says.format(seen[1]))


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ([], "E0011", "there is no prompt"),
        (["--prompt", "w5", "--top-p", "9"], "E0952", "`top_p` is 9.0"),
        (["--prompt", "w5", "--capacity", "8", "-n", "20"], "E0951", "the cache holds 8"),
        (["--prompt", " "], "E0951", "the prompt is empty"),
        (["--prompt", "w5", "--tokenizer", "none.json"], "E0924", "there is no tokenizer at `none.json`"),
        (["--prompt", "w5", "--eos", "<end>"], "E0953", "has no token `<end>`"),
        (["--prompt-file", "none.txt"], "E0001", "there is no file `none.txt`"),
        (["--prompt", "w5", "--shape", "chain"], "E0011", "`--shape` is of drafts, and there is none"),
        (["--prompt", "w5", "--budget", "2"], "E0011", "`--budget` is of drafts, and there is none"),
        (["--prompt", "w5", "--threshold", "1.5"], "E0957", "the threshold is 1.5, and must be from 0"),
        (["--prompt", "w5", "--threshold", "0.5"], "E0957", "has no entry point `large`"),
        (["--prompt", "w5", "--confidence", "nan"], "E0958", "the confidence is nan, and must be from 0"),
        (["--prompt", "w5", "--confidence", "0.5"], "E0958", "has no entry point `group`"),
        (["--prompt", "w5", "--confidence", "0.5", "--threshold", "0.5"], "E0958", "exclude each other"),
    ],
)
def test_what_does_not_fit(cli: Cli, chat: Path, options: list[str], code: str, says: str) -> None:
    found = cli("generate", chat, *options)
    assert (found.code, found.out) == (1, "")
    assert f"error[{code}]" in found.err
    assert says in found.err


@pytest.mark.extended
def test_a_decoder_that_a_pass_makes_is_written_again(
    cli: Cli, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = [word for pair in ("vocab=64", "dim=32", "depth=1", "heads=2", "kv_heads=1", "hidden=64") for word in ("-p", pair)]
    for options in ([], ["-o", "llama_lm"]):
        made = cli("compile", "zoo/llama", "--model", "llama_lm", *small, "--pass", "add_cache", "--no-verify", *options)
        assert (made.code, "wrote llama_lm (" in made.out) == (0, True), made.err
    found = cli("generate", "llama_lm", "--tokenizer", chat, "--prompt", "w5 w9", "-n", 4, "--json")
    assert len(json.loads(found.out)["completions"][0]["tokens"]) <= 4


def test_a_draft_excludes_other_ways(cli: Cli, chat: Path) -> None:
    for option, code in (("--threshold", "E0957"), ("--confidence", "E0958")):
        found = cli("generate", chat, "--prompt", "w5", option, 0.5, "--draft", chat)
        assert f"error[{code}]" in found.err
        assert "a draft exclude each other" in found.err


def test_other_artifacts(cli: Cli, chat: Path, tmp_path: Path) -> None:
    for artifact, code in ((chat / "prefill.onnx", "E0950"), (tmp_path / "none", "E0001"), (Path(__file__), "E0014")):
        assert f"error[{code}]" in cli("generate", artifact, "--prompt", "w5", "--tokenizer", chat).err
