"""The report in words and as a page: it says when a pass does not pay, and when nothing can be said."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from tessera.driver.report.html import page
from tessera.driver.report.text import render, verdict, warnings


def spread(median: float, low: float | None = None, high: float | None = None) -> dict[str, float]:
    return {"median": median, "low": median if low is None else low, "high": median if high is None else high}


def base() -> dict[str, Any]:
    """A report such as `optimize` makes."""
    report: dict[str, Any] = {
        "model": "vit", "source": "ONNX file", "output": "fast.onnx", "written": ["fast.onnx"],
        "files": {"original": 8_000_000, "optimized": 8_100_000},
        "machine": {"cpu": "A CPU", "cores": 2, "load": 0.1, "threads": "default", "onnxruntime": "1.32.0", "python": "3.11"},
        "made": {"date": "2026-01-02T03:04:05+00:00", "tessera": "0.1.0", "seed": 0, "sha256": {"optimized": "ab12"},
                 "command": "tessera optimize vit.onnx"},
        "sizes": {"B": 1}, "notes": [], "random_weights": False, "verified": [],
        "fit": None,
        "passes": [{"pass": "merge_tokens", "contract": "approximate", "modified": 2, "notes": ["block 1: cut"]}],
        "cost": {
            "blocks": [
                {"block": "stem", "tokens": None, "tokens_after": None, "flops": 0, "flops_after": 0},
                {"block": "0", "tokens": 100, "tokens_after": 100, "flops": 4_000_000, "flops_after": 3_000_000},
                {"block": "1", "tokens": 100, "tokens_after": 50, "flops": 4_000_000, "flops_after": 2_000_000},
            ],
            "flops": 8_000_000, "flops_after": 5_000_000, "ratio": 1.6,
        },
        "latency": {
            "rounds": 9,
            "rows": {
                "original": {"ms": spread(10.0), "speedup": spread(1.0)},
                "optimized": {"ms": spread(8.0), "speedup": spread(1.25, 1.2, 1.3)},
                "fixed indices": {"ms": spread(7.0), "speedup": spread(1.4)},
            },
            "base": "original", "gain": spread(1.25, 1.2, 1.3), "without_matching": spread(1.14, 1.1, 1.2),
        },
        "memory": {"original": {"peak_bytes": 10_000_000, "private_bytes": None}},
        "fidelity": {
            "examples": 4, "what": "4 images", "random_inputs": False,
            "baselines": {"random dropping": "at random; 3 runs"},
            "outputs": [
                {
                    "output": "logits", "shape": "float32[1, 10]", "kind": "scores", "why": "scores, by its name", "varies": 0.5,
                    "rows": {
                        "optimized": {"cosine": 0.98, "worst_cosine": 0.9, "relative_error": 0.1, "top1": 0.75, "kl": 0.01},
                        "random dropping": {"cosine": 0.9, "worst_cosine": 0.8, "relative_error": 0.3, "top1": 0.5, "kl": 0.1},
                    },
                    "each": {"optimized": [0.99, 0.97], "random dropping": [0.95, 0.85]}, "skipped": {},
                },
            ],
        },
    }  # fmt: skip
    report["verdict"] = verdict(report)
    return report


def changed(**speedup: float) -> dict[str, Any]:
    report = base()
    report["latency"]["rows"]["optimized"]["speedup"] = report["latency"]["gain"] = speedup
    report["verdict"] = verdict(report)
    return report


def test_it_pays() -> None:
    speed = verdict(base())["speed"]
    assert speed["pays"] is True
    assert speed["text"] == (
        "pays here: 1.25x (1.20 … 1.30) at B = 1; counting FLOPs promises 1.60x. Choosing the tokens takes 12.2% of the time"
        " (9% … 16.6%). int8 was not tried: `--int8`"
    )


def test_removing_tokens_is_told_from_exporting_anew() -> None:
    """What the same file with every token gains is not credited to the tokens that left."""
    report = base()
    report["latency"] |= {"base": "re-exported", "gain": spread(1.01, 0.99, 1.018)}
    report["latency"]["rows"]["re-exported"] = {"ms": spread(8.2), "speedup": spread(1.22, 1.2, 1.24)}
    speed = verdict(report)["speed"]
    assert speed["pays"] is False
    assert speed["text"].startswith(
        "removing tokens makes no clear difference here: 1.01x (0.99 … 1.02) at B = 1, over the same file re-exported with every"
        " token. That alone is 1.22x (1.20 … 1.24); together 1.25x (1.20 … 1.30)"
    )


def test_outputs_that_hardly_depend_on_the_input_are_told() -> None:
    report = base()
    report["fidelity"]["outputs"][0]["varies"] = 1e-5
    assert "`logits` of the original hardly depends on the input" in warnings(report)[0]


def test_a_busy_machine_is_told() -> None:
    report = base()
    report["machine"]["load"] = 1.9
    assert "other processes kept 1.9 of 2 cores busy" in warnings(report)[0]


def test_the_nearest_neighbours_of_embeddings() -> None:
    report = base()
    output = report["fidelity"]["outputs"][0]
    output["kind"] = "features"
    output["rows"] = {"optimized": {"cosine": 0.99, "worst_cosine": 0.9, "relative_error": 0.1, "same_nearest": 0.875}}
    text = verdict(report)["fidelity"]["text"]
    assert text.startswith("`logits` keeps a cosine of 0.990, and the same nearest neighbour for 87.5% of the examples")
    assert "same nearest" in render({**report, "verdict": verdict(report)})


@pytest.mark.parametrize(("share", "shown"), [(0.9999, "99.9%"), (1.0, "100%"), (0.996, "99.6%"), (0.29, "29%")])
def test_a_share_is_never_rounded_up(share: float, shown: str) -> None:
    report = base()
    report["fidelity"]["outputs"][0]["rows"]["optimized"]["top1"] = share
    assert f"keeps the top-1 of {shown}," in verdict(report)["fidelity"]["text"]


@pytest.mark.parametrize(
    ("gain", "start"),
    [
        (spread(0.97, 0.95, 0.99), "does not pay here: 0.97x (0.95 … 0.99) at B = 1"),
        (spread(0.97, 0.96, 1.01), "does not pay here: 0.97x"),
        (spread(1.01, 1.0, 1.019), "makes no clear difference here: 1.01x"),
        (spread(0.5, 0.1, 0.9), "does not pay here: 0.50x"),
    ],
)
def test_it_does_not_pay(gain: dict[str, float], start: str) -> None:
    report = changed(**gain)
    speed = report["verdict"]["speed"]
    assert speed["pays"] is False
    assert speed["text"].startswith(start)
    assert "try `--size`" in speed["text"]
    assert ("scatter widely" in speed["text"]) == (gain["high"] > 1.5 * gain["low"])
    assert start in render(report)


@pytest.mark.parametrize("gain", [spread(1.2, 0.9, 1.3), spread(0.5, 0.1, 3.0), spread(1.01, 1.0, 1.03)])
def test_it_cannot_be_told(gain: dict[str, float]) -> None:
    """A gain and none lie within the range."""
    speed = changed(**gain)["verdict"]["speed"]
    assert speed["pays"] is None
    assert speed["text"].startswith("whether it pays cannot be told from 9 interleaved rounds here: ")
    assert "try `--size`" not in speed["text"]


def test_many_rounds_tell_what_their_quartiles_do_not() -> None:
    report = base()
    report["latency"] |= {"gain": spread(1.2, 0.9, 1.5), "within": [1.15, 1.24]}
    speed = verdict(report)["speed"]
    assert speed["pays"] is True
    assert speed["text"].startswith("pays here: 1.20x (0.90 … 1.50)")


def test_matching_within_noise() -> None:
    report = base()
    report["latency"]["without_matching"] = spread(1.02, 0.99, 1.04)
    assert "Choosing" not in verdict(report)["speed"]["text"]


def test_int8_and_fewer_tokens_stack() -> None:
    report = base()
    report["latency"]["rows"]["int8"] = {"ms": spread(5.0), "speedup": spread(2.0)}
    report["latency"]["rows"]["optimized + int8"] = {"ms": spread(5.6), "speedup": spread(1.8)}
    report["latency"]["stacked"] = spread(0.9)
    rows = report["fidelity"]["outputs"][0]["rows"]
    rows["int8"] = {**rows["optimized"], "cosine": 0.995}
    assert "int8 alone keeps 0.995" in verdict(report)["fidelity"]["text"]
    assert "int8 alone gives 2.00x; fewer tokens on top of it are worth 0.90x, 1.80x together" in verdict(report)["speed"]["text"]


@pytest.mark.parametrize(
    ("theirs", "pays", "said"),
    [(0.9, True, "more than random"), (0.9799, False, "no more than random"), (0.99, False, "less than random")],
)
def test_fidelity_stands_next_to_chance(theirs: float, pays: bool, said: str) -> None:
    report = base()
    report["fidelity"]["outputs"][0]["rows"]["random dropping"]["cosine"] = theirs
    found = verdict(report)["fidelity"]
    assert found["pays"] is pays
    assert said in found["text"]
    assert "keeps the top-1 of 75%" in found["text"]


def test_every_baseline_must_be_beaten() -> None:
    report = base()
    report["fidelity"]["baselines"]["first tokens"] = "as many FLOPs"
    rows = report["fidelity"]["outputs"][0]["rows"]
    rows["first tokens"] = {**rows["optimized"], "cosine": 0.985}
    found = verdict(report)["fidelity"]
    assert found["pays"] is False
    assert "more than random dropping (0.900); less than first tokens (0.985)" in found["text"]


def test_random_inputs_say_nothing() -> None:
    report = base()
    report["fidelity"]["random_inputs"] = True
    assert verdict(report)["fidelity"]["pays"] is None
    assert "that says nothing" in warnings(report)[0]
    assert "warning" in render({**report, "verdict": verdict(report)})


def test_random_weights_are_told() -> None:
    report = base()
    assert warnings(report) == []
    report["random_weights"] = True
    assert "no weights were given" in warnings(report)[0]


def test_a_pass_that_removes_no_token() -> None:
    report = base()
    for block in report["cost"]["blocks"]:
        block["tokens_after"] = block["tokens"]
    del report["latency"]["rows"]["fixed indices"]
    assert "no pass removed tokens" in warnings(report)[0]


def test_outputs_that_cannot_be_compared() -> None:
    report = base()
    output = report["fidelity"]["outputs"][0]
    output["rows"], output["skipped"] = (
        {},
        {"optimized": "its shape became [1]", "random dropping": "its shape became [1]"},
    )
    report["verdict"] = verdict(report)
    assert report["verdict"]["fidelity"] == {"pays": None, "text": "no output could be compared: its shape became [1]"}
    assert "optimized, random dropping not compared: its shape became [1]" in render(report)
    assert "`logits` lost tokens and cannot be compared: with `restore=true`" in warnings(report)[0]
    assert "optimized, random dropping not compared" in page(report)


def test_text_fits_into_a_hundred_columns() -> None:
    report = base()
    report["notes"] = ["a long note " * 30]
    text = render(report, 400)
    assert max(map(len, text.splitlines())) <= 100
    assert "\n\n\n" not in text
    assert "\033[" not in text
    assert "\033[" in render(report, color=True)


def test_passes_say_what_they_found() -> None:
    report = base()
    report["passes"][0] |= {"composites": {"attention": 6, "gelu": 3}, "left": {"norm": 1}}
    line = "merge_tokens (approximate): 2 modified; composites: attention 6, gelu 3; left: norm 1"
    assert line in render(report)
    assert "- block 1: cut" in render(report)
    assert line in page(report)


class Reader(HTMLParser):
    """Tags that are open, and what the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "rect", "line", "circle"):
            self.open.append(tag)
        self.loads += [tag] * (tag in ("script", "link", "img", "iframe"))
        self.loads += [name for name, _ in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "line", "circle"):
            assert self.open.pop() == tag


