"""The parts of torch-dialect text that are read as text: types, numbers, sizes, places."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from ...ir.diagnostics import Diagnostic, Span
from ...ir.dims.dim import Dim, as_dim, ceildiv, sym
from ...ir.types import DTYPES, DType, i32, i64
from .finish import TORCH_FILE

_TYPE = re.compile(r"!torch\.vtensor<\[([^\]]*)\],\s*(\w+)>")
_ELEMENTS = {dtype.mlir: dtype for dtype in DTYPES.values()} | {"i64": i64, "i32": i32}

# A size of more bits, or an expression of more terms and factors, is none.
_LARGEST = 1 << 62
_HEAVIEST = 400


def first_error(text: str) -> str:
    """What MLIR's parser says first, with its place: ``line 5, column 7: unbalanced '<' character``."""
    lines = [line.removeprefix("error: ") for line in text.splitlines() if line.startswith("error: ")]
    return re.sub(r'^"-":(\d+):(\d+): ', r"line \1, column \2: ", lines[0] if lines else text.strip())[:600]


def check_size(dim: Dim) -> Dim:
    """The dimension, if a tensor can have it. Raises Diagnostic E0784."""
    if dim.weight > _HEAVIEST or any(abs(c) > _LARGEST for _, c in dim.terms):
        raise Diagnostic("E0784", "the program has a size that no tensor has")
    return dim


def scalar(text: str) -> int | float | bool:
    """``5 : i64``, ``true`` or ``1.0e+00 : f32``."""
    word, _, kind = (part.strip() for part in text.partition(":"))
    if word in ("true", "false"):
        return word == "true"
    if word.startswith("0x"):  # infinities and NaN are written by their bits
        bits = int(word, 16)
        if kind == "bf16":
            kind, bits = "f32", bits << 16
        code, size = {"f16": ("<e", 2), "f32": ("<f", 4), "f64": ("<d", 8)}[kind]
        return float(struct.unpack(code, bits.to_bytes(size, "little"))[0])
    return float(word) if "." in word or "e" in word else int(word)


def numbers(text: str) -> list[int | float | bool]:
    """The numbers of ``dense<[[1.0, 2.0], [0xFF80, 4.0]]> : tensor<2x2xbf16>``, in order."""
    inner, _, type = text.removeprefix("dense<").rpartition(":")
    kind = re.split(r"[x<>]", type.strip())[-2]
    return [scalar(f"{word} : {kind}") for word in re.findall(r"[^\s\[\],>]+", inner)]


def tensor_type(text: str) -> tuple[DType, list[int | None]] | None:
    """``!torch.vtensor<[?,3],f32>`` as dtype and sizes; None for other types."""
    found = _TYPE.fullmatch(text)
    if found is None or found.group(2) not in _ELEMENTS:
        return None
    sizes = [None if s.strip() == "?" else int(s) for s in found.group(1).split(",") if s.strip()]
    return _ELEMENTS[found.group(2)], sizes


def affine(text: str, names: list[str]) -> list[Dim]:
    """The results of ``affine_map<()[s0] -> (s0 * 15, 4)>`` with the symbols' names."""
    results = text[text.index("->") + 2 :].strip().rstrip(">").strip()[1:-1]
    parts, depth, start = [], 0, 0
    for at, char in enumerate(results):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(results[start:at])
            start = at + 1
    parts.append(results[start:])
    return [_Affine(part, names).sum() for part in parts if part.strip()]


class _Affine:
    """Reads one affine expression: ``+ - * floordiv ceildiv mod``, parentheses, symbols s0 …, integers."""

    def __init__(self, text: str, names: list[str]) -> None:
        self.words: Iterator[str] = iter([*re.findall(r"[()+*-]|\w+", text), ""])
        self.names = names
        self.word = next(self.words)

    def take(self) -> str:
        word, self.word = self.word, next(self.words, "")
        return word

    def sum(self) -> Dim:
        value = self.product()
        while self.word in ("+", "-"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        return value

    def product(self) -> Dim:
        value = self.atom()
        while self.word in ("*", "floordiv", "ceildiv", "mod"):
            op, other = self.take(), self.atom()
            value = {
                "*": lambda a, b: a * b,
                "floordiv": lambda a, b: a // b,
                "ceildiv": ceildiv,
                "mod": lambda a, b: a % b,
            }[op](value, other)
        return value

    def atom(self) -> Dim:
        word = self.take()
        if word == "-":
            return -self.atom()
        if word == "(":
            value = self.sum()
            self.take()
            return value
        if word.isdigit():
            return as_dim(int(word))
        return sym(self.names[int(word[1:])])


def span_of(location: str) -> Span | None:
    """The innermost place of the user's own in ``loc("model.py":12:3)``, which may be a chain of callers."""
    places = [p for p in re.findall(r'"([^"]+)":(\d+):(\d+)', location) if p[0] != "-"]
    own = [p for p in places if not TORCH_FILE.search(p[0])] or places
    if not own:
        return None
    file, line, column = own[0][0], int(own[0][1]), max(int(own[0][2]), 1)
    return Span(file, line, column, line, column + 1)
