"""What is called like an op, and takes what none takes: ``scan`` a function, which becomes a body, ``stack`` a list of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic, Span
from ....ir.dims.dim import Dim
from ....ir.ops import OPS
from ....ir.types import TensorType
from .regions import Region
from .values import Bundle, Multi, describe, is_tensor, static_kind

if TYPE_CHECKING:
    from ....ir.graph import Value
    from .arguments import Argument
    from .calls import Calls
    from .frame import Frame


def _statics(name: str, arguments: list[Argument]) -> dict[str, Any]:
    """What is given by name. Raises E0406 for what is given twice."""
    found: dict[str, Any] = {}
    for given, value, where in arguments:
        if given in found:
            raise Diagnostic("E0406", f"`{given}` of `{name}` is given twice", where)
        if given is not None:
            found[given] = value
    return found


def scan(calls: Calls, frame: Frame, arguments: list[Argument], span: Span | None) -> Any:
    """The running results of a function: ``scan(combine, x, y, axis=1)``, from ``start=[a, b]`` if that is given.

    Raises E0302, E0305, E0404, E0405.
    """
    statics = _statics("scan", arguments)
    plain = [v for n, v, _ in arguments if n is None]
    for _, value, where in arguments:
        if isinstance(value, Bundle):
            fields = ", ".join(f"….{name}" for name in value.fields)
            raise Diagnostic(
                "E0405", f"`scan` takes tensors, not {describe(value)}, whose fields would lose an axis", where,
                help=f"scan its fields: `scan(f, {fields}, axis=1)`",
            )  # fmt: skip
    if not plain or static_kind(plain[0]) != "fn" or not all(map(is_tensor, plain[1:])) or set(statics) - {"start"} != {"axis"}:
        raise Diagnostic(
            "E0405", "`scan` takes a function, the tensors to scan, and an axis", span,
            help="write `scan(combine, x, y, axis=1)` with `fn combine(a: …, b: …, c: …, d: …) -> (…, …) { … }`",
        )  # fmt: skip
    function, tensors = plain[0], [frame.local(v) for v in plain[1:]]
    axis = statics["axis"]
    if isinstance(axis, Dim):
        raise Diagnostic("E0402", f"the axis of `scan` is known when compiling, not `{axis}`", span)
    if not tensors or isinstance(axis, bool) or not isinstance(axis, int):
        raise Diagnostic("E0405", "`scan` takes at least one tensor, and an integer axis", span)
    started = _started(frame, tensors, statics.get("start"), axis, span)
    before, tensors = tensors, started or tensors
    assert frame.builder is not None
    region = Region("scan", frame.builder, frame.region)
    sides = []
    for side in ("left", "right"):
        for i, value in enumerate(tensors):
            shape = list(value.type.shape)
            if not -len(shape) <= axis < len(shape):
                raise Diagnostic("E0305", f"axis {axis} does not exist in {value.type}", span)
            del shape[axis]
            sides.append(region.argument(f"{side}{i}", TensorType(value.type.dtype, tuple(shape))))
    inner = frame.nested(region)
    result = calls.apply(inner, function, [(None, v, span) for v in sides], span)
    results = result.items if isinstance(result, Multi) else (result,)
    if len(results) != len(tensors) or not all(map(is_tensor, results)):
        found = ", ".join(map(describe, results))
        raise Diagnostic(
            "E0404", f"the function of `scan` must return {len(tensors)} tensor(s), but returns {found}", span
        )
    for i, value in enumerate(results):
        region.graph.add_output(region.local(value), f"out{i}")
    attrs = {"axis": axis, "carried": len(tensors), "body": region.graph}
    outputs = frame.emit(OPS["scan"], [*tensors, *region.used()], attrs, span)
    if tensors is not before:
        outputs = [frame.emit(OPS["slice"], [y], {"axis": axis, "start": 1}, span)[0] for y in outputs]
    return outputs[0] if len(outputs) == 1 else Multi(tuple(outputs))


def _started(frame: Frame, tensors: list[Any], start: Any, axis: int, span: Span | None) -> list[Any]:
    """The tensors with what each starts from in front of it; an empty list where nothing is given."""
    if start is None:
        return []
    items = list(start) if isinstance(start, tuple) else [start]
    if len(items) != len(tensors) or not all(map(is_tensor, items)):
        raise Diagnostic(
            "E0405", f"`scan` starts from a tensor for each of its {len(tensors)}", span,
            help="write `scan(combine, x, y, axis=1, start=[a, b])`, without the axis",
        )  # fmt: skip
    rows = []
    for tensor, first in zip(tensors, map(frame.local, items), strict=True):
        shape = list(tensor.type.shape)
        if not -len(shape) <= axis < len(shape):
            raise Diagnostic("E0305", f"axis {axis} does not exist in {tensor.type}", span)
        del shape[axis]
        if first.type != TensorType(tensor.type.dtype, tuple(shape)):
            wanted = TensorType(tensor.type.dtype, tuple(shape))
            raise Diagnostic("E0302", f"`scan` of {tensor.type} along axis {axis} starts from {wanted}, not {first.type}", span)
        front = frame.emit(OPS["unsqueeze"], [first], {"axis": axis}, span)[0]
        rows.append(frame.emit(OPS["concat"], [front, tensor], {"axis": axis}, span)[0])
    return rows


def stack(frame: Frame, arguments: list[Argument], span: Span | None) -> Value:
    """``stack(a, b, axis=0)``, or of a list: tensors of one type side by side along a new axis. Raises E0302, E0305, E0405."""
    statics = _statics("stack", arguments)
    items = [v for n, v, _ in arguments if n is None]
    items = list(items[0]) if len(items) == 1 and isinstance(items[0], tuple) else items
    axis = statics.get("axis")
    if not items or not all(map(is_tensor, items)) or len(statics) != 1 or isinstance(axis, bool) or not isinstance(axis, int):
        raise Diagnostic(
            "E0405", "`stack` takes tensors, and the place of the new axis", span, help="write `stack(a, b, axis=0)`"
        )
    tensors = [frame.local(v) for v in items]
    first = tensors[0].type
    for i, tensor in enumerate(tensors):
        if tensor.type != first:
            raise Diagnostic("E0302", f"stack: tensor {i} is {tensor.type}, but the first is {first}", span)
    rows = [frame.emit(OPS["unsqueeze"], [v], {"axis": axis}, span)[0] for v in tensors]
    return frame.emit(OPS["concat"], rows, {"axis": axis}, span)[0]
