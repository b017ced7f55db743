"""Turkish tokenization standards: what a card asks of `seeds/turkish_tokenization_standards`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.tokenizer import Measuring
from tessera.runtime.tokenizers.analysers import lowered, open_analyser, words_in
from tessera.runtime.tokenizers.engine import tables_of
from tessera.runtime.tokenizers.metrics import Measured, measured, whole

from .catalogues import messages, pages

TARGETS = ("torch", "onnx")
SEED = (Path(ts.__file__).parent / "specs/seeds/turkish_tokenization_standards.tess").read_text(encoding="utf-8")
TRAINED = ("pairs", "pieces", "parts")
ENGLISH = """
## What was trained on English.
tokenizer english {
    measure "corpus/messages.txt" (analyser="simplemma", language="tr")
    from "minilm.json"
}
"""
# Twenty words, and what they are made of.
FIXTURE = """
ev
evler\tev ler
evlerde\tev ler de
evde\tev de
g\u00f6z
g\u00f6zler\tg\u00f6z ler
g\u00f6zl\u00fck\tg\u00f6z l\u00fck
kitap
kitab\u0131\tkitab \u0131
kitaplar\tkitap lar
kitapta\tkitap ta
\u0131\u015f\u0131k
\u0131\u015f\u0131klar\t\u0131\u015f\u0131k lar
ok
okul
okullar\tokul lar
okulda\tokul da
yol
yolda\tyol da
yollar\tyol lar
"""
# Which of these tokens are words, and which mostly stand as a root or an affix: `ler` is an affix and no word, `kita` a
# fragment, `evler` a word of two units, `da` one of `okulda` and `yolda`.
TOKENS = ("ev", "ler", "de", "kita", "p", "evler", "okul", "da", "g\u00f6z", "\u0131\u015f\u0131k", "lar", "y")
WORDS = {"ev", "evler", "okul", "g\u00f6z", "\u0131\u015f\u0131k"}
PURE = {"ev", "ler", "de", "okul", "da", "g\u00f6z", "\u0131\u015f\u0131k", "lar"}
LEXICON = """
tokenizer fixture {
    special "<unk>" = 0
    split spaces
    model wordpiece(vocab=13, unknown="<unk>", prefix="")
    decode wordpiece(prefix="")
    measure "texts.txt" (analyser="words.tsv", language="tr")
    require word_share >= 0.4, "tokens are words"
    from "fixture.json"
}
"""
# They go when the tests end.
FOLDERS: list[TemporaryDirectory[str]] = []


@cache
def trained() -> Path:
    """The seed in a folder of its own, where its tokenizers were trained, beside MiniLM's."""
    from tessera.benchmarks.peers import minilm_folder

    FOLDERS.append(TemporaryDirectory(prefix="turkish-"))
    folder = Path(FOLDERS[-1].name)
    (folder / "corpus").mkdir()
    (folder / "corpus/messages.txt").write_text("\n".join(messages("tr").values()), encoding="utf-8")
    (folder / "corpus/pages.txt").write_text("\n".join(pages("tr").values()), encoding="utf-8")
    path = folder / "turkish.tess"
    path.write_text(SEED + ENGLISH, encoding="utf-8")
    (folder / "minilm.json").write_bytes((minilm_folder() / "tokenizer.json").read_bytes())
    for name in TRAINED:
        ts.train_tokenizer(path, name=name)
    (folder / "units.txt").write_text("\n".join(listed()), encoding="utf-8")
    ts.train_tokenizer(path, name="units")
    return path


def listed() -> list[str]:
    """The roots and affixes of the corpus as zeyrek reads each word, with the longest root, the frequent ones first; and all
    characters."""
    pytest.importorskip("zeyrek")
    analyser, language = open_analyser(Measuring("", "zeyrek", "tr"), Path())
    texts = [lowered(text, language) for text in (*messages("tr").values(), *pages("tr").values())]
    units: Counter[str] = Counter()
    for word, often in Counter(text[begin:end] for text in texts for begin, end in words_in(text)).items():
        end = 0
        while places := [place for place in analyser.units(word) if place[0] == end]:
            begin, end = max(places)
            units[word[begin:end]] += often
    return [*(unit for unit, _ in units.most_common() if len(unit) > 1), *sorted(set("".join(texts)) - {"\n"})]


