"""What is shipped: the packages, the language files, a console script; and nothing that ties it to one machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
# Folders that are part of the repository but not of the package.
OUTSIDE = {"tests", "benchmarks", "docs", "editors", "build", "dist", "out"}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def files() -> list[Path]:
    """The files of the checkout, relative to its root, without what tools leave behind."""
    found: list[Path] = []
    for folder, names, here in os.walk(ROOT):
        names[:] = [n for n in names if not n.startswith(".") and not n.endswith(".egg-info")]
        names[:] = [n for n in names if n not in {"__pycache__", "node_modules"}]
        if Path(folder) == ROOT:
            names[:] = [n for n in names if n not in {"build", "dist", "out"}]
        # In a second work tree `.git` is a file.
        found += [(Path(folder) / name).relative_to(ROOT) for name in here if name != ".git"]
    return sorted(found)


def packages() -> list[str]:
    folders = {p.parent for p in files() if p.suffix == ".py"} - {Path(".")}
    return sorted("tessera." + ".".join(f.parts) for f in folders if f.parts[0] not in OUTSIDE)


def test_the_listed_packages_are_those_of_the_tree() -> None:
    assert sorted(project()["tool"]["setuptools"]["packages"]) == sorted(["tessera", *packages()])


def test_every_package_has_an_init() -> None:
    for package in packages():
        assert (ROOT / Path(*package.split(".")[1:]) / "__init__.py").is_file(), package


def test_supported_pythons_and_extras() -> None:
    meta = project()["project"]
    assert meta["requires-python"] == ">=3.11,<3.14"
    assert set(meta["optional-dependencies"]) == {"mlir", "iree", "triton", "serve", "text", "code", "lsp", "real", "dev"}
    bounded = [*meta["dependencies"], *meta["optional-dependencies"]["dev"]]
    assert all(">=" in requirement for requirement in bounded)


def imports(path: Path) -> set[str]:
    text = (ROOT / path).read_text(encoding="utf-8")
    return set(re.findall(r"^\s*(?:from|import) ([A-Za-z_][A-Za-z_0-9]*)", text, re.MULTILINE))


def required(*extras: str) -> set[str]:
    meta = project()["project"]
    rows = [*meta["dependencies"], *(r for extra in extras for r in meta["optional-dependencies"][extra])]
    return {re.split(r"[<>=\[; ]", row)[0].lower().replace("-", "_") for row in rows}


def imported() -> set[str]:
    """Distributions that the package imports."""
    # protobuf comes with onnx and sympy with torch, whose own objects they are.
    names = {"PIL": "pillow", "skimage": "scikit_image", "google": "onnx", "sympy": "torch"}
    modules = {m for p in files() if p.suffix == ".py" and p.parts[0] not in OUTSIDE for m in imports(p)}
    return {names.get(m, m).lower() for m in modules - set(sys.stdlib_module_names)} - {"tessera"}


def test_everything_imported_by_the_package_is_required() -> None:
    assert imported() - required("mlir", "triton", "serve", "text", "code", "lsp", "real") == set()


def test_everything_required_is_imported() -> None:
    assert required() - imported() == set()


MACHINE = re.compile(
    r"/(?:work|opt|home|root|Users|mnt)/[a-z]|https?://[^\s\"')]*(?:pypi|simple|index)[^\s\"')]*|file:///"
)


def test_nothing_names_a_machine_path_or_a_registry() -> None:
    found = []
    for path in files():
        if path.suffix in {".py", ".toml", ".md", ".tess", ".lark", ".json", ""} and path != Path(
            "tests/test_packaging.py"
        ):
            text = (ROOT / path).read_text(encoding="utf-8", errors="replace")
            found += [f"{path}: {match.group()}" for match in MACHINE.finditer(text)]
    assert found == []


def test_the_commands_of_the_makefile_exist() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test", "test-slow", "lint", "bench"):
        assert re.search(rf"^{target}:", text, re.MULTILINE)
    for module in re.findall(r"-m (benchmarks\.\w+)", text):
        path = ROOT / Path(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_ci_is_executable_and_runs_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    assert all(f" {target}" in text for target in ("lint", "test", "test-slow", "demo"))


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, env={**os.environ, **env}, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tree in a folder of another name."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "any name"
    for path in files():
        if path.parts[0] != "tests":
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, tree / path)
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ".", cwd=tree)
    return next(folder.glob("tessera-*.whl"))


@pytest.mark.slow
def test_the_wheel_ships_the_code_the_language_files_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        shipped = {n for n in archive.namelist() if ".dist-info/" not in n}
    wanted = {
        f"tessera/{p.as_posix()}"
        for p in files()
        if p.parts[0] not in OUTSIDE and p.suffix in {".py", ".tess", ".json", ".lark", ".typed", ".html", ".css"}
    }
    wanted |= {"tessera/py.typed"}
    assert shipped == wanted


@pytest.mark.slow
def test_the_wheel_declares_its_licence_and_its_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert any(n.endswith("licenses/LICENSE") for n in names)
        entry = next(n for n in names if n.endswith("entry_points.txt"))
        assert "tessera = tessera.driver.cli:main" in archive.read(entry).decode()


@pytest.mark.slow
def test_the_wheel_works_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    # The dependencies of this environment, but not its editable install: a path in a .pth file is not searched for more.
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", "--force-reinstall", wheel, cwd=tmp_path)
    where = run(python, "-c", "import tessera; print(tessera.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(tmp_path)
    source = tmp_path / "m.tess"
    source.write_text(
        "use std.nn (linear)\nmodel m(x: float[B, 8]) -> float[B, 4] {\n    return linear(x, out=4)\n}\n",
        encoding="utf-8",
    )
    run(tmp_path / "env" / "bin" / "tessera", "check", source, cwd=tmp_path)
    assert "Usage" in run(tmp_path / "env" / "bin" / "tessera", "--help", cwd=tmp_path)


@pytest.mark.slow
def test_an_editable_install_works_from_a_folder_of_any_name(wheel: Path, tmp_path: Path) -> None:
    tree = wheel.parent / "any name"
    target = tmp_path / "target"
    run(
        sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target", target,
        "-e", ".", cwd=tree,
    )  # fmt: skip
    # -S: without this environment's own editable install, which is of the same name.
    code = f"""
import site, sys
site.addsitedir({str(target)!r})
sys.path.append({sysconfig.get_path("purelib")!r})
import tessera.ir.dims.dim
print(tessera.ir.dims.dim.__file__)
"""
    out = run(sys.executable, "-S", "-c", code, cwd=tmp_path)
    assert Path(out.strip()) == tree / "ir" / "dims" / "dim.py"
