"""Torch-dialect MLIR, as torch-mlir's own importer writes it, and text by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tessera.backends.torch import build
from tessera.benchmarks.architectures import ARCHITECTURES
from tessera.driver.compile import apply_passes
from tessera.frontends.source import loads, print_module
from tessera.frontends.torch import load, load_mlir
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.imported import Imported

pytest.importorskip("torch_mlir", reason="torch-mlir (extra `mlir`) is not installed")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = nn.functional.gelu(self.linear(self.norm(x)))
        places = torch.arange(x.shape[1]).float().expand(x.shape[0], -1)
        return torch.cat([y.mean(-1), places], 1), y.topk(2)[1]


def exported(model: nn.Module, example: tuple[torch.Tensor, ...], output: str, **options: Any) -> Any:
    from torch_mlir import fx

    return fx.export_and_import(model, *example, output_type=output, import_symbolic_shape_expressions=True, **options)


@pytest.mark.parametrize("output", ["raw", "torch"])
@pytest.mark.parametrize("as_text", [False, True])
def test_what_torch_mlir_imports(output: str, as_text: bool) -> None:
    model = Block().eval()
    shapes = ({0: torch.export.Dim("N")},)
    module = exported(model, (torch.randn(2, 5, 8),), output, dynamic_shapes=shapes)
    imported = load_mlir(module.operation.get_asm() if as_text else module)
    assert imported.module.difference(loads(print_module(imported.module))) is None
    assert imported.module.graph.symbols() == ["B"]
    run = build(imported.module, imported.weights)
    for size in (2, 5):
        x = torch.randn(size, 5, 8)
        for a, b in zip(run(x).values(), model(x), strict=True):
            torch.testing.assert_close(a, b.detach(), rtol=1e-4, atol=1e-5)


def test_an_architecture() -> None:
    from torch_mlir import fx

    vit = ARCHITECTURES["vit"]
    model = vit.build()
    module = fx.export_and_import(
        model, output_type="raw", dynamic_shapes=vit.dynamic_shapes(), import_symbolic_shape_expressions=True,
        **vit.example(),
    )  # fmt: skip
    imported = load_mlir(module, name="ViT", names=["pixel_values"])
    run = build(imported.module, imported.weights)
    for which in (0, 1):
        inputs = vit.example(which)
        with torch.no_grad():
            wanted = model(**inputs).logits
        torch.testing.assert_close(run(**inputs)["output"], wanted, rtol=1e-4, atol=1e-5)


def decomposed(name: str) -> tuple[Any, Imported]:
    """An architecture as torch-mlir's importer writes it with the decompositions that it has by itself."""
    from torch_mlir import fx

    architecture = ARCHITECTURES[name]
    model = architecture.build()
    for module in model.modules():
        # torch-mlir's importer finds no buffer that is not saved.
        module._non_persistent_buffers_set.clear()
    if name == "gpt2":
        # torch decomposes its fused attention into a view that its own strides do not allow.
        model.config._attn_implementation = "eager"
    module = fx.export_and_import(
        model, output_type="torch", dynamic_shapes=architecture.dynamic_shapes(), import_symbolic_shape_expressions=True,
        **architecture.example(),
    )  # fmt: skip
    return model, load_mlir(module.operation.get_asm())


QUICK = ("vit", "bert", "gpt2", "llama")


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(n, marks=pytest.mark.extended) for n in ARCHITECTURES if n not in QUICK)]
)
def test_decomposed_blocks_are_recognised(name: str) -> None:
    architecture = ARCHITECTURES[name]
    model, imported = decomposed(name)
    raised, _ = apply_passes(imported.module, ["raise_composites"])
    ops = Counter(n.op.name for n in raised.graph.nodes())
    assert ops["attention"] == architecture.blocks
    assert ops["layer_normalize"] + ops["rms_normalize"] > architecture.blocks
    assert not {"softmax", "is_nan"} & set(ops)
    run = build(raised, imported.weights)
    for which in (0, 1):
        inputs = architecture.example(which)
        with torch.no_grad():
            wanted = next(iter(model(**inputs).values()))
        torch.testing.assert_close(next(iter(run(*inputs.values()).values())), wanted, rtol=1e-4, atol=1e-4)
    if name in ("gpt2", "llama"):
        with pytest.raises(Diagnostic, match="E0708"):
            apply_passes(raised, ["merge_tokens(r=1)"])
    if name in ("vit", "bert"):
        options = ["raise_composites", "merge_tokens(r=1, protect=1)"]
        merged, reports = apply_passes(imported.module, options)
        assert reports[-1].modified == architecture.blocks
        # The same tokens as where torch.export keeps attention whole.
        whole = load(model, kwargs=inputs, dynamic_shapes=architecture.dynamic_shapes())
        other = build(apply_passes(whole.module, options)[0], whole.weights)
        found, wanted = (next(iter(x(*inputs.values()).values())) for x in (build(merged, imported.weights), other))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_without_decompositions_blocks_are_whole() -> None:
    from torch_mlir import fx

    vit = ARCHITECTURES["vit"]
    module = fx.export_and_import(
        vit.build(), output_type="raw", dynamic_shapes=vit.dynamic_shapes(), import_symbolic_shape_expressions=True,
        decomposition_table=[], **vit.example(),
    )  # fmt: skip
    imported = load_mlir(module).module
    assert sum(n.op.qualified == "std.attention.attention" for n in imported.graph.nodes()) == vit.blocks


