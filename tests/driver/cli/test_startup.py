"""What starting costs, in modules instead of seconds: a command imports what it needs, and to read source nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("numpy", "torch", "onnx", "onnxruntime", "onnx_ir", "networkx", "safetensors", "rich", "PIL", "transformers")
# Finding out what is installed brings the email package, sockets and archives along.
SLOW = ("lark", "importlib.metadata", "email", "tempfile", "mmap", "fractions", "decimal")
# What each command may import of ours, as prefixes; all else is for other commands.
OURS = {
    "--help": ("ir.diagnostics", "ir.library", "ir.vocabulary", "driver.cli"),
    "--version": ("ir.diagnostics", "ir.library", "ir.vocabulary", "driver.cli"),
    "help E0001": ("ir.diagnostics", "ir.library", "ir.vocabulary", "ir.codes", "driver.cli"),
    "check zoo/vit": (
        "ir.", "specs.catalog", "frontends.source", "runtime.distributions", "runtime.files.pickles",
        "runtime.weights.initialise", "driver.cli",
        "driver.check", "driver.targets", "backends.target", "backends.onnx.target", "backends.torch.target",
        "backends.mlir.target", "backends.triton.target", "backends.triton.binaries",
    ),
}  # fmt: skip
# … and not even these, though their rooms are: what weights, rewrites, programs and passes take.
UNUSED = (
    "ir.recipe", "ir.recipe_functions", "ir.pattern", "ir.wiring", "ir.verifier", "ir.compare",
    "frontends.source.elaborate.recipes", "frontends.source.elaborate.rules", "frontends.source.elaborate.rule_pattern",
    "frontends.source.elaborate.programs", "frontends.source.format",
)  # fmt: skip

_PROBE = """
import sys
from tessera.driver.cli import main
code = main(sys.argv[1:])
print("LOADED", *sorted(sys.modules), file=sys.stderr)
sys.exit(code)
"""


def loaded(*args: str) -> set[str]:
    """The modules that a command has imported when it is done."""
    result = subprocess.run([sys.executable, "-c", _PROBE, *args], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    word, *names = result.stderr.splitlines()[-1].split()
    assert word == "LOADED"
    return set(names)


@pytest.fixture(scope="module", autouse=True)
def _parsed_before() -> None:
    """The shipped files are parsed once in a life: what is looked at here is every start after it."""
    loaded("check", "zoo/vit")


@pytest.mark.parametrize(
    "args",
    [["--help"], ["compile", "--help"], ["--version"], ["check", "zoo/vit"], ["specs"], ["help", "E0001"], ["ops"]],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(args: list[str]) -> None:
    assert not loaded(*args) & set(HEAVY)


@pytest.mark.parametrize("command", OURS)
def test_a_command_imports_what_it_needs(command: str) -> None:
    found = loaded(*command.split())
    # Nobody can say a version without looking at what is installed.
    assert not found & set(SLOW if command != "--version" else ("lark",))
    ours = {name.removeprefix("tessera.") for name in found if name.startswith("tessera.")}
    packages = {part for name in ours for part in (name.rpartition(".")[0], name.partition(".")[0])}
    assert not {n for n in ours - packages if not n.startswith(OURS[command])}
    assert not ours & set(UNUSED)


def test_importing_the_package_is_light() -> None:
    code = "import sys, tessera; print(*sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = result.stdout.split()
    ours = ["tessera.ir", "tessera.ir.diagnostics", "tessera.ir.library", "tessera.ir.vocabulary"]
    assert [n for n in found if n.startswith("tessera.")] == ours
    assert not {"click", *HEAVY} & {*found}
