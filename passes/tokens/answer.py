"""What a method asks for, as the block where it asks has it, brought to the stage of the features that it reduces."""

from __future__ import annotations

from dataclasses import replace

from ...ir.graph import Value
from ...ir.signature import Pattern
from . import stage as flow
from .follow import Follower
from .method import Method
from .wants import Asked, find_want, fitted, number_of


def answer(name: str, pattern: Pattern, asked: Asked, method: Method, follower: Follower, keys_alone: bool) -> Value:
    """The operand ``name`` of a method, in the dtype of ``pattern``.

    Args:
        keys_alone: whether it chooses keys of the attention that it asks, so that what attention makes comes from the one before.
    """
    found, stream = find_want(asked.metric if name == "metric" else name, method.op), asked.stream
    assert found is not None
    want, static = found
    if static is not None:
        number = number_of(static, method.op, dict(method.settings))
        asked = asked.of_block(number, name.removesuffix(f"_{static}"))
    elif want.made and keys_alone:
        asked = asked.before()
    assert want.make is not None
    if want.made and asked.attention is not None:
        queries = asked.attention.inputs[0]
        assert queries is not None
        asked = replace(asked, met=follower.stage(queries, stream))
    value = want.make(asked)
    if want.operand is not None and asked.attention is not None:
        whole = asked.attention.inputs[want.operand]
        assert whole is not None
        stage = follower.stage(whole, stream)
        while stage.parent is not None and stage not in stream.until(asked.stage):
            # Of keys that were left for that attention alone.
            index = flow.owner(stream, stage.parent, stage, 0, asked.builder)
            value = asked.builder.op("take", value, index, axis=want.axis, batch=1)
            stage = stage.parent
        value = follower.brought(value, want.axis, (whole, 2), stream, stage, asked.stage, asked.builder)
    return fitted(value, pattern, asked)
