"""Global-batch LBL's row: over four processes the gradient is that of the whole batch, and experts may be one domain's."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic

from .ranks import WORLD, Ranks
from .texts import corpus, fit, next_byte, windows

SEED = "global_batch_lbl"
TARGETS = ("torch", "onnx")
# What each of the four ranks holds of its 2 x 12 bytes: padding makes the numbers of tokens unequal.
LENGTHS = ((12, 12), (12, 7), (3, 1), (12, 9))
BATCH = sum(map(sum, LENGTHS))


def whole_batch() -> tuple[np.ndarray, np.ndarray]:
    """ids and mask [8, 12] of all ranks; one rank holds a single kind of byte, which some experts see nothing of."""
    ids = np.random.default_rng(0).integers(0, 256, (2 * WORLD, 12))
    ids[4:6] = 32
    return ids, np.arange(12) < np.array(LENGTHS).reshape(-1, 1)


def part(rank: int) -> tuple[np.ndarray, np.ndarray]:
    return tuple(x[2 * rank : 2 * rank + 2] for x in whole_batch())


def gradients(ids: np.ndarray, mask: np.ndarray, batch: int, over_ranks: Any) -> tuple[float, np.ndarray, np.ndarray]:
    """The balance of these tokens in f64, its gradient by all weights in a row, and the loads that it was made of."""
    import torch

    from tessera.backends.torch import build

    modules = [ts.load(SEED, model, dtype="f64") for model in ("routed_lm", "balance")]
    forward, balance = (build(module, None, seed=1, trainable=True) for module in modules)
    made = forward(ids=torch.as_tensor(ids), mask=torch.as_tensor(mask))
    total = over_ranks(made["load"])
    loss = balance(made["router"], total, torch.as_tensor(mask), torch.tensor(batch))["loss"]
    weights = list(forward.parameters())
    grads = torch.autograd.grad(loss, weights, allow_unused=True)
    flat = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(grads, weights, strict=True)])
    return float(loss.detach()), flat.numpy(), total.numpy()


def rank_gradients(rank: int) -> tuple[float, np.ndarray, float, np.ndarray]:
    """The sum over ranks of the loss and of its gradient; and the same of a balance that each rank counts for itself."""
    import torch
    from torch import distributed

    def summed(x: Any) -> Any:
        total = torch.as_tensor(np.asarray(x)).clone()
        distributed.all_reduce(total)
        return total

    ids, mask = part(rank)
    loss, grad, _ = gradients(ids, mask, BATCH, summed)
    alone, own, _ = gradients(ids, mask, BATCH, lambda load: load)
    return float(summed(loss)), summed(grad).numpy(), float(summed(alone)), summed(own).numpy()


def rank_flow(rank: int) -> tuple[float, np.ndarray]:
    """The flow `step` as it is written, in ONNX Runtime, with a stage that adds up over ranks."""
    import torch
    from torch import distributed

    def over_ranks(*held: np.ndarray) -> tuple[np.ndarray, ...]:
        tensors = [torch.as_tensor(x).clone() for x in held]
        for tensor in tensors:
            distributed.all_reduce(tensor)
        return tuple(tensor.numpy() for tensor in tensors)

    ids, mask = part(rank)
    made = ts.compile(ts.load(SEED), target="onnx", passes=[], verify=False)
    given = {"ids": ids, "mask": mask, "step": np.array(0), "batch": np.array(BATCH)}
    found = made.run("step", given, host={"over_ranks": over_ranks})
    return float(found["loss"]), found["total"]


@pytest.mark.slow
def test_four_ranks_have_the_gradient_of_the_whole_batch(ranks: Ranks) -> None:
    """(a): of every weight, though ranks hold different numbers of tokens, and one rank's experts are empty."""
    ids, mask = whole_batch()
    loss, grad, total = gradients(ids, mask, BATCH, lambda load: load)
    found = ranks(rank_gradients)
    scale = np.abs(grad).max()
    for of_ranks, summed, alone, own in found:
        assert of_ranks == pytest.approx(loss, abs=1e-12)
        np.testing.assert_allclose(summed, grad, atol=1e-12 * max(scale, 1))
        # Each rank's own balance is another loss, with another gradient.
        assert alone > loss + 1e-2
        assert np.abs(own - grad).max() > 0.1 * scale
    flows = ranks(rank_flow)
    # f32, and other initial weights would give other loads: those of the file are the same on every rank.
    for _, counted in flows[1:]:
        np.testing.assert_array_equal(counted, flows[0][1])
    assert flows[0][1].sum(1).tolist() == total.sum(1).tolist() == [2 * BATCH] * 2


# Loads over micro-batches ---------------------------------------------------------------------------------------------------


@cache
def entries(target: str) -> Any:
    return ts.compile(ts.load(SEED), target=target, passes=[], verify=False)


