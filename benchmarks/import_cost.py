"""What importing costs: private memory for 1 GiB of weights, and time for graphs of up to 100,000 nodes.

    python -m benchmarks.import_cost [--gib 1]

The large model is our Llama-style spec with random weights, compiled to ONNX (opset 18: all in primitives) with external data; a
fresh interpreter imports it, runs `raise_composites`, `cse` and `dce`, and writes it again. Private memory as in
:mod:`.memory`. The deep graph is a chain of norms, products and reshapes, written as exporters write them.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import tessera as ts
from tessera.backends.onnx.session import Session
from tessera.frontends.onnx import load

from .common import write
from .memory import peak, random_weights

LIMIT_GIB = 0.5
NODES = (1_000, 10_000, 100_000)
WIDTH = 8

THROUGH = """
import tessera as ts
from tessera.frontends.onnx import load
imported = load({source!r})
artifact = ts.compile(
    imported.module, target="onnx", passes=["raise_composites", "cse", "dce"], weights=imported.weights, output={output!r},
    verify={verify},
)
print(artifact.report)
"""


def write_model(gib: float, folder: Path) -> tuple[Path, float]:
    """(the ONNX file, GiB of its weights, which are at least ``gib``)."""
    from tessera.backends.onnx import build, save
    from tessera.runtime.weights.bind import bind
    from tessera.runtime.weights.open import open_weights

    def weight_gib(depth: int) -> float:
        params = ts.load("llama_lm", params={"depth": depth}).graph.params
        return sum(math.prod(int(d) for d in p.type.shape) * 4 for p in params.values()) / 2**30

    first, layer = weight_gib(1), weight_gib(2) - weight_gib(1)
    module = ts.load("llama_lm", params={"depth": 1 + max(0, math.ceil((gib - first) / layer))})
    written = random_weights(module.graph, folder / "llama.safetensors")
    weights = bind(module.graph, open_weights(folder / "llama.safetensors"))
    path = folder / "llama.onnx"
    save(build(module, weights, opset=18), path, external=True)
    return path, written / 2**30


def memory(gib: float, folder: Path) -> dict[str, Any]:
    """Peaks of importing, passing and writing again; and how far the outputs then are from those of the first file."""
    source, size = write_model(gib, folder)
    output = folder / "again.onnx"
    base, _, _ = peak("import time; time.sleep(0.3)")
    found: dict[str, Any] = {"weights_gib": round(size, 3), "nodes": len(list(load(source).module.graph.nodes()))}
    for label, verify in (("not compared", False), ("compared with torch", True)):
        most, seconds, said = peak(THROUGH.format(source=str(source), output=str(output), verify=verify))
        found[label] = {"peak_above_baseline_mib": round((most - base) / 2**20, 1), "seconds": round(seconds, 1)}
        found[label]["report"] = said.strip().splitlines()
    before, after = Session(source), Session(output)
    ids = np.random.default_rng(0).integers(0, 1000, (1, 16))
    inputs = {spec.name: ids for spec in before.inputs}
    for name, value in before(inputs).items():
        found[f"difference of {name}"] = float(np.abs(after(inputs)[name] - value).max())
    return found


def deep(count: int) -> Any:
    """A model of about ``count`` nodes: blocks of a norm in primitives, a reshape by computed sizes, a product and a sum."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = []

    def node(op: str, *inputs: str, name: str, **attrs: Any) -> str:
        nodes.append(helper.make_node(op, list(inputs), [name], **attrs))
        return name

    weights = {}
    x = "x"
    block = 0
    while len(nodes) < count:
        p = f"blocks.{block}."
        weights[f"{p}weight"] = np.eye(WIDTH, dtype=np.float32) * 0.5
        weights[f"{p}bias"] = np.full(WIDTH, 0.1, np.float32)
        mean = node("ReduceMean", x, "last", name=f"{p}mean")
        centred = node("Sub", x, mean, name=f"{p}centred")
        variance = node("ReduceMean", node("Pow", centred, "two", name=f"{p}square"), "last", name=f"{p}variance")
        root = node("Sqrt", node("Add", variance, "eps", name=f"{p}eps"), name=f"{p}root")
        normal = node("Div", centred, root, name=f"{p}normal")
        rows = node("Gather", node("Shape", x, name=f"{p}shape"), "first", name=f"{p}rows", axis=0)
        shape = node("Concat", rows, "rest", name=f"{p}sizes", axis=0)
        heads = node("Reshape", normal, shape, name=f"{p}heads")
        flat = node("Reshape", heads, node("Shape", x, name=f"{p}whole"), name=f"{p}flat")
        made = node("Add", node("MatMul", flat, f"{p}weight", name=f"{p}product"), f"{p}bias", name=f"{p}affine")
        x = node("Add", x, made, name=f"{p}out")
        block += 1
    weights |= {
        "last": np.array([-1]), "two": np.array(2, np.float32), "eps": np.array(1e-5, np.float32), "first": np.array([0]),
        "rest": np.array([-1, 2, WIDTH // 2]),
    }  # fmt: skip
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", "T", WIDTH]) for name in ("x", x)]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "deep", values[:1], values[1:], tensors)
    return onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def seconds(count: int, folder: Path, rounds: int = 2) -> tuple[int, float]:
    """(nodes of the file, processor seconds to import it: the least of some rounds)."""
    import onnx

    path = folder / f"deep{count}.onnx"
    model = deep(count)
    onnx.save(model, path)
    best = math.inf
    for _ in range(rounds):
        start = time.process_time()
        load(path)
        best = min(best, time.process_time() - start)
    return len(model.graph.node), best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--folder", default=None, help="where the files go (a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        seconds(NODES[0], folder, rounds=1)  # libraries are loaded
        found = [seconds(count, folder) for count in NODES]
        rows = {str(count): {"seconds": round(s, 3), "ms_per_node": round(s / count * 1e3, 4)} for count, s in found}
        results = {"limit_gib": LIMIT_GIB, "memory": memory(options.gib, folder), "import of nodes": rows}
    write("import_cost", results)


if __name__ == "__main__":
    main()
