"""What every kernel's caller does: whether it can be launched here, how large its tiles are, and the launch itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import triton
from torch import Tensor
from triton.runtime.errors import InterpreterError

# What the kernels take; they accumulate in f32. f64 keeps to PyTorch.
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
TYPES = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int8: "*i8", torch.uint8: "*u8",
    torch.int16: "*i16", torch.int32: "*i32", torch.int64: "*i64",
}  # fmt: skip
T = TypeVar("T")


@triton.jit
def _probe() -> None:
    pass


INTERPRETED = not isinstance(_probe, triton.JITFunction)
"""Whether Triton interprets kernels, on whatever device: ``TRITON_INTERPRET=1`` when it was imported."""


def check(name: str, *tensors: Tensor | None) -> None:
    """Raises for tensors that no kernel takes.

    Raises:
        TypeError: a dtype other than f32, f16 and bf16.
        RuntimeError: tensors on a CPU, without the interpreter, where something is launched.
    """
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.is_floating_point() and tensor.dtype not in FLOATS:
            raise TypeError(f"the kernel `{name}` takes f32, f16 and bf16, and was given {tensor.dtype}")
        if tensor.device.type == "cpu" and not INTERPRETED and _planned is None:
            raise RuntimeError(
                f"the kernel `{name}` runs on a GPU, and was given tensors of the CPU: move them, or set TRITON_INTERPRET=1"
                " before Python starts, which runs every kernel in Triton's interpreter"
            )


def ceildiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def tile(size: int, most: int = 1 << 20) -> int:
    """The next power of two up to ``most``, and no less than the 16 that a tensor core takes."""
    return min(most, max(16, 1 << max(size - 1, 0).bit_length()))


_recorded: list[dict[str, Any]] | None = None


@contextmanager
def recording() -> Iterator[list[dict[str, Any]]]:
    """What is launched meanwhile, each kind once: rows for :func:`tessera.kernels.ahead.compiled`."""
    global _recorded
    before, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = before


# What would be launched, and whether a definition is running in a kernel's place.
_planned: list[dict[str, Any]] | None = None
_defining = False


@contextmanager
def planning() -> Iterator[list[dict[str, Any]]]:
    """What would be launched meanwhile, each kind once: rows for :func:`tessera.kernels.ahead.built`.

    Nothing is launched, on whatever device: definitions compute.
    """
    global _planned
    before, _planned = _planned, []
    try:
        yield _planned
    finally:
        _planned = before


def _seen(argument: Tensor | int | float) -> list[Any]:
    """What of an argument a compiled kernel hangs on: the type; of tensors whether they are aligned and within 2 GiB; of integers
    one that is as good."""
    if isinstance(argument, Tensor):
        far = argument.untyped_storage().nbytes() >= 1 << 31
        return [TYPES[argument.dtype], argument.data_ptr() % 16 == 0, not far]
    if isinstance(argument, float):
        return ["fp32"]
    wide = 1 << 40 if not -(1 << 31) <= argument < 1 << 31 else 0
    return ["int", 1 if argument == 1 else wide + (16 if argument % 16 == 0 else 3)]


class LaunchFailed(RuntimeError):
    """A kernel that does not compile or cannot be started here: a GPU too small for its tiles, a compiler that refuses it."""


def launch(
    kernel: Any, grid: tuple[int, ...], *args: Tensor | int | float, options: Any = None, **constants: Any
) -> None:
    """Launch a kernel over a grid.

    Args:
        options: of its compiler, by name: warps, stages, whether products and sums are fused.
        constants: its compile-time parameters.

    Raises:
        LaunchFailed: why it cannot be.
    """
    # Said, so that results do not move with a version's default.
    options = {"enable_fp_fusion": True, **(options or {})}
    kept = _recorded if _planned is None else _planned
    if kept is not None:
        row = {
            "kernel": f"{kernel.fn.__module__.rpartition('.')[2]}.{kernel.fn.__name__}",
            "constants": constants,
            "options": options,
        }
        if _planned is None:
            row["types"] = [
                TYPES[a.dtype] if isinstance(a, Tensor) else "fp32" if isinstance(a, float) else "i32" for a in args
            ]
        else:
            row["seen"] = [_seen(a) for a in args]
        if hasattr(kernel, "text"):
            row["text"] = kernel.text
        if row not in kept:
            kept.append(row)
        if _planned is not None:
            return
    try:
        kernel[grid](*args, **constants, **options)
    except InterpreterError:
        # A kernel that is wrong, and not a machine that does not take it.
        raise
    except triton.TritonError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise LaunchFailed(f"`{kernel.fn.__name__}`: {lines[-1]}") from error


_given_up: set[Hashable] = set()


def kind(*tensors: Tensor) -> Hashable:
    """What a kernel's demands of a machine hang on: dtypes and widths."""
    return tuple((t.dtype, t.shape[-1]) for t in tensors)


def attempt(name: str, key: Hashable, kernel: Callable[[], T], definition: Callable[[], T]) -> T:
    """What a kernel computes; what its definition does where it cannot be launched, with a warning that names it, once.

    Args:
        key: of what is given up after a failure, beside the name.
    """
    if _planned is not None:
        return _defined(kernel, definition)
    key = (name, key)
    if key in _given_up:
        return definition()
    try:
        return kernel()
    except LaunchFailed as error:
        _given_up.add(key)
        warnings.warn(f"PyTorch computes `{name}`, whose kernel cannot be launched here: {error}", RuntimeWarning, stacklevel=2)
        return definition()


def _defined(kernel: Callable[[], T], definition: Callable[[], T]) -> T:
    """What a definition computes, and what the kernel would launch planned. A definition within it launches nothing."""
    global _defining
    if _defining:
        return definition()
    kernel()
    _defining = True
    try:
        return definition()
    finally:
        _defining = False
