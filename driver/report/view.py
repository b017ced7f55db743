"""A program as one page that a person reads: the river of its tokens, what became of those of one input, and every statement with
its shapes, its cost and the line that it comes from. ``view.html`` beside this file is the page; here is what it is filled with.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...ir.analysis.cost import ATTENTION, CostTable, cost, each
from ...ir.diagnostics import Diagnostic, source_line
from ..targets import costed_by
from .fates import Fate, Step, chain, fates
from .html import filled
from .picture import draw_map, patch_grid, tinted
from .routers import Rows, experts_of
from .text import at

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from ...ir.graph import Module, Node
    from ...ir.types import TensorType

# Of the river, in its own units; it scales with the page.
_LENGTH, _DEPTH, _TOP, _COLUMN = 1040, 170, 34, 26
# Names of blocks that fit below a river, and pictures that fit beside one another.
_NAMES, _PICTURES = 26, 5
# How long a block of the river must be for two numbers.
_ROOM = 56
_BECAME = {
    "about_pictures": "Patches that became one token have one colour and a border; those that were dropped are pale; the others "
    "are as they were.",
    "about_words": "Words of one colour became one token; struck out ones were dropped. Point at a word to see when.",
}
_WENT = {
    "about_pictures": "Patches whose first expert is the same one have one colour; pale ones have none.",
    "about_words": "Words of one colour went to one expert first; struck out ones went to none. Point at a word to see which.",
}
# A patch is drawn at least so many pixels wide.
_PATCH = 12


@dataclass(frozen=True)
class Shown:
    """What became of one input: ``image`` u8[H, W, 3] as the model saw it, or the ``words`` of its tokens."""

    name: str
    outputs: Mapping[str, np.ndarray]
    image: np.ndarray | None = None
    words: Sequence[str] | None = None


def page(
    module: Module, sizes: Mapping[str, int], steps: Sequence[Step] = (), shown: Sequence[Shown] = (), routers: Rows = ()
) -> str:
    """A self-contained HTML document.

    Args:
        sizes: of every free dimension; shapes and costs are told at these.
        steps: the program's reductions; ``shown`` has their maps for each input that is to be drawn.
        routers: what they did, where something is shown.
    """
    graph = module.graph
    stores = costed_by(module).stores_map
    table = cost(graph, stores).at(sizes)
    values = graph.sizes(dict(sizes))
    total = table.total
    blocks = sum(b.tokens is not None for b in table.blocks)
    # Behind the last block there is none that shows what a reduction left.
    end = steps[-1].after.evaluate(values) if steps and steps[-1].block == blocks - 1 else None
    params = [p.type.numel.evaluate(values) for p in graph.params.values()]
    return filled(
        "view.html",
        name=module.name,
        doc=module.doc or "",
        where=at(sizes),
        inputs=[(v.public, str(v.type)) for v in graph.inputs if v.role == "input"],
        outputs=[
            (info.public, str(v.type)) for v, info in zip(graph.outputs, graph.output_info, strict=True) if info.role == "output"
        ],
        facts=_facts(sum(params), total.flops, table, end),
        river=_river(table, end),
        steps=[{"method": s.method, "does": "merges" if s.merges else "drops", "block": s.block} for s in steps],
        drawn=[*(drawn(one, steps) for one in shown if steps), *(sent for one in shown for sent in _sent(one, routers))],
        blocks=_blocks(module, table, values, stores),
    )


def _facts(params: int, flops: int, table: CostTable, end: int | None) -> list[tuple[str, str]]:
    tokens = [b.tokens for b in table.blocks if b.tokens]
    facts = [("parameters", _number(params)), ("FLOPs", _number(flops)), ("blocks", str(len(tokens)))]
    if tokens:
        last = tokens[-1] if end is None else end
        facts.append(("tokens", f"{tokens[0]} → {last}" if tokens[0] != last else str(last)))
    return facts


def _number(value: float) -> str:
    """``86.6 M``."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:g}"


# The river --------------------------------------------------------------------------------------------------------------


