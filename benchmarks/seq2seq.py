"""Encoders with their decoders, drawn over families of transformers, sizes and options: what of them goes through.

    python -m benchmarks.seq2seq                       # one draw of each family, by both roads
    python -m benchmarks.seq2seq bart --seeds 0 1 2    # of these families, by these seeds

A draw is imported by torch.export or from torch.onnx.export's file, compiled to ONNX, and run at two sizes beside what was
imported. Then tokens merge in its encoder: in every block where it attends to all of them; in the decoder nothing does, and
changing a late token moves nothing that comes before it. LED is not among them: how many tokens it attends to from everywhere is
read from a tensor, which torch.export has no form for.
"""

from __future__ import annotations

import argparse
import logging
import random
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import tessera as ts
from tessera.backends.onnx.session import Session
from tessera.ir.diagnostics import Diagnostic
from tessera.passes.engine import apply

from .architectures import VOCABULARY, Architecture, Sizes, model_of
from .architectures_pictures import drawn_by
from .end_to_end import TOLERANCE, judged
from .raise_table import imported, model_path, short

if TYPE_CHECKING:
    from tessera.ir.graph import Module

IMPORTERS = ("torch", "onnx")
_ROW = {0: "batch", 1: "tokens"}
_GIVEN = {0: "batch", 1: "given"}
_IDS = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 1, "use_cache": False}
# Mel bins of a sound.
_BINS = 8

Chance = random.Random
Options = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Draw:
    """One model: how it is built, and in how many of its encoder's blocks tokens can merge.

    Args:
        merges: 0 where its encoder attends within windows.
    """

    architecture: Architecture
    merges: int


# What is drawn -----------------------------------------------------------------------------------------------------------


def _layers(chance: Chance) -> Options:
    """As BART and those after it name them."""
    return {
        "vocab_size": VOCABULARY, "d_model": chance.choice([16, 32, 48]), "max_position_embeddings": 64,
        "encoder_layers": chance.randint(1, 3), "decoder_layers": chance.randint(1, 2),
        "encoder_attention_heads": chance.choice([2, 4]), "decoder_attention_heads": chance.choice([2, 4]),
        "encoder_ffn_dim": chance.choice([24, 48]), "decoder_ffn_dim": chance.choice([24, 48]),
        "activation_function": chance.choice(["gelu", "relu", "silu", "gelu_new"]), "scale_embedding": chance.random() < 0.5,
    }  # fmt: skip


def _bart(chance: Chance) -> Options:
    return {**_layers(chance), "bos_token_id": 1}


def _marian(chance: Chance) -> Options:
    return {**_layers(chance), "share_encoder_decoder_embeddings": chance.random() < 0.5, "decoder_vocab_size": VOCABULARY}


def _big_bird(chance: Chance) -> Options:
    return {**_layers(chance), "attention_type": "original_full", "use_bias": chance.random() < 0.5}


def _pegasus_x(chance: Chance) -> Options:
    return {**_layers(chance), "num_global_tokens": 4, "block_size": 4, "stagger_local_blocks": chance.random() < 0.5}


def _fsmt(chance: Chance) -> Options:
    options = {**_layers(chance), "src_vocab_size": VOCABULARY, "tgt_vocab_size": VOCABULARY, "langs": ["en", "de"]}
    del options["vocab_size"]
    return {**options, "activation_function": "relu"}


def _t5(chance: Chance) -> Options:
    return {
        "vocab_size": VOCABULARY, "d_model": chance.choice([16, 32]), "d_kv": chance.choice([4, 8]),
        "d_ff": chance.choice([24, 48]), "num_layers": chance.randint(1, 3), "num_decoder_layers": chance.randint(1, 2),
        "num_heads": chance.choice([2, 4]),
        "relative_attention_num_buckets": chance.choice([8, 32]), "relative_attention_max_distance": chance.choice([16, 128]),
        "feed_forward_proj": chance.choice(["relu", "gated-gelu", "gated-silu"]),
        "tie_word_embeddings": chance.random() < 0.5,
    }  # fmt: skip


