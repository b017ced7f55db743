"""Every command and snippet that a page, a help text, a docstring or an error shows is one that works.

Commands are collected from the pages, from the strings of the package's own code (docstrings and help lines of errors among them),
from the comments of shipped specs, and from the explanations of codes. All are parsed; `slow` runs each in a folder that has the
files they speak of.
"""

from __future__ import annotations

import ast
import doctest
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import click
import numpy as np
import pytest
from safetensors.numpy import save_file

import tessera as ts
from tessera.backends import mlir
from tessera.backends.target import registry
from tessera.driver.check import check
from tessera.driver.cli import cli, main
from tessera.driver.compile import compile as compile_model
from tessera.frontends.onnx import load as load_onnx
from tessera.frontends.source.syntax import ast as syntax
from tessera.frontends.source.syntax.parser import parse
from tessera.ir.codes import all_codes
from tessera.ir.diagnostics import Diagnostic
from tessera.runtime.weights.bind import initialise
from tessera.runtime.weights.open import open_weights

from .driver.toy_target import Dump

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])
ROOMS = ("backends", "driver", "frontends", "ir", "kernels", "passes", "runtime", "specs")
MODULES = sorted([*ROOT.glob("*.py"), *(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))])
SPECS = sorted((ROOT / "specs").rglob("*.tess"))
VERBS = cli.list_commands(click.Context(cli))

# A command in code quotes, or one that a line begins with, perhaps behind a prompt or a label.
_QUOTED = re.compile(r"`{1,2}(tessera [^`]+)`{1,2}")
_LINE = re.compile(r"^(?: {4,}\$? ?| +(?:wrong|right):? +|.*?: )(tessera [a-z].*)$")
# What stands for something of the reader's own.
PLACEHOLDERS = {
    "FILE": "vit.tess", "SPEC": "vit.tess", "MODEL": "vit.onnx", "ARTIFACT": "vit.onnx", "A": "vit.onnx", "B": "m.onnx",
    "PASS": "merge_tokens", "NAME": "merge_tokens", "RULE": "double_negation", "CODE": "E0302", "F": "vit.safetensors",
    "OUT": "out.onnx", "OUT.safetensors": "out.safetensors", "WEIGHTS": "vit.safetensors", "COMMAND": "compile", "PROGRAM": "talk",
    "name=FILE": "image=cat.png",
}  # fmt: skip
# Names of the reader's files without a suffix, and of shipped models.
OWN = {"folder", "chat", "talk", "pair", "burger", "vit_s16"}


class Shown(NamedTuple):
    """A command line; ``code`` is the error that it must fail with, or None where it must work."""

    place: str
    text: str
    code: str | None = None


def commands_in(text: str) -> Iterator[str]:
    for line in text.replace("\\\n", " ").split("\n"):
        quoted = _QUOTED.findall(line)
        whole = _LINE.match(line)
        for found in quoted or ([whole.group(1)] if whole else []):
            yield found.strip()


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """The texts in a file's code, with what they compute left out of them; none of a file that shows no command."""
    code = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(code)) if "tessera " in code else ():
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def comments(path: Path) -> Iterator[tuple[int, str]]:
    """The comments of a spec, a line each, without their marks."""
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line.lstrip().startswith("#"):
            yield number, re.sub(r"^##? ?", "", line.lstrip())


def explained() -> Iterator[tuple[str, str, str]]:
    """(code, ``wrong`` or ``right``, the line) of every example in the explanations of codes."""
    for code, explanation in all_codes().items():
        for kind, line in re.findall(r"^ *(wrong|right):? +(.*)$", explanation.text, re.MULTILINE):
            yield code, kind, line


def shown() -> list[Shown]:
    found: dict[str, Shown] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for command in commands_in(text):
            found.setdefault(command, Shown(page.name, command))
    for path in [*MODULES, *SPECS]:
        if path.parts[-2] == "codes":
            continue
        for line, text in (comments if path.suffix == ".tess" else strings)(path):
            for command in commands_in(text):
                found.setdefault(command, Shown(f"{path.relative_to(ROOT)}:{line}", command))
    rows = list(found.values())
    for code, kind, example in explained():
        if "tessera " in example:
            text = example[example.index("tessera ") :]
            rows.append(Shown(f"{code}, {kind}", text, code if kind == "wrong" else None))
    return rows


