"""What masks say: causal, padding, a window, nothing; and that attention computes the same with them."""

from __future__ import annotations

import numpy as np
import pytest

from tessera.frontends.source import loads
from tessera.ir.compiling import PassSpec
from tessera.ir.graph import Module, Node

from ..conftest import passed, run
from .test_raise import RAISE, agree, inputs_of

ATTEND = "return attention(q, k, v, {}, scale=0.5)"
# How exporters count positions.
COUNT = "t = unsqueeze(iota(T), [0, 1, 3])  s = unsqueeze(iota(T), [0, 1, 2])  b = unsqueeze(iota(B), [1, 2, 3])  "
# attention_mask[b, s], as PyTorch's exporter writes it for ONNX: GatherND of stacked indices.
GATHERED = (
    "rows = unsqueeze(expand(b, [B, 1, 1, T]), 4)  columns = unsqueeze(expand(s, [B, 1, 1, T]), 4)"
    "  index = concat(rows, columns, axis=4)  flat = reshape(cast(ids, bool), [B * T])"
    "  seen = take(flat, index[..., 0] * full([], T, dtype=i64) + index[..., 1])  "
)
LOW = "constant(-3.4028235e+38, dtype=f32)"
ZERO = "constant(0.0, dtype=f32)"


def program(body: str) -> Module:
    return loads(
        f"""use std.attention (attention) use std.nn (softmax)
        model program(
            q: f32[B, 4, T, 8], k: f32[B, 4, T, 8], v: f32[B, 4, T, 8], ids: i64[B, T], real: bool[B, T],
            bias: f32[1, 4, T, T], other: f32[B, 1, 1, T],
        ) -> f32[B, 4, T, 8] {{ {body} }}"""
    )


def attention(module: Module) -> Node:
    (node,) = (n for n in module.graph.nodes() if n.op.name == "attention")
    return node


def mask_type(node: Node) -> str:
    return "none" if node.inputs[3] is None else str(node.inputs[3].type)


CASES = {
    "always true": ("mask = expand(t >= 0, [B, 1, T, T])", "mask", (False, "none", False), "mask_dropped"),
    "causal": ("", "s <= t", (True, "none", False), "mask_causal"),
    "causal, the other way": ("", "not (s > t)", (True, "none", False), "mask_causal"),
    "causal, strictly": ("", "s < t + 1", (True, "none", False), "mask_causal"),
    "padding": ("seen = unsqueeze(real, [1, 2])", "t >= 0 and seen", (False, "bool[B, 1, 1, T]", False), "mask_of_keys"),
    "gathered": (GATHERED, "t >= 0 and seen", (False, "bool[B, 1, 1, T]", False), "mask_of_keys"),
    "gathered and causal": (GATHERED, "s <= t and seen", (True, "bool[B, 1, 1, T]", False), "mask_causal"),
    "a window": ("", "s <= t and s > t - 3", (True, "bool[1, 1, T, T]", False), "mask_causal"),
    "added": (
        GATHERED, f"bias=where(seen, {ZERO}, -inf)", (False, "bool[B, 1, 1, T]", False), "mask_from_bias"
    ),
    "added, the lowest": (
        f"{GATHERED} m = s <= t and seen", f"bias=where(m, {ZERO}, {LOW})", (True, "bool[B, 1, 1, T]", False),
        "mask_from_lowest",
    ),
    "added, inverted": (
        GATHERED, f"bias=where(not seen, {LOW}, {ZERO})", (False, "bool[B, 1, 1, T]", False), "mask_from_lowest"
    ),
    "one minus the mask": (
        "gap = 1.0 - cast(unsqueeze(ids, [1, 2]), f32)", "bias=gap * -10000.0", (False, "bool[B, 1, 1, T]", False),
        "mask_from_bias",
    ),
    "one minus the condition": (
        "gap = 1.0 - cast(unsqueeze(real, [1, 2]), f32)", "bias=gap * -10000.0", (False, "bool[B, 1, 1, T]", False),
        "mask_from_bias",
    ),
    "beside positions": (
        GATHERED, f"bias=bias + where(seen, {ZERO}, {LOW})", (False, "bool[B, 1, 1, T]", True), "mask_from_bias"
    ),
    "in the place of positions": (
        GATHERED, f"bias=where(seen, bias, {LOW})", (False, "bool[B, 1, 1, T]", True), "mask_from_bias"
    ),
    "the lowest in the place of the lowest": (
        GATHERED, f"bias=where(seen, bias + where(s <= t, {ZERO}, {LOW}), {LOW})", (True, "bool[B, 1, 1, T]", True),
        "mask_from_bias",
    ),
    "-inf in the place of the lowest": (
        GATHERED, f"bias=where(seen, where(s <= t, {ZERO}, {LOW}), -inf)", (True, "bool[B, 1, 1, T]", False), "mask_from_bias"
    ),
    "the lowest in the place of -inf": (
        GATHERED, f"bias=where(seen, where(s <= t, {ZERO}, -inf), {LOW})", (True, "bool[B, 1, 1, T]", False), "mask_from_bias"
    ),
    "-inf in the place of positions": (
        GATHERED, "bias=where(seen, bias, -inf)", (False, "bool[B, 1, 1, T]", True), "mask_from_bias"
    ),
    "added to nothing": ("m = expand(t >= 0, [1, 1, T, T])", f"bias=where(m, {ZERO}, {LOW})", (False, "none", False), ""),
    "a bias that is none": ("", "bias=other", (False, "none", True), ""),
    "not low enough": ("", f"bias=where(s <= t, {ZERO}, -5.0)", (False, "none", True), ""),
}  # fmt: skip


