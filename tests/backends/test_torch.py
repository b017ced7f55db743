"""The PyTorch backend as a whole: source, parameters, sizes, states, input checks, compilation, claimed composites."""

from __future__ import annotations

import copy
import linecache
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tessera.backends.torch import build
from tessera.backends.torch.claims import CLAIMS
from tessera.frontends.source import loads, resolve
from tessera.ir.builder import Builder
from tessera.ir.codes import all_codes
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.dims.dim import ceildiv, dim_min, sym
from tessera.ir.graph import Graph, Initializer, Require, Value
from tessera.ir.types import DTYPES, f16, f32, i64
from tessera.runtime.weights.bind import initialise
from tessera.runtime.weights.open import open_weights

from .support import B, T, finish, of


def mlp() -> Graph:
    """``y = tanh(x @ w1) @ w2 * 0.5 + x``, named as a program would name it."""
    b = Builder(Graph("mlp"))
    x = b.input("x", of("f32", "B", "T", 8))
    w1 = b.param("layers.0.in.weight", of("f32", 8, 4), Initializer("normal", (0.5,)))
    w2 = b.param("layers.0.out.weight", of("f32", 4, 8), Initializer("normal", (0.5,)))
    b.scope = "layers.0"
    h = b.op("tanh", b.op("matmul", x, w1))
    y = b.op("add", b.op("mul", b.op("matmul", h, w2), b.constant(0.5, f32)), x)
    return finish(b, y=y)


# Source --------------------------------------------------------------------------------------------------------------


def test_the_source_reads_as_straight_line_python() -> None:
    assert build(mlp()).source == (
        "def forward(self, x):\n"
        "    # layers.0\n"
        "    t = x @ self.layers[0]['in'].weight\n"
        "    t = torch.tanh(t)\n"
        "    t = t @ self.layers[0].out.weight\n"
        "    t = t * 0.5\n"
        "    t = t + x\n"
        "    return {'y': t}\n"
    )


def test_tracebacks_show_the_generated_line() -> None:
    module = build(mlp())
    with pytest.raises(RuntimeError) as caught:
        module.forward(torch.zeros(2, 3, 7))
    frame = caught.traceback[-1]
    assert linecache.getline(str(frame.path), frame.lineno + 1).strip() == "t = x @ self.layers[0]['in'].weight"


def test_a_value_that_nobody_reads_is_not_computed() -> None:
    b = Builder(Graph("f"))
    x = b.input("x", of("f32", 3))
    b.op("exp", b.op("log", x))
    values, _ = b.multi("sort", x)
    assert build(finish(b, y=values)).source == (
        "def forward(self, x):\n    t, _ = torch.sort(x, dim=0, descending=False, stable=True)\n    return {'y': t}\n"
    )


def test_what_changes_nothing_is_not_written() -> None:
    b = Builder(Graph("f"))
    x = b.input("x", of("f32", "B", 4))
    y = b.op("cast", b.op("exp", x), dtype=f32)
    z = b.op("rearrange", y, pattern="b d -> b d", axes=())
    w = b.op("mul", b.op("neg", z), y)  # y and z go by one name, which is free when both are read
    assert build(finish(b, w=w, x=b.op("reshape", b.op("cast", x, dtype=f32), shape=(-1,)))).source == (
        "def forward(self, x):\n"
        "    B = x.shape[0]\n"
        "    t = torch.exp(x)\n"
        "    t_1 = -t\n"
        "    t = t_1 * t\n"
        "    t_1 = x.reshape((4 * B,))\n"
        "    return {'w': t, 'x': t_1}\n"
    )


def test_names_of_values_and_sizes_never_clash_with_python() -> None:
    b = Builder(Graph("f"))
    names = ["lambda", "torch", "F", "ops", "self", "device", "min", "T_1"]
    total = b.input("T", of("f32", "F", "T", "min"))
    for name in names:
        total = b.op("add", total, b.input(name, of("f32", "F", "T", "min")))
    total = b.op("add", total, b.op("full", shape=(sym("F"), T, sym("min")), value=1.0, dtype=f32))
    total = b.op("add", total, b.op("cast", b.op("full", shape=(), value=dim_min(T, sym("F")), dtype=i64), dtype=f32))
    module = build(finish(b, y=total))
    y = module(*[torch.full((2, 3, 4), float(i)) for i in range(len(names) + 1)])["y"]
    assert torch.equal(y, torch.full((2, 3, 4), 36.0 + 1 + 2))


