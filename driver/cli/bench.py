"""``bench``: artifacts against each other, as ``optimize`` measures them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ...ir.diagnostics import Diagnostic
from .common import SEED, columns, json_option, print_json, size_text, waiting
from .measuring import parse_sizes, rounds_option, size_option, threads_option


@click.command()
@click.argument("artifacts", nargs=-1, required=True, metavar="A [B…]")
@size_option
@rounds_option
@threads_option
@click.option(
    "--memory", is_flag=True, help="Also measure the largest memory, each in a process of its own (ONNX only)."
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="For the random inputs.")
@json_option
def bench(
    artifacts: tuple[str, ...], sizes: str | None, rounds: int | None, threads: int | None, memory: bool, seed: int, as_json: bool
) -> None:  # fmt: skip
    """Time artifacts against each other.

    ONNX files from anywhere, or what `compile` wrote. They take turns on the same random inputs; what is shown are medians, and
    ratios to the first one within a round.
    """
    from ..report.drawing import draw_inputs, find_inverted_masks, workable_sizes
    from ..report.measure import Spread, Target, interleaved, machine, ratio
    from ..report.memory import peak_memory

    with waiting("measuring") as progress:
        names = _names(artifacts)
        targets = []
        for name, file in zip(names, artifacts, strict=True):
            progress(f"loading {name}", None, None)
            targets.append(Target.open(file, name=name, threads=threads))
        first = targets[0]
        notes: list[str] = []
        chosen = workable_sizes(targets, parse_sizes(sizes), notes.append)
        first.inverted = find_inverted_masks(first, chosen, targets[1:])
        feeds = draw_inputs(first, chosen, seed)
        times = interleaved(
            {t.name: t.prepared(feeds, seed) for t in targets}, rounds, tell=lambda i, n: progress("timing", i, n)
        )
        rows: list[dict[str, Any]] = []
        for target in targets:
            seconds = times[target.name]
            ms, gain = Spread.of([s * 1e3 for s in seconds]), ratio(times[first.name], seconds)
            row = {"artifact": target.name, "ms": ms.to_dict(), "speedup": gain.to_dict(), "size": target.bytes}
            if memory:
                progress(f"measuring the memory of {target.name}", None, None)
                row |= peak_memory(target, feeds, threads).to_dict()
            rows.append(row)
    report = {"machine": machine(threads), "sizes": chosen, "rounds": len(times[first.name]), "rows": rows, "notes": notes}
    if as_json:
        print_json(report)
    else:
        click.echo("\n".join(_lines(report)))


def _names(files: tuple[str, ...]) -> list[str]:
    """File names, or whole paths where two would be equal. Raises E0936 for one file given twice."""
    if len(set(files)) != len(files):
        raise Diagnostic("E0936", "an artifact is given twice", help="each artifact once")
    short = [Path(f).name for f in files]
    return list(files) if len(set(short)) != len(short) else short


def _lines(report: dict[str, Any]) -> list[str]:
    from ..report.text import milliseconds, rounds_text

    machine = report["machine"]
    where = ", ".join(f"{k} = {v}" for k, v in report["sizes"].items())
    lines = [
        f"{rounds_text(report['rounds'])}{f' at {where}' if where else ''} on {machine['cpu']}, {machine['cores']} cores",
    ]
    heads = ["", "ms", "quartiles", "speed-up", "quartiles", "file"]
    table = []
    for i, row in enumerate(report["rows"]):
        ms, gain = row["ms"], row["speedup"]
        spread = "" if i == 0 else f"{gain['low']:.2f} … {gain['high']:.2f}"
        cells = [row["artifact"], milliseconds(ms["median"]), f"{milliseconds(ms['low'])} … {milliseconds(ms['high'])}",
                 f"{gain['median']:.2f}x", spread, size_text(row["size"])]  # fmt: skip
        if "private_bytes" in row:
            private = row["private_bytes"]
            cells += ["" if private is None else size_text(private), size_text(row["peak_bytes"])]
        table.append(cells)
    if len(table[0]) > len(heads):
        heads += ["private", "resident"]
    notes = [f"note: {text}" for text in report["notes"]]
    return [*lines, columns([heads, *table], right=range(1, len(heads))), *notes]
