"""Where routers send tokens: the load of every expert, tokens without any, what a token costs, and what a capacity would drop.

rows = mixtures(module.graph)                   # what can be said without running it
module = traced(module)                         # whose outputs say which experts each token took
rows = counted(rows, [runner(arrays), …])
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from ...ir.graph import Graph, Module

Rows = Sequence[dict[str, Any]]

# How many even shares of the pairs of a batch an expert takes, where what is above that is dropped.
CAPACITIES = (1.0, 1.25, 2.0)
HEADS = ["router", "experts", "k", "taken", "none", "entropy", "most", "FLOPs", "of all"]
LOADS = ["router", *(f"over {c:g}x" for c in CAPACITIES), "share of each expert, in percent"]
ABOUT = (
    "Taken: experts that a token has on average, of at most k; none: tokens without any; entropy: of the loads, 100% where all are "
    "even; most: the largest load, in even shares; FLOPs: of a token, and with all experts; over: pairs above a capacity of so "
    "many even shares."
)
_TAP = "router"


def mixtures(graph: Graph) -> list[dict[str, Any]]:
    """The mixtures of a program in order: true experts, null ones that the router scores too, experts a token takes at most, and
    the FLOPs of one pair of a token and an expert, and of a token with all of them."""
    from ...passes.experts.mixtures import find_mixtures

    rows = []
    for mixture in find_mixtures(graph):
        pair = 0
        for weight in mixture.stacked.values():
            _, *shape = (int(d) for d in weight.type.shape)
            pair += 2 * math.prod(shape) if len(shape) > 1 else 0
        rows.append(
            {
                "router": mixture.name, "method": mixture.router.op.name, "experts": mixture.experts,
                "null": max(mixture.width - mixture.experts, 0), "k": mixture.k, "pair_flops": pair,
                "most_flops": pair * mixture.k, "dense_flops": pair * mixture.experts,
            }
        )  # fmt: skip
    return rows


def traced(module: Module) -> Module:
    """A copy of a program that also gives the experts of each token of each mixture, [N, k]."""
    from ...passes.experts.mixtures import find_mixtures, routes_at

    clone = module.clone()
    for number, mixture in enumerate(find_mixtures(clone.graph)):
        index = routes_at(mixture.node)
        assert index is not None
        expert = mixture.node.inputs[index]
        assert expert is not None
        clone.graph.add_output(expert, f"{_TAP}{number}", "tap")
    return clone


def experts_of(number: int, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The experts [N, k] of each token of mixture ``number`` in a run of what :func:`traced` gave."""
    return outputs[f"{_TAP}{number}"]


def counted(rows: Rows, runs: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, Any]]:
    """The rows with what the routers did in these runs; each run is a batch of its own, which a capacity is a share of."""
    return [{**row, **_counts(row, [experts_of(i, outputs) for outputs in runs])} for i, row in enumerate(rows)]


def _counts(row: Mapping[str, Any], runs: Sequence[np.ndarray]) -> dict[str, Any]:
    import numpy as np

    experts = row["experts"]
    loads = [np.bincount(run[(run >= 0) & (run < experts)], minlength=experts) for run in runs]
    load = np.sum(loads, axis=0)
    tokens, pairs = sum(len(run) for run in runs), int(load.sum())
    share = load[load > 0] / max(pairs, 1)
    entropy = float(-(share * np.log(share)).sum() / math.log(experts)) if experts > 1 and pairs else float(pairs > 0)
    dropped = {
        f"{capacity:g}": sum(
            int(np.maximum(one - math.ceil(capacity * one.sum() / experts), 0).sum()) for one in loads
        ) / max(pairs, 1)
        for capacity in CAPACITIES
    }  # fmt: skip
    return {
        "tokens": tokens,
        "load": load.tolist(),
        "taken": pairs / max(tokens, 1),
        "none": sum(int((run >= experts).all(1).sum()) for run in runs) / max(tokens, 1),
        "entropy": entropy,
        "most": float(load.max() * experts / max(pairs, 1)),
        "flops": row["pair_flops"] * pairs / max(tokens, 1),
        "dropped": dropped,
    }


# In words --------------------------------------------------------------------------------------------------------------


def cells(rows: Rows) -> list[list[str]]:
    """The rows of a table under ``HEADS``; of what did not run only what is known without: FLOPs at most."""
    from ...ir.analysis.table import human

    found = []
    for row in rows:
        experts = f"{row['experts']} + {row['null']} null" if row["null"] else str(row["experts"])
        seen, flops = ["", "", "", ""], row["most_flops"]
        if "load" in row:
            seen = [f"{row['taken']:.2f}", f"{row['none']:.1%}", f"{row['entropy']:.1%}", f"{row['most']:.2f}"]
            flops = round(row["flops"])
        found.append([row["router"], experts, str(row["k"]), *seen, human(flops), human(row["dense_flops"])])
    return found


def load_rows(rows: Rows) -> list[list[str]]:
    """The rows of a table under ``LOADS``: what a capacity would drop, and the loads in percent of the pairs."""
    found = []
    for row in rows:
        shares = "  ".join(f"{100 * load / max(sum(row['load']), 1):.1f}" for load in row["load"])
        found.append([row["router"], *(f"{row['dropped'][f'{c:g}']:.1%}" for c in CAPACITIES), shares])
    return found
