"""A tree of drafted tokens behind a cache is what its paths are: positions, windows and biases are those of depth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.runtime.generate.decoder import Decoder
from tessera.runtime.generate.speculative.line import Line
from tessera.runtime.generate.speculative.tree import Tree

from .test_add_cache import ATTENDING, SMALL, ZOO

KINDS = ("rope", "window", "mask", "alibi", "capped")
CASES = [("rope", "onnx")]
FURTHER = [(name, target) for name in (*KINDS, *ZOO) for target in ("torch", "onnx") if (name, target) not in CASES]


def check(name: str, target: str, storage: str = "none", lost: float = 2e-5) -> None:
    rng = np.random.default_rng(3)
    if name in ZOO:
        module = ts.load(name, params={**SMALL, **ZOO[name]}).clone()
    else:
        module = ts.loads(ATTENDING, params={"kind": name}).clone()
    module.recipes = {}
    weights = {
        n: rng.normal(0, 0.3, [int(d) for d in p.type.shape]).astype(np.float32) for n, p in module.parameters().items()
    }
    model = ts.compile(module, target="torch", weights=weights, verify=False)
    steps: list[Any] = [f"add_cache(tree=true, storage={storage})"]
    program = ts.compile(module, target=target, weights=weights, passes=steps, renames=[]).program
    assert program.entries == ["prefill", "decode", "commit", "verify"]

    def whole(ids: list[int]) -> np.ndarray:
        found: np.ndarray = model(np.array([ids]))["logits"][0, -1]
        return found

    tree = Tree()
    for i in range(8):
        tree.add(int(rng.integers(-1, i)), int(rng.integers(0, 40)), np.full(40, 1 / 40))
    ids = [int(i) for i in rng.integers(0, 40, 6)]
    line = Line(Decoder(program), 24, trees=True)
    line.start(ids[:-1], {})
    for _ in range(2):  # what is read twice is not moved on
        rows = line.tree([ids[-1], *tree.tokens], [0, *tree.depths], tree.ancestors(1))
    for node in range(len(tree)):
        path = [*ids, *(tree.tokens[i] for i in tree.path(node))]
        np.testing.assert_allclose(rows[node + 1], whole(path), atol=lost)
    kept = tree.path(7)
    line.commit([0, *(node + 1 for node in kept)])
    path = [*ids, *(tree.tokens[i] for i in kept), 7]
    np.testing.assert_allclose(line.read([7])[0], whole(path), atol=lost)


@pytest.mark.parametrize(("name", "target"), CASES)
def test_a_tree_is_its_paths(name: str, target: str) -> None:
    check(name, target)


@pytest.mark.extended
@pytest.mark.parametrize(("name", "target"), FURTHER)
def test_a_tree_is_its_paths_in_every_kind_of_decoder(name: str, target: str) -> None:
    check(name, target)


@pytest.mark.extended
@pytest.mark.parametrize(("storage", "lost"), [("f16", 0.02), ("i8", 0.3)])
def test_a_tree_is_its_paths_in_caches_that_hold_less(storage: str, lost: float) -> None:
    for target in ("torch", "onnx"):
        check("rope", target, storage, lost)

