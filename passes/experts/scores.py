"""What was measured of experts on data, as a file says it: how often each was taken, how much it added, which are alike."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...ir.diagnostics import Diagnostic, did_you_mean
from ...ir.graph import Module
from .mixtures import Mixture

# A file of numbers is small; what is larger is something else.
_LARGEST = 64 << 20


def read_scores(path: str, module: Module) -> dict[str, Any]:
    """The file `{"layers.0.mlp": {"load": [12, 3, …], "saliency": […]}, …}`, looked for beside the module's and in the working
    directory; of a report of `tessera optimize` what it tells of routers. Raises E0001, E0723."""
    places = [Path(path)] if module.path is None else [Path(module.path).parent / path, Path(path)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise Diagnostic("E0001", f"there is no file {path}", help="it holds what was measured of each expert, as JSON")
    if found.stat().st_size > _LARGEST:
        raise Diagnostic("E0723", f"{path} has more than {_LARGEST >> 20} MB, and is no file of measured experts")
    try:
        data = json.loads(found.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise Diagnostic("E0723", f"{path} is no JSON: {error}") from None
    told = data.get("routers") if isinstance(data, dict) else None
    if isinstance(told, list):
        return {row["router"]: row for row in told if isinstance(row, dict) and isinstance(row.get("router"), str)}
    if not isinstance(data, dict):
        raise Diagnostic("E0723", f"{path} holds a {type(data).__name__}, not an object with a mixture for each name")
    return data


def scores_of(data: dict[str, Any], mixture: Mixture, what: str, path: str) -> list[float]:
    """A number for each expert. Raises E0723."""
    row = data.get(mixture.name)
    if not isinstance(row, dict):
        help = did_you_mean(mixture.name, data) or f"it has {', '.join(list(data)[:8]) or 'none'}"
        raise Diagnostic("E0723", f"{path} says nothing of the experts of `{mixture.name}`", help=help)
    if what not in row:
        raise Diagnostic(
            "E0723", f"{path} has no `{what}` of `{mixture.name}`", help=f"it has {', '.join(row) or 'nothing'}"
        )
    values = row[what]
    numbers = isinstance(values, list) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if not numbers or len(values) != mixture.experts or not all(map(math.isfinite, values)):
        raise Diagnostic(
            "E0723", f"`{what}` of `{mixture.name}` in {path} must be {mixture.experts} numbers, one an expert",
            help="measure the model that is being changed",
        )  # fmt: skip
    return [float(v) for v in values]


def similarity_of(data: dict[str, Any], mixture: Mixture, path: str) -> list[list[float]]:
    """How alike each two experts are. Raises E0723."""
    rows = data[mixture.name].get("similarity")
    if not isinstance(rows, list) or len(rows) != mixture.experts:
        raise Diagnostic(
            "E0723", f"`similarity` of `{mixture.name}` in {path} must be {mixture.experts} lists of {mixture.experts} numbers, "
            "one a pair of experts", help="measure the model that is being changed",
        )  # fmt: skip
    return [scores_of({mixture.name: {"similarity": row}}, mixture, "similarity", path) for row in rows]


def best(scores: Sequence[float], count: int) -> list[int]:
    """The numbers of the highest scores, ascending; of equal ones the first."""
    return sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count])
