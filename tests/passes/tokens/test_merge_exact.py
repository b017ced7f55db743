"""Merging tokens that are equal changes nothing: every rule that lets a program follow a merge is tested by this.

Each even token equals the odd one behind it, as many merge as there are pairs, and the attention is proportional; then each
program must give what it gave before.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic
from tessera.passes.tokens.merge_tokens import MergeTokens

from ..conftest import passed, run, weights_of

HEADER = """
use std.attention (attention, cross_attention, rope, rope_table, self_attention)
use std.nn (layer_norm, layer_normalize, linear, mlp, softmax)
use std.pooling (max_pool, mean_pool)

"""

BLOCK = "x = x + self_attention(layer_norm(x) as norm1, heads=2) as attn\n"
MLP = "x = x + mlp(layer_norm(x) as norm2, hidden=16) as mlp\n"
# The same for both tokens of a pair, so that nothing is lost when they stand at one place.
PLACES = "pair = iota(12) // 2\n distance = cast(abs(unsqueeze(pair, 1) - unsqueeze(pair, 0)), f32)\n"
BIASED = "x = x + self_attention(x, none, bias, heads=2) as a1\n x = x + self_attention(x, none, bias, heads=2) as a2\n"
AGAIN = "x = x + self_attention(layer_norm(x) as norm3, heads=2) as attn2\n"

# name -> (body, results, options): x is [2, T, 8] in 6 pairs, keep marks the last two pairs of the second row as padding.
PROGRAMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mean": (BLOCK + MLP + AGAIN + "return mean(x, axis=1)", "f32[B, 8]", {}),
    "mean and a feature axis": (BLOCK + "return mean(x, axis=[1, 2], keepdims=true)", "f32[B, 1, 1]", {}),
    "sum": (BLOCK + MLP + AGAIN + "return sum(x, axis=1)", "f32[B, 8]", {}),
    "max": (BLOCK + MLP + AGAIN + "return max(x, axis=1)", "f32[B, 8]", {}),
    "mean_pool": (BLOCK + MLP + AGAIN + "return mean_pool(x)", "f32[B, 8]", {}),
    "max_pool": (BLOCK + MLP + AGAIN + "return max_pool(x)", "f32[B, 8]", {}),
    "attention without scores in sight": (
        BLOCK + 'q = linear(x, out=8) as q\n s = softmax(einsum("b t d, b s d -> b t s", q, x))\n'
        'return mean(einsum("b t s, b s d -> b t d", s, x), axis=1)', "f32[B, 8]", {},
    ),
    "matmul over tokens": (BLOCK + 'return rearrange(x, "b t d -> b d t") @ x', "f32[B, 8, 8]", {}),
    "linear attention": (BLOCK + 'return einsum("b t d, b t e -> b d e", x, exp(x))', "f32[B, 8, 8]", {}),
    "softmax over tokens": (
        BLOCK + "w = softmax(linear(x, out=1) as score, axis=1)\n return sum(w * x, axis=1)", "f32[B, 8]", {},
    ),
    "a query of its own": (
        "param query: f32[1, 1, 8]\n" + BLOCK + MLP
        + "return cross_attention(expand(query, [B, 1, 8]), x, heads=2) as pool", "f32[B, 1, 8]", {},
    ),
    "tokens as context": (
        "param queries: f32[1, 5, 8]\n" + BLOCK + "y = expand(queries, [B, 5, 8])\n"
        "y = y + cross_attention(y, x, heads=2) as cross\n return y", "f32[B, 5, 8]", {},
    ),
    "masked attention of merged tokens": (
        "mask = unsqueeze(keep != 0, [1, 2])\n"
        "x = x + self_attention(x, mask, heads=2) as a1\n x = x + self_attention(x, mask, heads=2) as a2\n"
        "return mean_pool(x, cast(keep, f32))", "f32[B, 8]", {},
    ),
    "mask as booleans": (
        "mask = unsqueeze(keep > 0, [1, 2])\n x = x + self_attention(x, mask, heads=2) as a1\n"
        "return max_pool(x, keep == 1), max(where(unsqueeze(not (keep == 0), 2), x, -9.0), axis=1)",
        "(f32[B, 8], f32[B, 8])", {},
    ),
    "mask spread over features": (
        "mask = unsqueeze(keep != 0, [1, 2])\n x = x + self_attention(x, mask, heads=2) as a1\n"
        "m = expand(unsqueeze(cast(keep, f32), 2), [B, 12, 8])\n"
        "return sum(x * m, axis=1) / sum(m, axis=1)", "f32[B, 8]", {},
    ),
    "a position bias": (
        f"{PLACES} bias = -unsqueeze(distance, [0, 1])\n" + BIASED + "return mean(x, axis=1)", "f32[B, 8]", {},
    ),
    "a position bias for each head, and a mask": (
        f"{PLACES} param table: f32[12, 2]\n table = take(table, cast(distance, i64))\n"
        "bias = unsqueeze(transpose(table, perm=[2, 0, 1]), 0)\n mask = unsqueeze(keep != 0, [1, 2])\n"
        + BIASED.replace("none", "mask") + "return mean_pool(x, cast(keep, f32))", "f32[B, 8]", {},
    ),
    "a position bias with a row for each": (
        f"{PLACES} bias = expand(-unsqueeze(distance, [0, 1]), [B, 1, 12, 12])\n" + BIASED + "return mean(x, axis=1)",
        "f32[B, 8]", {},
    ),
    "a window and a mask": (
        f"{PLACES} mask = unsqueeze(distance <= 1.0, [0, 1]) and unsqueeze(keep != 0, [1, 2])\n"
        + BIASED.replace("none, bias", "mask") + "return mean_pool(x, cast(keep, f32))", "f32[B, 8]", {},
    ),
    "a mask of pairs": (
        "mask = cast(unsqueeze(keep, [1, 2]) * unsqueeze(keep, [1, 3]), bool)\n"
        + BIASED.replace("none, bias", "mask") + "return mean_pool(x, cast(keep, f32))", "f32[B, 8]", {},
    ),
    "a mask of pairs, added": (
        "mask = not cast(unsqueeze(keep, [1, 2]) * unsqueeze(keep, [1, 3]), bool)\n"
        "bias = where(mask, constant(-3.4028235e+38, dtype=f32), constant(0.0, dtype=f32))\n"
        + BIASED + "return mean_pool(x, cast(keep, f32))", "f32[B, 8]", {},
    ),
    "masks without proportional attention": (
        "mask = unsqueeze(keep != 0, [1, 2])\n x = x + self_attention(x, mask, heads=2) as a1\n"
        "return mean_pool(x, cast(keep, f32))", "f32[B, 8]", {"proportional": False},
    ),
    "skip of an earlier stage": (
        "early = x * 2.0\n" + BLOCK + MLP + "x = x + early\n" + AGAIN + "return mean(x * early, axis=1)", "f32[B, 8]", {},
    ),
    "parallel branches": (
        "h = layer_norm(x) as norm\n x = x + self_attention(h, heads=2) as attn + mlp(h, hidden=16) as mlp\n" + AGAIN
        + "return mean(x, axis=1)", "f32[B, 8]", {},
    ),
    "a scale of each layer": (
        "param gamma: f32[8]\n h = layer_norm(x) as norm\n x = x + gamma * (self_attention(h, heads=2) as attn)\n"
        + MLP + "return mean(x, axis=1)", "f32[B, 8]", {},
    ),
    "heads side by side": (
        BLOCK + 'y = reshape(x, [B, 12, 2, 4])\n y = transpose(y, [0, 2, 1, 3])\n'
        "return mean(squeeze(unsqueeze(y, 1), 1), axis=2)", "f32[B, 2, 4]", {},
    ),
    "broadcast to tokens": (
        "param shift: f32[1, 1, 8]\n" + BLOCK
        + "return mean(x + expand(shift, [B, 12, 8]) + full([B, 12, 1], 2.0, dtype=f32), axis=1)", "f32[B, 8]", {},
    ),
    "bias of each key": (
        "q = rearrange(x, \"b t (h k) -> b h t k\", h=2)\n param slope: f32[1, 2, 1, 1]\n"
        "bias = slope * cast(reshape(iota(12) // 2, [1, 1, 1, 12]), f32)\n"
        'x = x + rearrange(attention(q, q, q, bias=bias), "b h t k -> b t (h k)")\n'
        "q = rearrange(x, \"b t (h k) -> b h t k\", h=2)\n"
        'return mean(rearrange(attention(q, q, q, bias=bias), "b h t k -> b t (h k)"), axis=1)', "f32[B, 8]",
        {"blocks": (0,)},
    ),
    "rotary positions": (
        "cosine, sine = rope_table(expand(unsqueeze(iota(12) // 2, 0), [1, 12]), dim=4)\n"
        "repeat i in 2 as blocks {\n q = rearrange(linear(x, out=8) as q, \"b t (h k) -> b h t k\", h=2)\n"
        'x = x + rearrange(attention(rope(q, cosine, sine), rope(q, cosine, sine), q), "b h t k -> b t (h k)") }\n'
        "return mean(x, axis=1)", "f32[B, 8]", {"blocks": (0,)},
    ),
    "statistics": (
        BLOCK + "q = rearrange(x, \"b t (h k) -> b h t k\", h=2)\n"
        "y, lse = attention(q, q, q, log_sum_exp=true)\n return mean(y, axis=2), mean(lse, axis=2)",
        "(f32[B, 2, 4], f32[B, 2])", {},
    ),
    "tokens joined with others": (
        "param other: f32[1, 3, 8]\n" + BLOCK + MLP
        + "y = expand(other, [B, 3, 8])\n x = concat(y, x, y, axis=1)\n" + AGAIN + "return x[:, 2], x[:, -1], mean(x, axis=1)",
        "(f32[B, 8], f32[B, 8], f32[B, 8])", {},
    ),
    "rows behind each other": (
        BLOCK + MLP + 'x = rearrange(x, "(b n) t d -> b (n t) d", b=1)\n' + AGAIN + "return mean(x, axis=1)", "f32[1, 8]", {},
    ),
    "restored for neighbours": (
        "param w: f32[8, 8, 3]\n" + BLOCK + MLP + 'y = conv(rearrange(x, "b t d -> b d t"), w, padding=1)\n'
        "return y, cumsum(x, axis=1), x[:, 5]", "(f32[B, 8, 12], f32[B, 12, 8], f32[B, 8])", {"restore": True},
    ),
    "restored for a bias of contents": (
        'bias = unsqueeze(einsum("b t d, b s d -> b t s", x, x * 0.3), 1)\n' + BLOCK
        + "x = x + self_attention(x, none, bias, heads=2) as a2\n return mean(x, axis=1)", "f32[B, 8]",
        {"restore": True, "blocks": (0,)},
    ),
    "restored for causal attention": (
        BLOCK + "y = self_attention(x, heads=2, causal=true) as later\n return y[:, -1]", "f32[B, 8]",
        {"restore": True, "blocks": (0,)},
    ),
    "restored where it is the result": (BLOCK + MLP + AGAIN + "return x", "f32[B, 12, 8]", {"restore": True}),
}  # fmt: skip


def pairs(rng: np.random.Generator) -> np.ndarray:
    """[2, 12, 8]: six pairs of equal tokens, an even one and the odd one behind it."""
    return np.repeat(rng.standard_normal((2, 6, 8)), 2, axis=1).astype(np.float32)


# How the sizes are known: the batch free, everything fixed (a batch of 1), everything free.
SIZES = {"batch": {}, "fixed": {"B": "1"}, "free": {"12": "T"}}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_equal_tokens_merge_without_a_trace(name: str, sizes: str) -> None:
    body, results, options = PROGRAMS[name]
    text = f"model program(x: f32[B, 12, 8], keep: i64[B, 12]) -> {results} {{\n{body}\n}}"
    for old, new in SIZES[sizes].items():
        text = re.sub(rf"(?<!table: f32\[)\b{old}\b", new, text)
    module = loads(HEADER + text)
    rng = np.random.default_rng(len(name))
    x = pairs(rng)
    keep = np.ones((2, 12), np.int64)
    if "mask" in body:
        # Padding has any content, which must not matter; four of its tokens merge, and two pairs of real ones.
        keep[1, 8:] = 0
        x[1, 8:] = 99.0
    if sizes == "fixed":
        x, keep = x[1:], keep[1:]
    weights = weights_of(module)
    r = 4 if options.get("blocks") is None else 6
    merges = (r,) if options.get("blocks") else (r, 0, 0)[: body.count("self_attention(")]
    merged, (report,) = passed(module, MergeTokens(r=merges, **options))
    assert report.modified == 1
    before, after = run(module, weights, x=x, keep=keep), run(merged, weights, x=x, keep=keep)
    assert before.keys() == after.keys()
    for key, value in before.items():
        np.testing.assert_allclose(after[key], value, rtol=2e-4, atol=2e-5, err_msg=key)


def test_the_pairs_do_merge() -> None:
    """Without proportional attention the same program does change: the test above can fail."""
    module = loads(
        f"{HEADER}model program(x: f32[B, 12, 8]) -> f32[B, 8] {{\n{BLOCK}{MLP}{AGAIN} return mean(x, axis=1)\n}}"
    )
    weights, x = weights_of(module), pairs(np.random.default_rng(0))
    x[:, :2] = x[:, 2:4]
    merged, _ = passed(module, MergeTokens(r=(4, 0), proportional=False))
    before, after = run(module, weights, x=x), run(merged, weights, x=x)
    assert not np.allclose(after["output"], before["output"], rtol=1e-3, atol=1e-3)


def test_a_merged_token_stands_where_the_token_is_that_the_others_went_into() -> None:
    body = BLOCK + "x = x + self_attention(x, none, bias, heads=2) as a2\n return mean(x, axis=1)"
    module = loads(f"{HEADER}model program(x: f32[B, 12, 8], bias: f32[1, 2, 12, 12]) -> f32[B, 8] {{\n{body}\n}}")
    weights, rng = weights_of(module), np.random.default_rng(0)
    x, bias = pairs(rng), rng.standard_normal((1, 2, 12, 12)).astype(np.float32)
    merged, _ = passed(module, MergeTokens(r=(6, 0)))
    odd = np.arange(12) // 2 * 2 + 1
    want = run(module, weights, x=x, bias=bias[:, :, odd][..., odd])["output"]
    np.testing.assert_allclose(run(merged, weights, x=x, bias=bias)["output"], want, rtol=2e-4, atol=2e-5)


def test_the_tokens_of_an_only_row_are_restored_without_its_axis() -> None:
    body = BLOCK + "return x, cumsum(squeeze(x, axis=[0]), axis=0)"
    module = loads(f"{HEADER}model program(x: f32[1, 12, 8]) -> (f32[1, 12, 8], f32[12, 8]) {{\n{body}\n}}")
    merged, _ = passed(module, MergeTokens(r=4, restore=True))
    found = run(merged, weights_of(module), x=pairs(np.random.default_rng(0))[:1])
    np.testing.assert_allclose(found["output1"], np.cumsum(found["output0"][0], axis=0), rtol=1e-5, atol=1e-5)


REFUSED = {
    "a bias of contents": (
        'bias = unsqueeze(einsum("b t d, b s d -> b t s", x, x), 1)\n x = x + self_attention(x, none, bias, heads=2) as a1\n'
        "return self_attention(x, none, bias, heads=2) as a2", "compares tokens as they were before the merge",
    ),
    "a token by place": (BLOCK + "return x[:, 3]", "this takes tokens number 3 by place"),
    "all but a token": (BLOCK + "return x[:, 1:]", "this takes tokens [1:] by place, but no token keeps its place"),
    "the last token": (BLOCK + "return x[:, -1]", "this takes tokens [-1:] by place"),
    "a convolution": (
        'param w: f32[8, 8, 3]\n' + BLOCK + 'return conv(rearrange(x, "b t d -> b d t"), w)',
        "`conv` depends on the places of the tokens",
    ),
    "a running sum": (BLOCK + "return cumsum(x, axis=1)", "`cumsum` depends on the places"),
    "tokens as features": (BLOCK + 'return rearrange(x, "b t d -> b (t d)")', "`rearrange` depends on the places"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_belongs_to_places_is_refused(name: str) -> None:
    body, message = REFUSED[name]
    shape = {"a running sum": "[B, 12, 8]", "a bias of contents": "[B, 12, 8]",
             "a convolution": "[B, 8, 10]", "all but a token": "[B, 11, 8]", "tokens as features": "[B, 96]"}  # fmt: skip
    text = f"{HEADER}model program(x: f32[B, 12, 8]) -> f32{shape.get(name, '[B, 8]')} {{\n{body}\n}}"
    module = loads(text)
    with pytest.raises(Diagnostic) as caught:
        passed(module, MergeTokens(r=(2,), protect=0))
    error = caught.value
    assert error.code == "E0710"
    assert message in error.message
    assert error.span is not None
    assert error.help is not None
    assert any("merged behind this attention" in note.message for note in error.notes)


def test_places_made_inside_a_composite_follow_the_tokens() -> None:
    """An op that counts tokens itself is opened, so that `iota` can be carried by position."""
    text = (
        HEADER
        + """
    op slot(x: float[B, T, D]) -> float[B, T, D] { return x * unsqueeze(cast(iota(T) // 2, x.dtype), [0, 2]) }
    model program(x: f32[B, 12, 8]) -> f32[B, 8] {
        x = x + self_attention(x, heads=2) as attn
        return mean(slot(x), axis=1)
    }"""
    )
    module = loads(text)
    weights, x = weights_of(module), pairs(np.random.default_rng(3))
    merged, _ = passed(module, MergeTokens(r=(5,)))
    before, after = run(module, weights, x=x), run(merged, weights, x=x)
    np.testing.assert_allclose(after["output"], before["output"], rtol=1e-4, atol=1e-5)
