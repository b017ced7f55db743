"""The forms that torch's own decompositions leave, one for each rule of std.recover.decomposed."""

from __future__ import annotations

from .raise_cases import HEADS, SCORES, Case

MEAN = "sum(x, axis=-1, keepdims=true) / 8.0"
WIDE = "h = cast(x, f64)  c = h - sum(h, axis=-1, keepdims=true) / 8.0"
ROWS = "reshape(x, [B * T, 8]) @ transpose(m, perm=[1, 0]) + b"

DECOMPOSED: dict[str, Case] = {
    "layer norm of sums": Case(
        "mean_from_sum layer_normalize_from_mean",
        f"c = x - {MEAN}  return c * rsqrt(sum(c * c, axis=-1, keepdims=true) / 8.0 + 1e-5)", "layer_normalize",
    ),
    "layer norm, variance in double precision": Case(
        "mean_from_sum variance_in_double layer_normalize_bias",
        f"{WIDE}  v = cast(sum(c * c, axis=-1, keepdims=true) / 8.0, f32)"
        f"  return (x - {MEAN}) * rsqrt(v + 1e-5) * w + b", "layer_normalize",
    ),
    "rms norm of sums": Case(
        "mean_from_sum rms_normalize_weight",
        "return w * (x * rsqrt(sum(x * x, axis=-1, keepdims=true) / 8.0 + 1e-5))", "rms_normalize",
    ),
    "affine, a weight for each row": Case(
        "product_of_wide_weight affine_from_transposed affine_bias",
        "return x @ expand(transpose(m, perm=[1, 0]), [B, 8, 8]) + b", "affine",
    ),
    "affine of rows that become heads": Case(
        "affine_of_rows_to_heads",
        f"return transpose(reshape({ROWS}, [B, T, 2, 4]), perm=[0, 2, 1, 3]) @ g[..., :4, :4]", "affine",
        "f32[B, 2, T, 4]",
    ),
    "attention, guarded by its scores": Case(
        "softmax_of_hopeless attention_from_guarded",
        f"s = {SCORES} * 0.3  p = softmax(s, axis=-1)"
        "  return where(all(s == -inf, axis=-1, keepdims=true), expand(constant(0.0, dtype=f32), [B, 4, T, S]), p) @ v",
        "attention", HEADS,
    ),
    "attention of repeated heads as matrices": Case(
        "matrices_of_repeated_values attention_of_groups",
        "a = expand(unsqueeze(g, 2), [B, 2, 2, S, 8])  c = expand(unsqueeze(u, 2), [B, 2, 2, S, 8])"
        "  p = softmax(q @ transpose(reshape(a, [B, 4, S, 8]), perm=[0, 1, 3, 2]), axis=-1)"
        "  return reshape(reshape(p, [B * 4, T, S]) @ reshape(c, [B * 4, S, 8]), [B, 4, T, 8])", "attention", HEADS,
    ),
    "attention of one head without its axis": Case(
        "product_of_one_head attention_from_softmax",
        "a = q[:, :1]  c = k[:, :1]  d = v[:, :1]"
        "  p = softmax(unsqueeze(squeeze(a, 1) @ squeeze(transpose(c, perm=[0, 1, 3, 2]), 1), 1), axis=-1)"
        "  return unsqueeze(squeeze(p, 1) @ squeeze(d, 1), 1)", "attention", "f32[B, 1, T, 8]",
    ),
    "attention of one head to one key": Case(
        "squeeze_of_one_key product_of_one_head",
        "a = q[:, :1]  c = k[:, :1, :1]  d = v[:, :1, :1]"
        "  p = softmax(unsqueeze(squeeze(a, 1) @ squeeze(transpose(c, perm=[0, 1, 3, 2]), 1), 1), axis=-1)"
        "  return unsqueeze(squeeze(p, 1) @ squeeze(d, 2), 1)", "attention", "f32[B, 1, T, 8]",
    ),
    "attention of one query of each row": Case(
        "matrices_of_one_token matrices_of_rows",
        "a = transpose(reshape(x[:, 0], [1, B * 2, 4]), perm=[1, 0, 2])  c = transpose(y, perm=[1, 0, 2])"
        "  p = softmax(a @ transpose(reshape(c, [T, B * 2, 4]), perm=[1, 2, 0]), axis=-1)"
        "  d = p @ transpose(reshape(c, [T, B * 2, 4]), perm=[1, 0, 2])"
        "  return reshape(transpose(d, perm=[1, 0, 2]), [B, 8])", "attention", "f32[B, 8]",
    ),
}  # fmt: skip
