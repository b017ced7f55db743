"""E06xx: weights."""

from . import Code

CODES = {
    "E0601": Code(
        "pickled weights are not loaded",
        "Files like pytorch_model.bin and model.pt are pickles: opening one runs whatever code is inside. Tessera\n"
        "reads safetensors, in which there is nothing but numbers. Most published models offer it beside the\n"
        "pickle.\n\n"
        "  wrong:  weights \"pytorch_model.bin\"\n"
        "  right:  weights \"model.safetensors\"",
    ),
    "E0602": Code(
        "this is not a safetensors file",
        "A safetensors file begins with the length of its header (8 bytes) and a JSON header that names each\n"
        "tensor. This one does not, or its header is malformed.\n\n"
        "  right:  safetensors.numpy.save_file(arrays, \"weights.safetensors\")",
    ),
    "E0603": Code(
        "the weights file is truncated",
        "The header promises more bytes than the file holds, as after an interrupted download.\n\n"
        "  right:  download or copy the file again, and compare its size with the original's",
    ),
    "E0604": Code(
        "the header of the weights file contradicts itself",
        "Tensors overlap, leave holes, or have another size than their shape and dtype say. Nothing in such a\n"
        "file can be trusted.\n\n"
        "  right:  download the file again, or write it anew with the safetensors library",
    ),
    "E0605": Code(
        "the weights have a dtype that Tessera does not have",
        "Tessera has f64 f32 f16 bf16 i64 i32 i16 i8 u8 bool. Tensors of other dtypes (8-bit floats, unsigned\n"
        "integers) may be in the file as long as the model does not use them.\n\n"
        "  right:  convert these tensors before saving: `w.to(torch.float16)`",
    ),
    "E0606": Code(
        "the weights do not fit the model",
        "Some parameters are missing from the file, or have another shape there. The notes list them, and the\n"
        "names in the file that the model does not use: often the same parameters under another name, which\n"
        "`weights` can map.\n\n"
        "  wrong:  weights \"bert.safetensors\"   # the file: bert.encoder…\n"
        "  right:  weights \"bert.safetensors\" { \"bert.*\" => \"*\" }",
    ),
    "E0607": Code(
        "a weight is of another kind of number",
        "Floats are converted to floats, and integers to wider integers, one tensor at a time; a float is never\n"
        "read as an integer, nor the other way round: such a file belongs to another model, or is quantised.\n\n"
        "  wrong:  param w: float[8, 8]      with an I8 tensor `w` in the file\n"
        "  right:  param w: i8[8, 8]         and an explicit `cast(w, f32) * scale`",
    ),
    "E0608": Code(
        "two tensors of the file get the same name",
        "After renaming, two tensors of the weights file are called alike, so that one of them would be lost.\n\n"
        "  wrong:  weights \"m.safetensors\" { \"a.*\" => \"*\", \"b.*\" => \"*\" }\n"
        "  right:  weights \"m.safetensors\" { \"a.*\" => \"*\", \"b.*\" => \"second.*\" }",
    ),
    "E0609": Code(
        "the rename pattern is malformed",
        "A `*` stands for one or more characters of the name; the stars on both sides correspond from left to\n"
        "right, so that there are equally many. The first pattern that fits a name is used, once.\n\n"
        "  wrong:  { \"layers.*.attn.*\" => \"blocks.*\" }\n"
        "  right:  { \"layers.*.attn.*\" => \"blocks.*.attention.*\" }",
    ),
    "E0610": Code(
        "the index of a sharded checkpoint cannot be used",
        "`model.safetensors.index.json` says in which file each tensor is. It is malformed, names a file outside\n"
        "of its own folder, or a tensor that is not in the file it names.\n\n"
        "  right:  keep all shards in the folder of the index",
    ),
    "E0611": Code(
        "the initialiser is not known",
        "A parameter can start as `zeros`, `ones`, `constant(v)`, `normal(std)`, `trunc_normal(std)`,\n"
        "`uniform(low, high)`, `xavier_uniform` or `kaiming_uniform`.\n\n"
        "  wrong:  param w: float[8, 8] = gauss(0.02)\n"
        "  right:  param w: float[8, 8] = normal(0.02)",
    ),
    "E0612": Code(
        "a parameter has no fixed size",
        "The shape of a parameter must be known when compiling. A size that the caller chooses (batch, tokens)\n"
        "cannot be in it.\n\n"
        "  wrong:  model m(x: float[B, T, 8]) -> float[B, T, 8] { param pos: float[T, 8]  return x + pos }\n"
        "  right:  model m(x: float[B, 128, 8]) -> float[B, 128, 8] { param pos: float[128, 8]  return x + pos }",
    ),
    "E0613": Code(
        "a recipe reads a tensor that the file does not have",
        "Names in a recipe are those of the file, after the renames.\n\n"
        "  wrong:  { \"model.*\" => \"*\"   \"qkv.weight\" = concat(\"model.q.weight\", \"model.k.weight\") }\n"
        "  right:  { \"model.*\" => \"*\"   \"qkv.weight\" = concat(\"q.weight\", \"k.weight\") }",
    ),
    "E0614": Code(
        "the recipe of a weight is malformed",
        "A recipe says what a parameter is made of: names of the file's tensors in quotes, slices, `+ * @`, and the\n"
        "functions concat, stack, split, transpose, reshape, repeat_interleave, pad, cast; or an initialiser with a shape.\n\n"
        "  wrong:  \"qkv.weight\" = join(\"q.weight\", \"k.weight\", \"v.weight\")\n"
        "  right:  \"qkv.weight\" = concat(\"q.weight\", \"k.weight\", \"v.weight\", axis=0)",
    ),
    "E0615": Code(
        "the tensors of a recipe do not fit together",
        "Sizes and dtypes are those of the file. What is joined must have one dtype, and one size along every other\n"
        "axis; arithmetic takes floats.\n\n"
        "  wrong:  concat(\"w.weight\", \"w.bias\")           # f32[64, 64] and f32[64]\n"
        "  right:  concat(\"w.weight\", reshape(\"w.bias\", [1, 64]))",
    ),
    "E0616": Code(
        "a parameter has two recipes",
        "Two recipes of the `weights` block fit one parameter, exactly or by a pattern.\n\n"
        "  wrong:  { \"blocks.*.w\" = transpose(\"h.*.w\")   \"blocks.0.w\" = \"first.w\" }\n"
        "  right:  { \"blocks.*.w\" = transpose(\"h.*.w\")   \"first.w\" = \"h.first\" }",
    ),
    "E0617": Code(
        "the pattern of a recipe does not fit",
        "The name on the left is a parameter of the model, or a pattern that some parameters fit. Each `*` stands for the\n"
        "same text on both sides, so that a name on the right has as many, or none. `{0..7}` stands for eight names, which\n"
        "`stack` and `concat` take.\n\n"
        "  wrong:  \"blocks.*.experts.w\" = \"layers.*.experts.{0..7}.w\"\n"
        "  right:  \"blocks.*.experts.w\" = stack(\"layers.*.experts.{0..7}.w\", axis=0)",
    ),
    "E0618": Code(
        "the memory of this machine does not hold that",
        "A parameter, a state or a random input that is to be filled takes more bytes than are free. Most often a size is\n"
        "mistyped. Parameters of a checkpoint are read one by one, and are not asked.\n\n"
        "  wrong:  -p classes=4000000000\n"
        "  right:  -p classes=4000",
    ),
}  # fmt: skip
