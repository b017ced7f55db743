"""Ragged rows against loops over sequences in NumPy: empty ones, one token, a full capacity, and padding that is infinite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tessera.frontends.source import loads
from tessera.frontends.source.format.printer import print_module

Compile = Callable[..., Callable[..., dict[str, np.ndarray]]]

# Lengths of sequences, and the capacity.
SHAPES: dict[str, tuple[list[int], int]] = {
    "some room": ([3, 1, 4], 11),
    "empty sequences": ([0, 2, 0, 0, 5, 0], 9),
    "one token": ([1], 1),
    "one token, much room": ([0, 1], 6),
    "full": ([4, 2, 3], 9),
    "nothing": ([0, 0], 4),
    "one sequence": ([7], 7),
}
cases = pytest.mark.parametrize("shape", SHAPES)


def drawn(shape: str, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Values [C, width], whose padding is infinite (of which 0 times is NaN), ends [B], and the sequences."""
    lengths, capacity = SHAPES[shape]
    values = np.random.default_rng(seed).standard_normal((capacity, width)).astype(np.float32)
    ends = np.cumsum(lengths)
    values[ends[-1] :] = np.inf
    return values, ends, np.split(values, ends)[:-1]


def packed(rows: list[np.ndarray], capacity: int) -> np.ndarray:
    made = np.concatenate(rows)
    return np.concatenate([made, np.zeros((capacity - len(made), *made.shape[1:]), made.dtype)])


def close(actual: np.ndarray, wanted: np.ndarray) -> None:
    assert actual.shape == wanted.shape
    np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5)


