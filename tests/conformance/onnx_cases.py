"""The ``onnx`` package's own backend cases through the importer, the printer, the parser and two backends.

Every case is compared with the results that come with it. Where sizes or axes are inputs of the graph and the case is refused so,
it is tried again with these as initializers, which is how exporters write them. What may be refused stands in ``onnx.json`` with
its reason. ``onnx_free.json`` tells the same of the cases that pass, with every size of every input left free: imported so, and run
at the case's own sizes. To look at some cases, or to write a table anew:

    python -m tessera.tests.conformance.onnx_cases test_cumsum_1d test_roialign.*
    python -m tessera.tests.conformance.onnx_cases --write
    python -m tessera.tests.conformance.onnx_cases --free --write
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper

from tessera.backends.onnx import build as build_onnx
from tessera.backends.onnx import runnable, serialize
from tessera.backends.onnx.session import Session
from tessera.backends.torch import build
from tessera.frontends.onnx import load
from tessera.frontends.source import loads, print_module
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.verifier import verify

# By whether the sizes are left free.
TABLES = {False: Path(__file__).with_name("onnx.json"), True: Path(__file__).with_name("onnx_free.json")}
# An input of at most one axis and of so few integers may be sizes or axes, and of so few real numbers, scales.
FEW, FEW_REAL = 64, 8
# What a case promises is told for f32; halves are rounded more coarsely, and by every backend in places of its own.
TOLERANCE = {"float16": 4e-3, "bfloat16": 4e-2}
# By how much, of the largest element.
CANCELLED = 1e-6
# Random numbers are not compared.
DRAWN = re.compile("test_bernoulli.*")


@dataclass(frozen=True)
class Outcome:
    """``passed``, ``passed with constants``, ``passed as ONNX Runtime has it``, ``refused``, ``wrong`` or ``crashed``."""

    kind: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}" if self.reason else self.kind


@cache
def cases() -> dict[str, Any]:
    """The cases by name. Making them takes seconds."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in collect_testcases(None)}


def judge(case: Any, free: bool = False) -> Outcome:
    """A case as it is, or with every size ``free``; if that is refused, with its sizes and axes as constants."""
    model = _freed(case.model) if free else case.model
    outcome = _judge(case, model, frozenset())
    if outcome.kind != "refused":
        return outcome
    constant = _constants(case)
    if not constant:
        return outcome
    again = _judge(case, model, constant)
    if again.kind == "refused":
        return again if free else outcome
    return Outcome("passed with constants") if again.kind == "passed" else again


def _freed(model: Any) -> Any:
    """The model with a name for each axis of each input in the place of its size."""
    free = type(model).FromString(model.SerializeToString())
    for value in free.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.dim_param = f"{value.name}_{axis}"
    return free


def with_sizes() -> list[str]:
    """The cases that pass as they are and have an input with an axis."""
    return [
        name for name, row in table().items()
        if row.startswith("passed") and any(v.type.tensor_type.shape.dim for v in cases()[name].model.graph.input)
    ]  # fmt: skip


def _constants(case: Any) -> frozenset[str]:
    """The inputs that may be sizes, axes or scales."""
    inputs, arrays = case.model.graph.input, [*map(_array, case.data_sets[0][0])]
    small = [
        (value.name, array.dtype.kind in "iu" or array.ndim == 0 or array.size <= FEW_REAL)
        for value, array in zip(inputs, arrays, strict=False)
        if isinstance(array, np.ndarray) and array.ndim <= 1 and array.size <= FEW
    ]
    return frozenset(name for name, likely in small if likely)


def _array(given: Any) -> Any:
    """What a case gives for an input or a result: some are messages, and not all are tensors."""
    if isinstance(given, onnx.TensorProto):
        return numpy_helper.to_array(given)
    return np.asarray(given) if isinstance(given, (np.ndarray, np.generic, int, float)) else given


