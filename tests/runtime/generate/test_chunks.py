"""Prompts read a part at a time: the same tokens, and the other rows go on meanwhile; and how likely tokens were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.runtime.generate.decoder import Decoder
from tessera.runtime.generate.engine import Engine, Request, Ticket
from tessera.runtime.generate.sampling import Sampling, ranked
from tessera.runtime.generate.speculative.engine import SpeculativeEngine
from tessera.runtime.generate.speculative.tree import Growth

from .support import decoder, greedy, prompts, scores


def finished(engine: Engine) -> None:
    while engine.busy:
        engine.step()


@pytest.mark.parametrize("target", [pytest.param("torch", marks=pytest.mark.extended), "onnx"])
@pytest.mark.parametrize("rows", [1, 3])
def test_chunks_change_no_token(target: str, rows: int) -> None:
    given = prompts(9, 1, 13, 4, 8)
    for chunk in (1, 4, 64):
        engine = Engine(Decoder(decoder(target)), rows, 64, chunk=chunk)
        tickets = [engine.submit(Request(ids, 6)) for ids in given]
        finished(engine)
        assert [ticket.tokens for ticket in tickets] == [greedy(ids, 6) for ids in given]


def test_the_other_rows_go_on_while_a_prompt_is_read() -> None:
    short, long, last = prompts(3, 20, 2)
    engine = Engine(Decoder(decoder("onnx")), 2, 64, chunk=4)
    going, read = engine.submit(Request(short, 12)), engine.submit(Request(long, 4))
    engine.step()
    made = []
    while not read.tokens:
        before = len(going.tokens)
        engine.step()
        made.append(len(going.tokens) - before)
    # The short prompt left one token of the first step's four.
    assert made == [1] * 5
    waiting = engine.submit(Request(last, 4))
    finished(engine)
    assert [t.tokens for t in (going, read, waiting)] == [greedy(short, 12), greedy(long, 4), greedy(last, 4)]


def test_a_prompt_that_is_given_up_half_read_leaves_nothing() -> None:
    short, long = prompts(3, 20)
    engine = Engine(Decoder(decoder("onnx")), 2, 64, chunk=4)
    gone = engine.submit(Request(long, 4))
    engine.step()
    gone.cancelled = True
    after = engine.submit(Request(short, 6))
    finished(engine)
    assert (gone.finish, gone.read, gone.tokens) == ("cancelled", 4, [])
    assert after.tokens == greedy(short, 6)


@pytest.mark.parametrize("shape", ["chain", "dynamic"])
def test_chunks_with_a_draft(shape: str) -> None:
    engine = SpeculativeEngine(Decoder(decoder("onnx")), Decoder(decoder("onnx", 1)), Growth(shape, 3), 64, chunk=4)
    given = prompts(9, 2, 12)
    tickets = [engine.submit(Request(ids, 7, logprobs=1)) for ids in given]
    finished(engine)
    assert [ticket.tokens for ticket in tickets] == [greedy(ids, 7) for ids in given]


def likely(engine: Engine, ticket: Ticket) -> list[Any]:
    return [event.ranked for _ in iter(lambda: engine.busy, False) for event in engine.step() if event.ticket is ticket]


@pytest.mark.parametrize("shape", [None, "chain", "dynamic"])
def test_a_token_comes_with_how_likely_the_model_found_it(shape: str | None) -> None:
    """Whatever rules it was drawn by, and however many tokens a pass made."""
    engine = (
        Engine(Decoder(decoder("onnx")), 2, 64)
        if shape is None
        else SpeculativeEngine(Decoder(decoder("onnx")), Decoder(decoder("onnx", 1)), Growth(shape, 3), 64)
    )
    ids = prompts(5)[0]
    ticket = engine.submit(Request(ids, 8, Sampling(1.3, 0.7, 9, seed=2), logprobs=3))
    found = likely(engine, ticket)
    assert [one.token for one in found] == ticket.tokens
    for i, one in enumerate(found):
        row = scores([*ids, *ticket.tokens[:i]])[-1].astype(np.float64)
        expected = row - np.log(np.exp(row).sum())
        assert abs(one.logprob - expected[one.token]) < 1e-4
        assert [token for token, _ in one.best] == np.argsort(-expected, kind="stable")[:3].tolist()


def test_the_likeliest_are_in_order_and_possible() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        n, count = int(rng.integers(1, 9)), int(rng.integers(0, 10))
        row, known = rng.choice([-np.inf, -3.0, 0.0, 0.5, 700.0], n), rng.random(n) < 0.7
        token = int(rng.integers(0, n))
        row[token] = 1.0
        p = np.exp(row - row.max())
        p /= p.sum()
        found = ranked(row.astype(np.float32), token, count, known)
        expected = sorted(np.flatnonzero(known & (row > -np.inf)), key=lambda i: (-row[i], i))[:count]
        assert [i for i, _ in found.best] == expected
        likely = [found.logprob, *(logprob for _, logprob in found.best)]
        np.testing.assert_allclose(np.exp(likely), p[[token, *expected]], atol=1e-12)


def test_chunks_that_a_program_cannot_read() -> None:
    for chunk in (0, True, 1.5):
        with pytest.raises(ts.Diagnostic, match=r"`chunk` is .*, and must be a whole number, at least 1") as caught:
            Engine(Decoder(decoder("onnx")), 1, 16, chunk=chunk)  # type: ignore[arg-type]
        assert caught.value.code == "E0952"
    single = ts.loads(SINGLE)
    with pytest.raises(ts.Diagnostic, match="reads one token at a time, too few for chunks") as caught:
        Engine(Decoder(ts.compile(single, verify=False).program), 1, 16, chunk=4)
    assert caught.value.code == "E0950"


SINGLE = """
use std.nn (linear)

layer step(x: f32[B, T, D]) -> f32[B, D] {
    state total: f32[B, D] = zeros
    total = total + sum(x, axis=1)
    return total * 1.0
}

model reader(input_ids: i64[B, T], *, vocab: int = 8) -> (logits: f32[B, vocab]) {
    param words: f32[vocab, 4] = normal(1)
    return linear(step(take(words, input_ids)) as step, out=vocab) as head
}

model one(input_ids: i64[B, 1], *, vocab: int = 8) -> (logits: f32[B, vocab]) {
    param words: f32[vocab, 4] = normal(1)
    return linear(step(take(words, input_ids)) as step, out=vocab) as head
}

program chat {
    entry prefill = reader()
    entry decode = one()
}
"""
