"""What a pass did, for people (``str``) and for programs (``to_dict``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..ir.analysis.table import Table, human

if TYPE_CHECKING:
    from ..ir.recipe_functions import Typed
    from .engine import Pass


@dataclass
class Report:
    """What one pass did.

    Args:
        name: the pass.
        contract: ``exact`` or ``approximate``.
        modified: how many places changed; 0 means that the module is as it was.
        facts: what else there is to say, by name; JSON values.
        notes: sentences for the user.
        tables: figures that depend on the sizes of the free dimensions, as functions of these sizes.
        sizes: the sizes at which the tables are shown.
        entry: the entry point it ran on, of a program that has several.
        reads: tensors that recipes of the pass read and that were no parameter's: they come from files of their own.
    """

    name: str
    contract: str
    modified: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    tables: dict[str, Callable[[Mapping[str, int]], Table]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    entry: str = ""
    reads: dict[str, Typed] = field(default_factory=dict)

    @staticmethod
    def of(what: Pass, modified: int, **facts: Any) -> Report:
        """A report of the pass ``what``."""
        return Report(what.name, what.contract, modified, facts)

    def at(self, **sizes: int) -> Report:
        """The same report with its tables at other sizes: ``report.at(B=8, T=256)``."""
        return replace(self, sizes={**self.sizes, **sizes})

    def table(self, name: str) -> Table:
        """One table, at this report's sizes."""
        return self.tables[name](self.sizes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "pass": self.name,
            **({"entry": self.entry} if self.entry else {}),
            "contract": self.contract,
            "modified": self.modified,
            **self.facts,
            "notes": self.notes,
            **({"sizes": self.sizes} if self.tables else {}),
            **{name: self.table(name).to_dict() for name in self.tables},
        }

    def __str__(self) -> str:
        facts = "".join(f", {name.replace('_', ' ')}: {_fact(value)}" for name, value in self.facts.items())
        where = f" of {self.entry}" if self.entry else ""
        lines = [f"{self.name}{where} ({self.contract}): {self.modified} modified{facts}"]
        lines += [f"  {note}" for note in self.notes]
        for name in self.tables:
            where = ", ".join(f"{symbol} = {size}" for symbol, size in self.sizes.items())
            lines.append(f"  {name.replace('_', ' ')}{f' at {where}' if where else ''}")
            lines += [f"    {line}" for line in str(self.table(name)).split("\n")]
        return "\n".join(lines)


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{k} {_fact(v)}" for k, v in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        nested = any(isinstance(item, (list, tuple)) for item in value)
        return ("; " if nested else " ").join(map(_fact, value)) or "none"
    return human(value)
