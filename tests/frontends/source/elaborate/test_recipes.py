"""Recipes in the `weights` block: what patterns stand for, what expressions mean, and that printing and reading give them back."""

from __future__ import annotations

from typing import Any

import pytest

from tessera.frontends.source import loads, print_module
from tessera.frontends.source.format.fmt import format_file
from tessera.frontends.source.syntax.parser import parse
from tessera.ir.graph import Initializer
from tessera.ir.recipe import Apply, Fill, Recipe, Take, apply
from tessera.ir.types import DTYPES, f32, f64

MODEL = """
const ALPHA = 16
model m(x: float[B, 8], *, depth: int = 2, d: int = 8) -> float[B, 8] {
    repeat i in depth as blocks {
        param w: float[d, 8] = zeros
        x = x @ w
    }
    param v: float[8] = ones
    return x + v
}
"""


def recipes(rows: str, **params: Any) -> dict[str, Recipe]:
    module = loads(f"{MODEL}\ncompile m {{ weights {{ {rows} }} }}", params=params)
    again = loads(print_module(module))
    assert again == module
    assert again.recipes == module.recipes
    assert print_module(again) == print_module(module)
    return module.recipes


A, B = Take("a"), Take("b")
EXPRESSIONS: list[tuple[str, Recipe]] = [
    ('"a"', A),
    ('concat("a", "b", axis=1)', apply("concat", A, B, axis=1)),
    ('concat("e.{0..2}.w")', apply("concat", "e.0.w", "e.1.w", "e.2.w")),
    ('stack("e.{0..1}.{8..9}")', apply("stack", "e.0.8", "e.0.9", "e.1.8", "e.1.9")),
    ('split("a", [d, 2 * d], 1, axis=1)', apply("split", A, sizes=(8, 16), part=1, axis=1)),
    ('split("a", 3, part=0)', apply("split", A, sizes=3, part=0)),
    ('"a"[1:, :-1:2]', apply("slice", apply("slice", A, start=1), axis=1, stop=-1, step=2)),
    ('"a"[0, :, -1]', apply("select", apply("select", A, index=-1, axis=2), index=0)),
    ('slice("a", axis=-1, start=2)', apply("slice", A, axis=-1, start=2)),
    ('select("a", 2, axis=-1)', apply("select", A, index=2, axis=-1)),
    ('transpose("a")', apply("transpose", A)),
    ('reshape(transpose("a", [1, 0]), [-1])', apply("reshape", apply("transpose", A, perm=(1, 0)), shape=(-1,))),
    ('repeat_interleave("a", 4, axis=1)', apply("repeat_interleave", A, times=4, axis=1)),
    ('pad("a", after=2, value=-1.0)', apply("pad", A, after=2, value=-1.0)),
    ('cast("a", bf16)', apply("cast", A, dtype=DTYPES["bf16"])),
    ('"a" + ALPHA / 4 * ("b" @ "a")', apply("add", A, apply("scale", apply("matmul", B, A), by=4.0))),
    ('"a" * "b" - "b"', apply("add", apply("mul", A, B), apply("scale", B, by=-1.0))),
    ('("a" + "b") / 4', apply("scale", apply("add", A, B), by=0.25)),
    ('-"a" * 2', apply("scale", apply("scale", A, by=-1.0), by=2)),
    ('concat("a", normal(0.5, shape=[2, d], dtype=f64))',
     apply("concat", A, Fill(Initializer("normal", (0.5,)), (2, 8), f64))),
    ("zeros", Fill(Initializer("zeros"), (8,), f32)),
    ("uniform(-1, 1)", Fill(Initializer("uniform", (-1.0, 1.0)), (8,), f32)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "recipe"), EXPRESSIONS, ids=[text for text, _ in EXPRESSIONS])
def test_expressions(text: str, recipe: Recipe) -> None:
    assert recipes(f'"v" = {text}') == {"v": recipe}


def test_a_star_is_the_same_text_on_both_sides() -> None:
    rows = '"blocks.*.w" = transpose("layers.*.w") "v" = "norm.weight"'
    found = recipes(rows, depth=3)
    assert found == {f"blocks.{i}.w": apply("transpose", f"layers.{i}.w") for i in range(3)} | {"v": Take("norm.weight")}
    assert recipes('"*.*.w" = "x.*.*"')["blocks.1.w"] == Take("x.blocks.1")
    assert recipes('"blocks.*.w" = "shared"') == {f"blocks.{i}.w": Take("shared") for i in range(2)}


def test_recipes_see_the_static_parameters_of_the_model() -> None:
    found = recipes('"blocks.*.w" = split("w.*", [d, depth], part=0)', d=8, depth=1)
    recipe = found["blocks.0.w"]
    assert isinstance(recipe, Apply)
    assert dict(recipe.options)["sizes"] == (8, 1)


def test_spans_are_those_of_the_source() -> None:
    module = loads(f'{MODEL}\ncompile m {{\n    weights {{\n        "v" = transpose("norm")\n    }}\n}}', "a.tess")
    recipe = module.recipes["v"]
    assert isinstance(recipe, Apply)
    assert recipe.span is not None
    assert (recipe.span.line, recipe.span.column) == (14, 15)
    assert isinstance(recipe.operands[0], Take)
    assert recipe.operands[0].span is not None


def test_comments_stay_where_they_are() -> None:
    text = """compile m {
    weights "a.safetensors" {  # the file
        # without the prefix
        "model.*" => "*"

        "v" = concat("a", "b")  # joined
        # last
    }
}
"""
    file = parse(text, "a.tess")
    assert format_file(file) == text


def test_one_function_of_a_program_keeps_its_recipes() -> None:
    module = loads(f'{MODEL}\ncompile m {{ weights {{ "v" = "a" "blocks.0.w" = "b" }} }}')
    copy = module.clone()
    del module.graph.params["v"], module.recipes["blocks.0.w"]
    assert module.only("m").recipes == {}
    assert copy.recipes == {"v": A, "blocks.0.w": B}
