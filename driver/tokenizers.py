"""A tokenizer in whatever form it comes: a declaration, a ``tokenizer.json``, or a model of SentencePiece."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.diagnostics import Diagnostic
from ..ir.tokenizer import Part, TableFile, Tokenizer

if TYPE_CHECKING:
    import numpy as np

    from ..runtime.tokenizers.engine import Engine
    from ..runtime.tokenizers.training import Progress

# Files that are a tokenizer by themselves.
_FILES = (".json", ".model")


def load_tokenizer(
    source: str | os.PathLike[str], name: str | None = None, *, params: Mapping[str, Any] | None = None, tables: bool = True
) -> Tokenizer:
    """A tokenizer as it is declared, with what the file of its tables says.

        ts.load_tokenizer("words.tess")
        ts.load_tokenizer("model/tokenizer.json")
        ts.load_tokenizer("spiece.model")

    Args:
        source: a ``.tess`` file, a ``tokenizer.json`` or a folder that has one, or a model of SentencePiece.
        name: which tokenizer, where a ``.tess`` file declares several.
        params: values of its static parameters.
        tables: whether it is compared with the file of its tables; else it is what stands in the declaration.

    Raises:
        Diagnostic: whatever is wrong with it; E0001 when there is none.
    """
    path = Path(source)
    if os.path.isdir(path):
        path = path / "tokenizer.json"
    if path.suffix in _FILES:
        if name is not None:
            raise Diagnostic("E0011", f"`{path}` is one tokenizer, which has no name: there is nothing to choose")
        if params:
            raise Diagnostic("E0011", f"`{path}` has no static parameters: a declaration has")
        return _imported(path)
    from ..frontends.source import load_tokenizer as load
    from ..specs.catalog import find

    return load(find(source)[0], name, params, tables)


def is_tokenizer(file: str, name: str | None = None) -> bool:
    """Whether a name on the command line means a tokenizer: a file of tables, or one that a file declares."""
    from ..frontends.source import tokenizers
    from ..specs.catalog import find

    if file.endswith(_FILES):
        return True
    if not file.endswith(".tess"):
        return False
    try:
        names, models = tokenizers(find(file)[0])
    except Diagnostic:
        # What is wrong with it is told by who reads it.
        return False
    return name in names if name is not None else bool(names) and not models


def open_tokenizer(
    source: str | os.PathLike[str] | Tokenizer, name: str | None = None, size: int | None = None,
    *, params: Mapping[str, Any] | None = None,
) -> Engine:  # fmt: skip
    """A tokenizer that runs.

        tokenizer = ts.open_tokenizer("words.tess")
        found = tokenizer.encode(["a text", b"another"])
        found.ids, found.count, found.offsets, found.words, found.segments
        tokenizer.decode(found.ids)

    Args:
        size: which member of its family; the largest where it is left out.
        params: values of its static parameters.

    Raises:
        Diagnostic: as :func:`load_tokenizer`; E1006 for one that was not trained yet, E0015 without the package that runs it.
    """
    from ..runtime.tokenizers.engine import open_engine

    return open_engine(source if isinstance(source, Tokenizer) else load_tokenizer(source, name, params=params), size)


def train_tokenizer(
    source: str | os.PathLike[str] | Tokenizer, name: str | None = None, *, params: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[Path, dict[str, float]]:
    """Train a tokenizer and write the file that its declaration names; where that is, and the metrics if any is required.

        ts.train_tokenizer("words.tess")
        ts.train_tokenizer("sweep.tess", params={"vocab": 4096})

    Raises:
        Diagnostic: as :func:`load_tokenizer`; E1005, E1010 where it cannot be trained, E1009 where it does not do what it
            requires, E0010 where the file cannot be written.
    """
    from ..runtime.files.aside import check_writable, written_aside
    from ..runtime.tokenizers.engine import check_hash, folder_of
    from ..runtime.tokenizers.metrics import check_gates
    from ..runtime.tokenizers.training import train

    tokenizer = source if isinstance(source, Tokenizer) else load_tokenizer(source, name, params=params, tables=False)
    if tokenizer.source is None:
        raise Diagnostic(
            "E1010", f"the tokenizer `{tokenizer.name}` names no file that its tables could be written to", tokenizer.span,
            help='name it: `from "tokenizer.json"`',
        )  # fmt: skip
    if not tokenizer.source.path.endswith(_FILES):
        raise Diagnostic(
            "E1010", f"training writes a tokenizer.json, or a model of SentencePiece; `{tokenizer.source.path}` is neither",
            tokenizer.source.span, help='name one: `from "tokenizer.json"`',
        )  # fmt: skip
    target = folder_of(tokenizer) / tokenizer.source.path
    check_writable(target)
    # What a killed training had learned lies beside the file until there is one.
    checkpoint = target.with_name(f"{target.name}.part")
    data = train(tokenizer, progress, checkpoint)
    check_hash(tokenizer, hashlib.sha256(data).hexdigest())
    found = check_gates(data, tokenizer, progress) if tokenizer.gates else {}
    with written_aside(target) as aside:
        aside.write_bytes(data)
    checkpoint.unlink(missing_ok=True)
    return target, found


def embed_tokens(
    to: str | os.PathLike[str],
    old: str | os.PathLike[str],
    encode: Callable[[list[str]], Any],
    output: str | os.PathLike[str],
    *,
    batch: int = 256,
) -> Path:
    """Write what a model of texts makes of each token of two tokenizers, for `swap_tokenizer(method=transplant, phi=…)`.

        ts.embed_tokens("new/tokenizer.json", "tokenizer.json", lambda texts: model.encode(texts), "phi.safetensors")

    Args:
        to, old: tokenizers, as the pass takes them.
        encode: texts as vectors, [N, D], all of one length.
        batch: how many texts it is given at once.

    Raises:
        Diagnostic: E0001, E1003 for the files, E0011 for a batch of none, E1014 where vectors are none, E0010 where the file cannot
            be written.
    """
    import numpy as np

    from ..runtime.files.aside import check_writable, written_aside
    from ..runtime.files.safetensors import write_safetensors
    from ..runtime.tokenizers.exchange import token_texts

    if batch < 1:
        raise Diagnostic("E0011", f"`batch` is how many texts are given at once, at least 1, and not {batch}")
    target = Path(output)
    check_writable(target)
    made = {}
    for part, path in (("new", to), ("old", old)):
        size, texts = token_texts(os.fspath(path))
        rows = sorted(texts.items())
        given = [encode([text for _, text in rows[i : i + batch]]) for i in range(0, len(rows), batch)]
        try:
            vectors = np.concatenate([np.asarray(array, np.float32) for array in given])
        except (TypeError, ValueError):
            # Of several lengths, no numbers, or none at all.
            vectors = np.zeros((0, 0), np.float32)
        if vectors.ndim != 2 or not len(rows) == len(vectors) > 0:
            raise Diagnostic("E1014", "`encode` gives no vector for each text", help="it returns [N, D] of N texts, of one D")
        made[part] = np.zeros((size, vectors.shape[1]), np.float32)
        made[part][[number for number, _ in rows]] = vectors
    with written_aside(target) as aside:
        write_safetensors(aside, made)
    return target


def spell_tokens(
    to: str | os.PathLike[str],
    old: str | os.PathLike[str],
    *,
    pieces: int = 7,
    special: Mapping[str, str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """How the tokenizer ``old`` spells each token of ``to``: ids i64[N, K] of at most ``pieces`` tokens, and how much each is of
    their mean, f32[N, K]; behind the last it is 0. What a network that predicts embeddings reads (`seeds/zett`).

        rows, weights = ts.spell_tokens("new/tokenizer.json", "tokenizer.json")

    A token that both have, and a special one that has a counterpart, is spelled by that alone.

    Args:
        to, old: tokenizers, as `swap_tokenizer` takes them.
        pieces: what is longer is cut.
        special: what stands for special tokens that have no counterpart.

    Raises:
        Diagnostic: E0001, E1003 for the files, E0011 for no pieces, E1014 for tokens without a counterpart.
    """
    from ..runtime.tokenizers.exchange import spelled

    if pieces < 1:
        raise Diagnostic("E0011", f"`pieces` is how many tokens spell one at most, at least 1, and not {pieces}")
    return spelled(os.fspath(to), os.fspath(old), pieces, special or {})


def _imported(path: Path) -> Tokenizer:
    """The declaration that a file amounts to, called as its folder is."""
    from ..frontends.onnx.names import identifier
    from ..runtime.tokenizers.files import open_tables, read_json
    from ..runtime.tokenizers.pieces import read_pieces

    data, digest = open_tables(path, str(path))
    if path.suffix == ".json":
        found, _ = read_json(data, str(path))
    else:
        found = read_pieces(data, Tokenizer("", Part(""), source=TableFile(str(path))))
    stem = path.resolve().parent.name if path.stem == "tokenizer" else path.stem
    name = identifier(stem, "text")
    return replace(found, name=name, source=TableFile(path.name, digest), path=str(path.parent / f"{name}.tess"))
