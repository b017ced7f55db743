"""A picture of which patches of an image became one token, drawn as in Bolya et al. 2023 (figure 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.diagnostics import Diagnostic

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

# The light grey under what is dimmed.
_DIMMED = 195.0
# Tokens before the patches: none, a class token, a class and a distillation token, or these and a few registers.
_MOST_PREFIX = 16


def patch_grid(tokens: int, height: int, width: int) -> tuple[int, int, int]:
    """Rows and columns of patches, and the number of tokens before them, for ``tokens`` of an image of that size.

    The patches are square and tile the image. Raises E0925 when no such grid has that many tokens.

        >>> patch_grid(197, 224, 224)
        (14, 14, 1)
    """
    for prefix in range(min(_MOST_PREFIX, tokens)):
        patches = tokens - prefix
        side = round((height * width / patches) ** 0.5)
        if side and height % side == 0 and width % side == 0 and (height // side) * (width // side) == patches:
            return height // side, width // side, prefix
    raise Diagnostic("E0925", f"{tokens} tokens are not a grid of square patches of a {width} × {height} image")


def draw_map(image: np.ndarray, source: np.ndarray, dropped: np.ndarray | None = None) -> Image.Image:
    """The picture: each group in the mean colour of its pixels, with a border in a colour of its own.

    Args:
        image: ``u8[H, W, 3]``, the picture as the model saw it.
        source: ``i64[N]``, for each original token the index of the token that it became a part of.
        dropped: ``bool[N]``, the tokens that became part of none: they are dimmed, and those that stay are as they were.

    Raises:
        Diagnostic: E0925 when the tokens are not a grid of patches.
    """
    import numpy as np
    from PIL import Image

    height, width = image.shape[:2]
    rows, columns, prefix = patch_grid(len(source), height, width)
    _, groups = np.unique(source[prefix:], return_inverse=True)
    labels = np.kron(groups.reshape(rows, columns), np.ones((height // rows, width // columns), np.int64))
    flat = labels.ravel()
    counts = np.bincount(flat)
    means = np.stack([np.bincount(flat, image[..., c].ravel()) / counts for c in range(3)], axis=1)
    picture = means[labels]
    edge = _edges(labels)
    if dropped is not None:
        gone = np.kron(dropped[prefix:].reshape(rows, columns), np.ones((height // rows, width // columns), np.int64)) > 0
        single = (np.bincount(groups[~dropped[prefix:]], minlength=len(counts)) <= 1)[labels]
        picture = np.where((single | gone)[..., None], image, picture)
        picture[gone] = _DIMMED + 0.15 * picture[gone]
        edge &= ~(single | gone)
    picture[edge] = _palette(len(counts))[labels[edge]]
    return Image.fromarray(picture.round().astype(np.uint8))


def tinted(image: np.ndarray, group: np.ndarray) -> Image.Image:
    """The picture with each patch in the colour of its group, ``i64[N]``; those of no group, -1, are dimmed.

    Raises:
        Diagnostic: E0925 when the tokens are not a grid of patches.
    """
    import numpy as np
    from PIL import Image

    height, width = image.shape[:2]
    rows, columns, prefix = patch_grid(len(group), height, width)
    labels = np.kron(group[prefix:].reshape(rows, columns), np.ones((height // rows, width // columns), np.int64))
    colours = np.concatenate([_palette(int(group.max(initial=0)) + 1), [[_DIMMED] * 3]])
    picture = 0.5 * image + 0.5 * colours[labels]
    return Image.fromarray(picture.round().astype(np.uint8))


def _edges(labels: np.ndarray) -> np.ndarray:
    """Pixels with a neighbour of another group, or none: the outline of every group, one pixel wide."""
    import numpy as np

    padded = np.pad(labels, 1, constant_values=-1)
    edge = np.zeros(labels.shape, bool)
    height, width = labels.shape
    for y, x in ((0, 1), (2, 1), (1, 0), (1, 2)):
        edge |= padded[y : y + height, x : x + width] != labels
    return edge


def _palette(groups: int) -> np.ndarray:
    """Well-spread colours, ``[groups, 3]``: hues a golden ratio apart, so that neighbours in number differ."""
    import colorsys

    import numpy as np

    return np.array([[255 * c for c in colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.65, 0.95)] for i in range(groups)])
