"""Kernels with a mistake in them, where they are interpreted: what the tests of kernels must find."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import pytest


def mutate(kernel: Any, right: str, wrong: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a kernel be interpreted with ``wrong`` in place of ``right``, which stands in it once, until the test ends."""
    source = inspect.getsource(kernel.fn)
    assert source.count(right) == 1
    # Triton's interpreter reads the source of a function from its file.
    file = folder / "mutated.py"
    file.write_text(source.replace(right, wrong), "utf-8")
    names = dict(vars(sys.modules[kernel.fn.__module__]))
    exec(compile(file.read_text("utf-8"), str(file), "exec"), names)
    monkeypatch.setitem(type(kernel).rewritten_fn, kernel.fn, names[kernel.fn.__name__].rewrite())