def words(chain: str) -> list[list[str]]:
    """The arguments of each command of a chain, with placeholders replaced, and what may be left out filled in."""
    return [_words(command) for command in chain.split(" && ")]


def _words(command: str) -> list[str]:
    command = re.sub(r" \[([^\]]*)\]", r" \1", command.replace("\\|", "|")).replace("…", " ").partition(" | ")[0]
    found = [PLACEHOLDERS.get(word, word) for word in shlex.split(command, comments=True)[1:]]
    if found[-1] == "--pass":
        found.append("merge_tokens(r=4)")
    if found[0] == "tokenizer" and len(found) < 3:
        return [*found, "--help"]
    # A verb, or one of its options, is spoken of without what it works on.
    if found[0] not in ("ops", "passes", "specs", "help") and not any("." in word or word in OWN for word in found):
        return [*found, "--help"] if len(found) == 1 else [*found, "vit.tess"]
    return found


SHOWN = shown()


def test_there_are_commands_to_look_at() -> None:
    places = {row.place.split(":")[0] for row in SHOWN}
    assert {
        "README.md",
        "optimize.md",
        "__init__.py",
        "driver/cli/run.py",
        "E0010, right",
        "specs/zoo/bert.tess",
    } <= places
    assert len(SHOWN) > 60


@pytest.mark.parametrize("row", SHOWN, ids=[f"{r.place} {r.text}" for r in SHOWN])
def test_a_command_has_a_verb_and_options_that_exist(row: Shown) -> None:
    for verb, *arguments in words(row.text):
        if verb.startswith("--"):
            assert verb in {o for p in cli.params for o in p.opts} | {"--help"}
            continue
        assert verb in VERBS
        context = click.Context(cli)
        command = cli.get_command(context, verb)
        assert command is not None
        if "dump" in arguments:
            continue  # another package's target, whose options come with it: `slow` installs it
        if isinstance(command, click.Group) and not arguments[0].startswith("--"):
            command = command.get_command(context, arguments[0])
            assert command is not None
        options = {o for p in command.get_params(context) for o in [*p.opts, *p.secondary_opts]} | {"--help", "-h"}
        assert {a.split("=")[0] for a in arguments if re.match(r"^--?[a-z]", a)} <= options


# Running ---------------------------------------------------------------------------------------------------------------

SPEC = """\
use std.nn (layer_norm, linear)  # allow: W0101
use zoo.vit (vit_classifier)

## A small ViT, and what a file may declare beside it.
model NAME(image: float[B, 3, 32, 32], *, classes: int = 10, depth: int = 4) -> (logits: float[B, classes]) {
    return vit_classifier(image, size=32, patch=4, dim=32, depth=depth, heads=2, hidden=64, classes=classes)
}

rewrite exact double_negation(x: float[...]) {
    neg(neg(x)) => x
}

compile NAME {
    pass merge_tokens(r=4, protect=1)
}
"""
LLAMA = """\
use zoo.llama (llama_lm)

model llama(input_ids: i64[B, T]) -> (logits: float[B, T, 100]) {
    return llama_lm(input_ids, vocab=100, dim=32, depth=2, heads=2, kv_heads=1, hidden=64)
}
"""
CHAT = """\
use std.nn (embedding, linear)

model reader(ids: i64[B, T]) -> float[B, 50] {
    x = embedding(ids, vocab=50, dim=8) as tok
    return linear(x[:, -1], out=50) as head
}

program chat {
    entry prefill = reader
    host sample = "my_package.sampling:greedy"(logits: float[B, V]) -> i64[B, 1]
    flow answer(ids: i64[B, T]) -> i64[B, 1] {
        return sample(prefill(ids))
    }
}
"""
WORDS = """\
tokenizer words {
    special "[UNK]" = 0
    split words
    model wordpiece(vocab=40)
    train "texts.txt"
    from "words.json"
}
"""
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that commands name; weights are made for the model that a command reads them into."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("vit", "m"):
            Path(f"{name}.tess").write_text(SPEC.replace("NAME", name), encoding="utf-8")
        Path("encoder.tess").write_text(_example(README, "compile encoder"), encoding="utf-8")
        passes = (ROOT / "docs" / "passes.md").read_text(encoding="utf-8")
        Path("mine.tess").write_text(_example(passes, "op longest("), encoding="utf-8")
        reduction = (ROOT / "docs" / "reduction.md").read_text(encoding="utf-8")
        Path("calm.tess").write_text(_example(reduction, "op calm"), encoding="utf-8")
        for name, size in (("cat.png", (32, 32)), ("photo.png", (300, 240)), ("photo_640x480.png", (640, 480))):
            Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), np.uint8)).save(name)
        Path("cat.gif.part").write_bytes(b"GIF89a")
        np.save("tokens.npy", rng.standard_normal((1, 50, 64)).astype(np.float32))
        _artifacts()
        _texts()
    return folder


