"""What a body returns, checked against the results that its declaration promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic, several
from ....ir.dims.dim import Dim, as_dim
from ....ir.equalities import same_within
from ....ir.graph import Value
from ....ir.signature import Bindings, ListPattern, Pattern, RecordPattern, Signature
from ..syntax import ast
from .frame import Frame
from .library import Declared
from .partial import forgotten
from .values import Bundle, describe, is_tensor

if TYPE_CHECKING:
    from .elaborate import Elaborator


def check_results(
    elaborator: Elaborator, declared: Declared, signature: Signature, bound: Bindings, frame: Frame
) -> list[Any]:
    """The returned values, checked against the declared types.

    Raises:
        Diagnostic: what is wrong with the body; E0504 no return, E0309 count or type.
    """
    node = declared.node
    assert isinstance(node, ast.Function)
    if frame.lost_return:
        frame.complain()
    try:
        checked = _checked(elaborator, node, signature, bound, frame)
    except Diagnostic as error:
        raise several([*frame.errors, error]) from None
    frame.complain()
    return checked


def _checked(
    elaborator: Elaborator, node: ast.Function, signature: Signature, bound: Bindings, frame: Frame
) -> list[Any]:
    span = frame.return_span or node.name_span or node.span
    if frame.result is None:
        raise Diagnostic("E0504", f"`{node.name}` reaches its end without a `return`", node.name_span or node.span)
    returned = frame.result
    if len(returned) == len(signature.results) and any(r.condition for r in signature.results):
        kept = [(r.condition is None or r.condition(bound)) for r in signature.results]
        returned = [v for v, keep in zip(returned, kept, strict=True) if keep]
    results = signature.present(bound)
    if len(returned) != len(results):
        raise Diagnostic(
            "E0309", f"`{node.name}` declares {len(results)} result(s), but returns {len(returned)}", span
        )
    checked: list[Any] = []
    for i, (result, value) in enumerate(zip(results, returned, strict=True)):
        what = f"result {i}" if len(results) > 1 else "the result"
        if isinstance(result.type, RecordPattern):
            if not isinstance(value, Bundle) or value.record != result.type.record:
                raise Diagnostic(
                    "E0309", f"{what} of `{node.name}` must be a {result.type}, but is {describe(value)}", span
                )
            for name, pattern in result.type.fields():
                _check_result(elaborator, node, f"{what}'s field `{name}`", pattern, value.fields[name], bound, frame)
        elif isinstance(result.type, ListPattern):
            if not isinstance(value, tuple):
                raise Diagnostic("E0309", f"{what} of `{node.name}` must be a list, but is {describe(value)}", span)
        else:
            if not is_tensor(value):
                raise Diagnostic(
                    "E0309",
                    f"{what} of `{node.name}` must be a tensor {result.type}, but is {describe(value)}",
                    span, help=forgotten(value),
                )  # fmt: skip
            _check_result(elaborator, node, what, result.type, value, bound, frame)
        checked.append(_localised(frame, value))
    return checked


def _localised(frame: Frame, value: Any) -> Any:
    if isinstance(value, Bundle):
        return Bundle(value.record, {k: frame.local(v) for k, v in value.fields.items()}, value.statics)
    if isinstance(value, tuple):
        return tuple(_localised(frame, item) for item in value)
    return frame.local(value) if is_tensor(value) else value


def _check_result(
    elaborator: Elaborator, node: ast.Function, what: str, pattern: Pattern, value: Value, bound: Bindings, frame: Frame
) -> None:
    for called in {s for dim in pattern.shape if isinstance(dim, Dim) for s in dim.symbols} - bound.dims.keys():
        # What the body calls by that name: `let n = …`.
        size = frame.env.get(called)
        if isinstance(size, (int, Dim)) and not isinstance(size, bool):
            bound.dims[called] = as_dim(size)
    for position, dim in enumerate(pattern.shape):
        # A dimension that only the result has is what the body makes it.
        name = dim.symbol if isinstance(dim, Dim) else None
        if name and name not in bound.dims and ... not in pattern.shape and position < value.type.rank:
            bound.dims[name] = value.type.shape[position]
    if isinstance(pattern.dtype, str) and pattern.dtype not in bound.dtypes:
        bound.dtypes[pattern.dtype] = elaborator.dtype if pattern.dtype == "float" else value.type.dtype
    wanted = bound.type_of(pattern)
    graph = frame.root.graph
    if same_within(graph, wanted, value.type):
        return
    shown = str(wanted) if str(wanted) == str(pattern) else f"{pattern} = {wanted}"
    message = f"{what} of `{node.name}` is declared as {shown}, but is {value.type}"
    raise Diagnostic("E0309", message, frame.return_span)
