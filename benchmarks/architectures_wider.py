"""Transformers for more than texts and pictures of one size: sound, video, detection, masks, series, state spaces, experts, and
encoders with their decoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .architectures import (
    DECODER,
    IMAGE,
    IMAGES,
    SMALL,
    TEXT,
    VOCABULARY,
    Architecture,
    Sizes,
    image,
    image_inputs,
    model_of,
    text,
    text_inputs,
)
from .architectures_more import MORE, PAIR, pair_inputs, prompt_inputs
from .architectures_pictures import (
    DINO,
    PICTURE_AND,
    REAL_TIME,
    RESNET,
    SWIN,
    TOWER,
    blip2,
    drawn_by,
    noise_inputs,
    only,
    page_inputs,
    patches_inputs,
    picture_and,
    points_inputs,
    queries_inputs,
    sam_options,
    strong_inputs,
    tower,
    whole_sam,
)

_FRAMES = 4
# Samples of sound: some twenty times as many as there are tokens.
_SOUND = {"batch": 2, "samples": 400}, {"batch": 3, "samples": 520}
_PAIRS = ({"batch": 2, "tokens": 7, "given": 5}, {"batch": 3, "tokens": 12, "given": 9})
_BATCHES = ({"batch": 2}, {"batch": 3})
_BATCH = {0: "batch"}
_ROW = {0: "batch", 1: "tokens"}


# Sound, video and series -----------------------------------------------------------------------------------------------


def _sound(name: str, prefix: str, **options: Any) -> Architecture:
    def inputs(sizes: Sizes) -> dict[str, Any]:
        import torch

        return {"input_values": torch.randn(sizes["batch"], sizes["samples"], generator=drawn_by(sizes))}

    small = {
        **SMALL, "conv_dim": (8, 8, 8), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 3), "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2, "apply_spec_augment": False, "layerdrop": 0.0,
    }  # fmt: skip
    axes = {"input_values": {0: "batch", 1: "samples"}}
    return Architecture(
        name, model_of(f"{prefix}Model", f"{prefix}Config", **small, **options), inputs, axes, _SOUND, 2,
        bounds={"samples": (200, 1000)},
    )  # fmt: skip


def _video(name: str, model: str, config: str, *, blocks: int = 2, **options: Any) -> Architecture:
    def inputs(sizes: Sizes) -> dict[str, Any]:
        import torch

        shape = (sizes["batch"], _FRAMES, 3, IMAGE, IMAGE)
        return {"pixel_values": torch.randn(shape, generator=drawn_by(sizes))}

    make = model_of(model, config, num_frames=_FRAMES, **{**IMAGES, "patch_size": 16, **options})
    return Architecture(name, make, inputs, {"pixel_values": _BATCH}, _BATCHES, blocks)


def _fixed(name: str, make: Callable[[], Any], shapes: dict[str, tuple[int, ...]], blocks: int) -> Architecture:
    """A model of floats of which only the batch is free."""

    def inputs(sizes: Sizes) -> dict[str, Any]:
        import torch

        generator = drawn_by(sizes)
        return {n: torch.randn(sizes["batch"], *shape, generator=generator) for n, shape in shapes.items()}

    return Architecture(name, make, inputs, dict.fromkeys(shapes, _BATCH), _BATCHES, blocks)


def _series(sizes: Sizes) -> dict[str, Any]:
    import torch

    past = torch.randn(sizes["batch"], 32, generator=drawn_by(sizes))
    return {
        "past_values": past, "past_values_padding": torch.zeros_like(past), "freq": torch.zeros(len(past), 1, dtype=torch.long),
    }  # fmt: skip


# Encoders with their decoders --------------------------------------------------------------------------------------------


def _pair(name: str, model: str, config: str, *, blocks: int = 6, low: int = 3, **options: Any) -> Architecture:
    """An encoder of ids and a decoder of others, neither of which keeps a cache."""

    def inputs(sizes: Sizes) -> dict[str, Any]:
        import torch

        ids = torch.randint(3, VOCABULARY, (sizes["batch"], sizes["given"]), generator=drawn_by(sizes))
        return {**text_inputs(sizes), "decoder_input_ids": ids}

    small = {"vocab_size": VOCABULARY, "use_cache": False, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 1}
    axes = {"input_ids": _ROW, "attention_mask": _ROW, "decoder_input_ids": {0: "batch", 1: "given"}}
    bounds = {"tokens": (low, 64), "given": (low, 64)}
    return Architecture(name, model_of(model, config, **{**small, **options}), inputs, axes, _PAIRS, blocks, bounds)


def _listener_inputs(sizes: Sizes) -> dict[str, Any]:
    import torch

    generator = drawn_by(sizes)
    return {
        "input_features": torch.randn(sizes["batch"], 16, 40, generator=generator),
        "decoder_input_ids": torch.randint(3, VOCABULARY, (sizes["batch"], sizes["given"]), generator=generator),
    }


_SPEECH = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
}  # fmt: skip


def _ids_inputs(sizes: Sizes) -> dict[str, Any]:
    return {"input_ids": text_inputs(sizes)["input_ids"]}


_MARKED = {**TEXT, "bos_token_id": 1, "eos_token_id": 2}
_LATENT = {
    **DECODER, "num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
    "v_head_dim": 8, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
    "moe_intermediate_size": 24,
}  # fmt: skip
_STATES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "use_cache": False}
_TEXT_SIZES = ({"batch": 2, "tokens": 7}, {"batch": 3, "tokens": 12})


def _states(name: str, prefix: str, *, blocks: int = 0, **options: Any) -> Architecture:
    make = model_of(f"{prefix}ForCausalLM", f"{prefix}Config", **{**_STATES, **options})
    return Architecture(name, make, _ids_inputs, {"input_ids": _ROW}, _TEXT_SIZES, blocks)


WIDER: dict[str, Architecture] = {
    a.name: a
    for a in (
        Architecture(
            "vit_mae", model_of("ViTMAEForPreTraining", "ViTMAEConfig", decoder_num_attention_heads=4, decoder_hidden_size=32,
                             decoder_num_hidden_layers=1, decoder_intermediate_size=48, **IMAGES),
            noise_inputs, {"pixel_values": _BATCH, "noise": _BATCH}, _BATCHES, 3,
        ),
        MORE["dinov3"],
        Architecture(
            "depth_anything", model_of("DepthAnythingForDepthEstimation", "DepthAnythingConfig", backbone_config=DINO, patch_size=8,
                                    reassemble_hidden_size=32, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
                                    head_hidden_size=4),
            image_inputs, {"pixel_values": _BATCH}, _BATCHES, 4,
        ),
        image("sam_vision", "SamVisionModel", "SamVisionConfig", **sam_options()),
        image("sam_vision_windows", "SamVisionModel", "SamVisionConfig", **sam_options(global_attn_indexes=(1,), window_size=2)),
        Architecture("sam", whole_sam, points_inputs, {"pixel_values": _BATCH, "input_points": _BATCH}, _BATCHES, 9),
        Architecture(
            "owlvit", model_of("OwlViTForObjectDetection", "OwlViTConfig", projection_dim=32, text_config=_MARKED,
                            vision_config=IMAGES),
            queries_inputs, {"input_ids": {1: "tokens"}, "pixel_values": {}, "attention_mask": {1: "tokens"}},
            ({"batch": 2, "tokens": 7}, {"batch": 2, "tokens": 12}), 4,
        ),
        Architecture(
            "groupvit", model_of("GroupViTModel", "GroupViTConfig", projection_dim=16, projection_intermediate_dim=24,
                              text_config=_MARKED, vision_config={**IMAGES, "depths": [1, 1], "num_group_tokens": [4, 0],
                                                                  "num_output_groups": [4, 4]}),
            pair_inputs, PAIR, ({"images": 2, "batch": 3, "tokens": 7}, {"images": 3, "batch": 4, "tokens": 12}), 5,
        ),
        _video("videomae", "VideoMAEModel", "VideoMAEConfig"),
        _video("timesformer", "TimesformerModel", "TimesformerConfig", blocks=4),
        _video("vivit", "VivitModel", "VivitConfig", tubelet_size=[2, 16, 16]),
        _fixed(
            "ast", model_of("ASTModel", "ASTConfig", patch_size=8, frequency_stride=8, time_stride=8, max_length=40,
                num_mel_bins=16,
                         **SMALL),
            {"input_values": (40, 16)}, 2,
        ),
        _sound("wav2vec2", "Wav2Vec2"),
        _sound("hubert", "Hubert"),
        _sound("wavlm", "WavLM"),
        _sound("sew_d", "SEWD", squeeze_factor=2, max_position_embeddings=64, position_buckets=8),
        Architecture(
            "whisper", model_of("WhisperForConditionalGeneration", "WhisperConfig", vocab_size=VOCABULARY, num_mel_bins=16,
                             max_source_positions=20, max_target_positions=64, use_cache=False, pad_token_id=0,
                             bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, **_SPEECH),
            _listener_inputs, {"input_features": _BATCH, "decoder_input_ids": {0: "batch", 1: "given"}},
            ({"batch": 2, "given": 5}, {"batch": 3, "given": 9}), 6, {"given": (3, 64)},
        ),
        _pair("t5", "T5ForConditionalGeneration", "T5Config", d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4),
        MORE["bart"],
        _pair("marian", "MarianMTModel", "MarianConfig", max_position_embeddings=64, **_SPEECH),
        _pair("m2m_100", "M2M100ForConditionalGeneration", "M2M100Config", max_position_embeddings=64, **_SPEECH),
        Architecture(
            "layoutlmv3", model_of("LayoutLMv3Model", "LayoutLMv3Config", coordinate_size=5, shape_size=6, input_size=IMAGE,
                                patch_size=8, max_2d_position_embeddings=64, **TEXT),
            page_inputs, {**PICTURE_AND, "bbox": _ROW}, _TEXT_SIZES, 2, {"tokens": (3, 60)},
        ),
        Architecture(
            "blip", model_of("BlipForConditionalGeneration", "BlipConfig", projection_dim=16, image_text_hidden_size=16,
                          text_config={**_MARKED, "encoder_hidden_size": 32, "sep_token_id": 2, "use_cache": False},
                          vision_config=IMAGES),
            picture_and, PICTURE_AND, _TEXT_SIZES, 6,
        ),
        Architecture(
            "blip_2", blip2, prompt_inputs, {"pixel_values": {}, "input_ids": {1: "tokens"}}, ({"tokens": 24}, {"tokens": 30}),
            7, {"tokens": (20, 64)},
        ),
        Architecture(
            "qwen2_vl_vision", tower("qwen2_vl", "Qwen2VisionTransformerPretrainedModel", "Qwen2VLVisionConfig", embed_dim=32,
                                      mlp_ratio=2,                                      **TOWER),
            patches_inputs, {"hidden_states": {}}, ({"seed": 0}, {"seed": 1}), 2,
        ),
        Architecture(
            "qwen2_5_vl_vision", tower("qwen2_5_vl", "Qwen2_5_VisionTransformerPretrainedModel", "Qwen2_5_VLVisionConfig",
                out_hidden_size=32,
                                        intermediate_size=48, window_size=16, fullatt_block_indexes=(1,), **TOWER),
            patches_inputs, {"hidden_states": {}}, ({"seed": 0}, {"seed": 1}), 5,
        ),
        MORE["llava"],
        MORE["mixtral"],
        MORE["qwen3_moe"],
        text("deepseek_v3", "DeepseekV3ForCausalLM", "DeepseekV3Config", **_LATENT),
        MORE["olmoe"],
        _states("mamba", "Mamba", state_size=8),
        _states("mamba2", "Mamba2", state_size=8, num_heads=4, head_dim=16, n_groups=2, chunk_size=4),
        _states("falcon_h1", "FalconH1", blocks=2, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
                mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=8, mamba_chunk_size=4,
                max_position_embeddings=64),
        Architecture(
            "timesfm", model_of("TimesFmModel", "TimesFmConfig", patch_length=4, context_length=32, horizon_length=8,
                hidden_size=32,
                             intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, head_dim=8),
            _series, {"past_values": _BATCH, "past_values_padding": _BATCH, "freq": _BATCH}, _BATCHES, 2,
        ),
        _fixed(
            "patchtst", model_of("PatchTSTForPrediction", "PatchTSTConfig", num_input_channels=3, context_length=32, patch_length=4,
                              patch_stride=4, d_model=32, num_hidden_layers=2, ffn_dim=48, prediction_length=6),
            {"past_values": (32, 3)}, 2,
        ),
        image("detr", "DetrForObjectDetection", "DetrConfig", blocks=6, use_timm_backbone=False,
              use_pretrained_backbone=False, backbone=None, backbone_config={**RESNET, "out_features": ["stage2"]},
                  num_queries=5, d_model=32,
              encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
              decoder_ffn_dim=48),
        Architecture(
            "rt_detr",
            only(model_of("RTDetrForObjectDetection", "RTDetrConfig", backbone_config=REAL_TIME, encoder_hidden_dim=32,
                        encoder_in_channels=[16, 24, 32], encoder_ffn_dim=48, encoder_attention_heads=4, d_model=32, num_queries=5,
                        decoder_in_channels=[32, 32, 32], decoder_ffn_dim=48, decoder_layers=2, decoder_attention_heads=4,
                        decoder_n_points=2), "logits", "pred_boxes"),
            strong_inputs, {"pixel_values": _BATCH}, _BATCHES, 3,
        ),
        Architecture(
            "mask2former",
            only(model_of("Mask2FormerForUniversalSegmentation", "Mask2FormerConfig", backbone_config=SWIN, feature_size=32,
                        mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=48, encoder_layers=1, decoder_layers=2,
                        num_attention_heads=4, dim_feedforward=48, num_queries=5), "class_queries_logits",
                  "masks_queries_logits"),
            image_inputs, {"pixel_values": _BATCH}, _BATCHES, 6,
        ),
    )
}  # fmt: skip