@cache
def found(name: str, analyser: str) -> Measured:
    """What an analyser says of a tokenizer on the messages."""
    pytest.importorskip(analyser)
    path = trained().with_name(f"{analyser}.tess")
    path.write_text((SEED + ENGLISH).replace('"simplemma"', f'"{analyser}"'), encoding="utf-8")
    tokenizer = ts.load_tokenizer(path, name)
    return measured(tables_of(tokenizer), tokenizer)


def fixture(folder: Path, source: str = LEXICON, words: str = FIXTURE) -> Path:
    """A tokenizer of twelve tokens, and what is known of twenty words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {token: number for number, token in enumerate(("<unk>", *TOKENS))}
    own = Tokenizer(models.WordPiece(vocab, unk_token="<unk>", continuing_subword_prefix=""))
    own.pre_tokenizer, own.decoder = pre_tokenizers.WhitespaceSplit(), decoders.WordPiece(prefix="")
    own.add_special_tokens(["<unk>"])
    own.save(str(folder / "fixture.json"))
    (folder / "words.tsv").write_text(words, encoding="utf-8")
    texts = "Ev evler evlerde okul okulda\ng\u00f6z g\u00f6zler I\u015fIk \u0131\u015f\u0131klar evde kitap y\n"
    (folder / "texts.txt").write_text(texts, encoding="utf-8")
    path = folder / "fixture.tess"
    path.write_text(source, encoding="utf-8")
    return path


def test_twenty_words_give_the_shares_that_they_have_by_hand(tmp_path: Path) -> None:
    tokenizer = ts.load_tokenizer(fixture(tmp_path))
    one, again = (measured(tables_of(tokenizer), tokenizer) for _ in range(2))
    assert (one.metrics, one.counts) == (again.metrics, again.counts)
    # `Ev` and `I\u015f\u0131k` are unknown to it, and special tokens are none of the language.
    assert one.counts == {
        "texts": 2, "tokens": 18, "distinct_tokens": 12, "tokens_with_letters": 12, "words": len(WORDS), "pure": len(PURE)
    }  # fmt: skip
    assert (one.metrics["word_share"], one.metrics["pure_share"]) == (5 / 12, 8 / 12)


@pytest.mark.parametrize("target", TARGETS)
def test_compiled_reductions_count_the_same(target: str, tmp_path: Path) -> None:
    source = LEXICON + SEED[SEED.index("## The columns") :]
    path = fixture(tmp_path, source)
    tokenizer = ts.load_tokenizer(path, "fixture")
    counted = measured(tables_of(tokenizer), tokenizer)
    engine = whole(tables_of(tokenizer), tokenizer)
    rows = engine.encode((tmp_path / "texts.txt").read_text(encoding="utf-8").splitlines())
    known = engine.vocabulary()
    said = {"words": WORDS, "pure": PURE, "lettered": TOKENS}
    of = {name: np.array([text in texts for text in known]) for name, texts in said.items()}
    order = np.argsort(list(known.values()))
    run = ts.compile(ts.load(path, model="columns"), target=target)
    made = run(ids=rows.ids, mask=rows.mask, **{name: flags[order] for name, flags in of.items()})
    assert {name: int(made[name]) for name in ("tokens", "words", "pure")} == {
        name: counted.counts[name] for name in ("tokens", "words", "pure")
    }
    assert int(made["distinct"]) == counted.counts["tokens_with_letters"]
    assert float(made["word_share"]) == pytest.approx(counted.metrics["word_share"])
    assert float(made["pure_share"]) == pytest.approx(counted.metrics["pure_share"])


@pytest.mark.parametrize("target", TARGETS)
def test_a_column_correlates_with_scores(target: str) -> None:
    rng = np.random.default_rng(0)
    column, score = rng.random((2, 7), np.float32)
    run = ts.compile(ts.load("seeds/turkish_tokenization_standards", model="correlation"), target=target)
    assert float(run(column=column, score=score)["output"]) == pytest.approx(np.corrcoef(column, score)[0, 1], abs=1e-5)
    with pytest.raises(Diagnostic, match="two models always correlate"):
        run(column=column[:2], score=score[:2])


def test_bytes_that_are_no_text_are_neither_words_nor_pure(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("ev evler \u0131\u015f\u0131k\n" * 20, encoding="utf-8")
    (tmp_path / "words.tsv").write_text(FIXTURE, encoding="utf-8")
    path = tmp_path / "bytes.tess"
    path.write_text(
        'tokenizer bytes { split byte_level model bpe(vocab=257) decode byte_level train "texts.txt" '
        'measure "texts.txt" (analyser="words.tsv", language="tr") from "bytes.json" }', encoding="utf-8",
    )  # fmt: skip
    ts.train_tokenizer(path)
    tokenizer = ts.load_tokenizer(path)
    made = measured(tables_of(tokenizer), tokenizer)
    # The letters e, v, l, r and k, the pair of bytes that is merged, and the halves of two letters.
    assert made.counts["tokens_with_letters"] >= 7
    assert made.counts["words"] == made.counts["pure"] <= 1


def test_what_cannot_be_asked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> Measured:
        tokenizer = ts.load_tokenizer(path)
        return measured(tables_of(tokenizer), tokenizer)

    def refused(source: str, words: str = FIXTURE, texts: str | None = None) -> Diagnostic:
        path = fixture(tmp_path, source, words)
        if texts is not None:
            (tmp_path / "texts.txt").write_text(texts, encoding="utf-8")
        with pytest.raises(Diagnostic) as caught:
            read(path)
        return caught.value

    def by(analyser: str) -> str:
        return LEXICON.replace('analyser="words.tsv", language="tr"', analyser)

    error = refused(by('analyser="zeyrek", language="hu"'))
    assert (error.code, error.message) == ("E1015", "`zeyrek` knows Turkish, and not `hu`")
    assert refused(by('analyser="zemberek"')).code == "E1015"
    assert refused(LEXICON.replace(' (analyser="words.tsv", language="tr")', "")).code == "E1015"
    assert refused(LEXICON.replace("words.tsv", "none.tsv")).code == "E0001"
    assert refused(LEXICON, words="evler\tev le\n").message == "`evler` on line 1 of `words.tsv` is not made of `ev le`"
    assert refused(LEXICON, texts="\n").code == "E1010"
    assert refused(LEXICON, texts="123 !\n").message.startswith("the texts have no word")
    monkeypatch.setitem(sys.modules, "zeyrek", None)
    error = refused(by('analyser="zeyrek"'))
    assert (error.code, error.help) == ("E0015", "pip install 'tessera[text]'")
    # A tokenizer that does not say what its ids become.
    path = fixture(tmp_path, LEXICON.replace('    decode wordpiece(prefix="")\n', ""))
    file = tmp_path / "fixture.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "decoder": None}), encoding="utf-8")
    with pytest.raises(Diagnostic, match="nothing says what text the tokens of `fixture` are"):
        read(path)


def test_the_gate_holds_training_back(tmp_path: Path) -> None:
    (tmp_path / "words.tsv").write_text(FIXTURE, encoding="utf-8")
    (tmp_path / "texts.txt").write_text("evler evlerde evde g\u00f6zler kitaplar\n" * 4, encoding="utf-8")
    path = tmp_path / "gate.tess"
    source = (
        'tokenizer gated { special "<unk>" split spaces model bpe(vocab=18, unknown="<unk>") '
        'decode fuse train "texts.txt" measure "texts.txt" (analyser="words.tsv") '
        'require pure_share >= BOUND, "roots and affixes" from "gated.json" }'
    )
    path.write_text(source.replace("BOUND", "0.9"), encoding="utf-8")
    with pytest.raises(Diagnostic) as caught:
        ts.train_tokenizer(path)
    assert caught.value.code == "E1009"
    assert not (tmp_path / "gated.json").exists()
    path.write_text(source.replace("BOUND", "0"), encoding="utf-8")
    _, metrics = ts.train_tokenizer(path)
    assert 0 < metrics["pure_share"] < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("analyser", ["simplemma", "zeyrek"])
def test_roots_and_affixes_rank_above_what_is_trained_and_that_above_another_language(analyser: str) -> None:
    rows: dict[str, Any] = {name: found(name, analyser) for name in (*TRAINED, "units", "english")}
    for name, row in rows.items():
        shares = f"{row.metrics['word_share']:.3f} {row.metrics['pure_share']:.3f}"
        print(f"{analyser} {name}: {row.metrics['size']:.0f} {row.counts['tokens']} {shares}")
    for name in TRAINED:
        for share in ("word_share", "pure_share"):
            assert rows[name].metrics[share] >= rows["english"].metrics[share] + 0.1, (name, share)
            assert rows["units"].metrics[share] >= rows[name].metrics[share] + 0.1, (name, share)
