"""E090x: calling a model."""

from . import Code

CODES = {
    "E0901": Code(
        "the inputs given are not those of the model",
        "An input is missing, unknown, or given twice. States and random inputs may be left out: they start from\n"
        "their initialiser and are drawn from the seed.\n\n"
        "  wrong:  model(img=x)\n"
        "  right:  model(image=x)",
    ),
    "E0902": Code(
        "an input has the wrong shape",
        "The number of axes or a size is not what the model declares; the notes say which input gave\n"
        "each size its value.\n\n"
        "  wrong:  model(x=zeros(2, 5, 8), mask=zeros(2, 4))   # x: float[B, T, 8], mask: float[B, T]\n"
        "  right:  model(x=zeros(2, 5, 8), mask=zeros(2, 5))",
    ),
    "E0903": Code(
        "an input has the wrong dtype",
        "Inputs are not converted behind your back: a model of f16 takes f16.\n\n"
        "  wrong:  model(ids=torch.zeros(1, 8))\n"
        "  right:  model(ids=torch.zeros(1, 8, dtype=torch.int64))",
    ),
    "E0904": Code(
        "a requirement does not hold for these sizes",
        "The model states a condition on its sizes, or selects and slices in a way that needs one, which could not\n"
        "be proved for every size when it was compiled. The sizes of this call violate it.\n\n"
        "  wrong:  merging 16 tokens of an image of 4 patches\n"
        "  right:  a smaller `r`, or a larger input",
    ),
    "E0905": Code(
        "an integer is no place of the table that it indexes",
        "Token ids and other indices count from 0, up to the length of the table but not including it. A host stage that gives -1\n"
        "for *nothing* would pick the last row on one backend, and fail on another.\n\n"
        "  wrong:  model(ids=[[5, -1]])\n"
        "  right:  model(ids=[[5, 0]], valid=[[True, False]])",
    ),
    "E0906": Code(
        "a cache has no room for what a call writes",
        "A call writes its tokens behind those that the cache holds, padding too: the length of each row and the tokens of\n"
        "the call together are at most the capacity, or the last slots would be overwritten. What counts them, such as\n"
        "`lengths`, is from 0 to the number of tokens of the call. Nothing was written: the session goes on as it was.\n\n"
        "  wrong:  run = chat.session(sizes={\"C\": 4}); run.prefill(…)   # 4 tokens; then run.decode(…)\n"
        "  right:  run = chat.session(sizes={\"C\": 64}); run.prefill(…)",
    ),
    "E0907": Code(
        "a size cannot be told from the inputs",
        "Each size is read off an axis of an input. Here a size occurs only inside expressions from\n"
        "which it does not follow.\n\n"
        "  wrong:  model m(x: float[B, H * W]) -> float[B, H, W] { return reshape(x, [B, H, W]) }\n"
        "  right:  model m(x: float[B, H, W]) -> float[B, H * W] { return reshape(x, [B, H * W]) }",
    ),
    "E0913": Code(
        "a host stage was not allowed to run",
        "A program names Python functions for what runs on the host. Opening, compiling and explaining a file never imports\n"
        "them: whoever runs a flow hands the functions over, or says that the names may be imported.\n\n"
        "  wrong:  chat.run(\"answer\", {\"ids\": ids})\n"
        "  right:  chat.run(\"answer\", {\"ids\": ids}, host={\"sample\": greedy})",
    ),
    "E0914": Code(
        "a host stage failed",
        "Its function cannot be found under the name that the program has for it, it raised an exception, or it gave other\n"
        "tensors than it declares: their number, dtypes and sizes are checked at every call.\n\n"
        "    host sample = \"mine.sampling:greedy\"(logits: float[B, V]) -> i64[B, 1]\n"
        "    def greedy(logits): return logits.argmax(-1, keepdims=True)     # in mine/sampling.py",
    ),
    "E0915": Code(
        "spans of tokens do not fit",
        "Tokens that become one are side by side: spans are counted from 0 in the order of the text, none is empty, a special\n"
        "token is a span of its own, and there are no more of them than the model takes.\n\n"
        "  wrong:  spans = [0, 1, 0, 2]\n"
        "  right:  spans = [0, 1, 1, 2]",
    ),
}  # fmt: skip
