"""What became of the tokens of one calibration example: the words or the patches that are one token in the end.

    module, steps = traced(after)                              # every reduction shows its map
    became(fields, steps, example, outputs, how)["facts"]      # "128 tokens: 90 stay, 38 are merged into others"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic
from ...runtime.images import is_image
from ...runtime.inputs import InputSpec, Options
from ...runtime.text import FIELDS, load_tokenizer
from .view import Shown, drawn

if TYPE_CHECKING:
    import numpy as np

    from .fates import Step
    from .measure import Field


def became(
    fields: Sequence[Field], steps: Sequence[Step], feed: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], how: Options
) -> dict[str, Any] | None:
    """What the page draws of the first of a batch, as plain data; None where the tokens are neither words nor a grid of patches.

    Args:
        outputs: with the maps of the ``steps``.
        how: where the tokenizer is; without one, words are numbers.
    """
    for f in fields:
        spec = InputSpec(f.name, f.dtype, tuple(d.value if d.value is not None else str(d) for d in f.shape))
        shown = None
        if is_image(spec):
            shown = Shown(f.name, outputs, image=_pixels(feed[f.name][0]))
        elif FIELDS.get(f.name) == "ids" and len(f.shape) == 2:
            shown = Shown(f.name, outputs, words=_words(feed[f.name][0], how))
        try:
            if shown is not None:
                return drawn(shown, steps)
        except Diagnostic as error:
            # What is reduced is made from another input, or is no grid.
            if error.code != "E0925":
                raise
    return None


def _pixels(image: np.ndarray) -> np.ndarray:
    """``u8[H, W, 3]`` of normalised channels, first or last: the smallest value is black and the largest white."""
    import numpy as np

    last = image.transpose(1, 2, 0) if image.shape[0] in (1, 3) else image
    low, high = float(last.min()), float(last.max())
    shown: np.ndarray = np.broadcast_to(((last - low) / max(high - low, 1e-9) * 255).round().astype(np.uint8), (*last.shape[:2], 3))
    return shown


def _words(ids: np.ndarray, how: Options) -> list[str]:
    try:
        return words_of(ids, load_tokenizer(how))
    except Diagnostic:
        # Ids that were given as numbers need none.
        return [f"#{i}" for i in ids]


def words_of(ids: Sequence[int] | np.ndarray, tokenizer: Any) -> list[str]:
    """The texts of tokens, without the marks of a vocabulary for spaces; ``#7`` of one that it lacks."""
    words = (tokenizer.id_to_token(int(i)) or f"#{i}" for i in ids)
    return [word.replace("Ġ", "").replace("▁", "") or "·" for word in words]
