"""What starting costs: the commands that only read source import nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "onnx", "onnxruntime", "onnx_ir", "networkx", "safetensors", "rich", "PIL", "transformers")

_PROBE = """
import sys
from tessera.driver.cli import main
code = main(sys.argv[1:])
found = [m for m in {heavy!r} if m in sys.modules]
print("LOADED", ",".join(found), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    "args",
    [["--help"], ["compile", "--help"], ["--version"], ["check", "zoo/vit"], ["specs"], ["help", "E0001"], ["ops"]],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(args: list[str]) -> None:
    probe = _PROBE.format(heavy=HEAVY)
    result = subprocess.run([sys.executable, "-c", probe, *args], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[-1] == "LOADED "


def test_help_does_not_even_need_numpy() -> None:
    probe = _PROBE.format(heavy=("numpy", "lark", *HEAVY))
    result = subprocess.run([sys.executable, "-c", probe, "--help"], capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1] == "LOADED "


def test_importing_the_package_is_light() -> None:
    code = f"import sys, tessera; print([m for m in {(*HEAVY, 'click', 'numpy')!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
