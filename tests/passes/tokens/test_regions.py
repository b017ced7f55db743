"""Regions: tokens leave in front of a block, or of attention, and all of them are back behind it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import loads, print_module
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module
from tessera.passes.engine import apply, run_pipeline
from tessera.passes.tokens.merge_tokens import MergeTokens
from tessera.passes.tokens.prune_tokens import PruneTokens

from ..conftest import Arrays, passed, run, weights_of

ENCODER = """
use std.attention (self_attention)
use std.nn (layer_norm, mlp)
use std.token (bipartite_merge, token_map, unmerge)

model encoder(x: f32[B, T, 8]) -> (y: f32[B, T, 8], m: f32[B, 8]) {
    early = x * 2.0
    repeat i in 4 as blocks {
        BLOCK
    }
    return x + early, mean(x, axis=1)
}
"""
PRE = """x = x + self_attention(layer_norm(x) as n1, heads=2) as attn
        x = x + mlp(layer_norm(x) as n2, hidden=16) as mlp"""
POST = """x = layer_norm(x + self_attention(x, heads=2) as attn) as n1
        x = layer_norm(x + mlp(x, hidden=16) as mlp) as n2"""
X = np.random.default_rng(0).standard_normal((2, 9, 8)).astype(np.float32)


def encoder(block: str = PRE, tokens: str = "T") -> Module:
    return loads(re.sub(r"\bT\b", tokens, ENCODER.replace("BLOCK", block)))


def both(module: Module, **feeds: np.ndarray) -> Arrays:
    """What torch and ONNX Runtime agree upon: indices exactly."""
    one, other = (ts.compile(module, target=t, passes=[], verify=False)(**feeds, seed=3) for t in ("torch", "onnx"))
    for name, value in one.items():
        exact = np.asarray(value).dtype.kind == "i"
        np.testing.assert_allclose(np.asarray(value), np.asarray(other[name]), atol=0 if exact else 2e-5, rtol=0, err_msg=name)
    return {name: np.asarray(value) for name, value in one.items()}


# What each place means, written out by hand.
MERGE = "bipartite_merge(h, token_map(batch=B, tokens=T), h, r=2)"
BY_HAND = {
    "around_attention": (
        PRE,
        f"""h = layer_norm(x) as n1
        z, m = {MERGE}
        x = x + unmerge(self_attention(z, heads=2) as attn, m)
        x = x + mlp(layer_norm(x) as n2, hidden=16) as mlp""",
    ),
    "around_attention of post-norm": (
        POST,
        f"""h = x
        z, m = {MERGE}
        x = layer_norm(x + unmerge(self_attention(z, heads=2) as attn, m)) as n1
        x = layer_norm(x + mlp(x, hidden=16) as mlp) as n2""",
    ),
    "around_block": (
        PRE,
        f"""h = x
        z, m = {MERGE}
        z = z + self_attention(layer_norm(z) as n1, bias=log(unsqueeze(m.size, [1, 2])), heads=2) as attn
        x = unmerge(z + mlp(layer_norm(z) as n2, hidden=16) as mlp, m)""",
    ),
    "around_block of post-norm": (
        POST,
        f"""h = x
        z, m = {MERGE}
        z = layer_norm(z + self_attention(z, heads=2) as attn) as n1
        x = unmerge(layer_norm(z + mlp(z, hidden=16) as mlp) as n2, m)""",
    ),
}


@pytest.mark.parametrize("tokens", ["T", "9"])
@pytest.mark.parametrize("name", BY_HAND)
def test_a_place_is_what_one_would_write_by_hand(name: str, tokens: str) -> None:
    plain, by_hand = BY_HAND[name]
    module = encoder(plain, tokens)
    options: dict[str, Any] = {"place": name.split()[0], "proportional": "bias=" in by_hand}
    reduced, (report,) = passed(module, MergeTokens(r=2, **options))
    assert report.modified == 4
    want = run(encoder(by_hand, tokens), weights_of(module), x=X)
    found = run(reduced, weights_of(module), x=X)
    for key, value in want.items():
        np.testing.assert_allclose(found[key], value, atol=2e-5, err_msg=key)
    assert loads(print_module(reduced)).difference(reduced) is None
    both(reduced, x=X)


@pytest.mark.parametrize("options", [{"begin": 1, "end": 2}, {"begin": 0, "end": -1}, {"end": 1}, {"begin": 2}], ids=str)
@pytest.mark.parametrize("kind", [PRE, POST], ids=["pre", "post"])
def test_nothing_to_reduce_changes_nothing(kind: str, options: dict[str, int]) -> None:
    assert apply(encoder(kind), "merge_tokens", r=0, **options)[0] == encoder(kind)


@pytest.mark.parametrize("tokens", ["T", "9"])
@pytest.mark.parametrize("kind", [PRE, POST], ids=["pre", "post"])
def test_every_token_is_back_behind_a_region(kind: str, tokens: str) -> None:
    module = encoder(kind, tokens)
    reduced, (report,) = passed(module, MergeTokens(r=4, begin=1, end=2, map=True))
    assert [[len(s) for s in report.facts["tokens"]], report.facts["blocks"]] == [[2], [1, 2]]
    found = both(reduced, x=X)
    assert found["y"].shape == (2, 9, 8)
    assert (found["token_size"].sum(1) == 9).all()
    # Behind the region all of the tokens of one cluster are one, whatever they were.
    alone, _ = passed(module, MergeTokens(r=4, begin=1, end=3, map=True))
    out = run(alone, weights_of(module), x=X)
    for row in range(2):
        owner = out["token_source"][row]
        rest = out["y"][row] - 2 * X[row]
        np.testing.assert_allclose(rest, rest[[int(np.flatnonzero(owner == o)[0]) for o in owner]], atol=1e-6)


@pytest.mark.parametrize("tokens", ["T", "9"])
def test_regions_in_a_row_are_what_one_would_write_by_hand(tokens: str) -> None:
    """The second pass finds the tokens of the first one back."""
    module = encoder(tokens=tokens)
    options = {"r": 2, "proportional": False}
    reduced, _ = run_pipeline(module, [MergeTokens(begin=b, end=b, **options) for b in (2, 0, 3, 1)], verify_each=True)  # type: ignore[arg-type]
    again = loads(print_module(reduced))
    assert again.difference(reduced) is None
    hand = BY_HAND["around_block"][1].replace(", bias=log(unsqueeze(m.size, [1, 2]))", "")
    want = run(encoder(hand, tokens), weights_of(module), x=X)
    for key, value in run(again, weights_of(module), x=X).items():
        np.testing.assert_allclose(value, want[key], atol=2e-5, err_msg=key)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_pass_may_reduce_within_a_region_of_another(order: tuple[int, int]) -> None:
    """In whichever order: within a region of clusters, some of them are dropped; all tokens are back in the end."""
    steps = [MergeTokens(r=3, begin=1, end=2, map=True), PruneTokens(r=2, blocks=(1,))]
    module = encoder(tokens="9")
    if order == (1, 0):
        with pytest.raises(Diagnostic, match="a pass before reduced tokens within this region") as caught:
            run_pipeline(module, [steps[i] for i in order])
        assert caught.value.code == "E0710"
        return
    reduced, _ = run_pipeline(module, [steps[i] for i in order], verify_each=True)
    assert both(loads(print_module(reduced)), x=X)["y"].shape == (2, 9, 8)


def test_padding_stays_padding_in_a_region() -> None:
    text = ENCODER.replace("x: f32[B, T, 8])", "x: f32[B, T, 8], keep: bool[B, T])").replace("BLOCK", PRE)
    text = text.replace("as n1, heads", "as n1, unsqueeze(keep, [1, 2]), heads")
    module, keep = loads(text), np.arange(9) < np.array([[9], [6]])
    for options in ({"place": "around_attention"}, {"begin": 1, "end": 2}):
        reduced, _ = passed(module, MergeTokens(r=2, map=True, **options))  # type: ignore[arg-type]
        whole = run(reduced, weights_of(module), x=X, keep=keep)
        np.testing.assert_array_equal(whole["token_size"].sum(1), [9, 6])
        # What padding holds is nobody's business.
        other = np.where(keep[..., None], X, 7.0)
        changed = run(reduced, weights_of(module), x=other, keep=keep)["y"]
        np.testing.assert_allclose(np.where(keep[..., None], changed, 0), np.where(keep[..., None], whole["y"], 0), atol=1e-5)


def test_gradients_flow_through_a_region() -> None:
    torch = pytest.importorskip("torch")
    from tessera.backends.torch import build

    module = encoder(tokens="9")
    reduced, _ = apply(module, "merge_tokens", r=3, begin=1, end=2)
    x = torch.tensor(X, requires_grad=True)
    build(reduced, weights_of(module))(x=x)["y"].square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad.abs().sum(-1) > 0).all()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({"begin": 4}, "E0704", "`begin` of the pass `merge_tokens` names block 4, but the model has 4"),
        ({"end": -5}, "E0704", "`end` of the pass `merge_tokens` names block -5"),
        ({"begin": 3, "end": 1}, "E0705", "begins in front of block 3 and ends behind block 1"),
        ({"begin": 1, "blocks": (1,)}, "E0705", "`begin` says where tokens leave, and `blocks` says it too"),
        ({"begin": 1, "place": "block"}, "E0705", "`begin` says where tokens leave, and `place` says it too"),
        ({"blocks": (3,), "end": 2}, "E0705", "`blocks` names block 3, which lies behind `end=2`"),
        ({"end": 2, "place": "around_block"}, "E0705", "so that there is no `end`"),
        ({"back": "std.token.cluster.reconstruct"}, "E0705", "no `end` says where that is"),
        ({"begin": 1, "end": 2, "back": "rebuild"}, "E0201", "declares no op `rebuild`"),
        ({"begin": 1, "end": 2, "back": "std.nn.gelu"}, "E0716", "its first operand must be the features"),
        ({"begin": 1, "end": 2, "back": "std.token.unmerge"}, "E0716", "its first operand must be the features"),
        ({"begin": 1, "end": 2, "back": "std.token.by_mass"}, "E0716", "it must return the features of every token"),
        ({"begin": 1, "end": 2, "back": "mine.tess:odd"}, "E0716", "nothing is known of its operand `colour`"),
        ({"begin": 1, "metric": "keys"}, "E0705", "no attention stands in front"),
    ],
)  # fmt: skip
def test_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], code: str, message: str) -> None:
    (tmp_path / "mine.tess").write_text(
        "use std.token (TokenMap)\nop odd(x: float[B, T, D], map: TokenMap[B, N, T], colour: float[B, N, D]) -> float[B, N, D]"
        " { return colour }", encoding="utf-8",
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Diagnostic) as caught:
        apply(encoder(), "merge_tokens", r=2, **options)
    assert (caught.value.code, message in caught.value.message) == (code, True), caught.value.message


def test_causal_blocks_are_no_region_of_merged_tokens() -> None:
    module = encoder(PRE.replace("heads=2", "heads=2, causal=true"))
    with pytest.raises(Diagnostic, match="attends causally") as caught:
        apply(module, "merge_tokens", r=2, begin=1, end=2)
    assert caught.value.code == "E0708"
    reduced, _ = passed(module, PruneTokens(r=2, begin=1, end=2, method="random"))
    assert both(reduced, x=X)["y"].shape == (2, 9, 8)
