"""The files of a compiled program: their hashes in its manifest, tokenizers beside them, and the whole as one ``.zip``.

Archives hold their files as they are: what is unpacked is never larger than what was given.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..ir.diagnostics import Diagnostic
from ..ir.program import Loop
from ..ir.tokenizer import TableFile
from ..runtime.files.aside import Scratch
from .targets import MANIFEST

if TYPE_CHECKING:
    from ..ir.program import Flow, Program, Step

SUFFIX = ".zip"
_FILES, _FLOWS = "tessera.files", "tessera.flows"
_FOLDER = "tokenizers"
_MANIFEST_BYTES = 64 * 2**20
_CHUNK = 2**20
# What another runtime reads beside ours and its users edit: it is there, whatever it says.
_EDITED = ("genai_config.json",)
_DATE = (1980, 1, 1, 0, 0, 0)


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Whether a file is called as an archive of a program is."""
    return Path(path).suffix.lower() == SUFFIX and os.path.isfile(path)


def placed(program: Program) -> tuple[Program, dict[str, bytes]]:
    """A program whose tokenizers have their tables within its folder, and these tables by their places there.

    What they were trained and measured on stays behind.
    """
    from ..runtime.tokenizers.engine import tables_of
    from ..runtime.tokenizers.pieces import SUFFIX as PIECES
    from ..runtime.tokenizers.pieces import is_pieces

    if not program.tokenizers:
        return (program if program.measures is None else replace(program, measures=None)), {}
    made, tables = {}, {}
    for name, tokenizer in program.tokenizers.items():
        own = tokenizer.source.first if tokenizer.source is not None else ()
        place = f"{_FOLDER}/{name}{PIECES if is_pieces(tokenizer) else '.json'}"
        tables[place] = tables_of(tokenizer)
        source = TableFile(place, hashlib.sha256(tables[place]).hexdigest(), own)
        made[name] = replace(tokenizer, source=source, training=None, measured=None, gates=())
    return replace(program, tokenizers=made, measures=None), tables


# The manifest ---------------------------------------------------------------------------------------------------------


