"""The structure of programs."""

from . import Code

CODES = {
    "E0501": Code(
        "a requirement does not hold",
        '`require condition, "message"` states what must hold. It is proved while compiling where that is possible, and\n'
        "checked when the sizes are known where it is not. Here it is known not to hold; the message says what was asked.",
    ),
    "E0502": Code(
        "a parameter is never used",
        "A weight that is loaded and then ignored is nearly always a mistake, such as a bias that was not added.\n"
        "    param bias: float[out] = zeros\n"
        "    return x @ w                      # wrong\n"
        "    return x @ w + bias               # right",
    ),
    "E0503": Code(
        "a definition depends on itself",
        "The language has no recursion: every program ends, and its size is known. Loops are `repeat` (unrolled while\n"
        "compiling), and `fold` and `while` (sequential, at run time, with a bound).",
    ),
    "E0504": Code(
        "a `return` is missing, or misplaced",
        "Every function ends with `return`. A `fold`, `while` or `cond` has no return of its own: the names\n"
        "that it carries hold the result.",
    ),
    "E0505": Code(
        "a static value is needed, but a tensor was given",
        "Static parameters, conditions of `if`, counts of `repeat`, shapes and lists must be known while compiling.\n"
        "A choice by a tensor is `where(condition, a, b)`, or `cond` by a scalar; a loop at run time is `fold`.",
    ),
    "E0507": Code(
        "a loop or a branch changes what it does not carry",
        "The body of `fold`, `cond` and `while` sees the names around it; behind it, only those that it carries have changed.\n"
        "    fold i in 3 from (x) { x = f(x)   total = total + x }            # wrong: `total` would be what it was\n"
        "    fold i in 3 from (x, total) { x = f(x)   total = total + x }     # right",
    ),
    "E0506": Code(
        "a tensor is needed, or may not be made here",
        "Operands before `*` are tensors. Parameters and states belong to layers and models, not to `fn` and `op`.",
    ),
    "E0508": Code(
        "keys are turned twice",
        "A rotary embedding turns a key by its position. Keys that carry their rotation, such as those of a cache into\n"
        "which turned keys were put or whose record says `rotated=true`, would stand at other positions turned again.\n"
        "    cache = append(cache, rope(k, cosine, sine), v)\n"
        "    y = attention(q, rope(cache.k, c, s), cache.v, seen)             # wrong\n"
        "    y = attention(q, cache.k, cache.v, seen)                         # right",
    ),
}
