"""What a pipeline requires of a corpus, measured before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.diagnostics import Diagnostic, several
from ..ir.tokenizer import Measuring

if TYPE_CHECKING:
    from ..ir.program import Measures, Program
    from ..runtime.program import Host, ProgramRunner

_ROWS = 64  # lines that are run at once


def check_measures(
    program: Program, runner: ProgramRunner, host: Mapping[str, Host], allow_host: bool
) -> dict[str, float]:
    """All that a pipeline is measured by, where what it requires holds.

    Args:
        program: as it was declared, beside its corpus.
        runner: what was compiled.
        host: functions of host stages, by the stages' names.

    Raises:
        Diagnostic: E1009 for each requirement that does not hold, E1010 for a corpus that there is not, E1007 for one that is no
            UTF-8, E0913 for a host stage that an output needs and nobody allowed.
    """
    measures = program.measures
    assert measures is not None
    folder = Path(program.path).parent if program.path is not None else Path()
    found: dict[str, float] = {}
    for name in measures.names():
        owner, dot, _ = name.partition(".")
        if dot and name not in found:
            found.update((f"{owner}.{metric}", value) for metric, value in _of_tokenizer(program, owner, measures, folder).items())
    outputs = [name for name in measures.names() if "." not in name]
    if outputs:
        found.update(_of_outputs(program, runner, outputs, measures, folder, host, allow_host))
    broken = [
        Diagnostic(
            "E1009", f"{gate.message}: `{gate.metric}` is {found[gate.metric]:.6g}, and `{program.name}` requires "
            f"{gate.op} {gate.bound:g}", gate.span, help="nothing was written; mend what is measured, or require less",
        )
        for gate in measures.gates if not gate.holds(found[gate.metric])
    ]  # fmt: skip
    if broken:
        raise several(broken)
    return {name: found[name] for name in measures.names()}


def _of_tokenizer(program: Program, name: str, measures: Measures, folder: Path) -> dict[str, float]:
    from ..runtime.tokenizers.analysers import TABLE
    from ..runtime.tokenizers.engine import folder_of, tables_of
    from ..runtime.tokenizers.metrics import measured

    tokenizer = program.tokenizers[name]
    own = tokenizer.measured or Measuring(measures.corpus)
    analyser = own.analyser
    if analyser is not None and analyser.endswith(TABLE):
        # A file of words lies beside the declaration of the tokenizer, the corpus beside that of the pipeline.
        analyser = str((folder_of(tokenizer) / analyser).absolute())
    asked = replace(own, corpus=measures.corpus, analyser=analyser, span=measures.span)
    here = replace(tokenizer, path=str(folder / "_"), measured=asked, gates=())
    return measured(tables_of(tokenizer), here).metrics


def _of_outputs(
    program: Program, runner: ProgramRunner, names: list[str], measures: Measures, folder: Path, host: Mapping[str, Host],
    allow_host: bool,
) -> dict[str, float]:  # fmt: skip
    """The means of outputs over all lines of the corpus."""
    import numpy as np

    from ..runtime.tokenizers.metrics import lines_of
    from ..runtime.tokenizers.training import files_below

    flow = program.flows[program.name]
    lines = lines_of(files_below(folder, measures.corpus, measures.span))
    sums, sizes = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    while rows := list(islice(lines, _ROWS)):
        made: dict[str, Any] = runner.run(flow.name, {flow.inputs[0].name: rows}, host=host, allow_host=allow_host)
        for name in names:
            sums[name] += float(np.sum(made[name], dtype=np.float64))
            sizes[name] += made[name].size
    empty = next((name for name in names if not sizes[name]), None)
    if empty is not None:
        raise Diagnostic("E1010", f"the files `{measures.corpus}` give no `{empty}` to measure: they have no lines", measures.span)
    return {name: sums[name] / sizes[name] for name in names}
