"""ZeTT: what a card asks of `seeds/zett`. The trained network: `zett_training.py` makes it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from shutil import copyfile

import numpy as np
import pytest
from tokenizers import Tokenizer, models

import tessera as ts
from tessera.backends.torch import build
from tessera.benchmarks.minilm_quality import cosine
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module
from tessera.runtime.weights.bind import initialise

from . import adapting, zett_training
from .test_tokenadapt import byte_pairs, word_piece

TARGETS = ("torch", "onnx")
SMALL = {"vocab": 40, "dim": 16, "hidden": 16}
RNG = np.random.default_rng(0)
# Seven tokens, spelled by one, two, ... old ones.
ROWS, PARTS = zett_training.padded([[int(i) for i in RNG.integers(0, 40, n)] for n in range(1, 8)], 7)
IDS = RNG.integers(0, 7, (3, 9))
# Two letters, and nothing for what is unknown.
LETTERS = Tokenizer(models.BPE({"a": 0, "b": 1}, [])).to_str().encode()
SECOND = """
tokenizer second {
    special ["[PAD]", "[CLS]", "[SEP]"]
    split byte_level
    model bpe(vocab=6000)
    process template(single=["[CLS]", "$A", "[SEP]"], pair=["[CLS]", "$A", "[SEP]", "$B:1", "[SEP]:1"])
    decode byte_level
    pad longest
    train "domain/*.txt"
    from "second.json"
}
"""


def small(tied: bool = True) -> Module:
    return ts.load("zett", "zett_lm", {**SMALL, "tied": tied})


def drawn(module: Module, seed: int = 0) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in initialise(module.graph, seed).items()}


def gradients(module: Module, weights: dict[str, np.ndarray], wanted: np.ndarray) -> dict[str, np.ndarray]:
    """Of a loss of the next tokens, by the weights of the networks."""
    import torch

    net = build(module, weights, trainable=True)
    given = {"ids": IDS, "rows": ROWS, "weights": PARTS}
    logits = net(**{name: torch.as_tensor(value) for name, value in given.items()})["logits"]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.as_tensor(wanted).flatten()).backward()
    return {n: p.grad.numpy() for n, p in net.named_parameters() if "hypernet" in n and p.grad is not None}


def test_gradients_reach_the_network_through_both_ends() -> None:
    """Of a tied table: what comes through the embedding, and what through the head, added."""
    tied, untied = small(), small(tied=False)
    weights = {**drawn(tied), "embed.weight": RNG.standard_normal((40, 16)).astype(np.float32)}
    same = {**weights, "head.weight": weights["embed.weight"]}
    same |= {f"head_{name}": value for name, value in weights.items() if name.startswith("hypernet")}
    wanted = RNG.integers(0, 7, IDS.shape)
    whole, parts = gradients(tied, weights, wanted), gradients(untied, same, wanted)
    assert len(whole) > 30
    for name, value in whole.items():
        np.testing.assert_allclose(value, parts[name] + parts[f"head_{name}"], atol=1e-5)
    for end in ("hypernet.outer.weight", "head_hypernet.outer.weight"):
        assert np.abs(parts[end]).max() > 1e-4


@pytest.mark.parametrize("tied", [True, False])
def test_backends_agree_on_a_vocabulary_of_any_size(tied: bool) -> None:
    module = small(tied)
    made = [ts.compile(module, target=target, weights=drawn(module), verify=False) for target in TARGETS]
    for size in (7, 5):
        given = {"ids": IDS % size, "rows": ROWS[:size], "weights": PARTS[:size]}
        one, other = (np.asarray(run(**given)["logits"]) for run in made)
        assert one.shape == (*IDS.shape, size)
        np.testing.assert_allclose(other, one, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_a_token_of_one_piece_is_that_one_and_others_see_nothing_of_it(target: str) -> None:
    module = ts.load("zett", "zett_rows", {"dim": 16, "hidden": 16})
    run = ts.compile(module, target=target, weights=drawn(module), verify=False)
    old = RNG.standard_normal((40, 16)).astype(np.float32)
    found = np.asarray(run(old=old, rows=ROWS, weights=PARTS)["output"])
    assert found[0].tobytes() == old[ROWS[0, 0]].tobytes()
    assert np.abs(found[1:] - (old[ROWS] * PARTS[:, :, None]).sum(1)[1:]).max() > 1e-3
    alone = [np.asarray(run(old=old, rows=ROWS[i : i + 1], weights=PARTS[i : i + 1])["output"])[0] for i in range(7)]
    np.testing.assert_allclose(np.stack(alone), found, atol=1e-5)
    # What stands behind the last piece is nothing.
    other = np.where(PARTS > 0, ROWS, 39)
    np.testing.assert_allclose(np.asarray(run(old=old, rows=other, weights=PARTS)["output"]), found, atol=1e-6)


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_more_tokens_than_the_bucket_are_refused(target: str) -> None:
    module = ts.load("zett", "zett", {**SMALL, "positions": 16, "depth": 1, "heads": 2, "inner": 16, "bucket": 6})
    run = ts.compile(module, target=target, weights=drawn(module), verify=False)
    given = {"input_ids": IDS % 6, "attention_mask": np.ones_like(IDS)}
    assert np.isfinite(np.asarray(run(**given, rows=ROWS[:6], weights=PARTS[:6])["embedding"])).all()
    with pytest.raises(Diagnostic, match="the new tokenizer has more tokens than the bucket"):
        run(**given, rows=ROWS, weights=PARTS)


def test_an_untied_head_without_its_table_is_refused() -> None:
    text = """
use seeds.zett (both_ends)

