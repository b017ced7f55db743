"""What runs on the host beside functions of Python: a row for each kind of stage.

A tokenizer ``words`` is called as ``words(text)``, ``words.pair(text, other)`` and ``words.decode(ids)``; ``utf8(text)`` gives
bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

from .program import Stage
from .signature import Operand, Pattern, Result, Signature
from .types import DTYPES, TEXT, DType, TensorType

UTF8 = "utf8"
_TEXTS = (TEXT, ("B",))
_IDS = ("ids", "i64", ("B", "T"))
# What texts become, by the names that the Python API has for it; and the mask as published models take it.
_FOUND = (
    _IDS, ("count", "i64", ("B",)), ("mask", "bool", ("B", "T")), ("attention_mask", "i64", ("B", "T")),
    ("segments", "i64", ("B", "T")), ("offsets", "i64", ("B", "T", 2)), ("words", "i64", ("B", "T")),
)  # fmt: skip
_Row = tuple[str, DType | str, tuple[str | int, ...]]
# What each kind of stage takes and gives; results with a name are fields.
_KINDS: dict[str, tuple[tuple[_Row, ...], tuple[_Row, ...]]] = {
    "encode": ((("text", *_TEXTS),), _FOUND),
    "pair": ((("text", *_TEXTS), ("other", *_TEXTS)), _FOUND),
    "decode": ((_IDS,), (("", *_TEXTS),)),
    UTF8: ((("text", *_TEXTS),), (("bytes", "u8", ("B", "N")), ("count", "i64", ("B",)))),
}
# Methods of a tokenizer; that without a name is a call of itself.
METHODS = {"": "encode", "pair": "pair", "decode": "decode"}


def stage_of(kind: str, tokenizer: str = "") -> Stage:
    """The stage of a kind, of a tokenizer if it is one's: ``words``, ``words.pair``, ``words.decode``, ``utf8``."""
    method = next((name for name, value in METHODS.items() if value == kind), kind)
    name = ".".join(part for part in (tokenizer, method) if part)
    operands, results = _KINDS[kind]
    signature = Signature(
        name, tuple(Operand(n, _pattern(dtype, shape)) for n, dtype, shape in operands), (),
        tuple(Result(_pattern(dtype, shape), n or None) for n, dtype, shape in results),
    )  # fmt: skip
    return Stage(name, kind, tokenizer, signature)


def _pattern(dtype: DType | str, shape: Iterable[str | int]) -> Pattern:
    type = TensorType.of(DTYPES[dtype] if isinstance(dtype, str) else dtype, shape)
    return Pattern(type.dtype, type.shape)


def fields_of(stage: Stage | None) -> tuple[str, ...]:
    """The fields of what a stage gives; none of one that gives tensors, or of what is no stage."""
    if stage is None or stage.kind not in _KINDS:
        return ()
    return tuple(name for name, *_ in _KINDS[stage.kind][1] if name)
