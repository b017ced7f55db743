"""`prune_tokens`: the tokens that its method names stay as they are, on every backend; places, protection and laws."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tessera as ts
from tessera.frontends.source import load, loads, print_module
from tessera.frontends.source.elaborate.library import SPECS
from tessera.ir.diagnostics import Diagnostic
from tessera.passes.engine import apply
from tessera.passes.tokens import method
from tessera.passes.tokens.method import find_method, methods
from tessera.passes.tokens.prune_tokens import PruneTokens

from ..conftest import Arrays, passed, run, weights_of

# One block; what is pruned behind its attention meets a feature from before it again.
ONE = """
use std.attention (attention)
use std.nn (linear)

model one(x: f32[B, T, 8]) -> (y: f32[B, T, 8]{extra_type}) {{
    early = x * 2.0
    q = rearrange(linear(x, out=8) as q, "b t (h k) -> b h t k", h=2)
    a{extra} = attention(q, q, q{flag})
    x = x + rearrange(a, "b h t k -> b t (h k)")
    return x * 1.5 + early{result}
}}
"""
PLAIN = ONE.format(extra_type="", extra="", flag="", result="")
MASS = ONE.format(extra_type=", mass: f32[B, T]", extra=", mass", flag=", column_mass=true", result=", mass")


def tokens(count: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, count, 8)).astype(np.float32)


def best(score: np.ndarray, k: int) -> np.ndarray:
    """The k best of each row in their order; ties go to the lowest index."""
    return np.sort(np.argsort(-score, axis=1, kind="stable")[:, :k], axis=1)


@pytest.mark.parametrize("options", [{"r": 4}, {"k": 8}, {"keep": 0.66}])
def test_what_receives_most_attention_stays_as_it_is(options: dict[str, Any]) -> None:
    plain = loads(PLAIN)
    weights, x = weights_of(plain), tokens()
    full = run(loads(MASS), weights, x=x)
    pruned, _ = passed(plain, PruneTokens(map=True, **options))
    out = run(pruned, weights, x=x)
    kept = best(full["mass"], 8)
    # A feature that comes back from before is that of the same token, not a mean.
    np.testing.assert_allclose(out["y"], np.take_along_axis(full["y"], kept[..., None], axis=1), atol=1e-5)
    for row in range(2):
        np.testing.assert_array_equal(out["token_source"][row][kept[row]], np.arange(8))
    np.testing.assert_array_equal(out["token_size"], np.ones((2, 8)))


def test_a_dropped_token_is_restored_as_the_last_one_before_it() -> None:
    plain = loads(PLAIN)
    weights, x = weights_of(plain), tokens()
    short = run(passed(plain, PruneTokens(r=5, map=True))[0], weights, x=x)
    back = run(passed(plain, PruneTokens(r=5, restore=True))[0], weights, x=x)["y"]
    source = short["token_source"]
    assert (np.diff(source, axis=1) >= 0).all()
    np.testing.assert_array_equal(back, np.take_along_axis(short["y"], source[..., None], axis=1))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 2))
def test_shapes_of_every_size(count: int, r: int, protect: int) -> None:
    """One module for every number of tokens: as many leave as may."""
    module, _ = apply(loads(PLAIN), PruneTokens(r=r, protect=protect, map=True))
    out = run(module, weights_of(module), x=tokens(count))
    left = max(count - r, min(count, max(protect, 1))) if r else count
    assert out["y"].shape == (2, left, 8)
    assert np.isfinite(out["y"]).all()
    if r:
        assert (out["token_source"] < left).all()
        assert (out["token_source"][:, :protect] == np.arange(min(protect, count))).all()


def test_nothing_to_drop_is_the_identity() -> None:
    for options in ({"r": 0}, {"r": (0,)}, {"keep": 1.0}):
        same, report = apply(loads(PLAIN), "prune_tokens", **options)
        assert same == loads(PLAIN)
        assert report.modified == 0


SMALL: dict[str, Any] = {"dim": 16, "depth": 3, "heads": 2}
IDS = np.random.default_rng(1).integers(0, 50, (2, 12))
MASK = (np.arange(12) < np.array([[12], [8]])).astype(np.int64)
ZOO: dict[str, tuple[str, dict[str, Any], Arrays]] = {
    "vit": ("vit", {**SMALL, "hidden": 32, "size": 32, "patch": 8}, {"image": np.ones((2, 3, 32, 32), np.float32)}),
    "bert": ("bert", {**SMALL, "hidden": 32, "vocab": 50, "positions": 16},
             {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": np.zeros_like(IDS)}),
    "llama": ("llama_lm", {**SMALL, "hidden": 32, "vocab": 50, "kv_heads": 1}, {"input_ids": IDS}),
    "gpt2": ("gpt2_lm", {**SMALL, "vocab": 50}, {"input_ids": IDS}),
}  # fmt: skip


@pytest.mark.parametrize("options", [{"r": 2}, {"k": 6, "method": "random"}], ids=str)
@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_drops_the_same_tokens_on_torch_and_onnx(name: str, options: dict[str, Any]) -> None:
    model, params, feeds = ZOO[name]
    if name == "vit":
        feeds = {"image": np.random.default_rng(2).standard_normal((2, 3, 32, 32)).astype(np.float32)}
    module, (report,) = passed(load(SPECS / "zoo" / f"{name}.tess", model, params), PruneTokens(map=True, **options))
    assert loads(print_module(module)).difference(module) is None
    assert report.modified == (1 if "k" in options else 3)
    one, other = (ts.compile(module, target=t, passes=[], verify=False)(**feeds, seed=5) for t in ("torch", "onnx"))
    for key, value in one.items():
        if key.startswith("token_"):
            np.testing.assert_array_equal(np.asarray(value), np.asarray(other[key]))
        else:
            np.testing.assert_allclose(np.asarray(value), np.asarray(other[key]), atol=2e-4)
    if name in ("llama", "gpt2"):
        # What comes next is said by the last token.
        source = np.asarray(one["token_source"])
        assert (source[:, -1] == source.max()).all()
        assert (source[:, -2] < source[:, -1]).all()


def test_the_last_token_of_a_decoder_sees_the_places_it_saw() -> None:
    """Dropping in front of the last block what it ignores: rotary positions and the causal mask follow those that stay."""
    text = """
    use std.attention (attention, rope, rope_table)
    use std.nn (linear)
    model decoder(x: f32[B, T, 8], hidden: bool[B, T]) -> f32[B, 8] {
        cosine, sine = rope_table(unsqueeze(iota(T), 0), dim=4)
        repeat i in 2 as layers {
            q = rearrange(linear(x, out=8) as q, "b t (h k) -> b h t k", h=2)
            r = rope(q, cosine, sine)
            y = attention(r, r, q, unsqueeze(not hidden, [1, 2]), causal=true)
            x = x + rearrange(y, "b h t k -> b t (h k)")
        }
        return x[:, -1]
    }"""
    module = loads(text)
    weights, x = weights_of(module), tokens(9)
    hidden = np.zeros((2, 9), bool)
    hidden[0, [1, 2, 5]] = hidden[1, [0, 3, 6]] = True
    pruned, _ = passed(module, PruneTokens(r=(3,), blocks=(0,)))
    want, got = (run(m, weights, x=x, hidden=hidden)["output"] for m in (module, pruned))
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_what_is_read_by_its_place_stays_by_default() -> None:
    text = PLAIN.replace("y: f32[B, T, 8]", "c: f32[B, 8], d: f32[B, 8], last: f32[B, 8]")
    text = text.replace("return x * 1.5 + early", "return x[:, 0], x[:, 1] + early[:, 1], x[:, -1]")
    module = loads(text)
    weights, x = weights_of(module), tokens()
    pruned, _ = passed(module, PruneTokens(k=3))
    for key, want in run(module, weights, x=x).items():
        np.testing.assert_allclose(run(pruned, weights, x=x)[key], want, atol=1e-5)
    with pytest.raises(Diagnostic, match="this takes tokens") as caught:
        apply(module, "prune_tokens", k=3, protect=0)
    assert caught.value.code == "E0710"


def test_placed_behind_a_block_or_in_front_of_the_first() -> None:
    module = load(SPECS / "zoo" / "bert.tess", "bert", ZOO["bert"][1])
    weights, feeds = weights_of(module), ZOO["bert"][2]
    counts = {}
    for place, options in (("attention", {}), ("block", {}), ("start", {"method": "random"})):
        pruned, (report,) = passed(module, PruneTokens(r=2, place=place, **options))  # type: ignore[arg-type]
        counts[place] = report.facts["tokens"]
        noise = {
            v.name: np.random.default_rng(0).random((2, 12), np.float32)
            for v in pruned.graph.inputs
            if v.role == "random"
        }
        assert np.isfinite(run(pruned, weights, **feeds, **noise)["last_hidden_state"]).all()
    assert [len(c[0]) for c in counts.values()] == [4, 3, 2]
    with pytest.raises(Diagnostic, match="no attention stands in front") as caught:
        apply(module, "prune_tokens", r=2, place="start")
    assert caught.value.code == "E0705"
    with pytest.raises(Diagnostic, match=r"must be attention \| block \| start"):
        apply(module, "prune_tokens", r=2, place="middle")


# Methods of one's own -----------------------------------------------------------------------------------------------------

MINE = """use std.token (TokenMap, gather_tokens, keep_best, select_top)

