"""Models built in Python are the models that source describes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import tessera as ts

nn, attention, token, ops = ts.std.nn, ts.std.attention, ts.std.token, ts.ops


def head() -> tuple[ts.Model, str]:
    with ts.model("tiny", doc="A head.") as m:
        x = m.input("x", "float[B, T, 64]")
        m.output(nn.linear(x, out=3, name="head"))
    return (
        m,
        """
    use std.nn (linear)
    ## A head.
    model tiny(x: float[B, T, 64]) -> float[B, T, 3] { return linear(x, out=3) as head }
    """,
    )


def mlp_mixer() -> tuple[ts.Model, str]:
    with ts.model("mixer") as m:
        x = m.input("x", "float[B, 16, 32]")
        for i in range(3):
            with m.scope("blocks", i):
                y = nn.layer_norm(x, name="norm1")
                y = nn.mlp(ops.transpose(y, perm=[0, 2, 1]), hidden=24, name="tokens")
                x = x + ops.transpose(y, perm=[0, 2, 1])
                x = x + nn.mlp(nn.layer_norm(x, name="norm2"), hidden=48, act=nn.gelu_tanh, name="channels")
        m.output(ops.mean(x, axis=1), name="pooled")
    return (
        m,
        """
    use std.nn (layer_norm, mlp, gelu_tanh)
    model mixer(x: float[B, 16, 32]) -> (pooled: float[B, 32]) {
        repeat i in 3 as blocks {
            y = layer_norm(x) as norm1
            y = mlp(transpose(y, perm=[0, 2, 1]), hidden=24) as tokens
            x = x + transpose(y, perm=[0, 2, 1])
            x = x + mlp(layer_norm(x) as norm2, hidden=48, act=gelu_tanh) as channels
        }
        return mean(x, axis=1)
    }
    """,
    )


def operators() -> tuple[ts.Model, str]:
    with ts.model("operators") as m:
        a = m.input("a", "float[B, T]")
        b = m.input("b", "float[B, T]")
        i = m.input("i", "i64[B, T]")
        y = -a + 2 * b - a / 3.0 + 1
        z = y**2 + a**0.5 + (b * 0.5) ** -0.5
        mask = (a < b) & ~(a == b) | (i >= 3)
        w = ops.where(mask, z, 0.0)
        j = i // 2 % 5
        m.output(w[:, 1:], j[:, -1], (a @ ops.transpose(b, perm=[1, 0]))[..., :1], w[0], y[:, ::2])
    return (
        m,
        """
    model operators(a: float[B, T], b: float[B, T], i: i64[B, T])
        -> (float[B, T - 1], i64[B], float[B, 1], float[T], float[B, ceildiv(T, 2)]) {
        y = -a + 2 * b - a / 3.0 + 1
        z = y ** 2 + a ** 0.5 + (b * 0.5) ** -0.5
        mask = (a < b) and not (a == b) or (i >= 3)
        w = where(mask, z, 0.0)
        j = i // 2 % 5
        return w[:, 1:], j[:, -1], (a @ transpose(b, perm=[1, 0]))[..., :1], w[0], y[:, ::2]
    }
    """,
    )


def transformer() -> tuple[ts.Model, str]:
    with ts.model("encoder") as m:
        ids = m.input("ids", "i64[B, T]")
        m.require("T <= 128", "at most 128 tokens")
        position = m.param("position", "float[128, 32]", "normal(0.02)", external="embeddings.position")
        x = nn.embedding(ids, vocab=100, dim=32, name="embed")
        x = x + position[: x.shape[1]]
        for i in range(2):
            with m.scope("layer", i):
                x = x + attention.self_attention(nn.layer_norm(x, name="norm1"), heads=4, name="attn")
                x = x + nn.mlp(nn.layer_norm(x, name="norm2"), hidden=64, name="mlp")
        m.tap("hidden", x)
        cls = x[:, 0]
        m.output(ops.tanh(cls))
    return (
        m,
        """
    use std.nn (embedding, layer_norm, mlp)
    use std.attention (self_attention)
    model encoder(ids: i64[B, T]) -> float[B, 32] {
        require T <= 128, "at most 128 tokens"
        param position: float[128, 32] = normal(0.02) as "embeddings.position"
        x = embedding(ids, vocab=100, dim=32) as embed
        x = x + position[:T]
        repeat i in 2 as layer {
            x = x + self_attention(layer_norm(x) as norm1, heads=4) as attn
            x = x + mlp(layer_norm(x) as norm2, hidden=64) as mlp
        }
        tap hidden = x
        cls = x[:, 0]
        return tanh(cls)
    }
    """,
    )


def merging() -> tuple[ts.Model, str]:
    with ts.model("merging") as m:
        x = m.input("x", "float[B, T, 16]")
        left = m.let("left", "min(4, T // 2)")
        map = token.token_map(batch=x.shape[0], tokens=x.shape[1])
        x, map = token.bipartite_merge(x, map, x, r=left)
        m.output(x, map.size)
    return (
        m,
        """
    use std.token (token_map, bipartite_merge)
    model merging(x: float[B, T, 16]) -> (float[B, T - min(4, T // 2), 16], f32[B, T - min(4, T // 2)]) {
        let left = min(4, T // 2)
        map = token_map(batch=B, tokens=T)
        x, map = bipartite_merge(x, map, x, r=left)
        return x, map.size
    }
    """,
    )


def stateful() -> tuple[ts.Model, str]:
    with ts.model("stateful") as m:
        x = m.input("x", "f32[B, 4]")
        total = m.state("total", "f32[B, 4]")
        noise = m.random("noise", "f32[B, 4]", "normal(0, 1)")
        scale = m.param("scale", "f32[4]", "ones", trainable=False)
        new = total + x * scale + noise
        m.update("total", new)
        m.output(new, name="sum")
    return (
        m,
        """
    model stateful(x: f32[B, 4]) -> (sum: f32[B, 4]) {
        state total: f32[B, 4] = zeros
        random noise: f32[B, 4] = normal(0, 1)
        buffer scale: f32[4] = ones
        new = total + x * scale + noise
        total = new
        return new
    }
    """,
    )


def looping() -> tuple[ts.Model, str]:
    with ts.model("looping") as m:
        x = m.input("x", "f32[B, 4]")
        y = x * 2.0
        a = ops.exp(x)

        def body(i: ts.Tensor, a: ts.Tensor, b: ts.Tensor) -> tuple[ts.Tensor, ts.Tensor]:
            n = a * 0.5 + x
            b = ops.maximum(a, b)
            return n, b

        a, b = m.fold(5, (a, y), body)
        m.output(a + b)
    return (
        m,
        """
    model looping(x: f32[B, 4]) -> f32[B, 4] {
        y = x * 2.0
        a = exp(x)
        b = y
        fold i in 5 from (a, b) {
            n = a * 0.5 + x
            b = maximum(a, b)
            a = n
        }
        return a + b
    }
    """,
    )


TWINS: list[Callable[[], tuple[ts.Model, str]]] = [head, mlp_mixer, operators, transformer, merging, stateful, looping]


@pytest.mark.parametrize("twin", TWINS, ids=lambda f: f.__name__)
def test_the_same_graph_and_the_same_source(twin: Callable[[], tuple[ts.Model, str]]) -> None:
    built, text = twin()
    written = ts.loads(text)
    assert built.module.difference(written) is None
    assert ts.loads(ts.source(built)) == written
    assert ts.source(built) == ts.source(written)


def test_a_dtype_for_float() -> None:
    with ts.model("half", dtype="f16") as m:
        x = m.input("x", "float[B]")
        m.output(x + 1.0)
    assert m.module == ts.loads("model half(x: float[B]) -> float[B] { return x + 1.0 }", dtype="f16")
    assert str(x.dtype) == "f16"
    assert repr(x) == "<x: f16[B]>"


def test_functions_of_files(tmp_path: Path) -> None:
    path = tmp_path / "blocks.tess"
    path.write_text(
        "use std.nn (linear)\n"
        "## Doubles.\nop double(x: float[...]) -> float[...] { return x + x }\n"
        "layer twice(x: float[B, D]) -> float[B, D] { return double(linear(x, out=D) as a) }\n"
        "record Pair[B] { first: f32[B] second: f32[B] }\n"
        "const N = 3"
    )
    blocks = ts.use(path)
    assert dir(blocks) == ["N", "Pair", "double", "twice"]
    assert blocks.double.__doc__ == "double(x: float[...]) -> float[...]\n\nDoubles."
    with ts.model("uses") as m:
        x = m.input("x", "f32[B, 4]")
        y = blocks.twice(x, name="block")
        pair = blocks.Pair(first=y[:, 0], second=y[:, 1])
        m.output(pair.first * blocks.N, pair)
    assert list(m.module.graph.params) == ["block.a.weight", "block.a.bias"]
    assert [o.name for o in m.module.graph.output_info] == ["output0", "output1_first", "output1_second"]
    # The op goes along with the model.
    assert "op double(" in ts.source(m)
    assert ts.loads(ts.source(m)) == m.module


def test_a_python_model_compiles_and_takes_passes() -> None:
    import numpy as np

    built, _ = transformer()
    artifact = ts.compile(ts.apply(built, "cse"))
    assert artifact(ids=np.zeros((2, 7), np.int64))["output"].shape == (2, 32)
    assert ts.compile(built, verify=False).module.name == "encoder"


def test_a_scan_takes_a_function(tmp_path: Path) -> None:
    path = tmp_path / "combine.tess"
    path.write_text("fn larger(a: float[...], b: float[...]) -> float[...] { return maximum(a, b) }\n")
    with ts.model("m") as m:
        x = m.input("x", "float[B, T]")
        m.output(ts.ops.scan(ts.use(path).larger, x, axis=1))
    again = ts.loads(ts.source(m))
    assert [node.op.name for node in again.graph.nodes()] == ["scan"]
    assert "scan(f: fn" in ts.ops.scan.__doc__
    assert "fold" not in dir(ts.ops)


def test_namespaces_say_what_they_hold() -> None:
    assert {"nn", "attention", "token"} <= set(dir(ts.std))
    assert "linear" in dir(ts.std.nn)
    assert "scores" in dir(ts.std.recover)
    assert "What attention takes the softmax of" in ts.std.recover.scores.scores.__doc__
    assert "exp" in dir(ts.ops)
    assert ts.std.nn.linear.__doc__ == (
        "linear(x: float[..., I], *, out: int, bias: bool = true) -> float[..., out]\n\n"
        "`torch.nn.Linear`: weight [out, I], bias [out]."
    )
    assert ts.ops.exp.__doc__ == "exp(x: float[...]) -> float[...]\n\n`e ** x`."
    assert ts.std.token.TokenMap.__doc__.startswith("Where each of N original tokens went")
    assert "token: Tokens as a set that shrinks" in ts.std.__doc__
    assert ts.std.nn.__doc__.startswith("Neural network basics")
    with pytest.raises(AttributeError, match="did you mean `linear`"):
        _ = ts.std.nn.linaer
    with pytest.raises(AttributeError):
        _ = ts.std.nm
    with pytest.raises(AttributeError):
        _ = ts.ops.nosuch


# Mistakes --------------------------------------------------------------------------------------------------------------


def test_errors_point_at_the_python_line() -> None:
    with pytest.raises(ts.Diagnostic) as error, ts.model("bad") as m:  # noqa: PT012
        x = m.input("x", "float[B, T, 64]")
        y = m.input("y", "float[B, S, 64]")
        _ = ops.exp(x) + y
    assert error.value.code == "E0304"
    assert error.value.span is not None
    assert error.value.span.file == __file__
    assert "_ = ops.exp(x) + y" in error.value.render()
    assert (
        error.value.span.column
        == Path(__file__).read_text().splitlines()[error.value.span.line - 1].index("ops.exp") + 1
    )


def fails(code: str, build: Callable[[ts.Model], object]) -> ts.Diagnostic:
    with pytest.raises(ts.Diagnostic) as error, ts.model("bad") as m:  # noqa: PT012
        build(m)
        m.output(m.input("other", "f32[3]"))
    assert error.value.code == code, error.value
    return error.value


def test_inputs() -> None:
    fails("E0016", lambda m: (m.input("x", "f32[B]"), m.input("x", "f32[B]")))
    fails("E0016", lambda m: m.input("exp", "f32[B]"))
    fails("E0016", lambda m: m.input("no name", "f32[B]"))
    fails("E0209", lambda m: m.input("x", "flaot[B]"))
    fails("E0310", lambda m: m.input("x", "float[..., 3]"))


def test_values_are_of_one_model() -> None:
    with ts.model("a") as a:
        x = a.input("x", "f32[B]")
        a.output(x)
    error = fails("E0016", lambda m: m.output(x))
    assert "belongs to the model `a`" in error.message
    fails("E0016", lambda m: m.input("y", "f32[B]") + x)


def test_a_finished_model_is_finished() -> None:
    with ts.model("a") as a:
        x = a.input("x", "f32[B]")
        with pytest.raises(ts.Diagnostic, match="not finished"):
            _ = a.module
        a.output(x)
    for late in (lambda: x + 1.0, lambda: a.input("y", "f32[B]"), lambda: ops.exp(x), lambda: a.output(x)):
        with pytest.raises(ts.Diagnostic, match="E0016"):
            late()


def test_outputs() -> None:
    with pytest.raises(ts.Diagnostic, match="has no output"), ts.model("none") as m:
        m.input("x", "f32[B]")
    with pytest.raises(ts.Diagnostic, match="two outputs"), ts.model("twice") as m:  # noqa: PT012
        x = m.input("x", "f32[B]")
        m.output(x, name="y")
        m.output(x, name="y")
    with pytest.raises(ts.Diagnostic, match="one name"), ts.model("both") as m:  # noqa: PT012
        x = m.input("x", "f32[B]")
        m.output(x, x, name="y")
    with pytest.raises(ts.Diagnostic, match="E0502"), ts.model("unused") as m:  # noqa: PT012
        m.param("w", "f32[3]")
        m.output(m.input("x", "f32[B]"))


def test_an_exception_in_the_block_is_the_users() -> None:
    with pytest.raises(KeyError), ts.model("a") as m:  # noqa: PT012
        m.input("x", "f32[B]")
        raise KeyError("mine")
    with pytest.raises(ts.Diagnostic, match="not finished"):
        _ = m.module


def test_conditions_and_loops_over_tensors() -> None:
    def branch(m: ts.Model) -> None:
        if m.input("x", "f32[B]") > 0.0:
            pass

    assert "ts.ops.where" in (fails("E0407", branch).help or "")
    with pytest.raises(TypeError, match="cannot be iterated"), ts.model("m") as m:
        list(m.input("x", "f32[B]"))


def test_calls() -> None:
    with pytest.raises(ts.Diagnostic, match="called within a model"):
        nn.linear(3, out=2)
    fails("E0401", lambda m: nn.linear(m.input("x", "f32[B, 3]")))
    fails("E0403", lambda m: nn.linear(m.input("x", "f32[B, 3]"), out=3, bais=False))
    fails("E0206", lambda m: [nn.linear(x, out=3, name="a") for x in [m.input("x", "f32[B, 3]")] * 2])
    fails("E0016", lambda m: m.update("x", m.input("x", "f32[B]")))
    fails("E0016", lambda m: m.fold(3, [m.input("x", "f32[B]")], lambda i, x: (x, x)))
    fails("E0501", lambda m: m.require("3 > 4", "never"))
    fails("E0016", lambda m: ts.model("no name"))
    fails("E0016", lambda m: ts.model("m", dtype="i64"))


def test_casts_take_dtypes_by_name() -> None:
    with ts.model("casts") as m:
        x = m.input("x", "f32[B]")
        m.output(ops.cast(x, dtype="i64"))
    assert m.module == ts.loads("model casts(x: f32[B]) -> i64[B] { return cast(x, i64) }")


@pytest.mark.parametrize("name", ["m²", "modèle", "return", "2m", "a b", ""])
def test_a_name_that_the_language_cannot_write(name: str) -> None:
    with pytest.raises(ts.Diagnostic) as caught:
        ts.model(name)
    assert caught.value.code == "E0016"
    with pytest.raises(ts.Diagnostic) as caught, ts.model("m") as m:
        m.output(m.input(name, "f32[B]"))
    assert caught.value.code == "E0016"


@pytest.mark.parametrize("name", ["w²", "größe.w", "2.weight", "a-b", "return", "x/y:z"])
def test_weights_of_any_name_print(name: str) -> None:
    """What a weight is called in its file is a text; its name in the source is one of the language's."""
    with ts.model("m") as m:
        x = m.input("x", "f32[B, 4]")
        m.output(x @ m.param(name, "f32[4, 4]"))
    printed = ts.loads(ts.source(m))
    assert printed.difference(m.module) is None
    assert list(printed.graph.params) == [name]


def test_scan_starts_from_a_value() -> None:
    with ts.model("m") as m:
        x, a = m.input("x", "f32[B, 4]"), m.input("a", "f32[B]")
        m.output(ts.ops.scan(ts.ops.add, x, axis=1, start=a))
    assert "start: list?" in ts.ops.scan.__doc__
    import numpy as np

    found = ts.compile(m)(x=np.ones((2, 4), np.float32), a=np.array([0, 5], np.float32))["output"]
    assert found.tolist() == [[1, 2, 3, 4], [6, 7, 8, 9]]


def test_an_output_is_a_tensor() -> None:
    with pytest.raises(ts.Diagnostic, match="not 'y'") as caught, ts.model("m") as m:
        m.output(m.input("x", "f32[B]"), "y")
    assert "name='y'" in (caught.value.help or "")
