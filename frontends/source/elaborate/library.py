"""Source files as units: where names come from. std and zoo lie in the package, other files beside the user's.

A unit is parsed once; its names are its own declarations and what its ``use`` lines bring in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ....ir.declarations import LOCAL
from ....ir.diagnostics import Diagnostic, FollowUp, Note, Span, did_you_mean
from ..syntax import ast
from ..syntax.cache import load_ast
from ..syntax.parser import parse, read_source

SPECS = Path(__file__).resolve().parents[3] / "specs"


@dataclass(eq=False)
class Declared:
    """A declaration and the unit that it stands in (its names are looked up there)."""

    unit: Unit
    node: ast.Function | ast.Record | ast.Const | ast.Rewrite | ast.Program | ast.Tokenizer

    @property
    def qualified(self) -> str:
        return f"{self.unit.module}.{self.node.name}"


@dataclass(eq=False)
class Unit:
    """One source file. ``module`` is ``std.nn`` for shipped files, else ``local``; ``root`` bounds its includes."""

    module: str
    path: str
    root: Path | None
    file: ast.File
    names: dict[str, Declared] = field(default_factory=dict)
    # Names whose declarations do not parse, or could not be brought in.
    broken: set[str] = field(default_factory=set)

    def find(self, name: str) -> Declared | None:
        """What a name stands for in this file. Raises FollowUp where its declaration is wrong."""
        if name in self.broken:
            raise FollowUp
        return self.names.get(name)

    def local(self, name: str) -> bool:
        """Whether ``name`` is declared here, not brought in."""
        return name in self.names and self.names[name].unit is self

    @property
    def models(self) -> dict[str, ast.Function]:
        """The models that are declared here, by name."""
        return {n.name: n for n in self.file.items if isinstance(n, ast.Function) and n.kind == "model"}

    @property
    def programs(self) -> dict[str, ast.Program]:
        """The programs that are declared here, by name."""
        return {n.name: n for n in self.file.items if isinstance(n, ast.Program)}

    @property
    def tokenizers(self) -> dict[str, ast.Tokenizer]:
        """The tokenizers that are declared here, by name."""
        return {n.name: n for n in self.file.items if isinstance(n, ast.Tokenizer)}


class Library:
    """All units of one program.

    With ``errors``, what does not parse or cannot be brought in goes there, and the rest of the file stands; else it is raised.
    """

    def __init__(self, errors: list[Diagnostic] | None = None) -> None:
        self.errors = errors
        self._units: dict[str, Unit] = {}
        self._loading: list[tuple[str, Span | None]] = []

    def std(self, module: str, span: Span | None = None) -> Unit:
        """A shipped file: ``std.nn`` is ``specs/std/nn.tess``. Raises E0202 when there is none."""
        path = SPECS.joinpath(*module.split(".")).with_suffix(".tess")
        if not path.is_file():
            known = [_module_of(p) for p in SPECS.rglob("*.tess")]
            moved = module.replace("std.raise_", "std.recover.") if module != "std.raise" else "std.recover.primitives"
            raise Diagnostic(
                "E0202", f"there is no module `{module}`", span,
                help=f"it is called `{moved}` now" if moved != module and moved in known
                else f"did you mean `std.{module}`?" if f"std.{module}" in known else did_you_mean(module, known)
                or _of_python(module) or 'a file of your own has a quoted path: `use "blocks.tess" (name)`',
            )  # fmt: skip
        return self._unit(module, path, None, span)

    @staticmethod
    def below(module: str) -> list[str]:
        """A shipped module, and those in the folder of its name; of a folder alone, those in it."""
        folder = SPECS.joinpath(*module.split("."))
        alone = folder.is_dir() and not folder.with_suffix(".tess").is_file()
        return [*([] if alone else [module]), *map(_module_of, sorted(folder.rglob("*.tess")))]

    def declaring(self, name: str) -> str | None:
        """The first module of std that declares ``name``."""
        modules = map(_module_of, sorted((SPECS / "std").rglob("*.tess")))
        return next((module for module in modules if self.std(module).local(name)), None)

    def file(self, path: str | Path, root: Path | None = None, span: Span | None = None) -> Unit:
        """A user's file. A shipped file opened by its path is the shipped module."""
        real = Path(path).resolve()
        if real.is_relative_to(SPECS):
            return self.std(_module_of(real), span)
        return self._unit(LOCAL, Path(path), root or real.parent, span)

    def text(self, text: str, path: str = "<string>", root: Path | None = None) -> Unit:
        """A program that is not in a file."""
        unit = Unit(LOCAL, path, root, ast.File(path, [], []))
        self._parse(unit, lambda: parse(text, path), lambda: text)
        return self._link(unit)

    def edited(self, text: str, path: str) -> Unit:
        """The text of a file as it is being written, which may differ from what lies at its place."""
        real = Path(path).resolve()
        module = _module_of(real) if real.is_relative_to(SPECS) else LOCAL
        unit = Unit(module, path, None if module != LOCAL else real.parent, ast.File(path, [], []))
        self._parse(unit, lambda: parse(text, path), lambda: text)
        return self._loaded(str(real), unit, None)

    def _unit(self, module: str, path: Path, root: Path | None, span: Span | None) -> Unit:
        key = str(path.resolve())
        found = self._units.get(key)
        if found is not None:
            return found
        chain = [p for p, _ in self._loading]
        if key in chain:
            names = [Path(p).name for p in [*chain[chain.index(key) :], key]]
            raise Diagnostic(
                "E0006", f"files use each other in a circle: {' -> '.join(names)}", span,
                help="move what both need into a third file",
            )  # fmt: skip
        unit = Unit(module, str(path), root, ast.File(str(path), [], []))
        self._parse(unit, lambda: load_ast(path), lambda: read_source(path))
        return self._loaded(key, unit, span)

    def _parse(self, unit: Unit, parse: Callable[[], ast.File], text: Callable[[], str]) -> None:
        """Give a unit its tree; where the text is wrong and that is no end, the tree of the rest of it."""
        try:
            unit.file = parse()
        except Diagnostic as error:
            if self.errors is None or error.span is None:
                raise
            from ..syntax.recovery import parse_all

            unit.file, errors, unit.broken = parse_all(text(), unit.path)
            self.errors += errors

    def _loaded(self, key: str, unit: Unit, span: Span | None) -> Unit:
        self._loading.append((key, span))
        try:
            self._units[key] = self._link(unit)
        finally:
            self._loading.pop()
        return unit

    def _link(self, unit: Unit) -> Unit:
        for use in unit.file.uses:
            names = [alias or name for name, alias in use.names]
            try:
                source = self._used(unit, use)
            except Diagnostic as error:
                self._wrong(unit, error, names)
                continue
            for (name, _), alias in zip(use.names, names, strict=True):
                try:
                    self._declare(unit, alias, self._target(source, use, name), use.span)
                except Diagnostic as error:
                    self._wrong(unit, error, [alias])
        for item in unit.file.items:
            if not isinstance(item, ast.Compile):
                span = item.name_span if isinstance(item, ast.Function | ast.Program | ast.Tokenizer) else item.span
                try:
                    self._declare(unit, item.name, Declared(unit, item), span)
                except Diagnostic as error:
                    self._wrong(unit, error, [item.name])
        return unit

    def _wrong(self, unit: Unit, error: Diagnostic, names: list[str]) -> None:
        """Note a mistake, which leaves names without a meaning; or raise it."""
        if self.errors is None:
            raise error
        self.errors.append(error)
        unit.broken.update(n for n in names if n not in unit.names)

    @staticmethod
    def _target(source: Unit, use: ast.Use, name: str) -> Declared:
        """What a name of a `use` line brings in. Raises E0202 when there is no such thing."""
        target = source.find(name)
        if target is None or target.unit is not source:
            own = [n for n in source.names if source.local(n)]
            help = did_you_mean(name, own) or declared_in(name)
            raise Diagnostic("E0202", f"`{use.path}` declares no `{name}`", use.span, help=help)
        return target

    def _used(self, unit: Unit, use: ast.Use) -> Unit:
        if not use.quoted:
            return self.std(use.path, use.span)
        if unit.root is None:
            raise Diagnostic("E0005", f'only files can use files: `"{use.path}"`', use.span)
        target = (Path(unit.path).resolve().parent / use.path).resolve()
        if not target.is_relative_to(unit.root.resolve()):
            raise Diagnostic(
                "E0005", f'`"{use.path}"` is outside of the project', use.span,
                help="a program may only use files in the folder of its main file, or below it",
            )  # fmt: skip
        if not target.is_file():
            near = [p.name for p in target.parent.glob("*.tess")] if target.parent.is_dir() else []
            raise Diagnostic(
                "E0001", f'there is no file `"{use.path}"`', use.span, help=did_you_mean(target.name, near)
            )
        return self._unit(LOCAL, Path(unit.path).parent / use.path, unit.root, use.span)

    @staticmethod
    def _declare(unit: Unit, name: str, declared: Declared, span: Span | None) -> None:
        from .builtin import BUILTIN

        if name in BUILTIN:
            raise Diagnostic(
                "E0205", f"`{name}` is built in and cannot be declared again", span, help="choose another name"
            )
        other = unit.names.get(name)
        if other is not None:
            raise Diagnostic(
                "E0204", f"`{name}` is declared twice", span, notes=[Note("the first one is here", other.node.span)]
            )
        unit.names[name] = declared


def declared_in(name: str) -> str | None:
    """``it is in `std.nn` `` for a name that a shipped module declares."""
    module = shared().declaring(name)
    return f"it is in `{module}`: `use {module} ({name})`" if module else None


def _of_python(module: str) -> str | None:
    from .elsewhere import FRAMEWORKS

    known = module.partition(".")[0] in FRAMEWORKS
    return "nothing of Python is here; the library is std: `use std.nn (linear, softmax)`" if known else None


def _module_of(path: Path) -> str:
    """The name of a shipped file: ``std.recover.scores``."""
    return ".".join(path.relative_to(SPECS).with_suffix("").parts)


@lru_cache(maxsize=1)
def shared() -> Library:
    """The library of shipped files that passes and the Python API share."""
    return Library()
