"""What onnxruntime-genai reads beside a model: `genai_config.json`, and the files of its tokenizer."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.binding import decode_dim
from ...ir.diagnostics import Diagnostic
from ...runtime.generate.tokenizer import Vocabulary, read_object

if TYPE_CHECKING:
    import onnx_ir as ox

CONFIG = "genai_config.json"
# Inputs and outputs by what the file calls them, `%d` the number of a layer; an entry point that has them is taken.
_GIVEN = {"input_ids": "input_ids", "attention_mask": "attention_mask", "position_ids": "position_ids"}
_PAST = {"past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"}
_RETURNED = {
    "logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value"
}  # fmt: skip
_TOKENIZER, _SAID = "tokenizer.json", "tokenizer_config.json"
_FURTHER = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "vocab.json", "merges.txt")
# What reads a `tokenizer.json` of byte pairs there; newer files name a class that it does not know.
_CLASS, _UNKNOWN = "PreTrainedTokenizerFast", (None, "", "TokenizersBackend")


def check_form(entries: Mapping[str, ox.Model]) -> tuple[str, ox.Model]:
    """The entry point that onnxruntime-genai runs, by name. Raises E0812 without one."""
    for name, model in entries.items():
        if {_PAST["past_key_names"] % 0, *_GIVEN.values()} - {str(v.name) for v in model.graph.inputs} == set():
            return name, model
    raise Diagnostic(
        "E0812", "onnxruntime-genai runs an entry point that is given keys and values and returns them, and this program has none",
        help="--pass 'add_cache(past=shared)' makes one",
    )  # fmt: skip


def write_genai(entries: Mapping[str, ox.Model], folder: Path, context: int, tokenizer: str | None) -> None:
    """Write the configuration, and put the tokenizer beside it.

    Args:
        context: how many tokens a text has at most, where the model sets no bound.
        tokenizer: a `tokenizer.json` or its folder; without one, texts are given as ids.

    Raises:
        Diagnostic: E0812 for what it does not run, E0015, E0924 and E0953 of the tokenizer.
    """
    name, model = check_form(entries)
    inputs = {str(v.name): _shape(v) for v in model.graph.inputs}
    outputs = {str(v.name): _shape(v) for v in model.graph.outputs}
    layers = sum(_PAST["past_key_names"] % i in inputs for i in range(len(inputs)))
    given = [inputs[name % i] for name in _PAST.values() for i in range(layers)]
    if any(shape != given[0] for shape in given):
        found = sorted({f"{heads} heads of {size}" for _, heads, _, size in given})
        raise Diagnostic(
            "E0812", f"onnxruntime-genai runs models whose keys and values are alike in every layer, and here are {', '.join(found)}",
            help="without `form=genai` the entry point `past` is as good for any other caller",
        )  # fmt: skip
    _, heads, slots, size = given[0]
    vocab = outputs["logits"][-1]
    whole: dict[str, Any] = {
        "type": "decoder",
        "vocab_size": vocab,
        "context_length": _bound(model, slots, context),
        "decoder": {
            "filename": f"{name}.onnx",
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "head_size": size,
            "num_hidden_layers": layers,
            "num_key_value_heads": heads,
            "inputs": {**_GIVEN, **_PAST},
            "outputs": _RETURNED,
        },
    }
    if tokenizer is not None:
        whole |= _tokens(Path(tokenizer), vocab, folder)
    search = {
        "max_length": whole["context_length"],
        "past_present_share_buffer": outputs[_RETURNED["present_key_names"] % 0][2] == slots,
        "do_sample": False,
    }
    text = json.dumps({"model": whole, "search": search}, indent=1, ensure_ascii=False)
    folder.joinpath(CONFIG).write_text(text, encoding="utf-8")


def _shape(value: ox.Value) -> list[Any]:
    """Sizes: numbers, and the names of those that are free."""
    assert value.shape is not None
    return [d if isinstance(d, int) else d.value for d in value.shape]


def _bound(model: ox.Model, slots: str, context: int) -> int:
    """How many tokens a text may have: as many as the model has positions for, where it says so."""
    told = json.loads(model.metadata_props["tessera.requires"])
    needs = [(decode_dim(left), right) for left, op, right, _ in told if op == "<=" and isinstance(right, int)]
    # A table may have rows in front that are no token's.
    most = [right - left.evaluate(dict.fromkeys(left.symbols, 0)) for left, right in needs if slots in left.symbols]
    return min([context, *most])


def _tokens(given: Path, vocab: int, folder: Path) -> dict[str, Any]:
    """Put the files of a tokenizer into the folder; what of them the configuration says."""
    known = Vocabulary(given, vocab)
    home = given if os.path.isdir(given) else given.parent
    file = home / _TOKENIZER if home == given else given
    kind = json.loads(file.read_text(encoding="utf-8")).get("model", {}).get("type")
    if kind != "BPE":
        raise Diagnostic(
            "E0812", f"onnxruntime-genai reads tokenizers of byte pairs as they are, but `{file}` is one of the kind {kind}",
            help="without `tokenizer` the model is given ids, which any tokenizer makes",
        )  # fmt: skip
    shutil.copyfile(file, folder / _TOKENIZER)
    for further in _FURTHER:
        if os.path.isfile(home / further):
            shutil.copyfile(home / further, folder / further)
    said = read_object(home / _SAID)
    if said.get("tokenizer_class") in _UNKNOWN:
        said["tokenizer_class"] = _CLASS
    folder.joinpath(_SAID).write_text(json.dumps(said, indent=1, ensure_ascii=False), encoding="utf-8")
    ends = sorted(known.ends)
    begin = known.id_of(known.begin)
    return {
        **({"eos_token_id": ends, "pad_token_id": ends[0]} if ends else {}),
        **({"bos_token_id": begin} if begin is not None else {}),
    }
