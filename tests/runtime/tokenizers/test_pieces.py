"""Models of SentencePiece: ids and offsets are those of the package; they print and read back; what is none is refused."""

from __future__ import annotations

import io
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tessera.driver.tokenizers import load_tokenizer, open_tokenizer, train_tokenizer
from tessera.frontends.source import loads_tokenizer, print_tokenizer
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.tokenizer import Part, TableFile
from tessera.ir.tokenizer import Tokenizer as Declared
from tessera.ir.tokenizer_parts import part
from tessera.runtime.tokenizers.engine import engine_of, open_engine
from tessera.runtime.tokenizers.pieces import read_pieces
from tessera.runtime.tokenizers.rows import FILLING, laid_out

from .published import HARD, ROOT, texts

sentencepiece = pytest.importorskip("sentencepiece")
messages = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
found_messages = pytest.importorskip("sentencepiece.sentencepiece_pb2")

# As the families train theirs: what the package is told, and what stands beside the file.
FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "llama2": (
        {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False,
         "split_digits": True, "character_coverage": 0.99995},
        'process template(single=["<s>", "$A"], pair=["<s>", "$A", "<s>:1", "$B:1"]) from "own.model"',
    ),
    "t5": (
        {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
        'special "<extra_id_1>" = 700 special "<extra_id_0>" = 701 pad longest(token="<pad>") '
        'process template(single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"]) from "own.model"',
    ),
    "xlm_r": (
        {"model_type": "unigram"},
        'special "<mask>" = 701 process template(single=["<s>", "$A", "</s>"], pair=["<s>", "$A", "</s>", "</s>", "$B", "</s>"]) '
        'from "own.model" (first=["<s>", "<pad>", "</s>", "<unk>"])',
    ),
    "gemma": (
        {"model_type": "bpe", "byte_fallback": True, "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "split_digits": True,
         "normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False,
         "allow_whitespace_only_pieces": True, "user_defined_symbols": ["<mask>", "\n\n", "<td>"]},
        'from "own.model"',
    ),
    "albert": (
        {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc_cf", "control_symbols": ["[CLS]", "[SEP]"],
         "user_defined_symbols": ["(", ")", "\u00a3"]},
        'process template(single=["[CLS]", "$A", "[SEP]"], pair=["[CLS]", "$A", "[SEP]", "$B:1", "[SEP]:1"]) from "own.model"',
    ),
    "words": ({"model_type": "word"}, 'from "own.model"'),
    "suffix": ({"model_type": "bpe", "treat_whitespace_as_suffix": True}, 'from "own.model"'),
}  # fmt: skip


@cache
def trained(name: str) -> bytes:
    rows = (ROOT / "docs" / "language.md").read_text(encoding="utf-8").splitlines()
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(rows), model_writer=out, vocab_size=700, num_threads=1, minloglevel=2, **FORMS[name][0]
    )
    return out.getvalue()


def declared(name: str, folder: Path) -> Declared:
    (folder / "own.model").write_bytes(trained(name))
    return loads_tokenizer(f"tokenizer t {{ {FORMS[name][1]} }}", str(folder / "t.tess"))


def same(name: str, folder: Path, count: int) -> None:
    """A file as a declaration, printed, read back; ids, offsets and texts of ids are those of the package."""
    tokenizer = declared(name, folder)
    text = print_tokenizer(tokenizer)
    again = loads_tokenizer(text, str(folder / "t.tess"))
    assert (again.difference(tokenizer), print_tokenizer(again)) == (None, text)
    engine = open_engine(tokenizer)
    own = sentencepiece.SentencePieceProcessor(model_proto=trained(name))
    known = engine.vocabulary()
    assert len(known) == engine.size == tokenizer.size
    rows = list(texts(count))
    for start in range(0, count, 100):
        batch = rows[start : start + 100]
        found = engine.encode(batch, around=False)
        for row, text in enumerate(batch):
            numbers, kept = own.encode(text), found.mask[row]
            assert found.ids[row][kept].tolist() == [known[own.id_to_piece(number)] for number in numbers], text
            spans = found_messages.SentencePieceText.FromString(own.encode(text, out_type="serialized_proto"))
            data = text.encode()
            where = [(len(data[: p.begin].decode()), len(data[: p.end].decode())) for p in spans.pieces]
            assert [tuple(o) for o in found.offsets[row][kept].tolist()] == where, text
        ids = [row[:n].tolist() for row, n in zip(found.ids, found.count, strict=True)]
        assert engine.decode(ids) == [own.decode(own.encode(text)).encode() for text in batch]


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str, tmp_path: Path) -> None:
    same(name, tmp_path, 40)


