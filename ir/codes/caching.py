"""E073x: passes over what a decoder remembers."""

from __future__ import annotations

from . import Code

CODES = {
    "E0731": Code(
        "no decoder that a cache can be given to",
        """`add_cache` takes one model that is given token ids [B, T], all of them at once, whose attentions are causal: what
a token's keys and values are then never changes, and can be kept. The number of tokens has to be free.

    wrong    y = attention(q, k, v)
    right    y = attention(q, k, v, causal=true)

Behind an import, `raise_composites` finds the attentions; padding masks and positions are told by names that hold `mask` and
`position`, and are computed from `lengths`.
""",
    ),
    "E0732": Code(
        "something that cannot go on from where it stopped",
        """A cache keeps keys and values. What else a token takes from tokens before it (a running sum, a convolution over
tokens, a mean of all) or from its place (a table that depends on how many tokens there are) has to be computed for
tokens that come later; where that cannot be done from their places alone, `add_cache` stops.

    wrong    x = x + mean(x, axis=1, keepdims=true)
    right    x = attention(q, k, v, causal=true)

A memory of another kind is a `state` that the model declares.
""",
    ),
}
