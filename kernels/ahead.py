"""Compiling kernels for a GPU that is not there: what they need of it, and whether they compile at all.

TRITON_INTERPRET=1 python …            # records launches: tessera.kernels.launch.recording
python -m tessera.kernels.ahead launches.json [--target sm_90]
python -m tessera.kernels.ahead planned.json [--target sm_90] --into FOLDER      # of launches that were planned: binaries
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
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .generated import kernel_of
from .launch import TYPES

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32), "sm_90": GPUTarget("cuda", 90, 32), "gfx942": GPUTarget("hip", "gfx942", 64),
}  # fmt: skip


def compiled(row: Mapping[str, Any], target: str) -> dict[str, Any]:
    """A recorded launch compiled for a target.

    Returns:
        ``kernel``, ``target``, ``shared`` (bytes of shared memory a program) and, for NVIDIA's, ``registers`` and ``spilled``
        (bytes of stack a thread), as the assembler reports them.
    """
    kernel = _kernel(row)
    constants = dict(row["constants"])
    given = [n for n in kernel.arg_names if n not in constants]
    types = {**dict(zip(given, row["types"], strict=True)), **dict.fromkeys(constants, "constexpr")}
    signature = {n: types[n] for n in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    made = triton.compile(source, target=TARGETS[target], options=row["options"])
    found = {"kernel": row["kernel"], "target": target, "shared": made.metadata.shared}
    return found | (_usage(made.asm["cubin"]) if "cubin" in made.asm else {})


def _kernel(row: Mapping[str, Any]) -> Any:
    module, name = row["kernel"].split(".")
    return kernel_of(name, row["text"]) if "text" in row else getattr(import_module(f".{module}", __package__), name)


class _Absent:
    """What Triton asks a driver while it compiles, of a GPU that is not there."""

    def __init__(self, target: str) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return TARGETS[self._target]

    def get_current_device(self) -> str:
        return self._target

    def get_current_stream(self, device: str) -> int:
        return 0


class _Pointer:
    """A tensor, as far as a compiled kernel hangs on it."""

    def __init__(self, dtype: torch.dtype, aligned: bool, near: bool) -> None:
        self.dtype = dtype
        self._place, self._bytes = 0 if aligned else 1, 0 if near else 1 << 31

    def data_ptr(self) -> int:
        return self._place

    def ptr_range(self) -> int:
        return self._bytes


_DTYPES = {name: dtype for dtype, name in TYPES.items()}


def built(row: Mapping[str, Any], target: str, folder: Path) -> str:
    """A planned launch compiled for a target, by the road that the launch itself would take: into a folder of its own within
    ``folder``, whose name is returned and is Triton's for that kernel, version of Triton, target and arguments."""
    args = [
        _Pointer(_DTYPES[kind], *facts) if kind in _DTYPES else 0.5 if kind == "fp32" else facts[0] for kind, *facts in row["seen"]
    ]
    triton.runtime.driver.set_active(_Absent(target))
    made = _kernel(row).warmup(*args, grid=(1,), **row["constants"], **row["options"])
    place = folder / made.hash
    place.mkdir(parents=True, exist_ok=True)
    for name, file in made.metadata_group.items():
        data = Path(file).read_bytes()
        if name.endswith(".json"):
            # Libraries that were linked are named by their places on this machine.
            data = json.dumps({**json.loads(data), "extern_libs": []}, sort_keys=True).encode()
        elif not name.endswith((".cubin", ".hsaco")):
            continue
        (place / name).write_bytes(data)
    return str(made.hash)


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
    parser.add_argument("--into", type=Path)
    given = parser.parse_args()
    with open(given.launches, encoding="utf-8") as file:
        rows = json.load(file)
    targets = given.target or list(TARGETS)
    if given.into is None:
        found: list[Any] = table(rows, targets)
    else:
        found = [{"kernel": row["kernel"], "target": t, "key": built(row, t, given.into)} for row in rows for t in targets]
    json.dump(found, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
