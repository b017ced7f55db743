"""Binaries of kernels that an artifact brings: found by Triton where it looks for what it compiled before.

Triton names what it compiles by a hash of the kernel's source, the arguments' types, the options, the GPU and its own version. What
was compiled ahead of time is offered under the same name, so that it is taken where all of that is the same, and a kernel is
compiled from the installed package's source otherwise. Nothing of it is put into Triton's own cache on disk.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import triton
from triton.runtime.cache import FileCacheManager

Files = Mapping[str, bytes]
# By Triton's hash: files by name.
_offered: dict[str, Files] = {}
_taken: dict[str, TemporaryDirectory[str]] = {}


def offer(binaries: Mapping[str, Files]) -> None:
    """Let Triton take these binaries in place of compiling: files by name, by the hash that it knows a kernel by."""
    _offered.update({_name(key): files for key, files in binaries.items()})
    before = triton.knobs.cache.manager_class or FileCacheManager
    if _offered and not hasattr(before, "offers_binaries"):
        triton.knobs.cache.manager_class = _manager(before)


def taken() -> int:
    """How many of the offered binaries Triton took."""
    return len(_taken)


def _name(key: str) -> str:
    """The name that a cache manager is given for a hash."""
    return base64.b32encode(bytes.fromhex(key)).decode("utf-8").rstrip("=")


def _manager(before: Any) -> Any:
    """A cache manager that looks into what is offered where the one before has nothing."""

    class Offering(before):  # type: ignore[misc]
        offers_binaries = True

        def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
            super().__init__(key, override=override, dump=dump)
            self._files = None if override or dump else _offered.get(key)
            self._name = key

        def get_group(self, filename: str) -> dict[str, str] | None:
            found: dict[str, str] | None = super().get_group(filename)
            if found or self._files is None or filename not in self._files:
                return found
            if self._name not in _taken:
                _taken[self._name] = TemporaryDirectory(prefix="tessera-", ignore_cleanup_errors=True)
            folder = Path(_taken[self._name].name)
            for name, data in self._files.items():
                (folder / name).write_bytes(data)
            return {name: str(folder / name) for name in self._files}

    return Offering
