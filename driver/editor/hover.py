"""What is shown of the thing under the cursor, and of the call around it."""

from __future__ import annotations

from typing import NamedTuple

from ...frontends.source.syntax import ast
from ...ir.diagnostics import Span
from . import describe
from .document import NOTHING, Document, Found
from .names import walk
from .piece import Piece
from .text import Place, Range, range_of
from .watch import shown


class Hover(NamedTuple):
    range: Range
    text: str


class SignatureHelp(NamedTuple):
    """The signature of a call that is being written. ``active`` is the index of a parameter, or None behind the last."""

    label: str
    doc: str
    parameters: list[str]
    active: int | None


def hover(document: Document, place: Place) -> Hover | None:
    """The type of what is under the cursor, what it is called by, and its documentation."""
    found = document.name_at(place)
    if found is not None:
        text = _name(document, found)
        return Hover(found.range, text) if text else None
    piece, first = document.piece_at(place)
    span = _smallest(document, piece, (place[0] - first + 1, place[1] + 1))
    if span is None:
        return None
    return Hover(range_of(span, first), describe.markdown(shown(document.value(span)), _algebra(document, span)))


def _name(document: Document, found: Found) -> str | None:
    name, span = found.occurrence.name, found.occurrence.span
    if name.space == "pass":
        return describe.of_pass(name.text)
    if name.space in ("option", "arg"):
        known = describe.of_option(name.owner, name.text) if name.space == "option" else _parameter(document, found)
        return known or None
    if name.space == "module":
        doc = describe.modules().get(name.text)
        return None if doc is None else describe.markdown(f"use {name.text}", describe.prose(doc))
    if name.space == "field":
        fields = (n for n in walk(found.piece.items) if isinstance(n, ast.Attribute) and n.span is not None)
        whole = next((n.span for n in fields if n.span and n.span[3:5] == span[3:5]), span)
        value = document.value(whole)
        target = document.target(found)
        return describe.markdown(f"{target.text}: {shown(value)}", target.owner) if value is not NOTHING else None
    declared = document.declared(found)
    value = _value(document, found)
    if declared is not None and (name.space != "dim" or isinstance(declared.node, ast.Const)):
        call = _call_of(found.piece, span)
        result = _typed(document, call) if call is not None else ""
        known = f"= {shown(value)}" if isinstance(declared.node, ast.Const) and value is not NOTHING else ""
        return "\n\n".join(text for text in (describe.of_declared(declared), known, result) if text)
    if value is not NOTHING and name.space in ("own", "dim"):
        role = _role(document, found)
        last = document.value(span, last=True)
        more = f"In the last step: `{shown(last)}`" if last not in (value, NOTHING) else ""
        return describe.markdown(f"{name.text}: {shown(value)}", role, more)
    if name.space in ("own", "dim"):
        return describe.markdown(name.text, _role(document, found))
    builtin = describe.of_builtin(name.text) if name.space == "free" else None
    call = _call_of(found.piece, span)
    return "\n\n".join(filter(None, [builtin, _typed(document, call) if call is not None else ""])) or None


def _value(document: Document, found: Found) -> object:
    """The value of a name: at this place, or else where it was bound last before it; of a parameter, where it is read first."""
    value = document.value(found.occurrence.span)
    if value is not NOTHING:
        return value
    name, at = found.occurrence.name, found.occurrence.span[1:3]
    for other in reversed(found.piece.occurrences):
        if other.name == name and other.span[1:3] <= at:
            value = document.value(other.span)
            if value is not NOTHING:
                return value
    read = (document.value(o.span) for o in found.piece.occurrences if o.name == name and not o.binds)
    return next((value for value in read if value is not NOTHING), NOTHING)


def _role(document: Document, found: Found) -> str:
    """What kind of name it is, with the declaration where it has one."""
    name = found.occurrence.name
    item = next((i for i in found.piece.items if not isinstance(i, ast.Compile) and i.name == name.owner), None)
    if isinstance(item, (ast.Function, ast.Rewrite)):
        for param in (*item.params, *item.statics):
            if param.name == name.text:
                kind = "input" if param in item.params else "static parameter"
                return f"*{kind} of `{item.name}`:* `{_param(param)}`"
    for statement in walk(item) if item is not None else ():
        if (
            isinstance(statement, (ast.ParamStmt, ast.StateStmt, ast.RandomStmt, ast.LetStmt))
            and statement.name == name.text
        ):
            word = statement.kind if isinstance(statement, ast.ParamStmt) else type(statement).__name__[:-4].lower()
            return f"*{word} of `{name.owner}`*"
    dims = name.space == "dim" or not any(o.binds and o.name == name for o in found.piece.occurrences)
    return f"*dimension of `{name.owner}`*" if dims else ""


