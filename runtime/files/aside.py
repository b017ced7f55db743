"""Writing so that a failure leaves nothing half-written: everything goes aside first and is renamed when it is whole."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from ...ir.diagnostics import Diagnostic

# Seconds within which a folder may be another process's that has just made it.
_YOUNG = 60.0
_SCRATCH, _SUFFIX = "tessera-", ".tmp"


@contextmanager
def written_aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path in a new folder beside ``path``, with the same file name; what the body writes there replaces ``path``.

    Other files that the body leaves in the folder (external data) come along, and are renamed first, so that ``path`` never
    names data which is not there yet. When the body fails, the folder is removed and an earlier ``path`` is as it was.

        with written_aside("vit.onnx") as aside:
            aside.write_bytes(data)

    Raises:
        Diagnostic: E0010 when the folder cannot be written to or the disk is full.
    """
    target = check_writable(path)
    folder, held = _new_folder(target, path)
    try:
        aside = folder / target.name
        yield aside
        if not aside.exists():
            raise RuntimeError(f"nothing was written for {target}")
        if target.exists():
            shutil.copymode(target, aside)
        for extra in sorted(folder.iterdir()):
            if extra.name != target.name:
                os.replace(extra, target.parent / extra.name)
        os.replace(aside, target)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


@contextmanager
def folder_aside(path: str | os.PathLike[str], ours: str) -> Iterator[Path]:
    """A new folder beside ``path``, which takes its place when the body has filled it.

    Args:
        ours: the file by which an earlier folder is known to be one that may be replaced.

    Raises:
        Diagnostic: E0010 when it cannot be written, or when something else than such a folder is there.
    """
    target = check_folder(path, ours)
    folder, held = _new_folder(target, path)
    try:
        fresh = folder / "new"
        fresh.mkdir()
        yield fresh
        if target.exists():
            os.replace(target, folder / "old")
        os.replace(fresh, target)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


class Scratch(tempfile.TemporaryDirectory[str]):
    """A folder among the system's temporary ones, which goes with this object. What killed processes left is removed.

        with Scratch() as folder:
            Path(folder, "model.onnx").write_bytes(data)

    Raises:
        Diagnostic: E0010 when there is no room for one.
    """

    def __init__(self) -> None:
        beside = Path(tempfile.gettempdir())
        try:
            _sweep(beside, _SCRATCH)
            super().__init__(prefix=_SCRATCH, suffix=_SUFFIX, ignore_cleanup_errors=True)
        except OSError as error:
            raise unwritable(beside, error) from None
        held = _lock(Path(self.name))
        if held is not None:
            weakref.finalize(self, os.close, held)


def _new_folder(target: Path, shown: str | os.PathLike[str]) -> tuple[Path, int | None]:
    """A folder beside ``target``, and what holds a lock on it as long as this process lives. Those that killed processes left
    for the same target are removed. Raises E0010 with the path as it is ``shown``."""
    prefix = f".{target.name[:64]}."
    try:
        _sweep(target.parent, prefix)
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=_SUFFIX, dir=target.parent))
    except (OSError, ValueError) as error:
        raise unwritable(shown, error) from None
    return folder, _lock(folder)


def _sweep(parent: Path, prefix: str) -> None:
    """Remove the folders of a prefix on which no process that lives has a lock."""
    for left in parent.glob(f"{glob.escape(prefix)}*{_SUFFIX}"):
        try:
            young = time.time() - left.stat().st_mtime <= _YOUNG
        except FileNotFoundError:  # another process was faster
            continue
        # One that is being made has no lock yet.
        held = None if young else _lock(left)
        if held is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(held)


def _lock(folder: Path) -> int | None:
    """A lock that ends with this process; None where another has it, or where there are no such locks."""
    try:
        import fcntl

        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (ImportError, AttributeError, OSError):
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(number)
        return None
    return number


def check_folder(path: str | os.PathLike[str], ours: str) -> Path:
    """Where a folder really is, if it may be written: there is none yet, an empty one, or one that has the file ``ours``."""
    target = Path(os.path.realpath(path))
    free = target.is_dir() and (target.joinpath(ours).is_file() or not any(target.iterdir()))
    if os.path.lexists(target) and not free:
        shown = os.fspath(path)
        raise Diagnostic(
            "E0010", f"cannot write `{shown}`: something else is there", help="name a new folder with `-o`"
        )
    return target


def unwritable(path: str | os.PathLike[str], error: BaseException) -> Diagnostic:
    """E0010, with the system's reason."""
    import errno

    reason = getattr(error, "strerror", None) or str(error)
    code = getattr(error, "errno", None)
    hint = {
        errno.ENOSPC: "free some space, or write to another disk with `-o`",
        errno.EDQUOT: "your quota is used up: free some space, or write elsewhere with `-o`",
        errno.ENOENT: f"create the folder first: mkdir -p {quote(str(Path(path).parent))}",
    }.get(code or 0, "choose another place with `-o`")
    return Diagnostic("E0010", f"cannot write `{os.fspath(path)}`: {reason}", help=hint)


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Where ``path`` really is, if it can be written to as far as one can tell. Raises E0010 when it cannot."""
    shown = os.fspath(path)
    try:
        target = Path(os.path.realpath(path))
        exists = target.exists()
    except (OSError, ValueError) as error:  # a name that is too long, or holds a zero byte
        raise unwritable(path, error) from None
    if target.is_dir():
        raise Diagnostic("E0010", f"cannot write `{shown}`: it is a folder", help="name a file in it")
    if exists and not target.is_file():
        raise Diagnostic("E0010", f"cannot write `{shown}`: it is not an ordinary file", help="name a file")
    if not target.parent.is_dir():
        help = f"create the folder first: mkdir -p {quote(str(target.parent))}"
        raise Diagnostic("E0010", f"cannot write `{shown}`: there is no folder `{target.parent}`", help=help)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise Diagnostic("E0010", f"cannot write `{shown}`: the folder `{target.parent}` may not be written to")
    return target
