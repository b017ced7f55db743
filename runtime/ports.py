"""The inputs of whatever runs a program, and what a call must satisfy before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ..ir.binding import Solution, solve_symbols, symbol_sizes
from ..ir.diagnostics import Diagnostic, Note, Span, did_you_mean
from ..ir.dims.dim import Dim, sym
from ..ir.graph import Initializer, Require
from ..ir.types import DType
from .distributions import draw
from .inputs import InputSpec
from .states import chosen_sizes
from .weights.initialise import fill

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Port:
    """One input, by the name that callers use; its name in the program is ``own``, where that is another one, and may be said
    as well. ``init`` fills a state or a random input that is not given; ``limits`` are the lengths of the tables in which its
    elements are places, ``most`` what they may be at most where they count rows of a cache."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    role: str = "input"
    init: Initializer | None = None
    span: Span | None = None
    limits: tuple[Dim, ...] = ()
    own: str = ""
    most: tuple[Dim, ...] = ()

    @property
    def spec(self) -> InputSpec:
        return InputSpec(self.name, self.dtype.name, tuple(str(d) if d.value is None else d.value for d in self.shape), self.role)

    def __str__(self) -> str:
        return str(self.spec)


@dataclass(frozen=True, slots=True)
class Demands:
    """What must hold of the sizes in a graph or a body: ``parent`` is the place of the body around it among the others."""

    parent: int | None
    lets: Mapping[str, Dim]
    requires: Sequence[Require]


