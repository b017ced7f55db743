"""A model for another tokenizer: the tables of its tokens are made of those it has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...ir.analysis.axes import Axes, Axis
from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic, Note
from ...ir.dims.dim import as_dim
from ...ir.graph import Graph, Input, Module, Node, Parameter, Value
from ...ir.op import Trait, has, kept
from ...ir.recipe import Fill, Recipe, apply
from ...ir.types import f32, i32
from ...ir.vocabulary import Exchange, Vocabulary, exchange
from ..engine import Pass
from ..options import option
from ..report import Report
from .remake import follow, remade

# Of `transplant`, as the paper has them.
_DEFAULTS: dict[str, Any] = {"tau": 0.3, "k": 3, "g": 0.3, "threshold": 0.0}


@dataclass(frozen=True)
class SwapTokenizer(Pass):
    """Gives a model another tokenizer: the rows of its embedding, and of what scores tokens, are made of those it has.

    A token that both have keeps its row, bit by bit; special ones have those of their counterparts. Every other token is made of
    the pieces that the old tokenizer cuts it into: their `mean`, or by `transplant` (Sharma et al. 2025, "TokenAdapt") of pieces by
    their share and of its nearest neighbours, in the space of a model of texts. Nothing is trained.

    before: `x = take(embed, ids)    # embed: f32[30522, 384]`
    after:  `x = take(embed, ids)    # embed: f32[8000, 384]  with "embed" = combine("embed", rows, weights)`
    """

    name = "swap_tokenizer"
    contract = "approximate"
    rewords = True

    to: str | None = option(None, "the new tokenizer: a `tokenizer.json`, a model of SentencePiece, or one of `words.tess:name`")
    old: str | None = option(None, "the tokenizer that the model was trained with, in the same forms")
    method: Literal["mean", "transplant"] = option("mean", "what tokens that only the new one has are made of")
    special: tuple[str, ...] = option((), "what stands for special tokens that have no counterpart: `<s>=[CLS]`")
    multiple: int = option(1, "rows of the tables are filled up to a multiple of this; nothing chooses them", least=1)
    phi: str | None = option(None, "transplant: the file of `ts.embed_tokens`, vectors of all tokens by a model of texts")
    tau: float | None = option(None, "transplant: the temperature of the weights, 0.3")
    k: int | None = option(None, "transplant: how many neighbours, 3", least=1)
    g: float | None = option(None, "transplant: the share of the neighbours, 0 to 1; 0.3", least=0, most=1)
    threshold: float | None = option(None, "transplant: how similar a neighbour must be, more than 0")

    def run(self, module: Module) -> Report:
        made = self._exchange(module)
        graph = module.graph
        table, ids = _table(graph, made)
        axes = Axes(graph)
        classes = {axes.find(table, 0), *_scored(graph, axes, made.old, axes.find(table, 1))}
        rows = -(-made.new // self.multiple) * self.multiple
        changed = list(_changed(graph, axes, classes, made.old))
        for node in graph.nodes():
            _resize(node, axes, classes, rows)
        params = [_remade(module, param, axis, made, rows) for param, axis in changed]
        try:
            follow(params)
        except Diagnostic as error:
            raise Diagnostic(
                "E0725", f"the {made.old} tokens are part of another size here: {error.message}", error.span,
                help="swap_tokenizer follows tokens through embeddings, linear maps and what is elementwise",
            ) from None  # fmt: skip
        if rows != made.new:
            _cut(graph, axes, classes, made.new)
        for value in ids:
            # Where a table has more rows than there are ids, nothing is said of the ids.
            value.vocabulary = Vocabulary(made.new) if value.vocabulary is not None and rows == made.new else None
        report = Report.of(self, len(changed))
        report.facts["tables"] = [param.full_name for param, _ in changed]
        report.facts.update(made.facts)
        return report

    def _exchange(self, module: Module) -> Exchange:
        """What stands for each new token. Raises E0705, E0704 for options; as :func:`~tessera.ir.vocabulary.exchange`."""
        missing = next((name for name in ("to", "old") if getattr(self, name) is None), None)
        if self.to is None or self.old is None:
            raise Diagnostic(
                "E0705", f"swap_tokenizer is not told `{missing}`",
                help='write `swap_tokenizer(to="new/tokenizer.json", old="tokenizer.json")`',
            )  # fmt: skip
        if self.tau is not None and self.tau <= 0:
            raise Diagnostic("E0704", f"`tau` of the pass `{self.name}` must be above 0, but is {self.tau}")
        wrong = next((pair for pair in self.special if not all(pair.partition("=")[::2])), None)
        if wrong is not None:
            raise Diagnostic("E0704", f"`{wrong}` says of no token what stands for it", help='write `special=["<s>=[CLS]"]`')
        told = [pair.partition("=")[0] for pair in self.special]
        twice = next((text for place, text in enumerate(told) if text in told[:place]), None)
        if twice is not None:
            raise Diagnostic("E0704", f"two tokens are to stand for `{twice}`", help="leave one of them")
        own = {name: getattr(self, name) for name in ("phi", *_DEFAULTS)}
        unread = next((name for name, value in own.items() if value is not None and self.method != "transplant"), None)
        if unread is not None:
            raise Diagnostic("E0705", f"`method={self.method}` does not read `{unread}`", help="write `method=transplant`")
        options: dict[str, Any] = {"method": self.method, "special": [pair.split("=", 1) for pair in self.special]}
        if self.method == "transplant":
            options.update({name: _DEFAULTS.get(name) if value is None else value for name, value in own.items()})
        return exchange(self.to, self.old, options, str(Path(module.path).parent) if module.path is not None else None)


def _table(graph: Graph, made: Exchange) -> tuple[Parameter, list[Input]]:
    """The embedding of the tokens, and the inputs that hold their ids. Raises E0725 where there is no such, or they mean more."""
    found: dict[Parameter, list[Input]] = {}
    for value in graph.inputs:
        for node in _readers(value):
            param = node.inputs[0]
            if isinstance(param, Parameter) and _is_lookup(node) and int(param.type.shape[0]) == made.old:
                found.setdefault(param, []).append(value)
    if len(found) != 1:
        several = ", ".join(f"`{param.full_name}`" for param in found)
        raise Diagnostic(
            "E0725", f"swap_tokenizer found {'several embeddings' if found else 'no embedding'} of {made.old} tokens"
            + (f": {several}" if found else ""),
            help="it looks for a parameter with a row for each token of the old tokenizer, which ids that are an input choose from",
        )  # fmt: skip
    ((param, ids),) = found.items()
    for value in ids:
        other = next((node for node in _readers(value) if not (_is_lookup(node) and node.inputs[0] is param)), None)
        if other is not None:
            raise Diagnostic(
                "E0725", f"`{value.name}` is more than places in `{param.full_name}`: `{other.op.name}` reads ids of the old "
                "tokenizer", other.span, [Note(f"`{value.name}` is declared here", value.span)],
                "give the model what it makes of them, such as a mask, as an input of its own",
            )  # fmt: skip
    return param, ids


def _readers(value: Value) -> Iterator[Node]:
    """What reads ids, through what moves them about."""
    for node, position in value.uses:
        if node.op is None:
            continue
        if position in kept(node) and (has(node, Trait.MOVES) or node.op.name == "cast"):
            yield from _readers(node.outputs[0])
        else:
            yield node


def _is_lookup(node: Node) -> bool:
    return has(node, Trait.INDEXES) and has(node, Trait.KEEPS) and node.attrs.get("axis", 0) == 0


def _scored(graph: Graph, axes: Axes, old: int, features: Axis) -> Iterator[Axis]:
    """The axes of results that have a place for each token: last ones of that size which are no features."""
    for value in graph.outputs:
        last = value.type.rank - 1
        if last >= 0 and value.type.shape[last] == as_dim(old) and axes.find(value, last) != features:
            yield axes.find(value, last)


def _changed(graph: Graph, axes: Axes, classes: set[Axis], old: int) -> Iterator[tuple[Parameter, int]]:
    """Parameters with an axis of the tokens."""
    for param in list(graph.params.values()):
        found = [axis for axis in range(param.type.rank) if axes.find(param, axis) in classes]
        if found and param.type.shape[found[0]] == as_dim(old):
            yield param, found[0]


def _resize(node: Node, axes: Axes, classes: set[Axis], rows: int) -> None:
    """Give a node that says its own sizes those of the new tokens."""
    shape = node.attrs.get("shape")
    if not isinstance(shape, tuple) or len(node.outputs) != 1 or len(shape) != node.output.type.rank:
        return
    sizes = tuple(as_dim(rows) if axes.find(node.output, axis) in classes else size for axis, size in enumerate(shape))
    if sizes != shape:
        node.attrs = {**node.attrs, "shape": sizes}


def _remade(module: Module, param: Parameter, axis: int, made: Exchange, rows: int) -> Parameter:
    shape = (rows, made.width)
    parts: list[Recipe] = [Fill(made.rows, shape, i32), Fill(made.weights, shape, f32)]
    recipe: Recipe = apply("combine", module.recipe(param.full_name), *parts, axis=axis)
    sizes = [rows if place == axis else int(size) for place, size in enumerate(param.type.shape)]
    return remade(module, param, recipe, sizes)


def _cut(graph: Graph, axes: Axes, classes: set[Axis], size: int) -> None:
    """Leave out of results what was only filled up."""
    for place, value in enumerate(list(graph.outputs)):
        last = value.type.rank - 1
        if last >= 0 and axes.find(value, last) in classes:
            part = Builder(graph).op("slice", value, axis=last, start=0, stop=size)
            part.name, value.name = value.name, f"{value.name}_all"
            graph.end.set_input(place, part)
