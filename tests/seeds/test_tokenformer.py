"""TokenFormer's row: parameter tokens as the published code computes them, and more of them without another function."""

from __future__ import annotations

import math
from typing import Any
from zlib import crc32

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import loads
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Module

from .texts import corpus, fit, next_byte, weights_of, windows

TARGETS = ("torch", "onnx")
SMALL = {"dim": 32, "heads": 2, "tokens": 8, "hidden": 16}
LARGE = {"tokens": 16, "hidden": 32}
IDS = np.random.default_rng(0).integers(0, 256, (2, 9))


def seed(dtype: str = "f32", **params: Any) -> Module:
    return ts.load("tokenformer", params={**SMALL, **params}, dtype=dtype)


def drawn(module: Module) -> dict[str, np.ndarray]:
    made = {}
    for name, p in module.graph.params.items():
        shape = [int(d) for d in p.type.shape]
        rng = np.random.default_rng(crc32(name.encode()))
        made[name] = rng.normal(0, 0.3, shape).astype(np.float64 if str(p.type).startswith("f64") else np.float32)
        if name.endswith("tau"):
            tokens = module.graph.params[name.replace("tau", "key_param_tokens")].type.shape[0]
            made[name] = np.asarray(math.sqrt(int(tokens)), made[name].dtype)
    return made


def grown(weights: dict[str, np.ndarray], into: Module, tau: str = "kept", keys: str = "zeros") -> dict[str, np.ndarray]:
    """Each parameter token of a small model in front, behind them keys of zeros with values of their own."""
    made: dict[str, np.ndarray] = {}
    for name, p in into.graph.params.items():
        value = weights[name]
        shape = [int(d) for d in p.type.shape]
        rng = np.random.default_rng(crc32(name.encode()) + 1)
        if value.shape != tuple(shape):
            new = rng.normal(0, 0.1, (shape[0] - len(value), *shape[1:])).astype(value.dtype)
            value = np.concatenate([value, new * (keys == "random" or name.endswith("value_param_tokens"))])
        elif name.endswith("tau") and tau == "root":
            value = np.asarray(math.sqrt(len(made[name.replace("tau", "key_param_tokens")])), value.dtype)
        made[name] = value
    return made


def logits(module: Module, weights: dict[str, np.ndarray], target: str = "torch", ids: np.ndarray = IDS) -> np.ndarray:
    return np.asarray(ts.compile(module, target=target, weights=weights, passes=[], verify=False)(ids=ids)["logits"])


@pytest.mark.parametrize("form", ["l2_norm_gelu", "gelu_l2_norm", "softmax"])
def test_the_forms_are_those_of_the_published_code(form: str) -> None:
    import torch
    import torch.nn.functional as F

    def nonlinear_norm_func(inputs: Any) -> Any:
        if form == "softmax":
            return F.softmax(inputs, dim=-1) * inputs.shape[-1]
        if form == "gelu_l2_norm":
            inputs = F.gelu(inputs)
        outputs = inputs / torch.norm(inputs, p=2, dim=-1, keepdim=True) * math.sqrt(inputs.shape[-1])
        return F.gelu(outputs) if form == "l2_norm_gelu" else outputs

    text = f"""
    use std.nn (pattention)
    model m(x: f32[N, 6]) -> f32[N, 5] {{ return pattention(x, tokens=9, out=5, form="{form}") }}
    """
    rng = np.random.default_rng(1)
    x, keys, values = (rng.standard_normal(s).astype(np.float32) for s in ((4, 6), (9, 6), (9, 5)))
    want = nonlinear_norm_func(torch.as_tensor(x) @ torch.as_tensor(keys).T) @ torch.as_tensor(values)
    tau = np.asarray(9 if form == "softmax" else 3, np.float32)
    weights = {"key_param_tokens": keys, "value_param_tokens": values, "tau": tau}
    for target in TARGETS:
        made = ts.compile(loads(text), target=target, weights=weights, verify=False)
        np.testing.assert_allclose(made(x=x)["output"], want.numpy(), atol=1e-5)
        # A token of zeros has scores of length 0: zeros, and no NaN.
        nothing = np.asarray(made(x=np.zeros((1, 6), np.float32))["output"])
        assert np.isfinite(nothing).all()
        assert (not nothing.any()) or form == "softmax"


@pytest.mark.parametrize("form", ["l2_norm_gelu", "gelu_l2_norm"])
def test_more_tokens_are_the_same_function_as_long_as_tau_stays(form: str) -> None:
    """(a), (d): three times in a row, in f64; with another tau, or keys that are not zeros, it is another function."""
    before = seed("f64", form=form)
    weights = drawn(before)
    want = logits(before, weights)
    for tokens in (12, 16, 32):
        larger = seed("f64", form=form, tokens=tokens, hidden=2 * tokens)
        weights, smaller = grown(weights, larger), weights
        found = logits(larger, weights)
        assert np.abs(found - want).max() <= 1e-12
        np.testing.assert_array_equal(found.argmax(-1), want.argmax(-1))
        assert all(np.array_equal(weights[n][: len(v)] if v.ndim else weights[n], v) for n, v in smaller.items())
    larger = seed("f64", form=form, **LARGE)
    for how in ({"tau": "root"}, {"keys": "random"}):
        found = logits(larger, grown(drawn(before), larger, **how))
        assert np.abs(found - want).max() > 0.1 * np.abs(want).max()


