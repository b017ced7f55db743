"""``explain``: what a spec or an artifact is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from textwrap import fill, indent
from typing import Any

import click

from ...ir.diagnostics import Diagnostic
from .common import (
    columns,
    dtype_option,
    json_option,
    load_module,
    parse_params,
    parse_passes,
    pass_option,
    print_json,
    size_text,
    spec_options,
)
from .feeding import channels, pair, reading_options


@click.command()
@spec_options
@dtype_option
@pass_option
@click.option("--at", metavar="B=8,T=256", help="Sizes of the free dimensions, for the cost.")
@click.option("-w", "--weights", multiple=True, metavar="F", help="Weights for a spec, where an input is given.")
@click.option(
    "-i", "--input", "inputs", multiple=True, metavar="NAME=FILE",
    help="Run it, and count what its routers choose: an image, a text (.txt), an .npz or .npy.",
)  # fmt: skip
@click.option(
    "--scores", metavar="F", help="Write how often each expert is taken, how much it adds and which are alike, for prune_experts."
)
@reading_options
@json_option
def explain(
    file: str,
    model: str | None,
    params: tuple[str, ...],
    dtype: str,
    passes: tuple[str, ...],
    at: str | None,
    weights: tuple[str, ...],
    inputs: tuple[str, ...],
    scores: str | None,
    fit: str,
    mean: str | None,
    std: str | None,
    tokenizer: str | None,
    max_length: int | None,
    as_json: bool,
) -> None:
    """Say what is in a spec or an artifact.

    What it takes and gives, what it costs block by block, and how it was made. Of mixtures of experts also what they cost a token,
    and with --input the load of every expert, which --scores writes as a file that passes on experts read.
    """
    from ...backends.target import of_file
    from ..bundles import is_bundle
    from ..compile import apply_passes
    from ..programs import open_program
    from ..report.explain import explain_artifact, explain_module, explain_program
    from ..targets import MANIFEST

    if scores is not None and not inputs:
        raise click.UsageError("--scores is measured on an input: add --input")
    sizes = _sizes(at)
    written = of_file(Path(file)) is not None
    if written and passes:
        raise click.UsageError(f"--pass is for specs, and `{file}` is an artifact; `show` and `optimize` run passes on one")
    facts = explain_artifact(file, sizes) if written else None
    if facts is None:
        whole = is_bundle(file) or os.path.isfile(Path(file, MANIFEST))
        before = open_program(file).program if whole else load_module(file, model, params, dtype)
        module, reports = apply_passes(before, parse_passes(passes))
        found = explain_program(module, sizes) if module.several else explain_module(module, sizes)
        kind = "artifact" if whole else "spec"
        facts = {"kind": kind, "file": file, **found, "passes": [r.to_dict() for r in reports], "models": _models(file)}
    if inputs:
        from ...runtime.files.aside import written_aside
        from ...runtime.inputs import Options
        from ..seen import see

        seen = see(Path(file), model, parse_params(params), list(weights), dtype, parse_passes(passes))
        pairs = [pair(given, [v.public for v in seen.module.graph.inputs]) for given in inputs]
        how = Options(
            fit, channels("--mean", mean), channels("--std", std), tokenizer, max_length, False, seen.metadata, seen.beside
        )
        facts["routers"] = seen.routed(pairs, how)
        if scores is not None:
            with written_aside(scores) as aside:
                aside.write_text(json.dumps(seen.scored(pairs, how)), encoding="utf-8")
    if as_json:
        print_json(facts)
    else:
        click.echo("\n".join(_lines(facts)))


def _models(file: str) -> list[str]:
    """All models and programs of a spec; none of what is no spec."""
    from ...frontends.source import models
    from ...specs.catalog import find
    from ..read import is_imported

    if is_imported(Path(file)):
        return []
    return models(find(file)[0])


def _sizes(text: str | None) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in (text or "").split(",") if text else []:
        name, _, value = part.partition("=")
        if not value.strip().isdigit() or int(value) < 1:
            raise Diagnostic("E0011", f"`--at {part}` is not NAME=SIZE", help="as in `--at B=8,T=256`")
        sizes[name.strip()] = int(value)
    return sizes


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = [f"{facts['file']}: {facts['kind']}" + (f" of {facts['model']}" if "model" in facts else "")]
    others = [name for name in facts.get("models", ()) if name != facts.get("model")]
    if others:
        lines.append(f"  the file also has {', '.join(others)} (`--model`)")
    if facts.get("doc"):
        lines += [f"  {line}" for line in facts["doc"].splitlines()]
    for title in ("inputs", "states", "random", "outputs", "taps", "dimensions"):
        if facts.get(title):
            lines += [title, columns([[r["name"], r["type"]] for r in facts[title]], indent="  ")]
    lines += [f"requires {text}" for text in facts.get("requires", ())]
    if "parameters" in facts:
        p = facts["parameters"]
        lines.append(f"parameters: {p['elements']:,} in {p['tensors']} tensors, {size_text(p['bytes'])}")
    if "cost" in facts:
        lines += _cost(facts)
    if facts.get("routers"):
        lines += _routers(facts["routers"])
    for name, entry in facts.get("entries", {}).items():
        inner = "\n".join(_lines({"file": name, "kind": "entry", **entry})[1:])
        lines += [f"entry {name}", indent(inner, "  ")]
    for title in ("stages", "flows"):
        if facts.get(title):
            lines += [title, columns([[r["name"], r["type"]] for r in facts[title]], indent="  ")]
    if facts.get("compile"):
        lines += _compile(facts["compile"])
        if facts["compile"]["passes"] and not facts.get("passes"):
            lines.append("  what stands above is the program before these passes; `--pass '…'` shows it after one")
    for row in facts.get("passes", ()):
        where = f" of {row['entry']}" if "entry" in row else ""
        lines.append(f"pass {row['pass']}{where} ({row['contract']}): {row['modified']} modified")
    if "nodes" in facts:
        opset = ", ".join(f"{domain} {version}" for domain, version in facts["opset"].items())
        lines.append(f"{facts['kind']}: opset {opset}; {sum(facts['nodes'].values())} nodes: {_counts(facts['nodes'])}")
    if "size" in facts:
        files = facts.get("files", ())
        lines.append(f"size: {size_text(facts['size'])}" + (f" in {len(files)} files" if len(files) > 1 else ""))
    if facts.get("metadata"):
        lines += ["metadata", columns([[k, v] for k, v in facts["metadata"].items()], indent="  ")]
    return lines


def _cost(facts: dict[str, Any]) -> list[str]:
    from ...ir.analysis.table import human

    rows = facts["cost"]
    sizes = ", ".join(f"{k} = {v}" for k, v in facts["sizes"].items())
    heads = list(rows[0])
    table = [heads, *([human(row[h]) for h in heads] for row in rows)]
    from ...backends.target import default

    where = f" on the target {facts['costed_on']}" if facts["costed_on"] != default() else ""
    return [f"cost{f' at {sizes}' if sizes else ''}{where}", columns(table, right=range(1, len(heads)), indent="  ")]


def _routers(rows: list[dict[str, Any]]) -> list[str]:
    from ..report.routers import ABOUT, HEADS, LOADS, cells, load_rows

    figures = [HEADS, *cells(rows)]
    if "load" not in rows[0]:
        # Only what a run would tell is empty.
        figures = [[*row[:3], *row[-2:]] for row in figures]
        return ["routers", columns(figures, right=range(1, 5), indent="  ")]
    about = fill(ABOUT, 100, initial_indent="  ", subsequent_indent="  ")
    loads = columns([LOADS, *load_rows(rows)], right=range(1, len(LOADS) - 1), indent="  ")
    return ["routers", columns(figures, right=range(1, len(HEADS)), indent="  "), about, "loads", loads]


def _compile(spec: dict[str, Any]) -> list[str]:
    rows = [["weights", spec["weights"]], ["target", spec["target"]], *(["pass", p] for p in spec["passes"])]
    return ["compile block", columns([r for r in rows if r[1]], indent="  ")]


def _counts(table: dict[str, int]) -> str:
    shown = list(table.items())[:8]
    return ", ".join(f"{name} {count}" for name, count in shown) + (", …" if len(table) > len(shown) else "")