def _river(table: CostTable, end: int | None) -> dict[str, Any] | None:
    """A band as wide as there are tokens, from block to block, in the end those that are left; None for a program without
    attention."""
    blocks = [b for b in table.blocks if b.tokens]
    if not blocks:
        return None
    most = max(b.tokens for b in blocks)
    step = _LENGTH / len(blocks)
    middle = _TOP + _DEPTH / 2
    every = -(-len(blocks) // _NAMES)

    def half(tokens: int) -> float:
        return max(_DEPTH / 2 * tokens / most, 0.75)

    left = blocks[-1].tokens if end is None else end
    last = half(left)
    marks: list[dict[str, Any]] = []
    upper, lower = [], []
    for i, block in enumerate(blocks):
        x0, x1 = i * step, (i + 1) * step
        turn = min(step * 0.55, 60.0)
        h = half(block.tokens)
        after = half(blocks[i + 1].tokens) if i + 1 < len(blocks) else last
        bend = x1 - turn / 2
        upper.append(f"L{x1 - turn:.1f},{middle - h:.1f} C{bend:.1f},{middle - h:.1f} {bend:.1f},{middle - after:.1f}")
        upper.append(f"{x1:.1f},{middle - after:.1f}")
        lower += [f"L{x0:.1f},{middle + h:.1f}", f"{x1 - turn:.1f},{middle + h:.1f}"]
        lower += [f"C{bend:.1f},{middle + after:.1f} {bend:.1f},{middle + h:.1f}"]
        share = block.cost.flops / max(table.total.flops, 1)
        marks.append(
            {
                "x": round(x0, 1), "width": round(step, 1), "middle": round(x0 + (step - turn) / 2, 1), "count": block.tokens,
                "name": block.name, "named": i % every == 0, "y": round(middle - h - 8, 1),
                "heat": round(min(share * len(blocks), 2) / 2, 2),
                "told": f"block {block.name}: {block.tokens} tokens, {_number(block.cost.flops)}FLOPs, {share:.1%} of all",
            }
        )  # fmt: skip
    first = half(blocks[0].tokens)
    path = f"M0,{middle - first:.1f} {' '.join(upper)} L{_LENGTH},{middle + last:.1f} {' '.join(lower[::-1])}"
    told = ", ".join(str(b.tokens) for b in blocks)
    # Beside the number of the last block, where there is room for both.
    apart = left != blocks[-1].tokens and step >= _ROOM
    mouth = {"count": left, "y": round(middle - last - 8, 1)} if apart else None
    return {"width": _LENGTH, "height": _TOP + _DEPTH + _COLUMN, "path": f"{path} Z", "marks": marks, "told": told,
            "floor": _TOP + _DEPTH + 18, "top": _TOP, "depth": _DEPTH, "end": mouth}  # fmt: skip


# One input ----------------------------------------------------------------------------------------------------------------


def drawn(shown: Shown, steps: Sequence[Step]) -> dict[str, Any]:
    """What became of one input's tokens: pictures behind some of the steps, or its words."""
    # The first tokens that are made of this input: others may be made of those and of other inputs.
    first = next((s for s in steps if shown.name in s.inputs), None)
    if first is None:
        raise Diagnostic(
            "E0925", f"nothing becomes of the tokens of `{shown.name}`: what is reduced is made from other inputs",
            help=f"show one of these: {', '.join(f'`{name}`' for name in sorted(frozenset().union(*(s.inputs for s in steps))))}",
        )  # fmt: skip
    own = [s for s in steps if s.stream == first.stream and shown.name in s.inputs]
    final = fates(chain(steps, own[-1]), shown.outputs, 0)
    back = sum(s.parent is None for s in own) > 1
    left = sum(f.left is not None for f in final)
    merged = sum(f.left is not None and f.host is not None for f in final)
    counts = ((len(final) - left, "stay"), (merged, "are merged into others"), (left - merged, "are dropped"))
    where = ", which all come back but for the last time" if back else ""
    facts = f"{len(final)} tokens{where}: {', '.join(f'{count} {what}' for count, what in counts if count)}"
    found: dict[str, Any] = {"title": "What became of", "name": shown.name, "facts": facts, "pictures": [], "words": [], **_BECAME}
    if shown.image is not None:
        chosen = sorted({round(i * (len(own) - 1) / max(_PICTURES - 1, 1)) for i in range(_PICTURES)})
        found["pictures"] = [{"src": _png(shown.image, None), "told": "the image as the model sees it"}]
        for index in chosen:
            now = fates(chain(steps, own[index]), shown.outputs, 0)
            count = sum(f.left is None for f in now)
            where = f"behind block {own[index].block}" if own[index].block >= 0 else "at the start"
            found["pictures"].append({"src": _png(shown.image, now), "told": f"{where}: {count} tokens"})
    if shown.words is not None:
        found["words"] = _words(shown.words, final)
    return found


def _sent(shown: Shown, routers: Rows) -> Iterator[dict[str, Any]]:
    """For each router which expert each token went to first: a colour an expert."""
    for number, row in enumerate(routers):
        experts = experts_of(number, shown.outputs)
        none = f", {row['none']:.1%} of them to none" if row["none"] else ""
        facts = f"{row['tokens']} tokens to {row['taken']:.2f} of {row['experts']} experts each{none}"
        drawn: dict[str, Any] = {
            "title": "Where tokens went in", "name": row["router"], "facts": facts, "pictures": [], "words": [], **_WENT
        }
        if shown.words is not None:
            drawn["words"] = [_sent_word(*pair, row["experts"]) for pair in zip(shown.words, experts, strict=False)]
        if shown.image is not None and _is_grid(shown.image, len(experts)):
            picture = tinted(_enlarged(shown.image, len(experts)), _first(experts, row["experts"]))
            drawn["pictures"] = [{"src": _uri(picture), "told": f"by the first of {row['k']} experts"}]
        yield drawn


def _first(experts: np.ndarray, count: int) -> np.ndarray:
    """The first expert of each token, -1 where it has none."""
    import numpy as np

    true_ones = experts < count
    return np.where(true_ones.any(1), np.take_along_axis(experts, true_ones.argmax(1)[:, None], 1)[:, 0], -1)


def _is_grid(image: np.ndarray, tokens: int) -> bool:
    try:
        patch_grid(tokens, *image.shape[:2])
    except Diagnostic:
        return False
    return True


def _sent_word(word: str, experts: np.ndarray, count: int) -> dict[str, Any]:
    """A word with the colour of its first expert; one without any is struck out."""
    own = [int(e) for e in experts if e < count]
    told = f"experts {', '.join(map(str, own))}" if own else "no expert"
    return {"text": word, "hue": round(own[0] * 137.5) % 360 if own else None, "gone": not own, "told": told}


def _png(image: np.ndarray, now: Sequence[Fate] | None) -> str:
    """As a data URI; enlarged where patches are only a few pixels wide."""
    import numpy as np
    from PIL import Image

    if now is None:
        return _uri(Image.fromarray(image))
    dropped = np.array([f.host is None for f in now])
    source = np.array([i if f.host is None else f.host for i, f in enumerate(now)])
    return _uri(draw_map(_enlarged(image, len(now)), source, dropped))


def _enlarged(image: np.ndarray, tokens: int) -> np.ndarray:
    """So that a patch is wide enough to be seen. Raises E0925 when the tokens are no grid of patches."""
    rows = patch_grid(tokens, *image.shape[:2])[0]
    scale = max(1, -(-_PATCH * rows // image.shape[0]))
    return image.repeat(scale, 0).repeat(scale, 1)


def _uri(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _words(words: Sequence[str], final: Sequence[Fate]) -> list[dict[str, Any]]:
    """Each token with the group that it is in, by a number that colours go by; None for one that is alone or gone."""
    members: dict[int, list[int]] = {}
    for token, fate in enumerate(final):
        if fate.host is not None:
            members.setdefault(fate.host, []).append(token)
    groups = {host: i for i, host in enumerate(h for h, all_ in members.items() if len(all_) > 1)}
    rows = []
    for token, (word, fate) in enumerate(zip(words, final, strict=False)):
        behind = "" if fate.left is None else f" behind block {fate.left.block}"
        if fate.host is None:
            told = f"dropped{behind}"
        elif fate.host in groups:
            others = " ".join(words[i] for i in members[fate.host] if i != token and i < len(words))
            told = f"one token with: {others}{f'; it left{behind}' if behind else ''}"
        else:
            told = "stays by itself"
        number = groups.get(fate.host) if fate.host is not None else None
        rows.append({"text": word, "hue": None if number is None else round(number * 137.5) % 360, "gone": fate.host is None,
                     "told": told})  # fmt: skip
    return rows


# The program --------------------------------------------------------------------------------------------------------------


def _blocks(
    module: Module, table: CostTable, values: Mapping[str, int], stores: Callable[[Node], bool]
) -> list[dict[str, Any]]:
    """The statements of each block as they print, with what comes out of them, what they cost and where they stood."""
    from ...frontends.source import print_module
    from ..targets import READERS

    text = print_module(module)
    lines = text.split("\n")
    # The same program again, whose places are lines of the text that is shown.
    again = READERS.source(text, f"{module.name}:view").graph
    # But for constants, which stand wherever they are read.
    ours, theirs = ([node for node in graph.nodes() if node.op.qualified != "constant"] for graph in (module.graph, again))
    printed = dict(zip(ours, theirs, strict=True))
    rows: list[list[dict[str, Any]]] = [[]]
    seen: set[int] = set()
    for node, own in each(module.graph, stores):
        if node.op.qualified == ATTENTION:
            rows.append([])
        flops = own.flops.evaluate(values)
        span = printed[node].span if node in printed else None
        if span is None:
            continue
        if span.line in seen and rows[-1]:
            rows[-1][-1]["flops"] += flops
            continue
        seen.add(span.line)
        told = [f"{_number(flops)}FLOPs", f"{_number(own.bytes.evaluate(values))}B moved"]
        rows[-1].append(
            {
                "text": " ".join(line.strip() for line in lines[span.line - 1 : span.end_line]),
                "types": ", ".join(_type(v.type, values) for v in node.outputs), "flops": flops,
                "told": " · ".join(told), "place": _place(node),
            }
        )  # fmt: skip
    found = []
    for block, statements in zip(table.blocks, rows, strict=True):
        most = max((s["flops"] for s in statements), default=0) or 1
        for s in statements:
            s["bar"], s["flops"] = round(100 * s["flops"] / most), _number(s["flops"]) if s["flops"] else ""
        found.append(
            {
                "name": "stem" if block.name == "stem" else f"block {block.name}", "tokens": block.tokens,
                "flops": _number(block.cost.flops), "share": f"{block.cost.flops / max(table.total.flops, 1):.1%}",
                "statements": statements,
            }
        )  # fmt: skip
    return found


def _type(type: TensorType, values: Mapping[str, int]) -> str:
    return f"{type.dtype}[{', '.join(str(d.evaluate(values)) for d in type.shape)}]"


def _place(node: Node) -> str:
    """The user's line, and where it stands."""
    if node.span is None:
        return ""
    line = source_line(node.span)
    return f"{node.span.file}:{node.span.line}{f'  {line}' if line else ''}"