def test_nothing_imports_torch_before_it_is_needed() -> None:
    code = "import sys, tessera.backends.torch, tessera.backends.torch.table; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# Parameters ----------------------------------------------------------------------------------------------------------

NAMES = [
    "a",
    "layers.0.self.weight",
    "layers.11.w",
    "layers.01.w",
    "x.type.half",
    "class.None.w",
    "p.forward",
    "q.source",
]


def named(names: list[str], dtype: str = "f32") -> Graph:
    b = Builder(Graph("f"))
    x = b.input("x", of(dtype, 2))
    for i, name in enumerate(names):
        x = b.op("add", x, b.param(name, of(dtype, 2), Initializer("constant", (float(2**i),))))
    return finish(b, y=x)


def test_the_state_dict_has_the_full_names() -> None:
    module = build(named(NAMES))
    assert set(module.state_dict()) == set(NAMES)
    assert module(torch.zeros(2))["y"].tolist() == [2 ** len(NAMES) - 1] * 2
    assert all(isinstance(p, torch.nn.Parameter) for p in module.parameters())
    module.load_state_dict({name: torch.zeros(2) for name in NAMES})
    assert module(torch.zeros(2))["y"].tolist() == [0, 0]


def test_a_parameter_may_be_called_like_a_scope() -> None:
    names = ["proj", "proj.more", "proj.more.0", "layers.0", "layers.0.w"]
    module = build(named(names))
    assert set(module.state_dict()) == set(names)
    assert module(torch.zeros(2))["y"].tolist() == [2 ** len(names) - 1] * 2


def test_buffers_are_kept_and_constants_are_not() -> None:
    b = Builder(Graph("f"))
    x = b.input("x", of("f32", 2, 2))
    y = b.op("mul", x, b.param("stat", of("f32", 2), Initializer("ones"), trainable=False))
    y = b.op("add", y, b.op("constant", value=((1, 2), (3, 4)), dtype=f32))
    y = b.op("div", y, b.constant(4.0, f32))  # a divisor stays a tensor
    module = build(finish(b, y=y)).to(torch.device("cpu"))
    assert list(module.state_dict()) == ["stat"]
    assert not list(module.parameters())
    assert module(torch.zeros(2, 2))["y"].tolist() == [[0.25, 0.5], [0.75, 1.0]]


def test_without_weights_every_backend_starts_from_the_same_values() -> None:
    graph = mlp()
    for name, tensor in build(graph, seed=7).state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), initialise(graph, 7)[name].numpy())


def test_gradients_flow_only_when_asked() -> None:
    weights = {name: value.numpy() for name, value in initialise(mlp(), 0).items()}
    frozen, module = build(mlp(), weights), build(mlp(), weights, trainable=True)
    assert not any(p.requires_grad for p in frozen.parameters())
    module(torch.randn(2, 3, 8))["y"].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    before = weights["layers.0.in.weight"].copy()
    torch.optim.SGD(module.parameters(), lr=1.0).step()
    assert not np.array_equal(module.state_dict()["layers.0.in.weight"].numpy(), before)
    np.testing.assert_array_equal(weights["layers.0.in.weight"], before)


def test_weights_of_a_file_are_shared_with_it_and_never_written_back(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": np.ones(1 << 16, np.float32)}, path)
    weights = open_weights(path)
    b = Builder(Graph("f"))
    graph = finish(b, y=b.op("mul", b.input("x", of("f32", 1)), b.param("w", of("f32", 1 << 16))))
    module = build(graph, weights)
    (parameter,) = module.parameters()
    assert parameter.data_ptr() == weights["w"].__array_interface__["data"][0]
    original = path.read_bytes()
    module.load_state_dict({"w": torch.full((1 << 16,), 3.0)})
    assert module(torch.ones(1))["y"][0].item() == 3
    assert path.read_bytes() == original


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "f64"])
def test_weights_are_converted_to_the_dtype_of_the_model(dtype: str) -> None:
    module = build(named(["w"], dtype), {"w": np.array([0.1, 1.0], np.float32)})
    x = torch.zeros(2, dtype=module.state_dict()["w"].dtype)
    assert module(x)["y"][0].item() == pytest.approx(0.1, rel=1e-2)
    assert str(x.dtype) == {"f32": "torch.float32", "f16": "torch.float16", "bf16": "torch.bfloat16"}.get(
        dtype, "torch.float64"
    )


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_scalar_constants_are_rounded_to_their_dtype(dtype: str) -> None:
    b = Builder(Graph("f"))
    x = b.input("x", of(dtype, 200))
    graph = finish(b, y=b.op("mul", x, b.constant(0.1, DTYPES[dtype])))
    values = torch.arange(200, dtype=torch.float16 if dtype == "f16" else torch.bfloat16)
    assert torch.equal(build(graph)(values)["y"], values * torch.tensor(0.1, dtype=values.dtype))