## Keeps the longest tokens.
op longest(x: float[B, T, D], map: TokenMap[B, N, T], norms: float[B, T], *, k: int, protect: int = 0, power: real = 1.0)
    -> (float[B, k, D], TokenMap[B, N, k]) {
    require k <= T, "more tokens stay than there are"
    require k >= protect, "protected tokens stay"
    score = where(iota(T) < protect, inf, cast(norms, f32) ** power)
    kept = select_top(score, k=k)
    marks = scatter_set(full([B, T], 0, dtype=i64), kept, full([B, k], 1, dtype=i64), batch=1)
    new = maximum(cumsum(marks, axis=1) - 1, 0)
    position = gather(map.position, kept, axis=1)
    return gather_tokens(x, kept), TokenMap(source=gather(new, map.source, axis=1), size=gather(map.size, kept, axis=1),
        position=position, total=false, first=protect)
}

op no_map(x: float[B, T, D], *, r: int) -> float[B, T - r, D] { return x[:, r:] }
op no_budget(x: float[B, T, D], map: TokenMap[B, N, T]) -> (float[B, T, D], TokenMap[B, N, T]) { return x, map }
op unknown(x: float[B, T, D], map: TokenMap[B, N, T], colour: float[B, T], *, r: int)
    -> (float[B, T, D], TokenMap[B, N, T]) { return x, map }
