"""The seeds' Triton column: models of published systems through the target triton, in the interpreter, beside the reference."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.runtime.weights.bind import initialise

ROOT = Path(__file__).parents[2]
DNA = {"window": 4, "dim": 16, "depth": 1, "latent_depth": 1, "heads": 2, "hidden": 24, "grouping": 8}
# Seed, model -> parameters at which the interpreter takes seconds.
CASES: dict[tuple[str, str], dict[str, Any]] = {
    ("adamoe", "adamoe_lm"): {},
    ("correlation_guided_compression", "page_reader"): {},
    ("correlation_guided_compression", "correlation_select"): {},
    ("duo_llm", "duo_lm"): {},
    ("duo_llm", "duo_routed"): {},
    ("dyspec", "judge"): {},
    ("dyspec", "grow"): {},
    ("dyspec", "tree_mask"): {},
    ("dyspec", "reader"): {},
    ("dyspec", "tree_reader"): {},
    ("expediting_vit", "expedit_segmenter"): {"size": 32, "dim": 24},
    ("global_batch_lbl", "routed_lm"): {"dim": 24, "depth": 1},
    ("hamburger", "group_reader"): {"dim": 32, "depth": 2, "taps": 2},
    ("hamburger", "micro_begin"): {"dim": 32, "taps": 2, "micro": 1},
    ("hiprune", "hiprune_tower"): {"keep": 6, "size": 56, "dim": 32, "heads": 2, "hidden": 48, "middle": 1, "deep": 2},
    ("hired", "hired_select"): {"side": 2},
    ("kl3m_tokenizers", "vectors"): {},
    ("lib_tokenizer", "vectors"): {"vocab": 40},
    ("mergedna", "reader"): DNA,
    ("mergedna", "reconstruct"): DNA,
    ("mergedna", "latent"): DNA,
    ("meta_tokens", "meta_lm"): {"dim": 24},
    ("moirai_moe", "moirai_dense"): {"dim": 16, "hidden": 16, "depth": 1, "patch": 4},
    ("moirai_moe", "moirai_moe"): {"experts": 4, "depth": 1, "dim": 16, "hidden": 16, "patch": 4},
    ("moirai_moe", "moirai_centroids"): {"steps": 3},
    ("phatgoose", "phatgoose_lm"): {"experts": 3, "dim": 16, "depth": 1},
    ("r2r", "small"): {"dim": 24},
    ("r2r", "large"): {"dim": 24, "depth": 1},
    ("r2r", "route"): {"vocab": 40, "best": 10, "blocks": 1, "width": 16, "dim": 16},
    ("setrec", "setrec"): {"uses": 16, "words": 12, "dim": 24, "hidden": 24, "depth": 1, "heads": 2, "k": 3},
    ("todre", "todre_select"): {"k": 3},
    ("token_merging_code", "code_encoder"): {"vocab": 99, "dim": 24, "depth": 1, "heads": 2, "hidden": 32},
    ("token_reduction_beyond_efficiency", "max_min"): {"k": 2},
    ("tokenflex", "tokenflex"): {"dim": 24, "heads": 2},
    ("tokenformer", "tokenformer_lm"): {"dim": 24, "depth": 1, "tokens": 12},
    ("tokenselect", "further"): {"depth": 1, "sinks": 2, "k": 4, "recent": 4},
    ("tokenselect", "paged"): {"depth": 1, "sinks": 2, "k": 4, "recent": 4, "page": 4},
    ("xar", "xar"): {"dim": 24, "depth": 1},
    ("xar", "xar_cached"): {"dim": 24, "depth": 1},
}


# What a model does not run without: weights that are computed of data.
FILLED = ("blocks.0.ffn.centroids",)


def letters() -> dict[str, np.ndarray]:
    """Two sequences of DNA, half of whose letters are left as tokens."""
    rng = np.random.default_rng(0)
    return {"bytes": rng.choice(np.frombuffer(b"ACGT", np.uint8), (2, 16)), "target": np.ones(8, np.float32)}


# What is given to models that refuse most of what is drawn.
GIVEN = {"mergedna": letters}


def weights_of(module: ts.Module) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(x.shape).astype(x.dtype) if name in FILLED else x
        for name, x in ((n, w.numpy()) for n, w in initialise(module.graph, 0).items())
    }


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "model"), CASES, ids=[f"{seed}-{model}" for seed, model in CASES])
def test_a_seed_agrees_with_the_reference(seed: str, model: str) -> None:
    module = ts.load(f"seeds/{seed}", model=model, params=CASES[seed, model])
    if seed in GIVEN:
        ours, theirs = (ts.compile(module, target=target, verify=False)(**GIVEN[seed]()) for target in ("triton", "torch"))
        for name, wanted in theirs.items():
            np.testing.assert_allclose(ours[name], wanted, atol=1e-4, rtol=1e-4)
        return
    artifact = ts.compile(module, target="triton", weights=weights_of(module) if module.graph.params.keys() & set(FILLED) else None)
    assert artifact.report.verified
    assert max(row["error"] for row in artifact.report.verified) <= 1e-4


def test_the_page_says_which_models_are_compared() -> None:
    page = (ROOT / "docs" / "triton.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `seeds/(\w+)` \| (.*) \|$", page, re.MULTILINE))
    assert rows == {seed: ", ".join(f"`{m}`" for s, m in CASES if s == seed) for seed, _ in CASES}
