"""From a graph to Python source: one straight-line ``forward``, and a function for each composite or loop body it calls.

Names are those of the program where they are free, and are used again once a value is dead: ``x = x + t`` reads as the source
does, and intermediate tensors do not outlive their last reader.
"""

from __future__ import annotations

import itertools
import keyword
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from ...ir.dims.dim import Dim, sym
from ...ir.graph import Graph, Input, Node, Parameter, Value
from ...ir.keys import attr_key
from ...ir.naming import unique
from ...ir.op import Attrs, Trait, has
from ...ir.types import DType, TensorType
from ...runtime.distributions import below, parameters
from ..lower import Plan, Walk, claimed_by
from .claims import FUSED, Claims
from .sizes import solve_all
from .table import LOWERINGS, SCALAR_OPERANDS

_RESERVED = frozenset(keyword.kwlist) | {"torch", "F", "ops", "self", "device", "inf", "nan", "min", "max"}
# What callers may call an argument of ``forward``.
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def torch_dtype(dtype: DType) -> str:
    """``torch.float32``, as source."""
    return f"torch.{dtype.long}"


@dataclass(frozen=True, slots=True)
class Function:
    """A generated function: ``name(self, *tensors, *symbols)``."""

    name: str
    symbols: tuple[str, ...]


class Program:
    """The source for ``graph`` and everything it calls.

    Args:
        path: a parameter's full name -> the expression that reads it from the module.
        claims: which composites become a call; all others go through their bodies.

    Attributes:
        source: the text; its ``forward`` takes ``self`` and the inputs in order.
        constants: attribute name -> (value, dtype) of constants that the module must hold.
        bodies: (index of the graph around it, graph) for ``graph`` and each body that was generated.
    """

    def __init__(self, graph: Graph, path: Callable[[str], str], *, claims: Claims = FUSED) -> None:
        self.path = path
        self.claims = claims
        self.reserved = _RESERVED | claims.names.keys()
        # Bodies are functions, whose results whoever calls them takes or leaves.
        self.plan = Plan(claimed_by(claims.table, claims.unless), whole=True)
        self.constants: dict[str, tuple[Any, DType]] = {}
        self.bodies: list[tuple[int | None, Graph]] = []
        self._constant_names: dict[tuple[Any, DType], str] = {}
        self._functions: list[str] = []
        self._instances: dict[Graph, Function] = {}
        self._written: dict[tuple[str, str], Function] = {}
        self._taken: set[str] = set()
        self._params = frozenset(name.partition(".")[0] for name in graph.params)
        main = Writer(self, graph, frozenset(), None).main()
        self.source = "\n\n".join([*self._functions, main])

    def constant(self, value: Any, dtype: DType) -> str:
        """The attribute that holds a constant."""
        key = (attr_key(value), dtype)
        if key not in self._constant_names:
            name = f"_constant_{len(self.constants)}"
            while name in self._params:
                name += "_"
            self._constant_names[key] = name
            self.constants[name] = (value, dtype)
        return f"self.{self._constant_names[key]}"

    def composite(self, node: Node, outer: frozenset[str], parent: int) -> Function:
        """The function for a composite's body; one for each distinct combination of argument types and attributes."""
        body = self.plan.body(node)
        if body not in self._instances:
            self._instances[body] = self.function(body, node.op.name, outer, parent)
        return self._instances[body]

    def function(self, graph: Graph, name: str, outer: frozenset[str], parent: int, *, loop: bool = False) -> Function:
        """Write the function for a body; a loop's always returns a tuple."""
        arguments, body, symbols = Writer(self, graph, outer, parent).function(loop)
        # Bodies that differ in types alone may read the same: `affine` of any width is one function.
        if (arguments, body) not in self._written:
            called = unique(f"_{name}", self._taken)
            self._functions.append(f"def {called}({arguments}):\n{body}\n")
            self._written[arguments, body] = Function(called, symbols)
        return self._written[arguments, body]


