"""Passes take the same work for each node, however many there are. Work is counted in function calls, not in time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from tessera.frontends.source import loads
from tessera.ir.analysis.cost import cost
from tessera.ir.graph import Module
from tessera.passes.engine import Pass
from tessera.passes.rewrite.rewrite import Rewrite
from tessera.passes.tidy.cse import CommonSubexpressions
from tessera.passes.tidy.dce import DeadCode
from tessera.passes.tidy.fold_constants import FoldConstants
from tessera.passes.tidy.inline import Inline
from tessera.passes.tokens.merge_tokens import MergeTokens

from ..graphs import chain, encoder

RULES = loads(
    "rewrite exact twice(x: float[...]) { neg(neg(x)) => x }\nmodel m(x: f32[4]) -> f32[4] { return x }"
).rules


def calls(run: Callable[[], Any]) -> int:
    """How many Python functions ``run`` calls."""
    count = 0

    def tick(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(tick)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


def work(make: Callable[[int], Module], what: Pass, size: int) -> float:
    module = make(size)
    nodes = len(module.graph)
    return calls(lambda: what.run(module)) / nodes


@pytest.mark.parametrize(
    "what", [FoldConstants(), CommonSubexpressions(), DeadCode(), Inline(), Rewrite(tuple(RULES.values()))]
)
def test_work_for_each_node(what: Pass) -> None:
    small, large = work(chain, what, 500), work(chain, what, 8000)
    assert large < small * 1.3


def test_merging_takes_the_same_work_for_each_block() -> None:
    work(encoder, MergeTokens(r=8), 2)  # bodies are elaborated once
    small, large = work(encoder, MergeTokens(r=8), 8), work(encoder, MergeTokens(r=8), 64)
    assert large < small * 1.3


def test_cost_takes_the_same_work_for_each_block() -> None:
    def each(blocks: int) -> float:
        module = encoder(blocks)
        return calls(lambda: cost(module.graph)) / blocks

    each(2)
    assert each(64) < each(8) * 1.3
