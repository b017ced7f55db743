"""Real English text that is on the machine: man pages, and docstrings of Python's standard library."""

from __future__ import annotations

import ast
import gzip
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

MAN = Path("/usr/share/man/man1")
_FONT = re.compile(r"\\f(?:\[[^\]]*\]|\(..|.)")
_ESCAPE = re.compile(r"\\(?:\((?:[a-z]{2})|\*\(?..|s[-+]?\d+|[&/,^|])")


def man_pages(limit: int | None = None, least: int = 400) -> Iterator[tuple[str, str]]:
    """(name, description) of English man pages in alphabetical order: the text of NAME and DESCRIPTION, without markup.

    Args:
        least: pages with fewer characters are skipped.
    """
    found = 0
    seen: set[str] = set()
    for path in sorted(MAN.glob("*.1*.gz")):
        name = path.name.split(".1")[0]
        if path.is_symlink() or not name.isalnum() or name.lower() in seen:
            continue
        text = _description(gzip.decompress(path.read_bytes()).decode("utf-8", "replace"))
        if len(text) >= least:
            seen.add(name.lower())
            yield name, text
            found += 1
            if found == limit:
                return


def _description(source: str) -> str:
    lines: list[str] = []
    keep = False
    for line in source.splitlines():
        if line.startswith(('.\\"', "'\\\"")):
            continue
        macro = re.match(r"^[.']\s*(\w+)\s*(.*)$", line)
        if macro:
            kind, rest = macro.groups()
            if kind in ("SH", "Sh"):
                keep = rest.strip().strip('"').upper() in ("NAME", "DESCRIPTION")
                continue
            if kind in ("B", "I", "BR", "IR", "RB", "BI", "Nm", "Nd", "Fl", "Ar", "Pa", "Ic", "Cm", "SM", "TP"):
                line = rest.replace('"', "")
            else:
                continue
        if keep:
            lines.append(_ESCAPE.sub("", _FONT.sub("", line)).replace("\\-", "-").replace("\\", ""))
    return re.sub(r"\s+", " ", " ".join(lines)).strip()


def man_paragraphs(count: int, least: int = 300, most: int = 2000) -> list[str]:
    """The first ``count`` descriptions, cut to ``most`` characters."""
    return [text[:most] for _, text in man_pages(count, least)]


def docstrings(count: int, least: int = 300, most: int = 2000) -> list[str]:
    """The first ``count`` long docstrings of the standard library, in the order of file and line."""
    texts: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        try:
            tree = ast.parse(path.read_text("utf-8", "replace"))
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                text = re.sub(r"\s+", " ", ast.get_docstring(node) or "")
                if len(text) >= least:
                    texts.append(text[:most])
                    if len(texts) == count:
                        return texts
    return texts


def corpus(count: int) -> list[str]:
    """Half man pages, half docstrings; all docstrings where the machine has no man pages."""
    pages = man_paragraphs(count // 2)
    return pages + docstrings(count - len(pages))
