"""Where names come from and where they are used: definition, references, rename, the outline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ...frontends.source.elaborate.builtin import BUILTIN
from ...frontends.source.elaborate.library import Declared
from ...frontends.source.syntax import ast
from ...frontends.source.syntax.lexer import RESERVED
from ...ir.declarations import LOCAL
from ...ir.diagnostics import Diagnostic
from ...specs.catalog import FOLDER
from .document import Document, Found, Target
from .names import walk
from .text import Edit, Place, Range, range_of

# So many files beside a text are looked through for uses of what it declares.
MOST_FILES = 300


OWNED = (ast.ParamStmt, ast.StateStmt, ast.RandomStmt, ast.TapStmt, ast.Field, ast.Entry, ast.Host)


class Location(NamedTuple):
    path: str
    range: Range


class Symbol(NamedTuple):
    """A declaration in the outline, with what it owns."""

    name: str
    kind: str
    range: Range
    selection: Range
    children: list[Symbol]


def definition(document: Document, place: Place) -> Location | None:
    """Where the name under the cursor gets its meaning, in this file or another; None for what is built in."""
    found = document.name_at(place)
    if found is None:
        return None
    name = found.occurrence.name
    if name.space == "module":
        return _module(document, name.text)
    target = document.target(found)
    declared = document.declared(found)
    if target.space == "own" and (name.space != "arg" or declared is None or declared.unit is document.unit):
        return _binding(document, found, target)
    if declared is None:
        return _field(document, target)
    home = document if declared.unit is document.unit else _opened(declared)
    goal = Target("own", declared.qualified, name.text) if name.space == "arg" else _top(declared)
    return next(
        (Location(home.path, f.range) for f in home.names() if f.occurrence.binds and home.target(f) == goal), None
    )


def _top(declared: Declared) -> Target:
    return Target("top", declared.unit.module, declared.node.name)


def _opened(declared: Declared) -> Document:
    return Document(Path(declared.unit.path).read_text(encoding="utf-8"), declared.unit.path)


def _module(document: Document, path: str) -> Location | None:
    file = FOLDER.joinpath(*path.split(".")).with_suffix(".tess")
    if path.endswith(".tess"):
        file = Path(document.path).parent / path
    return Location(str(file), Range((0, 0), (0, 0))) if file.is_file() else None


def _binding(document: Document, found: Found, target: Target) -> Location | None:
    """The last place before this one where a name of a function is bound, or the first one of all."""
    places = [f.range for f in document.names() if f.occurrence.binds and document.target(f) == target]
    if not places:
        # A dimension is bound where its function's types name it first.
        places = [f.range for f in document.names() if document.target(f) == target]
    before = [r for r in places if r.start <= found.range.start]
    return Location(document.path, (before or places)[-1 if before else 0]) if places else None


def _field(document: Document, target: Target) -> Location | None:
    module, _, record = target.owner.rpartition(".")
    if target.space != "field" or not record:
        return None
    declared = next((d for d in document.unit.names.values() if d.qualified == target.owner), None)
    unit = declared.unit if declared is not None else None
    if unit is None and module != LOCAL:
        unit = document.elaborator.library.std(module)
    node = unit.names.get(record) if unit is not None else None
    if node is None or not isinstance(node.node, ast.Record):
        return None
    item = next((f for f in node.node.fields if f.name == target.text), None)
    if item is None or item.span is None:
        return None
    first = document.first_of(item.span.file)
    return Location(document.path if first is not None else item.span.file, range_of(item.span, first or 0))


def references(document: Document, place: Place) -> list[Location]:
    """Every place in this file, and in those beside it, of the name under the cursor."""
    found = document.name_at(place)
    if found is None:
        return []
    target = document.target(found)
    here = [Location(document.path, f.range) for f in document.names() if document.target(f) == target]
    return here + [Location(d.path, f.range) for d, f in _elsewhere(document, target)]


def highlights(document: Document, place: Place) -> list[Range]:
    """Every place in this file of the name under the cursor."""
    found = document.name_at(place)
    target = document.target(found) if found is not None else None
    return [] if target is None else [f.range for f in document.names() if document.target(f) == target]


def _elsewhere(document: Document, target: Target) -> Iterator[tuple[Document, Found]]:
    """A name of this file, in the files of its folder that use the file."""
    own = target.space in ("top", "own") and target.owner.split(".")[0] == document.unit.module == LOCAL
    folder = Path(document.path).resolve().parent
    if not own or not Path(document.path).is_file():
        return
    for path in sorted(folder.rglob("*.tess"))[:MOST_FILES]:
        text = (
            path.read_text(encoding="utf-8", errors="replace")
            if path.resolve() != Path(document.path).resolve()
            else ""
        )
        if f'{Path(document.path).name}"' not in text:
            continue
        other = Document(text, str(path))
        for found in other.names():
            declared = other.declared(found)
            here = declared is not None and Path(declared.unit.path).resolve() == Path(document.path).resolve()
            if here and other.target(found) == target:
                yield other, found


def can_rename(document: Document, place: Place) -> Found:
    """The name under the cursor. Raises Diagnostic E0017 where it cannot get another."""
    found = document.name_at(place)
    if found is None:
        raise Diagnostic("E0017", "there is no name here to change")
    target = document.target(found)
    if target.space in ("top", "own"):
        declared = document.declared(found)
        unit = document.unit if declared is None else declared.unit
        if unit.module == LOCAL or unit is document.unit:
            return found
        raise Diagnostic(
            "E0017",
            f"`{target.text}` belongs to `{unit.module}`, which is shipped",
            help=f"give it another name here: `use {unit.module} ({target.text} as …)`",
        )
    kinds = {"field": "a field of a record", "module": "a file", "built in": "built in"}
    what = kinds.get(target.space, "a word of the compiler")
    raise Diagnostic("E0017", f"`{target.text}` is {what}, whose name is not changed from here")


def rename(document: Document, place: Place, new: str) -> dict[str, list[Edit]]:
    """The edits, by file, that give the name under the cursor another one.

    Raises:
        Diagnostic: E0017 where the name cannot change, or not to this one.
    """
    found = can_rename(document, place)
    target = document.target(found)
    if not new.isidentifier() or not new.isascii() or new in RESERVED or new in BUILTIN:
        raise Diagnostic(
            "E0017",
            f"`{new}` cannot be a name",
            help="a name is made of letters, digits and `_`, and is no reserved or built-in word",
        )
    declared = document.declared(found)
    if declared is not None and declared.unit is not document.unit:
        home = _opened(declared)
        goal = target
    else:
        home, goal = document, target
    edits: dict[str, list[Edit]] = {}
    for source, other in [*((home, f) for f in home.names() if home.target(f) == goal), *_elsewhere(home, goal)]:
        if other.occurrence.name.text == goal.text:
            _check_free(source, other, new)
            edits.setdefault(source.path, []).append(Edit(other.range, new))
    return edits


def _check_free(document: Document, found: Found, new: str) -> None:
    """Raises E0017 where the new name means something else already."""
    if found.occurrence.name.space == "arg":
        return
    taken = new in document.unit.names
    taken |= any(o.name.text == new and o.name.space in ("own", "dim", "free") for o in found.piece.occurrences)
    if taken:
        raise Diagnostic(
            "E0017",
            f"`{new}` means something else already in {Path(document.path).name}",
            help="choose a name that is free",
        )


def symbols(document: Document) -> list[Symbol]:
    """The declarations of the text, with the parameters, states and taps that they own."""
    found = []
    for piece, first in zip(document.pieces, document.firsts, strict=True):
        for item in piece.items:
            if item.span is None:
                continue
            name = item.model if isinstance(item, ast.Compile) else item.name
            kind = item.kind if isinstance(item, ast.Function) else type(item).__name__.lower()
            whole = range_of(item.span, first)
            named = (o.span for o in piece.occurrences if o.name.text == name and o.span[1:3] >= item.span[1:3])
            binding = next(named, item.span)
            owned = [s for s in walk(item) if isinstance(s, OWNED)]
            children = [
                Symbol(
                    s.name,
                    type(s).__name__.removesuffix("Stmt").lower(),
                    range_of(s.span, first),
                    range_of(s.span, first),
                    [],
                )
                for s in owned
                if s.span is not None
            ]
            found.append(Symbol(name, kind, whole, range_of(binding, first), children))
    return found
