"""An earlier commit against the code as it is: compiling and checking in processes that take turns, then the files that both
write of the same models and weights, taking turns in one process.

    python -m benchmarks.against [COMMIT] [--openings N] [--rounds N]

A ratio is the earlier time over today's: below 1, today's code is slower. Without a commit it is the last one before the rooms of
`docs/architecture.md`.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from . import peers
from .common import markdown_table, speedup
from .frontend import program
from .ort_speed import timed

ROOT = Path(__file__).resolve().parents[1]
BEFORE_THE_HOUSE = "9edbf08"
COMPILE = """
import tessera as ts
module = ts.load({model!r})
if {options!r}:
    module = ts.apply(module, "merge_tokens", protect=1, **{options!r})
ts.compile(module, target="onnx", weights={weights!r}, verify={verify!r}).save({output!r})
"""
CHECK = "import sys; from tessera.{cli} import main; sys.exit(main(['check', {what!r}]))"
MODELS = {"vit_s16": {"r": 13}, "vit_b16": {"r": 16}, "minilm": {"keep": 0.7}}


class Version:
    """The code of one time: runs programs of its own."""

    def __init__(self, parent: Path, cache: Path, cli: str) -> None:
        self.cli = cli
        # Byte code is kept, as for anybody who runs either a second time.
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self.environment = kept | {"PYTHONPATH": str(parent), "TESSERA_CACHE": str(cache)}

    def run(self, code: str, folder: Path) -> tuple[float, float]:
        """Run in a fresh interpreter: the CPU seconds it took, which hardly depend on other load, and those that went by."""
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=self.environment, cwd=folder
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return cpu, time.perf_counter() - start


def checked_out(commit: str, folder: Path) -> Path:
    """A folder with a commit's files as the package `tessera`."""
    target = folder / "tessera"
    target.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(target)], input=archive, check=True)
    return folder


def difference(a: Path, b: Path) -> str:
    """How the graphs of two ONNX files differ, weights apart."""
    import onnx

    left, right = (list(onnx.load(path, load_external_data=False).graph.node) for path in (a, b))
    if len(left) != len(right):
        return f"{len(left)} and {len(right)} nodes"
    for node in (*left, *right):
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    unlike = sum(x.SerializeToString() != y.SerializeToString() for x, y in zip(left, right, strict=True))
    return f"{unlike} of {len(left)} nodes" if unlike else "none"


def feeds(model: str, batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    if model != "minilm":
        return {"image": rng.standard_normal((batch, 3, 224, 224)).astype(np.float32)}
    ids = rng.integers(1000, 30000, (batch, 128))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def files(versions: dict[str, Version], weights: dict[str, str], folder: Path, openings: int) -> None:
    """What both write, how it differs, and how fast it runs."""
    rows = []
    for model, options in MODELS.items():
        for chosen in ({}, options):
            paths = {}
            for name, version in versions.items():
                paths[name] = folder / f"{name}_{model}_{len(chosen)}.onnx"
                output = str(paths[name])
                version.run(
                    COMPILE.format(model=model, options=chosen, weights=weights[model], verify=False, output=output), folder
                )
            for batch in (1, 8):
                times = timed(paths, feeds(model, batch), openings)
                ratio = speedup(times, "today", "before")
                shown = ", ".join(f"{k}={v}" for k, v in chosen.items()) or "plain"
                rows.append([model, shown, str(batch), difference(*paths.values()), f"{ratio:.3f}"])
                print(*rows[-1], flush=True)
    print(markdown_table(["model", "merged", "batch", "differences", "earlier time / today's"], rows))


def program_of(what: str, version: Version, weights: dict[str, str], output: Path) -> str:
    if what.startswith("check"):
        return CHECK.format(cli=version.cli, what="big.tess" if what.endswith("lines") else "zoo/vit")
    verify = what.endswith("compared")
    return COMPILE.format(model="vit_b16", options={}, weights=weights["vit_b16"], verify=verify, output=str(output))


def processes(versions: dict[str, Version], weights: dict[str, str], folder: Path, rounds: int) -> None:
    """Compiling and checking, imports included."""
    (folder / "big.tess").write_text(program(10_000), encoding="utf-8")
    rows = []
    for what in ("compile vit_b16", "compile vit_b16, compared", "check zoo/vit", "check 10,000 lines"):
        cpu, passed = (dict[str, list[float]]((name, []) for name in versions) for _ in range(2))
        for turn in range(rounds + 1):
            for name in list(versions)[:: -1 if turn % 2 else 1]:
                found = versions[name].run(program_of(what, versions[name], weights, folder / f"{name}.onnx"), folder)
                if turn:  # the first fills caches
                    cpu[name].append(found[0])
                    passed[name].append(found[1])
        seconds = [f"{median(row):.2f}" for row in cpu.values()]
        rows.append([what, *seconds, *(f"{speedup(row, 'today', 'before'):.3f}" for row in (cpu, passed))])
        print(*rows[-1], flush=True)
    print(markdown_table(["what", "CPU s before", "CPU s today", "CPU, earlier / today's", "elapsed, earlier / today's"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", nargs="?", default=BEFORE_THE_HOUSE)
    parser.add_argument("--openings", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        earlier = checked_out(given.commit, folder / "before")
        today = checked_out("HEAD", folder / "today")
        versions = {
            at: Version(parent, folder / f"cache_{at}", "driver.cli" if (parent / "tessera" / "driver").exists() else "cli")
            for at, parent in (("before", earlier), ("today", today))
        }
        weights = {f"vit_{size}16": str(peers.safetensors_of(peers.vit(size), folder / f"vit_{size}")) for size in ("s", "b")}
        weights["minilm"] = str(peers.minilm_folder() / "model.safetensors")
        processes(versions, weights, folder, given.rounds)
        files(versions, weights, folder, given.openings)


if __name__ == "__main__":
    main()
