"""Measuring: turns, paired ratios, inputs that a model can take, memory. No test asserts how long something takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tessera as ts
from tessera.driver.report import drawing, measure, results
from tessera.driver.report.drawing import draw_inputs, find_inverted_masks, sizes_of, workable_sizes
from tessera.driver.report.measure import Spread, Target, interleaved, ratio
from tessera.driver.report.memory import peak_memory
from tessera.ir.analysis.cost import working_bytes
from tessera.ir.diagnostics import Diagnostic

TEXT = """
use std.nn (embedding, linear)
model words(ids: i64[B, T], mask: i64[B, T], *, vocab: int = 11) -> (y: float[B, T, 4]) {
    x = embedding(ids, vocab=vocab, dim=4) as emb
    return linear(x * unsqueeze(cast(mask, float), 2), out=4) as head
}
"""


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return ts.compile(ts.loads(TEXT), verify=False).save(tmp_path / "ours.onnx")


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """An ONNX file of somebody else, with other names of inputs and sizes: ids through a cast into a table of 7 rows."""
    table = numpy_helper.from_array(np.ones((7, 4), np.float32), "table")
    nodes = [
        helper.make_node("Cast", ["tokens"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["rows"]),
        helper.make_node("Cast", ["valid"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "axis"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["out"]),
    ]
    axis = numpy_helper.from_array(np.array([2]), "axis")
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "seq"]) for n in ("tokens", "valid")]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", "seq", 4])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [table, axis])
    path = tmp_path / "foreign.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def test_candidates_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "TURN", 0.0)
    monkeypatch.setattr(measure, "SETTLE", 0.0)
    order: list[str] = []
    times = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warmup=1)
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert [len(row) for row in times.values()] == [3, 3]


def test_what_is_short_runs_several_times_in_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SETTLE", 0.0)
    order: list[str] = []

    def slow() -> None:
        order.append("slow")
        time.sleep(2 * measure.TURN)

    interleaved({"slow": slow, "fast": lambda: order.append("fast")}, rounds=1, warmup=1)
    assert order == ["slow", "fast", "slow", *["fast"] * measure.MOST_RUNS]


def test_a_turn_begins_with_runs_that_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "TURN", 0.0)
    order: list[str] = []

    def run(name: str) -> None:
        order.append(name)
        time.sleep(0.6 * measure.SETTLE)

    times = interleaved({"a": lambda: run("a"), "b": lambda: run("b")}, rounds=1, warmup=1)
    assert order == ["a", "b", "a", "a", "a", "b", "b", "b"]
    assert [len(row) for row in times.values()] == [1, 1]


def test_what_is_long_is_not_run_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "LONG", 0.0)
    order: list[str] = []
    interleaved({"a": lambda: order.append("a")}, rounds=2, warmup=1)
    assert order == ["a", *["a"] * 2 * measure.MOST_RUNS]


def test_rounds_are_chosen_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "TURN", 0.0)
    monkeypatch.setattr(measure, "SETTLE", 0.0)
    assert len(interleaved({"a": lambda: None})["a"]) == measure.MOST
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    assert len(interleaved({"a": lambda: None})["a"]) == measure.FEWEST


@pytest.mark.parametrize(
    ("count", "within"), [(1, (0, 0)), (5, (0, 4)), (7, (0, 6)), (9, (1, 7)), (12, (2, 9)), (20, (5, 14)), (60, (21, 38))]
)
def test_where_a_median_lies(count: int, within: tuple[int, int]) -> None:
    """As tables of the sign test say."""
    assert measure.median_within([float(i) for i in range(count)][::-1]) == within


def noisy(gain: float, busy: bool, rng: np.random.Generator) -> Callable[..., dict[str, list[float]]]:
    """Rounds of two candidates on a machine whose other work takes half of it away for some of the turns, not always both."""

    def measured(timed: Mapping[str, object], rounds: int | None, tell: object) -> dict[str, list[float]]:
        slowed = 1 + rng.integers(0, 2, (2, 9)) * rng.random((2, 9)) if busy else np.ones((2, 9))
        seconds = slowed * rng.normal(1, 0.01, (2, 9)) * [[gain], [1.0]]
        return dict(zip(timed, seconds.tolist(), strict=True))

    return measured


@pytest.mark.parametrize(("gain", "pays"), [(0.8, False), (0.9, False), (0.98, False), (1.06, True), (1.3, True), (1.7, True)])
def test_a_verdict_does_not_hang_on_other_work(gain: float, pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eleven times the same, five of them beside other work; where that work is as large as the gain, it may be untold."""
    rng = np.random.default_rng(0)
    target: Any = SimpleNamespace(prepared=lambda feeds, seed: None)
    found = []
    for turn in range(11):
        monkeypatch.setattr(results, "interleaved", noisy(gain, turn % 2 == 1, rng))
        timed = results.latencies({"original": target, "optimized": target}, {}, None, 0, lambda *_: None)
        found.append(results.pays(timed["gain"]["median"], *timed["within"]))
    assert found[::2] == [pays] * 6
    assert set(found[1::2]) <= ({pays} if gain > 1.5 else {pays, None})


