"""The shipped specs, and how a name on the command line or in ``load`` finds one.

>>> find("std/nn")[0].name
'nn.tess'
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..ir.diagnostics import Diagnostic, did_you_mean

FOLDER = Path(__file__).resolve().parent
_MODEL = re.compile(r"^model[ \t]+([A-Za-z_]\w*)", re.MULTILINE)
_DOC = re.compile(r"\A(?:[ \t]*##[^\n]*\n)+")
_FIELD = re.compile(r"^## (paper|kind|measured|short): (.+(?:\n##  +.+)*)\n", re.MULTILINE)


@dataclass(frozen=True)
class Seed:
    """A published system as one file, by what its documentation says.

    Args:
        system: its name, which the documentation begins with, up to a colon.
        paper, kind: the title, and what sort of system it is.
        measured: its effect, as its tests measure it.
        short: where that stays behind what was to be shown; empty where it does not.
    """

    system: str
    paper: str
    kind: str
    measured: str
    short: str = ""


def names() -> list[str]:
    """``zoo/vit``, ``std/nn``, …, sorted."""
    return sorted(p.relative_to(FOLDER).with_suffix("").as_posix() for p in FOLDER.rglob("*.tess"))


def models_of(name: str) -> list[str]:
    """The models that a shipped spec declares, without parsing it."""
    return _MODEL.findall(_path(name).read_text(encoding="utf-8"))


def summary(name: str) -> str:
    """A shipped spec's own documentation on one line, or an empty string."""
    return _line(_FIELD.sub("", _head(name)))


def seed(name: str) -> Seed | None:
    """What a file of ``seeds/`` says of itself in lines of its documentation; None for other specs, which need not say it.

    A field is a line, continued by lines that are indented further::

        ## TokenFLEX: one projector for several counts of visual tokens.
        ##
        ## paper: Unified VLM Training for Flexible Visual Tokens Inference
        ## kind: token reduction by training
        ## measured: digits at 4 tokens: 91.0 % against 70.0 % of a model trained at 16 tokens only,
        ##     within 0.5 points of it at 16
    """
    fields = {key: _line(value) for key, value in _FIELD.findall(_head(name))}
    if not {"paper", "kind", "measured"} <= fields.keys():
        return None
    return Seed(summary(name).partition(":")[0], **fields)


def _head(name: str) -> str:
    found = _DOC.match(_path(name).read_text(encoding="utf-8"))
    return found.group() if found else ""


def _line(text: str) -> str:
    return " ".join(text.replace("#", " ").split())


def find(name: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """The file that ``name`` means, and the model in it if the name says one.

    An existing path wins. Otherwise ``zoo/vit`` (or ``zoo.vit``) is a shipped spec, and ``vit_s16`` the shipped spec that
    declares this model; ``vit`` alone is ``zoo/vit``, ``tokenflex`` alone ``seeds/tokenflex``.

    Raises:
        Diagnostic: E0001 when there is neither a file nor a spec nor a model of that name.
    """
    text = os.fspath(name)
    if "\0" in text:
        raise Diagnostic("E0001", f"there is no file {text!r}: no name holds a zero byte")
    path = Path(text)
    if os.path.exists(path) or path.suffix == ".tess":
        return path, None
    known = names()
    for candidate in (text, text.replace(".", "/"), f"zoo/{text}", f"seeds/{text}"):
        if candidate in known:
            return _path(candidate), None
    zoo = {model: spec for spec in known if spec.startswith("zoo/") for model in models_of(spec)}
    if text in zoo:
        return _path(zoo[text]), text
    raise Diagnostic(
        "E0001",
        f"there is no file `{text}`, and no shipped spec or model of that name",
        help=did_you_mean(text, [*known, *zoo]) or "`tessera specs` lists those that are shipped",
    )


def _path(name: str) -> Path:
    return (FOLDER / name).with_suffix(".tess")
