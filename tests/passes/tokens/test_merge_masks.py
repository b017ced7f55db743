"""What merge_tokens makes of masks: causal attention is refused whatever says so, and padding is known in all its forms."""

from __future__ import annotations

import numpy as np
import pytest

from tessera.frontends.source import loads
from tessera.ir.compiling import PassSpec
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module

from ..conftest import passed, run, weights_of

LOW, ZERO = "constant(-3.4028235e+38, dtype=f32)", "constant(0.0, dtype=f32)"


def model(given: str) -> Module:
    """Two blocks whose attention is given a mask or a bias."""
    return loads(
        f"""use std.attention (self_attention)
        model m(x: f32[B, T, 8], real: bool[B, T], ids: i64[B, T], alibi: f32[1, 2, T, T]) -> f32[B, T, 8] {{
            t = unsqueeze(iota(T), [0, 1, 3])  s = unsqueeze(iota(T), [0, 1, 2])  seen = unsqueeze(real, [1, 2])
            later = unsqueeze(iota(64), 0) > unsqueeze(iota(64), 1)
            repeat i in 2 as block {{ x = x + self_attention(x, {given}, heads=2) as attn }}
            return x
        }}"""
    )


@pytest.mark.parametrize(
    "given",
    [
        "s <= t",
        "not (s > t)",
        "s < t",
        "s <= t or s < 3",
        "s <= t and seen",
        "s <= t and (seen or s == 0)",
        "(s <= t and seen) or s <= t - 2",
        "s <= t and s > t - 3",
        "not unsqueeze(later[:T, :T], [0, 1])",
        f"bias=where(s <= t and seen, {ZERO}, {LOW})",
        f"bias=where(s > t, {LOW}, {ZERO})",
        "bias=where(s > t, -inf, alibi)",
        f"bias=where(seen, where(s <= t, {ZERO}, -inf), {LOW})",
        f"bias=alibi + where(s > t, {LOW}, {ZERO})",
        f"bias=where(unsqueeze(later[:T, :T], [0, 1]), {LOW}, {ZERO}) + where(seen, {ZERO}, {LOW})",
        "bias=(1.0 - cast(s <= t, f32)) * -10000.0",
    ],
)
def test_a_mask_that_hides_later_places_is_causal(given: str) -> None:
    with pytest.raises(Diagnostic, match="block 0 attends causally") as caught:
        passed(model(given), PassSpec("merge_tokens", {"r": 2}))
    assert caught.value.code == "E0708"


@pytest.mark.parametrize("given", ["seen", "s <= t + 2 and s >= t - 2", "s >= t", "bias=alibi", "t + s >= 0"])
def test_other_masks_are_not(given: str) -> None:
    _, (report,) = passed(model(given), PassSpec("merge_tokens", {"r": 2, "restore": True}))
    assert report.modified


def test_a_bias_of_distances_that_is_given_merges_and_the_report_says_so() -> None:
    _, (report,) = passed(model("bias=alibi"), PassSpec("merge_tokens", {"r": 2, "restore": True}))
    assert report.modified
    assert [note for note in report.notes if "the input `alibi` is taken for a bias of distances" in note]


@pytest.mark.parametrize("kind", ["bool[B, 1, T, T]", "f32[B, 1, T, T]", "i64[T, T]"])
def test_a_mask_of_pairs_that_is_given_may_be_causal_and_its_blocks_have_to_be_named(kind: str) -> None:
    mask = {"b": "seen", "f": "bias=seen", "i": "unsqueeze(seen != 0, [0, 1])"}[kind[0]]
    module = loads(
        f"""use std.attention (self_attention)
        model m(x: f32[B, T, 8], seen: {kind}) -> f32[B, T, 8] {{
            repeat i in 2 as block {{ x = x + self_attention(x, {mask}, heads=2) as attn }}
            return x
        }}"""
    )
    with pytest.raises(Diagnostic, match="whether block 0 attends causally cannot be told: the input `seen`") as caught:
        passed(module, PassSpec("merge_tokens", {"r": 2}))
    assert caught.value.code == "E0708"
    _, (report,) = passed(module, PassSpec("merge_tokens", {"r": 2, "restore": True, "blocks": (0, 1)}))
    assert report.modified == 2


PADDING = {
    "added": f"bias=where(seen, {ZERO}, {LOW})",
    "added, inverted": f"bias=where(not seen, {LOW}, {ZERO})",
    "added, -inf": f"bias=where(seen, {ZERO}, -inf)",
    "added, one minus": "bias=(1.0 - cast(seen, f32)) * -10000.0",
    "added, of integers": f"bias=(1.0 - cast(unsqueeze(ids, [1, 2]), f32)) * {LOW}",
    "for each query": f"bias=where(seen and t >= 0, {ZERO}, {LOW})",
}


@pytest.mark.parametrize("name", PADDING)
def test_padding_that_is_added_merges_as_a_mask_does(name: str) -> None:
    rng = np.random.default_rng(0)
    real = np.arange(12) < np.array([[12], [7], [4]])
    inputs = {
        "x": rng.standard_normal((3, 12, 8)).astype(np.float32), "real": real, "ids": real.astype(np.int64),
        "alibi": np.zeros((1, 2, 12, 12), np.float32),
    }  # fmt: skip
    results = []
    for given in ("seen", PADDING[name]):
        before = model(given)
        after, (report,) = passed(before, PassSpec("merge_tokens", {"r": 3, "map": True}))
        told = [note for note in report.notes if "of the lowest number hide keys" in note]
        assert len(told) == (given != "seen" and "-inf" not in given)
        results.append(run(after, weights_of(before), **inputs))
    for output, value in results[0].items():
        np.testing.assert_allclose(results[1][output], value, atol=1e-5)


def test_where_nothing_is_merged_masks_stay() -> None:
    before = model(PADDING["added"])
    after, (report,) = passed(before, PassSpec("merge_tokens", {"r": 0}))
    assert report.modified == 0
    assert after == before
