"""`view`: what it says of tokens is what became of them, the page needs nothing else, and what cannot be shown is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tessera as ts
from tessera.driver.report.explain import sizes_for
from tessera.driver.report.fates import chain, fates, traced
from tessera.driver.report.view import page
from tessera.driver.seen import see
from tessera.ir.builder import Builder
from tessera.ir.types import f32

from .conftest import Cli

SMALL = {"size": 64, "patch": 8, "dim": 32, "depth": 4, "heads": 2, "hidden": 64, "classes": 5}
PARAMS = tuple(word for name, value in SMALL.items() for word in ("-p", f"{name}={value}"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    image = np.repeat(np.repeat(rng.integers(0, 255, (4, 4, 3), np.uint8), 16, 0), 16, 1)
    Image.fromarray(image).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize(
    ("passes", "merged"),
    [
        (["merge_tokens(r=6)"], True),
        (["prune_tokens(keep=0.4)"], False),
        (["merge_tokens(r=6, blocks=[0, 1])", "prune_tokens(r=5, blocks=[2])"], None),
    ],
)
def test_fates_are_what_the_maps_say(passes: list[str], merged: bool | None) -> None:
    """The tokens of one host are as many as its size; what is dropped is part of none; what stays is its own host."""
    module = ts.load("vit_classifier", params=SMALL)
    reduced = ts.compile(module, target="torch", passes=passes, verify=False).module
    clone, steps = traced(reduced)
    last = list(clone.graph.nodes())
    size = [n.outputs[2] for n in last if n.op.name in {s.method for s in steps}][-1]
    clone.graph.add_output(size, "last_size", "tap")
    made = ts.compile(clone, target="onnx", passes=[], verify=False)
    rng = np.random.default_rng(1)
    outputs = made({"image": rng.standard_normal((2, 3, 64, 64)).astype(np.float32)})
    for row in range(2):
        found = fates(chain(steps, steps[-1]), outputs, row)
        assert len(found) == 65
        stays = [t for t, f in enumerate(found) if f.left is None]
        assert all(found[t].host == t for t in stays)
        assert sorted(stays) == sorted(outputs[f"fate{len(steps) - 1}_position"][row])
        position = outputs[f"fate{len(steps) - 1}_position"][row]
        counted = {int(p): sum(f.host == p for f in found) for p in position}
        if merged is not False:
            np.testing.assert_array_equal([counted[int(p)] for p in position], outputs["last_size"][row])
        gone = [f for f in found if f.host is None]
        assert bool(gone) == (merged is not True)
        # Earlier pictures show no token gone that a later one shows.
        for step in steps[:-1]:
            early = fates(chain(steps, step), outputs, row)
            assert all(e.left is None or e.left == f.left for e, f in zip(early, found, strict=True))


# Two towers of as many tokens each.
TOWERS = """
use std.attention (self_attention)
use std.nn (linear)

