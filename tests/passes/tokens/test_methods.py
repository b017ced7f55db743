"""Every shipped method in every kind of model works, with the same indices on both targets, or is refused: the table of
`docs/reduction.md`. And the method of that page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

import tessera as ts
from tessera.ir.builder import Builder
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.dims.dim import as_dim
from tessera.ir.library import ops_of
from tessera.ir.types import TensorType, f32
from tessera.passes.engine import apply
from tessera.passes.memory.select_kv import STD
from tessera.passes.tokens.merge_tokens import MergeTokens
from tessera.passes.tokens.method import find_method, methods
from tessera.passes.tokens.stream import is_visibility

PAGE = Path(__file__).parents[3] / "docs" / "reduction.md"
MARKS = ("<!-- generated: begin -->\n", "<!-- generated: end -->\n")
SIZES = {"dim": 32, "depth": 2, "heads": 2}
RNG = np.random.default_rng(0)
# 25 tokens: a class token and a picture of 6 x 4, or two texts, one of them padded.
IMAGE = RNG.standard_normal((2, 3, 24, 16)).astype(np.float32)
IDS = RNG.integers(0, 50, (2, 25))
VALID = (np.arange(25) < np.array([[25], [17]])).astype(np.int64)
SPANS = np.tile(np.minimum(np.arange(25), 22), (2, 1))
PROMPT = RNG.standard_normal((2, 3, 32)).astype(np.float32)
Model = tuple[Any, dict[str, np.ndarray]]

# The pass that a method is used with, and what the method cannot do without.
R: dict[str, Any] = {"r": 2}
USES: dict[str, tuple[str, dict[str, Any]]] = {
    "adaptive_pool": ("merge_tokens", {"k": 7, "blocks": (0,), "rows": 6, "columns": 4, "height": 3, "width": 2}),
    "bipartite_merge": ("merge_tokens", R),
    "by_chance": ("prune_tokens", R),
    "by_correlation": ("prune_tokens", R),
    "by_mass": ("prune_tokens", R),
    "by_relevance": ("prune_tokens", {**R, "text": "prompt"}),
    "by_repetition": ("prune_tokens", R),
    "by_row": ("prune_tokens", R),
    "dart": ("prune_tokens", R),
    "diverse": ("prune_tokens", R),
    "divprune": ("prune_tokens", R),
    "drop_span": ("prune_tokens", {**R, "start": 3}),
    "energy_merge": ("merge_tokens", R),
    "evit": ("prune_tokens", R),
    "fastv": ("prune_tokens", R),
    "grid_merge": ("merge_tokens", {"r": 3, "blocks": (0,), "rows": 6, "columns": 4}),
    "heavy_hitters": ("select_kv", {"k": 8}),
    "hiprune": ("prune_tokens", {**R, "width": 4, "middle": 0}),
    "hired": ("prune_tokens", {**R, "width": 4}),
    "norm_merge": ("merge_tokens", R),
    "sinks_and_recent": ("select_kv", {"k": 8}),
    "span_first": ("prune_tokens", {"k": 23, "blocks": (0,)}),
    "span_mean": ("merge_tokens", {"k": 23, "blocks": (0,)}),
    "span_softmax": ("merge_tokens", {"k": 23, "blocks": (0,)}),
    "superpixels": ("cluster_tokens", {"clusters": (3, 2), "grid": (6, 4), "begin": 1, "neighbours": 4, "temperature": 1.0}),
    "visionzip": ("prune_tokens", R),
    "window_merge": ("merge_tokens", R),
    "window_vote": ("select_kv", {"k": 8, "window": 4}),
}


def vit() -> Model:
    return ts.load("zoo/vit", model="vit", params={**SIZES, "hidden": 64, "patch": 4, "size": 24}), {"image": IMAGE}


def clip() -> Model:
    sizes = {**SIZES, "hidden": 64, "patch": 4, "size": 24, "width": 16}
    return ts.load("zoo/clip", model="clip_vision", params=sizes), {"image": IMAGE}


def bert() -> Model:
    given = {"input_ids": IDS, "attention_mask": VALID, "token_type_ids": np.zeros_like(IDS)}
    return ts.load("zoo/bert", model="bert", params={**SIZES, "hidden": 64, "vocab": 50, "positions": 32}), given


def minilm() -> Model:
    return ts.load("minilm", params={**SIZES, "hidden": 64, "vocab": 50}), {"input_ids": IDS, "attention_mask": VALID}


def gpt2() -> Model:
    return ts.load("zoo/gpt2", params={**SIZES, "vocab": 50, "positions": 64}), {"input_ids": IDS}


@cache
def exported() -> bytes:
    """ViTModel of transformers as torch writes it."""
    import torch
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=(24, 16),
                       patch_size=4)  # fmt: skip
    file = io.BytesIO()
    torch.onnx.export(
        ViTModel(config).eval(), (torch.as_tensor(IMAGE),), file, dynamo=False, opset_version=17, input_names=["image"],
        output_names=["tokens", "pooled"], dynamic_axes={"image": {0: "B"}},
    )  # fmt: skip
    return file.getvalue()


MODELS: dict[str, Callable[[Path], Model]] = {
    "ViT": lambda folder: vit(),
    "BERT": lambda folder: bert(),
    "causal decoder": lambda folder: gpt2(),
    "VLM tower": lambda folder: clip(),
    "imported ViT": lambda folder: imported(folder),
}


def imported(folder: Path) -> Model:
    from tessera.frontends.onnx import load

    path = folder / "vit.onnx"
    path.write_bytes(exported())
    return apply(load(path).module, "raise_composites")[0], {"image": IMAGE}


def drawn(program: Any) -> dict[str, np.ndarray]:
    """Weights of each name, whatever else a program has; the factors of norms are not near 0."""
    return {
        n: np.random.default_rng(crc32(n.encode()))
        .normal(0.5 * (len(p.type.shape) == 1), 0.2, [int(d) for d in p.type.shape])
        .astype(p.type.dtype.numpy)
        for n, p in program.graph.params.items()
    }


def outcome(name: str, model: Model) -> str:
    """``works``, or the code of the refusal and its message."""
    program, feeds = model
    kind, options = USES[name]
    told = {} if kind == "select_kv" else {"map": True}
    if "text" in options:
        batch = program.graph.inputs[0].type.shape[0]
        Builder(program.graph).input("prompt", TensorType(f32, (batch, as_dim(3), as_dim(32))))
        feeds = {**feeds, "prompt": PROMPT}
    try:
        reduced, _ = apply(program, kind, method=name, **told, **options)
        if name.startswith("span_"):
            feeds = {**feeds, "spans": SPANS}
        one, other = (ts.compile(reduced, target=t, weights=drawn(reduced), verify=False)(**feeds) for t in ("torch", "onnx"))
    except Diagnostic as error:
        return f"{error.code}, {error.message.split('; ')[0]}"
    if told:
        left = options.get("k", 25 - options.get("r", 0) * (1 if "blocks" in options else 2))
        assert one["token_size"].shape == (2, 7 if "clusters" in options else left)
    for key, value in one.items():
        if key.startswith("token_"):
            np.testing.assert_array_equal(value, other[key])
        else:
            np.testing.assert_allclose(value, other[key], rtol=1e-4, atol=2e-4, err_msg=key)
    return "works"


HEAD = f"| method | with | {' | '.join(MODELS)} |\n{'|---' * (len(MODELS) + 2)}|\n"


def parts() -> tuple[str, dict[str, str], str]:
    """The page up to the rows of its table, those by method, and the rest."""
    before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
    table, after = rest.split(MARKS[1])
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    return before + MARKS[0], {row.split("`")[1]: row for row in rows}, MARKS[1] + after


@pytest.mark.extended
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", USES)
def test_the_table_says_what_a_method_does(name: str, tmp_path: Path, update_golden: bool) -> None:
    pytest.importorskip("transformers")
    cells = [outcome(name, model(tmp_path)) for model in MODELS.values()]
    row = f"| `{name}` | {USES[name][0]} | {' | '.join(cells)} |"
    if update_golden:
        before, rows, after = parts()
        rows = {**rows, name: row}
        lines = "\n".join(rows[known] for known in sorted(rows))
        PAGE.write_text(f"{before}\n{HEAD}{lines}\n\n{after}", encoding="utf-8")
    assert parts()[1].get(name) == row, "run this test with --update-golden"


def test_the_table_has_every_method() -> None:
    shipped = {*methods(), *(op.name for op in ops_of(STD) if is_visibility(op))}
    assert set(USES) == shipped
    assert set(parts()[1]) == shipped


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
