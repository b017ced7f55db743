"""Small graphs and modules, and what becomes of them as ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ox

from tessera.backends.onnx import build, check, serialize
from tessera.backends.onnx.session import Session
from tessera.frontends.source import resolve
from tessera.ir.builder import Builder
from tessera.ir.dims.dim import sym
from tessera.ir.graph import Graph, Module, Value
from tessera.ir.types import DType, TensorType

B, T = sym("B"), sym("T")


def of(dtype: str, *shape: Any) -> TensorType:
    return TensorType.of(dtype, shape)


def finish(b: Builder, **outputs: Value) -> Graph:
    for name, value in outputs.items():
        b.graph.add_output(value, name)
    return b.graph


def module(b: Builder, **outputs: Value) -> Module:
    return Module(b.graph.name, finish(b, **outputs))


def of_composite(name: str, arrays: list[Any], attrs: dict[str, Any], symbols: bool) -> Module:
    """A model of one composite; with ``symbols`` equal sizes of batch and tokens become one symbol each."""
    b = Builder(Graph("m"))
    names = {2: "B", 5: "T", 7: "S"} if symbols else {}
    inputs = [
        None
        if a is None
        else b.input(f"x{i}", TensorType.of(DType.from_numpy(a.dtype), [names.get(d, d) for d in a.shape]))
        for i, a in enumerate(arrays)
    ]
    results = b.multi(resolve(name), *inputs, **attrs)
    return module(b, **{f"y{i}": y for i, y in enumerate(results)})


def ops(model: ox.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def session(made: Module, weights: Any = None, **options: Any) -> Session:
    model = build(made, weights, **options)
    check(model)
    return Session(serialize(model))


def randn(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def linear_model(rows: int = 6, columns: int = 4, dtype: str = "f32", layers: int = 1) -> Module:
    b = Builder(Graph("m"))
    x: Value = b.input("x", of(dtype, "B", columns))
    for i in range(layers):
        w = b.param(f"layers.{i}.weight", of(dtype, rows, columns))
        x = b.op(resolve("std.nn.affine"), x, w, b.param(f"layers.{i}.bias", of(dtype, rows)))
    return module(b, y=x)
