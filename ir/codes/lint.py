"""Warnings: what is legal and probably wrong. `# allow: W0103` on the line, or on the line above, takes one back."""

from . import Code

CODES = {
    "W0101": Code(
        "a name is brought in and never used",
        "A `use` line lists what the file needs; what it does not need only slows readers down.",
    ),
    "W0102": Code(
        "a parameter is never used",
        "A value that is passed and ignored is rarely meant. What only gives a size, or begins with `_`, is fine.",
    ),
    "W0103": Code(
        "a value is computed and never used",
        "The line has no effect: perhaps a later one should read the name, or spells it otherwise.\n"
        "    y = gelu(x)\n"
        "    return x                          # wrong, if y was meant",
    ),
    "W0104": Code(
        "a name hides a declaration",
        "From here on the name means the value, and the function, record or constant of the file cannot be reached.",
    ),
    "W0105": Code(
        "a size is nearly called as another",
        "A size that only a result or a state names is a new one. Where it is nearly spelt as a known size, that one was meant.",
    ),
    "W0106": Code(
        "a condition is always the same",
        "Of an `if` with such a condition one branch is never reached; such a `require` says nothing.",
    ),
    "W0107": Code(
        "reals are compared for equality",
        "Reals are rounded, on every backend in its own way. 0.0 and inf are exact, and may be compared.",
    ),
}
