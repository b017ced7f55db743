"""States that an artifact carries from call to call: of records, of a capacity that the runtime chooses, written in place."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

import tessera as ts
from tessera.backends.torch import build
from tessera.backends.torch.carrying import CarryingModule

DECODER = """
use std.attention (attention)
use std.cache (KVCache, append, visible)
use std.nn (linear, rms_norm)

## Attention over what was seen before, from a cache of C slots.
layer cached_attention(x: float[B, S, D], *, heads: int) -> float[B, S, D] {
    state cache: KVCache[B, heads, C, D // heads, D // heads] = zeros
    q = rearrange(linear(x, out=D) as q, "b s (h k) -> b h s k", h=heads)
    k = rearrange(linear(x, out=D) as k, "b s (h k) -> b h s k", h=heads)
    v = rearrange(linear(x, out=D) as v, "b s (h k) -> b h s k", h=heads)
    cache = append(cache, k, v)
    y = attention(q, cache.k, cache.v, visible(cache, queries=S))
    return linear(rearrange(y, "b h s k -> b s (h k)"), out=D) as out
}

model decoder(ids: i64[B, S], *, depth: int = 2) -> (logits: float[B, S, 11]) {
    param words: float[11, 32] = normal(1.0)
    state seen: i64[B] = zeros
    x = take(words, ids)
    repeat i in depth as layers {
        x = x + (cached_attention(rms_norm(x) as norm, heads=4) as attn)
    }
    seen = seen + S
    return x @ rearrange(words, "v d -> d v")
}
"""
TARGETS: list[tuple[str, dict[str, Any]]] = [("torch", {}), ("onnx", {}), ("onnx", {"opset": 18})]
ALL = [*TARGETS, ("mlir", {})] if find_spec("torch_mlir") else TARGETS


def compiled(target: str, **options: Any) -> ts.Artifact:
    return ts.compile(ts.loads(DECODER), target=target, verify=False, **options)


def test_64_steps_are_equal_to_reading_all_at_once_on_every_target() -> None:
    ids = np.random.default_rng(0).integers(0, 11, (2, 70))
    whole = compiled("torch")(ids=ids, sizes={"C": 70})["logits"]
    for target, options in ALL:
        run = compiled(target, **options).session(sizes={"C": 128})
        parts = [run(ids=ids[:, :6]), *(run(ids=ids[:, i : i + 1]) for i in range(6, 70))]
        assert list(parts[0]) == ["logits"]
        np.testing.assert_allclose(np.concatenate([p["logits"] for p in parts], axis=1), whole, atol=2e-5)
        states = run.states()
        assert states["layers_1_attn_cache.k"].shape == (2, 4, 128, 8)
        assert states["layers_0_attn_cache.length"].tolist() == states["seen"].tolist() == [70, 70]
        assert not states["layers_0_attn_cache.v"][:, :, 70:].any()


@pytest.mark.parametrize(("target", "options"), ALL)
def test_a_session_starts_again_and_from_given_states(target: str, options: dict[str, Any]) -> None:
    ids = np.random.default_rng(1).integers(0, 11, (1, 9))
    artifact = compiled(target, **options)
    run = artifact.session(sizes={"C": 16})
    assert run.states() == {}
    first = run(ids=ids[:, :5])["logits"]
    middle = run.states()
    last = run(ids=ids[:, 5:])["logits"]
    again = artifact.session(states=middle)
    np.testing.assert_array_equal(again(ids=ids[:, 5:])["logits"], last)
    assert middle["seen"].tolist() == [5]  # a copy: what the sessions go on to do does not change it
    run.reset()
    np.testing.assert_array_equal(run(ids=ids[:, :5])["logits"], first)
    # Another batch is another session.
    with pytest.raises(ts.Diagnostic, match="E0902"):
        run(ids=np.zeros((2, 1), np.int64))


@pytest.mark.parametrize(("target", "options"), TARGETS)
def test_what_a_session_refuses(target: str, options: dict[str, Any]) -> None:
    artifact = compiled(target, **options)
    ids = np.zeros((1, 3), np.int64)
    for call, code, text in (
        (lambda: artifact(ids=ids), "E0901", 'choose it: `sizes={"C": …}`, on the command line `--size C=…`'),
        (lambda: artifact(ids=ids, sizes={"C": 2}), "E0904", "more rows are written than the cache has slots"),
        (lambda: artifact(ids=ids, sizes={"C": 8, "capacity": 3}), "E0902", "has no size `capacity`"),
        (lambda: artifact(ids=ids, sizes={"C": -8}), "E0902", "a size is a whole number, at least 0"),
        (lambda: artifact(ids=ids, sizes={"C": "8"}), "E0902", "a size is a whole number, at least 0"),  # type: ignore[dict-item]
        (lambda: artifact(ids=ids, sizes={"C": 8, "S": 4}), "E0902", "`S` of `decoder` is 3 in the inputs, but 4"),
        (lambda: artifact.session(states={"cache": ids}), "E0901", "has no state `cache`"),
        (lambda: artifact.session(sizes={"C": 8})(ids=ids, seen=ids[:, 0]), "E0901", "`seen` is a state"),
    ):
        with pytest.raises(ts.Diagnostic) as caught:
            call()
        assert caught.value.code == code
        assert text in caught.value.render()


@pytest.mark.parametrize("opset", [18, 24])
def test_onnx_runtime_writes_caches_in_place(opset: int) -> None:
    artifact = compiled("onnx", opset=opset)
    caches = {f"layers_{i}_attn_cache.{f}" for i in range(2) for f in "kv"}
    assert set(artifact.runner.in_place) == caches
    run = artifact.session(sizes={"C": 8})
    run(ids=np.zeros((1, 2), np.int64))
    where = {name: run._held[name].data_ptr() for name in caches}
    for _ in range(3):
        run(ids=np.zeros((1, 1), np.int64))
    assert {name: run._held[name].data_ptr() for name in caches} == where


def test_torch_writes_caches_in_place_and_only_its_own() -> None:
    network = build(ts.loads(DECODER))
    ids = torch.zeros((1, 2), dtype=torch.int64)
    run = CarryingModule(network, sizes={"C": 8})
    run(ids=ids)
    held = run.tensors()
    where = {name: t.data_ptr() for name, t in held.items() if name.endswith((".k", ".v"))}
    run(ids=ids)
    assert {name: t.data_ptr() for name, t in run.tensors().items() if name in where} == where
    # A plain call leaves what it is given as it is.
    before = {name: t.clone() for name, t in run.tensors().items()}
    new = network(ids=ids, **run.tensors())
    for name, tensor in run.tensors().items():
        torch.testing.assert_close(tensor, before[name])
        assert new[name].data_ptr() != tensor.data_ptr()


def test_gradients_reach_through_a_cache() -> None:
    network = build(ts.loads(DECODER), trainable=True)
    ids = torch.arange(4).reshape(1, 4)
    first = network(ids=ids[:, :3], sizes={"C": 4})
    states = {name: first[name] for name in first if name != "logits"}
    second = network(ids=ids[:, 3:], **states)["logits"]
    whole = network(ids=ids, sizes={"C": 4})["logits"]
    gradients = []
    for loss in (second.sum(), whole[:, 3:].sum()):
        network.zero_grad()
        loss.backward(retain_graph=True)
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(network.parameters()))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


UNSAFE = """
use std.cache (write_rows)
model m(x: f32[B, 1, 1, 2], at: i64[B]) -> (before: f32[B, 1, C, 2], after: f32[B, 1, C, 2], sum: f32[B]) {
    state rows: f32[B, 1, C, 2] = zeros
    state other: f32[B, 1, C, 2] = zeros
    state total: f32[B] = zeros
    old = rows * 1.0
    rows = write_rows(rows, at, x)
    other = write_rows(other, at, x)
    shown = total + 0.0
    total = total + 1.0
    return old, other, shown
}
"""


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_what_is_read_beside_the_update_stays_right(target: str) -> None:
    run = ts.compile(ts.loads(UNSAFE), target=target, verify=False).session(sizes={"C": 4})
    rows = np.zeros((1, 1, 4, 2), np.float32)
    kept = []
    for step in range(4):
        x = np.full((1, 1, 1, 2), step + 1, np.float32)
        found = run(x=x, at=np.array([step]))
        np.testing.assert_array_equal(found["before"], rows)
        rows = rows.copy()
        rows[:, :, step] = step + 1
        np.testing.assert_array_equal(found["after"], rows)
        assert found["sum"].tolist() == [step]
        kept.append((found["after"], rows))
    for returned, expected in kept:  # what was returned is the caller's: later steps do not write to it
        np.testing.assert_array_equal(returned, expected)


def test_random_inputs_are_drawn_anew_in_each_call() -> None:
    source = (
        "model m(x: f32[B]) -> f32[B] { state n: f32[B] = zeros  random u: f32[B] = uniform(0, 1)  return x + u + n }"
    )
    draws = []
    for seed in (0, 0, 5):
        run = ts.compile(ts.loads(source), target="onnx", verify=False).session(seed=seed)
        draws.append([run(x=np.zeros(3, np.float32))["output"].tolist() for _ in range(2)])
    assert draws[0] == draws[1]
    assert draws[0][0] != draws[0][1]
    assert draws[0] != draws[2]


def test_artifacts_with_caches_are_verified() -> None:
    for target in sorted({target for target, _ in ALL} - {"torch"}):
        rows = ts.compile(ts.loads(DECODER), target=target).report.verified
        assert {row["output"] for row in rows} >= {"logits", "layers_0_attn_cache.k", "seen"}


@pytest.mark.parametrize(("target", "options"), TARGETS)
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("o = a * 2.0\n a = a + x", [2, 4, 8, 14]),
        ("o = a * 1.0\n a = x", [1, 1, 2, 3]),
        ("o = a * 1.0\n a = b + x\n b = o", [1, 1, 3, 4]),
    ],
)
def test_what_reads_a_state_sees_it_as_it_was(
    target: str, options: dict[str, Any], body: str, expected: list[int]
) -> None:
    text = f"model m(x: f32[B, 4]) -> (o: f32[B, 4]) {{\n state a: f32[B, 4] = ones\n state b: f32[B, 4]\n {body}\n return o\n}}"
    run = ts.compile(ts.loads(text), target=target, **options).session()
    assert [run(x=np.full((1, 4), i, np.float32))["o"].ravel()[0] for i in (1, 2, 3, 4)] == expected


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_what_stops_a_step_is_said_as_of_a_call(target: str) -> None:
    text = "model m(x: i64[B]) -> i64[B] { state total: i64[B] = zeros\n total = total + 8 // x return total + 0 }"
    session = ts.compile(ts.loads(text), target=target, verify=False).session()
    session(x=np.array([2]))
    with pytest.raises(ts.Diagnostic) as caught:
        session(x=np.array([0]))
    assert caught.value.code == "E0912"
    assert session(x=np.array([2]))["output"] == 8


# Several entry points on one set of states ------------------------------------------------------------------------------

PROGRAM = DECODER + """
model further(ids: i64[B, 1], *, depth: int = 2) -> (logits: float[B, 1, 11]) {
    param words: float[11, 32] = normal(1.0)
    state seen: i64[B] = zeros
    x = take(words, ids)
    repeat i in depth as layers {
        x = x + (cached_attention(rms_norm(x) as norm, heads=4) as attn)
    }
    seen = seen + 1
    return x @ rearrange(words, "v d -> d v")
}

program chat {
    entry prefill = decoder
    entry step = further
}
"""


@pytest.mark.parametrize(("target", "options"), TARGETS)
def test_entry_points_share_the_states_of_a_session(target: str, options: dict[str, Any]) -> None:
    ids = np.random.default_rng(2).integers(0, 11, (2, 9))
    whole = compiled("torch")(ids=ids, sizes={"C": 9})["logits"]
    chat = ts.compile(ts.loads(PROGRAM), target=target, verify=False, **options).program
    run = chat.session(sizes={"C": 16})
    for _ in range(2):
        parts = [run.prefill(ids=ids[:, :4]), *(run["step"](ids=ids[:, i : i + 1]) for i in range(4, 7))]
        parts.append(run.prefill(ids=ids[:, 7:]))
        np.testing.assert_allclose(np.concatenate([p["logits"] for p in parts], axis=1), whole, atol=2e-5)
        assert run.states()["seen"].tolist() == [9, 9]
        run.reset()
        assert run.states() == {}
    middle = chat.session(sizes={"C": 16})
    middle.prefill(ids=ids[:, :8])
    again = chat.session(states=middle.states())
    np.testing.assert_array_equal(again.step(ids=ids[:, 8:])["logits"], middle.step(ids=ids[:, 8:])["logits"])


@pytest.mark.parametrize(("target", "options"), TARGETS)
def test_a_row_of_the_states_is_written(target: str, options: dict[str, Any]) -> None:
    artifact = compiled(target, **options)
    ids = np.random.default_rng(3).integers(0, 11, (3, 6))
    whole = artifact(ids=ids, sizes={"C": 8})["logits"]
    run = artifact.session(sizes={"C": 8, "B": 3})
    run.make()
    assert not run.states()["layers_0_attn_cache.k"].any()
    one = artifact.session(sizes={"C": 8})
    for row in (2, 0, 1):
        one.reset()
        one(ids=ids[row : row + 1, : 5 - row])
        run.put(one.states(), row)
    found = run(ids=np.stack([ids[row, 5 - row : 6 - row] for row in range(3)]))["logits"]
    np.testing.assert_allclose(found[:, 0], np.stack([whole[row, 5 - row] for row in range(3)]), atol=2e-5)
    assert run.states()["layers_1_attn_cache.length"].tolist() == [6, 5, 4]
    for _ in range(2):  # a state may have two buffers
        run.put({"seen": np.array([1, 2, 3])})
        run(ids=ids[:, :1])
        assert run.states()["seen"].tolist() == [2, 3, 4]


@pytest.mark.parametrize(("target", "options"), TARGETS)
def test_what_sharing_and_writing_states_refuse(target: str, options: dict[str, Any]) -> None:
    chat = ts.compile(ts.loads(PROGRAM), target=target, verify=False, **options).program
    run = chat.session(sizes={"C": 8, "B": 2})
    for call, code, text in (
        (lambda: chat.session(sizes={"capacity": 8}), "E0902", "no entry point has a size `capacity`"),
        (lambda: chat.session(states={"sene": np.zeros(2, np.int64)}), "E0901", "did you mean `seen`?"),
        (lambda: chat.session(sizes={"C": 8}).step.make(), "E0901", "which alone tells the size `B`"),
        (lambda: run.step.put({"seen": np.zeros(2, np.int64)}), "E0901", "the state `seen` was not made"),
        (lambda: run.step.make() or run.step.put({"seen": np.zeros(2, np.int64)}, 1), "E0902", "`seen` takes [1]"),
        (lambda: run.prefill(ids=np.zeros((3, 1), np.int64)), "E0902", "`B`"),
    ):
        with pytest.raises(ts.Diagnostic) as caught:
            call()
        assert caught.value.code == code, caught.value.render()
        assert text in caught.value.render()
    with pytest.raises(AttributeError, match="no entry point `decode`"):
        _ = run.decode


@pytest.mark.parametrize(("target", "options"), TARGETS)
def test_what_a_cache_has_no_room_for_is_refused_and_changes_nothing(target: str, options: dict[str, Any]) -> None:
    ids = np.random.default_rng(2).integers(0, 11, (2, 8))
    run = compiled(target, **options).session(sizes={"C": 6})
    run(ids=ids[:, :5])
    for parts in (ids[:, 5:7], ids[:, 5:8]):
        with pytest.raises(ts.Diagnostic, match=r"E0906.*the cache is full: `layers_0_attn_cache.length` is 5.* at most C - S = "):
            run(ids=parts)
    last = run(ids=ids[:, 5:6])["logits"]
    whole = compiled(target, **options)(ids=ids[:, :6], sizes={"C": 6})["logits"]
    np.testing.assert_allclose(last[:, 0], whole[:, 5], atol=2e-5)
    with pytest.raises(ts.Diagnostic, match="E0906"):
        run(ids=ids[:, 6:7])
    full = compiled(target, **options).session(states=run.states())
    with pytest.raises(ts.Diagnostic, match="E0906"):
        full(ids=ids[:, 6:7])


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_rows_of_a_cache_are_counted_within_it_in_every_entry_point(target: str) -> None:
    small = {"vocab": 11, "dim": 8, "depth": 1, "heads": 1, "kv_heads": 1, "hidden": 8}
    chat = ts.compile(ts.load("llama_lm", params=small), target=target, passes=["add_cache(tree=true)"], verify=False)
    run: Any = chat.session(sizes={"C": 4})
    run.prefill(input_ids=[[1, 2, 3]], lengths=[3])
    before = run.states()
    one = np.array([[1]])
    for entry, given, said in (
        ("decode", {"input_ids": one, "lengths": [2]}, "`lengths` has the element 2, and counts rows of a cache: 0 to T = 1"),
        ("decode", {"input_ids": one, "lengths": [-1]}, "`lengths` has the element -1"),
        ("prefill", {"input_ids": one, "lengths": [2]}, "`lengths` has the element 2"),
        ("decode", {"input_ids": [[1, 2]], "lengths": [1]}, r"`cache_0.length` is 3, .* at most C - T = 2"),
        ("verify", {"input_ids": [[1, 2]], "depth": [[0, 1]], "ancestors": np.tri(2, dtype=bool)[None]}, "at most C - T = 2"),
        ("commit", {"path": [[0, 1]], "count": [1]}, "at most C - P = 2"),
    ):
        with pytest.raises(ts.Diagnostic, match=rf"E0906.*{said}"):
            run[entry](**given)
    assert all((run.states()[name] == array).all() for name, array in before.items())
    with pytest.raises(ts.Diagnostic, match="E0521"):
        run["decod"]
    with pytest.raises(ts.Diagnostic, match=r"E0902.*the size `C` .* is True"):
        chat.session(sizes={"C": True}).prefill(input_ids=one, lengths=[1])
    run.decode(input_ids=one, lengths=[1])
    with pytest.raises(ts.Diagnostic, match=r"E0906.*the cache is full"):  # a row that rides along is written over as well
        run.decode(input_ids=one, lengths=[0])
