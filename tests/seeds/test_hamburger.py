"""HAMburger's row: plain text at confidence 1, several tokens a step below it, groups by the rule, and one pass like many."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.ir.diagnostics import Diagnostic
from tessera.runtime.generate.decoder import Decoder
from tessera.runtime.generate.engine import Request
from tessera.runtime.generate.smashed import SmashedEngine

from .dyspec_training import text
from .smashing import PLAIN, SIZES, based, trained, without_grafts
from .texts import widened

DATA = Path(__file__).parent / "data"
TARGETS = ("torch", "onnx")
MOST = SIZES["most"]


@cache
def kept() -> dict[str, np.ndarray]:
    """The weights after the training of `smashing`."""
    return widened(DATA / "hamburger.safetensors")


@cache
def burger(target: str) -> Any:
    return ts.compile(ts.load("hamburger", params=SIZES), target=target, weights=kept(), verify=False).program


@cache
def part(name: str, target: str, **params: Any) -> Any:
    """One model of the seed by itself."""
    module = ts.load("hamburger", name, params={**SIZES, **params})
    own = {name: kept()[name] for name in module.graph.params}
    return ts.compile(module, target=target, weights=own, verify=False)


def prompts(count: int, length: int = 40) -> list[list[int]]:
    """Places of modules that the model was not trained on."""
    held_back = text(2)
    places = np.random.default_rng(0).integers(0, len(held_back) - length, count)
    return [[int(i) for i in held_back[p : p + length]] for p in places]


def written(target: str, given: list[list[int]], confidence: float, **how: Any) -> list[Any]:
    found: Any = ts.generate(burger(target), given, confidence=confidence, **how)
    return list(found)


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_at_confidence_1_the_text_is_that_of_the_base(target: str) -> None:
    """Which is a decoder without anything else, with the same weights."""
    plain = ts.compile(ts.load("dyspec", params=PLAIN), target=target, weights=without_grafts(kept()), verify=False)
    given = [ids[: 20 + 4 * i] for i, ids in enumerate(prompts(5))]
    own: Any = ts.generate(plain, given, max_tokens=24)
    found = written(target, given, 1.0, max_tokens=24, rows=3)
    assert [c.tokens for c in found] == [c.tokens for c in own]
    assert {c.passes for c in found} == {23}


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_several_tokens_come_with_a_step(target: str) -> None:
    """1.4 were to be shown at confidence 0.8."""
    assert a_step(burger(target), 0.8) > 1.3
    assert a_step(burger(target), 0.7) > 1.6


@pytest.mark.extended
@pytest.mark.timeout(3600)
def test_training_gives_such_weights() -> None:
    weights = trained(based(0), 0)
    assert set(weights) == set(kept())
    program = ts.compile(ts.load("hamburger", params=SIZES), target="torch", weights=weights, verify=False).program
    assert a_step(program, 0.7) > 1.5


def a_step(program: Any, confidence: float) -> float:
    """How many tokens a step makes on held-out code. An entry of the cache is a group, and its place that of the
    group's last token."""
    given = prompts(40)
    engine = SmashedEngine(Decoder(program), confidence, len(given), 128)
    tickets = [engine.submit(Request(ids, 48, row=i)) for i, ids in enumerate(given)]
    rows = set()
    while engine.busy:
        engine.step()
        states = engine._rows.session.states()
        for row, ticket in enumerate(engine._running):
            if ticket is not None:
                unread = len(engine._unread[row])
                assert {int(v[row]) for name, v in states.items() if "attn" in name and v.ndim == 1} == {40 + ticket.passes}
                assert states["read"][row] == 40 + len(ticket.tokens) - unread
                assert 1 <= unread <= MOST
                rows.add(row)
    assert rows == set(range(len(given)))
    return sum(len(ticket.tokens) for ticket in tickets) / sum(ticket.passes + 1 for ticket in tickets)


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_side_by_side_and_one_by_one_are_the_same(target: str) -> None:
    """Prompts of different lengths, more than rows, groups of different lengths in one step."""
    given = [ids[: 10 + 3 * i] for i, ids in enumerate(prompts(7))]
    one = written(target, given, 0.8, max_tokens=24, rows=1)
    side = written(target, given, 0.8, max_tokens=24, rows=3)
    assert [(c.tokens, c.passes) for c in side] == [(c.tokens, c.passes) for c in one]
    assert len({c.passes for c in one}) > 1
    assert [len(c.tokens) for c in one] == [24] * 7


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_steps_in_one_graph_write_the_same(target: str) -> None:
    """Both loops, over groups and within one, as the host runs them; rows of different prompts and confidences."""
    given = prompts(4)
    confidence = [0.6, 0.8, 0.9, 1.0]
    found = part("smashed", target, wanted=32)(
        input_ids=np.asarray(given), lengths=[40] * 4, confidence=np.asarray(confidence, np.float32)
    )  # fmt: skip
    assert (found["count"] >= 32).all()
    np.testing.assert_array_equal(found["entries"], 40 + found["steps"])
    assert found["steps"][3] == 32 > found["steps"][0]
    for row, sure in enumerate(confidence):
        (own,) = written(target, [given[row]], float(np.float32(sure)), max_tokens=int(found["count"][row]))
        assert own.tokens == found["tokens"][row, : found["count"][row]].tolist()
        assert own.passes == found["steps"][row] - 1


