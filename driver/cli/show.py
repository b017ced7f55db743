"""``show``: a model as source, at any stage of its pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...ir.diagnostics import Diagnostic, did_you_mean
from .common import (
    dtype_option,
    json_option,
    load_module,
    parse_passes,
    pass_option,
    print_json,
    spec_options,
    verify_each_option,
)

if TYPE_CHECKING:
    from ...ir.compiling import PassSpec
    from ...ir.graph import Module
    from ...passes.engine import Pass
    from ...passes.report import Report


@click.command()
@spec_options
@dtype_option
@pass_option
@click.option("--after", metavar="PASS", help="Stop after this pass.")
@click.option("--inlined", is_flag=True, help="Print what the compiler makes of it: functions inlined, `repeat` unrolled.")
@click.option("--each", is_flag=True, help="Print the model before the first pass and after each one.")
@click.option("--why", metavar="RULE", help="Say where the rewrite rule RULE matches, and where it nearly does.")
@verify_each_option
@json_option
def show(
    file: str, model: str | None, params: tuple[str, ...], dtype: str, passes: tuple[str, ...], after: str | None,
    inlined: bool, each: bool, why: str | None, verify_each: bool, as_json: bool,
) -> None:  # fmt: skip
    """Print a model or a tokenizer as source.

    Without an option the program as it is written. --inlined, a static parameter and passes show what the compiler makes of it;
    --after and --each run the passes of the file's compile block. A tokenizer, also a tokenizer.json, is shown with all its stages.
    """
    from ..tokenizers import is_tokenizer

    if is_tokenizer(file, model):
        _tokenizer(file, model, as_json)
        return
    module = load_module(file, model, params, dtype)
    steps = parse_passes(passes)
    if not steps and (after or each):
        steps = list(module.compile.passes) if module.compile is not None else []
    if after is not None:
        steps = _until(steps, after)
    if why is not None:
        _why(module, steps, why, as_json)
        return
    if not (steps or each or after or inlined or params or dtype != "f32"):
        written = _written(file)
        if written is not None:
            if as_json:
                print_json({"after": None, "report": None, "text": "", "source": written})
            else:
                click.echo(written.rstrip())
            return
    stages = _run(module, steps, verify_each)
    if each:
        _print_stages(stages, as_json)
    elif as_json:
        print_json(stages[-1])
    else:
        click.echo(stages[-1]["source"].rstrip())


def _tokenizer(file: str, name: str | None, as_json: bool) -> None:
    from ...frontends.source import print_tokenizer
    from ..tokenizers import load_tokenizer

    text = print_tokenizer(load_tokenizer(file, name))
    if as_json:
        print_json({"after": None, "report": None, "text": "", "source": text})
    else:
        click.echo(text.rstrip())


def _written(file: str) -> str | None:
    """The text of a spec; None for a model that is imported."""
    from ...frontends.source.syntax.parser import read_source
    from ...specs.catalog import find
    from ..read import is_imported

    if is_imported(Path(file)):
        return None
    return read_source(find(file)[0])


def _until(steps: list[PassSpec], after: str) -> list[PassSpec]:
    from ...passes.engine import find
    from ..compile import parse_pass

    last = parse_pass(after, "--after")
    for i, step in enumerate(steps):
        if find(step.name, step.span) is find(last.name):
            return steps[: i + 1]
    # A pass that is not in the pipeline is run by itself: `show vit --after dce`.
    if not steps:
        return [last]
    names = [s.name for s in steps]
    raise Diagnostic(
        "E0013", f"the pipeline has no pass `{after}`", help=did_you_mean(after, names) or f"it runs {', '.join(names)}"
    )


def _run(module: Module, steps: list[PassSpec], verify_each: bool) -> list[dict[str, Any]]:
    from ..compile import apply_passes

    stages: list[dict[str, Any]] = [{"after": None, "report": None, "text": "", "source": _source(module)}]

    def record(step: Pass, report: Report, module: Module) -> None:
        stages.append({"after": step.name, "report": report.to_dict(), "text": str(report), "source": _source(module)})

    apply_passes(module, steps, verify_each=verify_each, after=record)
    return stages


def _source(module: Module) -> str:
    """A module as source, with `repeat` where its blocks are equal and that reads back as the same module."""
    from ...frontends.source import loads, print_module
    from ...frontends.source.format.printer import print_rolled

    plain, text = print_module(module), print_rolled(module)
    if text == plain:
        return plain
    try:
        return text if loads(text, model=module.name) == module else plain
    except Diagnostic:
        return plain


def _print_stages(stages: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json([{k: v for k, v in stage.items() if k != "text"} for stage in stages])
        return
    for stage in stages:
        title = f"after {stage['after']}" if stage["after"] else "before any pass"
        click.echo(f"# {f' {title} ':-^100}")
        for line in stage["text"].splitlines():
            click.echo(f"# {line}")
        click.echo(f"{stage['source'].rstrip()}\n")


def _why(module: Module, steps: list[PassSpec], name: str, as_json: bool) -> None:
    """Where a rule matches after the steps; if nowhere, what came closest."""
    from ...ir.library import rule
    from ...passes.recover.composites import explain
    from ..compile import apply_passes

    found = explain(apply_passes(module, steps)[0], rule(name, module))
    if not as_json:
        click.echo(str(found))
        return
    near = found.nearest
    print_json(
        {
            "rule": found.rule,
            "matches": [None if span is None else str(span) for span in found.matches],
            "nearest": near
            and {"matched": near.matched, "of": near.size, "span": str(near.span), "reason": near.reason},
        }
    )
