"""The one table of dtypes, against those whose names it holds."""

from __future__ import annotations

import ast

import onnx
import onnx.defs
import pytest
import torch

from tessera.ir.types import DTYPES, DType, TensorType
from tessera.tests.test_house import modules

ALL = list(DTYPES.values())


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_names_elsewhere(dtype: DType) -> None:
    assert dtype.numpy.name == dtype.long
    assert dtype.numpy.itemsize == dtype.size
    assert DType.from_numpy(dtype.numpy) is dtype
    theirs = getattr(torch, dtype.long)
    assert theirs.itemsize == dtype.size
    assert theirs.is_floating_point == (dtype.kind == "float")
    assert onnx.helper.tensor_dtype_to_np_dtype(dtype.onnx).name == dtype.long
    takes = next(c for c in onnx.defs.get_schema("Identity", 24).type_constraints if c.type_param_str == "V")
    assert dtype.onnx_type in takes.allowed_type_strs


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_names_in_mlir(dtype: DType) -> None:
    ir = pytest.importorskip("torch_mlir.ir", reason="torch-mlir is an extra")
    dialect = pytest.importorskip("torch_mlir.dialects.torch")
    with ir.Context() as context:
        dialect.register_dialect(context)
        assert str(ir.Type.parse(f"!torch.vtensor<[2],{dtype.mlir}>")) == f"!torch.vtensor<[2],{dtype.mlir}>"


def test_each_name_is_one_dtypes() -> None:
    for names in ([d.long for d in ALL], [d.onnx for d in ALL], [d.torch for d in ALL], [d.mlir for d in ALL]):
        assert len(set(names)) == len(ALL)


def test_names_elsewhere_are_no_part_of_equality() -> None:
    assert TensorType.of("f32", ["B"]) == TensorType.of(DTYPES["f32"], ["B"])
    assert hash(DTYPES["f32"]) == hash(DType("f32", "float", 4, "", 0, 0, ""))


def test_nobody_keeps_another_table() -> None:
    """A literal that gives nearly every dtype a name belongs into the table."""
    own = {*DTYPES, *(d.name.upper() for d in ALL), *(d.long for d in ALL), "boolean"}
    found = []
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Dict) or name == "ir.types":
                continue
            for side in (node.keys, node.values):
                words = [
                    k.value if isinstance(k, ast.Constant) else getattr(k, "id", getattr(k, "attr", "")) for k in side
                ]
                if sum(word in own for word in words if isinstance(word, str)) > len(ALL) - 2:
                    found.append(f"{path}:{node.lineno}")
    # What an operand is computed in where an ONNX op does not take its dtype: no names, but a choice for each.
    assert {path.rpartition("/")[2].partition(":")[0] for path in found} == {"schema.py"}
