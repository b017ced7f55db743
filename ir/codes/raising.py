"""E0715 to E0724: recovering composites from primitives."""

from __future__ import annotations

from . import Code

CODES = {
    "E0715": Code(
        "no composite was recognised",
        """`raise_composites` looks for what exporters make of attention, norms and activations: a softmax of a product of
queries and transposed keys times values, a division by a root of a mean of squares, an error function or a sigmoid times its own
argument. A model in which it finds none of them either has none, or writes them in a form that no rule knows. The
notes name the place that came closest and what it lacked; `tessera show FILE --why RULE` says the same of one rule.

    nearest   softmax(tanh(q @ transpose(k, perm=[0, 1, 3, 2]))) @ v     # a tanh that no rule takes in
    found     softmax(q @ transpose(k, perm=[0, 1, 3, 2]) * 0.125 + bias) @ v
""",
    ),
}
