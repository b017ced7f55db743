"""States of a model beside states of its layers, of tensors and records, in any order: they print as source that reads back."""

from __future__ import annotations

import random

import pytest

from tessera.driver.compile import CLEANUP, apply_passes
from tessera.frontends.source import loads, print_module

LAYERS = """use std.cache (KVCache, append)
record R[B] { static s: bool = false  a: f32[B]  b: f32[B] }
layer lay(x: f32[B]) -> f32[B] {
    state z: f32[B] = zeros
    random u: f32[B] = uniform(0, 1)
    z = z + x + u
    tap seen = z
    return z * 2.0
}
layer rec(x: f32[B]) -> f32[B] {
    state r: R[B] = R(a=zeros, b=ones)
    state n: i64[] = ones
    param w: f32[] = ones
    r = R(a=r.b + x * w, b=r.a)
    n = n + 1
    return r.a * 2.0
}
layer outer(x: f32[B]) -> f32[B] {
    state o: f32[B] = constant(2.0)
    x = lay(x) as inner
    o = o + x
    y = rec(o) as more
    state late: R[B] = R(a=zeros, b=zeros, s=true)
    late = R(a=y, b=late.a, s=true)
    return y
}
layer cached(x: f32[B]) -> f32[B] {
    state c: KVCache[B, 1, C, 1, 1] = zeros
    k = reshape(x, [B, 1, 1, 1])
    c = append(c, k, k)
    return x + cast(c.length, f32)
}
layer still(x: f32[B]) -> f32[B] {
    state q: f32[B] = ones
    return x * 2.0
}
"""


def program(seed: int) -> str:
    """A model whose statements declare states, bind them anew, and call layers that have some of their own."""
    r = random.Random(seed)
    lines, values, states, records = [], ["x"], [], []
    for n in range(r.randrange(2, 9)):
        layer = r.choice(["lay", "rec", "outer", "cached", "still"])
        kind = r.randrange(8)
        if kind == 0:
            lines.append(f"state t{n}: f32[B] = {r.choice(['zeros', 'ones', 'normal(0.5)'])}")
            states.append(f"t{n}")
        elif kind == 1:
            lines.append(f"state r{n}: R[B] = R(a=zeros, b=ones{r.choice(['', ', s=false'])})")
            records.append(f"r{n}")
        elif kind == 2:
            lines += [f"state c{n}: i64[] = zeros", f"c{n} = c{n} + 1"]
        elif kind == 3:
            lines.append(f"tap q{n} = {r.choice([*values, *states])}")
        elif kind == 4 and states:
            lines.append(f"{r.choice(states)} = {r.choice([*values, *states])}{r.choice(['', ' + x', ' * 2.0'])}")
        elif kind == 5 and records:
            name = r.choice(records)
            lines.append(f"{name} = R(a={name}.b, b={r.choice([*values, *states])})")
        elif kind == 6:
            lines.append(f"repeat i in 2 as rep{n} {{ state z: f32[B]  x = {layer}(x) as l  z = z + x }}")
        else:
            lines.append(f"x = {layer}(x) as l{n}")
            lines.append(f"y{n} = x + 1.0")
            values.append(f"y{n}")
    body = "\n".join([*lines, f"return x, {r.choice([*values, *states])}"])
    return f"{LAYERS}\nmodel m(x: f32[B]) -> (f32[B], f32[B]) {{\n{body}\n}}"


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_states_read_back(first: int) -> None:
    for seed in range(first, first + 25):
        module = loads(program(seed))
        for made in (module, apply_passes(module, CLEANUP)[0]):
            text = print_module(made)
            again = loads(text)
            assert made.difference(again) is None, f"seed {seed}\n{text}"
            assert print_module(again) == text, f"seed {seed}\n{text}"


def test_a_state_of_a_record_takes_the_defaults_of_its_static_fields() -> None:
    text = f"{LAYERS}\nmodel m(x: f32[B]) -> f32[B] {{ state r: R[B] = zeros  y = r.a  r = R(a=x, b=r.a)  return y }}"
    (part, _) = (v.record for v in loads(text).graph.inputs if v.role == "state")
    assert part is not None
    assert part.statics == (("s", False),)
