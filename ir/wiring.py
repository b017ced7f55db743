"""Whether a program fits together: what functions share, the types along the edges of its flows, what nobody reaches.

A flow is a list of calls in order, so that its values cannot form a circle; flows that call each other can.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .analysis.wired_ids import Whose, check_ids
from .diagnostics import Diagnostic, Note, Span, did_you_mean
from .dims.dim import const, sym
from .graph import Graph
from .naming import unique
from .notation import quote
from .program import Flow, Loop, Program, Stage, Step
from .signature import Operand, Pattern, Result, Signature
from .types import TEXT, TensorType

_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def check(program: Program) -> None:
    """Check a program as a whole; each of its graphs is taken to be legal.

    Raises:
        Diagnostic: E0522 shared tensors that differ, E0525 a malformed reference, E0201 an unknown callee, E0503 flows that
            call each other in a circle, E0301 to E0304 and E0309 types that do not fit, E1011 ids of another vocabulary, E1006
            those of a tokenizer that was not trained, E0523 a stage that nobody calls.
    """
    check_shared(program)
    for stage in program.stages.values():
        _check_reference(stage)
    called: set[str] = set()
    ended: set[str] = set()
    ids: dict[str, dict[str, Whose]] = {}
    for flow in program.flows.values():
        _check_acyclic(program, flow, ended)
        flow_types(program, flow)
        check_ids(program, flow, ids)
        called |= {step.callee for step in flow.calls()}
    for stage in program.stages.values():
        if stage.name not in called:
            raise Diagnostic(
                "E0523", f"no flow of `{program.name}` calls the host stage `{stage.name}`", stage.span,
                help="call it in a flow, or take it out",
            )  # fmt: skip


def check_shared(program: Program) -> None:
    """Raises E0522 where two functions give a parameter, or a state, of one name different types or initial values."""
    seen: dict[tuple[str, str], tuple[str, str, Span | None]] = {}
    for entry, graph in program.functions.items():
        for kind, name, shown, span in _shared(graph):
            first, theirs, place = seen.setdefault((kind, name), (entry, shown, span))
            if theirs != shown:
                raise Diagnostic(
                    "E0522", f"the {kind} `{name}` is {shown} in `{entry}`, but {theirs} in `{first}`", span,
                    notes=[Note(f"`{first}` declares it here", place)],
                    help="the entry points of a program share what has one name: give one of them another scope or name",
                )  # fmt: skip


def _shared(graph: Graph) -> list[tuple[str, str, str, Span | None]]:
    """(kind, name, its declaration as text, place) of every parameter and state."""
    rows = [
        ("parameter" if p.trainable else "buffer", p.full_name, f"{p.type} = {p.init}", p.span)
        for p in graph.params.values()
    ]
    for value in graph.inputs:
        if value.role == "state":
            outside = "" if value.outside is None else f" as {quote(value.outside)}"
            rows.append(("state", value.name, f"{value.type} = {value.init}{outside}", value.span))
    return rows


def _check_reference(stage: Stage) -> None:
    if stage.kind == "python" and not _REFERENCE.fullmatch(stage.reference):
        raise Diagnostic(
            "E0525", f"`{stage.reference}` names no function", stage.span,
            help='write the module, a colon and the function: `"package.module:function"`',
        )  # fmt: skip


def _check_acyclic(program: Program, flow: Flow, ended: set[str], path: tuple[str, ...] = ()) -> None:
    """Raises E0503 for a flow that comes back to itself; those that ``ended`` are not followed again."""
    if flow.name in ended:
        return
    if flow.name in path:
        chain = [*path[path.index(flow.name) :], flow.name]
        raise Diagnostic(
            "E0503", f"the flow `{flow.name}` calls itself: {' -> '.join(chain)}", program.flows[path[-1]].span,
            help="a flow ends: what repeats is a loop, `fold i in 8 from (x) { … }`",
        )  # fmt: skip
    for step in flow.calls():
        if step.callee in program.flows:
            _check_acyclic(program, program.flows[step.callee], ended, (*path, flow.name))
    ended.add(flow.name)


def signature_of(program: Program, name: str, span: Span | None = None) -> Signature:
    """What a flow may call by that name: inputs and results, without states, random inputs and taps.

    Raises:
        Diagnostic: E0201 when the program has nothing of that name.
    """
    if name in program.stages:
        return program.stages[name].signature
    if name in program.flows:
        flow = program.flows[name]
        operands = [Operand(p.name, Pattern(p.type.dtype, p.type.shape)) for p in flow.inputs]
        return Signature(
            name, tuple(operands), (), tuple(Result(Pattern(p.type.dtype, p.type.shape), p.name) for p in flow.outputs)
        )
    if name in program.functions:
        return _signature(name, program.functions[name])
    known = [*program.functions, *program.stages, *program.flows]
    raise Diagnostic(
        "E0201", f"`{name}` is no entry point, stage or flow of the program `{program.name}`", span,
        help=did_you_mean(name, known) or f"it has {', '.join(known)}",
    )  # fmt: skip


def _signature(name: str, graph: Graph) -> Signature:
    def pattern(type: TensorType) -> Pattern:
        return Pattern(type.dtype, tuple(graph.expand_lets(d) for d in type.shape))

    operands = tuple(Operand(v.name, pattern(v.type)) for v in graph.inputs if v.role == "input")
    pairs = zip(graph.outputs, graph.output_info, strict=True)
    return Signature(
        name, operands, (), tuple(Result(pattern(v.type), info.name) for v, info in pairs if info.role == "output")
    )


def flow_types(program: Program, flow: Flow) -> dict[str, TensorType]:
    """The type of every value of a flow by name.

    Raises:
        Diagnostic: E0201, E0301 to E0304 for a call that does not fit, E0404 for a number of results, E0308 for what a loop
            carries, E0506 for what ends one, E0309 for an output.
    """
    types = {port.value: port.type for port in flow.inputs}
    symbols = {s for port in flow.inputs for d in port.type.shape for s in d.symbols}
    _step_types(program, flow.steps, types, symbols)
    _check_outputs(flow, types)
    return types


def _step_types(
    program: Program, steps: Iterable[Step | Loop], types: dict[str, TensorType], symbols: set[str]
) -> None:
    """Add the types of what steps give."""
    for step in steps:
        if isinstance(step, Loop):
            _loop_types(program, step, types, symbols)
            continue
        signature = signature_of(program, step.callee, step.span)
        given = {name: types[name] for name in step.operands}
        try:
            bound = signature.unify([types[name] for name in step.operands], {}, span=step.span, spans=step.spans)
        except Diagnostic as error:
            if error.code == "E0303" and TEXT not in {type.dtype for type in given.values()}:
                error.help = _fitting(program, step, signature, types)
            raise
        results = [r.type for r in signature.results if isinstance(r.type, Pattern)]
        if len(results) != len(step.results):
            raise Diagnostic(
                "E0404", f"{len(step.results)} names, but `{step.callee}` has {len(results)} result(s)", step.span
            )
        # A size that only the callee knows is a symbol of this flow from here on.
        for symbol in sorted(
            {s for r in results for d in r.shape if d is not ... for s in d.symbols} - set(bound.dims)
        ):
            bound.dims[symbol] = sym(unique(symbol, symbols))
        types.update((name, bound.type_of(result)) for name, result in zip(step.results, results, strict=True))


def _loop_types(program: Program, loop: Loop, types: dict[str, TensorType], symbols: set[str]) -> None:
    if loop.variable is not None:
        types[loop.variable] = TensorType.of("i64")
    types.update((carry.inside, types[carry.first]) for carry in loop.carried)
    _step_types(program, loop.test, types, symbols)
    if loop.going is not None and types[loop.going] != TensorType.of("bool"):
        raise Diagnostic(
            "E0506", f"a `while` asks one bool[], and this is {types[loop.going]}", loop.span,
            help="let a model make one of all rows: `any(more)`",
        )  # fmt: skip
    _step_types(program, loop.body, types, symbols)
    for carry in loop.carried:
        if types[carry.after] != types[carry.inside]:
            raise Diagnostic(
                "E0308", f"`{carry.inside}` is {types[carry.inside]} at the begin of a step, and {types[carry.after]} at its end",
                loop.span, help="what a loop carries keeps its type: what grows is stacked, `fold i in n from (x) stack (y) { … }`",
            )  # fmt: skip
        types[carry.result] = types[carry.after]
    for value, result in loop.stacked:
        types[result] = TensorType(types[value].dtype, (const(loop.count), *types[value].shape))


def _fitting(program: Program, step: Step, signature: Signature, types: Mapping[str, TensorType]) -> str:
    """What to do about an operand of another dtype, where nothing is computed: another field, or a change of what is called."""
    for name, operand in zip(step.operands, signature.operands, strict=True):
        wanted = operand.type
        if not isinstance(wanted, Pattern) or wanted.dtype == types[name].dtype:
            continue
        owner, dot, _ = name.partition(".")
        others = [key for key, type in types.items() if key.startswith(f"{owner}.") and type.shape == types[name].shape]
        found = next((key for key in others if dot and types[key].dtype == wanted.dtype), None)
        if found is not None:
            return f"write `{found}`, which is {types[found]}"
        if step.callee in program.functions:
            return f"a flow converts nothing: let `{step.callee}` take {types[name].dtype}, and write `cast({operand.name}, " \
                f"{wanted.dtype})` there"  # fmt: skip
        break
    return f"a flow converts nothing: call a model in between that does, or declare what `{step.callee}` takes"


def _check_outputs(flow: Flow, types: dict[str, TensorType]) -> None:
    bound = {s: sym(s) for port in flow.inputs for d in port.type.shape for s in d.symbols}
    for port in flow.outputs:
        found = types[port.value]
        for declared, actual in zip(port.type.shape, found.shape, strict=False):
            free = declared.symbol
            if free is not None and free not in bound:
                bound[free] = actual
        wanted = TensorType(port.type.dtype, tuple(d.subs(bound) for d in port.type.shape))
        if wanted != found:
            raise Diagnostic(
                "E0309", f"the result `{port.name}` of the flow `{flow.name}` is declared as {port.type}, but is {found}",
                port.span or flow.span,
            )  # fmt: skip
