"""Drafts change how many passes the model makes, and never what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.runtime.generate.decoder import Decoder
from tessera.runtime.generate.sampling import draw
from tessera.runtime.generate.speculative.line import Line
from tessera.runtime.generate.speculative.tree import ROOT, SHAPES, Growth, Tree, accepted, grown, without

from .support import TARGETS, VOCAB, decoder, greedy, prompts, scores

# Toy models over a few words, by their probabilities behind a prefix ------------------------------------------------------

WORDS = 6


@cache
def table(seed: int, prefix: tuple[int, ...], sharp: float) -> np.ndarray:
    rng = np.random.default_rng([seed, len(prefix), *prefix])
    e = np.exp(sharp * rng.standard_normal(WORDS))
    e[rng.integers(0, WORDS)] = 0  # some words never come
    return e / e.sum()


def target(prefix: Sequence[int]) -> np.ndarray:
    return table(1, tuple(prefix), 1.5)


def draft(prefix: Sequence[int]) -> np.ndarray:
    return 0.6 * target(prefix) + 0.4 * table(2, tuple(prefix), 1.0)


def words_of(tree: Tree, path: Sequence[int]) -> list[int]:
    return [tree.tokens[node] for node in path]


def two_words(growth: Growth, rng: np.random.Generator, prune: Callable[[Tree], Tree] = lambda tree: tree) -> tuple[int, int]:
    """The first two words that come out of one round, a second one being drawn by itself where the round made one."""
    tree = prune(grown(growth, lambda tree, node: draft(words_of(tree, tree.path(node))), lambda p: draw(p, rng.random())))
    path, token = accepted(tree, lambda path: target(words_of(tree, path)), rng.random)
    made = [*words_of(tree, path), token]
    return (made[0], made[1]) if len(made) > 1 else (made[0], draw(target(made[:1]), rng.random()))


def misfit(growth: Growth, count: int, prune: Callable[[Tree], Tree] = lambda tree: tree) -> float:
    """The statistic of chi squared of pairs of words, by how much it exceeds what one in 10,000 does; below 0 where it does not."""
    rng = np.random.default_rng(9)
    found = np.zeros((WORDS, WORDS))
    for _ in range(count):
        found[two_words(growth, rng, prune)] += 1
    expected = count * np.stack([target([])[i] * target([i]) for i in range(WORDS)])
    likely = expected > 0
    assert not found[~likely].any()
    free = int(likely.sum()) - 1
    statistic = float((((found - expected) ** 2)[likely] / expected[likely]).sum())
    return statistic - free * (1 - 2 / (9 * free) + 3.719 * (2 / (9 * free)) ** 0.5) ** 3


GROWTHS = [Growth("chain", 3), Growth("tree", 6, 2), Growth("tree", 7, 3), Growth("dynamic", 6)]


@pytest.mark.parametrize("growth", GROWTHS[2:], ids=str)
def test_what_comes_out_has_the_models_distribution(growth: Growth) -> None:
    assert misfit(growth, 800) < 0


@pytest.mark.slow
@pytest.mark.parametrize("growth", GROWTHS, ids=str)
def test_what_comes_out_has_the_models_distribution_in_100_000_draws(growth: Growth) -> None:
    assert misfit(growth, 100_000) < 0


def test_a_slot_that_exists_because_of_its_token_is_noticed() -> None:
    """The rule that drawing behind the decision keeps: a tree that drops what it drew and does not like is not lossless."""

    def liked(tree: Tree) -> Tree:
        kept = Tree()
        for node in tree.children(ROOT):
            if tree.drawn[node][tree.tokens[node]] > 0.25:
                kept.add(ROOT, tree.tokens[node], tree.drawn[node])
        return kept

    assert misfit(Growth("tree", 4, 4), 1_500, liked) > 0


def test_whether_a_slot_exists_does_not_depend_on_its_token() -> None:
    """Parents and distributions of the first nodes are the same whatever is drawn for the last one."""
    for growth in GROWTHS:
        for last in range(WORDS):
            drawn: list[int] = []

            def choose(p: np.ndarray, drawn: list[int] = drawn, last: int = last, growth: Growth = growth) -> int:
                likely = np.flatnonzero(p)
                drawn.append(int(likely[last % len(likely)] if len(drawn) == growth.budget - 1 else likely[0]))
                return drawn[-1]

            tree = grown(growth, lambda tree, node: draft(words_of(tree, tree.path(node))), choose)
            first = grown(growth, lambda tree, node: draft(words_of(tree, tree.path(node))), lambda p: int(np.flatnonzero(p)[0]))
            assert tree.parents == first.parents
            assert all((a == b).all() for a, b in zip(tree.drawn, first.drawn, strict=True))


def test_shapes_of_trees() -> None:
    def tree(growth: Growth, p: Sequence[float]) -> list[int]:
        return grown(growth, lambda tree, node: np.array(p), lambda p: int(p.argmax())).parents

    assert tree(Growth("chain", 4), [0.6, 0.3, 0.1]) == [ROOT, 0, 1, 2]
    assert tree(Growth("tree", 8, 2), [0.6, 0.3, 0.1]) == [ROOT, ROOT, 0, 1, 0, 1, 2, 3]
    # A draft that is sure grows in depth, one that is not in breadth.
    assert tree(Growth("dynamic", 4), [0.98, 0.01, 0.01]) == [ROOT, 0, 1, 2]
    assert tree(Growth("dynamic", 3), [0.25, 0.25, 0.25, 0.25]) == [ROOT] * 3
    # Where nothing is left to draw, the tree is smaller.
    assert tree(Growth("tree", 9, 3), [1.0, 0.0]) == [ROOT, *range(8)]
    assert without(np.array([0.0, 1.0]), 1) is None


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tree_that_may_not_be_deep_spends_its_budget_in_breadth(shape: str) -> None:
    tree = grown(Growth(shape, 12, 3), lambda tree, node: draft(words_of(tree, tree.path(node))), lambda p: int(p.argmax()), 2)
    assert max(tree.depths) == 2
    assert len(tree) == (2 if shape == "chain" else 12)


def test_ancestors_are_those_of_the_parents() -> None:
    p = np.full(4, 0.25)
    tree = Tree()
    for parent, token in ((ROOT, 0), (ROOT, 1), (0, 2), (2, 3)):
        tree.add(parent, token, p)
    seen = tree.ancestors(2)
    assert [np.flatnonzero(row).tolist() for row in seen] == [[0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 2, 4], [0, 1, 2, 4, 5]]
    assert (tree.depths, tree.path(3), tree.children(ROOT)) == ([1, 1, 2, 3], [0, 2, 3], [0, 1])


SMALL = {"vocab": VOCAB, "dim": 16, "depth": 1, "heads": 2, "kv_heads": 1, "hidden": 32}

# Programs ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [pytest.param("torch", marks=pytest.mark.extended), "onnx"])
def test_best_tokens_are_the_models_own(target: str) -> None:
    given = prompts(5, 1, seed=4)
    expected = [greedy(ids, 14) for ids in given]
    for shape in SHAPES:
        found: Any = ts.generate(decoder(target), given, max_tokens=14, draft=decoder(target, 1), shape=shape, budget=5)
        assert [completion.tokens for completion in found] == expected
    # The model as its own draft: everything is accepted, six tokens a pass behind the first one.
    sure = ts.generate(decoder(target), given[0], max_tokens=14, draft=decoder(target), budget=5)
    assert (sure.tokens, sure.passes) == (expected[0], 3)


@pytest.mark.extended
@pytest.mark.parametrize("shape", SHAPES)
def test_a_seed_and_rules_and_a_constraint(shape: str) -> None:
    def odd(ids: list[int]) -> np.ndarray:
        return np.arange(VOCAB) % 2 == 1

    given = prompts(5, 3, seed=6)
    settings: dict[str, Any] = {"max_tokens": 12, "temperature": 0.8, "top_k": 20, "repetition_penalty": 1.2, "mask": odd}
    how: dict[str, Any] = {"draft": decoder("onnx", 1), "shape": shape, "budget": 4}
    found = [[c.tokens for c in ts.generate(decoder(t), given, seed=5, **settings, **how)] for t in TARGETS]
    assert found[0] == found[1]
    assert all(token % 2 for row in found[0] for token in row)
    best = ts.generate(decoder("onnx"), given, max_tokens=12, repetition_penalty=1.2, mask=odd)
    same = ts.generate(decoder("onnx"), given, max_tokens=12, repetition_penalty=1.2, mask=odd, **how)
    assert [c.tokens for c in same] == [c.tokens for c in best]


@pytest.mark.parametrize("target", TARGETS)
def test_a_tree_read_at_once_is_its_paths_read_one_by_one(target: str) -> None:
    rng, p = np.random.default_rng(1), np.full(VOCAB, 1 / VOCAB)
    tree = Tree()
    for i in range(9):
        tree.add(int(rng.integers(-1, i)), int(rng.integers(0, VOCAB)), p)
    ids = prompts(6)[0]
    line = Line(Decoder(decoder(target)), 64, trees=True)
    line.start(ids[:-1], {})
    rows = line.tree([ids[-1], *tree.tokens], [0, *tree.depths], tree.ancestors(1))
    for node in range(len(tree)):
        path = [*ids, *(tree.tokens[i] for i in tree.path(node))]
        np.testing.assert_allclose(rows[node + 1], scores(path)[-1], atol=2e-5)
    # One path is kept, and goes on.
    path = tree.path(8)
    line.commit([0, *(node + 1 for node in path)])
    assert line.length == len(ids) + len(path)
    np.testing.assert_allclose(line.read([7])[0], scores([*ids, *(tree.tokens[i] for i in path), 7])[-1], atol=2e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_rows_of_one_width_are_the_same_bits_however_many_count(target: str) -> None:
    ids = prompts(20, seed=8)[0]
    made = []
    for cut in ([1] * 12, [5, 1, 6], [3, 4, 5], [12]):
        line = Line(Decoder(decoder(target)), 48, trees=False)
        line.start(ids[:8], {})
        rows, at = [], 8
        for n in cut:
            rows.append(line.read(ids[at : at + n], width=12))
            at += n
        made.append(np.concatenate(rows))
    for other in made[1:]:
        np.testing.assert_array_equal(other, made[0])


@pytest.mark.parametrize("target", TARGETS)
def test_drafts_and_single_steps_of_one_width(target: str) -> None:
    given = prompts(5, 9, seed=2)
    model = ts.compile(ts.load("llama_lm", params=SMALL), passes=["add_cache"], target=target, verify=False).program
    bits = [Line(Decoder(model), 32, trees=False) for _ in range(2)]
    for line in bits:
        line.start(given[0], {})
    apart = np.concatenate([bits[0].read([token], width=6) for token in given[1][:4]])
    np.testing.assert_array_equal(bits[1].read(given[1][:4], width=6), apart)
    plain = ts.generate(model, given, max_tokens=10, rows=1, deterministic_rows=6)
    drafted = ts.generate(model, given, max_tokens=10, draft=decoder(target, 1), budget=5, deterministic_rows=6)
    assert [c.tokens for c in drafted] == [c.tokens for c in plain]


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"shape": "star"}, "there is no shape `star` of drafts"),
        ({"budget": 0}, "the budget of a draft is 0, and must be a whole number, at least 1"),
        ({"width": 0, "shape": "tree"}, "the width of a draft is 0"),
        ({"capacity": 10, "budget": 6}, "the cache holds 10 tokens: too few for 3 of the prompt, 4 to be made and 6"),
        ({"shape": "dynamic", "deterministic_rows": 8}, "does not compute what single steps do, bit for bit"),
        ({"budget": 4, "deterministic_rows": 4}, "a pass reads 5 tokens, more than `deterministic_rows`, 4"),
    ],
    ids=str,
)  # fmt: skip
def test_drafts_that_do_not_fit(how: dict[str, Any], text: str) -> None:
    with pytest.raises(ts.Diagnostic, match="E0954") as caught:
        ts.generate(decoder("onnx"), [1, 2, 3], max_tokens=4, draft=decoder("onnx", 1), **how)
    assert text in caught.value.message


def test_programs_that_do_not_fit() -> None:
    chain = ts.compile(ts.load("llama_lm", params=SMALL), passes=["add_cache"], verify=False)
    assert ts.generate(decoder("onnx"), [1, 2, 3], max_tokens=9, draft=chain).tokens == greedy([1, 2, 3], 9)
    for model, how, text in (
        (decoder("onnx", 0, vocab=32), {}, "the draft scores 32 tokens, and the model 64"),
        (chain, {"shape": "dynamic"}, "has no entry point `verify`, which reads trees of drafted tokens"),
    ):
        with pytest.raises(ts.Diagnostic, match="E0954") as caught:
            ts.generate(decoder("onnx"), [1, 2, 3], draft=model, **how)
        assert text in caught.value.message


@pytest.mark.parametrize(
    ("parent", "token", "text"), [(1, 2, "has the parent 1, which does not come before it"), (0, 0, "whose probability was 0")]
)
def test_a_tree_has_parents_first_and_tokens_that_can_be_drawn(parent: int, token: int, text: str) -> None:
    tree = Tree()
    tree.add(ROOT, 1, np.array([0.0, 0.5, 0.5]))
    with pytest.raises(ts.Diagnostic, match="E0954") as caught:
        tree.add(parent, token, np.array([0.0, 0.5, 0.5]))
    assert text in caught.value.message