class Writer(Walk[str]):
    """Writes one function. ``outer`` are the symbols of the graph around it, which arrive as arguments where they are used."""

    def __init__(self, program: Program, graph: Graph, outer: frozenset[str], parent: int | None) -> None:
        super().__init__(program.plan, depth=0 if parent is None else 1)
        self.program = program
        self.graph = graph
        self.index = len(program.bodies)
        program.bodies.append((parent, graph))
        self.symbols = outer | set(graph.symbols()) | set(graph.lets)
        self.names: dict[Value, str] = {}
        self.taken: set[str] = set(map(symbol, self.symbols))
        self.used_symbols: set[str] = set()
        self.used_device = False
        self.lines: list[str] = []
        self.live = program.plan.live(graph)
        self.scope = ""
        self.readers: dict[Value, int] = {}
        self.owned: set[Value] = set()  # results that were written into a state
        self.origin: dict[Value, Value] = {}  # of a value that shares another one's name

    # Whole functions ---------------------------------------------------------------------------------------------

    def main(self) -> str:
        arguments = [self.name(v, v.public if _NAME.fullmatch(v.public) else v.name) for v in self.graph.inputs]
        self.walk(self.graph, self.names)
        rows = [
            f"{info.public!r}: {self.operand(v)}"
            for v, info in zip(self.graph.outputs, self.graph.output_info, strict=True)
        ]
        self.lines.append(f"return {{{', '.join(rows)}}}")
        self.lines[:0] = self.draws(arguments)
        free = self.free_symbols()
        sizes = [f"{symbol(name)} = {text}" for name, text in self.size_lines(arguments) if name in free]
        given = list(itertools.takewhile(lambda pair: pair[1].role != "random", zip(arguments, self.graph.inputs, strict=True)))
        names = [*arguments[: len(given)], *(f"{argument}=None" for argument in arguments[len(given) :])]
        return f"def forward({', '.join(['self', *names])}):\n{self.text(arguments, sizes)}\n"

    def draws(self, arguments: list[str]) -> list[str]:
        """What draws the random inputs that are not given."""
        lines = []
        for argument, value in zip(arguments, self.graph.inputs, strict=True):
            if value.role == "random" and value.init is not None:
                dtype, numbers = value.type.dtype, parameters(value.init, value.type.dtype, value.span)
                if value.init.name == "uniform" and dtype.kind == "float":
                    numbers = (*numbers, below(numbers[1], dtype))
                shape = _tuple([self.dim(d) for d in value.type.shape])
                self.used_device = True
                made = f"ops.draw({value.init.name!r}, {numbers!r}, {shape}, {torch_dtype(dtype)}, device)"
                lines.append(f"{argument} = {made} if {argument} is None else {argument}")
        return lines

    def function(self, loop: bool) -> tuple[str, str, tuple[str, ...]]:
        """Arguments and text of a body, and the symbols that are its last arguments."""
        arguments = [self.name(v, v.name) for v in self.graph.inputs]
        self.walk(self.graph, self.names)
        results = [self.operand(v) for v in self.graph.outputs]
        self.lines.append(f"return {results[0] if len(results) == 1 and not loop else _tuple(results)}")
        symbols = tuple(sorted(self.free_symbols()))
        return ", ".join(["self", *arguments, *map(symbol, symbols)]), self.text(arguments, []), symbols

    def text(self, arguments: list[str], head: list[str]) -> str:
        needed = self.needed_symbols()
        head += [f"{symbol(let)} = {_dim_source(dim)}" for let, dim in self.graph.lets.items() if let in needed]
        if self.used_device:
            given = (a for a, v in zip(arguments, self.graph.inputs, strict=True) if v.role != "random")
            head.append(f"device = {next(given, 'self')}.device")
        return "\n".join(f"    {line}" for line in [*head, *self.lines])

    def needed_symbols(self) -> set[str]:
        """The symbols that the text uses, with those that their ``let`` definitions use."""
        needed = set(self.used_symbols)
        for name, dim in reversed(self.graph.lets.items()):
            if name in needed:
                needed |= dim.symbols
        return needed

    def free_symbols(self) -> set[str]:
        return self.needed_symbols() - set(self.graph.lets)

    def size_lines(self, arguments: list[str]) -> Iterator[tuple[str, str]]:
        """How each symbol is read off the inputs' shapes; a symbol that needs another one follows it."""
        called = {value.name: argument for value, argument in zip(self.graph.inputs, arguments, strict=True)}
        for name, at in solve_all(self.graph).items():
            size = f"{called[at.input]}.shape[{at.axis}]"
            if at.rest != 0:
                self.used_symbols |= at.rest.symbols
                size = f"({size} - ({_dim_source(at.rest)}))"
            if at.coefficient != 1:
                self.used_symbols |= at.coefficient.symbols
                size = f"{size} // ({_dim_source(at.coefficient)})"
            yield name, size

    # Nodes -------------------------------------------------------------------------------------------------------

    def at(self, node: Node) -> None:
        if node.scope != self.scope and node.op.name != "constant":
            self.scope = node.scope
            self.lines.append(f"# {node.scope}" if node.scope else "#")

    def operands(self, node: Node, env: Mapping[Value, str]) -> list[str | None]:
        return [None if v is None else self._argument(node, i, v) for i, v in enumerate(node.inputs)]

    def _argument(self, node: Node, index: int, value: Value) -> str:
        """Operand ``index``: as a number where the op takes one."""
        number = _scalar(value)
        if number is not None and index in SCALAR_OPERANDS.get(node.op.name, ()):
            others = [node.inputs[i] for i in SCALAR_OPERANDS[node.op.name] if i != index] or node.inputs[:1]
            if all(v is not None and _scalar(v) is None for v in others):
                return number
        return self.operand(value)

    def core(self, node: Node, operands: list[str | None]) -> list[str]:
        if node.op.name == "constant":
            return []  # written where it is read
        row = self.program.claims.rows.get(node.op.name) or LOWERINGS[node.op.name]
        return [self._text(row, Call(self, node, operands))]

    def claim(self, node: Node, operands: list[str | None]) -> list[str]:
        self.plan.note(self.plan.body(node), self.index, self.program.bodies)
        return [self._text(self.program.claims.table[node.op.qualified], Call(self, node, operands))]

    def composite(self, node: Node, operands: list[str | None], wanted: frozenset[int]) -> list[str]:
        function = self.program.composite(node, frozenset(self.symbols), self.index)
        given = [text for text in operands if text is not None]
        return [f"{function.name}({', '.join(['self', *given, *self.pass_symbols(function)])})"]

    def bind(self, node: Node, results: Sequence[str | None], env: dict[Value, str]) -> None:
        """One line with all results; its expression may be that of an operand."""
        for text in results:
            assert text is not None
            args = self.operands(node, env)
            same = next((v for v, arg in zip(node.inputs, args, strict=True) if v is not None and arg == text), None)
            if same is not None:  # a cast to the dtype it has, a rearrangement that moves nothing
                self.share(node.output, same, text)
            for value in node.inputs:
                if value is not None:
                    self.release(value)
            if same is None:
                targets = [self.name(v, v.name) if self.count(v) else "_" for v in node.outputs]
                comma = "," if len(targets) == 1 and has(node, Trait.REGION) else ""
                self.lines.append(f"{', '.join(targets)}{comma} = {text}")

    @staticmethod
    def _text(row: str | Callable[[Call], str], call: Call) -> str:
        return call.render(row) if isinstance(row, str) else row(call)

    def pass_symbols(self, function: Function) -> list[str]:
        self.used_symbols.update(function.symbols)
        return [symbol(name) for name in function.symbols]

    # Values ------------------------------------------------------------------------------------------------------

    def name(self, value: Value, hint: str) -> str:
        """Give ``value`` a name that is free here."""
        base = re.sub(r"\W", "_", hint).lstrip("_") or "t"
        base = f"t{base}" if base[0].isdigit() else base
        found = unique(f"{base}_" if base in self.program.reserved else base, self.taken)
        self.names[value] = found
        return found

    def share(self, value: Value, other: Value, text: str) -> None:
        """Let ``value`` go by the name of ``other``, which it equals."""
        self.names[value] = text
        origin = self.origin.get(other, other)
        self.readers[origin] = self.count(other) + self.count(value)
        self.origin[value] = origin

    def count(self, value: Value) -> int:
        """How many reads of ``value``, and of others by its name, are still to be written."""
        value = self.origin.get(value, value)
        if value not in self.readers:
            end = self.graph.end
            self.readers[value] = sum(node in self.live or node is end for node, _ in value.uses)
        return self.readers[value]

    def release(self, value: Value) -> None:
        value = self.origin.get(value, value)
        self.readers[value] = self.count(value) - 1
        if not self.readers[value] and value in self.names:
            self.taken.discard(self.names[value])

    def operand(self, value: Value) -> str:
        if isinstance(value, Parameter):
            return self.program.path(value.full_name)
        if value.node is not None and value.node.op.name == "constant":
            return Call(self, value.node, []).constant()
        return self.names[value]

    def dim(self, dim: Dim) -> str:
        self.used_symbols |= dim.symbols
        return _dim_source(dim)


