"""A searched schedule beside equal parts that are to take as long, on examples that the search did not see: `optimize --budget`.

MiniLM with its published weights on man pages, and a ViT that is trained here on scikit-learn's digits.

    python -m benchmarks.fit [--latency 0.7]

Needs the extra `real`, and scikit-learn.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tessera as ts
from tessera.backends.torch import build
from tessera.driver.fit.budget import parse_budget
from tessera.driver.optimize import Options, optimize
from tessera.driver.read import read_model
from tessera.driver.report.results import EVEN, OPTIMIZED
from tessera.runtime.weights.bind import initialise

from .common import write
from .peers import minilm_folder
from .texts import man_pages

# Digits of 8 x 8 pixels, drawn larger: 145 tokens.
VIT = {"size": 48, "patch": 4, "dim": 96, "depth": 8, "heads": 3, "hidden": 192, "classes": 10}
EPOCHS, BATCH, RATE = 6, 32, 1e-3
TEXTS, IMAGES = 96, 96


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pictures f32[N, 3, 48, 48] from -1 to 1, and what they show."""
    from sklearn.datasets import load_digits

    found = load_digits()
    small = torch.tensor(found.images[:, None] / 8 - 1, dtype=torch.float32)
    large = torch.nn.functional.interpolate(small, size=VIT["size"], mode="bilinear")
    return large.expand(-1, 3, -1, -1).contiguous().numpy(), found.target


def trained(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Weights of the ViT after a few epochs."""
    module = ts.load("vit_classifier", params=VIT)
    torch.manual_seed(0)
    net = build(module.graph, initialise(module.graph, 0), trainable=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.01)
    order = np.random.default_rng(0)
    for _ in range(EPOCHS):
        places = order.permutation(len(images))
        for start in range(0, len(places) - BATCH + 1, BATCH):
            rows = places[start : start + BATCH]
            logits = net(image=torch.as_tensor(images[rows]))["logits"]
            loss = torch.nn.functional.cross_entropy(logits, torch.as_tensor(labels[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {name: value.detach().numpy() for name, value in net.state_dict().items()}


def judged(report: dict[str, Any]) -> dict[str, Any]:
    """What the report says of the searched schedule and of the constant one, on the examples held back."""
    output = report["fidelity"]["outputs"][0]
    found = report["fit"]
    rows = {
        name: {
            "speedup": report["latency"]["rows"][name]["speedup"],
            **{measure: round(value, 5) for measure, value in output["rows"][name].items()},
        }
        for name in (OPTIMIZED, EVEN)
        if name in output["rows"]
    }
    return {
        "pass": found["chosen"]["pass"],
        "constant": found["constant"]["pass"] if found["constant"] else None,
        "tried": len(found["tried"]),
        "examples": found["examples"],
        "held_back": rows,
        "says": report["verdict"]["search"]["text"],
    }


def main() -> None:
    """Search twice, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.7)
    budget = parse_budget([f"latency={parser.parse_args().latency}x"])
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = [" ".join(text.split())[:1500] for _, text in man_pages(TEXTS)]
        (folder / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
        how = Options(
            calib=folder / "texts.txt", tokenizer=str(minilm_folder() / "tokenizer.json"), max_length=256, examples=TEXTS,
            memory=False, budget=budget,
        )  # fmt: skip
        results["MiniLM, man pages"] = judged(optimize(read_model(minilm_folder()), output=folder / "minilm.onnx", options=how))
        images, labels = digits()
        cut = len(images) - IMAGES
        weights = trained(images[:cut], labels[:cut])
        ts.compile(ts.load("vit_classifier", params=VIT), weights=weights, target="onnx", verify=False, output=folder / "vit.onnx")
        np.savez(folder / "digits.npz", image=images[cut:])
        logits = ts.open(folder / "vit.onnx")({"image": images[cut:]})["logits"]
        how = Options(calib=folder / "digits.npz", examples=IMAGES, memory=False, budget=budget)
        found = judged(optimize(folder / "vit.onnx", output=folder / "fast.onnx", options=how))
        accuracy = float((np.asarray(logits).argmax(1) == labels[cut:]).mean())
        results["ViT, digits"] = {"accuracy": round(accuracy, 4), **found}
    write("fit", results)


if __name__ == "__main__":
    main()
