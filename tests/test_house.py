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


# Lists of ops -----------------------------------------------------------------------------------------------------------

# Where lists of ops are tables: what an op is stands there, or what it is called elsewhere, or how a target writes it.
TABLES = ("ir.ops", "backends", "frontends.onnx", "frontends.torch")
# Literals that name three core ops or more all the same, by where they stand.
ALLOWED = {
    "driver.cli.run._statistics": "numbers about an output, as words",
    "frontends.source.elaborate.builtin.STATIC_FUNCTIONS": "functions of static values, a table",
    "frontends.source.elaborate.remedies._FORMS": "calls that are written otherwise elsewhere, a table of remedies",
    "frontends.source.elaborate.signatures.DIM_FUNCTIONS": "functions of dimensions",
    "frontends.source.elaborate.turned._MULTIPLES": "which ops turn no vector by another angle, a table of four",
    "frontends.source.format.printer._Printer._expression": "which operands of a call may be bare numbers, a table by position",
    "frontends.source.format.recipes._INFIX": "operators of recipes, a table",
    "frontends.source.syntax.lexer.RESERVED": "words of the language",
    "frontends.source.syntax.site.STATEMENTS": "words of the language",
    "ir.analysis.axes._RULES": "what each op does to axes, a table",
    "ir.recipe_functions.FUNCTIONS": "functions of weight recipes, a table",
    "passes.recover.index._OPPOSITE": "the comparison that holds where one does not, a table",
    "passes.recover.index.ORDERS": "comparisons as one, a table",
    "passes.recover.index._SIGNS": "the sign of each operand, a table",
    "passes.recover.report._SUSPECTS": "what a leftover looks like, in words, and the rules that it fails, a table",
}


def named_ops(module: str, path: Path) -> Iterator[tuple[str, list[str]]]:
    """(where, ops) of every literal list, set, tuple or dict of a file that names three core ops or more. A dict of functions is
    a table of how each op is treated, and none of them."""
    from tessera.ir.ops import OPS

    def walk(node: ast.AST, where: str) -> Iterator[tuple[str, list[str]]]:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            where = f"{where}.{node.name}"
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and where == module:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            where = f"{where}.{ast.unparse(target)}"
        items = getattr(node, "elts", ())
        if isinstance(node, ast.Dict) and not all(isinstance(v, (ast.Name, ast.Attribute, ast.Lambda)) for v in node.values):
            items = node.keys
        found = sorted({i.value for i in items if isinstance(i, ast.Constant) and i.value in OPS})
        if len(found) > 2:
            yield where, found
        for child in ast.iter_child_nodes(node):
            yield from walk(child, where)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), module)


def test_what_an_op_is_is_asked_of_its_traits() -> None:
    """No pass, frontend or report keeps a list of ops of its own: `ir.op.has` asks the declaration, for ops to come as well."""
    found = dict(
        row for name, path in modules().items() if not f"{name}.".startswith(tuple(f"{t}." for t in TABLES))
        for row in named_ops(name, path)
    )  # fmt: skip
    assert {where: ops for where, ops in found.items() if where not in ALLOWED} == {}
    assert ALLOWED.keys() <= found.keys(), "no longer needed"


def test_a_list_of_ops_is_found(tmp_path: Path) -> None:
    file = tmp_path / "pass.py"
    file.write_text('MOVES = {"reshape", "squeeze", "cast"}\ndef f(n):\n    return n.op.name in ("gather", "take", "sort")\n')
    assert list(named_ops("m", file)) == [("m.MOVES", ["cast", "reshape", "squeeze"]), ("m.f", ["gather", "sort", "take"])]
