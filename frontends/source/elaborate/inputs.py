"""Statements that declare inputs of the program: `state`, of a tensor or of a record, and `random`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic, FollowUp, Span, did_you_mean
from ....ir.dims.dim import Dim, sym
from ....ir.equalities import same_within
from ....ir.graph import Graph, Initializer, Output, Part, Value
from ....ir.signature import Pattern, RecordDef, RecordPattern
from ....ir.types import DType
from ....runtime.distributions import parameters
from ....runtime.weights.initialise import INITIALISERS, Initialiser
from ..syntax import ast
from .evaluate import join
from .values import POISON, Bundle, describe, same_structure, tensors_of

if TYPE_CHECKING:
    from .frame import Frame

# Where a file that a table is made of is looked for; raises E0005 where that leaves the project.
FolderOf = Callable[[str, "Span | None"], str]
ZEROS = Initializer("zeros")


def state(frame: Frame, s: ast.StateStmt) -> None:
    """``state cache: KVCache[B, C] = zeros``: one input for a tensor, or for each field of a record."""
    pattern = _pattern(frame, s, "state")
    if s.name in frame.states:  # the same statement of an earlier step of a `repeat`
        finish_state(frame, s.name)
    _open_capacities(frame, pattern, s.type.span)
    name = _own(frame, s)
    if isinstance(pattern, Pattern):
        init = initializer(frame, s.init, "state") if s.init is not None else ZEROS
        made = frame.root.input(
            name, frame.type(pattern, s.type.span), "state", init, frame.place(s.span), scoped_outside(frame, name, s.external)
        )
        frame.bind(s.name, made, s.span)
    else:
        frame.bind(s.name, _record(frame, s, pattern, name), s.span)
    frame.states[s.name] = name


def random(frame: Frame, s: ast.RandomStmt) -> None:
    """``random u: f32[B, T] = uniform(0, 1)``: an input that the runtime draws from a seed."""
    pattern = _pattern(frame, s, "random input")
    if not isinstance(pattern, Pattern):
        raise Diagnostic("E0506", f"the random input `{s.name}` must be a tensor", s.span)
    type = frame.type(pattern, s.type.span)
    init = _distribution(frame, s.distribution, type.dtype)
    name = _own(frame, s)
    made = frame.root.input(name, type, "random", init, frame.place(s.span), scoped_outside(frame, name, s.external))
    frame.bind(s.name, made, s.span)


def finish_states(frame: Frame) -> None:
    """What the names of the states mean at the end are their new values; what does not fit is an error of the frame."""
    for name in list(frame.states):
        try:
            finish_state(frame, name)
        except Diagnostic as error:
            frame.errors.append(error)


def finish_state(frame: Frame, name: str) -> None:
    """The last value of a state's name is its new value: an output of the graph. Raises E0308 when it does not fit."""
    full, value = frame.states.pop(name), frame.env[name]
    if value is POISON:
        raise FollowUp
    graph = frame.root.graph
    declared = [v for v in graph.inputs if v.role == "state" and (v.name == full or v.name.startswith(f"{full}."))]
    part = declared[0].record
    if part is None:
        start: Value | Bundle = declared[0]
    else:
        record = part.pattern.record
        fields = dict(zip((n for n, _ in record.fields), declared, strict=True))
        start = Bundle(record, dict(fields), dict(part.statics))
    shown = declared[0].type if part is None else part.pattern
    if not same_structure(start, value):
        alike = isinstance(value, Bundle) and part is not None and value.record == part.pattern.record
        other = " with other static fields" if alike else ""
        raise Diagnostic(
            "E0308", f"the state `{name}` is {shown}, but ends as {describe(value)}{other}", declared[0].span
        )
    for old, new in zip(declared, tensors_of(value), strict=True):
        if not same_within(graph, new.type, old.type):
            field = old.name[len(full) :]
            raise Diagnostic(
                "E0308", f"the state `{name}{field}` is {old.type}, but ends as {describe(new)}", old.span,
                help="its size stays: hold what grows in a fixed capacity, beside a count of what is filled",
            )  # fmt: skip
        graph.add_output(new, old.name, "state", old.outside)


def outside_name(name: str, external: str | None, field: str = "") -> str | None:
    """What callers call the input or output ``name``, by what `as` says of it, or of the record whose ``field`` it is; None for
    the name itself."""
    full = external if external is None or not field else f"{external}.{field}"
    return None if full == name else full


def scoped_outside(frame: Frame, name: str, external: str | None, field: str = "") -> str | None:
    """The same for what a layer declares: the names of the scopes around it come first, as they do for weights."""
    return outside_name(name, None if external is None else join(frame.scope, external), field)


