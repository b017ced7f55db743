"""From spec to a checked, saved ONNX file, next to `torch.onnx.export` of the transformers model: ViT-B/16 with weights.

    python -m benchmarks.compile_time [--rounds N]

Every measurement is a process of its own, so that imports count; the two take turns.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from tessera.driver.report.measure import interleaved

from . import peers
from .common import summary, write

OURS = """
import tessera as ts
ts.compile(ts.load("vit_b16"), target="onnx", weights={weights!r}, output={output!r}{options})
"""
OURS_MERGED = """
import tessera as ts
ts.compile(ts.apply(ts.load("vit_b16"), "merge_tokens", r=16, protect=1), target="onnx", weights={weights!r}, output={output!r})
"""
# A session is part of it: ours opens one to compare the artifact.
EXPORT = """
import torch, onnxruntime
from transformers import ViTForImageClassification
model = ViTForImageClassification.from_pretrained({folder!r}).eval()
torch.onnx.export(model, (torch.zeros(1, 3, 224, 224),), {output!r}, dynamo=True, verbose=False)
onnxruntime.InferenceSession({output!r})
"""


def process(program: str, cpu: list[float]) -> None:
    """Run a program in a fresh interpreter; the CPU seconds it took are appended: they hardly depend on other load."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Byte code is kept, as for anybody who runs either a second time.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = str(peers.safetensors_of(peers.vit("b"), folder / "vit"))
        output = str(folder / "out.onnx")
        programs = {
            "torch_onnx_export": EXPORT.format(folder=str(folder / "vit"), output=output),
            "tessera": OURS.format(weights=weights, output=output, options=""),
            "tessera_merged": OURS_MERGED.format(weights=weights, output=output),
            "tessera_no_verify": OURS.format(weights=weights, output=output, options=", verify=False"),
        }
        cpu: dict[str, list[float]] = {name: [] for name in programs}
        times = interleaved({k: partial(process, p, cpu[k]) for k, p in programs.items()}, rounds, warmup=1)
    rows = summary(times, "torch_onnx_export")
    for name, row in rows.items():
        row["cpu_seconds"] = round(statistics.median(cpu[name][1:]), 2)
    write("compile_time", {"vit_b16 with weights": rows})


if __name__ == "__main__":
    main()
