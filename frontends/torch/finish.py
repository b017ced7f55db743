"""What importers do before and behind the walk: names, small constants, and what nobody reads."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from typing import Any

from ...ir.graph import Graph
from ...ir.naming import unique

# Constants of at most so many numbers are written into the source; larger ones are buffers.
INLINE = 16

# Files of PyTorch itself, whose lines tell a user nothing.
TORCH_FILE = re.compile(r"[/\\]torch[/\\](nn|_|fx|export|utils)")


def identifier(text: str) -> str:
    """A name that the language takes, and that hides nothing."""
    from ..source.elaborate.builtin import BUILTIN
    from ..source.syntax.lexer import RESERVED

    name = re.sub(r"\W", "_", text, flags=re.ASCII).strip("_") or "x"
    if name[0].isdigit():
        name = f"x{name}"
    return f"{name}_" if name in RESERVED or name in BUILTIN or keyword.iskeyword(name) else name


def outside(text: str, own: str, taken: Iterable[str] = ()) -> str | None:
    """What callers call the input or output ``own``: its name in the model, where that is another one that nothing else has."""
    return None if text in ("", own) or text in taken else text


def input_names(names: Iterable[str]) -> list[str]:
    """Names of inputs, unique and valid."""
    taken: set[str] = set()
    return [unique(identifier(text), taken) for text in names]


def output_names(spec: Any, leaves: list[Any]) -> list[str]:
    """What each leaf of what a model returns is called: by the keys of a ModelOutput or a dictionary, ``output_0`` of a tuple,
    ``output`` of a tensor."""
    from torch.utils import _pytree

    try:
        names = list(_paths(_pytree.tree_unflatten(list(leaves), spec), ()))
    except (TypeError, ValueError, KeyError):
        names = []  # a class that cannot be made from these leaves
    if len(names) != len(leaves):
        names = [(str(n),) for n in range(len(leaves))] if len(leaves) > 1 else [()]
    return ["_".join(path if path and not path[0].isdigit() else ("output", *path)) for path in names]


def _paths(value: Any, path: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    if isinstance(value, Mapping):
        rows: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        rows = zip(value._fields, value, strict=True)
    elif isinstance(value, (list, tuple)):
        rows = enumerate(value)
    elif is_dataclass(value):
        rows = ((f.name, getattr(value, f.name)) for f in fields(value))
    else:
        yield path
        return
    for key, inner in rows:
        yield from _paths(inner, (*path, str(key)))


def lift_inline(tensor: Any) -> Any:
    """A small tensor as nested tuples of numbers, for a ``constant``; None for a large one."""
    if tensor.numel() > INLINE or not tensor.numel() or tensor.is_complex():
        return None
    return _tuples(tensor.tolist())


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def prune(graph: Graph, weights: MutableMapping[str, Any]) -> list[str]:
    """Remove nodes and weights that no output depends on; returns what to tell about it."""
    for node in graph.reversed_nodes():
        if not any(v.uses for v in node.outputs):
            graph.remove(node)
    unused = [name for name, param in graph.params.items() if not param.uses]
    for name in unused:
        del graph.params[name]
        weights.pop(name, None)
    idle = [v.name for v in graph.inputs if not v.uses]
    return [f"no output depends on the input `{name}`" for name in idle]
