"""Training what a declaration says: the same file each time, ids where they are declared, reasons where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tessera.driver.tokenizers import train_tokenizer
from tessera.frontends.source import loads_tokenizer
from tessera.ir.diagnostics import Diagnostic
from tessera.runtime.tokenizers.engine import open_engine
from tessera.runtime.tokenizers.training import train

from .published import ROOT

MODELS = {
    "bpe": ("byte_level", "bpe(vocab=400)"), "prefixed": ("words", 'bpe(vocab=400, prefix="@@", unknown="[UNK]")'),
    "wordpiece": ("words", "wordpiece(vocab=400)"), "unigram": ("metaspace", 'unigram(vocab=400, unknown="[UNK]")'),
    "wordlevel": ("words", 'wordlevel(vocab=400, unknown="[UNK]")'),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "corpus").mkdir()
    for name in ("language.md", "errors.md"):
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        (tmp_path / "corpus" / f"{name}.txt").write_text(text, encoding="utf-8")
    return tmp_path


def spec(stages: str, more: str = "") -> str:
    clauses = ['special "[UNK]"', 'special "[CLS]" = 7', stages, f'train "corpus/*.txt" (key=3{more})', 'from "t.json"']
    return f"tokenizer t {{ {' '.join(clauses)} }}"


@pytest.mark.extended
@pytest.mark.parametrize("name", MODELS)
def test_the_same_each_time_and_ids_as_declared(name: str, folder: Path) -> None:
    splitter, model = MODELS[name]
    around = 'process template(single=["[CLS]", "$A"], pair=["$A", "$B:1"])'
    stages = f'inject "<td>" split {splitter} model {model} {around} round pow2'
    text, path = spec(stages), str(folder / "t.tess")
    declared = loads_tokenizer(text, path)
    data = train(declared)
    assert data == train(declared)
    (folder / "t.json").write_bytes(data)
    made = loads_tokenizer(text, path)
    assert made.size == 512
    assert {a.text: a.id for a in made.added} == {"[UNK]": 0, "[CLS]": 7, "<td>": 400}
    engine = open_engine(made)
    row = engine.encode(["a model<td>"]).ids[0].tolist()
    assert row[0] == 7
    assert 400 in row
    assert max(row) <= 400


def test_runs_fill_the_vocabulary_up(folder: Path) -> None:
    filled = 'round multiple(of=50, fill=[" ", "\\n"])'
    text = spec(f'split byte_level(space=false) model bpe(vocab=400) {filled} inject "zz"')
    (folder / "t.json").write_bytes(train(loads_tokenizer(text, str(folder / "t.tess"))))
    made = loads_tokenizer(text, str(folder / "t.tess"))
    assert made.size == 450
    assert len(open_engine(made).encode(["\n\n\n\n\n\n\n\n"]).ids[0]) == 1


@pytest.mark.parametrize(
    ("stages", "more", "code", "said"),
    [
        ("model wordlevel(vocab=9999999)", "", "E1010", "the corpus gives"),
        ("split words model bpe(vocab=10)", "", "E1005", "10 tokens are fewer than the"),
        ('split words model bpe(vocab=10, prefix="@@")', "", "E1005", "10 tokens are fewer than the"),
        ("split words model wordpiece(vocab=10)", "", "E1005", "10 tokens are fewer than the"),
        ("model longest(vocab=10)", "", "E1005", "letters and 2 special tokens"),
        ("model bpe", "", "E1010", "nothing of how many tokens"),
        ("model wordlevel(vocab=300)", ", longest=3", "E1002", "has no option `longest`"),
        ('model bpe(vocab=300) inject "q" = 250', "", "E1005", "is declared as 250"),
        ('model wordlevel(vocab=300) inject "<zzz>" = 250', "", "E1005", "one of the 300 that are trained"),
        ('model wordlevel(vocab=300) inject "<zzz>" = 350', "", "E1005", "the next id is 300"),
        ('model wordlevel(vocab=300) process bert', "", "E1004", "no token `[SEP]`"),
    ],
)  # fmt: skip
def test_why_it_cannot_be_trained(stages: str, more: str, code: str, said: str, folder: Path) -> None:
    with pytest.raises(Diagnostic, match=code) as caught:
        train(loads_tokenizer(spec(stages, more), str(folder / "t.tess")))
    assert said in caught.value.message


def test_fewer_letters_may_be_asked_for(folder: Path) -> None:
    declared = loads_tokenizer(spec("split words model bpe(vocab=60)", ", limit_alphabet=20"), str(folder / "t.tess"))
    (folder / "t.json").write_bytes(train(declared))
    letters = [token for token in open_engine(declared).vocabulary() if len(token) == 1]
    assert len(letters) == 20


@pytest.mark.parametrize(
    ("stages", "said", "wrong", "right"),
    [
        ("split byte_level model bpe(vocab=257)", "257 tokens are fewer than the 256 bytes and 2 special tokens", "257", "258"),
        ("split byte_level model bpe(vocab=400) family [100, 400]", "100 tokens are fewer than the 256 bytes", "100", "258"),
        ("model bpe(vocab=400) round size(of=300)", "the vocabulary has 400 tokens, which is more than 300", "300", "400"),
        ('model bpe(vocab=400) round size(of=450) inject "x" = 450', "451 tokens, which is more than 450", "of=450", "of=451"),
        ('model bpe(vocab=400) inject "x" = 401', "the next id is 400", "401", "400"),
        ('model bpe(vocab=400) inject "x" = 400 inject "y" = 403 inject "z"', "the next id is 401", "403", "402"),
    ],
)  # fmt: skip
def test_what_no_corpus_could_mend_is_told_without_one(
    stages: str, said: str, wrong: str, right: str, tmp_path: Path
) -> None:
    with pytest.raises(Diagnostic, match="E1005") as caught:
        loads_tokenizer(spec(stages), str(tmp_path / "t.tess"))
    assert said in caught.value.message
    loads_tokenizer(spec(stages.replace(wrong, right)), str(tmp_path / "t.tess"))


def test_a_corpus_that_is_none(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.txt"
    outside.write_text("secret", encoding="utf-8")
    (folder / "corpus" / "link.txt").symlink_to(outside)
    declared = loads_tokenizer(spec("model bpe(vocab=300)"), str(folder / "t.tess"))
    with pytest.raises(Diagnostic, match="E0005"):
        train(declared)
    (folder / "corpus" / "link.txt").unlink()
    (folder / "corpus" / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(Diagnostic, match=r"E1007.*byte 0xe9 on line 1"):
        train(declared)
    for path in (folder / "corpus").iterdir():
        path.unlink()
    with pytest.raises(Diagnostic, match="E1010"):
        train(declared)
    with pytest.raises(Diagnostic, match="E1006"):
        open_engine(
            loads_tokenizer('tokenizer t { model bpe(vocab=300) train "corpus/*.txt" }', str(folder / "t.tess"))
        )


def test_members_of_a_family_have_the_first_ids_of_the_largest(folder: Path) -> None:
    text = spec("split byte_level decode byte_level model bpe(vocab=500) family [300, 400, 500]")
    (folder / "t.json").write_bytes(train(loads_tokenizer(text, str(folder / "t.tess"))))
    made = loads_tokenizer(text, str(folder / "t.tess"))
    largest = open_engine(made).vocabulary()
    for size in made.family:
        engine = open_engine(made, size)
        assert engine.vocabulary() == {text: number for text, number in largest.items() if number < size}
        assert engine.decode(engine.encode(["a model of tokens"]).ids) == [b" a model of tokens"]
    with pytest.raises(Diagnostic, match=r"E1005.*no member of 350 tokens"):
        open_engine(made, 350)
    alone = spec("split byte_level decode byte_level model bpe(vocab=300)").replace("t.json", "alone.json")
    (folder / "alone.json").write_bytes(train(loads_tokenizer(alone, str(folder / "t.tess"))))
    trained = open_engine(loads_tokenizer(alone, str(folder / "t.tess"))).vocabulary()
    assert open_engine(made, 300).vocabulary() == trained


def test_a_smallest_member_without_the_letters(folder: Path) -> None:
    text = spec('split words model bpe(vocab=400, unknown="[UNK]") family [20, 400]')
    with pytest.raises(Diagnostic, match=r"E1005.*20 tokens are fewer than the \d+ letters and 2 special tokens"):
        train(loads_tokenizer(text, str(folder / "t.tess")))
    # A file that was trained without the family.
    alone = text.replace("family [20, 400]", "")
    (folder / "t.json").write_bytes(train(loads_tokenizer(alone, str(folder / "t.tess"))))
    with pytest.raises(Diagnostic, match=r"E1005.*leave out the letter"):
        open_engine(loads_tokenizer(text, str(folder / "t.tess")), 20)


def test_what_is_required_is_measured_before_the_file_is_written(folder: Path) -> None:
    (folder / "held.txt").write_text("a model\n\nof tokens\r\n", encoding="utf-8")
    file = folder / "t.tess"
    clauses = 'split byte_level model bpe(vocab=400) truncate longest_first(length=3) measure "held.txt"'
    holds = 'require round_trip >= 0, "" require size <= 400, "" require tokens_per_word < 9, "" require unknown_share <= 0, ""'
    file.write_text(spec(f"{clauses} {holds}"), encoding="utf-8")
    path, found = train_tokenizer(file)
    assert path == folder / "t.json"
    assert found["size"] == 400
    own = Tokenizer.from_file(str(path))
    own.no_truncation()
    tokens = sum(len(own.encode(row).ids) for row in ("a model", "of tokens"))
    assert found["tokens_per_word"] == tokens / 4
    assert found["tokens_per_character"] == found["tokens_per_byte"] == tokens / 16
    before = path.read_bytes()
    file.write_text(spec(f'{clauses} require tokens_per_character < 0.01, "too many tokens"'), encoding="utf-8")
    with pytest.raises(Diagnostic, match=r"E1009.*too many tokens: `tokens_per_character` is"):
        train_tokenizer(file)
    assert path.read_bytes() == before
    file.write_text(spec(f'{clauses} require round_trip >= 1, "texts are lost"'), encoding="utf-8")
    with pytest.raises(Diagnostic, match="E1009") as caught:
        train_tokenizer(file)
    assert "the first that does not come back: 'a model' comes as '\u0120a" in caught.value.notes[0].message
    file.write_text(spec(f"{clauses}").replace('from "t.json"', 'from "t.json" (sha256="00")'), encoding="utf-8")
    with pytest.raises(Diagnostic, match="E1004"):
        train_tokenizer(file)
    file.write_text(spec(f"{clauses}").replace('from "t.json"', ""), encoding="utf-8")
    with pytest.raises(Diagnostic, match=r"E1010.*names no file"):
        train_tokenizer(file)
