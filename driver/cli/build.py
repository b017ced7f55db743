"""``compile``: from a spec to a file."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from ...ir.diagnostics import Diagnostic
from .common import (
    SEED,
    dtype_option,
    fix_option,
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
from .measuring import parse_sizes

if TYPE_CHECKING:
    from ...ir.compiling import PassSpec
    from ...ir.graph import Module
    from ..compile import Artifact


class Targeted(click.Command):
    """A command with ``--target``, and a flag for each option of each target. Which there are is found out when somebody gives
    the command or asks what it does, not when it is listed."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        own = super().get_params(ctx)
        place = next(i for i, p in enumerate(own) if p.name == "passes")
        return [*own[:place], *self._flags, *own[place:]]

    @cached_property
    def _flags(self) -> list[click.Parameter]:
        from ...backends.target import default, registry
        from ...ir.options import options_of

        targets = registry()
        text = f"Default: the file's compile block, what OUT ends with, or {default()}."
        flags: list[click.Parameter] = [click.Option(["-t", "--target"], metavar="|".join(targets), help=text)]
        for name in dict.fromkeys(n for cls in targets.values() for n in options_of(cls)):
            having = [(t, options_of(cls)[name]) for t, cls in targets.items() if name in options_of(cls)]
            first = having[0][1]
            whose = f" ({', '.join(t for t, _ in having)})" if len(targets) > len(having) else ""
            flag, kind = f"--{name.replace('_', '-')}", type(first.default) if first.default is not None else str
            text = f"{first.doc}{whose}. Default: {first.default}."
            flags.append(click.Option([flag, name], type=kind, help=text))
        return flags

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What each target writes, one a line."""
        from ...backends.target import registry

        rows = [
            f"  {name}: {cls.summary()}{f' Running it needs {cls.needs}.' if cls.needs else ''}"
            for name, cls in registry().items()
        ]
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text("\n".join(["\b", "Targets:", *rows]))


@click.command("compile", cls=Targeted)
@spec_options
@pass_option
@click.option("--no-passes", is_flag=True, help="Run none of the passes of the file's compile block.")
@click.option(
    "-w", "--weights", multiple=True, metavar="F",
    help="A safetensors file, a sharded index, or a folder of them. Without any the parameters are initialised from the seed.",
)  # fmt: skip
@dtype_option
@fix_option
@click.option(
    "--allow-host", is_flag=True, help="Import and run the Python functions of a pipeline whose outputs are measured."
)
@click.option("--no-verify", is_flag=True, help="Do not compare the artifact with the torch reference.")
@click.option("--size", "sizes", metavar="B=8,T=128", help="Sizes of the free dimensions that the comparison keeps to.")
@verify_each_option
@click.option(
    "--map", "token_map", is_flag=True, help="Expose where each token went, for `run --save-map`."
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
    weights: tuple[str, ...], dtype: str, fix: str | None, no_verify: bool, sizes: str | None, verify_each: bool,
    allow_host: bool, token_map: bool, meta: tuple[str, ...], seed: int, output: str | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Compile a model to a file.

    FILE may also be an .onnx file, a Hugging Face folder of a family in the zoo, or torch MLIR text.

    The result is compared with the torch reference at two sizes before it is written.
    """
    from ..compile import compile as drive
    from ..read import read_model
    from ..targets import check_output, chosen

    if passes and no_passes:
        raise click.UsageError("--pass and --no-passes contradict each other")
    if sizes and no_verify:
        raise click.UsageError("--size is for the comparison, which --no-verify leaves out")
    given = parse_sizes(sizes)
    source = read_model(file, model, parse_params(params), list(weights), dtype, parse_sizes(fix, "--fix"))
    module = source.module
    steps = [] if no_passes else parse_passes(passes) or None
    if token_map:
        steps = _with_map(steps if steps is not None else list(module.compile.passes) if module.compile else [])
    goal = chosen(module, target, options, output)
    several = module.several or _splits(module, steps)
    out = output or (module.name if several else f"{module.name}{goal.suffix}")
    check_output(goal, out, several)
    with waiting("compiling") as progress:
        artifact = drive(
            module, target=goal.name, weights=source.weights, passes=steps, seed=seed, verify=not no_verify,
            sizes=given, verify_each=verify_each, allow_host=allow_host,
            metadata=dict(map(_pair, meta)), output=out, progress=progress, **options,
        )  # fmt: skip
    artifact.report.notes[:0] = source.notes
    if as_json:
        print_json(
            {"output": out, "target": artifact.target, "model": artifact.module.name, **artifact.report.to_dict()}
        )
    else:
        _print(artifact, out)


def _splits(module: Module, steps: list[PassSpec] | None) -> bool:
    """Whether a pass of those that are given, or else of the `compile` block, makes several entry points."""
    from ...passes.engine import find

    chosen = steps if steps is not None else list(module.compile.passes) if module.compile else []
    return any(find(step.name, step.span).splits for step in chosen)


def _print(artifact: Artifact, out: str) -> None:
    text = str(artifact.report)
    if text:
        click.echo(text)
    click.echo(f"wrote {out} ({size_text(artifact.report.size)})")


def _with_map(steps: list[Any]) -> list[Any]:
    """The steps with the token map of those that reduce tokens exposed. Raises E0925 when none does."""
    from dataclasses import replace

    from ...ir.options import options_of
    from ...passes.engine import find

    mapping = {s.name for s in steps if "map" in options_of(find(s.name, s.span))}
    if not mapping:
        raise Diagnostic(
            "E0925", "`--map` needs a pass that reduces tokens, such as merge_tokens", help="add --pass 'merge_tokens(r=8)'"
        )
    return [replace(s, options={**s.options, "map": True}) if s.name in mapping else s for s in steps]


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise Diagnostic("E0011", f"`--meta {text}` is not KEY=VALUE", help="as in `--meta image_mean=0.5,0.5,0.5`")
    if key.startswith("tessera."):
        raise Diagnostic("E0011", f"`{key}` is Tessera's own", help="choose a key that does not start with `tessera.`")
    return key, value
