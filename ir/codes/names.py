"""Names: what is declared, where, and what it is called."""

from . import Code

CODES = {
    "E0201": Code(
        "a name is not defined",
        "Nothing of that name is a variable, a declaration of this file, something a `use` line brings in, or built in.\n"
        "    x = layer_nrom(x)                 # wrong\n"
        "    use std.nn (layer_norm)           # right: bring it in, and spell it so\n"
        "    x = layer_norm(x)",
    ),
    "E0202": Code(
        "a module does not have what `use` asks for",
        "`use std.nn (linear)` needs the module std.nn and, in it, a declaration called linear.\n"
        "`tessera specs` lists the shipped modules, `tessera specs std.nn` what one declares.",
    ),
    "E0203": Code(
        "a record has no such field",
        "A record has the fields of its declaration; a tensor has only dtype, shape and rank.\n"
        "    map.sizes                         # wrong\n"
        "    map.size                          # right",
    ),
    "E0204": Code(
        "a name is declared twice",
        "Within one file (with what it brings in), one signature or the outputs of one model, a name stands for one thing.\n"
        "Bring one of two equal names in under another: `use std.nn (mlp as feed_forward)`.",
    ),
    "E0205": Code(
        "a built-in name is used for something else",
        "Core ops, dtypes and static functions keep their meaning everywhere, so that a reader may trust them.\n"
        "    sum = a + b                       # wrong: `sum` is a reduction\n"
        "    total = a + b                     # right",
    ),
    "E0206": Code(
        "two parameters have one name",
        "Two layers that own parameters need scopes of their own, or their weights could not be told apart.\n"
        "    x = linear(linear(x, out=8), out=4)                       # wrong: `weight` twice\n"
        "    x = linear(linear(x, out=8) as first, out=4) as second    # right: first.weight, second.weight\n\n"
        "Where the weights are meant to be shared, the layer is given a scope first, and called then; its calls must agree about\n"
        "the types of its weights, and it may hold no state and no random input.\n"
        "    shared = linear(out=8) as shared\n"
        "    x = shared(shared(x))                                     # right: shared.weight, once",
    ),
    "E0207": Code(
        "which model?",
        "A file with several models, none of its own name, and no single `compile` block, needs to be told which:\n"
        "    tessera compile models.tess --model NAME",
    ),
    "E0208": Code(
        "something that is not a function is called",
        "Only functions (fn, op, layer, model), records, core ops and static functions can be called.\n"
        "    y = x(2)                          # wrong, when x is a tensor\n"
        "    y = x * 2                         # right",
    ),
    "E0209": Code(
        "a type is not known",
        "Element types are float, int, num, any (variables) and f64 f32 f16 bf16 i64 i32 i16 i8 u8 bool; then there are records.\n"
        "A tensor type always has brackets: `f32[]` is a scalar. Static types (int, real, str, …) stand after `*`.",
    ),
}
