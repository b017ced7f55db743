"""What ``tessera view`` shows: the program of whatever file it is given, and a run of it in which every reduction tells its map and
every router what it chose.

seen = see(Path("fast.onnx"))
ran = seen.run([("image", "cat.png")])
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends.mlir.target import Mlir
from ..backends.onnx.stored import stored
from ..backends.onnx.target import Onnx
from ..backends.target import registry
from ..ir.compiling import PassSpec
from ..ir.diagnostics import Diagnostic
from ..runtime.files.aside import Scratch
from ..runtime.images import fitted, image_size, is_image, open_image
from ..runtime.inputs import IMAGES, Options, read_inputs
from ..runtime.text import FIELDS, load_tokenizer
from ..runtime.weights.open import open_weights
from .compile import apply_passes
from .compile import compile as drive
from .read import IMPORTED, raising, read_model
from .report import expert_scores, routers
from .report.became import words_of
from .report.fates import Step, traced
from .report.routers import Rows
from .report.view import Shown
from .targets import READERS, artifact_target

if TYPE_CHECKING:
    import numpy as np

    from ..ir.graph import Module
    from ..runtime.inputs import InputSpec


@dataclass(frozen=True)
class Run:
    """What became of the tokens of one input, and what routers did; ``sizes`` are those it was run at."""

    steps: Sequence[Step] = ()
    shown: Sequence[Shown] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    routers: Rows = field(default_factory=list)


@dataclass(frozen=True)
class Seen:
    """A program to look at.

    Args:
        weights: as ``compile`` takes them; None: its own, or initial ones.
        metadata: of the artifact it was read from.
        beside: where a tokenizer may lie.
    """

    module: Module
    weights: Any
    metadata: Mapping[str, str]
    beside: Path | None

    def run(self, pairs: Sequence[tuple[str, str]], how: Options | None = None) -> Run:
        """Run it on files, the first of a batch.

        Raises:
            Diagnostic: E0925 when no token leaves and none is routed, or when what it takes is neither an image nor text; what
                reading and running raise.
        """
        how = self._how(how)
        module, steps = traced(self.module)
        rows = routers.mixtures(module.graph)
        if not steps and not rows:
            raise Diagnostic(
                "E0925", "nothing becomes of the tokens: the program has no reduction in it",
                help="add one: `--pass 'merge_tokens(r=8)'`; of an artifact, one that was compiled with it",
            )  # fmt: skip
        specs, arrays, outputs, sizes = self._made(routers.traced(module), pairs, how)
        shown = [_shown(specs, pairs[0][0] or specs[0].name, pairs[0][1], arrays, outputs, how)]
        symbols = self.module.graph.symbols()
        own = {s: size for s, size in sizes.items() if s in symbols}
        return Run(steps, shown, own, routers.counted(rows, [outputs]))

    def routed(self, pairs: Sequence[tuple[str, str]], how: Options | None = None) -> Rows:
        """What the routers do with an input of any kind.

        Raises:
            Diagnostic: E0925 when there is no router; what reading and running raise.
        """
        rows = routers.mixtures(self.module.graph)
        if not rows:
            raise Diagnostic(
                "E0925", "nothing is routed: the program has no mixture of experts in it",
                help="an input is for seeing what routers do with it; `tessera run` gives what the model makes of it",
            )  # fmt: skip
        outputs = self._made(routers.traced(self.module), pairs, self._how(how))[2]
        return routers.counted(rows, [outputs])

    def scored(self, pairs: Sequence[tuple[str, str]], how: Options | None = None) -> dict[str, dict[str, Any]]:
        """What the experts do with an input, as the passes on experts read it. Raises what reading and running raise."""
        outputs = self._made(expert_scores.scored(self.module), pairs, self._how(how))[2]
        return expert_scores.expert_scores(self.module, lambda batch: batch, [outputs])

    def _how(self, how: Options | None) -> Options:
        return how or Options(metadata=self.metadata, beside=self.beside)

    def _made(
        self, module: Module, pairs: Sequence[tuple[str, str]], how: Options
    ) -> tuple[Sequence[InputSpec], Mapping[str, np.ndarray], Mapping[str, np.ndarray], Mapping[str, int]]:
        """What a form of the program takes, what it was given, what it gave, and the sizes."""
        with Scratch() as folder:
            file = Path(folder, f"seen{Onnx.suffix}")
            made = drive(module, target=Onnx.name, weights=self.weights, passes=[], verify=False, output=file)
            arrays = read_inputs(made.runner.inputs, pairs, how)
            outputs = made.runner(arrays)
            sizes = made.runner.ports.sizes({name: array.shape for name, array in arrays.items()})
        return made.runner.inputs, arrays, outputs, sizes


def see(
    path: Path,
    model: str | None = None,
    params: Mapping[str, Any] | None = None,
    weights: Sequence[str] | None = None,
    dtype: str = "f32",
    passes: Sequence[PassSpec] = (),
) -> Seen:
    """The program in a file: of an artifact of ours what it carries, with its reductions as they were made. Raises Diagnostic."""
    carried = _carried(path)
    if carried is not None:
        module, metadata = carried
        # What recipes made of a checkpoint's weights lies in the file.
        module.recipes.clear()
        tensors = _own_weights(path, module)
        steps = list(passes)
    else:
        source = read_model(path, model, params, weights, dtype)
        module, tensors, metadata = source.module, source.weights, {}
        steps = [*raising(source), *(passes or (module.compile.passes if module.compile else ()))]
    beside = path if path.is_dir() else path.parent
    return Seen(apply_passes(module, steps)[0], tensors, metadata, beside)


def _carried(path: Path) -> tuple[Module, Mapping[str, str]] | None:
    """The program that an artifact carries as source, and its metadata."""
    suffix = path.suffix.lower()
    if suffix == Mlir.suffix or suffix not in {target.suffix for target in registry().values()} or not os.path.isfile(path):
        return None
    facts = artifact_target(path).facts(path)
    metadata: Mapping[str, str] = facts["metadata"] if facts is not None else {}
    if "tessera.source" not in metadata:
        return None
    return READERS.source(metadata["tessera.source"], f"{path.name}:source"), metadata


def _own_weights(path: Path, module: Module) -> Any:
    """Those in an artifact of ours, by the names of its program's parameters. Raises Diagnostic."""
    if path.suffix.lower() not in IMPORTED:
        return open_weights(path)
    if path.suffix.lower() == Onnx.suffix and (whole := stored(path, module.graph)) is not None:
        return whole
    try:
        found = read_model(path).weights
        missing = next((name for name in module.graph.params if name not in (found or {})), None)
        if missing is not None:
            raise Diagnostic("E0606", f"none of them is `{missing}`")
        return found
    except Diagnostic as error:
        raise Diagnostic(
            error.code, f"the weights in `{path.name}` cannot be told from its nodes: {error.message}",
            help="look at what it was compiled of, with the same `--pass` and `--weights`; or compile it for `--target torch`, "
            "whose files keep weights by their names",
        ) from error  # fmt: skip


def _shown(
    specs: Sequence[InputSpec],
    name: str,
    file: str,
    arrays: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    how: Options,
) -> Shown:
    """The picture or the words that belong to the tokens. Raises E0925 for other inputs."""
    import numpy as np

    spec = next((s for s in specs if s.name == name), specs[0])
    if is_image(spec) and Path(file).suffix.lower() in IMAGES:
        height, width = image_size(spec)
        return Shown(name, outputs, image=np.asarray(fitted(open_image(file), height, width, how.fit, file)))
    ids = next((s.name for s in specs if FIELDS.get(s.name) == "ids" and s.name in arrays), None)
    if ids is not None:
        return Shown(ids, outputs, words=words_of(arrays[ids][0], load_tokenizer(how)))
    raise Diagnostic(
        "E0925", f"what becomes of `{name}` cannot be drawn: it is neither an image nor token ids",
        help="give an image file to an image input, or a text file to token ids",
    )  # fmt: skip
