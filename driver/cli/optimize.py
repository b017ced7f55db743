"""``optimize``: fewer tokens for a model that one already has, and the truth about what that cost and gained."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import click

from ...ir.diagnostics import Diagnostic
from .common import SEED, dtype_option, fix_option, json_option, parse_params, parse_passes, print_json, waiting
from .measuring import parse_sizes, rounds_option, size_option, threads_option


@click.command()
@click.option("--pass", "passes", multiple=True, metavar="PASS", help="Apply a pass, as in 'merge_tokens(r=8)'.")
@click.option(
    "--budget", "budgets", multiple=True, metavar="KIND=VALUE",
    help="Search for a schedule that keeps to it, and for the method among those of --pass that say no number: latency=0.6x or"
    " 12ms, flops=0.5x, tokens=64 (the mean over the blocks), fidelity=0.99 (mean cosine of the output). Needs --calib; half of"
    " the examples judge.",
)  # fmt: skip
@click.option(
    "--calib", metavar="DATA",
    help="Examples for the comparison: an .npz of arrays by input name, an .npy, a folder of images, or a .txt with a text on"
    " each line. Without any, inputs are random, and fidelity on them says nothing.",
)  # fmt: skip
@click.option(
    "--tokenizer", metavar="FILE", help="A tokenizer.json for --calib texts. Default: the one beside the model."
)
@click.option(
    "--fit", type=click.Choice(["exact", "resize", "crop"]), default="crop", show_default=True,
    help="How calibration images of another size are brought to the model's.",
)  # fmt: skip
@click.option("--max-length", type=click.IntRange(min=1), help="Cut calibration texts to that many tokens.")
@click.option(
    "--examples", type=click.IntRange(min=1), default=32, show_default=True, help="How many calibration examples are used."
)  # fmt: skip
@size_option
@fix_option
@rounds_option
@threads_option
@click.option("--int8", is_flag=True, help="Also quantize both models with ONNX Runtime's own quantizer, and compare.")
@click.option("--no-memory", is_flag=True, help="Do not measure memory.")
@click.option(
    "-w", "--weights", multiple=True, metavar="F", help="Weights for a spec: a safetensors file, an index, a folder."
)
@click.option("-m", "--model", metavar="NAME", help="The model, where a spec or a folder leaves a choice.")
@click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="Set a static parameter of a spec.")
@dtype_option
@click.option("--opset", type=int, help="ONNX opset. Default: 24; 20 for a quantized file.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="For random inputs and the random baseline.")
@click.option(
    "-o", "--output", metavar="OUT",
    help="Default: the model's name with `.fast.onnx`, in the current folder. /dev/null: keep no file.",
)  # fmt: skip
@click.option("--html", metavar="FILE", help="Also write the report as one self-contained page.")
@json_option
@click.argument("model_file", metavar="MODEL")
def optimize(
    model_file: str, passes: tuple[str, ...], budgets: tuple[str, ...], calib: str | None, tokenizer: str | None, fit: str,
    max_length: int | None, examples: int, sizes: str | None, fix: str | None, rounds: int | None, threads: int | None,
    int8: bool, no_memory: bool,
    weights: tuple[str, ...], model: str | None, params: tuple[str, ...], dtype: str, opset: int | None, seed: int,
    output: str | None, html: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Optimize a model that you have.

    MODEL is an .onnx file, a Hugging Face folder (config.json and safetensors) of a family in the zoo, a .tess spec or the
    name of a shipped one, or torch MLIR text (.mlir).

    Writes an ONNX file that was compared with the torch reference (and with MODEL itself, where that is an .onnx file), and
    reports tokens, FLOPs, time, memory and fidelity next to the original's and to dropping as many tokens at random.
    """
    from ...backends.onnx.target import Onnx
    from ...runtime.files.aside import check_writable
    from ..fit.budget import parse_budget
    from ..optimize import Options, program_path
    from ..optimize import optimize as drive
    from ..read import read_model

    steps = parse_passes(passes)
    out = output or f"{Path(model_file).stem}.fast{Onnx.suffix}"
    kept = out != os.devnull
    if kept and Path(out).suffix != Onnx.suffix:
        raise Diagnostic("E0012", f"`optimize` writes `{Onnx.suffix}` files, but the output is `{out}`")
    for file in (out if kept else None, program_path(out) if kept and budgets else None, html):
        if file is not None:
            check_writable(file)
    if Path(out).resolve() == Path(model_file).resolve():
        raise Diagnostic("E0010", f"`{out}` is the model itself", help="choose another file with `-o`")
    options = Options(
        calib,
        tokenizer,
        fit,
        max_length,
        examples,
        parse_sizes(sizes),
        rounds,
        threads,
        int8,
        not no_memory,
        seed,
        opset,
        parse_budget(budgets) if budgets else None,
    )
    with waiting("optimizing") as progress:
        progress("importing", None, None)
        source = read_model(model_file, model, parse_params(params), list(weights), dtype, parse_sizes(fix, "--fix"))
        report = drive(source, passes=steps or None, output=out, options=options, progress=progress)
    report["made"]["command"] = shlex.join(["tessera", *click.get_current_context().find_root().obj])
    if html is not None:
        _write_html(html, report)
    if as_json:
        print_json(report)
    else:
        _print(report, html)


def _write_html(path: str, report: dict[str, Any]) -> None:
    from ...runtime.files.aside import written_aside
    from ..report.html import page

    with written_aside(path) as aside:
        aside.write_text(page(report), encoding="utf-8")


def _print(report: dict[str, Any], html: str | None) -> None:
    from ..report.text import render
    from .measuring import terminal

    width, color = terminal()
    click.echo(render(report, width, color))
    for name in report["written"]:
        click.echo(f"wrote {name}")
    if html is not None:
        click.echo(f"wrote {html}")