@pytest.mark.extended
@pytest.mark.parametrize("name", FORMS)
def test_forms_on_many_texts(name: str, tmp_path: Path) -> None:
    same(name, tmp_path, 5000)


def test_ids_of_a_published_order_and_tokens_around(tmp_path: Path) -> None:
    """XLM-R has four tokens first, whatever its file has; its mask stands behind all pieces."""
    engine = open_engine(declared("xlm_r", tmp_path))
    own = sentencepiece.SentencePieceProcessor(model_proto=trained("xlm_r"))
    ids = engine.encode(["a model of tokens"]).ids[0].tolist()
    assert ids == [0, *(number + 1 for number in own.encode("a model of tokens")), 2]
    pair = engine.encode(["a"], pairs=["model"])
    assert pair.ids[0].tolist() == [0, own.encode("a")[0] + 1, 2, 2, own.encode("model")[0] + 1, 2]
    assert (engine.size, engine.vocabulary()["<mask>"]) == (702, 701)
    assert engine.decode([[0, *ids[1:-1], 701, 2]]) == [b"a model of tokens"]
    assert engine.decode([[0, *ids[1:3], 701]], special=True) == [b"<s>a model<mask>"]
    # Nothing that a text says is a special token.
    assert not {0, 2, 701} & set(engine.encode(["<s> </s> <mask>"], around=False).ids[0].tolist())


def test_words_begin_where_spaces_stand(tmp_path: Path) -> None:
    for name in ("llama2", "t5", "suffix"):
        engine = open_engine(declared(name, tmp_path))
        found = engine.encode(["one zq\u4e2d\u4e2d two"], around=False)
        words = found.words[0].tolist()
        assert words[0] == 0
        assert sorted(set(words)) == [0, 1, 2]
        assert words == sorted(words)


def test_a_file_alone_is_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "own.model").write_bytes(trained("t5"))
    found = load_tokenizer(tmp_path / "own.model")
    assert (found.name, found.size, [one.name for one in found.normalize]) == ("own", 700, ["sentencepiece"])
    assert open_tokenizer(tmp_path / "own.model").encode([b"a model", ""]).count.tolist()[1] == 0
    assert open_tokenizer(found).encode([]).offsets.shape == (0, 0, 2)
    with pytest.raises(Diagnostic, match=r"E1007.*text 1 is no Unicode"):
        open_tokenizer(found).encode(["a", "\ud800"])
    with pytest.raises(Diagnostic, match=r"E1008.*the ids of `own` are 0 to 699"):
        open_tokenizer(found).decode([[700]])


# Rows -----------------------------------------------------------------------------------------------------------------

