"""Transformer architectures built small from a config, with random weights: what the importers, `raise` and `optimize` are
tested on. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Sizes = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Architecture:
    """One model family.

    Args:
        name: as transformers calls the family.
        make: builds the model in eval mode, float32, with weights from a fixed seed.
        inputs: example inputs by name, for sizes of the free axes.
        axes: input name -> axis -> the name of its free size.
        sizes: two assignments of the free sizes; the first is what the model is exported with.
        blocks: how many attention blocks the model holds.
    """

    name: str
    make: Callable[[], torch.nn.Module]
    inputs: Callable[[Sizes], dict[str, Any]]
    axes: Mapping[str, Mapping[int, str]]
    sizes: tuple[Sizes, Sizes]
    blocks: int

    def build(self) -> torch.nn.Module:
        """The model, the same one every time."""
        import torch

        state = torch.random.get_rng_state()
        torch.manual_seed(0)
        try:
            model = self.make()
        finally:
            torch.random.set_rng_state(state)
        # With gradients, torch.onnx.export splits attention with a learned bias (BEiT) for one kernel and lays it out for another.
        return _spread(model).eval().requires_grad_(False)

    def dynamic_shapes(self) -> dict[str, dict[int, Any]]:
        """What ``torch.export.export`` takes."""
        from torch.export import Dim

        dims = {name: Dim(name, min=2, max=64) for axes in self.axes.values() for name in axes.values()}
        return {name: {axis: dims[size] for axis, size in axes.items()} for name, axes in self.axes.items()}

    def example(self, which: int = 0) -> dict[str, Any]:
        """Inputs for one of the two sizes."""
        return self.inputs(self.sizes[which])


def _spread(model: torch.nn.Module) -> torch.nn.Module:
    """Norms and biases away from their initial 0 and 1, where a swapped or forgotten parameter would not show."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for param in model.parameters():
            if param.ndim == 1:
                param.add_(torch.randn(param.shape, generator=generator) * 0.05)
    return model


# Inputs --------------------------------------------------------------------------------------------------------------

VOCABULARY = 99
IMAGE = 32
_TEXT_SIZES = ({"batch": 2, "tokens": 7}, {"batch": 3, "tokens": 12})
_IMAGE_SIZES = ({"batch": 2}, {"batch": 3})
_TEXT_AXES = {
    "input_ids": {0: "batch", 1: "tokens"},
    "attention_mask": {0: "batch", 1: "tokens"},
}


def text_inputs(sizes: Sizes) -> dict[str, Any]:
    """Ids and a mask that pads the end of all rows but the first."""
    import torch

    batch, tokens = sizes["batch"], sizes["tokens"]
    generator = torch.Generator().manual_seed(batch * 1000 + tokens)
    ids = torch.randint(3, VOCABULARY, (batch, tokens), generator=generator)
    lengths = torch.tensor([tokens - 2 * (row % 3) for row in range(batch)])
    return {"input_ids": ids, "attention_mask": (torch.arange(tokens)[None] < lengths[:, None]).long()}


def image_inputs(sizes: Sizes) -> dict[str, Any]:
    """Images of normal noise."""
    import torch

    generator = torch.Generator().manual_seed(sizes["batch"])
    return {"pixel_values": torch.randn(sizes["batch"], 3, IMAGE, IMAGE, generator=generator)}


def audio_inputs(sizes: Sizes) -> dict[str, Any]:
    """Log-mel features of normal noise."""
    import torch

    generator = torch.Generator().manual_seed(sizes["batch"])
    return {"input_features": torch.randn(sizes["batch"], 16, 40, generator=generator)}


# Models --------------------------------------------------------------------------------------------------------------

_SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_TEXT = {**_SMALL, "vocab_size": VOCABULARY, "max_position_embeddings": 64}
_IMAGES = {**_SMALL, "image_size": IMAGE, "patch_size": 8}
_DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _model(model: str, config: str, **options: Any) -> Callable[[], torch.nn.Module]:
    def make() -> torch.nn.Module:
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(**options))

    return make