def test_a_deep_copy_is_independent() -> None:
    graph = named(["w"])
    x: Value = graph.outputs[0]
    for _ in range(2000):  # a copy must not descend along the graph's links
        x = Builder(graph).op("neg", x)
    graph.set_outputs([x], graph.output_info)
    module = build(graph)
    twin = copy.deepcopy(module)
    twin.load_state_dict({"w": torch.zeros(2)})
    assert module(torch.zeros(2))["y"].tolist() == [1, 1]
    assert twin(torch.zeros(2))["y"].tolist() == [0, 0]


# Sizes, states, random inputs ----------------------------------------------------------------------------------------


def test_sizes_are_solved_from_expressions() -> None:
    b = Builder(Graph("f"))
    x = b.input("x", of("f32", T * 2 + 1, T + sym("K")))
    graph = finish(b, t=b.dim_value(T), k=b.dim_value(sym("K") * T), x=x)
    outputs = build(graph)(torch.zeros(7, 5))
    assert (outputs["t"].item(), outputs["k"].item()) == (3, 6)


def test_lets_are_computed_once_and_reach_inner_functions() -> None:
    b = Builder(Graph("f"))
    x = b.input("x", of("f32", "B", "T"))
    half = b.name_dim("half", ceildiv(T, 2))
    body = Builder(Graph("body"))
    body.input("i", of("i64"))
    h = body.input("h", of("f32", "B", half))
    body.graph.add_output(body.op("add", h, body.op("full", shape=(B, half), value=1.0, dtype=f32)), "h")
    (y,) = b.multi("fold", b.op("slice", x, axis=1, stop=half), n=half, carried=1, body=body.graph)
    module = build(finish(b, y=y))
    assert "half = (T + 1) // 2" in module.source
    assert torch.equal(module(torch.zeros(2, 5))["y"], torch.full((2, 3), 3.0))


def stateful() -> Graph:
    b = Builder(Graph("f"))
    x = b.input("x", of("f32", "B", 2))
    cache = b.input("cache", of("f32", "B", 2), "state", Initializer("constant", (5.0,)))
    noise = b.input("noise", of("f32", "B", 2), "random", Initializer("uniform", (0, 1)))
    b.graph.add_output(b.op("add", x, noise), "y")
    b.graph.add_output(b.op("add", x, cache), "cache", "state")
    return b.graph


def test_states_start_from_their_initialiser_and_are_threaded() -> None:
    module, x = build(stateful()), torch.ones(3, 2)
    first = module(x)["cache"]
    assert torch.equal(first, torch.full((3, 2), 6.0))
    assert torch.equal(module(x, cache=first)["cache"], torch.full((3, 2), 7.0))


def test_random_inputs_come_from_the_seed_or_are_given() -> None:
    module, x = build(stateful()), torch.zeros(3, 2)
    assert torch.equal(module(x, seed=1)["y"], module(x, seed=1)["y"])
    assert not torch.equal(module(x, seed=1)["y"], module(x, seed=2)["y"])
    assert torch.equal(module(x, noise=x + 3)["y"], x + 3)


# Input checks --------------------------------------------------------------------------------------------------------


def picky() -> Graph:
    """Selects T - 3 of T tokens, with a mask of T + 1."""
    b = Builder(Graph("picky"))
    x = b.input("x", of("f32", "B", "T", 8))
    b.input("mask", of("bool", "B", T + 1))
    score = b.op("mean", x, axis=-1)
    b.graph.requires.append(Require(T, "<=", sym("B") * 4, "too many tokens"))
    b.graph.facts["B"] = (1, 16)
    return finish(b, y=b.multi("topk", score, k=T - 3)[1])


