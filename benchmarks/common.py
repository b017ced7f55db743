"""Fair timing: candidates take turns (A B B A …) in one process, each turn after runs that do not count; reported are medians of
the ratios within a round. See :mod:`tessera.driver.report.measure`."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def machine() -> dict[str, Any]:
    """Where and with what a measurement was made."""
    versions = {}
    for package in ("torch", "transformers", "onnx", "onnxruntime", "numpy", "lark"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
        "date": date.today().isoformat(),
    }


def speedup(times: dict[str, list[float]], name: str, over: str) -> float:
    """The median over rounds of ``over``'s time divided by ``name``'s: above 1, ``name`` is faster."""
    return statistics.median(b / a for a, b in zip(times[name], times[over], strict=True))


def summary(times: dict[str, list[float]], over: str) -> dict[str, dict[str, float]]:
    """For each candidate the median milliseconds and the paired speed-up over the baseline."""
    return {
        name: {
            "median_ms": round(statistics.median(row) * 1e3, 3),
            f"speedup_over_{over}": round(speedup(times, name, over), 4),
        }
        for name, row in times.items()
    }


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def write(name: str, results: Any) -> Path:
    """Store results with the machine's description as ``benchmarks/results/NAME.json``."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "results": results}, indent=2) + "\n")
    print(json.dumps(results, indent=2))
    return path