def _example(page: str, what: str) -> str:
    """The block of a page that has these words in it."""
    return next(block for block in re.findall(r"```tess[^\n]*\n(.*?)```", page, re.DOTALL) if what in block)


def _artifacts() -> None:
    vit = ts.compile(ts.load("vit.tess"), passes=[], verify=False)
    ts.compile(ts.load("encoder.tess"), verify=False).save("encoder.onnx")
    Path("llama.tess").write_text(LLAMA, encoding="utf-8")
    Path("chat.tess").write_text(CHAT, encoding="utf-8")
    ts.compile(ts.load("chat.tess"), target="onnx", verify=False).save("chat")
    ts.compile(ts.load("llama.tess"), target="onnx", passes=["add_cache"], verify=False).save("talk")
    Path("my_package").mkdir()
    Path("my_package/sampling.py").write_text(
        "def greedy(logits):\n    return logits.argmax(-1)[:, None]\n", encoding="utf-8"
    )
    np.save("ids.npy", np.array([[1, 2, 3]]))
    for name in ("vit", "m", "original", "fast", "other"):
        vit.save(f"{name}.onnx")
    for target in ("mlir", "triton"):
        ts.compile(ts.load("vit.tess"), target=target, passes=[], verify=False).save(f"vit.{target}")
    small = ts.load("vit.tess", params={"depth": 1})
    Path("model.mlir").write_text(mlir.build(small, initialise(small.graph, 0), mode="inline"), encoding="utf-8")
    Path("model.tess").write_text(ts.source(load_onnx("vit.onnx").module), encoding="utf-8")


