"""Algorithms written from their papers, on both targets, against references in NumPy that share nothing with them.

Each program is compiled once for each target, with weights that the reference knows, and run at odd and ragged sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import tessera as ts
from tessera.ir.diagnostics import Diagnostic

from .references import REFERENCES
from .references import decoding as decoding_reference
from .support import TARGETS, assert_close, drawn, loaded, on_every_target


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_program_computes_what_its_paper_says(name: str) -> None:
    case = REFERENCES[name]
    program = loaded(name)
    weights = drawn(program, case.scale)
    calls = [case.inputs(np.random.default_rng(i), **sizes) for i, sizes in enumerate(case.sizes)]
    for target, found in on_every_target(program, weights, *calls):
        for sizes, call, outputs in zip(case.sizes, calls, found, strict=True):
            expected = case.expected(weights, **call)
            for (output, array), wanted in zip(outputs.items(), expected, strict=True):
                assert_close(array, wanted, f"{name}.{output} on {target}, {sizes}", 1e-4)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("quest", {"tokens": 7}),
        ("nsa", {"tokens": 8}),
        ("reformer", {"tokens": 9}),
        ("retnet", {"tokens": 5}),
        ("tokenselect", {"heads": 3, "groups": 2}),
        ("tome_sd", {"height": 3}),
        ("snapkv", {"tokens": 6}),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name: str, sizes: Mapping[str, int]) -> None:
    case = REFERENCES[name]
    program = loaded(name)
    for target in TARGETS:
        with pytest.raises(Diagnostic) as caught:
            ts.compile(program, target=target)(**case.inputs(np.random.default_rng(0), **{**case.sizes[0], **sizes}))
        assert caught.value.code == "E0904"


@pytest.mark.parametrize("target", TARGETS)
def test_prefill_and_steps_share_one_cache(target: str, tmp_path: Path) -> None:
    program = loaded("decoding")
    weights = drawn(program, 0.4)
    x = np.random.default_rng(2).standard_normal((2, 7, 8)).astype(np.float32)
    ts.compile(program, target=target, weights=weights).save(tmp_path / "decoding")
    opened = ts.open(tmp_path / "decoding")
    outputs = opened.prompt(x=x[:, :4], sizes={"C": 9})
    for t in range(4, 8):
        assert_close(outputs.pop("output"), decoding_reference(weights, x[:, :t]), f"{t} tokens on {target}", 1e-4)
        assert outputs["attn_position"] == t
        outputs = opened.next(x=x[:, t : t + 1], **outputs) if t < 7 else {}
