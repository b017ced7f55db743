"""What a model under construction gives out: tensors and records, and the functions to call on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic, did_you_mean
from ...ir.dims.dim import Dim
from ...ir.graph import Value
from ...ir.notation import show_signature
from ...ir.ops import OPS
from ...ir.types import DType, TensorType
from ...specs.catalog import summary
from ..source import shared_elaborator
from ..source.elaborate.builtin import known
from ..source.elaborate.elaborate import Elaborator
from ..source.elaborate.library import SPECS, Library, Unit
from ..source.elaborate.values import BuiltinValue, Bundle, DeclValue, Instance, OpValue, Partial
from ..source.syntax import ast
from .callsite import call_site

if TYPE_CHECKING:
    from .model import Model

# The models whose `with` blocks are open, innermost last.
ACTIVE: list[Model] = []


def _operator(symbol: str, swapped: bool = False) -> Callable[[Tensor, Any], Tensor]:
    def apply(self: Tensor, other: Any) -> Tensor:
        a, b = (other, self) if swapped else (self, other)
        result: Tensor = self._model._evaluate(ast.Binary(symbol, ast.Name("a"), ast.Name("b")), {"a": a, "b": b})
        return result

    apply.__doc__ = f"``{'other' if swapped else 'self'} {symbol} {'self' if swapped else 'other'}`` of the language."
    return apply


def _prefix(symbol: str) -> Callable[[Tensor], Tensor]:
    def apply(self: Tensor) -> Tensor:
        result: Tensor = self._model._evaluate(ast.Unary(symbol, ast.Name("a")), {"a": self})
        return result

    apply.__doc__ = f"``{symbol} self`` of the language."
    return apply


class Tensor:
    """A tensor of a model under construction: symbolic, it holds no numbers.

    Operators, comparisons and indexing are those of the language and add to the model: ``x + 1``, ``x @ w``,
    ``x[:, 1:, ..., none]``; ``&``, ``|`` and ``~`` are its ``and``, ``or`` and ``not``. Each raises Diagnostic as the
    language does: E0303 for dtypes, E0304 for shapes that do not broadcast, E0407 where Python wants a truth value.
    """

    __slots__ = ("_model", "_value")
    __hash__ = object.__hash__

    __add__, __radd__ = _operator("+"), _operator("+", swapped=True)
    __sub__, __rsub__ = _operator("-"), _operator("-", swapped=True)
    __mul__, __rmul__ = _operator("*"), _operator("*", swapped=True)
    __truediv__, __rtruediv__ = _operator("/"), _operator("/", swapped=True)
    __floordiv__, __rfloordiv__ = _operator("//"), _operator("//", swapped=True)
    __mod__, __rmod__ = _operator("%"), _operator("%", swapped=True)
    __pow__, __rpow__ = _operator("**"), _operator("**", swapped=True)
    __matmul__, __rmatmul__ = _operator("@"), _operator("@", swapped=True)
    __and__, __rand__ = _operator("and"), _operator("and", swapped=True)
    __or__, __ror__ = _operator("or"), _operator("or", swapped=True)
    __eq__, __ne__ = _operator("=="), _operator("!=")  # type: ignore[assignment]
    __lt__, __le__, __gt__, __ge__ = _operator("<"), _operator("<="), _operator(">"), _operator(">=")
    __neg__, __invert__ = _prefix("-"), _prefix("not")

    def __init__(self, model: Model, value: Value) -> None:
        self._model = model
        self._value = value

    @property
    def type(self) -> TensorType:
        """The dtype and the dimensions."""
        return self._value.type

    @property
    def shape(self) -> tuple[int | Dim, ...]:
        """One dimension an axis: an int, or an expression such as ``T - 1``, with which one can calculate."""
        return tuple(known(d) for d in self._value.type.shape)

    @property
    def dtype(self) -> DType:
        """The element type; where the declaration says ``float``, the one that stands for it."""
        return self._value.type.dtype

    def named(self, name: str) -> Tensor:
        """The same tensor, printed as ``name``. An assignment ``name = …`` does this by itself."""
        self._value.name = name
        return self

    def __repr__(self) -> str:
        return f"<{self._value.name or 'tensor'}: {self._value.type}>"

    def __bool__(self) -> bool:
        span, _ = call_site()
        raise Diagnostic(
            "E0407", f"a condition must be known when the model is built, but this is a tensor {self.type}", span,
            help="`ts.ops.where(condition, a, b)` chooses at run time; `a & b`, `a | b`, `~a` combine conditions",
        )  # fmt: skip

    def __iter__(self) -> Iterator[Tensor]:
        raise TypeError("a tensor cannot be iterated over; index it, as in x[:, 0]")

    def __getitem__(self, index: Any) -> Tensor:
        items = index if isinstance(index, tuple) else (index,)
        env: dict[str, Any] = {"x": self}

        def held(value: Any) -> ast.Expr | None:
            if value is None:
                return None
            env[f"i{len(env)}"] = value
            return ast.Name(f"i{len(env) - 1}")

        exprs: list[ast.Expr] = []
        for item in items:
            if item is ...:
                exprs.append(ast.Ellipsis_())
            elif isinstance(item, slice):
                exprs.append(ast.Slice(held(item.start), held(item.stop), held(item.step)))
            else:
                exprs.append(held(item) or ast.NoneValue())
        result: Tensor = self._model._evaluate(ast.Index(ast.Name("x"), exprs), env)
        return result


class Record:
    """A record of a model under construction: its fields are attributes.

    ``map.size`` is a :class:`Tensor` for a tensor field, and a plain value for a static one.
    """

    __slots__ = ("_bundle", "_model")

    def __init__(self, model: Model, bundle: Bundle) -> None:
        self._model = model
        self._bundle = bundle

    def __getattr__(self, name: str) -> Any:
        bundle = self._bundle
        if name in bundle.fields:
            return Tensor(self._model, bundle.fields[name])
        if name in bundle.statics:
            return bundle.statics[name]
        raise AttributeError(f"the record {bundle.record.name} has no field {name!r}: {', '.join(bundle.fields)}")

    def __repr__(self) -> str:
        return f"<{self._bundle.record.name}: {', '.join(self._bundle.fields)}>"


class Function:
    """A function of the language as a Python callable, ``ts.std.nn.linear``.

    Called with tensors and static parameters, and ``name=`` for the scope of its parameters (``as name`` in source). Called
    without tensors it is a function again: ``ts.std.nn.mlp(hidden=16)``, with ``name=`` one whose calls share their weights.
    """

    def __init__(self, callee: Any, name: str) -> None:
        self.callee = callee
        self.__name__ = name.rpartition(".")[2]
        self.__qualname__ = name
        self.__doc__ = "\n\n".join(text for text in (_declared(callee), _doc(callee)) if text) or None

    def __call__(self, *args: Any, name: str = "", **kwargs: Any) -> Any:
        return _model_of([*args, *kwargs.values()])._call(self.callee, args, kwargs, name)

    def __repr__(self) -> str:
        return f"<{self.__qualname__}>"


# What is called like an op, and is none: signature and documentation.
_BUILT_IN = {
    "scan": ("scan(f: fn, x: any[...]*, *, axis: int, start: list? = none) -> any[...]*", OPS["scan"].doc),
    "stack": ("stack(xs: any[...]*, *, axis: int) -> any[...]", "Tensors of one type side by side along a new axis."),
}


def _declared(callee: Any) -> str:
    """The signature as it is declared."""
    callee = callee.function if isinstance(callee, (Partial, Instance)) else callee
    if isinstance(callee, OpValue):
        return show_signature(callee.op.signature)
    if isinstance(callee, DeclValue) and isinstance(callee.declared.node, ast.Function):
        return show_signature(shared_elaborator().signatures.of(callee.declared))
    return _BUILT_IN[callee.name][0] if isinstance(callee, BuiltinValue) else ""


def _doc(callee: Any) -> str:
    callee = callee.function if isinstance(callee, (Partial, Instance)) else callee
    if isinstance(callee, DeclValue):
        return getattr(callee.declared.node, "doc", None) or ""
    return _BUILT_IN[callee.name][1] if isinstance(callee, BuiltinValue) else callee.op.doc


class Namespace:
    """The functions of a file, or the files of a folder: ``ts.std`` holds ``ts.std.nn``, which holds ``ts.std.nn.linear``.

    ``dir()`` lists what it holds, and ``help(ts.std.nn.linear)`` shows the signature, the shapes and the source of one.
    """

    def __init__(
        self,
        name: str,
        unit: Callable[[], Unit] | None = None,
        members: Callable[[], list[str]] | None = None,
        doc: str = "",
    ) -> None:
        self._name = name
        self._unit = unit
        self._members = members
        if doc:
            self.__doc__ = doc

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = self._find(name)
        if found is None:
            hint = did_you_mean(name, dir(self))
            raise AttributeError(f"{self._name} has no {name!r}" + (f"; {hint}" if hint else ""))
        setattr(self, name, found)
        return found

    def _find(self, name: str) -> Any:
        if name not in dir(self):
            return None
        full = f"{self._name}.{name}"
        if name not in self._declared():
            return _shipped(full)
        assert self._unit is not None
        declared = self._unit().names[name]
        if isinstance(declared.node, ast.Const):
            return Elaborator(library()).const(declared)
        return Function(DeclValue(declared), full)

    def _declared(self) -> list[str]:
        if self._unit is None:
            return []
        unit = self._unit()
        return [n for n in unit.names if unit.local(n)]

    def __dir__(self) -> list[str]:
        return [*self._declared(), *(self._members() if self._members is not None else [])]

    def __repr__(self) -> str:
        return f"<{self._name}: {', '.join(dir(self))}>"


class _CoreOps(Namespace):
    def _find(self, name: str) -> Any:
        if name in ("scan", "stack"):  # the one takes a function, where the op takes its body; the other is no op
            return Function(BuiltinValue(name), name)
        return Function(OpValue(OPS[name]), name) if name in OPS else None

    def __dir__(self) -> list[str]:
        # A loop's body is a graph: `m.fold` makes it.
        return sorted(OPS.keys() - {"fold"} | {"stack"})


def library() -> Library:
    """The units of shipped and used files that all models share."""
    return shared_elaborator().library


def folder(name: str) -> Namespace:
    """The shipped files of one folder of ``specs/``, and of those in it: ``folder("std").nn.linear``."""
    place = name.replace(".", "/")
    files = sorted(p.stem for p in (SPECS / place).glob("*.tess"))
    doc = "\n".join([f"The files of specs/{place}.", "", *(f"{file}: {summary(f'{place}/{file}')}" for file in files)])
    return Namespace(name, None, lambda: _inside(place), doc)


def _inside(place: str) -> list[str]:
    """The files of a folder and the folders with files in it; none where there is no folder."""
    found = {p.relative_to(SPECS / place).parts[0].removesuffix(".tess") for p in (SPECS / place).glob("**/*.tess")}
    return sorted(found)


def _shipped(name: str) -> Namespace:
    """A shipped file, and what lies in the folder of its name: ``std.token`` and ``std.token.merge``; or a folder alone."""
    place = name.replace(".", "/")
    if not (SPECS / f"{place}.tess").exists():
        return folder(name)
    return Namespace(name, lambda: library().std(name), lambda: _inside(place), summary(place))


def core_ops() -> Namespace:
    """The core ops: ``core_ops().exp(x)``."""
    doc = "The core ops: ts.ops.topk(x, k=3). help(ts.ops.topk) shows the signature and the shapes of one."
    return _CoreOps("ops", doc=doc)


def use(path: str | Path) -> Namespace:
    """The declarations of a ``.tess`` file, callable on the tensors of a model: ``ts.use("blocks.tess").mixer(x, r=4)``.

    Raises:
        Diagnostic: E0001 when there is no such file, and whatever is wrong in it.
    """
    unit = library().file(path)
    return Namespace(Path(path).stem, lambda: unit)


def _model_of(arguments: Sequence[Any]) -> Model:
    """The model that a call adds to: that of its first tensor, else the innermost open one."""
    for value in arguments:
        if isinstance(value, (Tensor, Record)):
            return value._model
        if isinstance(value, (list, tuple)):
            for item in value:
                if isinstance(item, (Tensor, Record)):
                    return item._model
    if not ACTIVE:
        span, _ = call_site()
        raise Diagnostic(
            "E0016", "functions of the language are called within a model", span, help='`with ts.model("name") as m:`'
        )
    return ACTIVE[-1]
