"""Folders as `save_pretrained` writes them: outputs agree with transformers, and what the zoo does not compute is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import tessera as ts  # noqa: E402
from tessera.frontends.huggingface import families, load  # noqa: E402
from tessera.ir.diagnostics import Diagnostic  # noqa: E402

pytestmark = pytest.mark.usefixtures("quiet_transformers")

TOLERANCE = 2e-5
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
          "image_size": 32, "patch_size": 8}  # fmt: skip
BERT = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": 20}  # fmt: skip
GPT2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 20, "bos_token_id": 0,
        "eos_token_id": 0}  # fmt: skip
LLAMA = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 64}  # fmt: skip
WHISPER = {"vocab_size": 60, "num_mel_bins": 8, "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4,
           "encoder_ffn_dim": 64, "max_source_positions": 12, "decoder_layers": 1, "decoder_attention_heads": 4,
           "decoder_ffn_dim": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
           "decoder_start_token_id": 1, "begin_suppress_tokens": None}  # fmt: skip


def saved(kind: str, config: str, sizes: dict[str, Any], folder: Path, **options: Any) -> Any:
    """A transformers model with random weights, norms and biases too, and its folder."""
    save = options.pop("save", {})
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**sizes), **options).eval()
    for parameter in model.parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
        parameter.copy_(torch.randn_like(parameter) * scale + (parameter.ndim == 1) * 0.5)
    model.save_pretrained(folder, **save)
    return model


def image(batch: int = 2) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(0).standard_normal((batch, 3, 32, 32)).astype(np.float32)}


def tokens(batch: int = 2, length: int = 9) -> dict[str, np.ndarray]:
    return {"input_ids": np.random.default_rng(0).integers(0, 50, (batch, length))}


def text(batch: int = 2, length: int = 9) -> dict[str, np.ndarray]:
    mask = (np.arange(length) < np.array([[length], [length - 4]])).astype(np.int64)
    types = np.random.default_rng(1).integers(0, 2, (batch, length))
    return {**tokens(batch, length), "attention_mask": mask, "token_type_ids": types}


def sound() -> dict[str, np.ndarray]:
    return {"input_features": np.random.default_rng(0).standard_normal((2, 8, 24)).astype(np.float32)}


CASES: list[tuple[str, str, dict[str, Any], Callable[[], dict[str, np.ndarray]], str | None]] = [
    ("ViTModel", "ViTConfig", VISION, image, "pixel_values"),
    ("ViTForImageClassification", "ViTConfig", {**VISION, "num_labels": 7}, image, "pixel_values"),
    ("DeiTModel", "DeiTConfig", VISION, image, "pixel_values"),
    ("DeiTForImageClassificationWithTeacher", "DeiTConfig", {**VISION, "num_labels": 5}, image, "pixel_values"),
    ("BertModel", "BertConfig", {**BERT, "layer_norm_eps": 1e-5}, text, None),
    ("GPT2Model", "GPT2Config", GPT2, tokens, None),
    ("GPT2LMHeadModel", "GPT2Config", {**GPT2, "n_inner": 48}, tokens, None),
    ("LlamaModel", "LlamaConfig", {**LLAMA, "head_dim": 16}, tokens, None),
    ("LlamaForCausalLM", "LlamaConfig",
     {**LLAMA, "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}}, tokens, None),
    ("LlamaForCausalLM", "LlamaConfig", {**LLAMA, "tie_word_embeddings": True}, tokens, None),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "config", "sizes", "inputs", "pixels"), CASES, ids=[case[0] for case in CASES])
def test_agrees_with_transformers(
    tmp_path: Path, kind: str, config: str, sizes: dict[str, Any], inputs: Callable[[], Any], pixels: str | None
) -> None:
    judge = saved(kind, config, sizes, tmp_path)
    feeds = inputs()
    named = {pixels or k: torch.as_tensor(v) for k, v in feeds.items()}
    want = judge(**named)
    run = ts.compile(ts.load(tmp_path), verify=False)
    found = run(**feeds)
    for name, array in found.items():
        np.testing.assert_allclose(array, want[name].numpy(), rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("kind", ["WhisperModel", "WhisperForConditionalGeneration"])
def test_whisper_gives_its_encoder_and_says_so(tmp_path: Path, kind: str) -> None:
    judge = saved(kind, "WhisperConfig", WHISPER, tmp_path)
    imported = load(tmp_path)
    assert imported.notes == [f"only the encoder of `{kind}` is taken"]
    feeds = sound()
    want = judge.get_encoder()(torch.as_tensor(feeds["input_features"])).last_hidden_state
    found = ts.compile(imported.module, weights=imported.weights, verify=False)(**feeds)["last_hidden_state"]
    np.testing.assert_allclose(found, want.numpy(), rtol=TOLERANCE, atol=TOLERANCE)


def test_sentence_encoder_is_recognised_by_its_modules(tmp_path: Path) -> None:
    judge = saved("BertModel", "BertConfig", BERT, tmp_path, add_pooling_layer=False)
    rows = [{"type": f"sentence_transformers.models.{t}", "path": p} for t, p in
            [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]]  # fmt: skip
    (tmp_path / "modules.json").write_text(json.dumps(rows))
    (tmp_path / "1_Pooling").mkdir()
    pooling = tmp_path / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}))
    feeds = text()
    del feeds["token_type_ids"]
    hidden = judge(**{k: torch.as_tensor(v) for k, v in feeds.items()}).last_hidden_state
    weight = torch.as_tensor(feeds["attention_mask"])[..., None].float()
    want = torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1))
    found = ts.compile(ts.load(tmp_path), verify=False)(**feeds)["embedding"]
    np.testing.assert_allclose(found, want.numpy(), rtol=TOLERANCE, atol=TOLERANCE)
    pooling.write_text(json.dumps({"pooling_mode_cls_token": True}))
    other = load(tmp_path)
    assert other.module.name == "bert"
    assert "pooling_mode_cls_token" in other.notes[0]


def test_sharded_checkpoints(tmp_path: Path) -> None:
    judge = saved("BertModel", "BertConfig", BERT, tmp_path, save={"max_shard_size": "20KB"})
    assert (tmp_path / "model.safetensors.index.json").exists()
    feeds = text()
    want = judge(**{k: torch.as_tensor(v) for k, v in feeds.items()}).last_hidden_state
    found = ts.compile(ts.load(tmp_path), verify=False)(**feeds)["last_hidden_state"]
    np.testing.assert_allclose(found, want.numpy(), rtol=TOLERANCE, atol=TOLERANCE)


def test_parameters_of_the_user_go_before_those_of_the_configuration(tmp_path: Path) -> None:
    saved("GPT2Model", "GPT2Config", GPT2, tmp_path)
    assert "h.1.ln_1.weight" not in ts.load(tmp_path, params={"depth": 1}).graph.params


def test_an_artifact_names_no_place_of_this_machine(tmp_path: Path) -> None:
    saved("GPT2Model", "GPT2Config", GPT2, tmp_path)
    assert str(tmp_path) not in ts.source(ts.load(tmp_path))


def folder(path: Path, **changes: Any) -> Path:
    """A folder of a BERT that loads, but for the changed fields."""
    saved("BertModel", "BertConfig", BERT, path)
    config = json.loads((path / "config.json").read_text())
    config.update(changes)
    (path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "drop"}))
    return path


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"hidden_act": "relu"}, "E0933", '`hidden_act` is "relu"'),
        ({"position_embedding_type": "relative_key"}, "E0933", "`position_embedding_type`"),
        ({"is_decoder": True}, "E0933", "`is_decoder` is true"),
        ({"quantization_config": {"bits": 4}}, "E0933", "`quantization_config`"),
        ({"hidden_size": "wide"}, "E0933", "`hidden_size`"),
        ({"hidden_size": "drop"}, "E0931", "no `hidden_size`"),
        ({"model_type": "drop"}, "E0931", "no `model_type`"),
        ({"model_type": "brt"}, "E0932", "no `brt`"),
        ({"architectures": None}, "E0931", "no `architectures`"),
        ({"architectures": ["BertForMaskedLM"]}, "E0932", "no `BertForMaskedLM`"),
    ],
    ids=str,
)
def test_refused_configurations(tmp_path: Path, changes: dict[str, Any], code: str, said: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        load(folder(tmp_path, **changes))
    assert caught.value.code == code
    assert said in caught.value.message


def test_the_part_that_the_zoo_has_can_be_asked_for(tmp_path: Path) -> None:
    place = folder(tmp_path, architectures=["BertForMaskedLM"])
    with pytest.raises(Diagnostic) as caught:
        load(place)
    assert "--model bert" in str(caught.value.help)
    assert load(place, model="bert").module.name == "bert"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}}, "rope_parameters.rope_type"),
        ({"attention_bias": True}, "attention_bias"),
        ({"sliding_window": 8}, "sliding_window"),
        ({"hidden_act": "gelu"}, "hidden_act"),
    ],
    ids=str,
)
def test_llama_variants_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], name: str) -> None:
    saved("LlamaModel", "LlamaConfig", LLAMA, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(Diagnostic, match=f"`{name}`") as caught:
        load(tmp_path)
    assert caught.value.code == "E0933"


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff\xfe", b"[" * 100_000], ids=["cut", "list", "bytes", "deep"])
def test_broken_configurations(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(Diagnostic) as caught:
        load(tmp_path)
    assert caught.value.code == "E0931"


def test_a_folder_without_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(Diagnostic, match=r"config\.json cannot be read"):
        ts.load(tmp_path)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    place = folder(tmp_path)
    (place / "model.safetensors").rename(place / "pytorch_model.bin")
    with pytest.raises(Diagnostic) as caught:
        load(place)
    assert caught.value.code == "E0601"


def test_weights_of_other_sizes_are_named(tmp_path: Path) -> None:
    with pytest.raises(Diagnostic) as caught:
        ts.compile(ts.load(folder(tmp_path, intermediate_size=48)), verify=False)
    assert caught.value.code == "E0606"


def test_every_family_names_what_its_spec_has() -> None:
    for family in families().values():
        models = set(map(family.model, family.models))
        assert models <= set(ts.models(family.spec))
        limited = [row["models"] for row in (*family.parameters.values(), *family.computes.values())
                   if isinstance(row, dict) and "models" in row]  # fmt: skip
        assert {m for listed in limited for m in listed} <= models


def test_a_model_for_features_from_a_folder_of_a_classifier(tmp_path: Path) -> None:
    saved("ViTForImageClassification", "ViTConfig", {**VISION, "num_labels": 7}, tmp_path)
    module = ts.load(tmp_path, model="vit")
    assert [info.name for info in module.graph.output_info] == ["last_hidden_state"]


@pytest.mark.parametrize("scaling", ["linear", {"type": "yarn", "factor": 4.0}, {"rope_type": "llama3"}], ids=str)
def test_older_forms_of_rotation_are_refused(tmp_path: Path, scaling: Any) -> None:
    saved("LlamaModel", "LlamaConfig", LLAMA, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop("rope_parameters", None)
    (tmp_path / "config.json").write_text(json.dumps({**config, "rope_scaling": scaling}))
    with pytest.raises(Diagnostic, match="`rope_scaling") as caught:
        load(tmp_path)
    assert caught.value.code == "E0933"
