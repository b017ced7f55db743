"""`swap_tokenizer`: the tables of another tokenizer's tokens are made of those that there are, on every backend alike."""

from __future__ import annotations

import base64
import json
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import tessera as ts
from tessera.driver.read import read_model
from tessera.ir.compiling import PassSpec
from tessera.ir.diagnostics import Diagnostic
from tessera.passes.engine import apply
from tessera.runtime.tokenizers import exchange
from tessera.runtime.tokenizers.exchange import exchanged
from tessera.runtime.tokenizers.surfaces import surface
from tessera.runtime.weights.bind import initialise
from tessera.tests.runtime.tokenizers.published import FAMILIES

SMALL = {"dim": 16, "depth": 1, "heads": 2, "hidden": 16}
OLD = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "token", "##s", "##ized", "mod", "##el", "s", "a"]
NEW = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "tokens", "the", "##els", "##s", "tokenized", "zq", "##ized"]
MODELS: list[tuple[str, str, dict[str, Any]]] = [
    ("gpt2", "gpt2_lm", {**SMALL, "positions": 32}), ("llama", "llama_lm", {**SMALL, "kv_heads": 2}),
    ("llama", "llama_lm", {**SMALL, "kv_heads": 2, "tied": True}), ("bert", "bert", {**SMALL, "positions": 32}),
]  # fmt: skip


