"""Random calls of what ONNX Runtime's optimiser makes of a decoder: see ``drawing``."""

from __future__ import annotations

import numpy as np

from .drawing import MS, Array, Case, Draw, i64, of


@of("GroupQueryAttention")
def group_query_attention(r: Draw, op: str) -> Case:
    batch, groups, times, width = r.between(1, 2), r.between(1, 3), r.between(1, 3), 8 * r.between(1, 2)
    past = r.one(0, 0, r.between(1, 5))
    tokens, heads = 1 if past else r.between(1, 5), groups * times
    rotary, packed = r.chance(), r.chance(0.3)
    shapes = [(batch, tokens, n * width) for n in ((heads + 2 * groups,) if packed else (heads, groups, groups))]
    # One length for all rows: of others ONNX Runtime 1.32 takes keys that are none of theirs.
    lengths = np.full(batch, past + tokens - 1, np.int32)
    cache = [r.floats((batch, groups, past, width)) for _ in range(2)]
    table = [r.rng.uniform(-1, 1, (16, width // 2)).astype(np.float32) for _ in range(2)] if rotary else [None, None]
    inputs: dict[str, Array | None] = {
        "q": r.floats(shapes[0]), "k": None if packed else r.floats(shapes[1]), "v": None if packed else r.floats(shapes[2]),
        "past_k": cache[0], "past_v": cache[1], "lengths": lengths, "total": np.array(past + tokens, np.int32),
        "cos": table[0], "sin": table[1],
    }  # fmt: skip
    attrs = {"num_heads": heads, "kv_num_heads": groups, "do_rotary": int(rotary), **r.some(scale=0.3)}
    if rotary:
        attrs |= r.some(rotary_interleaved=r.between(0, 1))
    if r.chance(0.3):
        attrs["local_window_size"] = r.between(1, 6)
    return Case(op, inputs, attrs, outputs=3, domain=MS, tolerance=1e-3)


@of("MatMulNBits")
def packed_product(r: Draw, op: str) -> Case:
    bits, block, n, k = r.one(4, 4, 8), r.one(16, 32), r.between(1, 5), r.between(1, 70)
    blocks = -(-k // block)
    zeros = r.one(None, "u8", "f32")
    inputs: dict[str, Array | None] = {
        "x": r.floats((*r.shape(1, 2), k)), "w": r.rng.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8),
        "scales": r.floats((n * blocks,), 0.1), "zeros": None,
    }  # fmt: skip
    if zeros == "u8":
        inputs["zeros"] = r.rng.integers(0, 256, (n * -(-blocks * bits // 8),)).astype(np.uint8)
    elif zeros == "f32" and bits == 4:
        inputs["zeros"] = r.floats((n * blocks,), 3.0)
    fixed = frozenset({"w", "scales", "zeros"})
    return Case(op, inputs, {"K": k, "N": n, "bits": bits, "block_size": block}, fixed, domain=MS, tolerance=2e-3)


@of("Col2Im")
def col_to_im(r: Draw, op: str) -> Case:
    n = r.between(1, 2)
    image, block = ([r.between(low, high) for _ in range(n)] for low, high in ((3, 7), (1, 3)))
    strides, dilations = ([r.between(1, 2) for _ in range(n)] for _ in range(2))
    pads = [r.between(0, 1) for _ in range(2 * n)]
    counts = [
        (size + pads[i] + pads[i + n] - (block[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i, size in enumerate(image)
    ]
    x = r.floats((r.between(1, 2), r.between(1, 2) * int(np.prod(block)), max(0, int(np.prod(counts)))))
    attrs = {"strides": strides, "dilations": dilations, "pads": pads}
    fixed = frozenset({"image", "block"})
    return Case(op, {"x": x, "image": i64(*image), "block": i64(*block)}, attrs, fixed, tolerance=1e-4)


@of("LpPool")
def lp_pool(r: Draw, op: str) -> Case:
    n = r.between(1, 2)
    kernel = [r.between(1, 3) for _ in range(n)]
    attrs = {"kernel_shape": kernel, **r.some(strides=[r.between(1, 2) for _ in range(n)], p=r.one(1, 2, 3))}
    return Case(op, {"x": r.floats((r.between(1, 2), 2, *(r.between(4, 7) for _ in range(n))))}, attrs, tolerance=1e-4)
