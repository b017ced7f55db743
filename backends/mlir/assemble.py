"""The function around the lines: arguments, symbols, results, resources."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...ir.dims.dim import Dim
from ...ir.dims.monomials import DimCall
from ...ir.graph import Graph, Value
from ..lower import Plan, claimed_by
from .claims import CLAIMS, UNLESS
from .emit import Emitter, Tensor, quoted, tensor_text
from .literals import literal
from .table import LOWERINGS, unsupported


def plan() -> Plan:
    """What of a program is lowered, and what is refused."""
    return Plan(claimed_by(CLAIMS, UNLESS), unsupported)


def assemble(graph: Graph, weights: Mapping[str, Any] | None, inline: bool, metadata: Mapping[str, str]) -> str:
    """See :func:`tessera.backends.mlir.build`."""
    import numpy as np

    decided = plan()
    problem = decided.refused(graph)
    if problem is not None:
        raise problem
    emitter = Emitter(graph, decided, LOWERINGS, CLAIMS)
    env: dict[Value, Tensor] = {}
    arguments: list[Tensor] = []
    taken: set[str] = set()
    for value in graph.inputs:
        env[value] = Tensor(_name(value.public, taken), value.type)
        arguments.append(env[value])
    if inline and graph.params and weights is None:
        raise ValueError("mode `inline` needs the weights")
    for full_name, param in graph.params.items():
        if inline:
            assert weights is not None
            array = np.asarray(weights[full_name]).astype(param.type.dtype.numpy, copy=False)
            env[param] = literal(emitter, array, param.type)
        else:
            env[param] = Tensor(_name(full_name, taken), param.type)
            arguments.append(env[param])
    _bind_symbols(emitter, graph, env)
    emitter.define_sizes(graph, {v.name: env[v] for v in graph.inputs})
    emitter.walk(graph, env)
    results = [env[v] for v in graph.outputs]
    head = [f"// {key}: {line}" for key, text in metadata.items() for line in text.splitlines()]
    taken_text = ", ".join(f"{a.name}: {tensor_text(a.type)}" for a in arguments)
    types = ", ".join(tensor_text(r.type) for r in results)
    body = [*emitter.lines, f"return {', '.join(r.name for r in results)} : {types}"]
    lines = [
        *head,
        "module {",
        f"  func.func @main({taken_text}) -> ({types}) {{",
        *(f"    {line}" for line in body),
        "  }",
        "}",
    ]
    if emitter.resources:
        blobs = ",\n".join(f'      {name}: "{blob}"' for name, blob in emitter.resources.items())
        lines += ["{-#", "  dialect_resources: {", "    builtin: {", blobs, "    }", "  }", "#-}"]
    return "\n".join(lines) + "\n"


def _name(text: str, taken: set[str]) -> str:
    """A name that MLIR takes: ``%encoder.layer.0.weight`` is one."""
    base = re.sub(r"[^\w.$-]", "_", text, flags=re.ASCII) or "_"
    if base[0].isdigit():
        base = f"_{base}"
    name, n = base, 0
    while name in taken:
        n += 1
        name = f"{base}_{n}"
    taken.add(name)
    return f"%{name}"


def _bind_symbols(emitter: Emitter, graph: Graph, env: Mapping[Value, Tensor]) -> None:
    """Say which sizes of the inputs are one, and what they are called."""
    names: dict[str, str] = {}
    for value in graph.inputs:
        used = sorted({s for d in value.type.shape for s in d.symbols})
        if not used:
            continue
        for symbol in used:
            if symbol not in names:
                names[symbol] = emitter.fresh()
                bounds = "{min_val = 0, max_val = 9223372036854775807}"
                emitter.lines.append(f"{names[symbol]} = torch.symbolic_int {quoted(symbol)} {bounds} : !torch.int")
        places = {symbol: f"s{n}" for n, symbol in enumerate(used)}
        sizes = ", ".join(_affine(d, places) for d in value.type.shape)
        symbols = ", ".join(names[s] for s in used)
        tensor = env[value]
        emitter.lines.append(
            f"torch.bind_symbolic_shape {tensor.name}, [{symbols}], affine_map<()[{', '.join(places.values())}] -> ({sizes})>"
            f" : {tensor_text(tensor.type)}"
        )


def _affine(dim: Dim, places: Mapping[str, str]) -> str:
    terms = []
    for monomial, coefficient in dim.terms:
        factors = [str(coefficient)] if coefficient != 1 or not monomial else []
        for atom, power in monomial:
            factors += [_affine_atom(atom, places)] * power
        terms.append(" * ".join(factors))
    return " + ".join(terms) or "0"


def _affine_atom(atom: str | DimCall, places: Mapping[str, str]) -> str:
    if isinstance(atom, str):
        return places[atom]
    left, right = (_affine(a, places) for a in atom.args[:2])
    return f"(({left}) {atom.fn} ({right}))"