def word_piece(tokens: list[str]) -> bytes:
    own = Tokenizer(models.WordPiece({token: number for number, token in enumerate(tokens)}, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.decoder = decoders.WordPiece()
    own.add_special_tokens([token for token in tokens if token.startswith("[")])
    return own.to_str().encode()


@cache
def family(name: str) -> bytes:
    return FAMILIES[name]().to_str().encode()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "old.json").write_bytes(word_piece(OLD))
    (tmp_path / "new.json").write_bytes(word_piece(NEW))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(folder: Path, module: Any) -> np.ndarray:
    """What each new token is made of, [N, old]: the one sparse matrix, whole."""
    (recipe,) = module.recipes.values()
    _, ids, weights = recipe.operands
    kinds = (".json", ".model", ".safetensors", ".tess:ranks", ".tess:pieces")
    where = [str(folder / text) if text.endswith(kinds) else text for text in ids.init.args]
    numbers, parts = (exchanged(made.shape, *where[:-1], made.init.args[-1]) for made in (ids, weights))
    matrix = np.zeros((len(numbers), 800), np.float32)
    for column in range(numbers.shape[1]):
        matrix[np.arange(len(numbers)), numbers[:, column]] += parts[:, column]
    return matrix


def small(vocab: int) -> Any:
    return ts.load("zoo/bert", "bert", {**SMALL, "positions": 32, "vocab": vocab})


def test_what_tokens_are_made_of(folder: Path) -> None:
    after, report = apply(small(len(OLD)), "swap_tokenizer", to="new.json", old="old.json")
    matrix = rows(folder, after)
    made = [{OLD[i]: round(float(row[i]), 3) for i in np.flatnonzero(row)} for row in matrix]
    assert made == [
        {"[UNK]": 1}, {"[CLS]": 1}, {"[SEP]": 1}, {"[PAD]": 1}, {"token": 0.5, "##s": 0.5}, {"the": 1}, {"[UNK]": 1}, {"##s": 1},
        {"token": 0.5, "##ized": 0.5}, {"[UNK]": 1}, {"##ized": 1},
    ]  # fmt: skip
    facts = {name: report.facts[name] for name in ("tokens", "shared", "special", "pieced", "unknown")}
    assert facts == {"tokens": 11, "shared": 3, "special": 4, "pieced": 2, "unknown": 2}


@pytest.mark.parametrize(("file", "name", "params"), MODELS, ids=["tied", "untied", "llama_tied", "encoder"])
@pytest.mark.parametrize("target", ["onnx", pytest.param("torch", marks=pytest.mark.extended)])
def test_models_compute_with_the_rows(folder: Path, file: str, name: str, params: dict[str, Any], target: str) -> None:
    before = ts.load(f"zoo/{file}", name, {**params, "vocab": len(OLD)})
    values = {n: t.numpy() for n, t in initialise(before.graph, 3).items()}
    options = {"to": "new.json", "old": "old.json", "multiple": 8}
    after, report = apply(before, "swap_tokenizer", **options)
    text = ts.source(after)
    (folder / "after.tess").write_text(text, encoding="utf-8")
    assert ts.load(folder / "after.tess").difference(after) is None
    matrix = rows(folder, apply(small(len(OLD)), "swap_tokenizer", to="new.json", old="old.json")[0])[:, : len(OLD)]
    plain = ts.load(f"zoo/{file}", name, {**params, "vocab": len(NEW)})
    tables = set(report.facts["tables"])
    swapped = {n: matrix @ array if n in tables else array for n, array in values.items()}
    feeds = {"input_ids": np.arange(22).reshape(2, 11) % len(NEW)}
    if name == "bert":
        feeds |= {"attention_mask": np.ones((2, 11), np.int64), "token_type_ids": np.zeros((2, 11), np.int64)}
    want = ts.compile(plain, target=target, weights=swapped, verify=False)(**feeds)
    found = ts.compile(before, target=target, weights=values, passes=[PassSpec("swap_tokenizer", options)])
    assert found.report.verified
    for key, array in found(**feeds).items():
        np.testing.assert_allclose(array, want[key], rtol=2e-4, atol=2e-5)
    assert len(tables) == (2 if name == "llama_lm" and "tied" not in params else 1)


@pytest.mark.extended
@pytest.mark.parametrize(("old", "new"), [*permutations(["bert_uncased", "gpt2", "llama2", "t5", "xlm_r", "clip"], 2)])
def test_families_one_for_another(old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of a row add up to 1, shared tokens stand for the same text, and pieces for the whole of it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.json").write_bytes(family(old))
    (tmp_path / "new.json").write_bytes(family(new))
    sides = {name: ts.open_tokenizer(f"{name}.json") for name in ("old", "new")}
    declared = {name: ts.load_tokenizer(f"{name}.json") for name in sides}
    anchor = next(token.text for token in declared["old"].added if token.special)
    special = [f"{token.text}={anchor}" for token in declared["new"].added if token.special]
    unknown = dict(declared["new"].model.options).get("unknown")
    special += [] if unknown is None or f"{unknown}={anchor}" in special else [f"{unknown}={anchor}"]
    try:
        after, _ = apply(small(sides["old"].size), "swap_tokenizer", to="new.json", old="old.json", special=special)
    except Diagnostic as error:
        # Bytes of GPT-2 have no counterpart in a vocabulary without bytes and without an unknown token.
        assert (error.code, "for what is unknown" in error.message) == ("E1014", True)  # noqa: PT017
        return
    matrix = rows(tmp_path, after)[:, : sides["old"].size]
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-5)
    texts = {name: {number: text for text, number in side.vocabulary().items()} for name, side in sides.items()}
    same = 0
    for number, row in enumerate(matrix):
        (parts,) = np.nonzero(row)
        mine = surface(declared["new"], texts["new"][number])
        theirs = [surface(declared["old"], texts["old"][int(part)]) for part in parts]
        same += len(parts) == 1 and theirs[0].data == mine.data
        if mine.data.isalpha() and declared["new"].added and texts["new"][number] not in {t.text for t in declared["new"].added}:
            assert all(piece.data.lower() in mine.data.lower() for piece in theirs), texts["new"][number]
    assert same > 30


def vectors(folder: Path) -> str:
    rng = np.random.default_rng(0)
    known: dict[str, np.ndarray] = {}

    def encode(texts: list[str]) -> np.ndarray:
        return np.stack([known.setdefault(text, rng.standard_normal(8).astype(np.float32)) for text in texts])

    ts.embed_tokens("new.json", "old.json", encode, folder / "phi.safetensors")
    return "phi.safetensors"


def test_transplant(folder: Path) -> None:
    """As the paper has it, computed here once more for one token."""
    phi = vectors(folder)
    options = {"to": "new.json", "old": "old.json", "method": "transplant", "phi": phi, "k": 2, "tau": 0.5, "g": 0.25}
    after, _ = apply(small(len(OLD)), "swap_tokenizer", **options)
    matrix = rows(folder, after)[:, : len(OLD)]
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    from safetensors.numpy import load_file

    made = {name: array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-9) for name, array in load_file(phi).items()}

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x) / np.exp(x).sum()

    own = made["new"][NEW.index("tokenized")]
    pieces = [OLD.index("token"), OLD.index("##ized")]
    local = softmax((softmax(made["old"][pieces] @ own) + np.array([5, 4]) / 9) / 2 / 0.5)
    texts = [i for i, token in enumerate(OLD) if not token.startswith("[")]
    near = sorted(texts, key=lambda i: -float(made["old"][i] @ own))[:2]
    scores = made["old"][near] @ own
    shares = softmax(scores / 0.5) * (scores > 0)
    wanted = np.zeros(len(OLD), np.float32)
    np.add.at(wanted, pieces, 0.75 * local)
    np.add.at(wanted, near, 0.25 * shares / shares.sum())
    np.testing.assert_allclose(matrix[NEW.index("tokenized")], wanted, atol=1e-6)
    # Shared rows are copied, bit by bit.
    bits = np.random.default_rng(1).standard_normal((len(OLD), 16)).astype(np.float32)
    bits[OLD.index("the"), 0] = -0.0
    for target in ("torch", "onnx"):
        artifact = ts.compile(
            lookup(folder), target=target, weights={"embed": bits}, passes=[PassSpec("swap_tokenizer", options)], verify=False
        )
        found = artifact(ids=np.arange(len(NEW))[None])["output"][0]
        assert found[NEW.index("the")].tobytes() == bits[OLD.index("the")].tobytes()
        np.testing.assert_allclose(found, matrix @ bits, atol=1e-5)


