"""The grammars of editors: they know the compiler's words, pass their own test corpora, and read every shipped file."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tessera.frontends.source.syntax.lexer import LATER_WORDS, PYTHON_VALUES, RESERVED
from tessera.frontends.source.syntax.tables import tables
from tessera.ir.types import DTYPES, KINDS

from .support import ROOT, SPECS

TREE = ROOT / "editors" / "tree-sitter-tess"
CODE = ROOT / "editors" / "vscode"
# Words that are keywords only where they stand, which the builder tells from names.
CONTEXTUAL = {
    "entry", "host", "flow", "weights", "pass", "target", "where", "limit", "stack",
    "normalize", "split", "process", "decode", "truncate", "pad", "round", "special", "inject", "train", "measure", "family",
    "metrics",
}  # fmt: skip
WORDS = {word for word in tables().literals if word.isidentifier()}


def literals(rule: Any) -> Iterator[str]:
    """The strings that a rule of `grammar.json` is made of."""
    if isinstance(rule, dict):
        if rule.get("type") == "STRING":
            yield rule["value"]
        for value in rule.values():
            yield from literals(value)
    elif isinstance(rule, list):
        for item in rule:
            yield from literals(item)


def test_tree_sitter_knows_the_words_of_the_compiler() -> None:
    grammar = json.loads((TREE / "src" / "grammar.json").read_text(encoding="utf-8"))
    words = {text for text in literals(grammar["rules"]) if text.isidentifier()}
    assert (WORDS | {"inf", "nan"} | CONTEXTUAL) - words == set()
    assert words <= WORDS | CONTEXTUAL | RESERVED
    signs = {text for text in literals(grammar["rules"]) if not text.isidentifier()}
    assert {text for text in tables().literals if not text.isidentifier()} - signs == set()


def test_the_generated_parser_is_that_of_the_grammar() -> None:
    """Every rule of `grammar.js` is one of `grammar.json`, with the words that it has."""
    source = (TREE / "grammar.js").read_text(encoding="utf-8")
    grammar = json.loads((TREE / "src" / "grammar.json").read_text(encoding="utf-8"))
    assert set(re.findall(r"^    (\w+): \(", source, re.MULTILINE)) == set(grammar["rules"])
    code = re.sub(r'//.*|field\("\w+"', "", source[source.index("rules:") :])
    words = set(re.findall(r'"([a-z]+)"', code))
    assert words == {text for text in literals(grammar["rules"]) if text.isidentifier()}


def test_textmate_knows_the_words_of_the_compiler() -> None:
    grammar = json.loads((CODE / "syntaxes" / "tess.tmLanguage.json").read_text(encoding="utf-8"))
    keywords = grammar["repository"]
    shown = json.dumps([keywords[k] for k in ("keywords", "constants", "declarations", "clauses", "use", "scopes")])
    words = set(re.findall(r"[A-Za-z]+", shown))
    assert RESERVED - words == set()
    assert (CONTEXTUAL | set(LATER_WORDS) | set(PYTHON_VALUES)) - words == set()
    types = set(re.findall(r"[a-z]+\d*", json.dumps(keywords["types"])))
    assert {*DTYPES, *KINDS} - types == set()


def test_the_extension_names_files_that_exist() -> None:
    package = json.loads((CODE / "package.json").read_text(encoding="utf-8"))
    shown = package["contributes"]
    files = [
        package["main"],
        *(g["path"] for g in shown["grammars"]),
        *(lang["configuration"] for lang in shown["languages"]),
    ]
    assert all((CODE / name).is_file() for name in files)
    json.loads((CODE / "language-configuration.json").read_text(encoding="utf-8"))
    assert shown["configuration"]["properties"]["tessera.server.command"]["default"] == ["tessera", "lsp"]


# tree-sitter ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The committed parser, compiled."""
    tree_sitter = pytest.importorskip("tree_sitter", reason="the Python package tree-sitter is not installed")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library = tmp_path_factory.mktemp("parser") / "tess.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-I", TREE / "src", TREE / "src" / "parser.c", "-o", library], check=True
    )
    make = ctypes.cdll.LoadLibrary(str(library)).tree_sitter_tess
    make.restype = ctypes.c_void_p
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return tree_sitter.Language(capsule(make(), b"tree_sitter.Language", None))