class Call:
    """One node, as a lowering sees it: operand expressions ``args`` (``None`` for one not given), their ``types``, ``attrs``."""

    args: list[str]
    attrs: Attrs

    def __init__(self, writer: Writer, node: Node, operands: list[str | None]) -> None:
        self.writer = writer
        self.node = node
        self.attrs = node.attrs
        self.args = [text or "None" for text in operands]

    @property
    def types(self) -> list[TensorType]:
        """Operand types; not for calls with operands that are not given."""
        return [v.type for v in self.node.inputs if v is not None]

    @property
    def out(self) -> TensorType:
        return self.node.output.type

    def render(self, template: str) -> str:
        return Formatter().vformat(template, self.args, _Fields(self))

    def value(self, value: Any) -> str:
        """An attribute as source; dimensions become expressions of the sizes at hand."""
        if isinstance(value, Dim):
            return self.writer.dim(value)
        if isinstance(value, DType):
            return torch_dtype(value)
        if isinstance(value, tuple):
            return _tuple([self.value(v) for v in value])
        return repr(value)

    def index(self, i: int) -> str:
        """Operand ``i`` as i64, which PyTorch wants of indices."""
        return self.args[i] if self.types[i].dtype.name == "i64" else f"{self.args[i]}.long()"

    def constant(self) -> str:
        """The attribute that holds this constant."""
        return self.writer.program.constant(self.attrs["value"], self.out.dtype)

    def donated(self, i: int) -> str:
        """Whether operand ``i``, which result ``i`` replaces, may be written to: an expression.

        It may when the module was given its states for good (``donate``), and the operand is a state, or a result that was
        written into one, which nothing but this node reads.
        """
        value, writer = self.node.inputs[i], self.writer
        state = isinstance(value, Input) and value.role == "state" and writer.index == 0
        if value is None or len(value.uses) != 1 or not (state or value in writer.owned):
            return "False"
        writer.owned.add(self.node.outputs[i])
        return "self.donate"

    def device(self) -> str:
        self.writer.used_device = True
        return "device"

    def function(self, body: Graph) -> str:
        """A loop's body as a function of its tensors."""
        outer = frozenset(self.writer.symbols)
        function = self.writer.program.function(body, self.node.op.name, outer, self.writer.index, loop=True)
        symbols = self.writer.pass_symbols(function)
        return f"lambda *values: {function.name}({', '.join(['self', '*values', *symbols])})"

    @staticmethod
    def tuple(items: Iterable[str]) -> str:
        return _tuple(list(items))


