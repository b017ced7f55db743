"""A program with a cache as what generates: a prompt goes in, and scores of the next token come out, for several rows at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.diagnostics import Diagnostic
from .sampling import is_count

if TYPE_CHECKING:
    from ...ir.dims.dim import Dim
    from ...ir.types import TensorType
    from ..inputs import InputSpec
    from ..ports import Port
    from ..program import ProgramRunner
    from ..runner import Runner

# What an entry point may call how many of a row's tokens count.
COUNTS = ("count", "counts", "lengths")


@dataclass(frozen=True)
class Reading:
    """How an entry point reads tokens.

    Args:
        entry: its name.
        ids: the input of token ids.
        count: the one that says how many of them count in each row, where there is one.
        further: what else it takes.
        output: the scores.
    """

    entry: str
    ids: Port
    count: str | None
    further: tuple[InputSpec, ...]
    output: str

    @property
    def batch(self) -> Dim:
        return self.ids.shape[0]


class Decoder:
    """A program with the entry points ``prefill`` and ``decode`` on one cache.

    Args:
        program: ready to run.

    Attributes:
        vocab: how many tokens it scores.
        scores_all: whether `decode` gives scores behind each of several tokens.
        capacity: the size that says how many tokens the cache holds, by name; None where no size is left to choose.
        told: sizes of states that each prompt tells, such as that of an audio beside it.

    Raises:
        Diagnostic: E0950 for a program that is none.
    """

    def __init__(self, program: ProgramRunner) -> None:
        self.program = program
        self.prefill, self.decode = (self.reading(entry) for entry in ("prefill", "decode"))
        if self.decode.further:
            further = ", ".join(f"`{spec}`" for spec in self.decode.further)
            raise Diagnostic(
                "E0950", f"`decode` of `{program.program.name}` also takes {further}, which nobody has at every step",
                help="what a step needs beside its tokens is a state, which `prefill` writes",
            )  # fmt: skip
        self.vocab = self._vocab()
        runner = program.runners["decode"]
        self.states = [port for port in runner.ports.ports if port.role == "state"]
        if not self.states:
            raise Diagnostic("E0950", f"`decode` of `{program.program.name}` has no state, so that it has read nothing before")
        self.capacity = self._capacity(runner)
        self.scores_all = self._scores(self.decode).rank == 3

    def reading(self, entry: str) -> Reading:
        """How an entry point reads tokens. Raises E0950."""
        name, found = self.program.program.name, self.program.entries
        if entry not in found:
            raise Diagnostic(
                "E0950", f"`{name}` has no entry point `{entry}`: it has {', '.join(f'`{other}`' for other in found)}",
                help="a model without a cache becomes such a program by the pass `add_cache`",
            )  # fmt: skip
        runner = self.program.runners[entry]
        ports = [port for port in runner.ports.ports if port.role == "input"]
        tokens = [port for port in ports if port.dtype.kind == "int" and len(port.shape) == 2]
        # What is given beside the text may be ids too; those of the text are what follows brings.
        following = {port.name for port in self.program.runners["decode"].ports.ports} if "decode" in found else set()
        tokens = [port for port in tokens if port.name in following] or tokens
        ids = next((port for port in tokens if "ids" in port.name or "tokens" in port.name), tokens[0] if tokens else None)
        if ids is None:
            listing = ", ".join(f"`{port}`" for port in ports) or "nothing"
            raise Diagnostic("E0950", f"`{entry}` of `{name}` takes no token ids, `i64[B, T]`, but {listing}")
        count = next((port.name for port in ports if port.name in COUNTS and len(port.shape) == 1), None)
        further = tuple(port.spec for port in ports if port.name not in (ids.name, count))
        outputs = [info.public for info in self.program.program.functions[entry].output_info if info.role == "output"]
        return Reading(entry, ids, count, further, outputs[0])

    def _capacity(self, runner: Runner) -> str | None:
        shown = {s for port in runner.ports.ports if port.role == "input" for dim in port.shape for s in dim.symbols}
        held = {s for port in self.states for dim in port.shape for s in dim.symbols}
        prompts = self.program.runners["prefill"].ports.by_name
        beside = {s for spec in self.prefill.further for dim in prompts[spec.name].shape for s in dim.symbols}
        self.told = beside & held - shown
        free = sorted(held - shown - self.told)
        if len(free) > 1:
            raise Diagnostic(
                "E0950", f"the states of `{self.program.program.name}` leave several sizes to choose: {', '.join(free)}",
                help="its caches have one capacity",
            )  # fmt: skip
        return free[0] if free else None

    def _scores(self, reading: Reading) -> TensorType:
        graph = self.program.program.functions[reading.entry]
        at = [info.public for info in graph.output_info].index(reading.output)
        return graph.outputs[at].type

    def _vocab(self) -> int:
        sizes = []
        for reading in (self.prefill, self.decode):
            type = self._scores(reading)
            if "hidden" in reading.output:
                raise Diagnostic(
                    "E0950", f"`{reading.entry}` of `{self.program.program.name}` gives `{reading.output}`: features, no scores",
                    help="generate with the model that has a head, as `llama_lm` has",
                )  # fmt: skip
            if type.dtype.kind != "float" or type.rank not in (2, 3) or type.shape[-1].value is None:
                raise Diagnostic(
                    "E0950", f"`{reading.entry}` of `{self.program.program.name}` gives {type}, and no scores of the next token",
                    help="scores are `float[B, V]`, or `float[B, T, V]` for those after each token",
                )  # fmt: skip
            sizes.append(int(type.shape[-1]))
        if sizes[0] != sizes[1]:
            raise Diagnostic("E0950", f"`prefill` scores {sizes[0]} tokens, and `decode` {sizes[1]}")
        return sizes[0]

    @cached_property
    def fixed(self) -> int | None:
        """How many tokens the cache holds where its capacity is a number: the slots of its keys."""
        slots = [p.shape[2].value for p in self.states if len(p.shape) == 4 and p.shape[2].value is not None]
        return min(slots) if slots and self.capacity is None else None

    def held(self, capacity: int | None) -> int | None:
        """How many tokens a cache holds that is made with a capacity; None for any number. Raises E0951 for a wrong one."""
        if capacity is not None and not is_count(capacity):
            raise Diagnostic("E0951", f"a capacity of {capacity!r} holds no token", help="a capacity is a count of tokens")
        if self.fixed is not None and capacity is not None and capacity > self.fixed:
            raise Diagnostic("E0951", f"the cache of `{self.program.program.name}` holds {self.fixed} tokens, not {capacity}")
        return capacity if self.capacity is not None or self.fixed is None else self.fixed

    def sizes(self, capacity: int | None) -> dict[str, int]:
        """The capacity by its name."""
        return {self.capacity: capacity} if self.capacity is not None and capacity is not None else {}

    def check_prompt(self, ids: Sequence[int], more: int, held: int | None) -> None:
        """Raises E0951 for a prompt that is empty, has tokens of another vocabulary, or leaves too little room."""
        if not len(ids):
            raise Diagnostic("E0951", "the prompt is empty", help="begin with the token that begins a text, or with one word")
        odd = next((token for token in ids if not 0 <= token < self.vocab), None)
        if odd is not None:
            raise Diagnostic("E0951", f"the prompt has the token {odd}, and the model knows those from 0 to {self.vocab - 1}")
        # The last token that is made is never read.
        if held is not None and len(ids) + more - 1 > held:
            raise Diagnostic(
                "E0951", f"the prompt has {len(ids)} token(s), and {more} more are to be made: the cache holds {held}",
                help=f"at most {held - len(ids) + 1} more fit; or a larger capacity" if len(ids) <= held else
                f"a capacity of {len(ids) + more - 1}, or a shorter prompt",
            )  # fmt: skip


class Rows:
    """A number of sequences side by side, each in a row of the cache: a row that is done is taken by the next prompt.

    Args:
        decoder: what computes.
        count: of rows.
        capacity: how many tokens a row holds.

    Attributes:
        session: the entry points on these rows.
        outputs: all that the last call of an entry point gave, by name.

    Raises:
        Diagnostic: E0950 for several rows of a program that has one length for all.
    """

    def __init__(self, decoder: Decoder, count: int, capacity: int | None) -> None:
        self.decoder = decoder
        self.count = count
        batch = decoder.decode.batch
        if count > 1 and decoder.told:
            raise Diagnostic(
                "E0950", f"each prompt tells the size {min(decoder.told)} of what is kept of it: several cannot stand side by side",
                help="`rows=1` runs one after the other; or compile the model with that size fixed",
            )  # fmt: skip
        shared = [port.name for port in decoder.states if not port.shape or port.shape[0] is not batch]
        if count > 1 and shared:
            raise Diagnostic(
                "E0950", f"the state `{shared[0]}` is one for all rows, so that they cannot be at different places",
                help="run it with one row; or give the state the batch as its first axis",
            )  # fmt: skip
        if batch.value is not None and batch.value != count:
            raise Diagnostic("E0950", f"`decode` takes {batch.value} rows, not {count}")
        sizes = decoder.sizes(capacity)
        self.session = decoder.program.session(sizes={**sizes, **dict.fromkeys(batch.symbols, count)})
        # One row is read where it stays; of several, each on its own, and then put into its row.
        self._one = self.session if count == 1 else decoder.program.session(sizes=sizes)
        self.outputs: dict[str, Any] = {}
        if count > 1:
            self.session["decode"].make()
            fresh = decoder.program.session(sizes={**sizes, **dict.fromkeys(batch.symbols, 1)})["decode"]
            fresh.make()
            states = fresh.states()
            self._known = list(states)
            read = {port.name for port in decoder.program.runners["prefill"].ports.ports}
            # What a prompt does not write begins anew with it.
            self._unread = {name: array for name, array in states.items() if name not in read}
            self._places = {name: array for name, array in states.items() if array.dtype.kind == "i"}

    def begin(self, ids: Sequence[int], further: Mapping[str, Any]) -> np.ndarray:
        """Read a prompt, or its first tokens; scores [V] of the token after them. ``further`` are other inputs of ``prefill``."""
        reading = self.decoder.prefill
        self._one.reset()
        self._by = "prefill"
        given: dict[str, Any] = {reading.ids.name: np.asarray([ids], np.int64), **further}
        if reading.count is not None:
            given[reading.count] = np.asarray([len(ids)], np.int64)
        if any(spec.name == "attention_mask" and spec.shape == reading.ids.spec.shape for spec in reading.further):
            given.setdefault("attention_mask", np.ones((1, len(ids)), np.int64))
        self.outputs = self._one["prefill"](**given)
        return _last(self.outputs[reading.output])[0]

    def more(self, ids: Sequence[int]) -> np.ndarray:
        """Read further tokens of the prompt that was begun last; scores [V] of the token after them."""
        reading = self.decoder.decode
        self._by = "decode"
        given: dict[str, Any] = {reading.ids.name: np.asarray([ids], np.int64)}
        if reading.count is not None:
            given[reading.count] = np.asarray([len(ids)], np.int64)
        self.outputs = self._one["decode"](**given)
        return _last(self.outputs[reading.output])[0]

    def place(self, row: int) -> None:
        """Put the prompt that was read into a row."""
        if self.count > 1:
            made = self._one[self._by].states()
            self.session["decode"].put({**self._unread, **{name: made[name] for name in self._known if name in made}}, row)

    def step(self, tokens: Sequence[int | None], width: int | None = None) -> np.ndarray:
        """Read one token in each row, None in those that are free; scores [rows, V] of the next ones. ``width``: how many tokens
        are computed, of which one counts."""
        scores = self.read(self.decoder.decode, [[] if token is None else [token] for token in tokens], width or 1)
        found: np.ndarray = _last(scores) if width is None else scores[:, 0]
        return found

    def read(self, reading: Reading, tokens: Sequence[Sequence[int]], width: int) -> np.ndarray:
        """Read some tokens in each row, none in those that are free, by an entry point on the states of ``decode``; its scores.
        ``width``: how many are computed."""
        ids = np.zeros((len(tokens), width), np.int64)
        for row, own in enumerate(tokens):
            ids[row, : len(own)] = own
            if not own and self.count > 1:
                # It reads a token like the others, at the place where a prompt begins.
                self.session["decode"].put(self._places, row)
        given: dict[str, Any] = {reading.ids.name: ids}
        if reading.count is not None:
            given[reading.count] = np.asarray([len(own) for own in tokens], np.int64)
        self.outputs = self.session[reading.entry](**given)
        found: np.ndarray = self.outputs[reading.output]
        return found


def _last(scores: np.ndarray) -> np.ndarray:
    """Scores after the last token of each row, of [B, V] or [B, T, V]."""
    return scores if scores.ndim == 2 else scores[:, -1]
