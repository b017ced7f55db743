"""A small decoder in the form that optimum's and ONNX Runtime GenAI's exporters give it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx


class Decoder:
    """Rotary grouped attention over a cache, and norms that take the residual sum with them, op by op of Microsoft's domain."""

    LAYERS, HEADS, GROUPS, WIDTH, VOCAB = 2, 4, 2, 16, 40

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        dim, half = self.HEADS * self.WIDTH, self.WIDTH // 2
        angle = np.outer(np.arange(32), 100.0 ** -(np.arange(half) / half))
        self.weights |= {"cos": np.cos(angle), "sin": np.sin(angle), "norm": self.rng.random(dim) + 0.5}
        self.add("Gather", [self.weight("embed", self.VOCAB, dim), "input_ids"], ["x0"])
        self.add("SimplifiedLayerNormalization", ["x0", "norm"], ["n0"], epsilon=1e-5)
        self.add("ReduceSum", ["attention_mask", "axis"], ["total"], keepdims=0)
        self.add("Sub", ["total", "axis"], ["last"])
        self.add("Cast", ["last"], ["lengths"], to=onnx.TensorProto.INT32)
        self.add("Shape", ["attention_mask"], ["shape"])
        self.add("Gather", ["shape", "place"], ["size"])
        self.add("Cast", ["size"], ["longest"], to=onnx.TensorProto.INT32)
        for i in range(self.LAYERS):
            self.layer(i)
        self.add("MatMul", [f"n{self.LAYERS}", self.weight("head", dim, self.VOCAB)], ["logits"])

    def add(self, op: str, inputs: list[str], outputs: list[str], **attrs: Any) -> str:
        self.nodes.append(onnx.helper.make_node(op, inputs, outputs, name=f"{op}_{outputs[0]}", **attrs))
        return outputs[0]

    def weight(self, name: str, *shape: int) -> str:
        self.weights[name] = self.rng.standard_normal(shape) * shape[0] ** -0.5
        return name

    def product(self, i: int, name: str, x: str, *shape: int) -> str:
        return self.add("MatMul", [x, self.weight(f"{i}.{name}", *shape)], [f"{name}{i}"])

    def layer(self, i: int) -> None:
        dim, keys = self.HEADS * self.WIDTH, self.GROUPS * self.WIDTH
        packed = [self.product(i, name, f"n{i}", dim, size) for name, size in (("q", dim), ("k", keys), ("v", keys))]
        states = [[f"{which}.{i}.{part}" for part in ("key", "value")] for which in ("past_key_values", "present")]
        self.add("GroupQueryAttention", [*packed, *states[0], "lengths", "longest", "cos", "sin"], [f"a{i}", *states[1]],
                 domain="com.microsoft", num_heads=self.HEADS, kv_num_heads=self.GROUPS, do_rotary=1)  # fmt: skip
        middle = self.residual(f"x{i}", self.product(i, "o", f"a{i}", dim, dim), f"m{i}", f"y{i}")
        gate = self.product(i, "gate", middle, dim, 24)
        self.add("Sigmoid", [gate], [f"s{i}"])
        self.add("Mul", [gate, f"s{i}"], [f"w{i}"])
        self.add("Mul", [f"w{i}", self.product(i, "up", middle, dim, 24)], [f"h{i}"])
        self.residual(f"y{i}", self.product(i, "down", f"h{i}", 24, dim), f"n{i + 1}", f"x{i + 1}")

    def residual(self, x: str, y: str, norm: str, total: str) -> str:
        self.weights[f"{norm}.weight"] = self.rng.random(self.HEADS * self.WIDTH) + 0.5
        inputs, outputs = [x, y, f"{norm}.weight"], [norm, "", "", total]
        return self.add("SkipSimplifiedLayerNormalization", inputs, outputs, domain="com.microsoft", epsilon=1e-5)

    def save(self, path: Path) -> Path:
        info, (i64, f32) = onnx.helper.make_tensor_value_info, (onnx.TensorProto.INT64, onnx.TensorProto.FLOAT)
        states = [f"{i}.{part}" for i in range(self.LAYERS) for part in ("key", "value")]
        cache = ["B", self.GROUPS, "P", self.WIDTH]
        inputs = [info("input_ids", i64, ["B", "T"]), info("attention_mask", i64, ["B", "P + T"])]
        inputs += [info(f"past_key_values.{name}", f32, cache) for name in states]
        outputs = [onnx.ValueInfoProto(name=n) for n in ("logits", *(f"present.{name}" for name in states))]
        constants = {name: array.astype(np.float32) for name, array in self.weights.items()}
        constants |= {"axis": np.array([1]), "place": np.array(1)}
        initializers = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
        graph = onnx.helper.make_graph(self.nodes, "decoder", inputs, outputs, initializers)
        opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        return path

    def feeds(self, batch: int, tokens: int, past: int) -> dict[str, np.ndarray]:
        shape = (batch, self.GROUPS, past, self.WIDTH)
        given = {"input_ids": self.rng.integers(0, self.VOCAB, (batch, tokens))}
        given["attention_mask"] = np.ones((batch, past + tokens), np.int64)
        for i in range(self.LAYERS):
            for part in ("key", "value"):
                given[f"past_key_values.{i}.{part}"] = self.rng.standard_normal(shape).astype(np.float32)
        return given
