"""From files to the arrays an artifact takes: images, NumPy arrays, and text through a tokenizer.

>>> specs = [InputSpec("image", "f32", ("B", 3, 224, 224))]
>>> arrays = read_inputs(specs, [("image", "cat.png")], Options(fit="crop"))     # doctest: +SKIP
>>> arrays["image"].shape                                                         # doctest: +SKIP
(1, 3, 224, 224)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.diagnostics import Diagnostic, did_you_mean
from ..ir.types import DTYPES, TEXT

if TYPE_CHECKING:
    import numpy as np

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif"})
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of an artifact: its name, dtype (``f32``), and shape; a string is a size that the caller chooses. A ``role``
    of ``state`` or ``random`` says that it is filled when it is not given."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    role: str = "input"

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Options:
    """How files become arrays.

    Args:
        fit: what to do with an image of another size: ``exact`` refuses it, ``resize`` scales both sides, ``crop`` scales the
            shorter side and cuts out the middle.
        mean, std: per channel, of pixel values in 0 … 1. Without them the artifact's metadata decides (``image_mean``,
            ``image_std``); without that ImageNet's for three channels, and 0.5 for one.
        tokenizer: a ``tokenizer.json``.
        max_length: cut texts to that many tokens; None leaves it to the tokenizer.
        lines: every line of a text file is a text of its own.
        metadata: the artifact's.
        beside: the artifact's folder, where a ``tokenizer.json`` is looked for.
        first: of the arrays of these inputs only so many entries along the first axis are read.
    """

    fit: str = "exact"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    tokenizer: str | Path | None = None
    max_length: int | None = None
    lines: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    beside: Path | None = None
    first: Mapping[str, int] = field(default_factory=dict)


def read_inputs(
    specs: Sequence[InputSpec], files: Sequence[tuple[str, str]], options: Options | None = None
) -> dict[str, np.ndarray]:
    """Arrays by input name.

    Args:
        specs: what the artifact takes.
        files: pairs of an input's name and a file. A name given several times makes a batch; an ``.npz`` file may have the
            name ``""``: each of its arrays is the input of that name.

    Raises:
        Diagnostic: E0001/E0920 file, E0921 image size, E0922 NaN, E0901 names, E0902 shape, E0903 dtype, E0924 tokenizer.
    """
    options = options or Options()
    known = {spec.name: spec for spec in specs}
    grouped: dict[str, list[str]] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, file in files:
        if not name and Path(file).suffix.lower() == ".npz":
            arrays |= _read_npz(file, options.first)
        elif name not in known:
            raise _unknown(name, known)
        else:
            grouped.setdefault(name, []).append(file)
    for key in arrays:
        if key not in known:
            raise _unknown(key, known)
    for name, group in grouped.items():
        for key, array in _read_group(known[name], group, known, options).items():
            arrays.setdefault(key, array)
    missing = [spec for spec in specs if spec.name not in arrays]
    if missing:
        raise Diagnostic(
            "E0901",
            f"no value for {'the input' if len(missing) == 1 else 'the inputs'} {', '.join(f'`{m}`' for m in missing)}",
            help=f"add `--input {missing[0].name}=FILE`",
        )
    return {spec.name: fit_array(spec, arrays[spec.name]) for spec in specs}


def fit_array(spec: InputSpec, array: Any, *, nan: bool = False) -> np.ndarray:
    """``array`` as the input takes it: the same kind of number, the right rank, and no NaN unless ``nan``. An integer that is
    no array may be a float.

    Sizes that the spec gives as symbols are not compared with each other here; the session does that.

    Raises:
        Diagnostic: E0902 rank or size, E0903 dtype, E0922 NaN.
    """
    import numpy as np

    if spec.dtype == TEXT.name:
        from .stages import fit_texts

        return fit_texts(spec, array)
    if type(array) is int and DTYPES[spec.dtype].kind == "float":
        array = float(array)
    array = np.asarray(array)
    wanted = DTYPES[spec.dtype].numpy
    if array.dtype != wanted:
        array = _convert(spec, array, wanted)
    if array.ndim != len(spec.shape) or any(
        isinstance(want, int) and want != have for want, have in zip(spec.shape, array.shape, strict=False)
    ):
        raise Diagnostic("E0902", f"`{spec}` cannot take an array of shape {list(array.shape)}")
    if DTYPES[spec.dtype].kind == "float" and not nan:
        bad = np.isnan(array)
        if bad.any():
            first = [int(i) for i in np.argwhere(bad)[0]]
            raise Diagnostic(
                "E0922",
                f"`{spec.name}` holds {int(bad.sum())} NaN, the first at {first}",
                help="replace them, for example with `np.nan_to_num`",
            )
    return np.asarray(array, order="C")


def _convert(spec: InputSpec, array: np.ndarray, wanted: np.dtype) -> np.ndarray:
    import numpy as np

    kind = DTYPES[spec.dtype].kind
    # bfloat16 is of NumPy's kind V, and only ml_dtypes makes it.
    have = {"f": "float", "i": "int", "u": "int", "b": "bool"}.get(
        array.dtype.kind, "float" if array.dtype.name == "bfloat16" else ""
    )
    if have == kind == "int" and array.size:
        info = np.iinfo(wanted)
        low, high = int(array.min()), int(array.max())
        if low < info.min or high > info.max:
            raise Diagnostic("E0903", f"`{spec}` cannot hold the values {low} … {high} of the array")
    elif have != kind:
        raise Diagnostic(
            "E0903",
            f"`{spec}` cannot take an array of dtype {array.dtype}",
            help=f"convert it first: `x.astype({str(wanted)!r})`",
        )
    return array.astype(wanted)


def _unknown(name: str, known: Mapping[str, InputSpec]) -> Diagnostic:
    listing = ", ".join(f"`{spec}`" for spec in known.values()) or "none"
    if not name:
        return Diagnostic(
            "E0901", f"which input is the file for? The inputs are: {listing}", help="write `--input name=file`"
        )
    return Diagnostic("E0901", f"there is no input `{name}`; the inputs are: {listing}", help=did_you_mean(name, known))


def _read_group(
    spec: InputSpec, files: list[str], known: Mapping[str, InputSpec], options: Options
) -> dict[str, np.ndarray]:
    import numpy as np

    if len(files) == 1 and not spec.shape and (number := _number(files[0])) is not None and not os.path.isfile(files[0]):
        return {spec.name: np.asarray(number)}
    for file in files:
        if not os.path.isfile(file):
            help = f"`{spec}` has axes, and is given as a file; only a scalar may be given as a number"
            raise Diagnostic("E0001", f"there is no file `{file}`", help=None if _number(file) is None else help)
    suffixes = {Path(f).suffix.lower() for f in files}
    if suffixes == {".txt"}:
        from .text import read_texts

        return read_texts(spec, files, known, options)
    parts = [_read_one(spec, file, options) for file in files]
    if len(parts) == 1:
        return {spec.name: parts[0]}
    if any(p.ndim == 0 for p in parts):
        raise Diagnostic("E0902", f"`{spec}` is given {len(parts)} files, and a scalar has no axis along which to join them")
    if len({p.shape[1:] for p in parts}) != 1:
        raise Diagnostic("E0902", f"the files for `{spec}` have different shapes: {[list(p.shape) for p in parts]}")
    return {spec.name: np.concatenate(parts, axis=0)}


def _number(text: str) -> float | int | bool | None:
    """What a text on the command line means as a scalar; None when it is no number."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def _read_one(spec: InputSpec, file: str, options: Options) -> np.ndarray:
    suffix = Path(file).suffix.lower()
    if suffix in IMAGES:
        from .images import read_image

        return read_image(spec, file, options)
    if suffix == ".npy":
        array = _read_npy(file)
        return array[: options.first.get(spec.name)] if array.ndim else array
    if suffix == ".npz":
        arrays = _read_npz(file, options.first)
        if spec.name in arrays:
            return arrays[spec.name]
        if len(arrays) == 1:
            return next(iter(arrays.values()))
        raise Diagnostic(
            "E0920", f"`{file}` has no array `{spec.name}`, but {', '.join(map(repr, arrays)) or 'none at all'}"
        )
    if suffix == ".txt":
        raise Diagnostic("E0920", f"`{spec.name}` is given text and other files; give it files of one kind")
    raise Diagnostic(
        "E0920",
        f"cannot read `{file}`: its ending `{suffix}` is not one of {', '.join(sorted(IMAGES))}, .npy, .npz, .txt",
    )


