"""Programs in primitives, one for each form that exporters write: (the rules that must fire, the body, what must come out)."""

from __future__ import annotations

from typing import NamedTuple

# What a body may use: x, y, z [B, T, 8]; q, k, v [B, 4, T, 8] and [B, T, 4, 8]; keys of two heads; masks and biases.
HEADER = """
model program(
    x: f32[B, T, 8], y: f32[B, T, 8], w: f32[8], b: f32[8], m: f32[8, 8], q: f32[B, 4, T, 8], k: f32[B, 4, S, 8],
    v: f32[B, 4, S, 8], g: f32[B, 2, S, 8], u: f32[B, 2, S, 8], kt: f32[B, S, 4, 8], qt: f32[B, T, 4, 8],
    bias: f32[B, 1, T, S], heads: f32[4, T, S], places: f32[T, S], mask: bool[B, 1, 1, S], pair: bool[T, S],
    angle: f32[1, T, 4], flat: f32[T, 4], ids: i64[B, S],
) -> """

TOKENS, HEADS = "f32[B, T, 8]", "f32[B, 4, T, 8]"


class Case(NamedTuple):
    """``rules`` fire; ``composites`` are in the result, as often as they are listed."""

    rules: str
    body: str
    composites: str
    type: str = TOKENS
    tolerance: float = 2e-5


NORM = "mean(x, axis=-1, keepdims=true)"
SOFTMAX = "exp(x - max(x, axis=-1, keepdims=true))"
SCORES = "q @ transpose(k, perm=[0, 1, 3, 2])"
GUARD = "where(max(s, axis=-1, keepdims=true) == -inf, 0.0, max(s, axis=-1, keepdims=true))"
HALVES = "concat(-q[..., 4:], q[..., :4], axis=-1)"
TWICE = "a = concat(angle, angle, axis=-1)"
FLAT = "a = concat(flat, flat, axis=-1)"
MATRICES = "a = reshape(q, [B * 4, T, 8])  c = reshape(k, [B * 4, S, 8])  d = reshape(v, [B * 4, S, 8])"


def attend(scores: str, *rules: str, values: str = "v", tolerance: float = 2e-5) -> Case:
    """Scores under a softmax, times values."""
    names = " ".join(("attention_from_softmax", *rules))
    return Case(names, f"return softmax({scores}, axis=-1) @ {values}", "attention", HEADS, tolerance)


def norm(rules: str, body: str, composites: str = "layer_normalize") -> Case:
    return Case(rules, f"c = x - {NORM}  {body}", composites)


