"""MLIR as text: what its parser must not be given."""

from __future__ import annotations

from ...ir.diagnostics import Diagnostic

# MLIR's parser calls itself for each bracket.
_DEEPEST = 500
_BRACKETS = b"([{<)]}>"
_OTHERS = bytes(c for c in range(256) if c not in _BRACKETS)


def check_text(text: str) -> None:
    """Refuse what makes MLIR's parser crash: text that ends within its resources, and brackets within brackets without end.

    Raises:
        Diagnostic: E0784.
    """
    import numpy as np

    start = text.find("{-#")
    if start >= 0 and text.rfind("#-}") < start:
        raise Diagnostic("E0784", "the text ends in the middle of its resources: the rest of the file is missing")
    body = text[: start if start >= 0 else None].encode().replace(b"->", b"").translate(None, _OTHERS)
    opens = np.frombuffer(body.translate(bytes.maketrans(_BRACKETS, bytes([1] * 4 + [255] * 4))), np.int8)
    if opens.size and int(opens.cumsum(dtype=np.int32).max()) > _DEEPEST:
        raise Diagnostic("E0784", f"the text has more than {_DEEPEST} brackets within each other")
