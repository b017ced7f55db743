"""The language's notation for signatures, as core ops write theirs, and for static values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import EllipsisType
from typing import Any

from .dims.dim import Dim, ceildiv, const, dim_max, dim_min, sym
from .signature import REQUIRED, Operand, Pattern, Result, Signature, Static
from .types import DTYPES

_TOKEN = re.compile(r"\s*(->|//|\.\.\.|[A-Za-z_][A-Za-z_0-9]*|\d+\.\d+|\d+|\"[^\"]*\"|[-+*%(),:=\[\]?])")


def parse_signature(text: str) -> Signature:
    """Read ``topk(x: num[...], *, k: int, axis: int = -1, largest: bool = true) -> (num[...], i64[...])``.

    ``xs: any[...]*`` is variadic. Only what core ops need: literals as defaults, sums and products as dimensions.
    """
    return _Reader(text).signature()


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _TOKEN.findall(text)
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        token = self.peek()
        if expected is not None and token != expected:
            raise ValueError(f"signature {self.text!r}: expected {expected!r}, found {token!r}")
        self.at += 1
        return token

    def accept(self, token: str) -> bool:
        if self.peek() == token:
            self.at += 1
            return True
        return False

    def signature(self) -> Signature:
        name = self.take()
        operands: list[Operand] = []
        statics: list[Static] = []
        self.take("(")
        in_statics = False
        while not self.accept(")"):
            if self.accept("*"):
                in_statics = True
            elif in_statics:
                statics.append(self.static())
            else:
                operands.append(self.operand())
            self.accept(",")
        self.take("->")
        results = list(self.results())
        return Signature(name, tuple(operands), tuple(statics), tuple(results))

    def results(self) -> Iterator[Result]:
        if not self.accept("("):
            yield Result(self.pattern())
            return
        while not self.accept(")"):
            yield Result(self.pattern())
            self.accept(",")

    def operand(self) -> Operand:
        name = self.take()
        self.take(":")
        operand = Operand(name, self.pattern())
        if self.accept("*"):
            return replace(operand, variadic=True)
        return replace(operand, optional=self.accept("?"))

    def static(self) -> Static:
        name = self.take()
        self.take(":")
        kind = self.take()
        optional = self.accept("?")
        default = self.literal() if self.accept("=") else REQUIRED
        return Static(name, kind, default, optional)

    def literal(self) -> Any:
        if self.accept("-"):
            return -self.literal()
        if self.accept("["):
            items = []
            while not self.accept("]"):
                items.append(self.literal())
                self.accept(",")
            return tuple(items)
        token = self.take()
        words: dict[str, Any] = {"true": True, "false": False, "none": None}
        if token in words:
            return words[token]
        if token in DTYPES:
            return DTYPES[token]
        if token.startswith('"'):
            return token[1:-1]
        return float(token) if "." in token else int(token)

    def pattern(self) -> Pattern:
        name = self.take()
        dims: list[Dim | EllipsisType] = []
        self.take("[")
        while not self.accept("]"):
            dims.append(... if self.accept("...") else self.dim())
            self.accept(",")
        return Pattern(DTYPES.get(name, name), tuple(dims))

    def dim(self) -> Dim:
        total = self.term()
        while self.peek() in ("+", "-"):
            total = total + self.term() if self.take() == "+" else total - self.term()
        return total

    def term(self) -> Dim:
        value = self.atom()
        while self.peek() in ("*", "//", "%"):
            op = self.take()
            right = self.atom()
            value = value * right if op == "*" else value // right if op == "//" else value % right
        return value

    def atom(self) -> Dim:
        if self.accept("("):
            value = self.dim()
            self.take(")")
            return value
        token = self.take()
        if token.isdigit():
            return const(int(token))
        functions: dict[str, Callable[..., Dim]] = {"min": dim_min, "max": dim_max, "ceildiv": ceildiv}
        if token in functions:
            self.take("(")
            args = []
            while not self.accept(")"):
                args.append(self.dim())
                self.accept(",")
            return functions[token](*args)
        return sym(token)


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def quote(text: str) -> str:
    """``text`` as a string literal."""
    return '"' + "".join(map(_escape, text)) + '"'


def _escape(char: str) -> str:
    known = _ESCAPES.get(char)
    if known is not None:
        return known
    code = ord(char)
    return f"\\u{code:04x}" if code < 0x20 or code == 0x7F or 0xD800 <= code <= 0xDFFF else char


def show_value(value: Any) -> str:
    """A static value as it is written in source."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(show_value, value))}]"
    return quote(value) if isinstance(value, str) else str(value)


def show_signature(signature: Signature) -> str:
    """A signature as it is declared; a default that is computed from other parameters is ``…``."""
    operands = [f"{o.name}: {o.type}{'*' if o.variadic else ''}{'?' if o.optional else ''}" for o in signature.operands]
    statics = [_show_static(s) for s in signature.statics]
    arguments = ", ".join([*operands, "*", *statics] if statics else operands)
    results = ", ".join(f"{r.name}: {r.type}" if r.name else str(r.type) for r in signature.results)
    return f"{signature.name}({arguments}) -> {f'({results})' if len(signature.results) != 1 else results}"


def _show_static(static: Static) -> str:
    text = f"{static.name}: {static.kind}{'?' if static.optional else ''}"
    if static.default is REQUIRED:
        return text
    return f"{text} = {'…' if callable(static.default) else show_value(static.default)}"
