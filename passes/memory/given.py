"""What a decoder is given: its token ids, and the names that are taken beside them."""

from __future__ import annotations

from ...ir.diagnostics import Diagnostic
from ...ir.graph import Graph, Input


def names_of(graph: Graph) -> set[str]:
    """What sizes and inputs are called, to which source refers by one name each."""
    inputs = {name.partition(".")[0] for v in graph.inputs for name in (v.name, v.public)}
    return {*graph.symbols(), *graph.lets, *inputs}


def token_input(graph: Graph, named: str | None) -> Input:
    """The input whose second axis counts the tokens. Raises E0731."""
    inputs = [v for v in graph.inputs if v.role == "input"]
    if named is not None:
        found = [v for v in inputs if named in (v.name, v.public)]
    else:
        found = [v for v in inputs if v.type.rank == 2 and v.type.dtype.kind == "int"]
        told = [v for v in found if not any(word in v.public for word in ("mask", "position", "type"))]
        found = told or found
        if len(found) > 1:
            # An encoder has ids of its own.
            found = [v for v in found if v.public.startswith("decoder")] or found
    shown = ", ".join(f"`{v.public}: {v.type}`" for v in inputs) or "none"
    if named is None and not found:
        raise Diagnostic(
            "E0731", f"`add_cache` is for decoders that read token ids, `i64[B, T]`; `{graph.name}` takes other inputs: {shown}",
            help="`tokens=` names an input whose second axis counts the tokens, if there is one",
        )  # fmt: skip
    if len(found) != 1:
        raise Diagnostic(
            "E0731", f"{'which input holds the tokens is not clear' if named is None else f'there is no input `{named}`'}: {shown}",
            help=f'`tokens="{(found or inputs)[0].public}"` says it' if inputs else "the model takes no input",
        )  # fmt: skip
    (ids,) = found
    if ids.type.rank < 2 or ids.type.shape[1].symbol is None or ids.type.shape[1].symbol in graph.lets:
        raise Diagnostic(
            "E0731", f"`{ids.public}: {ids.type}` has no number of tokens that is free, which prompts and single tokens would need",
            ids.span, help="import the model with a free length: `dynamic_shapes` of torch.export, a named axis of the ONNX file",
        )  # fmt: skip
    return ids