def refused(action: Callable[[], Any]) -> Diagnostic:
    with pytest.raises(Diagnostic) as caught:
        action()
    assert caught.value.code in all_codes()
    return caught.value


MASK = torch.ones(2, 6) > 0
X = torch.zeros(2, 5, 8)
WRONG: list[tuple[str, str, tuple[Any, ...], dict[str, Any]]] = [
    ("E0901", "`picky` was called without `mask: bool[B, T + 1]`", (X,), {}),
    ("E0901", "`picky` was called without `x: f32[B, T, 8]`, `mask: bool[B, T + 1]`", (), {}),
    ("E0901", "`picky` has no input `msak`", (X,), {"msak": MASK}),
    ("E0901", "the input `x` of `picky` is given twice", (X,), {"x": X}),
    ("E0901", "`picky` takes 2 input(s), but 3 were given", (X, MASK, X), {}),
    ("E0902", "`x` must have 3 axes, f32[B, T, 8], but has 2: float32[5, 8]", (X[0], MASK), {}),
    ("E0902", "axis 2 of `x` must be 8, but is 7: float32[2, 5, 7]", (X[..., 1:], MASK), {}),
    ("E0902", "axis 1 of `mask` must be T + 1 = 6, but is 5: bool[2, 5]", (X, MASK[:, 1:]), {}),
    ("E0902", "the size `B` of `picky` must be from 1 to 16, but is 0", (X[:0], MASK[:0]), {}),
    ("E0902", "the size `B` of `picky` must be from 1 to 16, but is 20", (X.repeat(10, 1, 1), MASK.repeat(10, 1)), {}),
    ("E0903", "`x` must be f32, but is float16[2, 5, 8]", (X.half(), MASK), {}),
    ("E0904", "`topk` would make an axis of a negative size: T - 3 >= 0 does not hold", (X[:, :2], MASK[:, :3]), {}),
    ("E0904", "too many tokens: T <= 4 * B does not hold", (X.repeat(1, 2, 1), torch.ones(2, 11) > 0), {}),
    ("E0922", "`x` holds NaN, first at [1, 0, 2], and `picky` selects by comparing", (X.clone(), MASK), {}),
]


@pytest.mark.parametrize(
    ("code", "message", "args", "named_args"), WRONG, ids=[f"{c}-{i}" for i, (c, *_) in enumerate(WRONG)]
)
def test_wrong_inputs(code: str, message: str, args: tuple[Any, ...], named_args: dict[str, Any]) -> None:
    if code == "E0922":
        args[0][1, 0, 2] = float("nan")
    error = refused(lambda: build(picky())(*args, **named_args))
    assert (error.code, error.message) == (code, message)


def test_right_inputs_pass_and_arrays_are_taken() -> None:
    assert build(picky())(X, MASK)["y"].tolist() == [[0, 1], [0, 1]]
    assert build(picky())(x=X.numpy(), mask=MASK.numpy())["y"].shape == (2, 2)


def test_notes_say_where_a_size_was_bound() -> None:
    error = refused(lambda: build(picky())(X, MASK[:, 1:]))
    assert [note.message for note in error.notes] == ["T is 5, from axis 1 of `x`"]


def test_a_slice_with_symbolic_bounds_is_checked() -> None:
    b = Builder(Graph("f"))
    x = b.input("x", of("f32", "T"))
    k = b.input("k", of("f32", "K"))
    graph = finish(b, y=b.op("slice", x, axis=0, start=1, stop=sym("K") + 1), k=k)
    assert build(graph)(torch.arange(5.0), torch.zeros(4))["y"].tolist() == [1, 2, 3, 4]
    error = refused(lambda: build(graph)(torch.arange(4.0), torch.zeros(4)))
    assert (error.code, error.message) == (
        "E0904",
        "the slice 1:K + 1 reaches outside its axis: T >= K + 1 does not hold",
    )


