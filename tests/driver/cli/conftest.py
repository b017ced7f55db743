"""Running the command line in this process, and small programs to run it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tessera.driver.cli import main

TINY = """\
use std.nn (gelu, linear)

## A tiny model.
model tiny(x: float[B, T, 8], *, classes: int = 3) -> float[B, T, classes] {
    h = gelu(linear(x, out=16) as inner)
    return linear(h, out=classes) as head
}
"""


@dataclass(frozen=True)
class Result:
    """An exit code, and what was written to stdout and stderr."""

    code: int
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """``cli("check", "x.tess")``: never an exception, never a traceback."""

    def call(*args: object) -> Result:
        capsys.readouterr()
        code = main([str(a) for a in args])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Result(code, out, err)

    return call


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A spec of one small model."""
    path = tmp_path / "tiny.tess"
    path.write_text(TINY)
    return path


@pytest.fixture
def x(tmp_path: Path) -> Path:
    """An input for it."""
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32))
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture of 96 × 64 pixels: four plain quarters, so that patches within one are equal."""
    from PIL import Image

    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32, :48], pixels[:32, 48:], pixels[32:, :48], pixels[32:, 48:] = (
        (200, 30, 30),
        (30, 200, 30),
        (30, 30, 200),
        (220, 220, 40),
    )
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path
