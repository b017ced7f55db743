"""DySpec's row: the model's own text and distribution, trees read at once, and what its trees gain, and where they lose."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import tessera as ts
from tessera.runtime.generate.decoder import Decoder
from tessera.runtime.generate.speculative.line import Line
from tessera.runtime.generate.speculative.tree import ROOT, Tree, accepted

from .dyspec_training import SIZES, text

DATA = Path(__file__).parent / "data"
TARGETS = ("torch", "onnx")


@cache
def model(name: str, target: str) -> Any:
    """The model or the draft, trained on Python source."""
    weights = {n: v.astype(np.float32) for n, v in load_file(DATA / f"dyspec_{name}.safetensors").items()}
    return ts.compile(ts.load("dyspec", params=SIZES[name]), target=target, weights=weights, verify=False).program


@cache
def part(name: str, target: str) -> Any:
    return ts.compile(ts.load("dyspec", name), target=target, verify=False)


def prompts(count: int, length: int = 40) -> list[list[int]]:
    """Places of modules that the models were not trained on."""
    held_back = text(2)
    places = np.random.default_rng(0).integers(0, len(held_back) - length, count)
    return [[int(i) for i in held_back[p : p + length]] for p in places]


def generated(shape: str, target: str = "onnx", **how: Any) -> tuple[list[list[int]], float]:
    """The tokens of each prompt, and how many a pass of the model makes."""
    found: Any = ts.generate(model("model", target), draft=model("draft", target), shape=shape, **how)
    passes = sum(completion.passes for completion in found)
    return [c.tokens for c in found], (sum(len(c.tokens) for c in found) - len(found)) / passes


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_at_temperature_0_the_text_is_the_models_own(target: str) -> None:
    given = prompts(2)
    plain: Any = ts.generate(model("model", target), given, max_tokens=24)
    found, a_pass = generated("dynamic", target, prompts=given, max_tokens=24, budget=12)
    assert found == [c.tokens for c in plain]
    assert a_pass > 1.5


def first_words(target: str, count: int, nodes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """The first words of trees that grow side by side and are judged, and their probabilities by the model."""
    rng = np.random.default_rng(3)
    words = 7
    ours = rng.dirichlet(np.full(words, 0.7), words + 1).astype(np.float32)
    theirs = (0.5 * ours + 0.5 * rng.dirichlet(np.ones(words), words + 1)).astype(np.float32)
    # Row `words` is behind the root, the others behind a word.
    value = np.zeros((count, 2 * nodes + 1), np.float32)
    value[:, 0] = 1
    rest = np.zeros((count, 2 * nodes + 1, words), np.float32)
    rest[:, 0] = theirs[words]
    above = np.full((count, 2 * nodes + 1), -1)
    open = np.zeros(value.shape, bool)
    open[:, 0] = True
    row = np.arange(count)
    parent, token, drawn = [], [], []
    for node in range(nodes):
        found = part("grow", target)(value=value, open=open, rest=rest, seed=node)
        slot = found["slot"]
        parent.append(above[row, slot])
        token.append(found["token"])
        drawn.append(rest[row, slot])
        open[row, slot] = False
        for at, worth, left, behind in (
            (2 * node + 1, found["child"], theirs[found["token"]], np.full(count, node)),
            (2 * node + 2, found["sibling"], found["left"], parent[-1]),
        ):
            value[:, at], rest[:, at], above[:, at] = worth, left, behind
            open[:, at] = left.sum(1) > 0.5
    target_rows = np.stack([np.tile(ours[words], (count, 1)), *(ours[t] for t in token)], axis=1)
    judged = part("judge", target)(
        parent=np.stack(parent, 1), token=np.stack(token, 1), drawn=np.stack(drawn, 1), target=target_rows, seed=100
    )
    taken, top = judged["taken"], np.stack(parent, 1) == ROOT
    assert (taken.sum(1) == judged["count"]).all()
    assert ((taken & top).sum(1) <= 1).all()
    first = np.where((taken & top).any(1), np.stack(token, 1)[row, (taken & top).argmax(1)], judged["next"])
    return first, ours[words].astype(np.float64)


@pytest.mark.parametrize("target", TARGETS)
def test_20_000_first_words_have_the_models_distribution(target: str) -> None:
    first, p = first_words(target, 20_000)
    found = np.bincount(first, minlength=len(p))
    statistic = float(((found - 20_000 * p) ** 2 / (20_000 * p)).sum())
    free = len(p) - 1
    assert statistic < free * (1 - 2 / (9 * free) + 3.719 * (2 / (9 * free)) ** 0.5) ** 3


def test_backends_draw_and_walk_alike() -> None:
    np.testing.assert_array_equal(first_words("torch", 200)[0], first_words("onnx", 200)[0])


@pytest.mark.parametrize("target", TARGETS)
def test_the_mask_and_the_walk_are_those_of_the_runtime(target: str) -> None:
    rng = np.random.default_rng(1)
    for nodes in (1, 5, 17):
        tree = Tree()
        for i in range(nodes):
            tree.add(int(rng.integers(-1, i)), int(rng.integers(0, 5)), np.full(5, 0.2))
        parent = np.array([tree.parents])
        seen = part("tree_mask", target)(parent=parent)["seen"][0]
        np.testing.assert_array_equal(seen, tree.ancestors(1)[1:, 1:])
        best = np.eye(5, dtype=np.float32)[rng.integers(0, 5, nodes + 1)]
        found = part("judge", target)(
            parent=parent, token=np.array([tree.tokens]), drawn=np.full((1, nodes, 5), 0.2, np.float32), target=best[None], seed=2
        )
        path, token = accepted(tree, lambda path, best=best: best[path[-1] + 1 if path else 0], lambda: 0.5)  # type: ignore[misc]
        assert (np.flatnonzero(found["taken"][0]).tolist(), int(found["next"][0])) == (path, token)


@pytest.mark.parametrize("target", TARGETS)
def test_a_tree_pass_is_its_paths_to_1e_5(target: str) -> None:
    rng = np.random.default_rng(2)
    tree = Tree()
    for i in range(20):
        tree.add(int(rng.integers(-1, i)), int(rng.integers(0, 128)), np.full(128, 1 / 128))
    ids = prompts(1)[0]
    line = Line(Decoder(model("model", target)), 96, trees=True)
    line.start(ids[:-1], {})
    rows = line.tree([ids[-1], *tree.tokens], [0, *tree.depths], tree.ancestors(1))
    for node in range(0, len(tree), 3):
        path = [*ids, *(tree.tokens[i] for i in tree.path(node))]
        alone = model("model", target).prefill(input_ids=[path], sizes={"C": 96})["logits"][0, -1]
        np.testing.assert_allclose(rows[node + 1], alone, rtol=1e-5, atol=1e-5)


def passes(temperature: float, shape: str, **how: Any) -> float:
    """Tokens a pass of the model, over 24 prompts."""
    return generated(shape, prompts=prompts(24), max_tokens=48, temperature=temperature, seed=1, **how)[1]


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.2])
def test_what_the_trees_gain_at_a_low_temperature(temperature: float) -> None:
    """Beside the best of chains and of fixed trees, which nobody knows before."""
    dynamic = passes(temperature, "dynamic", budget=64)
    fixed = [passes(temperature, "tree", budget=64, width=width) for width in (2, 3)]
    assert dynamic >= 1.2 * max(*fixed, *(passes(temperature, "chain", budget=budget) for budget in (8, 16, 32, 64)))


@pytest.mark.slow
def test_where_the_trees_lose() -> None:
    """At temperature 1 the draft's probabilities choose the likely, where the unlikely would be accepted as well."""
    assert passes(1.0, "dynamic", budget=64) < passes(1.0, "tree", budget=64, width=2)
