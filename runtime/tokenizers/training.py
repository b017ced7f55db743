"""Training the tables of a declaration with `tokenizers`, and laying out ids: special tokens where they are declared, injected
ones behind what was trained, the rest filled up to a round number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from ...ir.diagnostics import Diagnostic, Span
from ...ir.tokenizer import Added, Part, Tokenizer
from .engine import folder_of
from .files import Tables, write_json
from .octets import LETTERS, is_octets
from .octets_training import check_octets_training, learn_octets
from .pieces import is_pieces
from .pieces_training import check_pieces, train_pieces
from .trainers import OPTIONS, Trained, check_options, learn

Progress = Callable[[str, int | None, int | None], None]


def corpus_files(tokenizer: Tokenizer, pattern: str, span: Span | None = None) -> list[Path]:
    """The files that a pattern names, in order. Raises E0005 for one outside of the project, E1010 for none."""
    return files_below(folder_of(tokenizer), pattern, span)


def files_below(place: Path, pattern: str, span: Span | None = None) -> list[Path]:
    """As :func:`corpus_files`, from a folder."""
    folder = place.resolve()
    parts = Path(pattern).parts
    if Path(pattern).is_absolute() or ".." in parts:
        raise Diagnostic(
            "E0005", f'`"{pattern}"` is outside of the project', span,
            help="a program may only read files in the folder of its main file, or below it",
        )  # fmt: skip
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    outside = next((path for path in files if not path.resolve().is_relative_to(folder)), None)
    if outside is not None:
        raise Diagnostic("E0005", f"`{outside.name}` is a link to a file outside of the project", span)
    if not files:
        raise Diagnostic("E1010", f'there is no file `"{pattern}"` in `{place}`', span)
    return files


def texts_of(files: Iterable[Path], progress: Progress | None = None) -> Iterator[str]:
    """The lines of files, with their ends. Raises E1007 for a file that is not UTF-8."""
    files = list(files)
    total = sum(path.stat().st_size for path in files)
    done = 0
    for path in files:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                done += len(line)
                if progress is not None and number % 4096 == 1:
                    progress(f"reading {path.name}", done, total)
                try:
                    yield line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise Diagnostic(
                        "E1007", f"`{path.name}` is not UTF-8: byte 0x{line[error.start]:02x} on line {number}",
                        help="save the file as UTF-8, or leave it out",
                    ) from None  # fmt: skip


def check_training(tokenizer: Tokenizer) -> None:
    """What can be told of a training without its corpus.

    Raises:
        Diagnostic: E1010 where nothing says how many tokens there are to be; E1002, E1005 for options; E1004 for stages that no
            model of SentencePiece has.
    """
    model = tokenizer.model
    wanted = model["vocab"]
    if wanted is None and (model.name != "longest" or is_pieces(tokenizer)):
        raise Diagnostic(
            "E1010", f"`model {model.name}` says nothing of how many tokens are to be trained", model.span,
            help=f"write `model {model.name}(vocab=8192)`",
        )  # fmt: skip
    if is_pieces(tokenizer):
        check_pieces(tokenizer)
        return
    if is_octets(tokenizer):
        check_octets_training(tokenizer)
    else:
        check_options(tokenizer, None if wanted is None else wanted - len(_inside(tokenizer, wanted)))
    if wanted is None:
        return
    bytes_ = any(one.name in ("byte_level", "bytes") for one in (*tokenizer.normalize, *tokenizer.split))
    if bytes_ and model.name == "bpe" and not model["prefix"]:
        for size in (wanted, *tokenizer.family):
            if size < len(LETTERS) + len(_inside(tokenizer, size)):
                raise _too_few(tokenizer, size, len(LETTERS), "bytes")
    _check_declared(tokenizer, wanted)


def _check_declared(tokenizer: Tokenizer, wanted: int) -> None:
    """Raises E1005 for ids, and for a size to fill the vocabulary up to, that are wrong whatever is trained."""
    behind = sorted((token for token in tokenizer.added if (token.id or 0) >= wanted), key=lambda token: token.id or 0)
    size = wanted if not behind else (behind[-1].id or 0) + 1
    if tokenizer.round is not None:
        if tokenizer.round.name == "size" and tokenizer.round["of"] < size:
            raise _too_many(tokenizer.round, size, tokenizer.round["of"])
        return
    # Injected tokens without an id take the next ones.
    free = sum(token.id is None and not token.special for token in tokenizer.added)
    for place, token in enumerate(behind):
        gap = (token.id or 0) - wanted - place
        if gap > free:
            raise _gap(token, (behind[place - 1].id or 0) + 1 if place else wanted + free)


def _inside(tokenizer: Tokenizer, wanted: int) -> list[Added]:
    """The special tokens that are among so many."""
    return [token for token in tokenizer.added if token.special and (token.id is None or token.id < wanted)]


def train(tokenizer: Tokenizer, progress: Progress | None = None, checkpoint: Path | None = None) -> bytes:
    """The file that a declaration names, trained on its corpus. The same declaration and corpus give the same bytes.

    Args:
        checkpoint: where a training of bytes, which may take hours, notes what it has learned.

    Raises:
        Diagnostic: E1010 where there is nothing to train on, or too little of it; E1005 where ids do not fit; E1002.
    """
    training = tokenizer.training
    if training is None:
        raise Diagnostic(
            "E1010", f"the tokenizer `{tokenizer.name}` says nothing of what it is trained on", tokenizer.span,
            help='name the files: `train "corpus/*.txt"`',
        )  # fmt: skip
    check_training(tokenizer)
    wanted = tokenizer.model["vocab"]
    files = corpus_files(tokenizer, training.corpus, training.span)
    texts = texts_of(files, progress)
    if is_pieces(tokenizer):
        return train_pieces(tokenizer, texts, wanted)
    if wanted is None:
        special = [token for token in tokenizer.added if token.special]
        trained = learn(tokenizer, texts, None, progress)
        wanted = len({*trained.tokens, *(token.text for token in special)})
        return _laid_out(tokenizer, trained, wanted, special)
    inside = _inside(tokenizer, wanted)
    if is_octets(tokenizer):
        trained = learn_octets(tokenizer, files, wanted - len(inside), progress, checkpoint)
    else:
        trained = learn(tokenizer, texts, wanted - len(inside), progress)
    return _laid_out(tokenizer, trained, wanted, inside)


def _laid_out(tokenizer: Tokenizer, trained: Trained, wanted: int, inside: list[Added]) -> bytes:
    """The file: trained tokens in their order, on the ids that no special token has."""
    fixed = {token.text: token.id for token in inside}
    taken = {number for number in fixed.values() if number is not None}
    free = (number for number in count() if number not in taken)
    numbers = {text: next(free) if number is None else number for text, number in fixed.items()}
    for text, number in zip((text for text in trained.tokens if text not in fixed), free, strict=False):
        if number >= wanted:
            break
        numbers[text] = number
    if len(numbers) < wanted:
        raise Diagnostic(
            "E1010", f"the corpus gives {len(numbers)} tokens, and {wanted} are declared", tokenizer.model.span,
            help=f"train on more text, or declare `vocab={len(numbers)}`",
        )  # fmt: skip
    if not trained.letters <= numbers.keys():
        raise _too_few(tokenizer, wanted, len(trained.letters), "bytes" if trained.bytes else "letters")
    smallest = min(tokenizer.family, default=wanted)
    if any(numbers[letter] >= smallest for letter in trained.letters):
        raise _too_few(tokenizer, smallest, len(trained.letters), "bytes" if trained.bytes else "letters")
    added = _added(tokenizer, numbers, wanted)
    known = {**numbers, **{token.text: token.id for token in added if token.id is not None}}
    if tokenizer.round is not None:
        # The package numbers what stands behind its table by itself: what is filled up lies in the table, whole.
        added = _filled(tokenizer.round, added, known)
        numbers = dict(sorted(known.items(), key=lambda pair: pair[1]))
    _check_behind(tokenizer, numbers, added)
    table: dict[str, Any] = {"vocab": numbers}
    if trained.merges is not None:
        table["merges"] = [
            list(pair) for pair in trained.merges if all(t in numbers for t in (*pair, joined(tokenizer, pair)))
        ]
    if trained.scores is not None:
        scored = dict(zip(trained.tokens, trained.scores, strict=True))
        least = min(scored.values(), default=0.0) - 10.0
        by_id = sorted(numbers, key=numbers.__getitem__)
        table["vocab"] = [[text, scored.get(text, least)] for text in by_id]
    return write_json(replace(tokenizer, added=added), Tables(known, table))


def _too_few(tokenizer: Tokenizer, wanted: int, letters: int, what: str) -> Diagnostic:
    """Why so many tokens are not enough for one of each letter."""
    special = len(_inside(tokenizer, wanted))
    limit = ", or train with `limit_alphabet`" if what == "letters" and "limit_alphabet" in OPTIONS[tokenizer.model.name] else ""
    return Diagnostic(
        "E1005", f"{wanted} tokens are fewer than the {letters} {what} and {special} special tokens", tokenizer.model.span,
        help=f"every {what[:-1]} is a token of its own: declare {letters + special + 1} tokens or more{limit}",
    )  # fmt: skip


def joined(tokenizer: Tokenizer, pair: tuple[str, str]) -> str:
    """The token that two become."""
    return pair[0] + pair[1].removeprefix(tokenizer.model["prefix"] or "")


def _check_behind(tokenizer: Tokenizer, numbers: dict[str, int], added: tuple[Added, ...]) -> None:
    """Raises E1005 where tokens behind the table are not numbered one by one, which no ``tokenizer.json`` can say."""
    behind = sorted((t for t in added if t.text not in numbers), key=lambda t: t.id or 0)
    for token, number in zip(behind, count(max(numbers.values()) + 1), strict=False):
        if token.id != number:
            raise _gap(token, number)


def _gap(token: Added, number: int) -> Diagnostic:
    return Diagnostic(
        "E1005", f"`{token.text}` is declared as {token.id}, and the next id is {number}", token.span,
        help="leave no gaps, or fill the vocabulary up: `round pow2`",
    )  # fmt: skip


def _added(tokenizer: Tokenizer, numbers: dict[str, int], wanted: int) -> tuple[Added, ...]:
    """Special and injected tokens with their ids. Raises E1005 for an id that a trained token has."""
    owners = {number: text for text, number in numbers.items()}
    declared = {token.id for token in tokenizer.added}
    behind = (number for number in count(wanted) if number not in declared)
    rows = []
    for token in tokenizer.added:
        number = numbers.get(token.text)
        if number is None:
            number = next(behind) if token.id is None else token.id
        elif token.id is not None and token.id != number:
            raise Diagnostic(
                "E1005", f"`{token.text}` is declared as {token.id}, and training found it as {number}", token.span,
                help="leave its id out: it keeps the one that it was found with",
            )  # fmt: skip
        if owners.setdefault(number, token.text) != token.text:
            raise Diagnostic(
                "E1005", f"`{token.text}` has the id {number}, which is one of the {wanted} that are trained", token.span,
                help=f"give it one from {wanted} on, or none",
            )  # fmt: skip
        rows.append(replace(token, id=number))
    return tuple(rows)


def _too_many(part: Part, size: int, goal: int) -> Diagnostic:
    return Diagnostic(
        "E1005", f"the vocabulary has {size} tokens, which is more than {goal}", part.span,
        help=f"train fewer by at least {size - goal}, or write `round pow2`",
    )  # fmt: skip


def _filled(part: Part, added: tuple[Added, ...], known: dict[str, int]) -> tuple[Added, ...]:
    """Fill ``known`` up to a round number, by runs of the texts of ``fill``, which are found in texts, or by tokens that are never
    made; the added tokens, with such runs. Raises E1005 where there are more tokens."""
    size = max(known.values()) + 1
    if part.name == "pow2":
        goal = 1 << (size - 1).bit_length()
    elif part.name == "multiple":
        goal = -(-size // part["of"]) * part["of"]
    else:
        goal = part["of"]
    if goal < size:
        raise _too_many(part, size, goal)
    taken = set(known.values())
    free = [number for number in range(goal) if number not in taken]
    runs = (text * length for length in count(2) for text in part["fill"])
    unused = (f"<unused{number}>" for number in count())
    names = (name for name in (runs if part["fill"] else unused) if name not in known)
    fresh = dict(zip(names, free, strict=False))
    known.update(fresh)
    return (*added, *(Added(text, number, False) for text, number in fresh.items())) if part["fill"] else added
