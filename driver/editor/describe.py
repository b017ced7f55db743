"""What an editor shows of a declaration: its head as source, its documentation."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import cache
from typing import Any

from ...frontends.source.elaborate.builtin import STATIC_FUNCTIONS
from ...frontends.source.elaborate.library import Declared, shared
from ...frontends.source.format.fmt import format_file
from ...frontends.source.syntax import ast
from ...ir.dims.dim import Dim
from ...ir.notation import show_signature, show_value
from ...ir.ops import OPS
from ...ir.types import DTYPES, KINDS
from ...specs.catalog import names as spec_names

_SPECIAL = {
    "given": "given(x) -> bool\n\nWhether an optional input is passed; known when compiling.",
    "scan": "scan(f, x, ..., axis=0)\n\nThe associative scan with the function `f`.",
    "where": "where(condition, a, b)\n\n`a` where the condition holds, else `b`; a static condition chooses when compiling.",
}


def head(node: Any) -> str:
    """A declaration as source without its body and its documentation."""
    if isinstance(node, ast.Function):
        node = replace(node, body=[], doc=None)
    elif isinstance(node, ast.Pipeline):
        flow = node.members[-1]
        assert isinstance(flow, ast.Function)
        node = replace(node, members=[replace(flow, body=[])], doc=None)
    elif isinstance(node, ast.Program):
        node = replace(node, members=[], doc=None)
    elif isinstance(node, ast.Tokenizer):
        node = replace(node, stages=[], doc=None)
    elif isinstance(node, ast.Rewrite):
        return f"rewrite {node.contract} {node.name}"
    else:
        node = replace(node, doc=None)
    text = format_file(ast.File("", [], [bare(node)])).rstrip()
    return text.removesuffix("}").rstrip().removesuffix("{").rstrip() if not isinstance(node, ast.Record) else text


def expression(node: ast.Expr) -> str:
    """An expression as the formatter writes it."""
    return format_file(ast.File("", [], [ast.Const("_", bare(node))])).removeprefix("const _ = ").rstrip()


def type_text(type: ast.TypeExpr) -> str:
    """A type as the formatter writes it."""
    return head(ast.Function("fn", "f", [], [], [ast.Result(type)], [])).removeprefix("fn f() -> ")


def bare(node: Any) -> Any:
    """A tree without places, so that it is written as the formatter would write it anew."""
    if isinstance(node, (list, tuple)):
        return type(node)(bare(item) for item in node)
    if not isinstance(node, ast.Node):
        return node
    return replace(node, **{f: None if "span" in f else bare(getattr(node, f)) for f in node.__dataclass_fields__})


def markdown(code: str, *texts: str) -> str:
    """Source and prose, as an editor shows them."""
    return "\n\n".join([f"```tess\n{code}\n```", *(text for text in texts if text)])


def prose(text: str) -> str:
    """Documentation as markdown: `[B, T]` in it is no link."""
    parts = text.split("`")
    return "`".join(p if i % 2 else p.replace("[", "\\[").replace("]", "\\]") for i, p in enumerate(parts))


def of_declared(declared: Declared) -> str:
    """A declaration for a hover: head, module, documentation."""
    node = declared.node
    where = "" if declared.unit.module == "local" else f"*{declared.unit.module}*"
    return markdown(head(node), where, prose(getattr(node, "doc", None) or ""))


def of_builtin(name: str) -> str | None:
    """A name that exists everywhere, for a hover; None for another one."""
    if name in OPS:
        op = OPS[name]
        return markdown(show_signature(op.signature), f"*core op, {op.family}*", prose(op.doc))
    if name in _SPECIAL:
        code, text = _SPECIAL[name].split("\n\n")
        return markdown(code, text)
    if name in STATIC_FUNCTIONS:
        return markdown(f"{name}(…)", "A function of values that are known when compiling.")
    if name in DTYPES:
        return markdown(name, f"The dtype {DTYPES[name].long}.")
    return markdown(name, f"Any {name} dtype: one for a whole signature.") if name in KINDS else None


def of_pass(name: str) -> str | None:
    """A pass with its options, for a hover; None where there is none."""
    from ...passes.engine import registry
    from ...passes.options import options_of

    known = registry()
    found = known.get(name) or next((p for p in known.values() if name in p.aliases), None)
    if found is None:
        return None
    rows = [f"- `{o.name}: {o.kind} = {show_value(o.default)}` {prose(o.doc)}" for o in options_of(found).values()]
    return markdown(f"pass {found.name}", f"*{found.contract}*", prose(inspect.getdoc(found) or ""), "\n".join(rows))


def of_option(clause: str, name: str) -> str | None:
    """An option of a pass or a target, as in ``pass merge_tokens``, for a hover; None where there is none."""
    found = options(clause).get(name)
    return None if found is None else markdown(f"{found.name}: {found.kind} = {show_value(found.default)}", prose(found.doc))


def options(clause: str) -> dict[str, Any]:
    """The options of a pass or a target, by name; none for one that there is not."""
    from ...backends.target import registry as targets
    from ...ir.options import options_of
    from ...passes.engine import registry as passes

    kind, _, name = clause.partition(" ")
    if kind == "target":
        cls: Any = targets().get(name)
    else:
        cls = passes().get(name) or next((p for p in passes().values() if name in p.aliases), None)
    return options_of(cls) if cls is not None else {}


def algebra(dims: dict[str, Any]) -> str:
    """What the dimensions of a call are: those that a number or another name stands for."""
    rows = [f"`{name} = {value}`" for name, value in dims.items() if isinstance(value, Dim) and str(value) != name]
    return f"where {', '.join(rows)}" if rows else ""


@cache
def library() -> dict[str, Declared]:
    """Everything that modules of std declare, by name; of a name that two have, the first."""
    found: dict[str, Declared] = {}
    for spec in spec_names():
        if spec.startswith("std/"):
            unit = shared().std(spec.replace("/", "."))
            for name, declared in unit.names.items():
                if unit.local(name) and not isinstance(declared.node, ast.Rewrite):
                    found.setdefault(name, declared)
    return found


@cache
def modules() -> dict[str, str]:
    """The shipped modules and what each is about."""
    return {spec.replace("/", "."): shared().std(spec.replace("/", ".")).file.doc or "" for spec in spec_names()}