@pytest.mark.parametrize("target", TARGETS)
def test_micro_batches_add_up_as_megatron_averages_them(target: str) -> None:
    """(c): Megatron keeps a sum of counts and divides by the micro-batches so far, and each loss by how many there are."""
    rng = np.random.default_rng(1)
    made = entries(target)
    session = made["count"].session()
    mask, kept = np.ones((2, 10), bool), np.zeros((2, 8))
    for step in (0, 1, 2, 3, 0, 1):
        router = rng.standard_normal((2, 20, 8)).astype(np.float32)
        chosen = np.argsort(-router, axis=2)[:, :, :2]
        load = np.stack([np.bincount(layer.ravel(), minlength=8) for layer in chosen])
        total = session(load=load, tokens=np.array(20), step=np.array(step))["total"]
        kept = load + (0 if step == 0 else kept)
        averaged = kept / (step + 1)
        p = np.exp(router) / np.exp(router).sum(2, keepdims=True)
        megatron = (averaged * p.sum(1)).sum() * 8 / (20 * 20 * 2) / 4
        found = made["part"](router=router, total=total, mask=mask, batch=np.array(80))["loss"]
        np.testing.assert_array_equal(total, kept)
        assert float(found) == pytest.approx(megatron, rel=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_padding_is_no_token(target: str) -> None:
    """Whatever stands behind a sequence changes neither loads nor loss."""
    made = entries(target)
    ids, mask = whole_batch()
    other = np.where(mask, ids, 255 - ids)
    found = []
    for tokens in (ids, other):
        run = made["forward"](ids=tokens, mask=mask)
        given = {"router": run["router"], "total": run["load"], "mask": mask, "batch": run["tokens"]}
        found.append((run["load"], made["part"](**given)["loss"], run["tokens"]))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-6)
    assert found[0][0].sum() == 2 * 2 * BATCH
    assert found[0][2] == BATCH


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("what", ["ranks that hold the same tokens", "padding", "not reset"])
def test_bad_sums_stop_the_run(what: str, target: str) -> None:
    load = np.full((2, 8), 5)
    session = entries(target)["count"].session()
    session(load=load, tokens=np.array(20), step=np.array(0))
    given = {
        "ranks that hold the same tokens": {"load": 2 * load, "tokens": 20, "step": 1},
        "padding": {"load": load, "tokens": 17, "step": 1},
        "not reset": {"load": load, "tokens": 20, "step": 2},
    }[what]
    with pytest.raises(Diagnostic) as caught:
        session(**{name: np.asarray(value) for name, value in given.items()})
    assert caught.value.code == "E0912"


def test_a_share_that_carries_a_gradient_is_refused() -> None:
    text = """
    use std.moe.across (balance_part)
    use std.nn (softmax)
    model m(logits: f32[N, 8], tokens: i64[]) -> f32[] { return balance_part(logits, sum(softmax(logits), axis=0), tokens) }
    """
    with pytest.raises(Diagnostic) as caught:
        loads(text)
    assert caught.value.code == "E0303"


# (b): micro-batches of one domain each --------------------------------------------------------------------------------------

DOMAINS = ("python", "german", "elf")
SIZES = {"dim": 32, "hidden": 32, "heads": 2, "positions": 64}


def specialised(over_all: bool, seed: int, steps: int) -> tuple[float, np.ndarray]:
    """Held-out loss and the loads [domain, layer, expert] after training on micro-batches of one domain each, whose balance sees
    the loads of all of them or its own."""
    import torch

    from tessera.backends.torch import build

    forward = build(ts.load(SEED, "routed_lm", params=SIZES), None, seed=seed, trainable=True)
    balance = build(ts.load(SEED, "balance"), None)
    rng = np.random.default_rng(seed)
    texts = [corpus(domain) for domain in DOMAINS]
    mask = torch.ones(8, 64, dtype=torch.bool)
    whole = torch.tensor(len(DOMAINS) * mask.numel() if over_all else mask.numel())

    def loss_of(step: int) -> Any:
        ids = [torch.as_tensor(windows(text, *mask.shape, rng)) for text in texts]
        made = [forward(ids=rows, mask=mask) for rows in ids]
        loads_ = [m["load"] for m in made]
        totals = [sum(loads_)] * len(DOMAINS) if over_all else loads_
        parts = [balance(m["router"], total, mask, whole)["loss"] for m, total in zip(made, totals, strict=True)]
        model = sum(next_byte(m["logits"], rows) for m, rows in zip(made, ids, strict=True)) / len(DOMAINS)
        return model + 0.03 * (sum(parts) if over_all else sum(parts) / len(DOMAINS))

    fit(forward, loss_of, steps)
    held = np.random.default_rng(99)
    losses, counts = [], []
    with torch.no_grad():
        for domain in DOMAINS:
            ids = torch.as_tensor(windows(corpus(domain, held_back=True), 64, 64, held))
            made = forward(ids=ids, mask=torch.ones(64, 64, dtype=torch.bool))
            losses.append(float(next_byte(made["logits"], ids)))
            counts.append(made["load"].numpy())
    return float(np.mean(losses)), np.stack(counts)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_experts_may_be_one_domains(seed: int) -> None:
    """Experts are shared out by domain where loads are counted over all, and the whole corpus is balanced in both."""
    rows = []
    for over_all in (True, False):
        loss, counts = specialised(over_all, seed, 300)
        share = counts / counts.sum(2, keepdims=True)
        apart = np.mean([np.abs(share[a] - share[b]).sum(-1).mean() / 2 for a, b in ((0, 1), (0, 2), (1, 2))])
        even = counts.sum(0)
        rows.append((loss, float(apart), float((even.max(1) / even.mean(1)).max())))
    print(rows)
    ours, micro = rows
    assert ours[1] > micro[1] + 0.1
    assert ours[0] <= micro[0]
    assert max(ours[2], micro[2]) <= 1.5
