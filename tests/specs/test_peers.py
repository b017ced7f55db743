"""transformers' models, built small with random weights, as judges of the zoo: one artifact for all sizes, on both.

The weights go through a safetensors file as ``save_pretrained`` writes it, and through the spec's own rename table.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tessera.frontends.source import load  # noqa: E402
from tessera.runtime.weights.bind import bind  # noqa: E402
from tessera.runtime.weights.open import open_weights  # noqa: E402

ZOO = Path(__file__).resolve().parents[2] / "specs" / "zoo"
pytestmark = pytest.mark.usefixtures("quiet_transformers")

TOLERANCE = 2e-5
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
          "image_size": 32, "patch_size": 8}  # fmt: skip
VISION_SPEC = {"size": 32, "patch": 8, "dim": 32, "depth": 2, "heads": 4, "hidden": 64}


def judge(model: Any, folder: Path) -> tuple[Any, Path]:
    """A transformers model whose every weight is random, norms and biases too, and the file it was saved to."""
    generator = torch.Generator().manual_seed(0)
    model.eval()
    norms = (torch.nn.LayerNorm, torch.nn.RMSNorm)
    ones = {id(m.weight) for m in model.modules() if isinstance(m, norms) or type(m).__name__.endswith("RMSNorm")}
    with torch.no_grad():
        for parameter in model.parameters():
            # Matrices keep the scale of what passes through them, so that rounding is not amplified.
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(noise + 1.0 if id(parameter) in ones else noise)
    model.save_pretrained(folder)
    return model, folder / "model.safetensors"


def artifact(compiled: Callable[..., Any], name: str, model: str, file: Path, **params: Any) -> Callable[..., Any]:
    """The zoo's model with the judge's weights."""
    module = load(ZOO / f"{name}.tess", model, params)
    assert module.compile is not None
    bound = bind(module.graph, open_weights(file, module.compile.renames), strict=True)
    return compiled(module, bound)


def agree(got: dict[str, np.ndarray], **expected: Any) -> None:
    assert set(got) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value.numpy(), rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


def token_ids(rng: np.random.Generator, batch: int, tokens: int, vocab: int = 50) -> np.ndarray:
    return rng.integers(0, vocab, (batch, tokens))


@pytest.mark.parametrize("kind", ["ViT", "DeiT"])
def test_vision_features(compiled: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    config = getattr(transformers, f"{kind}Config")(**VISION)
    peer, file = judge(getattr(transformers, f"{kind}Model")(config), tmp_path)
    run = artifact(compiled, kind.lower(), kind.lower(), file, **VISION_SPEC)
    rng = np.random.default_rng(0)
    for batch, height, width in [(1, 32, 32), (3, 48, 40), (2, 24, 64)]:
        image = rng.standard_normal((batch, 3, height, width)).astype(np.float32)
        want = peer(torch.as_tensor(image), interpolate_pos_encoding=True)
        agree(run(image=image), last_hidden_state=want.last_hidden_state, pooler_output=want.pooler_output)


@pytest.mark.parametrize(("model", "dim", "heads"), [("vit_s16", 384, 6), ("vit_b16", 768, 12)])
def test_vit_classifier(compiled: Callable[..., Any], tmp_path: Path, model: str, dim: int, heads: int) -> None:
    """The published shape of a classifier's file: `vit.` before every name but the head's."""
    config = transformers.ViTConfig(hidden_size=dim, num_hidden_layers=1, num_attention_heads=heads,
                                    intermediate_size=4 * dim, image_size=48, num_labels=7)  # fmt: skip
    peer, file = judge(transformers.ViTForImageClassification(config), tmp_path)
    run = artifact(compiled, "vit", model, file, size=48, depth=1, classes=7)
    rng = np.random.default_rng(0)
    for batch in (1, 2, 5):
        image = rng.standard_normal((batch, 3, 48, 48)).astype(np.float32)
        agree(run(image=image), logits=peer(torch.as_tensor(image)).logits)


def test_deit_classifier(compiled: Callable[..., Any], tmp_path: Path) -> None:
    config = transformers.DeiTConfig(hidden_size=192, num_hidden_layers=2, num_attention_heads=3, intermediate_size=768,
                                     image_size=48, num_labels=7)  # fmt: skip
    peer, file = judge(transformers.DeiTForImageClassificationWithTeacher(config), tmp_path)
    run = artifact(compiled, "deit", "deit_ti16", file, size=48, depth=2, classes=7)
    rng = np.random.default_rng(0)
    for batch in (1, 2, 5):
        image = rng.standard_normal((batch, 3, 48, 48)).astype(np.float32)
        agree(run(image=image), logits=peer(torch.as_tensor(image)).logits)


def bert_inputs(rng: np.random.Generator, batch: int, tokens: int) -> dict[str, np.ndarray]:
    """Rows of different lengths."""
    lengths = rng.integers(1, tokens + 1, (batch, 1))
    mask = (np.arange(tokens) < lengths).astype(np.int64)
    types = rng.integers(0, 2, (batch, tokens))
    return {"input_ids": token_ids(rng, batch, tokens), "attention_mask": mask, "token_type_ids": types}


def small_bert(**changes: Any) -> Any:
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 64, "max_position_embeddings": 20}  # fmt: skip
    return transformers.BertConfig(**(sizes | changes))


def test_bert(compiled: Callable[..., Any], tmp_path: Path) -> None:
    peer, file = judge(transformers.BertModel(small_bert()), tmp_path)
    run = artifact(compiled, "bert", "bert", file, vocab=50, positions=20, dim=32, depth=2, heads=4, hidden=64)
    rng = np.random.default_rng(0)
    for batch, tokens in [(1, 5), (3, 20), (2, 1)]:
        inputs = bert_inputs(rng, batch, tokens)
        want = peer(**{k: torch.as_tensor(v) for k, v in inputs.items()})
        agree(run(**inputs), last_hidden_state=want.last_hidden_state, pooler_output=want.pooler_output)


def test_minilm(compiled: Callable[..., Any], tmp_path: Path) -> None:
    """Mean pooling and normalisation as sentence-transformers does them."""
    peer, file = judge(transformers.BertModel(small_bert(), add_pooling_layer=False), tmp_path)
    run = artifact(compiled, "minilm", "minilm", file, vocab=50, positions=20, dim=32, depth=2, heads=4, hidden=64)
    rng = np.random.default_rng(0)
    for batch, tokens in [(1, 5), (3, 20), (2, 1)]:
        inputs = bert_inputs(rng, batch, tokens)
        del inputs["token_type_ids"]
        x = peer(**{k: torch.as_tensor(v) for k, v in inputs.items()}).last_hidden_state
        weight = torch.as_tensor(inputs["attention_mask"])[..., None].float()
        want = torch.nn.functional.normalize((x * weight).sum(1) / weight.sum(1).clamp(min=1e-9))
        agree(run(**inputs), embedding=want)


@pytest.mark.parametrize("head", [False, True])
def test_gpt2(compiled: Callable[..., Any], tmp_path: Path, head: bool) -> None:
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=20, bos_token_id=0, eos_token_id=0
    )
    peer, file = judge((transformers.GPT2LMHeadModel if head else transformers.GPT2Model)(config), tmp_path)
    run = artifact(
        compiled, "gpt2", "gpt2_lm" if head else "gpt2", file, vocab=50, positions=20, dim=32, depth=2, heads=4
    )
    decoder(run, peer, head)


@pytest.mark.parametrize("variant", ["features", "head", "tied head"])
def test_llama(compiled: Callable[..., Any], tmp_path: Path, variant: str) -> None:
    """Grouped keys: 4 heads of queries read 2 of keys."""
    head, tied = variant != "features", variant == "tied head"
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, rms_norm_eps=1e-5, tie_word_embeddings=tied, pad_token_id=0,
    )  # fmt: skip
    peer, file = judge((transformers.LlamaForCausalLM if head else transformers.LlamaModel)(config), tmp_path)
    sizes = {"vocab": 50, "dim": 32, "depth": 2, "heads": 4, "kv_heads": 2, "hidden": 64} | (
        {"tied": tied} if head else {}
    )
    decoder(artifact(compiled, "llama", "llama_lm" if head else "llama", file, **sizes), peer, head)


def decoder(run: Callable[..., Any], peer: Any, head: bool) -> None:
    """Compare a decoder's features or scores at three sizes."""
    rng = np.random.default_rng(0)
    for batch, tokens in [(1, 5), (3, 20), (2, 1)]:
        ids = token_ids(rng, batch, tokens)
        want = peer(torch.as_tensor(ids), use_cache=False)
        agree(
            run(input_ids=ids), **({"logits": want.logits} if head else {"last_hidden_state": want.last_hidden_state})
        )


