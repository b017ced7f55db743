"""E07xx: passes and rewrites."""

from __future__ import annotations

from . import Code

CODES = {
    "E0701": Code(
        "unknown pass",
        """A `pass` line, `--pass`, or `tessera.apply` names a pass that does not exist. `tessera passes` lists them.

    wrong    pass merge_token(r=8)
    right    pass merge_tokens(r=8)
""",
    ),
    "E0702": Code(
        "unknown option of a pass",
        """A pass takes the options that `tessera passes NAME` lists, and no others.

    wrong    pass merge_tokens(R=8)
    right    pass merge_tokens(r=8)
""",
    ),
    "E0703": Code(
        "an option of a pass has the wrong type",
        """Every option has a type: an integer, a real, a list, one of a few words. A bare word is a string.

    wrong    pass merge_tokens(r="8")
    right    pass merge_tokens(r=8)
    right    pass merge_tokens(r=[8, 8, 4, 4])
""",
    ),
    "E0704": Code(
        "an option of a pass is out of range",
        """The type is right, but the value is not one that the pass can use.

    wrong    pass merge_tokens(keep=1.5)
    right    pass merge_tokens(keep=0.5)
""",
    ),
    "E0705": Code(
        "options of a pass that do not go together",
        """Two options say the same thing in different ways, or one only makes sense beside another.

    wrong    pass merge_tokens(r=8, keep=0.5)
    right    pass merge_tokens(keep=0.5)
""",
    ),
    "E0706": Code(
        "a pass broke down",
        """A bug in the pass, not in your program: an exception that nobody foresaw, or a result that breaks the rules of
the intermediate representation. The message names the pass and those that ran before it. Leave the pass out to go on,
and report it with the program.
""",
    ),
    "E0707": Code(
        "no block whose tokens can be merged",
        """`merge_tokens` works on blocks that attend to themselves: a call of `std.attention.attention` whose queries, keys
and values come from the same tokens, followed by the residual addition `x = x + …` with x: float[B, T, D]. The note
names the place that came closest, and what it lacked.

    wrong    s = softmax(einsum("b h t k, b h s k -> b h t s", q, k))   x = x + einsum("b h t s, b h s v -> …", s, v)
    right    x = x + self_attention(layer_norm(x), heads=12)
""",
    ),
    "E0708": Code(
        "tokens of causal attention cannot be merged",
        """In causal attention a token sees only those before it. A merged token stands for several places at once, so that
an early place would see a late one: the model would read the future. Whatever says so counts: the flag `causal`, a mask or a
bias, which are computed for it, whatever they are made of; so does a prefix that all see while what follows is causal. Causal
blocks are left out where others can merge, and the report names them; it is an error where `blocks` names one, or none is left.
Merge in models that see all tokens at once (encoders), or drop tokens instead of merging them (`prune_tokens`), which keeps the
others in their order.

Where it cannot be told, because the mask of pairs of places is an input or made of a file's numbers, no block is merged unless
`blocks` names it.

    wrong    model m(x: float[B, T, 64], seen: bool[B, 1, T, T])      pass merge_tokens(r=8)
    right    pass merge_tokens(r=8, blocks=[0, 1])                    # nobody gives this model a causal mask
""",
    ),
    "E0709": Code(
        "more tokens to merge than there are",
        """Each merge pairs tokens of one half with tokens of the other, so that one block can remove at most
`(T - protect) // 2` of T tokens; what another method may remove is said by its `require`s. A constant `r` is cut to that, as
published; a list says what it means, so that an entry which is too large is an error, and so does `keep`, which is reached by
removing more in earlier blocks, or refused when all blocks together cannot.

    wrong    pass merge_tokens(r=[120, 120])      # 197 tokens: at most 98, then at most 38
    right    pass merge_tokens(r=[80, 40])
""",
    ),
    "E0710": Code(
        "something that belongs to token places cannot follow a merge",
        """After a merge, tokens no longer lie in their old places. Masks of padding, rotary tables, position biases
[.., T, T] and other values of places follow by the token map, and a mean over tokens becomes a mean weighted by size. What was
computed from pairs of tokens before the merge, picks a token by its place, or mixes neighbours (a convolution, a running sum)
cannot follow.

    wrong    x[:, 3] after the merged blocks
    right    pass merge_tokens(r=8, restore=true)      # every token gets its merged value back first
    right    pass merge_tokens(r=8, protect=1)         # x[:, 0] is the class token, which stays first (the default here)
    right    pass merge_tokens(r=8, blocks=[6, 7, 8])  # only the blocks behind it
""",
    ),
    "E0711": Code(
        "unknown rewrite rule",
        """`rewrite(rules=[…])` names a rule that no file declares.

    right    rewrite exact double_negation(x: float[...]) { neg(neg(x)) => x }
             pass rewrite(rules=[double_negation])
""",
    ),
    "E0712": Code(
        "rewrite rules that never come to rest",
        """Rules are applied until none fires. These fire on their own results without end: `a + b => b + a` alone, or two
rules that undo one another. Give a rule a `where` that its own result fails.
""",
    ),
    "E0713": Code(
        "a rewrite rule changes the type",
        """What a rule puts in the place of a match must be a tensor with the dtype and shape of what it replaces, since the
readers stay.

    wrong    rewrite exact r(x: float[B, T]) { exp(x) => sum(x, axis=1) }
""",
    ),
    "E0714": Code(
        "no such composite in the model",
        """`inline(only=[…])` and `inline(keep=[…])` name composites that the model uses, by name or qualified name
(`gelu`, `std.nn.gelu`).
""",
    ),
    "E0716": Code(
        "an op that cannot reduce tokens",
        """A method of `merge_tokens` or `prune_tokens` is an op whose signature is the contract: the features and the token
map come first, then what it asks for (`keys`, `queries`, `tokens`, `column_mass`, `row`, `norms`, `noise`, `text` and others, which
docs/passes.md names), then `r`, how many tokens leave, or `k`, how many stay; it returns the features and the map of those that
are left.

    wrong    op score(x: float[B, T, D], *, r: int) -> float[B, T - r, D] { … }
    right    op score(x: float[B, T, D], map: TokenMap[B, N, T], norms: float[B, T], *, r: int)
                 -> (float[B, T - r, D], TokenMap[B, N, T - r]) { … }
""",
    ),
    "E0720": Code(
        "no mixture of experts to change",
        """The passes on mixtures of experts work on what `std.moe` makes of one: logits of a linear map, `token_choice` or another
op that returns `Routes`, and an op that takes them with the experts' weights. Weights that several mixtures share stay as they are.
Behind an import, `raise_composites` finds them; of a dense model, `upcycle` makes them.

    wrong    pass add_null_experts(m=8, k=4)                   # in a dense model
    right    pass upcycle(experts=8, k=2)
             pass add_null_experts(m=8, k=4)
""",
    ),
    "E0721": Code(
        "a router that such experts do not go with",
        """Not every change of the experts goes with every router: null experts lie in none of the groups that a router chooses
among, experts leave groups in equal numbers, and an op that renumbers experts does so for the number that there were.

    wrong    pass add_null_experts(m=4)                        # token_choice(…, groups=4, limit=2)
    right    pass swap_router(groups=1)
             pass add_null_experts(m=4)
""",
    ),
    "E0722": Code(
        "a feed-forward block that cannot become experts",
        """`upcycle` makes experts of two linear maps with an activation between them, or of a gated unit of three, whose weights
are parameters. A split deals the neurons out to experts of one size, so that their number must divide the width.

    wrong    pass upcycle(experts=5, method=split)             # of 3072 neurons
    right    pass upcycle(experts=4, method=split)
""",
    ),
    "E0723": Code(
        "a file that does not say what was measured of experts",
        """`scores` names a JSON file with an object for each mixture, by its name, and in it a list of numbers, one an expert:
`load`, how many pairs of tokens each had, `saliency`, how much each added, `similarity`, a list a pair of experts.

    right    {"layers.0.mlp": {"load": [12, 3, 40, 9], "saliency": [0.4, 0.1, 0.9, 0.3]}}
""",
    ),
    "E0724": Code(
        "parameter tokens that cannot grow",
        """`grow` appends keys of zeros to `std.nn.parameter_attention`, which add nothing as long as the scale stays what it was:
it is a buffer, and the scores go through GeLU. Under a softmax every token takes part, and a scale that is computed from the
number of tokens is another one afterwards.

    wrong    parameter_attention(x, keys, values, tau, form="softmax")        pass grow(times=2)
    right    parameter_attention(x, keys, values, tau)                        pass grow(times=2)
""",
    ),
    "E0725": Code(
        "a model whose tokenizer cannot be swapped",
        """`swap_tokenizer` makes new rows of one embedding, which ids that are an input choose from, and of what scores tokens. It
finds the embedding by its size, that of the old tokenizer. Ids that the model also compares or computes with mean something
else to it than places in a table, and would mean another thing afterwards.

    wrong    model m(ids: i64[B, T]) -> … { mask = ids != 0 … }
    right    model m(ids: i64[B, T], mask: bool[B, T]) -> …
""",
    ),
}