def _judge(case: Any, model: Any, constant: frozenset[str]) -> Outcome:
    given = {v.name: _array(a) for v, a in zip(model.graph.input, case.data_sets[0][0], strict=False)}
    if constant:
        model = type(model).FromString(model.SerializeToString())
        kept = [v for v in model.graph.input if v.name not in constant]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        model.graph.initializer.extend(numpy_helper.from_array(given[name], name) for name in sorted(constant))
    feeds = [array for name, array in given.items() if name not in constant]
    wanted = [_array(a) for a in case.data_sets[0][1]]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        path = Path(folder) / "case.onnx"
        onnx.save(model, path)
        try:
            imported = load(path)
            verify(imported.module.graph)
            if imported.module.difference(loads(print_module(imported.module))) is not None:
                return Outcome("wrong", "the printed source reads as another program")
            found = imported.rows_that_count(build(imported.module, imported.weights)(*map(_to_torch, feeds)))
            difference = _difference(case, [_to_numpy(y) for y in found.values()], wanted)
            if difference is not None and _as_runtime(path, model, feeds, [_to_numpy(y) for y in found.values()], case):
                return Outcome("passed as ONNX Runtime has it", difference)
            # A random number is an input of its own.
            if difference is None and runnable(imported.module.graph) and len(imported.module.graph.inputs) == len(feeds):
                session = Session(serialize(build_onnx(imported.module, imported.weights)))
                names = [value.name for value in imported.module.graph.inputs]
                results = imported.rows_that_count(session(dict(zip(names, feeds, strict=True))))
                difference = _difference(case, list(results.values()), wanted)
        except Diagnostic as error:
            return Outcome("refused", f"{error.code} {error.message}")
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            return Outcome("crashed", f"{type(error).__name__} in {Path(place.filename).name}: {str(error)[:120]}")
    return Outcome("passed") if difference is None else Outcome("wrong", difference)


def _as_runtime(path: Path, model: Any, feeds: list[Any], found: list[np.ndarray], case: Any) -> bool:
    """Whether ONNX Runtime computes what we do, where the case says otherwise."""
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        results = session.run(None, dict(zip((v.name for v in model.graph.input), feeds, strict=True)))
    except Exception:  # it has errors of its own for what it does not run
        return False
    return _difference(case, found, results) is None


def _difference(case: Any, found: list[np.ndarray], wanted: list[Any]) -> str | None:
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"result {i} is {a.dtype}{list(a.shape)}, not {b.dtype}{list(b.shape)}"
        tolerance = TOLERANCE.get(a.dtype.name, 0.0)
        # What cancels to nearly 0 is as far off as the terms that it is made of.
        size = np.abs(_plain(b)[np.isfinite(_plain(b))]).max(initial=0.0) if b.dtype.kind == "f" else 0.0
        least = max(case.atol, tolerance, CANCELLED * size)
        close = np.allclose(_plain(a), _plain(b), max(case.rtol, tolerance), least, equal_nan=True)
        if not close and not DRAWN.fullmatch(case.name):
            return f"result {i} has other values"
    return None


def _plain(x: np.ndarray) -> np.ndarray:
    return x if x.dtype.kind in "biu" else x.astype(np.float64)


def _to_torch(array: Any) -> torch.Tensor:
    array = np.asarray(array, order="C")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def table(free: bool = False) -> dict[str, str]:
    """What becomes of each case, by name."""
    rows: dict[str, str] = json.loads(TABLES[free].read_text("utf-8"))["cases"]
    return rows


def write(rows: dict[str, str], free: bool = False) -> None:
    """Write a table: how many there are of each outcome, and every case."""
    kinds = Counter(row.partition(":")[0] for row in rows.values())
    text = {"cases of": f"onnx {onnx.__version__}", "counts": dict(sorted(kinds.items())), "cases": dict(sorted(rows.items()))}
    TABLES[free].write_text(json.dumps(text, indent=1, ensure_ascii=False) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="regular expressions; all cases by default")
    parser.add_argument("--free", action="store_true", help="with every size left free")
    parser.add_argument("--write", action="store_true", help="write what was found into the table")
    options = parser.parse_args()
    rows = table(options.free) if TABLES[options.free].exists() else {}
    every = with_sizes() if options.free else list(cases())
    chosen = [n for n in every if not options.names or any(re.fullmatch(pattern, n) for pattern in options.names)]
    for name in chosen:
        rows[name] = str(judge(cases()[name], options.free))
        print(f"{name}: {rows[name]}", flush=True)
    print(Counter(rows[name].partition(":")[0] for name in chosen))
    if options.write:
        write({name: rows[name] for name in every if name in rows}, options.free)


if __name__ == "__main__":
    main()
