"""Each op on a small graph with free sizes, imported, printed, read again, run, and compared with ONNX Runtime."""

# The table: a row reads better on one line.
# ruff: noqa: E501

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera.tests.frontends.onnx.support import Declared, agree, model, node

F: Declared = ("f32", ["B", "T", 4])
IDS: Declared = ("i64", ["B", "T"])
IMAGE: Declared = ("f32", ["B", 4, 9, 8])
MS = "com.microsoft"


def f(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def i(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def w(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@dataclass
class Case:
    nodes: list[Any]
    inputs: dict[str, Declared]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    opset: int = 18
    feeds: dict[str, np.ndarray] | None = None
    outputs: tuple[str, ...] = ("y",)
    tolerance: float = 1e-5


def one(op: str, operands: str = "x", *, opset: int = 18, x: Declared = F, feeds: Any = None, domain: str = "",
        more: dict[str, Declared] | None = None, results: str = "y", tolerance: float = 1e-5,
        constants: dict[str, np.ndarray] | None = None, **attrs: Any) -> Case:  # fmt: skip
    made = node(op, operands, results, domain=domain, **attrs)
    return Case([made], {"x": x, **(more or {})}, constants or {}, opset, feeds, tuple(results.split()), tolerance)


POSITIVE = {"x": np.linspace(0.1, 3, 40, dtype=np.float32).reshape(2, 5, 4)}
FIXED: Declared = ("f32", [2, 5, 4])

CASES: dict[str, Case] = {
    **{op: one(op) for op in ("Abs", "Neg", "Sign", "Exp", "Sin", "Cos", "Tanh", "Sigmoid", "Erf", "Floor", "Ceil",
                              "Round", "Relu", "Softplus", "Softsign", "HardSigmoid", "HardSwish", "Elu", "Selu", "Celu",
                              "LeakyRelu", "ThresholdedRelu", "Mish", "Identity", "Reciprocal", "Tan", "Softmax",
                              "LogSoftmax")},
    **{op: one(op, x=FIXED, feeds=POSITIVE) for op in ("Log", "Sqrt")},
    "Sinh": one("Sinh", tolerance=1e-4),
    "Cosh": one("Cosh", tolerance=1e-4),
    "Gelu": one("Gelu", opset=20),
    "Gelu tanh": one("Gelu", opset=20, approximate="tanh"),
    "QuickGelu": one("QuickGelu", domain=MS),
    "FastGelu": one("FastGelu", "x b", constants={"b": w(4)}, domain=MS),
    "BiasGelu": one("BiasGelu", "x b", constants={"b": w(4)}, domain=MS),
    "PRelu": one("PRelu", "x a", constants={"a": f(0.1, 0.2, 0.3, 0.4)}),
    "Swish": one("Swish", opset=24, alpha=0.5),
    "Softmax axis": one("Softmax", axis=1),
    "Clip": one("Clip", "x low high", constants={"low": np.float32(-0.5), "high": np.float32(0.7)}),
    "Clip high": one("Clip", "x _ high", constants={"high": np.float32(0.7)}),
    "IsNaN": one("IsNaN", x=FIXED, feeds={"x": np.where(POSITIVE["x"] > 1, np.nan, POSITIVE["x"])}),
    "IsInf": one("IsInf", x=FIXED, feeds={"x": np.where(POSITIVE["x"] > 1, -np.inf, POSITIVE["x"])}),
    "IsInf positive": one("IsInf", x=FIXED, detect_negative=0, feeds={"x": np.where(POSITIVE["x"] > 1, np.inf, POSITIVE["x"])}),
    **{op: one(op, "x z", more={"z": ("f32", ["B", 1, 4])}) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Greater", "Less",
                                                                       "GreaterOrEqual", "LessOrEqual", "Equal")},
    **{op: one(op, "x z", x=("bool", ["B", "T"]), more={"z": ("bool", ["T"])}) for op in ("And", "Or", "Xor")},
    "Not": one("Not", x=("bool", ["B"])),
    "Sum of three": one("Sum", "x z x", more={"z": F}),
    "Mean of two": one("Mean", "x z", more={"z": F}),
    "Max with the lowest number": one("Max", "x s", constants={"s": np.float32(np.finfo(np.float32).min)}),
    "Mul by a parameter": one("Mul", "x s", constants={"s": w(4)}),
    "Add of a scalar in an axis": one("Add", "x s", constants={"s": f(0.5)}),
    "Add of nothing": one("Add", "x s", constants={"s": f(0.0)}),
    "integers Div": one("Div", "x z", x=("i64", [6]), more={"z": ("i64", [6])},
                        feeds={"x": i(-7, 7, -7, 7, 6, 0), "z": i(2, -2, -2, 2, 3, 5)}),
    "integers Div by a constant": one("Div", "x z", x=("i64", [4]), constants={"z": i(2)}, feeds={"x": i(-7, 7, -1, 4)}),
    "Mod": one("Mod", "x z", x=("i64", [4]), more={"z": ("i64", [4])}, feeds={"x": i(-7, 7, -7, 7), "z": i(3, -3, -3, 3)}),
    "Mod of C": one("Mod", "x z", x=("i64", [4]), more={"z": ("i64", [4])}, fmod=1,
                    feeds={"x": i(-7, 7, -7, 7), "z": i(3, -3, -3, 3)}),
    "Mod of floats": one("Mod", "x z", x=("f32", [4]), more={"z": ("f32", [4])}, fmod=1,
                         feeds={"x": f(-7.5, 7.5, -7, 7), "z": f(2, -2, -3, 3)}),
    "Pow 2": one("Pow", "x p", constants={"p": np.float32(2)}),
    "Pow 3": one("Pow", "x p", constants={"p": np.float32(3)}),
    "Pow 0.5": one("Pow", "x p", constants={"p": np.float32(0.5)}, x=FIXED, feeds=POSITIVE),
    "Pow -0.5": one("Pow", "x p", constants={"p": np.float32(-0.5)}, x=FIXED, feeds=POSITIVE),
    "Pow of a tensor": one("Pow", "x p", more={"p": ("f32", [4])}, x=FIXED, feeds=POSITIVE),
    "Pow by an integer": one("Pow", "x p", constants={"p": np.int64(2)}),
    "Where": one("Where", "c x z", more={"c": ("bool", ["B", 1, 1]), "z": ("f32", [4])}),
    "Where with constants": one("Where", "c a b", x=F, more={"c": ("bool", ["B", "T"])},
                                constants={"a": f(0), "b": f(-np.inf)}),
    "Cast": one("Cast", to=7),
    "Cast to bool": one("Cast", x=IDS, to=9),
    "Cast to f16 and back": Case([node("Cast", "x", "h", to=10), node("Cast", "h", "y", to=1)], {"x": F}, tolerance=1e-3),
    "CastLike": one("CastLike", "x z", more={"z": ("i64", [1])}),
    "Dropout": one("Dropout"),

    # Layout
    "Transpose": one("Transpose", perm=[0, 2, 1]),
    "Transpose reversed": one("Transpose"),
    "Reshape 0 and -1": one("Reshape", "x s", constants={"s": i(0, -1, 2, 2)}),
    "Reshape flat": one("Reshape", "x s", constants={"s": i(-1)}),
    "Flatten": one("Flatten", axis=2),
    "Flatten negative": one("Flatten", axis=-1),
    "Squeeze": one("Squeeze", "x a", x=("f32", ["B", 1, 4, 1]), constants={"a": i(1, -1)}),
    "Squeeze all": one("Squeeze", x=("f32", [1, 3, 1])),
    "Unsqueeze": one("Unsqueeze", "x a", constants={"a": i(0, -1)}),
    "Concat": one("Concat", "x z x", more={"z": ("f32", ["B", 2, 4])}, axis=1),
    "Slice": one("Slice", "x s e a", constants={"s": i(1), "e": i(2**62), "a": i(1)}),
    "Slice from the end": one("Slice", "x s e a", constants={"s": i(-2), "e": i(-1), "a": i(-1)}),
    "Slice with steps": one("Slice", "x s e a t", constants={"s": i(0, 3), "e": i(2**62, 1), "a": i(1, 2), "t": i(2, -1)}),
    "Slice reversed": one("Slice", "x s e a t", constants={"s": i(-1), "e": i(-(2**62)), "a": i(1), "t": i(-1)}),
    "Slice past the end": one("Slice", "x s e a", constants={"s": i(2), "e": i(100), "a": i(2)}),
    "Split": one("Split", "x s", results="y z", constants={"s": i(1, 3)}, axis=-1),
    "Split equally": one("Split", results="y z", axis=2, num_outputs=2),
    "Split unequally": one("Split", results="y z", x=("f32", ["B", 5]), axis=1, num_outputs=2),
    "Split at 13": one("Split", results="y z", axis=2, opset=13),
    "Expand": one("Expand", "x s", x=("f32", ["B", 1, 4]), constants={"s": i(1, 3, 1)}),
    "Expand with a new axis": one("Expand", "x s", constants={"s": i(2, 1, 1, 4)}),
    "Tile": one("Tile", "x r", constants={"r": i(1, 2, 3)}),
    "Tile of ones": one("Tile", "x r", x=("f32", ["B", 1, 4]), constants={"r": i(1, 5, 1)}),
    "Pad": one("Pad", "x p v", constants={"p": i(0, 1, 0, 0, 2, 3), "v": np.float32(0.5)}),
    "Pad axes": one("Pad", "x p _ a", constants={"p": i(1, 2), "a": i(-1)}),
    "Pad negative": one("Pad", "x p", constants={"p": i(0, 0, -1, 0, 0, 2)}),
    "Pad reflect": one("Pad", "x p", x=("f32", ["B", 4]), constants={"p": i(0, 2, 0, 1)}, mode="reflect"),
    "Pad edge": one("Pad", "x p", x=("f32", ["B", 4]), constants={"p": i(0, 2, 0, 1)}, mode="edge"),
    "Trilu upper": one("Trilu", x=("f32", ["B", "T", "T"])),
    "Trilu lower": one("Trilu", "x k", x=("f32", ["B", "T", "T"]), constants={"k": np.array(-1)}, upper=0),
    "DepthToSpace": one("DepthToSpace", x=("f32", ["B", 8, 2, 3]), blocksize=2),
    "DepthToSpace CRD": one("DepthToSpace", x=("f32", ["B", 8, 2, 3]), blocksize=2, mode="CRD"),
    "SpaceToDepth": one("SpaceToDepth", x=("f32", ["B", 2, 4, 6]), blocksize=2),
    "Col2Im": one("Col2Im", "x s k", x=("f32", ["B", 12, 6]), constants={"s": i(4, 9), "k": i(2, 3)}, strides=[2, 3]),
    "Col2Im with a rest": one("Col2Im", "x s k", x=("f32", ["B", 12, 6]), constants={"s": i(5, 11), "k": i(2, 3)}, strides=[2, 3]),
    "EyeLike": one("EyeLike", x=("f32", ["T", 3]), k=1),

    # Reduction and order
    **{op: one(op, "x a", constants={"a": i(1, 2)}) for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd", "ReduceL1",
                                                               "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp")},
    "ReduceMean at 17": one("ReduceMean", opset=17, axes=[-1], keepdims=0),
    "ReduceSum of all": one("ReduceSum", keepdims=0),
    "ReduceSum of none": one("ReduceSum", noop_with_empty_axes=1),
    "ReduceLogSum": one("ReduceLogSum", "x a", x=FIXED, feeds=POSITIVE, constants={"a": i(1)}),
    "ArgMax": one("ArgMax", axis=1),
    "ArgMax of the last": one("ArgMax", x=("i64", ["B", "T"]), axis=1, select_last_index=1, keepdims=0),
    "ArgMin": one("ArgMin", axis=-1, keepdims=0),
    "TopK": one("TopK", "x k", results="y z", constants={"k": i(2)}),
    "TopK smallest": one("TopK", "x k", results="y z", constants={"k": i(2)}, axis=1, largest=0),
    "CumSum": one("CumSum", "x a", constants={"a": np.array(1)}),
    "CumSum exclusive": one("CumSum", "x a", constants={"a": np.array(-1)}, exclusive=1, reverse=1),

    # Indexing
    "Gather a token": one("Gather", "x k", constants={"k": np.array(0)}, axis=1),
    "Gather the last": one("Gather", "x k", constants={"k": np.array(-1)}, axis=1),
    "Gather a run": one("Gather", "x k", constants={"k": i(1, 2, 3)}, axis=2),
    "Gather some": one("Gather", "x k", constants={"k": i(3, -4, 1)}, axis=2),
    "Gather embeddings": one("Gather", "w x", x=IDS, constants={"w": w(3, 4)}),
    "Gather negative of a free size": one("Gather", "x k", constants={"k": i(-1, 0)}, axis=1),
    "GatherElements": one("GatherElements", "x k", x=("f32", ["B", 3]), more={"k": ("i64", ["B", "T"])}, axis=1),
    "GatherND": one("GatherND", "x k", x=("f32", [3, 3, 4]), more={"k": ("i64", ["T", 2])}),
    "GatherND batch": one("GatherND", "x k", x=("f32", ["B", 3, 4]), more={"k": ("i64", ["B", "T", 1])}, batch_dims=1),
    "ScatterND": one("ScatterND", "x k u", x=("f32", [3, 3, 4]), constants={"k": i(0, 1, 2, 2).reshape(2, 2)},
                     more={"u": ("f32", [2, 4])}),
    "ScatterND add": one("ScatterND", "x k u", x=("f32", [3, "B"]), more={"k": ("i64", ["T", 1]), "u": ("f32", ["T", "B"])},
                         reduction="add"),
    "ScatterElements": one("ScatterElements", "x k u", x=("f32", ["B", 3]), more={"k": ("i64", ["B", 1]), "u": ("f32", ["B", 1])},
                           axis=1),
    "ScatterElements add": one("ScatterElements", "x k u", x=("f32", [3, "B"]), axis=0, reduction="add",
                               more={"k": ("i64", ["T", "B"]), "u": ("f32", ["T", "B"])}),
    "ScatterElements max": one("ScatterElements", "x k u", x=("f32", ["B", 3]), axis=-1, reduction="max",
                               more={"k": ("i64", ["B", "T"]), "u": ("f32", ["B", "T"])}),
    "OneHot": one("OneHot", "x d v", x=IDS, constants={"d": i(3), "v": f(0, 1)}),
    "OneHot axis": one("OneHot", "x d v", x=IDS, constants={"d": i(3), "v": f(-1, 2)}, axis=1),
    "Compress": one("Compress", "x c", x=("f32", ["B", 4]), constants={"c": np.array([True, False, True, False])}, axis=1),
    "ReverseSequence": one("ReverseSequence", "x n", x=("f32", ["T", "B"]), more={"n": ("i64", ["B"])}, time_axis=0, batch_axis=1,
                           feeds={"x": w(5, 2), "n": i(3, 5)}),

    # Products
    "MatMul by a weight": one("MatMul", "x w", constants={"w": w(4, 3)}),
    "MatMul": one("MatMul", "x z", more={"z": ("f32", ["B", 4, "T"])}),
    "MatMul with a vector": one("MatMul", "x z", more={"z": ("f32", [4])}),
    "MatMul of vectors": one("MatMul", "x z", x=("f32", [4]), more={"z": ("f32", [4])}),
    "MatMul of a weight": one("MatMul", "w x", x=("f32", ["B", 4, "T"]), constants={"w": w(3, 4)}),
    "MatMul by a transposed weight": Case([node("Transpose", "w", "v", perm=[1, 0]), node("MatMul", "x v", "y")],
                                          {"x": F}, {"w": w(3, 4)}),
    "MatMul by both": Case([node("Transpose", "w", "v", perm=[1, 0]), node("MatMul", "x v", "h"), node("MatMul", "h w", "y")],
                           {"x": F}, {"w": w(3, 4)}),
    "Gemm": one("Gemm", "x w b", x=("f32", ["B", 4]), constants={"w": w(4, 3), "b": w(3)}),
    "Gemm transposed": one("Gemm", "x w b", x=("f32", ["B", 4]), constants={"w": w(3, 4), "b": w(3)}, transB=1),
    "Gemm scaled": one("Gemm", "x w b", x=("f32", [4, "B"]), constants={"w": w(3, 4), "b": w(1, 3)}, transA=1, transB=1,
                       alpha=0.5, beta=2.0),
    "Gemm of inputs": one("Gemm", "x z", x=("f32", ["B", 4]), more={"z": ("f32", [4, "T"])}),
    "FusedMatMul": one("FusedMatMul", "x z", more={"z": ("f32", ["B", "T", 4])}, transB=1, alpha=0.5, domain=MS),
    "Einsum": one("Einsum", "x z", more={"z": ("f32", ["B", "T", 4])}, equation="btd,bsd->bts"),
    "Einsum with dots": one("Einsum", "x w", constants={"w": w(3, 4)}, equation="...d,od->...o"),
    "Einsum without an arrow": one("Einsum", "x w", x=("f32", ["B", 4]), constants={"w": w(4, 3)}, equation="ij,jk"),
    "Conv": one("Conv", "x w b", x=IMAGE, constants={"w": w(6, 4, 3, 3), "b": w(6)}, strides=[2, 2], pads=[1, 1, 1, 1], tolerance=1e-4),
    "Conv groups": one("Conv", "x w", x=IMAGE, constants={"w": w(4, 1, 3, 3)}, group=4, dilations=[2, 2], tolerance=1e-4),
    "Conv to one side": one("Conv", "x w", x=IMAGE, constants={"w": w(6, 4, 2, 2)}, pads=[0, 1, 1, 0], tolerance=1e-4),
    "Conv same": one("Conv", "x w", x=IMAGE, constants={"w": w(6, 4, 3, 3)}, strides=[2, 2], auto_pad="SAME_UPPER", tolerance=1e-4),
    "Conv same lower": one("Conv", "x w", x=IMAGE, constants={"w": w(6, 4, 2, 2)}, auto_pad="SAME_LOWER", tolerance=1e-4),
    "Conv of a line": one("Conv", "x w b", x=("f32", ["B", 4, "T"]), constants={"w": w(6, 4, 3), "b": w(6)}, pads=[1, 1], tolerance=1e-4),
    "ConvTranspose": one("ConvTranspose", "x w b", x=("f32", ["B", 4, 3, 5]), constants={"w": w(4, 6, 3, 2), "b": w(6)}, strides=[2, 3],
                         pads=[1, 0, 1, 0], output_padding=[1, 0], tolerance=1e-4),
    "ConvTranspose groups": one("ConvTranspose", "x w", x=("f32", ["B", 4, 3, 5]), constants={"w": w(4, 3, 2, 2)}, group=2,
                                pads=[1, 0, 0, 2], dilations=[1, 2], tolerance=1e-4),
    "MaxPool": one("MaxPool", x=IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "MaxPool up": one("MaxPool", x=IMAGE, kernel_shape=[2, 3], strides=[2, 3], ceil_mode=1),
    "MaxPool dilated": one("MaxPool", x=IMAGE, kernel_shape=[2, 2], dilations=[2, 3]),
    "AveragePool": one("AveragePool", x=IMAGE, kernel_shape=[3, 3], strides=[2, 2]),
    "AveragePool padded": one("AveragePool", x=IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "AveragePool counting": one("AveragePool", x=IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    "GlobalAveragePool": one("GlobalAveragePool", x=IMAGE),
    "GlobalMaxPool": one("GlobalMaxPool", x=IMAGE),
    "MatMulInteger": one("MatMulInteger", "x z a", x=("u8", ["B", 4]), more={"z": ("i8", [4, 3])}, constants={"a": np.array(1, np.uint8)}),

    # Normalisation
    "LayerNormalization": one("LayerNormalization", "x w b", constants={"w": w(4), "b": w(4)}, epsilon=1e-6),
    "LayerNormalization of two axes": one("LayerNormalization", "x w b", x=("f32", ["B", 3, 4]), constants={"w": w(3, 4), "b": w(3, 4)},
                                          axis=1),
    "RMSNormalization": one("RMSNormalization", "x w", constants={"w": w(4)}, opset=23),
    "SkipLayerNormalization": one("SkipLayerNormalization", "x z w b c", more={"z": F}, constants={"w": w(4), "b": w(4), "c": w(4)},
                                  domain=MS),
    "SkipSimplifiedLayerNormalization": one("SkipSimplifiedLayerNormalization", "x z w", more={"z": F}, constants={"w": w(4)}, domain=MS,
                                            tolerance=1e-4),
    "BatchNormalization": one("BatchNormalization", "x w b m v", x=IMAGE,
                              constants={"w": w(4), "b": w(4), "m": w(4), "v": np.abs(w(4))}),
    "InstanceNormalization": one("InstanceNormalization", "x w b", x=IMAGE, constants={"w": w(4), "b": w(4)}),
    "GroupNormalization": one("GroupNormalization", "x w b", x=IMAGE, constants={"w": w(4), "b": w(4)}, num_groups=2, opset=21),
    "GroupNormalization at 18": one("GroupNormalization", "x w b", x=IMAGE, constants={"w": w(2), "b": w(2)}, num_groups=2, opset=18),
    "LpNormalization": one("LpNormalization", axis=-1),
    "MeanVarianceNormalization": one("MeanVarianceNormalization", x=IMAGE),
    "DequantizeLinear": one("DequantizeLinear", "x s z", x=("i8", ["B", 4]), constants={"s": np.abs(w(4)), "z": np.ones(4, np.int8)}),
    "DynamicQuantizeLinear": one("DynamicQuantizeLinear", results="y s z"),
    "QuantizeLinear": one("QuantizeLinear", "x s z", constants={"s": np.float32(0.1), "z": np.array(128, np.uint8)}),

    # Attention
    "Attention": one("Attention", "x k v", x=("f32", ["B", "T", 8]), opset=23, q_num_heads=2, kv_num_heads=2,
                     more={"k": ("f32", ["B", 6, 8]), "v": ("f32", ["B", 6, 8])}),
    "Attention causal": one("Attention", "x x x", x=("f32", ["B", 2, "T", 8]), opset=24, is_causal=1, scale=0.3),
    "Attention grouped": one("Attention", "x k k", x=("f32", ["B", 4, "T", 8]), more={"k": ("f32", ["B", 2, "T", 8])}, opset=24),
    "Attention mask": one("Attention", "x x x m", x=("f32", ["B", 2, "T", 8]), opset=24, more={"m": ("f32", ["T", "T"])}),
    "Attention cache": one("Attention", "x k v _ p q", results="y a b", x=("f32", ["B", 2, "T", 8]), opset=23, is_causal=1,
                           more={n: ("f32", ["B", 2, "T", 8]) for n in "kv"} | {n: ("f32", ["B", 2, 3, 8]) for n in "pq"}),
    "Attention length": one("Attention", "x x x _ _ _ n", x=("f32", [2, 2, 3, 8]), opset=24, more={"n": ("i64", [2])},
                            feeds={"n": i(2, 3)}),
    "RotaryEmbedding": one("RotaryEmbedding", "x c s", x=("f32", ["B", 2, "T", 8]), opset=23,
                           more={"c": ("f32", ["B", "T", 4]), "s": ("f32", ["B", "T", 4])}),
    "RotaryEmbedding by position": one("RotaryEmbedding", "x c s p", x=("f32", ["B", "T", 16]), opset=23, num_heads=2, interleaved=1,
                                       constants={"c": w(9, 4), "s": w(9, 4)}, more={"p": ("i64", ["B", "T"])}),
    "MultiHeadAttention": one("MultiHeadAttention", "x x x b", x=("f32", ["B", "T", 8]), constants={"b": w(24)}, num_heads=2, domain=MS),
    "Attention of Microsoft": one("Attention", "x w b m", x=("f32", ["B", "T", 8]), constants={"w": w(8, 24), "b": w(24)}, domain=MS,
                                  num_heads=2, more={"m": ("i32", ["B", "T"])}, feeds=None),

    # Resizing
    "Resize repeated": one("Resize", "x _ s", x=IMAGE, constants={"s": f(1, 1, 2, 2)}, mode="nearest",
                           coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    "Resize nearest": one("Resize", "x _ _ n", x=IMAGE, constants={"n": i(2, 4, 5, 11)}, mode="nearest"),
    "Resize linear": one("Resize", "x _ _ n", x=("f32", [2, 4, 9, 8]), constants={"n": i(2, 4, 5, 11)}, mode="linear"),
    "Resize cubic": one("Resize", "x _ _ n", x=("f32", [2, 4, 9, 8]), constants={"n": i(2, 4, 12, 11)}, mode="cubic", tolerance=1e-4),
    "Resize aligned": one("Resize", "x _ _ n", x=("f32", [2, 4, 9, 8]), constants={"n": i(2, 4, 5, 11)}, mode="linear",
                          coordinate_transformation_mode="align_corners"),
    "Resize scaled": one("Resize", "x _ s", x=("f32", [2, 4, 9, 8]), constants={"s": f(1, 1, 0.6, 1.7)}, mode="linear"),
}  # fmt: skip
CASES["Resize nearest"].inputs["x"] = ("f32", [2, 4, 9, 8])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_op(case: Case, tmp_path: Path) -> None:
    proto = model(case.nodes, case.inputs, case.outputs, case.constants, opset=case.opset)
    agree(proto, tmp_path, feeds=case.feeds, tolerance=case.tolerance)


@pytest.mark.parametrize("dtype", ["f64", "f16", "i32", "i8", "u8", "i16"])
def test_dtypes(dtype: str, tmp_path: Path) -> None:
    proto = model([node("Concat", "x x", "c", axis=0), node("Unsqueeze", "c a", "y")], {"x": (dtype, ["B", 3])}, ["y"],
                  {"a": i(0)})  # fmt: skip
    agree(proto, tmp_path)
