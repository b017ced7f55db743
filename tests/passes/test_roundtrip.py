"""Every model of the zoo, after every pass: legal IR, and source that reads back as the same module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tessera.frontends.source import load, loads, print_module
from tessera.frontends.source.syntax import ast
from tessera.frontends.source.syntax.parser import parse
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module
from tessera.ir.verifier import verify
from tessera.passes.engine import apply, registry
from tessera.passes.report import Report

ZOO = sorted((Path(__file__).resolve().parents[2] / "specs" / "zoo").glob("*.tess"))
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "merge_tokens": [{"r": 4, "protect": 2}, {"keep": 0.6, "protect": 2, "restore": True}],
    "prune_tokens": [{"r": 4}, {"keep": 0.6, "restore": True}, {"method": "random", "k": 7}],
    "cluster_tokens": [{"keep": 0.25, "begin": 0, "end": 1}],
    "select_kv": [{"k": 8}],
    "upcycle": [{"experts": 2}, {"experts": 4, "method": "split"}],
    "add_null_experts": [{"m": 2, "k": 3}],
    "prune_experts": [{"drop": [1]}],
    "merge_experts": [{"keep": 2}],
    "swap_router": [{"score": "sigmoid"}],
    "grow": [{"times": 2}],
    "attach_lora": [{"rank": 2}, {"rank": 2, "experts": 2}],
}
# What stands in the way of an approximate pass: no block, causal ones, too few tokens, a value that needs tokens in their places.
REFUSED = {"E0705", "E0707", "E0708", "E0709", "E0710"}
# What there is nothing of in a model (experts, feed-forward blocks, parameter tokens, a causal decoder), or none that will do.
MISSING = {"E0720", "E0721", "E0722", "E0724", "E0731", "E0732"}
SMALL = {"depth": 2, "text_depth": 2, "experts": 4, "k": 2, "groups": 2, "limit": 1, "dense": 1, "image_at": 3}
# A rewrite needs rules, which these files do not declare; tests/passes/rewrite/test_rewrite.py has its round trips.
PASSES = sorted(set(registry()) - {"rewrite"})


def round_trip(module: Module) -> None:
    for graph in module.functions.values():
        verify(graph)
    text = print_module(module)
    assert module.difference(loads(text)) is None, text


CAUSAL = ("gpt2", "llama")


def small(path: Path) -> list[Module]:
    """Every model of a file, of two blocks."""
    found = [i for i in parse(path.read_text("utf-8"), str(path)).items if isinstance(i, ast.Function) and i.kind == "model"]
    return [
        load(path, item.name, {name: SMALL[name] for name in SMALL.keys() & {static.name for static in item.statics}})
        for item in found
    ]


def attempted(module: Module, name: str, options: dict[str, Any]) -> tuple[Module, Report] | Diagnostic:
    try:
        return apply(module, name, **options)
    except Diagnostic as error:
        return error


@pytest.mark.parametrize("path", ZOO, ids=lambda p: p.stem)
@pytest.mark.parametrize("name", PASSES)
def test_pass(path: Path, name: str) -> None:
    for module in small(path):
        for options in OPTIONS.get(name, [{}]):
            made = attempted(module, name, options)
            if isinstance(made, Diagnostic):
                assert made.code in MISSING or registry()[name].contract == "approximate"
                assert made.code in REFUSED | MISSING, made
                continue
            after, report = made
            assert (report.modified > 0) == (module.difference(after) is not None)
            round_trip(after)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("merge_tokens", "vit"),
        ("merge_tokens", "bert"),
        ("prune_tokens", "llama"),
        ("cluster_tokens", "siglip"),
        ("select_kv", "llama"),
        ("upcycle", "vit"),
        ("add_null_experts", "mixtral"),
        ("prune_experts", "mixtral"),
        ("merge_experts", "mixtral"),
        ("swap_router", "mixtral"),
    ],
)
def test_passes_that_go_with_a_model_change_it(name: str, path: str) -> None:
    module = small(next(p for p in ZOO if p.stem == path))[0]
    for options in OPTIONS[name]:
        assert apply(module, name, **options)[1].modified


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_models_are_refused(name: str) -> None:
    for module in small(next(p for p in ZOO if p.stem == name)):
        with pytest.raises(Diagnostic, match="attends causally") as caught:
            apply(module, "merge_tokens", r=4)
        assert caught.value.code == "E0708"


REGIONS = """
model m(x: f32[B], p: bool[], q: f32[B]) -> (f32[B], f32[B]) {
    c = constant(2.0, dtype=f32)
    a = exp(q)
    b = exp(q)
    d = q * 1.0
    z = x
    y = x
    cond p from (y) {
        unused = d + 1.0
        y = y * c + b + d
    } else {
        y = y + a - d
    }
    fold i in 3 from (z) {
        z = z + b * c + a + d
    }
    i = constant(0, dtype=i64)
    while i < 3 and p from (i, z) limit 4 {
        unused = z + b
        z = z + b * c + a + d
        i = i + 1
    }
    return y, z
}
"""


def test_what_regions_capture_reads_back_after_every_pass() -> None:
    before = loads(REGIONS)
    round_trip(before)
    both = before
    for name in ("cse", "fold_constants", "dce", "inline"):
        round_trip(apply(before, name)[0])
        both, _ = apply(both, name)
        round_trip(both)
    # `a` is `b`, `d` is `q`, and what is unused is gone: each region captures only what it reads.
    assert [len(n.inputs) for n in both.graph.nodes() if n.bodies] == [5, 4, 6]


def test_all_passes_one_after_another() -> None:
    module = small(next(p for p in ZOO if p.stem == "bert"))[0]
    for name in ("merge_tokens", "inline", "fold_constants", "cse", "dce"):
        module, _ = apply(module, name, **(OPTIONS["merge_tokens"][0] if name == "merge_tokens" else {}))
        round_trip(module)
