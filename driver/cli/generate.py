"""``generate``: a program with a cache goes on with a prompt."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from ...ir.diagnostics import Diagnostic
from .common import json_option, print_json, waiting
from .measuring import threads_option

if TYPE_CHECKING:
    from ...runtime.generate.run import Generation
    from ...runtime.generate.speculative.tree import Growth

F = TypeVar("F", bound=Callable[..., Any])


def decoding_options(command: F) -> F:
    """``--tokenizer --eos --capacity --threads``: what generating and serving need alike."""
    for decorate in (
        threads_option,
        click.option(
            "--capacity", type=click.IntRange(min=1), metavar="TOKENS",
            help="How many tokens a row of the cache holds, prompt included.",
        ),
        click.option(
            "--eos", multiple=True, metavar="TOKEN",
            help="A token that ends a text, as the tokenizer spells it. Default: what the files beside the tokenizer say.",
        ),
        click.option("--tokenizer", metavar="FILE", help="A tokenizer.json or its folder. Default: in the artifact's folder."),
    ):  # fmt: skip
        command = decorate(command)
    return command


def draft_options(command: F) -> F:
    """``--draft --shape --budget``: a smaller program that proposes tokens."""
    for decorate in (
        click.option("--budget", type=click.IntRange(min=1), default=4, show_default=True, help="How many tokens a draft has."),
        click.option(
            "--shape", type=click.Choice(["chain", "tree", "dynamic"]), default="chain", show_default=True, help="Of drafts."
        ),
        click.option(
            "--draft", metavar="FOLDER", help="A smaller program that proposes tokens, which the model reads several at once."
        ),
    ):  # fmt: skip
        command = decorate(command)
    return command


def program_options(command: F) -> F:
    """``--threshold --confidence``: of programs with more entry points than two."""
    for decorate in (
        click.option(
            "--confidence", type=float, metavar="CHANCE",
            help="Of a program that writes groups of tokens: a group goes on where its chance to is higher; 1 for one token each.",
        ),
        click.option(
            "--threshold", type=float, metavar="CHANCE",
            help="Of a program of two models and a router: the large model is asked where the router gives more; 1 for never.",
        ),
    ):  # fmt: skip
        command = decorate(command)
    return command


def growth_of(draft: str | None, shape: str, budget: int) -> Growth:
    """How drafts grow. Raises E0011 where that is said, and there is none."""
    from ...runtime.generate.speculative.tree import Growth

    source = click.get_current_context().get_parameter_source
    idle = next((name for name in ("shape", "budget") if source(name) is ParameterSource.COMMANDLINE), None)
    if draft is None and idle is not None:
        raise Diagnostic("E0011", f"`--{idle}` is of drafts, and there is none", help="`--draft FOLDER`, a smaller program")
    return Growth(shape, budget)


@click.command()
@click.argument("artifact")
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="What to go on with; several go on side by side.")
@click.option("--prompt-file", "files", multiple=True, metavar="FILE", help="A text file as a prompt; - is the standard input.")
@decoding_options
@click.option("-n", "--max-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="How many to make at most.")
@click.option("--stop", multiple=True, metavar="TEXT", help="A text that ends a completion, and is no part of it.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 takes the best token; 1 draws by the model.")
@click.option("--top-k", type=int, default=0, show_default=True, help="Draw from the K best tokens only; 0 for all.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="From the best whose probabilities sum to P.")
@click.option("--min-p", type=float, default=0.0, show_default=True, help="From those of at least this share of the best one.")
@click.option("--repetition-penalty", type=float, default=1.0, show_default=True, help="Above 1: tokens seldom come twice.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of the draws.")
@draft_options
@program_options
@click.option("--rows", type=click.IntRange(min=1), default=8, show_default=True, help="How many prompts at a time.")
@json_option
def generate(
    artifact: str, prompts: tuple[str, ...], files: tuple[str, ...], tokenizer: str | None, eos: tuple[str, ...],
    capacity: int | None, threads: int | None, max_tokens: int, stop: tuple[str, ...], temperature: float, top_k: int,
    top_p: float, min_p: float, repetition_penalty: float, seed: int, draft: str | None, shape: str, budget: int,
    threshold: float | None, confidence: float | None, rows: int, as_json: bool,
) -> None:  # fmt: skip
    """Go on with a prompt, token by token.

    ARTIFACT is the folder of a compiled program with the entry points `prefill` and `decode`. The text comes on stdout as it is
    made, and how fast on stderr.
    """
    from ...runtime.generate.run import Generation
    from ...runtime.generate.sampling import Sampling
    from ..generating import decodable

    growth = growth_of(draft, shape, budget)
    sampling = Sampling(repetition_penalty, temperature, top_k, top_p, min_p, seed)
    texts = [*prompts, *(read_text(file) for file in files)]
    if not texts:
        raise Diagnostic("E0011", "there is no prompt", help="as in `--prompt 'Once upon a time'`, or `--prompt-file FILE`")
    with waiting("loading") as progress:
        progress("loading the artifact", None, None)
        generation = Generation(
            decodable(artifact, threads), texts, tokenizer=tokenizer_of(artifact, tokenizer), eos=list(eos) or None, rows=rows,
            capacity=capacity, max_tokens=max_tokens, stop=stop, sampling=sampling,
            draft=(decodable(draft, threads), growth) if draft is not None else None, threshold=threshold,
            confidence=confidence,
        )  # fmt: skip
    start = time.perf_counter()
    first = _show(generation, len(texts), silent=as_json) - start
    seconds = time.perf_counter() - start
    made = sum(len(ticket.tokens) for ticket in generation.tickets)
    if as_json:
        counted = ["asked"] if threshold is not None else ["passes"] if draft is not None or confidence is not None else []
        completions = [
            {"prompt_tokens": len(c.prompt), "tokens": c.tokens, "text": c.text, "finish": c.finish}
            | {name: getattr(c, name) for name in counted}
            for c in generation.completions()
        ]
        times = {"seconds": round(seconds, 4), "first_token_seconds": round(first, 4)}
        print_json({"completions": completions, "tokens": made, **times, "tokens_per_second": round(made / seconds, 2)})
    else:
        passes = sum(ticket.passes for ticket in generation.tickets)
        further = ""
        if draft is not None:
            further = f"; {(made - len(texts)) / max(passes, 1):.2f} a pass of the model"
        elif confidence is not None:
            further = f"; {made / (passes + len(texts)):.2f} a group"
        elif threshold is not None:
            further = f"; the large model chose {sum(ticket.asked for ticket in generation.tickets)}"
        click.echo(f"{made} tokens, {made / seconds:.1f} tokens/s; the first after {first * 1e3:.0f} ms{further}", err=True)


def tokenizer_of(artifact: str, given: str | None) -> str:
    """The tokenizer that is named, or the one in the artifact's folder. Raises E0924 where there is none."""
    beside = Path(artifact, "tokenizer.json")
    if given is None and not beside.is_file():
        raise Diagnostic(
            "E0924", f"there is no tokenizer at `{beside}`",
            help="name the one that belongs to the weights: `--tokenizer path/to/tokenizer.json`",
        )  # fmt: skip
    return given if given is not None else str(beside)


def read_text(file: str) -> str:
    """The text of a file. Raises E0001, E0920."""
    if file == "-":
        return sys.stdin.read()
    try:
        return Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Diagnostic("E0001", f"there is no file `{file}`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Diagnostic("E0920", f"`{file}` is not UTF-8 text: {error}") from None


def _show(generation: Generation, count: int, silent: bool) -> float:
    """Print completions in order, the first that is not done while it comes; the time of the first token."""
    held: list[list[str]] = [[] for _ in range(count)]
    done = [False] * count
    shown, first = 0, 0.0
    for piece in generation:
        first = first or time.perf_counter()
        held[piece.prompt].append(piece.text)
        done[piece.prompt] = piece.finish is not None
        while not silent and shown < count and (held[shown] or done[shown]):
            click.echo("".join(held[shown]), nl=False)
            held[shown].clear()
            if not done[shown]:
                break
            click.echo("\n" if shown + 1 < count else "")
            shown += 1
        sys.stdout.flush()
    return first