_IDS = {"[P]": 0, "[C]": 1, "[S]": 2, **{f"w{i}": i + 3 for i in range(40)}}
_TEMPLATES = (
    None, (["[C]", "$A", "[S]"], ["[C]", "$A", "[S]", "$B:1", "[S]:1"]), (["$A", "[S]:3"], ["$B:2", "[S]", "$A"]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4), pair=st.booleans(),
    around=st.booleans(), template=st.sampled_from(_TEMPLATES),
    cut=st.sampled_from(["longest_first", "only_first", "only_second", ""]),
    room=st.integers(4, 14), ends=st.tuples(st.sampled_from(["left", "right"]), st.sampled_from(["left", "right"])),
    multiple=st.sampled_from([None, 4]), fixed=st.booleans(),
)  # fmt: skip
def test_rows_are_those_of_the_package_tokenizers(
    counts: Any, pair: bool, around: bool, template: Any, cut: str, room: int, ends: Any, multiple: Any, fixed: bool
) -> None:
    own = Tokenizer(models.WordLevel(_IDS, unk_token="[P]"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = Declared("t", Part(""))
    parts: dict[str, Any] = {}
    if template is not None:
        own.post_processor = processors.TemplateProcessing(
            single=" ".join(template[0]), pair=" ".join(template[1]), special_tokens=[(t, _IDS[t]) for t in ("[C]", "[S]")]
        )
        parts["process"] = (part("process", "template", {"single": tuple(template[0]), "pair": tuple(template[1])}),)
    if cut:
        own.enable_truncation(room, strategy=cut, direction=ends[0])
        parts["truncate"] = part("truncate", cut, {"length": room, "side": ends[0]})
    width = {"length": 20} if fixed else {}
    own.enable_padding(pad_id=0, pad_token="[P]", direction=ends[1], pad_to_multiple_of=multiple, pad_type_id=1, **width)
    more = {**width, "token": "[P]", "segment": 1, "side": ends[1], "multiple": multiple}
    parts["pad"] = part("pad", "fixed" if fixed else "longest", more)
    made = Declared("t", Part(""), **parts)
    rows = [tuple(" ".join(f"w{i + 20 * side}" for i in range(n)) for side, n in enumerate(count)) for count in counts]
    lengths = [np.array([count[side] for count in counts]) for side in range(2 if pair else 1)]
    try:
        reference = own.encode_batch(rows if pair else [row[0] for row in rows], add_special_tokens=around)
    except Exception:
        with pytest.raises(Diagnostic, match="E1007"):
            laid_out(made, lengths, around, _IDS)
        return
    found = laid_out(made, lengths, around, _IDS)
    tokens = [np.concatenate([np.arange(n) + 3 + 20 * side for n in length]) for side, length in enumerate(lengths)]
    ids = found.fixed.copy()
    for which, own_ids in enumerate(tokens):
        ids[found.which == which] = own_ids[found.place[found.which == which]]
    assert ids.tolist() == [row.ids for row in reference]
    assert found.segments.tolist() == [row.type_ids for row in reference]
    assert (found.which != FILLING).astype(int).tolist() == [row.attention_mask for row in reference]


# Training -------------------------------------------------------------------------------------------------------------

SPEC = """tokenizer t {{
    special "<s>" = 3
    special "<pad>"
    special "</s>"
    special "<x>" = 500
    inject "<td>" = 10 (normalized=false)
    normalize sentencepiece(rule="nfkc")
    model {model}
    process template(single=["<s>", "$A", "</s>"], pair=["<s>", "$A", "</s>", "$B:1"])
    decode sentencepiece
    pad longest(token="<pad>")
    train "corpus.txt" (key=7{more})
    from "t.model"
}}
"""
MODEL = 'bpe(vocab=500, unknown="<unk>", byte_fallback=true)'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "corpus.txt").write_text((ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "model", [MODEL, 'unigram(vocab=500, unknown="<?>")', "wordlevel(vocab=500)"]
)
def test_training_gives_the_same_each_time_and_ids_as_declared(model: str, folder: Path) -> None:
    spec = folder / "t.tess"
    spec.write_text(SPEC.format(model=model, more="") + 'tokenizer u { from "t.model" }', encoding="utf-8")
    train_tokenizer(spec, "t")
    data = (folder / "t.model").read_bytes()
    train_tokenizer(spec, "t")
    assert (folder / "t.model").read_bytes() == data
    made = load_tokenizer(spec, "t")
    expected = {"<s>": 3, "<pad>": 1, "</s>": 2, "<td>": 10, "<x>": 500}
    # Of whole words, an injected one at the begin of a word is another piece.
    assert {token.text: token.id for token in made.added if token.text != "\u2581<td>"} == expected
    row = open_engine(made).encode(["a place<td>", ""])
    assert (row.ids[0][0], row.ids[0][row.count[0] - 1], row.ids[1].tolist()[:3]) == (3, 2, [3, 2, 1])
    assert 10 in row.ids[0].tolist() or "wordlevel" in model
    own = sentencepiece.SentencePieceProcessor(model_proto=data)
    assert own.encode("a place<td> of") == open_engine(made).encode(["a place<td> of"], around=False).ids[0].tolist()
    assert load_tokenizer(spec, "u").size == 500


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('unknown="<unk>", ', ""), "E1004.*has a token for what is unknown"),
        ((", byte_fallback=true", ""), "E1004.*makes one token of unknown characters"),
        (("byte_fallback=true", 'byte_fallback=true, prefix="##"'), "E1004.*SentencePiece has no `prefix`"),
        ((f"model {MODEL}", "model wordpiece(vocab=500)"), "E1004.*no model of SentencePiece that is"),
        (('normalize sentencepiece(rule="nfkc")', "normalize nfkc"), "E1004.*which normalises by itself"),
        (('rule="nfkc"', 'rule="nfd"'), "E1004.*SentencePiece has no rule `nfd`"),
        (("decode sentencepiece", "decode fuse"), "E1004.*makes texts of ids by itself"),
        (("decode sentencepiece", "decode sentencepiece round pow2"), "E1004.*there is no `round pow2`"),
        (("decode sentencepiece", "decode sentencepiece split bert"), "E1004.*there is no `split bert`"),
        (("decode sentencepiece", "decode sentencepiece process bert"), "E1004.*there is no `process bert"),
        (("key=7", "key=7, min_frequency=2"), "E1002.*has no option `min_frequency`"),
        (("vocab=500", "vocab=90000"), "E1010.*the training failed|E1010.*the corpus gives"),
        (('"<td>" = 10', '"<td>" = 1000'), "E1005.*is declared as 1000"),
        (('"<x>" = 500', '"<x>" = 510'), "E1005.*the next id is 500"),
        (('token="<pad>"', 'token="[P]"'), r"E1004.*no token `.P.`"),
        (('from "t.model"', 'from "t.json"'), "E1004.*no tokenizer.json has the stage `normalize sentencepiece"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained(change: tuple[str, str], said: str, folder: Path) -> None:
    text = SPEC.format(model=MODEL, more="")
    assert change[0] in text
    with pytest.raises(Diagnostic, match=said):
        train_tokenizer(loads_tokenizer(text.replace(*change), str(folder / "t.tess")))


# Files that are none --------------------------------------------------------------------------------------------------


def changed(name: str, change: Any) -> bytes:
    made = messages.ModelProto.FromString(trained(name))
    change(made)
    result: bytes = made.SerializeToString()
    return result


def opened(data: bytes) -> Any:
    return engine_of(data, read_pieces(data, Declared("t", Part(""), source=TableFile("x.model"))))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (lambda: b"", "0 of its pieces are the unknown one"),
        (lambda: b'{"model": {}}', "its bytes are none"),
        (lambda: trained("t5")[:-3], "its bytes are none"),
        (lambda: changed("t5", lambda m: setattr(m.trainer_spec, "model_type", 4)), "its pieces are single characters"),
        (lambda: changed("t5", lambda m: setattr(m.pieces[9], "piece", "")), "one of its pieces is empty"),
        (lambda: changed("t5", lambda m: setattr(m.pieces[9], "piece", "<unk>")), "it has the piece `<unk>` twice"),
        (lambda: changed("t5", lambda m: setattr(m.pieces[9], "type", 2)), "2 of its pieces are the unknown one"),
        (lambda: changed("t5", lambda m: setattr(m.denormalizer_spec, "precompiled_charsmap", b"x")), "for the way back"),
        (lambda: changed("t5", lambda m: setattr(m.normalizer_spec, "precompiled_charsmap", b"x" * 9)), "`sentencepiece` cannot"),
        (lambda: changed("llama2", lambda m: setattr(m.pieces[9], "piece", "<0xZZ>")), "`sentencepiece` cannot"),
        (lambda: trained("t5") + b"\x98\x06\x01", "nothing is known of the field 99 of its file"),
    ],
)  # fmt: skip
def test_what_is_no_model(data: Any, said: str) -> None:
    with pytest.raises(Diagnostic) as caught:
        opened(data())
    assert caught.value.code == "E1003"
    assert said in caught.value.message


