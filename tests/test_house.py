"""The rooms of the house: what may import what (docs/architecture.md draws the same plan).

A room is a folder. Arrows between rooms go down the list below, inside functions too, and the rooms within one room import each
other in one direction only. Files that lie in a room beside its inner rooms belong to the room itself.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx
import pytest

ROOT = Path(__file__).parents[1]
# Each room, and those below it that it may import.
MAY_IMPORT = {
    "ir": set(),
    "specs": {"ir"},
    "runtime": {"ir"},
    "kernels": set(),
    "frontends": {"ir", "specs", "runtime"},
    "passes": {"ir"},
    "backends": {"ir", "runtime", "kernels"},
    "driver": {"ir", "specs", "runtime", "frontends", "passes", "backends"},
}
MOST_LINES = 420


@cache
def modules() -> dict[str, Path]:
    """The modules of the rooms by dotted name, without the package's own."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for room in MAY_IMPORT
        for path in sorted((ROOT / room).rglob("*.py"))
    }


def imported(name: str, path: Path) -> Iterator[tuple[str, int]]:
    """(module, line) of everything of ours that a file imports, wherever in it."""
    folder = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder[: len(folder) - node.level + 1]
            target = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                full = f"{target}.{alias.name}".lstrip(".")
                yield (full if full in modules() else target), node.lineno
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            assert not any(n.split(".")[0] == "tessera" for n in names), f"{path}:{node.lineno}: import relatively"


@cache
def arrows() -> list[tuple[str, str, str]]:
    """(module, what it imports, place) of the whole house."""
    return [
        (name, target, f"{path.relative_to(ROOT)}:{line}")
        for name, path in modules().items()
        for target, line in imported(name, path)
    ]


def folder(name: str) -> str:
    """The room that a module lies in."""
    return name if modules()[name].name == "__init__.py" else name.rpartition(".")[0]


def test_arrows_go_down() -> None:
    up = [
        f"{place}: {name} imports {target or 'the package'}"
        for name, target, place in arrows()
        if (room := name.split(".")[0]) != (other := target.split(".")[0]) and other not in MAY_IMPORT[room]
    ]
    assert not up, "\n".join(up)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_no_circle_of_rooms(room: str) -> None:
    """Of the rooms within one room, none reaches itself through others."""
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    places = defaultdict(list)
    for name, target, place in arrows():
        if target not in modules():
            continue
        a, b = folder(name).split("."), folder(target).split(".")
        depth = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        # One inside the other, or the same: a room and its own inner rooms are one.
        if depth is None or depth == 0 or a[0] != room:
            continue
        edge = ".".join(a[: depth + 1]), ".".join(b[: depth + 1])
        graph.add_edge(*edge)
        places[edge].append(place)
    for circle in networkx.simple_cycles(graph):
        edges = zip(circle, circle[1:] + circle[:1], strict=True)
        raise AssertionError("\n".join(f"{a} -> {b}: {places[a, b]}" for a, b in edges))


def test_files_stay_short() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in modules().values()}
    assert not {name: n for name, n in lengths.items() if n > MOST_LINES}
