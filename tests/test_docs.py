"""Every example in the documentation is compiled; the pages that list things list all of them.

A ``tess`` block is checked, ``tess error E0302`` must fail so, ``tess file=blocks.tess`` is also there for other blocks; a
``python`` block runs in an empty folder, unless it needs files of the reader's: then it is ``python norun``.
"""

from __future__ import annotations

import doctest
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tessera.benchmarks import figures
from tessera.frontends import source
from tessera.ir.codes import all_codes
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.verifier import verify_program
from tessera.specs import catalog

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])


class Block(NamedTuple):
    page: str
    line: int
    info: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = []
    lines = page.read_text(encoding="utf-8").split("\n")
    start: int | None = None
    for number, line in enumerate(lines):
        if line.startswith("```") and start is None:
            start = number
        elif line == "```" and start is not None:
            info = lines[start][3:].strip()
            found.append(Block(page.name, start + 1, info, "\n".join(lines[start + 1 : number]) + "\n"))
            start = None
    assert start is None, f"{page.name}: the block of line {start} does not end"
    return found


TESS = [b for page in PAGES for b in blocks(page) if b.info.split(" ")[0] == "tess"]


@pytest.mark.parametrize("block", TESS, ids=[f"{b.page}-{b.line}" for b in TESS])
def test_example_compiles_or_fails_as_it_says(block: Block, tmp_path: Path) -> None:
    for other in TESS:
        if other.page == block.page and other.info.startswith("tess file="):
            (tmp_path / other.info.removeprefix("tess file=")).write_text(other.text, encoding="utf-8")
    path = tmp_path / "example.tess"
    path.write_text(block.text, encoding="utf-8")
    if block.info.startswith("tess error "):
        with pytest.raises(Diagnostic) as caught:
            source.check(path)
        assert caught.value.code == block.info.removeprefix("tess error "), caught.value.render()
        return
    for module in source.check(path):
        verify_program(module)
        again = source.loads(source.print_module(module), model=module.name)
        assert module.difference(again) is None


@pytest.mark.parametrize("block", TESS, ids=[f"{b.page}-{b.line}" for b in TESS])
def test_example_is_formatted(block: Block) -> None:
    from tessera.frontends.source.format.fmt import format_file
    from tessera.frontends.source.syntax.parser import parse

    assert format_file(parse(block.text, block.page)) == block.text


# What each word of the language looks like where it is used.
CONSTRUCTS = {
    "use": r"^use std\.nn \(",
    "use quoted": r'^use "',
    "use as": r"^use .* as ",
    "const": r"^const ",
    "record": r"^record ",
    "static field": r"^    static ",
    "fn": r"^fn ",
    "op": r"^op ",
    "layer": r"^layer ",
    "model": r"^model ",
    "rewrite exact": r"^rewrite exact ",
    "where clause": r"=> .* where ",
    "compile": r"^compile ",
    "weights": r"^    weights ",
    "renames": r'" => "',
    "recipes": r'^        "blocks\.\*\.qkv\.weight" = concat',
    "pass": r"^    pass ",
    "target": r"^    target ",
    "param": r"^ +param ",
    "buffer": r"^ +buffer ",
    "external name": r' as "',
    "state": r"^ +state ",
    "random": r"^ +random ",
    "tap": r"^ +tap ",
    "require": r"^ +require ",
    "let": r"^ +let ",
    "repeat": r"^ +repeat .* in \d",
    "repeat list": r"^ +repeat .* in \[",
    "repeat as": r"^ +repeat .* as ",
    "if": r"^ +if ",
    "else if": r"else if ",
    "else": r"else \{",
    "fold": r"^ +fold .* from \(",
    "cond": r"^ +cond .* from \(",
    "while": r"^ +while .* from \(.* limit ",
    "several results": r"^ +\w+, \w+ = ",
    "optional": r"\]\? = none",
    "given": r"given\(",
    "conditional result": r"\] if ",
    "named result": r"-> \(\w+: ",
    "pipe": r"\|>",
    "and or not": r"and not \(.* or ",
    "matmul": r" @ ",
    "power": r" \*\* ",
    "slice step": r"::2",
    "dots": r"\[\.\.\., ",
    "scope": r"\) as \w+\.\w+",
    "einsum": r"einsum\(",
    "rearrange": r"rearrange\(",
    "scan": r"scan\(",
    "constant": r"constant\(\[\[",
    "fn parameter": r": fn = ",
    "dim default": r"= K \*\* ",
    "known list": r"\[\d+, ",
    "attribute": r"\.shape\[",
    "dtype": r"\.dtype",
    "doc": r"^## ",
    "compact": r"compact\(",
    "float": r"float\[",
    "bool": r"bool\[",
    "scalar": r"i64\[\]",
    "pack": r"\[\.\.\.\]",
    "kinds": r"any\[",
}


