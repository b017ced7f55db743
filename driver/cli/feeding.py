"""What the commands share that read an input from files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def reading_options(command: F) -> F:
    """``--fit --mean --std --tokenizer --max-length``: how images and texts become arrays."""
    for decorate in (
        click.option("--max-length", type=click.IntRange(min=1), help="Cut texts to that many tokens."),
        click.option(
            "--tokenizer", metavar="FILE", help="A tokenizer.json for .txt. Default: the one beside the artifact."
        ),
        click.option("--std", metavar="R,G,B", help="Divides them. Default: the artifact's image_std, or ImageNet's."),
        click.option(
            "--mean", metavar="R,G,B", help="Subtracted from pixels in 0…1. Default: the artifact's image_mean, or ImageNet's."
        ),
        click.option(
            "--fit", type=click.Choice(["exact", "resize", "crop"]), default="exact", show_default=True,
            help="How an image of another size is brought to the model's: not at all; both sides scaled; the middle cut out.",
        ),
    ):  # fmt: skip
        command = decorate(command)
    return command


def pair(text: str, known: Sequence[str]) -> tuple[str, str]:
    """The input and the file of ``NAME=FILE``; a name may hold an `=` itself."""
    name, equals, file = text.partition("=")
    longest = max((n for n in known if text.startswith(f"{n}=")), key=len, default=None)
    if longest is not None:
        return longest, text[len(longest) + 1 :]
    return (name, file) if equals else ("", text)


def channels(option: str, text: str | None) -> tuple[float, ...] | None:
    """A number a channel. Raises E0011."""
    from ...runtime.images import numbers

    return None if text is None else numbers(option, text)
