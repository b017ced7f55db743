"""PyTorch's own operator samples (``op_db``) through torch.export, the importer, the printer, the parser and two backends.

Every sample is compared with what the operator itself returns. A case is refused (a Diagnostic), wrong, crashed or passed; what
may be refused stands in ``torch.json`` with its reason. To look at some operators, or to write their rows anew:

    python -m tessera.tests.conformance.torch_samples logsumexp nn.functional.pad.reflect
    python -m tessera.tests.conformance.torch_samples --write roll
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import traceback
import types
import unittest
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree

from tessera.backends.onnx import build as build_onnx
from tessera.backends.onnx import serialize
from tessera.backends.onnx.session import Session
from tessera.backends.torch import build
from tessera.frontends.source import loads, print_module
from tessera.frontends.torch import load
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.verifier import verify

TABLE = Path(__file__).with_name("torch.json")
# How many samples of an operator, of each dtype that it takes.
SAMPLES = {torch.float32: 12, torch.int64: 3, torch.bool: 2}

# Of equal elements torch takes any: which one it took is not compared.
ANY_OF_EQUAL = ("kthvalue", "median", "mode", "nanmedian", "sort", "topk")

# What no importer of token models needs, by its kind.
LEFT_OUT = {
    "decompositions of linear algebra": r"""
        linalg\.(?!cross|diagonal|matrix_norm|matrix_power|multi_dot|norm|vander|vecdot|vector_norm).*|linalg\.norm\.sub.*|
        cholesky.*|geqrf|logdet|lu|lu_.*|svd.*|qr|ormqr|pca_lowrank|pinverse|triangular_solve|matrix_exp|norm\.nuc""",
    "special functions": r"special\..*|digamma|i0|igammac?|lgamma|mvlgamma.*|polygamma.*|erfinv|nextafter|frexp|hash_tensor",
    "complex numbers": r"""
        .*\.complex|cdouble|cfloat|chalf|isreal|resolve_.*|mH|H""",
    "random numbers": r"""
        bernoulli|cauchy|exponential|geometric|log_normal|multinomial|normal.*|uniform|rand.*|.*dropout.*|.*rrelu|
        .*fractional_max_pool.*""",
    "sizes that depend on what is in a tensor": r"""
        unique|unique_consecutive|bincount|combinations|to_sparse|.*jiterator.*|allclose|equal|item""",
    "steps of training": r".*_backward(_data)?|.*\.grad|.*_batch_norm_legit|_batch_norm_with_update|native_batch_norm|.*ctc_loss",
    "storage, not values": r"as_strided.*|empty.*|new_empty.*|resize_.*|set_.*|sparse.*|.*_scaled_mm.*|.*_attention_forward",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One sample of an operator: ``key`` is its dtype and number, ``f32:3``."""

    operator: Any
    key: str
    sample: Any


@dataclass(frozen=True)
class Outcome:
    """``passed``, ``refused``, ``wrong``, ``crashed``, or ``out`` where torch itself does not export the sample."""

    kind: str
    reason: str = ""


@cache
def operators() -> dict[str, Any]:
    """Operators by name and variant. Importing them takes seconds."""
    # torch's own test helpers import it for a check that is not used here.
    if "expecttest" not in sys.modules:
        stand_in: Any = types.ModuleType("expecttest")
        stand_in.TestCase = unittest.TestCase
        sys.modules["expecttest"] = stand_in
    from torch.testing._internal.common_methods_invocations import op_db

    return {f"{o.name}.{o.variant_test_name}".rstrip("."): o for o in op_db}


def left_out(name: str) -> str | None:
    """Why an operator is not looked at; None for one that is."""
    for reason, pattern in LEFT_OUT.items():
        if re.fullmatch(re.sub(r"\s", "", pattern), name):
            return reason
    return None


def judged() -> list[str]:
    return [name for name in operators() if left_out(name) is None]


def cases(name: str) -> Iterator[Case]:
    """Samples of one operator, spread over those that torch has; the same ones each time."""
    operator = operators()[name]
    for dtype, most in SAMPLES.items():
        if not operator.supports_dtype(dtype, "cpu") or (operator.name == "argsort" and dtype != torch.float32):
            continue  # argsort of few values shows only which of equal ones torch takes
        torch.manual_seed(0)
        try:
            samples = list(operator.sample_inputs("cpu", dtype, requires_grad=False))
        except Exception:  # a generator of torch's own tests that does not run without its test runner
            continue
        short = {torch.float32: "f32", torch.int64: "i64", torch.bool: "bool"}[dtype]
        count = min(most, len(samples))
        for at in sorted({round(k * (len(samples) - 1) / max(count - 1, 1)) for k in range(count)}):
            yield Case(operator, f"{short}:{at}", samples[at])