op prompted(x: float[B, T, D], map: TokenMap[B, N, T], text: float[B, L, D], *, r: int)
    -> (float[B, T - r, D], TokenMap[B, N, T - r]) { return keep_best(x, map, text[:, 0, 0:1] + map.size, r=r, protect=0, last=0) }
op earlier(x: float[B, T, D], map: TokenMap[B, N, T], row_then: float[B, H, T], *, r: int, then: int = 1, protect: int = 0)
    -> (float[B, T - r, D], TokenMap[B, N, T - r]) { return keep_best(x, map, row_then[:, 0], r=r, protect=protect, last=0) }
op alone(x: float[B, T, D], map: TokenMap[B, N, T], *, r: int) -> float[B, T, D] { return x }
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.tess").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_method_of_ones_own_is_one_op(mine: Path) -> None:
    module = loads(PLAIN)
    weights, x = weights_of(module), tokens()
    pruned, _ = apply(module, "prune_tokens", method="mine.tess:longest", k=5, power=2.0, map=True)
    assert "op longest(" in print_module(pruned)
    assert loads(print_module(pruned)).difference(pruned) is None
    behind = (run(module, weights, x=x)["y"] - 2 * x) / 1.5
    kept = best(np.linalg.norm(behind, axis=-1), 5)
    out = run(pruned, weights, x=x)
    for row in range(2):
        np.testing.assert_array_equal(out["token_source"][row][kept[row]], np.arange(5))