model towers(image: f32[B, 3, 64, 64], other: f32[B, 64, 8]) -> (y: f32[B, 64, 8], z: f32[B, 64, 8]) {
    z = other
    repeat i in 2 as tails { z = z + self_attention(z, heads=2) as attn }
    x = linear(rearrange(image, "b c (h p) (w q) -> b (h w) (p q c)", p=8, q=8), out=8) as emb
    repeat i in 2 as blocks { x = x + self_attention(x, heads=2) as attn }
    return x, z
}
"""


@pytest.mark.parametrize(
    ("reduce", "told"),
    [
        # Those of the image alone, and not those of the other tower.
        ("merge_tokens(r=[20, 10, 2, 3], restore=true)", "64 tokens: 62 stay, 2 are merged into others"),
        # What comes back behind a block is there again in front of the next.
        ("merge_tokens(r=[4, 4, 4, 4], place=around_block)", "for the last time: 60 stay, 4 are merged into others"),
        ("prune_tokens(r=4, place=keys, method=divprune)", "for the last time: 60 stay, 4 are dropped"),
        ("merge_tokens(r=4, restore=true, blocks=[0])", None),
    ],
)
def test_tokens_of_one_tower(
    reduce: str, told: str | None, cli: Cli, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("towers.tess").write_text(TOWERS)
    np.save("other.npy", np.random.default_rng(0).standard_normal((1, 64, 8)).astype(np.float32))
    result = cli("view", "towers.tess", "--pass", reduce, "-i", f"image={photo}", "-i", "other=other.npy")
    if told is None:
        assert "E0925" in result.err
        assert "`other`" in result.err
    else:
        assert result.code == 0, result.err
        assert told in Path("towers.html").read_text()


def test_the_page_of_an_artifact_and_an_image(cli: Cli, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("compile", "vit_classifier", *PARAMS, "--pass", "merge_tokens(r=10)", "-o", "fast.onnx").code == 0
    result = cli("view", "fast.onnx", "-i", f"image={photo}")
    assert result.out == "wrote fast.html\n", result.err
    text = Path("fast.html").read_text()
    assert "65 tokens: 25 stay, 40 are merged into others" in text
    assert text.count("data:image/png;base64,") == 5
    # In front of each block, and what is left behind the last.
    for count in ("65", "55", "45", "35", "25"):
        assert re.search(rf">{count}</text>", text)
    # The source that the artifact carries: the reduction as it is written, and where it stands.
    assert "bipartite_merge(x_" in text
    assert 'title="fast.onnx:source:' in text
    assert not re.search(r"(?:src|href)=\"(?!data:)|@import|url\(|<script", text), "the page needs something else"


def test_words_that_became_one_token(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    words = ["[UNK]", "the", "cat", "and", "a", "dog", "run", "to", "<b>"]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.save("tokenizer.json")
    Path("text.txt").write_text("the cat and the dog run to the <b> dog")
    sizes = ("-p", "vocab=9", "-p", "dim=16", "-p", "depth=2", "-p", "heads=2", "-p", "hidden=32")
    assert cli("compile", "minilm", *sizes, "--pass", "merge_tokens(keep=0.6)", "-o", "words.onnx").code == 0
    result = cli("view", "words.onnx", "-i", "input_ids=text.txt", "-o", "words.html")
    assert result.code == 0, result.err
    text = Path("words.html").read_text()
    assert "10 tokens: 6 stay, 4 are merged into others" in text
    assert "&lt;b&gt;" in text
    assert "<b>dog" not in text
    assert text.count('class="joined"') >= 5
    assert "one token with:" in text


def test_the_page_of_a_program_without_tokens() -> None:
    module = ts.loads("## Says `x`, and <i>nothing</i>.\nmodel twice(x: f32[B, 4]) -> f32[B, 4] { return 2.0 * x }")
    text = page(module, sizes_for(module, {"B": 3}))
    assert "<code>x</code>, and &lt;i&gt;nothing&lt;/i&gt;" in text
    assert "river of tokens" not in text
    assert "f32[3, 4]" in text


def test_every_statement_and_flop_is_told() -> None:
    module = see(Path("vit_classifier"), params=SMALL).module
    text = page(module, {"B": 1})
    assert text.count("<tr title=") == sum(1 for _ in module.graph.nodes())


def test_a_constant_that_several_statements_read() -> None:
    """It is printed wherever it is read; the statements keep their lines, of MLIR text as of any program."""
    module = ts.loads("model m(x: f32[B, 4], y: f32[B, 4]) -> (f32[B, 4], f32[B, 4]) { return sin(x) + 2.0, cos(y) }")
    graph = module.graph
    shared = Builder(graph).before(next(iter(graph.nodes()))).constant(3.0, f32)
    graph.set_outputs([Builder(graph).op("mul", value, shared) for value in graph.outputs], graph.output_info)
    text = page(module, {"B": 1})
    assert text.count("* 3.0") == 2
    assert "sin(x)" in text


def test_the_page_of_a_report(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    how = ("--rounds", "1", "--no-memory", "-o", "fast.onnx")
    told = cli("optimize", "vit_classifier", *PARAMS, "--pass", "merge_tokens(r=10)", *how, "--json")
    Path("report.json").write_text(told.out)
    assert cli("view", "report.json").out == "wrote report.html\n"
    assert "Latency" in Path("report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("nothing.onnx",), "E0001", "nothing.onnx"),
        (("text.json",), "E0014", "is no report"),
        (("none.json",), "E0001", "none.json"),
        (("vit_classifier", "--at", "Q=3"), "E0011", "no free dimension `Q`"),
        (("vit_classifier", *PARAMS, "-i", "image=photo.png"), "E0925", "no reduction in it"),
        (("vit_classifier", *PARAMS, "--pass", "merge_tokens(r=8)", "-i", "image=array.npy"), "E0925", "cannot be drawn"),
        (("vit_classifier", *PARAMS, "--pass", "merge_tokens(r=8)", "-i", "image=none.png"), "E0001", "none.png"),
    ],
)
def test_what_cannot_be_shown(
    cli: Cli, photo: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: str, told: str
) -> None:
    monkeypatch.chdir(photo.parent)
    Path("text.json").write_text(json.dumps({"a": 1}))
    np.save("array.npy", np.zeros((1, 3, 64, 64), np.float32))
    result = cli("view", *arguments, "-o", "page.html")
    assert result.code == 1
    assert f"error[{code}]" in result.err
    assert told in result.err
    assert not Path("page.html").exists()


@pytest.mark.extended
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to look at the page with")
@pytest.mark.parametrize("scheme", ["0", "1"], ids=["dark", "light"])
@pytest.mark.parametrize("width", [1280, 420])
def test_a_browser_draws_it(cli: Cli, photo: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, width: int) -> None:
    """No part is wider than the window, and the picture is of the scheme that was asked for."""
    monkeypatch.chdir(photo.parent)
    command = ("view", "vit_classifier", *PARAMS, "--pass", "merge_tokens(r=10)", "-i", f"image={photo}", "-o", "page.html")
    assert cli(*command).code == 0
    text = Path("page.html").read_text()
    probe = "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script></body>"
    Path("probe.html").write_text(text.replace("</body>", probe))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--blink-settings=preferredColorScheme={scheme}"]
    size = f"--window-size={width},1200"
    assert CHROMIUM is not None
    for what in (["--screenshot=seen.png", "page.html"], ["--dump-dom", "probe.html"]):
        url = f"file://{photo.parent / what[-1]}"
        done = subprocess.run([CHROMIUM, *flags, size, *what[:-1], url], capture_output=True, text=True, timeout=120, check=True)
    wide, room = map(int, re.search(r"<title>(\d+) of (\d+)</title>", done.stdout).groups())  # type: ignore[union-attr]
    assert wide <= room
    corner = Image.open("seen.png").convert("L").getpixel((2, 2))
    assert (corner < 100) == (scheme == "0")  # type: ignore[operator]
