"""More kinds of statements for random programs: lists, states of records, weights that calls share, loops that keep a value of
every step or lie within one another, integers by bits, segments, searches, pooling, functions as values."""

from __future__ import annotations

from collections.abc import Callable

from .random_programs import HEAD, Pick, Var, Writer

_USES = "use std.arrays (argsort, one_hot, roll)\nuse std.math (clamp, cumprod)\n"
WIDER_HEAD = HEAD.replace("use std.nn", f"{_USES}use std.nn") + """
record Memory[B] { total: F[B]  count: i64[B] }

layer cell(x: F[B, N], *, scale: real = 0.5) -> F[B, N] {
    param w: F[N, N] = normal(0.5)
    param b: F[N] = constant(0.25)
    return tanh(x @ w + b) * scale
}

layer remember(x: F[B], *, by: int = 1) -> F[B] {
    state memory: Memory[B] = Memory(total=ones, count=zeros)
    memory = Memory(total=tanh(memory.total + x), count=memory.count + by)
    return memory.total * cast(memory.count, F)
}

fn applied(x: F[...], *, act: fn, turns: int = 1) -> F[...] {
    repeat i in turns {
        x = act(x)
    }
    return x
}

fn gathered(x: F[B, N], *, parts: int) -> list {
    rows = []
    repeat i in parts {
        rows = rows + [x * (i + 1.0), sin(x)]
    }
    return rows
}
"""


