"""The cost model against counts done by hand, and against what is published."""

from __future__ import annotations

import pytest

from tessera.backends.target import registry
from tessera.backends.torch import build
from tessera.backends.triton.claims import launched
from tessera.driver.report.explain import explain_module
from tessera.frontends.source import load, loads
from tessera.frontends.source.elaborate.library import SPECS
from tessera.ir.analysis.cost import Cost, cost


@pytest.mark.parametrize(
    ("model", "gmacs"),
    [("vit_s16", 4.6), ("vit_b16", 17.6), ("vit_l16", 61.6)],
)
def test_published_operations(model: str, gmacs: float) -> None:
    """ViT at 224 x 224: billions of multiply-adds, as timm lists them; two operations each."""
    total = cost(load(SPECS / "zoo" / "vit.tess", model).graph).at({"B": 1}).total
    assert total.flops / 2e9 == pytest.approx(gmacs, rel=0.02)


def test_weights_are_counted_once() -> None:
    text = """model m(x: f32[B, 4]) -> f32[B, 4] {
        param w: f32[4, 4]
        return (x @ w) @ w
    }"""
    total = cost(loads(text).graph).at({"B": 3}).total
    assert total.weights == 4 * 4 * 4
    assert total.flops == 2 * (2 * 3 * 4 * 4)
    assert (total.read, total.written) == (2 * 3 * 4 * 4, 2 * 3 * 4 * 4)
    assert total.bytes == 64 + 96 + 96


def test_a_lookup_reads_the_rows_it_picks() -> None:
    text = """model m(ids: i64[B, T]) -> f32[B, T, 8] {
        param words: f32[30000, 8]
        return take(words, ids)
    }"""
    total = cost(loads(text).graph).at({"B": 2, "T": 5}).total
    assert total.weights == 2 * 5 * 8 * 4
    assert total.read == 2 * 5 * 8


def test_views_are_free_and_composites_cost_their_bodies() -> None:
    text = """use std.nn (gelu)
    model m(x: f32[B, 6]) -> f32[B, 6] { return gelu(reshape(unsqueeze(x, 0), [B, 6])[:, 0:]) }"""
    total = cost(loads(text).graph).at({"B": 10}).total
    assert total.flops == 5 * 60
    assert (total.read, total.written) == (240, 240)


def test_loops_cost_their_steps() -> None:
    text = "model m(x: f32[4]) -> f32[4] { fold i in 7 from (x) { x = exp(x) + x } return x }"
    assert cost(loads(text).graph).at({}).total.flops == 7 * 8
    scanned = """fn plus(a: f32[...], b: f32[...]) -> f32[...] { return a + b }
    model m(x: f32[B, 5, 3]) -> f32[B, 5, 3] { return scan(plus, x, axis=1) }"""
    assert cost(loads(scanned).graph).at({"B": 2}).total.flops == 5 * 6
    bounded = "model m(x: f32[4], p: bool[]) -> f32[4] { while p and p from (x) limit 5 { x = exp(x) + x } return x }"
    assert cost(loads(bounded).graph).at({}).total.flops == 5 * (8 + 1)


def test_a_choice_costs_its_dearer_branch() -> None:
    text = (
        "model m(x: f32[B, 4], p: bool[]) -> f32[B, 4] { cond p from (x) { x = exp(x) } else { x = -exp(x) } return x }"
    )
    assert cost(loads(text).graph).at({"B": 3}).total.flops == 2 * 12


def test_blocks_reach_from_one_attention_to_the_next() -> None:
    module = load(SPECS / "zoo" / "minilm.tess", "minilm", {"depth": 3})
    table = cost(module.graph).at({"B": 2, "T": 16})
    assert [(b.name, b.tokens) for b in table.blocks] == [("stem", None), ("0", 16), ("1", 16), ("2", 16)]
    assert table.total.flops == sum(b.cost.flops for b in table.blocks)
    shown = cost(module.graph).table({"B": 2, "T": 16})
    assert shown.rows[-1][0] == "total"
    assert shown.to_dict()[1]["tokens"] == 16


