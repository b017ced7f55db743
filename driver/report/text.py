"""The report of ``tessera optimize``: what it says in plain words, and how it looks in a terminal.

A report is plain data (``optimize.optimize`` makes it, ``--json`` prints it); :func:`verdict` adds the sentences, :func:`render`
prints tables of at most 100 columns, and ``report_html`` makes a page of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from . import routers, tried
from .fidelity import SHAPE
from .measure import Spread
from .results import BOTH, NOTICED, OPTIMIZED, ORIGINAL, REEXPORTED, pays
from .tables import rendered, table

if TYPE_CHECKING:
    from rich.console import RenderableType

Report = Mapping[str, Any]

BLOCKS = "A block reaches from its attention to the next one's; the stem is what comes before the first."

WIDTH = 100
# Quartiles that are further apart than this say little.
_SCATTERED = 1.5
# Of fewer rounds nothing is concluded.
_ROUNDS = 5
# What a cosine must differ by to be called better or worse than a baseline.
_BETTER = 0.001
# Outputs of different examples that differ by less of their length than this are as good as one.
_CONSTANT = 1e-3

_MEASURES = {
    "cosine": "cosine",
    "worst_cosine": "worst",
    "relative_error": "relative error",
    "top1": "top-1 same",
    "same_nearest": "same nearest",
    "kl": "KL (nats)",
}


# In words --------------------------------------------------------------------------------------------------------------


def verdict(report: Report) -> dict[str, dict[str, Any]]:
    """``speed``, ``fidelity`` and, after a search, ``search``: each with ``pays`` (true, false, or null where nobody can tell) and
    a ``text``."""
    found = {"speed": _speed(report), "fidelity": _fidelity(report)}
    return {**found, "search": tried.verdict(report)} if report["fit"] else found


def at(sizes: Mapping[str, int]) -> str:
    """``B = 1, T = 128``."""
    return ", ".join(f"{k} = {v}" for k, v in sizes.items())


def _speed(report: Report) -> dict[str, Any]:
    latency = report["latency"]
    gain, base = Spread(**latency["gain"]), latency["base"]
    total = Spread(**latency["rows"][OPTIMIZED]["speedup"])
    alone = base != ORIGINAL
    removes = _removes(report)
    where = at(report["sizes"]) or "the model's fixed sizes"
    shown = f"{_times(gain)} at {where}"
    promised = report["cost"]["ratio"]
    what = "removing tokens " if alone and removes else ""
    # Reports that were written before this was measured have their quartiles alone.
    low, high = latency.get("within", (gain.low, gain.high))
    found = pays(gain.median, low, high) if latency["rounds"] >= _ROUNDS else None
    if latency["rounds"] < _ROUNDS:
        text = f"{rounds_text(latency['rounds'])} cannot tell whether {what or 'it '}pays here: {shown}"
    elif found is None:
        text = f"whether {what or 'it '}pays cannot be told from {rounds_text(latency['rounds'])} here: {shown}"
    elif found:
        text = f"{what}pays here: {shown}"
    elif high < 1 or gain.median < 1 - NOTICED:
        text = f"{what}does not pay here: {shown}"
    else:
        text = f"{what}makes no clear difference here: {shown}"
    if alone:
        reexported = Spread(**latency["rows"][REEXPORTED]["speedup"])
        text += f", over the same file re-exported with every token. That alone is {_times(reexported)}; together {_times(total)}"
    if promised is not None:
        text += f"; counting FLOPs promises {promised:.2f}x"
    if gain.high > _SCATTERED * gain.low:
        text += ". The times scatter widely: this machine does other work"
    matching = latency.get("without_matching")
    # Only where most rounds saw it: within their quartiles there may be none.
    if matching and matching["low"] > 1:
        text += f". Choosing the tokens takes {share(1 - 1 / matching['median'])} of the time"
        text += f" ({share(1 - 1 / matching['low'])} … {share(1 - 1 / matching['high'])})"
    stacked = latency.get("stacked")
    if stacked:
        what = "fewer tokens" if removes else "the passes"
        text += f". int8 alone gives {latency['rows']['int8']['speedup']['median']:.2f}x; {what} on top of it are worth"
        text += f" {stacked['median']:.2f}x, {latency['rows'][BOTH]['speedup']['median']:.2f}x together"
    else:
        text += ". int8 was not tried: `--int8`"
    if found is False and removes:
        text += ". A larger batch or longer inputs may pay: try `--size`"
    return {"pays": found, "text": text}


def _removes(report: Report) -> bool:
    """Whether some block has fewer tokens, or some pass took some away."""
    return any(b["tokens"] != b["tokens_after"] for b in report["cost"]["blocks"])


def _times(ratio: Spread) -> str:
    return f"{ratio.median:.2f}x ({ratio.low:.2f} … {ratio.high:.2f})"


def share(value: float) -> str:
    """A share in percent, rounded down: 99.96% is not 100%."""
    percent = math.floor(value * 1000 + 1e-9) / 10
    return f"{percent:.0f}%" if percent == int(percent) else f"{percent:.1f}%"


def _fidelity(report: Report) -> dict[str, Any]:
    fidelity = report["fidelity"]
    compared = [o for o in fidelity["outputs"] if "optimized" in o["rows"]]
    if not compared:
        reasons = {o["skipped"].get("optimized") for o in fidelity["outputs"]}
        why = f": {'; '.join(sorted(r for r in reasons if r))}" if any(reasons) else ""
        why = why or ("" if fidelity["outputs"] else ": none holds floats")
        return {"pays": None, "text": f"no output could be compared{why}"}
    # The output that says most about what the model is for: scores before features.
    output = next((o for o in compared if o["kind"] == "scores"), compared[0])
    ours = output["rows"]["optimized"]
    if "top1" in ours:
        text = f"`{output['output']}` keeps the top-1 of {share(ours['top1'])}, with a cosine of {cosine_text(ours['cosine'])}"
    else:
        text = f"`{output['output']}` keeps a cosine of {cosine_text(ours['cosine'])}"
    if "same_nearest" in ours:
        text += f", and the same nearest neighbour for {share(ours['same_nearest'])} of the examples"
    better = None
    for name in fidelity["baselines"]:
        theirs = output["rows"].get(name)
        if theirs is None:
            continue
        gap = ours["cosine"] - theirs["cosine"]
        word = "more than" if gap > _BETTER else "less than" if gap < -_BETTER else "no more than"
        better = (better is not False) and gap > _BETTER
        text += f"; {word} {name} ({cosine_text(theirs['cosine'])})"
    if "int8" in output["rows"]:
        text += f"; int8 alone keeps {cosine_text(output['rows']['int8']['cosine'])}"
    if fidelity["random_inputs"]:
        return {"pays": None, "text": f"on random inputs, which says nothing about real ones: {text}"}
    return {"pays": better, "text": text}


def cosine_text(value: float) -> str:
    """Three digits, or more where three would say that nothing was lost."""
    return f"{value:.3f}" if value < 0.9995 else f"{value:.6f}"


def warnings(report: Report) -> list[str]:
    """What a reader must know before believing the figures."""
    found = []
    if report["fidelity"]["random_inputs"]:
        found.append("fidelity was measured on random inputs: that says nothing. Give real data with `--calib`")
    if report["random_weights"]:
        found.append("no weights were given: they are random, and what is said of fidelity holds for no trained model")
    left = [o["output"] for o in report["fidelity"]["outputs"] if o["skipped"].get("optimized", "").startswith(SHAPE)]
    if left:
        names = ", ".join(f"`{name}`" for name in left)
        found.append(f"{names} lost tokens and cannot be compared: with `restore=true` every token keeps a value")
    if not _removes(report) and "fixed indices" not in report["latency"]["rows"]:
        found.append("no pass removed tokens: every block has as many as before")
    constant = [o["output"] for o in report["fidelity"]["outputs"] if o["varies"] is not None and o["varies"] < _CONSTANT]
    if constant:
        names = ", ".join(f"`{name}`" for name in constant)
        found.append(f"{names} of the original hardly depends on the input: its fidelity says little")
    machine = report["machine"]
    if machine["load"] is not None and machine["load"] > machine["cores"] / 2:
        found.append(f"other processes kept {machine['load']:.1f} of {machine['cores']} cores busy before the timing began")
    return found


def pass_text(row: Mapping[str, Any]) -> str:
    """What a pass did on one line, and what the raising of imported primitives found and left."""
    text = f"{row['pass']} ({row['contract']}): {row['modified']} modified"
    for key in ("composites", "left"):
        if row.get(key):
            text += f"; {key}: {', '.join(f'{name} {count}' for name, count in row[key].items())}"
    return text


# Figures ---------------------------------------------------------------------------------------------------------------


def measures(output: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of one output's table of fidelity."""
    used = [m for m in _MEASURES if any(m in row for row in output["rows"].values())]
    rows = [[name, *(_figure(m, row[m]) for m in used)] for name, row in output["rows"].items()]
    return ["", *(_MEASURES[m] for m in used)], rows


