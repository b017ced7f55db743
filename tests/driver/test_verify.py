"""Verification: a wrong artifact is refused with the output, the difference and the sizes; a right one passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tessera.backends.onnx import build as build_onnx
from tessera.backends.onnx import serialize
from tessera.backends.onnx.session import Session
from tessera.backends.torch import build as build_torch
from tessera.backends.torch.runner import TorchRunner
from tessera.driver.sizes import choose_sizes
from tessera.driver.verify import relative_error, verify
from tessera.frontends.source import loads
from tessera.ir.analysis.bounds import Bound, index_bounds
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.dims.dim import const
from tessera.ir.graph import Module
from tessera.runtime.weights.bind import initialise


def check(module: Module, other: Module | None = None, **options: Any) -> Any:
    """Compare the artifact of ``module`` with the reference of ``other`` (itself)."""
    return verify(module, Session(serialize(build_onnx(module))), build_torch(other or module), **options)


def test_a_right_artifact_passes_at_two_sizes() -> None:
    report = check(loads(TEXT))
    assert len(report.rows) == 2
    first, second = (row.sizes for row in report.rows)
    assert first["B"] != second["B"]
    assert first["T"] != second["T"]
    assert first["B"] != first["T"]
    assert all(row.error <= row.tolerance for row in report.rows)
    assert report.to_dict()["rows"][0]["output"] == report.rows[0].output


TEXT = """
use std.nn (embedding, linear)
model m(ids: i64[B, T], mask: i64[B, T], types: i32[B, T], x: float[B, T, 4], *, k: real = 1.0) -> float[B, T, 4] {
    a = embedding(ids, vocab=50, dim=4) as words
    b = embedding(unsqueeze(types, 1), vocab=2, dim=4) as types
    valid = cast(mask != 0, x.dtype)
    return (a + squeeze(b, 1) * k + linear(x, out=4) as l) * unsqueeze(valid, -1)
}
"""


def test_a_wrong_artifact_is_refused() -> None:
    with pytest.raises(Diagnostic) as caught:
        check(loads(TEXT), loads(TEXT, params={"k": 1.5}))
    error = caught.value
    assert error.code == "E0809"
    assert "differs by" in error.message
    assert "allowed: 0.0002" in error.message
    assert "T = " in error.message
    assert "the largest difference is at [" in error.notes[0].message


def test_indices_must_be_equal() -> None:
    text = "model m(x: float[B, T], *, k: real = 1.0) -> i64[B] { return argmax(x * k, axis=1) }"
    assert len(check(loads(text)).rows) == 2
    with pytest.raises(Diagnostic) as caught:
        check(loads(text), loads(text, params={"k": -1.0}))
    assert caught.value.code == "E0809"


def test_random_inputs_and_states_are_the_same_on_both_sides() -> None:
    text = """
        model m(x: float[B, 3]) -> float[B, 3] {
            state total: float[B, 3] = normal(1.0)
            random noise: float[B, 3] = uniform(0, 1)
            total = total + x * noise
            return total
        }
    """
    report = check(loads(text))
    assert {row.output for row in report.rows} >= {"total"}


def test_requirements_decide_the_sizes() -> None:
    text = """
        model m(x: float[B, T]) -> float[B, T] {
            require T >= 100, "long"
            require T % 7 == 0, "weeks"
            require B == 3, "three"
            return x
        }
    """
    module = loads(text)
    session = Session(serialize(build_onnx(module)))
    sizes = list(choose_sizes(module.graph, session, 1, np.random.default_rng(0)))
    assert len(sizes) == 1
    assert sizes[0]["B"] == 3
    assert sizes[0]["T"] >= 100
    assert sizes[0]["T"] % 7 == 0


def test_requirements_that_never_hold() -> None:
    with pytest.raises(Diagnostic) as caught:
        check(loads('model m(x: float[T]) -> float[T] { require T * T == 5000, "square" return x }'))
    assert caught.value.code == "E0807"


def test_a_model_of_fixed_sizes_is_compared_once() -> None:
    report = check(loads("model m(x: float[2, 3]) -> float[2, 3] { return exp(x) }"))
    assert [dict(row.sizes) for row in report.rows] == [{}]


def test_bf16_is_compared() -> None:
    texts = [f"model m(x: float[B]) -> float[B] {{ return x * {k} }}" for k in (1.0, 1.5)]
    module, other = (loads(text, dtype="bf16") for text in texts)
    runner = TorchRunner(module, build_torch(module), {})
    assert len(verify(module, runner, build_torch(module)).rows) == 2
    with pytest.raises(Diagnostic, match="E0809"):
        verify(module, runner, build_torch(other))


def test_integer_inputs_stay_within_the_tables_they_index() -> None:
    module = loads(TEXT)
    bounds = {value.name: dim for value, dim in index_bounds(module.graph).items()}
    assert bounds["ids"] == Bound(const(50))
    assert bounds["types"] == Bound(const(2))
    assert bounds["mask"] is None


def test_bounds_are_found_inside_ops_and_through_moves() -> None:
    text = """
        op pick(x: float[N, D], ids: i64[B, T]) -> float[B, T, D] { return take(x, ids[:, ::1]) }
        op turn(ids: i64[B, T]) -> i64[T, B] { return transpose(ids, [1, 0]) }
        model m(table: float[9, 4], ids: i64[B, T], rows: i64[B, T]) -> (float[T, B, 4], float[B, T, 4]) {
            return take(table, turn(ids)), pick(table, rows)
        }
    """
    bounds = {value.name: dim for value, dim in index_bounds(loads(text).graph).items()}
    assert bounds["ids"] == Bound(const(9))
    assert bounds["rows"] == Bound(const(9))


def test_relative_error() -> None:
    a = np.array([1.0, 100.0, np.nan, np.inf], np.float32)
    assert relative_error(a, a) == 0
    assert relative_error(a + np.float32(1), a) == pytest.approx(0.01)
    assert relative_error(np.array([np.nan, 1.0, np.nan, np.inf], np.float32), a) == np.inf
    assert relative_error(a, np.array([1.0, 100.0, 0.0, np.inf], np.float32)) == np.inf
    assert relative_error(a[:2], a) == np.inf
    assert relative_error(np.array([3]), np.array([1])) == 2
    assert relative_error(np.zeros((0, 2)), np.zeros((0, 2))) == 0


def test_the_reference_is_given_every_input_by_name() -> None:
    module = loads("model m(x: float[B], y: float[B]) -> float[B] { return x - y }")
    given: list[set[str]] = []
    torch_module = build_torch(module)

    def reference(inputs: dict[str, Any], *, seed: int) -> Any:
        given.append(set(inputs))
        return torch_module(inputs, seed=seed)

    verify(module, Session(serialize(build_onnx(module, initialise(module.graph)))), reference)
    assert given == [{"x", "y"}] * 2


def test_images_are_no_smaller_than_a_kernel() -> None:
    module = loads("""
        model m(x: f32[B, 3, H, W], w: f32[8, 3, 16, 16]) -> f32[B, 8, (H - 16) // 16 + 1, (W - 16) // 16 + 1] {
            return conv(x, w, stride=[16, 16])
        }
    """)
    runner = Session(serialize(build_onnx(module, initialise(module.graph))))
    for choice in choose_sizes(module.graph, runner, 4, np.random.default_rng(0)):
        assert min(choice["H"], choice["W"]) >= 16


TABLE = """
    model m(x: float[B, 8 * H]) -> float[B, 8 * H] {
        param places: float[32]
        at = iota(H) * 8
        return x + take(places, reshape(unsqueeze(at, 1) + unsqueeze(iota(8), 0), [8 * H]))
    }
