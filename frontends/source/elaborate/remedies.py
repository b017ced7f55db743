"""What to write instead of what people bring from Python and its frameworks: help for names, methods and operators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ....ir.diagnostics import Diagnostic
from ....ir.dims.dim import Dim
from ....ir.ops import OPS
from ....ir.types import DTYPES, DType
from ..syntax import ast
from ..syntax.parser import parse_expr
from .builtin import BUILTIN
from .cycles import names_in
from .elsewhere import EXPRESSIONS, FRAMEWORKS, SENTENCES
from .library import Unit, shared
from .mistaken import bound, rebound
from .values import BuiltinValue, DeclValue, KindValue, OpValue, is_tensor


def name_help(name: str) -> str | None:
    """Help for a name that is not defined: what other frameworks mean by it, or a habit of Python."""
    if name in ("self", "this"):
        return "there are no objects: a parameter is declared, `param w: float[D, D] = normal(0.02)`, and used as `w`"
    if name in FRAMEWORKS:
        return f"there is no `{name}` here: core ops are built in (`tessera ops`), the others come from std: `use std.nn (linear)`"
    return _elsewhere(name) or _elsewhere(name.rstrip("_")) if len(name) > 1 else None


def member_help(name: str) -> str | None:
    """Help for ``x.name``, ``x.name(…)`` and ``torch.name(…)``: the function, or what stands for it."""
    plain = name.rstrip("_")
    for candidate in (name, plain):
        if candidate in EXPRESSIONS or candidate in SENTENCES:
            return _elsewhere(candidate)
        if candidate in DTYPES or candidate in _KINDS:
            return f"here it is written `cast(x, {_KINDS.get(candidate, candidate)})`"
        if candidate in OPS or candidate in BUILTIN:
            return f"write it as a function: `{candidate}(x, …)`"
        module = shared().declaring(candidate)
        if module is not None:
            return f"write it as a function: `{candidate}(x, …)`, with `use {module} ({candidate})`"
    return None


def framework(expr: ast.Expr) -> str | None:
    """The dotted text of ``torch.nn.functional.gelu``, if an expression is such a path."""
    if isinstance(expr, ast.Name):
        return expr.id if expr.id in (*FRAMEWORKS, "self") else None
    head = framework(expr.value) if isinstance(expr, ast.Attribute) else None
    return f"{head}.{expr.name}" if head is not None and isinstance(expr, ast.Attribute) else None


def _elsewhere(name: str) -> str | None:
    if name in SENTENCES:
        return SENTENCES[name]
    if name not in EXPRESSIONS:
        return None
    text = EXPRESSIONS[name]
    uses = [f"`use {module} ({used})`" for module, used in uses_of(parse_expr(text))]
    return f"here it is written `{text}`" + (f", with {' and '.join(uses)}" if uses else "")


def uses_of(expr: Any) -> Iterator[tuple[str, str]]:
    """(module, name) of the library's functions that an expression mentions."""
    for name in dict.fromkeys(names_in(expr)):
        module = None if name in BUILTIN else shared().declaring(name)
        if module is not None:
            yield module, name


def bound_elsewhere(body: list[ast.Stmt], name: ast.Name) -> str | None:
    """Help for a name that a statement further below binds, or the body of a loop further up."""
    for s in body if name.span is not None else ():
        if s.span is None or name.span is None:
            continue
        if s.span.line > name.span.line and name.id in rebound(s):
            return f"it gets its value on line {s.span.line}, below: move that line up"
        inside = isinstance(s, (ast.FoldStmt, ast.CondStmt, ast.WhileStmt)) and name.id in bound(s)
        if inside and s.span.end_line < name.span.line:
            return f"only the body on line {s.span.line} binds it: carry it, `from (…, {name.id})`, with a value before"
    return None


def of_path(error: Diagnostic, e: ast.Attribute) -> Diagnostic:
    """A mistake in front of a point: ``torch.softmax`` is told as a whole."""
    path = framework(e)
    if path is None or error.code != "E0201":
        return error
    if path.startswith("self."):
        help = f"there are no objects: declare `param {e.name}: float[D, D] = normal(0.02)`, and write `{e.name}`"
    else:
        help = member_help(e.name) or "there is nothing of the kind; `tessera ops` and `tessera specs` list what there is"
    return Diagnostic("E0201", f"`{path}` is not defined", e.span, help=help)


def of_operator(error: Diagnostic, e: ast.Binary, left: Any, right: Any) -> Diagnostic:
    """A mistake of an operator, with the remedy for what was meant."""
    places = [x.span and x.span[:5] for x in (e, e.left, e.right)]
    if error.span is None or error.span[:5] not in places:
        return error
    dtypes = [v.type.dtype.kind if is_tensor(v) else "" for v in (left, right)]
    if error.code == "E0201" and e.op == "//" and isinstance(e.right, ast.Name):
        error.help = "a comment starts with `#`; `//` divides integers"
    elif error.code == "E0303" and "bool" in dtypes and e.op in ("+", "-", "*", "/", "**", "@"):
        error.help = _mask_help(e.op, left, right, dtypes)
    elif error.code == "E0303" and e.op in ("and", "or"):
        error.help = "compare first: `x > 0.0 and y > 0.0`; `and` and `or` join masks"
    elif error.code == "E0303" and e.op == "/" and "int" in dtypes:
        error.help = "integers are divided by `//`; for reals convert first: `cast(a, f32) / 2.0`"
    elif error.code == "E0402" and isinstance(left, Dim) and e.op == "/":
        error.help = f"sizes are divided by `//`: `{left} // {right}`; as a tensor a size is `full([], {left}, f32)`"
    elif error.code == "E0402" and isinstance(left, Dim) and e.op == "**":
        error.help = f"at run time compute it from a tensor: `full([], {left}, f32) ** {right}`"
    return error


