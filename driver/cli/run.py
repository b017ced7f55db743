"""``run``: an artifact on real input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...ir.diagnostics import Diagnostic
from .common import SEED, columns, json_option, print_json, waiting
from .feeding import channels, pair, reading_options
from .measuring import parse_sizes

if TYPE_CHECKING:
    import numpy as np

    from ...runtime.inputs import Options
    from ...runtime.runner import Runner


@click.command()
@click.argument("artifact")
@click.option(
    "-i", "--input", "inputs", multiple=True, metavar="NAME=FILE",
    help="An image, .npy, .npz or .txt file, or the number of a scalar. Several files of one name become a batch.",
)  # fmt: skip
@click.option("--save", metavar="OUT.npz", help="Save all outputs.")
@click.option("--save-map", metavar="OUT.png", help="Draw which patches of the image merged (compile with --map).")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    metavar="K",
    help="Print the K largest entries of each row of the first output.",
)
@click.option("--labels", metavar="FILE", help="Names for --top, one a line.")
@reading_options
@click.option("--lines", is_flag=True, help="Every line of a .txt file is a text of its own.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="For the model's random inputs.")
@click.option("--size", "sizes", metavar="C=4096", help="Sizes that no input tells: the capacities of states.")
@click.option("--entry", metavar="NAME", help="Of a program's folder: the entry point to run.")
@click.option("--flow", metavar="NAME", help="Of a program's folder: the flow to run; it may call host stages.")
@click.option(
    "--allow-host", is_flag=True, help="Import and run the Python functions that the flow's host stages name."
)
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Of a pipeline: so many texts at a time, by their lengths.")
@json_option
def run(
    artifact: str, inputs: tuple[str, ...], save: str | None, save_map: str | None, top: int | None, labels: str | None,
    fit: str, mean: str | None, std: str | None, tokenizer: str | None, max_length: int | None, lines: bool, seed: int,
    sizes: str | None, entry: str | None, flow: str | None, allow_host: bool, batch: int | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Run a compiled model on files.

    Prints, saves or draws what comes out.

    Images are RGB, scaled to 0…1, then normalised with --mean and --std.
    """
    import time

    from ...runtime.files.aside import check_writable
    from ...runtime.inputs import Options, read_inputs
    from ..programs import open_part

    for out in (save, save_map):
        if out is not None:
            check_writable(out)
    if entry is not None and flow is not None:
        raise Diagnostic("E0011", f"`--entry {entry}` and `--flow {flow}` are two things to run", help="give one of them")
    names = _labels(labels)
    with waiting("loading") as progress:
        progress("loading the artifact", None, None)
        runner = open_part(artifact, entry, flow, allow_host, batch)
        options = Options(
            fit, channels("--mean", mean), channels("--std", std), tokenizer, max_length, lines, runner.metadata,
            Path(artifact).parent,
        )  # fmt: skip
        if save_map is not None:
            _check_map(runner)
        pairs = [pair(text, [spec.name for spec in runner.inputs]) for text in inputs]
        arrays = read_inputs(runner.inputs, pairs, options)
        progress("running", None, None)
        start = time.perf_counter()
        outputs = runner(arrays, seed=seed, sizes=parse_sizes(sizes))
        seconds = time.perf_counter() - start
    written: list[str] = []
    if save is not None:
        _save(save, outputs)
        written.append(save)
    if save_map is not None:
        written += _draw(save_map, runner, pairs, outputs, options)
    if as_json:
        print_json({**_summary(outputs, top, names, seconds), "written": written})
    else:
        _print(outputs, top, names, seconds, written)


def _labels(file: str | None) -> list[str]:
    if file is None:
        return []
    from ...frontends.source.syntax.parser import read_source

    return read_source(file).splitlines()


def _save(path: str, outputs: Mapping[str, np.ndarray]) -> None:
    import numpy as np

    from ...runtime.files.aside import written_aside

    with written_aside(path) as aside, aside.open("wb") as stream:
        # bfloat16 is not a dtype that .npz files can name.
        arrays: dict[str, Any] = {
            k: v.astype("float32") if v.dtype.name == "bfloat16" else v.astype(str) if _is_text(v) else v
            for k, v in outputs.items()
        }  # fmt: skip
        np.savez(stream, **arrays)


# Maps ------------------------------------------------------------------------------------------------------------------


def _map_outputs(outputs: Sequence[str]) -> list[str]:
    return [name for name in outputs if name.startswith("token_source")]


