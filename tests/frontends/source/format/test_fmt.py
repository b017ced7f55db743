"""The formatter: one style, the same tree again, every comment kept."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.frontends.source.format.fmt import format_file
from tessera.frontends.source.format.fmt_expr import Comments, ExpressionFormatter
from tessera.frontends.source.format.layout import render
from tessera.frontends.source.syntax import ast
from tessera.frontends.source.syntax.lexer import RESERVED, tokenize, word_kinds
from tessera.frontends.source.syntax.parser import parse, parse_expr, parse_type
from tessera.frontends.source.syntax.tables import tables

HERE = Path(__file__).parent
EVERYTHING = (HERE.parent / "everything.tess").read_text(encoding="utf-8")


def format_expr(tree: ast.Expr) -> str:
    return "\n".join(render(ExpressionFormatter(Comments()).expr(tree)))


def format_type(tree: ast.TypeExpr) -> str:
    return "\n".join(render(ExpressionFormatter(Comments()).type(tree)))


def formatted(text: str) -> str:
    return format_file(parse(text, "f.tess"))


def test_everything_is_in_the_one_style() -> None:
    assert formatted(EVERYTHING) == EVERYTHING


@pytest.mark.parametrize("name", ["untidy"])
def test_golden(name: str, update_golden: bool) -> None:
    source = (HERE / "golden" / f"{name}.tess").read_text(encoding="utf-8")
    expected = HERE / "golden" / f"{name}.formatted.tess"
    found = formatted(source)
    if update_golden:
        expected.write_text(found, encoding="utf-8")
    assert found == expected.read_text(encoding="utf-8")
    assert formatted(found) == found
    assert parse(found, "f.tess") == parse(source, "f.tess")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("((a+b))*(c)", "a + b * c".replace("a + b", "(a + b)")),
        ("(a*b)+(c)", "a * b + c"),
        ("a-(b+c)", "a - (b + c)"),
        ("(a-b)+c", "a - b + c"),
        ("(a**b)**c", "(a ** b) ** c"),
        ("a**(b**c)", "a ** b ** c"),
        ("(-a)**b", "(-a) ** b"),
        ("-(a**b)", "-a ** b"),
        ("a**(-b)", "a ** -b"),
        ("(-a)*(-b)", "-a * -b"),
        ("-(a*b)", "-(a * b)"),
        ("-(-a)", "--a"),
        ("not(a==b)", "not a == b"),
        ("(not a)==b", "(not a) == b"),
        ("a==(not b)", "a == (not b)"),
        ("-(not a)", "-(not a)"),
        ("(a<b)==(c<d)", "(a < b) == (c < d)"),
        ("a and(b or c)", "a and (b or c)"),
        ("(x|>f)[0]", "(x |> f)[0]"),
        ("f((x|>g))", "f(x |> g)"),
        ("a+(x|>f)", "a + (x |> f)"),
        ("(f(x)as a)as b", "(f(x) as a) as b"),
        ("(a+b)as c", "(a + b) as c"),
        ("a+(f(b)as c)", "a + f(b) as c"),
        ("(f(x)as a).size", "(f(x) as a).size"),
        ("(3).size", "(3).size"),
        ("(3)[0]", "3[0]"),
        ("x[a+1:b,::2,:]", "x[a + 1:b, ::2, :]"),
        ("f(a=1,b=[2,3],)", "f(a=1, b=[2, 3])"),
        (r'"\u0000\n\t\"\\é"', r'"\u0000\n\t\"\\é"'),
    ],
)
def test_expressions(text: str, expected: str) -> None:
    tree = parse_expr(text)
    assert format_expr(tree) == expected
    assert parse_expr(expected) == tree


def test_a_type() -> None:
    assert format_type(parse_type("float[B,T-1]?")) == "float[B, T - 1]?"


def test_synthesised_nodes() -> None:
    call = ast.Call(ast.Name("f"), [ast.Arg("k", ast.Int(-3))])
    body: list[ast.Stmt] = [
        ast.Assign(["a"], ast.Binary("**", ast.Int(-3), ast.Real(0.5, "0.5"))),
        ast.ReturnStmt([call]),
    ]
    function = ast.Function("fn", "g", [], [], [ast.Result(ast.TypeExpr("f32", []))], body)
    file = ast.File("", [], [ast.Const("A", ast.Int(1)), ast.Const("B", ast.Int(2)), function])
    assert format_file(file) == (
        "const A = 1\nconst B = 2\n\nfn g() -> f32[] {\n    a = (-3) ** 0.5\n    return f(k=-3)\n}\n"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("# a\n\n\n\n# b", "# a\n\n# b\n"),
        ("## Doc.", "## Doc.\n"),
        ("const a = 1 #x\n\n\n#y\nconst b = 2", "const a = 1  # x\n\n# y\nconst b = 2\n"),
        ("#!x\n####\n### y\nconst a = 1 ## z", "#!x\n####\n### y\nconst a = 1  # z\n"),
        ("const a = [1, # one\n2 # two\n]", "const a = [\n    1,  # one\n    2,  # two\n]\n"),
        ("const a = 1 + # plus\n2", "# plus\nconst a = 1 + 2\n"),
        ("compile f { # c\n}", "compile f {  # c\n}\n"),
        ("record R { # a\n# b\n}", "record R {  # a\n    # b\n}\n"),
        (
            "fn f(x: int) -> int { if a { b = c # 1\n# 2\n} # 3\nelse # 4\n{ # 5\n# 6\nb = d } }",
            "fn f(x: int) -> int {\n    if a {\n        b = c  # 1\n        # 2\n        # 3\n    } else {  # 4\n"
            "        # 5\n        # 6\n        b = d\n    }\n}\n",
        ),
    ],
)  # fmt: skip
def test_comments(text: str, expected: str) -> None:
    assert formatted(text) == expected
    assert formatted(expected) == expected


def test_lines_are_short() -> None:
    for line in EVERYTHING.split("\n"):
        assert len(line) <= 120


def comments_of(file: ast.File) -> list[str]:
    return sorted(comment.text for comment in file.comments)


@pytest.mark.parametrize("seed", range(200))
def test_comments_anywhere_are_kept(seed: int) -> None:
    """Comments between random tokens: all are still there, the tree is the same, a second pass changes nothing."""
    chance = random.Random(seed)
    tokens = tokenize(EVERYTHING, word_kinds(tables().literals))
    rows = EVERYTHING.split("\n")
    places = sorted(
        {(tokens.lines[n], tokens.columns[n]) for n in chance.sample(range(len(tokens.kinds)), 1 + seed // 10)}
    )
    for number, (line, column) in reversed(list(enumerate(places))):
        row = rows[line - 1]
        own = chance.choice(["", "\n"])
        rows[line - 1] = f"{row[: column - 1]}{own}# inserted {number}\n{row[column - 1 :]}"
    text = "\n".join(rows)
    file = parse(text, "f.tess")
    once = format_file(file)
    again = parse(once, "f.tess")
    assert again == file == parse(EVERYTHING, "f.tess")
    assert comments_of(again) == comments_of(file)
    assert format_file(again) == once


# Random trees --------------------------------------------------------------------------------------------------------

names = st.from_regex(r"[A-Za-z_][A-Za-z_0-9]{0,30}", fullmatch=True).filter(lambda word: word not in RESERVED)
scopes = st.from_regex(r"[a-z0-9_]{1,5}(\.[a-z0-9]{1,3}){0,2}", fullmatch=True)
texts = st.text(max_size=8)
reals = st.one_of(
    st.floats(min_value=0, allow_nan=False).filter(lambda v: "." in repr(v) or "e" in repr(v) or v == float("inf")),
).map(lambda v: ast.Real(v, repr(v)))
leaves = st.one_of(
    names.map(ast.Name),
    st.integers(0, 2**63).map(ast.Int),
    reals,
    texts.map(ast.Str),
    st.booleans().map(ast.Bool),
    st.builds(ast.NoneValue),
)


def calls(inner: st.SearchStrategy[ast.Expr]) -> st.SearchStrategy[ast.Call]:
    positional = st.lists(st.builds(ast.Arg, st.none(), inner), max_size=2)
    named = st.lists(st.builds(ast.Arg, names, inner), max_size=2)
    return st.builds(lambda f, p, n: ast.Call(f, p + n), inner, positional, named)


def larger(inner: st.SearchStrategy[ast.Expr]) -> st.SearchStrategy[ast.Expr]:
    maybe = st.none() | inner
    target = names.map(ast.Name) | calls(inner)
    return st.one_of(
        st.builds(ast.ListExpr, st.lists(inner, max_size=3)),
        st.builds(ast.Unary, st.sampled_from(["-", "not"]), inner),
        st.builds(
            ast.Binary,
            st.sampled_from(["or", "and", "==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "//", "%", "@", "**"]),
            inner,
            inner,
        ),
        calls(inner),
        st.builds(ast.Pipe, inner, target | st.builds(ast.Scoped, target, scopes)),
        st.builds(ast.Attribute, inner, names),
        st.builds(
            ast.Index,
            inner,
            st.lists(
                inner | st.builds(ast.Slice, maybe, maybe, maybe) | st.builds(ast.Ellipsis_), min_size=1, max_size=3
            ),
        ),
        st.builds(ast.Scoped, inner, scopes),
    )  # fmt: skip


exprs = st.recursive(leaves, larger, max_leaves=12)
types = st.builds(
    ast.TypeExpr,
    names | st.just("fn"),
    st.none() | st.lists(exprs | st.builds(ast.Ellipsis_), max_size=3),
    st.booleans(),
)
plain_params = st.builds(ast.Param, names, types, st.none() | exprs)
simple = st.one_of(
    st.builds(ast.Assign, st.lists(names, min_size=1, max_size=3), exprs),
    st.builds(ast.ParamStmt, st.sampled_from(["param", "buffer"]), names, types, st.none() | exprs, st.none() | texts),
    st.builds(ast.StateStmt, names, types, st.none() | exprs),
    st.builds(ast.RandomStmt, names, types, exprs),
    st.builds(ast.TapStmt, names, exprs),
    st.builds(ast.LetStmt, names, exprs),
    st.builds(ast.RequireStmt, exprs, texts),
    st.builds(ast.ReturnStmt, st.lists(exprs, min_size=1, max_size=3)),
)


def blocks(inner: st.SearchStrategy[ast.Stmt]) -> st.SearchStrategy[ast.Stmt]:
    body = st.lists(inner, max_size=3)
    return st.one_of(
        st.builds(ast.RepeatStmt, names, exprs, st.none() | scopes, body),
        st.builds(ast.IfStmt, st.lists(st.tuples(exprs, body), min_size=1, max_size=3), st.none() | body),
        st.builds(ast.FoldStmt, names, exprs, st.lists(names, min_size=1, max_size=3), body),
    )


statements = st.recursive(simple, blocks, max_leaves=4)
docs = st.none() | st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=20), min_size=1, max_size=3
).map("\n".join)
args = st.lists(st.builds(ast.Arg, names, exprs), max_size=2)
weight_rows = st.builds(ast.Rename, texts, texts) | st.builds(ast.Recipe, texts, exprs)
clauses = st.one_of(
    st.builds(ast.WeightsClause, st.none() | texts, st.lists(weight_rows, max_size=2)),
    st.builds(ast.PassClause, names | st.just("rewrite"), args),
    st.builds(ast.TargetClause, names, args),
)
declarations = st.one_of(
    st.builds(ast.Const, names, exprs, docs),
    st.builds(
        ast.Record, names, st.lists(names, max_size=3),
        st.lists(st.builds(ast.Field, names, types, st.booleans()), max_size=3), docs,
    ),
    st.builds(
        ast.Function, st.sampled_from(["fn", "op", "layer", "model"]), names, st.lists(plain_params, max_size=3),
        st.lists(plain_params, max_size=2),
        st.lists(st.builds(ast.Result, types, st.none() | names, st.none() | exprs), min_size=1, max_size=3),
        st.lists(statements, max_size=4), docs,
    ),
    st.builds(
        ast.Rewrite, names, st.sampled_from(["exact", "approximate"]), st.lists(plain_params, max_size=2),
        st.lists(plain_params, max_size=2), exprs, st.lists(exprs, min_size=1, max_size=2), st.none() | exprs, docs,
        st.lists(st.builds(ast.Assign, st.lists(names, min_size=1, max_size=2), exprs), max_size=2),
    ),
    st.builds(ast.Compile, names, args, st.lists(clauses, max_size=3), docs),
)  # fmt: skip
paths = st.lists(
    st.from_regex(r"[a-z]{1,4}", fullmatch=True).filter(lambda p: p not in RESERVED), min_size=1, max_size=2
)
used = st.lists(st.tuples(names, st.none() | names), min_size=1, max_size=3)
uses = st.builds(ast.Use, paths.map(".".join), used) | st.builds(ast.Use, texts, used, st.just(True))
files = st.builds(
    lambda uses, items, doc: ast.File("f.tess", uses, items, [], doc), st.lists(uses, max_size=2),
    st.lists(declarations, max_size=3), docs,
)  # fmt: skip


@given(exprs)
@settings(max_examples=400, deadline=None)
def test_any_expression_parses_to_itself(tree: ast.Expr) -> None:
    assert parse_expr(format_expr(tree)) == tree


@given(types)
@settings(max_examples=100, deadline=None)
def test_any_type_parses_to_itself(tree: ast.TypeExpr) -> None:
    assert parse_type(format_type(tree)) == tree


@given(files)
@settings(max_examples=200, deadline=None)
def test_any_file_parses_to_itself(tree: ast.File) -> None:
    text = format_file(tree)
    parsed = parse(text, "f.tess")
    assert parsed == tree
    assert format_file(parsed) == text
