"""``compile``: from a spec to a file."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from ...ir.diagnostics import Diagnostic
from .common import (
    SEED,
    dtype_option,
    json_option,
    parse_params,
    parse_passes,
    pass_option,
    print_json,
    size_text,
    spec_options,
    verify_each_option,
    waiting,
)

if TYPE_CHECKING:
    from ..compile import Artifact

_SUFFIXES = {"onnx": ".onnx", "mlir": ".mlir"}


@click.command("compile")
@spec_options
@click.option("-t", "--target", help="onnx, torch or mlir. Default: the file's compile block, or onnx.")
@pass_option
@click.option("--no-passes", is_flag=True, help="Run none of the passes of the file's compile block.")
@click.option(
    "-w", "--weights", multiple=True, metavar="F",
    help="A safetensors file, a sharded index, or a folder of them. Without any the parameters are initialised from the seed.",
)  # fmt: skip
@click.option("--opset", type=int, help="ONNX opset. Default: 24.")
@dtype_option
@click.option("--no-verify", is_flag=True, help="Do not compare the artifact with the torch reference.")
@verify_each_option
@click.option(
    "--map", "token_map", is_flag=True, help="Expose where merge_tokens put each token, for `run --save-map`."
)
@click.option(
    "--meta", multiple=True, metavar="KEY=VALUE", help="Put a string into the artifact, as in image_mean=0.5,0.5,0.5."
)
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="For initial weights, and the inputs of the comparison."
)
@click.option("-o", "--output", metavar="OUT", help="Default: the model's name, in the current folder.")
@json_option
def compile(
    file: str, model: str | None, params: tuple[str, ...], target: str | None, passes: tuple[str, ...], no_passes: bool,
    weights: tuple[str, ...], opset: int | None, dtype: str, no_verify: bool, verify_each: bool, token_map: bool,
    meta: tuple[str, ...], seed: int, output: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Compile a model to a file.

    FILE may also be an .onnx file, a Hugging Face folder of a family in the zoo, or torch MLIR text.

    An ONNX file; for the target torch a safetensors file that carries its program as source; for the target mlir a text of
    MLIR's torch dialect, with the weights in a safetensors file beside it.

    The result is compared with the torch reference at two sizes before it is written.
    """
    from ..compile import compile as drive
    from ..read import read_model

    if passes and no_passes:
        raise click.UsageError("--pass and --no-passes contradict each other")
    source = read_model(file, model, parse_params(params), list(weights), dtype)
    module = source.module
    steps = [] if no_passes else parse_passes(passes) or None
    if token_map:
        steps = _with_map(steps if steps is not None else list(module.compile.passes) if module.compile else [])
    target = target or (module.compile.target if module.compile else None) or "onnx"
    out = output or f"{module.name}{_SUFFIXES.get(target, '.safetensors')}"
    _check_output(out, target)
    with waiting("compiling") as progress:
        artifact = drive(
            module, target=target, weights=source.weights, passes=steps, opset=opset, seed=seed, verify=not no_verify,
            verify_each=verify_each, metadata=dict(map(_pair, meta)), output=out, progress=progress,
        )  # fmt: skip
    artifact.report.notes[:0] = source.notes
    if as_json:
        print_json(
            {"output": out, "target": artifact.target, "model": artifact.module.name, **artifact.report.to_dict()}
        )
    else:
        _print(artifact, out)


def _print(artifact: Artifact, out: str) -> None:
    text = str(artifact.report)
    if text:
        click.echo(text)
    click.echo(f"wrote {out} ({size_text(artifact.report.size)})")


def _with_map(steps: list[Any]) -> list[Any]:
    """The steps with the token map of ``merge_tokens`` exposed. Raises E0925 when nothing merges."""
    from dataclasses import replace

    if not any(s.name == "merge_tokens" for s in steps):
        raise Diagnostic("E0925", "`--map` needs the pass merge_tokens", help="add --pass 'merge_tokens(r=8)'")
    return [replace(s, options={**s.options, "map": True}) if s.name == "merge_tokens" else s for s in steps]


def _check_output(out: str, target: str) -> None:
    """Refuse early what would fail after minutes of work. Raises E0010, E0012."""
    from ...runtime.files.aside import check_writable

    wanted = _SUFFIXES.get(target, ".safetensors")
    if Path(out).suffix != wanted and not Path(out).is_dir():
        raise Diagnostic(
            "E0012",
            f"the target {target} writes `{wanted}` files, but the output is `{out}`",
            help=f"-o {quote(str(Path(out).with_suffix(wanted)))}",
        )
    check_writable(out)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise Diagnostic("E0011", f"`--meta {text}` is not KEY=VALUE", help="as in `--meta image_mean=0.5,0.5,0.5`")
    if key.startswith("tessera."):
        raise Diagnostic("E0011", f"`{key}` is Tessera's own", help="choose a key that does not start with `tessera.`")
    return key, value