def _prophet(chance: Chance) -> Options:
    return {
        "vocab_size": VOCABULARY, "hidden_size": chance.choice([16, 32]), "max_position_embeddings": 64,
        "num_encoder_layers": chance.randint(1, 3), "num_decoder_layers": chance.randint(1, 2),
        "num_encoder_attention_heads": chance.choice([2, 4]), "num_decoder_attention_heads": chance.choice([2, 4]),
        "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "ngram": chance.choice([1, 2]), "num_buckets": chance.choice([8, 32]),
        "relative_max_distance": 16, "activation_function": chance.choice(["gelu", "relu"]), "disable_ngram_loss": True,
    }  # fmt: skip


def _whisper(chance: Chance) -> Options:
    options = _layers(chance)
    del options["max_position_embeddings"]
    return {**options, "num_mel_bins": _BINS, "max_source_positions": 12, "max_target_positions": 64, "bos_token_id": 1}


def _speech(chance: Chance) -> Options:
    options = _whisper(chance)
    del options["num_mel_bins"]
    kernels = chance.choice([[5], [5, 3]])
    return {
        **options, "max_source_positions": 64, "input_feat_per_channel": _BINS, "conv_channels": 16,
        "num_conv_layers": len(kernels), "conv_kernel_sizes": kernels,
    }  # fmt: skip


def _moonshine(chance: Chance) -> Options:
    heads = chance.choice([2, 4])
    return {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 64, "bos_token_id": 1,
        "encoder_num_hidden_layers": chance.randint(1, 3), "decoder_num_hidden_layers": chance.randint(1, 2),
        **{f"{half}_num_{what}": heads for half in ("encoder", "decoder") for what in ("attention_heads", "key_value_heads")},
    }  # fmt: skip


def _t5_gemma(chance: Chance) -> Options:
    def half() -> Options:
        return {
            "config": "T5GemmaModuleConfig", "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": chance.randint(1, 3), "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
            "layer_types": None, "max_position_embeddings": 64, "sliding_window": 64, "query_pre_attn_scalar": 8,
            "attn_logit_softcapping": chance.choice([None, 5.0]), "use_cache": False, "pad_token_id": 0,
        }  # fmt: skip

    return {"vocab_size": VOCABULARY, "encoder": half(), "decoder": half()}


@dataclass(frozen=True, slots=True)
class Family:
    """A family of transformers.

    Args:
        model: the class; its configuration is ``config``, else that of its prefix.
        options: what is drawn of its configuration.
        layers: the option that says how many blocks its encoder has.
        sound: the encoder reads sounds: of one length, or with a mask ("masked").
        windows: the encoder attends within windows, and nothing merges.
        marked: its code asks for values (is there padding?) unless both masks are given.
        refused: the roads that PyTorch's own export has no way through.
    """

    model: str
    options: Callable[[Chance], Options]
    layers: str = "encoder_layers"
    config: str = ""
    sound: str = ""
    windows: bool = False
    marked: bool = False
    refused: tuple[str, ...] = ()


_FOR = "ForConditionalGeneration"
FAMILIES = {
    "t5": Family(f"T5{_FOR}", _t5, "num_layers"),
    "mt5": Family(f"MT5{_FOR}", _t5, "num_layers"),
    "umt5": Family(f"UMT5{_FOR}", _t5, "num_layers"),
    "bart": Family(f"Bart{_FOR}", _bart),
    "plbart": Family(f"PLBart{_FOR}", _bart),
    "mvp": Family(f"Mvp{_FOR}", _bart),
    "marian": Family("MarianMTModel", _marian),
    "m2m_100": Family(f"M2M100{_FOR}", _bart),
    "mbart": Family(f"MBart{_FOR}", _bart),
    "pegasus": Family(f"Pegasus{_FOR}", _layers),
    "pegasus_x": Family(f"PegasusX{_FOR}", _pegasus_x, windows=True),
    "blenderbot": Family(f"Blenderbot{_FOR}", _bart),
    "blenderbot_small": Family(f"BlenderbotSmall{_FOR}", _bart),
    "bigbird_pegasus": Family(f"BigBirdPegasus{_FOR}", _big_bird),
    "fsmt": Family(f"FSMT{_FOR}", _fsmt, marked=True),
    "prophetnet": Family(f"ProphetNet{_FOR}", _prophet, "num_encoder_layers", refused=("onnx",)),
    "t5gemma": Family(f"T5Gemma{_FOR}", _t5_gemma, "encoder"),
    "whisper": Family(f"Whisper{_FOR}", _whisper, sound="fixed"),
    "speech_to_text": Family(f"Speech2Text{_FOR}", _speech, sound="masked"),
    "moonshine": Family(f"Moonshine{_FOR}", _moonshine, "encoder_num_hidden_layers", sound="wave"),
}


