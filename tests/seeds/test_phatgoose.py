"""PHATGOOSE's row: experts of six kinds of bytes that were trained apart, beside a loop, and what each byte chooses."""

from __future__ import annotations

from functools import cache
from typing import Any
from zlib import crc32

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module
from tessera.runtime.weights.bind import initialise

from .texts import corpus, fit, next_byte, weights_of, windows

TARGETS = ("torch", "onnx")
KINDS = ("python", "c", "german", "french", "elf", "numbers")
SEGMENT = 24
Weights = dict[str, np.ndarray]


# The models that are trained are wider: at 32 the mean of all updates is as good as choosing among them.
WIDE = {"dim": 64, "hidden": 128, "heads": 4}


def expert_model(form: str, **sizes: int) -> Module:
    return ts.load("phatgoose", "phatgoose_expert", params={"form": form, **sizes})


def routed(experts: int = 6, k: int = 2, **sizes: int) -> Module:
    return ts.load("phatgoose", "phatgoose_lm", params={"experts": experts, "k": k, **sizes})


def run(module: Module, weights: Weights, target: str, ids: np.ndarray) -> dict[str, np.ndarray]:
    made = ts.compile(module, target=target, weights=weights, passes=[], verify=False)(ids=ids)
    return {name: np.asarray(value) for name, value in made.items()}


def number_of(weights: Weights) -> np.ndarray:
    """A number that frozen weights have, and others have not."""
    own = {name: value for name, value in weights.items() if not name.endswith(("lora_a", "lora_b", "gate"))}
    return np.asarray(crc32(b"".join(own[name].tobytes() for name in sorted(own))))


def stacked(frozen: Weights, experts: list[Weights]) -> Weights:
    """One checkpoint: the frozen model, and of each expert what it added, under a name of its own."""
    made = {**frozen, "frozen": number_of(frozen)}
    for i, expert in enumerate(experts):
        added = {name: value for name, value in expert.items() if name.endswith(("lora_a", "lora_b", "gate"))}
        made |= {f"expert.{i}.{name}": value for name, value in {**added, "frozen": number_of(expert)}.items()}
    return made


@cache
def drawn(experts: int = 3) -> tuple[Weights, list[Weights]]:
    """A frozen model and experts of it, at random."""
    full = expert_model("gate").graph.params
    made = []
    for i in range(experts):
        made.append({
            name: np.random.default_rng(crc32(f"{name}{i if 'lora' in name or 'gate' in name else ''}".encode()))
            .normal(0, 0.3, [int(d) for d in p.type.shape]).astype(np.float32) for name, p in full.items()
        })  # fmt: skip
    frozen = expert_model("base").graph.params
    return {name: made[0][name] for name in frozen}, made


IDS = np.random.default_rng(0).integers(0, 256, (2, 17))


