"""LALR tables: made from ``tess.lark`` by lark once, kept as JSON, linked for the driver in ``parser.py``.

lark itself is imported only when there are no tables for this grammar yet: importing it costs more than reading them,
and its own driver several times as much per token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .builder import METHODS
from .store import digest, load_json, save_json

STARTS = ("file", "expr", "type", "clause")
GRAMMAR = Path(__file__).with_name("tess.lark")

# What a row holds for a symbol: the next row, or the rule to reduce by.
Rule = tuple[int, str, "Callable[..., Any] | None"]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tables:
    """``literals`` maps the text of every keyword and sign to its terminal. A row maps a symbol to a row (shift) or to
    a rule ``(length, symbol, method)`` (reduce)."""

    literals: dict[str, str]
    start: dict[str, Row]
    end: dict[str, Row]


@cache
def tables() -> Tables:
    """The tables of this grammar, from the cache or built (and cached) now."""
    name = "grammar-" + digest(GRAMMAR.read_bytes(), Path(__file__).read_bytes())
    try:
        return _link(load_json(name))
    except (TypeError, KeyError, IndexError, ValueError):
        data = build()
        save_json(name, data)
        return _link(data)


def build() -> dict[str, Any]:
    """Have lark make the tables; plain data, ready for JSON."""
    from lark import Lark
    from lark.grammar import Rule as LarkRule
    from lark.lexer import TerminalDef

    # No tokens are dropped and no placeholders made: the methods get exactly the symbols of their alternative.
    lark = Lark(
        GRAMMAR.read_text(encoding="utf-8"),
        parser="lalr",
        start=list(STARTS),
        keep_all_tokens=True,
        maybe_placeholders=False,
    )
    data, memo = lark.memo_serialize([TerminalDef, LarkRule])
    table = data["parser"]["parser"]
    symbols = table["tokens"]
    rules: list[list[Any]] = []
    numbers: dict[int, int] = {}
    literals: dict[str, str] = {}
    for key, entry in memo.items():
        if entry["__type__"] == "Rule":
            numbers[int(key)] = len(rules)
            rules.append([len(entry["expansion"]), entry["origin"]["name"], entry["alias"] or entry["origin"]["name"]])
        elif entry["pattern"]["__type__"] == "PatternStr":
            literals[entry["pattern"]["value"]] = entry["name"]
    states = [
        {symbols[s]: (goal if kind == 0 else ~numbers[goal["@"]]) for s, (kind, goal) in table["states"][n].items()}
        for n in sorted(table["states"])
    ]
    return {
        "literals": literals,
        "rules": rules,
        "states": states,
        "start": table["start_states"],
        "end": table["end_states"],
    }


def _link(data: dict[str, Any]) -> Tables:
    """Replace numbers by the rows and rules they stand for, and names of methods by the methods."""
    rules: list[Rule] = []
    for length, symbol, name in data["rules"]:
        method = METHODS.get(name)
        if method is None and length != 1:
            raise KeyError(name)
        rules.append((length, symbol, method))
    rows: list[Row] = [{} for _ in data["states"]]
    for row, state in zip(rows, data["states"], strict=True):
        for symbol, goal in state.items():
            row[symbol] = rows[goal] if goal >= 0 else rules[~goal]
    return Tables(
        literals=dict(data["literals"]),
        start={name: rows[data["start"][name]] for name in STARTS},
        end={name: rows[data["end"][name]] for name in STARTS},
    )
