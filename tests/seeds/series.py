"""Series of statsmodels: sunspots, carbon dioxide, sea temperatures, and twelve of the American economy.

    python -m tessera.tests.seeds.series       # writes tests/seeds/data/series.safetensors; needs statsmodels
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "data" / "series.safetensors"
# The last part of each is held back.
HELD_BACK = 64


@cache
def series() -> dict[str, np.ndarray]:
    """Each series ``f32[n]`` by name, the earliest point first."""
    from safetensors.numpy import load_file

    return load_file(FILE)


def windows(count: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """``f32[count, length]``: pieces of what is not held back, each series as often as any other."""
    usable = [s[:-HELD_BACK] for s in series().values()]
    made = []
    for i in rng.integers(0, len(usable), count):
        start = rng.integers(0, len(usable[i]) - length + 1)
        made.append(usable[i][start : start + length])
    return np.stack(made)


def tails(length: int) -> np.ndarray:
    """``f32[count, length]``: pieces of every series whose last patch of 16 points lies in what is held back."""
    return np.stack([s[len(s) - back - length : len(s) - back] for s in series().values() for back in range(0, HELD_BACK - 15, 8)])


def main() -> None:
    from safetensors.numpy import save_file
    from statsmodels import datasets

    made = {"sunspots": datasets.sunspots.load_pandas().data["SUNACTIVITY"]}
    made["co2"] = datasets.co2.load_pandas().data["co2"].interpolate()
    made["elnino"] = datasets.elnino.load_pandas().data.set_index("YEAR").stack()
    economy = datasets.macrodata.load_pandas().data.drop(columns=["year", "quarter"])
    made |= {f"macrodata.{name}": economy[name] for name in economy}
    save_file({name: np.asarray(values, np.float32) for name, values in made.items()}, FILE)


if __name__ == "__main__":
    main()