def _read_npy(file: str) -> np.ndarray:
    import numpy as np

    try:
        # Mapped, so that a header which promises more than the file holds is refused, not allocated.
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, OverflowError, MemoryError) as error:
        raise Diagnostic("E0920", f"`{file}` is not a usable .npy file: {_first_line(error)}") from None


def array_shapes(file: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays of an .npz file by name, or of that of an .npy file as ``""``: what their headers say. Raises E0001,
    E0920."""
    if Path(file).suffix.lower() == ".npy":
        return {"": _read_npy(file).shape}
    return {name: array.shape for name, array in _read_npz(file, None).items()}


def _read_npz(file: str, first: Mapping[str, int] | None) -> dict[str, np.ndarray]:
    """Its arrays, or the first entries of some; ``first`` None: arrays of their shapes that take no memory."""
    import zipfile
    import zlib

    if not os.path.isfile(file):
        raise Diagnostic("E0001", f"there is no file `{file}`")
    found = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as stream:
                    found[name] = _read_member(stream, member.file_size, 0 if first is None else first.get(name))
    except (OSError, ValueError, EOFError, KeyError, OverflowError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise Diagnostic("E0920", f"`{file}` is not a usable .npz file: {_first_line(error)}") from None
    return found


def _read_member(stream: Any, size: int, first: int | None) -> np.ndarray:
    """The array of a member of ``size`` bytes, of which only the ``first`` entries are read where that is given; 0: none of it,
    only its shape. Raises ValueError when its header promises more than there is."""
    import math

    import numpy as np
    from numpy.lib import format as npy

    version = npy.read_magic(stream)
    shape, by_column, dtype = npy.read_array_header_1_0(stream) if version == (1, 0) else npy.read_array_header_2_0(stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are never loaded")
    promised = math.prod(shape) * dtype.itemsize
    if promised > size:
        raise ValueError(f"the header promises {promised} bytes, but the file holds {size}")
    if first == 0:
        return np.broadcast_to(np.zeros((), dtype), shape)
    # Where entries lie behind one another, what is behind the last that is wanted stays in the file.
    if first is not None and shape and not by_column:
        shape = (min(first, shape[0]), *shape[1:])
    wanted = math.prod(shape) * dtype.itemsize
    data = stream.read(wanted)
    if len(data) < wanted:
        raise ValueError(f"the file ends {wanted - len(data)} bytes early")
    array: np.ndarray = np.ndarray(shape, dtype, data, order="F" if by_column else "C")
    return array[:first] if shape else array


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