class Wider(Writer):
    """A writer that knows these as well."""

    def kinds(self) -> list[Callable[[], bool]]:
        more = [self.bits, self.search, self.segments, self.pool, self.value, self.positions, self.padded, self.axes]
        if self.depth == 1:
            more += [self.several, self.shared, self.memory, self.kept, self.started, self.within, self.sized]
        return [*super().kinds(), *more]

    def plain(self) -> Var | None:
        """A matrix of floats, of which the latest are likelier."""
        fitting = [v for v in self.vars if v.dtype == "F" and len(v.shape) == 2]
        return fitting[max(self.pick(len(fitting)), self.pick(len(fitting)))] if fitting else None

    # Anywhere ----------------------------------------------------------------------------------------------------

    def bits(self) -> bool:
        x = self.find("i64")
        y = self.beside(x) if x else None
        if x is None or y is None:
            return False
        op = str(self.one("and", "or", "xor", "not", "left", "right"))
        if op == "not":
            return bool(self.bind(f"bitwise_not({x.name}) % 1000", "i64", x.shape, True))
        shape = x.shape if len(x.shape) >= len(y.shape) else y.shape
        if op in ("left", "right"):
            return bool(self.bind(f"{op}_shift({x.name} % 1000, {y.name} % 8)", "i64", shape, True))
        return bool(self.bind(f"bitwise_{op}({x.name}, {y.name}) % 1000", "i64", shape, True))

    def search(self) -> bool:
        x = self.find(str(self.one("F", "i64")), least=1, exact=True)
        if x is None:
            return False
        rows = self.fresh()
        self.line(f"{rows}, _ = sort({x.name}, axis=-1)")
        self.vars.append(Var(rows, x.dtype, x.shape))
        return bool(self.bind(f"searchsorted({rows}, {x.name}, right={self.one('true', 'false')})", "i64", x.shape, True))

    def segments(self) -> bool:
        x = self.find(str(self.one("F", "F", "i64")), least=1)
        if x is None:
            return False
        ids = f"iota({x.shape[0]}) % {self.one(1, 2, 3)}"
        op = str(self.one("sum", "max", "mean", "softmax")) if x.dtype == "F" else "sum"
        shape = x.shape if op == "softmax" else ("3", *x.shape[1:])
        made = f"segment_{op}({x.name}, {ids}, segments=3)"
        return bool(self.bind(f"tanh({made})" if op == "sum" and x.dtype == "F" else made, x.dtype, shape, x.dtype == "i64"))

    def pool(self) -> bool:
        x = self.plain()
        if x is None:
            return False
        op = str(self.one("max", "avg"))
        rows = f"unsqueeze({x.name}, 0)"
        made = f"squeeze({op}_pool1d({rows}, kernel=3, stride=1, padding=1), axis=0)"
        return bool(self.bind(made, "F", x.shape, x.exact and op == "max"))

    def value(self) -> bool:
        """A function that is passed on, with some of its parameters."""
        x = self.find("F", least=1)
        if x is None:
            return False
        act = self.one("gelu", "silu", "sin", "softmax(axis=-1)", "clamp(low=-0.5, high=0.5)", "tanh", "softplus", "log_softmax")
        turns = self.one("", ", turns=2", ", turns=0")
        return bool(self.bind(f"applied({x.name}, act={act}{turns})", "F", x.shape, False))

    def positions(self) -> bool:
        x = self.find(str(self.one("F", "i64")), least=1, exact=True)
        if x is None:
            return False
        kind = self.pick(5)
        if kind == 0:
            down = self.one("true", "false")
            return bool(self.bind(f"argsort({x.name}, axis={self.pick(len(x.shape))}, descending={down})", "i64", x.shape, True))
        if kind == 1 and x.dtype == "i64" and len(x.shape) < 3:
            return bool(self.bind(f"cast(one_hot({x.name} % 3, classes=3), F)", "F", (*x.shape, "3"), True))
        if kind == 2:
            return bool(self.bind(f"roll({x.name}, shift={self.one(1, -1, 2)}, axis=0)", x.dtype, x.shape, True))
        if kind == 3:
            a, b = self.fresh(), self.fresh()
            self.line(f"{a}, {b} = compact({x.name} > {'0.0' if x.dtype == 'F' else '3'}, capacity=3)")
            self.vars += [Var(a, "i64", (*x.shape[:-1], "3")), Var(b, "i64", x.shape[:-1])]
            return True
        if x.dtype == "F":
            return bool(self.bind(f"cumprod(tanh({x.name}), axis={self.pick(len(x.shape))})", "F", x.shape, False))
        running = f"{self.one('cumsum', 'cummax')}({x.name} % 9, axis={self.pick(len(x.shape))})"
        return bool(self.bind(running, "i64", x.shape, True))

    def padded(self) -> bool:
        x = self.find(str(self.one("F", "i64")), least=1)
        if x is None:
            return False
        axis, mode = self.pick(len(x.shape)), self.one("reflect", "edge", "circular")
        rows = tuple(f"({d}) + 3" if i == axis else d for i, d in enumerate(x.shape))
        made = f'pad({x.name}, axis={axis}, before=2, after=1, mode="{mode}")'
        return bool(self.bind(made, x.dtype, rows, x.exact))

    def axes(self) -> bool:
        """Reductions over several axes, and pieces that are cut out."""
        x = self.find("F", least=2)
        if x is None:
            return False
        if self.pick(2):
            op, keep = str(self.one("sum", "max", "mean", "logsumexp")), self.pick(2)
            made = f"{op}({x.name}, axis=[0, -1], keepdims={'true' if keep else 'false'})"
            shape = ("1", *x.shape[1:-1], "1") if keep else x.shape[1:-1]
            return bool(self.bind(f"tanh({made})", "F", shape, x.exact and False))
        first = f"{x.name}[0]"
        return bool(self.bind(f"{first} |> {self.one('exp', 'sin', 'tanh')} |> minimum(1.0)", "F", x.shape[1:], False))

    # In the model's own body ---------------------------------------------------------------------------------------

    def several(self) -> bool:
        """A list of tensors: made in a `repeat`, and read in another."""
        x = self.plain()
        if x is None:
            return False
        rows, made = self.fresh("l"), self.fresh()
        self.line(f"{rows} = gathered({x.name}, parts={self.one(1, 2, 3)})")
        kind = self.pick(4)
        if kind == 0:
            return bool(self.bind(f"tanh(sum({rows}))", "F", x.shape, False))
        if kind == 1:
            return bool(self.bind(f"stack({rows}[-1], {rows}[0], axis=0)", "F", ("2", *x.shape), False))
        if kind == 2:
            return bool(self.bind(f"concat({rows}[:2], axis=0)", "F", (f"({x.shape[0]}) * 2", x.shape[1]), False))
        self.line(f"{made} = {x.name}")
        self.line(f"repeat r in {rows}[::-1] {{")
        self.line(f"    {made} = tanh({made} + r)")
        self.line("}")
        self.vars.append(Var(made, "F", x.shape, False))
        return True

    def shared(self) -> bool:
        """One layer called several times with its weights."""
        x = self.plain()
        if x is None or x.shape[1] not in ("2", "3", "4"):
            return False
        name, scope = self.fresh("c"), self.fresh("l")
        given = self.one("", "(scale=0.25)")
        self.line(f"{name} = cell{given} as {scope}")
        if self.pick(2):
            return bool(self.bind(f"{name}({name}({x.name}))", "F", x.shape, False))
        made = self.fresh()
        self.line(f"{made} = {name}({x.name}, scale=1.0)")
        self.line(f"repeat i in {self.one(1, 3)} {{")
        self.line(f"    {made} = {name}({made})")
        self.line("}")
        self.vars.append(Var(made, "F", x.shape, False))
        return True

    def memory(self) -> bool:
        """A layer with a state that is a record."""
        fitting = [v for v in self.vars if v.dtype == "F" and len(v.shape) == 1 and v.shape[0] in ("B", "T", "2", "3", "4")]
        if not fitting:
            return False
        x = fitting[self.pick(len(fitting))]
        return bool(self.bind(f"tanh(remember({x.name}, by={self.one(1, 2)}) as {self.fresh('m')})", "F", x.shape, False))

    def kept(self) -> bool:
        """A loop that keeps a value of every step."""
        carried, i, kept = self.carried(), self.fresh("i"), self.fresh("y")
        n = str(self.one("3", "1", "0", "T", "B + 1"))
        x = next((v for v in carried if v.dtype == "F"), None)
        if x is None:
            return False
        self.line(f"fold {i} in {n} from ({', '.join(v.name for v in carried)}) stack ({kept}) {{")
        self.block(1 + self.pick(2), carried, [Var(i, "i64", ())])
        self.line(f"    {kept} = sin({x.name})")
        self.line("}")
        if n == "0":
            return bool(self.bind(f"sum({kept}, axis=0)", "F", x.shape, False))
        self.vars.append(Var(kept, "F", (n, *x.shape), False))
        return True

    def started(self) -> bool:
        """A scan that goes on from a value."""
        x = self.plain()
        if x is None:
            return False
        axis = self.pick(2)
        if self.pick(2):
            start = f"max({x.name}, axis={axis})"
            return bool(self.bind(f"scan(larger, {x.name}, axis={axis}, start={start})", "F", x.shape, x.exact))
        a, b = self.fresh(), self.fresh()
        start = f"[min({x.name}, axis={axis}), sin(max({x.name}, axis={axis}))]"
        self.line(f"{a}, {b} = scan(compose, sigmoid({x.name}), {x.name}, axis={axis}, start={start})")
        self.vars.append(Var(b, "F", x.shape, False))
        return True

    def within(self) -> bool:
        """A choice or a loop within a loop."""
        outer, i = self.carried(), self.fresh("i")
        names = ", ".join(v.name for v in outer)
        self.line(f"fold {i} in {self.one('2', 'T', '3')} from ({names}) {{")
        head = self.one(f"cond {i} % 2 == 0", f"fold {self.fresh('j')} in 2")
        self.line(f"    {head} from ({names}) {{")
        self.depth += 1
        self.block(1 + self.pick(2), outer, [Var(i, "i64", ())])
        self.depth -= 1
        self.line("    }")
        self.line("}")
        return True

    def sized(self) -> bool:
        """A size with a name, and one that follows from a real."""
        x = self.plain()
        if x is None or x.shape[0] not in ("T", "T + 1", "2 * B", "4"):
            return False
        n = self.fresh("n")
        self.line(f"let {n} = ceil({self.one('0.5', '0.7', '0.25')} * ({x.shape[0]}))")
        return bool(self.bind(f"{x.name}[:{n}]", "F", (n, x.shape[1]), x.exact))


def wider_program(pick: Pick, dtype: str = "f32", statements: int = 10) -> str:
    """The source of a program in which `F` is ``dtype``."""
    text = Wider(pick, statements, WIDER_HEAD).program()
    return text.replace("F[", f"{dtype}[").replace(", F)", f", {dtype})")
