"""A `tokenizer` that is called within a model: texts as bytes become ids by the layers of `std.text`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic, Span, did_you_mean
from ....ir.dims.dim import dim_min
from ....runtime.tokenizers.automaton import automaton
from ....runtime.tokenizers.engine import folder_of, tables_of
from ....runtime.tokenizers.pieces import NAME, is_pieces
from ....runtime.tokenizers.ranks import SUFFIX as RANKS
from ....runtime.tokenizers.ranks import stages_of
from .builtin import known
from .values import DeclValue, Value, describe, is_tensor

if TYPE_CHECKING:
    from .arguments import Argument
    from .calls import Calls
    from .elaborate import Elaborator
    from .frame import Frame
    from .library import Declared

_PARAMETERS = ("text", "count", "length")


def call_tokenizer(
    calls: Calls, frame: Frame, declared: Declared, arguments: list[Argument], span: Span | None, scope: str
) -> Any:
    """``ids, count = words(text, count, length=128)``: ids i64[B, T] of texts u8[B, N], and how many of each row count.

    T is ``length``; without one it is what the tokenizer cuts rows to, or as many as there may be, if that is less.

    Raises:
        Diagnostic: E0403, E0404 for arguments, E1006 for a tokenizer that was not trained, E1012 for one that is no automaton.
    """
    elaborator = calls.elaborator
    tokenizer = elaborator.tokenizer(declared)
    odd = next((arg for arg in arguments if arg[0] not in (None, *_PARAMETERS)), None)
    if odd is not None:
        raise Diagnostic(
            "E0403", f"the tokenizer `{tokenizer.name}` has no parameter `{odd[0]}`", odd[2],
            help=did_you_mean(str(odd[0]), _PARAMETERS) or "it is called as `ids, count = words(text, count, length=128)`",
        )  # fmt: skip
    text = next((v for name, v, _ in arguments if name in (None, "text")), None)
    if not (is_tensor(text) and isinstance(text, Value) and text.type.rank == 2):
        raise Diagnostic(
            "E0506", f"`{tokenizer.name}` takes texts as bytes, u8[B, N], not {describe(text)}", span,
            help="texts are rows of bytes of one length, and a count says how many of each row are of the text",
        )  # fmt: skip
    if is_pieces(tokenizer):
        raise Diagnostic(
            "E1012", f"`normalize {NAME}` of `{tokenizer.name}` cannot stand in a model: it does more than change single "
            "characters", span, help="let its engine make ids of texts, `ts.open_tokenizer`, and give the model ids",
        )  # fmt: skip
    data, source = tables_of(tokenizer), tokenizer.source
    assert source is not None
    assert source.sha256 is not None
    try:
        made = automaton(data, source.path)
    except Diagnostic as error:
        error.span = span
        raise
    length = next((v for name, v, _ in arguments if name == "length"), None)
    if length is None:
        most = text.type.shape[1] * made.each + made.around
        length = known(most if made.limit is None else dim_min(most, made.limit))
    # A file of ranks has no stages: they are told with its hash.
    named = f"{source.sha256} {stages_of(tokenizer)}" if source.path.endswith(RANKS) else source.sha256
    statics = {**made.named(_shown(elaborator, folder_of(tokenizer) / source.path), named), "length": length}
    layer = elaborator.library.std(made.module, span).names["encoded"]
    operands = [arg for arg in arguments if arg[0] != "length"]
    return calls.apply(frame, DeclValue(layer), [*operands, *((n, v, span) for n, v in statics.items())], span, scope)


def _shown(elaborator: Elaborator, path: Path) -> str:
    """The path of a file as the program's main file names it."""
    folder = elaborator.folder
    return Path(os.path.relpath(path, folder)).as_posix()
