"""Values of a body that nothing reads: what each statement computes, against what may be read behind it."""

from __future__ import annotations

from collections.abc import Iterator

from ...ir.diagnostics import Diagnostic
from .elaborate.cycles import names_in
from .syntax import ast


def unread(node: ast.Function) -> Iterator[Diagnostic]:
    """W0103 for each statement none of whose values is read, and for a name that is never read once."""
    walk = _Liveness(node)
    read = set(names_in([node.body, [r.condition for r in node.results]]))
    told: set[str] = set()
    for statement in walk.dead():
        names = ", ".join(statement.targets)
        if read.intersection(statement.targets):
            message = f"this value of `{names}` is never read: the name is bound again, or the body ends, before that"
            yield Diagnostic(
                "W0103", message, statement.span,
                help="take the line out, or begin the name with `_`",
            )  # fmt: skip
        elif names not in told:
            told.add(names)
            yield Diagnostic(
                "W0103", f"`{names}` is computed and never used", statement.span,
                help="take the line out, or begin the name with `_`",
            )  # fmt: skip


class _Liveness:
    """The names that may be read behind each statement, found from the last to the first."""

    def __init__(self, node: ast.Function) -> None:
        self.node = node
        self.wanted: set[int] = set()
        self.assigned: list[ast.Assign] = []
        # The last values of states are results.
        self.states: set[str] = set()

    def dead(self) -> list[ast.Assign]:
        """The assignments that nothing reads, in order."""
        self._declare(self.node.body)
        self._before(self.node.body, set(self.states))
        return [s for s in self.assigned if id(s) not in self.wanted]

    def _declare(self, body: list[ast.Stmt]) -> None:
        for s in body:
            if isinstance(s, ast.Assign):
                self.assigned.append(s)
            elif isinstance(s, ast.StateStmt):
                self.states.add(s.name)
            for inner in bodies_of(s):
                self._declare(inner)

    def _before(self, body: list[ast.Stmt], live: set[str]) -> set[str]:
        """What is live before statements behind which ``live`` is."""
        for s in reversed(body):
            live = self._at(s, live)
        return live

    def _at(self, s: ast.Stmt, live: set[str]) -> set[str]:
        if isinstance(s, ast.Assign):
            if any(name in live or name.startswith("_") for name in s.targets):
                self.wanted.add(id(s))
            return (live - set(s.targets)) | set(names_in(s.value))
        if isinstance(s, ast.ReturnStmt):
            return self.states | set(names_in(s.values))
        if isinstance(s, ast.IfStmt):
            branches = [body for _, body in s.branches] + [s.orelse or []]
            return set(names_in([c for c, _ in s.branches])).union(*(self._before(b, live) for b in branches))
        if isinstance(s, ast.CondStmt):
            carried = set(s.carried)
            inner = [self._before(body, carried) for body in (s.body, s.orelse or [])]
            return (live - carried).union(carried, names_in(s.condition), *inner)
        if isinstance(s, (ast.FoldStmt, ast.WhileStmt)):
            head = s.count if isinstance(s, ast.FoldStmt) else [s.condition, s.limit]
            stacked = set(s.stacked) if isinstance(s, ast.FoldStmt) else set()
            # A step reads what the one before it has carried on.
            inner_live = self._before(s.body, {*s.carried, *stacked, *names_in(head)})
            return (live - stacked).union(s.carried, names_in(head), inner_live)
        if isinstance(s, ast.RepeatStmt):
            again = live
            while (before := live | self._before(s.body, again)) != again:
                again = before
            return again.union(names_in(s.iterable))
        return live.union(names_in(s))


def bodies_of(s: ast.Stmt) -> list[list[ast.Stmt]]:
    """The statements within a statement."""
    if isinstance(s, ast.IfStmt):
        return [*(body for _, body in s.branches), s.orelse or []]
    if isinstance(s, ast.CondStmt):
        return [s.body, s.orelse or []]
    return [s.body] if isinstance(s, (ast.RepeatStmt, ast.FoldStmt, ast.WhileStmt)) else []
