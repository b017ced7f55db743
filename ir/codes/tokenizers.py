"""E10xx: tokenizers."""

from . import Code

CODES = {
    "E1001": Code(
        "there is no such stage of a tokenizer",
        "Each clause of a tokenizer knows certain kinds: `normalize` bert, nfc, lowercase, …; `split` bert,\n"
        "byte_level, …; `model` bpe, unigram, wordpiece, wordlevel. What a tokenizer.json calls them is in\n"
        "docs/tokenizers.md.\n\n"
        "  wrong:  split ByteLevel\n"
        "  right:  split byte_level",
    ),
    "E1002": Code(
        "an option of a tokenizer does not fit",
        "The stage has no such option, it is of another kind or out of range, or one that it needs is\n"
        "missing.\n\n"
        "  wrong:  normalize bert(lower=true)\n"
        "  right:  normalize bert(lowercase=true)",
    ),
    "E1003": Code(
        "the file has no tables of a tokenizer that can be read",
        "The file of a tokenizer's tables is a `tokenizer.json`, as the package `tokenizers` writes it, a file of\n"
        "ranks (`.tiktoken`), or a model of SentencePiece (`.model`).\n"
        "Whatever it says that is not known here is refused, since it would be left out: the message names\n"
        "it.",
    ),
    "E1004": Code(
        "a tokenizer and its file differ",
        "A file alone says all stages. Where a declaration says them too, both must be the same: `tessera\n"
        "check` compares them, and the hash of the file if that is given. A token that a stage names must be\n"
        "in the vocabulary.\n\n"
        "  wrong:  normalize nfc                  # and the file has `bert`\n"
        "          from \"tokenizer.json\"\n"
        "  right:  from \"tokenizer.json\"",
    ),
    "E1005": Code(
        "tokens or ids do not fit together",
        "Each token has one id and each id one token; special tokens keep the ids that they are given,\n"
        "injected ones stand behind what is trained, and the members of a family are nested.\n\n"
        "  wrong:  special \"[PAD]\" = 0\n"
        "          special \"[CLS]\" = 0\n"
        "  right:  special \"[PAD]\" = 0\n"
        "          special \"[CLS]\" = 1",
    ),
    "E1006": Code(
        "a tokenizer has no tables yet",
        "Its vocabulary comes from a file, which training writes: `tessera tokenizer train spec.tess` trains\n"
        "what `train` names and writes what `from` names.\n\n"
        "  right:  model bpe(vocab=8192)\n"
        "          train \"corpus/*.txt\"\n"
        "          from \"tokenizer.json\"",
    ),
    "E1007": Code(
        "a text cannot be encoded",
        "Text is UTF-8: the message has the row and the byte where it is not. Or the model has no token for a\n"
        "character, and no unknown one.",
    ),
    "E1008": Code(
        "not an id of the vocabulary",
        "Ids go from 0 to the size of the vocabulary. Ids of another tokenizer mean other texts.",
    ),
    "E1009": Code(
        "a tokenizer does not do what it requires",
        "`require` compares a metric, measured on the files of `measure` or else those of the training, with a\n"
        "number. Training writes no file of a tokenizer that requires more than it does.\n\n"
        "  right:  measure \"held/*.txt\"\n"
        "          require tokens_per_character < 0.3, \"too many tokens\"",
    ),
    "E1010": Code(
        "a tokenizer cannot be trained",
        "There is no corpus, nothing says how many tokens are to be trained, or the corpus is too small for\n"
        "so many.\n\n"
        "  right:  model bpe(vocab=8192)\n"
        "          train \"corpus/*.txt\"",
    ),
    "E1011": Code(
        "ids of another vocabulary",
        "An input `ids: token[words, B, T]` holds ids of the tokenizer `words`; `token[30522, B, T]` ids of some vocabulary of\n"
        "30522. What they choose from has a row for each of them, and ids of two tokenizers do not come\n"
        "together. Followed is what keeps ids as they are: slices, `concat`, `where`.\n\n"
        "  wrong:  model m(ids: token[30522, B, T]) -> float[B, T, 64] { return embedding(ids, vocab=30000, dim=64) as e }\n"
        "  right:  model m(ids: token[30522, B, T]) -> float[B, T, 64] { return embedding(ids, vocab=30522, dim=64) as e }",
    ),
    "E1012": Code(
        "a tokenizer cannot stand in a model",
        "A tokenizer that is called in a model becomes tables and ops, so that the artifact takes bytes. That\n"
        "is possible where its stages are automata: what looks at single characters or at two neighbours, and\n"
        "longest pieces or whole words. The message names the stage that is none. Its engine still makes ids\n"
        "of texts, `ts.open_tokenizer`, which a model may take instead.\n\n"
        "  wrong:  tokenizer words { from \"unigram.json\" }\n"
        "          model m(text: u8[B, N], count: i64[B]) -> i64[B, 128] {\n"
        "              ids, tokens = words(text, count, length=128)\n"
        "  right:  model m(ids: i64[B, 128]) -> …",
    ),
    "E1013": Code(
        "a tokenizer in a model makes other ids than its engine",
        "Before an artifact is written, its tokenizers are compared with the engines of their files on hard\n"
        "texts, on texts of what their vocabularies have, and on bytes that are no UTF-8. The message has the\n"
        "first text that differs; nothing is written. Please report it.",
    ),
    "E1014": Code(
        "tokens of one tokenizer have no counterpart among those of another one",
        "`swap_tokenizer` makes the row of each new token of rows that there are. A special token stands for no\n"
        "text: it takes the row of one of the same text, or of the same use, and for others `special` says which.\n"
        "`transplant` compares tokens by vectors, one for each token of both tokenizers.\n\n"
        "  wrong:  pass swap_tokenizer(to=\"gpt2.json\", old=\"bert.json\")\n"
        "  right:  pass swap_tokenizer(to=\"gpt2.json\", old=\"bert.json\", special=[\"<|endoftext|>=[SEP]\"])",
    ),
    "E1015": Code(
        "an analyser cannot answer",
        "`word_share` and `pure_share` say which tokens are words of a language, or its roots and affixes, and\n"
        "an analyser knows these: `zeyrek` Turkish ones, `simplemma` words and their lemmas of some fifty\n"
        "languages, and a file those that it lists, with their roots and affixes. It is asked about the texts\n"
        "of tokens, so that a tokenizer must say how ids become text.\n\n"
        "  wrong:  measure \"held/*.txt\"\n"
        "          require word_share >= 0.5, \"tokens are words\"\n"
        "  right:  measure \"held/*.txt\" (analyser=\"simplemma\", language=\"tr\")\n"
        "          require word_share >= 0.5, \"tokens are words\"",
    ),
    "E1016": Code(
        "a program cannot become tokens, or be written again",
        "Programs are parsed by the grammars of tree-sitter, and their names become kinds and numbers from 0 to 1000. A language\n"
        "without a grammar, what the grammar cannot parse, and more names of a kind than there are numbers are refused. To write\n"
        "the program again takes its scope, which says what each name was.\n\n"
        "  wrong:  written(leaves, \"\")\n"
        "  right:  leaves, scope = named(source, \"c\")\n"
        "          written(leaves, scope)",
    ),
}  # fmt: skip
