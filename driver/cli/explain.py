"""``explain``: what a spec or an artifact is."""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import indent
from typing import Any

import click

from ...ir.diagnostics import Diagnostic
from .common import (
    columns,
    dtype_option,
    json_option,
    load_module,
    parse_passes,
    pass_option,
    print_json,
    size_text,
    spec_options,
)


@click.command()
@spec_options
@dtype_option
@pass_option
@click.option("--at", metavar="B=8,T=256", help="Sizes of the free dimensions, for the cost.")
@json_option
def explain(
    file: str,
    model: str | None,
    params: tuple[str, ...],
    dtype: str,
    passes: tuple[str, ...],
    at: str | None,
    as_json: bool,
) -> None:
    """Say what is in a spec or an artifact.

    What it takes and gives, what it costs block by block, and how it was made.
    """
    from ...backends.target import of_file
    from ..compile import apply_passes
    from ..programs import open_program
    from ..report.explain import explain_artifact, explain_module, explain_program
    from ..targets import MANIFEST

    sizes = _sizes(at)
    written = of_file(Path(file)) is not None
    if written and passes:
        raise click.UsageError(f"--pass is for specs, and `{file}` is an artifact; `show` and `optimize` run passes on one")
    facts = explain_artifact(file, sizes) if written else None
    if facts is None:
        whole = os.path.isfile(Path(file, MANIFEST))
        before = open_program(file).program if whole else load_module(file, model, params, dtype)
        module, reports = apply_passes(before, parse_passes(passes))
        found = explain_program(module, sizes) if module.several else explain_module(module, sizes)
        kind = "artifact" if whole else "spec"
        facts = {"kind": kind, "file": file, **found, "passes": [r.to_dict() for r in reports], "models": _models(file)}
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
    return [f"cost{f' at {sizes}' if sizes else ''}", columns(table, right=range(1, len(heads)), indent="  ")]


def _compile(spec: dict[str, Any]) -> list[str]:
    rows = [["weights", spec["weights"]], ["target", spec["target"]], *(["pass", p] for p in spec["passes"])]
    return ["compile block", columns([r for r in rows if r[1]], indent="  ")]


def _counts(table: dict[str, int]) -> str:
    shown = list(table.items())[:8]
    return ", ".join(f"{name} {count}" for name, count in shown) + (", …" if len(table) > len(shown) else "")
