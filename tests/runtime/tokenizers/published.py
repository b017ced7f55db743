"""Tokenizers in the forms of published families, trained small on the documentation of this repository."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = Path(__file__).parents[3]
FAMILIES: dict[str, Callable[[], Tokenizer]] = {}
GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = GPT4.replace(r"\p{N}{1,3}", r"\p{N}")


@cache
def corpus() -> list[str]:
    return [
        line
        for path in sorted((ROOT / "docs").glob("*.md"))
        for line in path.read_text(encoding="utf-8").splitlines(True)
    ]


def family(make: Callable[[], Tokenizer]) -> Callable[[], Tokenizer]:
    FAMILIES[make.__name__] = make
    return make


def trained(own: Tokenizer, trainer: Any) -> Tokenizer:
    own.train_from_iterator(corpus(), trainer)
    return own


def bpe(own: Tokenizer, special: list[Any], size: int = 600, **options: Any) -> Tokenizer:
    letters = pre_tokenizers.ByteLevel.alphabet()
    return trained(
        own,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=special, initial_alphabet=letters, show_progress=False, **options
        ),
    )


def around(own: Tokenizer, single: str, pair: str, *tokens: str) -> None:
    own.post_processor = processors.TemplateProcessing(single, pair, [(t, own.token_to_id(t)) for t in tokens])


def _bert(lowercase: bool) -> Tokenizer:
    own = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    own.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    own.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    own.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trained(own, trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False))
    around(own, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", "[CLS]", "[SEP]")
    return own


@family
def bert_cased() -> Tokenizer:
    return _bert(False)


@family
def bert_uncased() -> Tokenizer:
    own = _bert(True)
    own.enable_truncation(24)
    own.enable_padding(pad_to_multiple_of=8)
    return own


@family
def gpt2() -> Tokenizer:
    own = Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    own.post_processor = processors.ByteLevel(trim_offsets=False)
    return bpe(own, ["<|endoftext|>"])


@family
def roberta() -> Tokenizer:
    own = Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    bpe(own, ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)])
    own.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return own


def _split_of_bytes(pattern: str, special: list[Any], normalizer: Any = None) -> Tokenizer:
    own = Tokenizer(models.BPE(ignore_merges=normalizer is None))
    own.normalizer = normalizer
    own.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    own.decoder = decoders.ByteLevel()
    return bpe(own, special)


@family
def llama3() -> Tokenizer:
    special = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        *(f"<|reserved_special_token_{i}|>" for i in range(20)),
        "<|eot_id|>",
    ]
    own = _split_of_bytes(GPT4, special)
    template = processors.TemplateProcessing(
        "<|begin_of_text|> $A", "<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", [("<|begin_of_text|>", 0)]
    )
    own.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), template])
    return own


@family
def qwen2() -> Tokenizer:
    own = _split_of_bytes(QWEN, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], normalizers.NFC())
    own.post_processor = processors.ByteLevel(trim_offsets=False, use_regex=False, add_prefix_space=False)
    return own


def _pieces(normalizer: Any, splitter: Any, special: list[Any], **options: Any) -> Tokenizer:
    """BPE as SentencePiece trains it, bytes for what it has not seen."""
    own = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    own.normalizer, own.pre_tokenizer = normalizer, splitter
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    return trained(
        own, trainers.BpeTrainer(vocab_size=800, special_tokens=[*special, *bytes_], show_progress=False, **options)
    )


def _as_text(own: Tokenizer, special: list[str]) -> Tokenizer:
    """The same with only ``special`` as special tokens: bytes are ordinary ones."""
    import json

    whole = json.loads(own.to_str())
    whole["added_tokens"] = [row for row in whole["added_tokens"] if row["content"] in special]
    return Tokenizer.from_str(json.dumps(whole))


@family
def llama2() -> Tokenizer:
    spaces = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    own = _as_text(_pieces(spaces, None, ["<unk>", "<s>", "</s>"], max_token_length=16), ["<unk>", "<s>", "</s>"])
    own.decoder = decoders.Sequence([
        decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    around(own, "<s> $A", "<s> $A <s>:1 $B:1", "<s>")
    return own


@family
def gemma() -> Tokenizer:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    own = _pieces(
        normalizers.Replace(" ", "\u2581"),
        pre_tokenizers.Split(" ", "merged_with_previous"),
        special,
        max_token_length=16,
    )
    own = _as_text(own, special)
    own.add_tokens([AddedToken("\n" * n, normalized=False) for n in range(2, 10)] + ["<table>", "<td>"])
    own.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    around(own, "<bos> $A", "<bos> $A <bos>:1 $B:1", "<bos>")
    return own


@cache
def charsmap() -> str:
    """The character map that SentencePiece makes for ``nmt_nfkc``."""
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()[:500]), model_writer=out, vocab_size=200, hard_vocab_limit=False, minloglevel=2
    )
    return base64.b64encode(_field(_field(out.getvalue(), 3), 2)).decode()


def _field(message: bytes, number: int) -> bytes:
    """The first field of bytes of that number in a protocol buffer."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 2:
            size = varint()
            at += size
            if key >> 3 == number:
                return message[at - size : at]
        elif key & 7 == 0:
            varint()
        else:
            at += {1: 8, 5: 4}[key & 7]
    raise KeyError(number)


