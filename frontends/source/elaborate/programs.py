"""Elaborating a ``program``: models become its functions, `host` members its stages, flows its wiring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic, Note, Span, did_you_mean
from ....ir.dims.dim import Dim, sym
from ....ir.program import Flow, Port, Program, Stage
from ....ir.signature import Bindings, Pattern, RecordPattern
from ....ir.types import DTYPES, DType, TensorType
from ....ir.wiring import check, check_shared
from ..syntax import ast
from .gather import gather
from .library import Declared, Unit
from .measures import measures_of
from .pipelines import program_of
from .signatures import environment
from .vocabularies import vocabulary
from .wiring import Wiring

if TYPE_CHECKING:
    from .elaborate import Elaborator


def elaborate_program(
    elaborator: Elaborator, unit: Unit, node: ast.Program, params: dict[str, Any], spans: Mapping[str, Span | None]
) -> Program:
    """The program that a declaration of ``unit`` describes, with these static parameters.

    Raises:
        Diagnostic: whatever is wrong with it.
    """
    pipeline = node if isinstance(node, ast.Pipeline) else None
    called = pipeline is not None
    if pipeline is not None:
        node = program_of(unit, pipeline)
    _check_names(node)
    head = ast.Function("program", node.name, [], node.statics, [], [], name_span=node.name_span, span=node.span)
    signature = elaborator.signatures.function(unit, head)
    bound = elaborator.given_statics(unit, head, signature, params, spans)
    program = Program(node.name, {}, node.doc or "", path=unit.path)
    entries = [m for m in node.members if isinstance(m, ast.Entry)]
    if not entries and not called:
        raise Diagnostic(
            "E0521", f"the program `{node.name}` has no entry point", node.name_span,
            help="name one of the models as one: `entry prefill = decoder(layers=2)`",
        )  # fmt: skip
    for entry in entries:
        declared = _model(unit, entry)
        try:
            values = _arguments(elaborator, unit, entry, environment(bound))
            places = {a.name: a.value.span for a in entry.args if a.name}
            graph = elaborator.graph(declared, values, places, entry.name, entry.scope or "")
        except Diagnostic as error:
            error.notes.append(Note(f"in the entry point `{entry.name}` of `{node.name}`", entry.span))
            if error.code == "E0401" and error.span == _name_span(declared):
                # The options of the command line go to the program.
                call = f"{entry.model}(…, " if called else f"entry {entry.name} = {entry.model}("
                error.help = f"give it a default, or say it there: `{call}{_missing(declared, entry)}=…)`"
            raise
        program.functions[entry.name] = graph
        if isinstance(declared.node, ast.Function) and declared.node.doc:
            program.docs[entry.name] = declared.node.doc
    check_shared(program)
    elaborator.check_turned(program.functions)
    for host in node.members:
        if isinstance(host, ast.Host):
            program.stages[host.name] = _stage(elaborator, unit, host)
    flows = [m for m in node.members if isinstance(m, ast.Function)]
    # Flows may call flows that stand behind them: their interfaces are known before any body is read.
    for flow in flows:
        program.flows[flow.name] = _interface(elaborator, unit, flow, bound)
    for flow in flows:
        program.flows[flow.name] = Wiring(elaborator, unit, program, flow, called, environment(bound)).flow()
    check(program)
    if not entries:
        raise Diagnostic(
            "E0521", f"the pipeline `{node.name}` calls no model", node.name_span,
            help="a tokenizer alone runs by itself: `ts.open_tokenizer`",
        )  # fmt: skip
    if pipeline is not None:
        program.measures = measures_of(elaborator, unit, program, pipeline, environment(bound))
    program.locals, program.uses = gather(elaborator, list(program.functions.values()), unit, node.name)
    if program.plain:
        program.doc = program.doc or program.docs.pop(node.name, "")
    return program


def _name_span(declared: Declared) -> Span | None:
    return declared.node.name_span if isinstance(declared.node, ast.Function) else None


def _missing(declared: Declared, entry: ast.Entry) -> str:
    """The first static parameter that an entry point leaves out, and that has no default."""
    assert isinstance(declared.node, ast.Function)
    given = {arg.name for arg in entry.args}
    return next(p.name for p in declared.node.statics if p.default is None and p.name not in given)


def _check_names(node: ast.Program) -> None:
    seen: dict[str, ast.Entry | ast.Host | ast.Function] = {}
    for member in node.members:
        if seen.setdefault(member.name, member) is not member:
            raise Diagnostic(
                "E0204", f"`{member.name}` is a name of the program `{node.name}` twice", _place(member),
                notes=[Note("the first one is here", _place(seen[member.name]))],
                help="entry points, stages and flows each have a name of their own",
            )  # fmt: skip


def _place(member: ast.Entry | ast.Host | ast.Function) -> Span | None:
    return member.name_span if isinstance(member, ast.Function) else member.span


def _model(unit: Unit, entry: ast.Entry) -> Declared:
    """The model that an entry names. Raises E0201 when there is none."""
    declared = unit.find(entry.model)
    if declared is None or not isinstance(declared.node, ast.Function) or declared.node.kind != "model":
        models = [n for n, d in unit.names.items() if isinstance(d.node, ast.Function) and d.node.kind == "model"]
        raise Diagnostic(
            "E0201",
            f"`{entry.model}` is {'not defined' if declared is None else 'no model'}, and an entry point is a model",
            entry.span, help=did_you_mean(entry.model, models) or f"the models are {', '.join(models) or 'none'}",
        )  # fmt: skip
    return declared


def _arguments(elaborator: Elaborator, unit: Unit, entry: ast.Entry, env: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for arg in entry.args:
        if arg.name is None:
            raise Diagnostic(
                "E0405", "an entry point gives its model's static parameters by name", arg.span,
                help=f"write `entry {entry.name} = {entry.model}(name=value)`; tensors come when it is called",
            )  # fmt: skip
        if arg.name in values:
            raise Diagnostic("E0406", f"`{arg.name}` is given twice", arg.span)
        values[arg.name] = elaborator.static(unit, arg.value, env)
    return values


def _stage(elaborator: Elaborator, unit: Unit, host: ast.Host) -> Stage:
    head = ast.Function("host", host.name, host.params, [], host.results, [], span=host.span)
    signature = elaborator.signatures.function(unit, head)
    for what, item in [
        *((o.name, o.type) for o in signature.operands),
        *(("result", r.type) for r in signature.results),
    ]:
        if isinstance(item, RecordPattern):
            raise Diagnostic(
                "E0310", f"`{what}` of the host stage `{host.name}` must be a tensor, not a {item}", host.span,
                help="pass the tensors of the record one by one",
            )  # fmt: skip
    if any(o.optional for o in signature.operands) or any(r.condition for r in signature.results):
        raise Diagnostic(
            "E0405", f"the host stage `{host.name}` takes and gives all of its tensors", host.span,
            help="take out `?` and `if`: what a stage does without is another stage",
        )  # fmt: skip
    return Stage(host.name, "python", host.reference, signature, host.span)


def _interface(elaborator: Elaborator, unit: Unit, node: ast.Function, bound: Bindings) -> Flow:
    """A flow's inputs and outputs, with the program's static parameters in their types; its body is not read yet, so that
    outputs have no values."""
    signature = elaborator.signatures.function(unit, node)
    inputs = []
    for operand, param in zip(signature.operands, node.params, strict=True):
        if operand.optional or not isinstance(operand.type, Pattern):
            raise Diagnostic(
                "E0310", f"the input `{operand.name}` of a flow is a tensor that is always given", param.span
            )
        ids = vocabulary(elaborator, unit, param.type, bound)
        inputs.append(Port(operand.name, _type(elaborator, operand.type, param.span, bound), operand.name, ids, param.span))
    outputs = []
    for i, (result, written) in enumerate(zip(signature.results, node.results, strict=True)):
        name = result.name or ("output" if len(signature.results) == 1 else f"output{i}")
        if result.condition is not None or not isinstance(result.type, Pattern):
            raise Diagnostic("E0310", f"the result `{name}` of a flow is a tensor that is always there", written.span)
        outputs.append(Port(name, _type(elaborator, result.type, written.span, bound), "", span=written.span))
    names = [port.name for port in outputs]
    if len(set(names)) != len(names):
        raise Diagnostic("E0204", f"two results of the flow `{node.name}` have one name", node.name_span)
    return Flow(node.name, tuple(inputs), (), tuple(outputs), node.name_span)


def _type(elaborator: Elaborator, pattern: Pattern, span: Span | None, bound: Bindings) -> TensorType:
    if ... in pattern.shape:
        raise Diagnostic("E0310", "a flow's tensors need all their axes, not `...`", span)
    dtype = pattern.dtype
    if not isinstance(dtype, DType):
        if dtype not in ("float", "int"):
            raise Diagnostic("E0310", f"`{dtype}` is no dtype: a flow's tensors have one, such as f32 or i64", span)
        dtype = elaborator.dtype if dtype == "float" else DTYPES["i64"]
    dims = [d for d in pattern.shape if isinstance(d, Dim)]
    symbols = {name: bound.dims.get(name, sym(name)) for d in dims for name in d.symbols}
    return TensorType(dtype, tuple(d.subs(symbols) for d in dims))
