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
}  # fmt: skip
