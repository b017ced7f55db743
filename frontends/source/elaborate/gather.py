"""The declarations of a program's own files that its graph may come to use, as one file can hold them: for the printer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from ....ir.declarations import LOCAL, Declaration, used_by
from ....ir.diagnostics import Diagnostic
from ....ir.graph import Graph
from ..syntax import ast
from ..syntax.lexer import RESERVED
from ..syntax.rename import renamed
from .builtin import BUILTIN
from .cycles import free_names, names_in
from .library import Declared, Unit

if TYPE_CHECKING:
    from .elaborate import Elaborator


def gather(
    elaborator: Elaborator, graphs: Sequence[Graph], unit: Unit, name: str
) -> tuple[dict[str, Declaration], dict[str, tuple[str, str]]]:
    """The declarations of a program by name, and what they use of shipped modules: name there -> (module, name).

    ``name`` is the program's, which no declaration can have, nor those of its graphs.
    Where two files give one name to different things, all but the first get another: what is printed is one file.

    Raises:
        Diagnostic: E0204 when the two are ops, records, or functions that are passed on: those go by their names.
    """
    return _Gathering(elaborator, graphs, unit, name).result()


def gather_ops(
    elaborator: Elaborator, unit: Unit, ops: Sequence[Declared]
) -> tuple[dict[str, Declaration], dict[str, tuple[str, str]]]:
    """As :func:`gather`, for ops that a pass brings into a graph."""
    return _Gathering(elaborator, (), unit, "", ops).result()


class _Gathering:
    def __init__(
        self, elaborator: Elaborator, graphs: Sequence[Graph], unit: Unit, name: str, ops: Sequence[Declared] = ()
    ) -> None:
        self.elaborator = elaborator
        self.declared: dict[int, Declared] = {}
        self.shipped: dict[tuple[str, str], str] = {}
        # Names that are no declaration where they stand: a constant of that name would change their meaning.
        self.free = {s for g in graphs for v in g.inputs for d in v.type.shape for s in d.symbols}
        self.free.update(name for g in graphs for name in g.lets)
        used = (pair for graph in graphs for pair in used_by(graph))
        pending = [d for pair in used if (d := elaborator.registered(*pair)) is not None]
        pending += [*ops, *_of_rewrites(unit)]
        while pending:
            declared = pending.pop(0)
            if declared.unit.module != LOCAL:
                self.shipped.setdefault((declared.unit.module, declared.node.name), declared.node.name)
            elif id(declared.node) not in self.declared:
                self.declared[id(declared.node)] = declared
                pending += self._mentioned(declared)
        self.names: dict[int, str] = {}
        self.taken = set(BUILTIN) | set(RESERVED) | {name} | {graph.name for graph in graphs}
        self._give_names()

    def _mentioned(self, declared: Declared) -> Iterator[Declared]:
        self.free |= {name for name in names_in(declared.node) if name not in declared.unit.names}
        for name in dict.fromkeys(free_names(declared.node)):
            target = declared.unit.names.get(name)
            if target is None:
                continue
            if target.unit.module != LOCAL:
                self.shipped.setdefault((target.unit.module, target.node.name), name)
            else:
                yield target

    def _give_names(self) -> None:
        fixed = [d for d in self.declared.values() if self._goes_by_name(d)]
        for declared in fixed:
            self.names[id(declared.node)] = declared.node.name
            self.taken.add(declared.node.name)
        for declared in self.declared.values():
            if id(declared.node) not in self.names:
                constant = isinstance(declared.node, ast.Const)
                self.names[id(declared.node)] = self._fresh(declared.node.name, self.free if constant else set())
        for target, alias in self.shipped.items():
            self.shipped[target] = self._fresh(alias, set())

    def _goes_by_name(self, declared: Declared) -> bool:
        if isinstance(declared.node, ast.Record):
            self.elaborator.register(declared)
        found = self.elaborator.registered(LOCAL, declared.node.name)
        return found is not None and found.node is declared.node

    def _fresh(self, wanted: str, avoided: set[str]) -> str:
        name, n = wanted, 1
        while name in self.taken or name in avoided:
            n += 1
            name = f"{wanted}_{n}"
        self.taken.add(name)
        return name

    def result(self) -> tuple[dict[str, Declaration], dict[str, tuple[str, str]]]:
        found = {self.names[key]: self._declaration(declared) for key, declared in self.declared.items()}
        return dict(sorted(found.items())), dict(sorted((alias, target) for target, alias in self.shipped.items()))

    def _declaration(self, declared: Declared) -> Declaration:
        names: dict[str, str] = {}
        for name in free_names(declared.node):
            target = declared.unit.names.get(name)
            if target is not None and target.unit.module != LOCAL:
                names[name] = self.shipped[(target.unit.module, target.node.name)]
            elif target is not None:
                names[name] = self.names[id(target.node)]
        node = declared.node
        own = self.names[id(node)]
        changed = {old: new for old, new in names.items() if old != new}
        for name in changed.keys() & set(_bound(node)):
            raise Diagnostic(
                "E0204", f"`{name}` is a variable of `{node.name}`, and two files of this program declare it", node.span,
                help="give the variable another name",
            )  # fmt: skip
        if own != node.name or changed:
            node = replace(renamed(node, changed), name=own)
        return Declaration(node, tuple(sorted(set(names.values()) - {own})))


def _of_rewrites(unit: Unit) -> Iterator[Declared]:
    """What the replacements of a unit's rewrite rules mention: a rule may bring it into the graph."""
    for declared in unit.names.values():
        if isinstance(declared.node, ast.Rewrite):
            targets = map(declared.unit.names.get, names_in(declared.node.replacement))
            yield from (t for t in targets if t is not None)


def _bound(node: Any) -> Iterator[str]:
    """Every name that a declaration binds for itself."""
    if isinstance(node, (ast.Param, ast.ParamStmt, ast.StateStmt, ast.RandomStmt, ast.LetStmt)):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from node.targets
    elif isinstance(node, (ast.RepeatStmt, ast.FoldStmt)):
        yield node.variable
    children = [getattr(node, f.name) for f in fields(node)] if isinstance(node, ast.Node) else node
    if isinstance(children, (list, tuple)):
        for child in children:
            yield from _bound(child)
