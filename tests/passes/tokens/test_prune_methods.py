"""Pruning methods in models: evidence of other blocks and of text, budgets, two runs in a row, gradients, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import loads, print_module
from tessera.ir.diagnostics import Diagnostic
from tessera.passes.engine import apply
from tessera.passes.tokens.method import methods

from ..conftest import Arrays, run, weights_of

SMALL: dict[str, Any] = {"dim": 16, "depth": 3, "heads": 2, "hidden": 32}
IDS = np.random.default_rng(1).integers(0, 50, (2, 13))
MASK = (np.arange(13) < np.array([[13], [9]])).astype(np.int64)
ZOO: dict[str, tuple[str, dict[str, Any], Arrays, int]] = {
    "vit": ("vit", {**SMALL, "size": 32, "patch": 8},
            {"image": np.random.default_rng(2).standard_normal((2, 3, 32, 32)).astype(np.float32)}, 17),
    "bert": ("bert", {**SMALL, "vocab": 50, "positions": 16},
             {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": np.zeros_like(IDS)}, 13),
    "llama": ("llama_lm", {**SMALL, "vocab": 50, "kv_heads": 1}, {"input_ids": IDS}, 13),
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "by_row": {"heads": "max"}, "fastv": {}, "by_repetition": {"threshold": 0.5}, "by_correlation": {}, "diverse": {},
    "divprune": {}, "hiprune": {"width": 4, "middle": 0, "alpha": 0.6}, "hired": {"width": 2}, "evit": {}, "dart": {"pivots": 2},
    "visionzip": {},
}  # fmt: skip
FAMILY = {"prune", "prune_layers", "prune_fuse", "dart", "visionzip"}
MERGE = {"evit", "visionzip"}


def load(name: str) -> ts.Module:
    model, params, _, _ = ZOO[name]
    return ts.load(f"zoo/{name}", model, params=params)


def test_every_method_of_the_family_is_tried() -> None:
    mine = {name for name, ops in methods().items() if ops[0].qualified.split(".")[2] in FAMILY}
    assert mine == {*OPTIONS, "by_relevance"}


@pytest.mark.extended
@pytest.mark.parametrize("budget", [{"r": (3, 0, 2)}, {"k": 7}, {"keep": 0.5}], ids=str)
@pytest.mark.parametrize("method", OPTIONS)
@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_on_both_targets(name: str, method: str, budget: dict[str, Any]) -> None:
    """The budget exactly, and the same tokens; or a refusal that says why."""
    _, _, feeds, tokens = ZOO[name]
    if name == "llama" and method in MERGE:
        with pytest.raises(Diagnostic) as caught:
            apply(load(name), "prune_tokens", method=method, **budget)
        assert caught.value.code == "E0708"
        return
    module, _ = apply(load(name), "prune_tokens", method=method, map=True, **budget, **OPTIONS[method])
    assert loads(print_module(module)).difference(module) is None
    one, other = (ts.compile(module, target=t, passes=[], verify=False)(**feeds, seed=5) for t in ("torch", "onnx"))
    left = {"r": tokens - 5, "k": 7, "keep": tokens - tokens // 2}[next(iter(budget))]
    assert np.asarray(one["token_size"]).shape == (2, left)
    for key, value in one.items():
        if key.startswith("token_"):
            np.testing.assert_array_equal(np.asarray(value), np.asarray(other[key]))
        else:
            np.testing.assert_allclose(np.asarray(value), np.asarray(other[key]), atol=2e-4)


# Two blocks of attention whose first row, and whose last one, is a result of the model as well.
TWO = """
use std.attention (attention)
use std.nn (linear)

