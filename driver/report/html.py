"""The report of ``tessera optimize`` as one page that needs nothing else: no scripts, no fonts, no network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .text import (
    BLOCKS,
    Report,
    at,
    block_rows,
    latency_rows,
    measures,
    memory_rows,
    pass_text,
    rounds_text,
    skipped,
    warnings,
)

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #888; --bar: #8886; --now: #3b82c4; --good: #2e8b57; --bad: #c47a1b; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
p { margin: .3rem 0; } .dim, th { color: var(--dim); font-weight: 400; } code { font-size: .92em; }
.said { border-left: 4px solid var(--line); padding: .2rem .8rem; margin: .6rem 0; }
.said.good { border-color: var(--good); } .said.bad { border-color: var(--bad); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .15rem .9rem .15rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tr.total td { font-weight: 600; }
svg { vertical-align: middle; } .was { fill: var(--bar); } .now { fill: var(--now); }
"""
_BAR, _HEIGHT = 220, 12


def page(report: Report) -> str:
    """A self-contained HTML document; every string of the report is escaped."""
    machine, latency, fidelity = report["machine"], report["latency"], report["fidelity"]
    where = f" at {at(report['sizes'])}" if report["sizes"] else ""
    title = f"{report['model']}: what optimizing did"
    parts = [
        f"<h1>{escape(report['model'])}</h1>",
        f'<p class="dim">{escape(report["source"])} → <code>{escape(report["output"])}</code>, on {escape(machine["cpu"])}, '
        f"{machine['cores']} cores, ONNX Runtime {escape(machine['onnxruntime'])}</p>",
        *(_said(name, row) for name, row in report["verdict"].items()),
        *(f'<p class="said bad"><b>Warning:</b> {_prose(text)}</p>' for text in warnings(report)),
        *(f'<p class="dim">Note: {escape(text)}</p>' for text in report["notes"]),
        f"<h2>Tokens and FLOPs{escape(where)}</h2>",
        _blocks(report),
        f'<p class="dim">{escape(BLOCKS)}</p>',
        f"<h2>Latency{escape(where)}</h2>",
        _table(["", "ms", "quartiles", "speed-up", "quartiles"], latency_rows(report)),
        f'<p class="dim">Medians of {rounds_text(latency["rounds"])}; speed-ups are ratios within a round.</p>',
    ]
    if report["memory"]:
        parts += [
            "<h2>Largest memory above an idle process</h2>",
            _table(["", "file", "private", "resident"], memory_rows(report)),
        ]
    parts.append(f"<h2>Fidelity to the original on {escape(fidelity['what'])}</h2>")
    for output in fidelity["outputs"]:
        parts.append(
            f"<p><code>{escape(output['output'])}</code> {escape(output['shape'])}: {escape(output['why'])}</p>"
        )
        heads, rows = measures(output)
        parts += [_table(heads, rows)] if rows else []
        for reason, names in skipped(output).items():
            parts.append(f'<p class="dim">{escape(", ".join(names))} not compared: {_prose(reason)}</p>')
    parts += [f'<p class="dim">{escape(n)}: {escape(text)}</p>' for n, text in fidelity["baselines"].items()]
    parts += ["<h2>Passes</h2>", _passes(report["passes"])]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _said(name: str, row: Mapping[str, Any]) -> str:
    kind = {True: " good", False: " bad", None: ""}[row["pays"]]
    return f'<p class="said{kind}"><b>{escape(name.capitalize())}:</b> {_prose(row["text"])}</p>'


def _prose(text: str) -> str:
    """Text with `names` in it."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are plain text."""
    return _markup(heads, [[escape(cell) for cell in row] for row in rows])


def _markup(heads: Sequence[str], rows: Sequence[Sequence[str]], total: bool = False) -> str:
    """Cells are HTML."""
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    lines = []
    for i, row in enumerate(rows):
        kind = ' class="total"' if total and i == len(rows) - 1 else ""
        lines.append(f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>")
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n' + "\n".join(lines) + "\n</table></div>"


def _blocks(report: Report) -> str:
    """A row a block, with a bar of its tokens after over one of those before."""
    blocks = report["cost"]["blocks"]
    most = max((b["tokens"] or 0 for b in blocks), default=0) or 1
    rows = []
    for texts, block in zip(block_rows(report), [*blocks, None], strict=True):
        bar = _bar(block["tokens"], block["tokens_after"], most) if block else ""
        rows.append([*(escape(t) for t in texts[:3]), bar, *(escape(t) for t in texts[3:])])
    return _markup(["block", "tokens", "after", "", "FLOPs", "after", "left"], rows, total=True)


def _bar(before: int | None, after: int | None, most: int) -> str:
    if before is None or after is None:
        return ""
    shown = f"{after} of {before} tokens"
    was, now = (
        f'<rect class="{kind}" width="{round(_BAR * count / most, 1)}" height="{_HEIGHT}"/>'
        for kind, count in (("was", before), ("now", after))
    )
    size = f'width="{_BAR}" height="{_HEIGHT}"'
    return f'<svg {size} role="img" aria-label="{shown}"><title>{shown}</title>{was}{now}</svg>'


def _passes(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return '<p class="dim">none</p>'
    lines = []
    for row in rows:
        lines.append(f"<p>{escape(pass_text(row))}</p>")
        lines += [f'<p class="dim">{_prose(note)}</p>' for note in row["notes"]]
    return "\n".join(lines)
