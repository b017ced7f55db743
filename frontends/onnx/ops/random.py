"""Random numbers are inputs with a distribution: the runtime fills them from a seed."""

from __future__ import annotations

from ....ir.dims.dim import as_dim
from ....ir.graph import Initializer, Value
from ....ir.types import TensorType
from ..call import Call
from ..registry import imports
from ..tensors import dtype_of


@imports("RandomUniformLike", "RandomUniform", "RandomNormalLike", "RandomNormal")
def random(c: Call) -> Value:
    if c.region.parent is not None:
        c.refuse("randomness within a loop")
    like = c.op_type.endswith("Like")
    number = c.attr("dtype", 0)
    dtype = dtype_of(number, c.where) if number else c.type().dtype if like else dtype_of(1, c.where)
    shape = c.shape() if like else tuple(as_dim(n) for n in c.attr("shape") or ())
    if "Uniform" in c.op_type:
        init = Initializer("uniform", (c.attr("low", 0.0), c.attr("high", 1.0)))
    else:
        init = Initializer("normal", (c.attr("mean", 0.0), c.attr("scale", 1.0)))
    name = c.importer.names.fresh("noise", "noise")
    noise: Value = c.region.builder.input(name, TensorType(dtype, shape), role="random", init=init)
    return noise