def _precompiled() -> Any:
    return normalizers.Precompiled(base64.b64decode(charsmap()))


def _unigram(normalizer: Any, splitter: Any, special: list[Any], unknown: str) -> Tokenizer:
    own = Tokenizer(models.Unigram())
    own.normalizer, own.pre_tokenizer = normalizer, splitter
    own.decoder = decoders.Metaspace()
    return trained(
        own, trainers.UnigramTrainer(vocab_size=700, special_tokens=special, unk_token=unknown, show_progress=False)
    )


@family
def t5() -> Tokenizer:
    special = ["<pad>", "</s>", "<unk>", *(f"<extra_id_{i}>" for i in range(10))]
    splitter = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    own = _unigram(_precompiled(), splitter, special, "<unk>")
    around(own, "$A </s>", "$A </s> $B </s>", "</s>")
    return own


@family
def xlm_r() -> Tokenizer:
    special = ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)]
    splitter = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    own = _unigram(_precompiled(), splitter, special, "<unk>")
    around(own, "<s> $A </s>", "<s> $A </s> </s> $B </s>", "<s>", "</s>")
    return own


@family
def deberta_v3() -> Tokenizer:
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    cleaned = normalizers.Sequence([normalizers.Strip(), _precompiled(), normalizers.Replace(Regex(" {2,}"), " ")])
    own = _unigram(cleaned, pre_tokenizers.Metaspace(), special, "[UNK]")
    around(own, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", "[CLS]", "[SEP]")
    return own


@family
def clip() -> Tokenizer:
    own = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    own.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    own.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])  # fmt: skip
    own.decoder = decoders.BPEDecoder("</w>")
    bpe(own, ["<|startoftext|>", AddedToken("<|endoftext|>", normalized=True, special=True)], end_of_word_suffix="</w>")
    own.post_processor = processors.RobertaProcessing(("<|endoftext|>", 1), ("<|startoftext|>", 0), False, False)
    return own


@family
def whisper() -> Tokenizer:
    own = gpt2()
    own.add_special_tokens(["<|startoftranscript|>", "<|en|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>"])
    own.add_tokens([AddedToken(f"<|{i / 50:.2f}|>", normalized=False) for i in range(40)])
    around(
        own, "<|startoftranscript|> <|notimestamps|> $A <|endoftext|>",
        "<|startoftranscript|> <|notimestamps|> $A $B:1 <|endoftext|>:1",
        "<|startoftranscript|>", "<|notimestamps|>", "<|endoftext|>",
    )  # fmt: skip
    return own


@family
def word_level() -> Tokenizer:
    own = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    own.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Nmt()])
    own.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.UnicodeScripts(), pre_tokenizers.FixedLength(12),
    ])  # fmt: skip
    own.decoder = decoders.CTC()
    return trained(own, trainers.WordLevelTrainer(vocab_size=600, special_tokens=["[UNK]"], show_progress=False))


@cache
def files() -> dict[str, bytes]:
    """The ``tokenizer.json`` of each family."""
    return {name: make().to_str().encode() for name, make in FAMILIES.items()}


HARD = (
    "", " ", "\n", "\t\t", "a", "hello world", "e\u0301\u0301\u0301 n\u0303", "\ufeffBOM", "don't  we've   12345 67.89",
    "\u202eright to left \u05e9\u05dc\u05d5\u05dd", "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 family",
    "\ud55c\uad6d\uc5b4 \u4e2d\u6587 \u65e5\u672c\u8a9e", "\u0130stanbul I\u0131", "stra\u00dfe \ufb01 \u2460", "x" * 2000,
    "\u00ad\u200b\u0000\u0007", "".join(map(chr, range(256))), "<s>[CLS]<|endoftext|> <mask> <td>",
    "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22", "\u0915\u094d\u0937", "a\u2581b \u2581\u2581", "\r\n\r\n  x",
    "\U0010ffff\U000e0001",
)  # fmt: skip
BLOCKS = (
    (0x20, 0x7F), (0xA0, 0x250), (0x370, 0x530), (0x590, 0x700), (0x900, 0xE80), (0x1100, 0x1200), (0x2000, 0x2C00),
    (0x3040, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A4), (0xFB00, 0xFFFE), (0x1F300, 0x1FAFF), (0x10000, 0x10FFFF),
)  # fmt: skip


def texts(count: int, seed: int = 0) -> Iterator[str]:
    """So many varied texts: hard cases, lines of the documentation and of sources, characters of all of Unicode."""
    import random

    rng = random.Random(seed)
    lines = [
        *corpus(),
        *(line for p in sorted((ROOT / "ir").glob("*.py")) for line in p.read_text(encoding="utf-8").splitlines()),
    ]
    yield from HARD[:count]
    for number in range(count - len(HARD)):
        if number % 2:
            yield rng.choice(lines)
        else:
            low, high = rng.choice(BLOCKS)
            drawn = (chr(rng.randrange(low, high)) for _ in range(rng.randrange(1, 30)))
            yield "".join(char if rng.random() < 0.7 else rng.choice(" a\u0301e,1\n") for char in drawn)
