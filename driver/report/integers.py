"""Other forms of what an ONNX file computes, for ONNX Runtime's integer products: its quantizer and its kernels know products by
weights, and neither convolutions nor attention.

The convolution that makes tokens of an image's patches is a product of each patch with the same weights. On one core of a Zen 5
it takes 0.50 ms (ViT-S/16; 0.26 with patches of 8), the product 0.63 in floats and 0.20 in int8 (0.16). Patches of 4 and of 2 are
faster as they are.

Of attention, both products can be integer ones. The keys and values must be signed: for two unsigned factors the kernel takes 1.6
times as long. Their scale comes from examples, since one that comes with the data is always of unsigned numbers. What a softmax
leaves is quantized as it comes: with 197 tokens, most of it is about 1/255 or less.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ox

# Patches at least so wide.
_WIDE = 8
# What a masked score becomes: a row that sees nothing is even then, where infinity would make each scale of it none.
_MASKED = -1e30


def convolutions(model: ox.Model) -> int:
    """How many there are."""
    return sum(node.op_type == "Conv" for node in model.graph)


def patches_as_products(model: ox.Model) -> int:
    """Turn each convolution of windows that touch, and cover the image, into a product of patches; how many."""
    found = [node for node in model.graph if _of_patches(node)]
    for node in found:
        _product(model.graph, node)
    return len(found)


def _attributes(node: ox.Node) -> dict[str, Any]:
    return {name: a.value for name, a in node.attributes.items() if a.value is not None}


def _sizes(shape: ox.Shape) -> list[int]:
    """0 for one that is free."""
    return [size if isinstance(size, int) else 0 for size in shape]


def _of_patches(node: ox.Node) -> bool:
    if node.op_type != "Conv" or node.domain:
        return False
    a, (x, kernel, *_) = _attributes(node), node.inputs
    if x is None or kernel is None or kernel.const_value is None or x.shape is None or len(x.shape) != 4:
        return False
    window = kernel.const_value.shape.numpy()[2:]
    covers = all(size and size % step == 0 for size, step in zip(_sizes(x.shape)[2:], window, strict=True))
    # Whatever the padding is called: with windows that cover all, there is none.
    plain = not any(a.get("pads", ())) and a.get("auto_pad", "NOTSET") in ("NOTSET", "VALID") and a.get("group", 1) == 1
    touch = tuple(a.get("strides", ())) == window and all(d == 1 for d in a.get("dilations", ()))
    return covers and plain and touch and window[1] >= _WIDE


def _product(graph: ox.Graph, node: ox.Node) -> None:
    """Images [B, C, H, W] to patches [B, rows, columns, C * window], and their product with the kernel to [B, O, rows, columns]."""
    import numpy as np

    x, kernel, *rest = node.inputs
    assert x is not None
    assert x.shape is not None
    assert kernel is not None
    assert kernel.const_value is not None
    weight = kernel.const_value.numpy()
    outer, channels, high, wide = weight.shape
    rows, columns = (size // step for size, step in zip(_sizes(x.shape)[2:], (high, wide), strict=True))
    at = _At(graph, node)
    split = at("Reshape", x, at.ints(0, channels, rows, high, columns, wide))
    patches = at("Transpose", split, perm=[0, 2, 4, 1, 3, 5])
    flat = at("Reshape", patches, at.ints(0, rows, columns, channels * high * wide))
    matrix = np.ascontiguousarray(weight.reshape(outer, -1).T)
    y = at("MatMul", flat, at.constant(matrix, f"{kernel.name}.patches"))
    if rest and rest[0] is not None:
        y = at("Add", y, rest[0])
    at.replaces(at("Transpose", y, perm=[0, 3, 1, 2]))
    if not kernel.uses():
        graph.initializers.pop(str(kernel.name), None)


def plain_attention(model: ox.Model) -> list[ox.Node]:
    """Attention whose two products can be those of integers: of floats of 32 bits, with as many heads of keys as of queries,
    without a causal mask (the op's own skips half of the products), a cache, or scores that are read elsewhere."""
    return [node for node in model.graph if node.op_type == "Attention" and not node.domain and _is_plain(node)]


def _is_plain(node: ox.Node) -> bool:
    a = _attributes(node)
    inputs = list(node.inputs)
    alone = not any(inputs[4:]) and not any(o.uses() or o.is_graph_output() for o in node.outputs[1:])
    heads = a.get("q_num_heads", 0) == a.get("kv_num_heads", 0)
    if "q_num_heads" not in a:
        # [B, H, T, K]: as many heads, if that is known.
        shapes = [x.shape for x in inputs[:2] if x is not None]
        heads = all(s is not None and len(s) == 4 for s in shapes) and len({s[1] for s in shapes if s is not None}) == 1
    floats = all(x is not None and x.dtype is not None and x.dtype.name == "FLOAT" for x in inputs[:3])
    return alone and heads and floats and bool(a.get("scale")) and not a.get("is_causal") and not a.get("softcap")


def ranges(model: Path, names: Sequence[str], feeds: Sequence[Mapping[str, np.ndarray]]) -> dict[str, tuple[float, float]]:
    """The smallest and the largest number, 0 included, that each value of a file has on any of the examples."""
    import onnx_ir as ox
    import onnxruntime as ort

    from ...backends.onnx.target import Onnx
    from ...runtime.files.aside import Scratch

    found = dict.fromkeys(names, (0.0, 0.0))
    with Scratch() as folder:
        shown = ox.load(os.fspath(model))
        values = {v.name: v for node in shown.graph for v in node.outputs}
        already = {v.name for v in shown.graph.outputs}
        shown.graph.outputs.extend(values[name] for name in names if name not in already)
        path = os.fspath(Path(folder, f"shown{Onnx.suffix}"))
        ox.save(shown, path)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for feed in feeds:
            for name, array in zip(names, session.run(list(names), dict(feed)), strict=True):
                low, high = found[name]
                found[name] = min(low, float(array.min(initial=0.0))), max(high, float(array.max(initial=0.0)))
    return found


def attention_in_integers(model: ox.Model, limits: Mapping[str, tuple[float, float]]) -> None:
    """Write the products of :func:`plain_attention` between quantized operands, for which ONNX Runtime has integer ones."""
    for node in plain_attention(model):
        _integers(model.graph, node, limits)


def _integers(graph: ox.Graph, node: ox.Node, limits: Mapping[str, tuple[float, float]]) -> None:
    import numpy as np

    a, at = _attributes(node), _At(graph, node)
    q, k, v, *rest = node.inputs
    assert q is not None
    assert k is not None
    assert v is not None
    heads = int(a.get("q_num_heads", 0))

    def quantized(x: ox.Value, perm: Sequence[int], signed: bool, factor: float = 1.0) -> ox.Value:
        """x split into heads, with axes [B, T, H, K] or [B, H, T, K] in the given order of the first."""
        low, high = limits[str(x.name)]
        zero: np.ndarray
        if signed:
            scale, zero = max(high, -low) / 127, np.array(0, np.int8)
        else:
            scale = (high - low) / 255
            zero = np.array(round(-low / scale) if scale else 0, np.uint8)
        scale = scale or 1.0
        y = at("QuantizeLinear", x, at.constant(np.float32(scale)), at.constant(zero))
        if heads:
            y = at("Reshape", y, at.ints(0, 0, heads, -1))
        else:
            perm = [{1: 2, 2: 1}.get(axis, axis) for axis in perm]
        if list(perm) != [0, 1, 2, 3]:
            y = at("Transpose", y, perm=list(perm))
        return at("DequantizeLinear", y, at.constant(np.float32(scale * factor)), at.constant(zero))

    scale = float(a["scale"])
    scores = at("MatMul", quantized(q, (0, 2, 1, 3), False, scale), quantized(k, (0, 2, 3, 1), True))
    if rest and rest[0] is not None:
        least = at.constant(np.float32(_MASKED))
        mask = rest[0]
        if mask.dtype is not None and mask.dtype.name == "BOOL":
            scores = at("Where", mask, scores, least)
        else:
            scores = at("Add", scores, at("Max", mask, least))
    shares = at.several("DynamicQuantizeLinear", at("Softmax", scores, axis=-1), outputs=3)
    y = at("MatMul", at("DequantizeLinear", *shares), quantized(v, (0, 2, 1, 3), True))
    if heads:
        y = at("Reshape", at("Transpose", y, perm=[0, 2, 1, 3]), at.ints(0, 0, -1))
    at.replaces(y)


class _At:
    """Nodes written where another stood."""

    def __init__(self, graph: ox.Graph, node: ox.Node) -> None:
        self.graph, self.node = graph, node
        self.nodes: list[ox.Node] = []
        self.stem = str(node.outputs[0].name)

    def __call__(self, op: str, *inputs: ox.Value, **attributes: Any) -> ox.Value:
        return self.several(op, *inputs, outputs=1, **attributes)[0]

    def several(self, op: str, *inputs: ox.Value, outputs: int, **attributes: Any) -> Sequence[ox.Value]:
        import onnx_ir as ox

        name = f"{self.stem}.{op}_{len(self.nodes)}"
        made = ox.node(op, list(inputs), attributes=attributes, num_outputs=outputs, name=name)
        for i, value in enumerate(made.outputs):
            value.name = f"{name}.{i}"
        self.nodes.append(made)
        return made.outputs

    def constant(self, array: Any, name: str = "") -> ox.Value:
        import numpy as np
        import onnx_ir as ox

        array = np.asarray(array)
        name = name or f"{self.stem}.constant_{len(self.graph.initializers)}"
        value = ox.Value(name=name, shape=ox.Shape(array.shape), const_value=ox.tensor(array, name=name))
        value.type = ox.TensorType(ox.DataType.from_numpy(array.dtype))
        self.graph.initializers[name] = value
        return value

    def ints(self, *sizes: int) -> ox.Value:
        import numpy as np

        return self.constant(np.array(sizes, np.int64))

    def replaces(self, value: ox.Value) -> None:
        """These nodes instead of the one; ``value`` is what it was."""
        import onnx_ir as ox

        old = self.node.outputs[0]
        value.type, value.shape = old.type, old.shape
        ox.convenience.replace_nodes_and_values(self.graph, self.node, [self.node], self.nodes, [old], [value])
