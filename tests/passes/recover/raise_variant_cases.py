"""Attention in other layouts, one form or more for each rule of std.recover.variants; and rotary positions by halves."""

from __future__ import annotations

from .raise_cases import HEADS, SCORES, Case

CONV = "stride=[1], padding=[0], dilation=[1]"
CHANNELS = "c = transpose(x, perm=[0, 2, 1])  d = transpose(y, perm=[0, 2, 1])"
WINDOWS = "i = reshape(q, [B, 2, 2, T, 8])  j = reshape(k, [B, 2, 2, S, 8])  e = reshape(v, [B, 2, 2, S, 8])"
SINKS = f"s = concat(({SCORES}) * 0.4 + bias, expand(heads[:, :1, :1], [B, 4, T, 1]), axis=3)"

VARIANTS: dict[str, Case] = {
    "one key head": Case(
        "scores_of_one_key softmax_of_one_value",
        "return softmax(q @ transpose(g[:, :1], perm=[0, 1, 3, 2]), axis=-1) @ u[:, :1]", "attention", HEADS,
    ),
    "one scaled key head, guarded": Case(
        "scores_of_one_scaled_key softmax_guarded_of_one_value",
        "p = softmax(q @ (transpose(g[:, :1], perm=[0, 1, 3, 2]) * 0.3) + bias, axis=-1)"
        "  return where(is_nan(p), 0.0, p) @ u[:, :1]", "attention", HEADS,
    ),
    "convolutions of single tokens": Case(
        "affine_from_convolution channels_with_bias affine_bias channels_of_gelu channels_of_sum channels_there_and_back",
        f"{CHANNELS}  h = gelu(conv(c, unsqueeze(m, 2), {CONV}) + unsqueeze(b, 1))  return transpose(h + c, perm=[0, 2, 1])",
        "affine gelu",
    ),
    "channels first": Case(
        "affine_from_grouped_convolution channels_of_heads heads_of_channels channels_from_heads attention_from_softmax",
        f"{CHANNELS}  n = unsqueeze(m[:, :4], 2)  f = reshape(conv(c, n, {CONV}, groups=2), [B, 2, 4, T])"
        "  i = transpose(f, perm=[0, 1, 3, 2])  p = softmax((i @ reshape(d, [B, 2, 4, T])) * 0.4, axis=-1)"
        "  return transpose(reshape(transpose(p @ i, perm=[0, 1, 3, 2]), [B, 8, T]), perm=[0, 2, 1])", "attention",
    ),
    "values in front of their weights": Case(
        "values_before_weights attention_of_channels",
        f"p = softmax({SCORES} * 0.4, axis=-1)  e = transpose(v, perm=[0, 1, 3, 2])"
        "  return transpose(e @ transpose(p, perm=[0, 1, 3, 2]), perm=[0, 1, 3, 2])", "attention", HEADS,
    ),
    "channels first, of channels": Case(
        "scores_of_channels attention_of_channels",
        "c = abs(reshape(q, [B, 32, T]))  d = abs(reshape(k, [B, 32, S]))"
        "  s = transpose(reshape(c, [B, 4, 8, T]), perm=[0, 1, 3, 2]) @ reshape(d, [B, 4, 8, S])"
        "  return softmax(s * 0.3, axis=-1) @ transpose(reshape(v, [B, 4, 8, S]), perm=[0, 1, 3, 2])", "attention", HEADS,
    ),
    "windows": Case(
        "scores_of_windows windows_times windows_of_softmax values_of_windows attention_from_softmax",
        f"{WINDOWS}  return reshape(softmax((i @ transpose(j, perm=[0, 1, 2, 4, 3])) * 0.4, axis=-1) @ e, [B, 4, T, 8])",
        "attention", HEADS,
    ),
    "windows, queries scaled": Case(
        "scores_of_scaled_windows values_of_windows",
        f"{WINDOWS}  return reshape(softmax((abs(i) * 0.4) @ transpose(j, perm=[0, 1, 2, 4, 3]), axis=-1) @ e, [B, 4, T, 8])",
        "attention", HEADS,
    ),
    "sinks": Case(
        "softmax_of_moved attention_with_sinks",
        f"{SINKS}  return softmax(s - max(s, axis=-1, keepdims=true), axis=-1)[..., :-1] @ v", "attention", HEADS,
    ),
    "scores of positions": Case(
        "gather_of_matrices transpose_of_gathered matrices_divided sum_of_matrices scores_bias attention_from_softmax",
        "i = expand(unsqueeze(abs(unsqueeze(iota(S), 0) - unsqueeze(iota(T), 1)), 0) % 8, [B * 4, T, S])"
        "  j = expand(unsqueeze(abs(unsqueeze(iota(T), 0) - unsqueeze(iota(S), 1)), 0) % 8, [B * 4, S, T])"
        "  c = gather(reshape(q * 0.5, [B * 4, T, 8]), i, axis=2) / 2.0"
        "  d = transpose(gather(reshape(k * 0.5, [B * 4, S, 8]), j, axis=2), perm=[0, 2, 1]) / 2.0"
        f"  return softmax({SCORES} * 0.4 + reshape(c + d, [B, 4, T, S]), axis=-1) @ v", "attention", HEADS,
    ),
    "rope by halves": Case(
        "rope_from_halves_apart",
        "c = unsqueeze(cos(angle), 1)  s = unsqueeze(sin(angle), 1)  f = q[..., :4]  h = q[..., 4:]"
        "  return concat(f * c - h * s, h * c + f * s, axis=-1)", "rope", HEADS,
    ),
    "rope by pairs": Case(
        "rope_from_pairs_apart rope_of_first",
        "c = unsqueeze(cos(angle[..., :3]), 1)  s = unsqueeze(sin(angle[..., :3]), 1)"
        "  p = reshape(q[..., :6], [B, 4, T, 3, 2])  f = p[..., 0]  h = p[..., 1]"
        "  r = concat(unsqueeze(f * c - h * s, -1), unsqueeze(h * c + f * s, -1), axis=-1)"
        "  return concat(reshape(r, [B, 4, T, 6]), q[..., 6:], axis=-1)", "rope", HEADS,
    ),
}  # fmt: skip
