"""E0751-E0779: reading ONNX files."""

from . import Code

CODES = {
    "E0751": Code(
        "this is not an ONNX file, or it is damaged",
        "An ONNX file is one protocol buffer message with a graph in it. This one ends too early, holds bytes that are\n"
        "no such message, or has no graph: as after an interrupted download, or for a git-lfs pointer.\n\n"
        "  right:  download or export the file again; `onnx.checker.check_model(path)` says whether it is whole",
    ),
    "E0752": Code(
        "the model uses ops that the importer does not have",
        "Every such op is listed with how often it occurs and its first node, so that one look shows what is missing.\n"
        "Ops of other domains than ONNX's own are imported when the model carries a function that defines them.\n\n"
        "  right:  export without that op, or with `torch.onnx.export(..., dynamo=True)`, which inlines more",
    ),
    "E0753": Code(
        "the opset is not one that the importer reads",
        "Opsets 7 to 28 are read, but for a few ops that had another form long ago, such as Upsample. Ops may change again.\n\n"
        "  wrong:  opset_import: \"\" version 6\n"
        "  right:  onnx.version_converter.convert_version(model, 17)",
    ),
    "E0754": Code(
        "the graph of the ONNX file is malformed",
        "Nodes must form no cycle, each name must be produced once, everything that is read must be produced by a node,\n"
        "an initializer or an input, and there must be outputs.\n\n"
        "  right:  export the model again; `onnx.checker.check_model(path)` names such mistakes too",
    ),
    "E0755": Code(
        "a tensor in the ONNX file contradicts itself",
        "Its shape and dtype ask for another number of bytes than there are.\n\n"
        "  right:  export or download the model again, together with its external data",
    ),
    "E0756": Code(
        "external data cannot be used",
        "A large model keeps its weights in files beside it. Such a file is missing, or lies outside of the model's own\n"
        "folder (`../`, an absolute path, a link that leads out), which no model needs and an attacker might want.\n\n"
        "  wrong:  external_data: location \"../other/weights.bin\"\n"
        "  right:  external_data: location \"model.onnx.data\"",
    ),
    "E0757": Code(
        "a type in the ONNX file has no counterpart",
        "Tessera has tensors of f64 f32 f16 bf16 i64 i32 i16 i8 u8 bool with a known number of axes: no strings,\n"
        "sequences, optional values, complex numbers or sparse tensors.\n\n"
        "  right:  export the part of the model between tokenizer and post-processing",
    ),
    "E0758": Code(
        "an ONNX op is used in a way that the importer does not have",
        "The op itself is known, but not with these attributes or inputs.\n\n"
        "  wrong:  Resize with coordinate_transformation_mode=\"tf_crop_and_resize\"\n"
        "  right:  Resize with \"half_pixel\"",
    ),
    "E0759": Code(
        "the operands of an ONNX node do not fit",
        "The shapes, dtypes or attributes contradict each other. Sizes that a graph leaves free are taken as equal where\n"
        "they must be; this one cannot be.\n\n"
        "  right:  fix free sizes when loading: `load(\"vit.onnx\", sizes={\"height\": 224, \"width\": 224})`",
    ),
    "E0760": Code(
        "this control flow cannot be imported",
        "An `If` is resolved when its condition follows from the sizes or is constant; a `Loop` becomes a `fold` when it\n"
        "runs a known number of times over values of fixed type and collects none.\n\n"
        "  right:  export with the branch decided, as `torch.onnx.export(..., dynamo=True)` does",
    ),
    "E0761": Code(
        "a size depends on the data",
        "Tessera's shapes follow from the shapes of the inputs. Here a shape, an axis, a slice bound or a count comes from\n"
        "the values of a tensor. The rows that `NonZero`, `Compress` or `NonMaxSuppression` find stand in a capacity,\n"
        "with a count, and are followed as far as what is computed of them leaves out the rows that do not count.\n\n"
        "  right:  give the size as a number when exporting, or mark what is absent with a mask",
    ),
    "E0762": Code(
        "the ONNX file expands beyond all measure",
        "Functions that call functions, or a claim of sizes out of proportion to the file, would fill the memory.\n\n"
        "  right:  a file from an exporter: none comes near the limit",
    ),
}  # fmt: skip
