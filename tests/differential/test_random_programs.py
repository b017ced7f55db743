"""Random programs: torch, ONNX Runtime and the NumPy meaning agree on each, and it prints as source that reads back equal.

`python -m tessera.tests.differential.test_random_programs 0 10000` runs as many as there is time for.
"""

from __future__ import annotations

import random
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessera.ir.diagnostics import Diagnostic

from .judged import judge
from .random_programs import random_program
from .random_wider import wider_program


def run(seed: int) -> int:
    """How many calls of a program were compared. Raises AssertionError with the program. Odd seeds write of more kinds."""
    r = random.Random(seed)
    write = wider_program if seed % 2 else random_program
    text = write(r.randrange, r.choice(["f32", "f32", "f32", "f64"]), 8 + r.randrange(8))
    try:
        return judge(text, seed, r.choice([24, 24, 18]))
    except Exception as error:
        raise AssertionError(f"seed {seed}: {error}\n\n{text}") from error


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_random_programs(first: int) -> None:
    assert sum(run(seed) for seed in range(first, first + 10)) > 30


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 2900, 50))
def test_many_random_programs(first: int) -> None:
    assert sum(run(seed) for seed in range(first, first + 50)) > 150


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_programs_that_hypothesis_draws(data: st.DataObject) -> None:
    """Fewer, but a failure is made small."""
    text = wider_program(lambda n: data.draw(st.integers(0, n - 1)), "f32", 5)
    judge(text)


def test_a_wrong_program_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from tessera.backends.torch.table import LOWERINGS

    monkeypatch.setitem(LOWERINGS, "sin", "torch.sin({0}) + 0.01")
    with pytest.raises(AssertionError, match="torch: `output` differs by"):
        judge("model m(x: f32[B, T]) -> f32[B, T] { return sin(x) }")
    with pytest.raises(Diagnostic):
        judge("model m(x: f32[B, T]) -> f32[B] { return x }")


def main(first: int, last: int) -> None:
    start, calls, failed = time.time(), 0, 0
    for seed in range(first, last):
        try:
            calls += run(seed)
        except AssertionError as error:
            failed += 1
            print(error, flush=True)
        if seed % 100 == 99:
            print(f"{seed + 1 - first} programs, {calls} calls, {failed} failed, {time.time() - start:.0f} s", flush=True)
    print(f"{last - first} programs, {calls} calls, {failed} failed, {time.time() - start:.0f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
