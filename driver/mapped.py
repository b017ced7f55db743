"""Weights that are made of a checkpoint's, mapped from a file while the reference runs instead of held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..runtime.weights.bind import Bound

# Bytes of weights made of others from which on they are mapped from a file instead of held.
LEAST = 128 << 20


@contextmanager
def mapped(bound: Bound, beside: Path) -> Iterator[Bound]:
    """The same values; those that are made of a checkpoint's, if they are many, are mapped from a folder in ``beside``, which
    goes afterwards."""
    made = {name: tensor for name, tensor in bound.items() if tensor.made}
    if sum(tensor.nbytes for tensor in made.values()) < LEAST:
        yield bound
        return
    from ..backends.torch.file import write_torch_file
    from ..runtime.weights.bind import Bound
    from ..runtime.weights.open import open_weights

    with TemporaryDirectory(dir=beside, ignore_cleanup_errors=True) as folder:
        path = Path(folder, "made.safetensors")
        write_torch_file(path, {}, made)
        weights = open_weights(path)
        found = Bound()
        found.update(bound)
        found.update((n, replace(t, load=partial(weights.__getitem__, n), made=False)) for n, t in made.items())
        yield found
