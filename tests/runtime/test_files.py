"""Writing aside: whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from tessera.ir.diagnostics import Diagnostic
from tessera.runtime.files.aside import Scratch, check_writable, written_aside


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_the_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    with written_aside(target) as aside:
        aside.write_text("new")
        assert aside.name == target.name
        assert not target.exists()
    assert target.read_text() == "new"
    assert names(tmp_path) == {"model.onnx"}


def test_files_beside_come_along(tmp_path: Path) -> None:
    with written_aside(tmp_path / "model.onnx") as aside:
        aside.write_text("model")
        aside.with_name("model.onnx.data").write_text("weights")
    assert names(tmp_path) == {"model.onnx", "model.onnx.data"}


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    target.write_text("old")

    def fail() -> None:
        with written_aside(target) as aside:
            aside.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert target.read_text() == "old"
    assert names(tmp_path) == {"model.onnx"}


def test_a_body_that_writes_nothing_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), written_aside(tmp_path / "model.onnx"):
        pass
    assert names(tmp_path) == set()


def test_permissions_and_links_are_kept(tmp_path: Path) -> None:
    target, link = tmp_path / "real.txt", tmp_path / "link.txt"
    target.write_text("old")
    target.chmod(0o604)
    link.symlink_to(target)
    with written_aside(link) as aside:
        aside.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o604


def test_the_systems_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Diagnostic) as error, written_aside("model.onnx"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.code == "E0010"
    # The path as it was written, not where that is.
    assert error.value.message == "cannot write `model.onnx`: No space left on device"
    assert "free some space" in (error.value.help or "")


@pytest.mark.parametrize("place", ["", "none/x.onnx", "file/x.onnx", "\0.onnx", "x" * 300 + ".onnx"])
def test_places_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Diagnostic) as error, written_aside(f"{tmp_path}/{place}") as aside:
        aside.write_text("x")
    assert error.value.code == "E0010"
    assert names(tmp_path) == {"file"}


def test_devices_are_refused() -> None:
    with pytest.raises(Diagnostic, match="not an ordinary file"):
        check_writable("/dev/null")


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    left, fresh = tmp_path / ".model.onnx.dead.tmp", tmp_path / ".model.onnx.born.tmp"
    other = tmp_path / ".other.onnx.dead.tmp"
    for folder in (left, fresh, other):
        folder.mkdir()
        folder.joinpath("half").write_text("half")
    with written_aside(target) as alive:
        alive.write_text("one")
        for folder in (left, other, alive.parent):
            os.utime(folder, (0, 0))
        with written_aside(target) as aside:
            aside.write_text("two")
        assert not left.exists()
        assert fresh.exists()
        assert other.exists()
        assert alive.exists()
    assert target.read_text() == "one"


def test_scratch_of_a_killed_process_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, other = tmp_path / "tessera-dead.tmp", tmp_path / "theirs-dead.tmp"
    with Scratch() as alive:
        for folder in (left, other, Path(alive)):
            folder.mkdir(exist_ok=True)
            folder.joinpath("half").write_text("half")
            os.utime(folder, (0, 0))
        with Scratch() as fresh:
            assert {p.name for p in tmp_path.iterdir()} == {other.name, Path(alive).name, Path(fresh).name}
        assert Path(alive, "half").exists()
    assert [p.name for p in tmp_path.iterdir()] == [other.name]
