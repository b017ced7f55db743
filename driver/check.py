"""What is wrong with a file: every mistake in its declarations and its ``compile`` blocks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from ..ir.diagnostics import Diagnostic, by_place, several

if TYPE_CHECKING:
    from ..ir.compiling import CompileSpec
    from ..ir.graph import Module


class Examined(NamedTuple):
    """The models of a file that are right, and its diagnostics in order of place."""

    modules: list[Module]
    diagnostics: list[Diagnostic]


def diagnose(text: str, path: str = "<string>", *, lint: bool = False) -> list[Diagnostic]:
    """All that is wrong with a source text, in order of place. Nothing is raised.

    Args:
        path: where the file lies, or would: names the text in messages, and files that it uses are looked for beside it.
        lint: with the warnings for what is legal and probably wrong (codes W01xx).
    """
    return _examine(path, text, lint).diagnostics


def examine(name: str | os.PathLike[str], *, lint: bool = False) -> Examined:
    """Check a whole ``.tess`` file or shipped spec. Nothing is raised: a file that there is not is a diagnostic as well."""
    from ..runtime.files.pickles import refuse_pickled_model
    from ..specs.catalog import find

    try:
        refuse_pickled_model(name)
        path = find(name)[0]
    except Diagnostic as error:
        return Examined([], [error])
    return _examine(str(path), None, lint)


def check(name: str | os.PathLike[str]) -> list[Module]:
    """Type-check a whole ``.tess`` file or shipped spec, and return its models.

    Raises:
        Diagnostic: the first mistake, in a declaration or in a ``compile`` block (E0701 to E0704, E0012); its ``others`` are
            the further ones.
    """
    modules, diagnostics = examine(name)
    if diagnostics:
        raise several(diagnostics)
    return modules


def _examine(path: str, text: str | None, lint: bool) -> Examined:
    from ..frontends import source

    checked = source.examine(path, text)
    modules, errors = checked.modules, checked.errors
    if lint:
        errors = [*errors, *source.warnings(checked)]
    for block in checked.blocks:
        errors += check_block(block)
    return Examined(modules, by_place(errors, path))


def check_block(block: CompileSpec) -> list[Diagnostic]:
    """What is wrong with the passes and the target of a ``compile`` block. None is imported that the block does not need."""
    errors = []
    if block.passes:
        from ..passes.engine import make

        for step in block.passes:
            try:
                make(step)
            except Diagnostic as error:
                errors.append(error)
    if block.target is not None:
        from .targets import chosen_by

        try:
            chosen_by(block)
        except Diagnostic as error:
            errors.append(error)
    return errors
