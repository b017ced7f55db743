"""A tokenizer as one side of an exchange, in whatever form it comes: its engine, and what its tokens stand for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

from ...ir.diagnostics import Diagnostic
from ...ir.tokenizer import Part, TableFile, Tokenizer
from ...ir.vocabulary import declared as read_declared
from .engine import Engine, engine_of, tables_of
from .files import open_tables, read_json
from .pieces import SUFFIX, read_pieces
from .surfaces import Surface, surfaces

_SOURCE = ".tess"


@dataclass(frozen=True)
class Side:
    """A tokenizer with its engine, and what its tokens stand for."""

    declared: Tokenizer
    engine: Engine
    ids: Mapping[str, int]
    surfaces: Mapping[int, Surface]

    @property
    def size(self) -> int:
        return self.engine.size

    @property
    def special(self) -> dict[str, int]:
        """Tokens that are no text, by their texts: special ones, and those that no byte is left of, such as `##`."""
        return {
            text: number for text, number in self.ids.items()
            if (one := self.surfaces.get(number)) is None or not (one.data or one.begins)
        }  # fmt: skip


def locate(name: str, folder: str | None) -> Path:
    """A file, looked for beside the program and in the working directory; a tokenizer's name stays behind it. Raises E0001."""
    file, _ = _parted(name)
    places = [*([Path(folder) / file] if folder is not None else []), Path(file)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise Diagnostic("E0001", f"there is no file `{file}`", help="it is looked for beside the program and where you are")
    path = path.resolve()
    return path.with_name(path.name + name.removeprefix(file))


def digest_of(path: str) -> str:
    """The hash of what a tokenizer is: of its file, and of its tables if it is declared. Raises as :func:`open_side`."""
    file, _ = _parted(path)
    own = open_tables(Path(file), Path(file).name)[0]
    return hashlib.sha256(own + (tables_of(_declaration(path)) if file.endswith(_SOURCE) else b"")).hexdigest()


def open_side(path: str, sha256: str) -> Side:
    """The tokenizer in a file: a `tokenizer.json`, a model of SentencePiece, or `words.tess:name`, which is declared.

    Raises:
        Diagnostic: E1003 for a file that is none, E1004 where it is another one than that of the hash; whatever is wrong with a
            declaration, E1006 for one that was not trained yet.
    """
    name = Path(path).name
    check_hash(name, digest_of(path), sha256)
    if _parted(path)[0].endswith(_SOURCE):
        declared = _declaration(path)
        data = tables_of(declared)
    else:
        data, _ = open_tables(Path(path), name)
        if path.endswith(SUFFIX):
            declared = read_pieces(data, Tokenizer(name, Part(""), source=TableFile(path)))
        else:
            declared = replace(read_json(data, name)[0], name=name)
    engine = engine_of(data, declared)
    # In an order that is the same each time, which the package's is not.
    ids = dict(sorted(engine.vocabulary().items(), key=itemgetter(1)))
    return Side(declared, engine, ids, surfaces(declared, ids))


def placed(new: Side, old: Side) -> Side:
    """The new side with what is no letter at the begin of a word, where the old tokenizer has it there and the new one nowhere.

    BERT cuts around each mark, so that its `.` begins a word and `##.` is never read; of pairs of bytes `.` stands behind a word.
    """
    if not _cuts_marks(old.declared) or _cuts_marks(new.declared):
        return new
    return replace(new, surfaces={number: _begun(one) for number, one in new.surfaces.items()})


def _cuts_marks(tokenizer: Tokenizer) -> bool:
    return bool({part.name for part in tokenizer.split} & {"bert", "punctuation", "words"})


def _begun(one: Surface) -> Surface:
    marks = one.begins is False and one.text and not any(char.isalnum() or char.isspace() for char in one.text)
    return replace(one, begins=True) if marks else one


def check_hash(name: str, found: str, wanted: str) -> None:
    """Raises E1004 where a file is another one than the model was made with."""
    if found != wanted:
        raise Diagnostic(
            "E1004", f"`{name}` is another file than the model was made with",
            help="run `swap_tokenizer` again, on the model as it was before",
        )  # fmt: skip


def _parted(text: str) -> tuple[str, str | None]:
    """The file, and the name behind it where a `.tess` file declares several."""
    file, mark, name = text.rpartition(_SOURCE + ":")
    return (file + _SOURCE, name) if mark else (text, None)


def _declaration(path: str) -> Tokenizer:
    file, name = _parted(path)
    return read_declared(Path(file), name)