def test_ratios_are_paired() -> None:
    # The second round met a busy machine; both halves of it did.
    assert ratio([1.0, 10.0, 1.0], [0.5, 5.0, 0.5]) == Spread(2.0, 2.0, 2.0)
    assert str(Spread.of([1.0, 2.0, 3.0])) == "2.00 (1.50 … 2.50)"
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0)


def test_inputs_are_such_that_the_model_takes_them(ours: Path, foreign: Path) -> None:
    for path, names, limit in ((ours, ("ids", "mask"), 11), (foreign, ("tokens", "valid"), 7)):
        target = Target.open(path)
        feeds = draw_inputs(target, dict(zip(target.symbols, (3, 50), strict=True)))
        assert tuple(feeds) == names
        assert feeds[names[0]].shape == (3, 50)
        assert feeds[names[0]].max() == limit - 1
        assert (feeds[names[1]] == 1).all()
        target(feeds)


def test_sizes_of_nobody_are_one_for_the_batch(ours: Path, foreign: Path) -> None:
    assert sizes_of(Target.open(ours)) == {"B": 1, "T": 128}
    assert sizes_of(Target.open(foreign), {"batch": 4}) == {"batch": 4, "seq": 128}
    with pytest.raises(Diagnostic) as caught:
        sizes_of(Target.open(foreign), {"bach": 4})
    assert (caught.value.code, "batch" in str(caught.value.help)) == ("E0935", True)


def test_sizes_are_such_that_the_model_runs(tmp_path: Path) -> None:
    """One learned fewer positions than 128 and says so; the other only fails when it runs."""
    spec = """
    use std.nn (position_embedding)
    model m(x: float[B, T, 4]) -> float[B, T, 4] {{ {body} }}
    """
    known = "return x + position_embedding(length=T, table=50, dim=4) as pos"
    runs = "param t: float[50, 4] = ones return x + take(t, cumsum(full([T], 1, dtype=i64), axis=0))"
    for body, size in ((known, 48), (runs, 48)):
        target = Target.open(ts.compile(ts.loads(spec.format(body=body)), verify=False).save(tmp_path / "m.onnx"))
        assert workable_sizes([target]) == {"B": 1, "T": size}
        assert workable_sizes([target], {"T": 7}) == {"B": 1, "T": 7}
        with pytest.raises(Diagnostic) as caught:
            workable_sizes([target], {"T": 70})
        assert caught.value.code in ("E0904", "E0912")


def test_a_file_whose_sizes_are_fixed_says_so(tmp_path: Path) -> None:
    spec = "model m(x: f32[2, 3]) -> f32[2, 3] { return x + 1.0 }"
    target = Target.open(ts.compile(ts.loads(spec), verify=False).save(tmp_path / "m.onnx"))
    assert draw_inputs(target, sizes_of(target))["x"].shape == (2, 3)
    with pytest.raises(Diagnostic, match="no size `B`") as caught:
        sizes_of(target, {"B": 1})
    assert caught.value.help == "all of its sizes are fixed"


def test_sizes_that_make_no_shape(tmp_path: Path) -> None:
    spec = "model m(x: f32[B, T - 4]) -> f32[B, T - 4] { return x + 1.0 }"
    target = Target.open(ts.compile(ts.loads(spec), verify=False).save(tmp_path / "m.onnx"))
    with pytest.raises(Diagnostic) as caught:
        draw_inputs(target, {"B": 1, "T": 2})
    assert caught.value.code == "E0935"


def test_a_prepared_call_is_the_same_call(ours: Path) -> None:
    target = Target.open(ours, threads=1)
    feeds = draw_inputs(target, {"B": 2, "T": 5})
    np.testing.assert_array_equal(target.prepared(feeds)()[0], target(feeds)["y"])


def test_arrays_go_by_name_or_else_in_order(ours: Path, foreign: Path) -> None:
    a, b = Target.open(ours), Target.open(foreign)
    feeds = {k: v % 7 for k, v in draw_inputs(a, {"B": 2, "T": 5}).items()}
    assert list(b.match(feeds)) == ["tokens", "valid"]
    assert list(a.match(dict(reversed(feeds.items())))) == ["ids", "mask"]
    for bad in ({"ids": feeds["ids"]}, {**feeds, "mask": feeds["mask"][0]}, {**feeds, "mask": feeds["mask"] * 1.0}):
        with pytest.raises(Diagnostic) as caught:
            a.match(bad)
        assert caught.value.code == "E0936"


