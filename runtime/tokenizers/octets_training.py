"""Training tokenizers of bytes on files as they are: chunks of an entropy, in the pieces of the split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic
from ...ir.tokenizer import Tokenizer
from .byte_pairs import MOST, Limits, learn_pairs
from .octets import CHUNK, LETTERS, check_octets, chunks_of
from .trainers import Trained, options_of, skeleton

if TYPE_CHECKING:
    from .training import Progress

OPTIONS = ("min_frequency", "longest", "chunk", "entropy")


def check_octets_training(tokenizer: Tokenizer) -> dict[str, Any]:
    """The options of training.

    Raises:
        Diagnostic: E1002 for one that there is not, or that is no range of entropies; E1004 for stages that no tokenizer of bytes
            has; E1005 for more tokens than can be trained.
    """
    training = tokenizer.training
    assert training is not None
    check_octets(tokenizer)
    options = options_of(tokenizer, OPTIONS, "a tokenizer of bytes")
    window = options.get("entropy", (0.0, 8.0))
    if len(window) != 2 or not 0 <= window[0] < window[1] <= 8:
        raise Diagnostic(
            "E1002", f"`entropy` is the least and the most of a chunk in bits a byte, from 0 to 8, but is {list(window)}",
            training.span, help="write `entropy=[1.0, 7.5]`: what is packed has nearly 8",
        )  # fmt: skip
    wanted = tokenizer.model["vocab"]
    if wanted is not None and wanted > MOST:
        raise Diagnostic("E1005", f"{MOST} tokens of bytes can be trained, and {wanted} are declared", tokenizer.model.span)
    return options


def learn_octets(
    tokenizer: Tokenizer, files: Iterable[Path], size: int, progress: Progress | None = None, checkpoint: Path | None = None
) -> Trained:
    """So many tokens for the bytes of files: all 256, then merges.

    Args:
        checkpoint: see :func:`.byte_pairs.learn_pairs`.

    Raises:
        Diagnostic: E1002, E1004; E1010 where no chunk has an entropy as declared.
    """
    training = tokenizer.training
    assert training is not None
    options = check_octets_training(tokenizer)
    least, most = options.get("entropy", (0.0, 8.0))
    chunks = (chunk for chunk in chunks_of(files, options.get("chunk", CHUNK)) if least <= entropy(chunk) <= most)
    limits = Limits(max(size - len(LETTERS), 0), max(options.get("min_frequency", 1), 1), options.get("longest"))
    try:
        merges = learn_pairs(_pieces(tokenizer, chunks), limits, progress, checkpoint)
    except Diagnostic as error:
        error.span = error.span or training.span
        raise
    pairs = [(a.decode("latin-1"), b.decode("latin-1")) for a, b in merges]
    return Trained([*LETTERS, *(a + b for a, b in pairs)], pairs, letters=frozenset(LETTERS), bytes=True)


def entropy(chunk: bytes) -> float:
    """Bits for a byte, by how often each of the 256 comes."""
    import numpy as np

    shares = np.bincount(np.frombuffer(chunk, np.uint8)) / len(chunk)
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def _pieces(tokenizer: Tokenizer, chunks: Iterable[bytes]) -> Iterator[tuple[bytes, list[int]]]:
    """Chunks with the ends of the pieces that the split makes of each."""
    own = skeleton(tokenizer).pre_tokenizer if tokenizer.split else None
    for chunk in chunks:
        spans = [] if own is None else own.pre_tokenize_str(chunk.decode("latin-1"))
        yield chunk, [end for _, (_, end) in spans]
