"""Files of ranks give the ids of `tiktoken`."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tessera.frontends.source import loads_tokenizer, print_tokenizer
from tessera.ir.diagnostics import Diagnostic
from tessera.runtime.tokenizers.engine import open_engine
from tessera.runtime.tokenizers.ranks import CHARACTERS

from .published import FAMILIES, GPT4, texts

SPEC = """\
tokenizer t {
    special "<|end|>" = 700
    split pattern(regex=REGEX, behavior=isolated)
    split byte_level(space=false, regex=false)
    decode byte_level
    from "t.tiktoken"
}
"""
# The package takes a regular expression as a string of ours.
TEXT = SPEC.replace("REGEX", json.dumps(GPT4))


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    """Those of a vocabulary that was trained on bytes, without its special tokens."""
    vocab = json.loads(FAMILIES["llama3"]().to_str())["model"]["vocab"]
    byte = {char: number for number, char in CHARACTERS.items()}
    kept = [text for text in sorted(vocab, key=vocab.__getitem__) if not text.startswith("<|")]
    return {bytes(byte[char] for char in text): number for number, text in enumerate(kept)}


def written(ranks: dict[bytes, int]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % number for token, number in ranks.items())


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=pytest.mark.extended)])
def test_ids_are_those_of_the_package(count: int, ranks: dict[bytes, int], tmp_path: Path) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    (tmp_path / "t.tiktoken").write_bytes(written(ranks))
    made = loads_tokenizer(TEXT, str(tmp_path / "t.tess"))
    assert made.size == 701
    assert loads_tokenizer(print_tokenizer(made), str(tmp_path / "t.tess")).difference(made) is None
    own = tiktoken.Encoding("t", pat_str=GPT4, mergeable_ranks=ranks, special_tokens={"<|end|>": 700})
    engine = open_engine(made)
    rows = [*texts(count), "a<|end|>b", "a" * 5000, "ab" * 3000]
    found = engine.encode(rows)
    ids = [row[:n].tolist() for row, n in zip(found.ids, found.count, strict=True)]
    assert ids == [own.encode(row, allowed_special="all") for row in rows]
    assert engine.decode(ids, special=True) == [row.encode() for row in rows]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: (t.replace(" = 700", ""), None), r"E1005.*`<.end.>` needs an id"),
        (lambda t: (t.replace(" = 700", " = 5"), None), r"E1005.*has the id 5, which is the rank of another one"),
        (lambda t: (t.replace("    decode byte_level\n", ""), None), r"E1004.*are those of bytes"),
        (lambda t: (t.replace("space=false, ", ""), None), r"E1004.*are those of bytes"),
        (lambda t: (t.replace("decode", "model wordlevel decode"), None), r"E1004.*has another `model`"),
        (lambda t: (t, b"YQ== x\n"), r"E1003.*line 1 is no token in base64"),
        (lambda t: (t, b"?? 1\n"), r"E1003.*line 1 is no token in base64"),
        (lambda t: (t, b"YQ== 1\nYQ== 2\n"), r"E1003.*line 2 has a token again"),
        (lambda t: (t, b"YQ== 1\nYg== 1\n"), r"E1003.*one rank is there twice"),
        (lambda t: (t, b"YQ== 1\n"), r"E1003.*no token for the byte 0x21"),
    ],
)  # fmt: skip
def test_what_is_wrong(change, said: str, ranks: dict[bytes, int], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    text, data = change(TEXT)
    (tmp_path / "t.tiktoken").write_bytes(data or written(ranks))
    with pytest.raises(Diagnostic, match=said):
        loads_tokenizer(text, str(tmp_path / "t.tess"))