def lookup(folder: Path) -> Any:
    (folder / "lookup.tess").write_text(f"""
model m(ids: token[{len(OLD)}, B, T]) -> f32[B, T, 16] {{
    param embed: f32[{len(OLD)}, 16] = normal(0.02)
    return take(embed, ids)
}}
""")
    return ts.load(folder / "lookup.tess")


def test_ids_are_of_the_new_vocabulary(folder: Path) -> None:
    after, _ = apply(lookup(folder), "swap_tokenizer", to="new.json", old="old.json")
    vocabulary = after.graph.inputs[0].vocabulary
    assert vocabulary is not None
    assert vocabulary.size == len(NEW)


def test_an_import_of_onnx_is_swapped_as_the_spec(folder: Path) -> None:
    before = ts.load("zoo/llama", "llama_lm", {**SMALL, "kv_heads": 2, "vocab": len(OLD)})
    values = {n: t.numpy() for n, t in initialise(before.graph, 3).items()}
    ts.compile(before, target="onnx", weights=values, output=folder / "m.onnx", verify=False)
    options = {"to": "new.json", "old": "old.json"}
    feeds = {"input_ids": np.arange(22).reshape(2, 11) % len(NEW)}
    want = ts.compile(before, target="onnx", weights=values, passes=[PassSpec("swap_tokenizer", options)])(**feeds)["logits"]
    imported = read_model(folder / "m.onnx")
    steps = [PassSpec("swap_tokenizer", options)]
    found = ts.compile(imported.module, target="onnx", weights=imported.weights, passes=steps)(**feeds)
    np.testing.assert_allclose(next(iter(found.values())), want, rtol=1e-4, atol=1e-5)


