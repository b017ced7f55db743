"""Sizes at which an artifact is compared: small ones that the model takes, so that no axis is empty where that can be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..ir.analysis.cost import working_bytes
from ..ir.analysis.sizes import GROUPS, TOKENS, Role, roles
from ..ir.diagnostics import Diagnostic, Note, did_you_mean
from ..ir.dims.dim import Dim
from ..ir.graph import Graph, Require

if TYPE_CHECKING:
    import numpy as np

    from ..runtime.runner import Runner

_BATCH = 2
# Growing ranges: small models of small inputs first, and up to what an image or a text may have.
_RANGES = (8, 16, 32, 64, 160, 320, 640, 1600)
# So many choices of sizes that the model does not run at are enough, and bytes that a call may need.
_REFUSED, _LARGEST = 24, 1 << 30
# Sizes that are tried one after the other where drawing finds none.
_CANDIDATES = (*range(1, 321), *range(336, 1601, 16))


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
        self.outer = _free(d for v in (*graph.inputs, *graph.outputs) for d in v.type.shape)
        # ONNX Runtime takes no image that is smaller than a kernel or a window.
        windows = [n for n in graph.nodes() if n.op.name == "conv" or "_pool" in n.op.name]
        self.maps = _free(d for n in windows for d in n.output.type.shape)
        self.inner = _free(d for n in graph.nodes() for v in n.outputs for d in v.type.shape)
        self.closest: dict[str, int] = {}

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
                if high <= 64 or working_bytes(self.graph, choice) <= _LARGEST:
                    yield choice
        solved = None if seen else self.solved(full)
        if solved is not None:
            yield solved

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
                choice = self._better(choice)
            if choice is not None and self.fits(choice, full):
                return choice
        return None

    def _better(self, choice: dict[str, int]) -> dict[str, int] | None:
        """The choice with one size changed so that its first broken requirement holds, and those before it still do."""
        place, broken = self.broken(choice)
        if broken is None:
            return None
        symbols = [s for d in (broken.left, broken.right) for s in self.graph.expand_lets(d).symbols if s in self.symbols]
        for symbol in sorted(set(symbols), key=lambda s: (self.known[s] == "batch", s)):
            least, greatest = self.graph.facts.get(symbol, (1, None))
            for size in _CANDIDATES:
                trial = {**choice, symbol: size}
                if size < (least or 1) or (greatest is not None and size > greatest) or size == choice[symbol]:
                    continue
                now, other = self.broken(trial)
                if now > place or (now == place and other != broken):
                    return trial
        return None

    def broken(self, choice: dict[str, int]) -> tuple[int, Require | None]:
        """The first requirement that does not hold, and its place: those of the program come before those of its ops."""
        values, own = self.graph.sizes(choice), self.graph.requires
        for place, require in enumerate(own):
            if not require.holds(values):
                return place, require
        found = self.runner.ports.broken(values)
        return (len(own) + 1, None) if found is None else (len(own), found[0])

    def fits(self, choice: dict[str, int], full: bool) -> bool:
        """Whether the model takes these sizes; ``full``: and no axis is empty."""
        values = self.graph.sizes(choice)
        if any(d.evaluate(values) < 0 for d in self.outer) or any(d.evaluate(values) < 1 for d in self.maps):
            return False
        if self.broken(choice)[1] is not None:
            self.closest = choice
            return False
        return not full or all(d.evaluate(values) > 0 for d in (*self.outer, *self.inner))

    def unfound(self) -> Diagnostic:
        """What says that there are no sizes, with the requirement that stands against some."""
        names = ", ".join(f"`{s}`" for s in self.symbols)
        message = f"no sizes of {names} up to {_RANGES[-1]} were found that the model's requirements allow"
        if self.given:
            message += f" at {', '.join(f'{s} = {size}' for s, size in self.given.items())}"
        notes = []
        _, broken = self.broken(self.closest)
        if broken is not None:
            at = ", ".join(f"{s} = {size}" for s, size in self.closest.items()) or "all sizes"
            notes.append(Note(f"at {at} `{broken.left} {broken.op} {broken.right}` does not hold: {broken.message}", broken.span))
        return Diagnostic(
            "E0807", message if names else "the model's requirements never hold", notes=notes,
            help="`--no-verify` writes it without comparing",
        )  # fmt: skip


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