"""


def test_sizes_that_the_model_does_not_run_at_are_no_choice() -> None:
    """A table of positions has an end that no requirement speaks of."""
    report = check(loads(TABLE))
    assert len(report.rows) == 2
    assert max(row.sizes["H"] for row in report.rows) <= 4


def test_the_comparison_keeps_to_sizes_that_are_given() -> None:
    rows = check(loads(TABLE), given={"H": 3}).rows
    assert [row.sizes["H"] for row in rows] == [3, 3]
    assert rows[0].sizes["B"] != rows[1].sizes["B"]
    with pytest.raises(Diagnostic, match="no size `T`") as caught:
        check(loads(TABLE), given={"T": 3})
    assert (caught.value.code, caught.value.help) == ("E0935", "it has B, H")


def test_what_runs_at_no_size_says_why() -> None:
    with pytest.raises(Diagnostic) as caught:
        check(loads(TABLE), given={"H": 5})
    assert caught.value.code != "E0809"


def test_the_tolerance_is_that_of_the_least_precise_step() -> None:
    module = loads("""
        model m(x: f32[B, 4]) -> (whole: f32[B, 4], half: f32[B, 4], place: i64[B]) {
            param w: f16[4, 4]
            y = cast(matmul(cast(x, f16), w), f32)
            return exp(x), y, argmax(y, axis=1)
        }
    """)
    tolerances = {row.output: row.tolerance for row in check(module).rows}
    assert tolerances == {"whole": 2e-4, "half": 2e-2, "place": 0.0}


# Sizes that are harder to find ----------------------------------------------------------------------------------------

SOLVED = {
    "equal": ('require T == 4 * S, "four to one"', "x[:, :T - S]"),
    "congruent": ('require T % 37 == 5, "a residue"', "x"),
    "both": ('require T % 16 == 0, "tiles"\n require S == T // 16 + 3, "tiles"', "x"),
    "chained": ('require T >= 90, "long"\n require S * S == T, "a square"', "x"),
}


@pytest.mark.parametrize("name", SOLVED)
def test_sizes_are_solved_for(name: str) -> None:
    requires, made = SOLVED[name]
    size = "T - S" if "S]" in made else "T"
    types = f"(x: float[B, T, 4], y: float[B, S]) -> (float[B, {size}, 4], float[B])"
    text = f"model m{types} {{ {requires} return {made}, sum(y, axis=1) }}"
    rows = check(loads(text)).rows
    assert rows
    assert all(loads(text).graph.requires[0].holds(dict(row.sizes)) for row in rows)


def test_no_axis_is_empty_where_that_can_be() -> None:
    text = "model m(x: float[B, T]) -> float[B, T // 5 - 1] { return x[:, 0:T // 5 - 1] }"
    rows = check(loads(text)).rows
    assert min(row.sizes["T"] for row in rows) >= 10
    inner = "model m(x: float[B, T]) -> float[B] { return sum(x[:, 0:T // 5 - 1], axis=1) }"
    assert min(row.sizes["T"] for row in check(loads(inner)).rows) >= 10


FAR = {
    "long": ('require T > 5000, "very long"', "x", {"T": 5001}),
    "tiles": ('require T % 2048 == 0, "tiles"', "x", {"T": 2048}),
    "axes": ("", "x[5000:T]", {"T": 5001}),
    "rows": ("", "x[:T // 3000]", {"T": 4096}),
    "divided": ('let G = (T + S) // (S - 1)\n require G == 3001, "parts"', "x", {}),
}


@pytest.mark.parametrize("name", FAR)
def test_sizes_beyond_what_is_drawn_are_solved_for(name: str) -> None:
    requires, made, sizes = FAR[name]
    size = {"axes": "T - 5000", "rows": "T // 3000"}.get(name, "T")
    rows = check(loads(f"model m(x: float[T], y: float[S]) -> (float[{size}], float[S]) {{ {requires}\n return {made}, y }}")).rows
    assert rows
    assert rows[0].sizes.items() >= sizes.items()


REFUSED = {
    "odd": ('require T * 2 == S * 2 + 1, "odd"', {}, "`2 * T == 2 * S + 1` does not hold: odd", "--no-verify"),
    # Both are broken at most sizes: one of them alone comes closer.
    "one of two": ('require T * T == 3, "no"\n require S % 97 == 96, "week"', {}, "`T * T == 3` does not hold: no", "--no-verify"),
    "nearest": ('require T * T == 3, "no"', {}, "at T = 2, ", "--no-verify"),
    "given": ('require T % 8 == 0, "tiles"', {"T": 12}, "at T = 12, S = ", "--size T=8,S="),
    "all given": ('require T % 8 == 0, "tiles"', {"T": 12, "S": 3}, "at T = 12, S = 3 `T % 8 == 0`", "--size T=8,S="),
    "large": ('require T > 900000000, "more than a call holds"', {}, "`T > 900000000` does not hold", "--size T=900000001,S="),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_stands_against_the_closest_sizes_is_said_with_a_remedy(name: str) -> None:
    requires, given, said, remedy = REFUSED[name]
    text = f"model m(x: float[T], y: float[S]) -> float[T] {{\n {requires}\n return x }}"
    with pytest.raises(Diagnostic) as caught:
        check(loads(text), given=given)
    assert caught.value.code == "E0807"
    assert said in caught.value.notes[0].message
    assert remedy in (caught.value.help or "")
    assert ("--size" in remedy) == ("--size" in (caught.value.help or ""))


def test_what_a_foreign_runtime_says_is_a_note() -> None:
    text = "model m(x: float[B, T], i: i64[B]) -> float[B] { return take(sum(x, axis=0), i * 1000) }"
    with pytest.raises(Diagnostic) as caught:
        check(loads(text))
    assert caught.value.code == "E0935"
    assert "index" not in caught.value.message
    assert caught.value.notes[0].message.startswith("PyTorch says: ")
    module = loads(text)
    given = lambda inputs, **more: build_torch(module)({**inputs, "i": inputs["i"] * 0}, **more)  # noqa: E731
    with pytest.raises(Diagnostic) as caught:
        verify(module, Session(serialize(build_onnx(module))), given)
    assert caught.value.code == "E0807"
    assert "ONNX Runtime" not in caught.value.message


# Several steps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("s = s + x\n y = x * s", "s = x\n y = x * s"),  # shows in the second step
        ("s = s * 0.5\n y = x + s", "s = s * 0.25\n y = x + s"),  # from zeros never
        ("n = n + 1\n y = x * cast(n, f32)", "n = n * 0 + 1\n y = x * cast(n, f32)"),
        ("n = minimum(n + 1, 3)\n y = x * cast(n, f32)", "n = minimum(n + 1, 2)\n y = x * cast(n, f32)"),  # in the third
    ],
)
def test_states_are_compared_over_steps_and_from_several_starts(right: str, wrong: str) -> None:
    text = "model m(x: f32[B]) -> f32[B] {{ state s: f32[B] = zeros\n state n: i64[] = zeros\n {}\n return y }}"
    assert check(loads(text.format(right)))
    with pytest.raises(Diagnostic) as caught:
        check(loads(text.format(wrong)), loads(text.format(right)))
    assert caught.value.code == "E0809"


def test_states_that_overflow_end_the_comparison() -> None:
    text = """
        model m(x: f32[B, 4]) -> i64[B] {
            state s: f32[B, 4] = ones
            s = s * 1e30 / (s - s)
            return argmax(x, axis=1)
        }
    """
    assert check(loads(text)).rows


@pytest.mark.parametrize(("dtype", "compared"), [("f32", True), ("f16", False)])
def test_integers_behind_half_precision_are_not_held_to_another_file(dtype: str, compared: bool) -> None:
    """Where rounding decides which of two is larger, both answers are right; a file that was read is not refused for it."""
    text = f"model m(x: f32[B, 9]) -> i64[B] {{\n    return argmax(cast(x, {dtype}), axis=1)\n}}\n"
    module = loads(text)
    runner = Session(serialize(build_onnx(module)))
    assert bool(verify(module, runner, build_torch(module), finite=True).rows) == compared
    assert verify(module, runner, build_torch(module)).rows


REFUSES = """model m(p: f32[B, T], valid: bool[B, T]) -> (y: f32[B]) {
    good = cast(all(p >= 0.0 and valid, axis=[0, 1]), i64)
    return sum(p, axis=1) * cast(sum(cast(valid, i64), axis=1) // good, f32)
}"""


def test_inputs_that_a_model_refuses_are_drawn_otherwise() -> None:
    rows = check(loads(REFUSES)).rows
    assert len(rows) == 2
    with pytest.raises(Diagnostic) as caught:
        check(loads(REFUSES.replace("p >= 0.0", "p > 9.0")))
    assert caught.value.code == "E0935"
    assert caught.value.message.endswith(": an integer is divided by 0")
    assert "--weights" in str(caught.value.help)