class Ports:
    """The inputs of one program.

    Args:
        model: its name.
        ports: in order.
        demands: the program's, then those of its bodies.
        facts: bounds of its symbols, where they are known: (least, greatest or None), at least 1 for any other.
        title: what messages call it; the name in quotes without.
    """

    # How messages put what each runner's users see.
    missing: ClassVar[str] = "no value for {ports}"

    def __init__(
        self,
        model: str,
        ports: Iterable[Port],
        demands: Sequence[Demands],
        facts: Mapping[str, tuple[int, int | None]] | None = None,
        title: str | None = None,
    ) -> None:
        self.model = model
        self.title = title or f"`{model}`"
        self.ports = list(ports)
        self.by_name = {port.name: port for port in self.ports}
        self._own = {port.own: port.name for port in self.ports if port.own}
        self.demands = demands
        self.facts = facts
        self._solved: dict[frozenset[str], dict[str, Solution]] = {}

    @property
    def inputs(self) -> list[InputSpec]:
        """What a call must give."""
        return [port.spec for port in self.ports if port.role == "input"]

    @property
    def optional(self) -> list[InputSpec]:
        """States and random inputs, which are filled when they are not given."""
        return [port.spec for port in self.ports if port.role != "input"]

    def public(self, given: Mapping[str, T]) -> dict[str, T]:
        """What is given by name, under the names that callers use: `past_0_key` is as good as `past.0.key`.

        Raises:
            Diagnostic: E0901 for an input that is given under both of its names.
        """
        found: dict[str, T] = {}
        for name, value in given.items():
            name = name if name in self.by_name else self._own.get(name, name)
            if name in found:
                raise Diagnostic("E0901", f"the input `{name}` of {self.title} is given twice")
            found[name] = value
        return found

    # Checks --------------------------------------------------------------------------------------------------------

    def check_names(self, given: Collection[str]) -> None:
        """Raises E0901 for a name that is no input's, and where an input that must be given is not."""
        for name in given:
            if name not in self.by_name:
                help = did_you_mean(name, self.by_name) or f"its inputs are {', '.join(map(str, self.ports))}"
                raise Diagnostic("E0901", f"{self.title} has no input `{name}`", help=help)
        missing = [port for port in self.ports if port.role == "input" and port.name not in given]
        if missing:
            raise Diagnostic("E0901", self._missing(", ".join(f"`{port}`" for port in missing)), missing[0].span)

    def _missing(self, ports: str) -> str:
        return self.missing.format(title=self.title, ports=ports)

    def solved(self, names: Iterable[str]) -> dict[str, Solution]:
        """Which axis of the named inputs tells each symbol; those that must be given come first."""
        key = frozenset(names)
        if key not in self._solved:
            ordered = sorted((p for p in self.ports if p.name in key), key=lambda port: port.role != "input")
            self._solved[key] = solve_symbols({p.name: [self._expanded(dim) for dim in p.shape] for p in ordered})
        return self._solved[key]

    def _expanded(self, dim: Dim) -> Dim:
        lets = self.demands[0].lets
        while not dim.symbols.isdisjoint(lets):
            dim = dim.subs(lets)
        return dim

    def sizes(
        self,
        shapes: Mapping[str, Sequence[int]],
        chosen: Mapping[str, int] | None = None,
        shown: Callable[[str], str] | None = None,
    ) -> dict[str, int]:
        """The size of every symbol that the shapes tell, ``let`` names included.

        Args:
            shapes: of the inputs that are given, of the right ranks.
            chosen: sizes that no shape tells, such as a capacity.
            shown: how a message shows what is given under a name; its shape without.

        Raises:
            Diagnostic: E0902 for sizes that contradict the model or each other, with the inputs that tell them.
        """
        solved = self.solved(shapes)
        sizes = symbol_sizes(solved, shapes)
        if chosen:
            sizes = chosen_sizes(self.model, self.solved(self.by_name), sizes, chosen)
        self._check_facts(solved, sizes)
        self._extend(sizes, self.demands[0])
        for name, shape in shapes.items():
            port = self.by_name[name]
            for axis, (dim, size) in enumerate(zip(port.shape, shape, strict=True)):
                if dim.symbols <= sizes.keys() and dim.evaluate(sizes) != size:
                    wanted = str(dim) if dim.value is not None else f"{dim} = {dim.evaluate(sizes)}"
                    found = shown(name) if shown is not None else str(list(shape))
                    message = f"axis {axis} of `{name}` must be {wanted}, but is {size}: {found}"
                    raise Diagnostic("E0902", message, port.span, self._where_from(solved, dim, sizes))
        return sizes

    def _check_facts(self, solved: Mapping[str, Solution], sizes: Mapping[str, int]) -> None:
        for name, size in sizes.items() if self.facts is not None else ():
            assert self.facts is not None
            least, greatest = self.facts.get(name, (1, None))
            if size < least or (greatest is not None and size > greatest):
                bounds = f"at least {least}" if greatest is None else f"from {least} to {greatest}"
                message = f"the size `{name}` of {self.title} must be {bounds}, but is {size}"
                raise Diagnostic("E0902", message, notes=self._where_from(solved, sym(name), sizes))

    def _where_from(self, solved: Mapping[str, Solution], dim: Dim, sizes: Mapping[str, int]) -> list[Note]:
        """For each symbol a note that says which input gave it its value."""
        names = sorted(self._expanded(dim).symbols & solved.keys() & sizes.keys())
        return [Note(f"{n} is {sizes[n]}, from {solved[n]}", self.by_name[solved[n].input].span) for n in names]

    @staticmethod
    def _extend(sizes: dict[str, int], demands: Demands) -> None:
        for name, dim in demands.lets.items():
            if dim.symbols <= sizes.keys():
                # What divides by 0 is no size: a requirement says so.
                with suppress(ZeroDivisionError):
                    sizes[name] = dim.evaluate(sizes)

    def broken(self, sizes: Mapping[str, int]) -> tuple[Require, dict[str, int]] | None:
        """The first requirement that does not hold at these sizes, and the sizes of its body. What is not known is not asked."""
        return next(self.all_broken(sizes), None)

    def all_broken(self, sizes: Mapping[str, int]) -> Iterator[tuple[Require, dict[str, int]]]:
        """Every requirement that does not hold, as :meth:`broken` gives the first."""
        known: list[dict[str, int]] = []
        for demands in self.demands:
            values = dict(sizes) if demands.parent is None else dict(known[demands.parent])
            self._extend(values, demands)
            known.append(values)
            for require in demands.requires:
                if require.left.symbols | require.right.symbols <= values.keys() and not require.holds(values):
                    yield require, values

    def check_requires(self, sizes: Mapping[str, int]) -> None:
        """Raises E0904 for a requirement of the model that does not hold."""
        found = self.broken(sizes)
        if found is not None:
            raise self.unmet(*found)

    def check_places(self, name: str, least: int, greatest: int, sizes: Mapping[str, int]) -> None:
        """Raises E0905 where the elements of an input are not all places of the tables that they index."""
        port = self.by_name[name]
        for limit in port.limits:
            size = limit.evaluate(dict(sizes)) if limit.symbols <= sizes.keys() else None
            if size is not None and not 0 <= least <= greatest < size:
                odd, places = least if least < 0 else greatest, f"0 to {size - 1}" if size else "none"
                raise Diagnostic(
                    "E0905", f"`{name}` has the element {odd}, but the places of the table that it indexes are {places}", port.span
                )

    def check_counts(self, name: str, least: int, greatest: int, sizes: Mapping[str, int]) -> None:
        """Raises E0906 where a cache has no room for what a call writes, and for a count of what is not there."""
        port = self.by_name[name]
        for dim in port.most:
            most = dim.evaluate(dict(sizes)) if dim.symbols <= sizes.keys() else None
            if most is None or 0 <= least <= greatest <= most:
                continue
            shown = str(most) if dim.value is not None else f"{dim} = {most}"
            if port.role == "state" and least >= 0:
                raise Diagnostic(
                    "E0906", f"the cache is full: `{name}` is {greatest}, and what this call writes behind needs at most {shown}",
                    port.span, help="a larger capacity, or fewer tokens in this call; `reset()` starts anew",
                )  # fmt: skip
            odd = least if least < 0 else greatest
            raise Diagnostic("E0906", f"`{name}` has the element {odd}, and counts rows of a cache: 0 to {shown}", port.span)

    def unmet(self, require: Require, sizes: Mapping[str, int]) -> Diagnostic:
        """What says that a requirement does not hold."""
        left, right = (dim.evaluate(dict(sizes)) for dim in (require.left, require.right))
        message = f"{require.message}: {left} {require.op} {right} does not hold"
        notes = [Note(f"this is `{require.left} {require.op} {require.right}`")]
        notes += [Note(f"{name} is {sizes[name]}") for name in sorted(require.left.symbols | require.right.symbols)]
        return Diagnostic("E0904", message, notes=notes)

    # Filling -------------------------------------------------------------------------------------------------------

    def filled(self, given: Collection[str], sizes: Mapping[str, int], seed: int | None) -> dict[str, np.ndarray]:
        """What is not given: first values of states, and random inputs drawn from the seed; without one these are left out.

        Raises:
            Diagnostic: E0901 where a size of what is to be filled is not known.
        """
        made = {}
        for port in self.ports:
            if port.name in given:
                continue
            unknown = sorted({s for d in port.shape for s in d.symbols} - sizes.keys())
            if unknown:
                message = f"{self._missing(f'`{port}`')}, which alone tells the size `{unknown[0]}`"
                help = f'choose it: `sizes={{"{unknown[0]}": …}}`, on the command line `--size {unknown[0]}=…`'
                raise Diagnostic("E0901", message, port.span, help=help)
            assert port.init is not None
            shape = [d.evaluate(dict(sizes)) for d in port.shape]
            if port.role == "state" or seed is not None:
                make = draw if port.role == "random" else fill
                made[port.name] = make(port.init, shape, port.dtype, seed=seed or 0, name=port.name, span=port.span)
        return made
