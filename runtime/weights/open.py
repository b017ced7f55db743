"""Opening checkpoints: one safetensors file, the shards of an index, a folder; names are renamed on the way.

>>> weights = open_weights("model.safetensors", renames=[("bert.*", "*")])       # doctest: +SKIP
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ...ir.diagnostics import Diagnostic, Span
from ..files.safetensors import Entry, SafetensorsFile, refuse_pickle

if TYPE_CHECKING:
    import numpy as np


class Weights(Mapping[str, "np.ndarray"]):
    """The tensors of one or more files under their names in the model; arrays are read-only views of memory maps."""

    def __init__(self, tensors: Mapping[str, tuple[SafetensorsFile, str]]) -> None:
        self._tensors = dict(tensors)

    def __getitem__(self, name: str) -> np.ndarray:
        file, original = self._tensors[name]
        return file.array(original)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def entry(self, name: str) -> Entry:
        """Shape and dtype as the file's header states them; nothing is read."""
        file, original = self._tensors[name]
        return file.entries[original]


def open_weights(
    paths: str | Path | Iterable[str | Path], renames: Iterable[tuple[str, str]] = (), *, span: Span | None = None
) -> Weights:
    """Open safetensors files; only their headers are read.

    Args:
        paths: a ``.safetensors`` file, the ``.index.json`` of a sharded checkpoint, a folder with either, or several.
        renames: pairs (pattern of names in the file, name in the model). A ``*`` stands for one or more characters; the
            first pattern that fits a name renames it, once. Names that no pattern fits stay.
        span: where the program names the file, for errors.

    Raises:
        Diagnostic: E0001 E0002 E0601 E0602 E0603 E0604 for the file, E0608 and E0609 for renames, E0610 for the index.
    """
    rules = [_rule(source, target, span) for source, target in renames]
    tensors: dict[str, tuple[SafetensorsFile, str]] = {}
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        for file, names in _files(Path(path), span):
            for original in names:
                name = _rename(original, rules)
                if name in tensors:
                    other_file, other = tensors[name]
                    places = f"`{other}` ({other_file.path.name}) and `{original}` ({file.path.name})"
                    message = f"{places} are both called `{name}`"
                    raise Diagnostic("E0608", message, span)
                tensors[name] = (file, original)
    return Weights(tensors)


def _files(path: Path, span: Span | None) -> Iterator[tuple[SafetensorsFile, Iterable[str]]]:
    if os.path.isdir(path):
        found = sorted(path.glob("*.safetensors.index.json")) or sorted(path.glob("*.safetensors"))
        if not found:
            for other in sorted(path.iterdir()):
                refuse_pickle(other, span)
            raise Diagnostic("E0001", f"there is no safetensors file in {path}", span)
        for file in found:
            yield from _files(file, span)
    elif path.name.endswith(".json"):
        yield from _sharded(path, span)
    else:
        opened = SafetensorsFile(path, span)
        yield opened, opened.entries


def _sharded(path: Path, span: Span | None) -> Iterator[tuple[SafetensorsFile, Iterable[str]]]:
    try:
        index = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise Diagnostic("E0001", f"there is no weights file {path}", span) from error
    except OSError as error:
        raise Diagnostic("E0002", f"{path} cannot be read: {error.strerror or error}", span) from error
    except (ValueError, RecursionError) as error:
        raise Diagnostic("E0610", f"{path.name} is not JSON: {str(error)[:200]}", span) from error
    table = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise Diagnostic("E0610", f"{path.name} has no `weight_map` from names to files", span)
    shards: dict[str, list[str]] = {}
    for name, shard in table.items():
        shards.setdefault(shard, []).append(name)
    for shard, names in shards.items():
        # The name decides, not where a link leads: caches link each shard to a store of blobs.
        if PurePosixPath(shard).name != shard or shard in ("", ".", "..") or "\\" in shard:
            raise Diagnostic("E0610", f"{path.name} puts `{names[0]}` into `{shard}`, outside of its own folder", span)
        file = SafetensorsFile(path.parent / shard, span)
        for name in names:
            if name not in file.entries:
                raise Diagnostic("E0610", f"{path.name} puts `{name}` into {shard}, but it is not there", span)
        yield file, names


def _rule(source: str, target: str, span: Span | None) -> tuple[re.Pattern[str], list[str]]:
    if source.count("*") != target.count("*") or not source or not target:
        raise Diagnostic("E0609", f'"{source}" => "{target}": both sides need the same number of `*`', span)
    return re.compile("(.+?)".join(map(re.escape, source.split("*")))), target.split("*")


def _rename(name: str, rules: list[tuple[re.Pattern[str], list[str]]]) -> str:
    for pattern, target in rules:
        match = pattern.fullmatch(name)
        if match:
            return target[0] + "".join(found + rest for found, rest in zip(match.groups(), target[1:], strict=True))
    return name