def check_outside(graph: Graph, span: Span | None) -> None:
    """Raises E0204 where callers would have one name for two inputs, or for two outputs, or an empty one."""
    for what, names in (("inputs", [v.public for v in graph.inputs]), ("outputs", [i.public for i in graph.output_info])):
        if "" in names:
            raise Diagnostic("E0204", f"one of the {what} has an empty name outside", span, help="leave `as \"\"` out")
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            raise Diagnostic(
                "E0204", f"`{twice}` is the name of two {what}", span,
                help="what stands behind `as` is what callers say: give each a name of its own",
            )  # fmt: skip


def declared_outputs(graph: Graph) -> list[tuple[Value, Output]]:
    """The taps and states among the outputs, as source gives them: taps in their order, then states in that of the inputs."""
    places = {v.name: i for i, v in enumerate(graph.inputs)}
    rows = list(zip(graph.outputs, graph.output_info, strict=True))
    return sorted(rows, key=lambda row: (row[1].role == "state", places[row[1].name] if row[1].role == "state" else 0))


def _pattern(frame: Frame, s: ast.StateStmt | ast.RandomStmt, what: str) -> Pattern | RecordPattern:
    """The declared type. Raises E0506 where nothing may be declared."""
    if frame.kind not in ("layer", "model"):
        raise Diagnostic(
            "E0506", f"a {what} belongs to a layer or a model, not to {'an' if frame.kind == 'op' else 'a'} `{frame.kind}`", s.span,
            help=f"declare it in a `layer`, and pass it in: `{s.name}: {s.type.name}[…]`",
        )  # fmt: skip
    if frame.region is not None:
        word = frame.region.graph.name
        help = f"declare it before the {'`cond`' if word == 'cond' else 'loop'}"
        if what == "state":
            help += f", and carry it: `{word} … from (…)`"
        elif word != "cond":
            help += ", with an axis for the steps: here it would be the same in every one"
        raise Diagnostic(
            "E0506", f"the {what} `{s.name}` belongs to the whole program, not to {frame.standing}", s.span, help=help
        )
    return frame.elaborator.signatures.pattern(frame.unit, s.type)


def _own(frame: Frame, s: ast.StateStmt | ast.RandomStmt) -> str:
    """The name of the program's input. Raises E0206 when it is taken."""
    name = join(frame.scope, s.name).replace(".", "_")
    if any(v.name.partition(".")[0] == name for v in frame.root.graph.inputs):
        raise Diagnostic(
            "E0206", f"the program has an input `{name}` already", s.span,
            help="calls that share weights share no state and no random input: declare it where they are called, and pass it in"
            if frame.instances
            else "a layer that is called twice needs scopes: `layer(…) as name`, `repeat … as blocks`",
        )  # fmt: skip
    return name


def _open_capacities(frame: Frame, pattern: Pattern | RecordPattern, span: Span | None) -> None:
    """Let each size that nothing has named yet be a capacity: a size of states alone, which the runtime chooses.

    Raises:
        Diagnostic: E0311 when the name is a size of the program's inputs.
    """
    names = sorted({s for d in (pattern.dims if isinstance(pattern, RecordPattern) else pattern.shape)
                    if isinstance(d, Dim) for s in d.symbols} - frame.env.keys())  # fmt: skip
    graph = frame.root.graph
    for name in names:
        used = [v for v in graph.inputs if v.role != "state" and any(name in d.symbols for d in v.type.shape)]
        if used or name in graph.lets:
            where = f"`{used[0].name}: {used[0].type}`" if used else f"`let {name}`"
            raise Diagnostic(
                "E0311", f"the capacity `{name}` has the name of another size of the program, {where}", span,
                help=f"pass the size to the layer as a parameter, or give the capacity a name of its own, such as `{name}max`",
            )  # fmt: skip
        frame.env[name] = sym(name)


