"""Pipelines compiled: a folder or one archive, run by its tokenizers and models, refused where anything of it was changed."""

from __future__ import annotations

import io
import json
import random
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.ir.diagnostics import Diagnostic

pytest.importorskip("tokenizers")

WORDS = Path(__file__).parents[1] / "errors" / "tokenizers" / "words.json"
SPEC = """
use std.nn (embedding)

tokenizer words {
    from "words.json"
}

model encoder(ids: token[words, B, T], mask: bool[B, T], *, dim: int) -> float[B, dim] {
    x = embedding(ids, vocab=words.size, dim=dim) as tok
    return sum(where(rearrange(mask, "b t -> b t 1"), x, 0.0), axis=1)
}

model bytes_of(text: u8[B, N], count: i64[B]) -> i64[B] {
    return sum(cast(text, i64), axis=1) + count
}

pipeline embed(texts: text[B]) -> (vectors: float[B, 8], codes: i64[B], where: i64[B, T, 2], again: text[B]) {
    host clean = "nowhere:clean"(texts: text[B]) -> text[B]
    found = texts |> clean |> words
    raw = utf8(texts)
    codes = bytes_of(raw.bytes, raw.count)
    return encoder(found.ids, found.mask, dim=8), codes, found.offsets, words.decode(found.ids)
}
"""
TEXTS = ["one two", "three \u00e9 two one", ""]
HOST = {"clean": lambda texts: [text.replace("\u00e9", "one") for text in texts]}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(WORDS, folder / "words.json")
    (folder / "embed.tess").write_text(SPEC)
    ts.compile(ts.load(folder / "embed.tess"), target="onnx", output=folder / "embed.zip")
    return folder


@pytest.mark.parametrize("target", ["onnx", "torch"])
@pytest.mark.parametrize("name", ["other.zip", "other"])
def test_it_gives_what_its_parts_give(project: Path, tmp_path: Path, target: str, name: str) -> None:
    artifact = ts.compile(ts.load(project / "embed.tess"), target=target, output=tmp_path / name)
    opened: Any = ts.open(tmp_path / name)
    found = opened(texts=TEXTS, host=HOST)
    engine = ts.open_tokenizer(project / "embed.tess")
    encoded = engine.encode(HOST["clean"](TEXTS))
    expected = opened.encoder(ids=encoded.ids, mask=encoded.mask)["output"]
    assert np.array_equal(found["vectors"], expected)
    assert found["codes"].tolist() == [sum(text.encode()) + len(text.encode()) for text in TEXTS]
    assert np.array_equal(found["where"], encoded.offsets)
    assert found["again"].tolist() == ["one two", "three one two one", ""]
    assert np.array_equal(artifact(texts=TEXTS, host=HOST)["vectors"], found["vectors"])
    assert artifact.module == opened.program


