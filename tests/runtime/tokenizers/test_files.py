"""What a ``tokenizer.json`` may say, and what is refused; text that is none; ids that are none."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.frontends.source import loads_tokenizer
from tessera.ir.diagnostics import Diagnostic
from tessera.runtime.tokenizers.engine import Engine, open_engine
from tessera.runtime.tokenizers.files import read_json

WORDS = Path(__file__).parents[2] / "errors" / "tokenizers" / "words.json"
WHOLE: dict[str, Any] = json.loads(WORDS.read_text(encoding="utf-8"))


def read(change: Callable[[dict[str, Any]], object]) -> Any:
    whole = copy.deepcopy(WHOLE)
    change(whole)
    return read_json(json.dumps(whole).encode(), "t.json")[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.update(extra=1), "nothing is known of its `extra`"),
        (lambda w: w.pop("model"), "`model` is no object"),
        (lambda w: w["model"].update(type="Neural"), "there is no model `Neural`"),
        (lambda w: w["model"].update(temperature=2), "nothing is known of `temperature` of the model"),
        (lambda w: w["model"].update(vocab={"a": 0, "b": 0}), "`vocab` has one id twice"),
        (lambda w: w["model"].update(vocab={"a": -1}), "`vocab` has an id that is no number of a token"),
        (lambda w: w["model"].update(unk_token=3), "`unknown` of `model wordlevel` must be str"),
        (lambda w: w.update(normalizer={"type": "NFC", "x": 1}), "nothing is known of `x` of the normalizer `NFC`"),
        (lambda w: w.update(normalizer={"type": "Sequence"}), "`normalizers` is no list"),
        (lambda w: w.update(added_tokens=[{"id": 0}]), "an added token has no text"),
        (lambda w: w["added_tokens"].append({"id": 1, "content": "x"}), "gives to another token"),
        (lambda w: w["added_tokens"].append({"id": 0, "content": "[UNK]"}), "`[UNK]` is added twice"),
        (lambda w: w.update(truncation={"max_length": 3, "strategy": "Random", "stride": 0}), "`truncation` has no strategy"),
        (lambda w: w.update(post_processor={"type": "BertProcessing", "sep": ["[UNK]", 1], "cls": ["[UNK]", 0]}), "has the id 1"),
        (lambda w: w.update(pre_tokenizer={"type": "Split", "pattern": {"Glob": "*"}}), "a pattern is neither"),
    ],
)  # fmt: skip
def test_what_a_file_may_not_say(change: Callable[[dict[str, Any]], object], said: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        read(change)
    assert caught.value.code == "E1003"
    assert said in caught.value.message


def test_forms_of_older_files() -> None:
    def old(w: dict[str, Any]) -> None:
        w["pre_tokenizer"] = {"type": "Metaspace", "replacement": "\u2581", "add_prefix_space": False}
        w["model"].pop("type")

    found = read(old)
    assert found.model.name == "wordlevel"
    assert found.split[0]["scheme"] == "never"


def test_what_is_no_json() -> None:
    for data in (b"", b"\xff", b"[" * 100_000, b"3"):
        with pytest.raises(Diagnostic, match="E1003"):
            read_json(data, "t.json")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6,
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, item in inner for place in places(item, (*at, key)))]


@pytest.mark.extended
@settings(max_examples=3000, deadline=None)
@given(st.data())
def test_files_with_anything_in_them_are_read_or_refused(data: st.DataObject) -> None:
    whole = copy.deepcopy(WHOLE)
    whole["post_processor"] = {
        "type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
        "special_tokens": {"[UNK]": {"id": "[UNK]", "ids": [0], "tokens": ["[UNK]"]}},
    }  # fmt: skip
    at = data.draw(st.sampled_from(places(whole)[1:]))
    holder = whole
    for key in at[:-1]:
        holder = holder[key]
    holder[at[-1]] = data.draw(_JSON)
    try:
        read_json(json.dumps(whole).encode(), "t.json")
    except Diagnostic as error:
        assert error.code == "E1003"  # noqa: PT017


@pytest.fixture(scope="module")
def words() -> Engine:
    return open_engine(loads_tokenizer('tokenizer t { from "words.json" }', str(WORDS.parent / "t.tess")))


def test_text_that_is_no_unicode(words: Engine) -> None:
    with pytest.raises(Diagnostic, match=r"E1007.*text 1 is not UTF-8: byte 0xff at 4"):
        words.encode([b"one", b"two \xff"])
    with pytest.raises(Diagnostic, match="E1007"):
        words.encode(["\ud800"])
    assert words.encode(["one two", b"three"]).ids.tolist() == [[1, 2], [3, 0]]
    assert words.encode([]).ids.shape == (0, 0)


def test_ids_that_are_none(words: Engine) -> None:
    with pytest.raises(Diagnostic, match=r"E1008.*row 1 has 4, but the ids of `t` are 0 to 3"):
        words.decode([[1], [4]])
    assert words.decode([[1, 2], [], [0]], special=True) == [b"one two", b"", b"[UNK]"]


def test_a_file_that_numbers_tokens_otherwise(tmp_path: Path) -> None:
    """Behind the model's own tokens the package counts on; a gap would move every id."""
    whole = copy.deepcopy(WHOLE)
    whole["added_tokens"].append({**whole["added_tokens"][0], "id": 9, "content": "[X]"})
    (tmp_path / "t.json").write_text(json.dumps(whole), encoding="utf-8")
    tokenizer = loads_tokenizer('tokenizer t { from "t.json" }', str(tmp_path / "t.tess"))
    with pytest.raises(Diagnostic, match=r"gives `.X.` the id 9, but the package `tokenizers` numbers it 4"):
        open_engine(tokenizer)
