"""E052x: programs of several entry points."""

from . import Code

CODES = {
    "E0520": Code(
        "one entry point is needed, and the program has several",
        "A program may hold several functions over one set of weights. What works on one graph (a report, a backend, a run)\n"
        "has to be told on which.\n\n"
        "  wrong:  program.graph\n"
        "  right:  program.functions[\"prefill\"], or program.only(\"prefill\") for a program of that one",
    ),
    "E0521": Code(
        "the program has no entry point of that name",
        "The entry points of a program are the names behind `entry` in its declaration; a model alone has one, by its own name.\n\n"
        "    program chat {\n"
        "        entry prefill = decoder()\n"
        "    }\n\n"
        "  wrong:  program.only(\"decoder\")\n"
        "  right:  program.only(\"prefill\")",
    ),
    "E0522": Code(
        "two entry points disagree about what they share",
        "Parameters of one full name, and states of one name, are one tensor in all entry points of a program: their types and\n"
        "initial values must be equal. Two things that only happen to have one name get different scopes.\n\n"
        "  wrong:  model a(…) { param w: float[8] … }   model b(…) { param w: float[16] … }\n"
        "  right:  y = linear(x, out=8) as a_head       # in the one model, and `as b_head` in the other",
    ),
    "E0523": Code(
        "nothing calls a host stage",
        "A host stage does something only where a flow calls it; one that no flow calls is left over or misspelt.\n\n"
        "    host sample = \"mine.sampling:greedy\"(logits: float[B, V]) -> i64[B, 1]\n"
        "    flow answer(ids: i64[B, T]) -> i64[B, 1] {\n"
        "        return sample(prefill(ids))\n"
        "    }",
    ),
    "E0524": Code(
        "a flow holds something other than calls",
        "A flow says in which order entry points, host stages and other flows are called, and who gets whose results. Arithmetic,\n"
        "slices, `repeat` and parameters belong into a model, where backends and passes see them. What is called over and over\n"
        "stands in `fold` or `while`.\n\n"
        "  wrong:  flow f(ids: i64[B, T]) -> … { return sample(prefill(ids) * 0.5) }\n"
        "  right:  flow f(ids: i64[B, T]) -> … { return sample(prefill(ids)) }     # and `* 0.5` in the model",
    ),
    "E0525": Code(
        "a host stage names no function",
        "A host stage is a Python function by its name: the module, a colon, and the function in it. The name is text until\n"
        "somebody runs the stage and allows it; reading or compiling a program never imports what it names.\n\n"
        "  wrong:  host sample = \"mine/sampling.py\"(…) -> …\n"
        "  right:  host sample = \"mine.sampling:greedy\"(…) -> …",
    ),
    "E0526": Code(
        "a pass changed what entry points share, or hand on to each other",
        "The entry points of a program share what has one name: a parameter or state that a pass gives another type or initial\n"
        "value has to change in all of them. A pass that does so on purpose runs without `entry`, on every entry point. What an\n"
        "entry point hands on in a flow must still be what the next step takes: fewer tokens may not be.",
    ),
    "E0527": Code(
        "the target writes one entry point",
        "A program of several entry points becomes a folder: one file a function, and the weights once. Not every target can\n"
        "share weights between files.\n\n"
        "  wrong:  tessera compile chat.tess --target mlir\n"
        "  right:  tessera compile chat.tess --target onnx -o chat",
    ),
    "E0528": Code(
        "a file of a compiled program is another one",
        "The manifest of a compiled program has the hash of each of its files. One that is missing, was changed, or comes from\n"
        "another program is refused before anything is read from it; `genai_config.json` alone may be edited.\n\n"
        "  wrong:  cp other/encoder.onnx embed/\n"
        "  right:  tessera compile embed.tess --target onnx -o embed.zip",
    ),
}  # fmt: skip
