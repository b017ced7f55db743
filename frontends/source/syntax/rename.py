"""Syntax trees with other identifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from . import ast


def renamed(node: Any, names: Mapping[str, str]) -> Any:
    """A tree in which names and names of types that ``names`` holds are others; places are those of the given tree."""
    if isinstance(node, (list, tuple)):
        return type(node)(renamed(item, names) for item in node)
    if not isinstance(node, ast.Node):
        return node
    slots = {f.name: renamed(getattr(node, f.name), names) for f in fields(node) if "span" not in f.name}
    if isinstance(node, ast.Name):
        slots["id"] = names.get(node.id, node.id)
    elif isinstance(node, ast.TypeExpr):
        slots["name"] = names.get(node.name, node.name)
    return replace(node, **slots)