def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int, kv_heads: int, causal: bool) -> np.ndarray:
    """Attention of one sequence, [T, heads * K] to [S, kv_heads * K]."""
    split = [x.reshape(len(x), n, x.shape[1] // n).transpose(1, 0, 2) for x, n in ((q, heads), (k, kv_heads), (v, kv_heads))]
    queries, keys, values = split[0], *(np.repeat(x, heads // kv_heads, axis=0) for x in split[1:])
    scores = queries @ keys.transpose(0, 2, 1) * queries.shape[-1] ** -0.5
    if causal:
        place = np.arange(len(q))[:, None] + len(k) - len(q)
        scores = np.where(np.arange(len(k)) <= place, scores, -np.inf)
    with np.errstate(invalid="ignore"):
        p = np.exp(scores - scores.max(-1, keepdims=True, initial=-1e30))
    total = p.sum(-1, keepdims=True)
    y = p / np.where(total == 0, 1, total) @ values
    return y.transpose(1, 0, 2).reshape(len(q), v.shape[1] // kv_heads * heads)


PLACES = """
use std.ragged (Ragged, segment_ids, row_positions, row_mask, row_ends, row_lengths)

model places(r: Ragged[B, C, 2])
    -> (ids: i64[C], position: i64[C], mask: bool[C], ends: i64[B], lengths: i64[B]) {
    return segment_ids(r), row_positions(r), row_mask(r), row_ends(r), row_lengths(r)
}
"""


@cases
def test_where_rows_are(compiled: Compile, shape: str) -> None:
    lengths, capacity = SHAPES[shape]
    values, ends, _ = drawn(shape, 2)
    found = compiled(loads(PLACES))(r_values=values, r_ends=ends)
    padding = capacity - sum(lengths)
    ids = [*np.repeat(np.arange(len(lengths)), lengths), *[len(lengths)] * padding]
    assert found["ids"].tolist() == ids
    assert found["position"].tolist() == [i for n in (*lengths, padding) for i in range(n)]
    assert found["mask"].tolist() == [i < len(lengths) for i in ids]
    assert found["ends"].tolist() == ends.tolist()
    assert found["lengths"].tolist() == lengths


@pytest.mark.parametrize(
    ("ends", "meant"),
    [([3, 1, 5], [3, 3, 5]), ([-4, 2, 99], [0, 2, 8]), ([9, 9, 0], [8, 8, 8]), ([-1, -1, -1], [0, 0, 0])],
)
def test_every_list_of_ends_means_something(compiled: Compile, ends: list[int], meant: list[int]) -> None:
    """An end smaller than one before it counts as that, one beyond the capacity as the capacity."""
    program = compiled(loads(PLACES))
    values = np.zeros((8, 2), np.float32)
    found, wanted = (program(r_values=values, r_ends=np.array(e)) for e in (ends, meant))
    assert found["ends"].tolist() == meant
    for name in found:
        np.testing.assert_array_equal(found[name], wanted[name])


@cases
def test_packing_and_unpacking_are_inverse(compiled: Compile, shape: str) -> None:
    lengths, capacity = SHAPES[shape]
    longest = max(max(lengths), 1)
    text = f"""
        use std.ragged (Ragged, ragged_from_padded, padded_from_ragged)
        model m(x: float[B, T, 3], lengths: i64[B])
            -> (r: Ragged[B, {capacity}, 3], back: float[B, {longest}, 3], valid: bool[B, {longest}]) {{
            r = ragged_from_padded(x, lengths, capacity={capacity})
            back, valid = padded_from_ragged(r, length={longest})
            return r, back, valid
        }}
    """
    x = np.random.default_rng(0).standard_normal((len(lengths), longest, 3)).astype(np.float32)
    valid = np.arange(longest) < np.array(lengths)[:, None]
    x[~valid] = np.inf
    found = compiled(loads(text))(x=x, lengths=np.array(lengths))
    np.testing.assert_array_equal(
        found["r_values"], packed([row[:n] for row, n in zip(x, lengths, strict=True)], capacity)
    )
    assert found["r_ends"].tolist() == np.cumsum(lengths).tolist()
    np.testing.assert_array_equal(found["back"], np.where(valid[..., None], x, 0))
    np.testing.assert_array_equal(found["valid"], valid)


def test_what_does_not_fit_is_left_out(compiled: Compile) -> None:
    text = """
        use std.ragged (Ragged, ragged_from_padded, padded_from_ragged)
        model m(x: float[3, 4, 1], lengths: i64[3]) -> (r: Ragged[3, 5, 1], back: float[3, 2, 1], valid: bool[3, 2]) {
            r = ragged_from_padded(x, lengths, capacity=5)
            back, valid = padded_from_ragged(r, length=2)
            return r, back, valid
        }
    """
    x = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    found = compiled(loads(text))(x=x, lengths=np.array([3, 9, 2]))
    assert found["r_values"].ravel().tolist() == [0, 1, 2, 4, 5]
    assert found["r_ends"].tolist() == [3, 5, 5]
    assert found["back"][..., 0].tolist() == [[0, 1], [4, 5], [0, 0]]
    assert found["valid"].tolist() == [[True, True], [True, True], [False, False]]


@cases
def test_sequence_by_sequence(compiled: Compile, shape: str) -> None:
    text = """
        use std.ragged (Ragged, ragged_sum, ragged_mean, ragged_max, ragged_softmax, mask_rows)
        model m(r: Ragged[B, C, 3])
            -> (sum: float[B, 3], mean: float[B, 3], max: float[B, 3], p: Ragged[B, C, 3], rows: Ragged[B, C, 3]) {
            return ragged_sum(r), ragged_mean(r), ragged_max(r), ragged_softmax(r), mask_rows(r)
        }
    """
    capacity = SHAPES[shape][1]
    values, ends, rows = drawn(shape, 3)
    found = compiled(loads(text))(r_values=values, r_ends=ends)
    zero = np.zeros(3, np.float32)
    close(found["sum"], np.stack([row.sum(0) for row in rows]))
    close(found["mean"], np.stack([row.mean(0) if len(row) else zero for row in rows]))
    close(found["max"], np.stack([row.max(0) if len(row) else zero for row in rows]))
    softmax = [np.exp(row) / np.exp(row).sum(0) for row in rows]
    close(found["p_values"], packed(softmax, capacity))
    np.testing.assert_array_equal(found["rows_values"], packed(rows, capacity))
    np.testing.assert_array_equal(found["rows_ends"], ends)


@cases
def test_keeping_rows(compiled: Compile, shape: str) -> None:
    text = """
        use std.ragged (Ragged, keep_rows)
        model m(r: Ragged[B, C, 3], keep: bool[C]) -> (r2: Ragged[B, C, 3]) { return keep_rows(r, keep) }
    """
    capacity = SHAPES[shape][1]
    values, ends, rows = drawn(shape, 3)
    program = compiled(loads(text))
    for keep in (np.random.default_rng(0).random(capacity) < 0.5, np.ones(capacity, bool), np.zeros(capacity, bool)):
        found = program(r_values=values, r_ends=ends, keep=keep)
        kept = [row[mask] for row, mask in zip(rows, np.split(keep, ends), strict=False)]
        np.testing.assert_array_equal(found["r2_values"], packed(kept, capacity))
        assert found["r2_ends"].tolist() == np.cumsum([len(row) for row in kept]).tolist()


@pytest.mark.parametrize("causal", [False, True])
@cases
def test_attention_within_sequences(compiled: Compile, shape: str, causal: bool) -> None:
    text = f"""
        use std.ragged (Ragged, varlen_attention)
        model m(q: Ragged[B, C, 8], k: Ragged[B, C, 4], v: Ragged[B, C, 6]) -> (y: Ragged[B, C, 12]) {{
            return varlen_attention(q, k, v, heads=4, kv_heads=2, causal={str(causal).lower()})
        }}
    """
    capacity = SHAPES[shape][1]
    (q, ends, qs), (k, _, ks), (v, _, vs) = (drawn(shape, width, width) for width in (8, 4, 6))
    feeds = {"q_values": q, "k_values": k, "v_values": v, "q_ends": ends, "k_ends": ends, "v_ends": ends}
    found = compiled(loads(text))(**feeds)
    close(found["y_values"], packed([attended(*row, 4, 2, causal) for row in zip(qs, ks, vs, strict=True)], capacity))
    np.testing.assert_array_equal(found["y_ends"], ends)


@pytest.mark.parametrize("causal", [False, True])
def test_queries_and_keys_of_different_lengths(compiled: Compile, causal: bool) -> None:
    """As when decoding: the last query sees every key. A sequence without keys gives 0."""
    text = f"""
        use std.ragged (Ragged, varlen_attention)
        model m(q: Ragged[B, N, 4], k: Ragged[B, S, 4]) -> (y: Ragged[B, N, 4]) {{
            return varlen_attention(q, k, k, heads=2, causal={str(causal).lower()})
        }}
    """
    rng = np.random.default_rng(0)
    queries, keys = [1, 3, 2, 0, 2], [5, 3, 0, 2, 7]
    q, k = (rng.standard_normal((n, 4)).astype(np.float32) for n in (12, 20))
    q_ends, k_ends = np.cumsum(queries), np.cumsum(keys)
    q[q_ends[-1] :] = k[k_ends[-1] :] = np.inf
    found = compiled(loads(text))(q_values=q, q_ends=q_ends, k_values=k, k_ends=k_ends)
    rows = zip(np.split(q, q_ends)[:-1], np.split(k, k_ends)[:-1], strict=True)
    close(found["y_values"], packed([attended(a, b, b, 2, 2, causal) for a, b in rows], 12))


@pytest.mark.parametrize("group", [[2, 0, 2, 1, 3, 0, 2], [0], [3, 3], [1, 1, 1, 1], [2, 1, 0]])
def test_sorting_by_group(compiled: Compile, group: list[int]) -> None:
    """Stable; group 3 of 3 is none; the inverse leads back."""
    text = """
        use std.ragged (sort_by_group)
        model m(group: i64[N]) -> (order: i64[N], ends: i64[3], inverse: i64[N]) { return sort_by_group(group, groups=3) }
    """
    found = compiled(loads(text))(group=np.array(group))
    assert found["order"].tolist() == sorted(range(len(group)), key=lambda i: group[i])
    assert found["ends"].tolist() == [sum(g <= e for g in group) for e in range(3)]
    assert found["order"][found["inverse"]].tolist() == list(range(len(group)))


EXPERTS = """
use std.nn (gelu, linear, softmax)
use std.ragged (sort_by_group)

## A layer of 5 experts over flat tokens, of which each token sees the best two, weighted by their share of the two scores.
model experts(x: float[N, 8]) -> (y: float[N, 8], chosen: i64[N, 2]) {
    param up: float[5, 8, 16] = normal(0.3)
    param down: float[5, 16, 8] = normal(0.3)
    score, chosen = topk(linear(x, out=5, bias=false) as router, k=2)
    order, ends, inverse = sort_by_group(reshape(chosen, [N * 2]), groups=5)
    rows = take(x, order // 2)
    made = grouped_matmul(gelu(grouped_matmul(rows, up, ends)), down, ends)
    pairs = reshape(take(made, inverse), [N, 2, 8])
    return sum(pairs * unsqueeze(softmax(score), 2), axis=1), chosen
}
"""


@pytest.mark.parametrize("tokens", [1, 2, 7, 64])
def test_a_layer_of_experts(compiled: Compile, tokens: int) -> None:
    import math

    rng = np.random.default_rng(tokens)
    shapes = {"up": (5, 8, 16), "down": (5, 16, 8), "router.weight": (5, 8)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    x = rng.standard_normal((tokens, 8)).astype(np.float32)
    found = compiled(loads(EXPERTS), weights)(x=x)
    erf = np.vectorize(math.erf)
    for token, y, chosen in zip(x.astype(np.float64), found["y"], found["chosen"], strict=True):
        scores = weights["router.weight"] @ token
        best = sorted(range(5), key=lambda e: -scores[e])[:2]
        assert chosen.tolist() == best
        share = np.exp(scores[best]) / np.exp(scores[best]).sum()
        hidden = [token @ weights["up"][e] for e in best]
        outputs = [(0.5 * h * (1 + erf(h / 2**0.5))) @ weights["down"][e] for h, e in zip(hidden, best, strict=True)]
        np.testing.assert_allclose(y, share @ np.stack(outputs), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("text", [PLACES, EXPERTS, """
use std.ragged (Ragged, keep_rows, varlen_attention)
model m(r: Ragged[B, C, 8], keep: bool[C]) -> (y: Ragged[B, C, 8], few: Ragged[B, C, 8]) {
    y = varlen_attention(r, r, r, heads=2, causal=true)
    return y, keep_rows(y, keep)
}
"""])  # fmt: skip
def test_programs_print_as_source_that_reads_back_equal(text: str) -> None:
    module = loads(text)
    printed = print_module(module)
    again = loads(printed)
    assert module.difference(again) is None
    assert print_module(again) == printed


def test_gradients_do_not_come_from_padding() -> None:
    import torch

    from tessera.backends.torch import build

    module: Any = build(loads("""
        use std.ragged (Ragged, varlen_attention, ragged_mean)
        model m(r: Ragged[B, C, 4]) -> float[B, 4] {
            return ragged_mean(varlen_attention(r, r, r, heads=2))
        }
    """).graph)  # fmt: skip
    values, ends, _ = drawn("some room", 4)
    x = torch.from_numpy(values).requires_grad_()
    next(iter(module(x, torch.from_numpy(ends)).values())).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad[:8].abs().sum(1).gt(0).any()
    assert not x.grad[8:].any()
