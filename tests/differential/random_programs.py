"""Typed random programs as source: states, random inputs, loops, choices, scans, records, scalars, einsums, composites, free sizes.

What selects, rounds or compares floats is only written over values that every backend has bit by bit the same (`exact`): a sum
that is rounded otherwise may fall on the other side. Values stay small, so that rounding does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

Pick = Callable[[int], int]

HEAD = """use std.attention (attention)
use std.nn (gelu, layer_norm, layer_normalize, linear, log_softmax, rms_normalize, silu, softmax, softplus)

record Pair[B, N] { first: F[B, N]  second: F[B, N] }

op swap(p: Pair[B, N], *, scale: real) -> Pair[B, N] {
    return Pair(first=p.second * scale, second=p.first + p.second)
}

op mix(x: float[...], y: float[...]?, *, k: int = 2) -> (float[...], float[...] if k > 1) {
    z = sin(x) * 0.5
    if given(y) {
        z = z + y
    }
    if k > 1 {
        return z, tanh(z)
    }
    return z
}

fn compose(a1: F[B], b1: F[B], a2: F[B], b2: F[B]) -> (F[B], F[B]) {
    return a1 * a2, b1 * a2 + b2
}

fn larger(a: F[B], b: F[B]) -> F[B] {
    return maximum(a, b)
}
"""
# What may stand for a size: a symbol, an expression of symbols, a number.
DIMS = ("B", "T", "2", "3", "4", "T + 1", "2 * B")


@dataclass(frozen=True)
class Var:
    """A name, its dtype (``F`` is the program's float), its shape, and whether all backends have the same bits."""

    name: str
    dtype: str
    shape: tuple[str, ...]
    exact: bool = True

    @property
    def type(self) -> str:
        return f"{self.dtype}[{', '.join(self.shape)}]"


class Writer:
    """Writes one program; ``pick(n)`` chooses below n, so that a seed or a test library may say how."""

    def __init__(self, pick: Pick, statements: int = 10, head: str = HEAD) -> None:
        self.pick = pick
        self.head = head
        self.count = 0
        self.lines: list[str] = []
        self.depth = 1
        self.vars: list[Var] = []
        self.inputs: list[Var] = []
        self.states: list[Var] = []
        self.steps = statements

    # Choosing ----------------------------------------------------------------------------------------------------

    def one(self, *items: object) -> object:
        return items[self.pick(len(items))]

    def dim(self) -> str:
        return str(self.one(*DIMS))

    def fresh(self, prefix: str = "v") -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def find(self, dtype: str | None = None, least: int = 0, exact: bool = False) -> Var | None:
        """A value of that dtype and at least so many axes; the latest ones are likelier."""
        fitting = [
            v for v in self.vars
            if (dtype is None or v.dtype == dtype) and len(v.shape) >= least and (v.exact or not exact)
        ]  # fmt: skip
        if not fitting:
            return None
        return fitting[max(self.pick(len(fitting)), self.pick(len(fitting)))]

    def bind(self, text: str, dtype: str, shape: tuple[str, ...], exact: bool) -> Var:
        made = Var(self.fresh(), dtype, shape, exact)
        self.line(f"{made.name} = {text}")
        self.vars.append(made)
        return made

    def beside(self, x: Var) -> Var | None:
        """A value that broadcasts with x: of its type, or a scalar, or x reduced along its axes."""
        fitting = [v for v in self.vars if v.dtype == x.dtype and v.shape in (x.shape, (), x.shape[1:])]
        return fitting[self.pick(len(fitting))] if fitting else None

    # Whole programs ----------------------------------------------------------------------------------------------

    def program(self) -> str:
        self.declare()
        made = 0
        while made < self.steps:
            made += self.statement()
        outputs = self.vars[-1 : -1 - 1 - self.pick(3) : -1]
        for state in self.states:
            same = [v for v in self.vars if v.type == state.type and v.name != state.name]
            if same:
                self.line(f"{state.name} = {same[self.pick(len(same))].name}")
        if self.pick(3) == 0:
            tapped = self.vars[self.pick(len(self.vars))]
            self.line(f"tap seen = {tapped.name}")
        self.line(f"return {', '.join(v.name for v in outputs)}")
        takes = ", ".join(f"{v.name}: {v.type}" for v in self.inputs)
        gives = ", ".join(v.type for v in outputs)
        body = "\n".join(self.lines)
        return f"{self.head}\nmodel m({takes}) -> ({gives}) {{\n{body}\n}}\n"

    def declare(self) -> None:
        for _ in range(1 + self.pick(3)):
            shape = tuple(self.dim() for _ in range(self.pick(4)))
            dtype = str(self.one("F", "F", "F", "i64", "bool"))
            self.inputs.append(Var(self.fresh("x"), dtype, shape))
        # A size is told by an axis that is just it.
        self.inputs.append(Var(self.fresh("x"), "F", ("B", "T")))
        self.vars += self.inputs
        for _ in range(self.pick(3)):
            state = Var(self.fresh("s"), str(self.one("F", "F", "i64")), self.one((), ("B",), ("B", "T"), ("3",)))  # type: ignore[arg-type]
            self.line(f"state {state.name}: {state.type} = {self.one('zeros', 'ones')}")
            self.states.append(state)
            self.vars.append(state)
        for _ in range(self.pick(2)):
            self.random()
        for _ in range(self.pick(2)):
            shape = self.one((), ("3",), ("4",), ("2", "3"))
            w = Var(self.fresh("w"), "F", shape)  # type: ignore[arg-type]
            self.line(f"param {w.name}: {w.type} = {self.one('normal(0.5)', 'ones', 'constant(0.25)')}")
            # What reads it, because a parameter that nobody reads is refused.
            self.vars.append(w)
            self.bind(f"{w.name} + 1.0", "F", w.shape, True)

    def random(self) -> None:
        law = str(self.one("uniform(0, 1)", "normal(0, 1)", "gumbel", "bernoulli(0.5)", "categorical(0.5, 0.25, 0.25)"))
        dtype = {"b": "bool", "c": "i64"}.get(law[0], "F")
        made = Var(self.fresh("u"), dtype, self.one((), ("B", "T"), ("T",), ("2", "B")))  # type: ignore[arg-type]
        self.line(f"random {made.name}: {made.type} = {law}")
        self.vars.append(made)

    def statement(self) -> bool:
        """Write one statement; whether there was something that it could be about."""
        kinds = self.kinds()
        return kinds[self.pick(len(kinds))]()

    def kinds(self) -> list[Callable[[], bool]]:
        """What may be written here."""
        kinds = [self.unary, self.binary, self.binary, self.reduce, self.einsum, self.shape, self.shape, self.join, self.compare,
                 self.choose, self.order, self.integer, self.along, self.composite, self.index]  # fmt: skip
        if self.depth == 1:
            kinds += [self.fold, self.scan, self.cond, self.loop, self.record, self.layer, self.attend]
        return kinds

    # Statements --------------------------------------------------------------------------------------------------

    def unary(self) -> bool:
        x = self.find("F")
        if x is None:
            return False
        op = str(self.one(
            "tanh({})", "sin({})", "sigmoid({})", "neg({})", "abs({})", "cos({})", "sqrt(abs({}) + 0.5)", "erf({})",
            "exp(-abs({}))", "log(abs({}) + 1.0)", "rsqrt(abs({}) + 1.0)", "{} * 0.5", "2.0 - {}", "{} / 3.0",
        ))  # fmt: skip
        exact = x.exact and op in ("neg({})", "abs({})", "{} * 0.5", "2.0 - {}")
        return bool(self.bind(op.format(x.name), "F", x.shape, exact))

    def binary(self) -> bool:
        x = self.find("F")
        y = self.beside(x) if x else None
        if x is None or y is None:
            return False
        op = str(self.one("{} + {}", "{} - {}", "{} * {}", "maximum({}, {})", "minimum({}, {})", "{} / (abs({}) + 1.0)"))
        a, b = (x, y) if self.pick(2) else (y, x)
        shape = x.shape if len(x.shape) >= len(y.shape) else y.shape
        made = op.format(a.name, b.name)
        if "*" in op:  # products of products stay small
            made = f"tanh({made})"
        return bool(self.bind(made, "F", shape, x.exact and y.exact and "m" in op))

    def reduce(self) -> bool:
        x = self.find(least=1)
        if x is None:
            return False
        axis, keep = self.pick(len(x.shape)), bool(self.pick(2))
        ops = {"F": ("sum", "mean", "max", "min", "logsum"), "i64": ("sum", "max", "min"), "bool": ("any", "all")}[x.dtype]
        op = str(self.one(*ops))
        rest = tuple("1" if keep and i == axis else d for i, d in enumerate(x.shape) if keep or i != axis)
        end = f", axis={axis}, keepdims={'true' if keep else 'false'})"
        text = f"log(sum(exp(tanh({x.name})){end})" if op == "logsum" else f"{op}({x.name}{end}"
        if op == "sum" and x.dtype == "F":
            text = f"tanh({text})"
        return bool(self.bind(text, x.dtype, rest, (x.exact and op not in ("sum", "mean", "logsum")) or x.dtype != "F"))

    def einsum(self) -> bool:
        count = 1 + self.pick(3)
        terms: list[list[str]] = []
        names: list[str] = []
        dims: dict[str, str] = {}
        letter: dict[str, str] = {}
        for _ in range(count):
            x = self.find("F")
            if x is None:
                return False
            term = []
            for i, dim in enumerate(x.shape):
                # One letter for a size, or another one now and then.
                name = letter.setdefault(dim, f"a{len(dims)}") if self.pick(3) else f"c{len(terms)}{i}"
                dims[name] = dim
                term.append(name)
            terms.append(term)
            names.append(f"tanh({x.name})" if self.pick(2) else x.name)
        out = [n for n in dims if self.pick(2)][:3]
        equation = f"{', '.join(map(' '.join, terms))} -> {' '.join(out)}".strip()
        made = self.bind(f'einsum("{equation}", {", ".join(names)})', "F", tuple(dims[n] for n in out), False)
        return bool(self.bind(f"tanh({made.name})", "F", made.shape, False))

    def shape(self) -> bool:
        x = self.find()
        if x is None:
            return False
        rank, name, kind = len(x.shape), x.name, self.pick(9)
        if kind == 0 and rank > 1:
            order = sorted(range(rank), key=lambda _: self.pick(100))
            return bool(self.bind(f"transpose({name}, {order})", x.dtype, tuple(x.shape[i] for i in order), x.exact))
        if kind == 1 and rank < 4:
            at = self.pick(rank + 1)
            return bool(self.bind(f"unsqueeze({name}, {at})", x.dtype, (*x.shape[:at], "1", *x.shape[at:]), x.exact))
        if kind == 2 and rank:
            axis = self.pick(rank)
            return bool(self.bind(f"flip({name}, axis={axis})", x.dtype, x.shape, x.exact))
        if kind == 3 and rank:
            axis = self.pick(rank)
            rows = tuple(f"({d}) + 1" if i == axis else d for i, d in enumerate(x.shape))
            if x.dtype == "bool":
                return False
            return bool(self.bind(f"pad({name}, axis={axis}, {self.one('before', 'after')}=1)", x.dtype, rows, x.exact))
        if kind == 4 and rank:
            entries = ", ".join([":"] * (rank - 1) + [str(self.one(0, -1))])
            return bool(self.bind(f"{name}[{entries}]", x.dtype, x.shape[:-1], x.exact))
        if kind == 5 and rank < 3:
            dim = self.dim()
            return bool(self.bind(f"expand({name}, [{', '.join((dim, *x.shape))}])", x.dtype, (dim, *x.shape), x.exact))
        if kind == 6 and rank > 1:
            first = f"({x.shape[0]}) * ({x.shape[1]})"
            made = self.bind(f"reshape({name}, [{', '.join((first, *x.shape[2:]))}])", x.dtype, (first, *x.shape[2:]), x.exact)
            return bool(made)
        if kind == 7 and rank > 1:
            words = [f"d{i}" for i in range(rank)]
            turned = [words[-1], *words[:-1]]
            pattern = f"{' '.join(words)} -> {' '.join(turned)}"
            return bool(self.bind(f'rearrange({name}, "{pattern}")', x.dtype, (x.shape[-1], *x.shape[:-1]), x.exact))
        if kind == 8 and rank and x.shape[0] in ("3", "4", "2 * B", "T + 1"):
            cut, left = {"3": ("1:", "2"), "4": ("::2", "2"), "2 * B": ("B:", "B"), "T + 1": (":T", "T")}[x.shape[0]]
            return bool(self.bind(f"{name}[{cut}]", x.dtype, (left, *x.shape[1:]), x.exact))
        return False

    def join(self) -> bool:
        x = self.find(least=1)
        if x is None:
            return False
        same = [v for v in self.vars if v.dtype == x.dtype and v.shape[1:] == x.shape[1:] and len(v.shape) == len(x.shape)]
        y = same[self.pick(len(same))]
        shape = (f"({x.shape[0]}) + ({y.shape[0]})", *x.shape[1:])
        return bool(self.bind(f"concat({x.name}, {y.name}, axis=0)", x.dtype, shape, x.exact and y.exact))

    def compare(self) -> bool:
        x = self.find(str(self.one("F", "i64")), exact=True)
        if x is None:
            return False
        y = self.beside(x)
        other = y.name if y is not None and y.exact else "0.25" if x.dtype == "F" else "1"
        shape = x.shape if y is None or not y.exact or len(x.shape) >= len(y.shape) else y.shape
        return bool(self.bind(f"{x.name} {self.one('<', '<=', '>', '>=', '==', '!=')} {other}", "bool", shape, True))

    def choose(self) -> bool:
        p, x = self.find("bool"), self.find(str(self.one("F", "i64")))
        if p is None or x is None:
            return False
        if p.shape not in (x.shape, (), x.shape[1:]):
            return bool(self.bind(f"not {p.name}" if self.pick(2) else f"{p.name} or not {p.name}", "bool", p.shape, True))
        other = "0.0" if x.dtype == "F" else "7"
        return bool(self.bind(f"where({p.name}, {x.name}, {other})", x.dtype, x.shape, x.exact))

    def order(self) -> bool:
        x = self.find(str(self.one("F", "i64")), least=1, exact=True)
        if x is None:
            return False
        axis = self.pick(len(x.shape))
        kind = self.pick(4)
        if kind == 0:
            rest = tuple(d for i, d in enumerate(x.shape) if i != axis)
            return bool(self.bind(f"{self.one('argmax', 'argmin')}({x.name}, axis={axis})", "i64", rest, True))
        if kind == 1:
            a, b = self.fresh(), self.fresh()
            self.line(f"{a}, {b} = sort({x.name}, axis={axis}, descending={self.one('true', 'false')})")
            self.vars += [Var(a, x.dtype, x.shape), Var(b, "i64", x.shape)]
            return True
        if kind == 2:
            a, b = self.fresh(), self.fresh()
            self.line(f"{a}, {b} = topk({x.name}, k=1, axis={axis}, largest={self.one('true', 'false')})")
            shape = tuple("1" if i == axis else d for i, d in enumerate(x.shape))
            self.vars += [Var(a, x.dtype, shape), Var(b, "i64", shape)]
            return True
        _, index = self.fresh(), self.fresh()
        self.line(f"_, {index} = sort({x.name}, axis={axis})")
        moved = self.bind(f"gather({x.name}, {index}, axis={axis})", x.dtype, x.shape, True)
        return bool(moved)

    def integer(self) -> bool:
        x = self.find("i64")
        if x is None:
            dim = self.dim()
            return bool(self.bind(f"iota({dim})", "i64", (dim,), True))
        kind = self.pick(6)
        if kind == 0:
            return bool(self.bind(f"cast({x.name} % 7, F)", "F", x.shape, True))
        if kind == 1:
            bits = self.find("bool")
            return bool(bits and self.bind(f"cast({bits.name}, i64)", "i64", bits.shape, True))
        if kind == 2:
            f = self.find("F", exact=True)
            rounded = f"{self.one('floor', 'ceil', 'round')}(minimum(maximum({f.name}, -9.0), 9.0))" if f else ""
            return bool(f and self.bind(f"cast({rounded}, i64)", "i64", f.shape, True))
        text = str(self.one("{} // 3", "{} % 3", "{} // -2", "{} % -4", "{} + 1", "{} * 2 - 1", "abs({})", "maximum({}, 1)"))
        return bool(self.bind(f"({text.format(x.name)}) % 1000", "i64", x.shape, True))

    def along(self) -> bool:
        x = self.find(str(self.one("F", "i64")), least=1)
        if x is None:
            return False
        axis = self.pick(len(x.shape))
        kind = self.pick(3)
        if kind == 0:
            end = self.one("", ", exclusive=true", ", reverse=true", ", exclusive=true, reverse=true")
            text = f"cumsum({x.name}, axis={axis}{end})"
            return bool(self.bind(f"tanh({text})" if x.dtype == "F" else text, x.dtype, x.shape, x.dtype != "F"))
        if kind == 1:
            return bool(self.bind(f"cummax({x.name}, axis={axis})", x.dtype, x.shape, x.exact))
        if x.dtype != "F":
            return False
        return bool(self.bind(f"linear_recurrence(sigmoid({x.name}), {x.name}, axis={axis})", "F", x.shape, False))

    def composite(self) -> bool:
        x = self.find("F", least=1)
        if x is None:
            return False
        kind = self.pick(3)
        if kind == 0:
            y = next((v for v in self.vars if v.type == x.type and v.name != x.name), None)
            a, b = self.fresh(), self.fresh()
            self.line(f"{a}, {b} = mix({x.name}, {y.name if y and self.pick(2) else 'none'})")
            self.vars += [Var(a, "F", x.shape, False), Var(b, "F", x.shape, False)]
            return True
        name = str(self.one("softmax", "log_softmax", "gelu", "silu", "softplus", "layer_normalize", "rms_normalize"))
        return bool(self.bind(f"{name}({x.name})", "F", x.shape, False))

    def index(self) -> bool:
        x = self.find(least=1)
        if x is None:
            return False
        axis = self.pick(len(x.shape))
        dim = x.shape[axis]
        n = str(self.one(dim, "1", "2"))
        places = f"(iota({n}) * {self.one(1, 2, 5)}) % full([], {dim}, dtype=i64)"
        rest = tuple(n if i == axis else d for i, d in enumerate(x.shape))
        if self.pick(2) or x.dtype == "bool" or axis:
            return bool(self.bind(f"take({x.name}, {places}, axis={axis})", x.dtype, rest, x.exact))
        change = f"take({x.name}, {places}, axis=0)"
        op = str(self.one("scatter_max", "scatter_min", "scatter_add"))
        made = f"{op}({x.name}, {places}, {change}, batch=0)"
        if op == "scatter_add" and x.dtype == "F":
            made = f"tanh({made})"
        return bool(self.bind(made, x.dtype, x.shape, x.exact and (op != "scatter_add" or x.dtype != "F")))

    # Blocks ------------------------------------------------------------------------------------------------------

    def block(self, statements: int, carried: list[Var], extra: list[Var]) -> None:
        """Statements that see everything, and bind what is carried anew."""
        outer, self.depth = list(self.vars), self.depth + 1
        self.vars += extra
        for _ in range(statements):
            self.statement()
        for var in carried:
            same = [v for v in self.vars if v.type == var.type]
            chosen = same[max(self.pick(len(same)), self.pick(len(same)))]
            self.line(f"{var.name} = {f'tanh({chosen.name} + {var.name})' if var.dtype == 'F' else chosen.name}")
        self.vars, self.depth = outer, self.depth - 1

    def carried(self) -> list[Var]:
        """Copies of one or two values, which a loop or choice may bind anew."""
        found = []
        for _ in range(1 + self.pick(2)):
            x = self.vars[self.pick(len(self.vars))]
            made = Var(self.fresh(), x.dtype, x.shape, False if x.dtype == "F" else x.exact)
            self.line(f"{made.name} = {x.name}")
            found.append(made)
        self.vars += found
        return found

    def fold(self) -> bool:
        carried, i = self.carried(), self.fresh("i")
        n = str(self.one("3", "2", "0", "T", "B + 1"))
        self.line(f"fold {i} in {n} from ({', '.join(v.name for v in carried)}) {{")
        self.block(1 + self.pick(3), carried, [Var(i, "i64", ())])
        self.line("}")
        return True

    def cond(self) -> bool:
        p = next((v for v in reversed(self.vars) if v.dtype == "bool" and v.shape == ()), None)
        if p is None:
            x = self.find("bool", least=1)
            if x is None:
                return False
            p = self.bind(f"any({x.name})", "bool", (), True)
        carried = self.carried()
        self.line(f"cond {p.name} from ({', '.join(v.name for v in carried)}) {{")
        self.block(1 + self.pick(2), carried, [])
        if self.pick(2):
            self.line("} else {")
            self.block(1 + self.pick(2), carried, [])
        self.line("}")
        return True

    def loop(self) -> bool:
        step, most = self.fresh("n"), self.pick(4)
        carried = self.carried()
        self.line(f"{step} = constant(0, dtype=i64)")
        names = ", ".join(v.name for v in [*carried, Var(step, "i64", ())])
        self.line(f"while {step} < {most} from ({names}) limit {self.one('5', '2', 'T')} {{")
        self.block(1 + self.pick(2), carried, [])
        self.line(f"    {step} = {step} + 1")
        self.line("}")
        self.vars.append(Var(step, "i64", ()))
        return True

    def scan(self) -> bool:
        x = self.find("F", least=2)
        if x is None or len(x.shape) != 2:
            return False
        axis = self.pick(2)
        if self.pick(2):
            return bool(self.bind(f"scan(larger, {x.name}, axis={axis})", "F", x.shape, x.exact))
        a, b = self.fresh(), self.fresh()
        self.line(f"{a}, {b} = scan(compose, sigmoid({x.name}), {x.name}, axis={axis})")
        self.vars += [Var(a, "F", x.shape, False), Var(b, "F", x.shape, False)]
        return True

    def record(self) -> bool:
        x = next((v for v in reversed(self.vars) if v.dtype == "F" and len(v.shape) == 2), None)
        if x is None:
            return False
        p = self.fresh("p")
        self.line(f"{p} = Pair(first={x.name}, second=sin({x.name}))")
        self.line(f"{p} = swap({p}, scale={self.one('0.5', '-1.0')})")
        if self.pick(2):
            self.line(f"fold {self.fresh('i')} in 2 from ({p}) {{")
            self.line(f"    {p} = swap({p}, scale=0.25)")
            self.line("}")
        self.bind(f"tanh({p}.first)", "F", x.shape, False)
        return bool(self.bind(f"tanh({p}.second)", "F", x.shape, False))

    def layer(self) -> bool:
        x = next((v for v in reversed(self.vars) if v.dtype == "F" and len(v.shape) > 1 and v.shape[-1] in ("2", "3", "4")), None)
        if x is None:
            return False
        name, made = self.fresh("l"), self.fresh()
        if self.pick(2):
            return bool(self.bind(f"layer_norm({x.name}) as {name}", "F", x.shape, False))
        out = str(self.one("2", "3", "4"))
        self.line(f"{made} = {x.name}")
        self.line(f"repeat i in 2 as {name} {{")
        self.line(f"    {made} = tanh(linear({made}, out={out}) as proj)")
        self.line("}")
        self.vars.append(replace(x, name=made, shape=(*x.shape[:-1], out), exact=False))
        return True

    def attend(self) -> bool:
        x = next((v for v in reversed(self.vars) if v.dtype == "F" and len(v.shape) == 2), None)
        if x is None:
            return False
        rows, width = x.shape
        q = f"reshape({x.name}, [1, 1, {rows}, {width}])"
        causal = self.one("", ", causal=true")
        made = f"attention({q}, {q}, {q}, scale=0.5{causal})"
        return bool(self.bind(f"reshape({made}, [{rows}, {width}])", "F", x.shape, False))


def random_program(pick: Pick, dtype: str = "f32", statements: int = 10) -> str:
    """The source of a program in which `F` is ``dtype``."""
    return Writer(pick, statements).program().replace("F[", f"{dtype}[").replace(", F)", f", {dtype})")
