"""Passes: what one is, how options are checked, how a pipeline runs.

A pass is a frozen dataclass. Its fields are its options, under the same names in a ``compile`` block, on the command
line and in Python:

    >>> from dataclasses import dataclass
    >>> from tessera.passes.options import option
    >>> @dataclass(frozen=True)
    ... class Shrink(Pass):
    ...     '''Removes things.'''
    ...     name = "shrink"
    ...     contract = "exact"
    ...     limit: int = option(4, "how many at most", least=0)
    ...     def run(self, module): return Report.of(self, modified=0)

Every module of this package and its folders is scanned for passes, and so is the entry point group ``tessera.passes``.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pkgutil import walk_packages
from typing import Any, ClassVar

from ..ir.compiling import PassSpec
from ..ir.diagnostics import Diagnostic, Note, Span, did_you_mean
from ..ir.graph import Module
from ..ir.recipe import Take, relative
from ..ir.recipe_functions import Typed
from ..ir.types import TensorType
from ..ir.verifier import verify, verify_program
from ..ir.wiring import check, check_shared
from .options import Option, check_options
from .report import Report

ENTRY_POINTS = "tessera.passes"

# (what ran, its report, the module after it): to print or save every stage.
After = Callable[["Pass", Report, Module], None]


@dataclasses.dataclass(frozen=True)
class Pass:
    """A module-to-module rewrite.

    Attributes:
        name: the name in source and on the command line.
        contract: ``exact`` (the same function, up to rounding) or ``approximate`` (the report says what changed).
        aliases: other names that it answers to.
        splits: whether it makes several entry points of the one that it is given.
        rewords: whether the ids that the model takes are of another vocabulary afterwards.
    """

    name: ClassVar[str]
    contract: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    splits: ClassVar[bool] = False
    rewords: ClassVar[bool] = False

    def requires(self, module: Module) -> None:
        """Raise a Diagnostic when the module is not one that this pass can work on."""

    def run(self, module: Module) -> Report:
        """Rewrite ``module`` in place (the engine hands in a clone) and say what was done.

        Raises:
            Diagnostic: when the program, or an option for this program, is at fault.
        """
        raise NotImplementedError

    def ensures(self, before: Module, after: Module) -> None:
        """Raise :class:`BrokenContract` when the result is not what this pass promises; asked under ``verify_each``."""

    @classmethod
    def further_options(cls, spec: PassSpec) -> dict[str, Option] | None:
        """Options that only the values of others bring with them, for a pass with a field ``further`` that holds what is given;
        None when only :meth:`run` can tell, which then checks them."""
        return {}

    @classmethod
    def method_help(cls, method: str | None) -> str:
        """What the option ``method`` chooses from, or what one of them is; empty for a pass without that option."""
        return ""

    @classmethod
    def summary(cls) -> str:
        """The first sentence of the docstring."""
        text = inspect.getdoc(cls) or ""
        return text.split("\n\n")[0].replace("\n", " ")


class BrokenContract(Exception):
    """A pass did not keep its promise: a bug in the pass, not in the program."""


class PassFailed(Diagnostic):
    """E0706: a pass broke down. ``ran`` names the passes before it; ``__cause__`` is the exception."""

    def __init__(self, name: str, ran: Sequence[str], cause: BaseException, span: Span | None = None) -> None:
        before = f"after {', '.join(f'`{r}`' for r in ran)}" if ran else "as the first pass"
        super().__init__(
            "E0706",
            f"the pass `{name}` broke down {before}: {type(cause).__name__}: {cause}",
            span,
            help="this is a bug in the pass, not in your program; leave the pass out to go on",
        )
        self.name = name
        self.ran = list(ran)


# The registry ---------------------------------------------------------------------------------------------------------


@cache
def _modules() -> list[str]:
    """The modules of this package; none but its folders is imported for it."""
    package = __name__.rpartition(".")[0]
    return [info.name for info in walk_packages(import_module(package).__path__, f"{package}.")]


def _passes_of(modules: Iterable[str]) -> dict[str, type[Pass]]:
    """The passes that modules define, by name."""
    found: dict[str, type[Pass]] = {}
    for module in map(import_module, modules):
        for value in vars(module).values():
            own = isinstance(value, type) and value.__module__ == module.__name__
            if own and issubclass(value, Pass) and "name" in vars(value):
                found[value.name] = value
    return found


@cache
def _shipped() -> dict[str, type[Pass]]:
    """The passes of this package by name."""
    return _passes_of(_modules())


@cache
def registry() -> dict[str, type[Pass]]:
    """Every known pass by name: those of installed entry points, and those in this package, whose names nobody can take."""
    from importlib.metadata import entry_points

    found = {value.name: value for value in (point.load() for point in entry_points(group=ENTRY_POINTS))}
    return dict(sorted({**found, **_shipped()}.items()))


def find(name: str, span: Span | None = None) -> type[Pass]:
    """The pass of that name or alias. Raises E0701 when there is none."""
    # A pass lies in a file of its name, mostly: the others need not be imported to find it.
    known = _passes_of(m for m in _modules() if m.rpartition(".")[2] == name)
    if name not in known:
        known = _named(_shipped())
    if name not in known:
        # Other packages are looked at only for what is not here: finding out what is installed takes longer than most passes.
        known = _named(registry())
    if name not in known:
        raise Diagnostic(
            "E0701",
            f"there is no pass `{name}`",
            span,
            help="options stand beside the name: "
            f'`ts.apply(m, "{name.partition("(")[0]}", …)`; text with options goes into `ts.compile(m, passes=[…])`'
            if "(" in name
            else did_you_mean(name, known) or f"the passes are {', '.join(registry())}",
        )
    return known[name]


def _named(passes: Mapping[str, type[Pass]]) -> dict[str, type[Pass]]:
    """Passes by each name that they answer to."""
    return {alias: cls for cls in passes.values() for alias in cls.aliases} | {**passes}


def make(spec: PassSpec) -> Pass:
    """The pass that ``spec`` describes. Raises E0701 to E0704 for an unknown pass or option, and a wrong value."""
    cls = find(spec.name, spec.span)
    options = {name: value for name, value in spec.options.items() if name != "entry"}
    return cls(**check_options(cls, dataclasses.replace(spec, options=options)))


def _entries(spec: PassSpec | Pass, program: Module) -> list[str]:
    """The entry points that a pass runs on: those that its option ``entry`` names, else all. Raises E0521."""
    if isinstance(spec, Pass) or "entry" not in spec.options:
        return list(program.functions)
    given = spec.options["entry"]
    names = [str(name) for name in (given if isinstance(given, (list, tuple)) else [given])]
    for name in names:
        program.only(name, spec.span)
    return names


# Running -------------------------------------------------------------------------------------------------------------


def apply(module: Module, what: str | Pass | PassSpec, **options: Any) -> tuple[Module, Report]:
    """Run one pass on a copy: ``module, report = apply(module, "merge_tokens", r=8)``.

    Of a program it runs on every entry point, or on those that ``entry="prefill"`` names; the report is that of the first.

    Raises:
        Diagnostic: E0701 to E0704 for the pass and its options, and whatever the pass finds wrong.
    """
    if isinstance(what, str):
        what = PassSpec(what, options)
    elif options:
        raise TypeError("options belong to a pass given by name; a pass object carries its own")
    result, reports = run_pipeline(module, [what])
    return result, reports[0]


def run_pipeline(
    module: Module,
    passes: Iterable[PassSpec | Pass],
    *,
    verify_each: bool = False,
    after: After | None = None,
) -> tuple[Module, list[Report]]:
    """Run passes one after another on a copy of ``module``, which itself stays as it is. There is one report for each pass
    and entry point.

    Args:
        verify_each: check the graph's invariants and the pass's promise after each pass.
        after: called with each pass, each of its reports and the module so far.

    Raises:
        Diagnostic: a wrong option or program; it names the pass. :class:`PassFailed` for a bug in a pass.
    """
    # Options are all checked before anything runs: the last pass's typing error should not cost the first one's time.
    given = list(passes)
    steps = [(p, None) if isinstance(p, Pass) else (make(p), p.span) for p in given]
    for spec, (step, _) in zip(given, steps, strict=True):
        _entries(spec, module)
        if step.splits:
            # Only then is it known which entry points there are for those behind it.
            break
    if verify_each:
        # What was broken before is no pass's fault.
        verify_program(module)
    reports: list[Report] = []
    for spec, (step, span) in zip(given, steps, strict=True):
        ran = list(dict.fromkeys(r.name for r in reports))
        before, module = module, module.clone()
        made: list[Report] = []
        try:
            for entry in _entries(spec, before):
                made.append(_run(step, before, module, entry, verify_each))
            _check_program(step, module)
            _check_weights(before, module, {name: type for report in made for name, type in report.reads.items()})
        except Diagnostic as error:
            before_it = f", after {', '.join(ran)}" if ran else ""
            note = Note(f"while running the pass `{step.name}`{before_it}", span)
            if not any(n.message == note.message for n in error.notes):
                error.notes.append(note)
            raise
        except Exception as error:
            raise PassFailed(step.name, ran, error, span) from error
        reports += made
        if after is not None:
            for report in made:
                after(step, report, module)
    return module, reports


def _run(step: Pass, before: Module, program: Module, entry: str, verify_each: bool) -> Report:
    """Run a pass on one entry point of ``program``, in place."""
    alone = program if step.splits or len(program.functions) == 1 else program.only(entry)
    if alone is not program:
        # What it makes of a shared parameter is made of the parameter as it was, in every entry point.
        alone.recipes = before.only(entry).recipes
    step.requires(alone)
    report = step.run(alone)
    if verify_each and step.splits:
        verify_program(alone)
        step.ensures(before, alone)
    elif verify_each:
        verify(alone.graph)
        _same_interface(before.only(entry), alone, step.rewords)
        step.ensures(before.only(entry), alone)
    if alone is not program:
        report.entry = entry
        program.take_back(alone)
    return report


def _check_program(step: Pass, program: Module) -> None:
    """Raises E0526 when a pass changed a shared parameter or state in some entry points only, or a result that a flow hands on."""
    try:
        check_shared(program)
    except Diagnostic as error:
        raise Diagnostic(
            "E0526", f"`{step.name}` changed what entry points share: {error.message}", notes=error.notes,
            help="run it on all of them: leave out `entry=`",
        ) from error  # fmt: skip
    try:
        check(program)
    except Diagnostic as error:
        raise Diagnostic(
            "E0526", f"after `{step.name}` the program no longer fits together: {error.message}", error.span, notes=error.notes,
            help="leave the entry point out that hands this on: `entry=` names those that the pass runs on",
        ) from error  # fmt: skip


def _check_weights(before: Module, after: Module, reads: Mapping[str, Typed]) -> None:
    """Each parameter is one of those before, or made of them, and of what the pass reads besides, by a recipe that gives its type;
    recipes of others go."""
    params, old = after.parameters(), before.parameters()
    after.recipes = {name: recipe for name, recipe in after.recipes.items() if name in params}

    def look(name: str) -> Typed:
        if name in reads:
            return reads[name]
        if name not in old:
            raise BrokenContract(f"a recipe reads `{name}`, which was no parameter before the pass")
        return Typed(old[name].type.dtype, tuple(int(d) for d in old[name].type.shape))

    for name, recipe in relative(after, before).items():
        type = params[name].type
        if recipe == Take(name):
            if name not in old or old[name].type != type:
                raise BrokenContract(f"the parameter `{name}`, {type}, is not one of the model's, and has no recipe")
            continue
        try:
            found = recipe.type(look)
        except Diagnostic as error:
            raise BrokenContract(f"the recipe of `{name}` does not hold together: {error.message}") from error
        if found.dtype.kind != type.dtype.kind or TensorType.of(type.dtype, found.shape) != type:
            raise BrokenContract(f"the recipe of `{name}` gives {found}, but the parameter is {type}")


def _same_interface(before: Module, after: Module, reworded: bool) -> None:
    """No pass may change what a caller binds: inputs, names of outputs. Taps, and random inputs, which nobody has to bind, may be
    added; ids may be ``reworded``."""
    old, new = before.graph, after.graph
    was, now = (
        [(v.name, v.outside, v.type, None if reworded else v.vocabulary, v.role) for v in graph.inputs] for graph in (old, new)
    )
    if now[: len(was)] != was or any(row[-1] != "random" for row in now[len(was) :]):
        raise BrokenContract("the inputs changed")
    kept, added = new.output_info[: len(old.output_info)], new.output_info[len(old.output_info) :]
    if old.output_info != kept or any(info.role != "tap" for info in added):
        raise BrokenContract("the outputs have other names")