def draw(name: str, seed: int) -> Draw:
    """A model of a family, always the same one of a seed."""
    family = FAMILIES[name]
    chance = random.Random(f"{name} {seed}")
    options = {**_IDS, **family.options(chance)}
    layers = options[family.layers]
    layers = layers["num_hidden_layers"] if isinstance(layers, dict) else layers
    config = family.config or family.model.removesuffix(_FOR).removesuffix("MTModel") + "Config"
    masked = family.marked or family.sound == "masked" or (not family.sound and chance.random() < 0.7)
    decoded = family.marked or (not family.sound and chance.random() < 0.3)
    first = {"batch": chance.randint(2, 3), "tokens": chance.randint(7, 11), "given": chance.randint(4, 7)}
    second = {"batch": chance.randint(2, 4), "tokens": chance.randint(12, 20), "given": chance.randint(8, 12)}
    if family.windows:
        # A length that windows do not divide is padded, which the model's code asks about: what was exported at one such length
        # takes no other kind.
        first["tokens"], second["tokens"] = 11, 19
    elif family.sound == "wave":
        first["tokens"], second["tokens"] = 1200 + 64 * first["tokens"], 2400 + 64 * second["tokens"]
    elif family.sound == "masked":
        first["tokens"], second["tokens"] = 4 * first["tokens"], 4 * second["tokens"]

    def inputs(sizes: Sizes) -> dict[str, Any]:
        return _inputs(sizes, family.sound, masked, decoded)

    axes: dict[str, Mapping[int, str]] = {}
    for port in inputs(first):
        axes[port] = _GIVEN if port.startswith("decoder") else {0: "batch"} if family.sound == "fixed" else _ROW
    high = 8000 if family.sound == "wave" else 128 if family.sound else 64
    low = 900 if family.sound == "wave" else 12 if family.sound else 3
    architecture = Architecture(
        f"{name} {seed}", scores(model_of(family.model, config, **options)), inputs, axes, (first, second), 0,
        {"tokens": (low, high), "given": (3, 32), "batch": (2, 16)},
    )  # fmt: skip
    return Draw(architecture, 0 if family.windows else int(layers))


def _inputs(sizes: Sizes, sound: str, masked: bool, decoded: bool) -> dict[str, Any]:
    """What an encoder reads, with padding at the end of some rows, and ids for the decoder, some of which may be masked."""
    import torch

    generator = drawn_by(sizes)
    batch, tokens, given = (sizes[name] for name in ("batch", "tokens", "given"))
    found: dict[str, Any] = {}
    if sound == "wave":
        found["input_values"] = torch.randn(batch, tokens, generator=generator)
    elif sound == "fixed":
        found["input_features"] = torch.randn(batch, _BINS, 24, generator=generator)
    elif sound:
        found["input_features"] = torch.randn(batch, tokens, _BINS, generator=generator)
    else:
        found["input_ids"] = torch.randint(3, VOCABULARY, (batch, tokens), generator=generator)
    if masked:
        lengths = torch.tensor([tokens - 2 * (row % 3) for row in range(batch)])
        found["attention_mask"] = (torch.arange(tokens)[None] < lengths[:, None]).long()
    found["decoder_input_ids"] = torch.randint(3, VOCABULARY, (batch, given), generator=generator)
    if decoded:
        lengths = torch.tensor([given - row % 2 for row in range(batch)])
        found["decoder_attention_mask"] = (torch.arange(given)[None] < lengths[:, None]).long()
    return found


