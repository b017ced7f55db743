"""Methods: ops that reduce tokens. A method's signature says what it needs, its `require`s how many tokens may leave.

    op m(x: float[B, T, D], map: TokenMap[B, N, T], <wants>, *, r | k, protect, last, <options>)
        -> (float[B, T', D], TokenMap[B, N, T'])

What it wants is told by the names of its operands (:mod:`.wants`). `r` tokens leave, or `k` stay. `protect` and `last`, where it
has them, are how many first and last tokens stay as they are. Its other static parameters are options of the pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ...ir.diagnostics import Diagnostic, Span, did_you_mean
from ...ir.dims.dim import Dim, as_dim, const, dim_min, sym
from ...ir.graph import Module
from ...ir.library import ops_of, written
from ...ir.notation import show_value
from ...ir.op import Composite
from ...ir.signature import REQUIRED, Pattern, Static
from ...ir.types import DType, TensorType, f32, i64
from ..options import Option
from .stream import RECORD, Ends, Facts, is_map, is_reduction
from .wants import WANTS, find_want

STD = "std.token"
# What cannot be the name of an op, since it is a word of the language.
_WORDS = {"random": "by_chance"}
# What the pass itself says: `padding` whether some tokens are, `counted` whether the first ones are counted without it.
_OWN = frozenset({"r", "k", "protect", "last", "padding", "counted"})
# What a pass that knows the grid says of it and its clusters.
GRID = frozenset({"height", "width", "rows", "columns"})
_NOTHING = const(0)
# Numbers of tokens at an end that stand for one that only run time knows.
_STAND_IN = (3, 50)
_KINDS: dict[str, Any] = {"int": int, "real": float, "bool": bool, "str": str, "list": tuple[int | float, ...]}


@dataclass(frozen=True)
class Method:
    """An op that fits, as a pass uses it.

    Args:
        settings: the values of its further static parameters that are given, and of those of the way back.
        back: the op that gives every token a value again; None to copy.
    """

    op: Composite
    settings: tuple[tuple[str, Any], ...] = ()
    back: Composite | None = None

    @property
    def statics(self) -> dict[str, Static]:
        return statics_of(self.op)

    @property
    def budget(self) -> str:
        """``r`` when the op is told how many tokens leave, ``k`` when how many stay."""
        return "r" if "r" in self.statics else "k"

    @property
    def wants(self) -> list[tuple[str, Pattern]]:
        """The operands behind the features and the map, which it gets when it asks."""
        return [(o.name, o.type) for o in self.op.signature.operands[2:] if isinstance(o.type, Pattern)]

    def attrs(
        self, left: Dim, present: Dim, protect: int | Dim, last: int | Dim, padding: bool, counted: bool = False
    ) -> dict[str, Any]:
        """The static arguments with which ``left`` of ``present`` tokens stay."""
        own = {"r": present - left, "k": left, "protect": protect, "last": last, "padding": padding, "counted": counted}
        return {name: value for name, value in {**own, **dict(self.settings)}.items() if name in self.statics}

    def limits(self, protect: int | Dim, last: int | Dim) -> Limits:
        """What its `require`s say of the number of tokens. Raises Diagnostic E0501 when they allow no such ``protect``."""
        if isinstance(protect, int) and isinstance(last, int):
            return _limits(self, protect, last)
        # How many may leave of those between the ends does not hang on how many stand there: two numbers show it.
        known = [[end if isinstance(end, int) else n for end in (protect, last)] for n in _STAND_IN]
        limits, other = (_limits(self, *numbers) for numbers in known)
        between = [one.cap(sym("tokens") + sum(numbers)) for one, numbers in zip((limits, other), known, strict=True)]
        if between[0] != between[1] or limits.only != other.only:
            raise Diagnostic(
                "E0705",
                f"how many tokens the method `{self.op.name}` lets go hangs on how many stay, which only run time knows here",
                help="choose another method, or fix the sizes of the inputs",
            )  # fmt: skip
        return replace(limits, fewest=1, why="", shift=sum(known[0]) - as_dim(protect) - as_dim(last))

    def checked_ends(self, ends: Ends, option: str, value: Any) -> Ends:
        """How many first and last tokens are to stay, as an option of that value asks.

        Raises E0705 for a method that cannot let tokens stay, and what the method requires of their number.
        """
        for name, number in zip(("protect", "last"), ends, strict=True):
            if number != 0 and name not in self.statics:
                raise Diagnostic(
                    "E0705",
                    f"`{option}={show_value(value)}` asks that tokens stay, but the method `{self.op.name}` has no "
                    f"`{name}: int = 0`",
                    help=f"declare `{name}: int = 0` among its static parameters, as `keep_best` has it, or leave `{option}` out",
                )
        self.limits(*ends)
        return ends

    def admits(self, protect: int, last: int) -> bool:
        """Whether so many first and last tokens can be protected."""
        if (protect and "protect" not in self.statics) or (last and "last" not in self.statics):
            return False
        try:
            self.limits(protect, last)
        except Diagnostic as error:
            if error.code != "E0501":
                raise
            return False
        return True


def statics_of(op: Composite) -> dict[str, Static]:
    """The static parameters of an op by name, without those of records."""
    return {s.name: s for s in op.signature.statics if "." not in s.name}


@dataclass(frozen=True)
class Limits:
    """What holds for the number of tokens T that a method meets.

    Args:
        most: the most that may leave, expressions of ``T``.
        fewest, why: with how few it works, and what it says where there are fewer.
        only: with which number alone it works, if there is one.
        facts: what it does.
        shift: what is added to the number of tokens that ``cap`` is asked about: those that are not counted.
    """

    most: tuple[Dim, ...]
    fewest: int
    why: str
    facts: Facts
    only: int | None = None
    shift: Dim = _NOTHING

    def cap(self, present: Dim) -> Dim:
        """How many of ``present`` tokens may leave."""
        present = present + self.shift
        caps = [most.subs({"T": present}) for most in self.most] or [present - 1]
        cap = caps[0]
        for other in caps[1:]:
            cap = dim_min(cap, other)
        return cap


@lru_cache(maxsize=64)
def _limits(method: Method, protect: int, last: int) -> Limits:
    """From the body, made for names instead of numbers: with T tokens present, what it requires of r."""
    op, r, present = method.op, sym("r"), sym("T")
    names = {s: sym(s) for _, p, _ in op.signature.leaves() for d in p.shape if isinstance(d, Dim) for s in d.symbols}
    dims = dict(zip((str(d) for d in _shape_of(method)), map(sym, ("B", "T", "D")), strict=True))
    types = []
    for _, pattern, _ in op.signature.leaves():
        shape = tuple(d.subs({**names, **dims}) for d in pattern.shape if isinstance(d, Dim))
        dtype = pattern.dtype if isinstance(pattern.dtype, DType) else f32 if pattern.dtype in ("float", "any") else i64
        types.append(TensorType(dtype, shape))
    attrs = method.attrs(present - r if method.budget == "r" else sym("k"), present, protect, last, True)
    op.infer(types, attrs)
    body = op.instantiate(types, attrs)
    facts = Facts(**op.record_statics(body)[0])
    if facts.merged and not facts.total:
        raise Diagnostic(
            "E0716",
            f"the op `{op.name}` cannot reduce tokens: it gives means of those that it merges (`merged=true`), and drops others "
            "(`total=false`), which the sizes of what is left do not count",
            help="merge what leaves into a token that stays, or drop it and leave the features of the others as they are",
        )
    most, fewest, why, only = [], 1, "", None
    for need in body.requires:
        small, large = (need.left, need.right) if need.op in ("<", "<=") else (need.right, need.left)
        room = large - small - (1 if need.op in ("<", ">") else 0)
        if room.symbols == {"T"} and need.op != "==":
            # `T >= 2`.
            fewest, why = max((fewest, why), (-int(room.subs({"T": as_dim(0)})), need.message))
        if need.op == "==" and (one := room - present).value is not None:
            # `T == 64`.
            only, why = -one.value, need.message
        bound = _solved(room, "r") if method.budget == "r" else _kept(room, present)
        if bound is not None:
            most.append(bound)
    return Limits(tuple(most), fewest, why, facts, only)


def _shape_of(method: Method) -> list[Dim]:
    type = method.op.signature.operands[0].type
    assert isinstance(type, Pattern)
    return [d for d in type.shape if isinstance(d, Dim)]


def _solved(room: Dim, name: str) -> Dim | None:
    """The largest r for which ``room >= 0``, where that is `a - r`."""
    rest = room + sym(name)
    return rest if name in room.symbols and name not in rest.symbols else None


def _kept(room: Dim, present: Dim) -> Dim | None:
    """How many may leave where `room >= 0` bounds what stays from below: `k - a`."""
    rest = room - sym("k")
    return present + rest if "k" in room.symbols and "k" not in rest.symbols else None


# Finding -------------------------------------------------------------------------------------------------------------


def find_method(name: str, module: Module | None, what: str, span: Span | None = None) -> Composite:
    """The op that ``name`` means: one of std.token or of a module below it, a qualified one, or `file.tess:name`.

    Raises:
        Diagnostic: E0001 no such file, E0201 no such op, or several, E0716 a signature that does not fit.
    """
    op = written(name, module)
    if op is None:
        known = methods()
        found = _WORDS.get(name, name)
        if found not in known:
            names = sorted({*known, *_WORDS} - set(_WORDS.values()))
            raise Diagnostic(
                "E0201", f"there is no method `{name}` for {what}", span,
                help=did_you_mean(name, names)
                or f'the methods are {", ".join(names)}; one of your own is `method="mine.tess:name"`',
            )  # fmt: skip
        op, *others = known[found]
        if others:
            names = [f'"{other.qualified}"' for other in known[found]]
            raise Diagnostic(
                "E0201", f"there are {len(names)} methods `{name}` for {what}: which of them is not said", span,
                help=f"write where it is declared: `method={' or '.join(names)}`",
            )  # fmt: skip
    _check(op, span)
    return op


def methods() -> dict[str, list[Composite]]:
    """The shipped methods by name, of std.token and the modules below it; one each, unless modules disagree."""
    found: dict[str, list[Composite]] = {}
    for op in ops_of(STD):
        if is_reduction(op):
            found.setdefault(op.name, []).append(op)
    return found


def _check(op: Composite, span: Span | None) -> None:
    problem = misfit(op)
    if problem is not None and (operand := _unknown(op)) is not None:
        raise Diagnostic(
            "E0716", f"the op `{op.name}` cannot reduce tokens in a pass: {problem}", span,
            help=f"call `{op.name}` in the program, where the model computes `{operand}`; or name the operand by what it is, of "
            f"{', '.join(WANTS)}",
        )  # fmt: skip
    if problem is not None:
        raise Diagnostic(
            "E0716", f"the op `{op.name}` cannot reduce tokens: {problem}", span,
            help=f"a method is `op {op.name}(x: float[B, T, D], map: TokenMap[B, N, T], …, *, r: int) -> "
            "(float[B, T - r, D], TokenMap[B, N, T - r])`",
        )  # fmt: skip


def misfit(op: Composite) -> str | None:
    """What about an op's signature keeps it from being a method."""
    operands, results = op.signature.operands, op.signature.results
    statics = {s.name for s in op.signature.statics}
    first = operands[0].type if operands else None
    if not isinstance(first, Pattern) or first.dtype != "float" or len([d for d in first.shape if _name(d)]) != 3:
        return "its first operand must be the features `x: float[B, T, D]`"
    if len(operands) < 2 or not is_map(operands[1].type):
        return f"its second operand must be the token map, the record {RECORD[1]} of {RECORD[0]}"
    if ("r" in statics) == ("k" in statics):
        return "it needs one static parameter that says how many tokens leave, `r: int`, or how many stay, `k: int`"
    if len(results) != 2 or not isinstance(results[0].type, Pattern) or not is_map(results[1].type):
        return "it must return the features and the token map, `(float[B, T - r, D], TokenMap[B, N, T - r])`"
    unknown = _unknown(op)
    return None if unknown is None else f"nothing is known of its operand `{unknown}`"


