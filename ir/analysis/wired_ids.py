"""Ids go from a tokenizer, or an input of a flow, to what knows them: models of its vocabulary, and the tokenizer itself."""

from __future__ import annotations

from collections.abc import Iterable

from ..diagnostics import Diagnostic, Note, Span
from ..program import Flow, Loop, Program, Step
from ..stages import fields_of
from ..vocabulary import Vocabulary
from .bounds import index_limits

# A vocabulary, and where its ids come from.
Whose = tuple[Vocabulary, Span | None]


def check_ids(program: Program, flow: Flow, found: dict[str, dict[str, Whose]]) -> dict[str, Whose]:
    """Whose ids the values of a flow hold, by name, as far as that is known. Its steps are taken to fit by their types.

    Args:
        found: the same of flows that were looked at, which are not looked at again.

    Raises:
        Diagnostic: E1011 with both places for ids of another vocabulary, E1006 for a tokenizer that was not trained.
    """
    if flow.name in found:
        return found[flow.name]
    known: dict[str, Whose] = {p.value: (p.vocabulary, p.span) for p in flow.inputs if p.vocabulary is not None}
    _follow(program, flow.steps, known, found)
    found[flow.name] = known
    return known


def _follow(
    program: Program, steps: Iterable[Step | Loop], known: dict[str, Whose], found: dict[str, dict[str, Whose]]
) -> None:
    """Add what is known of the ids that steps give."""
    for step in steps:
        if isinstance(step, Loop):
            _follow_loop(program, step, known, found)
            continue
        stage = program.stages.get(step.callee)
        if stage is not None and stage.reference in program.tokenizers:
            own = _vocabulary(program, stage.reference, step.span)
            if "ids" in fields_of(stage):
                known[step.results[0]] = own, step.span
            elif step.operands[0] in known:
                _check(step, 0, known[step.operands[0]], own, stage.span)
        elif step.callee in program.flows:
            inner = program.flows[step.callee]
            behind = check_ids(program, inner, found)
            for place, port in enumerate(inner.inputs):
                if port.vocabulary is not None and step.operands[place] in known:
                    _check(step, place, known[step.operands[place]], port.vocabulary, port.span)
            made = zip(step.results, inner.outputs, strict=True)
            known.update((name, (behind[port.value][0], step.span)) for name, port in made if port.value in behind)
        elif step.callee in program.functions:
            _check_entry(program, step, known)


def _follow_loop(program: Program, loop: Loop, known: dict[str, Whose], found: dict[str, dict[str, Whose]]) -> None:
    """What a loop carries is what it was before the first step, and then what the last one left."""
    for carry in loop.carried:
        if carry.first in known:
            known[carry.inside] = known[carry.first]
    # Once more for what only the second step meets.
    for _ in range(2):
        _follow(program, loop.test, known, found)
        _follow(program, loop.body, known, found)
        for carry in loop.carried:
            if carry.after in known and _differ(known.setdefault(carry.inside, known[carry.after])[0], known[carry.after][0]):
                raise Diagnostic(
                    "E1011", f"a loop begins with ids {known[carry.inside][0]}, and goes on with ids {known[carry.after][0]}",
                    loop.span,
                    [Note("it begins with these", known[carry.inside][1]), Note("it goes on with these", known[carry.after][1])],
                    "ids of another tokenizer mean other texts: decode and encode them again",
                )  # fmt: skip
    known.update((carry.result, known[carry.after]) for carry in loop.carried if carry.after in known)
    known.update((result, known[value]) for value, result in loop.stacked if value in known)


def _check_entry(program: Program, step: Step, known: dict[str, Whose]) -> None:
    """Raises E1011 where a model takes ids of another vocabulary, or has fewer rows than there are ids."""
    graph = program.functions[step.callee]
    limits = index_limits(graph)
    for place, value in enumerate(v for v in graph.inputs if v.role == "input"):
        given = known.get(step.operands[place])
        if given is None:
            continue
        if value.vocabulary is not None:
            _check(step, place, given, value.vocabulary, value.span)
            continue
        rows = [limit.value for limit in limits.get(value.name, []) if limit.value is not None]
        if rows and min(rows) < given[0].size:
            raise Diagnostic(
                "E1011", f"ids {given[0]} go into `{value.name}` of `{step.callee}`, which chooses among {min(rows)}",
                _place(step, place),
                [Note("the ids come from here", given[1]), Note(f"`{value.name}` is declared here", value.span)],
                f"give the table of `{step.callee}` {given[0].size} rows, or tokenize with the tokenizer that it was trained with",
            )  # fmt: skip


def _check(step: Step, place: int, given: Whose, wanted: Vocabulary, where: Span | None) -> None:
    found, source = given
    if _differ(found, wanted):
        raise Diagnostic(
            "E1011", f"ids {found} go into `{step.callee}`, which takes ids {wanted}", _place(step, place),
            [Note("the ids come from here", source), Note("they are taken here", where)],
            "ids of another tokenizer mean other texts: decode and encode them again",
        )  # fmt: skip


def _differ(found: Vocabulary, wanted: Vocabulary) -> bool:
    """Whether ids of one surely are none of the other."""
    named = found.name is not None and wanted.name is not None
    return found != wanted or (named and found.name != wanted.name)


def _place(step: Step, place: int) -> Span | None:
    return step.spans[place] if place < len(step.spans) else step.span


def _vocabulary(program: Program, name: str, span: Span | None) -> Vocabulary:
    size = program.tokenizers[name].size
    if size is None:
        raise Diagnostic(
            "E1006", f"nobody knows yet how many ids the tokenizer `{name}` has", span,
            help="train it with `tessera tokenizer train`",
        )  # fmt: skip
    return Vocabulary(size, name)
