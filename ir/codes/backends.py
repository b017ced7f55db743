"""E08xx: backends."""

from . import Code

CODES = {
    "E0801": Code(
        "the ONNX opset is not supported",
        "Tessera writes opsets 18 to 24. Older ones lack ops that token selection needs; newer ones are expanded by ONNX\n"
        "Runtime into many small ops, several times slower.\n\n"
        "  wrong:  target onnx(opset=26)\n"
        "  right:  target onnx(opset=24)",
    ),
    "E0802": Code(
        "ONNX cannot compute this dtype",
        "The ONNX op that the expression becomes takes other dtypes only, and none that holds all of these values.\n\n"
        "  right:  cast(x, f32) before it, and cast(y, …) behind it",
    ),
    "E0803": Code(
        "a size cannot be computed when running",
        "A size that is needed as a number (in `full`, `topk`, `expand` …) must follow from the shapes of the inputs.\n\n"
        "  wrong:  model m(x: float[B * T]) -> …        # which of 12 = 3 * 4 = 2 * 6?\n"
        "  right:  model m(x: float[B, T]) -> …",
    ),
    "E0804": Code(
        "the model is too large for one ONNX file",
        "An ONNX file is a protocol buffer, which ends at 2 GiB. Larger weights go into a second file beside it.\n\n"
        "  right:  tessera compile llama.tess -o llama.onnx     # writes llama.onnx and llama.onnx.data",
    ),
    "E0805": Code(
        "onnx.checker refuses the model",
        "Every artifact is checked before it is written. This should never happen: it is a bug in Tessera, not in the program.",
    ),
    "E0807": Code(
        "no inputs to compare the artifact on",
        "Verification draws sizes and values at random, and solves for sizes where no drawn ones fit. None were found for which\n"
        "all `require`s hold and no axis is negative, or an input takes values that cannot be guessed. The note says what stands\n"
        "against the sizes that come closest.\n\n"
        "  wrong:  require T * T == 3, \"…\"       # which no size meets\n"
        "  right:  require T % 8 == 0, \"…\"       # at `--size T=12` refused as well, with a size that the model takes\n\n"
        "`tessera compile --no-verify` skips the comparison.",
    ),
    "E0809": Code(
        "the artifact differs from the reference",
        "Before an artifact is written it is compared with the torch reference on random inputs at two sizes. An output differed\n"
        "by more than rounding explains, or an index differed at all. Nothing was written. `--no-verify` skips the comparison.",
    ),
    "E0810": Code(
        "an early output sees a later token",
        "A model that predicts the next token looks at no later one. Before it is written, what passes that change values made\n"
        "of such a model is tried: late tokens are changed, and what it gives for those before must stay as it is. It did not,\n"
        "so that the model would read the future. Reduce tokens where every one sees all others, or only pick some.\n\n"
        "  wrong:  an approximate pass of your own that adds the mean of all tokens to each, in a causal model\n"
        "  right:  pass merge_tokens(r=8)                   # which leaves causal blocks as they are",
    ),
    "E0811": Code(
        "ONNX Runtime's own op cannot compute these experts",
        "`target onnx(moe=contrib)` writes `com.microsoft.MoE`, which weighs experts by a softmax, and knows few activations.\n"
        "Without it, which is the default, mixtures of experts are standard ops that compute every one.\n\n"
        '  wrong:  token_choice(logits, k=2, score="none")     # weights may be negative\n'
        '  right:  token_choice(logits, k=2, score="sigmoid")',
    ),
    "E0812": Code(
        "onnxruntime-genai cannot run this",
        "`target onnx(form=genai)` writes what onnxruntime-genai reads beside the entry points of a program: its configuration\n"
        "and a tokenizer. It runs an entry point that is given keys and values and returns them, and reads tokenizers of byte\n"
        "pairs.\n\n"
        "  wrong:  tessera compile llama.tess --pass add_cache --form genai -o talk\n"
        "  right:  tessera compile llama.tess --pass 'add_cache(past=shared)' --form genai -o talk",
    ),
}  # fmt: skip
