"""Sizes as exporters write them into ``dim_param``: ``batch_size``, ``past_length + 1``, ``(s0 - 1)//2``."""

from __future__ import annotations

import ast
from collections.abc import Callable

from ...ir.dims.dim import Dim, const

_LONGEST = 200


def parse_dim(text: str, symbol: Callable[[str], Dim]) -> Dim | None:
    """The expression with its names as symbols; None where it is none, and stands for itself as a name."""
    if len(text) > _LONGEST:
        return None
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not _is_sum(tree):
        return None
    try:
        return _dim(tree, symbol)
    except (ZeroDivisionError, RecursionError):
        return None


def _is_sum(tree: ast.expr) -> bool:
    """Whether it consists of names, integers and the operations of sizes."""
    return all(
        isinstance(node, (ast.BinOp, ast.Name, ast.Load, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod))
        or (isinstance(node, ast.Constant) and type(node.value) is int and node.value < 1 << 40)
        for node in ast.walk(tree)
    )


def _dim(tree: ast.expr, symbol: Callable[[str], Dim]) -> Dim:
    if isinstance(tree, ast.Name):
        return symbol(tree.id)
    if isinstance(tree, ast.Constant):
        assert isinstance(tree.value, int)
        return const(tree.value)
    assert isinstance(tree, ast.BinOp)
    left, right = _dim(tree.left, symbol), _dim(tree.right, symbol)
    if isinstance(tree.op, ast.Add):
        return left + right
    if isinstance(tree.op, ast.Sub):
        return left - right
    if isinstance(tree.op, ast.Mult):
        return left * right
    return left // right if isinstance(tree.op, ast.FloorDiv) else left % right
