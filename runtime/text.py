"""Text to token ids, through a standard ``tokenizer.json``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.diagnostics import Diagnostic
from ..ir.types import TEXT
from .inputs import InputSpec, Options

if TYPE_CHECKING:
    import numpy as np

# What an encoding offers, by the names that models give such inputs.
FIELDS = {
    "input_ids": "ids", "ids": "ids", "tokens": "ids", "token_ids": "ids",
    "attention_mask": "attention_mask", "mask": "attention_mask",
    "token_type_ids": "type_ids", "type_ids": "type_ids", "segment_ids": "type_ids",
}  # fmt: skip


def read_texts(
    spec: InputSpec, files: Sequence[str], known: Mapping[str, InputSpec], options: Options
) -> dict[str, np.ndarray]:
    """Token ids for ``spec`` from text files, and the mask and segment inputs that go with them.

    Texts of different lengths are padded to the longest of the batch, or to the input's own length where it is fixed.

    Raises:
        Diagnostic: E0015 no tokenizers package, E0920 not text, E0923 the input takes no ids, E0924 no tokenizer.
    """
    import numpy as np

    if spec.dtype == TEXT.name:
        from .stages import texts as array_of

        return {spec.name: array_of(text for file in files for text in _texts(file, options.lines))}
    if FIELDS.get(spec.name, "ids") != "ids" or len(spec.shape) != 2 or not spec.dtype.startswith("i"):
        raise Diagnostic("E0923", f"`{spec}` takes no text: text becomes token ids, `i64[B, T]`")
    texts = [text for file in files for text in _texts(file, options.lines)]
    tokenizer = load_tokenizer(options)
    length = spec.shape[1] if isinstance(spec.shape[1], int) else None
    limit = options.max_length or length
    if limit is not None:
        tokenizer.enable_truncation(limit)
    tokenizer.enable_padding(length=length, **_padding(tokenizer))
    encodings = tokenizer.encode_batch(texts)
    arrays: dict[str, np.ndarray] = {}
    for name, other in known.items():
        field = "ids" if name == spec.name else FIELDS.get(name)
        if field is not None and (field != "ids" or name == spec.name) and len(other.shape) == 2:
            arrays[name] = np.array([getattr(e, field) for e in encodings], dtype=np.int64)
            if other.dtype.startswith(("f", "bf")):
                arrays[name] = arrays[name].astype(np.float32)
            elif other.dtype == "bool":
                arrays[name] = arrays[name] != 0
    return arrays


def load_tokenizer(options: Options) -> Any:
    """A ``tokenizers.Tokenizer`` from ``options.tokenizer`` or from beside the artifact. Raises E0015, E0924."""
    path = Path(options.tokenizer) if options.tokenizer else (options.beside or Path()) / "tokenizer.json"
    if os.path.isdir(path):
        path = path / "tokenizer.json"
    if not os.path.isfile(path):
        raise Diagnostic(
            "E0924",
            f"there is no tokenizer at `{path}`",
            help="name one with `--tokenizer path/to/tokenizer.json`",
        )
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise Diagnostic("E0015", "text needs the package `tokenizers`", help="pip install 'tessera[real]'") from None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare Exceptions
        raise Diagnostic("E0924", f"`{path}` is not a tokenizer.json: {str(error).splitlines()[0]}") from None


def _padding(tokenizer: Any) -> dict[str, Any]:
    own = tokenizer.padding or {}
    token = own.get("pad_token") or next(
        (t for t in ("[PAD]", "<pad>", "<|endoftext|>") if tokenizer.token_to_id(t) is not None), "[PAD]"
    )
    return {"pad_token": token, "pad_id": tokenizer.token_to_id(token) or 0, "direction": own.get("direction", "right")}


def _texts(file: str, lines: bool) -> list[str]:
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Diagnostic("E0920", f"`{file}` is not UTF-8 text: {error}") from None
    texts = [line for line in text.splitlines() if line.strip()] if lines else [text]
    if not any(t.strip() for t in texts):
        raise Diagnostic("E0920", f"`{file}` holds no text")
    return texts
