"""Private memory of compiling a Llama-style spec with 4 GiB of random weights to ONNX with external data.

    python -m benchmarks.memory [--gib 4]

Private memory is RssAnon of /proc: pages of mapped files do not count, copies of weights do. The compiling process is sampled
every 10 ms from outside; the baseline is a Python interpreter that does nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import tessera as ts
from tessera.ir.graph import Graph

from .common import write

# Further arguments of `compile`. Packing makes most of the weights anew: it joins queries, keys and values, and the gated halves.
CASES = {
    "compared with torch": "",
    "not compared": ", verify=False",
    "packed by recipes, compared with torch": ', passes=["pack_linears"]',
    "packed by recipes, not compared": ', passes=["pack_linears"], verify=False',
}
COMPILE = """
import tessera as ts
artifact = ts.compile(ts.load("llama_lm", params={params!r}), target="onnx", weights={weights!r}, output={output!r}{options})
print(artifact.report)
"""


def random_weights(graph: Graph, path: Path) -> int:
    """Write random f32 weights for every parameter as safetensors, one tensor at a time; the bytes written."""
    header: dict[str, Any] = {}
    offset = 0
    for name, param in graph.params.items():
        shape = [int(d) for d in param.type.shape]
        size = int(np.prod(shape)) * 4
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in header.values():
            count = int(np.prod(entry["shape"]))
            scale = 1.0 if len(entry["shape"]) == 1 else entry["shape"][-1] ** -0.5
            while count:
                n = min(count, 1 << 22)
                file.write((rng.standard_normal(n, dtype=np.float32) * scale).tobytes())
                count -= n
    return offset


def private_bytes(pid: int) -> int:
    """RssAnon of a process; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)


def peak(program: str) -> tuple[int, float, str]:
    """(largest private bytes, seconds, output) of a program in a fresh interpreter."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    most = 0
    while process.poll() is None:
        most = max(most, private_bytes(process.pid))
        time.sleep(0.01)
    output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise RuntimeError(output)
    return most, time.perf_counter() - start, output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=4.0)
    parser.add_argument("--folder", default=None, help="where the files go (a temporary folder)")
    options = parser.parse_args()
    layer, rest = 0.170, 0.50  # GiB of one layer, and of the two embeddings, at the default sizes
    params = {"depth": max(1, round((options.gib - rest) / layer))}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        weights, output = Path(name) / "llama.safetensors", Path(name) / "llama.onnx"
        written = random_weights(ts.load("llama_lm", params=params).graph, weights)
        base, _, _ = peak("import time; time.sleep(0.3)")
        rows: dict[str, Any] = {"weights_gib": round(written / 2**30, 3), "params": params}
        for label, extra in CASES.items():
            program = COMPILE.format(params=params, weights=str(weights), output=str(output), options=extra)
            most, _, said = peak(program)
            rows[label] = {"peak_above_baseline_mib": round((most - base) / 2**20, 1)}
            rows[label]["report"] = said.strip().splitlines()
        rows["files_gib"] = {p.name: round(p.stat().st_size / 2**30, 3) for p in sorted(Path(name).glob("llama.onnx*"))}
    write("memory", rows)


if __name__ == "__main__":
    main()
