"""Mixtures of experts in ONNX Runtime: standard ops, the contrib op, every expert for every token, and torch; and a decoder.

One layer is a router and gated experts, `y = sum of w_e (silu(x g_e) * (x u_e)) d_e` over the k best of E. The contrib op is
written by hand, fed with the logits as it wants them. The decoder is of Mixtral's form, 8 layers, from transformers with random
weights: what Tessera makes of its folder against what `torch.onnx.export` makes of the one form that it takes, and against torch
itself with grouped products. All forms take their turns in one run; times are relative to the sparse form's: above 1 is slower.
`products` is a bound and no form: ONNX Runtime's products of each expert's rows, which lie ready, and nothing else.

    python -m benchmarks.moe
    python -m benchmarks.moe --threads 1     # also what each takes of the CPU, on a machine that does other things
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array
from onnxruntime import InferenceSession, SessionOptions

import tessera as ts
from tessera.backends.onnx import build, serialize
from tessera.driver.report.measure import interleaved
from tessera.frontends.source import loads

from .common import write

# (tokens, d, ff, experts, experts a token)
SIZES = ((512, 256, 512, 16, 2), (1024, 512, 2048, 8, 2), (16, 256, 512, 16, 2), (1, 256, 512, 16, 2))
DECODER = {"vocab_size": 1000, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8,
           "num_key_value_heads": 4, "max_position_embeddings": 512, "num_local_experts": 8, "num_experts_per_tok": 2}  # fmt: skip
# How far results may be off, of the largest: those of rounded matrices.
ROUNDED = {"contrib_int8": 0.03, "contrib_int4": 0.5}
# Turns for what a run takes of the CPU: as many as fit into the seconds, of TURN runs where one takes less than LONG milliseconds.
SECONDS, FEWEST, MOST, TURN, LONG = 8.0, 2, 60, 20, 20.0
Arrays = dict[str, np.ndarray]
Run = Callable[[], Any]

SPARSE = """
use std.moe.experts (mixture)
model m(x: f32[B, T, {d}]) -> (y: f32[B, T, {d}]) {{
    return mixture(x, experts={experts}, k={k}, hidden={ff})
}}
"""
DENSE = """
use std.moe.route (token_choice)
use std.nn (linear, silu)
model m(x: f32[B, T, {d}]) -> (y: f32[B, T, {d}]) {{
    param gate_up: f32[{experts}, {d}, {both}] = normal(0.02) as "experts.gate_up"
    param down: f32[{experts}, {ff}, {d}] = normal(0.02) as "experts.down"
    tokens = reshape(x, [B * T, {d}])
    r = token_choice(linear(tokens, out={experts}, bias=false) as gate, k={k})
    own = unsqueeze(r.expert, 2) == iota({experts})
    share = sum(where(own, unsqueeze(r.weight, 2), 0.0), axis=1)
    h = einsum("n d, e d f -> e n f", tokens, gate_up)
    y = einsum("e n f, e f d -> e n d", silu(h[:, :, :{ff}]) * h[:, :, {ff}:], down)
    return reshape(einsum("e n d, n e -> n d", y, share), [B, T, {d}])
}}
"""


def weights(d: int, ff: int, experts: int) -> Arrays:
    rng = np.random.default_rng(0)
    shapes = {"gate.weight": (experts, d), "experts.gate_up": (experts, d, 2 * ff), "experts.down": (experts, ff, d)}
    return {name: (rng.standard_normal(shape) * shape[-2] ** -0.5).astype(np.float32) for name, shape in shapes.items()}


def contrib(w: Arrays, k: int, threads: int) -> InferenceSession:
    """A product for the logits, and `com.microsoft.MoE`."""
    experts, d, both = w["experts.gate_up"].shape
    turned = w["experts.gate_up"].reshape(experts, d, 2, both // 2).transpose(0, 3, 2, 1).reshape(experts, both, d)
    held = {"gate": w["gate.weight"].T, "fc1": turned, "fc2": w["experts.down"].transpose(0, 2, 1)}
    options: dict[str, Any] = {
        "activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0, "k": k,
        "normalize_routing_weights": 1,
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "gate"], ["logits"]),
        helper.make_node("MoE", ["x", "logits", "fc1", "", "fc2"], ["y"], domain="com.microsoft", **options),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", d]) for name in ("x", "y")]
    tensors = [from_array(np.ascontiguousarray(array), name) for name, array in held.items()]
    graph = helper.make_graph(nodes, "moe", ports[:1], ports[1:], tensors)
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("com.microsoft", 1)]
    return session(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(), threads)


def products(w: Arrays, k: int, x: np.ndarray, threads: int) -> Run:
    """Both products of each expert that some token goes to, of as many rows as go there; through a binding, which moves nothing."""
    chosen = np.argsort(-(x @ w["gate.weight"].T), axis=1, kind="stable")[:, :k]
    rng, nodes, held, given = np.random.default_rng(2), [], [], Arrays()
    for e, rows in enumerate(np.bincount(chosen.ravel(), minlength=len(w["gate.weight"]))):
        for name in ("gate_up", "down") if rows else ():
            own, matrix = f"{name}.{e}", w[f"experts.{name}"][e]
            nodes.append(helper.make_node("MatMul", [f"x.{own}", own], [f"y.{own}"]))
            held.append(from_array(matrix, own))
            given[f"x.{own}"] = rng.standard_normal((rows, len(matrix))).astype(np.float32)
    ins = [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in given.items()]
    outs = [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None) for node in nodes]
    graph = helper.make_graph(nodes, "products", ins, outs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10)
    made = session(model.SerializeToString(), threads)
    bound = made.io_binding()
    for name, array in given.items():
        bound.bind_cpu_input(name, array)
    for out in outs:
        bound.bind_output(out.name)
    return partial(made.run_with_iobinding, bound)


def session(model: bytes | str, threads: int) -> InferenceSession:
    options = SessionOptions()
    options.intra_op_num_threads = threads
    return InferenceSession(model, options, providers=["CPUExecutionProvider"])


def looped(w: Arrays, k: int, x: torch.Tensor) -> torch.Tensor:
    """A loop over the experts that were hit, as transformers' `eager` form has it."""
    gate, gate_up, down = (torch.as_tensor(w[name]) for name in ("gate.weight", "experts.gate_up", "experts.down"))
    share, expert = torch.softmax(x @ gate.T, -1).topk(k, -1)
    share = share / share.sum(-1, keepdim=True)
    y = torch.zeros_like(x)
    for e in expert.unique().tolist():
        token, slot = torch.where(expert == e)
        a, b = (x[token] @ gate_up[e]).chunk(2, -1)
        y.index_add_(0, token, (torch.nn.functional.silu(a) * b) @ down[e] * share[token, slot, None])
    return y


