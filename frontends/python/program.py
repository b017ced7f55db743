"""A program of several entry points, put together in Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...ir.diagnostics import Diagnostic
from ...ir.program import Program
from ...ir.wiring import check
from ..source.elaborate.turned import check_turned
from .callsite import call_site
from .model import Model


def program(name: str, entries: Mapping[str, Program | Model], *, doc: str = "") -> Program:
    """Models as the entry points of one program: ``ts.program("chat", {"prefill": reader, "step": writer})``.

    Parameters of one full name, and states of one name, are one tensor in all of them.

    Args:
        entries: what was loaded, or built in Python, by the name of the entry point; each has one function.
        doc: its documentation, ``##`` in source.

    Raises:
        Diagnostic: E0522 when what is shared differs, E0204 for two declarations of one name, E0521 without any entry.
    """
    span, _ = call_site()
    if not entries:
        raise Diagnostic("E0521", f"the program `{name}` has no entry point", span, help="give it a model by name")
    whole = Program(name, {}, doc)
    for entry, given in entries.items():
        module = given if isinstance(given, Program) else given.module
        graph = module.graph.clone()
        graph.name = entry
        whole.functions[entry] = graph
        if module.doc:
            whole.docs[entry] = module.doc
        tables: list[tuple[dict[str, Any], dict[str, Any]]] = [
            (whole.locals, module.locals), (whole.uses, module.uses), (whole.rules, module.rules),
            (whole.recipes, module.recipes),
        ]  # fmt: skip
        for table, more in tables:
            for key, value in more.items():
                if table.setdefault(key, value) != value:
                    raise Diagnostic(
                        "E0204", f"two entry points of `{name}` mean different things by `{key}`", span,
                        help="give one of them another name",
                    )  # fmt: skip
    check(whole)
    check_turned(whole.functions, {})
    return whole