ATTENDS = """use std.attention (attention)
model m(q: f32[B, 2, T, 8], k: f32[B, 2, T, 8], v: f32[B, 2, T, 8]) -> f32[B, 2, T, 8] {
    y{more} = attention(q, k, v{option})
    return y
}"""


@pytest.mark.parametrize(
    ("more", "option"),
    [(", mass", ", column_mass=true"), (", lse", ", log_sum_exp=true"), ("", ", softcap=5.0")],
)
def test_an_attention_map_that_is_stored_is_paid_for(more: str, option: str) -> None:
    """PyTorch and ONNX Runtime have no kernel that returns statistics of all rows or caps scores: the body writes [B, H, T, T]
    maps."""
    plain, stored = attending("", ""), attending(more, option)
    one_map = 3 * 2 * 100 * 100 * 4
    assert plain.written == 3 * 2 * 100 * 8 * 4
    # The scores, and what they become until they are a distribution.
    assert stored.written > 4 * one_map
    assert stored.read > 4 * one_map
    assert stored.flops >= plain.flops
    graph = loads(ATTENDS.replace("{more}", more).replace("{option}", option)).graph
    assert "scaled_dot_product_attention" not in build(graph).source


def attending(more: str, option: str, target: str = "onnx", dtype: str = "f32") -> Cost:
    graph = loads(ATTENDS.replace("{more}", more).replace("{option}", option).replace("f32", dtype)).graph
    return cost(graph, registry()[target]().stores_map).at({"B": 3, "T": 100}).total


# Target, option, dtype -> whether the map of the attention is stored.
STORED = {
    ("triton", "", "f32"): False, ("triton", "mass", "f32"): False, ("triton", "lse", "f32"): False,
    ("triton", "cap", "f32"): False,
    # No kernel of ours computes in f64.
    ("triton", "", "f64"): True, ("triton", "mass", "f64"): True,
    ("torch", "", "f32"): False, ("torch", "mass", "f32"): True, ("torch", "cap", "f32"): True,
    ("mlir", "", "f32"): False, ("mlir", "causal", "f32"): True, ("mlir", "mass", "f32"): True,
}  # fmt: skip
OPTIONS = {
    "": ("", ""), "mass": (", mass", ", column_mass=true"), "lse": (", lse", ", log_sum_exp=true"), "cap": ("", ", softcap=5.0"),
    "causal": ("", ", causal=true"),
}  # fmt: skip


@pytest.mark.parametrize(("target", "option", "dtype"), STORED)
def test_whether_a_map_is_stored_is_what_the_target_says(target: str, option: str, dtype: str) -> None:
    """The figures of a target whose kernels give statistics without a map are those of the operands and results."""
    moved = attending(*OPTIONS[option], target, dtype)
    one_map = 3 * 2 * 100 * 100 * (8 if dtype == "f64" else 4)
    assert (moved.written > one_map) == STORED[target, option, dtype]
    assert moved.flops == attending(*OPTIONS[option], dtype=dtype).flops
    if target == "triton":
        more, given = OPTIONS[option]
        graph = loads(ATTENDS.replace("{more}", more).replace("{option}", given).replace("f32", dtype)).graph
        assert all(launched(node) != STORED[target, option, dtype] for node in graph.nodes())


def test_a_program_is_costed_for_the_target_of_its_compile_block() -> None:
    text = ATTENDS.replace("{more}", ", mass").replace("{option}", ", column_mass=true")
    shown = {}
    for target in ("onnx", "triton"):
        facts = explain_module(loads(f"{text}\ncompile m {{ target {target} }}"), {"B": 3, "T": 100})
        assert facts["costed_on"] == target
        shown[target] = facts["cost"][-1]["written"]
    assert shown["triton"] * 10 < shown["onnx"]


def test_one_row_of_an_attention_is_one_small_product() -> None:
    """Attention keeps its kernel; the row costs about a hundredth of its 100 rows, and no map is moved."""
    plain, row = attending("", ""), attending(", picked", ", row=0")
    assert plain.flops < row.flops < 1.02 * plain.flops
    assert (row.read, row.written - plain.written) == (plain.read, 3 * 2 * 100 * 4)
    graph = loads(ATTENDS.replace("{more}", ", picked").replace("{option}", ", row=0")).graph
    assert "scaled_dot_product_attention" in build(graph).source
