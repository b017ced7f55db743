"""`target onnx(attention=contrib)`: attention over a cache as ONNX Runtime's own op, where that computes it, and else as it was."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tessera as ts
from tessera.backends.onnx import build, serialize
from tessera.ir.diagnostics import Diagnostic

from ..passes.memory.test_add_cache import ATTENDING, SMALL, ZOO

# A model, and how many of its attentions the op computes.
CASES = {"llama_lm": 2, "gpt2_lm": 2, "mixtral_lm": 2, "rope": 2, "mask": 2, "window": 0, "alibi": 0, "capped": 0}
MARKED = [c if c == "llama_lm" else pytest.param(c, marks=pytest.mark.extended) for c in CASES]
BY_HAND = """
use std.cache (KVCache, append, visible)
use std.attention (attention)
model m(q: f32[B, 4, S, 8], k: f32[B, 2, S, 8], v: f32[B, 2, S, 8], count: i64[B], other: i64[B]) -> f32[B, 4, S, 8] {{
    state cache: KVCache[B, 2, C, 8, 8] = zeros
    {before}
    cache = append(cache, k, v, count)
    return attention(q, cache.k, cache.v, {seen}, scale=0.3)
}}
"""
SEEN = {
    "visible(cache, count, queries=S)": True,
    "visible(cache, other, queries=S)": False,
    "visible(cache, queries=S)": False,
    "visible(cache, count, queries=S) and unsqueeze(iota(C), [0, 1, 2]) > 0": False,
    "unsqueeze(unsqueeze(iota(C), [0, 1]) <= unsqueeze(last, 2), 1)": True,
    "unsqueeze(unsqueeze(iota(C), [0, 1]) < unsqueeze(last, 2), 1)": False,
    "unsqueeze(unsqueeze(iota(C), [0, 1]) <= unsqueeze(late, 2), 1)": False,
    "unsqueeze(unsqueeze(iota(C) - 1, [0, 1]) <= unsqueeze(last, 2), 1)": False,
}
BEFORE = """start = minimum(cache.length, full([], C - S, dtype=i64))
    last = unsqueeze(start, 1) + unsqueeze(iota(S), 0)
    late = unsqueeze(cache.length, 1) + unsqueeze(iota(S) + 1, 0)"""


def model_of(name: str) -> Any:
    return ts.load(name, params={**SMALL, **ZOO[name]}) if name in ZOO else ts.loads(ATTENDING, params={"kind": name})


def own_ops(file: Path) -> int:
    return sum(node.op_type == "GroupQueryAttention" for node in onnx.load(file, load_external_data=False).graph.node)


def made(name: str, folder: Path) -> tuple[Any, Any]:
    module = model_of(name).clone()
    module.recipes = {}
    rng = np.random.default_rng(3)
    weights = {n: rng.normal(0, 0.3, [int(d) for d in p.type.shape]).astype(np.float32) for n, p in module.parameters().items()}
    options: dict[str, Any] = {"weights": weights, "passes": ["add_cache"], "renames": []}
    ours = ts.compile(module, attention="contrib", output=folder, **options)
    return ours, ts.compile(module, target="torch", verify=False, **options)


@pytest.mark.parametrize("name", MARKED)
def test_rows_of_several_lengths_go_on_as_they_would(name: str, tmp_path: Path) -> None:
    """In steps, in pieces, in rows that wait; compared with the model before it was written."""
    ours, reference = made(name, tmp_path / "made")
    assert own_ops(tmp_path / "made" / "decode.onnx") == CASES[name]
    assert own_ops(tmp_path / "made" / "prefill.onnx") == 0
    rng = np.random.default_rng(0)
    runs = [artifact.session(sizes={"C": 24}) for artifact in (ours, reference)]
    given = ours.prefill.inputs[0].name
    ids = rng.integers(0, 40, (3, 6))
    for run in runs:
        run.prefill(**{given: ids, "lengths": [6, 3, 1]})
    for counts in ([1, 1, 1], [3, 1, 0], [0, 0, 2], [4, 4, 4], [1, 0, 0]):
        ids = rng.integers(0, 40, (3, max(counts)))
        first, second = (run.decode(**{given: ids, "lengths": counts})["logits"] for run in runs)
        for row, count in enumerate(counts):
            np.testing.assert_allclose(first[row, :count], second[row, :count], atol=2e-5 * np.abs(second).max())
    held = [run.states() for run in runs]
    for field, value in held[1].items():
        for row, length in enumerate(held[1]["cache_0.length"]):
            one, other = (x[row] if x.ndim == 1 else x[row, :, :length] for x in (held[0][field], value))
            np.testing.assert_allclose(one, other, atol=1e-5)
    with pytest.raises(Diagnostic, match="the cache is full") as caught:
        runs[0].decode(**{given: rng.integers(0, 40, (3, 12)), "lengths": [12, 1, 1]})
    assert caught.value.code == "E0906"


def by_hand(seen: str) -> Any:
    return ts.loads(BY_HAND.format(before=BEFORE if "last" in seen or "late" in seen else "", seen=seen))


@pytest.mark.parametrize("seen", SEEN)
def test_only_masks_of_what_came_before_are_left_to_the_op(seen: str) -> None:
    module = by_hand(seen)
    model = onnx.load_from_string(serialize(build(module, cached=True)))
    assert Counter(node.op_type for node in model.graph.node)["GroupQueryAttention"] == SEEN[seen]
    if SEEN[seen]:
        (said,) = (p.value for p in model.metadata_props if p.key == "tessera.in_place")
        assert json.loads(said) == ["cache.k", "cache.v"]


@pytest.mark.extended
@pytest.mark.parametrize("seen", SEEN)
def test_whoever_computes_it_it_is_the_model(seen: str) -> None:
    """Compared at two sizes, rows that are full among them."""
    ts.compile(by_hand(seen), attention="contrib")


def test_what_else_reads_a_cache_keeps_it_apart() -> None:
    """A cache that another op reads, or whose heads the op does not take, is computed as it was."""
    seen = "visible(cache, count, queries=S)"
    plain = BY_HAND.format(before="", seen=seen)
    read = plain.replace("scale=0.3)", "scale=0.3) + sum(cache.k)")
    odd = plain.replace(" 8", " 6")
    for source, count in ((plain, 1), (read, 0), (odd, 0)):
        model = onnx.load_from_string(serialize(build(ts.loads(source), cached=True)))
        assert Counter(node.op_type for node in model.graph.node)["GroupQueryAttention"] == count
