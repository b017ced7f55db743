"""One ONNX graph under construction: nodes with the dtypes that ONNX and ONNX Runtime take, shared constants, shapes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx_ir as ox

from ...ir.diagnostics import Diagnostic, Span
from ...ir.dims import Dim
from ...ir.graph import Require
from ...ir.op import Composite
from ...ir.types import DTYPES, DType, TensorType, bf16, boolean, f16, f32, f64, i8, i16, i32, i64, u8
from ..torch.sizes import requirements
from .registry import claims, lowerings

if TYPE_CHECKING:
    from ...ir.graph import Graph, Node, Value
    from .sizes import Sizes

# Changes a node's operands before they are lowered; a parallel scan aligns their axes.
Prepare = Callable[["Node", "list[ox.Value | None]"], "list[ox.Value | None]"]

ONNX_TYPES: dict[DType, ox.DataType] = {
    f64: ox.DataType.DOUBLE, f32: ox.DataType.FLOAT, f16: ox.DataType.FLOAT16, bf16: ox.DataType.BFLOAT16,
    i64: ox.DataType.INT64, i32: ox.DataType.INT32, i16: ox.DataType.INT16, i8: ox.DataType.INT8,
    u8: ox.DataType.UINT8, boolean: ox.DataType.BOOL,
}  # fmt: skip
_TENSOR_TYPES = {dtype: ox.TensorType(kind) for dtype, kind in ONNX_TYPES.items()}
_SCHEMA_NAMES = {
    "tensor(double)": f64, "tensor(float)": f32, "tensor(float16)": f16, "tensor(bfloat16)": bf16,
    "tensor(int64)": i64, "tensor(int32)": i32, "tensor(int16)": i16, "tensor(int8)": i8, "tensor(uint8)": u8,
    "tensor(bool)": boolean,
}  # fmt: skip

# What an operand is computed in when an ONNX op does not take its own dtype: the first of these that the op takes.
_WIDER: dict[DType, tuple[DType, ...]] = {
    boolean: (u8, i32, i64, f32), u8: (i32, i64, f32), i8: (i32, i64, f32), i16: (i32, i64, f32), i32: (i64, f64),
    i64: (f64,), f16: (f32,), bf16: (f32,), f32: (f64,), f64: (),
}  # fmt: skip

# Integer and boolean dtypes that ONNX allows but for which ONNX Runtime's CPU provider has no kernel. (Missing half
# kernels need no entry: ONNX Runtime itself computes them in f32.)
_NO_KERNEL: dict[str, frozenset[DType]] = {
    "Min": frozenset({i16}), "Max": frozenset({i16}), "Where": frozenset({i16, boolean}), "Pad": frozenset({i16}),
    "ArgMax": frozenset({i16}), "ArgMin": frozenset({i16}), "Einsum": frozenset({i16, i8, u8}),
}  # fmt: skip


class Formal(NamedTuple):
    """What a schema says: type variables of inputs and outputs, and the dtypes each may have."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    allowed: dict[str, frozenset[DType]]


@lru_cache(maxsize=1024)
def formal(op_type: str, opset: int) -> Formal | None:
    """The schema of a standard op, or None when that opset does not have it."""
    import onnx.defs

    try:
        schema = onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    allowed: dict[str, frozenset[DType]] = {}
    for c in schema.type_constraints:
        types = frozenset(_SCHEMA_NAMES[t] for t in c.allowed_type_strs if t in _SCHEMA_NAMES)
        allowed[c.type_param_str] = types if len(types) == 1 else types - _NO_KERNEL.get(op_type, frozenset())
    for formals in (schema.inputs, schema.outputs):
        for parameter in formals:
            if parameter.type_str in _SCHEMA_NAMES:
                allowed[parameter.type_str] = frozenset({_SCHEMA_NAMES[parameter.type_str]})
    return Formal(tuple(p.type_str for p in schema.inputs), tuple(p.type_str for p in schema.outputs), allowed)


