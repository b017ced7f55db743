"""One network in many forms: tokens in front of the batch, and attention whose weights are read by others, merge as usual."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tessera as ts
from tessera.driver.compile import apply_passes
from tessera.frontends.source import loads
from tessera.ir.analysis.cost import ATTENTION
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.imported import Imported
from tessera.passes.engine import apply


class Block(nn.Module):
    """Attention over tokens, which lie along ``axis`` 0 or 1, written out or as PyTorch has it."""

    def __init__(self, axis: int, post: bool, written: bool) -> None:
        super().__init__()
        self.axis, self.post, self.written = axis, post, written
        self.norm1, self.norm2 = nn.LayerNorm(12), nn.LayerNorm(12)
        self.attn = nn.MultiheadAttention(12, 3, batch_first=axis == 1)
        self.mlp = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))

    def attend(self, y: torch.Tensor) -> torch.Tensor:
        if not self.written:
            out: torch.Tensor = self.attn(y, y, y, need_weights=False)[0]
            return out
        a, b, d = y.shape
        heads = nn.functional.linear(y, self.attn.in_proj_weight, self.attn.in_proj_bias).view(a, b, 3, 3, d // 3)
        q, k, v = (heads.permute(2, 1, 3, 0, 4) if self.axis == 0 else heads.permute(2, 0, 3, 1, 4)).unbind(0)
        z = (q @ k.transpose(-1, -2) * (d // 3) ** -0.5).softmax(-1) @ v
        z = z.permute(2, 0, 1, 3) if self.axis == 0 else z.transpose(1, 2)
        joined: torch.Tensor = self.attn.out_proj(z.reshape(a, b, d))
        return joined

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.post:
            x = self.norm1(x + self.attend(x))
            return self.norm2(x + self.mlp(x))
        x = x + self.attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Net(nn.Module):
    """Takes [B, T, D]; ``reads``: the class token, the mean, or all of the tokens; ``places``: an embedding that is added."""

    def __init__(self, axis: int, post: bool, written: bool, reads: str) -> None:
        super().__init__()
        self.axis, self.reads = axis, reads
        self.places = nn.Parameter(torch.randn(9, 12) * 0.3)
        self.blocks = nn.ModuleList(Block(axis, post, written) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(0, 1) + self.places[:, None] if self.axis == 0 else x + self.places
        for block in self.blocks:
            x = block(x)
        if self.reads == "class":
            return x.select(self.axis, 0)
        if self.reads == "mean":
            return x.mean(self.axis)
        return x.transpose(0, 1) if self.axis == 0 else x


def imported(model: nn.Module, x: torch.Tensor, importer: str, folder: Path) -> Imported:
    if importer == "torch":
        from torch.export import Dim

        from tessera.frontends.torch import load as load_torch

        return load_torch(model.eval(), (x,), dynamic_shapes=({0: Dim("B")},))
    from tessera.frontends.onnx import load as load_onnx

    path = folder / "model.onnx"
    torch.onnx.export(
        model.eval(), (x,), str(path), dynamo=False, opset_version=17, input_names=["x"], dynamic_axes={"x": {0: "B"}}
    )  # fmt: skip
    return load_onnx(path)


@pytest.mark.parametrize("importer", ["torch", pytest.param("onnx", marks=pytest.mark.extended)])
@pytest.mark.parametrize(
    ("post", "written", "reads"),
    [
        (False, False, "class"),
        pytest.param(False, True, "mean", marks=pytest.mark.extended),
        (True, True, "all"),
        pytest.param(True, False, "class", marks=pytest.mark.extended),
        pytest.param(False, False, "mean", marks=pytest.mark.extended),
        pytest.param(False, True, "all", marks=pytest.mark.extended),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tokens_in_front_merge_to_the_same_indices(
    post: bool, written: bool, reads: str, importer: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    usual, x = Net(1, post, written, reads), torch.randn(3, 9, 12)
    other = Net(0, post, written, reads)
    other.load_state_dict(usual.state_dict())
    results: list[dict[str, np.ndarray]] = []
    for model in (usual, other):
        found = imported(model, x, importer, tmp_path)
        raised, _ = apply(found.module, "raise_composites")
        merged, report = apply(raised, "merge_tokens", r=2, map=True, restore=reads == "all")
        assert report.modified == 2
        plain = next(iter(ts.compile(raised, weights=found.weights, passes=[])(x.numpy()).values()))
        np.testing.assert_allclose(plain, model(x).detach().numpy(), atol=2e-5)
        for target in ("torch", "onnx"):
            artifact = ts.compile(merged, weights=found.weights, passes=[], target=target)
            results.append({name: np.asarray(v) for name, v in artifact(x.numpy()).items()})
    first = next(iter(results[0].values()))
    for result in results[1:]:
        np.testing.assert_allclose(next(iter(result.values())), first, atol=3e-5)
        np.testing.assert_array_equal(result["token_source"], results[0]["token_source"])


class Shared(nn.Module):
    """Attention whose weights are read by others: ``how`` says by whom."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.attn = nn.ModuleList(nn.MultiheadAttention(12, 3, batch_first=True) for _ in range(2))
        self.qkv = nn.ModuleList(nn.Linear(12, 36) for _ in range(2))

    def forward(self, x: torch.Tensor) -> Any:
        b, t, d = x.shape
        kept = []
        for attn, qkv in zip(self.attn, self.qkv, strict=True):
            if self.how.startswith("MultiheadAttention"):
                z, p = attn(x, x, x, need_weights=True, average_attn_weights=self.how.endswith("mean"))
            else:
                q, k, v = qkv(x).view(b, t, 3, 3, d // 3).permute(2, 0, 3, 1, 4).unbind(0)
                p = (q @ k.transpose(-1, -2) * (d // 3) ** -0.5).softmax(-1)
                z = (p @ v).transpose(1, 2).reshape(b, t, d)
                if self.how == "two values":
                    z = z - 0.5 * (p @ v.tanh()).transpose(1, 2).reshape(b, t, d)
            x = x + z
            kept.append(p)
        if self.how == "two values":
            return x.mean(1)
        if self.how == "column":
            return x.mean(1), kept[-1].mean((1, 2))
        return x.mean(1), kept[-1]


@pytest.mark.parametrize("importer", ["torch", pytest.param("onnx", marks=pytest.mark.extended)])
@pytest.mark.parametrize(
    "how",
    [
        "MultiheadAttention",
        "two values",
        *(pytest.param(how, marks=pytest.mark.extended) for how in ("MultiheadAttention mean", "written", "column")),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_attention_whose_weights_are_read_too_is_attention(how: str, importer: str, tmp_path: Path) -> None:
    """Pairs of equal tokens merge without a trace: a key of two tokens has its weight shared by both, in both axes."""
    torch.manual_seed(0)
    model, x = Shared(how), torch.randn(2, 5, 12).repeat_interleave(2, 1)
    found = imported(model, x, importer, tmp_path)
    raised, _ = apply(found.module, "raise_composites")
    assert sum(n.op.qualified == ATTENTION for n in raised.graph.nodes()) == (4 if how == "two values" else 2)
    merged, report = apply(raised, "merge_tokens", r=2, blocks=(0,), restore=True)
    assert report.modified == 1
    wanted = model(x)
    wanted = [w.detach().numpy() for w in (wanted if isinstance(wanted, tuple) else (wanted,))]
    for target in ("torch", "onnx"):
        got = list(ts.compile(merged, weights=found.weights, passes=[], target=target)(x.numpy()).values())
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_allclose(np.asarray(a), b, atol=3e-5)


# Norms behind a sum -------------------------------------------------------------------------------------------------------

NORMS = {
    "scale_norm": "return x * (weight * rsqrt(sum(x * x, axis=-1, keepdims=true) + 1e-6))",
    "dynamic_tanh": "return weight * tanh(0.5 * x)",
    "mixed": "return einsum(\"b t d, d -> b t d\", x, weight) @ full([8, 8], 0.1, dtype=f32)",
    "shifted": "return concat(x[:, 1:], x[:, :1], axis=1) * weight",
}


@pytest.mark.parametrize("name", NORMS)
def test_tokens_leave_behind_a_norm_whoever_wrote_it(name: str) -> None:
    """A composite that gives each token other features without a matrix is a norm; one that mixes features or tokens is none."""
    module = loads(f"""
use std.attention (self_attention)
use std.nn (mlp)

op {name}(x: f32[B, T, 8], weight: f32[8]) -> f32[B, T, 8] {{
    {NORMS[name]}
}}

model m(x: f32[B, 12, 8]) -> f32[B, 8] {{
    repeat i in 2 as blocks {{
        param w: f32[8] = ones
        x = {name}(x + self_attention(x, heads=2) as attn, w)
        x = x + mlp(x, hidden=16) as mlp
    }}
    return mean(x, axis=1)
}}
""")
    if name == "shifted":
        with pytest.raises(Diagnostic, match="by place"):
            apply_passes(module, ["merge_tokens(r=2, protect=0)"])
        return
    merged, _ = apply_passes(module, ["merge_tokens(r=2, protect=0)"])
    first = next(n for n in merged.graph.nodes() if n.op.name == "bipartite_merge")
    assert first.inputs[0] is not None
    assert first.inputs[0].node is not None
    assert first.inputs[0].node.op.name == ("add" if name == "mixed" else name)


# Batch and heads joined, and taken apart behind a slice ----------------------------------------------------------------------


class Joined(nn.Module):
    """Attention whose queries, keys and values are cut out of `3 (b h) t k`, or of `(b h) t (3 k)`, in the way ``how``."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.qkv = nn.ModuleList(nn.Linear(12, 36) for _ in range(2))

    def heads(self, y: torch.Tensor) -> Any:
        b, t, _ = y.shape
        if self.how == "usual":
            return y.view(b, t, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        if self.how == "features":
            stacked = y.view(b, t, 3, 3, 4).permute(0, 3, 1, 2, 4).reshape(b * 3, t, 12)
            return [part.reshape(b, 3, t, 4) for part in stacked.chunk(3, -1)]
        stacked = y.view(b, t, 3, 3, 4).permute(2, 0, 3, 1, 4).reshape(3, b * 3, t, 4)
        if self.how == "scaled":
            stacked = stacked * 1.0
        parts = {
            "unbind": lambda: stacked.unbind(0), "chunk": lambda: stacked.chunk(3, 0), "split": lambda: stacked.split(1, 0),
            "scaled": lambda: stacked.unbind(0), "index": lambda: [stacked[i] for i in range(3)],
            "slice": lambda: [stacked[i : i + 1] for i in range(3)], "turned": lambda: stacked.transpose(0, 1).unbind(1),
        }[self.how]()  # fmt: skip
        return [part.reshape(b, 3, t, 4) for part in parts]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for qkv in self.qkv:
            z = nn.functional.scaled_dot_product_attention(*self.heads(qkv(x)))
            x = x + z.transpose(1, 2).reshape(x.shape)
        return x.mean(1)


@pytest.mark.parametrize("importer", ["torch", pytest.param("onnx", marks=pytest.mark.extended)])
@pytest.mark.parametrize(
    "how",
    [
        "unbind",
        *(
            pytest.param(how, marks=pytest.mark.extended)
            for how in ("chunk", "split", "scaled", "index", "slice", "turned", "features")
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_heads_that_were_joined_with_the_batch_merge_to_the_same_indices(how: str, importer: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    usual, other, x = Joined("usual"), Joined(how), torch.randn(4, 9, 12)
    other.load_state_dict(usual.state_dict())
    sources = []
    for model in (usual, other):
        found = imported(model, x, importer, tmp_path)
        raised, _ = apply(found.module, "raise_composites")
        plain = next(iter(ts.compile(raised, weights=found.weights, passes=[])(x.numpy()).values()))
        np.testing.assert_allclose(plain, model(x).detach().numpy(), atol=2e-5)
        merged, report = apply(raised, "merge_tokens", r=2, map=True)
        assert report.modified == 2
        sources.append(ts.compile(merged, weights=found.weights, passes=[])(x.numpy())["token_source"])
    np.testing.assert_array_equal(*map(np.asarray, sources))


class OnMap(nn.Module):
    """SAM's attention over a map of 3 by 4: scores are biased by what each query says of rows and columns of keys.

    Of queries ``joined`` with the batch, as SAM has them, or with heads on an axis of their own.
    """

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.qkv = nn.ModuleList(nn.Linear(12, 36) for _ in range(2))
        self.rows = nn.ParameterList(torch.randn(3, 3, 4) for _ in range(2))
        self.columns = nn.ParameterList(torch.randn(4, 4, 4) for _ in range(2))

    def biased(self, q: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        b, heads, t, k = q.shape
        if self.how == "usual":
            at = q.reshape(b, heads, 3, 4, k)
            of_rows = torch.einsum("bnhwc,hkc->bnhwk", at, rows)[..., None]
            return (of_rows + torch.einsum("bnhwc,wkc->bnhwk", at, columns)[..., None, :]).reshape(b, heads, t, t)
        at = q.reshape(b * heads, 3, 4, k)
        of_rows = torch.einsum("bhwc,hkc->bhwk", at, rows)[..., None]
        return (of_rows + torch.einsum("bhwc,wkc->bhwk", at, columns)[..., None, :]).reshape(b, heads, t, t)

    def heads(self, y: torch.Tensor) -> Any:
        b, t, _ = y.shape
        stacked = y.view(b, t, 3, 3, 4).permute(2, 0, 3, 1, 4)
        if self.how == "usual":
            return stacked.unbind(0)
        stacked = stacked.reshape(3, b * 3, t, 4)
        parts = {
            "unbind": lambda: stacked.unbind(0), "chunk": lambda: stacked.chunk(3, 0),
            "turned": lambda: stacked.transpose(0, 1).unbind(1),
        }[self.how]()  # fmt: skip
        return [part.reshape(b, 3, t, 4) for part in parts]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.reshape(x.shape[0], 3, 4, 12)
        for qkv, rows, columns in zip(self.qkv, self.rows, self.columns, strict=True):
            q, k, v = self.heads(qkv(x).reshape(x.shape[0], 12, 36))
            z = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.biased(q, rows, columns))
            x = x + z.view(x.shape[0], 3, 3, 4, 4).permute(0, 2, 3, 1, 4).reshape(x.shape)
        return x.mean((1, 2))


@pytest.mark.parametrize("importer", ["torch", pytest.param("onnx", marks=pytest.mark.extended)])
@pytest.mark.parametrize("how", ["unbind", *(pytest.param(how, marks=pytest.mark.extended) for how in ("chunk", "turned"))])
@pytest.mark.filterwarnings("ignore")
def test_relative_positions_of_queries_follow_merged_tokens(how: str, importer: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    usual, other, x = OnMap("usual"), OnMap(how), torch.randn(4, 12, 12)
    other.load_state_dict(usual.state_dict())
    results = []
    for model in (usual, other):
        found = imported(model, x, importer, tmp_path)
        raised, _ = apply(found.module, "raise_composites")
        plain = next(iter(ts.compile(raised, weights=found.weights, passes=[])(x.numpy()).values()))
        np.testing.assert_allclose(plain, model(x).detach().numpy(), atol=2e-5)
        with pytest.raises(Diagnostic, match="restore=true"):
            apply(raised, "merge_tokens", r=2)
        merged, report = apply(raised, "merge_tokens", r=2, map=True, restore=True)
        assert report.modified == 2
        results.append(ts.compile(merged, weights=found.weights, passes=[])(x.numpy()))
    np.testing.assert_array_equal(*(np.asarray(r["token_source"]) for r in results))
    np.testing.assert_allclose(*(np.asarray(next(iter(r.values()))) for r in results), atol=2e-5)


@pytest.mark.parametrize(
    "back", ["b c t d", *(pytest.param(b, marks=pytest.mark.extended) for b in ("c b t d", "b t c d", "b c d t"))]
)
def test_rows_that_the_batch_was_joined_of_get_their_tokens_back(back: str) -> None:
    """Three series of each example lie in the batch, as PatchTST has them, and apart where places are read."""
    blocks = "".join(f"    y = y + self_attention(y * 2.0, heads=2) as block{i}\n" for i in range(2))
    text = """
use std.attention (self_attention)
model m(x: f32[{shape}]) -> f32[{result}] {{
{first}{blocks}    return {last}
}}
"""
    sizes = {"b": "B", "c": "3", "t": "9", "d": "8"}
    joined = text.format(
        shape="B, 3, 9, 8", result=", ".join(sizes[name] for name in back.split()), blocks=blocks,
        first='    y = rearrange(x, "b c t d -> (b c) t d")\n',
        last=f'flip(rearrange(y, "(b c) t d -> {back}", c=3), axis={back.split().index("t")})',
    )  # fmt: skip
    alone = text.format(shape="N, 9, 8", result="N, 9, 8", blocks=blocks, first="    y = x\n", last="flip(y, axis=1)")
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 8)).astype(np.float32)
    results = []
    for source, given in ((alone, x.reshape(6, 9, 8)), (joined, x)):
        merged, report = apply(loads(source), "merge_tokens", r=2, protect=0, restore=True)
        assert report.modified == 2
        results += [next(iter(ts.compile(merged, target=t, verify=False)(given).values())) for t in ("torch", "onnx")]
    order = ["bctd".index(name) for name in back.split()]
    wanted = np.asarray(results[0]).reshape(2, 3, 9, 8).transpose(order)
    for found in results[2:]:
        np.testing.assert_allclose(np.asarray(found), wanted, atol=2e-5)


def test_a_bias_of_pairs_of_tokens_from_before_merging_is_none_of_places() -> None:
    """What compares features of a layer before, without places, is read by attention of whole tokens."""
    module = loads("""
use std.attention (attention, self_attention)

model m(x: f32[B, T, 8]) -> f32[B, 8] {
    alike = unsqueeze(x @ transpose(x, perm=[0, 2, 1]), axis=[1])
    x = x + self_attention(x, heads=2) as first
    q = rearrange(x, "b t (h k) -> b h t k", h=2)
    x = x + rearrange(attention(q, q, q, bias=alike), "b h t k -> b t (h k)")
    return mean(x, axis=1)
}
""")
    with pytest.raises(Diagnostic, match="compares tokens as they were before the merge"):
        apply(module, "merge_tokens", r=1, protect=0)


@pytest.mark.parametrize("post", [False, True])
def test_attention_over_another_stream_of_the_same_length_is_none_of_its_own(post: bool) -> None:
    """A decoder that reads as many tokens as its encoder: axes coincide, yet keys are not made of what queries are made of."""
    cross = "attention(q, k, k)"
    ones, zeros = (f"full([8], {value}, dtype=f32)" for value in (1.0, 0.0))
    body = f"x = layer_normalize(x + {cross}, {ones}, {zeros})" if post else f"x = x + {cross}"
    module = loads(f"""
use std.attention (attention, self_attention)
use std.nn (layer_normalize, mlp)

model m(x: f32[B, T, 8]) -> f32[B, 8] {{
    e = x + self_attention(x, heads=2) as encoder
    e = e + mlp(e, hidden=16) as mlp
    x = x + self_attention(x * 0.5, heads=2) as decoder
    q = rearrange(x, "b t (h k) -> b h t k", h=2)
    k = rearrange(e, "b t (h k) -> b h t k", h=2)
    {body.replace(cross, 'rearrange(' + cross + ', "b h t k -> b t (h k)")')}
    return mean(x, axis=1)
}}
""")
    _, report = apply(module, "merge_tokens", r=1, protect=0, restore=True)
    assert report.facts["blocks"] == [0, 1]
