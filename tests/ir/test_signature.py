"""Unification binds names in order, refuses what clashes, and says where both sides were bound."""

from __future__ import annotations

from typing import Any

import pytest

from tessera.ir.diagnostics import Diagnostic, Span
from tessera.ir.dims.dim import Dim, sym
from tessera.ir.notation import parse_signature
from tessera.ir.signature import (
    Bindings,
    Operand,
    Pattern,
    RecordDef,
    RecordPattern,
    Result,
    Signature,
    Static,
    broadcast_shapes,
)
from tessera.ir.types import TensorType, f32, i64

HERE = Span("a.tess", 3, 5, 3, 9)
THERE = Span("a.tess", 7, 1, 7, 4)


def t(dtype: str, *shape: int | str | Dim) -> TensorType:
    return TensorType.of(dtype, shape)


def refused(
    signature: str, types: list[TensorType | None], attrs: dict[str, Any] | None = None, **options: Any
) -> Diagnostic:
    with pytest.raises(Diagnostic) as caught:
        parse_signature(signature).unify(types, {} if attrs is None else attrs, **options)
    return caught.value


def test_binds_dimensions_dtypes_pack_and_defaults() -> None:
    signature = parse_signature(
        "f(x: float[..., T, D], w: float[O, D], *, r: int, eps: real = 0.5) -> float[..., T - r, O]"
    )
    attrs = {"r": 2}
    bound = signature.unify([t("f16", "B", "H", 10, 8), t("f16", 4, 8)], attrs)
    assert bound.dims["T"] == 10
    assert bound.dims["O"] == 4
    assert bound.pack == (sym("B"), sym("H"))
    assert bound.dtypes == {"float": TensorType.of("f16").dtype}
    assert attrs == {"r": 2, "eps": 0.5}
    assert signature.result_types(bound) == [t("f16", "B", "H", 8, 4)]


def test_dimension_clash_shows_where_both_were_bound() -> None:
    error = refused(
        "f(x: float[B, T], y: float[B, T]) -> float[B]", [t("f32", "B", 8), t("f32", "B", 9)], spans=[HERE, THERE]
    )
    assert error.code == "E0302"
    assert error.message == "axis 1 of `y` of `f` must be T = 8, but is 9"
    assert error.span == THERE
    assert [(n.message, n.span) for n in error.notes] == [("T is 8, from axis 1 of `x`, f32[B, 8]", HERE)]


def test_dtype_clash_shows_where_the_variable_was_bound() -> None:
    error = refused("f(x: float[B], y: float[B]) -> float[B]", [t("f32", 2), t("f16", 2)], spans=[HERE, THERE])
    assert error.code == "E0303"
    assert error.notes[0].message == "`float` was bound to f32 by `x`"
    assert error.notes[0].span == HERE
    assert error.help == "convert one of them with `cast(…, f32)`"


def test_packs_must_agree() -> None:
    error = refused("f(x: float[..., D], y: float[..., D]) -> float[D]", [t("f32", "B", 8), t("f32", "C", 8)])
    assert (error.code, error.notes[0].message) == ("E0302", "`...` was bound by `x`, f32[B, 8]")


def test_broadcast_names_both_shapes() -> None:
    types: list[TensorType | None] = [t("f32", "B", "T"), t("f32", "B", "S")]
    error = refused("f(x: float[...], y: float[...]) -> float[...]", types, packs="broadcast")
    assert error.code == "E0304"
    assert "[B, T] with [B, S]" in error.message


@pytest.mark.parametrize(
    ("types", "attrs", "code"),
    [
        ([t("f32", 2)], {"k": 1}, "E0301"),
        ([t("f32", 2, 3, 4)], {"k": 1}, "E0301"),
        ([t("i64", 2, 3)], {"k": 1}, "E0303"),
        ([t("f32", 2, 3)], {}, "E0401"),
        ([t("f32", 2, 3)], {"k": "x"}, "E0402"),
        ([t("f32", 2, 3)], {"k": True}, "E0402"),
        ([t("f32", 2, 3)], {"k": None}, "E0402"),
        ([t("f32", 2, 3)], {"k": 1, "kk": 2}, "E0403"),
        ([], {"k": 1}, "E0404"),
        ([None], {"k": 1}, "E0404"),
        ([t("f32", 2, 3), t("f32", 2, 3)], {"k": 1}, "E0404"),
    ],
)
def test_refuses(types: list[TensorType | None], attrs: dict[str, Any], code: str) -> None:
    assert refused("f(x: float[B, T], *, k: int) -> float[B]", types, attrs).code == code


