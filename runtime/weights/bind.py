"""Weights: from safetensors files to the parameters of a graph, lazily and without a second copy.

>>> weights = open_weights("model.safetensors", renames=[("bert.*", "*")])       # doctest: +SKIP
>>> bound = bind(graph, weights)                                                 # doctest: +SKIP
>>> bound["embeddings.LayerNorm.weight"].numpy()                                 # doctest: +SKIP
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic, Note, Span
from ...ir.graph import Graph, Parameter
from ...ir.types import DType
from ..files.safetensors import Entry, SafetensorsFile, refuse_pickle
from .initialise import fill

if TYPE_CHECKING:
    import numpy as np

SHOWN = 12  # names listed in one note before the rest is counted


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


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A parameter's value that is made when asked for. ``np.asarray(tensor)`` works too."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.size

    def numpy(self) -> np.ndarray:
        """The value in the parameter's dtype: a view of the file where it has that dtype already, else a new array."""
        return self.load().astype(self.dtype.numpy, copy=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        return array if dtype is None and not copy else array.astype(dtype or array.dtype, copy=bool(copy))


class Bound(dict[str, LazyTensor]):
    """Every parameter of a graph with its value.

    ``unexpected``: names that the model does not use. ``converted``: (from, to) dtype -> how many tensors.
    """

    unexpected: list[str]
    converted: dict[tuple[DType, DType], int]

    def __init__(self) -> None:
        super().__init__()
        self.unexpected = []
        self.converted = {}

    def notes(self) -> list[str]:
        """What a user should know: conversions, and tensors that were left out."""
        notes = [f"{count} tensor(s) converted from {a} to {b}" for (a, b), count in self.converted.items()]
        if self.unexpected:
            notes.append(f"not used by the model: {shorten(self.unexpected)}")
        return notes


# Opening -------------------------------------------------------------------------------------------------------------


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


# Binding -------------------------------------------------------------------------------------------------------------


def bind(graph: Graph, weights: Mapping[str, Any], *, strict: bool = False, span: Span | None = None) -> Bound:
    """Give every parameter of ``graph`` its tensor. No tensor is read or converted yet.

    Args:
        weights: :class:`Weights`, or a mapping from full names to arrays (NumPy, torch).
        strict: refuse tensors that the model does not use; otherwise ``Bound.unexpected`` lists them, since published
            checkpoints carry heads and position ids besides.
        span: where the program names the weights, for errors.

    Raises:
        Diagnostic: E0606 missing or wrong-shaped names (all of them in one), E0605 and E0607 dtypes, E0612 a parameter
            without a fixed size.
    """
    bound = Bound()
    bound.unexpected = [name for name in weights if name not in graph.params]
    missing: list[str] = []
    misshaped: list[str] = []
    kinds: list[str] = []
    for name, param in graph.params.items():
        if name not in weights:
            missing.append(name)
            continue
        wanted = param_shape(param)
        dtype, shape, shown, load = _look(weights, name, span)
        if shape != wanted:
            misshaped.append(f"{name} is {shown}, but the model has {param.type}")
        elif not _convertible(dtype, param.type.dtype):
            kinds.append(f"{name} is {shown}, but the model has {param.type}")
        else:
            if dtype != param.type.dtype:
                pair = (dtype, param.type.dtype)
                bound.converted[pair] = bound.converted.get(pair, 0) + 1
            bound[name] = LazyTensor(name, param.type.dtype, shape, load)
    if missing or misshaped or (strict and bound.unexpected):
        raise _misfit(graph, missing, misshaped, bound.unexpected, span)
    if kinds:
        message = f"{len(kinds)} weight(s) of `{graph.name}` are of another kind: {shorten(kinds, '; ')}"
        raise Diagnostic("E0607", message, span)
    return bound


def initialise(graph: Graph, seed: int = 0) -> Bound:
    """A value for every parameter from its initialiser, ``seed`` and its name; the same for every backend.

    Raises:
        Diagnostic: E0611 for an unknown initialiser, E0612 for a parameter without a fixed size.
    """
    bound = Bound()
    for name, param in graph.params.items():
        bound[name] = _initial(param, seed)
    return bound


def _initial(param: Parameter, seed: int) -> LazyTensor:
    shape = param_shape(param)

    def load() -> np.ndarray:
        return fill(param.init, shape, param.type.dtype, seed=seed, name=param.full_name, span=param.span)

    return LazyTensor(param.full_name, param.type.dtype, shape, load)


def param_shape(param: Parameter) -> tuple[int, ...]:
    """The sizes of a parameter. Raises E0612 when one is not known."""
    sizes = tuple(d.value for d in param.type.shape)
    if any(s is None for s in sizes):
        message = f"the parameter `{param.full_name}` is {param.type}, which is not a fixed size"
        raise Diagnostic("E0612", message, param.span)
    return tuple(int(s) for s in sizes if s is not None)


def _look(
    weights: Mapping[str, Any], name: str, span: Span | None
) -> tuple[DType, tuple[int, ...], str, Callable[[], np.ndarray]]:
    """Dtype, shape, both as text, and how to get the array."""
    if isinstance(weights, Weights):
        entry = weights.entry(name)
        if entry.known is None:
            raise Diagnostic("E0605", f"`{name}` is {entry.dtype} in the file, which Tessera does not have", span)
        return entry.known, entry.shape, str(entry), lambda: weights[name]
    value = weights[name]
    if isinstance(value, LazyTensor):
        return value.dtype, value.shape, f"{value.dtype}{list(value.shape)}", value.numpy
    array = _as_numpy(value)
    try:
        dtype = DType.from_numpy(array.dtype)
    except KeyError as error:
        raise Diagnostic("E0605", f"`{name}` has dtype {array.dtype}, which Tessera does not have", span) from error
    return dtype, array.shape, f"{dtype}{list(array.shape)}", lambda: array


def _as_numpy(value: Any) -> np.ndarray:
    import numpy as np

    if hasattr(value, "detach"):  # torch; NumPy has no bfloat16 of its own, so that the bits are passed
        tensor = value.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            import ml_dtypes
            import torch

            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()
    return np.asarray(value)


def _convertible(source: DType, target: DType) -> bool:
    if source.kind == target.kind == "int":
        import numpy as np

        return np.can_cast(source.numpy, target.numpy, "safe")
    return source.kind == target.kind


def _misfit(
    graph: Graph, missing: list[str], misshaped: list[str], unexpected: list[str], span: Span | None
) -> Diagnostic:
    counts = [(missing, "missing"), (misshaped, "of another shape"), (unexpected, "not used")]
    message = ", ".join(f"{len(names)} {what}" for names, what in counts if names)
    notes = [Note(f"{what}: {shorten(names, '; ' if names is misshaped else ', ')}") for names, what in counts if names]
    message = f"the weights do not fit `{graph.name}`: {message}"
    return Diagnostic("E0606", message, span, notes, help=_prefix_help(missing, unexpected))


def _prefix_help(missing: list[str], unexpected: list[str]) -> str | None:
    """The rename that would supply what is missing, when the names differ only by a prefix."""
    if not missing or not unexpected:
        return None
    names = set(unexpected)
    for name in unexpected:
        if name.endswith(f".{missing[0]}"):
            prefix = name.removesuffix(missing[0])
            if all(prefix + m in names for m in missing):
                return f'the names in the file begin with `{prefix}`: write `weights "…" {{ "{prefix}*" => "*" }}`'
    prefix = missing[0].rpartition(".")[0]
    while prefix:
        stem = f"{prefix}."
        if all(m.startswith(stem) and m.removeprefix(stem) in names for m in missing):
            return f'the names in the file lack `{stem}`: write `weights "…" {{ "*" => "{stem}*" }}`'
        prefix = prefix.rpartition(".")[0]
    return None


def shorten(names: list[str], separator: str = ", ") -> str:
    """``a, b, c … and 14 more``."""
    shown = separator.join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} … and {len(names) - SHOWN} more"