def _figure(measure: str, value: float) -> str:
    return share(value) if measure in ("top1", "same_nearest") else f"{value:.2e}" if measure == "kl" else f"{value:.4f}"


def rounds_text(count: int) -> str:
    """``1 interleaved round``, ``9 interleaved rounds``."""
    return f"{count} interleaved round{'s' if count != 1 else ''}"


def milliseconds(value: float) -> str:
    """Two digits, or four of what takes less than a tenth."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def megabytes(value: int | None) -> str:
    """``123.4 MB``, or nothing where it is not known."""
    return "" if value is None else f"{value / 1e6:.1f} MB"


def latency_rows(report: Report) -> list[list[str]]:
    """Candidate, milliseconds, quartiles, speed-up, its quartiles."""
    rows = []
    for name, row in report["latency"]["rows"].items():
        ms, gain = row["ms"], row["speedup"]
        spread = f"{gain['low']:.2f} … {gain['high']:.2f}" if name != "original" else ""
        rows.append(
            [
                name,
                milliseconds(ms["median"]),
                f"{milliseconds(ms['low'])} … {milliseconds(ms['high'])}",
                f"{gain['median']:.2f}x",
                spread,
            ]
        )
    return rows


def memory_rows(report: Report) -> list[list[str]]:
    """Candidate, size of the file, private and resident bytes."""
    memory = report["memory"] or {}
    return [
        [
            name,
            megabytes(report["files"].get(name)),
            megabytes(row["private_bytes"]),
            megabytes(row["peak_bytes"]),
        ]
        for name, row in memory.items()
    ]


def block_rows(report: Report) -> list[list[str]]:
    """Block, tokens before and after, FLOPs before and after, and the share that is left; the last row is the total."""
    cost = report["cost"]
    divisor, unit = next(
        u for u in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")) if cost["flops"] >= u[0] or u[0] == 1
    )

    def cells(row: Mapping[str, Any]) -> list[str]:
        flops = [f"{row[key] / divisor:.3f} {unit}" for key in ("flops", "flops_after")]
        return [*flops, f"{row['flops_after'] / row['flops']:.0%}" if row["flops"] else ""]

    def count(tokens: int | None) -> str:
        return "" if tokens is None else str(tokens)

    rows = [[b["block"], count(b["tokens"]), count(b["tokens_after"]), *cells(b)] for b in cost["blocks"]]
    return [*rows, ["total", "", "", *cells(cost)]]


# In a terminal ---------------------------------------------------------------------------------------------------------


def render(report: Report, width: int = WIDTH, color: bool = False) -> str:
    """The report as text of at most ``width`` columns."""
    lines = rendered(_parts(report), min(width, WIDTH), color).split("\n")
    # A table ends with an empty line, and so does the space in front of a title.
    return "\n".join(line for i, line in enumerate(lines) if line or (i and lines[i - 1]))


def _parts(report: Report) -> Iterator[RenderableType]:
    from rich.text import Text

    yield Text(f"{report['model']}: {report['source']} -> {report['output']}", style="bold")
    machine = report["machine"]
    yield Text(f"on {machine['cpu']}, {machine['cores']} cores, ONNX Runtime {machine['onnxruntime']}\n")
    yield _sentences(report)
    where = f" at {at(report['sizes'])}" if report["sizes"] else ""
    if report["fit"]:
        yield Text(f"\nWhat nothing beats, of {len(report['fit']['tried'])} schedules tried", style="bold")
        yield table(tried.heads(report["fit"]), tried.rows(report["fit"]), left=(0, 3))
    yield Text(f"\nTokens and FLOPs{where}", style="bold")
    yield table(["block", "tokens", "after", "FLOPs", "after", "left"], block_rows(report), last=True)
    yield Text(BLOCKS)
    if report.get("routers"):
        yield Text(f"\nRouters on {report['fidelity']['what']}", style="bold")
        yield table(routers.HEADS, routers.cells(report["routers"]))
        yield Text(routers.ABOUT)
        yield table(routers.LOADS, routers.load_rows(report["routers"]), left=(0, len(routers.LOADS) - 1))
    rounds = rounds_text(report["latency"]["rounds"])
    yield Text(f"\nLatency{where}: medians and quartiles of {rounds}", style="bold")
    yield table(["", "ms", "quartiles", "speed-up", "quartiles"], latency_rows(report))
    if report["memory"]:
        yield Text("\nLargest memory above an idle process", style="bold")
        yield table(["", "file", "private", "resident"], memory_rows(report))
    fidelity = report["fidelity"]
    yield Text(f"\nFidelity to the original on {fidelity['what']}", style="bold")
    for output in fidelity["outputs"]:
        yield Text(f"`{output['output']}` {output['shape']}: {output['why']}")
        heads, rows = measures(output)
        if rows:
            yield table(heads, rows)
        for reason, names in skipped(output).items():
            yield Text(f"{', '.join(names)} not compared: {reason}\n")
    for name, text in fidelity["baselines"].items():
        yield Text(f"{name}: {text}")


def skipped(output: Mapping[str, Any]) -> dict[str, list[str]]:
    """Why candidates were not compared -> their names."""
    reasons: dict[str, list[str]] = {}
    for name, reason in output["skipped"].items():
        reasons.setdefault(reason, []).append(name)
    return reasons


def _sentences(report: Report) -> RenderableType:
    """What is said in words, each sentence beside what it is about."""
    from rich.table import Table
    from rich.text import Text

    styles = {True: "green", False: "yellow", None: ""}
    said_of = Table.grid(padding=(0, 2))
    said_of.add_column(no_wrap=True)
    said_of.add_column()
    for name, said in report["verdict"].items():
        said_of.add_row(name, Text(said["text"], style=styles[said["pays"]]))
    for text in warnings(report):
        said_of.add_row("warning", Text(text, style="yellow"))
    for text in report["notes"]:
        said_of.add_row("note", Text(text))
    for row in report["passes"]:
        said_of.add_row("pass", Text("\n".join([pass_text(row), *(f"- {note}" for note in row["notes"])])))
    return said_of
