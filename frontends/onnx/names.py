"""Names of the file as names of the language: identifiers for inputs, outputs and sizes, dotted paths for weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ...ir.ops import OPS
from ...ir.types import DTYPES

# Words of the language that cannot be names (a test holds this to the lexer's list), and what has a meaning everywhere.
WORDS = frozenset({
    "use", "const", "record", "fn", "op", "layer", "model", "rewrite", "exact", "approximate", "compile", "param",
    "buffer", "state", "random", "tap", "require", "let", "repeat", "fold", "cond", "while", "if", "else", "return", "as", "in",
    "from", "and", "or", "not", "true", "false", "none", "inf", "nan", "static", "tokenizer", "pipeline", "mesh",
    "True", "False", "None", "weights", "pass", "target", "where", "float", "int", "num", "any", "bool", "real",
    "str", "list", "dtype", "range", "len", "scan", "stack", "einsum", "rearrange", "given", "ceildiv",
    "min", "max", *DTYPES,
})  # fmt: skip
# Names that exporters make up: `onnx::MatMul_123`, `val_12`, `123`, `/encoder/Constant_3_output_0`.
_MADE_UP = re.compile(r"(onnx::\w+?_\d+|val_\d+|_val_\d+|\d+|/.*_output_\d+|const_fold_opt__\d+|node_\w+|_inlfunc_.*|)")
_LONGEST = 200


def made_up(name: str) -> bool:
    """Whether an exporter made the name up, so that it says nothing."""
    return _MADE_UP.fullmatch(name) is not None


def identifier(name: str, default: str) -> str:
    """``name`` with what no identifier has replaced: ``input.1`` is ``input_1``."""
    text = re.sub(r"\W+", "_", name[:_LONGEST], flags=re.ASCII).strip("_") or default
    if text[0].isdigit():
        text = f"{default}_{text}"
    return f"{text}_" if text in WORDS or text in OPS else text


def outside(name: str, own: str, taken: Iterable[str] = ()) -> str | None:
    """What callers call the input or output ``own``: its name in the file, where that is another one that nothing else has."""
    return None if name in ("", own) or name in taken else name


class Names:
    """Hands out each name once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._params: set[str] = set()
        self._next: dict[str, int] = {}

    def fresh(self, name: str, default: str) -> str:
        """An identifier like ``name`` that nothing else has."""
        return self._unique(identifier(name, default), self._taken, "_")

    def each(self, names: Sequence[str], default: str) -> list[str]:
        """The same for each of ``names``; those that are identifiers come first, so that they keep their names."""
        order = sorted(range(len(names)), key=lambda i: identifier(names[i], default) != names[i])
        made = {i: self.fresh(names[i], default) for i in order}
        return [made[i] for i in range(len(names))]

    def param(self, name: str, hint: str) -> str:
        """The full name of a weight: its own, or ``hint`` where an exporter made one up."""
        text = name.removesuffix(":0").removesuffix("/ReadVariableOp")
        if made_up(text):
            text = hint or text
        text = re.sub(r"[^\w.\-]+", ".", text[:_LONGEST]).strip(".")
        text = re.sub(r"\.{2,}", ".", text) or "weight"
        return self._unique(text, self._params, "_")

    def _unique(self, name: str, taken: set[str], joint: str) -> str:
        unique = name
        while unique in taken:
            self._next[name] = n = self._next.get(name, 0) + 1
            unique = f"{name}{joint}{n}"
        taken.add(unique)
        return unique


_SCOPES = re.compile(r"'([\w.\-]*)'")


def scope_of(node: Any) -> str:
    """The dotted path of the module that a node came from, as far as its name or metadata tell."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            paths = _SCOPES.findall(entry.value[:4000])
            return _path(paths[-2]) if len(paths) > 1 else ""
    if "/" not in node.name:
        return ""
    return _path(".".join(part for part in node.name[:_LONGEST].split("/")[:-1] if part))


def _path(text: str) -> str:
    return re.sub(r"\.{2,}", ".", re.sub(r"[^\w.]+", "_", text, flags=re.ASCII)).strip(".")
