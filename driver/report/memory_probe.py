"""``python -m tessera.driver.report.memory_probe MODEL FEEDS THREADS``: one JSON line, the largest memory of loading and running.

The figures are above what the process had before the model was opened, with its packages imported and its inputs read.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

RUNS = 3
_PERIOD = 0.003


def resident() -> tuple[int, int | None]:
    """(resident bytes, private bytes) of this process; without /proc the former is the largest so far, the latter None."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most * (1 if sys.platform == "darwin" else 1024), None
    rows = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(rows["VmRSS"].split()[0]) * 1024, int(rows["RssAnon"].split()[0]) * 1024


class Sampler(threading.Thread):
    """Looks every few milliseconds, and keeps the largest of each figure."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.private = resident()
        self._stop_now = threading.Event()

    def look(self) -> None:
        peak, private = resident()
        self.peak = max(self.peak, peak)
        if private is not None and self.private is not None:
            self.private = max(self.private, private)

    def run(self) -> None:
        while not self._stop_now.wait(_PERIOD):
            self.look()

    def finish(self) -> None:
        self._stop_now.set()
        self.join()
        self.look()


def main(model: str, feeds: str, threads: int) -> None:
    import numpy as np
    import onnxruntime as ort

    with np.load(feeds, allow_pickle=False) as archive:
        arrays = dict(archive)
    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if threads:
        options.intra_op_num_threads = threads
    base_peak, base_private = resident()
    sampler = Sampler()
    sampler.start()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for _ in range(RUNS):
        session.run(None, arrays)
    sampler.finish()
    private = None if base_private is None or sampler.private is None else sampler.private - base_private
    print(json.dumps({"peak": sampler.peak - base_peak, "private": private}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