def test_a_requirement_inside_a_composite_is_checked() -> None:
    b = Builder(Graph("f"))
    x, table = b.input("x", of("f32", 1, 1, 2, "K")), b.input("table", of("f32", 1, 2, "P"))
    module = build(finish(b, y=b.op(resolve("std.attention.rope"), x, table, table)))
    assert module(torch.zeros(1, 1, 2, 6), torch.zeros(1, 2, 3))["y"].shape == (1, 1, 2, 6)
    error = refused(lambda: module(torch.zeros(1, 1, 2, 4), torch.zeros(1, 2, 3)))
    assert error.code == "E0904"


def test_a_size_that_no_input_tells() -> None:
    b = Builder(Graph("f"))
    x = b.input("x", of("f32", sym("H") * sym("W")))
    error = refused(lambda: build(finish(b, y=b.op("reshape", x, shape=(sym("H"), sym("W"))))))
    assert error.code == "E0907"


def test_a_size_that_only_an_absent_state_tells() -> None:
    b = Builder(Graph("f"))
    x = b.input("x", of("f32", 2))
    cache = b.input("cache", of("f32", "S"), "state", Initializer("zeros"))
    module = build(finish(b, y=x, cache=cache))
    assert module(torch.zeros(2), torch.zeros(4))["cache"].shape == (4,)
    assert refused(lambda: module(torch.zeros(2))).code == "E0901"


# torch.compile and torch.export --------------------------------------------------------------------------------------


def dynamic() -> Graph:
    """Selection, loops, random-looking sizes and gradient control in one graph with two free sizes."""
    b = Builder(Graph("f"))
    x = b.input("x", of("f32", "B", "T", 4))
    w = b.param("layers.0.self.weight", of("f32", 4, 4), Initializer("normal", (1.0,)))
    y = b.op("scale_gradient", b.op("einsum", x, w, equation="b t d, o d -> b t o"), scale=0.5)
    _, index = b.multi("topk", b.op("mean", y, axis=-1), k=T - 3)
    kept = b.op("take", y, b.multi("sort", index)[0], axis=1, batch=1)
    count = b.op("cast", b.dim_value(dim_min(T, 6)), dtype=f32)
    kept = b.op("mul", kept, count)
    return finish(b, y=kept, cumulative=b.op("cumsum", y, axis=1, exclusive=True), index=index)


@pytest.mark.parametrize("how", ["compile", "export"])
def test_torch_takes_the_module_with_free_sizes(how: str) -> None:
    module = build(dynamic())
    if how == "compile":
        run = torch.compile(module, fullgraph=True, dynamic=True, backend="eager")
    else:
        sizes = {0: torch.export.Dim("B"), 1: torch.export.Dim("T", min=5)}
        run = torch.export.export(module, (torch.randn(2, 7, 4),), dynamic_shapes=(sizes,)).module()
    for shape in ((2, 7, 4), (3, 10, 4), (5, 8, 4)):
        x = torch.randn(shape)
        for name, tensor in run(x).items():
            torch.testing.assert_close(tensor, module(x)[name])


# Composites ----------------------------------------------------------------------------------------------------------


def test_an_unclaimed_composite_is_one_function_for_all_its_calls() -> None:
    b = Builder(Graph("f"))
    x = b.input("x", of("f32", "B", 8))
    for _ in range(3):
        x = b.op(resolve("std.nn.gelu"), x)
    module = build(finish(b, y=x), claims=False)
    assert module.source.count("def ") == 2
    assert module.source.count("_gelu(self, ") == 4


@pytest.mark.parametrize("given", [(), ("weight",), ("bias",), ("weight", "bias")])
def test_operands_that_are_not_given(given: tuple[str, ...]) -> None:
    b = Builder(Graph("f"))
    x = b.input("x", of("f32", "B", 8))
    rows = [b.input(name, of("f32", 8)) if name in given else None for name in ("weight", "bias")]
    graph = finish(b, y=b.op(resolve("std.nn.layer_normalize"), x, *rows))
    tensors = [torch.randn(3, 8), *(torch.randn(8) for _ in given)]
    named_tensors = dict(zip(given, tensors[1:], strict=True))
    expected = torch.nn.functional.layer_norm(tensors[0], (8,), named_tensors.get("weight"), named_tensors.get("bias"))
    for claims in (True, False):
        torch.testing.assert_close(build(graph, claims=claims)(*tensors)["y"], expected)