def _unknown(op: Composite) -> str | None:
    """The operand of which no want is known."""
    return next((o.name for o in op.signature.operands[2:] if find_want(o.name, op) is None), None)


def _name(dim: Any) -> str | None:
    return dim.symbol if isinstance(dim, Dim) else None


# Options -------------------------------------------------------------------------------------------------------------


def further_options(
    op: Composite, back: Composite | None = None, told: frozenset[str] = frozenset()
) -> dict[str, Option]:
    """The options that a method adds to those of the pass: its own static parameters, and those of the way back.

    ``told``: what the pass says to them beside the budget.
    """
    found: dict[str, Option] = {}
    for one in (op, back) if back is not None else (op,):
        for static in statics_of(one).values():
            if static.name in _OWN | told or static.kind not in _KINDS or static.name in found:
                continue
            default = None if static.default is REQUIRED or callable(static.default) else static.default
            kind = _KINDS[static.kind]
            found[static.name] = Option(static.name, kind | None if default is None else kind, default, f"of `{one.name}`")
    return found


def check_required(op: Composite, given: Mapping[str, Any], what: str, told: frozenset[str] = frozenset()) -> None:
    """Raises E0705 when a method's parameter that has no default is not given."""
    for static in op.signature.statics:
        needed = static.default is REQUIRED and not static.optional and "." not in static.name
        if needed and static.name not in _OWN | told and static.name not in given:
            raise Diagnostic(
                "E0705", f"the method `{op.name}` of {what} needs `{static.name}: {static.kind}`",
                help=f"write `{what}(…, {static.name}={show_value('…')})`",
            )  # fmt: skip
