"""Stages of tokenizers, run by their engines; and what a text is on the host: an array of `str`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from ..ir.diagnostics import Diagnostic
from ..ir.program import Stage
from ..ir.stages import UTF8, fields_of

if TYPE_CHECKING:
    import numpy as np

    from ..ir.tokenizer import Part
    from .inputs import InputSpec
    from .tokenizers.engine import Encoded, Engine


class Filled:
    """Ids that tokenizers gave, and which of them are tokens: where they are decoded again, what rows were filled up with is no
    text, whatever its id means."""

    def __init__(self) -> None:
        self._given: list[tuple[Any, Any]] = []

    def give(self, ids: Any, mask: Any) -> None:
        """Remember ids."""
        self._given.append((ids, mask))

    def rows(self, ids: Any) -> list[list[int]]:
        """Rows of ids without what they were filled up with; of other ids, all."""
        mask = next((mask for own, mask in self._given if own is ids), None)
        return ids.tolist() if mask is None else [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]


def run_stage(
    stage: Stage, engine: Engine | None, pad: Part | None, operands: Sequence[Any], wanted: Collection[str], filled: Filled
) -> list[Any]:
    """The results of a stage that is no function of Python, in order; None for fields that are not ``wanted``.

    Args:
        engine: the tokenizer that it is of, if it is one's.
        pad: how that fills rows up.
        filled: ids that were given before, and, after this, those that are given now.

    Raises:
        Diagnostic: E1007 for a text without ids, E1008 for what is no id.
    """
    import numpy as np

    if stage.kind == UTF8:
        rows = [text.encode() for text in operands[0]]
        octets = np.zeros((len(rows), max(1, *map(len, rows), 1)), np.uint8)
        for place, row in enumerate(rows):
            octets[place, : len(row)] = np.frombuffer(row, np.uint8)
        return [octets, np.array([len(row) for row in rows], np.int64)]
    assert engine is not None
    if stage.kind == "decode":
        return [texts(row.decode(errors="replace") for row in engine.decode(filled.rows(operands[0])))]
    other = list(operands[1]) if len(operands) > 1 else None
    found = engine.encode(list(operands[0]), pairs=other)
    made = {field: _field(found, field, engine, pad) for field in fields_of(stage) if field in wanted}
    if "ids" in made:
        filled.give(made["ids"], _field(found, "mask", engine, pad))
    return [made.get(field) for field in fields_of(stage)]


def _field(found: Encoded, name: str, engine: Engine, pad: Part | None) -> np.ndarray:
    """A field of encoded texts. Models take rows of one place at least: those of empty texts alone are filled up to it."""
    import numpy as np

    value: np.ndarray = found.mask.astype(np.int64) if name == "attention_mask" else getattr(found, name)
    if value.ndim == 1 or value.shape[1]:
        return value
    from .tokenizers.rows import filling

    given = {"ids": filling(pad, engine.vocabulary()), "segments": 0 if pad is None else pad["segment"], "words": -1}
    width = 1 if pad is None else pad["multiple"] or 1
    return np.full((len(value), width, *value.shape[2:]), given.get(name, 0), value.dtype)


def texts(rows: Any) -> np.ndarray:
    """An array of objects of one axis."""
    import numpy as np

    listed = list(rows)
    made = np.empty(len(listed), object)
    made[:] = listed
    return made


def fit_texts(spec: InputSpec, value: Any) -> np.ndarray:
    """Texts as an input takes them: an array of `str`. Bytes are read as UTF-8.

    Raises:
        Diagnostic: E0902 for another rank or length, E0903 for what is no text, E1007 for bytes that are no UTF-8.
    """
    import numpy as np

    array = np.asarray(value, object)
    wanted = spec.shape
    if array.ndim != len(wanted) or any(
        isinstance(size, int) and size != have for size, have in zip(wanted, array.shape, strict=False)
    ):
        raise Diagnostic(
            "E0902", f"`{spec}` cannot take {'one text' if array.ndim == 0 else f'an array of shape {list(array.shape)}'}",
            help="one text is a list of one: `[\"a text\"]`" if array.ndim == 0 and len(wanted) == 1 else None,
        )  # fmt: skip
    made = np.empty(array.shape, object)
    for place, text in enumerate(array.flat):
        made.flat[place] = _text(spec, place, text)
    return made


def _text(spec: InputSpec, row: int, value: Any) -> str:
    if not isinstance(value, str | bytes):
        raise Diagnostic("E0903", f"`{spec}` takes texts, and its row {row} is of {type(value).__name__}")
    try:
        if isinstance(value, bytes):
            return value.decode()
        value.encode()
    except UnicodeError as error:
        raise Diagnostic(
            "E1007", f"row {row} of `{spec.name}` is no UTF-8: {error}",
            help="texts are UTF-8; bytes as they are go into a model as `u8[B, N]`",
        ) from None  # fmt: skip
    return str(value)