@pytest.mark.parametrize("target", TARGETS)
def test_experts_are_a_loop(target: str) -> None:
    """(d): scores, weights and low-rank products of 30 tokens and 5 experts; weights add up to 1."""
    text = """
    use std.moe.lora (low_rank, standardized_scores)
    use std.moe.route (token_choice)
    model m(x: f32[N, 8], gates: f32[5, 8], a: f32[5, 8, 3], b: f32[5, 3, 6]) -> (y: f32[N, 6], weight: f32[N, 2]) {
        routes = token_choice(standardized_scores(x, gates), k=2)
        return low_rank(x, routes, a, b), routes.weight
    }
    """
    rng = np.random.default_rng(1)
    x, gates, a, b = (rng.standard_normal(s).astype(np.float32) for s in ((30, 8), (5, 8), (5, 8, 3), (5, 3, 6)))
    gates[4] = 0  # its scores are 0, and not what 0 / 0 is
    made = ts.compile(loads(text), target=target, verify=False)(x=x, gates=gates, a=a, b=b)
    normed = [(v - v.mean(1, keepdims=True)) / np.sqrt(v.var(1, keepdims=True) + 1e-5) for v in (x, gates)]
    scores = normed[0] @ normed[1].T / np.sqrt(8)
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    want = np.zeros((30, 6))
    for t, chosen in enumerate(np.argsort(-p, axis=1, kind="stable")[:, :2]):
        for e in chosen:
            want[t] += p[t, e] / p[t, chosen].sum() * (x[t] @ a[e] @ b[e])
    np.testing.assert_allclose(made["y"], want, atol=2e-5)
    np.testing.assert_allclose(made["weight"].sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_one_expert_is_its_update(target: str) -> None:
    """(c); and both targets give the same for three."""
    frozen, experts = drawn()
    one = run(routed(1, 1), stacked(frozen, experts[1:2]), target, IDS)
    plain = run(expert_model("lora"), {n: v for n, v in experts[1].items() if "gate" not in n}, target, IDS)
    np.testing.assert_allclose(one["logits"], plain["logits"], rtol=1e-5, atol=1e-5)
    found, other = (run(routed(3), stacked(frozen, experts), name, IDS) for name in (target, "torch"))
    np.testing.assert_allclose(found["logits"], other["logits"], rtol=1e-4, atol=1e-4)
    assert found["best"].shape == (12, 2, 17)
    assert len(np.unique(found["best"])) == 3


def test_bad_input_is_refused() -> None:
    frozen, experts = drawn()
    with pytest.raises(Diagnostic, match="no more than there are") as caught:
        routed(2, 3)
    assert caught.value.code == "E0501"
    with pytest.raises(Diagnostic, match="form is base, lora, gate or routed"):
        expert_model("adapter")
    with pytest.raises(Diagnostic, match="one expert is not routed to"):
        expert_model("routed")
    missing = stacked(frozen, [{n: v for n, v in e.items() if n != "blocks.1.wo.gate" or e is not experts[2]} for e in experts])
    with pytest.raises(Diagnostic, match=r"expert\.2\.blocks\.1\.wo\.gate"):
        run(routed(3), missing, "torch", IDS)
    ranks = [*experts[:2], {n: v[:, :2] if n.endswith("lora_a") else v for n, v in experts[2].items()}]
    with pytest.raises(Diagnostic, match="lora_a"):
        run(routed(3), stacked(frozen, ranks), "torch", IDS)
    for target in TARGETS:
        other = [*experts[:2], {**experts[2], "words.weight": experts[2]["words.weight"] + 1}]
        with pytest.raises(Diagnostic) as caught:
            run(routed(3), stacked(frozen, other), target, IDS)
        # ONNX Runtime knows the weights when it loads the file.
        assert caught.value.code == {"torch": "E0912", "onnx": "E0910"}[target]


# Trained apart ----------------------------------------------------------------------------------------------------------------


def trained(form: str, weights: Weights, kinds: tuple[str, ...], steps: int, learns: str, rate: float) -> Weights:
    """The weights after training those whose names end in ``learns`` on texts of ``kinds``."""
    import torch

    from tessera.backends.torch import build

    module = expert_model(form, **WIDE)
    start = initialise(module.graph, 7)
    given = {name: weights.get(name, start[name].numpy()) for name in module.graph.params}
    net = build(module, given, trainable=True)
    texts, rng = [corpus(kind) for kind in kinds], np.random.default_rng(3)

    def loss_of(step: int) -> Any:
        ids = torch.as_tensor(windows(texts[step % len(texts)], 12, 96, rng))
        return next_byte(net(ids=ids)["logits"], ids)

    only = [p for name, p in net.named_parameters() if name.endswith(tuple(learns.split()))]
    for name, p in net.named_parameters():
        p.requires_grad_(name.endswith(tuple(learns.split())))
    fit(net, loss_of, steps, rate, only)
    after = weights_of(net)
    assert all(np.array_equal(after[n], v) for n, v in given.items() if not n.endswith(tuple(learns.split())))
    return after


def losses(logits: np.ndarray, ids: np.ndarray) -> float:
    logits = logits[:, :-1].astype(np.float64)
    own = np.take_along_axis(logits, ids[:, 1:, None], 2)[..., 0]
    return float((np.log(np.exp(logits).sum(-1)) - own).mean())


@pytest.mark.slow
def test_each_byte_finds_its_expert() -> None:
    """(a), and (b) as far as two blocks go: documents of segments of all kinds, which nobody was trained on."""
    frozen = trained("base", {}, KINDS, 600, "weight bias", 6e-3)
    experts = []
    for kind in KINDS:
        updated = trained("lora", frozen, (kind,), 100, "lora_a lora_b", 1e-2)
        experts.append(trained("gate", updated, (kind,), 60, "gate", 5e-2))
    rng = np.random.default_rng(9)
    kind_of = np.stack([rng.permutation(6)[:4] for _ in range(96)])
    ids = np.stack([
        np.concatenate([windows(corpus(KINDS[k], held_back=True), 1, SEGMENT, rng)[0] for k in row]) for row in kind_of
    ])  # fmt: skip
    found = run(routed(**WIDE), stacked(frozen, experts), "onnx", ids)
    ours = losses(found["logits"], ids)
    bare = [{n: v for n, v in e.items() if not n.endswith("gate")} for e in experts]
    singles = [losses(run(expert_model("lora", **WIDE), e, "onnx", ids)["logits"], ids) for e in bare]
    mean = {n: np.concatenate([e[n] for e in bare], axis=-1 if n.endswith("lora_a") else 0) for n in bare[0] if "lora" in n}
    joined = expert_model("lora", rank=24, **WIDE)
    summed = losses(run(joined, {**bare[0], **mean}, "onnx", ids)["logits"], ids)
    mean = {n: v / 6 if n.endswith("lora_b") else v for n, v in mean.items()}
    even = losses(run(joined, {**bare[0], **mean}, "onnx", ids)["logits"], ids)
    own = np.repeat(kind_of, SEGMENT, axis=1)
    right = float((found["best"] == own).mean())
    votes = np.stack([(found["best"] == e).sum(0) for e in range(6)]).argmax(0)
    unadapted = losses(run(expert_model("base", **WIDE), frozen, "onnx", ids)["logits"], ids)
    print("routed", ours, "single", singles, "frozen", unadapted, "mean", even, "sum", summed, "right", right)
    assert ours < min(*singles, unadapted, summed, even)
    # So small a model knows little of where it is.
    assert right >= 1.75 / 6
    assert (votes == own).mean() >= 2.25 / 6
