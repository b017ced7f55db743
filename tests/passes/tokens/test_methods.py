"""Every shipped method in every kind of model works, with the same indices on both targets, or is refused: the table of
`docs/reduction.md`. And the method of that page."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

import tessera as ts
from tessera.ir.diagnostics import Diagnostic
from tessera.passes.engine import apply
from tessera.passes.tokens.method import Method, methods

PAGE = Path(__file__).parents[3] / "docs" / "reduction.md"
MARKS = ("<!-- generated: begin -->\n", "<!-- generated: end -->\n")
SIZES = {"dim": 32, "depth": 2, "heads": 2}
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 50, (2, 25))
VALID = (np.arange(25) < np.array([[25], [17]])).astype(np.int64)
# What methods cannot do without: pictures of 6 x 4 tokens behind a class token, or of any.
FURTHER: dict[str, dict[str, Any]] = {
    "grid_merge": {"rows": 6, "columns": 4},
    "adaptive_pool": {"rows": 6, "columns": 4, "height": 3, "width": 2, "keep": None, "r": [18], "blocks": (0,)},
    "span_mean": {"blocks": (0,)},
    "span_first": {"blocks": (0,)},
}
Model = tuple[Any, dict[str, np.ndarray]]


def vit() -> Model:
    program = ts.load("zoo/vit", model="vit", params={**SIZES, "hidden": 64, "patch": 4, "size": 24, "pooler": False})
    return program, {"image": RNG.standard_normal((2, 3, 24, 16)).astype(np.float32)}


def minilm() -> Model:
    return ts.load("minilm", params={**SIZES, "hidden": 64, "vocab": 50}), {"input_ids": IDS, "attention_mask": VALID}


def gpt2() -> Model:
    return ts.load("zoo/gpt2", params={**SIZES, "vocab": 50, "positions": 64}), {"input_ids": IDS}


@cache
def imported() -> Model:
    import torch
    from transformers import BertConfig, BertModel

    from tessera.frontends.torch import load

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
    torch.manual_seed(0)
    model = BertModel(BertConfig(**sizes, max_position_embeddings=64), add_pooling_layer=False).eval()
    given = {"input_ids": IDS, "attention_mask": VALID}
    free = {name: {0: "B", 1: "T"} for name in given}
    found = load(model, (), {n: torch.as_tensor(v) for n, v in given.items()}, dynamic_shapes=free)
    return apply(found.module, "raise_composites")[0], given


MODELS: dict[str, Callable[[], Model]] = {"ViT": vit, "BERT": minilm, "causal decoder": gpt2, "imported BERT": imported}


def drawn(program: Any) -> dict[str, np.ndarray]:
    """Weights of each name, whatever else a program has."""
    return {
        n: np.random.default_rng(crc32(n.encode())).normal(0, 0.2, [int(d) for d in p.type.shape]).astype(p.type.dtype.numpy)
        for n, p in program.graph.params.items()
    }


def outcome(name: str, model: Callable[[], Model]) -> str:
    """``works``, or the code of the refusal and the beginning of its message."""
    program, arrays = model()
    options = {"method": name, "r": 2, "map": True, **FURTHER.get(name, {})}
    options = {key: value for key, value in options.items() if value is not None}
    try:
        kind = "merge_tokens" if Method(methods()[name][0]).limits(0, 0).facts.merged else "prune_tokens"
        reduced, _ = apply(program, kind, **options)
        if "spans" in {v.name for v in reduced.graph.inputs}:
            arrays = {**arrays, "spans": np.tile(np.minimum(np.arange(25), 22), (2, 1))}
        runs = [ts.compile(reduced, target=t, weights=drawn(reduced), verify=False)(**arrays) for t in ("torch", "onnx")]
    except Diagnostic as error:
        words = error.message.split(":")[0].split(" (")[0]
        return f"{error.code}, {words}"
    np.testing.assert_array_equal(runs[0]["token_source"], runs[1]["token_source"])
    np.testing.assert_array_equal(runs[0]["token_size"], runs[1]["token_size"])
    for key, value in runs[0].items():
        np.testing.assert_allclose(value, runs[1][key], atol=1e-4, err_msg=key)
    return "works"


HEAD = f"| method | {' | '.join(MODELS)} |\n{'|---' * (len(MODELS) + 1)}|\n"


def parts() -> tuple[str, dict[str, str], str]:
    """The page up to the rows of its table, those by method, and the rest."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(MARKS[0])
    table, after = rest.split(MARKS[1])
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    return before + MARKS[0], {row.split("`")[1]: row for row in rows}, MARKS[1] + after


@pytest.mark.extended
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(methods()))
def test_the_table_says_what_a_method_does(name: str, update_golden: bool) -> None:
    pytest.importorskip("transformers")
    row = f"| `{name}` | {' | '.join(outcome(name, model) for model in MODELS.values())} |"
    before, rows, after = parts()
    if update_golden:
        rows = {**rows, name: row}
        lines = "\n".join(rows[known] for known in sorted(rows))
        PAGE.write_text(f"{before}\n{HEAD}{lines}\n\n{after}", encoding="utf-8")
    assert parts()[1].get(name) == row, "run this test with --update-golden"


def test_the_table_has_every_method() -> None:
    assert set(parts()[1]) == set(methods())


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
