"""``view``: a program, and what becomes of an input's tokens, as one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ...ir.diagnostics import Diagnostic
from .common import dtype_option, parse_params, parse_passes, pass_option, spec_options, waiting
from .feeding import channels, pair, reading_options
from .measuring import parse_sizes


@click.command()
@spec_options
@dtype_option
@pass_option
@click.option("-w", "--weights", multiple=True, metavar="F", help="Weights for a spec, where an input is to be seen.")
@click.option("--at", metavar="B=8,T=256", help="Sizes of the free dimensions, for shapes and costs. Default: the input's.")
@click.option(
    "-i", "--input", "inputs", multiple=True, metavar="NAME=FILE",
    help="Also show what becomes of its tokens: an image, a text (.txt), an .npz or .npy.",
)  # fmt: skip
@reading_options
@click.option("-o", "--output", metavar="OUT", help="Default: the name of FILE with `.html`, in the current folder.")
def view(
    file: str, model: str | None, params: tuple[str, ...], dtype: str, passes: tuple[str, ...], weights: tuple[str, ...],
    at: str | None, inputs: tuple[str, ...], fit: str, mean: str | None, std: str | None, tokenizer: str | None,
    max_length: int | None, output: str | None,
) -> None:  # fmt: skip
    """Show a program as a page.

    FILE is an artifact, a spec or a model, as for `optimize`. The page has the river of its tokens through the blocks, and every
    statement with shapes, cost and the line it comes from; with --input also what became of each patch or word, and which expert
    it went to. Of a report (what `optimize --json` prints) it is the page of the report.
    """
    from ...runtime.files.aside import check_writable, written_aside

    out = output or f"{Path(file).stem}.html"
    check_writable(out)
    if Path(file).suffix.lower() == ".json":
        from ..report.html import page as report_page

        text = report_page(_report(Path(file)))
    else:
        from ...runtime.inputs import Options
        from ..report.explain import sizes_for
        from ..report.view import page
        from ..seen import Run, see

        with waiting("reading") as progress:
            progress("reading the program", None, None)
            seen = see(Path(file), model, parse_params(params), list(weights), dtype, parse_passes(passes))
            ran = Run()
            if inputs:
                progress("running it on the input", None, None)
                pairs = [pair(given, [v.public for v in seen.module.graph.inputs]) for given in inputs]
                how = Options(
                    fit, channels("--mean", mean), channels("--std", std), tokenizer, max_length, False, seen.metadata, seen.beside
                )
                ran = seen.run(pairs, how)
            sizes = sizes_for(seen.module, {**ran.sizes, **parse_sizes(at, "--at")})
            text = page(seen.module, sizes, ran.steps, ran.shown, ran.routers)
    with written_aside(out) as aside:
        aside.write_text(text, encoding="utf-8")
    click.echo(f"wrote {out}")


def _report(path: Path) -> dict[str, Any]:
    """Raises E0001 no such file, E0014 what no `optimize` printed."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise Diagnostic("E0001", f"there is no file `{path}`") from None
    except (OSError, ValueError) as error:
        raise Diagnostic("E0014", f"`{path}` cannot be read as JSON: {error}") from None
    if not isinstance(found, dict) or not {"verdict", "latency", "fidelity", "made"} <= found.keys():
        raise Diagnostic(
            "E0014", f"`{path}` is no report", help="tessera optimize MODEL --pass PASS --json > report.json writes one"
        )
    return found