def test_the_reference_shows_every_construct() -> None:
    text = "".join(b.text for b in TESS if b.page == "language.md")
    missing = [name for name, pattern in CONSTRUCTS.items() if not re.search(pattern, text, re.MULTILINE)]
    assert missing == []


def test_every_reserved_word_is_listed() -> None:
    from tessera.frontends.source.syntax.lexer import RESERVED

    page = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    listed = set(page[page.index("Reserved words:") :].replace("`", "").replace(".", "").split()[2:])
    # Python's spellings cannot be names either, but belong to no program.
    assert listed == RESERVED - {"True", "False", "None"}


LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file) if file else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, target


# Pages that follow from the code: `python -m pytest tests/test_docs.py --update-golden` writes them.


def errors_table() -> str:
    rows = [f"| {code} | {explanation.title} |" for code, explanation in all_codes().items()]
    return "\n".join(["| code | what is wrong |", "|---|---|", *rows])


def passes_sections() -> str:
    from tessera.ir.notation import show_value
    from tessera.passes.engine import registry
    from tessera.passes.options import options_of

    sections = []
    for name, kind in registry().items():
        rows = [f"| `{o.name} = {show_value(o.default)}` | {o.doc} |" for o in options_of(kind).values()]
        table = "\n\n" + "\n".join(["| option | |", "|---|---|", *rows]) if rows else ""
        also = f" Also called `{'`, `'.join(kind.aliases)}`." if kind.aliases else ""
        sections.append(f"### {name}\n\n*{kind.contract}.* {kind.summary()}{also}{table}")
    return "\n\n".join(sections)


def ops_sections() -> str:
    from tessera.ir.notation import show_signature
    from tessera.ir.ops import OPS

    families: dict[str, list[str]] = {}
    for op in sorted(OPS.values(), key=lambda o: o.name):
        families.setdefault(op.family, []).append(f"`{show_signature(op.signature)}`  \n{op.doc}")
    return "\n\n".join(f"## {family}\n\n" + "\n\n".join(rows) for family, rows in sorted(families.items()))


def stages_tables() -> str:
    from tessera.ir.notation import show_value
    from tessera.ir.tokenizer_parts import NEEDED, SERIES, STAGES

    def option(opt: Any) -> str:
        default = "" if opt.default is NEEDED else f"={opt.default if opt.words else show_value(opt.default)}"
        return f"`{opt.name}{default}`"

    sections = []
    for stage, rows in {**STAGES, "inject": SERIES}.items():
        head = f"| `{stage}` | in a tokenizer.json | | options |\n|---|---|---|---|"
        table = [f"| `{n}` | {r.type} | {r.text} | {', '.join(map(option, r.options))} |" for n, r in rows.items()]
        sections.append("\n".join([head, *table]))
    return "\n\n".join(sections)


GENERATED = {
    "docs/tokenizers.md": stages_tables,
    "docs/errors.md": errors_table,
    "docs/passes.md": passes_sections,
    "docs/ops.md": ops_sections,
    "README.md": figures.markdown,
}
MARKS = ("<!-- generated: begin -->\n", "<!-- generated: end -->\n")