BY_HAND = """
func.func @main(%x: !torch.vtensor<[?,?],f32>, %y: !torch.vtensor<[?,?],f32>, %w: !torch.vtensor<[3],f32>)
    -> !torch.vtensor<[?,?],f32> {
  %one = torch.constant.int 1
  %c = torch.vtensor.literal(dense_resource<big> : tensor<3xf32>) : !torch.vtensor<[3],f32>
  %s = torch.vtensor.literal(dense<2.0> : tensor<f32>) : !torch.vtensor<[],f32>
  %0 = torch.aten.add.Tensor %x, %y, %one
      : !torch.vtensor<[?,?],f32>, !torch.vtensor<[?,?],f32>, !torch.int -> !torch.vtensor<[?,?],f32>
  %1 = torch.aten.mul.Tensor %0, %w : !torch.vtensor<[?,?],f32>, !torch.vtensor<[3],f32> -> !torch.vtensor<[?,?],f32>
  %2 = torch.aten.mul.Tensor %1, %c : !torch.vtensor<[?,?],f32>, !torch.vtensor<[3],f32> -> !torch.vtensor<[?,?],f32>
  %3 = torch.aten.mul.Tensor %2, %s : !torch.vtensor<[?,?],f32>, !torch.vtensor<[],f32> -> !torch.vtensor<[?,?],f32>
  return %3 : !torch.vtensor<[?,?],f32>
}
{-# dialect_resources: { builtin: { big: "0x040000000000803F0000004000004040" } } #-}
"""


def test_names_sizes_and_weights_are_given() -> None:
    weights = {"w": np.array([1, 10, 100], "f4")}
    imported = load_mlir(BY_HAND, dims=[["B", 3], ["B", 3]], weights=weights)
    assert "model imported(x: f32[B, 3], y: f32[B, 3])" in print_module(imported.module)
    assert set(imported.module.graph.params) == {"w", "weight_1"}
    found = build(imported.module, imported.weights)(np.ones((2, 3), "f4"), np.ones((2, 3), "f4"))
    np.testing.assert_array_equal(found["output"].numpy(), [[4, 80, 1200]] * 2)


@pytest.mark.parametrize(
    ("dtype", "literal", "wanted"),
    [
        ("bf16", "dense<1.5> : tensor<bf16>", 1.5),
        ("bf16", "dense<0xFF80> : tensor<2xbf16>", [-np.inf] * 2),
        ("bf16", "dense<[[1.5, 0x7F80]]> : tensor<1x2xbf16>", [[1.5, np.inf]]),
        ("f16", "dense<0xFC00> : tensor<2xf16>", [-np.inf] * 2),
        ("f32", "dense<0xFF800000> : tensor<2xf32>", [-np.inf] * 2),
        ("f64", "dense<[0x7FF0000000000000, 2.0]> : tensor<2xf64>", [np.inf, 2.0]),
        ("i1", "dense<true> : tensor<2xi1>", [True, True]),
        ("si64", "dense<-7> : tensor<2xsi64>", [-7, -7]),
    ],
)
def test_literals(dtype: str, literal: str, wanted: Any) -> None:
    type = f"!torch.vtensor<[{','.join(map(str, np.shape(wanted)))}],{dtype}>"
    text = f"func.func @main() -> {type} {{ %0 = torch.vtensor.literal({literal}) : {type} return %0 : {type} }}"
    found = build(load_mlir(text).module, {})()["output"]
    np.testing.assert_array_equal(found.double().numpy(), np.array(wanted, "f8"))


def test_sizes_without_names_are_different() -> None:
    with pytest.raises(Diagnostic) as error:
        load_mlir(BY_HAND)
    assert error.value.code == "E0304"
    assert any("torch.aten.add.Tensor" in note.message for note in error.value.notes)


ONE = "func.func @main(%x: !torch.vtensor<[2],f32>) -> !torch.vtensor<[2],f32> {{\n  {}\n  return %0 : !torch.vtensor<[2],f32>\n}}"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("nonsense", "E0784"),
        ("module { }", "E0784"),
        (
            ONE.format(
                "%none = torch.constant.none\n%int = torch.constant.int 0\n%0 = torch.aten.bincount %x, %none, %int"
                " : !torch.vtensor<[2],f32>, !torch.none, !torch.int -> !torch.vtensor<[2],f32>"
            ),
            "E0780",
        ),
        (
            ONE.format("%0 = torch.vtensor.literal(dense_resource<gone> : tensor<2xf32>) : !torch.vtensor<[2],f32>"),
            "E0784",
        ),
        ("func.func @main(%x: !torch.vtensor) -> !torch.vtensor { return %x : !torch.vtensor }", "E0782"),
        ("func.func @main() -> !torch.int {\n %0 = torch.constant.int 1\n return %0 : !torch.int\n}", "E0783"),
    ],
)  # fmt: skip
def test_refused(text: str, code: str) -> None:
    with pytest.raises(Diagnostic) as error:
        load_mlir(text)
    assert error.value.code == code


def test_without_torch_mlir(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch_mlir", None)
    with pytest.raises(Diagnostic, match="E0785"):
        load_mlir("module {}")
