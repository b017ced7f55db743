"""Saved artifacts, ready to run: whatever the target, arrays by name go in and arrays by name come out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..ir.diagnostics import Diagnostic
from ..runtime.files.aside import written_aside
from ..runtime.inputs import InputSpec, fit_array

if TYPE_CHECKING:
    import numpy as np

    from ..ir.graph import Input, Module
    from ..passes.report import Report


class Runner(Protocol):
    """Something that runs a compiled model.

    Attributes:
        inputs: what the caller gives.
        optional: what the runtime fills in otherwise: states and random inputs.
        metadata: the artifact's, strings by name.
    """

    @property
    def inputs(self) -> list[InputSpec]: ...
    @property
    def outputs(self) -> list[str]: ...
    @property
    def optional(self) -> list[InputSpec]: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...
    def __call__(self, arrays: Mapping[str, Any], *, seed: int = 0) -> dict[str, np.ndarray]:
        """All outputs, taps and states by name. Raises Diagnostic E0901 to E0904, E0922 for inputs that do not fit."""


def by_name(specs: Sequence[InputSpec], args: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Positional and named arrays as one mapping. Raises E0901 for too many, or one given twice."""
    if len(args) > len(specs):
        raise Diagnostic("E0901", f"the model takes {len(specs)} input(s), but {len(args)} are given")
    arrays = dict(named)
    for spec, value in zip(specs, args, strict=False):
        if spec.name in arrays:
            raise Diagnostic("E0901", f"the input `{spec.name}` is given twice")
        arrays[spec.name] = value
    return arrays


@dataclass
class CompileReport:
    """What ``compile`` did.

    Args:
        passes: the reports of the passes, in order.
        verified: how the artifact compares with the reference at each size: rows with ``sizes``, ``output``, ``error``.
        notes: what a user should know, such as tensors of the weights file that the model does not use.
        seconds: time by stage.
        size: bytes of the artifact's files; 0 before there are any.
    """

    passes: list[Report] = field(default_factory=list)
    verified: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    size: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "passes": [r.to_dict() for r in self.passes],
            "verified": self.verified,
            "notes": self.notes,
            "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
            "size": self.size,
        }

    def __str__(self) -> str:
        lines = [str(report) for report in self.passes]
        lines += [f"note: {note}" for note in self.notes]
        errors: dict[str, float] = {}
        for row in self.verified:
            sizes = ", ".join(f"{k} = {v}" for k, v in row["sizes"].items())
            errors[sizes] = max(errors.get(sizes, 0.0), row["error"])
        for sizes, error in errors.items():
            lines.append(f"verified{f' at {sizes}' if sizes else ''}: largest relative difference {error:.2g}")
        return "\n".join(lines)


class Artifact:
    """A compiled model: call it with NumPy arrays, or save it.

        outputs = artifact(image=x)          # {"output": array}
        artifact.save("vit.onnx")

    Attributes:
        module: the program after all passes.
        target: ``onnx``, ``torch`` or ``mlir``.
        report: what compiling did.
        metadata: what is written into the file about its making.
    """

    def __init__(
        self, module: Module, target: str, metadata: Mapping[str, str], report: CompileReport,
        write: Callable[[Path], object], open_runner: Callable[[Path], Runner],
    ) -> None:  # fmt: skip
        self.module = module
        self.target = target
        self.metadata = dict(metadata)
        self.report = report
        self._write = write
        self._open_runner = open_runner
        self._runner: Runner | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._file: tuple[Path, tuple[int, ...]] | None = None

    @property
    def suffix(self) -> str:
        """The ending of its files."""
        return {"onnx": ".onnx", "mlir": ".mlir"}.get(self.target, ".safetensors")

    @property
    def runner(self) -> Runner:
        """What runs it, opened at first use: the file that was written, or a temporary one where that is gone or another."""
        if self._runner is None:
            if self._file is None or _identity(self._file[0]) != self._file[1]:
                path = self._aside()
                self._write(path)
                self._wrote(path)
            assert self._file is not None
            self._runner = self._open_runner(self._file[0])
        return self._runner

    def _aside(self) -> Path:
        """Where it is written when nobody says where: in a folder that goes with it."""
        self._folder = tempfile.TemporaryDirectory(prefix="tessera-")
        return Path(self._folder.name, f"{self.module.name}{self.suffix}")

    def _wrote(self, path: Path) -> None:
        self._file = path, _identity(path)

    @property
    def inputs(self) -> list[InputSpec]:
        """Names, dtypes and shapes of what it takes."""
        return self.runner.inputs

    def __call__(self, *args: Any, seed: int = 0, **inputs: Any) -> dict[str, np.ndarray]:
        """Run it: arrays by input name, or in the order of the inputs.

        Args:
            seed: for the model's random inputs, where they are not given.

        Raises:
            Diagnostic: E09xx for what does not fit.
        """
        return self.runner(by_name(self.runner.inputs, args, inputs), seed=seed)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file (and, past 2 GB of weights, its data file beside it) aside, then rename it.

        Raises:
            Diagnostic: E0010 when it cannot be written; an earlier file is then as it was.
        """
        with written_aside(path) as aside:
            self._write(aside)
        return Path(path)

    def __repr__(self) -> str:
        return f"<{self.target} artifact of {self.module.name}>"


class TorchRunner:
    """The torch target: the reference implementation as an ``nn.Module``."""

    def __init__(self, module: Module, network: Any, metadata: Mapping[str, str]) -> None:
        self.module = module
        self.network = network
        self.metadata = metadata
        graph = module.graph
        self.inputs = [_spec(v) for v in graph.inputs if v.role == "input"]
        self.optional = [_spec(v) for v in graph.inputs if v.role != "input"]
        self.outputs = [info.name for info in graph.output_info]

    def __call__(self, arrays: Mapping[str, Any], *, seed: int = 0) -> dict[str, np.ndarray]:
        import torch

        known = {spec.name: spec for spec in (*self.inputs, *self.optional)}
        # A name that is not known goes through, and the network says so.
        tensors = {n: _to_torch(fit_array(known[n], a) if n in known else a) for n, a in arrays.items()}
        with torch.no_grad():
            outputs = self.network(**tensors, seed=seed)
        return {name: _to_numpy(tensor) for name, tensor in outputs.items()}

    def different_weight(self, weights: Mapping[str, Any]) -> str | None:
        """The name of a weight of the network that is not, bit for bit, the one in ``weights``; None when all are."""
        import numpy as np

        for name, tensor in self.network.state_dict().items():
            ours, theirs = _to_numpy(tensor), weights[name].numpy()
            if not np.array_equal(ours.view(np.uint8).ravel(), np.ascontiguousarray(theirs).view(np.uint8).ravel()):
                return f"the weight `{name}`"
        return None


def _identity(path: Path) -> tuple[int, ...]:
    """What changes when a file is written anew; nothing when there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _spec(value: Input) -> InputSpec:
    shape = tuple(d.value if d.value is not None else str(d) for d in value.type.shape)
    return InputSpec(value.name, value.type.dtype.name, shape)


def _to_torch(array: Any) -> Any:
    import numpy as np
    import torch

    array = np.asarray(array)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view("int16").copy()).view(torch.bfloat16)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _to_numpy(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        array: np.ndarray = tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return array
    result: np.ndarray = tensor.numpy()
    return result