def test_the_page_needs_nothing_else() -> None:
    text = page(base())
    reader = Reader()
    reader.feed(text)
    assert (reader.open, reader.loads) == ([], [])
    assert "http" not in text
    assert "url(" not in text
    assert "50 of 100 tokens" in text
    assert re.findall(r'class="now" width="([\d.]+)"', text) == ["220.0", "110.0"]


def test_words_that_became_one_token_are_drawn() -> None:
    assert "What became of" not in page(base())
    words = [{"text": "cat", "hue": 137, "gone": False, "told": "one token with: dog"},
             {"text": "<b>", "hue": None, "gone": True, "told": "dropped"}]  # fmt: skip
    became = {"title": "What became of", "name": "ids", "facts": "2 tokens", "pictures": [], "words": words,
              "about_pictures": "", "about_words": "Words of one colour became one token."}  # fmt: skip
    text = page({**base(), "became": became})
    assert '<span title="one token with: dog" class="joined" style="--hue: 137">cat</span>' in text
    assert '<span title="dropped" class="gone">&lt;b&gt;</span>' in text


def test_names_are_escaped() -> None:
    report = copy.deepcopy(base())
    for place, key in ((report, "model"), (report, "output"), (report["fidelity"]["outputs"][0], "output")):
        place[key] = "<script>alert(1)</script>"
    report["verdict"] = verdict(report)
    text = page(report)
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_report_is_plain_data() -> None:
    report = base()
    assert json.loads(json.dumps(report)) == report


def test_two_rounds_conclude_nothing() -> None:
    report = base()
    report["latency"]["rounds"] = 2
    speed = verdict(report)["speed"]
    assert speed["pays"] is None
    assert speed["text"].startswith("2 interleaved rounds cannot tell whether it pays here: 1.25x (1.20 … 1.30)")


def test_a_cosine_is_not_rounded_to_one() -> None:
    report = base()
    report["fidelity"]["outputs"][0]["rows"]["optimized"]["cosine"] = 0.99987
    assert "with a cosine of 0.999870;" in verdict(report)["fidelity"]["text"]


def test_models_without_floats() -> None:
    report = base()
    report["fidelity"]["outputs"] = []
    assert verdict(report)["fidelity"]["text"] == "no output could be compared: none holds floats"
