"""The parser: what each construct becomes, and where its nodes are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tessera.frontends.source.syntax import ast
from tessera.frontends.source.syntax.ast import (
    Arg,
    Assign,
    Attribute,
    Binary,
    Bool,
    Call,
    Ellipsis_,
    Index,
    Int,
    ListExpr,
    Name,
    NoneValue,
    Param,
    Pipe,
    Real,
    Result,
    Scoped,
    Slice,
    Str,
    TypeExpr,
    Unary,
)
from tessera.frontends.source.syntax.parser import parse, parse_expr, parse_type
from tessera.ir.diagnostics import Span

PROGRAM = (Path(__file__).parents[1] / "everything.tess").read_text(encoding="utf-8")


def body(text: str) -> list[ast.Stmt]:
    """The statements ``text`` as the body of a function."""
    item = parse(f"fn f(x: float[B]) -> float[B] {{ {text} }}", "body.tess").items[0]
    assert isinstance(item, ast.Function)
    return item.body


def declaration(text: str) -> ast.Declaration:
    return parse(text, "declaration.tess").items[0]


def names(text: str) -> list[ast.Expr]:
    return [Name(part) for part in text.split()]


a, b, c, d, f, g, x = names("a b c d f g x")


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("12", Int(12)),
        ("0.5", Real(0.5, "0.5")),
        ("1e-5", Real(1e-5, "1e-5")),
        ("1.5E+3", Real(1500.0, "1.5E+3")),
        ("inf", Real(float("inf"), "inf")),
        ('"a b"', Str("a b")),
        (r'"\n\t\r\"\\\u00e9"', Str('\n\t\r"\\é')),
        ("true", Bool(True)),
        ("false", Bool(False)),
        ("none", NoneValue()),
        ("[]", ListExpr([])),
        ("[a, 1,]", ListExpr([a, Int(1)])),
        ("((a))", a),
        ("f()", Call(f, [])),
        ("f(a, b=1,)", Call(f, [Arg(None, a), Arg("b", Int(1))])),
        ("f(a)(b)", Call(Call(f, [Arg(None, a)]), [Arg(None, b)])),
        ("x.size", Attribute(x, "size")),
        ("x[a]", Index(x, [a])),
        (
            "x[:, 1:, ..., ::2, a:b:c]",
            Index(
                x,
                [
                    Slice(None, None, None),
                    Slice(Int(1), None, None),
                    Ellipsis_(),
                    Slice(None, None, Int(2)),
                    Slice(a, b, c),
                ],
            ),
        ),
        ("f(x) as a", Scoped(Call(f, [Arg(None, x)]), "a")),
        ("f(x) as layer.0.b", Scoped(Call(f, [Arg(None, x)]), "layer.0.b")),
        ("f(x) as\n # comment\n model.1", Scoped(Call(f, [Arg(None, x)]), "model.1")),
        ("(f(x) as a)[0]", Index(Scoped(Call(f, [Arg(None, x)]), "a"), [Int(0)])),
        # `as` belongs to the call just before it.
        ("a + f(b) as c", Binary("+", a, Scoped(Call(f, [Arg(None, b)]), "c"))),
        ("x |> f(a) as b |> g", Pipe(Pipe(x, Scoped(Call(f, [Arg(None, a)]), "b")), g)),
        ("x |> f as b", Pipe(x, Scoped(f, "b"))),
    ],
)
def test_expressions(text: str, tree: ast.Expr) -> None:
    assert parse_expr(text) == tree


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a + b * c", Binary("+", a, Binary("*", b, c))),
        ("a * b + c", Binary("+", Binary("*", a, b), c)),
        ("a - b - c", Binary("-", Binary("-", a, b), c)),
        ("a - (b - c)", Binary("-", a, Binary("-", b, c))),
        ("a // b % c @ d", Binary("@", Binary("%", Binary("//", a, b), c), d)),
        ("a ** b ** c", Binary("**", a, Binary("**", b, c))),
        ("-a ** b", Unary("-", Binary("**", a, b))),
        ("a ** -b", Binary("**", a, Unary("-", b))),
        ("a ** -b ** c", Binary("**", a, Unary("-", Binary("**", b, c)))),
        ("a ** -b * c", Binary("*", Binary("**", a, Unary("-", b)), c)),
        ("-a * b", Binary("*", Unary("-", a), b)),
        ("a * -b", Binary("*", a, Unary("-", b))),
        ("- -a", Unary("-", Unary("-", a))),
        ("not a == b", Unary("not", Binary("==", a, b))),
        ("not a and b", Binary("and", Unary("not", a), b)),
        ("a and not b or c", Binary("or", Binary("and", a, Unary("not", b)), c)),
        ("a or b and c", Binary("or", a, Binary("and", b, c))),
        ("a < b + c", Binary("<", a, Binary("+", b, c))),
        ("a == b and c != d", Binary("and", Binary("==", a, b), Binary("!=", c, d))),
        ("(a < b) == c", Binary("==", Binary("<", a, b), c)),
        ("a or b |> f", Pipe(Binary("or", a, b), f)),
        ("not a |> f", Pipe(Unary("not", a), f)),
        ("f(x)[0] ** 2", Binary("**", Index(Call(f, [Arg(None, x)]), [Int(0)]), Int(2))),
    ],
)
def test_precedence(text: str, tree: ast.Expr) -> None:
    assert parse_expr(text) == tree


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("int", TypeExpr("int")),
        ("fn", TypeExpr("fn")),
        ("real?", TypeExpr("real", None, True)),
        ("float[]", TypeExpr("float", [])),
        ("float[..., D]", TypeExpr("float", [Ellipsis_(), Name("D")])),
        ("TokenMap[B, T - 1,]?", TypeExpr("TokenMap", [Name("B"), Binary("-", Name("T"), Int(1))], True)),
    ],
)
def test_types(text: str, tree: ast.TypeExpr) -> None:
    assert parse_type(text) == tree


F32 = TypeExpr("f32", [Name("B")])


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a = x", Assign(["a"], x)),
        ("a, b = x", Assign(["a", "b"], x)),
        ("param a: f32[B]", ast.ParamStmt("param", "a", F32)),
        ("buffer a: f32[B] = zeros", ast.ParamStmt("buffer", "a", F32, Name("zeros"))),
        ('param a: f32[B] as "m.a"', ast.ParamStmt("param", "a", F32, None, "m.a")),
        (
            'param a: f32[B] = normal(1) as "m.a"',
            ast.ParamStmt("param", "a", F32, Call(Name("normal"), [Arg(None, Int(1))]), "m.a"),
        ),
        ('param a: f32[B] = b * c as "m.a"', ast.ParamStmt("param", "a", F32, Binary("*", b, c), "m.a")),
        ("state a: f32[B] = zeros", ast.StateStmt("a", F32, Name("zeros"))),
        ("state a: f32[B]", ast.StateStmt("a", F32)),
        ("random a: f32[B] = b", ast.RandomStmt("a", F32, b)),
        ("tap a = b", ast.TapStmt("a", b)),
        ("let a = b", ast.LetStmt("a", b)),
        ('require a < b, "m"', ast.RequireStmt(Binary("<", a, b), "m")),
        ("repeat a in 12 { }", ast.RepeatStmt("a", Int(12), None, [])),
        ("repeat a in [1] as b.c { }", ast.RepeatStmt("a", ListExpr([Int(1)]), "b.c", [])),
        ("repeat a in b + 1 as c { }", ast.RepeatStmt("a", Binary("+", b, Int(1)), "c", [])),
        ("repeat a in b - -c as d { }", ast.RepeatStmt("a", Binary("-", b, Unary("-", c)), "d", [])),
        ("repeat a in (b as c) { }", ast.RepeatStmt("a", Scoped(b, "c"), None, [])),
        ("if a { b = c }", ast.IfStmt([(a, [Assign(["b"], c)])])),
        ("if a { } else { b = c }", ast.IfStmt([(a, [])], [Assign(["b"], c)])),
        (
            "if a { } else if b { } else if c { } else { }",
            ast.IfStmt([(a, []), (b, []), (c, [])], []),
        ),
        (
            "fold a in b from (c, d) { c = d }",
            ast.FoldStmt("a", b, ["c", "d"], [Assign(["c"], d)]),
        ),
        ("cond a from (c) { c = d }", ast.CondStmt(a, ["c"], [Assign(["c"], d)])),
        (
            "cond a < b from (c, d) { } else { c = d }",
            ast.CondStmt(Binary("<", a, b), ["c", "d"], [], [Assign(["c"], d)]),
        ),
        (
            "while a < b from (a, d) limit 2 * c { a = d }",
            ast.WhileStmt(Binary("<", a, b), ["a", "d"], Binary("*", Int(2), c), [Assign(["a"], d)]),
        ),
        ("return a, b", ast.ReturnStmt([a, b])),
    ],
)
def test_statements(text: str, tree: ast.Stmt) -> None:
    assert body(text) == [tree]


def test_statements_need_no_separator() -> None:
    assert body("a = b c = d return a") == [Assign(["a"], b), Assign(["c"], d), ast.ReturnStmt([a])]


B_ = [Name("B")]


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("const a = b", ast.Const("a", b)),
        ("record R { }", ast.Record("R", [], [])),
        (
            "record R[B, N] { static a: bool = true, b: f32[B] c: i64[B] }",
            ast.Record(
                "R",
                ["B", "N"],
                [
                    ast.Field("a", TypeExpr("bool"), True, ast.Bool(True)),
                    ast.Field("b", F32),
                    ast.Field("c", TypeExpr("i64", B_)),
                ],
            ),
        ),
        (
            "op f(x: f32[B], y: R[B]? = none, *, r: int, act: fn = gelu) -> (f32[B], a: R[B] if r > 0) { return x }",
            ast.Function(
                "op",
                "f",
                [Param("x", F32), Param("y", TypeExpr("R", B_, True), NoneValue())],
                [Param("r", TypeExpr("int")), Param("act", TypeExpr("fn"), Name("gelu"))],
                [Result(F32), Result(TypeExpr("R", B_), "a", Binary(">", Name("r"), Int(0)))],
                [ast.ReturnStmt([x])],
            ),
        ),
        ("model f() -> (f32[B]) { }", ast.Function("model", "f", [], [], [Result(F32)], [])),
        (
            "layer f(*, r: int,) -> f32[B] { }",
            ast.Function("layer", "f", [], [Param("r", TypeExpr("int"))], [Result(F32)], []),
        ),
        (
            "rewrite exact r(x: f32[B], *, k: int) { f(f(x)) => x where k > 2 }",
            ast.Rewrite(
                "r",
                "exact",
                [Param("x", F32)],
                [Param("k", TypeExpr("int"))],
                Call(f, [Arg(None, Call(f, [Arg(None, x)]))]),
                [x],
                Binary(">", Name("k"), Int(2)),
            ),
        ),
        ("rewrite approximate r() { a => b }", ast.Rewrite("r", "approximate", [], [], a, [b])),
        ("rewrite exact r() { a => where(b, c) where where(a, b) }", ast.Rewrite(
            "r", "exact", [], [], a, [Call(Name("where"), [Arg(None, b), Arg(None, c)])],
            Call(Name("where"), [Arg(None, a), Arg(None, b)]),
        )),
        ("rewrite exact r() { let x, y = f(a) in let z = b in -f(x, z) => y, z where c }", ast.Rewrite(
            "r", "exact", [], [], ast.Unary("-", Call(f, [Arg(None, x), Arg(None, Name("z"))])), [Name("y"), Name("z")], c, None,
            [Assign(["x", "y"], Call(f, [Arg(None, a)])), Assign(["z"], b)],
        )),
        ("compile f { }", ast.Compile("f", [], [])),
        (
            'compile f(depth=6) { weights "w" { "a" => "b", "c" => "d" } weights { } pass p'
            " pass q(r=8, k=keys) target onnx(opset=24) }",
            ast.Compile(
                "f",
                [Arg("depth", Int(6))],
                [
                    ast.WeightsClause("w", [ast.Rename("a", "b"), ast.Rename("c", "d")]),
                    ast.WeightsClause(None, []),
                    ast.PassClause("p", []),
                    ast.PassClause("q", [Arg("r", Int(8)), Arg("k", Name("keys"))]),
                    ast.TargetClause("onnx", [Arg("opset", Int(24))]),
                ],
            ),
        ),
    ],
)  # fmt: skip
def test_declarations(text: str, tree: ast.Declaration) -> None:
    assert declaration(text) == tree


def test_soft_keywords_are_names_elsewhere() -> None:
    assert body("weights = pass + target where = x") == [
        Assign(["weights"], Binary("+", Name("pass"), Name("target"))),
        Assign(["where"], x),
    ]


def test_uses() -> None:
    file = parse('use std.nn (linear, mlp as ff,)\nuse "b.tess" (c)', "u.tess")
    assert file.uses == [
        ast.Use("std.nn", [("linear", None), ("mlp", "ff")]),
        ast.Use("b.tess", [("c", None)], quoted=True),
    ]


def test_docs() -> None:
    file = parse(
        "# license\n## The file.\n##\n##   More.\n\n## One.\nconst a = 1 ## no doc\n## Two.\n# between\n## lines.\n"
        "const b = 2\n\n## far\n\n## Three.\n\nconst c = 3\n### ruler\nconst d = 4\n## end\n",
        "docs.tess",
    )
    assert file.doc == "The file.\n\n  More."
    assert [item.doc for item in file.items] == ["One.", "Two.\nlines.", "Three.", None]
    assert [comment.text for comment in file.comments] == [
        "# license", "## no doc", "# between", "## far", "### ruler", "## end",
    ]  # fmt: skip


def test_doc_at_the_top_touching_a_declaration_is_its_own() -> None:
    file = parse("## One.\nconst a = 1", "docs.tess")
    assert (file.doc, file.items[0].doc) == (None, "One.")


def test_doc_at_the_top_touching_a_use_is_the_files() -> None:
    assert parse("## F.\nuse std.nn (a)\nconst b = 1", "docs.tess").doc == "F."


def test_comments() -> None:
    file = parse("# one\n\tconst a = 1 # two\r\n  #three\n#", "c.tess")
    assert file.comments == [
        ast.Comment("# one", 1, 1, True),
        ast.Comment("# two", 2, 14, False),
        ast.Comment("#three", 3, 3, True),
        ast.Comment("#", 4, 1, True),
    ]


def at(node: ast.Node) -> tuple[int, int, int, int]:
    assert node.span is not None
    return node.span[1:5]


def test_spans() -> None:
    text = (
        "op merge(x: float[B, T],\n    *, r: int = 3) -> float[B] {\n"
        "    a, b = f(x, k=-1) as n\n    return (a + b) * 2 # c\n}\n"
    )
    file = parse(text, "s.tess")
    (function,) = file.items
    assert isinstance(function, ast.Function)
    assert function.name_span == Span("s.tess", 1, 4, 1, 9)
    assert at(function) == (1, 1, 5, 2)
    assert at(function.params[0]) == (1, 10, 1, 24)
    assert at(function.params[0].type) == (1, 13, 1, 24)
    assert at(function.statics[0]) == (2, 8, 2, 18)
    assert at(function.results[0]) == (2, 23, 2, 31)
    assign, return_ = function.body
    assert isinstance(assign, Assign)
    assert isinstance(return_, ast.ReturnStmt)
    assert assign.target_spans == [Span("s.tess", 3, 5, 3, 6), Span("s.tess", 3, 8, 3, 9)]
    assert at(assign) == (3, 5, 3, 27)
    assert isinstance(assign.value, Scoped)
    assert isinstance(assign.value.value, Call)
    assert at(assign.value) == (3, 12, 3, 27)
    assert at(assign.value.value) == (3, 12, 3, 22)
    assert at(assign.value.value.args[1]) == (3, 17, 3, 21)
    assert at(assign.value.value.args[1].value) == (3, 19, 3, 21)
    product = return_.values[0]
    assert isinstance(product, Binary)
    assert at(product) == (4, 12, 4, 23)
    assert at(product.left) == (4, 13, 4, 18)
    assert at(file) == (1, 1, 6, 1)