SWAP = {"to": "new.json", "old": "old.json"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "new.json"}, "E0705.*not told `old`"),
        ({**SWAP, "to": "none.json"}, "E0001.*no file `none.json`"),
        ({**SWAP, "tau": 0.0, "method": "transplant"}, "E0704.*`tau`.*above 0"),
        ({**SWAP, "g": 1.5, "method": "transplant"}, "E0704.*`g`.*from 0 to 1"),
        ({**SWAP, "method": "transplant"}, "E1014.*needs what a model of texts makes"),
        ({**SWAP, "method": "transplant", "phi": "phi", "k": 40}, "E1014.*40 neighbours"),
        ({**SWAP, "method": "transplant", "phi": "other"}, "E1014.*no vector for each of the 11 new tokens"),
        ({**SWAP, "special": ["[X]=[CLS]"]}, "E1014.*`.X.` is no special token of `new.json`"),
        ({**SWAP, "special": ["[CLS]=[X]"]}, "E1014.*no token `.X.` in the old"),
        ({**SWAP, "special": ["[CLS]"]}, "E0704.*says of no token"),
        ({**SWAP, "special": ["[CLS]=[SEP]", "[CLS]=[UNK]"]}, "E0704.*two tokens are to stand for `.CLS.`"),
        ({**SWAP, "phi": "phi"}, "E0705.*`method=mean` does not read `phi`"),
        ({**SWAP, "k": 3}, "E0705.*`method=mean` does not read `k`"),
        ({**SWAP, "g": 0.3}, "E0705.*`method=mean` does not read `g`"),
        ({**SWAP, "tau": 0.3}, "E0705.*`method=mean` does not read `tau`"),
        ({**SWAP, "threshold": 0.0}, "E0705.*`method=mean` does not read `threshold`"),
        ({**SWAP, "to": "declared.tess"}, "E0001.*no file `declared.tess`"),
        ({"to": "old.json", "old": "new.json"}, "E0725.*no embedding of 11 tokens"),
    ],
)  # fmt: skip
def test_what_does_not_fit(options: dict[str, Any], said: str, folder: Path) -> None:
    if options.get("phi") == "phi":
        options = {**options, "phi": vectors(folder)}
    elif "phi" in options:
        from safetensors.numpy import save_file

        save_file({"new": np.zeros((3, 4), np.float32), "old": np.zeros((12, 4), np.float32)}, "other")
    with pytest.raises(Diagnostic, match=said):
        apply(small(len(OLD)), "swap_tokenizer", **options)


@pytest.mark.parametrize(
    ("encode", "batch", "said"),
    [
        (lambda texts: None, 4, "E1014.*no vector for each text"),
        (lambda texts: [1.0] * len(texts), 4, "E1014.*no vector for each text"),
        (lambda texts: [[1.0] * len(text) for text in texts], 4, "E1014.*no vector for each text"),
        (lambda texts: np.ones((len(texts), len(texts))), 4, "E1014.*no vector for each text"),
        (lambda texts: np.ones((1, 2)), 4, "E1014.*no vector for each text"),
        (lambda texts: np.ones((len(texts), 2)), 0, "E0011.*`batch` is how many"),
    ],
)  # fmt: skip
def test_vectors_that_are_none(encode: Any, batch: int, said: str, folder: Path) -> None:
    with pytest.raises(Diagnostic, match=said):
        ts.embed_tokens("new.json", "old.json", encode, folder / "phi.safetensors", batch=batch)
    assert not (folder / "phi.safetensors").exists()


def test_a_special_token_without_a_counterpart_is_named(folder: Path) -> None:
    whole = json.loads(word_piece([*NEW, "[X]"]))
    (folder / "new.json").write_text(json.dumps(whole))
    with pytest.raises(Diagnostic, match=r"E1014.*nothing is known to stand for the special token `.X.`"):
        apply(small(len(OLD)), "swap_tokenizer", **SWAP)
    after, _ = apply(small(len(OLD)), "swap_tokenizer", **SWAP, special=["[X]=[SEP]"])
    assert rows(folder, after)[-1, OLD.index("[SEP]")] == 1


