"""Folders of Hugging Face form: ``config.json`` and safetensors of a family in the zoo become the spec of that family.

    imported = load("models/all-MiniLM-L6-v2")
    imported.module                      # zoo/minilm with the sizes of config.json
    imported.weights["embeddings.word_embeddings.weight"]

Only JSON and safetensors are read: no code of the folder runs, and no pickle is opened. A family is a row of ``FAMILIES``: which
fields of the configuration are static parameters, and which values of other fields the spec computes. A value that it
does not compute is refused by name, because a model that is nearly right is wrong.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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
_NEEDED = object()

Config = Mapping[str, Any]
Names = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Family:
    """One ``model_type``.

    Args:
        spec: the shipped spec.
        heads: ``architectures`` entry -> model of the spec.
        sizes: field of the configuration -> (static parameter, default where the field is missing).
        allowed: field -> the values that the spec computes; a missing field is the first of them.
        more: static parameters that take a rule: (configuration, shapes of the weights by name) -> values.
        renames: of weights, before those of the spec.
    """

    spec: str
    heads: Mapping[str, str]
    sizes: Mapping[str, tuple[str, Any]]
    allowed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    more: Callable[[Config, Names], dict[str, Any]] = lambda config, names: {}
    renames: tuple[tuple[str, str], ...] = ()


def _pooler(config: Config, names: Names) -> dict[str, Any]:
    return {"pooler": any(n.endswith("pooler.dense.weight") for n in names)}


def _vision(config: Config, names: Names) -> dict[str, Any]:
    """A classifier has as many classes as its file says; a feature model may have a pooler."""
    head = next((n for n in names if n in ("classifier.weight", "cls_classifier.weight")), None)
    return {"classes": names[head][0]} if head else _pooler(config, names)


def _llama(config: Config, names: Names) -> dict[str, Any]:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else rope
    if kind != "default":
        raise _unsupported("rope_type", kind, ("default",))
    heads, dim = config["num_attention_heads"], config["hidden_size"]
    return {
        "kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or dim // heads,
        "theta": float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
        **({"tied": bool(config.get("tie_word_embeddings", False))} if _head(config) == "LlamaForCausalLM" else {}),
    }


def _gpt2(config: Config, names: Names) -> dict[str, Any]:
    if _head(config) == "GPT2LMHeadModel" and not config.get("tie_word_embeddings", True):
        raise _unsupported("tie_word_embeddings", False, (True,))
    return {"hidden": config.get("n_inner") or 4 * config["n_embd"]}


_VISION = {
    "hidden_size": ("dim", 768),
    "num_hidden_layers": ("depth", 12),
    "num_attention_heads": ("heads", 12),
    "intermediate_size": ("hidden", 3072),
    "image_size": ("size", 224),
    "patch_size": ("patch", 16),
    "layer_norm_eps": ("eps", 1e-12),
}
_VISION_ALLOWED = {
    "hidden_act": ("gelu",),
    "qkv_bias": (True,),
    "num_channels": (3,),
    "pooler_act": ("tanh",),
}

FAMILIES: dict[str, Family] = {
    "vit": Family(
        "zoo/vit",
        {"ViTModel": "vit", "ViTForImageClassification": "vit_classifier"},
        _VISION,
        _VISION_ALLOWED,
        _vision,
    ),
    "deit": Family(
        "zoo/deit",
        {"DeiTModel": "deit", "DeiTForImageClassificationWithTeacher": "deit_classifier"},
        _VISION,
        _VISION_ALLOWED,
        _vision,
    ),
    "bert": Family(
        "zoo/bert",
        {"BertModel": "bert"},
        {
            "vocab_size": ("vocab", _NEEDED),
            "max_position_embeddings": ("positions", 512),
            "type_vocab_size": ("segments", 2),
            "hidden_size": ("dim", _NEEDED),
            "num_hidden_layers": ("depth", _NEEDED),
            "num_attention_heads": ("heads", _NEEDED),
            "intermediate_size": ("hidden", _NEEDED),
            "layer_norm_eps": ("eps", 1e-12),
        },
        {
            "hidden_act": ("gelu",),
            "position_embedding_type": ("absolute",),
            "is_decoder": (False,),
            "add_cross_attention": (False,),
        },
        _pooler,
    ),
    "gpt2": Family(
        "zoo/gpt2",
        {"GPT2Model": "gpt2", "GPT2LMHeadModel": "gpt2_lm"},
        {
            "vocab_size": ("vocab", _NEEDED),
            "n_positions": ("positions", 1024),
            "n_embd": ("dim", _NEEDED),
            "n_layer": ("depth", _NEEDED),
            "n_head": ("heads", _NEEDED),
            "layer_norm_epsilon": ("eps", 1e-5),
        },
        {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        _gpt2,
    ),
    "llama": Family(
        "zoo/llama",
        {"LlamaModel": "llama", "LlamaForCausalLM": "llama_lm"},
        {
            "vocab_size": ("vocab", _NEEDED),
            "hidden_size": ("dim", _NEEDED),
            "num_hidden_layers": ("depth", _NEEDED),
            "num_attention_heads": ("heads", _NEEDED),
            "intermediate_size": ("hidden", _NEEDED),
            "rms_norm_eps": ("eps", 1e-6),
        },
        {
            "hidden_act": ("silu",),
            "attention_bias": (False,),
            "mlp_bias": (False,),
            "sliding_window": (None,),
            "partial_rotary_factor": (1.0, None),
        },
        _llama,
    ),
    "whisper": Family(
        "zoo/whisper",
        {
            "WhisperEncoder": "whisper_encoder",
            "WhisperModel": "whisper_encoder",
            "WhisperForConditionalGeneration": "whisper_encoder",
        },
        {
            "num_mel_bins": ("mels", 80),
            "max_source_positions": ("positions", 1500),
            "d_model": ("dim", _NEEDED),
            "encoder_layers": ("depth", _NEEDED),
            "encoder_attention_heads": ("heads", _NEEDED),
            "encoder_ffn_dim": ("hidden", _NEEDED),
        },
        {"activation_function": ("gelu",)},
        renames=(("encoder.*", "*"),),
    ),
}


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

    names = {n: tuple(weights.entry(n).shape) for n in weights}
    known = {p: _value(config, f, default) for f, (p, default) in family.sizes.items()}
    for name, values in family.allowed.items():
        found = config.get(name, values[0])
        if found not in values:
            raise _unsupported(name, found, values)
    if config.get("quantization_config"):
        raise Diagnostic("E0933", "`quantization_config`: quantized checkpoints are not read")
    # A spec ignores no parameter, but its models differ in which they have: `pooler`, `classes`, `tied`.
    spec = "zoo/minilm" if kind == "minilm" else family.spec
    known.update((k, v) for k, v in family.more(config, names).items() if not (kind == "minilm" and k == "pooler"))
    module = source.load(find(spec)[0], kind, {**known, **(params or {})}, dtype)
    assert module.compile is not None
    renames = (*family.renames, *module.compile.renames)
    # Relative to the folder, so that what an artifact says of its making names no place on this machine.
    module.path = str(path / CONFIG)
    module.compile = replace(module.compile, weights=_weights_file(path).name, renames=renames)
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
    if kind not in FAMILIES:
        raise Diagnostic(
            "E0932",
            f"the zoo has no `{kind}`",
            help=did_you_mean(kind, FAMILIES)
            or f"it has {', '.join(FAMILIES)}; export others to ONNX and optimize the .onnx file",
        )
    return FAMILIES[kind]


def _head(config: Config) -> str | None:
    given = config.get("architectures")
    return given[0] if isinstance(given, list) and given and isinstance(given[0], str) else None


def _model_of(path: Path, config: Config, family: Family, model: str | None) -> tuple[str, list[str]]:
    """Which model of the spec, and what of the checkpoint it leaves out."""
    head = _head(config)
    sentence = _sentence_encoder(path) if family.spec == "zoo/bert" else None
    if model is not None:
        return model, []
    if head is None:
        raise Diagnostic("E0931", f"{path / CONFIG} has no `architectures`", help=_choose(family))
    if head not in family.heads:
        raise Diagnostic("E0932", f"the zoo has no `{head}`", help=_choose(family))
    kind = family.heads[head]
    if sentence == "mean, unit length":
        return "minilm", []
    notes = []
    if sentence is not None:
        notes.append(f"`{MODULES}` asks for {sentence}, which is left out: the outputs are the token features")
    if kind == "whisper_encoder" and head != "WhisperEncoder":
        notes.append(f"only the encoder of `{head}` is taken")
    return kind, notes


def _choose(family: Family) -> str:
    models = ", ".join(f"`--model {m}`" for m in dict.fromkeys(family.heads.values()))
    return f"it has {', '.join(family.heads)}; to take the part that it has, say {models}"


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


def _value(config: Config, name: str, default: Any) -> Any:
    found = config.get(name, default)
    if found is _NEEDED:
        raise Diagnostic("E0931", f"config.json has no `{name}`")
    if isinstance(found, bool) or not isinstance(found, (int, float)) or found <= 0:
        raise Diagnostic("E0933", f"`{name}` must be a positive number, but is {json.dumps(found)}")
    return found


def _unsupported(name: str, found: Any, values: tuple[Any, ...]) -> Diagnostic:
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
