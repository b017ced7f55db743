"""The memory that an artifact takes, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...ir.diagnostics import Diagnostic
from ...runtime.files.aside import Scratch

if TYPE_CHECKING:
    import numpy as np

    from .measure import Target


@dataclass(frozen=True)
class Memory:
    """Of a process of its own that loads an artifact and runs it three times, above what an idle one takes.

    Args:
        peak: largest resident bytes; mapped weights count.
        private: largest private bytes: weights that were copied, and activations. None where the system does not say.
    """

    peak: int
    private: int | None

    def to_dict(self) -> dict[str, int | None]:
        return {"peak_bytes": self.peak, "private_bytes": self.private}


def peak_memory(target: Target, feeds: Mapping[str, np.ndarray], threads: int | None = None) -> Memory:
    """Measure an ONNX artifact in a fresh process. Raises E0938 when that does not come back."""
    import numpy as np

    whole = target._session.feeds(target.match(feeds), **target.extra) if hasattr(target._session, "feeds") else None
    if whole is None:
        raise Diagnostic("E0938", f"`{target.name}` is no ONNX file: only those are measured in a process of their own")
    with Scratch() as folder:
        arrays = Path(folder, "feeds.npz")
        np.savez(arrays, **whole)
        command = [
            sys.executable,
            "-m",
            "tessera.driver.report.memory_probe",
            str(target.path),
            str(arrays),
            str(threads or 0),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        row = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise Diagnostic("E0938", f"measuring the memory of `{target.name}` failed: {reason[:200]}") from None
    return Memory(row["peak"], row["private"])