def test_a_model_of_sentencepiece_goes_with_it(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    shutil.copy(WORDS.with_name("letters.model"), tmp_path / "letters.model")
    spec = tmp_path / "embed.tess"
    source = 'from "letters.model" (first=["<pad>", "<s>"]) process template(single=["<s>", "$A"], pair=["$A", "$B"])'
    spec.write_text("""
tokenizer t { SOURCE }

model same(ids: token[t, B, T]) -> i64[B, T] {
    return ids + 0
}

pipeline embed(texts: text[B]) -> i64[B, T] {
    return same(t(texts).ids)
}
""".replace("SOURCE", source))
    ts.compile(ts.load(spec), target="onnx", output=tmp_path / "embed.zip")
    (tmp_path / "letters.model").unlink()
    found: Any = ts.open(tmp_path / "embed.zip")
    assert found(texts=["ab a", ""])["output"].tolist() == [[1, 7, 4, 5], [1, 0, 0, 0]]


def test_equal_programs_are_equal_archives(project: Path, tmp_path: Path) -> None:
    ts.compile(ts.load(project / "embed.tess"), target="onnx", output=tmp_path / "embed.zip", verify=False)
    assert (tmp_path / "embed.zip").read_bytes() == (project / "embed.zip").read_bytes()


def test_texts_are_checked(project: Path) -> None:
    opened: Any = ts.open(project / "embed.zip")
    for texts, message in (
        ("one", r"E0902.*cannot take one text"), ([["one"]], r"E0902.*shape \[1, 1\]"), ([1], "E0903.*row 0 is of int"),
        ([b"one", b"\xff"], "E1007.*row 1"), (["\ud800"], "E1007.*row 0"),
    ):  # fmt: skip
        with pytest.raises(Diagnostic, match=message):
            opened(texts=texts, host=HOST)
    assert opened(texts=[b"one"], host=HOST)["again"].tolist() == ["one"]
    for wrong, message in ((lambda texts: [1] * len(texts), "E0903"), (lambda texts: texts[1:], "E0914")):
        with pytest.raises(Diagnostic, match=message):
            opened(texts=TEXTS, host={"clean": wrong})
    with pytest.raises(Diagnostic, match=r"E0913.*calls no host stage `words`"):
        opened(texts=TEXTS, host={**HOST, "words": len})


def test_batches_are_of_texts_of_one_length(project: Path, tmp_path: Path) -> None:
    (tmp_path / "short.tess").write_text(SPEC.replace(", where: i64[B, T, 2]", "").replace(", found.offsets", ""))
    shutil.copy(WORDS, tmp_path / "words.json")
    opened: Any = ts.open(ts.compile(ts.load(tmp_path / "short.tess"), target="onnx", verify=False).save(tmp_path / "short.zip"))
    texts = [" ".join(["one"] * (7 * i % 11)) for i in range(23)]
    seen: list[list[int]] = []

    def clean(rows: Any) -> Any:
        seen.append([len(row) for row in rows])
        return rows

    whole = opened(texts=texts, host=HOST)
    found = opened(texts=texts, host={"clean": clean}, batch=5)
    assert {key: value.tolist() for key, value in found.items() if key != "vectors"} == {
        key: value.tolist() for key, value in whole.items() if key != "vectors"
    }
    np.testing.assert_allclose(found["vectors"], whole["vectors"], atol=1e-6)
    assert [len(lengths) for lengths in seen] == [5, 5, 5, 5, 3]
    assert [length for lengths in seen for length in lengths] == sorted(map(len, texts))
    for size in (0, True, "2", 2.0):
        with pytest.raises(Diagnostic, match=r"E0902.*at least one row"):
            opened(texts=texts, host=HOST, batch=size)
    with pytest.raises(Diagnostic, match=r"E0520.*`where` are \[1, 2\] and \[2, 2\] in different batches"):
        ts.open(project / "embed.zip")(texts=["one", "one two"], host=HOST, batch=1)  # type: ignore[operator]


LOOPS = """
tokenizer words {
    from "words.json"
}

model step(x: i64[B], by: i64[]) -> i64[B] {
    return x * 2 + by
}

model more(x: i64[B]) -> bool[] {
    return any(x < 100)
}

model y_of(x: i64[B]) -> i64[] {
    return min(x)
}

pipeline main(texts: text[B], *, n: int = 3) -> (last: i64[B], all: i64[n, B], first: i64[B]) {
    x = words(texts).count
    y = x
    fold i in n from (x) stack (z) {
        x = step(x, i)
        z = x
        fold j in 2 from (z) {
            z = step(z, i)
        }
    }
    while more(step(x, y_of(y))) from (x) limit 9 {
        x = step(x, y_of(y))
    }
    return x, z, y
}
"""


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_loops_of_compiled_steps(tmp_path: Path, target: str) -> None:
    shutil.copy(WORDS, tmp_path / "words.json")
    (tmp_path / "main.tess").write_text(LOOPS)
    ts.compile(ts.load(tmp_path / "main.tess", "main"), target=target, output=tmp_path / "main.zip", verify=False)
    opened: Any = ts.open(tmp_path / "main.zip")
    found = opened(texts=["one two", "one two three"])
    x = first = np.array([2, 3])
    stacked = []
    for i in range(3):
        x = x * 2 + i
        stacked.append((x * 2 + i) * 2 + i)
    while (x * 2 + 2 < 100).any():
        x = x * 2 + 2
    assert {name: value.tolist() for name, value in found.items()} == {
        "last": x.tolist(), "all": np.stack(stacked).tolist(), "first": first.tolist(),
    }  # fmt: skip
    (main,) = json.loads(zipfile.ZipFile(tmp_path / "main.zip").read("program.json"))["tessera.flows"].values()
    assert [step["kind"] for step in main["steps"]] == ["encode", "fold", "while"]


def test_one_model_is_no_archive(project: Path, tmp_path: Path) -> None:
    """A name says what is in a file, whoever chooses it."""
    model = ts.loads("model m(x: float[B]) -> float[B] {\n    return x + 1.0\n}\n")
    whole = ts.compile(ts.load(project / "embed.tess"), target="onnx", verify=False)
    for name, save in (
        ("m.zip", lambda out: ts.compile(model, target="onnx", output=out)),
        ("m.safetensors", lambda out: ts.compile(model, target="onnx", output=out)),
        ("m.zip", ts.compile(model, target="onnx").save), ("embed.onnx", whole.save),
        ("embed.onnx", lambda out: ts.compile(ts.load(project / "embed.tess"), target="onnx", output=out)),
    ):  # fmt: skip
        with pytest.raises(Diagnostic, match="E0012"):
            save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_plain_python_runs_it(project: Path, tmp_path: Path) -> None:
    """The reader that the page of pipelines shows."""
    page = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text(encoding="utf-8")
    *_, block = page.split("```python\n")
    reader: dict[str, Any] = {}
    exec(block.partition("```")[0], reader)
    text = SPEC.replace(", codes: i64[B], where: i64[B, T, 2], again: text[B]", "")
    text = text.replace(", codes, found.offsets, words.decode(found.ids)", "")
    text = text.replace("    raw = utf8(texts)\n    codes = bytes_of(raw.bytes, raw.count)\n", "")
    (tmp_path / "plain.tess").write_text(text)
    shutil.copy(WORDS, tmp_path / "words.json")
    ts.compile(ts.load(tmp_path / "plain.tess"), target="onnx", output=tmp_path / "plain.zip")
    found = reader["run"](tmp_path / "plain.zip", "embed", {"nowhere:clean": HOST["clean"]}, texts=TEXTS)
    opened: Any = ts.open(tmp_path / "plain.zip")
    assert np.array_equal(found["vectors"], opened(texts=TEXTS, host=HOST)["vectors"])


# What is refused ------------------------------------------------------------------------------------------------------


def rewritten(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The archive with its files changed, stored as they are."""
    with zipfile.ZipFile(source) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(target, "w") as made:
        for name, data in files.items():
            made.writestr(name, data)
    return target


def manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, bytes]], None]:
    def changed(files: dict[str, bytes]) -> None:
        said = json.loads(files["program.json"])
        change(said)
        files["program.json"] = json.dumps(said).encode()

    return changed


def slip(name: str) -> Callable[[dict[str, bytes]], None]:
    def changed(files: dict[str, bytes]) -> None:
        files[name] = b"x"

    return changed


REFUSED = {
    "tokenizer": (lambda f: f.update({"tokenizers/words.json": f["tokenizers/words.json"] + b" "}), "E0528.*another file"),
    "weights": (lambda f: f.update({"weights.data": bytes(len(f["weights.data"]))}), "E0528.*another file"),
    "missing": (lambda f: f.pop("encoder.onnx"), "E0528.*lacks its file `encoder.onnx`"),
    "more": (slip("more.onnx"), "E0528.*`more.onnx`, of which"),
    "no hashes": (manifest(lambda m: m.pop("tessera.files")), "E0528"),
    "no manifest": (lambda f: f.pop("program.json"), "E0014.*it has no `program.json`"),
    "no JSON": (lambda f: f.update({"program.json": b"{"}), "E0014.*no JSON"),
    "no rows": (manifest(lambda m: m.update({"tessera.files": {"a": 1}})), "E0014.*no hash"),
    "manifest out": (manifest(lambda m: m["tessera.files"].update({"../x": {"sha256": "", "bytes": 0}})), "E0528.*lacks"),
    **{
        name: (slip(name), "E0014.*does not lie in its folder")
        for name in ("../out", "/etc/out", "a/../../out", "c:\\out", "a\\..\\out", "./a", "a//b", "folder/")
    },
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_changed_archive_is_refused(project: Path, tmp_path: Path, name: str) -> None:
    change, message = REFUSED[name]
    with pytest.raises(Diagnostic, match=message):
        ts.open(rewritten(project / "embed.zip", tmp_path / "changed.zip", change))
    assert [p.name for p in tmp_path.iterdir()] == ["changed.zip"]


def forms(archive: zipfile.ZipFile, data: bytes) -> dict[str, Callable[[], None]]:
    """Entries that no archive of ours has, by what is wrong with them."""

    def link() -> None:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")

    return {
        "is a link": link,
        "is compressed": lambda: archive.writestr("bomb", bytes(10_000_000), zipfile.ZIP_DEFLATED),
        "is there twice": lambda: archive.writestr("Weights.data", data),
    }


@pytest.mark.parametrize("wrong", ["is a link", "is compressed", "is there twice"])
def test_an_archive_holds_plain_files_only(project: Path, tmp_path: Path, wrong: str) -> None:
    shutil.copy(project / "embed.zip", tmp_path / "changed.zip")
    with zipfile.ZipFile(tmp_path / "changed.zip", "a") as archive:
        forms(archive, b"x")[wrong]()
    with pytest.raises(Diagnostic, match=f"E0014.*{wrong}"):
        ts.open(tmp_path / "changed.zip")


def test_files_that_lie_over_each_other_are_refused(project: Path, tmp_path: Path) -> None:
    """Many names of one long file, so that unpacking would give more than there is."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("program.json", b"{}")
        archive.writestr("long", bytes(100_000))
        whole = archive.infolist()[1]
        for number in range(50):
            again = zipfile.ZipInfo(f"again{number}")
            again.header_offset, again.CRC = whole.header_offset, whole.CRC
            again.file_size = again.compress_size = whole.file_size
            archive.filelist.append(again)
            archive.NameToInfo[again.filename] = again
    (tmp_path / "over.zip").write_bytes(stream.getvalue())
    with pytest.raises(Diagnostic, match=r"E0014.*is larger than the archive"):
        ts.open(tmp_path / "over.zip")


@pytest.mark.parametrize("seed", range(3))
def test_bytes_that_change_are_noticed(project: Path, tmp_path: Path, seed: int) -> None:
    changes(project, tmp_path, seed, 20)


@pytest.mark.extended
@pytest.mark.parametrize("seed", range(100, 120))
def test_more_bytes_that_change_are_noticed(project: Path, tmp_path: Path, seed: int) -> None:
    changes(project, tmp_path, seed, 200)


def changes(project: Path, tmp_path: Path, seed: int, count: int) -> None:
    """Bytes of the archive changed, cut or doubled: it opens with all of its files as they were, or is refused."""
    whole = (project / "embed.zip").read_bytes()
    expected = ts.open(project / "embed.zip").program  # type: ignore[union-attr]
    draw = random.Random(seed)
    for number in range(count):
        data = bytearray(whole)
        at = draw.randrange(len(data))
        kind = draw.randrange(4)
        if kind < 2:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            del data[at : at + draw.randrange(1, 200)]
        else:
            data[at:at] = data[at : at + draw.randrange(1, 200)]
        file = tmp_path / f"{number}.zip"
        file.write_bytes(data)
        try:
            opened: Any = ts.open(file)
        except Diagnostic as error:
            refused = error.code
        else:
            refused = "E0014" if opened.program == expected else "another program"
        assert refused in ("E0014", "E0528"), file
