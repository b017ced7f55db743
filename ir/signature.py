"""Typed signatures: how an op's operands bind dimension names, dtype variables and static parameters.

Core ops write theirs in the language's own notation (:mod:`.notation`); composites get theirs from their declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any

from .diagnostics import Diagnostic, Note, Span
from .dims.dim import Dim, as_dim, sym
from .dims.solve import solve
from .types import KINDS, TEXT, DType, TensorType

REQUIRED: Any = type("Required", (), {"__repr__": lambda self: "REQUIRED"})()

# Between texts and numbers.
_TEXTS = "a tokenizer makes ids of texts, `found = words(text)`, `found.ids`, and texts of ids, `words.decode(ids)`"


@dataclass(frozen=True, slots=True)
class Pattern:
    """``float[B, ..., T - r]``: ``dtype`` is concrete or a variable's kind; ``shape`` may hold one ``...``, a pack of axes."""

    dtype: DType | str
    shape: tuple[Dim | EllipsisType, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join('...' if d is ... else str(d) for d in self.shape)}]"


@dataclass(frozen=True, slots=True)
class RecordDef:
    """A record's declaration: dimension parameters, tensor fields, static fields (name -> static kind), and what those of
    them are that may be left out."""

    name: str
    module: str
    dims: tuple[str, ...]
    fields: tuple[tuple[str, Pattern], ...]
    statics: tuple[tuple[str, str], ...] = ()
    defaults: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class RecordPattern:
    """``TokenMap[B, N, T - r]`` in a signature; the IR sees its fields, one after another."""

    record: RecordDef
    dims: tuple[Dim, ...]

    def fields(self) -> list[tuple[str, Pattern]]:
        """Name and type of each tensor field, with the dimensions given here."""
        values = dict(zip(self.record.dims, self.dims, strict=True))
        return [
            (name, Pattern(p.dtype, tuple(d if d is ... else d.subs(values) for d in p.shape)))
            for name, p in self.record.fields
        ]

    def __str__(self) -> str:
        return f"{self.record.name}[{', '.join(map(str, self.dims))}]"


class ListPattern(Pattern):
    """The result ``list`` of a function that is inlined: tensors that are counted while compiling. It has no shape."""

    def __str__(self) -> str:
        return "list"


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor (or record) parameter. A ``variadic`` one takes all remaining tensors and comes last."""

    name: str
    type: Pattern | RecordPattern
    optional: bool = False
    variadic: bool = False

    def leaves(self) -> list[tuple[str, Pattern]]:
        """The tensors it stands for: itself, or a record's fields as ``map.size``."""
        if isinstance(self.type, Pattern):
            return [(self.name, self.type)]
        return [(f"{self.name}.{field_name}", pattern) for field_name, pattern in self.type.fields()]


@dataclass(frozen=True, slots=True)
class Static:
    """A static parameter. ``kind``: int real bool str list fn dtype any. ``default`` is a value, a callable of the
    :class:`Bindings` (``scale: real = K ** -0.5``), or ``REQUIRED``."""

    name: str
    kind: str
    default: Any = REQUIRED
    optional: bool = False

    def accepts(self, value: Any) -> bool:
        """Whether the value is of the parameter's kind. Where ``none`` is the default, ``none`` may be written."""
        if value is None:
            return self.optional or self.default is None or self.kind == "any"
        if isinstance(value, bool):
            return self.kind in ("bool", "any")
        expected = _STATIC_TYPES.get(self.kind)
        return expected is None or isinstance(value, expected)


@dataclass(frozen=True, slots=True)
class Result:
    """A result; present only when ``condition`` (of the bindings) holds."""

    type: Pattern | RecordPattern
    name: str | None = None
    condition: Callable[[Bindings], bool] | None = None