model m(old: f32[40, 16], rows: i64[V, K], weights: f32[V, K]) -> (f32[V, 16], f32[V, 16]) {
    return both_ends(old, rows, weights, tied=false, hidden=16)
}
"""
    with pytest.raises(Diagnostic, match=r"E0501.*an untied head needs the table that its rows are made of"):
        ts.loads(text)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"", b"", "E1003"),
        (LETTERS, byte_pairs([b"\xe2\x82"]), "E1014.*nothing in `old.json` stands for the token"),
        (word_piece(["[UNK]", "a"]), word_piece(["[UNK]", "a", "##"]), "E1014.*`##`, which has no bytes"),
    ],
    ids=["none", "bytes", "special"],
)
def test_tokens_that_nothing_spells_are_refused(old: bytes, new: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_bytes(old)
    (tmp_path / "new.json").write_bytes(new)
    with pytest.raises(Diagnostic, match=said):
        ts.spell_tokens(tmp_path / "new.json", tmp_path / "old.json")


def test_pieces_are_at_least_one(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / f"{name}.json").write_bytes(word_piece(["[UNK]", "a", "##b", "ab"]))
    with pytest.raises(Diagnostic, match=r"E0011.*`pieces`"):
        ts.spell_tokens(tmp_path / "new.json", tmp_path / "old.json", pieces=0)


def test_spellings_are_cut_where_they_are_too_long(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_bytes(word_piece(["[UNK]", "a", "##b"]))
    (tmp_path / "new.json").write_bytes(word_piece(["[UNK]", "abbb", "ab", "a"]))
    rows, parts = ts.spell_tokens(tmp_path / "new.json", tmp_path / "old.json", pieces=3)
    assert rows.tolist() == [[0, 0, 0], [1, 2, 2], [1, 2, 0], [1, 0, 0]]
    np.testing.assert_allclose(parts, [[1, 0, 0], [1 / 3] * 3, [1 / 2, 1 / 2, 0], [1, 0, 0]], atol=1e-6)
    assert (rows.dtype, parts.dtype) == (np.int64, np.float32)


# MiniLM ---------------------------------------------------------------------------------------------------------------


def within(tokenizer: Path, texts: list[str], target: str) -> np.ndarray:
    """Embeddings by the model whose table is made within the graph, all texts at once."""
    rows, parts = ts.spell_tokens(tokenizer, adapting.minilm_folder() / "tokenizer.json")
    network = {f"embeddings.{name}": value for name, value in zett_training.trained().items()}
    run = ts.compile(ts.load("zett"), target=target, weights={**adapting.weights(), **network}, verify=False)
    found = ts.open_tokenizer(tokenizer).encode(texts)
    length = int(found.count.max())
    given = {"input_ids": found.ids[:, :length], "attention_mask": found.mask[:, :length].astype(np.int64)}
    return np.asarray(run(**given, rows=rows, weights=parts)["embedding"])


@cache
def wanted(count: int) -> np.ndarray:
    return adapting.embed(adapting.original(), adapting.minilm_folder() / "tokenizer.json", adapting.sentences(count))


def predicted(tokenizer: Path, count: int) -> float:
    made = adapting.with_table(zett_training.rows_of(tokenizer))
    return cosine(adapting.embed(made, tokenizer, adapting.sentences(count)), wanted(count))


@pytest.mark.slow
def test_the_old_tokenizer_gives_the_model_as_it_was() -> None:
    found = within(adapting.minilm_folder() / "tokenizer.json", adapting.sentences(16), "onnx")
    assert cosine(found, wanted(16)) >= 0.999


@pytest.mark.slow
def test_the_table_within_the_graph_is_the_one_made_before() -> None:
    texts = adapting.sentences(16)
    one, other = (within(adapting.PAGES, texts, target) for target in TARGETS)
    np.testing.assert_allclose(other, one, atol=1e-4)
    made = adapting.embed(adapting.with_table(zett_training.rows_of(adapting.PAGES)), adapting.PAGES, texts)
    np.testing.assert_allclose(one, made, atol=1e-4)


@pytest.mark.slow
def test_predicted_rows_are_nearer_than_means() -> None:
    found = {**adapting.transferred(96, ("mean",)), "hypernet": predicted(adapting.PAGES, 96)}
    print(found)
    assert found["hypernet"] > found["mean"] + 0.01


@pytest.mark.extended
def test_the_order_of_all_ways() -> None:
    found = {**adapting.transferred(512, ("random", "mean", "hybrid")), "hypernet": predicted(adapting.PAGES, 512)}
    print({way: round(value, 4) for way, value in found.items()})
    assert found["random"] < found["mean"] < found["hybrid"]
    # 0.946 and 0.945 where it was measured; pages differ from machine to machine.
    assert found["hypernet"] > max(found["mean"] + 0.01, found["hybrid"] - 0.003)


def second() -> Path:
    """A tokenizer of another kind: pairs of bytes, upper case and all, of the same pages."""
    folder = adapting.empty_folder("second-")
    adapting.write_corpus(folder)
    (folder / "second.tess").write_text(SECOND)
    ts.train_tokenizer(folder / "second.tess")
    return folder / "second.json"


@pytest.mark.slow
def test_a_second_tokenizer_that_it_never_saw() -> None:
    path = second()
    found = {**adapting.transferred(96, ("mean",), path), "hypernet": predicted(path, 96)}
    print(found)
    assert found["hypernet"] > found["mean"]


@pytest.mark.extended
def test_training_gives_such_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(zett_training, "NETWORK", tmp_path / "zett.safetensors")
    zett_training.write()
    found = predicted(adapting.PAGES, 96)
    copyfile(Path(__file__).parent / "data/zett.safetensors", tmp_path / "zett.safetensors")
    assert found == pytest.approx(predicted(adapting.PAGES, 96), abs=0.01)
