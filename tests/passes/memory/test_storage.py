"""Caches that hold keys and values in less: as good as their numbers, on both targets, and chosen from before they are wide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.driver.compile import apply_passes
from tessera.ir.diagnostics import Diagnostic

from .test_add_cache import ATTENDING, SMALL, ZOO, compiled

# What of the largest score may be lost.
LOST = {"f16": 2e-3, "i8": 4e-2}
CASES = [("rope", "f16"), ("rope", "i8")]
FURTHER = [(name, kind) for name in ("window", "alibi", "capped", *ZOO) for kind in LOST]


def module_of(name: str) -> Any:
    return ts.load(name, params={**SMALL, **ZOO[name]}) if name in ZOO else ts.loads(ATTENDING, params={"kind": name})


def check(name: str, kind: str) -> None:
    """Rows of several lengths, read in parts, against the model that reads them at once."""
    plain, *made = compiled(module_of(name), "torch", "onnx", passes=(f"add_cache(storage={kind})",))
    text = np.random.default_rng(0).integers(0, 40, (2, 12))
    whole = plain(text)["logits"]
    given = made[0].prefill.inputs[0].name
    told = []
    for artifact in made:
        found = artifact.prefill(**{given: text[:, :6], "lengths": [6, 3]}, sizes={"C": 16})
        states = {k: v for k, v in found.items() if k.startswith("cache_")}
        held = {k.partition(".")[2]: v.dtype.name for k, v in states.items()}
        assert (held["k"], held["v"]) == (("float16",) * 2 if kind == "f16" else ("int8",) * 2)
        found = artifact.decode(**{given: np.stack([text[0, 6:10], text[1, 3:7]]), "lengths": [4, 4]}, **states)
        for row, behind in ((0, whole[0, 6:10]), (1, whole[1, 3:7])):
            assert np.abs(found["logits"][row] - behind).max() <= LOST[kind] * np.abs(whole).max()
        assert found["cache_0.length"].tolist() == [10, 7]
        told.append(found)
    np.testing.assert_allclose(told[0]["logits"], told[1]["logits"], atol=2e-2 * np.abs(whole).max())


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_little_is_lost(name: str, kind: str) -> None:
    check(name, kind)


@pytest.mark.extended
@pytest.mark.parametrize(("name", "kind"), FURTHER)
def test_little_is_lost_in_every_kind_of_decoder(name: str, kind: str) -> None:
    check(name, kind)


@pytest.mark.parametrize("kind", LOST)
@pytest.mark.parametrize("method", ["token_vote", pytest.param("page_bounds,page=4", marks=pytest.mark.extended)])
def test_slots_are_chosen_before_they_are_made_wide(method: str, kind: str) -> None:
    passes = (f"add_cache(storage={kind})", f"select_kv(method={method},k=8,blocks=[1])")
    module, _ = apply_passes(module_of("rope"), passes)
    (chosen,) = [n for n in module.functions["decode"].nodes() if n.op.name == "attention"][1:]
    for value in chosen.inputs[1:3]:
        assert value.node.op.name in ("cast", "widened")
        assert all(v.node.op.name == "take" for v in value.node.inputs)
    assert ts.loads(ts.source(module)) == module
    made = compiled(module_of("rope"), "torch", "onnx", passes=passes)[1:]
    found = [[c.tokens for c in ts.generate(a, [[1, 2, 3], [7]], max_tokens=10, capacity=16)] for a in made]
    assert found[0] == found[1]


def test_a_full_cache_is_refused() -> None:
    for kind in LOST:
        run = compiled(module_of("rope"), "onnx", passes=(f"add_cache(storage={kind})",))[1].session(sizes={"C": 4})
        run.prefill(ids=np.array([[1, 2, 3, 4]]), lengths=np.array([4]))
        with pytest.raises(Diagnostic, match="the cache is full") as caught:
            run.decode(ids=np.array([[1]]), lengths=np.array([1]))
        assert caught.value.code == "E0906"


@pytest.mark.extended
@pytest.mark.parametrize("kind", LOST)
@pytest.mark.parametrize("method", ["snap_kv, window=2", "heavy_keys"])
def test_tokens_leave_narrow_caches(method: str, kind: str) -> None:
    """Where all may stay they are read as they are; where not, both targets keep the same."""
    prompts = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [7]]
    found = []
    for budget in (8, 32):
        passes = (f"add_cache(storage={kind})", f"select_kv(method={method}, k={budget})")
        made = compiled(module_of("rope"), "torch", "onnx", passes=passes)[1:]
        found.append([[c.tokens for c in ts.generate(a, prompts, max_tokens=10, capacity=32)] for a in made])
        assert found[-1][0] == found[-1][1]
        assert ts.loads(ts.source(made[0].module)) == made[0].module
    whole = compiled(module_of("rope"), "torch", passes=(f"add_cache(storage={kind})",))[1]
    assert found[1][0] == [c.tokens for c in ts.generate(whole, prompts, max_tokens=10, capacity=32)]


def test_what_passes_change_is_not_held_against_the_model() -> None:
    module = ts.loads(ATTENDING, params={"kind": "rope"})
    for passes in (["add_cache(storage=i8)"], ["add_cache", "select_kv(method=latest_slots,k=6)"]):
        notes = ts.compile(module, passes=passes, renames=[]).report.notes
        assert any("was not tried" in note for note in notes)
