"""The programs of this folder in NumPy: token by token, as the papers say it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

Array = Any
Weights = Mapping[str, Array]


@dataclass(frozen=True)
class Case:
    """A program's inputs at some sizes, and what it makes of them.

    Args:
        expected: the outputs for (weights, inputs), in order.
        scale: of the weights.
    """

    inputs: Callable[..., dict[str, Array]]
    expected: Callable[..., Sequence[Array]]
    sizes: Sequence[dict[str, int]]
    scale: float = 0.5


def f32(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def softmax(x: Array, axis: int = -1) -> Array:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def linear(x: Array, w: Weights, name: str) -> Array:
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def layer_norm(x: Array, w: Weights, name: str) -> Array:
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return y * w[f"{name}.weight"] + w[f"{name}.bias"]


def best(x: Array, k: int) -> Array:
    """The places of the k largest of the last axis, ties to the lowest."""
    return np.argsort(-x, axis=-1, kind="stable")[..., :k]


def attend(q: Array, k: Array, v: Array, mask: Array | None = None) -> tuple[Array, Array]:
    """Attention of heads in groups, and its weights."""
    k, v = (np.repeat(a, q.shape[1] // a.shape[1], 1) for a in (k, v))
    scores = np.einsum("bhtk,bhsk->bhts", q, k) * q.shape[-1] ** -0.5
    p = softmax(scores if mask is None else np.where(mask, scores, -np.inf))
    return p @ v, p


def ceil_of(keep: str, n: int) -> int:
    return math.ceil(Fraction(keep) * n)


# Leaving tokens out ------------------------------------------------------------------------------------------------------


def qkv(rng: np.random.Generator, batch: int, heads: int, tokens: int, k: int = 8, groups: int | None = None) -> dict[str, Array]:
    return {name: f32(rng, batch, groups or heads if name != "q" else heads, tokens, k) for name in ("q", "k", "v")}


def with_tokens(rng: np.random.Generator, batch: int, heads: int, tokens: int) -> dict[str, Array]:
    return {"x": f32(rng, batch, tokens, 6), **qkv(rng, batch, heads, tokens, 4)}


def evit(w: Weights, x: Array, q: Array, k: Array, v: Array) -> Sequence[Array]:
    y, p = attend(q, k, v)
    mass = p[:, :, 0, 1:].mean(1)
    rest = x[:, 1:] * y.mean((1, 3))[:, 1:, None]
    kept = best(mass, ceil_of("0.7", x.shape[1] - 1))
    rows = []
    for b in range(len(x)):
        others = [t for t in range(rest.shape[1]) if t not in kept[b]]
        fused = sum((mass[b, t] * rest[b, t] for t in others), np.zeros(6))
        rows.append(np.concatenate([x[b, :1], rest[b, kept[b]], fused[None]]))
    return np.array(rows, np.float32), kept


def fastv(w: Weights, x: Array, q: Array, k: Array, v: Array) -> Sequence[Array]:
    t = x.shape[1]
    mass = attend(q, k, v, np.tril(np.ones((t, t), bool)))[1][:, :, -1, 2:8].mean(1)
    place = [[0, 1, *(2 + np.sort(row)), *range(8, t)] for row in best(mass, 3)]
    return np.array([x[b, p] for b, p in enumerate(place)]), np.array(place)


def quest(w: Weights, q: Array, k: Array, v: Array) -> Sequence[Array]:
    batch, heads, tokens, _ = k.shape
    y, chosen = np.zeros_like(q), np.zeros((batch, heads, 2), np.int64)
    for b, h in np.ndindex(batch, heads):
        pages = [range(p, p + 4) for p in range(0, tokens, 4)]
        bound = [sum(max(q[b, h, 0, c] * k[b, h, s, c] for s in page) for c in range(8)) for page in pages]
        chosen[b, h] = best(np.array(bound), 2)
        at = [s for p in chosen[b, h] for s in pages[p]]
        y[b, h, 0] = softmax(k[b, h, at] @ q[b, h, 0] * 8**-0.5) @ v[b, h, at]
    return y, chosen


def snapkv(w: Weights, q: Array, k: Array, v: Array) -> Sequence[Array]:
    batch, heads, tokens, _ = q.shape
    causal = np.tril(np.ones((tokens, tokens), bool))
    mass = attend(q, k, v, causal)[1][:, :, -3:, :-3].sum(2)
    padded = np.pad(mass, [(0, 0), (0, 0), (1, 1)])
    kept = best((padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]) / 3, 4)
    place = np.concatenate([kept, np.broadcast_to(np.arange(tokens - 3, tokens), (batch, heads, 3))], -1)[..., None]
    return np.take_along_axis(k, place, 2), np.take_along_axis(v, place, 2)


def tokenselect(w: Weights, q: Array, k: Array, v: Array) -> Sequence[Array]:
    votes = attend(q, k, v)[1][:, :, 0].sum(1)
    chosen = np.sort(best(votes, 4), -1)
    picked = [np.stack([a[b][:, chosen[b]] for b in range(len(q))]) for a in (k, v)]
    return attend(q, *picked)[0], chosen


def one_query(rng: np.random.Generator, batch: int, heads: int, tokens: int, groups: int | None = None) -> dict[str, Array]:
    inputs = qkv(rng, batch, heads, tokens, groups=groups)
    return {**inputs, "q": inputs["q"][:, :, :1]}


def sinks(w: Weights, q: Array, k: Array, v: Array) -> Sequence[Array]:
    tokens = q.shape[2]
    seen = [[s <= t and (t - s < 3 or s < 2) for s in range(tokens)] for t in range(tokens)]
    return [attend(q, k, v, np.array(seen))[0]]


# Sparse attention --------------------------------------------------------------------------------------------------------


def nsa(w: Weights, x: Array, q: Array, k: Array, v: Array) -> Sequence[Array]:
    batch, heads, tokens, _ = q.shape
    blocks = tokens // 3
    small = []
    for i, a in enumerate((k, v)):
        parts = a[:, 0].reshape(batch, blocks, 3, 4) + w["place"]
        small.append(linear(parts.reshape(batch, blocks, 12), w, f"compress.{i}.fc"))
    gate = sigmoid(linear(x, w, "gate"))
    y, chosen = np.zeros((batch, heads, tokens, 4)), np.zeros((batch, tokens, 2), np.int64)
    for b in range(batch):
        for t in range(tokens):
            ended = [n for n in range(blocks) if n * 3 + 2 <= t]
            p = np.zeros((heads, blocks))
            for h in range(heads):
                if ended:
                    p[h, ended] = softmax(small[0][b, ended] @ q[b, h, t] / 2)
            importance = np.array([1e9 if n == t // 3 else p[:, n].sum() if n < t // 3 else -1e9 for n in range(blocks)])
            chosen[b, t] = best(importance, 2)
            fine = [s for s in range(t + 1) if s // 3 in chosen[b, t]]
            near = [s for s in range(t + 1) if t - s < 4]
            for h in range(heads):
                selected, sliding = (softmax(k[b, 0, at] @ q[b, h, t] / 2) @ v[b, 0, at] for at in (fine, near))
                y[b, h, t] = np.stack([p[h] @ small[1][b], selected, sliding], -1) @ gate[b, t]
    return y.astype(np.float32), chosen


def nsa_inputs(rng: np.random.Generator, batch: int, heads: int, tokens: int) -> dict[str, Array]:
    return {"x": f32(rng, batch, tokens, 6), **qkv(rng, batch, heads, tokens, 4, 1)}


def reformer(w: Weights, qk: Array, v: Array, rotation: Array) -> Sequence[Array]:
    batch, tokens, _ = qk.shape
    turned = qk @ rotation
    bucket = np.concatenate([turned, -turned], -1).argmax(-1)
    y = np.zeros_like(v)
    for b in range(batch):
        order = sorted(range(tokens), key=lambda t: (bucket[b, t], t))
        for rank, t in enumerate(order):
            first = rank // 4 * 4
            near = order[max(first - 4, 0) : first + 4]
            seen = [s for s in near if bucket[b, s] == bucket[b, t] and s < t] or [t]
            keys = qk[b, seen] / np.linalg.norm(qk[b, seen], axis=-1, keepdims=True)
            y[b, t] = softmax(keys @ qk[b, t] * 6**-0.5) @ v[b, seen]
    return y, bucket


def reformer_inputs(rng: np.random.Generator, batch: int, tokens: int) -> dict[str, Array]:
    return {"qk": f32(rng, batch, tokens, 6), "v": f32(rng, batch, tokens, 5), "rotation": f32(rng, 6, 2)}


def retnet(w: Weights, q: Array, k: Array, v: Array, decay: Array) -> Sequence[Array]:
    y = np.zeros(v.shape)
    state = np.zeros((*q.shape[:2], 4, 5))
    for t in range(q.shape[2]):
        state = decay[None, :, None, None] * state + k[:, :, t, :, None] * v[:, :, t, None]
        y[:, :, t] = np.einsum("bhk,bhkv->bhv", q[:, :, t], state)
    return [y.astype(np.float32)]


def retnet_inputs(rng: np.random.Generator, batch: int, heads: int, tokens: int) -> dict[str, Array]:
    inputs = qkv(rng, batch, heads, tokens, 4)
    return {**inputs, "v": f32(rng, batch, heads, tokens, 5), "decay": rng.uniform(0.5, 0.95, heads).astype(np.float32)}


# Experts and depths ------------------------------------------------------------------------------------------------------


def tokens_only(rng: np.random.Generator, batch: int, tokens: int) -> dict[str, Array]:
    return {"x": f32(rng, batch, tokens, 6)}


def soft_moe(w: Weights, x: Array) -> Sequence[Array]:
    logits = np.einsum("btd,des->btes", x, w["phi"])
    flat = logits.reshape(*x.shape[:2], -1)
    slots = np.einsum("bts,btd->bsd", softmax(flat, 1), x)
    made = np.stack([gelu(slots[:, s] @ w["up"][s // 2]) @ w["down"][s // 2] for s in range(6)], 1)
    return [(softmax(flat) @ made).astype(np.float32)]


def expert_choice(w: Weights, x: Array) -> Sequence[Array]:
    batch, tokens, _ = x.shape
    p = softmax(linear(x, w, "router"))
    chosen = best(np.moveaxis(p, -1, 1), math.ceil(Fraction("1.5") * tokens / 3))
    y = np.zeros(x.shape)
    for b, e in np.ndindex(batch, 3):
        for t in chosen[b, e]:
            y[b, t] += p[b, t, e] * (gelu(x[b, t] @ w["up"][e]) @ w["down"][e])
    return y.astype(np.float32), chosen


def mlp(x: Array, w: Weights, name: str) -> Array:
    return linear(gelu(linear(x, w, f"{name}.fc1")), w, f"{name}.fc2")


def moefication(w: Weights, x: Array) -> Sequence[Array]:
    for i in range(2):
        h = layer_norm(x, w, f"blocks.{i}.norm")
        inner = gelu(linear(h, w, f"blocks.{i}.mlp.fc1"))
        # Every router weighs all features alike, so that the first two groups of neurons stay.
        inner[..., 4:] = 0
        x = x + linear(inner, w, f"blocks.{i}.mlp.fc2")
    return [x.astype(np.float32)]


def upcycling(w: Weights, x: Array) -> Sequence[Array]:
    for i in range(2):
        h = layer_norm(x, w, f"blocks.{i}.norm")
        gate = softmax(h @ w[f"blocks.{i}.mlp.fc1.weight"][:3].T).max(-1, keepdims=True)
        x = x + mlp(h, w, f"blocks.{i}.mlp") * gate
    return [x.astype(np.float32)]


def recursions(w: Weights, x: Array) -> Sequence[Array]:
    x = x.copy()
    tokens = x.shape[1]
    alive = np.broadcast_to(np.arange(tokens), x.shape[:2])
    for i in range(3):
        chosen = []
        for b in range(len(x)):
            score = sigmoid(linear(x[b, alive[b]], w, f"routers.{i}.router")[:, 0])
            index = best(score, math.ceil(Fraction(tokens * (3 - i), 3)))
            here = alive[b][index]
            y = x[b, here]
            y = y + softmax(y @ y.T * 6**-0.5) @ y
            y = y + mlp(layer_norm(y, w, "shared.norm"), w, "shared.mlp")
            x[b, here] += y * score[index][:, None]
            chosen.append(here)
        alive = np.array(chosen)
    return x.astype(np.float32), alive


def depths(w: Weights, x: Array) -> Sequence[Array]:
    x = x.copy()
    for i in range(2):
        score = linear(x, w, f"blocks.{i}.mod.router")[..., 0]
        for b, row in enumerate(best(score, ceil_of("0.3", x.shape[1]))):
            x[b, row] += mlp(x[b, row], w, f"blocks.{i}.mlp") * score[b, row][:, None]
    return [x.astype(np.float32)]


# Merging -----------------------------------------------------------------------------------------------------------------


def merged(x: Array, r: int) -> tuple[Array, Array]:
    """Bipartite soft matching of one row: the tokens that are left, and of which each is a part."""
    tokens = len(x)
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    scores = unit[::2] @ unit[1::2].T
    ranked = np.argsort(-scores.max(-1), kind="stable")
    groups = [[2 * e] for e in ranked[r:]] + [[o] for o in range(1, tokens, 2)]
    for e in ranked[:r]:
        groups[len(ranked) - r + scores[e].argmax()].append(2 * e)
    source = np.zeros(tokens, int)
    for place, group in enumerate(groups):
        source[group] = place
    return np.array([x[group].mean(0) for group in groups]), source


def unet(w: Weights, x: Array) -> Sequence[Array]:
    def mixer(x: Array, name: str) -> Array:
        return x + np.tanh(linear(x, w, f"{name}.fc"))

    skips, sources = [], []
    for i in range(2):
        x = mixer(x, f"down.{i}.mix")
        skips.append(x)
        rows = [merged(row, x.shape[1] // 4) for row in x]
        x = np.array([row for row, _ in rows])
        sources.append(np.array([source for _, source in rows]))
    x = mixer(x, "middle")
    for i in range(2):
        x = np.array([row[source] for row, source in zip(x, sources[1 - i], strict=True)])
        x = mixer(linear(np.concatenate([x, skips[1 - i]], -1), w, f"up.{i}.join"), f"up.{i}.mix")
    return [x.astype(np.float32)]


def tome_sd(w: Weights, x: Array, u: Array) -> Sequence[Array]:
    batch, height, width, _ = x.shape
    cells = [[(2 * i + p, 2 * j + q) for p in (0, 1) for q in (0, 1)] for i in range(height // 2) for j in range(width // 2)]
    order = [[cell[c] for c in np.argsort(row, kind="stable")] for cell, row in zip(cells, u.reshape(-1, 4), strict=True)]
    targets = [row[0] for row in order]
    sources = [place for row in order for place in row[1:]]
    r = math.floor(Fraction("0.4") * height * width)
    y, into = np.zeros(x.shape), np.zeros((batch, r), np.int64)
    for b in range(batch):
        dst, src = (np.array([x[b][place] for place in places]) for places in (targets, sources))
        scores = (src / np.linalg.norm(src, axis=-1, keepdims=True)) @ (dst / np.linalg.norm(dst, axis=-1, keepdims=True)).T
        leaving = best(scores.max(-1), r)
        into[b] = scores[leaving].argmax(-1)
        gone = list(zip(leaving, into[b], strict=True))
        means = np.array([np.mean([row, *(src[s] for s, d in gone if d == c)], 0) for c, row in enumerate(dst)])
        centre = means.mean(0)
        for c, place in enumerate(targets):
            y[b][place] = np.tanh(means[c]) + centre
        for s, place in enumerate(sources):
            y[b][place] = np.tanh(src[s]) + centre
        for s, c in gone:
            y[b][sources[s]] = y[b][targets[c]]
    return y.astype(np.float32), into


def image(rng: np.random.Generator, batch: int, height: int, width: int) -> dict[str, Array]:
    return {"x": f32(rng, batch, height, width, 6), "u": rng.random((height // 2, width // 2, 4)).astype(np.float32)}


# Steps -------------------------------------------------------------------------------------------------------------------


def gru(w: Weights, x: Array, h: Array) -> Sequence[Array]:
    outputs = []
    for t in range(x.shape[1]):
        a, b = linear(x[:, t], w, "input"), linear(h, w, "hidden")
        r, z = sigmoid(a[:, :4] + b[:, :4]), sigmoid(a[:, 4:8] + b[:, 4:8])
        h = (1 - z) * np.tanh(a[:, 8:] + r * b[:, 8:]) + z * h
        outputs.append(h)
    return np.stack(outputs, 1), h


def diffusion(w: Weights, x: Array, t: Array, noise_level: Array) -> Sequence[Array]:
    def embedding(t: Array) -> Array:
        angle = t[:, None] * 10000.0 ** (-np.arange(3) / 3)
        return np.concatenate([np.cos(angle), np.sin(angle)], -1)

    def modulated(x: Array, shift: Array, scale: Array) -> Array:
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return y * (1 + scale[:, None]) + shift[:, None]

    batch, tokens, _ = x.shape
    c = embedding(np.repeat(t, batch)) + embedding(noise_level)
    for i in range(2):
        at = f"blocks.{i}"
        m = np.split(linear(silu(c), w, f"{at}.modulation"), 6, -1)
        h = modulated(x, m[0], m[1])
        heads = [linear(h, w, f"{at}.qkv.{j}.fc").reshape(batch, tokens, 2, 4).transpose(0, 2, 1, 3) for j in range(3)]
        y = attend(*heads)[0].transpose(0, 2, 1, 3).reshape(x.shape)
        x = x + m[2][:, None] * linear(y, w, f"{at}.out")
        h = silu(linear(modulated(x, m[3], m[4]), w, f"{at}.up"))
        x = x + m[5][:, None] * linear(h, w, f"{at}.down")
    return [x.astype(np.float32)]


def diffusion_inputs(rng: np.random.Generator, batch: int, tokens: int) -> dict[str, Array]:
    level = rng.random(batch).astype(np.float32)
    return {"x": f32(rng, batch, tokens, 8), "t": np.array(rng.integers(0, 1000), np.float32), "noise_level": level}


def speculative(w: Weights, draft: Array, q: Array, p: Array, u: Array, g: Array) -> Sequence[Array]:
    batch, count = draft.shape
    accepted, tokens = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
    for b in range(batch):
        n = 0
        while n < count and u[b, n] < p[b, n, draft[b, n]] / q[b, n, draft[b, n]]:
            n += 1
        left = p[b, n] if n == count else np.maximum(p[b, n] - q[b, n], 0)
        accepted[b], tokens[b] = n, np.argmax(np.log(np.maximum(left, 1e-30)) + g[b])
    return accepted, tokens


def drafts(rng: np.random.Generator, batch: int, count: int, words: int) -> dict[str, Array]:
    return {
        "draft": rng.integers(0, words, (batch, count)), "q": softmax(f32(rng, batch, count, words)),
        "p": softmax(f32(rng, batch, count + 1, words)), "u": rng.random((batch, count)).astype(np.float32),
        "g": rng.gumbel(size=(batch, words)).astype(np.float32),
    }  # fmt: skip


def decoding(w: Weights, x: Array) -> Array:
    """The last token's output, all of them seen at once."""
    batch, tokens, _ = x.shape
    heads = [linear(x, w, f"attn.qkv.{i}.fc").reshape(batch, tokens, 2, 4).transpose(0, 2, 1, 3) for i in range(3)]
    y = attend(heads[0][:, :, -1:], heads[1], heads[2])[0]
    return linear(y.transpose(0, 2, 1, 3).reshape(batch, 8), w, "attn.out")


