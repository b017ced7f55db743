"""What runs a compiled model, whatever the target: arrays by name go in and arrays by name come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..ir.diagnostics import Diagnostic

if TYPE_CHECKING:
    import numpy as np

    from .inputs import InputSpec
    from .ports import Ports
    from .states import Carrying


class Runner(Protocol):
    """Something that runs a compiled model.

    Attributes:
        inputs: what the caller gives.
        optional: what the runtime fills in otherwise: states and random inputs.
        ports: both as ports, with what must hold of their sizes.
        selects: whether rounding may make it select other elements than the reference.
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
    @property
    def ports(self) -> Ports: ...
    @property
    def selects(self) -> bool: ...
    def holds(self, sizes: dict[str, int]) -> bool:
        """Whether it takes these sizes of its symbols."""

    def __call__(
        self, arrays: Mapping[str, Any], *, seed: int = 0, sizes: Mapping[str, int] | None = None
    ) -> dict[str, np.ndarray]:
        """All outputs, taps and states by name; ``sizes`` are those that only states have.

        Raises Diagnostic E0901 to E0904, E0922 for inputs that do not fit.
        """

    def carrying(
        self, *, states: Mapping[str, Any] | None = None, sizes: Mapping[str, int] | None = None, seed: int = 0,
        onto: Carrying | None = None,
    ) -> Carrying:  # fmt: skip
        """A run that carries the states from call to call; on those of ``onto``, a run of another entry point."""


def by_name(runner: Runner, args: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays in the order of a runner's inputs, and named ones, as one mapping; one mapping alone is the named ones. States and
    random inputs are given by name.

    Raises:
        Diagnostic: E0901 for too many, or one given twice.
    """
    if len(args) == 1 and isinstance(args[0], Mapping):
        twice = next((name for name in args[0] if name in named), None)
        if twice is not None:
            raise Diagnostic("E0901", f"the input `{twice}` is given twice")
        return {**args[0], **named}
    specs = runner.inputs
    if len(args) > len(specs):
        named_only = ", ".join(f"{spec.name}=" for spec in runner.optional)
        raise Diagnostic(
            "E0901", f"the model takes {len(specs)} input(s), but {len(args)} are given",
            help=f"states and random inputs are given by name: {named_only}" if named_only else None,
        )  # fmt: skip
    arrays = dict(named)
    for spec, value in zip(specs, args, strict=False):
        if spec.name in arrays:
            raise Diagnostic("E0901", f"the input `{spec.name}` is given twice")
        arrays[spec.name] = value
    return arrays