Operands = list[tuple[int, ...] | str | None]
"""Shapes of float operands; ``mask[…]`` is a boolean one, ``below n […]`` integers, ``+`` makes it positive, None is not given."""

CLAIM_CASES: dict[str, list[tuple[Operands, dict[str, Any]]]] = {
    "std.nn.affine": [([(2, 3, 8), (5, 8), (5,)], {}), ([(3, 8), (5, 8), None], {})],
    "std.nn.softmax": [([(2, 3, 5)], {"axis": a}) for a in (-1, 1)],
    "std.nn.log_softmax": [([(2, 3, 5)], {"axis": a}) for a in (-1, 0)],
    "std.nn.relu": [([(3, 4)], {})],
    "std.nn.gelu": [([(3, 4)], {})],
    "std.nn.gelu_tanh": [([(3, 4)], {})],
    "std.nn.silu": [([(3, 4)], {})],
    "std.nn.softplus": [([(3, 4)], {})],
    "std.nn.swiglu": [([(3, 4), (3, 4)], {})],
    "std.nn.layer_normalize": [([(2, 3, 8), (8,), (8,)], {"eps": 1e-3}), ([(3, 8), None, None], {})],
    "std.nn.rms_normalize": [([(2, 3, 8), (8,)], {"eps": 1e-3}), ([(3, 8), None], {})],
    "std.nn.group_normalize": [
        ([(2, 6, 4, 3), (6,), (6,)], {"groups": 3}),
        ([(2, 6, 5), None, None], {"groups": 2, "eps": 1e-2}),
    ],
    "std.nn.batch_normalize": [
        ([(2, 6, 4, 3), (6,), "+6", (6,), (6,)], {"eps": 1e-3}),
        ([(4, 6), (6,), "+6", None, None], {}),
    ],
    **{f"std.math.{name}": [([(3, 40)], {})] for name in ("expm1", "log1p", "erfc", "asin", "acos")},
    "std.math.atan2": [([(3, 4), (3, 4)], {})],
    **{f"std.math.{name}": [([(3, 5)], {"axis": a}) for a in (-1, 0)] for name in ("cumprod", "cummin")},
    "std.attention.attention": [
        ([(2, 4, 5, 8), (2, 4, 5, 8), (2, 4, 5, 6), None, None], {}),
        ([(2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 8), "mask 2 1 1 7", None], {"scale": 0.2}),
        ([(2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 8), None, (1, 4, 5, 7)], {}),
        ([(2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 8), "mask 2 1 5 7", (2, 1, 1, 7)], {}),
        ([(2, 4, 5, 8), (2, 2, 5, 8), (2, 2, 5, 8), None, None], {"causal": True}),
        ([(2, 4, 3, 8), (2, 1, 7, 8), (2, 1, 7, 8), None, None], {"causal": True}),
        ([(2, 4, 7, 8), (2, 4, 7, 8), (2, 4, 7, 8), "mask 1 1 7 7", (1, 1, 7, 7)], {"causal": True}),
        ([(2, 4, 5, 8), (2, 4, 5, 8), (2, 4, 5, 8), None, None], {"softcap": 3.0}),
        ([(2, 4, 5, 8), (2, 4, 5, 8), (2, 4, 5, 8), None, None], {"log_sum_exp": True, "row": 0}),
    ],
    "std.attention.attend": [
        ([(2, 4, 5, 8), (2, 2, 7, 8), (2, 2, 7, 6), "mask 2 1 5 7", None], {"causal": True}),
        ([(2, 4, 5, 8), (2, 4, 5, 8), (2, 4, 5, 8), None, None], {"softcap": 3.0}),
    ],
    "std.cache.write_rows": [([(2, 4, 7, 8), "below 8 2", (2, 4, 3, 8)], {})],
    "std.cache.append": [
        ([(2, 4, 7, 8), (2, 4, 7, 6), "below 8 2", (2, 4, 3, 8), (2, 4, 3, 6), count], {})
        for count in (None, "below 4 2")
    ],
    "std.cache.gather_path": [
        ([(2, 4, 7, 8), (2, 4, 7, 6), "below 8 2", "below 3 2", "below 4 2 3", count], {})
        for count in (None, "below 4 2")
    ],
}
CASES = [
    pytest.param(name, operands, attrs, dtype, id=f"{name}-{i}-{dtype}")
    for name, rows in CLAIM_CASES.items()
    for i, (operands, attrs) in enumerate(rows)
    for dtype in ("f32", "f64", "f16", "bf16")
]