@dataclass(slots=True)
class Bindings:
    """What a call fixed: dimensions, dtype variables, the pack ``...``, static values; ``origin`` says where a name was bound."""

    dims: dict[str, Dim] = field(default_factory=dict)
    dtypes: dict[str, DType] = field(default_factory=dict)
    pack: tuple[Dim, ...] | None = None
    statics: dict[str, Any] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    origin: dict[str, tuple[str, Span | None]] = field(default_factory=dict)

    def unknown_in(self, pattern: Pattern) -> str | None:
        """The first name in a pattern that is not bound; None when its type is known."""
        if not isinstance(pattern.dtype, DType) and pattern.dtype not in self.dtypes:
            return pattern.dtype
        for dim in pattern.shape:
            if dim is ...:
                if self.pack is None:
                    return "..."
                continue
            unbound = sorted(dim.symbols - self.dims.keys())
            if unbound:
                return unbound[0]
        return None

    def type_of(self, pattern: Pattern) -> TensorType:
        """The concrete type of a pattern. Raises KeyError for an unbound dtype variable."""
        shape: list[Dim] = []
        for dim in pattern.shape:
            if dim is ...:
                shape += self.pack or ()
            else:
                shape.append(dim.subs(self.dims))
        dtype = pattern.dtype if isinstance(pattern.dtype, DType) else self.dtypes[pattern.dtype]
        return TensorType(dtype, tuple(shape))


# `fn` and `any` are left out: a function reference is the frontend's, and `any` takes all.
_STATIC_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int, Dim),
    "real": (int, float, Dim),
    "bool": (bool,),
    "str": (str,),
    "list": (tuple, list),
    "dtype": (DType,),
}


# An axis that is checked once all names are bound: (operand, axis, what the signature says, what it is, where).
_Late = tuple[str, int, Dim, Dim, Span | None]


