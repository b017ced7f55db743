"""The per-user cache directory: JSON only, written aside and renamed, and never a reason to fail."""

from __future__ import annotations

import contextlib
import json
import os
from hashlib import blake2b
from pathlib import Path
from typing import Any

_ENTRIES = 1024


def cache_dir() -> Path | None:
    """``$TESSERA_CACHE``, else ``$XDG_CACHE_HOME/tessera``, else ``~/.cache/tessera``; None without a home."""
    chosen = os.environ.get("TESSERA_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "tessera"
    except RuntimeError:
        return None


def digest(*parts: bytes) -> str:
    """A name for a cache entry that depends on all of ``parts``."""
    hasher = blake2b(digest_size=16)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.hexdigest()


def load_json(name: str) -> Any:
    """The entry ``name``, or None where there is none that can be read."""
    directory = cache_dir()
    if directory is None:
        return None
    try:
        return json.loads((directory / f"{name}.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def save_json(name: str, value: Any) -> None:
    """Store ``value`` as the entry ``name``, if that is possible."""
    import tempfile

    directory = cache_dir()
    if directory is None:
        return
    with contextlib.suppress(OSError, RecursionError):
        directory.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=directory, prefix=f"{name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(json.dumps(value, separators=(",", ":")))
            os.replace(temporary, directory / f"{name}.json")
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _prune(directory)


def _prune(directory: Path) -> None:
    """Drop the older half once there are too many entries: every edit of a file leaves one behind."""
    entries = [entry for entry in os.scandir(directory) if entry.name.endswith(".json")]
    if len(entries) > _ENTRIES:
        entries.sort(key=lambda entry: entry.stat().st_mtime)
        for entry in entries[: _ENTRIES // 2]:
            os.unlink(entry.path)
