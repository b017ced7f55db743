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


@cache
def sets() -> list[list[np.ndarray]]:
    """The series of each of the four data sets."""
    names = dict.fromkeys(name.split(".")[0] for name in series())
    return [[values for name, values in series().items() if name.split(".")[0] == own] for own in names]


def windows(count: int, length: int, rng: np.random.Generator, noise: float = 0.1) -> np.ndarray:
    """``f32[count, length]``: pieces of what is not held back, of each data set as many, upside down as often as not, with noise of
    a share of their standard deviation."""
    made = []
    for i in range(count):
        own = sets()[i % len(sets())]
        one = own[rng.integers(0, len(own))][:-HELD_BACK]
        start = rng.integers(0, len(one) - length + 1)
        piece = one[start : start + length] * rng.choice([-1, 1])
        made.append(piece + noise * piece.std() * rng.standard_normal(length))
    return np.stack(made).astype(np.float32)


def tails(length: int) -> tuple[np.ndarray, np.ndarray]:
    """``f32[count, length]``: pieces of every series whose last 16 points lie in what is held back; and what each weighs in
    a mean over data sets."""
    made, weight = [], []
    for own in sets():
        cut = [s[len(s) - back - length : len(s) - back] for s in own for back in range(0, HELD_BACK - 15, 8)]
        made += cut
        weight += [1 / len(cut) / len(sets())] * len(cut)
    return np.stack(made), np.array(weight)


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