class _Call(torch.nn.Module):
    """The operator applied to the tensors of a sample, complex ones by their parts; everything else of the sample is fixed."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.operator = case.operator.op
        leaves, self.form = _pytree.tree_flatten((case.sample.input, case.sample.args, case.sample.kwargs))
        self.leaves = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        self.places = [at for at, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        self.pairs = [leaves[at].is_complex() for at in self.places]
        self.tensors = tuple(map(_real, (leaves[at].detach() for at in self.places)))

    def forward(self, *tensors: torch.Tensor) -> Any:
        leaves = list(self.leaves)
        for at, tensor, pair in zip(self.places, tensors, self.pairs, strict=True):
            leaves[at] = torch.view_as_complex(tensor) if pair else tensor.clone()
        first, args, kwargs = _pytree.tree_unflatten(leaves, self.form)
        return _pytree.tree_map_only(torch.Tensor, _real, self.operator(first, *args, **kwargs))


def _real(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as it is, or its real and imaginary parts."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def judge(case: Case) -> Outcome:
    """Import a sample and run it on both backends."""
    model = _Call(case).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            torch.manual_seed(0)
            results = model(*model.tensors)
            program = torch.export.export(model, model.tensors, strict=False)
        except Exception as error:
            return Outcome("out", f"torch: {type(error).__name__}: {error}".split("\n")[0][:200])
        wanted = [leaf for leaf in _pytree.tree_leaves(results) if isinstance(leaf, torch.Tensor)]
        if not wanted:
            return Outcome("out", "no result is a tensor")
        if case.operator.name in ANY_OF_EQUAL:
            wanted = wanted[:1]
        try:
            return _compared(program, model.tensors, wanted)
        except Diagnostic as error:
            return Outcome("refused", f"{error.code} {error.message}"[:300])
        except Exception as error:
            return Outcome("crashed", f"{type(error).__name__}: {error}"[:300] + _place(error))


def _compared(program: Any, tensors: tuple[torch.Tensor, ...], wanted: list[torch.Tensor]) -> Outcome:
    imported = load(program)
    verify(imported.module.graph)
    source = print_module(imported.module)
    again = loads(source)
    difference = imported.module.difference(again)
    if difference is not None:
        return Outcome("wrong", f"does not read back: {difference}")
    feeds = dict(zip((v.name for v in again.graph.inputs), tensors, strict=True))
    found = imported.rows_that_count(build(again, imported.weights)(**feeds))
    wrong = _difference([(v.float() if v.dtype == torch.bfloat16 else v).numpy() for v in found.values()], wanted)
    if wrong is not None:
        return Outcome("wrong", f"torch backend: {wrong}")
    session = Session(serialize(build_onnx(again, imported.weights)))
    arrays = session({name: np.ascontiguousarray(t.numpy()) if t.ndim else t.numpy() for name, t in feeds.items()})
    wrong = _difference(list(imported.rows_that_count(arrays).values()), wanted)
    return Outcome("passed") if wrong is None else Outcome("wrong", f"onnx backend: {wrong}")


def _difference(found: list[np.ndarray], wanted: list[torch.Tensor]) -> str | None:
    if len(found) < len(wanted):
        return f"{len(found)} outputs for {len(wanted)}"
    for number, (array, tensor) in enumerate(zip(found, wanted, strict=False)):
        if tensor.dtype == torch.bfloat16:  # NumPy has none
            tensor, array = tensor.float(), array.astype(np.float32)
        expected = tensor.resolve_conj().numpy()
        if array.shape != expected.shape or array.dtype != expected.dtype:
            return f"output {number} is {array.dtype}{list(array.shape)}, not {expected.dtype}{list(expected.shape)}"
        try:
            np.testing.assert_allclose(array, expected, rtol=1e-4, atol=2e-5)
        except AssertionError as error:
            return f"output {number}: " + " ".join(str(error).split())[:200]
    return None


def _place(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f" ({Path(last.filename).name}:{last.lineno})"


# The table -----------------------------------------------------------------------------------------------------------


def table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TABLE.read_text("utf-8"))
    return found


def row(name: str) -> dict[str, Any]:
    """What the table says of one operator, found anew: how many samples passed, and those that did not, with the reason."""
    outcomes = {case.key: judge(case) for case in cases(name)}
    shown: dict[str, Any] = {"passed": sum(o.kind == "passed" for o in outcomes.values())}
    for kind in ("refused", "wrong", "crashed", "out"):
        if rest := {key: o.reason for key, o in outcomes.items() if o.kind == kind}:
            shown[kind] = rest
    return shown


def write(rows: dict[str, Any]) -> None:
    """Put rows into the table, and count all of it."""
    known = table()["operators"] if TABLE.exists() else {}
    known = {name: r for name, r in sorted({**known, **rows}.items()) if left_out(name) is None}
    counts = {"passed": sum(r["passed"] for r in known.values())}
    for kind in ("refused", "wrong", "crashed", "out"):
        counts[kind] = sum(len(r.get(kind, ())) for r in known.values())
    kinds = {reason: sorted(n for n in operators() if left_out(n) == reason) for reason in LEFT_OUT}
    text = json.dumps({"counts": counts, "left out": kinds, "operators": known}, indent=1)
    TABLE.write_text(text + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="operators; all of them where none is named")
    parser.add_argument("--write", action="store_true", help="write their rows into the table")
    options = parser.parse_args()
    rows = {}
    for name in options.names or judged():
        rows[name] = row(name)
        print(json.dumps({name: rows[name]}), flush=True)
    if options.write:
        write(rows)


if __name__ == "__main__":
    main()