def _check_map(runner: Runner) -> None:
    """Refuse early. Raises E0925."""
    from ...runtime.images import is_image

    if not _map_outputs(runner.outputs):
        raise Diagnostic(
            "E0925", "the artifact does not say where its tokens went",
            help="compile it with merge_tokens and its map: tessera compile SPEC --pass 'merge_tokens(r=8)' --map",
        )  # fmt: skip
    if len(runner.inputs) != 1 or not is_image(runner.inputs[0]):
        raise Diagnostic("E0925", "a map can be drawn for a model with one image input")


def _draw(
    path: str, runner: Runner, pairs: list[tuple[str, str]], outputs: Mapping[str, np.ndarray], options: Options
) -> list[str]:
    """One picture for each image of the batch: ``map.png``, or ``map-0.png``, ``map-1.png``, …; the names of the files."""
    import numpy as np

    from ...runtime.files.aside import written_aside
    from ...runtime.images import fitted, image_size, open_image
    from ...runtime.inputs import IMAGES
    from ..report.picture import draw_map

    source = outputs[_map_outputs(list(outputs))[-1]]
    files = [file for _, file in pairs]
    if not all(Path(f).suffix.lower() in IMAGES for f in files):
        raise Diagnostic("E0925", "a map is drawn onto an image, but the input is not one", help="give an image file")
    height, width = image_size(runner.inputs[0])
    written = []
    for i, file in enumerate(files):
        image = np.asarray(fitted(open_image(file), height, width, options.fit, file))
        name = Path(path)
        target = name if len(files) == 1 else name.with_name(f"{name.stem}-{i}{name.suffix}")
        picture = draw_map(image, source[i])
        with written_aside(target) as aside:
            picture.save(aside, format="PNG")
        written.append(str(target))
    return written


# Printing --------------------------------------------------------------------------------------------------------------


def _summary(outputs: Mapping[str, np.ndarray], top: int | None, names: list[str], seconds: float) -> dict[str, Any]:
    rows = {
        name: {"dtype": "text", "shape": list(a.shape), "texts": a.tolist()} if _is_text(a)
        else {"dtype": str(a.dtype), "shape": list(a.shape), **_statistics(a)}
        for name, a in outputs.items()
    }  # fmt: skip
    result: dict[str, Any] = {"seconds": round(seconds, 4), "outputs": rows}
    if top is not None:
        result["top"] = _top(_numbers(outputs), top, names)
    return result


def _is_text(array: np.ndarray) -> bool:
    return array.dtype == object


def _statistics(array: np.ndarray) -> dict[str, float]:
    if not array.size:
        return {}
    values = array.astype("float64")
    return {"min": float(values.min()), "max": float(values.max()), "mean": float(values.mean())}


def _numbers(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The first output that is no text. Raises E0011 where there is none."""
    found = next((array for array in outputs.values() if not _is_text(array)), None)
    if found is None:
        raise Diagnostic("E0011", "`--top` shows the largest numbers of an output, and all outputs are texts")
    return found


def _top(array: np.ndarray, count: int, names: list[str]) -> list[list[dict[str, Any]]]:
    """The largest entries along the last axis, ties to the lowest index, for each row."""
    import numpy as np

    if array.ndim == 0:
        array = array.reshape(1)
    rows = array.reshape(-1, array.shape[-1]).astype("float64")
    order = np.argsort(-rows, axis=1, kind="stable")[:, :count]
    return [
        [{"index": int(i), "value": float(row[i]), **({"label": names[i]} if i < len(names) else {})} for i in best]
        for row, best in zip(rows, order, strict=True)
    ]


def _print(
    outputs: Mapping[str, np.ndarray], top: int | None, names: list[str], seconds: float, written: list[str]
) -> None:
    table = []
    for name, array in outputs.items():
        if _is_text(array):
            table += [[name, f"text{list(array.shape)}", repr(text)] for text in array.flat]
            continue
        statistics = "  ".join(f"{k} {v:.4g}" for k, v in _statistics(array).items())
        table.append([name, f"{array.dtype}{list(array.shape)}", statistics])
    click.echo(columns(table))
    if top is not None:
        for row, best in enumerate(_top(_numbers(outputs), top, names)):
            click.echo(f"row {row}")
            click.echo(
                columns(
                    [[b["index"], f"{b['value']:.4f}", b.get("label", "")] for b in best], right=(0, 1), indent="  "
                )
            )
    for file in written:
        click.echo(f"wrote {file}")
    click.echo(f"{seconds * 1000:.1f} ms")