# Those in which the lowest number stands for -inf, and a query may see no key.
LOWEST = (
    "added, the lowest", "added, inverted", "one minus the mask", "one minus the condition", "beside positions",
    "in the place of positions", "the lowest in the place of the lowest", "-inf in the place of the lowest",
    "the lowest in the place of -inf",
)  # fmt: skip
PADDING = PassSpec("raise_composites", {"padding": True})


def hiding(module: Module, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Inputs of which the last row is padding alone."""
    inputs = inputs_of(module, sizes)
    inputs["ids"][-1] = 0
    inputs["real"][-1] = False
    return inputs


@pytest.mark.parametrize("name", CASES)
def test_mask(name: str) -> None:
    body, mask, (causal, type, biased), rule = CASES[name]
    before = program(f"{COUNT} {body}  {ATTEND.format(mask)}")
    after, (report,) = passed(before, PADDING)
    node = attention(after)
    assert (node.attrs["causal"], mask_type(node), node.inputs[4] is not None) == (causal, type, biased)
    assert not rule or rule in report.facts["rules"]
    assert report.contract == ("approximate" if name in LOWEST else "exact")
    for sizes in ({"B": 2, "T": 5}, {"B": 1, "T": 1}):
        agree(before, after, 1e-5, sizes)


@pytest.mark.parametrize("name", CASES)
def test_it_is_exact_by_default(name: str) -> None:
    body, mask, *_ = CASES[name]
    before = program(f"{COUNT} {body}  {ATTEND.format(mask)}")
    after, (report,) = passed(before, RAISE)
    assert report.contract == "exact"
    for sizes in ({"B": 2, "T": 5}, {"B": 1, "T": 1}):
        inputs = hiding(before, sizes)
        (want,), (got,) = (run(m, {}, **inputs).values() for m in (before, after))
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_mask_of_the_lowest_number_is_told() -> None:
    """-inf gives another result than the lowest number only where a query sees no key: then it is said, or left."""
    padded = program(f"{COUNT} {GATHERED} {ATTEND.format(f'bias=where(s <= t and seen, {ZERO}, {LOW})')}")
    after, (report,) = passed(padded, PADDING)
    assert report.contract == "approximate"
    assert any("1 mask(s) of the lowest number hide keys" in note for note in report.notes)
    assert attention(after).attrs["causal"]
    left, (report,) = passed(padded, RAISE)
    assert report.contract == "exact"
    assert not attention(left).attrs["causal"]
    inputs = inputs_of(padded, {"B": 2, "T": 3})
    inputs["ids"][:, 0] = 0  # padding in front, so that the first query sees nothing
    want, got, hidden = (next(iter(run(m, {}, **inputs).values())) for m in (padded, left, after))
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.all(hidden[:, :, 0] == 0)
    assert np.all(want[:, :, 0] != 0)


def test_what_is_hidden_by_infinity_is_a_mask_beside_the_lowest_number() -> None:
    mask = f"bias=where(s <= t, {ZERO}, -inf) + where(seen, {ZERO}, {LOW})"
    before = program(f"{COUNT} {GATHERED} {ATTEND.format(mask)}")
    after, (report,) = passed(before, RAISE)
    node = attention(after)
    assert report.contract == "exact"
    assert node.attrs["causal"]
    assert node.inputs[4] is not None
    assert str(node.inputs[4].type) == "f32[B, 1, 1, T]"
    inputs = hiding(before, {"B": 2, "T": 5})
    (want,), (got,) = (run(m, {}, **inputs).values() for m in (before, after))
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("mask", ["s <= t", "s <= t and s > t - 3", "s < t + 1 and s >= t - 1"])
def test_every_query_sees_its_own_place(mask: str) -> None:
    before = program(f"{COUNT} {ATTEND.format(f'bias=where({mask}, {ZERO}, {LOW})')}")
    after, (report,) = passed(before, RAISE)
    assert report.contract == "exact"
    assert attention(after).attrs["causal"]
    assert attention(after).inputs[4] is None
    agree(before, after, 1e-5, {"B": 2, "T": 6})


@pytest.mark.parametrize(("low", "contract"), [(LOW, "exact"), ("-1e9", "approximate")])
def test_scores_that_a_mask_does_not_swallow_are_told(low: str, contract: str) -> None:
    product = "q @ transpose(k, perm=[0, 1, 3, 2])"
    for scores in (product, f"{product} + bias"):
        for mask, told in (("unsqueeze(real, [1, 2])", contract), ("s <= t", "exact")):
            before = program(f"{COUNT} return softmax(where({mask}, {scores}, {low}), axis=-1) @ v")
            _, (report,) = passed(before, RAISE)
            assert report.facts["recognised"]["attention"] == 1
            assert report.contract == told
