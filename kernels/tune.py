"""Which tiles a kernel is launched with: measured on a GPU where that is asked for, and kept on disk beside what Triton compiles.

A choice is kept by kernel, by its sizes' bucket (each rounded up to a power of two), by dtype and compile-time parameters, in a
file of the machine's kind. Where nothing was measured the first choice is taken: tiles that leave everything in registers on sm_80
and sm_90 (tests/kernels/compiled.json).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from .launch import LaunchFailed, launch

Choice = dict[str, int]
_OPTIONS = ("num_warps", "num_stages")
# What is kept of each file that was read.
_kept: dict[Path, dict[str, Choice]] = {}
_measures = os.environ.get("TESSERA_TUNE") == "1"


@contextmanager
def tuning() -> Iterator[None]:
    """Kernels that are launched meanwhile are measured at every choice of tiles, once for each bucket, and keep the fastest.

    ``TESSERA_TUNE=1`` does so for a whole process.
    """
    global _measures
    before, _measures = _measures, True
    try:
        yield
    finally:
        _measures = before


def bucket(size: int) -> int:
    """The next power of two: sizes of one bucket share a choice."""
    return 1 << max(size - 1, 0).bit_length()


def choices(*given: Mapping[str, int]) -> list[Choice]:
    """Choices, each once, in their order: sizes that are small make some of them the same."""
    return [dict(c) for c in dict.fromkeys(tuple(sorted(c.items())) for c in given)]


def launch_best(
    kernel: Any, grid: Callable[[Choice], tuple[int, ...]], choices: Sequence[Choice], sizes: Sequence[int],
    *args: Tensor | int | float, **constants: Any,
) -> None:  # fmt: skip
    """Launch a kernel at the choice that was measured to be the fastest; at the first one where none was.

    Args:
        grid: of a choice.
        choices: sizes of tiles by their names, ``num_warps`` and ``num_stages``. A kernel gives the same whichever is taken.
        sizes: what the best choice hangs on.

    Raises:
        LaunchFailed: where none of those that are tried can be launched.
    """

    def run(choice: Choice) -> None:
        tiles = {name: size for name, size in choice.items() if name not in _OPTIONS}
        options = {name: choice[name] for name in _OPTIONS if name in choice}
        launch(kernel, grid(choice), *args, options=options, **constants, **tiles)

    tensor = next(a for a in args if isinstance(a, Tensor))
    file = _file(tensor.device)
    if file is None:
        run(choices[0])
        return
    facts = [f"{name}={value}" for name, value in sorted(constants.items())]
    name = f"{kernel.fn.__module__.rpartition('.')[2]}.{kernel.fn.__name__}"
    key = " ".join([name, "x".join(str(bucket(s)) for s in sizes), str(tensor.dtype).removeprefix("torch."), *facts])
    kept = _read(file)
    # A file of another version may know tiles that there are no more.
    if kept.get(key) not in choices:
        if not _measures:
            run(choices[0])
            return
        kept[key] = _fastest(choices, run)
        _write(file, kept)
    run(kept[key])


def _fastest(choices: Sequence[Choice], run: Callable[[Choice], None]) -> Choice:
    """The choice that takes least; those that cannot be launched are left out."""
    times: list[tuple[float, int]] = []
    failed: LaunchFailed | None = None
    for number, choice in enumerate(choices):
        try:
            times.append((milliseconds(partial(run, choice)), number))
        except LaunchFailed as error:
            failed = error
    if not times:
        assert failed is not None
        raise failed
    return choices[min(times)[1]]


def milliseconds(run: Callable[[], None]) -> float:
    """Of one call, by the device's clock: a median."""
    return float(triton.testing.do_bench(run, warmup=5, rep=20, return_mode="median"))


def machine(device: torch.device) -> str | None:
    """The kind of a GPU, with the compiler's version; None of what is no GPU."""
    if device.type != "cuda":
        return None
    facts = torch.cuda.get_device_properties(device)
    return f"{facts.name} {facts.major}.{facts.minor} triton {triton.__version__}"


def _file(device: torch.device) -> Path | None:
    kind = machine(device)
    return None if kind is None else Path(triton.knobs.cache.dir) / "tessera" / f"{kind.replace(' ', '_').replace('/', '_')}.json"


def _read(file: Path) -> dict[str, Choice]:
    if file not in _kept:
        try:
            found = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError):
            # Nothing was measured, or what wrote it was stopped.
            found = {}
        _kept[file] = found if isinstance(found, dict) else {}
    return _kept[file]


def _write(file: Path, kept: dict[str, Choice]) -> None:
    """Aside and moved into place, so that another process never reads a half."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(f".{os.getpid()}")
    aside.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", "utf-8")
    aside.replace(file)
