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
    """

    module: Module
    weights: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)