def test_ids_that_are_compared_are_refused(folder: Path) -> None:
    text = f"""
model m(ids: i64[B, T]) -> f32[B, T, 2] {{
    param embed: f32[{len(OLD)}, 2] = normal(0.02)
    return take(embed, ids) * unsqueeze(cast(ids != 0, f32), axis=2)
}}
"""
    with pytest.raises(Diagnostic, match=r"E0725.*`ids` is more than places in `embed`: `ne` reads ids of the old"):
        apply(ts.loads(text), "swap_tokenizer", **SWAP)


DECLARED = """
tokenizer pieces {
    from "new.json"
}

tokenizer ranks {
    special "<end>" = 257
    split byte_level(space=false, regex=false)
    decode byte_level
    from "bytes.tiktoken"
}
"""


def test_tokenizers_that_are_declared(folder: Path) -> None:
    """One of several in a file is as its tables alone; of ranks there is nothing but a declaration."""
    (folder / "all.tess").write_text(DECLARED)
    plain, _ = apply(small(len(OLD)), "swap_tokenizer", **SWAP)
    named, report = apply(small(len(OLD)), "swap_tokenizer", **{**SWAP, "to": "all.tess:pieces"})
    np.testing.assert_array_equal(rows(folder, named), rows(folder, plain))
    assert report.facts["tokens"] == len(NEW)
    table = {bytes([byte]): byte for byte in range(256)} | {b"the": 256}
    lines = [base64.b64encode(token) + b" " + str(rank).encode() for token, rank in table.items()]
    (folder / "bytes.tiktoken").write_bytes(b"\n".join(lines))
    ranked, report = apply(
        small(len(OLD)), "swap_tokenizer", **{**SWAP, "to": "all.tess:ranks", "special": ["<end>=[SEP]"]}
    )
    found = rows(folder, ranked)
    assert len(found) == 258
    assert [np.flatnonzero(found[number]).tolist() for number in (256, 257, ord("a"), 0xFF)] == [
        [OLD.index("the")], [OLD.index("[SEP]")], [OLD.index("a")], [OLD.index("[UNK]")]
    ]  # fmt: skip
    (folder / "after.tess").write_text(ts.source(ranked))
    assert ts.load(folder / "after.tess").difference(ranked) is None
    # What is declared is part of what the model was made with.
    (folder / "all.tess").write_text((folder / "all.tess").read_text() + "\n")
    exchange._made.cache_clear()
    with pytest.raises(Diagnostic, match=r"E1004.*`all.tess:ranks` is another file"):
        rows(folder, ranked)


def test_marks_and_spaces_of_pairs_of_bytes(folder: Path) -> None:
    """Where words are cut around marks, a mark begins one; a space is a byte, though nothing may be left of it."""
    old = [*OLD, ".", "##."]
    (folder / "old.json").write_bytes(word_piece(old))
    characters = {chr(0x100 + 32): 0, ".": 1, "s": 2}
    own = Tokenizer(models.BPE(characters, []))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    (folder / "new.json").write_text(own.to_str())
    found = rows(folder, apply(small(len(old)), "swap_tokenizer", **SWAP)[0])
    assert [np.flatnonzero(row).tolist() for row in found] == [[OLD.index("[UNK]")], [old.index(".")], [OLD.index("##s")]]
    ended = {"\u0120</w>": 0, "s</w>": 1}
    own = Tokenizer(models.BPE(ended, [], end_of_word_suffix="</w>"))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    (folder / "new.json").write_text(own.to_str())
    found = rows(folder, apply(small(len(old)), "swap_tokenizer", **SWAP)[0])
    assert [np.flatnonzero(row).tolist() for row in found] == [[OLD.index("[UNK]")], [OLD.index("##s")]]


def test_a_file_that_changed_is_refused(folder: Path) -> None:
    before = lookup(folder)
    after, _ = apply(before, "swap_tokenizer", **SWAP)
    (folder / "new.json").write_bytes(word_piece([*NEW, "extra"]))
    exchange._made.cache_clear()
    weights = {"embed": np.zeros((len(OLD), 16), np.float32)}
    with pytest.raises(Diagnostic, match=r"E1004.*`new.json` is another file than the model was made with"):
        ts.compile(after, target="torch", weights=weights)
