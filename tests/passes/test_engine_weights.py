"""What passes may do to weights: whatever they add, resize or join, they write down how it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.frontends.source import loads, print_module
from tessera.ir.builder import Builder, reinfer
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Initializer, Module, Parameter
from tessera.ir.recipe import Fill, Take, apply
from tessera.ir.types import TensorType, f32
from tessera.passes.engine import Pass, PassFailed, run_pipeline
from tessera.passes.report import Report


@dataclass(frozen=True)
class Edit(Pass):
    """Runs a function on the module. Only for tests."""

    name = "edit"
    contract = "exact"
    edit: Callable[[Module], None] = lambda module: None

    def run(self, module: Module) -> Report:
        self.edit(module)
        return Report.of(self, 1)


def program(rows: str = "") -> Module:
    return loads(f"""
model m(x: f32[B, 8]) -> f32[B, 8] {{
    param w: f32[4, 8] = normal(1.0)
    return x + sum(w, axis=0)
}}
compile m {{ weights {{ {rows} }} }}
""")


def replace(module: Module, shape: list[int], name: str = "w") -> None:
    """Another parameter in the place of `w`."""
    old = module.graph.params.pop("w")
    new = Parameter(TensorType.of("f32", shape), name, old.init)
    module.graph.add_param(new)
    old.replace_uses(new)
    for node in new.users:
        reinfer(node)


def pad(module: Module) -> None:
    replace(module, [6, 8])
    module.recipes["w"] = apply("pad", module.recipe("w"), after=2)


def edited(module: Module, *edits: Callable[[Module], None]) -> Module:
    return run_pipeline(module, [Edit(e) for e in edits], verify_each=True)[0]


def test_a_resized_parameter_is_made_of_the_old_one() -> None:
    module = program()
    after = edited(module, pad)
    assert after.recipes == {"w": apply("pad", "w", after=2)}
    assert module.recipes == {}
    x = np.zeros((1, 8), np.float32)
    want = ts.compile(module, seed=5)(x=x)["output"]
    np.testing.assert_allclose(ts.compile(module, passes=[Edit(pad)], seed=5)(x=x)["output"], want, rtol=1e-6)
    weights = {"w": np.ones((4, 8), np.float32)}
    assert ts.compile(after, weights=weights)(x=x)["output"].tolist() == [[4.0] * 8]


def test_recipes_of_passes_go_over_those_of_the_file() -> None:
    module = program('"w" = transpose("t")')
    after = edited(module, pad, lambda m: replace_named(m, [12, 8]))
    grown = apply("pad", apply("transpose", "t"), after=2)
    assert after.recipes == {"v": apply("concat", grown, grown)}
    assert loads(print_module(after)) == after
    x = np.zeros((1, 8), np.float32)
    weights = {"t": np.ones((8, 4), np.float32)}
    assert ts.compile(after, weights=weights)(x=x)["output"].tolist() == [[8.0] * 8]
    # Without weights, `w` has its first values, whatever it would be made of.
    twice = ts.compile(module, passes=[Edit(pad), Edit(lambda m: replace_named(m, [12, 8]))], seed=2)(x=x)
    np.testing.assert_allclose(twice["output"], 2 * ts.compile(module, passes=[], seed=2)(x=x)["output"], rtol=1e-5)


def replace_named(module: Module, shape: list[int]) -> None:
    recipe = module.recipe("w")
    replace(module, shape, "v")
    module.recipes["v"] = apply("concat", recipe, recipe)


def test_a_shared_parameter_is_resized_once() -> None:
    module = loads(
        """
model one(x: f32[B, 8]) -> f32[B, 8] {
    param w: f32[4, 8] = normal(1.0)
    return x + sum(w, axis=0)
}
model two(x: f32[B, 8]) -> f32[B, 8] {
    param w: f32[4, 8] = normal(1.0)
    return x - sum(w, axis=0)
}
program both {
    entry one = one()
    entry two = two()
}
compile both { weights { "w" = transpose("t") } }
""",
        model="both",
    )
    after = edited(module, pad)
    assert after.recipes == {"w": apply("pad", apply("transpose", "t"), after=2)}
    assert all(graph.params["w"].type == TensorType.of("f32", [6, 8]) for graph in after.functions.values())
    assert loads(print_module(after)) == after


def test_a_parameter_that_goes_takes_its_recipe_along() -> None:
    module = program('"w" = transpose("t")')

    def drop(m: Module) -> None:
        m.graph.end.set_input(0, m.graph.inputs[0])
        for node in list(m.graph.reversed_nodes()):
            m.graph.remove(node)
        del m.graph.params["w"]

    assert edited(module, drop).recipes == {}


def test_a_parameter_may_come_from_nothing() -> None:
    def fill(module: Module) -> None:
        replace(module, [3, 8], "new")
        module.recipes["new"] = Fill(Initializer("ones"), (3, 8), f32)

    x = np.zeros((1, 8), np.float32)
    after = edited(program(), fill)
    assert ts.compile(after, weights={}, verify=False)(x=x)["output"].tolist() == [[3.0] * 8]


def bare(module: Module) -> None:
    replace(module, [6, 8])


def other_name(module: Module) -> None:
    replace(module, [4, 8], "v")


def wrong_shape(module: Module) -> None:
    replace(module, [6, 8])
    module.recipes["w"] = apply("pad", "w", after=3)


def not_together(module: Module) -> None:
    replace(module, [6, 8])
    module.recipes["w"] = apply("concat", "w", apply("transpose", "w"))


def unknown(module: Module) -> None:
    replace(module, [4, 8], "v")
    module.recipes["v"] = Take("somewhere")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (bare, "the parameter `w`, f32[6, 8], is not one of the model's, and has no recipe"),
        (other_name, "the parameter `v`, f32[4, 8], is not one of the model's"),
        (wrong_shape, "the recipe of `w` gives f32[7, 8], but the parameter is f32[6, 8]"),
        (not_together, "the recipe of `w` does not hold together: concat of"),
        (unknown, "reads `somewhere`, which was no parameter before the pass"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_parameter_without_a_recipe_that_fits_is_refused(edit: Any, said: str) -> None:
    with pytest.raises(PassFailed, match="BrokenContract") as caught:
        run_pipeline(program(), [Edit(edit)])
    assert said in caught.value.message


HANDED_ON = """
model encode(x: f32[B, 8, 4]) -> (y: f32[B, 8, 4]) { return x + 1.0 }
model decode(y: f32[B, 8, 4]) -> (z: f32[B, 8, 4]) { return y * 2.0 }
program both {
    entry encode = encode
    entry decode = decode
    flow all(x: f32[B, 8, 4]) -> (z: f32[B, 8, 4]) { return decode(encode(x)) }
}
"""


def halve(module: Module) -> None:
    """Half of the rows of the first output."""
    graph = module.graph
    graph.set_outputs([Builder(graph).op("slice", graph.outputs[0], axis=1, stop=4)], graph.output_info)


def test_what_one_entry_point_hands_on_is_what_the_next_takes() -> None:
    program = loads(HANDED_ON)
    with pytest.raises(Diagnostic, match=r"E0526.*after `edit` the program no longer fits together"):
        run_pipeline(program, [Edit(halve)])