def _mask_help(op: str, left: Any, right: Any, dtypes: list[str]) -> str:
    if dtypes == ["bool", "bool"]:
        return "masks are joined by `and` and `or`; to count, convert them: `cast(mask, i64)`"
    other = right if dtypes[0] == "bool" else left
    dtype = other.type.dtype if is_tensor(other) else "i64"
    choice = "write `where(mask, x, 0.0)`, or " if op == "*" else ""
    return f"{choice}convert the mask: `cast(mask, {dtype})`"


# Kinds of the language that are methods elsewhere, and the dtype that those give.
_KINDS = {"float": "f32", "int": "i32"}
# How a call is written that is written otherwise elsewhere.
_FORMS = {
    "transpose": "`transpose` takes the new order of all axes: `transpose(x, [0, 2, 1])`",
    "reshape": "`reshape` takes the new sizes as a list: `reshape(x, [B, T * D])`",
    "expand": "`expand` takes the new sizes as a list: `expand(x, [B, T, D])`",
    "max": "the larger of two is `maximum(x, y)`",
    "min": "the smaller of two is `minimum(x, y)`",
    "len": "the size of an axis is its dimension's name, or `x.shape[0]`",
    "int": "convert a tensor with `cast(x, i64)`",
    "real": "convert a tensor with `cast(x, f32)`",
    "range": "for a count that only run time knows write `fold i in n from (x) { … }`",
}
# Parameters as other frameworks call them.
_PARAMETERS = {
    "dim": "axis", "dims": "axis", "axes": "axis", "keepdim": "keepdims", "num_heads": "heads", "n_heads": "heads",
    "nhead": "heads", "out_features": "out", "out_channels": "out", "features": "out", "dim_out": "out",
    "units": "out", "kernel_size": "kernel", "hidden_dim": "hidden", "hidden_size": "hidden",
    "hidden_features": "hidden", "mlp_dim": "hidden", "epsilon": "eps", "perms": "perm", "num_embeddings": "vocab",
    "embedding_dim": "dim", "activation": "act", "num_groups": "groups", "min": "low", "max": "high",
    "num_classes": "classes", "shifts": "shift", "input": "x", "other": "b", "size": "shape", "use_bias": "bias",
    "patch_size": "patch",
}  # fmt: skip


def of_call(error: Diagnostic, e: ast.Call, unit: Unit, callee: Any) -> Diagnostic:
    """A mistake in how something is called, with the remedy for what was meant."""
    name = e.function.id if isinstance(e.function, ast.Name) else ""
    arg = next((a for a in e.args if error.span and a.value.span and a.value.span[:5] == error.span[:5]), None)
    if error.notes or error.span is None or (arg is None and error.span[:5] != (e.span or error.span)[:5]):
        return error
    if error.code == "E0403" and arg is not None and arg.name is not None:
        _rename(error, arg.name, callee)
    elif error.code in ("E0404", "E0505", "E0402") and error.help is None and name in _FORMS:
        error.help = _FORMS[name]
    elif error.code == "E0305" and name in ("max", "min") and len(e.args) > 1 and e.args[1].name is None:
        error.help = f"{_FORMS[name]}; {error.help}"
    elif error.code == "E0402" and arg is not None and isinstance(arg.value, ast.Str) and arg.value.value in DTYPES:
        error.help = f"a dtype is a name, without quotes: `{arg.value.value}`"
    elif error.code == "E0402" and arg is not None and arg.name is None and error.help is None:
        error.help = "give static parameters by name; the sizes of tensors are known and not given"
    elif error.code == "E0208" and isinstance(callee, (DType, KindValue)):
        error.help = f"a tensor is converted by `cast(x, {callee})`"
    elif error.code == "E0208" and name and (name in BUILTIN or unit.names.get(name) is not None):
        error.help = f"`{name}` is bound to a value here, which hides the function of that name: choose another for the value"
    return error


def _rename(error: Diagnostic, name: str, callee: Any) -> None:
    ours = _PARAMETERS.get(name)
    if ours is not None and ours in _parameters(callee):
        error.help = f"it is called `{ours}` here"
    elif name in ("in_features", "in_channels", "input_dim", "embed_dim", "d_model", "num_features", "normalized_shape"):
        error.help = "leave it out: the size of the input is known"


def _parameters(callee: Any) -> set[str]:
    """The names of what a core op or a function of a file takes."""
    op = callee.op if isinstance(callee, OpValue) else OPS.get(callee.name) if isinstance(callee, BuiltinValue) else None
    if op is not None:
        signature = op.signature
        return {o.name for o in signature.operands} | {s.name for s in signature.statics}
    node = callee.declared.node if isinstance(callee, DeclValue) else None
    return {p.name for p in (*node.params, *node.statics)} if isinstance(node, ast.Function) else set()
