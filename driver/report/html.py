"""The report of ``tessera optimize`` as one page that needs nothing else: no scripts, no fonts, no network.

``page.html`` beside this file is the page; here is what it is filled with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import routers, tried
from .results import EVEN, FIRST, INT8, OPTIMIZED, ORIGINAL, RANDOM, REEXPORTED
from .text import (
    BLOCKS,
    Report,
    at,
    block_rows,
    cosine_text,
    latency_rows,
    measures,
    memory_rows,
    milliseconds,
    pass_text,
    rounds_text,
    share,
    skipped,
    warnings,
)

# Of the drawings, in their own units; they scale with the page.
_WIDTH, _ROW = 640, 30
_LABEL = 130
_BAR, _HEIGHT = 220, 12

_LATENCY = ["candidate", "ms", "quartiles", "speed-up", "quartiles"]
_MEMORY = ["candidate", "file", "private", "resident"]


def page(report: Report) -> str:
    """A self-contained HTML document; every string of the report is escaped."""
    return filled(
        "page.html",
        report=report,
        where=f" at {at(report['sizes'])}" if report["sizes"] else "",
        figures=_figures(report),
        warnings=warnings(report),
        latency=_latency(report),
        latency_rows=latency_rows(report),
        latency_heads=_LATENCY,
        rounds=rounds_text(report["latency"]["rounds"]),
        blocks=_blocks(report),
        about_blocks=BLOCKS,
        # Reports that were written before this was counted have none.
        routers=routers.cells(report.get("routers", [])),
        loads=routers.load_rows(report.get("routers", [])),
        router_heads=routers.HEADS,
        load_heads=routers.LOADS,
        about_routers=routers.ABOUT,
        memory_rows=memory_rows(report),
        memory_heads=_MEMORY,
        outputs=[_output(output) for output in report["fidelity"]["outputs"]],
        became=report.get("became"),
        tried=tried.drawing(report["fit"]) if report["fit"] else None,
        tried_heads=tried.heads(report["fit"]) if report["fit"] else [],
        tried_rows=tried.rows(report["fit"]) if report["fit"] else [],
        passes=[(pass_text(row), row["notes"]) for row in report["passes"]],
    )


def filled(template: str, **values: Any) -> str:
    """A page beside this file, filled; every string is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    def prose(text: str) -> Markup:
        """Text with `names` in it."""
        return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["prose"] = prose
    return environment.get_template(template).render(**values)


def _figures(report: Report) -> list[dict[str, Any]]:
    """The two results, before any sentence: a number, its range, and what it is."""
    gain = report["latency"]["gain"]
    removed = report["latency"]["base"] == REEXPORTED
    figures = [
        {
            "value": f"{gain['median']:.2f}×",
            "range": f"{gain['low']:.2f} … {gain['high']:.2f}",
            "what": "speed, over the same file with every token" if removed else "speed, over the original",
            "kind": _kind(report["verdict"]["speed"]["pays"]),
        }
    ]
    compared = [o for o in report["fidelity"]["outputs"] if OPTIMIZED in o["rows"]]
    if compared:
        output = next((o for o in compared if o["kind"] == "scores"), compared[0])
        row, each = output["rows"][OPTIMIZED], output["each"].get(OPTIMIZED) or [output["rows"][OPTIMIZED]["cosine"]]
        top = "top1" in row
        cosine = f"cosine {cosine_text(row['cosine'])}, worst {cosine_text(row['worst_cosine'])}"
        figures.append(
            {
                "value": share(row["top1"]) if top else cosine_text(row["cosine"]),
                "range": cosine if top else f"{cosine_text(min(each))} … {cosine_text(max(each))}",
                "what": f"{'of the examples keep the top-1' if top else 'mean cosine'} of {output['output']}",
                "kind": _kind(report["verdict"]["fidelity"]["pays"]),
            }
        )
    return figures


def _kind(pays: bool | None) -> str:
    return {True: "good", False: "bad", None: "open"}[pays]


# Drawings --------------------------------------------------------------------------------------------------------------


def _latency(report: Report) -> dict[str, Any]:
    """Each candidate's median and quartiles in milliseconds, as a dot on a line."""
    rows = [(name, row["ms"]) for name, row in report["latency"]["rows"].items()]
    most = max(ms["high"] for _, ms in rows) * 1.05 or 1.0

    def x(ms: float) -> float:
        return round(_LABEL + (_WIDTH - _LABEL - 60) * ms / most, 1)

    marks = [
        {
            "name": name, "y": _ROW * i + _ROW // 2, "low": x(ms["low"]), "high": x(ms["high"]), "middle": x(ms["median"]),
            "text": f"{ms['median']:.2f} ms", "ours": name not in (ORIGINAL, REEXPORTED, INT8),
        }
        for i, (name, ms) in enumerate(rows)
    ]  # fmt: skip
    told = "; ".join(f"{name} {ms['median']:.2f} ms" for name, ms in rows)
    longest = max(ms["high"] for _, ms in rows)
    floor = _ROW * len(rows)
    return {
        "width": _WIDTH, "height": floor + 22, "floor": floor, "left": _LABEL, "marks": marks, "told": told,
        "ticks": [(x(0), "0"), (x(longest), f"{milliseconds(longest)} ms")],
    }  # fmt: skip


def _output(output: Mapping[str, Any]) -> dict[str, Any]:
    heads, rows = measures(output)
    return {
        "name": output["output"], "shape": output["shape"], "why": output["why"], "heads": ["candidate", *heads[1:]], "rows": rows,
        "skipped": skipped(output), "strips": _strips(output["each"]),
    }  # fmt: skip


def _strips(each: Mapping[str, Sequence[float]]) -> dict[str, Any] | None:
    """Every example's cosine to the original as a dot, one line a candidate; None where there is one example."""
    shown = {n: each[n] for n in (OPTIMIZED, EVEN, RANDOM, FIRST, INT8) if len(each.get(n, ())) > 1}
    if not shown:
        return None
    least = min(min(row) for row in shown.values())
    low = min(0.9, least) if least > 0 else least
    span = 1.0 - low

    def x(cosine: float) -> float:
        return round(_LABEL + (_WIDTH - _LABEL - 20) * (cosine - low) / span, 1)

    rows = [
        {"name": n, "y": _ROW * i + _ROW // 2, "dots": [x(c) for c in row], "ours": n == OPTIMIZED}
        for i, (n, row) in enumerate(shown.items())
    ]
    told = "; ".join(f"{n} from {min(row):.3f} to {max(row):.3f}" for n, row in shown.items())
    ticks = [(x(low), f"{low:.2f}"), (x(1.0), "1")]
    return {"width": _WIDTH, "height": _ROW * len(rows) + 22, "rows": rows, "ticks": ticks, "told": told, "floor": _ROW * len(rows)}


def _blocks(report: Report) -> list[dict[str, Any]]:
    """A row a block, with a bar of its tokens after over one of those before; the last row is the total."""
    blocks = report["cost"]["blocks"]
    most = max((b["tokens"] or 0 for b in blocks), default=0) or 1
    rows = []
    for cells, block in zip(block_rows(report), [*blocks, None], strict=True):
        before, after = (block["tokens"], block["tokens_after"]) if block else (None, None)
        bar = None
        if before is not None and after is not None:
            was, now = (round(_BAR * count / most, 1) for count in (before, after))
            bar = {"was": was, "now": now, "told": f"{after} of {before} tokens"}
        rows.append({"cells": cells, "bar": bar, "total": block is None})
    return rows