def write_manifest(folder: Path, metadata: Mapping[str, str], program: Program, files: Mapping[str, str]) -> None:
    """Write the manifest of a folder that holds all else: how it was made, how its flows run, and the hashes of its files.

    Args:
        files: the file of each entry point that has one of its own.
    """
    whole: dict[str, Any] = dict(metadata)
    if program.flows:
        whole[_FLOWS] = {name: _plain(program, flow, files) for name, flow in program.flows.items()}
    whole[_FILES] = {
        path.relative_to(folder).as_posix(): {"sha256": _hash(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST
    }  # fmt: skip
    folder.joinpath(MANIFEST).write_text(json.dumps(whole, indent=1, ensure_ascii=False), encoding="utf-8")


def _plain(program: Program, flow: Flow, files: Mapping[str, str]) -> dict[str, Any]:
    """A flow as data, for who runs it without Tessera."""
    return {
        "inputs": {port.value: str(port.type) for port in flow.inputs},
        "steps": [_step(program, step, files) for step in flow.steps],
        "outputs": {port.name: port.value for port in flow.outputs},
    }


def _step(program: Program, step: Step | Loop, files: Mapping[str, str]) -> dict[str, Any]:
    if isinstance(step, Loop):
        return {
            "kind": "fold" if step.going is None else "while", "count": step.count, "variable": step.variable,
            "carried": [{"first": c.first, "inside": c.inside, "after": c.after, "result": c.result} for c in step.carried],
            "stacked": [{"value": value, "result": result} for value, result in step.stacked],
            "test": [_step(program, inner, files) for inner in step.test], "going": step.going,
            "body": [_step(program, inner, files) for inner in step.body],
        }  # fmt: skip
    stage = program.stages.get(step.callee)
    if stage is not None:
        owner = program.tokenizers.get(stage.reference)
        where = {"function": stage.reference} if stage.kind == "python" else {}
        if owner is not None and owner.source is not None:
            where = {"tokenizer": owner.source.path}
        return {"kind": stage.kind, **where, "takes": list(step.operands), "gives": list(step.results)}
    if step.callee in program.flows:
        return {"kind": "flow", "flow": step.callee, "takes": list(step.operands), "gives": list(step.results)}
    graph = program.functions[step.callee]
    inputs = [value for value in graph.inputs if value.role == "input"]
    outputs = [info for info in graph.output_info if info.role == "output"]
    return {
        "kind": "model", "file": files.get(step.callee),
        "takes": {v.public: name for v, name in zip(inputs, step.operands, strict=True)},
        "gives": {info.public: name for info, name in zip(outputs, step.results, strict=True)},
    }  # fmt: skip


def read_manifest(folder: Path) -> tuple[dict[str, str], dict[str, Any] | None]:
    """What a manifest says of the making, and of the files; None where an older one says nothing of them. Raises E0014."""
    shown = folder / MANIFEST
    try:
        whole = json.loads(shown.read_text(encoding="utf-8"))
    except OSError as error:
        raise Diagnostic("E0014", f"`{folder}` is no folder of a compiled program: {error.strerror}") from None
    except (ValueError, RecursionError):
        whole = None
    if not isinstance(whole, dict):
        raise Diagnostic("E0014", f"`{shown}` is no JSON object of Tessera's")
    files = whole.get(_FILES)
    if files is not None and not (isinstance(files, dict) and all(map(_is_row, files.values()))):
        raise Diagnostic("E0014", f"`{shown}` says of its files what is no hash and no size")
    return {key: value for key, value in whole.items() if isinstance(value, str)}, files


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("sha256"), str) and type(row.get("bytes")) is int


def check_files(folder: Path, files: Mapping[str, Any], shown: str) -> None:
    """Raises E0528 for a file that is missing, or another one than was written."""
    for name, row in files.items():
        _check_name(name, shown)
        path = folder / name
        if not path.is_file():
            raise Diagnostic("E0528", f"`{shown}` lacks its file `{name}`", help=_AGAIN)
        if name in _EDITED:
            continue
        if path.stat().st_size != row["bytes"] or _hash(path) != row["sha256"]:
            raise Diagnostic(
                "E0528", f"`{name}` in `{shown}` is another file than was compiled: its hash is {_hash(path)[:12]}…, not "
                f"{row['sha256'][:12]}…", help=_AGAIN,
            )  # fmt: skip


_AGAIN = "compile the program again, or take all files from one place: they belong together"


def _hash(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


# Archives -------------------------------------------------------------------------------------------------------------


def pack(folder: Path, archive: Path) -> None:
    """Write a folder as an archive; of equal files, equal archives."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        for name in [MANIFEST, *(name for name in names if name != MANIFEST)]:
            info = zipfile.ZipInfo(name, _DATE)
            info.external_attr = 0o644 << 16
            info.file_size = (folder / name).stat().st_size
            with (folder / name).open("rb") as source, target.open(info, "w") as stream:
                while chunk := source.read(_CHUNK):
                    stream.write(chunk)


def unpacked(archive: Path) -> Scratch:
    """A folder that has the files of an archive, and goes with what is returned. Nothing is written outside of it.

    Raises:
        Diagnostic: E0001 for no file, E0014 for what is no archive of a program, E0528 where its files are not those that were
            compiled.
    """
    if not archive.is_file():
        raise Diagnostic("E0001", f"there is no file `{archive}`")
    folder = Scratch()
    try:
        with zipfile.ZipFile(archive) as source:
            members = {info.filename: info for info in _members(source, archive)}
            _extract(source, members.pop(MANIFEST), Path(folder.name))
            _, files = read_manifest(Path(folder.name))
            for name in [*(files or {}), *members]:
                if name not in members:
                    raise Diagnostic("E0528", f"`{archive}` lacks its file `{name}`", help=_AGAIN)
                if files is None or name not in files:
                    raise Diagnostic("E0528", f"`{archive}` has the file `{name}`, of which its manifest says nothing", help=_AGAIN)
            for info in members.values():
                _extract(source, info, Path(folder.name))
    except Diagnostic:
        folder.cleanup()
        raise
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        folder.cleanup()
        raise Diagnostic("E0014", f"`{archive}` is no archive that can be read: {error}") from None
    return folder


def _members(source: zipfile.ZipFile, archive: Path) -> Iterator[zipfile.ZipInfo]:
    """The files of an archive. Raises E0014 for what no archive of a program has."""
    left = archive.stat().st_size
    seen: set[str] = set()
    for info in source.infolist():
        _check_name(info.filename, str(archive))
        kind = stat.S_IFMT(info.external_attr >> 16)
        left -= info.file_size
        wrong = (
            "is there twice" if info.filename.casefold() in seen
            else "is a link or another thing that is no file" if kind not in (0, stat.S_IFREG)
            else "is encrypted" if info.flag_bits & 1
            else "is compressed" if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size
            else "is larger than the archive" if left < 0
            else "is too large for a manifest" if info.filename == MANIFEST and info.file_size > _MANIFEST_BYTES
            else None
        )  # fmt: skip
        if wrong is not None:
            raise Diagnostic(
                "E0014", f"`{info.filename}` in `{archive}` {wrong}",
                help="an archive holds the files of a program as they are: `zip -0 -D -r program.zip .` in its folder",
            )  # fmt: skip
        seen.add(info.filename.casefold())
        yield info
    if MANIFEST not in seen:
        raise Diagnostic("E0014", f"`{archive}` is no archive of a compiled program: it has no `{MANIFEST}`")


def _check_name(name: str, shown: str) -> None:
    """Raises E0014 for a name that would leave the folder, or that some system takes for another one."""
    parts = PurePosixPath(name).parts
    if not parts or name != "/".join(parts) or name[0] == "/" or ".." in parts or any(c in name for c in "\\:\0"):
        raise Diagnostic("E0014", f"`{shown}` names a file {name!r}, which does not lie in its folder")


def _extract(source: zipfile.ZipFile, info: zipfile.ZipInfo, folder: Path) -> None:
    target = folder / info.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open(info) as stream, target.open("xb") as made:
        while chunk := stream.read(_CHUNK):
            made.write(chunk)
