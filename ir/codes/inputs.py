"""E092x: what is read for `run`: images, arrays, text."""

from . import Code

CODES = {
    "E0920": Code(
        "the input file cannot be used",
        "`run` reads images (.png .jpg .jpeg .bmp .webp .tif), arrays (.npy .npz, without pickled objects) and "
        "text (.txt). "
        "The file is of another kind, is truncated, or lies about its own size.\n\n"
        "  wrong:  tessera run vit.onnx --input image=cat.gif.part\n"
        "  right:  tessera run vit.onnx --input image=cat.png",
    ),
    "E0921": Code(
        "the image has another size than the model",
        "The model was compiled for one image size. Tessera does not change your picture unless you say how:\n"
        "`--fit resize` scales both sides, `--fit crop` scales the shorter side and cuts the middle out.\n\n"
        "  wrong:  tessera run vit.onnx --input image=photo_640x480.png\n"
        "  right:  tessera run vit.onnx --input image=photo_640x480.png --fit crop",
    ),
    "E0922": Code(
        "an input holds NaN",
        "Not-a-number has no order, so that token selection would depend on the backend. The message names the first "
        "place.\n\n"
        "  right:  x = np.nan_to_num(x)",
    ),
    "E0923": Code(
        "the input does not take a file of that kind",
        "An image needs an input `[B, 3, H, W]` or `[B, H, W, 3]` (or one channel); text needs token ids, "
        "`i64[B, T]`.\n\n"
        "  wrong:  tessera run bert.onnx --input input_ids=cat.png\n"
        "  right:  tessera run bert.onnx --input input_ids=page.txt",
    ),
    "E0924": Code(
        "no usable tokenizer",
        "A .txt input becomes token ids through a `tokenizer.json`. It is looked for where `--tokenizer` says, "
        "else beside "
        "the artifact.\n\n"
        "  right:  tessera run bert.onnx --input input_ids=page.txt --tokenizer model/tokenizer.json",
    ),
    "E0925": Code(
        "there is no token map to draw",
        "`--save-map` draws which patches merged into which, or stand for dropped ones. It needs an artifact of a model with "
        "one image input, compiled "
        "with `merge_tokens` or `prune_tokens` and its map exposed.\n\n"
        "  right:  tessera compile vit_s16 --pass 'merge_tokens(r=13)' --map -o vit.onnx\n"
        "          tessera run vit.onnx --input image=photo.png --fit crop --save-map map.png",
    ),
}