def _param(param: ast.Param) -> str:
    default = "" if param.default is None else f" = {describe.expression(param.default)}"
    return f"{param.name}: {describe.type_text(param.type)}{default}"


def _parameter(document: Document, found: Found) -> str | None:
    declared = document.declared(found)
    node = declared.node if declared is not None else None
    if not isinstance(node, ast.Function):
        return describe.of_builtin(found.occurrence.name.owner)
    param = next((p for p in (*node.params, *node.statics) if p.name == found.occurrence.name.text), None)
    if param is None:
        return None
    return describe.markdown(_param(param), f"*parameter of `{node.name}`*", describe.prose(node.doc or ""))


def _typed(document: Document, call: Span) -> str:
    """The type that a call comes to, and what its dimensions are."""
    value = document.value(call)
    text = f"here `{shown(value)}`" if value is not NOTHING else ""
    return " ".join(filter(None, [text, _algebra(document, call)]))


def _algebra(document: Document, span: Span) -> str:
    return describe.algebra(document.bindings(span))


def _spans(piece: Piece) -> list[Span]:
    return [node.span for node in walk(piece.items) if isinstance(node, ast.Node) and node.span is not None]


def _call_of(piece: Piece, span: Span) -> Span | None:
    """The call whose function is the name at a place."""
    for node in walk(piece.items):
        if isinstance(node, ast.Call) and node.function.span is not None and node.function.span[1:3] == span[1:3]:
            return node.span
        if isinstance(node, ast.Pipe) and isinstance(node.right, (ast.Name, ast.Call)):
            function = node.right.function if isinstance(node.right, ast.Call) else node.right
            if function.span is not None and function.span[1:3] == span[1:3]:
                return node.span
    return None


def _smallest(document: Document, piece: Piece, at: tuple[int, int]) -> Span | None:
    """The smallest expression around a place whose value is known."""
    around = [s for s in _spans(piece) if s[1:3] <= at <= s[3:5] and document.value(s) is not NOTHING]
    return min(around, key=lambda s: (s.end_line - s.line, s.end_column - s.column), default=None)


def signature_help(document: Document, place: Place) -> SignatureHelp | None:
    """The signature of the innermost call that is open at the place."""
    call = open_call(document, place)
    if call is None:
        return None
    name, given, keyword = call
    declared = document.unit.names.get(name)
    node = declared.node if declared is not None else None
    if isinstance(node, ast.Function):
        label, doc = describe.head(node), node.doc or ""
        named = [p.name for p in (*node.params, *node.statics)]
    elif name in describe.OPS:
        op = describe.OPS[name]
        label, doc = describe.show_signature(op.signature), op.doc
        named = [*(o.name for o in op.signature.operands), *(s.name for s in op.signature.statics)]
    else:
        return None
    active = named.index(keyword) if keyword in named else given
    return SignatureHelp(label, describe.prose(doc), named, active if active < len(named) else None)


def open_call(document: Document, place: Place) -> tuple[str, int, str] | None:
    """The innermost call around a place: what is called, how many arguments stand before, the keyword of this one or nothing."""
    piece, first = document.piece_at(place)
    tokens = piece.tokens
    stop = piece.token_at(place[0] - first + 1, place[1] + 1)
    stack: list[list[int]] = []
    for at in range(stop):
        kind = tokens.kinds[at]
        if kind in ("LPAR", "LSQB", "LBRACE"):
            stack.append([at, 0, at])
        elif kind in ("RPAR", "RSQB", "RBRACE") and stack:
            stack.pop()
        elif kind == "COMMA" and stack:
            stack[-1][1] += 1
            stack[-1][2] = at
    while stack:
        opened, given, last = stack.pop()
        callee = opened - 1
        if tokens.kinds[opened] == "LBRACE":
            return None
        if tokens.kinds[opened] == "LPAR" and callee >= 0 and tokens.kinds[callee] == "NAME":
            declaring = callee >= 1 and tokens.kinds[callee - 1] in ("FN", "OP", "LAYER", "MODEL", "USE", "RECORD")
            keyed = last + 2 < len(tokens.kinds) and tokens.texts[last + 2] == "="
            return None if declaring else (tokens.texts[callee], given, tokens.texts[last + 1] if keyed else "")
    return None