def _texts() -> None:
    """A small text model with a tokenizer beside it, in the forms in which a reader has one."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    texts = ["one or two words", "a text on each line", "tokens merge when they are alike"] * 8
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=100, special_tokens=["[UNK]"]))
    Path("model").mkdir()
    tokenizer.save("model/tokenizer.json")
    tokenizer.save("tokenizer.json")
    tokenizer.save("talk/tokenizer.json")
    pairs = Tokenizer(models.BPE(unk_token="[UNK]"))
    pairs.pre_tokenizer = pre_tokenizers.Whitespace()
    pairs.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=100, special_tokens=["[UNK]"]))
    for name in ("llama3", "new"):
        Path(name).mkdir()
        pairs.save(f"{name}/tokenizer.json")
    pipelines = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
    exec(re.findall(r"```python\n(.*?)```", pipelines, re.DOTALL)[0], {})
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix="spiece", vocab_size=40, hard_vocab_limit=False, minloglevel=2
    )
    measured = ["--pass", "upcycle(experts=4)", "--input", "input_ids=ids.npy", "--scores", "experts.json"]
    assert main(["explain", "llama.tess", *measured]) == 0
    Path("texts.txt").write_text("\n".join(texts), encoding="utf-8")
    Path("words.tess").write_text(WORDS, encoding="utf-8")
    ts.train_tokenizer("words.tess")
    tokenizers = (ROOT / "docs" / "tokenizers.md").read_text(encoding="utf-8")
    sweep = re.search(r"```tess\n(tokenizer words\(\*.*?)```", tokenizers, re.DOTALL)
    assert sweep is not None
    Path("sweep.tess").write_text(sweep[1], encoding="utf-8")
    Path("corpus").mkdir(exist_ok=True)
    # Enough for 4,096 tokens.
    pages = "\n".join(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))
    for language in ("de", "tr"):
        Path("corpus", f"{language}.txt").write_text(pages, encoding="utf-8")
    Path("page.txt").write_text(texts[0], encoding="utf-8")
    sizes = {"vocab": 100, "positions": 64, "dim": 32, "depth": 2, "heads": 2, "hidden": 64}
    text = ts.compile(ts.load("minilm", params=sizes), verify=False)
    for name in ("model", "bert", "minilm"):
        text.save(f"{name}.onnx")
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    transformers.BertModel(config).save_pretrained("folder")


def _make_weights(arguments: list[str]) -> None:
    """The weights file that a command names, for the model that it reads them into."""
    flags = {"-w", "--weights"} & set(arguments)
    if not flags or arguments[0] not in ("compile", "optimize"):
        return
    path = Path(arguments[arguments.index(flags.pop()) + 1])
    given = dict(b.split("=") for a, b in pairwise(arguments) if a == "-p")
    graph = ts.load(arguments[1], _model(arguments), {name: int(value) for name, value in given.items()}).graph
    save_file({n: np.array(v) for n, v in initialise(graph, 0).items()}, path)


def _model(arguments: list[str]) -> str | None:
    return arguments[arguments.index("--model") + 1] if "--model" in arguments else None


def _small(arguments: list[str]) -> list[str]:
    """A command on a whole model of the zoo, on one of one layer and few words instead."""
    items = parse((ROOT / "specs" / f"{arguments[1]}.tess").read_text("utf-8"), arguments[1]).items
    models = [i for i in items if isinstance(i, syntax.Function) and i.kind == "model"]
    takes = {static.name for static in next(m for m in models if _model(arguments) in (None, m.name)).statics}
    given = {b.split("=")[0] for a, b in pairwise(arguments) if a == "-p"}
    further = [f"{name}={value}" for name, value in (("depth", 1), ("vocab", 100)) if name in takes - given]
    return [*arguments, *(word for text in further for word in ("-p", text))]


@pytest.fixture
def another_target(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The target ``dump`` as an installed package brings it, with its options on the command line."""
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [SimpleNamespace(load=lambda: Dump)])
    monkeypatch.delitem(sys.modules, "tessera.driver.cli.build", raising=False)
    registry.cache_clear()
    yield
    registry.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("row", SHOWN, ids=[f"{r.place} {r.text}" for r in SHOWN])
