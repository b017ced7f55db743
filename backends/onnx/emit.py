"""One ONNX graph under construction: nodes with the dtypes that ONNX and ONNX Runtime take, shared constants, shapes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import onnx_ir as ox

from ...ir.diagnostics import Diagnostic, Span
from ...ir.dims.dim import Dim, const
from ...ir.types import DTYPES, DType, i64
from .schema import ONNX_TYPES, TENSOR_TYPES, WIDER, formal

if TYPE_CHECKING:
    from .sizes import Sizes


class Emitter:
    """Appends nodes to one graph. A loop's body is an emitter with a ``parent``, whose values it may read.

    Args:
        opset: the ONNX operator set, 18 to 24.
        parent: the emitter of the graph around this one.
    """

    sizes: Sizes
    # Whether attention over a cache is an op that takes heads side by side.
    cached = False

    def __init__(self, opset: int, parent: Emitter | None = None) -> None:
        self.opset = opset
        self.root: Emitter = self if parent is None else parent.root
        self.parent = parent
        self.nodes: list[ox.Node] = []
        self.dtypes: dict[ox.Value, DType] = {} if parent is None else parent.dtypes
        self.constants: dict[Hashable, ox.Value] = {}
        # What was moved about, so that moving it back costs nothing: result -> what it was made from.
        self.reshaped: dict[ox.Value, tuple[ox.Value, tuple[Dim, ...]]] = {} if parent is None else parent.reshaped
        self.transposed: dict[ox.Value, tuple[ox.Value, tuple[int, ...]]] = {} if parent is None else parent.transposed
        self.squeezed: dict[ox.Value, tuple[ox.Value, tuple[int, ...]]] = {} if parent is None else parent.squeezed
        self.unsqueezed: dict[ox.Value, tuple[ox.Value, tuple[int, ...]]] = {} if parent is None else parent.unsqueezed
        # Weights that are read once, which may be stored with their axes in another order, and row by row.
        self.weights: dict[ox.Value, Callable[[tuple[int, ...] | None, int | None], ox.Value]] = {}
        # Whether something is ordered or selected: NaN would then make the result depend on the machine.
        self.selects = False
        # Of ops that are not ONNX's own.
        self.domains: set[str] = set()
        self.span: Span | None = None
        self.scope = ""
        self._memo: dict[Hashable, ox.Value] = {}
        self._names: dict[str, int] = {} if parent is None else parent._names
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
        made = ox.Value(name=self.unique(hint), type=TENSOR_TYPES[dtype])
        if shape is not None:
            made.shape = ox.Shape(shape)
        self.dtypes[made] = dtype
        return made

    def dtype(self, value: ox.Value) -> DType:
        return self.dtypes[value]

    def remember(self, key: Hashable, make: Callable[[], ox.Value]) -> ox.Value:
        """The value filed under ``key`` in this graph or one around it; made here when there is none."""
        found = self.recall(key)
        if found is None:
            found = self._memo[key] = make()
        return found

    def recall(self, key: Hashable) -> ox.Value | None:
        """The value filed under ``key`` in this graph or one around it; None when there is none."""
        emitter: Emitter | None = self
        while emitter is not None:
            if key in emitter._memo:
                return emitter._memo[key]
            emitter = emitter.parent
        return None

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
        self, op_type: str, inputs: Sequence[ox.Value | None], dtypes: Sequence[DType], attributes: dict[str, Any],
        domain: str = "",
    ) -> list[ox.Value]:  # fmt: skip
        """Append a node as it is."""
        inputs = list(inputs)
        while inputs and inputs[-1] is None:
            inputs.pop()  # an empty name at the end is legal, but ONNX Runtime's LayerNormalization crashes on one
        results = [self.value(op_type.lower(), dtype) for dtype in dtypes]
        name = self.unique(f"{self.scope}/{op_type}" if self.scope else op_type)
        made = ox.convenience.convert_attributes(attributes)
        if domain:
            self.root.domains.add(domain)
        self.nodes.append(ox.Node(domain, op_type, inputs, made, outputs=results, name=name))
        return results

    def _fit(self, op_type: str, allowed: frozenset[DType], dtype: DType) -> DType:
        if dtype in allowed:
            return dtype
        for wider in WIDER[dtype]:
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
        origin, shape = self.reshaped.get(x, (x, source))
        if shape == target and self.sizes.public(target):
            return origin
        y = self._reshape(x, source, target)
        if self.sizes.public(source):
            self.reshaped[y] = x, source
        return y

    def _reshape(self, x: ox.Value, source: tuple[Dim, ...], target: tuple[Dim, ...]) -> ox.Value:
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
        if x in self.transposed:
            x, first = self.transposed[x]
            perm = tuple(first[i] for i in perm)
        if perm == tuple(range(len(perm))):
            return x
        stored = self.root.weights.get(x)
        if stored is not None:
            return stored(perm, None)
        y = self.remember(("transpose", x, perm), lambda: self.op("Transpose", x, perm=list(perm)))
        self.transposed[y] = x, perm
        return y

    def rows(self, x: ox.Value, count: int) -> list[ox.Value]:
        """``x[0]`` … ``x[count - 1]``. Of a weight that nothing else reads each is stored by itself."""
        stored = self.root.weights.get(x)
        if stored is not None:
            return [stored(None, i) for i in range(count)]
        return [self.op("Gather", x, self.constant(i, i64), axis=0) for i in range(count)]

    def expand(self, x: ox.Value, source: Sequence[Dim], target: Sequence[Dim]) -> ox.Value:
        """Broadcast to a shape. An axis that has its size already is asked for 1, so that more expansions share a shape."""
        if tuple(source) == tuple(target):
            return x
        new = len(target) - len(source)
        wanted = [const(1) if i >= new and source[i - new] == dim else dim for i, dim in enumerate(target)]
        return self.op("Expand", x, self.shape(wanted))

    def unsqueeze(self, x: ox.Value, *axes: int) -> ox.Value:
        """With new axes of size 1 at ``axes``, counted in the result from the front (or all from the back)."""
        return self._moved("Unsqueeze", x, axes, self.unsqueezed, self.squeezed)

    def squeeze(self, x: ox.Value, *axes: int) -> ox.Value:
        """Without ``axes``, which have size 1."""
        return self._moved("Squeeze", x, axes, self.squeezed, self.unsqueezed)

    def _moved(
        self, op_type: str, x: ox.Value, axes: tuple[int, ...], made: dict[ox.Value, tuple[ox.Value, tuple[int, ...]]],
        undoes: dict[ox.Value, tuple[ox.Value, tuple[int, ...]]],
    ) -> ox.Value:  # fmt: skip
        """``op_type`` along ``axes``, noted in ``made``; where it undoes what ``x`` was made by, what that was made from."""
        if not axes:
            return x
        origin, theirs = undoes.get(x, (x, ()))
        if theirs == axes:
            return origin
        y = self.op(op_type, x, self.ints(axes))
        made[y] = x, axes
        return y

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

    def nested(self) -> Self:
        """An emitter for the graph of a loop's body within this one."""
        return type(self)(self.opset, parent=self)

    def region(
        self,
        name: str,
        inputs: Sequence[tuple[str, DType, int]],
        build: Callable[[Self, list[ox.Value]], Sequence[ox.Value]],
    ) -> ox.Graph:
        """The body of a Loop or Scan.

        Args:
            inputs: a name, dtype and rank each.
            build: makes the results from an emitter for the body and its input values.
        """
        inner = self.nested()
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
