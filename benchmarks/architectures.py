"""Transformer architectures built small from a config, with random weights: what the importers, `raise` and `optimize` are
tested on. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
        bounds: the least and the greatest value of a free size where they are not 2 and 64.
    """

    name: str
    make: Callable[[], torch.nn.Module]
    inputs: Callable[[Sizes], dict[str, Any]]
    axes: Mapping[str, Mapping[int, str]]
    sizes: tuple[Sizes, Sizes]
    blocks: int
    bounds: Mapping[str, tuple[int, int]] = field(default_factory=dict)

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

        names = {name for axes in self.axes.values() for name in axes.values()}
        bounds = {name: self.bounds.get(name, (2, 64)) for name in names}
        dims = {name: Dim(name, min=low, max=high) for name, (low, high) in bounds.items()}
        return {name: {axis: dims[size] for axis, size in axes.items()} for name, axes in self.axes.items()}

    def example(self, which: int = 0) -> dict[str, Any]:
        """Inputs for one of the two sizes."""
        return self.inputs(self.sizes[which])


def _spread(model: torch.nn.Module) -> torch.nn.Module:
    """Weights of a size at which all of them show in the outputs: initial ones are small, zeros (tables of biases) or ones."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for param in model.parameters():
            noise = torch.randn(param.shape, generator=generator)
            if param.ndim > 1:
                param.copy_(noise * max(1, param.numel() // max(1, len(param))) ** -0.5)
            else:
                param.add_(noise * 0.05)
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

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
TEXT = {**SMALL, "vocab_size": VOCABULARY, "max_position_embeddings": 64}
IMAGES = {**SMALL, "image_size": IMAGE, "patch_size": 8}
DECODER = {
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


def model_of(model: str, config: str, **options: Any) -> Callable[[], torch.nn.Module]:
    """What makes a model of transformers; a dict with ``config`` among the options becomes a configuration of its own."""

    def make() -> torch.nn.Module:
        import transformers

        made = {
            name: getattr(transformers, value["config"])(**{k: v for k, v in value.items() if k != "config"})
            if isinstance(value, dict) and "config" in value
            else value
            for name, value in options.items()
        }
        return getattr(transformers, model)(getattr(transformers, config)(**made))

    return make


def text(name: str, model: str, config: str, *, blocks: int = 2, **options: Any) -> Architecture:
    """A model of ids and a padding mask; the options are those of its config."""
    return Architecture(name, model_of(model, config, **options), text_inputs, _TEXT_AXES, _TEXT_SIZES, blocks)


def image(name: str, model: str, config: str, *, blocks: int = 2, **options: Any) -> Architecture:
    """A model of images; the options are those of its config."""
    axes = {"pixel_values": {0: "batch"}}
    return Architecture(name, model_of(model, config, **options), image_inputs, axes, _IMAGE_SIZES, blocks)


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
        image("vit", "ViTForImageClassification", "ViTConfig", num_labels=5, **IMAGES),
        image("deit", "DeiTForImageClassificationWithTeacher", "DeiTConfig", num_labels=5, **IMAGES),
        image("dinov2", "Dinov2Model", "Dinov2Config", **{**IMAGES, "mlp_ratio": 2}),
        image("beit", "BeitModel", "BeitConfig", use_relative_position_bias=True, **IMAGES),
        image("clip_vision", "CLIPVisionModelWithProjection", "CLIPVisionConfig", projection_dim=16, **IMAGES),
        text(
            "clip_text", "CLIPTextModelWithProjection", "CLIPTextConfig", projection_dim=16, bos_token_id=1,
            eos_token_id=2, **TEXT,
        ),
        image("siglip_vision", "SiglipVisionModel", "SiglipVisionConfig", blocks=3, **IMAGES),
        text("bert", "BertModel", "BertConfig", **TEXT),
        text("roberta", "RobertaModel", "RobertaConfig", **TEXT),
        text(
            "distilbert", "DistilBertModel", "DistilBertConfig", vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4,
            hidden_dim=48, max_position_embeddings=64, dropout=0.0, attention_dropout=0.0,
        ),
        text("mpnet", "MPNetModel", "MPNetConfig", **TEXT),
        text("albert", "AlbertModel", "AlbertConfig", embedding_size=16, **TEXT),
        text("electra", "ElectraModel", "ElectraConfig", embedding_size=16, **TEXT),
        text(
            "gpt2", "GPT2LMHeadModel", "GPT2Config", vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64,
            use_cache=False, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2,
        ),
        text("llama", "LlamaForCausalLM", "LlamaConfig", **DECODER),
        text("qwen2", "Qwen2ForCausalLM", "Qwen2Config", **DECODER),
        text("mistral", "MistralForCausalLM", "MistralConfig", sliding_window=4, **DECODER),
        text("gemma", "GemmaForCausalLM", "GemmaConfig", head_dim=8, **DECODER),
        text("phi", "PhiForCausalLM", "PhiConfig", **{**DECODER, "num_key_value_heads": 4}),
        Architecture(
            "whisper_encoder", _whisper_encoder, audio_inputs, {"input_features": {0: "batch"}}, _IMAGE_SIZES, 2
        ),
        image(
            "segformer", "SegformerForSemanticSegmentation", "SegformerConfig", blocks=4, num_labels=5,
            hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 2, 4], depths=[1, 1, 1, 1], decoder_hidden_size=16,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, drop_path_rate=0.0, classifier_dropout_prob=0.0,
        ),
    )
}  # fmt: skip