def scores(make: Callable[[], Any]) -> Callable[[], Any]:
    """A model that gives its scores alone."""

    def made() -> Any:
        import torch

        class Scores(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = make()

            # Exporters take no inputs by names alone.
            def forward(
                self, input_ids: Any = None, input_features: Any = None, input_values: Any = None, attention_mask: Any = None,
                decoder_input_ids: Any = None, decoder_attention_mask: Any = None,
            ) -> Any:  # fmt: skip
                given = {
                    "input_ids": input_ids, "input_features": input_features, "input_values": input_values,
                    "attention_mask": attention_mask, "decoder_input_ids": decoder_input_ids,
                    "decoder_attention_mask": decoder_attention_mask,
                }  # fmt: skip
                given = {name: value for name, value in given.items() if value is not None}
                return {"logits": self.model(**given, use_cache=False).logits}

        return Scores()

    return made


# What is asked of it ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """What became of a draw by one road; ``error`` is empty when everything held."""

    name: str
    importer: str
    differences: tuple[float, ...] = ()
    merged: int = 0
    error: str = ""

    def __str__(self) -> str:
        differences = " · ".join(f"{d:.0e}" for d in self.differences)
        return f"{self.name} | {self.importer} | {differences} | merged in {self.merged} | {self.error}"


def survey(drawn: Draw, importer: str, folder: Path) -> Found:
    """Import, compile, compare, merge, and look whether anything looks ahead. What fails ends it."""
    architecture = drawn.architecture
    differences: tuple[float, ...] = ()
    stage, merged = "import", 0
    try:
        model = imported(architecture, importer, folder)
        stage = "compile"
        path = folder / "out.onnx"
        ts.compile(model.module, target="onnx", passes=[], weights=model.weights, verify=False, output=path)
        stage = "run"
        differences, note = judged(architecture, path, model_path(architecture, folder) if importer == "onnx" else None)
        if note:
            raise ValueError(note)
        if max(differences) > TOLERANCE:
            raise ValueError(f"outputs differ by more than {TOLERANCE:g}")
        stage = "merge"
        raised, _ = apply(model.module, "raise_composites")
        after, merged = _merged(raised)
        if merged != drawn.merges:
            raise ValueError(f"merged in {merged} blocks, not in {drawn.merges}")
        if after is not None:
            stage = "compile merged"
            path = folder / "merged.onnx"
            ts.compile(after, target="onnx", passes=[], weights=model.weights, verify=False, output=path)
            stage = "look ahead"
            _looks_at_no_later(architecture, path)
    except Exception as error:  # exporters raise anything; the row says what it was
        return Found(architecture.name, importer, differences, merged, f"{stage}: {short(error)}")
    return Found(architecture.name, importer, differences, merged)


def _merged(raised: Module) -> tuple[Module | None, int]:
    """Merged wherever it can be; and in how many blocks."""
    try:
        after, report = apply(raised, "merge_tokens", r=1, protect=0)
    except Diagnostic as error:
        if error.code not in ("E0707", "E0708"):
            raise
        return None, 0
    return after, report.modified


def _looks_at_no_later(architecture: Architecture, path: Path) -> None:
    """Raises ValueError where a change of the decoder's last ids moves an earlier output, and none of the model's own (ProphetNet's
    random ones may see later tokens), or none moves with the encoder's."""
    import torch

    session, model = Session(path), architecture.build()
    for which in (0, 1):
        tensors = architecture.example(which)
        arrays = {name: value.numpy() for name, value in tensors.items()}
        before = _logits(session, arrays)
        changed = arrays["decoder_input_ids"].copy()
        changed[:, -2:] = 3 + (changed[:, -2:] + 11) % (VOCABULARY - 3)
        after = _logits(session, {**arrays, "decoder_input_ids": changed})
        with torch.no_grad():
            own = [model(**{**tensors, "decoder_input_ids": torch.from_numpy(ids)})["logits"].numpy()
                   for ids in (arrays["decoder_input_ids"], changed)]  # fmt: skip
        early, expected = (float(np.abs(a - b)[:, :-2].max()) for a, b in ((before, after), own))
        near = 1e-5 * float(np.abs(before).max())
        if early > near >= expected:
            raise ValueError(f"a late token moves an early output by {early:.0e}")
        given = next(name for name in arrays if name.startswith("input"))
        other = arrays[given].copy()
        other[:, 0] = (other[:, 0] + 7) % VOCABULARY if other.dtype == np.int64 else other[:, 0] + 1
        if np.abs(_logits(session, {**arrays, given: other}) - before).max() < 1e-4:
            raise ValueError("what the encoder reads moves nothing: nothing is compared")


def _logits(session: Session, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The only output; torch.onnx.export names it after the op that makes it."""
    [found] = session(arrays).values()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="all when none is given")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--importer", choices=IMPORTERS, help="only this one")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)  # what exporters say while they work
    for name in options.families or FAMILIES:
        for seed in options.seeds:
            for importer in [options.importer] if options.importer else IMPORTERS:
                if importer in FAMILIES[name].refused:
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    print(survey(draw(name, seed), importer, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