model two(x: f32[B, T, 8], prompt: f32[B, 3, 8]) -> (y: f32[B, T, 8], rows: f32[B, 2, T]) {
    rows = []
    repeat i in 2 as blocks {
        q = rearrange(linear(x, out=8) as q, "b t (h k) -> b h t k", h=2)
        a, row = attention(q, q, q, row=0)
        rows = rows + [unsqueeze(mean(row, axis=1), 1)]
        x = x + linear(rearrange(a, "b h t k -> b t (h k)"), out=8) as out
    }
    return x, concat(rows, axis=1)
}
"""
PLAIN = TWO.replace("a, row = attention(q, q, q, row=0)", "a = attention(q, q, q)").replace(
    "        rows = rows + [unsqueeze(mean(row, axis=1), 1)]\n", "").replace("    rows = []\n", "").replace(
    ", rows: f32[B, 2, T]", "").replace("return x, concat(rows, axis=1)", "return x")  # fmt: skip
X = np.random.default_rng(3).standard_normal((2, 11, 8)).astype(np.float32)
PROMPT = np.random.default_rng(4).standard_normal((2, 3, 8)).astype(np.float32)


def kept(**options: Any) -> np.ndarray:
    """The places that stay, the first among them."""
    module, _ = apply(loads(PLAIN), "prune_tokens", map=True, **options)
    source = run(module, weights_of(module), x=X, prompt=PROMPT)["token_source"]
    return np.stack([np.unique(row, return_index=True)[1] for row in source])


def best(score: np.ndarray, k: int) -> np.ndarray:
    return np.sort(np.argsort(-score, axis=1, kind="stable")[:, :k], axis=1)


EARLY = """use std.token (TokenMap, keep_best)
op early(x: float[B, T, D], map: TokenMap[B, N, T], row_of: float[B, H, T], *, r: int, protect: int = 0, of: int = -2)
    -> (float[B, T - r, D], TokenMap[B, N, T - r]) {
    return keep_best(x, map, cast(mean(row_of, axis=1), f32), r=r, protect=protect, last=0)
}
"""


def test_a_method_asks_the_block_that_its_parameter_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "early.tess").write_text(EARLY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    whole = loads(TWO)
    rows = run(whole, weights_of(whole), x=X, prompt=PROMPT)["rows"]
    rows[:, :, 0] = np.inf
    common = {"method": "by_row", "protect": 1, "k": 5}
    for block in (0, 1):
        source = kept(**common, blocks=(block,))
        np.testing.assert_array_equal(source, best(rows[:, block], 5))
    assert (best(rows[:, 0], 5) != best(rows[:, 1], 5)).any()
    # `EARLY` stands behind block 1 and asks block 0.
    np.testing.assert_array_equal(kept(method="early.tess:early", protect=1, k=5, blocks=(1,)), best(rows[:, 0], 5))


@pytest.mark.parametrize("over", ["max", "mean"])
def test_text_is_what_the_option_names(over: str) -> None:
    whole = loads(TWO)
    y = run(whole, weights_of(whole), x=X, prompt=PROMPT)["y"]
    unit = [v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (y, PROMPT)]
    score = getattr(np.einsum("btd,bld->btl", *unit), over)(2)
    score[:, 0] = np.inf
    got = kept(method="by_relevance", over=over, text="prompt", k=4, blocks=(1,), protect=1)
    np.testing.assert_array_equal(got, best(score, 4))


@pytest.mark.parametrize("method", ["by_mass", "dart", "diverse"])
def test_gradients_flow_through_what_stays(method: str) -> None:
    import torch

    from tessera.backends.torch import build

    own = {"pivots": 2} if method == "dart" else {}
    module, _ = apply(loads(PLAIN), "prune_tokens", method=method, r=(4, 0), protect=1, **own)
    net = build(module, weights_of(module), trainable=True)
    x = torch.tensor(X, requires_grad=True)
    net(x=x, prompt=torch.as_tensor(PROMPT))["y"].square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert (x.grad.abs().sum((1, 2)) > 0).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_the_fused_token_has_the_gradient_of_its_members() -> None:
    import torch

    from tessera.backends.torch import build

    module, _ = apply(loads(PLAIN), "prune_tokens", method="evit", r=(6, 0), protect=1)
    net = build(module, weights_of(module))
    x = torch.tensor(X, requires_grad=True)
    net(x=x, prompt=torch.as_tensor(PROMPT))["y"][:, -1].sum().backward()
    assert (x.grad.abs().sum(2) > 0).all()


@pytest.mark.parametrize("method", ["by_mass", "fastv"])
def test_two_runs_drop_what_one_run_does(method: str) -> None:
    """By a score that the first run does not change: 3, then 2 more of the same block, are the 5 of one run."""
    once, _ = apply(loads(PLAIN), "prune_tokens", method=method, r=(5,), blocks=(1,), protect=(0, -1), map=True)
    first, _ = apply(loads(PLAIN), "prune_tokens", method=method, r=(3,), blocks=(1,), protect=(0, -1), map=True)
    twice, _ = apply(first, "prune_tokens", method=method, r=(2,), blocks=(1,), protect=(0, -1), map=True)
    weights = weights_of(once)
    one, two = (run(m, weights, x=X, prompt=PROMPT) for m in (once, twice))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


def test_the_last_token_ranks_in_a_causal_decoder() -> None:
    """FastV behind layer 0: what stays is what the last token attends to most, and it stays itself."""
    module = load("llama")
    pruned, _ = apply(module, "prune_tokens", method="fastv", k=5, blocks=(0,), map=True)
    source = np.asarray(ts.compile(pruned, target="onnx", passes=[], verify=False)(input_ids=IDS)["token_source"])
    places = np.stack([np.unique(row, return_index=True)[1] for row in source])
    assert places.shape == (2, 5)
    assert (places[:, -1] == 12).all() or (source[:, -1] == 4).all()
    assert (source[:, -2] < source[:, -1]).all()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ({"method": "hiprune", "width": 4, "middle": 3, "k": 6}, "E0705", "asks for `column_mass` of block 3, but"),
        ({"method": "hiprune", "width": 4, "k": 6}, "E0705", "needs `middle: int`"),
        ({"method": "hiprune", "width": 4, "middle": 0, "mode": "paper", "k": 6}, "E0501", "mode is"),
        ({"method": "by_row", "heads": "all", "k": 6}, "E0501", "heads is"),
        ({"method": "by_relevance", "k": 6}, "E0705", "the option `text` names nothing"),
        ({"method": "by_relevance", "k": 6, "text": "image"}, "E0705", "is made from the tokens"),
        ({"method": "by_correlation", "k": 6, "local": -4}, "E0705", "asks for `row` of block -4, but"),
        ({"method": "dart", "k": 6, "pivots": 0}, "E0501", "at least one pivot"),
        ({"method": "diverse", "place": "start", "k": 6}, "E0705", "no attention stands in front"),
    ],
)  # fmt: skip
def test_refused(options: dict[str, Any], code: str, said: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        apply(load("vit"), "prune_tokens", **options)
    assert (caught.value.code, said in caught.value.message) == (code, True), caught.value.message


@pytest.mark.extended
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("quiet_transformers")
@pytest.mark.parametrize("importer", ["torch", "onnx"])
def test_on_an_imported_model(importer: str, tmp_path: Path) -> None:
    """A ViT of transformers through torch.export and ONNX: every method, on both targets the same tokens."""
    import torch
    from transformers import ViTConfig, ViTModel

    from .test_layouts import imported

    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
            self.vit = ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8), add_pooling_layer=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.vit(pixel_values=x).last_hidden_state

    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    found = imported(Tokens(), x, importer, tmp_path)
    raised, _ = apply(found.module, "raise_composites")
    for method, options in OPTIONS.items():
        pruned, _ = apply(raised, "prune_tokens", method=method, k=7, protect=1, blocks=(1,), map=True, **options)
        one, other = (
            ts.compile(pruned, weights=found.weights, passes=[], target=t, verify=False)(x.numpy(), seed=2)
            for t in ("torch", "onnx")
        )
        names = list(one)
        assert np.asarray(one[names[0]]).shape == (2, 7, 16)
        np.testing.assert_array_equal(np.asarray(one["token_source"]), np.asarray(other["token_source"]), err_msg=method)
        np.testing.assert_allclose(np.asarray(one[names[0]]), np.asarray(other[names[0]]), atol=2e-4, err_msg=method)