def tree(language: Any, text: str) -> Any:
    from tree_sitter import Parser

    return Parser(language).parse(text.encode()).root_node


def corpus() -> Iterator[tuple[str, str, str]]:
    """(name, source, tree) of each case, in the format of `tree-sitter test`."""
    for path in sorted((TREE / "test" / "corpus").glob("*.txt")):
        parts = re.split(r"^={80}\n(.*)\n={80}\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for name, case in zip(parts[1::2], parts[2::2], strict=True):
            source, _, expected = case.partition(f"\n{'-' * 80}\n")
            yield f"{path.stem}: {name}", source, re.sub(r"\s+(?=\))", "", " ".join(expected.split()))


@pytest.mark.parametrize(("name", "source", "expected"), list(corpus()), ids=[c[0] for c in corpus()])
def test_the_corpus_of_tree_sitter(language: Any, name: str, source: str, expected: str) -> None:
    assert str(tree(language, source)) == expected


def test_tree_sitter_reads_what_the_compiler_reads(language: Any) -> None:
    """Every shipped file, and every wrong program that is at least well written; of the others it refuses most."""
    refused = []
    for path in [*SPECS, *(ROOT / "tests").rglob("*.tess")]:
        text = path.read_text(encoding="utf-8")
        wrong = tree(language, text).has_error
        if well_written(text):
            assert not wrong, path
        else:
            refused.append(wrong)
    assert sum(refused) > len(refused) / 2


def well_written(text: str) -> bool:
    from tessera.frontends.source.syntax.parser import parse
    from tessera.ir.diagnostics import Diagnostic

    try:
        parse(text, "m.tess")
    except Diagnostic:
        return False
    return True


def test_the_queries_fit_the_grammar(language: Any) -> None:
    from tree_sitter import Query

    for path in (TREE / "queries").glob("*.scm"):
        Query(language, path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_tree_sitter_makes_the_parser_that_is_committed(tmp_path: Path) -> None:
    command = shutil.which("tree-sitter")
    if command is None:
        pytest.skip("the command tree-sitter is not installed")
    copy = shutil.copytree(TREE, tmp_path / "grammar")
    subprocess.run([command, "generate"], cwd=copy, check=True)
    assert (
        json.loads((copy / "src" / "grammar.json").read_text())["rules"]
        == json.loads((TREE / "src" / "grammar.json").read_text())["rules"]
    )
    subprocess.run([command, "test"], cwd=copy, check=True)


# TextMate -------------------------------------------------------------------------------------------------------------


def node(module: str) -> str:
    """Node, where it finds a module. Skips the test otherwise."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed")
    if subprocess.run(
        [found, "-e", f"require.resolve('{module}')"], cwd=CODE, capture_output=True, check=False
    ).returncode:
        pytest.skip(f"`npm install` in editors/vscode has not been run: no {module}")
    return found


@pytest.mark.slow
def test_textmate_colours_every_word_of_shipped_files() -> None:
    command = [
        node("vscode-textmate"),
        CODE / "test" / "tokenise.js",
        ROOT / "specs",
        f"--reserved={','.join(sorted(RESERVED))}",
    ]
    done = subprocess.run(command, cwd=CODE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 10_000


@pytest.mark.slow
def test_the_corpus_of_textmate() -> None:
    binary = node("vscode-tmgrammar-test/dist/unit.js")
    main = subprocess.run(
        [binary, "-p", "require.resolve('vscode-tmgrammar-test/dist/unit.js')"],
        cwd=CODE,
        capture_output=True,
        text=True,
        check=True,
    )
    command = [binary, main.stdout.strip(), "-g", "syntaxes/tess.tmLanguage.json", "test/*.tess"]
    done = subprocess.run(command, cwd=CODE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