def test_a_character_map_may_make_what_is_no_unicode() -> None:
    """The replacements of the map are text between zeros: other bytes in their place are read, and are no text."""

    def spoilt(made: Any) -> None:
        data = bytearray(made.normalizer_spec.precompiled_charsmap)
        start = 4 + int.from_bytes(data[:4], "little")
        data[start:] = bytes(0xFF if byte else 0 for byte in data[start:])
        made.normalizer_spec.precompiled_charsmap = bytes(data)

    engine = opened(changed("t5", spoilt))
    found = engine.encode(["\ufb01 \u00bd \u2460"])
    assert found.words.shape == found.ids.shape
    assert engine.decode(found.ids.tolist())


@pytest.mark.extended
def test_files_with_anything_in_them_are_read_or_refused() -> None:
    """Bytes, character maps, types, scores and texts of pieces drawn at random."""
    rng = random.Random(0)
    read = 0
    for _ in range(1500):
        data = bytearray(trained(rng.choice(["llama2", "t5", "albert"])))
        if rng.random() < 0.5:
            made = messages.ModelProto.FromString(bytes(data))
            charsmap = bytearray(made.normalizer_spec.precompiled_charsmap)
            for _ in range(rng.randrange(1, 20) if charsmap else 0):
                charsmap[rng.randrange(len(charsmap)) if rng.random() < 0.7 else rng.randrange(8)] = rng.randrange(256)
            made.normalizer_spec.precompiled_charsmap = bytes(charsmap)
            for row in rng.choices(made.pieces, k=2):
                row.type = rng.choice([row.type, rng.randrange(1, 7)])
                row.score = rng.choice([row.score, float("nan"), float("inf")])
                row.piece = rng.choice([row.piece, "", "a" * 10_000, "\0", "<0xZZ>"])
            data = bytearray(made.SerializeToString())
        else:
            for _ in range(rng.randrange(1, 10)):
                at = rng.randrange(len(data)) if rng.random() < 0.6 else len(data) - 1 - rng.randrange(2000)
                data[at] = rng.randrange(256)
        try:
            engine = opened(bytes(data))
        except Diagnostic as error:
            assert error.code == "E1003"  # noqa: PT017
            continue
        read += 1
        found = engine.encode(HARD)
        assert found.offsets.shape == (*found.words.shape, 2)
        engine.decode([ids[:n].tolist() for ids, n in zip(found.ids, found.count, strict=True)])
    assert 100 < read < 1400
