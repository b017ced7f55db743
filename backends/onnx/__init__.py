"""ONNX: a module becomes an ``onnx_ir.Model``, and that a file.

    model = build(module, weights, opset=24)
    save(model, "vit.onnx")

The table of lowerings is in the files beside this one, by the families of :mod:`tessera.ir.ops`; ``claims.py`` and
``attention.py`` hold the composites that ONNX has an op for. A composite without one is lowered through its body.

What ONNX Runtime's CPU provider executes of the artifacts, which are valid ONNX in every dtype:

    f32   everything
    f16   everything; most ops are computed in f32 between casts that ONNX Runtime inserts, and which cost time
    bf16  nothing: the artifact is for other providers (CUDA has these kernels)
    f64   everything but ``erf`` and ``conv``
    ints  everything; what has no kernel for a dtype is computed in a wider one
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ox

    from ...ir.graph import Graph, Module

DEFAULT_OPSET = 24


def build(
    module: Module,
    weights: Mapping[str, Any] | None = None,
    *,
    opset: int = DEFAULT_OPSET,
    metadata: Mapping[str, str] | None = None,
    claims: bool = True,
    contrib: bool = False,
    bits: int | None = None,
    cached: bool = False,
    seed: int = 0,
) -> ox.Model:
    """The ONNX model of a module. No weight is read before it is saved.

    Args:
        weights: full name -> array (see :func:`tessera.runtime.weights.bind`); None fills them from their initialisers.
        opset: 18 to 24. What an opset has no op for is lowered through its body.
        metadata: further ``metadata_props``.
        claims: whether composites may become one ONNX op (off: every body is lowered, for comparison).
        contrib: mixtures of experts as ONNX Runtime's own op, `com.microsoft.MoE`.
        bits: of their matrices, 8 or 4, rounded: `com.microsoft.QMoE`.
        cached: attention over a cache as ONNX Runtime's own op, `com.microsoft.GroupQueryAttention`.
        seed: for the initialisers.

    Raises:
        Diagnostic: E0606 E0607 weights, E0801 opset, E0802 a dtype that an ONNX op does not take, E0803 a size that no input's
            shape determines, E0811 a mixture that the op asked for does not compute; with the source line.
    """
    from ...runtime.weights.bind import Bound, bind, initialise
    from .assemble import build_model

    if weights is None:
        bound = initialise(module.graph, seed)
    else:
        bound = weights if isinstance(weights, Bound) else bind(module.graph, weights, recipes=module.recipes)
    return build_model(
        module, bound, opset=opset, claims=claims, contrib=contrib, bits=bits, cached=cached, metadata=metadata or {}
    )


def save(
    model: ox.Model,
    path: str | PathLike[str],
    *,
    external: bool | None = None,
    before: Callable[[Path], None] | None = None,
) -> Path:
    """Check and write a model: aside first, then renamed, so that a failure leaves nothing behind and an earlier file as it was.

    Args:
        external: whether the weights go to ``<path>.data`` beside it; None: when they exceed 1.5 GiB.
        before: called with the finished file before it is renamed; what it raises stops the writing.

    Raises:
        Diagnostic: E0010 when it cannot be written, E0804 when it is too large for one file, E0805 when onnx.checker refuses
            it, which would be a bug in Tessera.
    """
    from .write import save_model

    return save_model(model, path, external=external, before=before)


def serialize(model: ox.Model) -> bytes:
    """The artifact as bytes, for a session without a file. Raises E0804 above 2 GiB."""
    from .write import serialize_model

    return serialize_model(model)


def check(model: ox.Model) -> None:
    """Full ``onnx.checker`` without reading the weights. Raises E0805, which would be a bug in Tessera."""
    from .write import check_model

    check_model(model)


def runnable(graph: Graph) -> bool:
    """Whether ONNX Runtime's CPU provider executes the artifact of ``graph``: see the table above.

    bf16 anywhere, or an f64 ``erf`` or ``conv``, is for other providers.
    """
    from ...ir.op import Composite

    def fits(g: Graph) -> bool:
        values = [*g.inputs, *g.params.values(), *(v for node in g.nodes() for v in node.outputs)]
        if any(v.type.dtype.name == "bf16" for v in values):
            return False
        for node in g.nodes():
            if node.op.name in ("erf", "conv") and node.output.type.dtype.name == "f64":
                return False
            if isinstance(node.op, Composite):
                types = [None if v is None else v.type for v in node.inputs]
                if any(t is not None and t.dtype.name == "f64" for t in types) and not fits(
                    node.op.instantiate(types, dict(node.attrs))
                ):
                    return False
            if not all(map(fits, node.bodies)):
                return False
        return True

    return fits(graph)