def _text(name: str, model: str, config: str, *, blocks: int = 2, **options: Any) -> Architecture:
    return Architecture(name, _model(model, config, **options), text_inputs, _TEXT_AXES, _TEXT_SIZES, blocks)


def _image(name: str, model: str, config: str, *, blocks: int = 2, **options: Any) -> Architecture:
    axes = {"pixel_values": {0: "batch"}}
    return Architecture(name, _model(model, config, **options), image_inputs, axes, _IMAGE_SIZES, blocks)


def _whisper_encoder() -> torch.nn.Module:
    import transformers

    config = transformers.WhisperConfig(
        vocab_size=VOCABULARY, num_mel_bins=16, d_model=32, encoder_layers=2, encoder_attention_heads=4,
        encoder_ffn_dim=48, max_source_positions=20, decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=48,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return transformers.WhisperModel(config).get_encoder()


ARCHITECTURES: dict[str, Architecture] = {
    a.name: a
    for a in (
        _image("vit", "ViTForImageClassification", "ViTConfig", num_labels=5, **_IMAGES),
        _image("deit", "DeiTForImageClassificationWithTeacher", "DeiTConfig", num_labels=5, **_IMAGES),
        _image("dinov2", "Dinov2Model", "Dinov2Config", **{**_IMAGES, "mlp_ratio": 2}),
        _image("beit", "BeitModel", "BeitConfig", use_relative_position_bias=True, **_IMAGES),
        _image("clip_vision", "CLIPVisionModelWithProjection", "CLIPVisionConfig", projection_dim=16, **_IMAGES),
        _text(
            "clip_text", "CLIPTextModelWithProjection", "CLIPTextConfig", projection_dim=16, bos_token_id=1,
            eos_token_id=2, **_TEXT,
        ),
        _image("siglip_vision", "SiglipVisionModel", "SiglipVisionConfig", blocks=3, **_IMAGES),
        _text("bert", "BertModel", "BertConfig", **_TEXT),
        _text("roberta", "RobertaModel", "RobertaConfig", **_TEXT),
        _text(
            "distilbert", "DistilBertModel", "DistilBertConfig", vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4,
            hidden_dim=48, max_position_embeddings=64, dropout=0.0, attention_dropout=0.0,
        ),
        _text("mpnet", "MPNetModel", "MPNetConfig", **_TEXT),
        _text("albert", "AlbertModel", "AlbertConfig", embedding_size=16, **_TEXT),
        _text("electra", "ElectraModel", "ElectraConfig", embedding_size=16, **_TEXT),
        _text(
            "gpt2", "GPT2LMHeadModel", "GPT2Config", vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64,
            use_cache=False, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2,
        ),
        _text("llama", "LlamaForCausalLM", "LlamaConfig", **_DECODER),
        _text("qwen2", "Qwen2ForCausalLM", "Qwen2Config", **_DECODER),
        _text("mistral", "MistralForCausalLM", "MistralConfig", sliding_window=4, **_DECODER),
        _text("gemma", "GemmaForCausalLM", "GemmaConfig", head_dim=8, **_DECODER),
        _text("phi", "PhiForCausalLM", "PhiConfig", **{**_DECODER, "num_key_value_heads": 4}),
        Architecture(
            "whisper_encoder", _whisper_encoder, audio_inputs, {"input_features": {0: "batch"}}, _IMAGE_SIZES, 2
        ),
        _image(
            "segformer", "SegformerForSemanticSegmentation", "SegformerConfig", blocks=4, num_labels=5,
            hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 2, 4], depths=[1, 1, 1, 1], decoder_hidden_size=16,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, drop_path_rate=0.0, classifier_dropout_prob=0.0,
        ),
    )
}  # fmt: skip
