"""Prompts side by side on one cache: the same tokens as without a cache, on every target, whatever runs beside them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

import tessera as ts
from tessera.runtime.generate.decoder import Decoder
from tessera.runtime.generate.engine import Engine, Request
from tessera.runtime.generate.sampling import Sampling, distribution, generator, pick

from .support import TARGETS, VOCAB, WORDS, decoder, greedy, prompts, scores, words


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return words(tmp_path_factory.mktemp("tokenizer"))


def tokens(found: Any) -> list[list[int]]:
    return [completion.tokens for completion in found]


@pytest.mark.parametrize("target", TARGETS)
def test_prompts_of_different_lengths_take_the_rows_of_those_that_are_done(target: str) -> None:
    given = prompts(5, 1, 9, 3, 7)
    expected = [greedy(ids, 10) for ids in given]
    for rows in (1, 2, 5):
        found = ts.generate(decoder(target), given, max_tokens=10, rows=rows)
        assert tokens(found) == expected
        assert {completion.finish for completion in found} == {"length"}


def test_a_seed_gives_the_same_tokens_on_every_target_and_beside_any_other() -> None:
    given = prompts(4, 6, 2, 5, seed=1)
    settings: dict[str, Any] = {"max_tokens": 12, "temperature": 1.0, "top_p": 0.95, "repetition_penalty": 1.1}
    found = [
        tokens(ts.generate(decoder(target), given, rows=rows, seed=7, **settings))
        for target, rows in (("torch", 1), ("torch", 3), ("onnx", 1), ("onnx", 4))
    ]
    assert found[1:] == found[:-1]
    assert tokens(ts.generate(decoder("onnx"), given, seed=8, **settings)) != found[0]
    assert len({tuple(row) for row in tokens(ts.generate(decoder("onnx"), [given[0]] * 4, seed=7, **settings))}) == 4


def test_requests_end_at_different_times_and_rows_are_never_mixed_up() -> None:
    engine = Engine(Decoder(decoder("onnx")), 3, 64)
    rng = np.random.default_rng(2)
    given = prompts(*(int(n) for n in rng.integers(1, 12, 14)), seed=3)
    counts = [int(n) for n in rng.integers(1, 9, len(given))]
    tickets = [engine.submit(Request(ids, count)) for ids, count in zip(given, counts, strict=True)]
    tickets[4].cancelled = True
    steps = 0
    while engine.busy:
        engine.step()
        assert engine.running <= 3
        steps += 1
        if steps == 2:
            running = next(t for t in engine._running if t is not None)
            running.cancelled = True
    for i, (ticket, count) in enumerate(zip(tickets, counts, strict=True)):
        if ticket.finish == "cancelled":
            assert i == 4 or ticket is running
        assert ticket.tokens == greedy(given[i], count)[: len(ticket.tokens)]
        assert ticket.finish == "cancelled" or len(ticket.tokens) == count
    # A row is never empty while a request waits.
    assert steps <= sum(counts) // 3 + 8


@pytest.mark.parametrize("target", TARGETS)
def test_text_stop_words_and_the_token_that_ends_it(target: str, tokenizer: Path) -> None:
    model, text = decoder(target), "w5 w9 w33"
    first = ts.generate(model, text, tokenizer=tokenizer, max_tokens=8)
    expected = greedy([5, 9, 33], 8)
    assert first.tokens == expected
    assert first.text == " " + " ".join(WORDS[i] for i in expected)
    word = WORDS[expected[3]]
    stopped = ts.generate(model, text, tokenizer=tokenizer, max_tokens=8, stop=[f" {word}"])
    assert stopped.finish == "stop"
    assert first.text.startswith(stopped.text)
    assert word not in stopped.text.split()
    ended = ts.generate(model, text, tokenizer=tokenizer, max_tokens=8, eos=[word])
    assert (ended.tokens, ended.finish) == (expected[: expected.index(expected[3])], "stop")
    pieces = list(ts.generate(model, [text, "w7"], tokenizer=tokenizer, max_tokens=8, stream=True))
    assert "".join(piece.text for piece in pieces if piece.prompt == 0) == first.text
    assert [piece.finish for piece in pieces if piece.finish] == ["length"] * 2
    assert {piece.prompt for piece in pieces[:4]} == {0, 1}


@pytest.mark.parametrize("target", TARGETS)
def test_a_constraint_sees_the_tokens_so_far(target: str) -> None:
    seen: list[list[int]] = []

    def even(ids: list[int]) -> np.ndarray | None:
        seen.append(ids)
        return np.arange(VOCAB) % 2 == len(ids) % 2 if len(ids) < 6 else None

    found = ts.generate(decoder(target), [5, 9, 33], max_tokens=5, mask=even)
    assert [token % 2 for token in found.tokens[:3]] == [1, 0, 1]
    assert seen[-1] == [5, 9, 33, *found.tokens[:-1]]
    best = np.where(np.arange(VOCAB) % 2 == 1, scores([5, 9, 33])[-1], -np.inf)
    assert found.tokens[0] == int(best.argmax())


def test_a_tokenizer_of_fewer_tokens_is_never_given_others(tmp_path: Path) -> None:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS[:20])}, unk_token="<s>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.save(str(tmp_path / "tokenizer.json"))
    found = ts.generate(decoder("torch"), ["w5 w9"] * 3, tokenizer=tmp_path, max_tokens=20, temperature=3.0, eos=[])
    assert max(token for completion in found for token in completion.tokens) < 20
    kept = ts.generate(
        decoder("torch"), "w5 w9", tokenizer=tmp_path, max_tokens=9, temperature=3.0, mask=lambda ids: np.arange(VOCAB) > 17, eos=[]
    )
    assert set(kept.tokens) <= {18, 19}


WITHOUT = """
use std.nn (embedding, linear)

