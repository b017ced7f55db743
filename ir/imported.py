"""What an importer gives: a program, and the weights that its file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .graph import Module


@dataclass(frozen=True)
class Imported:
    """A model that was not written for us.

    Args:
        module: the program; its parameters have the names that the file gives them.
        weights: by these names; lazily, as views of the file where it can be mapped.
        notes: what a user should know about the import.
        counted: outputs of which only the first rows count: by name and axis, which output says how many.
    """

    module: Module
    weights: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)
    counted: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    def rows_that_count(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """What a run gave, as the model itself gives it: without the rows that do not count, and without the counts.

        Raises:
            KeyError: when a count is not among the results.
        """
        counts = {name for axes in self.counted.values() for name in axes.values()}
        found = {name: value for name, value in results.items() if name not in counts}
        for name in found.keys() & self.counted.keys():
            for axis, count in self.counted[name].items():
                found[name] = found[name][(*[slice(None)] * axis, slice(int(results[count])))]
        return found
