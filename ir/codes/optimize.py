"""E093x and E094x: models brought along, `optimize`, `bench` and their measuring."""

from . import Code

CODES = {
    "E0930": Code(
        "this is not a model that can be read",
        "`optimize` takes an .onnx file, a Hugging Face folder of a family in the zoo, a .tess spec or the name of a shipped\n"
        "one, or torch-dialect MLIR text. PyTorch's .pt, .pth, .bin and .pt2 files are pickles, or hold some: opening one\n"
        "runs whatever code is in it, so that Tessera never does.\n\n"
        "  wrong:  tessera optimize model.pt\n"
        "  right:  torch.onnx.export(model, args, 'model.onnx', dynamo=True), then tessera optimize model.onnx",
    ),
    "E0931": Code(
        "the configuration of the folder cannot be used",
        "A Hugging Face folder needs a `config.json` with `model_type`, `architectures` and the sizes of the model. The\n"
        "message says what is missing.\n\n"
        "  right:  model.save_pretrained(folder) writes one",
    ),
    "E0932": Code(
        "the zoo has no such model",
        "A folder loads straight into a spec when the zoo has its family (`model_type`) and its head (`architectures`).\n"
        "`tessera specs` lists the families; others go through ONNX.\n\n"
        "  right:  tessera optimize model.onnx",
    ),
    "E0933": Code(
        "the configuration asks for something that the spec does not compute",
        "Another activation, scaled rotary positions, a sliding window: the spec would load such a checkpoint and compute\n"
        "something else. The message names the field.\n\n"
        "  right:  export the model to ONNX and optimize the .onnx file",
    ),
    "E0934": Code(
        "the calibration data cannot be used",
        "`--calib` takes an .npz with an array for each input, an .npy for a model with one input, a folder of images, or a\n"
        ".txt file with a text on each line and `--tokenizer`. The first axis counts examples.\n\n"
        "  right:  np.savez('calib.npz', input_ids=ids, attention_mask=mask)",
    ),
    "E0935": Code(
        "a size is missing, or the model does not take it",
        "Timing needs a size for every free dimension. What is not given is chosen: 1 for the batch, 128 for tokens.\n\n"
        "  wrong:  tessera bench vit.onnx --size Q=8\n"
        "  right:  tessera bench vit.onnx --size B=8",
    ),
    "E0936": Code(
        "the artifacts do not take the same inputs",
        "`bench` gives every artifact the same arrays, by name or, where names differ, in order. Their number, dtypes and\n"
        "ranks must agree.\n\n"
        "  right:  compare artifacts of one model",
    ),
    "E0937": Code(
        "ONNX Runtime's quantizer cannot quantize this model",
        "`--int8` hands the artifact to onnxruntime.quantization. The message is its own.\n\n"
        "  right:  leave --int8 out, or quantize a model of f32",
    ),
    "E0938": Code(
        "a measurement failed",
        "Peak memory is measured in a process of its own, which did not come back: it ran out of memory, or was ended.\n\n"
        "  right:  a smaller batch with --size, or --no-memory",
    ),
    "E0939": Code(
        "what was read from the file does not compute what the file does",
        "`optimize` runs an ONNX file beside what it read from it, on the same inputs at two sizes, before any pass that changes\n"
        "values. They differ: an importer made a mistake, and nothing that follows from it would be worth having. No file is\n"
        "written.\n\n"
        "  right:  report it with the file; until then, an export with another opset or exporter may be read rightly",
    ),
    "E0940": Code(
        "integer products of a quantized model would become float products",
        "What a file computes in integers (MatMulInteger, QLinearMatMul, ConvInteger, QDQ around products) is written as the same\n"
        "ops again. Some uses have no such form here (zeros for each row, convolutions along one axis): the file that is written\n"
        "would be several times slower.\n\n"
        "  wrong:  a product whose first factor has a zero for each row\n"
        "  right:  tessera optimize model.onnx --int8",
    ),
    "E0941": Code(
        "no schedule keeps to the budget",
        "`optimize --budget` tried schedules of the allowed methods, and none costs as little, or keeps as much of the output, as\n"
        "was asked. Measurements are kept: another budget goes on from them.\n\n"
        "  wrong:  tessera optimize minilm.onnx --calib texts.txt --budget flops=0.01x\n"
        "  right:  tessera optimize minilm.onnx --calib texts.txt --budget flops=0.7x",
    ),
    "E0942": Code(
        "a search can compare no output",
        "The method takes tokens away that every float output of the model has a row for, so that nothing is left to compare.\n\n"
        "  right:  tessera optimize minilm.onnx --calib texts.txt --budget flops=0.7x --pass 'merge_tokens(restore=true)'",
    ),
}  # fmt: skip