class _Fields(Mapping[str, str]):
    """The named fields of a template."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def __getitem__(self, name: str) -> str:
        if name == "device":
            return self.call.device()
        if name == "dtype":
            return torch_dtype(self.call.out.dtype)
        return self.call.value(self.call.attrs[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.call.attrs)

    def __len__(self) -> int:
        return len(self.call.attrs)


def symbol(name: str) -> str:
    """The Python variable of a dimension symbol."""
    return f"{name}_" if name in _RESERVED else name


def _dim_source(dim: Dim) -> str:
    # A dimension prints as Python does.
    return str(dim.subs({s: sym(symbol(s)) for s in dim.symbols if s in _RESERVED}))


def _scalar(value: Value) -> str | None:
    """A scalar constant as a Python number, rounded to its dtype; None for anything else."""
    if isinstance(value, (Input, Parameter)) or value.node is None or value.node.op.name != "constant":
        return None
    number, dtype = value.node.attrs["value"], value.type.dtype
    if isinstance(number, tuple):
        return None
    # PyTorch computes with a number in f32; the program rounded it. It takes none that only rounding makes one of f32.
    if dtype.kind == "float" and (dtype.size == 2 or (dtype.size == 4 and abs(number) > 3.4e38)):
        number = float(dtype.numpy.type(number))
    return f"({number!r})" if math.copysign(1, number) < 0 else repr(number)


def _tuple(items: list[str]) -> str:
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
