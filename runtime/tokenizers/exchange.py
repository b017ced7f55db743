"""What stands for each token of one tokenizer among those of another one: rows of a table, and how much of each.

A token that both have is the other's row, a special one the row of its counterpart. All else is made of the pieces that the old
tokenizer cuts it into: of each as much (`mean`), or as TokenAdapt has it (`transplant`): of pieces by their share of the token and
by how near they are to it, and of its nearest neighbours, in the space of a model of texts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic
from ...ir.graph import Initializer
from ...ir.vocabulary import Exchange
from .metrics import unknown_id
from .sides import Side, check_hash, digest_of, locate, open_side, placed
from .surfaces import Surface

if TYPE_CHECKING:
    import numpy as np

# Of a batch of tokens that are encoded, or compared with all others.
_MANY = 4096


def exchange(to: str, old: str, options: Mapping[str, Any], folder: str | None) -> Exchange:
    """See :func:`tessera.ir.vocabulary.exchange`; ``options`` are those of the pass."""
    files = [locate(name, folder) for name in (to, old)]
    phi = options.get("phi")
    if options["method"] == "transplant":
        if phi is None:
            raise Diagnostic(
                "E1014", "`transplant` needs what a model of texts makes of the tokens",
                help='name the file that `ts.embed_tokens` writes: `phi="phi.safetensors"`; or take `method=mean`',
            )  # fmt: skip
        files.append(locate(str(phi), folder))
    base = files[0].parent
    hashes = [digest_of(str(path)) for path in files[:2]]
    hashes += [hashlib.sha256(path.read_bytes()).hexdigest() for path in files[2:]]
    shown = [Path(os.path.relpath(path, base)).as_posix() for path in files]
    pairs = [text for pair in zip(shown, hashes, strict=True) for text in pair] + ([""] * 2 if len(files) == 2 else [])
    text = json.dumps({key: options[key] for key in sorted(options) if key != "phi"}, separators=(",", ":"))
    made = _made(*(str(path) for path in files), *hashes, text) if len(files) == 3 else _made(
        str(files[0]), str(files[1]), "", hashes[0], hashes[1], "", text
    )  # fmt: skip
    rows, weights = (Initializer("exchanged", (*pairs, text, part), str(base)) for part in ("rows", "weights"))
    return Exchange(made.old, made.new, made.rows.shape[1], rows, weights, made.facts)


def exchanged(
    shape: tuple[int, ...], file: str, sha256: str, old: str, old_sha256: str, phi: str, phi_sha256: str, options: str, part: str
) -> np.ndarray:  # fmt: skip
    """``rows`` or ``weights``, [N, K]; behind the tokens of the new tokenizer, rows of weight 0.

    Raises:
        Diagnostic: E1004 where a file is another one than the model was made with; as :func:`exchange`.
    """
    import numpy as np

    made = _made(file, old, phi, sha256, old_sha256, phi_sha256, options)
    found = {"rows": made.rows, "weights": made.weights}[part]
    if len(shape) != 2 or shape[0] < len(found) or shape[1] != found.shape[1]:
        raise ValueError(f"there are {found.shape[1]} {part} for each of {len(found)} tokens")
    return np.concatenate([found, np.zeros((shape[0] - len(found), shape[1]), found.dtype)])


def token_texts(name: str) -> tuple[int, dict[int, str]]:
    """How many ids the tokenizer in a file has, and the texts of its tokens but special ones. Raises E0001, E1003."""
    path = str(locate(name, None))
    one = open_side(path, digest_of(path))
    texts = {number: surface.text for number, surface in one.surfaces.items()}
    return one.size, {number: text for number, text in texts.items() if text}


def spelled(to: str, old: str, pieces: int, special: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """See :func:`tessera.spell_tokens`."""
    import numpy as np

    files = [str(locate(name, None)) for name in (to, old)]
    text = json.dumps({"method": "mean", "special": list(special.items())}, separators=(",", ":"))
    made = _made(files[0], files[1], "", digest_of(files[0]), digest_of(files[1]), "", text)
    rows, weights = made.rows[:, :pieces].astype(np.int64), made.weights[:, :pieces]
    rows[weights == 0] = 0
    return rows, weights / np.maximum(weights.sum(1, keepdims=True), 1e-12)


@dataclass(frozen=True, eq=False)
class _Made:
    old: int
    new: int
    rows: np.ndarray
    weights: np.ndarray
    facts: dict[str, Any]


@lru_cache(maxsize=2)
def _made(to: str, old: str, phi: str, sha256: str, old_sha256: str, phi_sha256: str, options: str) -> _Made:
    import numpy as np

    given = json.loads(options)
    old_side = open_side(old, old_sha256)
    new_side = placed(open_side(to, sha256), old_side)
    copied = dict(_special(new_side, old_side, dict(given["special"])))
    shared = _shared(new_side, old_side)
    rest = [number for number in sorted(new_side.surfaces) if number not in shared and number not in copied]
    pieces = dict(zip(rest, _pieces([new_side.surfaces[number] for number in rest], old_side), strict=True))
    unknown = unknown_id(old_side.engine, old_side.declared)
    lost = [number for number in rest if not pieces[number]]
    if lost and unknown is None:
        shown = next(text for text, number in new_side.ids.items() if number == lost[0])
        raise Diagnostic(
            "E1014", f"nothing in `{Path(old).name}` stands for the token `{shown}`, and it has none for what is unknown",
            help="take a tokenizer whose characters the old one has",
        )  # fmt: skip
    sums: dict[int, list[tuple[int, float]]] = {number: [(row, 1.0)] for number, row in {**shared, **copied}.items()}
    sums.update((number, [(unknown or 0, 1.0)]) for number in lost)
    cut = [number for number in rest if pieces[number]]
    if given["method"] == "mean":
        sums.update((n, [(row, 1.0 / len(pieces[n])) for row, _ in pieces[n]]) for n in cut)
    else:
        sums.update(zip(cut, _transplanted(cut, pieces, new_side, old_side, phi, phi_sha256, given), strict=True))
    width = max(map(len, sums.values()), default=1)
    rows, weights = np.zeros((new_side.size, width), np.int32), np.zeros((new_side.size, width), np.float32)
    for number, parts in sums.items():
        for column, (row, weight) in enumerate(parts):
            rows[number, column], weights[number, column] = row, weight
    facts = {
        "tokens": new_side.size, "shared": len(shared), "special": len(copied), "pieced": len(cut), "unknown": len(lost),
    }  # fmt: skip
    return _Made(old_side.size, new_side.size, rows, weights, facts)


def _special(new: Side, old: Side, said: Mapping[str, str]) -> Iterator[tuple[int, int]]:
    """(new id, old id) of tokens that are no text: as they are told, of one text, or of one use. Raises E1014 for others."""
    for text in said:
        if text not in new.special:
            raise Diagnostic("E1014", f"`{text}` is no special token of `{new.declared.name}`", help=_told(new))
    uses = _uses(old)
    for text, number in new.special.items():
        other = said.get(text, text if text in old.special else None)
        if other is None:
            use = next((use for use, token in _uses(new).items() if token == text), None)
            other = uses.get(use) if use is not None else None
        if other is None or other not in old.ids:
            what = f"the token `{text}`, which has no bytes" if number in new.surfaces else f"the special token `{text}`"
            raise Diagnostic(
                "E1014", f"nothing is known to stand for {what}" if other is None
                else f"there is no token `{other}` in the old tokenizer",
                help=f'say what does: `special=["{text}={next(iter(old.special), "…")}"]`; {_told(old)}',
            )  # fmt: skip
        yield number, old.ids[other]


def _told(side: Side) -> str:
    return f"its special tokens are {', '.join(list(side.special)[:12]) or 'none'}"


def _uses(side: Side) -> dict[str, str]:
    """What special tokens are for: what is unknown, padding, and the first and last one around a text."""
    found = {"unknown": dict(side.declared.model.options).get("unknown")}
    if side.declared.pad is not None:
        found["pad"] = side.declared.pad["token"]
    row = side.engine.encode([""]).ids[0].tolist() if side.declared.process else []
    texts = {number: text for text, number in side.ids.items()}
    if len(row) == 2:
        found["begin"], found["end"] = texts[row[0]], texts[row[1]]
    return {use: text for use, text in found.items() if text is not None}


def _shared(new: Side, old: Side) -> dict[int, int]:
    """(new id, old id) of tokens that stand for the same, at the begin of a word or not."""
    known = {surface: number for number, surface in sorted(old.surfaces.items(), reverse=True)}
    found = {}
    for number, surface in new.surfaces.items():
        row = known.get(surface)
        # A space alone is a token of many; what no byte is left of is a special one.
        if row is not None and (surface.data or surface.begins):
            found[number] = row
    return found


def _pieces(wanted: Sequence[Surface], old: Side) -> list[list[tuple[int, int]]]:
    """(old id, how many bytes it has) of the pieces that the old tokenizer cuts each token into; none where it knows nothing."""
    unknown = unknown_id(old.engine, old.declared)
    inner = {surface.data: number for number, surface in old.surfaces.items() if surface.begins is False}
    spaced = any(surface.begins for surface in old.surfaces.values()) and "byte_level" in {
        part.name for part in (*old.declared.normalize, *old.declared.split)
    }
    found: list[list[tuple[int, int]]] = []
    for start in range(0, len(wanted), _MANY):
        some = wanted[start : start + _MANY]
        texts = [((" " if spaced and one.begins else "") + one.text) if one.text is not None else "" for one in some]
        rows = old.engine.encode(texts, around=False)
        for one, ids, count in zip(some, rows.ids.tolist(), rows.count.tolist(), strict=True):
            row = [number for number in ids[:count] if number != unknown and number in old.surfaces]
            if one.text is None:
                row = [inner[bytes([byte])] for byte in one.data if bytes([byte]) in inner]
            elif row and not one.begins and row[0] == ids[0]:
                # Alone it begins a word, which within one it does not.
                row[0] = inner.get(old.surfaces[row[0]].data, row[0])
            found.append([(number, len(old.surfaces[number].data)) for number in row])
    return found


# TokenAdapt -----------------------------------------------------------------------------------------------------------


def _transplanted(
    tokens: Sequence[int], pieces: Mapping[int, Sequence[tuple[int, int]]], new: Side, old: Side, phi: str, sha256: str,
    options: Mapping[str, Any],
) -> Iterator[list[tuple[int, float]]]:  # fmt: skip
    """(old id, weight) of what each token is made of. Raises E1014 for vectors that are not those of the tokens."""
    import numpy as np

    of_new, of_old = _vectors(phi, sha256, new, old)
    temperature, count, share = options["tau"], options["k"], options["g"]
    texts = np.array(sorted(old.surfaces), np.int64)
    if count > len(texts):
        raise Diagnostic("E1014", f"there are {count} neighbours to be found among {len(texts)} tokens", help="a smaller `k`")
    for start in range(0, len(tokens), _MANY):
        some = np.array(tokens[start : start + _MANY], np.int64)
        near = of_new[some] @ of_old[texts].T
        # Equal ones in the order of their ids.
        order = np.argsort(-near, axis=1, kind="stable")[:, :count]
        for row, token in enumerate(some.tolist()):
            ids = np.array([number for number, _ in pieces[token]], np.int64)
            lengths = np.array([size for _, size in pieces[token]], np.float32) / max(len(new.surfaces[token].data), 1)
            own = _softmax((_softmax(of_old[ids] @ of_new[token]) + lengths) / 2 / temperature)
            similar = near[row, order[row]]
            others = _softmax(similar / temperature) * (similar > options["threshold"])
            part = share if others.sum() > 0 else 0.0
            others = others / max(others.sum(), 1e-12)
            yield [
                *zip(ids.tolist(), ((1 - part) * own).tolist(), strict=True),
                *zip(texts[order[row]].tolist(), (part * others).tolist(), strict=True),
            ]


def _vectors(phi: str, sha256: str, new: Side, old: Side) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of length 1 of the new tokens and of the old ones. Raises E1014 where the file has others, E1004."""
    import numpy as np

    from ..files.safetensors import SafetensorsFile

    name = Path(phi).name
    check_hash(name, hashlib.sha256(Path(phi).read_bytes()).hexdigest(), sha256)
    file = SafetensorsFile(Path(phi))
    found = []
    for part, side in (("new", new), ("old", old)):
        array = np.asarray(file.array(part), np.float32) if part in file.entries else np.zeros((0, 0), np.float32)
        if array.ndim != 2 or len(array) != side.size or not np.isfinite(array).all():
            raise Diagnostic(
                "E1014", f"`{name}` has no vector for each of the {side.size} {part} tokens: `{part}` is {list(array.shape)}",
                help="`ts.embed_tokens` writes it for these two tokenizers",
            )  # fmt: skip
        found.append(array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12))
    if found[0].shape[1] != found[1].shape[1]:
        raise Diagnostic("E1014", f"the vectors in `{name}` are of two lengths", help="`ts.embed_tokens` writes it")
    return found[0], found[1]


def _softmax(scores: np.ndarray) -> np.ndarray:
    import numpy as np

    raised = np.exp(scores - scores.max(initial=-np.inf))
    made: np.ndarray = raised / raised.sum()
    return made
