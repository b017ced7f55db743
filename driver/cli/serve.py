"""``serve``: a program with a cache behind the completions API of OpenAI."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from ...ir.diagnostics import Diagnostic
from .common import waiting
from .generate import decoding_options, draft_options, growth_of, program_options, read_text, tokenizer_of


@click.command()
@click.argument("artifact")
@decoding_options
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="The port; 0 takes a free one.")
@click.option("--name", metavar="MODEL", help="What clients call the model. Default: the folder's name.")
@click.option("--rows", type=click.IntRange(min=1), default=4, show_default=True, help="How many requests at a time.")
@click.option("--queue", type=click.IntRange(min=0), default=64, show_default=True, help="How many more may wait.")
@click.option(
    "--chunk", type=click.IntRange(min=1), metavar="TOKENS",
    help="How many tokens of prompts are read between two steps of the other rows. Default: whole prompts.",
)
@draft_options
@program_options
@click.option("--chat-template", metavar="FILE", help="A Jinja template of conversations, for /v1/chat/completions.")
def serve(
    artifact: str, tokenizer: str | None, eos: tuple[str, ...], capacity: int | None, threads: int | None, host: str, port: int,
    name: str | None, rows: int, queue: int, chunk: int | None, draft: str | None, shape: str, budget: int,
    threshold: float | None, confidence: float | None, chat_template: str | None,
) -> None:  # fmt: skip
    """Answer requests in the form of OpenAI's API.

    ARTIFACT is the folder of a compiled program with the entry points `prefill` and `decode`. There are /v1/completions, streamed
    too, and /v1/models; SIGINT and SIGTERM end it after the answers that are on their way. Whoever can reach the port can use it.
    """
    try:
        from ..serve.run import bound, run, service
    except ImportError as error:
        raise Diagnostic(
            "E0015", f"serving needs the package `{error.name}`", help="pip install 'tessera[serve]'"
        ) from None
    growth = growth_of(draft, shape, budget)
    if draft is not None:
        if rows > 1 and click.get_current_context().get_parameter_source("rows") is ParameterSource.COMMANDLINE:
            raise Diagnostic("E0011", f"with a draft one request runs at a time, not {rows}", help="leave out `--rows`")
        rows = 1
    template = read_text(chat_template) if chat_template is not None else None
    listening = bound(host, port)
    with waiting("loading") as progress:
        progress("loading the artifact", None, None)
        served = service(
            artifact, tokenizer=tokenizer_of(artifact, tokenizer), name=name or Path(artifact).resolve().name,
            eos=list(eos) or None, rows=rows, queue=queue, capacity=capacity or 2048, threads=threads, template=template,
            chunk=chunk, draft=draft, growth=growth, threshold=threshold, confidence=confidence,
        )  # fmt: skip
    address = f"[{host}]" if ":" in host else host
    click.echo(f"{served.reader.name} at http://{address}:{listening.getsockname()[1]}/v1")
    run(served, listening)
