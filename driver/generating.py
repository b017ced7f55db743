"""Generating text with a compiled program, wherever it is: a folder, an opened program, or an artifact in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from ..ir.diagnostics import Diagnostic
from ..runtime.program import ProgramRunner
from .programs import ProgramArtifact, open_any

if TYPE_CHECKING:
    from ..runtime.generate.engine import Mask
    from ..runtime.generate.run import Completion, Piece


def decodable(model: Any, threads: int | None = None) -> ProgramRunner:
    """What runs a program of several entry points. Raises E0001, E0014 for no artifact, E0950 for one of one model."""
    opened = open_any(model, threads=threads) if isinstance(model, (str, os.PathLike)) else model
    if isinstance(opened, ProgramArtifact):
        return opened.program
    if isinstance(opened, ProgramRunner):
        return opened
    shown = f"`{model}`" if isinstance(model, (str, os.PathLike)) else repr(model)
    raise Diagnostic(
        "E0950", f"{shown} is no program with the entry points `prefill` and `decode`",
        help="the pass `add_cache` makes one of a model without a cache; compiled it is a folder",
    )  # fmt: skip


def generate(
    model: Any, prompts: str | Sequence[int] | Sequence[str | Sequence[int]], *,
    tokenizer: str | os.PathLike[str] | None = None, max_tokens: int = 64, stop: str | Sequence[str] = (),
    eos: str | int | Sequence[str | int] | None = None, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0,
    min_p: float = 0.0, repetition_penalty: float = 1.0, seed: int = 0, rows: int = 8, capacity: int | None = None,
    mask: Mask | None = None, inputs: Mapping[str, Any] | None = None, stream: bool = False, draft: Any = None,
    shape: str = "chain", budget: int = 4, width: int = 2, deterministic_rows: int | None = None,
    threshold: float | None = None, confidence: float | None = None,
) -> Completion | list[Completion] | Iterator[Piece]:  # fmt: skip
    """Let a program go on with prompts, which take free rows of its cache as others finish.

    A program has the entry points ``prefill`` and ``decode`` on one cache. The same seed gives the same tokens on every target, and
    for a prompt whatever runs beside it.

    Args:
        model: the folder of a compiled program, an opened one (``tessera.open``) or an artifact (``tessera.compile``).
        prompts: one text or row of token ids, or several.
        tokenizer: a ``tokenizer.json`` or its folder; needed for texts and stop words.
        max_tokens: how many to make at most, of each prompt.
        stop: texts that end a completion; they are not part of it.
        eos: tokens that end one, by name or id; without, those that the files beside the tokenizer name, or well-known ones.
        temperature, top_k, top_p, min_p, repetition_penalty, seed: how a token is drawn, see
            :class:`~tessera.runtime.generate.sampling.Sampling`; without them the best token is taken.
        rows: how many prompts at a time.
        capacity: how many tokens a row of the cache holds; as many as are needed without.
        mask: a constraint, from the tokens so far to bool [V] of those that may come next, or None for all.
        inputs: other inputs of ``prefill``, with as many rows as there are prompts.
        stream: give the pieces as they come.
        draft: a smaller model of the same vocabulary, which proposes tokens that the model then reads in one pass; what comes out
            has the same distribution. Prompts run one after the other.
        shape, budget, width: how drafts grow, see :class:`~tessera.runtime.generate.speculative.tree.Growth`.
        deterministic_rows: how many tokens each pass computes, whatever counts: chains of drafts and single tokens are then the
            same bits.
        threshold: of a program of a small model, a large one and a router: the large model chooses the tokens where the router
            gives more; 0 for all, 1 for none.
        confidence: of a program that reads and writes groups of tokens: a group goes on where its chance to is higher; 0 for groups
            as long as they may be, 1 for one token each.

    Returns:
        A completion, or one a prompt; with ``stream`` an iterator over pieces.

    Raises:
        Diagnostic: E0950 no such program, E0951 a prompt that does not fit, E0952 a number that there is no such rule of, E0953 a
            tokenizer of another model, E0954 a draft that does not fit, E0955 where no token is left, E0957 a
            program without a router, E0958 one that writes no groups.
    """
    from ..runtime.generate.run import Generation
    from ..runtime.generate.sampling import Sampling
    from ..runtime.generate.speculative.tree import Growth

    several, alone = _prompts(prompts)
    generation = Generation(
        decodable(model), several, tokenizer=tokenizer,
        eos=None if eos is None else _listed(eos, "eos", (str, Integral), "a token, by name or id"),
        stop=_listed(stop, "stop", (str,), "a text"), rows=rows, capacity=capacity, max_tokens=max_tokens, mask=mask, inputs=inputs,
        sampling=Sampling(repetition_penalty, temperature, top_k, top_p, min_p, seed),
        draft=(decodable(draft), Growth(shape, budget, width)) if draft is not None else None, width=deterministic_rows,
        threshold=threshold, confidence=confidence,
    )  # fmt: skip
    if stream:
        return iter(generation)
    found = generation.completions()
    return found[0] if alone else found


def _prompts(given: Any) -> tuple[list[Any], bool]:
    """Prompts in a list, and whether there was one alone: a text, or a row of ids. Raises E0951."""
    if isinstance(given, str):
        return [given], True
    if isinstance(given, (bytes, Mapping)) or not isinstance(given, Iterable):
        raise Diagnostic("E0951", f"prompts are texts or rows of token ids, not {type(given).__name__}")
    several = list(given)
    alone = bool(several) and (getattr(several[0], "ndim", 1) == 0 or not isinstance(several[0], Iterable))
    return ([several], True) if alone else (several, False)


def _listed(given: Any, name: str, one: tuple[type, ...], shown: str) -> list[Any]:
    """What is given alone or in a list, in a list; an empty one for None. Raises E0952."""
    if given is None or isinstance(given, one):
        return [] if given is None else [given]
    if isinstance(given, (bytes, Mapping)) or not isinstance(given, Iterable):
        raise Diagnostic("E0952", f"`{name}` is {given!r}, and must be {shown}, or several in a list")
    return list(given)
