"""Compiling kernels for a GPU that is not there: what they need of it, and whether they compile at all.

TRITON_INTERPRET=1 python …            # records launches: tessera.kernels.launch.recording
python -m tessera.kernels.ahead launches.json [--target sm_90]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .generated import kernel_of

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32), "sm_90": GPUTarget("cuda", 90, 32), "gfx942": GPUTarget("hip", "gfx942", 64),
}  # fmt: skip


def compiled(row: Mapping[str, Any], target: str) -> dict[str, Any]:
    """A recorded launch compiled for a target.

    Returns:
        ``kernel``, ``target``, ``shared`` (bytes of shared memory a program) and, for NVIDIA's, ``registers`` and ``spilled``
        (bytes of stack a thread), as the assembler reports them.
    """
    module, name = row["kernel"].split(".")
    kernel = kernel_of(name, row["text"]) if "text" in row else getattr(import_module(f".{module}", __package__), name)
    constants = dict(row["constants"])
    given = [n for n in kernel.arg_names if n not in constants]
    types = {**dict(zip(given, row["types"], strict=True)), **dict.fromkeys(constants, "constexpr")}
    signature = {n: types[n] for n in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    made = triton.compile(source, target=TARGETS[target], options=row["options"])
    found = {"kernel": row["kernel"], "target": target, "shared": made.metadata.shared}
    return found | (_usage(made.asm["cubin"]) if "cubin" in made.asm else {})


def _usage(cubin: bytes) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found is not None, text
    return {"registers": int(found[1]), "spilled": int(found[2])}


def table(rows: Iterable[Mapping[str, Any]], targets: Iterable[str]) -> list[dict[str, Any]]:
    """Every row for every target."""
    names = list(targets)
    return [compiled(row, target) for row in rows for target in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("launches")
    parser.add_argument("--target", action="append", choices=list(TARGETS))
    given = parser.parse_args()
    with open(given.launches, encoding="utf-8") as file:
        rows = json.load(file)
    json.dump(table(rows, given.target or TARGETS), sys.stdout, indent=1)


if __name__ == "__main__":
    main()
