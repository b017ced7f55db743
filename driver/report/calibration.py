"""Calibration data: examples on which a model and its reduced form are compared, one at a time and without padding.

examples = read_examples(target.fields, "texts.txt", CalibrationOptions(tokenizer="model/tokenizer.json"))
examples.what                       # "40 texts of texts.txt, cut to 128 tokens"
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic
from ...runtime.inputs import IMAGES, InputSpec, Options, array_shapes, read_inputs

if TYPE_CHECKING:
    import numpy as np

    from .measure import Field, Target

# Examples looked at when nobody says: enough for a mean, few enough for a busy laptop.
EXAMPLES = 32
RANDOM = 4
_TEXT_LENGTH = 256


@dataclass(frozen=True)
class CalibrationOptions:
    """How files become examples: as for ``run``, with ``crop`` as the default for images of another size."""

    tokenizer: str | Path | None = None
    fit: str = "crop"
    max_length: int | None = None
    limit: int = EXAMPLES
    beside: Path | None = None


@dataclass(frozen=True)
class Examples:
    """Arrays by input name for each example; ``what`` describes them, ``random`` says that they are noise."""

    feeds: list[dict[str, np.ndarray]]
    what: str
    random: bool = False

    @property
    def middle(self) -> dict[str, np.ndarray]:
        """The example of median size, for timing."""
        return sorted(self.feeds, key=lambda f: sum(a.size for a in f.values()))[len(self.feeds) // 2]


def read_examples(fields: Sequence[Field], path: str | os.PathLike[str], options: CalibrationOptions) -> Examples:
    """Examples from an .npz or .npy file, a folder of images, or a .txt file with a text on each line.

    Raises:
        Diagnostic: E0001 no such file, E0934 of no such kind, empty, or not for this model; what reading a file raises.
    """
    file = Path(path)
    if not os.path.exists(file):
        raise Diagnostic("E0001", f"there is no calibration data `{file}`")
    if os.path.isdir(file):
        found = _images(fields, file, options)
    elif file.suffix.lower() in (".npz", ".npy"):
        found = _arrays(fields, file, options)
    elif file.suffix.lower() == ".txt":
        found = _texts(fields, file, options)
    else:
        raise Diagnostic(
            "E0934", f"`{file}` is no calibration data", help="give an .npz, an .npy, a .txt, or a folder of images"
        )
    if not found.feeds:
        raise Diagnostic("E0934", f"`{file}` holds no example")
    return found


def random_examples(target: Target, sizes: Mapping[str, int], seed: int = 0) -> Examples:
    """A few random inputs, where there is no data: good for seeing that something runs."""
    from .drawing import draw_inputs

    feeds = [draw_inputs(target, sizes, seed + i) for i in range(RANDOM)]
    return Examples(feeds, f"{RANDOM} random inputs", random=True)


# Arrays ------------------------------------------------------------------------------------------------------------------


def _arrays(fields: Sequence[Field], file: Path, options: CalibrationOptions) -> Examples:
    # The examples lie along the first axis, whatever size the model wants there.
    specs = [InputSpec(f.name, f.dtype, ("examples", *_inner(f))) if f.shape else _spec(f) for f in fields]
    if file.suffix.lower() == ".npy" and len(fields) != 1:
        names = ", ".join(f"`{f.name}`" for f in fields)
        raise Diagnostic("E0934", f"`{file}` is one array, but the model takes {names}", help="name them in an .npz")
    name = fields[0].name if file.suffix.lower() == ".npy" else ""
    batch = next((f.shape[0] for f in fields if f.shape), None)
    if batch is None:
        return Examples([read_inputs(specs, [(name, str(file))])], f"1 example of {file.name}")
    step = batch.value if batch.value is not None else 1
    # Every example has the same scalars.
    along = [f.name for f in fields if f.shape and f.shape[0] == batch]
    how = Options(first=dict.fromkeys(along, step * options.limit))
    arrays = read_inputs(specs, [(name, str(file))], how)
    _refuse_infinite(arrays, file)
    shapes = array_shapes(str(file))
    counts = {n: shapes["" if name else n][0] for n in along}
    if len(set(counts.values())) != 1:
        listing = ", ".join(f"`{n}` {c}" for n, c in counts.items())
        raise Diagnostic("E0934", f"the arrays of `{file}` hold different numbers of examples: {listing}")
    total = next(iter(counts.values()))
    if total < step:
        raise Diagnostic("E0934", f"`{file}` holds {total} examples, but the model takes {step} at a time")
    starts = range(0, total - step + 1, step)[: options.limit]
    feeds = [{n: a[i : i + step] if n in along else a for n, a in arrays.items()} for i in starts]
    return Examples(feeds, f"{_of(len(feeds), len(range(0, total - step + 1, step)), 'example')} of {file.name}")


def _refuse_infinite(arrays: Mapping[str, np.ndarray], file: Path) -> None:
    """Raises E0934 for infinite numbers, of which a model makes none that can be compared. Minus infinity and 0 alone are a mask
    that is added to scores."""
    import numpy as np

    for name, array in arrays.items():
        if array.dtype.kind not in "fV":
            continue
        bad = np.isinf(array)
        if bad.any() and not (array[bad] < 0).all() & (array[~bad] == 0).all():
            first = [int(i) for i in np.argwhere(bad)[0]]
            raise Diagnostic(
                "E0934", f"`{name}` of `{file}` holds {int(bad.sum())} infinite numbers, the first at {first}",
                help="replace them, for example with `np.nan_to_num`",
            )  # fmt: skip


def _inner(f: Field) -> tuple[int | str, ...]:
    return _spec(f).shape[1:]


def _spec(f: Field) -> InputSpec:
    return InputSpec(f.name, f.dtype, tuple(d.value if d.value is not None else str(d) for d in f.shape))


def _of(count: int, total: int, what: str) -> str:
    return f"{count if count == total else f'the first {count} of {total}'} {what}{'s' if total != 1 else ''}"


# Images ------------------------------------------------------------------------------------------------------------------


def _images(fields: Sequence[Field], folder: Path, options: CalibrationOptions) -> Examples:
    from ...runtime.images import is_image, read_image

    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES and p.is_file())
    if not files:
        raise Diagnostic("E0934", f"there is no image in the folder `{folder}`")
    specs = [_spec(f) for f in fields]
    if len(specs) != 1 or not is_image(specs[0]):
        names = ", ".join(f"`{s}`" for s in specs)
        raise Diagnostic("E0934", f"images are for a model with one image input, but this one takes {names}")
    how = Options(fit=options.fit, metadata=preprocessing(options.beside))
    feeds = [{specs[0].name: read_image(specs[0], str(f), how)} for f in files[: options.limit]]
    return Examples(feeds, f"{_of(len(feeds), len(files), 'image')} of {folder.name}, --fit {options.fit}")


def preprocessing(folder: Path | None) -> dict[str, str]:
    """Mean and standard deviation of pixels from a ``preprocessor_config.json`` beside the model, where there is one."""
    try:
        config: Any = json.loads((folder or Path("/nowhere")).joinpath("preprocessor_config.json").read_text("utf-8"))
        rows = {key: config[key] for key in ("image_mean", "image_std") if key in config}
        return {key: ",".join(str(float(v)) for v in values) for key, values in rows.items()}
    except (OSError, ValueError, TypeError):
        return {}


# Text --------------------------------------------------------------------------------------------------------------------


def _texts(fields: Sequence[Field], file: Path, options: CalibrationOptions) -> Examples:
    import numpy as np

    from ...runtime.text import FIELDS, load_tokenizer

    unknown = [f.name for f in fields if FIELDS.get(f.name) is None or len(f.shape) != 2]
    ids = next((f for f in fields if FIELDS.get(f.name) == "ids"), None)
    if ids is None or unknown:
        names = ", ".join(f"`{f.name}`" for f in fields)
        raise Diagnostic(
            "E0934", f"text is for a model with token ids, but this one takes {names}", help="give an .npz"
        )
    tokenizer = load_tokenizer(Options(tokenizer=options.tokenizer, beside=options.beside))
    length = ids.shape[1].value
    own = (tokenizer.truncation or {}).get("max_length")
    limit = min(options.max_length or length or own or _TEXT_LENGTH, length or 1 << 30)
    tokenizer.enable_truncation(limit)
    tokenizer.no_padding()
    if length is not None:
        tokenizer.enable_padding(length=length)
    lines = list(_lines(file))
    feeds = []
    cut = 0
    for line in lines[: options.limit]:
        encoding = tokenizer.encode(line)
        cut += bool(encoding.overflowing)
        row = {f.name: np.array([getattr(encoding, FIELDS[f.name])], np.int64) for f in fields}
        feeds.append({f.name: row[f.name].astype(_numpy(f)) for f in fields})
    ended = f"{cut} of them cut to {limit} tokens" if cut else f"none longer than {limit} tokens"
    return Examples(feeds, f"{_of(len(feeds), len(lines), 'text')} of {file.name}, {ended}")


def _numpy(f: Field) -> Any:
    from ...ir.types import DTYPES

    return DTYPES[f.dtype].numpy


def _lines(file: Path) -> Iterator[str]:
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Diagnostic("E0934", f"`{file}` is not UTF-8 text: {error}") from None
    return (line for line in text.splitlines() if line.strip())