model reader(ids: i64[B, T]) -> (logits: float[B, 8]) {
    return linear((embedding(ids, vocab=8, dim=4) as tok)[:, -1], out=8) as head
}

program chat {
    entry prefill = reader
    entry decode = reader
}
"""
SHARED = (Path(__file__).parents[2] / "programs" / "decoding.tess").read_text(encoding="utf-8")


def test_programs_that_cannot_be_decoded(tmp_path: Path) -> None:
    alone = ts.compile(ts.loads(WITHOUT, model="reader"), verify=False)
    alone.save(tmp_path / "alone.onnx")
    vectors = SHARED.replace("entry prompt", "entry prefill").replace("entry next", "entry decode")
    no_state = ts.compile(ts.loads(WITHOUT), verify=False)
    for model, text in (
        (tmp_path / "alone.onnx", "is no program with the entry points `prefill` and `decode`"),
        (alone, "is no program with the entry points"),
        (
            ts.compile(ts.loads(WITHOUT.replace("logits", "last_hidden_state")), verify=False),
            "`prefill` of `chat` gives `last_hidden_state`: features, no scores",
        ),
        (no_state, "`decode` of `chat` has no state"),
        (ts.compile(ts.loads(SHARED), verify=False), "has no entry point `prefill`: it has `prompt`, `next`"),
        (
            ts.compile(ts.loads(vectors), verify=False),
            "`prefill` of `decoding` takes no token ids, `i64[B, T]`, but `x: f32[B, S, 8]`",
        ),
    ):
        with pytest.raises(ts.Diagnostic, match="E0950") as caught:
            ts.generate(model, [1, 2])
        assert text in caught.value.message


def breaking(tokens: list[int]) -> np.ndarray:
    return np.ones(VOCAB, bool) if len(tokens) < 3 else dict[int, np.ndarray]()[tokens[-1]]


def stopping(tokens: list[int]) -> np.ndarray:
    raise ts.Diagnostic("E0955", "a constraint of its own words")


@pytest.mark.parametrize(
    ("mask", "text", "note"),
    [
        (breaking, "a constraint failed after 3 token(s): KeyError", "in `breaking`"),
        (lambda tokens: 1 // 0, "a constraint failed after 1 token(s): ZeroDivisionError", "in `<lambda>`"),
        (lambda: None, "a constraint failed after 1 token(s): TypeError", "in `constrained`"),
        (lambda tokens: [[True], [True, False]], "a constraint failed after 1 token(s): ValueError", "in `constrained`"),
        (stopping, "a constraint of its own words", None),
    ],
)
def test_a_constraint_that_fails_is_said_with_its_place(mask: Any, text: str, note: str | None) -> None:
    for stream in (False, True):
        with pytest.raises(ts.Diagnostic, match=re.escape(text)) as caught:
            list(ts.generate(decoder("onnx"), [1], mask=mask, stream=stream))
        assert caught.value.code == "E0955"
        assert [note in said.message for said in caught.value.notes] == ([True] if note is not None else [])


@pytest.mark.parametrize(
    ("prompt", "given", "code", "text"),
    [
        ([], {}, "E0951", "the prompt is empty"),
        ([3, 64], {}, "E0951", "the prompt has the token 64, and the model knows those from 0 to 63"),
        ([3, -1], {}, "E0951", "the prompt has the token -1"),
        ([3, 4.5], {}, "E0951", "a prompt is a text or a row of token ids, not float64[2]"),
        ([1] * 9, {"capacity": 16, "max_tokens": 9}, "E0951", "9 token(s), and 9 more are to be made: the cache holds 16"),
        ([1], {"capacity": 0}, "E0951", "a capacity of 0 holds no token"),
        ([1], {"max_tokens": 0}, "E0952", "`max_tokens` is 0"),
        ([1], {"rows": 0}, "E0952", "`rows` is 0"),
        ("w1", {}, "E0953", "a prompt is a text, and there is no tokenizer"),
        ([1], {"stop": "w1"}, "E0953", "stop words are texts, and there is no tokenizer"),
        ([1], {"eos": ["</s>"]}, "E0953", "`</s>` is a token by name, and there is no tokenizer"),
        ([1], {"inputs": {"image": np.zeros((2, 3))}}, "E0902", "`image` is [2, 3], and must have 1 rows, one a prompt"),
        ([1], {"inputs": {"image": np.zeros((1, 3))}}, "E0901", "no input `image`"),
        ([1], {"mask": lambda ids: np.zeros(VOCAB, bool)}, "E0955", "no token is left to choose"),
        ([1] * 9, {"capacity": 4, "max_tokens": 9}, "E0951", "the cache holds 4"),
        (5, {}, "E0951", "prompts are texts or rows of token ids, not int"),
        ({1: 2}, {}, "E0951", "prompts are texts or rows of token ids, not dict"),
        ([[1, [2]]], {}, "E0951", "not rows of several lengths"),
        ([1], {"max_tokens": "9"}, "E0952", "`max_tokens` is '9'"),
        ([1], {"deterministic_rows": "2"}, "E0952", "`deterministic_rows` is '2'"),
        ([1], {"temperature": 10**400}, "E0952", "`temperature` is 1000"),
        ([1], {"stop": 5}, "E0952", "`stop` is 5, and must be a text, or several in a list"),
        ([1], {"eos": 2.5}, "E0952", "`eos` is 2.5, and must be a token, by name or id, or several in a list"),
        ([1], {"eos": [VOCAB]}, "E0952", "`eos` has 64, and a token is a name, or an id from 0 to 63"),
        ([1], {"eos": [True]}, "E0952", "`eos` has True"),
        ([1], {"eos": "w1"}, "E0953", "`w1` is a token by name, and there is no tokenizer"),
        ([1], {"inputs": 3}, "E0901", "`inputs` is given by name"),
        ([1], {"mask": 3}, "E0955", "a constraint is a function of the tokens so far, not int"),
        ([1], {"tokenizer": 5}, "E0924", "a tokenizer is a `tokenizer.json` or its folder, not int"),
    ],
)  # fmt: skip
def test_what_does_not_fit(prompt: Any, given: dict[str, Any], code: str, text: str) -> None:
    with pytest.raises(ts.Diagnostic) as caught:
        ts.generate(decoder("onnx"), prompt or [[]], **given)
    assert (caught.value.code, text in caught.value.message) == (code, True), caught.value.message


def test_numbers_of_numpy_and_single_ends_are_as_good() -> None:
    ids = prompts(6)[0]
    want = greedy(ids, 3)
    for prompt in (np.array(ids), list(np.array(ids)), iter(ids)):
        found = ts.generate(decoder("onnx"), prompt, max_tokens=np.int64(3), rows=np.int64(2), capacity=np.int64(9))
        assert found.tokens == want
    # The first token that was not there before ends it.
    assert ts.generate(decoder("onnx"), ids, max_tokens=3, eos=want[0]).finish == "stop"


def test_another_models_tokenizer_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    large = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB + 1)}, unk_token="w0"))
    large.save(str(tmp_path / "tokenizer.json"))
    for given, text in (
        ({"tokenizer": tmp_path}, "has 65 tokens, and the model scores 64: it is another model's tokenizer"),
        ({"tokenizer": tokenizer, "eos": ["</S>"]}, "has no token `</S>`, which is to end a text"),
    ):
        with pytest.raises(ts.Diagnostic, match="E0953") as caught:
            ts.generate(decoder("onnx"), "w1", **given)
        assert text in caught.value.message


def test_the_last_token_needs_no_slot() -> None:
    ids = prompts(6)[0]
    assert ts.generate(decoder("onnx"), ids, max_tokens=3, capacity=8).tokens == greedy(ids, 3)


def test_sampling_is_that_of_the_scores() -> None:
    ids = prompts(4, seed=5)[0]
    sampling = Sampling(temperature=1.0, top_k=12)
    drawn = [row.tokens[0] for row in ts.generate(decoder("onnx"), [ids] * 40, max_tokens=1, temperature=1.0, top_k=12, seed=2)]
    expected = [pick(scores(ids)[-1], sampling, generator(2, row)) for row in range(40)]
    assert drawn == expected
    assert (distribution(scores(ids)[-1], sampling)[drawn] > 0).all()
