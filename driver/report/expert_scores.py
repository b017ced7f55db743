"""What experts do on data, for `prune_experts` and `merge_experts`: how often each is taken, what it adds, which are alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from ...ir.graph import Module

_TAP = "expert_scores"


def scored(module: Module) -> Module:
    """A copy of a program that also gives, of each mixture, the experts of each token [N, k], the length [N, k] of what each added,
    and the logits [N, width]."""
    from ...ir.builder import Builder
    from ...passes.experts.mixtures import find_mixtures, routes_at

    clone = module.clone()
    for number, mixture in enumerate(find_mixtures(clone.graph)):
        node, at = mixture.node, routes_at(mixture.node)
        assert at is not None
        builder = Builder(clone.graph).before(node.next)
        lengths = []
        for slot in range(mixture.k):
            inputs = list(node.inputs)
            inputs[at : at + 2] = [
                builder.op("slice", v, axis=1, start=slot, stop=slot + 1) for v in inputs[at : at + 2]
            ]
            alone = builder.emit(node.op, inputs, dict(node.attrs))[0]
            square = builder.op("sum", builder.op("mul", alone, alone), axis=(1,), keepdims=True)
            lengths.append(builder.op("sqrt", square))
        whole = lengths[0] if len(lengths) == 1 else builder.op("concat", *lengths, axis=1)
        values = {"expert": node.inputs[at], "length": whole, "logits": mixture.router.inputs[0]}
        for name, value in values.items():
            assert value is not None
            clone.graph.add_output(value, f"{_TAP}_{name}{number}", "tap")
    return clone


def expert_scores(
    module: Module, run: Callable[[Any], Mapping[str, np.ndarray]], batches: Iterable[Any]
) -> dict[str, dict[str, Any]]:
    """`load`, `saliency` and `similarity` of each mixture by its name, over batches; as JSON it is what `prune_experts` reads.

    Args:
        run: runs what :func:`scored` gave on one batch.
    """
    import numpy as np

    from ...passes.experts.mixtures import find_mixtures

    runs = [run(batch) for batch in batches]
    found = {}
    for number, mixture in enumerate(find_mixtures(module.graph)):
        expert, length, logits = (
            np.concatenate([np.asarray(one[f"{_TAP}_{name}{number}"]) for one in runs])
            for name in ("expert", "length", "logits")
        )
        taken = expert < mixture.experts
        load = np.bincount(expert[taken], minlength=mixture.experts)
        added = np.bincount(expert[taken], length[taken], minlength=mixture.experts)
        columns = logits[:, : mixture.experts] - logits[:, : mixture.experts].mean(0)
        lengths = np.maximum(np.linalg.norm(columns, axis=0), 1e-12)
        alike = columns.T @ columns / np.outer(lengths, lengths)
        found[mixture.name] = {
            "load": load.tolist(), "saliency": (added / np.maximum(load, 1)).tolist(), "similarity": alike.tolist(),
        }  # fmt: skip
    return found
