"""One decode step of a Llama-style decoder: ours beside what onnxruntime-genai and optimum export of the same checkpoint.

    python -m benchmarks.decode_peers FOLDER [--contexts 512 2048] [--clock cpu]

FOLDER gets a small random checkpoint (8 layers, 512 features, 8 heads) and what is made of it, unless they lie there. `genai` is
the export of onnxruntime-genai's own builder, run by it; `tessera in genai` our folder, run by it too; `tessera` the same folder
run as a session of ours, and `tessera contrib` another one, with the op that the builder uses (`attention=contrib`). `optimum` is
timed where FOLDER/optimum/model.onnx lies, each step given the keys and values that the last one returned:

    optimum-cli export onnx --model FOLDER/llama --task text-generation-with-past FOLDER/optimum

The candidates take turns, each after steps that do not count. `--clock cpu` gives each one thread and counts the time that the
processor spends on it, which other work hardly changes; `wall` wants a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tessera as ts
from tessera.driver.read import read_model

from .common import speedup, summary, write

# Slots behind the context, for the steps that are measured.
ROOM = 300
SETTLE = 5
TOKEN = 7
Step = Callable[[], Any]


def make(folder: Path, threads: int | None) -> None:
    """The checkpoint, and each export of it."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models

    if not (folder / "llama").exists():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=1000, hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=8,
            intermediate_size=1408, max_position_embeddings=8192, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        transformers.LlamaForCausalLM(config).save_pretrained(folder / "llama")
        words = Tokenizer(models.BPE({"<pad>": 0, "<s>": 1, "</s>": 2}, []))
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="<pad>")
        tokenizer.save_pretrained(folder / "llama")
    if not (folder / "genai").exists():
        builder: list[Any] = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", "llama", "-i", folder / "llama"]
        subprocess.run([*builder, "-o", folder / "genai", "-p", "fp32", "-e", "cpu", "-c", folder / "cache"], check=True)
    read = read_model(folder / "llama")
    passes = ["pack_linears", "add_cache(past=shared)"]
    options: dict[str, Any] = {"form": "genai", "context": 8192, "verify": False}
    for name, own in (("tessera", options), ("contrib", {"attention": "contrib", "verify": False})):
        shutil.rmtree(folder / name, ignore_errors=True)
        ts.compile(read.module, weights=read.weights, passes=passes, output=folder / name, **own)
    for name in ("genai", "tessera"):
        # A folder of ours is refused by us where a file of it was changed.
        shutil.copytree(folder / name, folder / f"{name}_run", dirs_exist_ok=True)
        path = folder / f"{name}_run" / "genai_config.json"
        said = json.loads(path.read_text(encoding="utf-8"))
        said["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads or 0
        path.write_text(json.dumps(said), encoding="utf-8")


def in_genai(folder: Path, context: int) -> Step:
    import onnxruntime_genai as genai

    model = genai.Model(str(folder))
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=context + ROOM, min_length=context + ROOM)
    generator = genai.Generator(model, params)
    generator.append_tokens(np.full((1, context), TOKEN, np.int32))
    return generator.generate_next_token  # type: ignore[no-any-return]


def ours(folder: Path, context: int, threads: int | None) -> Step:
    run: Any = ts.open(folder, threads=threads).session(sizes={"C": context + ROOM})
    run.prefill(input_ids=np.full((1, context), TOKEN), lengths=np.array([context]))
    return lambda: run.decode(input_ids=np.array([[TOKEN]]), lengths=np.ones(1, np.int64))


def optimum(path: Path, context: int, threads: int | None) -> Step:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads or 0
    session = ort.InferenceSession(str(path), settings)
    given, outputs = [v.name for v in session.get_inputs()], [v.name for v in session.get_outputs()]
    noise = np.random.default_rng(0).standard_normal((1, 8, context, 64), np.float32)
    past = {name: ort.OrtValue.ortvalue_from_numpy(noise) for name in given if name.startswith("past")}
    length = [context]

    def step() -> None:
        binding = session.io_binding()
        told = {"input_ids": [[TOKEN]], "position_ids": length, "attention_mask": [[1] * (length[0] + 1)]}
        for name, value in told.items():
            if name in given:
                binding.bind_cpu_input(name, np.array(value, np.int64).reshape(1, -1))
        for name, held in past.items():
            binding.bind_ortvalue_input(name, held)
        for name in outputs:
            binding.bind_output(name, "cpu")
        session.run_with_iobinding(binding)
        made = dict(zip(outputs, binding.get_outputs(), strict=True))
        past.update({name: made[name.replace("past_key_values", "present")] for name in past})
        length[0] += 1

    return step


def timed(step: Step, count: int, clock: Callable[[], float]) -> float:
    times = []
    for _ in range(count):
        start = clock()
        step()
        times.append(clock() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="wall")
    options = parser.parse_args()
    clock, threads = (time.process_time, 1) if options.clock == "cpu" else (time.perf_counter, None)
    make(options.folder, threads)
    results: dict[str, Any] = {"clock": options.clock}
    for context in options.contexts:
        runs = {
            "tessera": ours(options.folder / "tessera", context, threads),
            "tessera contrib": ours(options.folder / "contrib", context, threads),
            "tessera in genai": in_genai(options.folder / "tessera_run", context),
            "genai": in_genai(options.folder / "genai_run", context),
        }
        if (options.folder / "optimum" / "model.onnx").exists():
            runs["optimum"] = optimum(options.folder / "optimum" / "model.onnx", context, threads)
        for run in runs.values():
            timed(run, SETTLE, clock)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, run in runs.items():
                times[name].append(timed(run, options.steps, clock))
        results[f"behind {context} tokens"] = {
            name: row | {f"speedup_over_{other}": round(speedup(times, name, other), 4) for other in runs if other == "optimum"}
            for name, row in summary(times, "genai").items()
        }
    write("decode_peers", results)


if __name__ == "__main__":
    main()
