"""Further transformers architectures, beside those that the project promises: how far the importers reach."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .architectures import (
    DECODER,
    IMAGES,
    TEXT,
    VOCABULARY,
    Architecture,
    Sizes,
    image,
    image_inputs,
    text,
    text_inputs,
)

_LM = {**DECODER, "head_dim": 8}
_HIERARCHY = {"hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 2, 4], "depths": [1, 1, 1, 1]}
_GPT = {"vocab_size": VOCABULARY, "use_cache": False}
_GPT_SIZES = {**_GPT, "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 64}


def _decoder(name: str, prefix: str, config: str | None = None, **options: Any) -> Architecture:
    return text(name, f"{prefix}ForCausalLM", config or f"{prefix}Config", **{**_LM, **options})


def _from(name: str, low: int, high: int, model: str, config: str, **options: Any) -> Architecture:
    """A model whose code torch.export takes only for so many tokens."""
    return replace(text(name, model, config, **options), bounds={"tokens": (low, high)})


# The token of an image's patch in a prompt, and how many an image has.
PATCH, PATCHES = 98, 16


def prompt_inputs(sizes: Sizes) -> dict[str, Any]:
    """Two images, and two prompts with one image each behind its second token."""
    import torch

    ids = torch.randint(3, PATCH, (2, sizes["tokens"]), generator=torch.Generator().manual_seed(sizes["tokens"]))
    ids[:, 2 : 2 + PATCHES] = PATCH
    return {**image_inputs({"batch": 2}), "input_ids": ids}


def _llava() -> Any:
    """LLaVA that gives its scores alone; torch.export fixes the number of images, which are a list to it."""
    import torch
    import transformers

    tower = {**IMAGES, "model_type": "clip_vision_model", "num_hidden_layers": 3}
    config = transformers.LlavaConfig(
        vision_config=tower, text_config={**DECODER, "model_type": "llama"}, image_token_index=PATCH
    )

    class Scores(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.LlavaForConditionalGeneration(config)

        def forward(self, pixel_values: Any, input_ids: Any) -> Any:
            return {"logits": self.model(pixel_values=pixel_values, input_ids=input_ids, use_cache=False).logits}

    return Scores()


def pair_inputs(sizes: Sizes) -> dict[str, Any]:
    return {**image_inputs({"batch": sizes["images"]}), **text_inputs(sizes)}


def _clip() -> Any:
    """CLIP that gives how well images fit texts alone."""
    import torch
    import transformers

    text = {**TEXT, "bos_token_id": 1, "eos_token_id": 2, "projection_dim": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config={**IMAGES, "projection_dim": 16}, projection_dim=16)

    class Fit(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.CLIPModel(config)

        def forward(self, pixel_values: Any, input_ids: Any, attention_mask: Any) -> Any:
            found = self.model(pixel_values=pixel_values, input_ids=input_ids, attention_mask=attention_mask)
            return {"logits_per_image": found.logits_per_image}

    return Fit()


PAIR = {
    "pixel_values": {0: "images"}, "input_ids": {0: "batch", 1: "tokens"}, "attention_mask": {0: "batch", 1: "tokens"},
}  # fmt: skip

MORE: dict[str, Architecture] = {
    a.name: a
    for a in (
        Architecture("llava", _llava, prompt_inputs, {"pixel_values": {}, "input_ids": {1: "tokens"}},
                     ({"tokens": 24}, {"tokens": 30}), 4, bounds={"tokens": (20, 64)}),
        Architecture("clip", _clip, pair_inputs, PAIR,
                     ({"images": 2, "batch": 3, "tokens": 7}, {"images": 3, "batch": 4, "tokens": 12}), 4),
        text("xlm_roberta", "XLMRobertaModel", "XLMRobertaConfig", **TEXT),
        text("camembert", "CamembertModel", "CamembertConfig", **TEXT),
        text("modernbert", "ModernBertModel", "ModernBertConfig", global_attn_every_n_layers=2, local_attention=4,
             **{**DECODER, "num_key_value_heads": 4}),
        # As the published ones are: positions are attended to as contents are, not added to them.
        text("deberta", "DebertaModel", "DebertaConfig", relative_attention=True, pos_att_type=["c2p", "p2c"], **TEXT),
        text("deberta_v2", "DebertaV2Model", "DebertaV2Config", relative_attention=True, pos_att_type=["c2p", "p2c"],
             position_buckets=8, share_att_key=True, norm_rel_ebd="layer_norm", position_biased_input=False, **TEXT),
        _from("mobilebert", 3, 64, "MobileBertModel", "MobileBertConfig", vocab_size=VOCABULARY, hidden_size=32,
              embedding_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, intra_bottleneck_size=32),
        text("convbert", "ConvBertModel", "ConvBertConfig", **TEXT),
        text("roformer", "RoFormerModel", "RoFormerConfig", **TEXT),
        text("nystromformer", "NystromformerModel", "NystromformerConfig", num_landmarks=4, segment_means_seq_len=4, **TEXT),
        text("squeezebert", "SqueezeBertModel", "SqueezeBertConfig", embedding_size=32, **TEXT),
        text("megatron_bert", "MegatronBertModel", "MegatronBertConfig", **TEXT),
        text("ernie", "ErnieModel", "ErnieConfig", **TEXT),
        text("esm", "EsmModel", "EsmConfig", pad_token_id=1, **TEXT),
        text("layoutlm", "LayoutLMModel", "LayoutLMConfig", **TEXT),
        text("t5_encoder", "T5EncoderModel", "T5Config", vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2,
             num_heads=4),
        _from("bart", 3, 64, "BartModel", "BartConfig", blocks=6, vocab_size=VOCABULARY, d_model=32, encoder_layers=2,
              decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
              decoder_ffn_dim=48, max_position_embeddings=64, use_cache=False),
        text("siglip_text", "SiglipTextModel", "SiglipTextConfig", projection_size=32, **TEXT),
        text("opt", "OPTForCausalLM", "OPTConfig", num_hidden_layers=2, ffn_dim=48, word_embed_proj_dim=32, **_GPT_SIZES),
        text("gpt_neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", num_hidden_layers=2, intermediate_size=48, **_GPT_SIZES),
        _from("gpt_neo", 2, 63, "GPTNeoForCausalLM", "GPTNeoConfig", hidden_size=32, num_layers=2, num_heads=4,
              intermediate_size=48, max_position_embeddings=64, attention_types=[[["global", "local"], 1]], window_size=4,
              **_GPT),
        text("gptj", "GPTJForCausalLM", "GPTJConfig", n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4, **_GPT),
        text("bloom", "BloomForCausalLM", "BloomConfig", hidden_size=32, n_layer=2, n_head=4, **_GPT),
        text("falcon", "FalconForCausalLM", "FalconConfig", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **_GPT),
        _decoder("qwen3", "Qwen3"),
        _decoder("gemma2", "Gemma2"),
        _decoder("gemma3", "Gemma3", "Gemma3TextConfig"),
        _decoder("olmo2", "Olmo2"),
        _decoder("phi3", "Phi3"),
        _decoder("stablelm", "StableLm"),
        _decoder("cohere", "Cohere"),
        _decoder("starcoder2", "Starcoder2"),
        _decoder("granite", "Granite"),
        _decoder("glm", "Glm"),
        _decoder("nemotron", "Nemotron"),
        _decoder("smollm3", "SmolLM3"),
        _decoder("persimmon", "Persimmon"),
        _decoder("helium", "Helium"),
        _decoder("exaone4", "Exaone4"),
        _decoder("ministral", "Ministral"),
        _decoder("seed_oss", "SeedOss"),
        _decoder("arcee", "Arcee"),
        _decoder("hunyuan", "HunYuanDenseV1"),
        _decoder("ernie4_5", "Ernie4_5"),
        _decoder("mixtral", "Mixtral"),
        _decoder("qwen2_moe", "Qwen2Moe"),
        _decoder("qwen3_moe", "Qwen3Moe"),
        _decoder("olmoe", "Olmoe"),
        _decoder("gpt_oss", "GptOss"),
        image("vit_msn", "ViTMSNModel", "ViTMSNConfig", **IMAGES),
        image("ijepa", "IJepaModel", "IJepaConfig", **IMAGES),
        image("dinov2_registers", "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **{**IMAGES, "mlp_ratio": 2}),
        image("dinov3", "DINOv3ViTModel", "DINOv3ViTConfig", **IMAGES),
        image("data2vec_vision", "Data2VecVisionModel", "Data2VecVisionConfig", **IMAGES),
        image("yolos", "YolosModel", "YolosConfig", num_detection_tokens=5, **{**IMAGES, "image_size": [32, 32]}),
        image("dpt", "DPTForSemanticSegmentation", "DPTConfig", blocks=4, backbone_out_indices=[0, 1, 2, 3],
              neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, num_labels=5, **{**IMAGES, "num_hidden_layers": 4}),
        image("swin", "SwinModel", "SwinConfig", image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 4],
              window_size=4),
        image("swinv2", "Swinv2Model", "Swinv2Config", image_size=32, patch_size=4, embed_dim=16, depths=[1, 1],
              num_heads=[2, 4], window_size=4),
        image("pvt", "PvtModel", "PvtConfig", blocks=4, image_size=32, **_HIERARCHY),
        image("hiera", "HieraModel", "HieraConfig", image_size=[32, 32], patch_size=[3, 3], patch_stride=[2, 2],
              patch_padding=[1, 1], embed_dim=16, depths=[1, 1], num_heads=[1, 2], masked_unit_size=[4, 4],
              query_stride=[2, 2], num_query_pool=1),
        image("levit", "LevitModel", "LevitConfig", blocks=5, image_size=32, hidden_sizes=[16, 24, 32],
              num_attention_heads=[2, 2, 2], depths=[1, 1, 1], key_dim=[8, 8, 8]),
        image("mobilevit", "MobileViTModel", "MobileViTConfig", blocks=9, image_size=32, hidden_sizes=[16, 24, 32],
              neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 32]),
        image("blip_vision", "BlipVisionModel", "BlipVisionConfig", **IMAGES),
        image("vitdet", "VitDetModel", "VitDetConfig", **IMAGES),
        image("glpn", "GLPNModel", "GLPNConfig", blocks=4, **_HIERARCHY),
        image("focalnet", "FocalNetModel", "FocalNetConfig", blocks=0, image_size=32, embed_dim=16, depths=[1, 1],
              focal_levels=[2, 2], focal_windows=[3, 3]),
        image("poolformer", "PoolFormerModel", "PoolFormerConfig", blocks=0, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]),
        image("convnext", "ConvNextModel", "ConvNextConfig", blocks=0, hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
        image("bit", "BitModel", "BitConfig", blocks=0, embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1],
              num_groups=2),
        image("resnet", "ResNetModel", "ResNetConfig", blocks=0, embedding_size=8, hidden_sizes=[8, 16, 24, 32],
              depths=[1, 1, 1, 1]),
    )
}  # fmt: skip
