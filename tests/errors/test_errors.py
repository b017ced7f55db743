"""The table of wrong programs: each ``FAMILY/NAME.tess`` gives exactly the diagnostic in ``FAMILY/NAME.txt``.

After a change of wording: ``python -m pytest tests/errors --update-golden``, then read the difference.
"""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest

from tessera.driver.check import diagnose as diagnose_text
from tessera.frontends import source
from tessera.frontends.source.elaborate.library import SPECS
from tessera.frontends.source.syntax.parser import parse, read_source
from tessera.ir.codes import all_codes
from tessera.ir.diagnostics import Diagnostic

HERE = Path(__file__).parent
# Of `several` and `lint` all diagnostics are held, with warnings of the latter; of the others the first.
CASES = sorted(HERE.glob("*/*.tess"))


def check(path: Path) -> None:
    """What is wrong with the program at ``path``: syntax cases are only parsed, the others elaborated."""
    if path.parent.name == "syntax":
        parse(read_source(path), str(path))
    else:
        source.check(path)


def rendered(path: Path) -> str:
    """The diagnostics that are held of a case."""
    if path.parent.name in ("several", "lint"):
        found = diagnose_text(read_source(path), str(path), lint=path.parent.name == "lint")
        return "\n\n".join(d.render() for d in found)
    with pytest.raises(Diagnostic) as caught:
        check(path)
    return caught.value.render()


def diagnose(path: Path) -> str:
    """The rendered diagnostic, with paths as seen from the directory of the case."""
    text = rendered(path).replace(f"{path.parent}/", "").replace(f"{SPECS}/", "specs/") + "\n"
    # Where in a shipped file a place is may change without a change of the message.
    return re.sub(r"(--> specs/[^:]+):\d+:\d+\n +\|\n +\d+ \|", r"\1\n |\n |", text)


@pytest.mark.parametrize("path", CASES, ids=[f"{p.parent.name}/{p.stem}" for p in CASES])
def test_exact_message(path: Path, update_golden: bool) -> None:
    expected = path.with_suffix(".txt")
    found = diagnose(path)
    if update_golden:
        expected.write_text(found, encoding="utf-8")
    assert expected.is_file(), f"no {expected}: run `python -m pytest tests/errors --update-golden`"
    assert found == expected.read_text(encoding="utf-8")


def test_every_syntax_code_has_a_case() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (HERE / "syntax").glob("*.txt")]
    missing = [code for code in all_codes() if code.startswith("E01") and not any(f"[{code}]" in t for t in texts)]
    assert missing == []


def test_no_expected_message_is_left_over() -> None:
    assert [path for path in HERE.glob("*/*.txt") if not path.with_suffix(".tess").is_file()] == []


@pytest.mark.parametrize("code", [code for code in all_codes() if code.startswith("E01")])
def test_explanations_show_what_they_say(code: str) -> None:
    match = re.search(r"Wrong:\n\n(.*)\n\nRight:\n\n(.*)", all_codes()[code].text, re.DOTALL)
    assert match is not None
    wrong, right = (dedent(program) for program in match.groups())
    with pytest.raises(Diagnostic) as caught:
        parse(wrong, "wrong.tess")
    assert caught.value.code == code
    parse(right, "right.tess")
