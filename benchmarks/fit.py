"""A searched schedule beside equal parts that are to take as long, on examples that the search did not see: `optimize --budget`.

MiniLM with its published weights on man pages, and a ViT that is trained here on scikit-learn's digits.

    python -m benchmarks.fit minilm [--latency 0.7]
    python -m benchmarks.fit vit --latency 0.8

Needs the extra `real`, and scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tessera as ts
from tessera.backends.torch import build
from tessera.driver.fit.budget import Budget, parse_budget
from tessera.driver.optimize import Options, optimize
from tessera.driver.read import read_model
from tessera.driver.report.results import EVEN, OPTIMIZED
from tessera.runtime.weights.bind import initialise

from .common import RESULTS, write
from .peers import minilm_folder
from .texts import man_pages

# Digits of 8 x 8 pixels, drawn larger: 145 tokens.
VIT = {"size": 48, "patch": 4, "dim": 192, "depth": 6, "heads": 3, "hidden": 768, "classes": 10}
EPOCHS, BATCH, RATE = 12, 32, 1e-3
TEXTS, IMAGES = 96, 96


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pictures f32[N, 3, 48, 48] from -1 to 1, and what they show."""
    from sklearn.datasets import load_digits

    found = load_digits()
    small = torch.tensor(found.images[:, None] / 8 - 1, dtype=torch.float32)
    large = torch.nn.functional.interpolate(small, size=VIT["size"], mode="bilinear")
    return large.expand(-1, 3, -1, -1).contiguous().numpy(), found.target


def trained(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Weights of the ViT after some minutes of training."""
    module = ts.load("vit_classifier", params=VIT)
    torch.manual_seed(0)
    net = build(module.graph, initialise(module.graph, 0), trainable=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.05)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.2)
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
            schedule.step()
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


def texts(folder: Path, budget: Budget) -> dict[str, Any]:
    """MiniLM on the beginnings of man pages."""
    pages = [" ".join(text.split())[:1500] for _, text in man_pages(TEXTS)]
    (folder / "texts.txt").write_text("\n".join(pages), encoding="utf-8")
    how = Options(
        calib=folder / "texts.txt", tokenizer=str(minilm_folder() / "tokenizer.json"), max_length=256, examples=TEXTS,
        memory=False, budget=budget,
    )  # fmt: skip
    return judged(optimize(read_model(minilm_folder()), output=folder / "minilm.onnx", options=how))


def pictures(folder: Path, budget: Budget) -> dict[str, Any]:
    """A ViT on digits, and how many of them it reads."""
    images, labels = digits()
    cut = len(images) - IMAGES
    weights = trained(images[:cut], labels[:cut])
    ts.compile(ts.load("vit_classifier", params=VIT), weights=weights, target="onnx", verify=False, output=folder / "vit.onnx")
    np.savez(folder / "digits.npz", image=images[cut:])
    logits = ts.open(folder / "vit.onnx")({"image": images[cut:]})["logits"]
    how = Options(calib=folder / "digits.npz", examples=IMAGES, memory=False, budget=budget)
    found = judged(optimize(folder / "vit.onnx", output=folder / "fast.onnx", options=how))
    return {"accuracy": round(float((np.asarray(logits).argmax(1) == labels[cut:]).mean()), 4), **found}


ROWS = {"minilm": texts, "vit": pictures}


def main() -> None:
    """Search for one model, and write what came of it beside what is known of the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("--latency", type=float, default=0.7)
    asked = parser.parse_args()
    known = RESULTS / "fit.json"
    results = json.loads(known.read_text(encoding="utf-8"))["results"] if known.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        results[asked.row] = ROWS[asked.row](Path(name), parse_budget([f"latency={asked.latency}x"]))
    write("fit", results)


if __name__ == "__main__":
    main()
