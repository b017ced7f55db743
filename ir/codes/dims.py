"""Dimensions, ranks, dtypes and the types of declarations."""

from . import Code

CODES = {
    "E0301": Code(
        "a tensor has the wrong number of axes",
        "An operand's type has as many axes as the tensor must have; `...` stands for any number of leading ones.\n"
        "    fn f(x: float[B, T, D]) -> float[B, T, D] { … }\n"
        "    f(x[:, 0])                        # wrong: an index takes the axis away, float[B, D]\n"
        "    f(x[:, 0:1])                      # right: a slice keeps it, float[B, 1, D]",
    ),
    "E0302": Code(
        "two dimensions should be equal, and are not",
        "A name such as B is bound by the first operand that shows it; every other place must then have the same size. Two\n"
        "different symbols are different sizes, even if they happen to be equal at run time. The notes say where each was bound.\n"
        '    einsum("b t d, o d -> b t o", x, w)    # wrong, when x is [B, T, 8] and w is [4, 9]: d is 8 and 9\n'
        "    param w: float[4, 8]                   # right",
    ),
    "E0303": Code(
        "a tensor has the wrong dtype",
        "`float`, `int`, `num` and `any` each stand for one dtype throughout a signature; nothing is converted silently.\n"
        "    x + ids                           # wrong, when x is f32 and ids is i64\n"
        "    x + cast(ids, f32)                # right\n"
        "A number written in the source takes the dtype of the tensor beside it, so `x * 2` is fine; `ids * 0.5` is not.",
    ),
    "E0304": Code(
        "two shapes do not broadcast",
        "Only an axis of size 1 gives way. Two different sizes, or two different symbols, never do: adding [B, T, 8] to\n"
        "[B, S, 8] is a mistake even where T and S are equal today.\n"
        "    x + weight[:, 0]                  # wrong: [B, T, 8] + [T]\n"
        "    x + unsqueeze(weight, axis=1)     # right: [B, T, 8] + [T, 1]",
    ),
    "E0305": Code(
        "an axis does not exist",
        "Axes count from 0, negative ones from the back: a tensor of rank 3 has 0, 1, 2 and -3, -2, -1.\n"
        "    sum(x, axis=2)                    # wrong, when x is [B, 8]\n"
        "    sum(x, axis=1)                    # right, and so is axis=-1",
    ),
    "E0306": Code(
        "more elements are asked for than there are",
        "A slice, a top-k, a padding or a convolution reaches outside the axis for every size that it may have. Slices do not\n"
        "clip silently.\n"
        "    topk(scores, k=6)                 # wrong, when scores is [B, 5]\n"
        "    topk(scores, k=min(6, N))         # right, with N the dimension",
    ),
    "E0307": Code(
        "the elements do not fit the new shape",
        "Reshaping and rearranging keep every element: the sizes must multiply to the same number, for every size that a symbol\n"
        "may have.\n"
        '    rearrange(x, "b t (h k) -> b h t k", h=3)    # wrong, when the axis is 10\n'
        '    rearrange(x, "b t (h k) -> b h t k", h=5)    # right: h is 5 and k is 2',
    ),
    "E0308": Code(
        "a body does not fit what is carried through it",
        "A `fold` runs the same body every time, so a carried value keeps its type; the function of a `scan` takes two of what it\n"
        "combines, and returns one. A `while` asks one `bool[]`, and so does a `cond`, whose branches give the same types.\n"
        "    fold i in 3 from (y) { y = concat(y, x, axis=1) }     # wrong: y grows\n"
        "    repeat i in 3 { y = concat(y, x, axis=1) }            # right: unrolled, every step has its own type",
    ),
    "E0311": Code(
        "a capacity has the name of another size",
        "A size that only states have is chosen by whoever runs the program (`artifact.session(sizes={\"C\": 4096})`), and is one\n"
        "size in the whole program. A size that inputs have follows from what is given.\n"
        "    layer memory(x: float[B, 8]) -> float[B, 8] { state seen: f32[T, 8] … }   # wrong where an input is [B, T]\n"
        "    layer memory(x: float[B, 8]) -> float[B, 8] { state seen: f32[C, 8] … }   # right: a name of its own",
    ),
    "E0309": Code(
        "what is returned is not what was declared",
        "The type after `->` is a promise to the callers: the returned values must have that number, those dtypes and shapes.\n"
        "    model m(x: float[B, T, 8]) -> float[B, T, 8] { return x[:, 0] }    # wrong: that is float[B, 8]\n"
        "    model m(x: float[B, T, 8]) -> float[B, 8] { return x[:, 0] }       # right",
    ),
    "E0310": Code(
        "a tensor or record type is not well formed",
        "A tensor type has brackets with one integer expression an axis, `...` at most once (and not in a model's inputs); a\n"
        "record type has one dimension for each that the record declares, and its fields use no others.\n"
        "    record Pair[B] { first: f32[B, T] }       # wrong: T is nobody's\n"
        "    record Pair[B, T] { first: f32[B, T] }    # right",
    ),
}
