"""Folders of Hugging Face form: ``config.json`` and safetensors of a family in the zoo become the spec of that family.

    imported = load("models/all-MiniLM-L6-v2")
    imported.module                      # zoo/minilm with the sizes of config.json
    imported.weights["embeddings.word_embeddings.weight"]

Only JSON and safetensors are read: no code of the folder runs, and no pickle is opened. A family is a spec and a table beside it,
``specs/zoo/NAME.hf.json``; to add one is to write these two:

    model_types       the `model_type` of the configurations
    models            `architectures` entry -> model of the spec, or {"model": …, "part": "encoder"} where it is a part of it
    parameters        static parameter -> where its value comes from:
                        "hidden_size"                                  that field, which must be there
                        {"fields": ["a", "b.c"], "default": 12}        the first that is given; without any, the default: null
                                                                       leaves it to the spec. A number is positive, or at least
                                                                       "least"; where the default is a list, it is one or several
                                                                       integers
                        {"fields": […], "values": {"gelu": "std.nn.gelu"}}  what the parameter is for each word; others are refused
                        {"weight": "*pooler.dense.weight"}             whether there is such a weight; with "axis", its size
                      with "models", only those have the parameter
    computes          field -> the values that the spec computes; a missing field is the first of them; or
                      {"values": […], "models": […]}, with "cycle": […] also a list that repeats these. A value that is not
                      listed is refused by name, because a model that is nearly right is wrong
    sentence_encoder  the model for folders whose modules.json asks for mean pooling to unit length

Names and layouts of weights are not in it: the `weights` block of the spec's `compile` renames and remakes them.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.diagnostics import Diagnostic, Note, did_you_mean
from ..ir.imported import Imported

if TYPE_CHECKING:
    from ..ir.graph import Module
    from ..runtime.weights.open import Weights

CONFIG = "config.json"
MODULES = "modules.json"
# A configuration is small; what is larger is something else.
_LARGEST = 4 << 20
_NONE = object()

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """A table of the zoo, as its file has it (see above); ``spec`` is what it stands beside."""

    spec: str
    model_types: Sequence[str]
    models: Mapping[str, str | Mapping[str, str]]
    parameters: Mapping[str, str | Mapping[str, Any]]
    computes: Mapping[str, Sequence[Any] | Mapping[str, Any]]
    sentence_encoder: str | None = None

    def model(self, architecture: str) -> str:
        """The model of the spec for an entry of ``architectures``."""
        found = self.models[architecture]
        return found if isinstance(found, str) else found["model"]

    def part(self, architecture: str) -> str | None:
        """What the spec has of it, where that is not all."""
        found = self.models[architecture]
        return None if isinstance(found, str) else found["part"]


@cache
def families() -> dict[str, Family]:
    """The zoo's families by ``model_type``."""
    from ..specs.catalog import FOLDER

    found: dict[str, Family] = {}
    for path in sorted((FOLDER / "zoo").glob("*.hf.json")):
        family = Family(f"zoo/{path.name.removesuffix('.hf.json')}", **json.loads(path.read_text("utf-8")))
        found.update((kind, family) for kind in family.model_types)
    return found


