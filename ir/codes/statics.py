"""Arguments: static parameters, their kinds, and how many tensors a call takes."""

from . import Code

CODES = {
    "E0401": Code(
        "a static parameter is missing",
        "A parameter after `*` without a default must be given by the caller.\n"
        "    linear(x)                         # wrong\n"
        "    linear(x, out=8)                  # right\n"
        "For a model's own parameters: `tessera compile m.tess -p depth=6`, or a default in its declaration.",
    ),
    "E0402": Code(
        "a static value is of the wrong kind",
        "Static parameters have the kinds int, real, bool, str, list, fn and dtype; static arithmetic works on numbers. A\n"
        "dimension is an int, which may be known only at run time: then it can size an axis, but not a real.\n"
        '    linear(x, out="8")                # wrong\n'
        "    linear(x, out=8)                  # right",
    ),
    "E0403": Code(
        "there is no static parameter of that name",
        "The callee declares its static parameters after `*`; `tessera specs std.nn` and `tessera ops` list them.\n"
        "    layer_norm(x, epsilon=1e-5)       # wrong\n"
        "    layer_norm(x, eps=1e-5)           # right",
    ),
    "E0404": Code(
        "the number of tensors, or of results, is wrong",
        "Every tensor parameter without `?` needs an argument; all results of a call are named, in order.\n"
        "    values = sort(x)                  # wrong: there are two results\n"
        "    values, indices = sort(x)         # right",
    ),
    "E0405": Code(
        "a static value does not say anything",
        "The value has the right kind, but no meaning here: a pattern that names an axis twice, a ragged list, a stride of 0, a\n"
        "shape with a word in it, an unknown initialiser.\n"
        '    rearrange(x, "b t d -> b d")      # wrong: where does t go?\n'
        '    rearrange(x, "b t d -> b d t")    # right',
    ),
    "E0406": Code(
        "an argument is given twice",
        "Each parameter takes one value, by position or by name.\n"
        "    topk(x, k=3, k=4)                 # wrong\n"
        "    topk(x, k=4)                      # right",
    ),
    "E0407": Code(
        "a condition is not known when compiling",
        "`if` chooses what is built, so its condition must be a static truth value. A choice by tensors, or by a size that\n"
        "only run time knows, is made element by element.\n"
        "    if x > 0 { y = x } else { y = 0.0 * x }    # wrong, when x is a tensor\n"
        "    y = where(x > 0, x, 0.0)                   # right",
    ),
    "E0408": Code(
        "a program would be too large",
        "`repeat` builds what is in it anew for every step. So many steps, or all of them together, make more nodes than any\n"
        "model has: 100,000 steps of one `repeat`, 4,000,000 nodes. Most often a number is mistyped. A loop whose steps share\n"
        "what they do is a `fold` or a `scan`, which are built once.\n"
        "    repeat i in 100000000 as blocks { … }      # wrong\n"
        "    y = fold i in n from (x) { … }             # right, of any number of steps",
    ),
}
