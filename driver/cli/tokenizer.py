"""``tokenizer``: training, encoding, decoding and comparing at the command line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from ...ir.diagnostics import Diagnostic, several
from .common import columns, json_option, parse_params, print_json, waiting

if TYPE_CHECKING:
    from ...ir.tokenizer import Tokenizer
    from ...runtime.tokenizers.engine import Encoded, Row

_ROWS = 512
_NAME = click.option("-n", "--name", metavar="NAME", help="The tokenizer, where the file declares several.")
_PARAMS = click.option(
    "-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="Set a static parameter of the tokenizer."
)
_SIZE = click.option("--size", type=click.IntRange(min=1), help="The member of its family with that many tokens.")


@click.group()
def tokenizer() -> None:
    """Train a tokenizer, encode texts, decode ids, compare.

    FILE is a .tess file that declares a tokenizer, a tokenizer.json or a folder that has one, or a model of SentencePiece.
    """


@tokenizer.command()
@click.argument("file")
@_NAME
@_PARAMS
@json_option
def train(file: str, name: str | None, params: tuple[str, ...], as_json: bool) -> None:
    """Train a tokenizer and write the file that its `from` names.

    The files of `train` are read; what `require` states is measured before anything is written. The same declaration and
    texts give the same file.
    """
    import hashlib

    from ..tokenizers import load_tokenizer, train_tokenizer

    with waiting("training") as progress:
        path, metrics = train_tokenizer(file, name, params=parse_params(params), progress=progress)
    made = load_tokenizer(file, name, params=parse_params(params))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if as_json:
        print_json({"file": str(path), "size": made.size, "sha256": digest, "metrics": metrics})
        return
    click.echo(f"{path}: {made.size} tokens, sha256 {digest}")
    for metric, value in metrics.items():
        click.echo(f"  {metric}: {value:.6g}")


@tokenizer.command()
@click.argument("file")
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@_NAME
@_PARAMS
@_SIZE
@click.option("--bare", is_flag=True, help="Leave out the tokens that `process` puts around a text.")
@click.option("--tokens", is_flag=True, help="Print tokens, not ids.")
@json_option
def encode(
    file: str, texts: tuple[str, ...], name: str | None, params: tuple[str, ...], size: int | None, bare: bool, tokens: bool,
    as_json: bool,
) -> None:
    """Print the ids of texts, a line each.

    Where no text is given, of the lines of stdin.
    --json has the tokens, offsets in code points, words and segments too.
    """
    from ..tokenizers import open_tokenizer

    engine = open_tokenizer(file, name, size, params=parse_params(params))
    surface = {number: text for text, number in engine.vocabulary().items()}
    rows: Iterator[Row] = iter(texts) if texts else _lines()
    found: list[dict[str, Any]] = []
    while batch := list(islice(rows, _ROWS)):
        encoded = engine.encode(batch, around=not bare)
        for row, text in enumerate(batch):
            ids = encoded.ids[row][encoded.mask[row]].tolist()
            if as_json:
                found.append({"text": _shown(text), **_row(encoded, row, surface)})
            else:
                click.echo(" ".join(surface[number] for number in ids) if tokens else " ".join(map(str, ids)))
    if as_json:
        print_json(found)


@tokenizer.command()
@click.argument("file")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_NAME
@_PARAMS
@_SIZE
@click.option("--special", is_flag=True, help="Print special tokens too.")
@json_option
def decode(
    file: str, ids: tuple[str, ...], name: str | None, params: tuple[str, ...], size: int | None, special: bool, as_json: bool
) -> None:
    """Print the text of ids.

    Where none is given, of each line of stdin.
    Bytes that are no Unicode are written as they are; --json shows them as U+FFFD.
    """
    from ..tokenizers import open_tokenizer

    engine = open_tokenizer(file, name, size, params=parse_params(params))
    lines = iter([" ".join(ids)]) if ids else (_shown(line) for line in _lines())
    rows = enumerate(lines, 1)
    found: list[dict[str, Any]] = []
    while batch := [_numbers(line, None if ids else place) for place, line in islice(rows, _ROWS)]:
        for row, text in zip(batch, engine.decode(batch, special=special), strict=True):
            if as_json:
                found.append({"ids": row, "text": _shown(text)})
            else:
                sys.stdout.buffer.write(text + b"\n")
    if as_json:
        print_json(found)


@tokenizer.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--corpus", required=True, metavar="PATH", help="A file of texts, a line each, or a folder of such.")
@click.option(
    "--by", type=click.Choice(["script", "file", "folder"]), default="script", show_default=True,
    help="What lines are grouped by: the script of most letters, their file, or the folder of the corpus that it is in.",
)  # fmt: skip
@click.option("--reference", metavar="NAME", help="The file that says the same as the others: tokens for one of its own.")
@click.option("--show", type=click.IntRange(0, 100), default=3, show_default=True, help="Lines that are cut differently.")
@click.option("--html", metavar="FILE", help="Also write the comparison as one self-contained page.")
@json_option
def compare(
    files: tuple[str, ...], corpus: str, by: str, reference: str | None, show: int, html: str | None, as_json: bool
) -> None:
    """Compare tokenizers on a corpus.

    Tokens by characters, bytes and words, what is unknown, what comes back from its ids, megabytes encoded in a second (here,
    now), and the lines that are cut as the first tokenizer cuts them. FILE:NAME is one of several in a file, and
    'FILE:NAME(vocab=4096)' one with these static parameters.
    """
    from pathlib import Path

    from ...runtime.files.aside import check_writable, written_aside
    from ..report.tokenizers import HEADS, Grouping, corpus_of, page, premiums, script, told, variation
    from ..report.tokenizers import compare as compared

    if html is not None:
        check_writable(Path(html))
    root = Path(corpus)
    paths = corpus_of(root)
    base = root if root.is_dir() else root.parent

    def place(file: Path, text: str) -> str:
        below = file.relative_to(base)
        return str(below) if by == "file" or reference is not None or len(below.parts) == 1 else below.parts[0]

    found = [_chosen(text) for text in files]
    names = [one.name for one in found]
    loaded = dict(zip(names if len(set(names)) == len(names) else files, found, strict=True))
    group: Grouping = script if by == "script" and reference is None else place
    with waiting("encoding"):
        made = compared(loaded, paths, group, show)
    priced = premiums(made, reference) if reference is not None else {}
    tables = told(made, by, priced)
    if html is not None:
        with written_aside(Path(html)) as aside:
            aside.write_text(page(made, tables, corpus), encoding="utf-8")
    if as_json:
        groups = {
            name: {key: {"texts": c.texts, "tokens": c.tokens, **c.metrics()} for key, c in counts.items()}
            for name, counts in sorted(made.groups.items())
        }  # fmt: skip
        samples = [{"text": text, "pieces": pieces} for text, pieces in made.samples]
        facts = {"premiums": priced, "variation": variation(priced), "samples": samples}
        print_json({"tokenizers": made.rows(), "groups": groups, **facts})
        return
    click.echo(columns([["", *HEADS], *tables.rows], right=range(1, 9)))
    click.echo("\n" + columns([tables.group_heads, *tables.groups], right=range(1, 2 + len(made.totals))))
    for _, pieces in made.samples:
        click.echo()
        for name, parts in pieces.items():
            click.echo(f"{name}: {_coloured(parts)}")


@tokenizer.command()
@click.argument("file")
@_NAME
@_PARAMS
@json_option
def report(file: str, name: str | None, params: tuple[str, ...], as_json: bool) -> None:
    """Measure what a tokenizer requires.

    On the files that `measure` names, or else those of the training; the exit code is 1 where a `require` does not hold.
    """
    from ...runtime.tokenizers.engine import tables_of
    from ...runtime.tokenizers.metrics import measured
    from ..report.measure import machine
    from ..tokenizers import load_tokenizer

    loaded = load_tokenizer(file, name, params=parse_params(params))
    with waiting("measuring") as progress:
        found = measured(tables_of(loaded), loaded, progress)
    where = machine(1)
    if as_json:
        gates = [
            {"metric": g.metric, "op": g.op, "bound": g.bound, "message": g.message, "holds": g.holds(found.metrics[g.metric])}
            for g in loaded.gates
        ]  # fmt: skip
        print_json(
            {"metrics": found.metrics, "counts": found.counts, "seconds": found.seconds, "machine": where, "requires": gates}
        )
        raise click.exceptions.Exit(1 if found.broken else 0)
    rows = {**found.metrics, **found.counts, "seconds": found.seconds}
    click.echo(columns([[metric, f"{value:.6g}"] for metric, value in rows.items()], right=(1,)))
    click.echo(f"measured on {where['cpu']}")
    if found.broken:
        raise several(found.broken)


def _chosen(text: str) -> Tokenizer:
    """The tokenizer that `FILE`, `FILE:NAME` or `FILE:NAME(vocab=4096)` means."""
    from ...frontends.source import parse_pass
    from ..tokenizers import load_tokenizer

    file, colon, call = text.partition(".tess:")
    if not colon:
        return load_tokenizer(text)
    one = parse_pass(call, text)
    return load_tokenizer(f"{file}.tess", one.name, params=dict(one.options))


def _coloured(pieces: list[str]) -> str:
    """Pieces in turns of two colours; between bars where there are none."""
    shown = [piece.replace("\t", " ") for piece in pieces]
    if not sys.stdout.isatty():
        return "|".join(shown)
    return "".join(click.style(piece, bg=("blue", "magenta")[i % 2], fg="white") for i, piece in enumerate(shown))


def _lines() -> Iterator[bytes]:
    """The lines of stdin, without their ends."""
    if sys.stdin.isatty():
        raise Diagnostic("E0011", "nothing is given", help="write it behind the file, or pipe lines into the command")
    return (line.rstrip(b"\r\n") for line in sys.stdin.buffer)


def _shown(text: Row) -> str:
    return text if isinstance(text, str) else text.decode(errors="replace")


def _row(encoded: Encoded, row: int, surface: dict[int, str]) -> dict[str, Any]:
    """What is known of the tokens of a text, without its filling."""
    kept = encoded.mask[row]
    fields = {name: getattr(encoded, name)[row][kept].tolist() for name in ("ids", "offsets", "words", "segments")}
    return {"tokens": [surface[number] for number in fields["ids"]], **fields}


def _numbers(text: str, line: int | None) -> list[int]:
    """Ids in a text: digits between white space, commas and brackets. Raises E0011 for other words."""
    words = re.split(r"[\s,\[\]]+", text.strip())
    wrong = next((word for word in words if word and not re.fullmatch(r"-?[0-9]{1,18}", word)), None)
    if wrong is not None:
        where = "" if line is None else f" on line {line}"
        raise Diagnostic("E0011", f"`{wrong:.40}`{where} is no id", help="ids are numbers, as in `101 7592 102`")
    return [int(word) for word in words if word]
