"""The method of `docs/reduction.md`, in models of the zoo."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

import tessera as ts
from tessera.ir.diagnostics import Diagnostic
from tessera.passes.engine import apply
from tessera.passes.tokens.merge_tokens import MergeTokens
from tessera.passes.tokens.method import find_method

PAGE = Path(__file__).parents[3] / "docs" / "reduction.md"
SIZES = {"dim": 32, "depth": 2, "heads": 2}
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 50, (2, 25))
VALID = (np.arange(25) < np.array([[25], [17]])).astype(np.int64)
Model = tuple[Any, dict[str, np.ndarray]]


def vit() -> Model:
    program = ts.load("zoo/vit", model="vit", params={**SIZES, "hidden": 64, "patch": 4, "size": 24, "pooler": False})
    return program, {"image": RNG.standard_normal((2, 3, 24, 16)).astype(np.float32)}


def minilm() -> Model:
    return ts.load("minilm", params={**SIZES, "hidden": 64, "vocab": 50}), {"input_ids": IDS, "attention_mask": VALID}


def drawn(program: Any) -> dict[str, np.ndarray]:
    """Weights of each name, whatever else a program has."""
    return {
        n: np.random.default_rng(crc32(n.encode())).normal(0, 0.2, [int(d) for d in p.type.shape]).astype(p.type.dtype.numpy)
        for n, p in program.graph.params.items()
    }


def test_the_method_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"```tess file=calm.tess\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    (tmp_path / "calm.tess").write_text(found.group(1), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for model in (vit, minilm):
        program, arrays = model()
        merged, _ = apply(program, "merge_tokens", method="calm.tess:calm", keep=0.4, map=True)
        runs = [ts.compile(merged, target=t, weights=drawn(merged), verify=False)(**arrays) for t in ("torch", "onnx")]
        for got in runs:
            assert got["token_size"].shape == (2, 10)
            np.testing.assert_array_equal(got["token_size"].sum(1), arrays.get("attention_mask", np.ones((2, 25))).sum(1))
            np.testing.assert_array_equal(got["token_source"], runs[0]["token_source"])
            assert (np.diff(got["token_source"], axis=1) >= 0).all()
    with pytest.raises(Diagnostic) as caught:
        apply(minilm()[0], "merge_tokens", method="calm.tess:calm", keep=0.1)
    assert caught.value.code == "E0709"


def test_what_is_listed_is_a_method_told_in_one_line() -> None:
    rows = re.findall(r"^  (\w+)  (.*)$", MergeTokens.method_help(None), re.MULTILINE)
    assert {"bipartite_merge", "by_mass", "superpixels", "window_merge"} <= {name for name, _ in rows}
    for name, told in rows:
        assert find_method(name, None, "merge_tokens").name == name
        assert told.endswith("."), f"the first line of `{name}` goes on in the next"