def test_a_softmax_is_not_preserved() -> None:
    before, larger = seed("f64", form="softmax"), seed("f64", form="softmax", **LARGE)
    weights = drawn(before)
    want = logits(before, weights)
    assert np.abs(logits(larger, grown(weights, larger)) - want).max() > 0.1 * np.abs(want).max()


@pytest.mark.parametrize("form", ["l2_norm_gelu", "gelu_l2_norm"])
def test_the_pass_grows_a_trained_model(form: str) -> None:
    """(a): by the small model's own file, three times in a row; what would be another function is refused."""
    module = seed("f64", form=form)
    weights = drawn(module)
    larger = module
    for times in (2, 1.5, 2):
        larger = ts.apply(larger, "grow", times=times)
    assert str(larger.graph.params["layers.0.mlp.key_param_tokens"].type) == "f64[96, 32]"
    assert np.abs(logits(larger, weights) - logits(module, weights)).max() <= 1e-12
    with pytest.raises(Diagnostic) as caught:
        ts.apply(seed(form="softmax"), "grow", times=2)
    assert caught.value.code == "E0724"
    with pytest.raises(Diagnostic) as caught:
        ts.apply(module, "grow", tokens=4)
    assert caught.value.code == "E0704"
    # What grows is the number of parameter tokens, and not how wide they are.
    with pytest.raises(Diagnostic, match="no option `dim`") as caught:
        ts.apply(module, "grow", dim=64)
    assert caught.value.code == "E0702"


@pytest.mark.parametrize("form", ["l2_norm_gelu", "gelu_l2_norm", "softmax"])
def test_targets_agree(form: str) -> None:
    """(c)."""
    module = seed(form=form)
    one, other = (logits(module, drawn(module), target) for target in TARGETS)
    np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", ["l2_norm_gelu", "gelu_l2_norm", "softmax"])
def test_a_row_of_zeros_has_no_length_to_be_divided_by(form: str, target: str) -> None:
    """It gives a number, and where the form preserves, 0."""
    module = loads(f'''
use std.nn (pattention)
model m(x: f32[N, 8]) -> (y: f32[N, 8]) {{ return pattention(x, tokens=6, out=8, form="{form}") as one }}
''')
    y = np.asarray(ts.compile(module, target=target, seed=0, verify=False)(np.zeros((3, 8), np.float32))["y"])
    assert np.isfinite(y).all()
    assert form == "softmax" or not y.any()


def test_bad_input_is_refused() -> None:
    module = seed()
    weights = drawn(module)
    del weights["layers.0.mlp.tau"]
    with pytest.raises(Diagnostic, match=r"layers\.0\.mlp\.tau") as caught:
        logits(module, weights)
    assert caught.value.code == "E0606"
    with pytest.raises(Diagnostic, match="the form is") as caught:
        seed(form="relu")
    assert caught.value.code == "E0501"


# (b): a model of Python sources that grows ----------------------------------------------------------------------------------


def trained(module: Module, weights: dict[str, np.ndarray] | None, steps: int, rate: float = 6e-3) -> dict[str, np.ndarray]:
    import torch

    from tessera.backends.torch import build

    text, rng = corpus("python"), np.random.default_rng(3)
    net = build(module, weights, trainable=True)

    def loss_of(step: int) -> Any:
        ids = torch.as_tensor(windows(text, 16, 64, rng))
        return next_byte(net(ids=ids)["logits"], ids)

    fit(net, loss_of, steps, rate)
    return weights_of(net)


def held_out(module: Module, weights: dict[str, np.ndarray]) -> float:
    ids = windows(corpus("python", held_back=True), 128, 64, np.random.default_rng(9))
    scores = logits(module, weights, "onnx", ids)[:, :-1].astype(np.float64)
    own = np.take_along_axis(scores, ids[:, 1:, None], 2)[..., 0]
    return float((np.log(np.exp(scores).sum(-1)) - own).mean())


@pytest.mark.slow
def test_a_grown_model_learns_more_with_a_fifth_of_the_steps() -> None:
    """Than the small one that goes on, and than one of its size that begins anew, in as many steps."""
    small, large = seed(), seed(**LARGE)
    weights = trained(small, None, 500)
    begun = grown(weights, large)
    assert held_out(large, begun) == pytest.approx(held_out(small, weights), abs=1e-5)
    longer, wider, anew = trained(small, weights, 100), trained(large, begun, 100), trained(large, None, 100)
    losses = [held_out(small, weights), held_out(small, longer), held_out(large, wider), held_out(large, anew)]
    print(losses)
    # By 0.002 here; the sources of another Python shift both.
    assert losses[2] < losses[1] + 0.005
    assert losses[2] < losses[3] - 0.1
