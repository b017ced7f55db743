"""Random programs for generated kernels: elementwise ops and reductions of rows over frames of up to four axes, whose operands are
broadcast along any axis, transposed, of several dtypes, and joined along any axis.

Values stay exact where they are compared or rounded to integers, as in `random_programs`.
"""

from __future__ import annotations

from collections.abc import Callable

from .random_programs import Pick, Var, Writer

HEAD = """use std.nn (gelu, layer_normalize, log_softmax, rms_normalize, silu, softmax, swiglu)
"""
# Rows of one column, of a power of two, and of neither.
WIDTHS = ("1", "2", "3", "T", "2 * B", "37")
NARROW = ("i8", "i16", "i32", "u8")


class Groups(Writer):
    """A writer of what groups are made of, with what closes them in between."""

    def declare(self) -> None:
        self.frame = tuple(str(self.one("B", "T", "2", "3")) for _ in range(self.pick(4)))
        self.frame = (*self.frame, str(self.one(*WIDTHS)))
        self.inputs.append(Var(self.fresh("x"), "F", self.frame))
        self.inputs.append(Var(self.fresh("x"), "F", ("B", "T")))
        for _ in range(2 + self.pick(3)):
            shape = self.part(self.frame)
            dtype = str(self.one("F", "F", "F", "i64", "bool", *NARROW[self.pick(4) :]))
            self.inputs.append(Var(self.fresh("x"), dtype, shape))
        self.vars += [v for v in self.inputs if v.dtype not in NARROW]
        for v in self.inputs:
            if v.dtype in NARROW:
                self.bind(f"cast({v.name}, i64)", "i64", v.shape, True)

    def part(self, frame: tuple[str, ...]) -> tuple[str, ...]:
        """What broadcasts to a frame: fewer axes, and some of one element."""
        begin = self.pick(3) and self.pick(len(frame) + 1)
        return tuple("1" if self.pick(3) == 0 else d for d in frame[begin:])

    def beside(self, x: Var) -> Var | None:
        def fits(shape: tuple[str, ...]) -> bool:
            ends = x.shape[len(x.shape) - len(shape) :]
            return len(shape) <= len(x.shape) and all(a in ("1", b) for a, b in zip(shape, ends, strict=True))

        fitting = [v for v in self.vars if v.dtype == x.dtype and fits(v.shape)]
        return fitting[self.pick(len(fitting))] if fitting else None

    def kinds(self) -> list[Callable[[], bool]]:
        return [self.unary, self.unary, self.binary, self.binary, self.binary, self.row, self.row, self.compare, self.choose,
                self.integer, self.bits, self.narrow, self.view, self.view, self.normal, self.positions, self.joined, self.order,
                self.power, self.apart, self.fold]  # fmt: skip

    def row(self) -> bool:
        """A reduction of the last axis."""
        x = self.find(least=1)
        if x is None:
            return False
        keep = bool(self.pick(3))
        ops = {"F": ("sum", "mean", "max", "min", "logsumexp"), "i64": ("sum", "max", "min"), "bool": ("any", "all")}[x.dtype]
        op = str(self.one(*ops))
        text = f"{op}({x.name}, axis=-1, keepdims={'true' if keep else 'false'})"
        exact = (x.exact and op not in ("sum", "mean", "logsumexp")) or x.dtype != "F"
        wide = "tanh({})" if x.dtype == "F" and op == "sum" else "({}) % 1000" if op == "sum" else "{}"
        return bool(self.bind(wide.format(text), x.dtype, (*x.shape[:-1], "1") if keep else x.shape[:-1], exact))

    def bits(self) -> bool:
        x = self.find("i64")
        y = self.beside(x) if x else None
        if x is None or y is None:
            return False
        text = str(self.one(
            "bitwise_and({}, {})", "bitwise_or({}, {})", "bitwise_xor({}, {})", "bitwise_not({}) + {}", "left_shift({}, {} % 8)",
            "right_shift({}, {} % 8)", "({}) // (abs({}) + 1)", "sign({}) - {}",
        ))  # fmt: skip
        return bool(self.bind(f"({text.format(x.name, y.name)}) % 1000", "i64", x.shape, True))

    def narrow(self) -> bool:
        """Through an integer of fewer bits."""
        x = self.find("i64")
        if x is None:
            return False
        dtype = self.one(*NARROW)
        small = self.bind(f"cast({x.name} % 100, {dtype})", "small", x.shape, True)
        self.vars.remove(small)
        larger = f"maximum({small.name}, cast({x.name} % 7, {dtype}))"
        text = self.one(small.name, larger, f"max({small.name}, axis=-1, keepdims=true)")
        shape = (*x.shape[:-1], "1") if str(text).startswith("max(") else x.shape
        return bool(x.shape and self.bind(f"cast({text}, i64)", "i64", shape, True))

    def view(self) -> bool:
        x = self.find()
        if x is None:
            return False
        rank, kind = len(x.shape), self.pick(4)
        if kind == 0 and rank > 1:
            order = sorted(range(rank), key=lambda _: self.pick(100))
            return bool(self.bind(f"transpose({x.name}, {order})", x.dtype, tuple(x.shape[i] for i in order), x.exact))
        if kind == 1 and rank < 4:
            at = self.pick(rank + 1)
            return bool(self.bind(f"unsqueeze({x.name}, {at})", x.dtype, (*x.shape[:at], "1", *x.shape[at:]), x.exact))
        if kind == 2 and "1" in x.shape:
            at = x.shape.index("1")
            return bool(self.bind(f"squeeze({x.name}, axis={at})", x.dtype, x.shape[:at] + x.shape[at + 1 :], x.exact))
        if kind == 3 and rank < 4:
            dim = str(self.one("B", "T", "3"))
            return bool(self.bind(f"expand({x.name}, [{', '.join((dim, *x.shape))}])", x.dtype, (dim, *x.shape), x.exact))
        return False

    def normal(self) -> bool:
        x = self.find("F", least=1)
        if x is None:
            return False
        name = str(self.one("softmax", "log_softmax", "gelu", "silu", "layer_normalize", "rms_normalize", "swiglu"))
        given = f"{x.name}, {x.name}" if name == "swiglu" else x.name
        return bool(self.bind(f"{name}({given})", "F", x.shape, False))

    def positions(self) -> bool:
        """A mask of positions, which every group that reads it makes for itself."""
        x = self.find("F", least=2)
        if x is None:
            return False
        rows, columns = x.shape[-2:]
        seen = f"unsqueeze(iota({rows}), 1) {self.one('>=', '<', '!=')} unsqueeze(iota({columns}), 0)"
        return bool(self.bind(f"where({seen}, {x.name}, {self.one('0.0', '-1.0')})", "F", x.shape, x.exact))

    def joined(self) -> bool:
        x = self.find(least=1)
        if x is None:
            return False
        same = [v for v in self.vars if v.type == x.type]
        y = same[self.pick(len(same))]
        axis = self.pick(len(x.shape))
        if self.pick(2) and len(x.shape) < 4:
            stacked = (*x.shape[:axis], "2", *x.shape[axis:])
            return bool(self.bind(f"stack({x.name}, {y.name}, axis={axis})", x.dtype, stacked, x.exact and y.exact))
        shape = tuple(f"2 * ({d})" if i == axis else d for i, d in enumerate(x.shape))
        return bool(self.bind(f"concat({x.name}, {y.name}, axis={axis})", x.dtype, shape, x.exact and y.exact))

    def power(self) -> bool:
        x = self.find("F")
        return bool(x and self.bind(f"tanh({x.name}) ** {self.one('2.0', '3.0', '2.5')}", "F", x.shape, False))

    def apart(self) -> bool:
        """What no group computes, between what groups do."""
        x = self.find("F", least=1)
        if x is None:
            return False
        return bool(self.bind(f"flip({x.name}, axis={self.pick(len(x.shape))})", "F", x.shape, x.exact))


def random_groups(pick: Pick, dtype: str = "f32", statements: int = 14) -> str:
    """The source of a program in which `F` is ``dtype``."""
    text = Groups(pick, statements, HEAD).program()
    return text.replace("F[", f"{dtype}[").replace(", F)", f", {dtype})")