def layer(tokens: int, d: int, ff: int, experts: int, k: int, threads: int) -> dict[str, Run]:
    w, x = weights(d, ff, experts), np.random.default_rng(1).standard_normal((tokens, d)).astype(np.float32)
    sizes = {"d": d, "ff": ff, "both": 2 * ff, "experts": experts, "k": k}
    runs: dict[str, Run] = {}
    forms: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("sparse", SPARSE, {}), ("dense", DENSE, {}), ("contrib_by_tessera", SPARSE, {"contrib": True}),
        ("contrib_int8", SPARSE, {"contrib": True, "bits": 8}), ("contrib_int4", SPARSE, {"contrib": True, "bits": 4}),
    )  # fmt: skip
    for name, text, own in forms:
        built = build(loads(text.format(**sizes)), w, **own)
        runs[name] = partial(session(serialize(built), threads).run, None, {"x": x[None]})
    runs["contrib"] = partial(contrib(w, k, threads).run, None, {"x": x})
    torch_x = torch.as_tensor(x)

    def torch_loop() -> torch.Tensor:
        with torch.no_grad():
            return looped(w, k, torch_x)

    runs["torch_loop"] = torch_loop
    truth = torch_loop().numpy()
    for name, run in runs.items():
        made = run()
        y = np.asarray(made[0] if isinstance(made, list) else made)
        off = np.abs(y.reshape(truth.shape) - truth).max() / np.abs(truth).max()
        assert off < ROUNDED.get(name, 1e-3), f"{name} is off by {off:.2g} of the largest"
    return {**runs, "products": products(w, k, x, threads)}


