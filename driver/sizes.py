"""Sizes at which an artifact is compared: small ones that the model takes, so that no axis is empty where that can be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..ir.analysis.cost import working_bytes
from ..ir.analysis.sizes import GROUPS, TOKENS, Role, roles
from ..ir.diagnostics import Diagnostic, Note, Span, did_you_mean
from ..ir.dims.dim import Dim, const, product, sym
from ..ir.graph import Graph, Input, Require, Value

if TYPE_CHECKING:
    import numpy as np

    from ..runtime.runner import Runner

_BATCH = 2
# Growing ranges: small models of small inputs first, and up to what an image or a text may have.
_RANGES = (8, 16, 32, 64, 160, 320, 640, 1600)
# So many choices of sizes that the model does not run at are enough, and bytes that a call may need.
_REFUSED, _LARGEST = 24, 1 << 30
# Sizes that are tried one after the other where drawing finds none; what solves a requirement comes between the two.
_CANDIDATES, _FAR = (*range(1, 321), *range(336, 1601, 16)), tuple(1 << power for power in range(11, 21))


def choose_sizes(
    graph: Graph, runner: Runner, count: int, rng: np.random.Generator, given: Mapping[str, int] | None = None,
    refused: Sequence[Mapping[str, int]] = (),
) -> Iterator[dict[str, int]]:  # fmt: skip
    """``count`` different choices of the free sizes that the model takes; small ones, all symbols different where they can be.

    Args:
        given: sizes to keep to.
        refused: where the caller puts choices that turned out to be none: they do not count.

    Raises:
        Diagnostic: E0807 when none is found, with what stands against the sizes that come closest; E0935 for a given size
            that the model does not have.
    """
    search = _Search(graph, runner, rng, given or {}, refused)
    seen: list[dict[str, int]] = []
    for full in (True, False):
        for choice in search.found(seen, full):
            seen.append(choice)
            yield choice
            if len(seen) - len(refused) == count or not search.symbols or len(refused) == _REFUSED:
                return
        if seen:
            return
    raise search.unfound()


@dataclass(frozen=True)
class _Fault:
    """Something that does not hold at some sizes.

    Args:
        phase: the place of a requirement of the program; axes come behind these, and then what ops require.
        gap: what lies between the two sides that are compared.
        said: what it is, for messages.
    """

    phase: int
    gap: int
    said: str
    span: Span | None
    sides: tuple[Dim, Dim]


class _Search:
    """What of a model decides about sizes."""

    def __init__(
        self, graph: Graph, runner: Runner, rng: np.random.Generator, given: Mapping[str, int], refused: Sequence[Mapping[str, int]]
    ) -> None:  # fmt: skip
        self.graph, self.runner, self.rng, self.given, self.refused = graph, runner, rng, dict(given), refused
        self.known = roles(graph)
        for name in given:
            if name not in self.known:
                shown = f"it has {', '.join(self.known)}" if self.known else "all of its sizes are fixed"
                raise Diagnostic("E0935", f"the model has no size `{name}`", help=did_you_mean(name, self.known) or shown)
        self.symbols = [s for s in self.known if s not in given]
        shapes = [(v, d, 0) for v in (*graph.inputs, *graph.outputs) for d in v.type.shape]
        # ONNX Runtime takes no image that is smaller than a kernel or a window.
        windows = [n for n in graph.nodes() if n.op.name == "conv" or "_pool" in n.op.name]
        shapes += [(n.output, d, 1) for n in windows for d in n.output.type.shape]
        self.outer = [(v, d, least) for v, d, least in dict.fromkeys(shapes) if d.value is None]
        self.inner = _free(d for n in graph.nodes() for v in n.outputs for d in v.type.shape)
        self.closest: tuple[tuple[int, int], dict[str, int], _Fault] | None = None
        self.large: dict[str, int] | None = None

    def found(self, seen: list[dict[str, int]], full: bool) -> Iterator[dict[str, int]]:
        """Sizes that fit, none of them close to one that was ``seen``: drawn, and where that finds none, solved for."""
        for high in _RANGES:
            for _ in range(24 if self.symbols else 1):
                # What the model did not run at was too large as often as too small.
                low = min((max(other.values()) for other in self.refused), default=high) if len(self.refused) % 2 else high
                choice = self.draw(min(low, high))
                crowded = len({choice[s] for s in self.symbols}) < len(self.symbols) and high < 64 and not self.refused
                near = any(_close(choice, other, self.symbols) for other in seen if other not in self.refused)
                if crowded or near or choice in seen or not self.fits(choice, full):
                    continue
                if high <= 64 or self.small(choice):
                    yield choice
        solved = None if seen else self.solved(full)
        if solved is not None and self.small(solved):
            yield solved
        elif solved is not None:
            self.large = solved

    def small(self, choice: dict[str, int]) -> bool:
        """Whether a call has room for them."""
        values = self.graph.sizes(choice)
        given = sum((v.type.numel * v.type.dtype.size).evaluate(values) for v in self.graph.inputs)
        return max(given, working_bytes(self.graph, choice)) <= _LARGEST

    def draw(self, high: int) -> dict[str, int]:
        """A size for every symbol, up to about ``high``."""
        return {
            s: self.given[s] if s in self.given else _size(self.graph, s, role, high, self.rng) for s, role in self.known.items()
        }

    def solved(self, full: bool) -> dict[str, int] | None:
        """Sizes that fit, found by changing one after the other so that what is broken first holds; None for none."""
        for _ in range(4):
            choice: dict[str, int] | None = self.draw(32)
            for _ in range(2 * len(self.symbols)):
                if choice is None or self.fits(choice, full):
                    break
                choice = self._better(choice, full)
            if choice is not None and self.fits(choice, full):
                return choice
        return None

    def _better(self, choice: dict[str, int], full: bool) -> dict[str, int] | None:
        """The choice with one size changed so that what is first broken holds, and what comes before it still does."""
        broken = next(self.faults(choice, full), None)
        if broken is None:
            return None
        symbols = [s for d in broken.sides for s in self.graph.expand_lets(d).symbols if s in self.symbols]
        for symbol in sorted(set(symbols), key=lambda s: (self.known[s] == "batch", s)):
            least, greatest = self.graph.facts.get(symbol, (1, None))
            for size in (*_CANDIDATES, *self._solving(broken, symbol, choice), *_FAR):
                trial = {**choice, symbol: size}
                if size < (least or 1) or (greatest is not None and size > greatest) or size == choice[symbol]:
                    continue
                other = next(self.faults(trial, full), None)
                if other is None or other.phase > broken.phase or (other.phase == broken.phase and other.sides != broken.sides):
                    return trial
        return None

    def _solving(self, fault: _Fault, symbol: str, choice: dict[str, int]) -> Iterator[int]:
        """Sizes about the one at which both sides are equal, if what lies between them grows evenly."""
        sides = [self.graph.expand_lets(side) for side in fault.sides]
        if any(not side.symbols <= choice.keys() for side in sides):
            return
        apart = []
        with suppress(ZeroDivisionError):
            for size in (1, 2):
                left, right = (side.evaluate({**choice, symbol: size}) for side in sides)
                apart.append(left - right)
        if len(apart) == 2 and apart[0] != apart[1]:
            equal = 1 - apart[0] // (apart[1] - apart[0])
            yield from range(equal - 1, equal + 3)

    def faults(self, choice: dict[str, int], full: bool) -> Iterator[_Fault]:
        """What does not hold: what the program requires, then that no axis of what goes in or comes out is negative (``full``: or
        empty), then what its ops require. Behind a division by 0 nothing is looked at."""
        try:
            yield from self._faults(choice, full)
        except ZeroDivisionError:
            yield _Fault(-1, 1, "a size would be divided by 0", None, (product(map(sym, self.known)), const(0)))

    def _faults(self, choice: dict[str, int], full: bool) -> Iterator[_Fault]:
        values, own = self.graph.sizes(choice), self.graph.requires
        for place, require in enumerate(own):
            if not require.holds(values):
                yield _unmet(require, values, place)
        for value, dim, least in self.outer:
            size, fewest = dim.evaluate(values), max(least, int(full))
            if size < fewest:
                said = f"{_named(value, self.graph)} would have an axis `{dim}` of {size}"
                yield _Fault(len(own), fewest - size, said, _span(value), (dim, const(0)))
        for require, known in self.runner.ports.all_broken(values):
            if require not in own:
                yield _unmet(require, known, len(own) + 1)

    def fits(self, choice: dict[str, int], full: bool) -> bool:
        """Whether the model takes these sizes; ``full``: and no axis is empty."""
        if full:
            with suppress(ZeroDivisionError):
                values = self.graph.sizes(choice)
                return next(self._faults(choice, full), None) is None and all(d.evaluate(values) > 0 for d in self.inner)
            return False
        faults = list(self.faults(choice, full))
        if faults:
            apart = len(faults), sum(f.gap for f in faults)
            if self.closest is None or apart < self.closest[0]:
                self.closest = apart, choice, faults[0]
        return not faults

    def unfound(self) -> Diagnostic:
        """What says that there are no sizes, with what stands against those that come closest, and others that do."""
        names = ", ".join(f"`{s}`" for s in self.symbols)
        kept = f" at {_shown(self.given)}" if self.given else ""
        message = f"no sizes of {names} were found that the model's requirements allow{kept}"
        if not names:
            message = f"the model's requirements {'do not hold' if kept else 'never hold'}{kept}"
        notes = []
        if self.closest is not None:
            _, choice, fault = self.closest
            notes = [Note(f"{f'at {_shown(choice)} ' if choice else ''}{fault.said}", fault.span)]
        return Diagnostic("E0807", message, notes=notes, help=self._remedy())

    def _remedy(self) -> str:
        """Sizes that the model takes, where there are any: those that are too large to be tried unasked, or others than given."""
        sizes, remark = self.large, ", which is large to try unasked"
        if sizes is None and self.given:
            free = _Search(self.graph, self.runner, self.rng, {}, ())
            sizes, remark = next((c for full in (True, False) for c in free.found([], full)), None), ""
        if sizes is None:
            return "change what is required; `tessera compile --no-verify` writes the artifact without comparing it"
        option = ",".join(f"{s}={size}" for s, size in sizes.items())
        return f"the model takes {_shown(sizes)}{remark}: `--size {option}`, in Python `sizes={sizes}`"


def _unmet(require: Require, values: dict[str, int], phase: int) -> _Fault:
    gap = abs(require.left.evaluate(values) - require.right.evaluate(values))
    said = f"`{require.left} {require.op} {require.right}` does not hold: {require.message}"
    return _Fault(phase, gap, said, require.span, (require.left, require.right))


def _named(value: Value, graph: Graph) -> str:
    """A value in messages: an input, an output, or what an op gives."""
    if isinstance(value, Input):
        return f"the input `{value.name}`"
    place = next((i for i, v in enumerate(graph.outputs) if v is value), None)
    return f"the output `{graph.output_info[place].public}`" if place is not None else "the map under a window"


def _span(value: Value) -> Span | None:
    return value.node.span if value.node is not None else None


def _shown(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{s} = {size}" for s, size in sizes.items())


def _free(dims: Iterable[Dim]) -> list[Dim]:
    """The different ones that are not known."""
    return list(dict.fromkeys(d for d in dims if d.value is None))


def _size(graph: Graph, symbol: str, role: Role, high: int, rng: np.random.Generator) -> int:
    least, greatest = graph.facts.get(symbol, (1, None))
    low = max(1 if least is None else least, 2 if greatest is None or greatest >= 2 else 1)
    leads = all(symbol not in dim.symbols for value in graph.inputs for dim in value.type.shape[1:])
    if role == "batch":
        # One and two show what more would: a size that was built in, rows that are mixed up.
        low, high = max(1, least or 1), _BATCH if high < 64 else 2 * _BATCH
    elif role == "groups":
        low, high = max(1, least or 1), GROUPS
    elif leads and high < 64:
        # Of one or two flat tokens nothing is seen of how they mix, nor of how they fall into groups.
        low, high = max(low, TOKENS * 3 // 4), TOKENS * 5 // 4
    top = max(low, high if greatest is None else min(high, greatest))
    return int(rng.integers(min(low, top), top + 1))


def _close(choice: Mapping[str, int], other: Mapping[str, int], symbols: Sequence[str]) -> bool:
    """Whether some symbol that could differ has the same size in both."""
    return any(choice[s] == other[s] for s in symbols)