@dataclass(frozen=True, slots=True)
class Signature:
    """``name(operands, *, statics) -> results``; ``derived`` are symbols that follow from the others, ``ceil(keep * T)``."""

    name: str
    operands: tuple[Operand, ...]
    statics: tuple[Static, ...]
    results: tuple[Result, ...]
    derived: tuple[tuple[str, Callable[[Bindings], Dim]], ...] = ()

    def static(self, name: str) -> Static | None:
        """The static parameter of that name."""
        return next((s for s in self.statics if s.name == name), None)

    def leaves(self, count: int | None = None) -> list[tuple[str, Pattern, bool]]:
        """One (name, pattern, optional) for each tensor input; ``count`` expands a variadic operand."""
        rows = [(n, p, o.optional) for o in self.operands for n, p in o.leaves()]
        if count is not None and self.operands and self.operands[-1].variadic:
            name, pattern, _ = rows.pop()
            rows += [(f"{name}[{i}]", pattern, False) for i in range(count - len(rows))]
        return rows

    def result_types(self, bindings: Bindings, span: Span | None = None) -> list[TensorType]:
        """Types of the results that are present, records flattened. Raises E0310 for one that nothing determines."""
        patterns: list[Pattern] = []
        for result in self.present(bindings):
            patterns += [result.type] if isinstance(result.type, Pattern) else [p for _, p in result.type.fields()]
        for pattern in patterns:
            unknown = bindings.unknown_in(pattern)
            if unknown is not None:
                raise Diagnostic(
                    "E0310", f"nothing says what `{unknown}` is in the result {pattern} of `{self.name}`", span,
                    help="the types of an `op`'s results follow from the operands that are passed and from static `int`s",
                )  # fmt: skip
        return [bindings.type_of(pattern) for pattern in patterns]

    def present(self, bindings: Bindings) -> list[Result]:
        """The results whose condition holds."""
        return [r for r in self.results if r.condition is None or r.condition(bindings)]

    def unify(
        self,
        types: Sequence[TensorType | None],
        attrs: dict[str, Any],
        *,
        span: Span | None = None,
        spans: Sequence[Span | None] | None = None,
        packs: str = "same",
    ) -> Bindings:
        """Bind every name of the signature to the given operand types (None: an optional one not passed) and attributes.

        Defaults of missing static parameters are evaluated, and written into ``attrs``.
        ``packs`` says how occurrences of ``...`` relate: ``same``, ``broadcast`` together, or ``free``; ``mixed`` also lets
        each operand have a dtype of its own.

        Raises:
            Diagnostic: E0301 rank, E0302 dimension, E0303 dtype, E0304 broadcast, E0401 missing, E0402 kind of a static,
                E0403 unknown static, E0404 count.
        """
        bound = Bindings()
        leaves = self.leaves(len(types))
        if len(types) != len(leaves):
            raise Diagnostic("E0404", f"`{self.name}` takes {len(leaves)} tensor(s), but {len(types)} were given", span)
        known = {s.name for s in self.statics}
        for name in attrs:
            if name not in known:
                raise Diagnostic("E0403", f"`{self.name}` has no static parameter `{name}`", span)
        for static in self.statics:
            if static.name in attrs and not static.accepts(attrs[static.name]):
                shown = "none" if attrs[static.name] is None else attrs[static.name]
                message = f"`{static.name}` of `{self.name}` must be of kind `{static.kind}`, but is {shown!s}"
                raise Diagnostic("E0402", message, span)
        for name, value in attrs.items():
            bound.statics[name] = value
            if isinstance(value, (int, Dim)) and not isinstance(value, bool):
                bound.dims[name] = as_dim(value)
                bound.origin[name] = (f"the parameter `{name}`", span)
        bound.given = frozenset(n.split(".")[0] for (n, _, _), t in zip(leaves, types, strict=True) if t is not None)
        late: list[_Late] = []
        for index, ((name, pattern, optional), actual) in enumerate(zip(leaves, types, strict=True)):
            where = spans[index] if spans is not None and index < len(spans) and spans[index] is not None else span
            if actual is None:
                if not optional:
                    raise Diagnostic("E0404", f"`{self.name}` needs a tensor for `{name}`", where)
                continue
            if packs != "mixed":
                self._bind_dtype(bound, name, pattern, actual, where)
            self._bind_shape(bound, name, pattern, actual, where, late, packs)
        for static in self.statics:
            if static.name in attrs:
                continue
            operand, dot, _ = static.name.partition(".")
            if dot and operand not in bound.given:
                # What is static about a record that was not passed.
                bound.statics[static.name] = attrs[static.name] = None
                continue
            if static.default is REQUIRED:
                message = f"`{self.name}` needs the static parameter `{static.name}: {static.kind}`"
                raise Diagnostic("E0401", message, span, help=f"write `{self.name}(…, {static.name}=…)`")
            value = self._default(static, bound, span)
            bound.statics[static.name] = attrs[static.name] = value
            if isinstance(value, (int, Dim)) and not isinstance(value, bool):
                bound.dims.setdefault(static.name, as_dim(value))
        for name, derive in self.derived:
            bound.dims[name] = derive(bound)
        for name, axis, wanted, found, where in late:
            self._check_dim(bound, name, axis, wanted, found, where)
        return bound

    def _default(self, static: Static, bound: Bindings, span: Span | None) -> Any:
        if not callable(static.default):
            return static.default
        try:
            return static.default(bound)
        except Diagnostic as error:
            error.notes.append(Note(f"`{static.name}` of `{self.name}` takes its default here; give it a value", span))
            raise

    def _bind_dtype(self, bound: Bindings, name: str, pattern: Pattern, actual: TensorType, where: Span | None) -> None:
        wanted = pattern.dtype
        if isinstance(wanted, DType):
            if wanted is actual.dtype or wanted == actual.dtype:
                return
            raise Diagnostic(
                "E0303",
                f"`{name}` of `{self.name}` must be {wanted}, but has type {actual}",
                where,
                help=_TEXTS if TEXT in (wanted, actual.dtype) else f"convert it: `cast(…, {wanted})`",
            )
        if actual.dtype.kind not in KINDS[wanted]:
            raise Diagnostic(
                "E0303",
                f"`{name}` of `{self.name}` must be of kind `{wanted}`, but has type {actual}",
                where,
                help=_TEXTS if actual.dtype == TEXT
                else f"convert it first with `cast(…, {'f32' if wanted == 'float' else 'i64'})`",
            )
        first = bound.dtypes.setdefault(wanted, actual.dtype)
        if first != actual.dtype:
            origin = bound.origin.get(f"dtype {wanted}")
            raise Diagnostic(
                "E0303",
                f"`{name}` of `{self.name}` has dtype {actual.dtype}, but `{wanted}` is {first} here",
                where,
                notes=[Note(f"`{wanted}` was bound to {first} by {origin[0]}", origin[1])] if origin else [],
                help=f"convert one of them with `cast(…, {first})`",
            )
        bound.origin.setdefault(f"dtype {wanted}", (f"`{name}`", where))

    def _bind_shape(
        self, bound: Bindings, name: str, pattern: Pattern, actual: TensorType, where: Span | None,
        late: list[_Late], packs: str,
    ) -> None:  # fmt: skip
        shape = pattern.shape
        has_pack = ... in shape
        fixed = len(shape) - has_pack
        if actual.rank < fixed or (actual.rank > fixed and not has_pack):
            least = "at least " if has_pack else ""
            raise Diagnostic(
                "E0301",
                f"`{name}` of `{self.name}` must have {least}{fixed} axes, `{pattern}`, but has {actual.rank}: {actual}",
                where,
            )
        position = 0
        for dim in shape:
            if dim is ...:
                pack = actual.shape[position : position + actual.rank - fixed]
                position += len(pack)
                self._bind_pack(bound, name, pack, actual, where, packs)
                continue
            found = actual.shape[position]
            symbol = dim.symbol
            if symbol is not None and symbol not in bound.dims:
                bound.dims[symbol] = found
                bound.origin[symbol] = (f"axis {position} of `{name}`, {actual}", where)
            elif symbol is not None:
                self._check_dim(bound, name, position, dim, found, where)
            else:
                late.append((name, position, dim, found, where))
            position += 1

    def _bind_pack(
        self, bound: Bindings, name: str, pack: tuple[Dim, ...], actual: TensorType, where: Span | None, packs: str
    ) -> None:
        if bound.pack is None:
            bound.pack = pack
            bound.origin["..."] = (f"`{name}`, {actual}", where)
        elif packs == "broadcast":
            merged = broadcast_shapes(bound.pack, pack)
            if merged is None:
                first, place = bound.origin["..."]
                raise Diagnostic(
                    "E0304",
                    f"`{self.name}` cannot broadcast {_shape(bound.pack)} with {_shape(pack)} (`{name}`)",
                    where,
                    notes=[Note(f"the first shape comes from {first}", place)],
                    help="only an axis of size 1 broadcasts; two different sizes or symbols never do",
                )
            bound.pack = merged
        elif packs == "same" and bound.pack != pack:
            first, place = bound.origin["..."]
            raise Diagnostic(
                "E0302",
                f"the leading axes `...` of `{name}` are {_shape(pack)}, but {_shape(bound.pack)} was expected by `{self.name}`",
                where,
                notes=[Note(f"`...` was bound by {first}", place)],
            )

    def _check_dim(self, bound: Bindings, name: str, axis: int, wanted: Dim, found: Dim, where: Span | None) -> None:
        unbound = wanted.symbols - bound.dims.keys()
        # The caller may use the same names for its own dimensions: those of the signature get a mark while solving.
        value = wanted.subs({**bound.dims, **{u: sym(f"{u}?") for u in unbound}})
        if len(unbound) == 1:
            symbol = next(iter(unbound))
            solved = solve(value, f"{symbol}?", found)
            if solved is not None:
                bound.dims[symbol] = solved
                bound.origin[symbol] = (f"axis {axis} of `{name}`", where)
                return
        if value == found:
            return
        notes = [
            Note(f"{symbol} is {bound.dims[symbol]}, from {bound.origin[symbol][0]}", bound.origin[symbol][1])
            for symbol in sorted(wanted.symbols)
            if symbol in bound.origin
        ]
        shown = str(wanted) if unbound or wanted == value else f"{wanted} = {value}"
        raise Diagnostic(
            "E0302", f"axis {axis} of `{name}` of `{self.name}` must be {shown}, but is {found}", where, notes=notes
        )


def _shape(dims: Sequence[Dim]) -> str:
    return f"[{', '.join(map(str, dims))}]"


def broadcast_shapes(a: Sequence[Dim], b: Sequence[Dim]) -> tuple[Dim, ...] | None:
    """NumPy broadcasting of two shapes, or None. Equal dimensions match, 1 gives way, anything else does not."""
    if len(a) < len(b):
        a, b = b, a
    shape = list(a)
    offset = len(a) - len(b)
    for i, dim in enumerate(b):
        other = shape[offset + i]
        if dim == other or dim == 1:
            continue
        if other != 1:
            return None
        shape[offset + i] = dim
    return tuple(shape)
