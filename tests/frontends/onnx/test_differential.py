"""Random nodes: the importer computes what ONNX Runtime or the reference does, or refuses; so does what it exports again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from . import (  # noqa: F401  # fill the table
    random_decoder,
    random_elements,
    random_fused,
    random_indices,
    random_picking,
    random_products,
    random_quantized,
    random_sequences,
)
from .drawing import GENERATORS, Case, Draw
from .judging import Verdict, judge

CASES = 8
# Of what is refused most: sizes that are left free and must not be, or an operand that the importer must know.
FREQUENTLY_REFUSED = {
    "Attention", "GatherND", "GroupQueryAttention", "MaxPool", "MultiHeadAttention", "Pad", "Resize", "ReverseSequence",
    "ScatterElements", "ScatterND", "SkipSimplifiedLayerNormalization", "SpaceToDepth", "Split",
}  # fmt: skip


def verdicts(op: str, folder: Path, count: int, seed: int = 0) -> list[Verdict]:
    found = []
    for i in range(count):
        r = Draw(np.random.default_rng([seed, i, *op.encode()]))
        found.append(judge(GENERATORS[op](r), r, folder))
    return found


@pytest.mark.parametrize("op", GENERATORS)
def test_op(op: str, tmp_path: Path) -> None:
    found = verdicts(op, tmp_path, CASES)
    wrong = [v.text for v in found if v.outcome == "different"]
    assert not wrong, wrong[0]
    # Neither is everything refused.
    most = CASES if op in FREQUENTLY_REFUSED else CASES // 2
    assert sum(v.outcome == "refused" for v in found) < most, [v.text for v in found]


@pytest.mark.extended
@pytest.mark.parametrize("op", GENERATORS)
def test_op_often(op: str, tmp_path: Path) -> None:
    wrong = [v.text for v in verdicts(op, tmp_path, 200, seed=1) if v.outcome == "different"]
    assert not wrong, wrong[0]


def test_the_judge_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tessera.frontends.onnx.registry import IMPORTS

    monkeypatch.setitem(IMPORTS, ("", "Floor"), IMPORTS[("", "Ceil")])
    monkeypatch.setattr("tessera.frontends.onnx.ops.elementwise._UNARY", {"Floor": "ceil"})
    case = Case("Floor", {"x": np.array([0.5], np.float32)})
    found = judge(case, Draw(np.random.default_rng(0)), tmp_path)
    assert found.outcome == "different"
    assert "Floor" in found.text