CASES: dict[str, Case] = {
    # Activations
    "relu": Case("relu_from_maximum", "return maximum(x, 0.0)", "relu"),
    "gelu": Case("gelu_half_first", "return 0.5 * x * (1.0 + erf(x * 0.7071067811865476))", "gelu"),
    "gelu f32": Case("gelu_half_first", "return (erf(x * 0.70710677) + 1.0) * (x * 0.5)", "gelu"),
    "gelu last": Case("gelu_half_last", "return 0.5 * (x * (1.0 + erf(x * 0.7071067811865476)))", "gelu"),
    "gelu inside": Case("gelu_half_inside", "return x * (0.5 * (1.0 + erf(x * 0.7071067811865476)))", "gelu"),
    "gelu div": Case("gelu_half_first_divided", "return x * 0.5 * (erf(x / 1.4142135381698608) + 1.0)", "gelu"),
    "gelu div last": Case("gelu_half_last_divided", "return x * (1.0 + erf(x / 1.4142135)) * 0.5", "gelu"),
    "gelu div inside": Case("gelu_half_inside_divided", "return x * (0.5 * (erf(x / 1.4142135) + 1.0))", "gelu"),
    "tanh": Case(
        "tanh_argument_pow gelu_tanh_half_first",
        "return 0.5 * x * (1.0 + tanh(0.7978845608 * (x + 0.044715 * pow(x, 3.0))))", "gelu_tanh",
    ),
    "tanh in turn": Case(
        "tanh_argument_in_turn gelu_tanh_half_last",
        "return x * (1.0 + tanh(0.7978845608 * (x + 0.044715 * x * x * x))) * 0.5", "gelu_tanh",
    ),
    "tanh cube": Case(
        "tanh_argument_cube gelu_tanh_half_inside",
        "return x * (0.5 * (tanh((x + x * x * x * 0.044715) * 0.7978845608) + 1.0))", "gelu_tanh",
    ),
    "tanh factored": Case(
        "tanh_argument_factored gelu_tanh_half_first",
        "return 0.5 * x * (1.0 + tanh(x * 0.7978845608 * (1.0 + 0.044715 * (x * x))))", "gelu_tanh",
    ),
    "tanh factored in turn": Case(
        "tanh_argument_factored_in_turn gelu_tanh_half_first",
        "return 0.5 * x * (1.0 + tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))", "gelu_tanh",
    ),
    "quick": Case("quick_gelu_from_sigmoid", "return x * sigmoid(x * 1.702)", "quick_gelu"),
    "silu": Case("silu_from_sigmoid", "return sigmoid(x) * x", "silu"),
    "silu exp": Case("silu_from_exp", "return x / (1.0 + exp(-x))", "silu"),
    "sigmoid exp": Case("sigmoid_from_exp silu_from_sigmoid", "return x * (1.0 / (exp(-x) + 1.0))", "silu"),
    "swiglu": Case("swiglu_from_silu", "return y * (x * sigmoid(x))", "swiglu"),
    "softplus": Case("softplus_from_log", "return log(exp(-abs(x)) + 1.0) + maximum(x, 0.0)", "softplus"),
    # Softmax
    "softmax": Case("softmax_from_exp", f"return {SOFTMAX} / sum({SOFTMAX}, axis=-1, keepdims=true)", "softmax"),
    "softmax reciprocal": Case(
        "softmax_from_reciprocal", f"return {SOFTMAX} * (1.0 / sum({SOFTMAX}, axis=-1, keepdims=true))", "softmax"
    ),
    "softmax half": Case(
        "softmax_of_half", "return cast(cast(softmax(cast(cast(x, f16), f32), axis=1), f16), f32)", "softmax", tolerance=2e-3
    ),
    "softmax last": Case("softmax_last", "return softmax(x, axis=2)", "softmax"),
    "log softmax": Case(
        "log_softmax_from_log",
        "c = x - max(x, axis=-1, keepdims=true)  return c - log(sum(exp(c), axis=-1, keepdims=true))", "log_softmax",
    ),
    # Norms
    "layer norm": norm(
        "layer_normalize_from_mean layer_normalize_weight layer_normalize_bias",
        "return c * rsqrt(mean(c * c, axis=-1, keepdims=true) + 1e-5) * w + b",
    ),
    "layer norm, pow and sqrt": norm(
        "square_from_pow divided_by_sqrt layer_normalize_from_mean layer_normalize_weight layer_normalize_bias",
        "return b + w * (c / sqrt(mean(pow(c, 2.0), axis=2, keepdims=true) + 1e-5))",
    ),
    "layer norm, pow 0.5": norm(
        "sqrt_from_pow divided_by_sqrt layer_normalize_from_mean",
        "return c / pow(mean(c * c, axis=2, keepdims=true) + 1e-5, 0.5)",
    ),
    "layer norm, pow -0.5": norm(
        "rsqrt_from_pow layer_normalize_from_mean", "return c * pow(mean(c * c, axis=2, keepdims=true) + 1e-5, -0.5)"
    ),
    "layer norm, folded": norm(
        "layer_normalize_folded",
        f"r = rsqrt(mean(c * c, axis=-1, keepdims=true) + 1e-3) * w  return x * r + (b - {NORM} * r)",
    ),
    "layer norm, half": Case(
        "layer_normalize_from_mean layer_normalize_of_half",
        "h = cast(x, f16)  x = cast(h, f32)"
        f"  c = x - {NORM}  return cast(cast(c * rsqrt(mean(c * c, axis=-1, keepdims=true) + 1e-5), f16), f32) * w",
        "layer_normalize", tolerance=5e-3,
    ),
    "rms norm": Case(
        "rms_normalize_from_mean rms_normalize_weight",
        "return w * (x * rsqrt(mean(x * x, axis=-1, keepdims=true) + 1e-6))", "rms_normalize",
    ),
    "rms norm, reciprocal": Case(
        "square_from_pow rsqrt_from_sqrt rms_normalize_from_mean rms_normalize_weight",
        "return x * (1.0 / sqrt(mean(pow(x, 2.0), axis=-1, keepdims=true) + 1e-6)) * (1.0 + w)", "rms_normalize",
    ),
    "rms norm, half": Case(
        "rms_normalize_of_half",
        "h = cast(cast(x, f16), f32)  return cast(cast(h * rsqrt(mean(h * h, axis=-1, keepdims=true) + 1e-6), f16), f32)",
        "rms_normalize", tolerance=5e-3,
    ),
    # Affine maps
    "affine": Case("affine_from_transposed affine_bias", "return x @ transpose(m, perm=[1, 0]) + b", "affine"),
    "affine, not transposed": Case("affine_from_product", "return b + x @ m", "affine"),
    "affine of rows": Case(
        "affine_from_product affine_of_rows", "return reshape(reshape(x, [B * T, 8]) @ m + b, [B, T, 8])", "affine"
    ),
    "affine of heads": Case(
        "affine_from_transposed affine_of_heads",
        "param p: f32[6, 32] return reshape(reshape(qt, [B * T, 32]) @ transpose(p, perm=[1, 0]), [B, T, 6])", "affine",
        "f32[B, T, 6]", 1e-4,
    ),
    # Attention
    "attention": attend(SCORES, "scores_from_transposed"),
    "attention, split keys": attend("q @ transpose(kt, perm=[0, 2, 3, 1]) * 0.5", "scores_from_split_keys scores_times"),
    "attention, scaled keys": attend("q @ (transpose(k, perm=[0, 1, 3, 2]) * 0.5)", "scores_from_scaled_transposed"),
    "attention, scaled split keys": attend("q @ (transpose(kt, perm=[0, 2, 3, 1]) * 0.5)", "scores_from_scaled_split_keys"),
    "attention, both scaled": attend(
        "(q * 0.6) @ transpose(k * 0.6, perm=[0, 1, 3, 2])", "scores_of_scaled_query scores_of_scaled_key"
    ),
    "attention, both divided": attend(
        "(q / 1.7) @ transpose(k / 1.7, perm=[0, 1, 3, 2])", "scores_of_divided_query scores_of_divided_key"
    ),
    "attention, scaled by head": attend(f"({SCORES}) * heads[:, :1, :1]", "scores_times_heads"),
    "attention, divided": attend(f"({SCORES}) / 2.8", "scores_divided"),
    "attention, scaled before the heads": attend(
        "transpose(reshape(reshape(qt, [B, T, 32]) * 0.4, [B, T, 4, 8]), perm=[0, 2, 1, 3]) @ transpose(k, perm=[0, 1, 3, 2])",
        "scale_behind_heads scores_of_scaled_query",
    ),
    "attention, scaled before the transpose": attend(
        "transpose(qt * 0.4, perm=[0, 2, 1, 3]) @ transpose(k, perm=[0, 1, 3, 2])",
        "scale_behind_transpose scores_of_scaled_query",
    ),
    "attention, matrices transposed": attend(
        "q @ reshape(transpose(reshape(k, [B * 4, S, 8]), perm=[0, 2, 1]), [B, 4, 8, S])", "transpose_of_matrices"
    ),
    "attention, other matrices transposed": attend(
        "q @ reshape(transpose(reshape(k, [B * 4, S, 8]) * 0.5, perm=[0, 2, 1]), [B, 4, 8, S])", "heads_of_transposed_matrices"
    ),
    "attention, bounded from below": attend(
        f"maximum({SCORES} + bias, constant(-3.4028235e+38, dtype=f32))", "scores_bounded_by_lowest"
    ),
    "attention, a softmax of rows": Case(
        "softmax_between_reshapes attention_from_softmax",
        f"return reshape(softmax(reshape(({SCORES}) * 0.4, [B * 4 * T, S]), axis=-1), [B, 4, T, S]) @ v", "attention", HEADS,
    ),
    "attention, times a mask": attend(
        f"({SCORES}) * cast(mask, f32) + (1.0 - cast(mask, f32)) * -10000.0", "scores_times_mask"
    ),
    "attention, times a mask, less": attend(
        f"({SCORES}) * cast(mask, f32) - 1e9 * (1.0 - cast(mask, f32))", "scores_times_mask_less"
    ),
    "attention, a mask less one": attend(f"({SCORES}) + (cast(mask, f32) - 1.0) * 1e9", "scores_bias"),
    "attention, what is hidden times the lowest": attend(
        f"({SCORES}) + cast(not mask, f32) * -3.4028235e+38", "scores_bias"
    ),
    "attention, times a mask that was a number before it was moved": Case(
        "scores_times_mask attention_from_softmax",
        "n = unsqueeze(cast(pair, f32), [0, 1])"
        f"  return softmax(({SCORES}) * n + (1.0 - n) * -10000.0, axis=-1) @ v", "attention", HEADS,
    ),
    "attention, zeroed where hidden": Case(
        "softmax_zeroed attention_from_guarded",
        "n = not mask  b = where(not n, bias, constant(-3.4028235e+38, dtype=f32))"
        f"  return where(n, 0.0, softmax({SCORES} + b, axis=-1)) @ v",
        "attention", HEADS,
    ),
    "attention, repeated matrices transposed": attend(
        "q @ reshape(transpose(reshape(expand(unsqueeze(g, 2), [B, 2, 2, S, 8]), [B * 4, S, 8]), perm=[0, 2, 1]), [B, 4, 8, S])",
        "transpose_of_repeated_matrices",
    ),
    "attention, rounded scale": attend(f"({SCORES}) * 0.3535533845424652", "attention_of_usual_scale"),
    "attention, einsum": Case(
        "scores_from_einsum attention_from_einsum",
        's = softmax(einsum("a b t x, a b s x -> a b t s", q, k) * 0.5)'
        '  return einsum("b h t s, b h s v -> b h t v", s, v)', "attention", HEADS,
    ),
    "attention, bias": attend(f"bias + ({SCORES}) * 0.4", "scores_bias"),
    "attention, bias of heads": attend(f"({SCORES}) * 0.4 + heads", "scores_bias_of_heads"),
    "attention, bias of places": attend(f"({SCORES}) * 0.4 + places", "scores_bias_of_places"),
    "attention, two biases": attend(f"({SCORES}) * 0.4 + heads + bias", "scores_bias_again"),
    "attention, mask": attend(f"where(mask, ({SCORES}) * 0.4 + bias, -inf)", "scores_bias scores_masked"),
    "attention, two masks": attend(
        f"where(pair, where(mask, {SCORES}, -inf), -inf)", "scores_masked scores_masked_by_places scores_masked_again"
    ),
    "attention, mask inverted": attend(f"where(not mask, -inf, {SCORES})", "scores_masked_out"),
    "attention, lowest": attend(f"where(mask, {SCORES}, -3.4028234663852886e38)", "scores_masked_by_lowest"),
    "attention, lowest inverted": attend(f"where(not mask, -1e9, {SCORES})", "scores_masked_out scores_masked_by_lowest"),
    "attention, lowest in the place of a bias": attend(
        f"where(mask, {SCORES} + bias, -3.4028234663852886e38)", "scores_biased_masked_by_lowest"
    ),
    "attention, lowest in the place of -inf": attend(
        f"where(mask, where(pair, {SCORES}, -inf), -3.4028234663852886e38)", "scores_masked_again_by_lowest"
    ),
    "attention, capped": attend(f"tanh(({SCORES}) * 0.4 / 5.0) * 5.0", "scores_capped"),
    "attention, guarded by hand": Case(
        "softmax_guarded attention_from_guarded",
        f"s = where(mask, {SCORES}, -inf)  e = exp(s - {GUARD})  t = sum(e, axis=-1, keepdims=true)"
        "  return (e / where(t == 0.0, 1.0, t)) @ v",
        "attention", HEADS,
    ),
    "attention, guarded": Case(
        "attention_from_guarded",
        f"p = softmax({SCORES} + bias, axis=-1)  return where(is_nan(p), 0.0, p) @ v", "attention", HEADS,
    ),
    "attention, guarded, einsum": Case(
        "attention_from_guarded_einsum",
        f'p = softmax({SCORES}, axis=-1)  return einsum("b h t s, b h s v -> b h t v", where(is_nan(p), 0.0, p), v)',
        "attention", HEADS,
    ),
    "attention of groups": attend(
        "q @ transpose(reshape(expand(unsqueeze(g, 2), [B, 2, 2, S, 8]), [B, 4, S, 8]), perm=[0, 1, 3, 2]) + bias",
        "attention_of_groups", values="reshape(expand(unsqueeze(u, 2), [B, 2, 2, S, 8]), [B, 4, S, 8])",
    ),
    "attention of one group": attend(
        "q @ transpose(expand(g[:, :1], [B, 4, S, 8]), perm=[0, 1, 3, 2])", "attention_of_one_group",
        values="expand(u[:, :1], [B, 4, S, 8])",
    ),
    "attention of matrices": Case(
        "matrices_of_keys reshape_of_reshape reshape_to_itself matrices_of_softmax matrices_of_values attention_from_softmax",
        f"{MATRICES}  s = reshape(reshape(a @ transpose(c, perm=[0, 2, 1]), [B, 4, T, S]) + bias, [B * 4, T, S])"
        "  return reshape(softmax(s, axis=-1) @ d, [B, 4, T, 8])",
        "attention", HEADS,
    ),
    "attention of matrices, biased": Case(
        "scores_of_matrices_times scores_of_matrices_bias attention_from_softmax",
        f"s = reshape({SCORES}, [B * 4, T, S])  c = -reshape(expand(heads, [B, 4, T, S]), [B * 4, T, S])"
        "  return softmax(reshape(s * 0.3 + c, [B, 4, T, S]) + bias, axis=-1) @ v", "attention", HEADS,
    ),
    "attention of divided matrices": Case(
        "matrices_of_divided_keys scores_from_scaled_transposed attention_from_softmax",
        f"{MATRICES}  return reshape(softmax(a @ (transpose(c, perm=[0, 2, 1]) / 2.0), axis=-1) @ d, [B, 4, T, 8])",
        "attention", HEADS,
    ),
    "attention of matrices, keys scaled": Case(
        "matrices_of_scaled_keys scores_from_scaled_transposed attention_from_softmax",
        f"{MATRICES}  return reshape(softmax(a @ (transpose(c, perm=[0, 2, 1]) * 0.4), axis=-1) @ d, [B, 4, T, 8])",
        "attention", HEADS,
    ),
    "attention of scaled matrices": Case(
        "matrices_of_keys_scaled attention_from_softmax",
        f"{MATRICES}  return reshape(softmax((a * 0.3) @ transpose(c, perm=[0, 2, 1]), axis=-1) @ d, [B, 4, T, 8])",
        "attention", HEADS,
    ),
    "attention of rows": Case(
        "matrices_of_rows matrices_of_rows_transposed matrices_of_keys matrices_of_values rows_of_matrices",
        "a = transpose(x, perm=[1, 0, 2])  c = transpose(y, perm=[1, 0, 2])"
        "  s = transpose(reshape(a, [T, B * 2, 4]), perm=[1, 0, 2]) @ transpose(reshape(c, [T, B * 2, 4]), perm=[1, 2, 0])"
        "  d = softmax(s, axis=-1) @ transpose(reshape(c, [T, B * 2, 4]), perm=[1, 0, 2])"
        "  return transpose(reshape(transpose(d, perm=[1, 0, 2]), [T, B, 8]), perm=[1, 0, 2])", "attention",
    ),
    "attention of parts": Case(
        "matrices_of_part",
        "a = transpose(x, perm=[1, 0, 2])  c = unsqueeze(transpose(y, perm=[1, 0, 2]), 0)"
        "  s = transpose(reshape(a, [T, B * 2, 4]), perm=[1, 0, 2]) @ transpose(reshape(c, [T, B * 2, 4]), perm=[1, 2, 0])"
        "  d = softmax(s, axis=-1) @ transpose(reshape(c, [T, B * 2, 4]), perm=[1, 0, 2])"
        "  return transpose(reshape(transpose(d, perm=[1, 0, 2]), [T, B, 8]), perm=[1, 0, 2])", "attention",
    ),
    "one head": Case(
        "attention_of_one_head", "return softmax(x @ transpose(y, perm=[0, 2, 1]), axis=-1) @ y", "attention"
    ),
    "one head, scaled": Case(
        "attention_of_one_head_scaled", "return softmax(x @ transpose(y, perm=[0, 2, 1]) * 0.3, axis=-1) @ y", "attention"
    ),
    # Rotary positions
    "rope": Case(
        "rotate_half_from_concat cos_of_twice sin_of_twice rope_from_halves",
        f"{TWICE}  return q * unsqueeze(cos(a), 1) + {HALVES} * unsqueeze(sin(a), 1)", "rope", HEADS,
    ),
    "rope, scaled tables": Case(
        "twice_scaled rope_from_halves",
        f"{TWICE}  return q * unsqueeze(cos(a) * 1.5, 1) + {HALVES} * unsqueeze(sin(a) * 1.5, 1)", "rope", HEADS,
    ),
    "rope, cast tables": Case(
        "twice_cast rope_from_halves",
        "a = cast(concat(cast(angle, f64), cast(angle, f64), axis=-1), f32)"
        f"  return q * unsqueeze(cos(a), 1) + {HALVES} * unsqueeze(sin(a), 1)", "rope", HEADS,
    ),
    "rope, no rows": Case(
        "rope_from_places",
        f"{FLAT}  return q * unsqueeze(cos(a), [0, 1]) + {HALVES} * unsqueeze(sin(a), [0, 1])", "rope", HEADS,
    ),
    "rope of a part": Case(
        "rope_of_first",
        "a = concat(angle[..., :2], angle[..., :2], axis=-1)  p = q[..., :4]"
        "  r = p * unsqueeze(cos(a), 1) + concat(-p[..., 2:], p[..., :2], axis=-1) * unsqueeze(sin(a), 1)"
        "  return concat(r, q[..., 4:], axis=-1)", "rope", HEADS,
    ),
    "rope by parts": Case(
        "rope_from_parts",
        "c = unsqueeze(cos(angle), 1)  s = unsqueeze(sin(angle), 1)  f = q[..., :4]  h = q[..., 4:]"
        "  return concat(f * c - h * s, h * c + f * s, q[..., 8:], axis=-1)", "rope", HEADS,
    ),
    "rope of pairs": Case(
        "rope_from_pairs",
        "c = reshape(expand(unsqueeze(cos(angle), 3), [1, T, 4, 2]), [1, T, 8])"
        "  s = reshape(expand(unsqueeze(sin(angle), 3), [1, T, 4, 2]), [1, T, 8])"
        "  r = reshape(concat(unsqueeze(-q[..., 1::2], -1), unsqueeze(q[..., ::2], -1), axis=-1), [B, 4, T, 8])"
        "  return q * unsqueeze(c, 1) + r * unsqueeze(s, 1)", "rope", HEADS,
    ),
    "rope of pairs of angles": Case(
        "cos_of_pairs sin_of_pairs rope_from_pairs",
        "a = reshape(expand(unsqueeze(angle, 3), [1, T, 4, 2]), [1, T, 8])"
        "  r = reshape(concat(unsqueeze(-q[..., 1::2], -1), unsqueeze(q[..., ::2], -1), axis=-1), [B, 4, T, 8])"
        "  return q * unsqueeze(cos(a), 1) + r * unsqueeze(sin(a), 1)", "rope", HEADS,
    ),
    "rope of pairs of tokens": Case(
        "rope_from_pairs_of_tokens",
        "c = reshape(expand(unsqueeze(unsqueeze(cos(angle), 2), 4), [1, T, 1, 4, 2]), [1, T, 1, 8])"
        "  s = reshape(expand(unsqueeze(unsqueeze(sin(angle), 2), 4), [1, T, 1, 4, 2]), [1, T, 1, 8])"
        "  r = reshape(concat(unsqueeze(-qt[..., 1::2], -1), unsqueeze(qt[..., ::2], -1), axis=-1), [B, T, 4, 8])"
        "  return transpose(qt * c + r * s, perm=[0, 2, 1, 3])", "rope", HEADS,
    ),
    "rope of pairs by parts": Case(
        "rope_from_pair_parts",
        'p = rearrange(q, "b h t (p two) -> b h t p two", two=2)  f = p[..., 0]  h = p[..., 1]'
        "  c = unsqueeze(cos(angle), 1)  s = unsqueeze(sin(angle), 1)"
        "  r = concat(unsqueeze(f * c - h * s, -1), unsqueeze(h * c + f * s, -1), axis=-1)"
        '  return concat(rearrange(r, "b h t p two -> b h t (p two)"), q[..., 8:], axis=-1)', "rope", HEADS,
    ),
}  # fmt: skip