def test_every_claim_is_tested() -> None:
    assert set(CLAIM_CASES) == set(CLAIMS)


@pytest.mark.parametrize(("name", "operands", "attrs", "dtype"), CASES)
def test_a_claim_agrees_with_the_body(
    name: str, operands: Operands, attrs: dict[str, Any], dtype: str, request: pytest.FixtureRequest
) -> None:
    b, rng = Builder(Graph("f")), torch.Generator().manual_seed(0)
    tensors: list[torch.Tensor] = []
    inputs: list[Value | None] = []
    kind = {"f32": torch.float32, "f64": torch.float64, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    for i, operand in enumerate(operands):
        if operand is None:
            inputs.append(None)
            continue
        if isinstance(operand, str) and operand.startswith("mask"):
            tensor = torch.rand([int(n) for n in operand.split()[1:]], generator=rng) < 0.6
            tensor[0, 0, 0] = False  # a query that may attend to nothing
        elif isinstance(operand, str) and operand.startswith("below"):
            high, *shape = (int(n) for n in operand.split()[1:])
            tensor = torch.randint(high, shape, generator=rng)
        elif isinstance(operand, str):
            tensor = (torch.rand(int(operand), generator=rng) + 0.5).to(kind)
        else:
            tensor = (torch.randn(operand, generator=rng) * 2).to(kind)
        tensors.append(tensor)
        type = of(
            {torch.bool: "bool", torch.int64: "i64"}.get(tensor.dtype, dtype),
            *("B" if n == 2 and axis == 0 else n for axis, n in enumerate(tensor.shape)),
        )
        inputs.append(b.input(f"x{i}", type))
    for i, value in enumerate(b.multi(resolve(name), *inputs, **attrs)):
        b.graph.add_output(value, f"y{i}")
    claimed, body = build(b.graph), build(b.graph, claims=False)
    tolerance = {"f64": 1e-7, "f32": 2e-6, "f16": 4e-3, "bf16": 3e-2}[dtype]
    for key, tensor in claimed(*tensors).items():
        same = torch.allclose(tensor, body(*tensors)[key], rtol=tolerance, atol=tolerance, equal_nan=True)
        assert same, f"{key}: reproduce: python -m pytest '{request.node.nodeid}'\n{claimed.source}\n{body.source}"


def test_a_choice_by_a_scalar_compiles_and_exports_as_one_graph() -> None:
    source = """model m(x: f32[4, 3], p: bool[]) -> f32[4, 3] {
        param w: f32[3, 3] = normal(1.0)
        y = x
        cond p from (x, y) { x = x @ w  y = x }
        return x + y
    }"""
    network = build(loads(source))
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    x = torch.randn(4, 3)
    for p in (torch.tensor(True), torch.tensor(False)):
        torch.testing.assert_close(compiled(x, p)["output"], network(x, p)["output"])
    exported = torch.export.export(network, (x, torch.tensor(True)))
    torch.testing.assert_close(exported.module()(x, torch.tensor(False))["output"], 2 * x)


def test_a_claim_is_used_and_can_be_switched_off() -> None:
    b = Builder(Graph("f"))
    graph = finish(b, y=b.op(resolve("std.nn.gelu"), b.input("x", of("f32", 3))))
    assert "F.gelu(x)" in build(graph).source
    assert "F.gelu" not in build(graph, claims=False).source


def test_dtypes_of_constants_do_not_leak() -> None:
    """A graph of two constants alone, and one in f16 whose every operand is a constant."""
    b = Builder(Graph("f"))
    two = b.op("mul", b.constant(2.0, f16), b.constant(0.1, f16))
    picked = b.op("where", b.input("c", of("bool", 2)), b.constant(1.0, f16), b.constant(0.5, f16))
    outputs = build(finish(b, two=two, picked=picked, plain=b.constant(3, i64)))(torch.tensor([True, False]))
    assert [t.dtype for t in outputs.values()] == [torch.float16, torch.float16, torch.int64]
    assert outputs["picked"].tolist() == [1.0, 0.5]
