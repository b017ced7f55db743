"""The DNA encoder agrees with Llama's blocks of transformers that see every token, within windows and then over all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import tessera as ts  # noqa: E402
from tessera.ir.diagnostics import Diagnostic  # noqa: E402

from .judges import TOLERANCE  # noqa: E402

PARAMS = {"window": 4, "dim": 16, "local_depth": 2, "depth": 2, "heads": 2, "hidden": 40}


def letters(batch: int, length: int) -> np.ndarray:
    return np.random.default_rng(0).choice(np.frombuffer(b"ACGTNacgtn", np.uint8), (batch, length))


def encoder() -> Any:
    config = transformers.LlamaConfig(hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
                                      vocab_size=5, rms_norm_eps=1e-6, attn_implementation="eager")  # fmt: skip
    return transformers.LlamaModel(config).eval()


@pytest.mark.usefixtures("quiet_transformers")
def test_windows_then_everything() -> None:
    torch.manual_seed(0)
    local, latent = encoder(), encoder()
    local.norm = torch.nn.Identity()
    weights = {f"local_encoder.{k}": v for k, v in local.state_dict().items() if k.startswith("layers.")}
    weights |= {f"latent_encoder.{k}": v for k, v in latent.state_dict().items() if k.startswith("layers.")}
    weights |= {"embed_tokens.weight": local.embed_tokens.weight, "norm.weight": latent.norm.weight}
    arrays = {name: value.detach().numpy() for name, value in weights.items()}
    text = letters(2, 24)
    ids = torch.as_tensor([[b"ACGTN".index(bytes([c]).upper()) for c in row] for row in text])
    with torch.no_grad():
        x = local.embed_tokens(ids).reshape(12, 4, 16)
        everything = torch.zeros(12, 1, 4, 4)
        x = local(inputs_embeds=x, attention_mask=everything).last_hidden_state.reshape(2, 24, 16)
        want = latent(inputs_embeds=x, attention_mask=torch.zeros(2, 1, 24, 24)).last_hidden_state.numpy()
    for target in ("torch", "onnx"):
        got = ts.compile(ts.load("zoo/dna", params=PARAMS), weights=arrays, target=target, verify=False)(bytes=text)
        np.testing.assert_allclose(np.asarray(got["last_hidden_state"]), want, rtol=TOLERANCE, atol=TOLERANCE)


def test_letters_that_are_no_base_and_windows_that_do_not_fit_are_refused() -> None:
    for target in ("torch", "onnx"):
        run = ts.compile(ts.load("zoo/dna", params=PARAMS), target=target, verify=False)
        with pytest.raises(Diagnostic) as caught:
            run(bytes=np.frombuffer(b"ACGX", np.uint8)[None])
        assert caught.value.code == "E0912"
        with pytest.raises(Diagnostic, match="the windows must cover the sequence"):
            run(bytes=letters(1, 6))