def test_optional_operand_may_be_missing() -> None:
    signature = parse_signature("f(x: float[B, T], bias: float[T]?) -> float[B, T]")
    assert signature.unify([t("f32", 2, 3), None], {}).given == {"x"}
    assert signature.unify([t("f32", 2, 3), t("f32", 3)], {}).given == {"x", "bias"}


def test_solves_a_name_from_an_expression() -> None:
    signature = parse_signature("f(x: float[2 * K + 1]) -> float[K]")
    assert signature.result_types(signature.unify([t("f32", 9)], {})) == [t("f32", 4)]
    assert refused("f(x: float[2 * K + 1]) -> float[K]", [t("f32", 8)]).code == "E0302"


def test_an_expression_may_be_solved_after_a_later_operand() -> None:
    signature = parse_signature("f(x: float[N * M], y: float[N + K], z: float[N]) -> float[K, M]")
    bound = signature.unify([t("f32", 12), t("f32", 7), t("f32", 4)], {})
    assert signature.result_types(bound) == [t("f32", 3, 3)]


def test_names_of_the_caller_do_not_meet_names_of_the_signature() -> None:
    # The caller's own dimension is called M, as the signature's unknown is.
    signature = parse_signature("f(x: float[N], y: float[N + M]) -> float[M]")
    bound = signature.unify([t("f32", "M"), t("f32", sym("M") + 5)], {})
    assert signature.result_types(bound) == [t("f32", 5)]


def test_simultaneous_substitution_of_swapped_names() -> None:
    signature = parse_signature("f(x: float[A, B]) -> float[B, A]")
    assert signature.result_types(signature.unify([t("f32", "B", "A")], {})) == [t("f32", "A", "B")]


def test_variadic_operand_takes_the_rest() -> None:
    signature = parse_signature("f(first: i64[], xs: float[N]*) -> float[N]")
    bound = signature.unify([t("i64"), t("f32", 3), t("f32", 3), t("f32", 3)], {})
    assert bound.dims["N"] == 3
    error = refused("f(first: i64[], xs: float[N]*) -> float[N]", [t("i64"), t("f32", 3), t("f32", 4)])
    assert "`xs[1]`" in error.message


def test_records_flatten_to_their_fields() -> None:
    n, m = sym("N"), sym("T")
    record = RecordDef(
        "TokenMap", "std.token", ("N", "T"), (("source", Pattern(i64, (n,))), ("size", Pattern(f32, (m,))))
    )
    signature = Signature(
        "f",
        (Operand("map", RecordPattern(record, (sym("A"), sym("B")))),),
        (Static("r", "int"),),
        (Result(RecordPattern(record, (sym("A"), sym("B") - sym("r")))),),
    )
    assert [name for name, _, _ in signature.leaves()] == ["map.source", "map.size"]
    bound = signature.unify([t("i64", 20), t("f32", 9)], {"r": 4})
    assert signature.result_types(bound) == [t("i64", 20), t("f32", 5)]
    with pytest.raises(Diagnostic, match=r"map\.size"):
        signature.unify([t("i64", 20), t("f32", 9, 2)], {"r": 4})


def test_a_default_may_be_computed_and_a_result_conditional() -> None:
    def double(bound: Bindings) -> Dim:
        return bound.dims["T"] * 2

    def wanted(bound: Bindings) -> bool:
        return bool(bound.statics["stats"])

    pattern = Pattern("float", (sym("T"),))
    signature = Signature(
        "f",
        (Operand("x", pattern),),
        (Static("n", "int", double), Static("stats", "bool", False)),
        (Result(Pattern("float", (sym("n"),))), Result(pattern, "mass", wanted)),
    )
    attrs: dict[str, Any] = {}
    assert signature.result_types(signature.unify([t("f32", 3)], attrs)) == [t("f32", 6)]
    assert attrs["n"] == 6
    assert len(signature.result_types(signature.unify([t("f32", 3)], {"stats": True}))) == 2


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((2, 3), (3,), (2, 3)),
        ((2, 1), (1, 5), (2, 5)),
        (("B", 3), (1, 3), ("B", 3)),
        (("B", 3), ("C", 3), None),
        ((2, 3), (2, 4), None),
        ((), (4,), (4,)),
    ],
)
def test_broadcasting(a: tuple[Any, ...], b: tuple[Any, ...], expected: tuple[Any, ...] | None) -> None:
    result = broadcast_shapes(t("f32", *a).shape, t("f32", *b).shape)
    assert result == (None if expected is None else t("f32", *expected).shape)
    assert broadcast_shapes(t("f32", *b).shape, t("f32", *a).shape) == result


@pytest.mark.parametrize("text", ["f(x float[B]) -> float[B]", "f(x: float[B] -> float[B]", "f(x: float[B])"])
def test_malformed_notation_is_a_bug_in_tessera(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_signature(text)
