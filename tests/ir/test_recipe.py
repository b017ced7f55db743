"""Recipes: what they read, the types they give, what they refuse, and the values that their functions compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tessera.ir.diagnostics import Diagnostic, Span
from tessera.ir.graph import Initializer
from tessera.ir.recipe import Apply, Fill, Recipe, Take, apply
from tessera.ir.recipe_functions import FUNCTIONS, Typed
from tessera.ir.types import DType, bf16, f32, f64, i32, i64

RNG = np.random.default_rng(0)
ARRAYS: dict[str, Any] = {
    "a": RNG.standard_normal((6, 4)).astype(np.float32),
    "b": RNG.standard_normal((6, 4)).astype(np.float32),
    "c": RNG.standard_normal((4, 6)).astype(np.float32),
    "v": RNG.standard_normal(4).astype(np.float32),
    "d": RNG.standard_normal((2, 4)),
    "w": RNG.standard_normal((1, 4)).astype(np.float32),
    "n": np.arange(24, dtype=np.int32).reshape(6, 4),
}
A, B, C, V, D, N, W = (ARRAYS[k] for k in "abcvdnw")
HERE = Span("m.tess", 3, 5, 3, 9)


def look(name: str) -> Typed:
    return Typed(DType.from_numpy(ARRAYS[name].dtype), ARRAYS[name].shape)


def value(recipe: Recipe) -> Any:
    """By the meaning of each function alone."""
    if isinstance(recipe, Take):
        return ARRAYS[recipe.name]
    assert isinstance(recipe, Apply)
    return FUNCTIONS[recipe.function].meaning([value(o) for o in recipe.operands], **dict(recipe.options))


CASES: list[tuple[Apply, Any]] = [
    (apply("stack", "a", "b"), np.stack([A, B])),
    (apply("stack", "a", "b", axis=-1), np.stack([A, B], -1)),
    (apply("concat", "a", "b", "a"), np.concatenate([A, B, A])),
    (apply("concat", "a", "b", axis=-1), np.concatenate([A, B], 1)),
    (apply("split", "a", sizes=3, part=1), A[2:4]),
    (apply("split", "a", sizes=(1, 3), part=1, axis=-1), A[:, 1:]),
    (apply("slice", "a", start=-2), A[-2:]),
    (apply("slice", "a", axis=1, start=0, stop=9, step=3), A[:, 0:9:3]),
    (apply("select", "a", index=2), A[2]),
    (apply("select", "a", index=-1, axis=-1), A[:, -1]),
    (apply("transpose", "a"), A.T),
    (apply("transpose", apply("reshape", "a", shape=(2, 3, 4)), perm=(2, 0, 1)), A.reshape(2, 3, 4).transpose(2, 0, 1)),
    (apply("reshape", "a", shape=(-1,)), A.ravel()),
    (apply("repeat_interleave", "a", times=2), A.repeat(2, 0)),
    (apply("repeat_interleave", "v", times=3, axis=-1), V.repeat(3)),
    (apply("pad", "a", after=2), np.concatenate([A, np.zeros((2, 4), np.float32)])),
    (apply("pad", "v", before=1, axis=-1, value=1.0), np.concatenate([[np.float32(1)], V])),
    (apply("cast", "n", dtype=i64), N.astype(np.int64)),
    (apply("scale", "a", by=0.5), A * np.float32(0.5)),
    (apply("add", "a", apply("scale", apply("matmul", "a", apply("matmul", "c", "b")), by=2.0)), A + 2 * (A @ (C @ B))),
    (apply("add", "a", "v"), A + V),
    (apply("mul", "d", "v"), D * V),
    (apply("combine", "c", apply("slice", "n", stop=1), "w"), np.einsum("nk,nkd->nd", W, C[N[:1]])),
]


@pytest.mark.parametrize(("recipe", "want"), CASES, ids=[f"{i}-{r.function}" for i, (r, _) in enumerate(CASES)])
def test_functions_compute_what_their_types_say(recipe: Apply, want: Any) -> None:
    found = value(recipe)
    assert recipe.type(look) == (DType.from_numpy(found.dtype), found.shape)
    np.testing.assert_allclose(found, want, rtol=1e-6)


def test_every_function_is_tried_and_explained() -> None:
    assert {name for recipe, _ in CASES for name in _functions(recipe)} == set(FUNCTIONS)
    assert all("`" in function.text for function in FUNCTIONS.values())


def _functions(recipe: Recipe) -> list[str]:
    if not isinstance(recipe, Apply):
        return []
    return [recipe.function, *(name for o in recipe.operands for name in _functions(o))]


@pytest.mark.parametrize("name", ["split", "slice", "select", "transpose", "reshape"])
def test_views_take_no_memory(name: str) -> None:
    recipe = next(r for r, _ in CASES if r.function == name)
    assert recipe.view
    assert np.shares_memory(value(recipe), A)
    assert not apply("split", apply("concat", "a", "b"), sizes=2, part=0).view
    assert not apply("concat", Fill(Initializer("zeros"), (2,)), "v").view


def test_half_floats_are_computed_in_f32() -> None:
    half = Typed(bf16, (2, 2))
    assert apply("add", "x", "x").type(lambda name: half).dtype == f32
    assert apply("matmul", "x", "y").type({"x": half, "y": Typed(f64, (2, 3))}.__getitem__) == (f64, (2, 3))


def test_names_and_replacing() -> None:
    recipe = apply("concat", "a", apply("pad", "b", after=1), Fill(Initializer("zeros"), (1, 4)), "a")
    assert list(recipe.names()) == ["a", "b", "a"]
    made = recipe.replaced({Take("b"): apply("transpose", "c")})
    assert made == apply("concat", "a", apply("pad", apply("transpose", "c"), after=1), *recipe.operands[2:])
    assert recipe.replaced({recipe: Take("z"), Take("a"): Take("y")}) == Take("z")
    assert Take("a", HERE) == Take("a")
    assert hash(apply("scale", "a", by=2.0, span=HERE)) == hash(apply("scale", "a", by=2.0))


@pytest.mark.parametrize(
    ("function", "operands", "options", "said"),
    [
        ("concta", "ab", {}, "no function `concta`"),
        ("concat", "", {}, "takes 1 or more tensor(s), but is given 0"),
        ("matmul", "abc", {}, "takes 2 tensor(s), but is given 3"),
        ("concat", "ab", {"axes": 0}, "no option `axes`"),
        ("split", "a", {"sizes": 2}, "needs `part`, an index"),
        ("concat", "ab", {"axis": True}, "`axis` of `concat` must be an axis"),
        ("cast", "a", {"dtype": "f32"}, "must be a dtype"),
        ("reshape", "a", {"shape": (2, 1.5)}, "must be a list of integers"),
    ],
)
def test_malformed_recipes(function: str, operands: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        apply(function, *operands, span=HERE, **options)
    assert caught.value.code == "E0614"
    assert said in caught.value.message
    assert caught.value.span == HERE
    assert caught.value.help or "must be" in caught.value.message


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (apply("stack", "a", "c"), "stack of f32[6, 4], f32[4, 6]: all must have one shape"),
        (apply("concat", "a", "c"), "all axes but axis 0 must have one size"),
        (apply("concat", "a", "v"), "all axes but axis 0"),
        (apply("concat", "a", "n"), "f32 beside i32; write `cast(…, f32)`"),
        (apply("concat", "a", "b", axis=2), "there is no axis 2"),
        (apply("split", "a", sizes=4, part=0), "6 does not part into 4 equal sizes"),
        (apply("split", "a", sizes=(2, 2), part=0), "[2, 2] do not add up to 6"),
        (apply("split", "a", sizes=(7, -1), part=0), "do not add up to 6"),
        (apply("split", "a", sizes=2, part=2), "no part 2 of 2"),
        (apply("slice", "a", start=6), "nothing of the 6 places"),
        (apply("slice", "a", step=-1), "the step must be positive"),
        (apply("select", "a", index=6), "axis 0 has no place 6"),
        (apply("transpose", "a", perm=(0, 0)), "[0, 0] is not an order of 2 axes"),
        (apply("reshape", "a", shape=(5, -1)), "24 elements do not make [5, -1]"),
        (apply("reshape", "a", shape=(-1, -1)), "[-1, -1] is not a shape"),
        (apply("reshape", "a", shape=(5, 5)), "24 elements do not make"),
        (apply("repeat_interleave", "a", times=0), "`times` must be positive"),
        (apply("pad", "a", after=-1), "must not be negative"),
        (apply("cast", "n", dtype=f32), "i32 does not become f32"),
        (apply("scale", "n", by=2.0), "i32 is no float"),
        (apply("add", "a", "c"), "the shapes do not broadcast"),
        (apply("matmul", "a", "b"), "as many as the rows of the second"),
    ],
    ids=lambda value: value.function if isinstance(value, Apply) else None,
)
def test_what_does_not_fit(recipe: Apply, said: str) -> None:
    placed = Apply(recipe.function, recipe.operands, recipe.options, HERE)
    with pytest.raises(Diagnostic) as caught:
        placed.type(look)
    assert caught.value.code == "E0615"
    assert said in caught.value.message
    assert caught.value.span == HERE


def test_fills_have_their_own_type() -> None:
    assert Fill(Initializer("normal", (0.02,)), (3, 2), i32).type(look) == (i32, (3, 2))