@pytest.mark.parametrize("name", GENERATED)
def test_generated_parts_are_up_to_date(name: str, update_golden: bool) -> None:
    path = ROOT / name
    page = path.read_text(encoding="utf-8")
    start, end = page.index(MARKS[0]) + len(MARKS[0]), page.index(MARKS[1])
    wanted = f"\n{GENERATED[name]()}\n\n"
    if update_golden:
        path.write_text(page[:start] + wanted + page[end:], encoding="utf-8")
    else:
        assert page[start:end] == wanted, f"run `python -m pytest tests/test_docs.py --update-golden` for {name}"


PYTHON = [b for page in PAGES for b in blocks(page) if b.info == "python"]


@pytest.mark.parametrize("block", PYTHON, ids=[f"{b.page}-{b.line}" for b in PYTHON])
def test_python_example_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # The example does not inherit this file's postponed annotations.
    code = compile(block.text, f"{block.page}:{block.line}", "exec", dont_inherit=True)
    exec(code, {"__name__": "example"})


def test_the_first_steps_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tessera.driver.cli import main

    page = (ROOT / "README.md").read_text(encoding="utf-8")
    section = page[page.index("## Thirty seconds") : page.index("## A model you already have")]
    steps = [shlex.split(step, comments=True) for step in re.findall(r"^    \$ (.*)$", section, re.MULTILINE)]
    monkeypatch.chdir(tmp_path)
    program = re.search(r"```tess\n(.*?)```", section, re.DOTALL)
    assert program is not None
    Path("encoder.tess").write_text(program.group(1), encoding="utf-8")
    for command, *arguments in steps:
        if command == "python":
            assert arguments[0] == "-c"
            exec(arguments[1], {})
        else:
            assert (command, main(arguments)) == ("tessera", 0), arguments
    assert Path("out.npz").exists()
    assert len(steps) == 5


FOLDERS = ("backends", "driver", "frontends", "ir", "passes", "runtime", "specs")
EXAMPLES = [
    ".".join(("tessera", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in sorted([*ROOT.glob("*.py"), *(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))])
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_in_docstrings_hold(module: str) -> None:
    assert doctest.testmod(import_module(module)).failed == 0


def system_rows(page: str) -> list[list[str]]:
    """The cells of the table of systems: system, paper, kind, what it needs, status."""
    lines = [line for line in page.split("\n") if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_the_table_of_systems_follows_the_files(update_golden: bool) -> None:
    path = ROOT / "docs" / "systems.md"
    page = path.read_text(encoding="utf-8")
    rows = system_rows(page)
    assert len({row[0] for row in rows}) == len(rows) == 49
    seeds = {name: catalog.seed(name) for name in catalog.names() if name.startswith("seeds/")}
    silent = [name for name, seed in seeds.items() if seed is None]
    assert silent == [], "the documentation of a seed says its `paper`, `kind` and what was `measured`"
    of_system = {seed.system: (name, seed) for name, seed in seeds.items()}
    assert set(of_system) <= {row[0] for row in rows}, "the documentation of a seed begins with the system of a row, and a colon"
    for row in rows:
        system, paper, kind, needs, _ = row
        assert kind, system
        assert needs, system
        status = "not yet"
        if system in of_system:
            name, seed = of_system[system]
            assert (paper, kind) == (seed.paper, seed.kind), f"{system}: the row and the file name another paper or kind"
            status = f"[{'runs' if seed.short else 'works'}](../specs/{name}.tess): {seed.measured}"
            status += f"; **falls short**: {seed.short}" if seed.short else ""
        page = page.replace(f"| {' | '.join(row)} |\n", f"| {' | '.join([*row[:4], status])} |\n")
    if update_golden:
        path.write_text(page, encoding="utf-8")
    else:
        assert page == path.read_text(encoding="utf-8"), "run `python -m pytest tests/test_docs.py --update-golden`"
