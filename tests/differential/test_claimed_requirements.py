"""What the library requires of sizes is required where a backend has an op of its own for it too, in the same words."""

from __future__ import annotations

import numpy as np
import pytest

import tessera as ts

CACHE = "x: float[B, G, C, K], at: i64[B]"
KEYS = {"x": (1, 2, 3, 4), "at": (1,), "rows": (1, 2, 5, 4)}
HEADS = {"q": (1, 3, 2, 8), "k": (1, 2, 2, 8)}
# The inputs, their shapes in a call that does not fit, what is returned, and the words.
CASES = {
    "attention": ("q: float[B, H, T, 8], k: float[B, G, T, 8]", HEADS, "attention(q, k, k)", "[B, H, T, 8]", "a multiple of"),
    "attend": ("q: float[B, H, T, 8], k: float[B, G, T, 8]", HEADS, "attend(q, k, k)", "[B, H, T, 8]", "a multiple of"),
    "rope": (
        "x: float[B, H, T, K], c: float[1, T, P]", {"x": (1, 2, 3, 4), "c": (1, 3, 3)}, "rope(x, c, c)", "[B, H, T, K]",
        "more angles than pairs",
    ),
    "write_rows": (f"{CACHE}, rows: float[B, G, S, K]", KEYS, "write_rows(x, at, rows)", "[B, G, C, K]", "more rows are written"),
    "append": (
        f"{CACHE}, rows: float[B, G, S, K]", KEYS, "append(KVCache(k=x, v=x, length=at), rows, rows).k", "[B, G, C, K]",
        "more rows are written",
    ),
    "gather_path": (
        f"{CACHE}, rows: i64[B, P]", {**KEYS, "rows": (1, 5)}, "gather_path(KVCache(k=x, v=x, length=at), at, rows).k",
        "[B, G, C, K]", "more rows are written",
    ),
}  # fmt: skip
SOURCE = """
use std.attention (attend, attention, rope)
use std.cache (KVCache, append, gather_path, write_rows)

model m({inputs}) -> (y: float{shape}) {{
    return {body}
}}
"""


@pytest.mark.extended
@pytest.mark.parametrize("target", ["torch", "onnx"])
@pytest.mark.parametrize("case", CASES)
def test_a_call_that_does_not_fit_is_told_the_same(case: str, target: str) -> None:
    inputs, shapes, body, shape, words = CASES[case]
    run = ts.compile(ts.loads(SOURCE.format(inputs=inputs, shape=shape, body=body)), target=target, verify=False)
    kinds = {
        v.name: np.dtype(str(v.type.dtype).replace("i", "int").replace("f", "float")) for v in run.module.graph.inputs
    }
    with pytest.raises(ts.Diagnostic, match=words) as caught:
        run(**{name: np.zeros(size, kinds[name]) for name, size in shapes.items() if name in kinds})
    assert caught.value.code == "E0904"