@pytest.mark.extended
def test_a_seed_draws_alike_on_every_target() -> None:
    how: dict[str, Any] = {"max_tokens": 32, "temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.05, "seed": 5}
    torch, onnx = (written(target, prompts(4), 0.8, **how) for target in TARGETS)
    assert [(c.tokens, c.passes) for c in torch] == [(c.tokens, c.passes) for c in onnx]
    assert torch[0].tokens != written("onnx", prompts(1), 0.8, max_tokens=32)[0].tokens


@pytest.mark.extended
def test_what_ends_a_text_or_may_come_next_holds_within_a_group() -> None:
    given = prompts(6)
    free = written("onnx", given, 0.0, max_tokens=16)
    assert {c.passes for c in free} == {3}
    for place in range(16):
        end = free[0].tokens[place]
        (found,) = written("onnx", given[:1], 0.0, max_tokens=16, eos=end)
        assert found.tokens == free[0].tokens[: free[0].tokens.index(end)]
        assert found.finish == "stop"
    allowed = np.arange(128) % 2 == 0
    held = written("onnx", given, 0.0, max_tokens=16, mask=lambda tokens: allowed if len(tokens) % 3 else None, rows=4)
    for completion in held:
        assert all(token % 2 == 0 for i, token in enumerate(completion.tokens) if (40 + i) % 3)
    assert any(token % 2 for completion in held for token in completion.tokens)


def grouped(entropy: np.ndarray, most: int, least: float, ratio: float) -> list[int]:
    """The rule as the paper has it, in f32: how many tokens each group has."""
    found: list[int] = []
    highest = np.float32(-1)
    for h in entropy:
        if found and (h < np.float32(least) or h < np.float32(ratio) * highest) and found[-1] < most:
            found[-1] += 1
            highest = max(highest, h)
        else:
            found.append(1)
            highest = h
    return found


@pytest.mark.parametrize("target", [pytest.param("torch", marks=pytest.mark.extended), "onnx"])
@pytest.mark.parametrize(
    ("most", "least", "ratio"),
    [(4, 0.05, 0.3), *(pytest.param(*odd, marks=pytest.mark.extended) for odd in ((1, 0.05, 0.3), (7, 0.5, 0.0), (3, 0.0, 0.9)))],
)
def test_groups_are_those_of_the_rule(target: str, most: int, least: float, ratio: float) -> None:
    source = (
        "use seeds.hamburger (begins, lengths_of)\n"
        "model m(entropy: f32[B, N]) -> (lengths: i64[B, N], count: i64[B]) {\n"
        f"    return lengths_of(begins(entropy, most={most}, least={least}, ratio={ratio}))\n}}\n"
    )
    rng = np.random.default_rng(0)
    # Sure and unsure, one by one and in runs; some of exactly the least, and of exactly the ratio of another.
    entropy = np.exp(rng.normal(-2, 2, (64, 40))).astype(np.float32)
    entropy[::4, 1::3] = np.float32(ratio) * entropy[::4, :-1:3]
    entropy[1::4, ::5] = least
    entropy[2::4] = np.sort(entropy[2::4], axis=1)[:, ::-1]
    entropy[3] = 0
    found = ts.compile(ts.loads(source), target=target, verify=False)(entropy=entropy)
    for row, own in enumerate(entropy):
        wanted = grouped(own, most, least, ratio)
        assert found["count"][row] == len(wanted)
        assert found["lengths"][row].tolist() == [*wanted, *[0] * (40 - len(wanted))]


def laid_out(rows: int, prompt: int, groups: int) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """Held-out texts [rows, T], the lengths of their groups [rows, G], which differ by row, and where each begins."""
    rng = np.random.default_rng(1)
    sizes = np.tile(np.arange(groups) % MOST + 1, (rows, 1))
    sizes = np.stack([rng.permutation(row) for row in sizes])
    lengths = np.concatenate([np.ones((rows, prompt), np.int64), sizes], axis=1)
    ids = np.asarray(prompts(rows, int(lengths[0].sum())))
    return ids, lengths, (np.cumsum(lengths, axis=1) - lengths).tolist()


@pytest.mark.extended
@pytest.mark.parametrize("target", TARGETS)
def test_one_pass_gives_what_steps_give(target: str) -> None:
    """The scores of every token, and the chances that its group goes on: with both caches and without any."""
    rows, prompt = 3, 10
    ids, lengths, starts = laid_out(rows, prompt, 8)
    whole = part("taught", target)(ids=ids, lengths=lengths)
    run = burger(target).session(sizes={"B": rows, "C": 40})
    found = run.prefill(input_ids=ids[:, :prompt], lengths=[prompt] * rows)
    scores = found["logits"][:, -1]
    for entry in range(prompt - 1, lengths.shape[1] - 1):
        size, at = lengths[:, entry + 1], np.asarray(starts)[:, entry + 1]
        tokens = np.stack([np.pad(ids[row, a : a + n], (0, MOST - n)) for row, (a, n) in enumerate(zip(at, size, strict=True))])
        more, features = found["more"], found["features"]
        for place in range(MOST):
            if place:
                inner = run.begin(features=features, token=tokens[:, 0]) if place == 1 else run.more(token=tokens[:, place - 1])
                scores, more = inner["logits"], inner["more"]
            there = size > place
            np.testing.assert_allclose(scores[there], whole["logits"][there, entry, place], rtol=0, atol=1e-4)
            np.testing.assert_allclose(more[there], whole["more"][there, entry, place], rtol=0, atol=1e-4)
        found = run.group(input_ids=tokens, lengths=size)
        scores = found["logits"]
    np.testing.assert_array_equal(run.states()["read"], lengths.sum(1))


@pytest.mark.parametrize("target", TARGETS)
def test_one_token_is_left_as_it_is_and_what_is_behind_a_group_does_not_count(target: str) -> None:
    source = (
        "use seeds.hamburger (composed)\n"
        "model m(x: f32[B, G, 4, 16], size: i64[B, G]) -> (y: f32[B, G, 16]) {\n    return composed(x, size, heads=2) as m\n}\n"
    )
    module = ts.loads(source)
    rng = np.random.default_rng(2)
    weights = {
        name: rng.standard_normal([int(d) for d in p.type.shape]).astype(np.float32) for name, p in module.graph.params.items()
    }
    composed = ts.compile(module, target=target, weights=weights, verify=False)
    x = rng.standard_normal((2, 5, 4, 16)).astype(np.float32)
    size = np.asarray([[1, 2, 3, 4, 1], [4, 3, 2, 1, 1]])
    found = composed(x=x, size=size)["y"]
    np.testing.assert_array_equal(found[size == 1], x[size == 1][:, 0])
    behind = np.arange(4) >= size[..., None]
    other = np.where(behind[..., None], 100 * rng.standard_normal(x.shape), x).astype(np.float32)
    np.testing.assert_allclose(composed(x=other, size=size)["y"], found, rtol=1e-6, atol=1e-6)
    turned = composed(x=x[:, :, ::-1], size=np.full((2, 5), 4))["y"]
    assert np.abs(turned - composed(x=x, size=np.full((2, 5), 4))["y"]).max() > 0.1


# What does not fit ------------------------------------------------------------------------------------------------------

# The entry points of a small program that has learned nothing.
ENTRIES = {
    "prefill": "reader(dim=16, depth=1, taps=1)",
    "decode": "reader(dim=16, depth=1, taps=1)",
    "group": "group_reader(dim=16, depth=1, taps=1)",
    "begin": "micro_begin(dim=16, taps=1, micro=1)",
    "more": "micro_step(dim=16, taps=1, micro=1)",
}


# A reader that gives nothing but scores.
PLAIN_READER = """
model plain(input_ids: i64[B, S], lengths: i64[B]) -> (logits: f32[B, S, 128]) {
    logits, features, more = reader(input_ids, lengths, dim=16, depth=1, taps=1)
    return logits
}
"""


@cache
def small(**entries: str | None) -> Any:
    chosen = {entry: model for entry, model in {**ENTRIES, **entries}.items() if model is not None}
    listed = "\n".join(f"    entry {entry} = {model}" for entry, model in chosen.items())
    used = "use seeds.hamburger (reader, group_reader, micro_begin, micro_step)\n"
    return ts.compile(ts.loads(f"{used}{PLAIN_READER}program odd {{\n{listed}\n}}\n"), target="torch", verify=False).program


@pytest.mark.parametrize("target", [pytest.param("torch", marks=pytest.mark.extended), "onnx"])
@pytest.mark.parametrize(
    ("lengths", "code"),
    [([1, 1, 5, 1], "E0905"), ([4, -1, 4, 1], "E0905"), ([4, 0, 3, 1], "E0912"), ([4, 2, 1, 0], "E0912"), ([4, 4, 1, 0], "E0912")],
    ids=["longer than four", "negative", "empty", "too few tokens", "too many tokens"],
)
def test_lengths_that_are_no_groups_are_refused(target: str, lengths: list[int], code: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        untaught(target)(ids=np.zeros((1, 8), np.int64), lengths=[lengths])
    assert caught.value.code == code


@cache
def untaught(target: str) -> Any:
    module = ts.load("hamburger", "taught", params={"dim": 16, "depth": 1, "taps": 1, "micro": 1})
    return ts.compile(module, target=target, verify=False)


def test_a_group_that_is_too_long_is_refused() -> None:
    run = small().session(sizes={"B": 1, "C": 16})
    run.prefill(input_ids=[[1, 2]], lengths=[2])
    with pytest.raises(Diagnostic, match="input_ids") as caught:
        run.group(input_ids=[[1, 2, 3, 4, 5]], lengths=[5])
    assert caught.value.code == "E0902"
    for wrong in (5, -1):
        with pytest.raises(Diagnostic, match="lengths"):
            run.group(input_ids=[[1, 2, 3, 4]], lengths=[wrong])


def test_weights_without_a_stop_head_are_refused() -> None:
    module = ts.load("hamburger", "micro_begin")
    without = {
        name: np.zeros([int(d) for d in p.type.shape], np.float32)
        for name, p in module.graph.params.items()
        if not name.startswith("stop")
    }
    with pytest.raises(Diagnostic, match=r"stop\.fc1"):
        ts.compile(module, weights=without, verify=False)


@pytest.mark.parametrize("confidence", [-0.1, 1.5, True, float("nan"), "0.5"])
def test_an_odd_confidence_is_refused(confidence: Any) -> None:
    with pytest.raises(Diagnostic, match="confidence is") as caught:
        ts.generate(small(), prompts(1), confidence=confidence)
    assert caught.value.code == "E0958"


@pytest.mark.extended
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"group": None}, "no entry point `group`"),
        ({"more": None}, "no entry point `more`"),
        ({"begin": ENTRIES["more"]}, "`begin` of `odd` takes token and gives logits, more"),
        ({"group": ENTRIES["decode"]}, "`group` of `odd` reads any number of tokens"),
        ({"group": f"{ENTRIES['group']} as other"}, "`group` of `odd` does not go on with the states of `decode`"),
        ({"more": f"{ENTRIES['more']} as other"}, "`more` of `odd` does not go on with the states of `begin`"),
        ({"prefill": "plain"}, "`prefill` of `odd` gives no `features`"),
    ],
)
def test_a_program_that_writes_no_groups_is_refused(entries: dict[str, str | None], message: str) -> None:
    with pytest.raises(Diagnostic, match=message) as caught:
        ts.generate(small(**entries), prompts(1), confidence=0.8)
    assert caught.value.code == "E0958"


def test_what_excludes_each_other_is_refused() -> None:
    for other in ({"threshold": 0.5}, {"deterministic_rows": 2}, {"draft": small()}):
        with pytest.raises(Diagnostic, match="exclude each other") as caught:
            ts.generate(small(), prompts(1), confidence=0.8, **other)
        assert caught.value.code == "E0958"
    with pytest.raises(Diagnostic, match="as many parts"):
        ts.load("hamburger", params={"depth": 3})