class Emitter:
    """Appends nodes to one graph. A loop's body is an emitter with a ``parent``, whose values it may read.

    Args:
        opset: the ONNX operator set, 18 to 24.
        claims: whether composites may become one ONNX op; else their bodies are lowered.
        parent: the emitter of the graph around this one.
    """

    sizes: Sizes

    def __init__(self, opset: int, claims: bool = True, parent: Emitter | None = None) -> None:
        self.opset = opset
        self.claims = claims
        self.root: Emitter = self if parent is None else parent.root
        self.parent = parent
        self.nodes: list[ox.Node] = []
        self.dtypes: dict[ox.Value, DType] = {} if parent is None else parent.dtypes
        self.constants: dict[Hashable, ox.Value] = {}
        # Values whose readers are counted: a weight that is read once may be stored transposed.
        self.weights: dict[ox.Value, Callable[[tuple[int, ...]], ox.Value | None]] = {}
        # Whether something is ordered or selected: NaN would then make the result depend on the machine.
        self.selects = False
        self.span: Span | None = None
        self.scope = ""
        # What the sizes of a call must satisfy, in the main graph's symbols.
        self.requires: dict[Hashable, Require | None] = {} if parent is None else parent.requires
        self._memo: dict[Hashable, ox.Value] = {}
        self._names: dict[str, int] = {} if parent is None else parent._names
        self._bodies: dict[Hashable, Graph] = {} if parent is None else parent._bodies
        self._depth: int = 0 if parent is None else parent._depth
        if parent is not None:
            self.sizes, self.scope = parent.sizes, parent.scope

    # Values ------------------------------------------------------------------------------------------------------

    def unique(self, hint: str) -> str:
        """``hint``, or ``hint_1``, ``hint_2`` … when it is taken."""
        count = self._names.get(hint)
        self._names[hint] = 0 if count is None else count + 1
        return hint if count is None else self.unique(f"{hint}_{count + 1}")

    def value(self, hint: str, dtype: DType, shape: Sequence[int | str | None] | None = None) -> ox.Value:
        """A fresh value of this graph."""
        made = ox.Value(name=self.unique(hint), type=_TENSOR_TYPES[dtype])
        if shape is not None:
            made.shape = ox.Shape(shape)
        self.dtypes[made] = dtype
        return made

    def dtype(self, value: ox.Value) -> DType:
        return self.dtypes[value]

    def remember(self, key: Hashable, make: Callable[[], ox.Value]) -> ox.Value:
        """The value filed under ``key`` in this graph or one around it; made here when there is none."""
        emitter: Emitter | None = self
        while emitter is not None:
            if key in emitter._memo:
                return emitter._memo[key]
            emitter = emitter.parent
        made = self._memo[key] = make()
        return made

    def constant(self, value: Any, dtype: DType) -> ox.Value:
        """An initializer of the main graph; equal ones are shared."""
        array = np.asarray(value, dtype.numpy)
        key = (dtype, array.shape, array.tobytes())
        found = self.root.constants.get(key)
        if found is None:
            found = self.root.value("const", dtype, array.shape)
            found.const_value = ox.Tensor(array, ONNX_TYPES[dtype], name=found.name)
            self.root.constants[key] = found
        return found

    def ints(self, values: Sequence[int]) -> ox.Value:
        """An ``i64[n]`` constant: axes, shapes, bounds."""
        return self.constant(np.asarray(values, np.int64).reshape(-1), i64)

    # Nodes -------------------------------------------------------------------------------------------------------

    def has(self, op_type: str) -> bool:
        """Whether the opset has the op."""
        return formal(op_type, self.opset) is not None

    def op(self, op_type: str, *inputs: ox.Value | None, dtype: DType | None = None, **attributes: Any) -> ox.Value:
        """Apply a standard op; its first result. ``dtype`` is the result's where the schema leaves it open."""
        return self.multi(op_type, *inputs, dtype=dtype, **attributes)[0]

    def multi(
        self, op_type: str, *inputs: ox.Value | None, outputs: int = 1, dtype: DType | None = None, **attributes: Any
    ) -> list[ox.Value]:
        """Apply a standard op; all its results.

        Operands of a dtype which the op does not take are computed in a wider one, and the results cast back.

        Raises:
            Diagnostic: E0802 when the op takes no such dtype.
        """
        schema = formal(op_type, self.opset)
        if schema is None:
            raise ValueError(f"ONNX opset {self.opset} has no {op_type}")
        given: dict[str, DType] = {}
        used: dict[str, DType] = {}
        args: list[ox.Value | None] = []
        for i, value in enumerate(inputs):
            if value is None:
                args.append(None)
                continue
            variable = schema.inputs[min(i, len(schema.inputs) - 1)]
            if variable not in used:
                given[variable] = self.dtypes[value]
                used[variable] = self._fit(op_type, schema.allowed[variable], given[variable])
            args.append(self.cast(value, used[variable]))
        variables = [schema.outputs[min(i, len(schema.outputs) - 1)] for i in range(outputs)]
        only = [next(iter(schema.allowed[v])) if len(schema.allowed[v]) == 1 else None for v in variables]
        dtypes = [used.get(v) or one or dtype or i64 for v, one in zip(variables, only, strict=True)]
        results = self.raw(op_type, args, dtypes, attributes)
        return [self.cast(r, given.get(v, d)) for r, v, d in zip(results, variables, dtypes, strict=True)]

    def raw(
        self, op_type: str, inputs: Sequence[ox.Value | None], dtypes: Sequence[DType], attributes: dict[str, Any]
    ) -> list[ox.Value]:
        """Append a node as it is."""
        inputs = list(inputs)
        while inputs and inputs[-1] is None:
            inputs.pop()  # an empty name at the end is legal, but ONNX Runtime's LayerNormalization crashes on one
        results = [self.value(op_type.lower(), dtype) for dtype in dtypes]
        name = self.unique(f"{self.scope}/{op_type}" if self.scope else op_type)
        made = ox.convenience.convert_attributes(attributes)
        self.nodes.append(ox.Node("", op_type, inputs, made, outputs=results, name=name))
        return results

    def _fit(self, op_type: str, allowed: frozenset[DType], dtype: DType) -> DType:
        if dtype in allowed:
            return dtype
        for wider in _WIDER[dtype]:
            if wider in allowed:
                return wider
        takes = ", ".join(name for name, d in DTYPES.items() if d in allowed)
        raise Diagnostic(
            "E0802", f"ONNX {op_type} (opset {self.opset}) cannot compute {dtype}", self.root.span,
            help=f"it takes {takes}: convert with `cast` first" if takes else None,
        )  # fmt: skip

    def cast(self, value: ox.Value, dtype: DType) -> ox.Value:
        """``value`` as ``dtype``; the same conversion is made once."""
        if self.dtypes[value] == dtype:
            return value
        make = lambda: self.raw("Cast", [value], [dtype], {"to": int(ONNX_TYPES[dtype])})[0]  # noqa: E731
        return self.remember(("cast", value, dtype), make)

    # Shapes ------------------------------------------------------------------------------------------------------

    def size(self, dim: Dim | int) -> ox.Value:
        """A dimension as an ``i64[1]`` value."""
        return self.sizes.value(dim)

    def scalar(self, dim: Dim | int) -> ox.Value:
        """A dimension as an ``i64[]`` value."""
        return self.sizes.scalar(dim)

    def shape(self, dims: Sequence[Dim]) -> ox.Value:
        """A shape as an ``i64[rank]`` value."""
        return self.sizes.shape(tuple(dims))

    def reshape(self, x: ox.Value, source: Sequence[Dim], target: Sequence[Dim]) -> ox.Value:
        """``x`` of shape ``source`` under the shape ``target``; sizes are copied or inferred rather than computed."""
        source, target = tuple(source), tuple(target)
        if source == target:
            return x
        entries: list[int | None] = []
        for i, dim in enumerate(target):
            same = i < len(source) and source[i] == dim
            entries.append(dim.value if dim.value else 0 if same else None)
        unknown = entries.count(None)
        if unknown == 0:
            return self.op("Reshape", x, self.ints([e for e in entries if e is not None]))
        if all(map(self.sizes.positive, source)):
            if unknown == 1:
                return self.op("Reshape", x, self.ints([-1 if e is None else e for e in entries]))
            return self.op("Reshape", x, self.shape(target))
        # With an axis of size 0 nothing can be inferred, and a computed 0 must not mean "copy".
        return self.op("Reshape", x, self.shape(target), allowzero=1)

    def transpose(self, x: ox.Value, perm: Sequence[int]) -> ox.Value:
        """Axes in another order. A weight that nothing else reads is stored in that order."""
        perm = tuple(perm)
        if perm == tuple(range(len(perm))):
            return x
        stored = self.root.weights.get(x)
        turned = stored(perm) if stored is not None else None
        if turned is not None:
            return turned
        return self.remember(("transpose", x, perm), lambda: self.op("Transpose", x, perm=list(perm)))

    def expand(self, x: ox.Value, source: Sequence[Dim], target: Sequence[Dim]) -> ox.Value:
        """Broadcast to a shape."""
        if tuple(source) == tuple(target):
            return x
        return self.op("Expand", x, self.shape(target))

    def unsqueeze(self, x: ox.Value, *axes: int) -> ox.Value:
        return self.op("Unsqueeze", x, self.ints(axes)) if axes else x

    def squeeze(self, x: ox.Value, *axes: int) -> ox.Value:
        return self.op("Squeeze", x, self.ints(axes)) if axes else x

    def slice(self, x: ox.Value, axis: int, start: Dim | int, stop: Dim | int | None, step: int = 1) -> ox.Value:
        """``x[start:stop:step]`` along one axis; no ``stop`` means to the end."""
        end = self.ints([np.iinfo(np.int64).max]) if stop is None else self.size(stop)
        return self.op("Slice", x, self.size(start), end, self.ints([axis]), self.ints([step]))

    def iota(self, n: Dim | int, dtype: DType = i64) -> ox.Value:
        """``0 … n - 1``."""
        known = n if isinstance(n, int) else n.value
        if known is not None and known <= 4096:
            return self.constant(np.arange(known), dtype)
        limit, root = self.scalar(n), self.root
        make = lambda: root.op("Range", root.constant(0, i64), limit, root.constant(1, i64))  # noqa: E731
        return self.cast(root.remember(("iota", limit), make), dtype)

    def full(self, shape: Sequence[Dim], value: float | int | bool, dtype: DType) -> ox.Value:
        """A tensor of one repeated value."""
        known = [d.value for d in shape]
        if all(k is not None for k in known) and np.prod([k or 0 for k in known]) <= 1024:
            return self.constant(np.full([k or 0 for k in known], value, dtype.numpy), dtype)
        fill = ox.Tensor(np.asarray([value], dtype.numpy), ONNX_TYPES[dtype])
        return self.op("ConstantOfShape", self.shape(shape), dtype=dtype, value=fill)

    # Regions -----------------------------------------------------------------------------------------------------

    def region(
        self, name: str, inputs: Sequence[tuple[str, DType, int]], build: Callable[[Emitter, list[ox.Value]], Sequence[ox.Value]]
    ) -> ox.Graph:
        """The body of a Loop or Scan.

        Args:
            inputs: a name, dtype and rank each.
            build: makes the results from an emitter for the body and its input values.
        """
        inner = Emitter(self.opset, self.claims, self)
        values = [inner.value(hint, dtype, [None] * rank) for hint, dtype, rank in inputs]
        made = build(inner, values)
        own = {v for node in inner.nodes for v in node.outputs}
        results: list[ox.Value] = []
        for value in made:
            # What a body returns must be its own, and each result another value.
            fresh = value in own and value not in results
            results.append(value if fresh else inner.raw("Identity", [value], [self.dtypes[value]], {})[0])
        self.root.selects |= inner.selects
        return ox.Graph(values, results, nodes=inner.nodes, name=self.unique(name))


    # The IR ------------------------------------------------------------------------------------------------------

    def walk(self, graph: Graph, env: dict[Value, ox.Value], prepare: Prepare | None = None) -> None:
        """Lower the nodes on which an output depends; ``env`` maps values to their ONNX values, and is extended."""
        self._note_requirements(graph)
        live = _live(graph)
        for node in graph.nodes():
            if node not in live:
                continue
            if self._depth == 0:
                # Within a composite's body the user's line stays to blame.
                self.root.span, self.scope = node.span, node.scope
            operands = [None if v is None else env[v] for v in node.inputs]
            results = self._lower(node, prepare(node, operands) if prepare else operands)
            for value, made in zip(node.outputs, results, strict=True):
                env[value] = made
                if made.shape is None and prepare is None:
                    self._describe(made, value)

    def inline(self, graph: Graph, xs: Sequence[ox.Value], prepare: Prepare | None = None) -> list[ox.Value]:
        """The results of a body for given operands."""
        saved = self.sizes
        self.sizes = saved.nested(graph)
        env = dict(zip(graph.inputs, xs, strict=True))
        self.walk(graph, env, prepare)
        self.sizes = saved
        return [env[v] for v in graph.outputs]

    def _lower(self, node: Node, operands: list[ox.Value | None]) -> Sequence[ox.Value]:
        if not isinstance(node.op, Composite):
            return _several(lowerings()[node.op.name](self, node, *operands) or ())
        claim = claims().get(node.op.qualified) if self.claims else None
        claimed = claim(self, node, *operands) if claim is not None else None
        if claimed is not None:
            return _several(claimed)
        self._depth += 1
        results = self.inline(self._body(node), [x for x in operands if x is not None])
        self._depth -= 1
        return results

    def _note_requirements(self, graph: Graph) -> None:
        for require in requirements(graph):
            left, right = self.sizes.outer(require.left), self.sizes.outer(require.right)
            if left is None or right is None:
                continue
            key = (left, require.op, right)
            if key not in self.requires:
                # What `let` names hide may still be proved: then nothing is left to check.
                proved = self.sizes.proved(left, require.op, right)
                self.requires[key] = None if proved else replace(require, left=left, right=right)

    def _body(self, node: Node) -> Graph:
        types = tuple(None if v is None else v.type for v in node.inputs)
        key = (node.op, types, tuple(node.attrs.items()))
        body = self._bodies.get(key)
        if body is None:
            body = self._bodies[key] = node.op.instantiate(types, dict(node.attrs))  # type: ignore[union-attr]
        return body

    def _describe(self, made: ox.Value, value: Value) -> None:
        """The source's name, and the shape where its symbols mean the same in the whole graph."""
        if value.name and self._depth == 0:
            made.name = self.unique(f"{self.scope}/{value.name}" if self.scope else value.name)
        if self.sizes.public:
            made.shape = ox.Shape(known_type(value.type))


def _several(results: ox.Value | Sequence[ox.Value]) -> Sequence[ox.Value]:
    return [results] if isinstance(results, ox.Value) else results


def _live(graph: Graph) -> set[Node]:
    live: set[Node] = {graph.end}
    for node in graph.reversed_nodes():
        if any(user in live for value in node.outputs for user, _ in value.uses):
            live.add(node)
    return live


def known_type(type: TensorType) -> list[int | str]:
    """A tensor type's shape as ONNX dims: integers, and the printed expression of everything else."""
    return [str(d) if d.value is None else d.value for d in type.shape]
