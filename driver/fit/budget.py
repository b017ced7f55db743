"""What a search has to reach: ``latency=0.6x``, ``latency=12ms``, ``flops=0.5x``, ``tokens=64``, ``fidelity=0.99``.

budget = parse_budget(["latency=0.6x", "fidelity=0.98"])
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...ir.diagnostics import Diagnostic, did_you_mean

_FORMS = {
    "latency": re.compile(r"(?P<share>0?\.\d+|1(\.0*)?)x|(?P<ms>\d+(\.\d+)?)ms"),
    "flops": re.compile(r"(?P<share>0?\.\d+|1(\.0*)?)x"),
    "tokens": re.compile(r"(?P<number>\d+)"),
    "fidelity": re.compile(r"(?P<share>0?\.\d+|1(\.0*)?)"),
}
_EXAMPLES = {
    "latency": "`latency=0.6x` of the model's time, or `latency=12ms`",
    "flops": "`flops=0.5x` of the model's",
    "tokens": "`tokens=64`, the mean over the blocks",
    "fidelity": "`fidelity=0.99`, the mean cosine to the model's own output",
}


@dataclass(frozen=True)
class Budget:
    """What must hold of the result; None where nothing is asked.

    Args:
        latency: seconds over those of the model that was brought along.
        ms: milliseconds.
        flops: FLOPs over those of the model.
        tokens: how many a block attends to, on average, at the sizes that are measured.
        fidelity: the least mean cosine of the output to the model's own.
    """

    latency: float | None = None
    ms: float | None = None
    flops: float | None = None
    tokens: int | None = None
    fidelity: float | None = None

    @property
    def limits(self) -> bool:
        """Whether it says what the result may cost; otherwise the cheapest that is faithful enough is looked for."""
        return any(v is not None for v in (self.latency, self.ms, self.flops, self.tokens))

    @property
    def timed(self) -> bool:
        """Whether it is time that is saved."""
        return self.latency is not None or self.ms is not None or not self.limits

    def __str__(self) -> str:
        parts = [f"latency={self.latency:g}x" if self.latency is not None else "", f"latency={self.ms:g}ms" if self.ms else ""]
        parts += [f"flops={self.flops:g}x" if self.flops is not None else "", f"tokens={self.tokens}" if self.tokens else ""]
        parts += [f"fidelity={self.fidelity:g}" if self.fidelity is not None else ""]
        return ", ".join(part for part in parts if part)


def parse_budget(texts: Sequence[str]) -> Budget:
    """Raises E0011 for what is no budget, or for two of one kind."""
    budget = Budget()
    seen: set[str] = set()
    for text in texts:
        name, _, value = text.replace(" ", "").partition("=")
        if name not in _FORMS:
            help = did_you_mean(name, _FORMS) or f"write {', '.join(_EXAMPLES.values())}"
            raise Diagnostic("E0011", f"`--budget {text}` asks for nothing that can be measured", help=help)
        found = _FORMS[name].fullmatch(value)
        kinds = found.groupdict() if found else {}
        given = next(((kind, number) for kind, number in kinds.items() if number is not None), None)
        if given is None or float(given[1]) <= 0:
            raise Diagnostic("E0011", f"`--budget {text}` is no such budget", help=f"write {_EXAMPLES[name]}")
        if name in seen:
            raise Diagnostic("E0011", f"`--budget` says twice what the {name} may be", help="give each kind once")
        seen.add(name)
        kind, number = given
        changed = {"ms": float(number)} if kind == "ms" else {name: int(number) if kind == "number" else float(number)}
        budget = replace(budget, **changed)
    return budget
