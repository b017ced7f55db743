"""Blocks that are written as one `repeat` again."""

from __future__ import annotations

import pytest

from tessera.frontends import source
from tessera.frontends.source.format.printer import print_rolled


@pytest.mark.parametrize(("first", "second", "rolls"), [("0", "1", True), ("1", "2", False), ("0", "900000000000", False)])
def test_only_blocks_that_count_from_zero_are_rolled(first: str, second: str, rolls: bool) -> None:
    program = source.loads(f"""
model m(x: f32[4]) -> f32[4] {{
    param a: f32[4] = zeros as "blocks.{first}.w"
    param b: f32[4] = zeros as "blocks.{second}.w"
    y = x + a
    return y + b
}}
""")
    text = print_rolled(program)
    assert ("repeat" in text) == rolls
    assert list(source.loads(text).graph.params) == list(program.graph.params)


def test_the_variable_of_a_rolled_block_has_a_name_of_its_own() -> None:
    """However many of the usual ones are taken."""
    taken = ["i", "j", "k", "step", "block_number", "i1"]
    inputs = ", ".join(f"{name}: f32[4]" for name in taken)
    program = source.loads(f"""
model m(x: f32[4], {inputs}) -> f32[4] {{
    param a: f32[4] = zeros as "blocks.0.w"
    param b: f32[4] = zeros as "blocks.1.w"
    y = x + a
    z = y + b
    return z + {" + ".join(taken)}
}}
""")
    text = print_rolled(program)
    assert "repeat i2 in 2 as blocks" in text
    assert source.loads(text).difference(program) is None
