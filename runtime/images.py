"""Images to arrays: read, fit to the model's size, scaled to 0 … 1, normalised."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..ir.diagnostics import Diagnostic
from .inputs import IMAGENET_MEAN, IMAGENET_STD, InputSpec, Options

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


def read_image(spec: InputSpec, file: str, options: Options) -> np.ndarray:
    """One image as ``[1, C, H, W]`` (or ``[1, H, W, C]``, as the input says).

    An integer input gets the pixel values 0 … 255, a float one ``(pixel / 255 - mean) / std``.

    Raises:
        Diagnostic: E0920 not an image, E0921 its size, E0923 the input takes no image.
    """
    import numpy as np

    channels, height, width, first = _layout(spec)
    image = fitted(open_image(file, channels), height, width, options.fit, file)
    pixels = np.asarray(image).reshape(image.height, image.width, channels)
    if spec.dtype.startswith(("i", "u")):
        array = pixels.astype(np.int64)
    else:
        mean, std = _statistics(channels, options)
        array = ((pixels / 255.0 - np.array(mean)) / np.array(std)).astype(np.float32)
    return (array.transpose(2, 0, 1) if first else array)[None]


def open_image(file: str | Path, channels: int = 3) -> Image.Image:
    """The image, turned as its camera says, in RGB (or grey for one channel). Raises E0920."""
    import warnings

    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            # A picture that is suspiciously large for its file is refused like one that is broken.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as raw:
                raw.load()
                return ImageOps.exif_transpose(raw).convert("RGB" if channels == 3 else "L")
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Diagnostic("E0920", f"`{file}` is not a usable image: {reason}") from None


def fitted(image: Image.Image, height: int | None, width: int | None, fit: str, file: str = "the image") -> Image.Image:
    """The image at ``height`` × ``width`` (None: as it is), brought there as ``fit`` says. Raises E0921 for ``exact``."""
    from PIL import Image

    height, width = height or image.height, width or image.width
    if (image.height, image.width) == (height, width):
        return image
    if fit == "exact":
        raise Diagnostic(
            "E0921",
            f"`{file}` is {image.width} × {image.height} pixels, but the model takes {width} × {height}",
            help="say how to fit it: `--fit resize` scales both sides, `--fit crop` cuts out the middle",
        )
    if fit == "resize":
        return image.resize((width, height), Image.Resampling.BICUBIC)
    scale = max(width / image.width, height / image.height)
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return image.crop((left, top, left + width, top + height))


def image_size(spec: InputSpec) -> tuple[int | None, int | None]:
    """Height and width of an image input; None where the caller chooses."""
    return _layout(spec)[1:3]


def is_image(spec: InputSpec) -> bool:
    """Whether the input has the layout of a batch of images."""
    return len(spec.shape) == 4 and (spec.shape[1] in (1, 3) or spec.shape[3] in (1, 3))


def _layout(spec: InputSpec) -> tuple[int, int | None, int | None, bool]:
    """Channels, height, width, and whether the channels come first."""
    if not is_image(spec):
        raise Diagnostic(
            "E0923", f"`{spec}` takes no image: it is not [B, 3, H, W] or [B, H, W, 3]", help="give it an .npy file"
        )
    first = spec.shape[1] in (1, 3)
    channels, height, width = (spec.shape[1], *spec.shape[2:]) if first else (spec.shape[3], *spec.shape[1:3])
    sizes = [d if isinstance(d, int) else None for d in (height, width)]
    return int(channels), sizes[0], sizes[1], first


def _statistics(channels: int, options: Options) -> tuple[tuple[float, ...], tuple[float, ...]]:
    defaults = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,), (0.5,))
    return (
        _per_channel("mean", options.mean, options, channels, defaults[0]),
        _per_channel("std", options.std, options, channels, defaults[1]),
    )


def _per_channel(
    name: str, given: tuple[float, ...] | None, options: Options, channels: int, default: tuple[float, ...]
) -> tuple[float, ...]:
    text = options.metadata.get(f"image_{name}")
    values = given if given is not None else numbers(f"image_{name}", text) if text else default
    if len(values) == 1:
        values = values * channels
    if len(values) != channels:
        raise Diagnostic("E0011", f"`{name}` has {len(values)} values, but the image has {channels} channels")
    if name == "std" and not all(values):
        raise Diagnostic("E0011", "`std` must not be 0")
    return values


def numbers(name: str, text: str) -> tuple[float, ...]:
    """``0.485,0.456,0.406`` as numbers. Raises E0011."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise Diagnostic("E0011", f"`{name}` must be numbers with commas between them, but is {text!r}") from None