def test_whisper_encoder(compiled: Callable[..., Any], tmp_path: Path) -> None:
    """transformers takes spectrograms of one length only; shorter ones are judged by a model with fewer positions."""
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    sizes = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "num_mel_bins": 8}
    peer, file = judge(WhisperEncoder(transformers.WhisperConfig(**sizes, max_source_positions=10)), tmp_path)
    run = artifact(
        compiled, "whisper", "whisper_encoder", file, mels=8, positions=10, dim=32, depth=2, heads=4, hidden=64
    )
    rng = np.random.default_rng(0)
    for batch, tokens in [(1, 10), (3, 10), (2, 4)]:
        shorter = WhisperEncoder(transformers.WhisperConfig(**sizes, max_source_positions=tokens)).eval()
        state = dict(peer.state_dict())
        state["embed_positions.weight"] = state["embed_positions.weight"][:tokens]
        shorter.load_state_dict(state)
        features = rng.standard_normal((batch, 8, 2 * tokens)).astype(np.float32)
        agree(run(input_features=features), last_hidden_state=shorter(torch.as_tensor(features)).last_hidden_state)


def test_every_missing_and_misshaped_weight_is_named(tmp_path: Path) -> None:
    """A checkpoint of another size: one error that lists what does not fit."""
    from tessera.ir.diagnostics import Diagnostic

    _, file = judge(transformers.BertModel(small_bert(num_hidden_layers=1, intermediate_size=48)), tmp_path)
    sizes = {"vocab": 50, "positions": 20, "dim": 32, "depth": 2, "heads": 4, "hidden": 64}
    module = load(ZOO / "bert.tess", "bert", sizes)
    with pytest.raises(Diagnostic) as caught:
        bind(module.graph, open_weights(file), strict=True)
    text = str(caught.value)
    assert "encoder.layer.1.attention.self.query.weight" in text
    assert "encoder.layer.0.intermediate.dense.weight" in text
