"""TokenAdapt: what a card asks of `seeds/tokenadapt`. The tokenizer of man pages: `adapting.py` makes it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import tessera as ts
from tessera.ir.compiling import PassSpec
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.recipe_functions import FUNCTIONS
from tessera.runtime.tokenizers.ranks import CHARACTERS
from tessera.runtime.tokenizers.sides import digest_of, open_side

from . import adapting

TARGETS = ("torch", "onnx")
OLD = ["[UNK]", "the", "token", "##s", "##ized", "mod", "##el", "s", "a"]
NEW = ["[UNK]", "tokens", "the", "##els", "##s", "tokenized", "##"]
LM = """
model tied(ids: token[9, B, T]) -> (logits: f32[B, T, 9]) {
    param embed: f32[9, 4] = normal(0.02)
    return take(embed, ids) @ transpose(embed, [1, 0])
}

model untied(ids: token[9, B, T]) -> (logits: f32[B, T, 9]) {
    param embed: f32[9, 4] = normal(0.02)
    param head: f32[9, 4] = normal(0.02)
    return take(embed, ids) @ transpose(head, [1, 0])
}
"""


def word_piece(tokens: list[str]) -> bytes:
    own = Tokenizer(models.WordPiece({token: number for number, token in enumerate(tokens)}, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    return own.to_str().encode()


def byte_pairs(tokens: list[bytes]) -> bytes:
    """All bytes, and tokens of several, each merged from its first byte on."""
    shown = ["".join(CHARACTERS[byte] for byte in token) for token in (*(bytes([b]) for b in range(256)), *tokens)]
    merges = [(text[:-1], text[-1]) for text in shown if len(text) > 1]
    own = Tokenizer(models.BPE({text: number for number, text in enumerate(shown)}, merges))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    return own.to_str().encode()


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, data in (("old", word_piece(OLD)), ("new", word_piece(NEW[:-1])), ("marked", word_piece(NEW))):
        (tmp_path / f"{name}.json").write_bytes(data)
    (tmp_path / "lm.tess").write_text(LM)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def swapped(**options: Any) -> PassSpec:
    return PassSpec("swap_tokenizer", {"to": "new.json", "old": "old.json", **options})


@pytest.mark.parametrize("target", [*TARGETS, pytest.param("triton", marks=pytest.mark.extended)])
def test_the_sums_within_a_graph_are_those_that_are_folded(target: str) -> None:
    rng = np.random.default_rng(0)
    old = rng.standard_normal((50, 16)).astype(np.float32)
    rows = rng.integers(0, 50, (30, 4))
    parts = rng.dirichlet(np.ones(4), 30).astype(np.float32)
    parts[:7] = [1, 0, 0, 0]
    run = ts.compile(ts.load("tokenadapt", model="transplanted"), target=target, verify=False)
    found = np.asarray(run(old=old, rows=rows, weights=parts)["output"])
    folded = FUNCTIONS["combine"].meaning([old, rows, parts], axis=0)
    np.testing.assert_allclose(found, folded, atol=1e-6)
    np.testing.assert_allclose(folded, np.einsum("nk,nkd->nd", parts, old[rows]), atol=1e-6)
    assert found[:7].tobytes() == folded[:7].tobytes() == old[rows[:7, 0]].tobytes()


def test_pieces_that_are_no_text_are_bytes(beside: Path) -> None:
    """Tokens of some of the bytes of a sign of three: where strings are compared they are lost."""
    (beside / "old.json").write_bytes(byte_pairs([b"\xe2\x82", b"\xe2\x82\xac"]))
    (beside / "new.json").write_bytes(byte_pairs([b"\x82\xac", b"\x82\xac!", b"\xe2\x82", b"\xe2\x82\xac"]))
    (beside / "m.tess").write_text(
        "model m(ids: token[258, B, T]) -> f32[B, T, 258] {\n"
        "    param table: f32[258, 258] = zeros\n    return take(table, ids)\n}\n"
    )
    run = ts.compile(
        ts.load(beside / "m.tess"), target="torch", weights={"table": np.eye(258, dtype=np.float32)}, passes=[swapped()]
    )
    made = np.asarray(run(ids=np.arange(260)[None])["output"])[0]
    halves = [{int(i): round(float(row[i]), 3) for i in np.flatnonzero(row)} for row in made[256:]]
    assert halves == [{0x82: 0.5, 0xAC: 0.5}, {0x21: 0.333, 0x82: 0.333, 0xAC: 0.333}, {256: 1.0}, {257: 1.0}]
    np.testing.assert_array_equal(made[:256], np.eye(256, 258))


@pytest.mark.parametrize("target", TARGETS)
def test_heads_are_made_as_embeddings_are(target: str, beside: Path) -> None:
    rng = np.random.default_rng(0)
    given = {name: rng.standard_normal((9, 4)).astype(np.float32) for name in ("embed", "head")}
    same = dict.fromkeys(given, given["embed"])
    ids = np.arange(6)[None]
    found = {
        (model, same_rows): np.asarray(
            ts.compile(
                ts.load(beside / "lm.tess", model=model), target=target, passes=[swapped()],
                weights={"embed": given["embed"]} if model == "tied" else same if same_rows else given,
            )(ids=ids)["logits"]
        )
        for model, same_rows in (("tied", True), ("untied", True), ("untied", False))
    }  # fmt: skip
    np.testing.assert_allclose(found["tied", True], found["untied", True], atol=1e-5)
    assert np.abs(found["untied", False] - found["untied", True]).max() > 0.1
    assert found["tied", True].shape == (1, 6, 6)


PHI = {"method": "transplant", "phi": "phi.safetensors"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({**PHI, "k": 9}, "E1014.*9 neighbours to be found among 8 tokens"),
        ({**PHI, "tau": 0.0}, "E0704.*`tau`.*above 0"),
        ({**PHI, "tau": -1.0}, "E0704.*`tau`.*above 0"),
        ({**PHI, "g": 1.1}, "E0704.*`g`.*from 0 to 1"),
        ({**PHI, "g": -0.1}, "E0704.*`g`.*from 0 to 1"),
        ({"method": "transplant"}, "E1014.*needs what a model of texts makes of the tokens"),
        ({"to": "marked.json"}, "E1014.*nothing is known to stand for .*`##`, which has no bytes"),
    ],
)
def test_bad_input_is_refused(options: dict[str, Any], said: str, beside: Path) -> None:
    ts.embed_tokens("new.json", "old.json", lambda texts: np.eye(len(texts), 20), beside / "phi.safetensors")
    with pytest.raises(Diagnostic, match=said):
        ts.apply(ts.load(beside / "lm.tess", model="tied"), "swap_tokenizer", **swapped(**options).options)


def test_a_token_without_bytes_is_told(beside: Path) -> None:
    options = swapped(to="marked.json", special=["##=[UNK]"]).options
    assert len(ts.apply(ts.load(beside / "lm.tess", model="tied"), "swap_tokenizer", **options).recipes) == 1


def test_a_head_of_its_own_needs_weights_of_its_own(beside: Path) -> None:
    given = {"embed": np.zeros((9, 4), np.float32)}
    with pytest.raises(Diagnostic, match=r"E0606.*1 missing\n.*head"):
        ts.compile(ts.load(beside / "lm.tess", model="untied"), target="torch", weights=given, passes=[swapped()])


# MiniLM ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shared_rows_are_copied_bit_by_bit() -> None:
    made, old = adapting.table("mean"), adapting.weights()[adapting.TABLE]
    shared = adapting.both()
    assert len(shared) == 4485
    assert made[list(shared)].tobytes() == old[list(shared.values())].tobytes()
    # The others are what the old tokenizer cuts them into, each piece as much.
    new, theirs = (open_side(str(p), digest_of(str(p))) for p in (adapting.PAGES, adapting.minilm_folder() / "tokenizer.json"))
    rest = [(text, number) for text, number in new.ids.items() if number not in shared and not text.startswith("##")]
    for text, number in rest[::50]:
        rows = theirs.engine.encode([text], around=False)
        ids = rows.ids[0, : rows.count[0]]
        np.testing.assert_allclose(made[number], old[ids].mean(0), atol=1e-6)


@pytest.mark.slow
def test_means_of_pieces_are_nearer_than_rows_at_random() -> None:
    found = adapting.transferred(64, ("random", "mean"))
    print(found)
    assert found["mean"] > found["random"] + 0.05


@pytest.mark.extended
def test_the_order_of_what_rows_are_made_of() -> None:
    found = adapting.transferred(512, ("random", *adapting.WAYS))
    print({way: round(value, 4) for way, value in found.items()})
    assert sorted(found, key=partial(found.__getitem__)) == ["random", "global", "mean", "local", "hybrid"]
    assert found["hybrid"] > found["mean"] + 0.005


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_the_compile_block_gives_the_transplanted_model(target: str) -> None:
    folder = adapting.folder()
    (folder / "phi.safetensors").write_bytes(adapting.vectors().read_bytes())
    texts = adapting.sentences(32)
    run = ts.compile(ts.load(folder / "adapt.tess", model="adapted"), target=target, weights=adapting.weights())
    found = adapting.embed(run, adapting.PAGES, texts)
    wanted = adapting.embed(adapting.with_table(adapting.table("hybrid")), adapting.PAGES, texts)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
def test_superwords_take_fewer_tokens() -> None:
    found = adapting.fewer("english")
    print(found)
    assert found["fewer"] >= 0.15