def decoder(tokens: int, threads: int) -> dict[str, Run]:
    torch.manual_seed(0)
    config = transformers.MixtralConfig(**DECODER, use_cache=False)
    model = transformers.MixtralForCausalLM(config).eval()
    ids = np.random.default_rng(0).integers(0, DECODER["vocab_size"], (1, tokens))
    given = torch.as_tensor(ids)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        own = Path(folder) / "own.onnx"
        ts.compile(ts.load(folder), target="onnx", weights=folder, output=own, verify=False)
        made = session(str(own), threads)
        model.set_experts_implementation("batched_mm")
        path = Path(folder) / "exported.onnx"
        with torch.no_grad():
            torch.onnx.export(
                model, (), str(path), kwargs={"input_ids": given}, dynamo=True, dynamic_shapes={"input_ids": {0: "B", 1: "T"}},
                external_data=False,
            )  # fmt: skip
        exported = session(path.read_bytes(), threads)
    model.set_experts_implementation("grouped_mm")

    def grouped() -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=given).logits

    name = exported.get_inputs()[0].name
    runs: dict[str, Run] = {
        "tessera": partial(made.run, None, {"input_ids": ids}), "torch_onnx_export": partial(exported.run, None, {name: ids}),
        "torch_grouped": grouped,
    }  # fmt: skip
    truth = grouped().numpy()
    for other in ("tessera", "torch_onnx_export"):
        np.testing.assert_allclose(runs[other]()[0], truth, rtol=1e-3, atol=1e-3, err_msg=other)
    return runs


def told(times: dict[str, list[float]], own: str) -> dict[str, dict[str, float]]:
    """Median milliseconds, and the median over rounds of the time relative to the own form's."""
    return {
        name: {
            "median_ms": round(statistics.median(row) * 1e3, 3),
            f"times_{own}": round(statistics.median(t / s for t, s in zip(row, times[own], strict=True)), 3),
        }
        for name, row in times.items()
    }


def spent(runs: dict[str, Run]) -> dict[str, float]:
    """Milliseconds of CPU of each, the least of its turns: what else the machine does counts for little. Of one thread."""
    least = dict.fromkeys(runs, float("inf"))
    until, rounds = time.monotonic() + SECONDS, 0
    while rounds < FEWEST or (time.monotonic() < until and rounds < MOST):
        rounds += 1
        for name, run in runs.items():
            for _ in range(2 if rounds == 1 or least[name] > LONG else TURN):
                start = time.thread_time()
                run()
                least[name] = min(least[name], 1e3 * (time.thread_time() - start))
    return {name: round(value, 4) for name, value in least.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=256, help="of the decoder")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    results: dict[str, Any] = {"threads": options.threads or "all", "load": round(os.getloadavg()[0], 1)}
    for tokens, d, ff, experts, k in SIZES:
        runs = layer(tokens, d, ff, experts, k, options.threads)
        found = told(interleaved(runs, rounds=options.rounds), "sparse")
        results[f"layer, T {tokens}, d {d}, ff {ff}, E {experts}, k {k}"] = with_cpu(found, runs, options.threads)
    runs = decoder(options.tokens, options.threads)
    found = told(interleaved(runs, rounds=options.rounds), "tessera")
    results[f"Mixtral form, 8 layers, T {options.tokens}"] = with_cpu(found, runs, options.threads)
    write("moe", results)


def with_cpu(found: dict[str, dict[str, float]], runs: dict[str, Run], threads: int) -> dict[str, dict[str, float]]:
    """What was found with the CPU that each takes, where that is one thread's."""
    taken = spent(runs) if threads == 1 else {}
    return {name: {**row, "cpu_ms": taken[name]} if taken else row for name, row in found.items()}


if __name__ == "__main__":
    main()