def load(
    folder: str | os.PathLike[str],
    model: str | None = None,
    params: Mapping[str, Any] | None = None,
    dtype: str = "f32",
) -> Imported:
    """The model of a folder, with its weights mapped, not read.

    Args:
        folder: with ``config.json``, and ``model.safetensors`` or the index of a sharded checkpoint.
        model: a model of the family's spec, where ``architectures`` names none that it has: ``bert`` for the features of a
            BERT whose head the zoo lacks.
        params: static parameters that go before those of the configuration.
        dtype: what ``float`` means: ``f32``, ``f16``, ``bf16`` or ``f64``. Weights of another dtype are converted.

    Raises:
        Diagnostic: E0931 no usable config.json, E0932 no such family or architecture in the zoo, E0933 a value in the
            configuration that the spec does not compute, E06xx for the weights.
    """
    from ..runtime.weights.open import open_weights

    path = Path(folder)
    config = read_config(path)
    family = _family(path, config)
    kind, notes = _model_of(path, config, family, model)
    module = _module(path, config, family, kind, params, dtype, open_weights(_weights_file(path)))
    assert module.compile is not None
    return Imported(module, open_weights(_weights_file(path), module.compile.renames), notes)


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` as a dictionary. Raises E0931."""
    return _json(folder / CONFIG)


def _module(
    path: Path,
    config: Config,
    family: Family,
    kind: str,
    params: Mapping[str, Any] | None,
    dtype: str,
    weights: Weights,
) -> Module:
    from ..specs.catalog import find
    from . import source

    for name, row in family.computes.items():
        listed = row if isinstance(row, Mapping) else {"values": row}
        if kind in listed.get("models", (kind,)):
            found = _field(config, name, listed["values"][0])
            cycle = listed.get("cycle", [])
            repeats = (
                isinstance(found, list)
                and bool(cycle)
                and all(v == w for v, w in zip(found, itertools.cycle(cycle), strict=False))
            )
            if found not in listed["values"] and not repeats:
                raise _unsupported(name, found, listed["values"] if not cycle else [f"{', '.join(cycle)} in turn"])
    if config.get("quantization_config"):
        raise Diagnostic("E0933", "`quantization_config`: quantized checkpoints are not read")
    known = {}
    for name, row in family.parameters.items():
        how = {"fields": [row]} if isinstance(row, str) else row
        if kind in how.get("models", (kind,)):
            value = _weight(weights, how) if "weight" in how else _value(config, how)
            if value is not None:
                known[name] = value
    spec = f"zoo/{kind}" if kind == family.sentence_encoder else family.spec
    module = source.load(find(spec)[0], kind, {**known, **(params or {})}, dtype)
    assert module.compile is not None
    # Relative to the folder, so that what an artifact says of its making names no place on this machine.
    module.path = str(path / CONFIG)
    module.compile = replace(module.compile, weights=_weights_file(path).name)
    return module


def _weights_file(path: Path) -> Path:
    """The index or the only safetensors file of a folder. Raises what ``open_weights`` would for a folder without."""
    found = sorted(path.glob("*.safetensors.index.json")) or sorted(path.glob("*.safetensors"))
    if len(found) > 1:
        found = [p for p in found if p.name.startswith("model.safetensors")] or found[:1]
    if not found:
        from ..runtime.files.safetensors import refuse_pickle

        for other in sorted(path.iterdir()):
            refuse_pickle(other, None)
        raise Diagnostic("E0001", f"there is no safetensors file in {path}")
    return found[0]


def _family(path: Path, config: Config) -> Family:
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise Diagnostic("E0931", f"{path / CONFIG} has no `model_type`")
    known = families()
    if kind not in known:
        raise Diagnostic(
            "E0932",
            f"the zoo has no `{kind}`",
            help=did_you_mean(kind, known)
            or f"it has {', '.join(known)}; export others to ONNX and optimize the .onnx file",
        )
    return known[kind]


def _head(config: Config) -> str | None:
    given = config.get("architectures")
    return given[0] if isinstance(given, list) and given and isinstance(given[0], str) else None


def _model_of(path: Path, config: Config, family: Family, model: str | None) -> tuple[str, list[str]]:
    """Which model of the spec, and what of the checkpoint it leaves out."""
    head = _head(config)
    sentence = _sentence_encoder(path) if family.sentence_encoder is not None else None
    if model is not None:
        return model, []
    if head is None:
        raise Diagnostic("E0931", f"{path / CONFIG} has no `architectures`", help=_choose(family))
    if head not in family.models:
        raise Diagnostic("E0932", f"the zoo has no `{head}`", help=_choose(family))
    if sentence == "mean, unit length" and family.sentence_encoder is not None:
        return family.sentence_encoder, []
    notes = []
    if sentence is not None:
        notes.append(f"`{MODULES}` asks for {sentence}, which is left out: the outputs are the token features")
    if family.part(head) is not None:
        notes.append(f"only the {family.part(head)} of `{head}` is taken")
    return family.model(head), notes


def _choose(family: Family) -> str:
    models = ", ".join(f"`--model {m}`" for m in dict.fromkeys(map(family.model, family.models)))
    return f"it has {', '.join(family.models)}; to take the part that it has, say {models}"


def _sentence_encoder(path: Path) -> str | None:
    """What sentence-transformers does behind the encoder: None without ``modules.json``."""
    if not os.path.isfile(path / MODULES):
        return None
    steps = _json(path / MODULES, list)
    rows = [(str(s.get("type", "")).rpartition(".")[2], s.get("path")) for s in steps if isinstance(s, dict)]
    kinds = [kind for kind, _ in rows]
    if kinds != ["Transformer", "Pooling", "Normalize"] or not isinstance(rows[1][1], str):
        return " and ".join(kinds[1:]) or None
    # The name decides, as for shards: a folder does not get to name a file outside of it.
    place = path / Path(rows[1][1]).name / CONFIG
    modes = [k for k, v in _json(place).items() if k.startswith("pooling_mode_") and v is True]
    mean = modes == ["pooling_mode_mean_tokens"] or _json(place).get("pooling_mode") == "mean"
    return "mean, unit length" if mean else f"Pooling ({', '.join(modes)}) and Normalize"


def _field(config: Config, path: str, missing: Any) -> Any:
    """``rope_parameters.rope_type`` of a configuration; what is no object on the way is the value itself."""
    found: Any = config
    for part in path.split("."):
        if not isinstance(found, Mapping):
            break
        found = found.get(part, _NONE)
        if found is _NONE or (found is None and part != path):
            return missing
    return found


def _value(config: Config, how: Mapping[str, Any]) -> Any:
    """The first of the fields that is given, else the default. Raises E0931 without one, E0933 for what cannot be its value."""
    for name in how["fields"]:
        found = _field(config, name, None)
        if found is not None:
            return _checked(name, found, how)
    if "default" not in how:
        raise Diagnostic("E0931", f"config.json has no `{how['fields'][0]}`")
    return how["default"]


def _checked(name: str, found: Any, how: Mapping[str, Any]) -> Any:
    """The value of a field as a static parameter."""
    if "values" in how:
        if not isinstance(found, str) or found not in how["values"]:
            raise _unsupported(name, found, list(how["values"]))
        return how["values"][found]
    default = how.get("default")
    if isinstance(default, bool):
        return bool(found)
    if isinstance(default, list):
        given = found if isinstance(found, list) else [found]
        if not given or not all(isinstance(v, int) and not isinstance(v, bool) for v in given):
            raise Diagnostic("E0933", f"`{name}` must be an integer or a list of them, but is {json.dumps(found)}")
        return given
    number = isinstance(found, (int, float)) and not isinstance(found, bool)
    if "least" in how:
        if not number or found < how["least"]:
            raise Diagnostic("E0933", f"`{name}` must be a number from {how['least']} on, but is {json.dumps(found)}")
    elif not number or found <= 0:
        raise Diagnostic("E0933", f"`{name}` must be a positive number, but is {json.dumps(found)}")
    return found


def _weight(weights: Weights, how: Mapping[str, Any]) -> Any:
    """Whether there is a weight of that pattern, or its size along an axis; None for the size of none."""
    found = next((n for n in weights if fnmatchcase(n, how["weight"])), None)
    if "axis" not in how:
        return found is not None
    return None if found is None else weights.entry(found).shape[how["axis"]]


def _unsupported(name: str, found: Any, values: Sequence[Any]) -> Diagnostic:
    return Diagnostic(
        "E0933",
        f"`{name}` is {json.dumps(found)}, but the spec computes only {' or '.join(json.dumps(v) for v in values)}",
        notes=[Note("a model that differs in this would give wrong results without a message")],
        help="export the model to ONNX and optimize the .onnx file",
    )


def _json(path: Path, kind: type = dict) -> Any:
    try:
        if path.stat().st_size > _LARGEST:
            raise Diagnostic("E0931", f"{path} is larger than {_LARGEST >> 20} MiB: that is no configuration")
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise Diagnostic("E0931", f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise Diagnostic("E0931", f"{path} is not JSON: {str(error)[:200]}") from None
    if not isinstance(value, kind):
        raise Diagnostic("E0931", f"{path} holds no {'object' if kind is dict else 'list'}")
    return value
