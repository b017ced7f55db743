"""What is in a program or an artifact, as plain data: interface, weights, cost by block, how it was made.

>>> explain_module(module)["parameters"]["elements"]                             # doctest: +SKIP
22050664
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic

if TYPE_CHECKING:
    from ...backends.target import Target
    from ...ir.graph import Graph, Module

_LARGEST = 5
# What the file says to programs; people get the same from the source that it carries.
_FOR_PROGRAMS = frozenset(
    f"tessera.{key}" for key in ("source", "passes", "inputs", "outputs", "lets", "requires", "selects")
)


def explain_program(program: Module, sizes: Mapping[str, int] | None = None) -> dict[str, Any]:
    """A program of several entry points: each as :func:`explain_module` has it, what they share, host stages and flows.

    Raises:
        Diagnostic: E0011 for a size of a dimension that no entry point has.
    """
    given = sizes or {}
    symbols = {name: set(graph.symbols()) for name, graph in program.functions.items()}
    for name in given:
        if not any(name in found for found in symbols.values()):
            known = ", ".join(sorted(set().union(*symbols.values()))) or "none"
            raise Diagnostic("E0011", f"`{program.name}` has no free dimension `{name}`", help=f"it has {known}")
    spec = program.compile
    entries = {
        name: explain_module(program.only(name), {s: size for s, size in given.items() if s in symbols[name]})
        for name in program.functions
    }
    return {
        "model": program.name,
        "doc": program.doc,
        "entries": {name: {**facts, "compile": None} for name, facts in entries.items()},
        "parameters": _parameters(program.everything()),
        "stages": [{"name": s.name, "type": f"{s.kind} {s.reference}"} for s in program.stages.values()],
        "flows": [
            {"name": f.name, "type": " -> ".join(step.callee for step in f.calls())} for f in program.flows.values()
        ],
        "compile": entries[next(iter(entries))]["compile"] if spec is not None else None,
    }


def explain_module(
    module: Module, sizes: Mapping[str, int] | None = None, target: Target | None = None
) -> dict[str, Any]:
    """A program: inputs, outputs, weights, routers, ops, cost.

    Args:
        sizes: of the free dimensions, for the cost; what is not given is chosen.
        target: on which it is costed; without one, that of its ``compile`` block.

    Raises:
        Diagnostic: E0011 for a size of a dimension that the model does not have.
    """
    from ...ir.analysis.cost import cost
    from ..targets import costed_by
    from .routers import mixtures

    graph, target = module.graph, target or costed_by(module)
    chosen = sizes_for(module, sizes or {})
    table = cost(graph, target.stores_map).table(chosen)
    spec = module.compile
    return {
        "model": module.name,
        "doc": module.doc,
        "inputs": [_row(v.public, v.type) for v in graph.inputs if v.role == "input"],
        "states": [_row(v.public, v.type) for v in graph.inputs if v.role == "state"],
        "random": [_row(v.public, v.type) for v in graph.inputs if v.role == "random"],
        "outputs": _outputs(graph, "output"),
        "taps": _outputs(graph, "tap"),
        "dimensions": _dimensions(graph, chosen),
        "requires": [f"{r.left} {r.op} {r.right}: {r.message}" for r in graph.requires],
        "parameters": _parameters(graph),
        "routers": mixtures(graph),
        "ops": dict(Counter(node.op.qualified for node in graph.nodes()).most_common()),
        "sizes": chosen,
        "cost": table.to_dict(),
        "costed_on": target.name,
        "compile": None
        if spec is None
        else {
            "weights": spec.weights,
            "renames": dict(spec.renames),
            "passes": [f"{p.name}({', '.join(f'{k}={_text(v)}' for k, v in p.options.items())})" for p in spec.passes],
            "target": spec.target,
            "options": spec.target_options,
        },
    }


def sizes_for(module: Module, given: Mapping[str, int]) -> dict[str, int]:
    """A size for every free dimension. Raises E0011 for one that the program does not have."""
    from ...ir.analysis.sizes import default_sizes

    chosen = default_sizes(module.graph)
    for name in given:
        if name not in chosen:
            raise Diagnostic(
                "E0011", f"`{module.name}` has no free dimension `{name}`", help=f"it has {', '.join(chosen) or 'none'}"
            )
    return {**chosen, **given}


def explain_artifact(path: str | os.PathLike[str], sizes: Mapping[str, int] | None = None) -> dict[str, Any] | None:
    """An artifact: as :func:`explain_module` where it carries its source, and the file's own facts. None: it says nothing of
    itself, and is explained as a model.

    Raises:
        Diagnostic: E0001, E0014 for a file that is no artifact.
    """
    from ..targets import READERS, artifact_target

    file = Path(path)
    target = artifact_target(file)
    facts = target.facts(file)
    if facts is None:
        return None
    metadata = facts["metadata"]
    program: dict[str, Any] = {}
    if "tessera.source" in metadata:
        program = explain_module(READERS.source(metadata["tessera.source"], f"{file.name}:source"), sizes, target)
        del program["compile"]
    passes = _json(metadata.get("tessera.passes", "[]"))
    shown = {k: v for k, v in metadata.items() if k not in _FOR_PROGRAMS}
    return {"file": str(file), **facts, **program, "passes": passes, "metadata": shown}


def _row(name: str, type: object) -> dict[str, str]:
    return {"name": name, "type": str(type)}


def _dimensions(graph: Graph, chosen: Mapping[str, int]) -> list[dict[str, str]]:
    """What each symbol of the program's types is: a size of an input, or the name of another dimension."""
    rows = []
    for name in chosen:
        at = next(((v, i) for v in graph.inputs for i, d in enumerate(v.type.shape) if str(d) == name), None)
        where = f"the size of axis {at[1]} of `{at[0].public}`" if at else "a size that the inputs tell together"
        rows.append({"name": name, "type": f"{where}; {chosen[name]} for the cost"})
    return rows + [{"name": name, "type": f"= {dim}"} for name, dim in graph.lets.items()]


def _outputs(graph: Graph, role: str) -> list[dict[str, str]]:
    pairs = zip(graph.outputs, graph.output_info, strict=True)
    return [_row(info.public, value.type) for value, info in pairs if info.role == role]


def _parameters(graph: Graph) -> dict[str, Any]:
    sizes = {p.full_name: (int(p.type.numel), p) for p in graph.params.values() if p.type.numel.value is not None}
    largest = sorted(sizes.values(), key=lambda row: -row[0])[:_LARGEST]
    return {
        "tensors": len(graph.params),
        "elements": sum(n for n, _ in sizes.values()),
        "bytes": sum(n * p.type.dtype.size for n, p in sizes.values()),
        "largest": [_row(p.full_name, p.type) for _, p in largest],
    }


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return []


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    return f"[{', '.join(map(_text, value))}]" if isinstance(value, (tuple, list)) else str(value)
