"""A program: named functions that share parameters, states and types, host stages beside them, and flows that wire both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .declarations import Declaration, reachable
from .diagnostics import Diagnostic, Span
from .types import TensorType
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from .compiling import CompileSpec
    from .graph import Graph, Parameter
    from .pattern import Rule
    from .recipe import Recipe
    from .signature import Signature
    from .tokenizer import Gate, Tokenizer

# So much of a type is shown where a program is told in one line.
_WIDEST = 60


@dataclass(frozen=True, slots=True)
class Stage:
    """A step that runs on the host.

    Args:
        name: what flows call it.
        kind: what it is; ``python`` is a function, any other a row of :mod:`.stages`.
        reference: where its code stands, ``package.module:function``, which is text until somebody runs the stage; or the
            tokenizer that it is of.
        signature: what goes in and what comes out; results with names are fields of one value, ``found.ids``.
    """

    name: str
    kind: str
    reference: str
    signature: Signature
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Step:
    """One call in a flow, ``logits = prefill(ids)``.

    Args:
        callee: a function, a stage or another flow of the program.
        operands: the names of the values it takes, in the order of the callee's inputs.
        results: the names that its results get; no two values of a flow have one name.
        spans: where each operand stands.
    """

    callee: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    span: Span | None = field(default=None, compare=False)
    spans: tuple[Span | None, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Carry:
    """A value that a loop carries: what it is before the first step, within each, at the end of each, and behind the last."""

    first: str
    inside: str
    after: str
    result: str


@dataclass(frozen=True, slots=True)
class Loop:
    """``fold i in 8 from (x) stack (y) { … }``, or ``while more from (x, more) limit 64 { … }``: steps that are run over and over.

    Args:
        count: how many times; of a ``while``, at most so many.
        carried: what goes from one time to the next, of one type.
        stacked: (value at the end of each time, all of them side by side behind the loop).
        body: what is run; it sees the values in front of the loop.
        variable: the value that is the number of the time, i64[]; none of a ``while``.
        test: what says whether it is run once more, before each time; it sees what is carried.
        going: the value, bool[], that says so; none of a ``fold``.
    """

    count: int
    carried: tuple[Carry, ...]
    stacked: tuple[tuple[str, str], ...]
    body: tuple[Step | Loop, ...]
    variable: str | None = None
    test: tuple[Step, ...] = ()
    going: str | None = None
    span: Span | None = field(default=None, compare=False)

    def calls(self) -> Iterator[Step]:
        """All calls within."""
        yield from self.test
        yield from calls(self.body)

    def reads(self) -> Iterator[str]:
        """The values that it names, beside operands of calls."""
        yield from (name for carry in self.carried for name in (carry.first, carry.after))
        yield from (value for value, _ in self.stacked)
        if self.going is not None:
            yield self.going
        yield from reads(self.body)


def calls(steps: Iterable[Step | Loop]) -> Iterator[Step]:
    """The calls among steps, those within loops too."""
    for step in steps:
        if isinstance(step, Loop):
            yield from step.calls()
        else:
            yield step


def reads(steps: Iterable[Step | Loop]) -> Iterator[str]:
    """The values that loops name, beside operands of calls."""
    for step in steps:
        if isinstance(step, Loop):
            yield from step.reads()


@dataclass(frozen=True, slots=True)
class Port:
    """A value that goes into or comes out of a flow: its public name, its type, and the value's name within the flow; of ids
    that go in, whose they are."""

    name: str
    type: TensorType
    value: str
    vocabulary: Vocabulary | None = None
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Flow:
    """An acyclic wiring of functions and stages, run on the host step by step."""

    name: str
    inputs: tuple[Port, ...]
    steps: tuple[Step | Loop, ...]
    outputs: tuple[Port, ...]
    span: Span | None = field(default=None, compare=False)

    def calls(self) -> Iterator[Step]:
        """All of its calls, those within loops too."""
        return calls(self.steps)

    def reads(self) -> set[str]:
        """The values that something takes."""
        taken = {name for step in self.calls() for name in step.operands} | set(reads(self.steps))
        return taken | {port.value for port in self.outputs}


@dataclass(frozen=True, slots=True)
class Measures:
    """What a pipeline is measured by on a corpus, line by line: ``words.round_trip`` is a metric of a tokenizer that it calls,
    ``agree`` the mean of one of its outputs.

    Args:
        corpus: files by a pattern from the folder of the declaration.
        metrics: what is measured, in order.
        gates: what must hold, or nothing is written.
    """

    corpus: str
    metrics: tuple[str, ...]
    gates: tuple[Gate, ...]
    span: Span | None = field(default=None, compare=False)

    def names(self) -> list[str]:
        """All that is measured."""
        return list(dict.fromkeys([*self.metrics, *(gate.metric for gate in self.gates)]))


def _cut(type: object) -> str:
    """A type as a line of text has room for it."""
    text = str(type)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


@dataclass(eq=False, init=False, repr=False)
class Program:
    """Functions over one set of parameters and states, and what they were declared with.

    Parameters of one full name, and states of one name, are one tensor in all functions.

    Args:
        name: its name; of a program of one function, the model's.
        functions: the entry points by name, in order; a graph alone is the one function, of the program's name.
        doc: its ``##`` text.
        locals: declarations of the program's own files by name, of which :meth:`declared` are written back by the printer.
        uses: what those declarations use of shipped modules: name there -> (module, name).
        compile: the file's ``compile`` block for it (a :class:`CompileSpec`), or None.
        path: the source file, for relative weights.
        rules: the ``rewrite`` rules that the file declares or uses, by name.
        docs: the ``##`` text of functions that have one of their own, by name.
        stages: what runs on the host, by name.
        flows: how functions and stages are wired, by name.
        recipes: what a parameter is made of, by its full name; one without is the checkpoint's tensor of that name.
        tokenizers: those that stages are of, by name.
        measures: what a pipeline is measured by when it is compiled.
    """

    name: str
    functions: dict[str, Graph]
    doc: str
    locals: dict[str, Declaration]
    uses: dict[str, tuple[str, str]]
    compile: CompileSpec | None
    path: str | None
    rules: dict[str, Rule]
    docs: dict[str, str]
    stages: dict[str, Stage]
    flows: dict[str, Flow]
    recipes: dict[str, Recipe]
    tokenizers: dict[str, Tokenizer]
    measures: Measures | None

    def __init__(
        self,
        name: str,
        functions: Graph | Mapping[str, Graph],
        doc: str = "",
        locals: Mapping[str, Declaration] | None = None,
        uses: Mapping[str, tuple[str, str]] | None = None,
        compile: CompileSpec | None = None,
        path: str | None = None,
        rules: Mapping[str, Rule] | None = None,
        docs: Mapping[str, str] | None = None,
        stages: Mapping[str, Stage] | None = None,
        flows: Mapping[str, Flow] | None = None,
        recipes: Mapping[str, Recipe] | None = None,
        tokenizers: Mapping[str, Tokenizer] | None = None,
        measures: Measures | None = None,
    ) -> None:
        self.name = name
        self.functions = dict(functions) if isinstance(functions, Mapping) else {name: functions}
        self.doc = doc
        self.locals = dict(locals or {})
        self.uses = dict(uses or {})
        self.compile = compile
        self.path = path
        self.rules = dict(rules or {})
        self.docs = dict(docs or {})
        self.stages = dict(stages or {})
        self.flows = dict(flows or {})
        self.recipes = dict(recipes or {})
        self.tokenizers = dict(tokenizers or {})
        self.measures = measures

    def __repr__(self) -> str:
        """What it is called, what goes in and what comes out; of several entry points, their names."""
        if self.several:
            return f"<program {self.name}: {', '.join(self.functions)}>"
        (graph,) = self.functions.values()
        given = ", ".join(f"{v.name}: {_cut(v.type)}" for v in graph.inputs if v.role == "input")
        pairs = zip(graph.outputs, graph.output_info, strict=True)
        made = ", ".join(f"{info.name}: {_cut(value.type)}" for value, info in pairs if info.role == "output")
        return f"<model {self.name}({given}) -> ({made}), {len(graph.params)} parameters>"

    @property
    def graph(self) -> Graph:
        """The function of a program that has one. Raises E0520 when it has several."""
        return self.functions[self._only()]

    @graph.setter
    def graph(self, graph: Graph) -> None:
        self.functions[self._only()] = graph

    def _only(self) -> str:
        if len(self.functions) != 1:
            names = ", ".join(self.functions)
            raise Diagnostic(
                "E0520", f"the program `{self.name}` has {len(self.functions)} entry points, and one is needed here",
                help=f"choose one of {names}: `program.only(\"{next(iter(self.functions), 'name')}\")` in Python; on the "
                "command line `--model` names one of the file's models",
            )  # fmt: skip
        return next(iter(self.functions))

    @property
    def plain(self) -> bool:
        """Whether it is one model and nothing else, which is written as a ``model``."""
        return list(self.functions) == [self.name] and not self.stages and not self.flows

    @property
    def several(self) -> bool:
        """Whether it becomes a folder when compiled: with several entry points, or flows to run."""
        return len(self.functions) > 1 or bool(self.flows)

    @property
    def whole(self) -> Flow | None:
        """The flow that is called where the program is: that of its name, which a pipeline has, whatever others it calls."""
        return self.flows.get(self.name)

    @property
    def pipeline(self) -> Flow | None:
        """The one flow of a program that is called as the program is, and calls its entry points in their order: it is written as a
        ``pipeline``."""
        if list(self.flows) != [self.name]:
            return None
        flow = self.flows[self.name]
        called = dict.fromkeys(step.callee for step in flow.calls() if step.callee in self.functions)
        return flow if list(called) == list(self.functions) else None

    def called(self, flow: str) -> list[str]:
        """The functions and stages that a flow calls, and those that the flows do that it calls."""
        found: dict[str, None] = {}
        left = [flow]
        for name in left:
            for step in self.flows[name].calls():
                if step.callee not in self.flows:
                    found[step.callee] = None
                elif step.callee not in left:
                    left.append(step.callee)
        return list(found)

    def parameters(self) -> dict[str, Parameter]:
        """The parameters of all functions by full name; a shared one is that of the first function that has it."""
        found: dict[str, Parameter] = {}
        for graph in self.functions.values():
            for name, param in graph.params.items():
                found.setdefault(name, param)
        return found

    def recipe(self, name: str) -> Recipe:
        """What a parameter is made of; a pass that makes another parameter of it starts here."""
        from .recipe import Take

        return self.recipes.get(name, Take(name))

    def everything(self) -> Graph:
        """The one function; of several, a graph without nodes that has the parameters of all: for what binds weights."""
        if len(self.functions) == 1:
            return self.graph
        from .graph import Graph

        whole = Graph(self.name)
        whole.params = self.parameters()
        return whole

    def only(self, entry: str, span: Span | None = None) -> Program:
        """The program of one entry point alone, over the same graph and declarations. Raises E0521 when there is none."""
        if entry not in self.functions:
            from .diagnostics import did_you_mean

            names = list(self.functions)
            raise Diagnostic(
                "E0521", f"the program `{self.name}` has no entry point `{entry}`", span,
                help=did_you_mean(entry, names) or f"its entry points are {', '.join(names)}",
            )  # fmt: skip
        doc = self.doc if self.plain else self.docs.get(entry, "")
        graph = self.functions[entry]
        recipes = {name: recipe for name, recipe in self.recipes.items() if name in graph.params}
        return replace(
            self, name=entry, functions={entry: graph}, doc=doc, docs={}, stages={}, flows={}, recipes=recipes, tokenizers={},
            measures=None,
        )

    def take_back(self, alone: Program) -> None:
        """Take over what was changed in a program that :meth:`only` gave."""
        self.functions.update(alone.functions)
        self.locals.update(alone.locals)
        self.uses.update(alone.uses)
        self.rules.update(alone.rules)
        self.recipes.update(alone.recipes)

    def declared(self) -> dict[str, Declaration]:
        """The declarations of the program's own files that its functions use, directly or not."""
        found: dict[str, Declaration] = {}
        for graph in self.functions.values():
            found.update(reachable(graph, self.locals))
        return dict(sorted(found.items()))

    def clone(self) -> Program:
        """A copy whose graphs can be changed without changing this one's."""
        return replace(self, functions={name: graph.clone() for name, graph in self.functions.items()})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self.difference(other) is None

    __hash__ = object.__hash__

    def difference(self, other: Program) -> str | None:
        """None when equal; else a sentence about the first difference."""
        from .compare import first_difference

        if self.name != other.name:
            return f"{self.name} and {other.name}"
        if list(self.functions) != list(other.functions):
            return f"entry points differ: {', '.join(self.functions)} and {', '.join(other.functions)}"
        if self.declared() != other.declared():
            return "local declarations differ"
        for name, graph in self.functions.items():
            found = first_difference(graph, other.functions[name])
            if found is not None:
                return found if self.plain else f"in `{name}`: {found}"
        for what in ("stages", "flows", "tokenizers"):
            ours, theirs = getattr(self, what), getattr(other, what)
            if _rows(ours) != _rows(theirs):
                return f"{what} differ: {_rows(ours)} and {_rows(theirs)}"
        if self.pipeline is not None and self.measures != other.measures:
            return f"what is measured differs: {self.measures} and {other.measures}"
        for name in self.recipes.keys() | other.recipes.keys():
            if self.recipes.get(name) != other.recipes.get(name):
                return f"the recipes of `{name}` differ: {self.recipes.get(name)} and {other.recipes.get(name)}"
        return None


def _rows(table: Mapping[str, Any]) -> list[Any]:
    return list(table.values())