def test_it_is_looked_for_beside_the_program(
    mine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any
) -> None:
    (mine / "one.tess").write_text(PLAIN, encoding="utf-8")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    module = load(mine / "one.tess")
    assert apply(module, "prune_tokens", method="mine.tess:longest", k=5)[1].modified == 1


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({"method": "mine.tess:no_map", "r": 2}, "E0716", "second operand must be the token map"),
        ({"method": "mine.tess:no_budget", "r": 2}, "E0716", "`r: int`, or how many stay, `k: int`"),
        ({"method": "mine.tess:unknown", "r": 2}, "E0716", "nothing is known of its operand `colour`"),
        ({"method": "mine.tess:prompted", "r": 2}, "E0705", "the option `text` names nothing"),
        ({"method": "mine.tess:prompted", "r": 2, "text": "y"}, "E0705", "has no input and no tap of that name"),
        ({"method": "mine.tess:prompted", "r": 2, "text": "x"}, "E0705", "is made from the tokens"),
        ({"method": "mine.tess:earlier", "r": 2}, "E0705", "asks for `row` of block 1, but"),
        ({"method": "mine.tess:alone", "r": 2}, "E0716", "it must return the features and the token map"),
        ({"method": "mine.tess:shortest", "r": 2}, "E0201", "declares no op `shortest`"),
        ({"method": "yours.tess:longest", "r": 2}, "E0001", "there is no file `yours.tess`"),
        ({"method": "by_mas", "r": 2}, "E0201", "there is no method `by_mas`"),
        ({"method": "std.nn.gelu", "r": 2}, "E0716", "its first operand must be the features"),
        ({"method": "mine.tess:longest", "k": 2, "colour": 1}, "E0702", "has no option `colour`"),
        ({"method": "mine.tess:longest", "k": 2, "power": "two"}, "E0703", "`power` of the pass `prune_tokens` must be real"),
        ({"r": 2, "colour": 1}, "E0702", "has no option `colour`"),
        ({"r": 2, "k": 4}, "E0705", "both `r` and `k`"),
        ({}, "E0705", "neither `r` nor `keep` nor `k`"),
    ],
)  # fmt: skip
def test_refused(mine: Path, options: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        apply(loads(PLAIN), "prune_tokens", **options)
    assert (caught.value.code, message in caught.value.message) == (code, True), caught.value.message


@pytest.mark.parametrize("tokens", ["T", "12"])
def test_a_span_leaves_a_decoder_at_a_layer(tokens: str) -> None:
    """An image within a prompt: as if it had been hidden from all layers behind that one."""
    text = """
    use std.attention (attention)
    use std.nn (linear)
    model decoder(x: f32[B, T, 8], seen: bool[B, T]) -> (y: f32[B, T, 8], last: f32[B, 8]) {
        repeat i in 3 as layers {
            q = rearrange(linear(x, out=8) as q, "b t (h k) -> b h t k", h=2)
            MASK
            x = x + rearrange(y, "b h t k -> b t (h k)")
        }
        return x, x[:, -1]
    }"""
    whole = """y = q
            if i < 1 {
                y = attention(q, q, q, causal=true)
            } else {
                y = attention(q, q, q, unsqueeze(seen, [1, 2]), causal=true)
            }"""
    plain, hidden = (
        loads(re.sub(r"\bT\b", tokens, text.replace("MASK", mask))) for mask in ("y = attention(q, q, q, causal=true)", whole)
    )
    weights, x = weights_of(plain), np.random.default_rng(0).standard_normal((2, 12, 8)).astype(np.float32)
    span = ("start", 3), ("r", 5)
    dropped, _ = passed(plain, PruneTokens(method="drop_span", r=span[1][1], begin=1, further=(span[0],), map=True))
    seen = np.ones((2, 12), bool)
    seen[:, 3:8] = False
    want, found = (run(m, weights, x=x, seen=seen) for m in (hidden, dropped))
    np.testing.assert_allclose(found["y"], want["y"][:, seen[0]], atol=1e-5)
    np.testing.assert_allclose(found["last"], want["last"], atol=1e-5)
    np.testing.assert_array_equal(found["token_source"][0], [0, 1, 2, 2, 2, 2, 2, 2, 3, 4, 5, 6])
    read = loads(PLAIN.replace("x * 1.5 + early", "(x * 1.5 + early)[:, 5:6] + x * 0.0"))
    with pytest.raises(Diagnostic, match="protect=0") as caught:
        apply(read, "prune_tokens", method="drop_span", r=4)
    assert caught.value.code == "E0710"


def test_shipped_methods_have_names_of_their_own() -> None:
    known = methods()
    assert {name: len(ops) for name, ops in known.items() if len(ops) > 1} == {}
    assert {"by_mass", "by_chance", "bipartite_merge"} <= known.keys()


def test_a_method_is_found_in_every_module_below_std_token(monkeypatch: pytest.MonkeyPatch) -> None:
    by_mass = methods()["by_mass"][0]
    moved = replace(by_mass, module="std.token.family", signature=replace(by_mass.signature, name="moved"))
    twin = replace(by_mass, module="std.token.family")
    monkeypatch.setattr(method, "ops_of", lambda name: [by_mass, moved, twin])
    assert find_method("moved", None, "prune_tokens") is moved
    with pytest.raises(Diagnostic, match="there are 2 methods `by_mass` for prune_tokens") as caught:
        find_method("by_mass", None, "prune_tokens")
    assert caught.value.code == "E0201"
    assert '"std.token.by_mass" or "std.token.family.by_mass"' in (caught.value.help or "")


@pytest.mark.parametrize(
    ("method", "help"), [("std.token:by_mass", "with a dot, `std.token.by_mass`"), ("mine:longest", "`mine.tess:longest`")]
)
def test_a_method_behind_a_colon_is_one_of_a_file(mine: Path, method: str, help: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        apply(loads(PLAIN), "prune_tokens", method=method, r=2)
    assert (caught.value.code, help in (caught.value.help or "")) == ("E0001", True)


def test_a_method_that_protects_nothing_is_told_how(mine: Path) -> None:
    sizes = {"size": 32, "patch": 8, "dim": 16, "depth": 1, "heads": 2, "hidden": 32, "classes": 3}
    vit = ts.load("zoo/vit", "vit_classifier", params=sizes)
    (mine / "mine.tess").write_text(MINE.replace("protect: int = 0, ", "").replace(
        'require k >= protect, "protected tokens stay"', "let protect = 0"), encoding="utf-8")  # fmt: skip
    with pytest.raises(Diagnostic) as caught:
        apply(vit, "prune_tokens", method="mine.tess:longest", k=5)
    assert caught.value.code == "E0710"
    assert "a static `protect: int = 0` of the method's op" in (caught.value.help or "")


def test_nothing_knows_a_method_by_its_name_but_its_pass() -> None:
    root = SPECS.parent
    known = {p.relative_to(root).as_posix() for p in root.rglob("*.py") if "tests" not in p.parts and "benchmarks" not in p.parts
             and ".venv" not in p.parts and "bipartite" in p.read_text(encoding="utf-8")}  # fmt: skip
    kernels = {f"kernels/{name}.py" for name in ("__init__", "plain", "tokens")}
    kernels |= {"backends/triton/claims.py", "backends/triton/fused.py"}
    assert known - {"ir/library.py", "frontends/source/__init__.py", *kernels} == {"passes/tokens/merge_tokens.py"}
    assert len((root / "passes/tokens/merge_tokens.py").read_text(encoding="utf-8").splitlines()) <= 80


def test_the_help_tells_methods() -> None:
    told = PruneTokens.method_help(None)
    assert "by_mass  Keeps the tokens that receive most attention" in told
    one = PruneTokens.method_help("by_mass")
    assert one.startswith("by_mass(x: float[B, T, D], map: TokenMap[B, N, T], column_mass: float[B, T], *, r: int")
    assert "column_mass: the attention that each token receives" in one
