"""A text that is being written, and what is known of it: found out by declaration, and only anew where an edit changes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple, TypeVar

from ...frontends.source.blocks import choose, compile_spec, compiles, spans
from ...frontends.source.checking import block_recipes
from ...frontends.source.elaborate.generic import check_function
from ...frontends.source.elaborate.library import Declared
from ...frontends.source.elaborate.rules import rule_of
from ...frontends.source.lint import beside
from ...frontends.source.syntax import ast
from ...frontends.source.syntax.depth import deep_recursion
from ...ir.compiling import CompileSpec
from ...ir.diagnostics import Diagnostic, Span, distinct, several
from ..check import check_block
from .library import OpenLibrary
from .linting import warnings
from .names import Name, Occurrence
from .piece import Piece
from .text import Place, Range, lines_of, pieces, range_of
from .watch import Facts, Watching

T = TypeVar("T")
# What a static parameter is where no caller says it: two values, of which what is wrong with one only is no mistake.
ASSUMED = {"real": (1.0, 0.25), "bool": (False, True)}
_documents = count(1)


NOTHING: Any = type("Nothing", (), {"__bool__": lambda self: False})()


class Target(NamedTuple):
    """What a name means: ``space`` is ``own`` (of the function ``owner``), ``top`` (a declaration of the module ``owner``),
    ``field`` (of the record ``owner``), ``built in``, or that of a :class:`.names.Name`."""

    space: str
    owner: str
    text: str


class Found(NamedTuple):
    """A name in the text: which, where, in which piece."""

    occurrence: Occurrence
    range: Range
    piece: Piece


@dataclass
class Findings:
    """What elaborating a piece came to.

    Attributes:
        facts: of each piece that it came to, by key; those of another piece are what they are in a call.
        errors: what is wrong; ``alone`` is that only if no model calls the functions of the piece.
        called: the functions of the text that its models call.
    """

    versions: tuple[Any, ...]
    facts: dict[str, Facts] = field(default_factory=dict)
    errors: list[Diagnostic] = field(default_factory=list)
    alone: list[Diagnostic] = field(default_factory=list)
    called: set[str] = field(default_factory=set)


class Document:
    """A text and its analysis.

    Args:
        text: as it is now; :meth:`edit` changes it.
        path: where the file lies, or would: what it uses is looked for beside it.
    """

    def __init__(self, text: str, path: str = "<text>") -> None:
        self.path = path
        self.text = ""
        self.lines: list[str] = []
        self.pieces: list[Piece] = []
        self.firsts: list[int] = []
        self._prefix = f"edited {next(_documents)} "
        self._serial = count(1)
        self._findings: dict[str, Findings] = {}
        self._memory: dict[tuple[str, str], tuple[Any, Any]] = {}
        self.refresh()
        self.edit(text)

    def refresh(self) -> None:
        """Files that this one uses may have changed."""
        self.elaborator = Watching(OpenLibrary())
        self._findings.clear()
        if self.pieces:
            self._link()

    @deep_recursion()
    def edit(self, text: str) -> None:
        """The text is another one now. Pieces that are as they were keep what is known of them."""
        text = text.removeprefix("\ufeff")
        if text == self.text and self.pieces:
            return
        self.text = text
        self.lines = lines_of(text)
        cut = pieces(self.lines)
        texts = [piece for _, piece in cut]
        before = [piece.text for piece in self.pieces]
        same = _common(texts, before)
        tail = _common(texts[same:][::-1], before[same:][::-1])
        replaced = self.pieces[same : len(before) - tail]
        keys = [piece.key for piece in replaced]
        fresh = [
            Piece(keys[i] if i < len(keys) else f"{self._prefix}{next(self._serial)}", piece)
            for i, piece in enumerate(texts[same : len(texts) - tail])
        ]
        self.pieces = [*self.pieces[:same], *fresh, *self.pieces[len(before) - tail :]]
        self.firsts = [first for first, _ in cut]
        self._link()

    def _link(self) -> None:
        trees = [piece.file for piece in self.pieces]
        self.file = ast.File(
            self.path, [use for tree in trees for use in tree.uses], [item for tree in trees for item in tree.items],
            doc=trees[0].doc if trees else None,
        )  # fmt: skip
        broken = {name for piece in self.pieces for name in piece.broken}
        self.unit, self.link_errors = self.elaborator.library.linked(self.path, self.file, broken)
        # Of two declarations of one name the first is meant.
        behind = reversed(self.pieces)
        self._home = {item.name: p for p in behind for item in p.items if not isinstance(item, ast.Compile)}
        self._blocks = {item.model: p for p in self.pieces for item in p.items if isinstance(item, ast.Compile)}
        self._depends: dict[str, tuple[Any, ...]] = {}
        self._kinds = frozenset((name, d.unit.module, type(d.node)) for name, d in self.unit.names.items())
        self._imports = {alias or name: (use.path, name) for use in self.file.uses for name, alias in use.names}
        self.elaborator.forget()

    # Places -----------------------------------------------------------------------------------------------------------

    def piece_at(self, place: Place) -> tuple[Piece, int]:
        """The piece that a place lies in, and its first line."""
        at = max((i for i, first in enumerate(self.firsts) if first <= place[0]), default=0)
        return self.pieces[at], self.firsts[at]

    def first_of(self, key: str) -> int | None:
        """The first line of a piece, by its key."""
        return next((f for f, p in zip(self.firsts, self.pieces, strict=True) if p.key == key), None)

    def range_of(self, span: Span) -> Range | None:
        """A span of a piece in the text; None for one in another file."""
        first = self.first_of(span.file)
        return None if first is None else range_of(span, first)

    def name_at(self, place: Place) -> Found | None:
        """The name that a place lies in or at the end of."""
        piece, first = self.piece_at(place)
        return next((f for f in self.names_of(piece, first) if place in f.range), None)

    def names(self) -> Iterator[Found]:
        """All names of the text, by place."""
        for piece, first in zip(self.pieces, self.firsts, strict=True):
            yield from self.names_of(piece, first)

    @staticmethod
    def names_of(piece: Piece, first: int) -> Iterator[Found]:
        """The names of a piece that starts at line ``first``."""
        for occurrence in piece.occurrences:
            yield Found(occurrence, range_of(occurrence.span, first), piece)

    def item_at(self, place: Place) -> ast.Declaration | None:
        """The declaration that a place lies in."""
        piece, first = self.piece_at(place)
        line = place[0] - first + 1
        return next((i for i in piece.items if i.span is not None and i.span.line <= line <= i.span.end_line), None)

    # Meaning ----------------------------------------------------------------------------------------------------------

    def target(self, found: Found) -> Target:
        """What a name means in this text."""
        name, of = found.occurrence.name, found.occurrence.of
        if name.space == "own":
            return Target("own", f"{self.unit.module}.{name.owner}", name.text)
        if name.space == "dim":
            declared = self.unit.names.get(name.text)
            if declared is None or not isinstance(declared.node, ast.Const):
                return Target("own", f"{self.unit.module}.{name.owner}", name.text)
        if name.space == "arg":
            declared = self.unit.names.get(name.owner)
            if declared is not None:
                return Target("own", declared.qualified, name.text)
            return Target("argument", name.owner, name.text)
        if name.space == "import":
            declared = self.declared(found)
            return Target("top", name.owner if declared is None else declared.unit.module, name.text)
        if name.space == "field" and of is not None:
            record = getattr(self.value(of), "record", None)
            return Target("field", f"{record.module}.{record.name}" if record else "", name.text)
        if name.space == "field":
            return Target("field", f"{self.unit.module}.{name.owner}", name.text)
        if name.space in ("dim", "free", "word"):
            declared = self.unit.names.get(name.text)
            if declared is not None:
                return Target("top", declared.unit.module, declared.node.name)
            return Target("built in", "", name.text) if name.space != "word" else Target(*name)
        return Target(*name)

    def declared(self, found: Found) -> Declared | None:
        """The declaration that a name is one of, or that it is a parameter of."""
        name: Name = found.occurrence.name
        if name.space == "import":
            used = next((u for u in self.file.uses if u.path == name.owner and name.text in dict(u.names)), None)
            alias = dict(used.names)[name.text] if used is not None else None
            return self.unit.names.get(alias or name.text)
        if name.space == "arg":
            return self.unit.names.get(name.owner)
        return self.unit.names.get(name.text) if name.space in ("free", "dim", "word") else None

    def remembered(self, piece: Piece, what: str, make: Callable[[], T]) -> T:
        """Something about a piece that hangs on its text and on what kinds of things the text's names are."""
        known = self._memory.get((piece.key, what))
        if known is None or known[0] != (piece.version, self._kinds):
            known = self._memory[piece.key, what] = (piece.version, self._kinds), make()
        found: T = known[1]
        return found

    # Analysis ---------------------------------------------------------------------------------------------------------

    @deep_recursion()
    def findings(self, piece: Piece) -> Findings:
        """What is known of a piece, found out now where an edit has changed it or what it depends on."""
        versions = self._versions(piece)
        found = self._findings.get(piece.key)
        if found is None or found.versions != versions:
            found = self._findings[piece.key] = self._analysed(piece, versions)
        return found

    def value(self, span: Span, last: bool = False) -> Any:
        """What is remembered of the value of an expression or a name: its first one, or its last; ``NOTHING`` if it has none."""
        values = self._fact(span, "values")
        return NOTHING if values is None else values[last]

    def bindings(self, span: Span) -> dict[str, Any]:
        """The dimensions that a call binds, by name."""
        found = self._fact(span, "calls")
        if isinstance(found, tuple):
            signature, types, attrs = found
            try:
                found = signature.unify(types, attrs, packs="broadcast")
            except Diagnostic:
                return {}
        return {} if found is None else {name: dim for name, dim in found.dims.items() if " " not in name}

    def _fact(self, span: Span, table: str) -> Any:
        piece = next((p for p in self.pieces if p.key == span.file), None)
        if piece is None:
            return None
        own = getattr(self.findings(piece).facts[piece.key], table).get(span[:5])
        if own is not None:
            return own
        # What cannot be known of a function alone: what it is in the first model that calls it.
        for other in self._callers(piece):
            value = getattr(self.findings(other).facts[piece.key], table).get(span[:5])
            if value is not None:
                return value
        return None

    def _callers(self, piece: Piece) -> list[Piece]:
        """The first piece with a model that comes to this one."""
        models = (p for p in self.pieces if any(isinstance(i, ast.Function) and i.kind == "model" for i in p.items))
        return [p for p in models if p is not piece and piece.version in self._versions(p)][:1]

    def stale(self) -> list[Piece]:
        """The pieces that :meth:`findings` would look at anew."""
        known = self._findings
        return [p for p in self.pieces if p.key not in known or known[p.key].versions != self._versions(p)]

    def _versions(self, piece: Piece) -> tuple[Any, ...]:
        known = self._depends.get(piece.key)
        if known is None:
            known = self._depends[piece.key] = self._dependencies(piece)
        return known

    def _dependencies(self, piece: Piece) -> tuple[Any, ...]:
        """What the findings of a piece depend on: its own text, those of the declarations it comes to, what they import, and
        which of the names are those of declarations that are wrong."""
        seen = {piece.key: piece.version}
        imported: set[tuple[str, ...]] = set()
        pending = [piece]
        while pending:
            at = pending.pop()
            imported.update((word, *self._imports[word]) for word in at.words & self._imports.keys())
            imported.update((word,) for word in at.words & self.unit.broken)
            near = [self._home[word] for word in at.words & self._home.keys()]
            near += [
                self._blocks[i.name] for i in at.items if not isinstance(i, ast.Compile) and i.name in self._blocks
            ]
            for other in near:
                if other.key not in seen:
                    seen[other.key] = other.version
                    pending.append(other)
        return (*sorted(seen.values()), *sorted(imported))

    def _analysed(self, piece: Piece, versions: tuple[Any, ...]) -> Findings:
        found = Findings(versions)
        elaborator = self.elaborator
        elaborator.facts = found.facts = {p.key: Facts() for p in self.pieces}
        for item in piece.items:
            elaborator.called.clear()
            try:
                self._item(item, found)
            except Diagnostic as error:
                found.errors += distinct([error])
            found.called |= {
                d.name for d in self.file.items if id(d) in elaborator.called and not isinstance(d, ast.Compile)
            }
        if piece.errors:
            # Of a text without some of its lines only the types are of use.
            found.errors, found.alone = [], []
        elaborator.facts = {}
        return found

    def _item(self, item: ast.Declaration, found: Findings) -> None:
        """Look at one declaration. Raises Diagnostic for what is wrong with it."""
        elaborator, unit = self.elaborator, self.unit
        if isinstance(item, ast.Compile):
            choose(unit, item.model, item.span)
            return
        declared = unit.names.get(item.name)
        if declared is None or declared.node is not item:
            return
        if isinstance(item, ast.Const):
            elaborator.const(declared)
        elif isinstance(item, ast.Record):
            elaborator.signatures.record(declared)
        elif isinstance(item, ast.Rewrite):
            rule_of(elaborator, declared)
        elif isinstance(item, ast.Tokenizer):
            # Without a value of each parameter nothing says which tokenizer it is to be.
            if all(static.default is not None for static in item.statics):
                elaborator.tokenizer(declared)
        elif isinstance(item, ast.Program) or item.kind == "model":
            self._model(item)
        else:
            elaborator.check_cycles(declared)
            elaborator.signatures.of(declared)
            found.alone += self._alone(declared)

    def _model(self, node: ast.Function | ast.Program) -> None:
        elaborator, unit = self.elaborator, self.unit
        block = next((b for b in compiles(unit) if b.model == node.name), None)
        spec, statics = compile_spec(elaborator, unit, block)
        errors = check_block(spec) if spec is not None else []
        try:
            self._elaborated(node, block, spec, statics)
        except Diagnostic as error:
            raise several([error, *errors]) from None
        if errors:
            raise several(errors)

    def _elaborated(
        self, node: ast.Function | ast.Program, block: ast.Compile | None, spec: CompileSpec | None, statics: dict[str, Any]
    ) -> None:
        elaborator, unit = self.elaborator, self.unit
        if any(s.default is None and s.name not in statics for s in node.statics):
            if isinstance(node, ast.Function):
                # Nothing says which model it is to be; with free numbers its shapes are known all the same.
                self._alone(unit.names[node.name])
            return
        weights = [c for c in block.clauses if isinstance(c, ast.WeightsClause)] if block is not None else []
        # Which rows ids choose from stands in the layers of the models that they go into.
        wired = isinstance(node, ast.Program) and any(isinstance(item, ast.Tokenizer) for item in self.file.items)
        elaborator.whole = wired or any(isinstance(row, ast.Recipe) for clause in weights for row in clause.rows)
        module = elaborator.model(unit, node.name, statics, spans(block))
        if block is None or spec is None:
            return
        module.compile = spec
        module.recipes = block_recipes(elaborator, unit, module, block, statics)

    def _alone(self, declared: Declared) -> list[Diagnostic]:
        """What is wrong with a function whoever calls it."""
        self.elaborator.alone = True
        try:
            return self._wrong(check_function, self.elaborator, declared, declared.node, ASSUMED)
        finally:
            self.elaborator.alone = False

    @staticmethod
    def _wrong(part: Callable[..., Any], *args: Any) -> list[Diagnostic]:
        try:
            part(*args)
        except Diagnostic as error:
            return distinct([error])
        return []

    def diagnostics(self) -> list[Diagnostic]:
        """All that is wrong with the text, and its warnings; the places in it are those of its pieces."""
        found = [self.findings(piece) for piece in self.pieces]
        called = {name for one in found for name in one.called}
        errors = [error for piece in self.pieces for error in piece.errors]
        errors += self.link_errors
        for piece, one in zip(self.pieces, found, strict=True):
            errors += one.errors
            if not any(item.name in called for item in piece.items if not isinstance(item, ast.Compile)):
                errors += one.alone
        told = distinct(errors)
        return [*told, *beside(warnings(self), told)]


def _common(a: list[str], b: list[str]) -> int:
    """How many items two lists have in common at their start."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
