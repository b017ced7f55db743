"""Broken, truncated and hostile MLIR: one error, in bounded time and memory, and never a crash of the parser."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from tessera.frontends.torch import load_mlir
from tessera.ir.diagnostics import Diagnostic

pytest.importorskip("torch_mlir", reason="torch-mlir (extra `mlir`) is not installed")

V = "!torch.vtensor<[2],f32>"
BIG = "!torch.vtensor<[4294967296,4294967296],f32>"
FREE = "!torch.vtensor<[?],f32>"


def one(body: str, arg: str = V, result: str = V) -> str:
    return f"func.func @main(%x: {arg}) -> {result} {{\n{body}\n return %0 : {result}\n}}\n"


RELU = one(f" %0 = torch.aten.relu %x : {V} -> {V}")
SIZES = one(
    f" %z = torch.constant.int 0\n %i0 = torch.aten.size.int %x, %z : {FREE}, !torch.int -> !torch.int\nMORE\n"
    " %n = torch.constant.none\n %l = torch.prim.ListConstruct %i : (!torch.int) -> !torch.list<int>\n"
    " %0 = torch.aten.ones %l, %n, %n, %n, %n : !torch.list<int>, !torch.none, !torch.none, !torch.none, !torch.none"
    f" -> {FREE}", FREE, FREE,
)  # fmt: skip
# (((n + n) n + n) n …: a polynomial of thousands of terms.
GROWING = "".join(
    f" %j{k} = torch.aten.add.int %i{k}, %i0 : !torch.int, !torch.int -> !torch.int\n"
    f" %i{k + 1 if k < 11 else ''} = torch.aten.mul.int %j{k}, %i{k} : !torch.int, !torch.int -> !torch.int\n"
    for k in range(12)
)
DOUBLING = f"func.func @main(%x0: {FREE}) -> {FREE} {{\n %z = torch.constant.int 0\n" + "".join(
    f" %l{k} = torch.prim.ListConstruct %x{k}, %x{k} : ({FREE}, {FREE}) -> !torch.list<vtensor>\n"
    f" %x{k + 1} = torch.aten.cat %l{k}, %z : !torch.list<vtensor>, !torch.int -> {FREE}\n"
    for k in range(100)
) + f" return %x100 : {FREE}\n}}"  # fmt: skip
BOUND = f"""func.func @main(%x: {FREE}) -> {FREE} {{
 %s = torch.symbolic_int "n" {{min_val = 0, max_val = 9}} : !torch.int
 torch.bind_symbolic_shape %x, [%s], affine_map<()[s0] -> (SIZE)> : {FREE}
 return %x : {FREE}
}}"""
WEIGHTS = one(f" %0 = torch.vtensor.literal(dense_resource<a> : tensor<2xf32>) : {V}")

HOSTILE = {
    "empty": ("", "E0784"),
    "zeros": ("\0\0\0", "E0784"),
    "no function": ("module { module { } }", "E0784"),
    "two functions": (RELU + RELU.replace("@main", "@other"), "E0784"),
    "no body": (f"func.func private @main({V}) -> {V}", "E0784"),
    "no result": ("func.func @main() {\n return\n}", "E0783"),
    "blocks": (one(" cf.br ^b\n^b:\n %0 = torch.aten.relu %x : V -> V".replace("V", V)), "E0784"),
    "calls itself": (one(f" %0 = func.call @main(%x) : ({V}) -> {V}"), "E0780"),
    "another size": (one(f" %0 = torch.aten.relu %x : {V} -> !torch.vtensor<[5],f32>", result="!torch.vtensor<[5],f32>"), "E0784"),
    "another dtype": (one(f" %0 = torch.aten.relu %x : {V} -> !torch.vtensor<[2],f64>", result="!torch.vtensor<[2],f64>"), "E0784"),
    "missing operands": (one(f' %0 = torch.operator "torch.aten.add.Tensor"(%x) : ({V}) -> {V}'), "E0784"),
    "many operands": (one(f' %0 = torch.operator "torch.aten.relu"(%x, %x, %x, %x) : ({V}, {V}, {V}, {V}) -> {V}'), "E0784"),
    "axis": (
        one(f" %z = torch.constant.int 7\n %i = torch.aten.size.int %x, %z : {V}, !torch.int -> !torch.int\n"
            f" %0 = torch.aten.relu %x : {V} -> {V}"), "E0784",
    ),
    "remainder of nothing": (
        SIZES.replace("MORE", " %i = torch.aten.remainder.int %i0, %z : !torch.int, !torch.int -> !torch.int"), "E0784"
    ),
    "size that grows": (SIZES.replace("MORE", GROWING), "E0784"),
    "tensor that doubles": (DOUBLING, "E0784"),
    "bound to a quotient by 0": (BOUND.replace("SIZE", "s0 floordiv 0"), "E0784"),
    "bound to two sizes": (BOUND.replace("SIZE", "s0, s0"), "E0784"),
    "bound to no size": (BOUND.replace("SIZE", ""), "E0784"),
    "parentheses": (BOUND.replace("SIZE", "(" * 5000 + "s0" + ")" * 5000), "E0784"),
    "modules in modules": ("module {" * 20000, "E0784"),
    "lists in lists": ("module attributes {a = " + "[" * 100_000 + "} {}", "E0784"),
    "weights cut off": (WEIGHTS + '{-# dialect_resources: { builtin: { a: "0x0400000000', "E0784"),
    "weights too short": (WEIGHTS + '{-# dialect_resources: { builtin: { a: "0x040000000000" } } #-}', "E0784"),
    "weights too large": (
        f"func.func @main() -> {BIG} {{\n %0 = torch.vtensor.literal(dense_resource<a> : tensor<4294967296x4294967296xf32>)"
        f' : {BIG}\n return %0 : {BIG}\n}}\n{{-# dialect_resources: {{ builtin: {{ a: "0x0400000000" }} }} #-}}', "E0784",
    ),
    "a number too large": (RELU.replace("%0 =", "%c = torch.constant.int 99999999999999999999\n %0 ="), "E0784"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_refused(name: str) -> None:
    text, code = HOSTILE[name]
    start = time.process_time()
    with pytest.raises(Diagnostic) as error:
        load_mlir(text)
    assert error.value.code == code
    assert time.process_time() - start < 5


def test_the_place_is_told() -> None:
    with pytest.raises(Diagnostic) as error:
        load_mlir(RELU.replace("return", "retrun"))
    assert error.value.message.startswith("this is not torch-dialect MLIR: line 3, column 2: ")
    assert "\n" not in error.value.message


def test_a_constant_of_one_number_takes_no_room() -> None:
    text = f"func.func @main() -> {BIG} {{\n %0 = torch.vtensor.literal(dense<1.0> : tensor<4294967296x4294967296xf32>) : {BIG}\n"
    (value,) = load_mlir(f"{text} return %0 : {BIG}\n}}").module.graph.outputs
    assert value.type.numel == 1 << 64


def written() -> str:
    """A program with sizes, lists, norms and weights in the text."""
    from tessera.backends import mlir
    from tessera.frontends.source import loads
    from tessera.runtime.weights.bind import initialise

    module = loads("""
        use std.nn (gelu, layer_norm, linear)
        use std.attention (self_attention)
        model m(x: f32[B, T, 8]) -> f32[B, T, 30] {
            return linear(gelu(self_attention(layer_norm(x) as norm, heads=2) as attn), out=30) as head
        }
    """)
    return mlir.build(module, initialise(module.graph, 0), mode="inline")


def test_every_beginning_is_one_error() -> None:
    text = written()
    load_mlir(text)
    for end in range(0, len(text.rstrip()) - 1, 97):
        with pytest.raises(Diagnostic, match="E0784"):
            load_mlir(text[:end])


def test_changed_text_is_read_or_refused() -> None:
    text = written()
    rng = random.Random(0)
    found = Counter[str]()
    words = ["0", "-1", "9223372036854775807", "?", "none", "%x", "!torch.int", "si64", "<", "(", "}", '"', "\0", "é"]
    for _ in range(100):
        lines = text.split("\n")
        for _ in range(rng.choice((1, 1, 3))):
            at = rng.randrange(len(lines) - 1)
            parts = lines[at].split(" ")
            parts[rng.randrange(len(parts))] = rng.choice([*words, *rng.choice(lines).split(" ")])
            lines[at] = rng.choice((" ".join(parts), "", lines[at] + "\n" + lines[rng.randrange(len(lines))]))
        try:
            load_mlir("\n".join(lines))
            found["read"] += 1
        except Diagnostic as error:
            found[error.code] += 1
    assert found["read"]
    assert found["E0784"]