def _record(frame: Frame, s: ast.StateStmt, pattern: RecordPattern, name: str) -> Bundle:
    record = pattern.record
    declared = frame.unit.names[s.type.name]
    frame.elaborator.register(declared)
    given = _field_values(frame, s, record)
    statics: dict[str, Any] = {}
    defaults = dict(record.defaults)
    for field, kind in record.statics:
        if field in given:
            value = frame.eval(given[field])
            statics[field] = frame.elaborator.calls.static_value(kind, False, value, record.name, field, given[field].span)
        elif field in defaults:
            statics[field] = defaults[field]
        else:
            raise Diagnostic(
                "E0404", f"the state `{s.name}` needs a value for `{record.name}.{field}`", s.span,
                help=f"write `state {s.name}: {pattern} = {record.name}({field}=…)`",
            )  # fmt: skip
    dims = tuple(frame.type(Pattern("float", (d,)), s.type.span).shape[0] for d in pattern.dims)
    part = Part(RecordPattern(record, dims), tuple(statics.items()))
    fields: dict[str, Value] = {}
    for field, of in pattern.fields():
        init = initializer(frame, given[field], "state") if field in given else ZEROS
        made = frame.root.input(f"{name}.{field}", frame.type(of, s.type.span), "state", init, frame.place(s.span))
        made.record = part
        made.outside = scoped_outside(frame, made.name, s.external, field)
        fields[field] = made
    return Bundle(record, fields, statics)


def _field_values(frame: Frame, s: ast.StateStmt, record: RecordDef) -> dict[str, ast.Expr]:
    """What `= zeros` says of every field, or `= KVCache(k=zeros, v=zeros)` of each."""
    init = s.init
    names = [n for n, _ in (*record.fields, *record.statics)]
    if init is None:
        return {}
    if not (isinstance(init, ast.Call) and init.function == ast.Name(s.type.name)):
        return {n: init for n, _ in record.fields}
    given: dict[str, ast.Expr] = {}
    for arg in init.args:
        if arg.name not in names:
            shown = "a value without a name" if arg.name is None else f"no field `{arg.name}`"
            raise Diagnostic(
                "E0203", f"the record {record.name} has {shown}", arg.span,
                help=did_you_mean(arg.name or "", names) or f"its fields are {', '.join(names)}",
            )  # fmt: skip
        if arg.name in given:
            raise Diagnostic("E0406", f"the field `{arg.name}` is given twice", arg.span)
        given[arg.name] = arg.value
    return given


def _distribution(frame: Frame, expr: ast.Expr, dtype: DType) -> Initializer:
    """``normal(0, 1)`` as it is written. Raises E0405 where it draws nothing of that dtype."""
    name = expr.function if isinstance(expr, ast.Call) else expr
    known = name.id if isinstance(name, ast.Name) else "this"
    init = Initializer(known, _numbers(known, expr, frame.eval))
    parameters(init, dtype, expr.span)
    return init


def initializer(frame: Frame, expr: ast.Expr, what: str) -> Initializer:
    """``normal(0.02)`` as it is written. Raises E0405 for a name, or numbers, that fill no parameter and no state."""
    name = expr.function if isinstance(expr, ast.Call) else expr
    if not isinstance(name, ast.Name) or name.id not in INITIALISERS:
        shown = name.id if isinstance(name, ast.Name) else "this value"
        raise Diagnostic(
            "E0405", f"`{shown}` does not say how to fill a {what}", expr.span,
            help=did_you_mean(shown, INITIALISERS) or f"one of: {', '.join(INITIALISERS)}",
        )  # fmt: skip
    return initializer_of(name.id, expr, frame.eval, frame.elaborator.folder_of)


def initializer_of(name: str, expr: ast.Expr, static: Callable[[ast.Expr], Any], folder_of: FolderOf) -> Initializer:
    """The initialiser of that name, with what ``expr`` gives it without names.

    Raises:
        Diagnostic: E0405 for what does not fit it, E0005 for a file outside of the project.
    """
    known = INITIALISERS[name]
    if not known.texts:
        return Initializer(name, _fitting(known, name, _numbers(name, expr, static), expr))
    given = tuple(static(a.value) for a in expr.args if a.name is None) if isinstance(expr, ast.Call) else ()
    texts = _fitting(known, name, given, expr)
    folders = [folder_of(file, expr.span) for file in known.files(texts)]
    return Initializer(name, texts, folders[0])


def _fitting(known: Initialiser, name: str, values: tuple[Any, ...], expr: ast.Expr) -> tuple[Any, ...]:
    """The values. Raises E0405 where they do not fit an initialiser."""
    wrong = known.wrong(values)
    if wrong:
        raise Diagnostic("E0405", f"`{name}` {wrong}", expr.span)
    return values


def _numbers(name: str, expr: ast.Expr, static: Callable[[ast.Expr], Any]) -> tuple[float, ...]:
    """The arguments that have no name. Raises E0405 where one is no number."""
    args = [static(a.value) for a in expr.args if a.name is None] if isinstance(expr, ast.Call) else []
    odd = next((a for a in args if isinstance(a, bool) or not isinstance(a, (int, float))), None)
    if odd is not None:
        raise Diagnostic("E0405", f"`{name}` takes numbers, not {describe(odd)}", expr.span)
    return tuple(map(float, args))
