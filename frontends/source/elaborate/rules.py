"""``rewrite`` declarations as rules: the pattern becomes a tree, the replacement is elaborated at each match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ....ir.builder import Builder
from ....ir.diagnostics import Diagnostic, FollowUp, Span, several
from ....ir.graph import Parameter, Value
from ....ir.op import Composite
from ....ir.pattern import Match, Rule
from ....ir.signature import Bindings, RecordDef, RecordPattern, Signature
from ..syntax import ast
from .cycles import names_in
from .frame import Frame
from .library import Declared
from .mistaken import mentioned
from .rule_pattern import Named, PatternReader
from .rule_weights import free_scope, recipes_of_match, weights_read
from .signatures import environment
from .values import POISON, Bundle, Multi, describe

if TYPE_CHECKING:
    from .elaborate import Elaborator


def rule_of(elaborator: Elaborator, declared: Declared) -> Rule:
    """The rule of a ``rewrite`` declaration.

    Raises:
        Diagnostic: E0208 when the pattern calls what is no op, E0405 when it is no tree of calls, variables and numbers, or
            what else is wrong with it.
    """
    node = declared.node
    assert isinstance(node, ast.Rewrite)
    function = ast.Function("fn", node.name, node.params, node.statics, [], [], span=node.span)
    # Not `of`, which remembers signatures by the identity of a declaration; this one is made here.
    signature = elaborator.signatures.function(declared.unit, function)
    reader = PatternReader(elaborator, declared, signature)
    pattern = reader.read(node)
    optional = [o.name for o in signature.operands if o.optional]
    records = {o.name: o.type.record for o in signature.operands if isinstance(o.type, RecordPattern)}

    _check_replacement(elaborator, declared, signature, set(reader.named))

    def environment_of(match: Match) -> dict[str, Any]:
        bound = match.bindings or Bindings()
        env = {k: v for k, v in environment(bound).items() if not k.startswith("given ")}
        env = {**env, **dict.fromkeys(optional), **match.statics, **match.tensors}
        for name, record in records.items():
            if f"{name}.{record.fields[0][0]}" in match.tensors:
                statics = {field: match.statics[f"{name}.{field}"] for field, _ in record.statics}
                env[name] = _bundle(name, record, match, statics)
        for name, named in reader.named.items():
            if named.type is not None:
                env[name] = _bundle(name, named.type, match, _statics(elaborator, name, named, match))
        return env

    def replace(builder: Builder, match: Match) -> Sequence[Value]:
        dtypes = dict(match.bindings.dtypes) if match.bindings else {}
        before = set(builder.graph.params)
        scope = free_scope(node, match.scope, before)
        env = environment_of(match)
        frame = Frame(elaborator, declared.unit, env, builder=builder, scope=scope, dtypes=dtypes, kind="op")
        values = [value for expr in node.replacement for value in _tensors(frame.eval(expr), expr.span)]
        brought = {name: param for name, param in builder.graph.params.items() if name not in before}
        if brought or node.weights:
            match.recipes = recipes_of_match(elaborator, declared.unit, node, match, scope, brought, env)
        return values

    read = weights_read(node, signature)

    def where(match: Match) -> bool | str:
        for name in read:
            if not isinstance(match.tensors.get(name), Parameter):
                return f"`{name}` is no weight here, but the rule makes others of it"
        if node.condition is None:
            return True
        try:
            holds = elaborator.static(declared.unit, node.condition, environment_of(match))
        except Diagnostic as error:
            # What is not known, or cannot be computed of these sizes, does not hold.
            if error.code not in ("E0402", "E0407"):
                raise
            return error.message
        return True if holds is True else "the `where` condition does not hold"

    used = set(names_in(node.replacement))
    kept = tuple(_first(name, named) for name, named in reader.named.items() if name in used)
    return Rule(
        node.name,
        node.contract,
        pattern,
        replace,
        where if node.condition is not None or read else None,
        signature,
        node.doc or "",
        kept,
        node.span,
    )


def _check_replacement(elaborator: Elaborator, declared: Declared, signature: Signature, named: set[str]) -> None:
    """What a replacement and a condition mention must be there, whether or not the rule ever fires. Raises Diagnostic."""
    node = declared.node
    assert isinstance(node, ast.Rewrite)
    names = {p.name for p in (*node.params, *node.statics)} | named | set(_symbols(signature))
    frame = Frame(elaborator, declared.unit, dict.fromkeys(names, POISON))
    errors = []
    for name in mentioned([*node.replacement, node.condition]):
        try:
            frame.eval(name)
        except Diagnostic as error:
            errors.append(error)
    wrong = several(errors)
    if not isinstance(wrong, FollowUp):
        raise wrong


def _symbols(signature: Signature) -> Iterator[str]:
    for _, pattern, _ in signature.leaves():
        yield from (name for dim in pattern.shape if dim is not ... for name in dim.symbols)


def _first(name: str, named: Named) -> str:
    return name if named.type is None else f"{name}.{named.type.fields[0][0]}"


def _bundle(name: str, record: RecordDef, match: Match, statics: dict[str, Any]) -> Bundle:
    return Bundle(record, {field: match.tensors[f"{name}.{field}"] for field, _ in record.fields}, statics)


def _statics(elaborator: Elaborator, name: str, named: Named, match: Match) -> dict[str, Any]:
    """The static fields of a record that a matched call returned; only the body of its op knows them."""
    assert named.type is not None
    node = match.tensors[_first(name, named)].node
    if not named.type.statics or node is None or not isinstance(node.op, Composite):
        return {}
    return elaborator.record_statics(node.op, node)[named.record]


def _tensors(value: Any, span: Span | None) -> Iterator[Value]:
    """The tensors of a replacement, records flattened. Raises E0506 for what is none."""
    if isinstance(value, Value):
        yield value
    elif isinstance(value, Multi):
        for item in value.items:
            yield from _tensors(item, span)
    elif isinstance(value, Bundle):
        yield from value.fields.values()
    else:
        raise Diagnostic("E0506", f"the replacement must be a tensor, not {describe(value)}", span)
