"""Bytes of several kinds that are on the machine, some of each held back, and how the small models of the seeds learn from them."""

from __future__ import annotations

import gzip
import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Every eighth piece is held back.
PIECE, EVERY = 4096, 8
MARKUP = re.compile(rb"^[.'].*$|\\f(?:\[[^\]]*\]|\(..|.)|\\[&/,^|]", re.M)


@cache
def corpus(kind: str, held_back: bool = False, most: int = 1 << 20) -> np.ndarray:
    """The bytes ``u8[n]`` of a kind of text: ``python``, ``c``, ``english``, ``german``, ``french``, ``elf`` or ``numbers``.

    A test that asks for one that is not here is skipped.
    """
    found = 0
    parts = []
    for part in _SOURCES[kind]():
        parts.append(part)
        found += len(part)
        if found >= most:
            break
    text = b"".join(parts)[:most]
    if len(text) < 16 * PIECE:
        pytest.skip(f"no text of the kind `{kind}` on this machine")
    pieces = [text[i : i + PIECE] for i in range(0, len(text) - PIECE, PIECE)]
    mine = [p for i, p in enumerate(pieces) if (i % EVERY == EVERY - 1) == held_back]
    return np.frombuffer(b"".join(mine), np.uint8)


def _files(folder: str | Path, pattern: str) -> Iterator[bytes]:
    for path in sorted(Path(folder).glob(pattern)):
        if path.is_file() and not path.is_symlink():
            yield path.read_bytes()


def _pages(language: str) -> Iterator[bytes]:
    for packed in _files(f"/usr/share/man/{language}", "man*/*.gz"):
        yield re.sub(rb"\n\s*\n+", b"\n", MARKUP.sub(b"", gzip.decompress(packed)))


def _numbers() -> Iterator[bytes]:
    from sklearn.datasets import load_digits

    for row in load_digits().data:
        yield ";".join(f"{value:.0f}" for value in row).encode() + b"\n"


_SOURCES: dict[str, Callable[[], Iterator[bytes]]] = {
    "python": lambda: _files(sysconfig.get_path("stdlib"), "*.py"),
    "c": lambda: _files(sysconfig.get_path("include"), "**/*.h"),
    "english": lambda: _pages(""),
    "german": lambda: _pages("de"),
    "french": lambda: _pages("fr"),
    "elf": lambda: _files(Path(np.__file__).parent, "**/*.so"),
    "numbers": _numbers,
}


def windows(text: np.ndarray, count: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """``i64[count, length]``: pieces of a text from places at random."""
    start = rng.integers(0, len(text) - length, count)
    return text[start[:, None] + np.arange(length)].astype(np.int64)


def fit(net: Any, loss_of: Callable[[int], Any], steps: int, rate: float = 4e-3, only: Sequence[Any] | None = None) -> list[float]:
    """``steps`` of AdamW on ``loss_of(step)``, with a rate that rises and falls; the losses. ``only``: the weights that learn."""
    import torch

    torch.set_num_threads(1)
    learning = list(net.parameters()) if only is None else list(only)
    optimizer = torch.optim.AdamW(learning, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    losses = []
    for step in range(steps):
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def next_byte(logits: Any, ids: Any) -> Any:
    """The mean negative log-likelihood of each byte, or token, but the first: logits [B, T, V], ids [B, T]."""
    import torch.nn.functional as F

    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def fit_windows(net: Any, ids: np.ndarray, length: int, batch: int, steps: int) -> list[float]:
    """:func:`fit` of a model of ``ids`` [B, length] to its ``scores`` of what follows, in windows drawn from ids [N]."""
    import torch

    draw = np.random.default_rng(0)

    def loss_of(step: int) -> Any:
        rows = torch.as_tensor(np.stack([ids[at : at + length] for at in draw.integers(0, len(ids) - length, batch)]))
        return next_byte(net(ids=rows)["scores"], rows)

    return fit(net, loss_of, steps)


def widened(path: Path) -> dict[str, np.ndarray]:
    """Committed weights, which are kept in half precision, in single."""
    from safetensors.numpy import load_file

    return {name: value.astype(np.float32) for name, value in load_file(path).items()}


def weights_of(net: Any) -> dict[str, np.ndarray]:
    """All parameters and buffers by name, as they are now."""
    return {name: value.detach().numpy().copy() for name, value in net.state_dict().items()}