HEADS = [{"batch": 2, "heads": 3, "tokens": 9}, {"batch": 1, "heads": 1, "tokens": 12}, {"batch": 3, "heads": 2, "tokens": 17}]
TOKENS = [{"batch": 2, "tokens": 7}, {"batch": 1, "tokens": 4}, {"batch": 3, "tokens": 13}]


def whole(sizes: list[dict[str, int]], by: int, least: int) -> list[dict[str, int]]:
    """The sizes with whole chunks of tokens."""
    return [{**s, "tokens": max(least, s["tokens"] // by * by)} for s in sizes]


SHARED = [{"batch": 2, "heads": 6, "groups": 2, "tokens": 9}, {"batch": 1, "heads": 3, "groups": 3, "tokens": 5},
          {"batch": 3, "heads": 4, "groups": 1, "tokens": 7}]  # fmt: skip
REFERENCES = {
    "evit": Case(with_tokens, evit, HEADS),
    "fastv": Case(with_tokens, fastv, HEADS),
    "quest": Case(one_query, quest, whole(HEADS, 4, 8)),
    "snapkv": Case(qkv, snapkv, HEADS),
    "tokenselect": Case(one_query, tokenselect, SHARED),
    "sinks": Case(qkv, sinks, SHARED),
    "nsa": Case(nsa_inputs, nsa, whole(HEADS, 3, 6)),
    "reformer": Case(reformer_inputs, reformer, whole(TOKENS, 4, 4)),
    "retnet": Case(retnet_inputs, retnet, whole(HEADS, 3, 3)),
    "soft_moe": Case(tokens_only, soft_moe, TOKENS),
    "expert_choice": Case(tokens_only, expert_choice, TOKENS),
    "moefication": Case(tokens_only, moefication, TOKENS),
    "upcycling": Case(tokens_only, upcycling, TOKENS),
    "mixture_of_recursions": Case(tokens_only, recursions, TOKENS),
    "mixture_of_depths": Case(tokens_only, depths, TOKENS),
    "unet": Case(tokens_only, unet, TOKENS),
    "tome_sd": Case(image, tome_sd, [{"batch": 2, "height": 4, "width": 6}, {"batch": 1, "height": 2, "width": 10}]),
    "rnn": Case(
        lambda rng, batch, tokens: {"x": f32(rng, batch, tokens, 5), "h": f32(rng, batch, 4)}, gru, TOKENS
    ),
    "diffusion": Case(diffusion_inputs, diffusion, TOKENS),
    "speculative": Case(
        drafts, speculative,
        [{"batch": 5, "count": 4, "words": 7}, {"batch": 2, "count": 1, "words": 3}, {"batch": 9, "count": 3, "words": 11}],
    ),
}  # fmt: skip
