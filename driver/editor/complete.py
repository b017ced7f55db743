"""What could be written at a place: names in scope, the library's with the `use` line they need, options, dimensions, keywords."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args, get_origin

from ...frontends.source.elaborate.builtin import SPECIAL, STATIC_FUNCTIONS
from ...frontends.source.elaborate.library import Declared
from ...frontends.source.elaborate.signatures import STATIC_KINDS
from ...frontends.source.syntax import ast
from ...frontends.source.syntax.site import DECLARATIONS, STATEMENTS
from ...ir.notation import show_value
from ...ir.ops import OPS
from ...ir.types import DTYPES, KINDS, TensorType
from . import describe
from .actions import import_edit
from .document import NOTHING, Document
from .hover import open_call
from .names import Name
from .piece import Piece
from .text import Edit, Place
from .watch import Record, shown

_VALUES = ("true", "false", "none", "not")
_CLAUSES = {"weights": 'weights "model.safetensors"', "pass": "pass ", "target": "target "}
_KIND_OF = {"fn": "function", "op": "function", "layer": "function", "model": "function", "flow": "function"}


class Item(NamedTuple):
    """Something that could be written. ``kind`` is function, variable, type, keyword, property, module, value or constant."""

    label: str
    kind: str
    detail: str = ""
    insert: str = ""
    edits: tuple[Edit, ...] = ()
    # What :func:`doc` tells of: a text, a declaration, a core op by its name.
    of: Any = None


def doc(item: Item) -> str:
    """What is shown beside an item, worked out for those that are looked at."""
    if isinstance(item.of, Declared):
        return describe.of_declared(item.of)
    return (describe.of_builtin(item.label) or "") if item.of is OPS else (item.of or "")


class _Site:
    """The place of a completion: the words before it, in its piece."""

    def __init__(self, document: Document, place: Place) -> None:
        self.document = document
        self.place = place
        self.piece, self.first = document.piece_at(place)
        line = document.lines[place[0]][: place[1]]
        self.prefix = line[len(line.rstrip("_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")) :]
        self.start = place[1] - len(self.prefix)
        self.line = line[: self.start]
        self.at = self.piece.token_at(place[0] - self.first + 1, self.start + 1)

    def before(self, n: int = 1) -> str:
        """The text of the n-th token before the word at the place."""
        return self.piece.tokens.texts[self.at - n] if self.at >= n else ""

    def kind_before(self, n: int = 1) -> str:
        return self.piece.tokens.kinds[self.at - n] if self.at >= n else ""

    @property
    def quiet(self) -> bool:
        """Within a comment or a string."""
        row = self.place[0] - self.first + 1
        if any(c.line == row and c.column <= self.place[1] for c in self.piece.tokens.comments):
            return True
        return self.line.count('"') % 2 == 1

    def opened(self) -> list[int]:
        """The indices of the brackets that are open here, outermost first."""
        stack: list[int] = []
        for index, kind in enumerate(self.piece.tokens.kinds[: self.at]):
            if kind in ("LPAR", "LSQB", "LBRACE"):
                stack.append(index)
            elif kind in ("RPAR", "RSQB", "RBRACE") and stack:
                stack.pop()
        return stack

    def item(self) -> ast.Declaration | None:
        row = self.place[0] - self.first + 1
        return next((i for i in reversed(self.piece.items) if i.span is not None and i.span.line <= row), None)


def complete(document: Document, place: Place) -> list[Item]:
    """What could be written at a place, of which what stands there is the beginning."""
    site = _Site(document, place)
    if site.quiet:
        return []
    found = {item.label: item for item in reversed(list(_items(site)))}
    prefix = site.prefix.lower()
    return [item for item in reversed(found.values()) if item.label.lower().startswith(prefix)]


def _items(site: _Site) -> Iterator[Item]:
    opener = site.piece.tokens.texts[0]
    opened = site.opened()
    if opener == "use" and not (opened and site.before() == ")"):
        yield from _used(site, bool(opened))
        return
    if site.before() == ".":
        yield from _fields(site)
        return
    if opener == "compile" and opened:
        yield from _block(site, opened)
        return
    if not opened:
        if site.line.strip() == "":
            yield from (Item(word, "keyword") for word in DECLARATIONS)
        if site.before() in ("->", "]", ")", "?") or opener != "compile":
            yield from _types(site)
        if opener == "compile":
            yield from (
                Item(n, "function", "model") for n in (*site.document.unit.models, *site.document.unit.programs)
            )
        return
    if _in_head(site, opened):
        yield from _head(site, opened)
        return
    if site.line.strip() == "" and site.piece.tokens.kinds[opened[-1]] == "LBRACE":
        yield from (Item(word, "keyword") for word in (*STATEMENTS, "buffer"))
    yield from _arguments(site)
    if site.before() == ":" and site.kind_before(3) in ("PARAM", "BUFFER", "STATE", "RANDOM"):
        yield from _types(site)
    yield from _expression(site)


def _used(site: _Site, opened: bool) -> Iterator[Item]:
    if not opened:
        written = site.line.strip().removeprefix("use").strip()
        for module, text in describe.modules().items():
            if module.startswith(written):
                yield Item(
                    module[len(written) - len(written.rpartition(".")[2]) :] if written else module, "module", of=text
                )
        return
    path = "".join(site.piece.tokens.texts[1 : site.opened()[0]])
    if path in describe.modules():
        unit = site.document.elaborator.library.std(path)
        for name, declared in unit.names.items():
            if unit.local(name):
                yield _declared(name, declared)


def _declared(name: str, declared: Any, edits: tuple[Edit, ...] = ()) -> Item:
    node = declared.node
    kind = "type" if isinstance(node, ast.Record) else "constant" if isinstance(node, ast.Const) else "function"
    where = f"use {declared.unit.module}" if edits else ""
    return Item(name, kind, where or getattr(node, "kind", kind), edits=edits, of=declared)


def _fields(site: _Site) -> Iterator[Item]:
    """The fields of the record, or the properties of the tensor, before the dot."""
    value = _last_value(site, site.before(2))
    if isinstance(value, Record):
        yield from (Item(name, "property", shown(type)) for name, type in value.fields)
        yield from (Item(name, "property", f"= {show_value(static)}") for name, static in value.statics)
        return
    declared = _record_of(site, site.before(2))
    if declared is not None:
        yield from (Item(f.name, "property", describe.type_text(f.type)) for f in declared.fields)
    else:
        yield from (Item(name, "property", "of a tensor") for name in ("dtype", "shape", "rank"))


def _record_of(site: _Site, text: str) -> ast.Record | None:
    """The record that a parameter of this name is declared as, in a function of which no more is known."""
    item = site.item()
    params = item.params if isinstance(item, ast.Function) else []
    type = next((p.type.name for p in params if p.name == text), "")
    declared = site.document.unit.names.get(type)
    return declared.node if declared is not None and isinstance(declared.node, ast.Record) else None


def _last_value(site: _Site, text: str) -> Any:
    """The value that a name was bound to last before the place, as far as the text that parses tells."""
    at = (site.place[0] - site.first + 1, site.place[1] + 1)
    value: Any = NOTHING
    for occurrence in site.piece.occurrences:
        if occurrence.name.text == text and occurrence.span[1:3] < at:
            known = site.document.value(occurrence.span)
            value = value if known is NOTHING else known
    return value


def _block(site: _Site, opened: list[int]) -> Iterator[Item]:
    """Within a `compile` block: clauses, passes and targets, their options and values."""
    from ...backends.target import registry as targets
    from ...passes.engine import registry as passes

    texts = site.piece.tokens.texts
    inner = opened[-1]
    if texts[inner] == "(" and inner >= 2 and texts[inner - 2] in ("pass", "target"):
        options = describe.options(f"{texts[inner - 2]} {texts[inner - 1]}")
        if site.before() == "=":
            yield from _values(options.get(site.before(2)))
            return
        for option in options.values():
            yield Item(option.name, "property", option.kind, f"{option.name}=", of=option.doc)
    elif site.before() == "pass":
        for name, found in passes().items():
            yield Item(name, "function", found.contract, of=found.summary())
    elif site.before() == "target":
        yield from (Item(name, "function", "target") for name in targets())
    elif texts[inner] == "(" and len(opened) == 1:
        yield from _parameters(site, texts[1])
    elif site.line.strip() == "":
        yield from (Item(word, "keyword", insert=text) for word, text in _CLAUSES.items())


def _values(option: Any) -> Iterator[Item]:
    """The values that an option admits, where they can be counted; the default of any."""
    if option is None:
        return
    pending = [option.type]
    while pending:
        type = pending.pop()
        if type is bool:
            yield from (Item(word, "value") for word in ("true", "false"))
        elif get_origin(type) is Literal:
            yield from (Item(str(word), "value") for word in get_args(type))
        else:
            pending += get_args(type)
    if option.default is not None:
        yield Item(show_value(option.default).strip('"'), "value", "the default")


def _in_head(site: _Site, opened: list[int]) -> bool:
    """Whether the place lies in the parameters or results of a declaration."""
    kinds = site.piece.tokens.kinds
    return "LBRACE" not in [kinds[i] for i in opened] and kinds[0] in (
        "FN",
        "OP",
        "LAYER",
        "MODEL",
        "REWRITE",
        "RECORD",
        "KIND",
    )


def _head(site: _Site, opened: list[int]) -> Iterator[Item]:
    if site.piece.tokens.kinds[opened[-1]] == "LSQB":
        yield from _dims(site)
    elif site.before() in (":", "->"):
        yield from _types(site)
    elif site.before() == "=":
        yield from _expression(site)


def _dims(site: _Site) -> Iterator[Item]:
    """The dimensions and integers of the function that is being written."""
    seen = {o.name.text for o in site.piece.occurrences if o.name.space in ("dim", "own")}
    tokens = site.piece.tokens
    # What is being written may not parse yet: names in brackets are dimensions all the same.
    seen |= {
        tokens.texts[i] for i in range(1, site.at) if tokens.kinds[i] == "NAME" and tokens.texts[i - 1] in ("[", ",")
    }
    yield from (Item(name, "variable", "dimension") for name in sorted(seen))


def _types(site: _Site) -> Iterator[Item]:
    statics = "*" in site.piece.tokens.texts[: site.at]
    if statics:
        yield from (Item(name, "type", "static") for name in sorted(STATIC_KINDS))
    yield from (Item(name, "type", "dtype") for name in (*KINDS, *DTYPES))
    for name, declared in site.document.unit.names.items():
        if isinstance(declared.node, ast.Record):
            yield _declared(name, declared)
    for name, declared in describe.library().items():
        if isinstance(declared.node, ast.Record) and name not in site.document.unit.names:
            yield _declared(name, declared, (import_edit(site.document, declared.unit.module, name),))


def _arguments(site: _Site) -> Iterator[Item]:
    """The parameters of the call around the place, by name."""
    call = open_call(site.document, (site.place[0], site.start))
    if call is not None and site.before() in ("(", ","):
        yield from _parameters(site, call[0])


def _parameters(site: _Site, callee: str) -> Iterator[Item]:
    declared = site.document.unit.names.get(callee)
    node = declared.node if declared is not None else None
    if isinstance(node, ast.Function):
        for param in (*node.params, *node.statics):
            yield Item(param.name, "property", f"of {callee}", f"{param.name}=", of=declared)
    elif callee in OPS:
        for static in OPS[callee].signature.statics:
            yield Item(static.name, "property", f"{static.kind} of {callee}", insert=f"{static.name}=")


def _expression(site: _Site) -> Iterator[Item]:
    yield from _scope(site)
    unit = site.document.unit
    for name, declared in unit.names.items():
        if not isinstance(declared.node, ast.Rewrite | ast.Program | ast.Tokenizer):
            yield _declared(name, declared)
    yield from (Item(word, "keyword") for word in _VALUES)
    yield from (Item(name, "function", "core op", of=OPS) for name in OPS)
    yield from (Item(name, "function", "static") for name in (*STATIC_FUNCTIONS, *sorted(SPECIAL)))
    yield from (Item(name, "constant", "dtype") for name in DTYPES)
    if len(site.prefix) >= 1:
        for name, declared in describe.library().items():
            if name not in unit.names and name.lower().startswith(site.prefix.lower()):
                yield _declared(name, declared, (import_edit(site.document, declared.unit.module, name),))


def _scope(site: _Site) -> Iterator[Item]:
    """The names of the function at the place that are bound before it, with their types."""
    at = (site.place[0] - site.first + 1, site.start + 1)
    item = site.item()
    owner = getattr(item, "name", "")
    names: dict[str, Any] = {}
    for occurrence in site.piece.occurrences:
        name: Name = occurrence.name
        binds = occurrence.binds or name.space == "dim"
        if binds and name.space in ("own", "dim") and name.owner == owner and occurrence.span[1:3] < at:
            value = site.document.value(occurrence.span)
            names[name.text] = names.get(name.text, NOTHING) if value is NOTHING else value
    # What is being written may not parse yet: its assignments are names all the same.
    names |= {text: NOTHING for text in _assigned(site.piece, site.at) if text not in names}
    for text, value in names.items():
        known = "" if value is NOTHING else shown(value) if isinstance(value, (TensorType, Record)) else f"= {value}"
        yield Item(text, "variable", known)


def _assigned(piece: Piece, stop: int) -> Iterator[str]:
    tokens = piece.tokens
    for at in range(1, stop - 1):
        first = tokens.lines[at] != tokens.lines[at - 1]
        if first and tokens.kinds[at] == "NAME" and tokens.texts[at + 1] == "=":
            yield tokens.texts[at]