def test_a_command_runs(
    row: Shown,
    files: Path,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # How long is measured is the reader's time, not what is tested.
    monkeypatch.setattr("tessera.driver.report.measure.SECONDS", 0.2)
    # A server that starts would not end.
    monkeypatch.setattr("tessera.driver.serve.run.run", lambda served, listening: listening.close())
    shutil.copytree(files, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(".")
    if "--target dump" in row.text:
        request.getfixturevalue("another_target")
    *first, last = words(row.text)
    for arguments in first:
        assert main(arguments) == 0, capsys.readouterr().err
    if row.place.partition(":")[0].endswith(".tess") and last[0] == "compile":
        last = _small(last)
    if row.code is None:
        _make_weights(last)
    code, err = main(last), capsys.readouterr().err
    # Of a chain that is wrong its last command fails.
    assert code == (0 if row.code is None else 1), err
    assert row.code is None or f"error[{row.code}]" in err


# Lines of a compile block, in the explanations of codes ---------------------------------------------------------------------

LINES = [row for row in explained() if row[2].startswith(("pass ", "target ", "weights "))]


@pytest.mark.parametrize(("code", "kind", "line"), LINES, ids=[f"{c} {k}: {line}" for c, k, line in LINES])
def test_a_line_of_a_compile_block(code: str, kind: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "m.tess"
    path.write_text(SPEC.replace("NAME", "m").replace("pass merge_tokens(r=4, protect=1)", line), encoding="utf-8")
    # Lines that are wrong for some models, or some files, only.
    if kind == "right" or code in ("E0606", "E0608", "E0709", "E0721", "E0801", "E1014"):
        check(path)
    else:
        with pytest.raises(Diagnostic) as caught:
            _checked_and_compiled(path)
        assert caught.value.code == code


def _checked_and_compiled(path: Path) -> None:
    check(path)
    compile_model(ts.load(path))


# Snippets in docstrings --------------------------------------------------------------------------------------------------


class Snippet(NamedTuple):
    """Python that a docstring shows: examples of a prompt, or an indented block that speaks of ``ts``."""

    module: str
    line: int
    text: str


def snippets() -> list[Snippet]:
    found = []
    parser = doctest.DocTestParser()
    for path in MODULES:
        name = ".".join(("tessera", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        code = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(code)) if "ts." in code or "+SKIP" in code else ():
            if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                continue
            text = ast.get_docstring(node) or ""
            line = 1 if isinstance(node, ast.Module) else node.lineno
            if "+SKIP" in text:
                found.append(Snippet(name, line, "".join(e.source for e in parser.get_examples(text))))
            for block in re.findall(r"(?:^(?: {4}.*)?\n)+", text + "\n", re.MULTILINE):
                if re.search(r"\bts\.", block) and ">>>" not in block:
                    found.append(Snippet(name, line, textwrap.dedent(block)))
    return found


SNIPPETS = snippets()


def test_there_are_snippets_to_look_at() -> None:
    assert {"tessera", "tessera.driver.compile", "tessera.runtime.inputs"} <= {s.module for s in SNIPPETS}


@pytest.mark.slow
@pytest.mark.parametrize("snippet", SNIPPETS, ids=[f"{s.module}:{s.line}" for s in SNIPPETS])
def test_a_snippet_runs(snippet: Snippet, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(files, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    known = {**vars(import_module(snippet.module)), **_readers_own(snippet.module)}
    exec(compile(snippet.text, f"{snippet.module}:{snippet.line}", "exec", dont_inherit=True), known)


def _readers_own(name: str) -> dict[str, Any]:
    """What a snippet takes for given: a model, and files of weights for it."""
    import torch

    if name.startswith("tessera.frontends.torch"):
        layer = torch.nn.Embedding(10, 4).eval()
        return {"model": layer, "ids": torch.zeros(2, 5, dtype=torch.int64), "compile": ts.compile}
    if name in ("tessera.backends.torch", "tessera.runtime.program"):
        known = {"program": ts.load("chat.tess"), "ids": torch.zeros(2, 5, dtype=torch.int64), "ts": ts}
        if name == "tessera.runtime.program":
            return known | {"ids": np.load("ids.npy"), "sample": None, "greedy": lambda x: x.argmax(-1)[:, None]}
        return known | {"torch": torch, "module": ts.load("vit_s16", params={"depth": 1})}
    if name == "tessera.driver.tokenizers":
        return {"model": SimpleNamespace(encode=lambda texts: np.ones((len(texts), 8), np.float32)), "ts": ts}
    if name.startswith("tessera.runtime.weights."):
        graph = ts.load("minilm", params={"depth": 1}).graph
        save_file({n: np.array(v) for n, v in initialise(graph, 0).items()}, "model.safetensors")
        return {"graph": graph, "open_weights": open_weights}
    module = ts.load("vit_s16")
    save_file({n: np.array(v) for n, v in initialise(module.graph, 0).items()}, "vit.safetensors")
    x = np.zeros((1, 3, 224, 224), np.float32)
    return {"ts": ts, "torch": torch, "x": x, "m": module, "module": module, "graph": module.graph}
