"""A program, judged: it prints as source that reads back, and torch, ONNX Runtime and the NumPy meaning agree on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tessera.backends.onnx import build as build_onnx
from tessera.backends.onnx import check, runnable, serialize
from tessera.backends.onnx.session import Session
from tessera.backends.torch import build as build_torch
from tessera.backends.torch.inputs import from_numpy, to_numpy
from tessera.driver.compile import CLEANUP, apply_passes
from tessera.driver.verify import relative_error
from tessera.frontends.source import loads, print_module
from tessera.ir.analysis.evaluate import evaluate_graph
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Graph
from tessera.ir.types import DType
from tessera.ir.verifier import verify
from tessera.runtime.distributions import draw
from tessera.runtime.weights.bind import Bound, initialise

TOLERANCE = {"f64": 1e-7, "f32": 5e-4, "f16": 3e-2}
SIZES: tuple[dict[str, int], ...] = ({"B": 2, "T": 3}, {"B": 1, "T": 1}, {"B": 3, "T": 5})


def feeds(graph: Graph, sizes: dict[str, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    made = {}
    for value in graph.inputs:
        if value.role == "input":
            shape, dtype = [d.evaluate(sizes) for d in value.type.shape], value.type.dtype
            drawn = rng.uniform(-1, 1, shape) if dtype.kind == "float" else rng.integers(0, 2 if dtype.kind == "bool" else 9, shape)
            made[value.name] = np.asarray(drawn).astype(dtype.numpy)
    return made


# A program and its weights as something to call, as torch's ``build`` makes it.
Build = Callable[[Graph, Bound], Any]


def judge(text: str, seed: int = 0, opset: int | None = 24, also: Mapping[str, Build] | None = None) -> int:
    """How many calls were compared. Raises AssertionError where something differs, and Diagnostic for what is no program.

    Args:
        opset: of the file for ONNX Runtime; None leaves it out.
        also: whatever else is to agree.
    """
    module = loads(text)
    verify(module.graph)
    printed = print_module(module)
    again = loads(printed)
    assert module.difference(again) is None, f"it prints as another program: {module.difference(again)}\n{printed}"
    assert print_module(again) == printed, f"it prints otherwise a second time\n{printed}"
    cleaned, _ = apply_passes(module, CLEANUP, verify_each=True)
    weights = initialise(module.graph, seed)
    runners = {}
    if opset is not None:
        model = build_onnx(cleaned, initialise(cleaned.graph, seed), opset=opset)
        check(model)
        runners = {"onnx": Session(serialize(model))} if runnable(cleaned.graph) else {}
    bodies = build_torch(cleaned, initialise(cleaned.graph, seed), claims=False)
    networks = {"torch": build_torch(module, weights), "bodies": bodies}
    networks |= {name: make(cleaned.graph, initialise(cleaned.graph, seed)) for name, make in (also or {}).items()}
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    rng, compared = np.random.default_rng(seed), 0
    for symbols in SIZES:
        sizes = module.graph.sizes({name: symbols[name] for name in module.graph.symbols()})
        states: dict[str, np.ndarray] = {}
        for step in range(2):
            given = feeds(module.graph, sizes, rng) | states
            noise = {
                v.name: draw(v.init, [d.evaluate(sizes) for d in v.type.shape], v.type.dtype, seed=step, name=v.name)
                for v in module.graph.inputs if v.role == "random" and v.init is not None
            }  # fmt: skip
            starts = {
                v.name: np.full([d.evaluate(sizes) for d in v.type.shape], v.init.name == "ones", v.type.dtype.numpy)
                for v in module.graph.inputs if v.role == "state" and v.init is not None
            }  # fmt: skip
            try:
                found: dict[str, dict[str, Any]] = {n: r(given, seed=step) for n, r in runners.items()}
                tensors = {name: from_numpy(np.asarray(x, order="C")) for name, x in given.items()}
                for name, network in networks.items():
                    found[name] = {k: to_numpy(y) for k, y in network(**tensors, seed=step).items()}
            except Diagnostic as error:
                if error.code != "E0904":  # sizes that the program does not take
                    raise
                break
            wanted = evaluate_graph(module.graph, starts | given | noise, sizes, arrays)
            for name, outputs in found.items():
                assert list(outputs) == list(wanted)
                for key, value in wanted.items():
                    difference = relative_error(outputs[key], value)
                    where = f"{name}: `{key}` differs by {difference} at {symbols}, step {step}"
                    assert difference <= TOLERANCE.get(DType.from_numpy(value.dtype).name, 0), where
            states = {info.name: wanted[info.name] for info in module.graph.output_info if info.role == "state"}
            compared += 1
    return compared