def test_the_torch_target_is_measured_too(tmp_path: Path, ours: Path) -> None:
    module = ts.loads(TEXT)
    target = Target.open(ts.compile(module, target="torch", verify=False).save(tmp_path / "t.safetensors"))
    feeds = draw_inputs(target, sizes_of(target, {"T": 6}))
    np.testing.assert_allclose(target.prepared(feeds)()["y"], Target.open(ours)(feeds)["y"], atol=1e-6)
    assert target.sizes(draw_inputs(target, {"B": 2, "T": 6})) == {"B": 2, "T": 6}
    with pytest.raises(Diagnostic) as caught:
        peak_memory(target, feeds)
    assert caught.value.code == "E0938"


def test_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(Diagnostic) as caught:
        Target.open(tmp_path / "none.onnx")
    assert caught.value.code == "E0001"


def test_memory_counts_the_weights(tmp_path: Path) -> None:
    spec = """
    use std.nn (linear)
    model m(x: float[B, 64], *, wide: int = 64) -> float[B, 64] {
        return linear(linear(x, out=wide) as a, out=64) as b
    }"""
    found = []
    for wide in (64, 100_000):
        module = ts.loads(spec, params={"wide": wide})
        target = Target.open(ts.compile(module, verify=False).save(tmp_path / f"m{wide}.onnx"))
        found.append(peak_memory(target, draw_inputs(target, {"B": 1})))
    # 51 MB of weights more, of which the file may be mapped but packed copies are private.
    assert found[1].peak - found[0].peak > 45e6
    assert found[0].private is not None
    assert found[1].private is not None
    assert found[1].private > found[0].private


def test_a_process_that_does_not_come_back(ours: Path) -> None:
    target = Target.open(ours)
    feeds = draw_inputs(target, {"B": 1, "T": 4})
    ours.unlink()
    with pytest.raises(Diagnostic) as caught:
        peak_memory(target, feeds)
    assert caught.value.code == "E0938"


def test_flat_tokens_are_timed_at_128_in_ascending_groups(tmp_path: Path) -> None:
    module = ts.loads("""
        model experts(x: float[N, 8], ends: i64[3]) -> float[N, 4] {
            param w: float[3, 8, 4] = normal(1.0)
            return grouped_matmul(x, w, ends)
        }
    """)
    target = Target.open(ts.compile(module).save(tmp_path / "experts.onnx"))
    sizes = workable_sizes([target])
    assert sizes == {"N": 128}
    drawn = draw_inputs(target, sizes)
    assert drawn["x"].shape == (128, 8)
    assert 0 <= drawn["ends"][0] <= drawn["ends"][1] <= drawn["ends"][2] <= 128
    assert drawn["ends"][2] > 3


def test_memory_bounds_the_number_of_tokens(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target.open(ours)
    assert target.graph is not None
    needed = working_bytes(target.graph, {"B": 1, "T": 64})
    monkeypatch.setattr(drawing, "available", lambda: 2 * needed)
    told: list[str] = []
    assert workable_sizes([target], tell=told.append) == {"B": 1, "T": 64}
    assert "GiB that are free; measured at fewer tokens" in told[0]
    with pytest.raises(Diagnostic, match="at B = 1, T = 128 a call of") as caught:
        workable_sizes([target], {"T": 128})
    assert (caught.value.code, caught.value.help) == ("E0935", "choose smaller sizes with `--size`")


PADDED = """
    model m(ids: i64[B, T], mask: {dtype}[B, T]) -> float[B, 4] {{
        param table: float[7, 4]
        x = take(table, ids)
        keep = cast({keep}, float)
        return sum(x * unsqueeze(keep, 2), axis=1) / sum(unsqueeze(keep, 2), axis=1)
    }}
"""


@pytest.mark.parametrize(
    ("dtype", "keep", "inverted"),
    [
        ("i64", "mask != 0", False), ("i64", "mask", False), ("i64", "1 - mask", True), ("i64", "mask == 0", True),
        ("bool", "mask", False), ("bool", "not mask", True), ("i32", "mask != 1", True),
    ],
)  # fmt: skip
def test_a_mask_that_says_padding_is_drawn_the_other_way(
    dtype: str, keep: str, inverted: bool, tmp_path: Path
) -> None:
    module = ts.loads(PADDED.format(dtype=dtype, keep=keep))
    target = Target.open(ts.compile(module).save(tmp_path / "m.onnx"))
    target.inverted = find_inverted_masks(target, {"B": 2, "T": 5})
    assert target.inverted == ({"mask"} if inverted else set())
    outputs = target(draw_inputs(target, {"B": 2, "T": 5}))
    assert all(np.isfinite(array).all() for array in outputs.values())
