"""Running a program of several entry points: each is a runner, states pass from one to the next, flows call them and the host.

A host stage is code that a file only names. It runs when the caller hands the function over, or says that names may be imported.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..ir.analysis.bounds import index_bounds
from ..ir.diagnostics import Diagnostic, did_you_mean
from ..ir.dims.dim import as_dim
from ..ir.program import Flow, Loop, Program, Stage, Step
from ..ir.signature import Operand, Pattern, Result, Signature
from ..ir.types import TEXT, DType, TensorType
from ..ir.wiring import signature_of
from .batches import in_batches
from .distributions import advanced
from .flows import FlowRunner, fitted, ports_of
from .inputs import InputSpec
from .runner import Runner, by_name
from .sessions import ProgramSession
from .stages import Filled, fit_texts, run_stage
from .states import named

if TYPE_CHECKING:
    import numpy as np

    from .states import Carrying
    from .tokenizers.engine import Engine

Host = Callable[..., Any]


class Entry:
    """One entry point: called with arrays, in order or by name, as an artifact of one model is."""

    def __init__(self, name: str, runner: Runner) -> None:
        self.name = name
        self.runner = runner

    @property
    def inputs(self) -> list[InputSpec]:
        """Names, dtypes and shapes of what it takes."""
        return self.runner.inputs

    def __call__(
        self, *args: Any, seed: int = 0, sizes: Mapping[str, int] | None = None, **inputs: Any
    ) -> dict[str, np.ndarray]:
        """All outputs, taps and states by name. States and random inputs may be given by name; states start from their initial
        values, at ``sizes`` where no input tells. Raises E09xx."""
        return self.runner(by_name(self.runner, args, inputs), seed=seed, sizes=sizes)

    def session(
        self, *, sizes: Mapping[str, int] | None = None, states: Mapping[str, Any] | None = None, seed: int = 0
    ) -> Carrying:
        """A run of this entry point alone that carries its states from call to call: see :class:`.states.Carrying`."""
        return self.runner.carrying(states=states, sizes=sizes, seed=seed)

    def __repr__(self) -> str:
        return f"<entry point {self.name}>"


class Opened(Entry):
    """A saved artifact of one model: called as an entry point is, and else what runs it."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner.metadata.get("tessera.model", "model"), runner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def __repr__(self) -> str:
        return f"<artifact {self.name}>"


class ProgramRunner:
    """A program, ready to run.

        chat = ts.open("chat")
        logits = chat.prefill(ids=ids)["output"]
        chat.run("answer", {"ids": ids}, host={"sample": greedy})

    Args:
        program: what it was made of.
        runners: what runs each entry point.
        metadata: strings by name, which say how it was made.
        held: what has to stay as long as this does, such as the folder of its files.
    """

    def __init__(
        self, program: Program, runners: Mapping[str, Runner], metadata: Mapping[str, str], held: object = None
    ) -> None:
        self.program = program
        self.held = held
        self._engines: dict[str, Engine] = {}
        self.runners = dict(runners)
        self.metadata = metadata
        self._limits: dict[str, dict[str, int]] = {}

    @property
    def entries(self) -> list[str]:
        """The names of the entry points."""
        return list(self.runners)

    def limits(self, entry: str) -> dict[str, int]:
        """The length of the table that each input of an entry point indexes, as far as it is known before any run."""
        if entry not in self._limits:
            bounds = index_bounds(self.program.functions[entry])
            known = {v.name: b.limit for v, b in bounds.items() if b is not None and not b.ascending and b.limit is not None}
            self._limits[entry] = {name: int(limit) for name, limit in known.items() if as_dim(limit).value is not None}
        return self._limits[entry]

    def __getitem__(self, name: str) -> Entry:
        """An entry point by name. Raises E0521 when there is none."""
        if name not in self.runners:
            self.program.only(name)
        return Entry(name, self.runners[name])

    def __getattr__(self, name: str) -> Entry:
        if name.startswith("_") or name not in self.runners:
            raise AttributeError(f"the program has no entry point `{name}`")
        return self[name]

    def engine(self, tokenizer: str) -> Engine:
        """What runs a tokenizer of the program."""
        from .tokenizers.engine import open_engine

        if tokenizer not in self._engines:
            self._engines[tokenizer] = open_engine(self.program.tokenizers[tokenizer])
        return self._engines[tokenizer]

    def __call__(
        self, *args: Any, host: Mapping[str, Host] | None = None, allow_host: bool = False, seed: int = 0,
        sizes: Mapping[str, int] | None = None, batch: int | None = None, **inputs: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """The outputs of a pipeline by name: see :meth:`run`; by ``batch`` texts of about one length in each run, if that is given.
        Raises E0520 for a program that is none."""
        flow = self.program.whole
        if flow is None:
            raise Diagnostic(
                "E0520", f"the program `{self.program.name}` is no pipeline, which is called as a whole",
                help="name what is to run: an entry point, `program.prefill(…)`, or a flow, `program.run(\"answer\", …)`",
            )  # fmt: skip
        arrays = by_name(FlowRunner(self, flow, allow_host), args, inputs)

        def run(given: Mapping[str, Any]) -> dict[str, Any]:
            return self.run(flow.name, given, host=host, allow_host=allow_host, seed=seed, sizes=sizes)

        return run(arrays) if batch is None else in_batches(flow, fitted(ports_of(flow), arrays), batch, run)

    def session(
        self, *, sizes: Mapping[str, int] | None = None, states: Mapping[str, Any] | None = None, seed: int = 0
    ) -> ProgramSession:
        """The entry points on one set of states. Raises E0901 for a state, E0902 for a size, that none of them has."""
        return ProgramSession(self.program, self.runners, sizes, states, seed)

    def flow(self, name: str, allow_host: bool = False, batch: int | None = None) -> FlowRunner:
        """A flow as a runner, by ``batch`` texts at a time if that is given. Raises E0521 when there is none."""
        return FlowRunner(self, self._flow(name), allow_host, batch)

    def _flow(self, name: str) -> Flow:
        if name not in self.program.flows:
            shown = ", ".join(self.program.flows) or "none"
            raise Diagnostic(
                "E0521", f"the program `{self.program.name}` has no flow `{name}`", help=f"its flows are {shown}"
            )
        return self.program.flows[name]

    def run(
        self, flow: str, arrays: Mapping[str, Any], *, host: Mapping[str, Host] | None = None, allow_host: bool = False,
        seed: int = 0, sizes: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """The outputs of a flow by name. States start anew, and pass from each call of an entry point to the next.

        Args:
            arrays: its inputs by name.
            host: the functions of host stages by the stages' names; they take and give NumPy arrays.
            allow_host: import a stage's function by the name that the program has for it, where ``host`` does not give it.
            seed: for random inputs.
            sizes: those that only states have, such as a capacity.

        Raises:
            Diagnostic: E0521 no such flow, E0913 a stage that nobody allowed, E0914 one that cannot be found, fails or gives
                other tensors than it declares, E0901 to E0904 for inputs that do not fit.
        """
        chosen = self._flow(flow)
        given, wanted = named(host, "host", "E0913"), named(sizes, "sizes", "E0902")
        self._check_given(flow, given, wanted)
        functions = self._functions(flow, given, allow_host)
        return _Run(self, functions, seed, wanted).flow(chosen, named(arrays, "arrays", "E0901"))

    def _check_given(self, flow: str, host: Mapping[str, Host], sizes: Mapping[str, int]) -> None:
        """Raises E0913 for a function of no stage that the flow calls, E0902 for a size of no entry point that it calls."""
        called = self.program.called(flow)
        stages = [name for name in called if name in self.program.stages and self.program.stages[name].kind == "python"]
        for name, function in host.items():
            if name not in stages:
                raise Diagnostic(
                    "E0913", f"the flow `{flow}` calls no host stage `{name}`",
                    help=did_you_mean(name, stages) or f"its host stages are {', '.join(stages) or 'none'}",
                )  # fmt: skip
            if not callable(function):
                raise Diagnostic("E0913", f"what `host` has for the stage `{name}` is no function: {function!r}")
        symbols = {s for name in called if name in self.program.functions for s in self.program.functions[name].symbols()}
        for name in sizes:
            if name not in symbols:
                raise Diagnostic(
                    "E0902", f"nothing that the flow `{flow}` calls has a size `{name}`",
                    help=did_you_mean(name, symbols) or f"the sizes are {', '.join(sorted(symbols)) or 'all known'}",
                )  # fmt: skip

    def _functions(self, flow: str, given: Mapping[str, Host], allow: bool) -> dict[str, Host]:
        """The function of every stage that a flow comes to, found before anything runs."""
        stages = [self.program.stages[name] for name in self.program.called(flow) if name in self.program.stages]
        return {
            stage.name: given[stage.name] if stage.name in given else _imported(stage, allow)
            for stage in stages if stage.kind == "python"
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"<program {self.program.name}: {', '.join(self.entries)}>"


def _imported(stage: Stage, allowed: bool) -> Host:
    if not allowed:
        raise Diagnostic(
            "E0913", f"the host stage `{stage.name}` is `{stage.reference}`, which nobody allowed to be imported", stage.span,
            help=f"hand the function over, `host={{\"{stage.name}\": …}}`, or trust the file: `allow_host=True`, `--allow-host`",
        )  # fmt: skip
    module, _, path = stage.reference.partition(":")
    try:
        value: Any = import_module(module)
        for part in path.split("."):
            value = getattr(value, part)
    except (Exception, SystemExit) as error:
        raise Diagnostic(
            "E0914", f"the host stage `{stage.name}` cannot be imported from `{stage.reference}`: {error}", stage.span,
            help="is its folder on the path? PYTHONPATH=. says so for the current one",
        ) from error  # fmt: skip
    function: Host = value
    return function


class _Run:
    """One run of a flow: the states as they are now, and how many calls of entry points there were: each draws anew."""

    def __init__(
        self, runner: ProgramRunner, functions: Mapping[str, Host], seed: int, sizes: Mapping[str, int]
    ) -> None:
        self.runner = runner
        self.functions = functions
        self.seed = seed
        self.sizes = sizes
        self.states: dict[str, Any] = {}
        self.calls = 0
        self.made: list[tuple[Stage, Any]] = []
        # Ids that a tokenizer gave, by whose filling is none of the text.
        self.filled = Filled()

    def flow(self, flow: Flow, arrays: Mapping[str, Any]) -> dict[str, Any]:
        given = fitted(ports_of(flow), arrays)
        values = {port.value: given[port.name] for port in flow.inputs}
        self._steps(flow.steps, values, flow.reads())
        return {port.name: values[port.value] for port in flow.outputs}

    def _steps(self, steps: Iterable[Step | Loop], values: dict[str, Any], read: Collection[str]) -> None:
        """Add what steps give to the values by name."""
        for step in steps:
            if isinstance(step, Loop):
                self._loop(step, values, read)
            else:
                results = self._step(step, [values[name] for name in step.operands], read)
                values.update(zip(step.results, results, strict=True))

    def _loop(self, loop: Loop, values: dict[str, Any], read: Collection[str]) -> None:
        import numpy as np

        values.update((carry.inside, values[carry.first]) for carry in loop.carried)
        stacks: list[list[Any]] = [[] for _ in loop.stacked]
        for number in range(loop.count):
            self._steps(loop.test, values, read)
            if loop.going is not None and not values[loop.going]:
                break
            if loop.variable is not None:
                values[loop.variable] = np.array(number)
            self._steps(loop.body, values, read)
            for stack, (value, _) in zip(stacks, loop.stacked, strict=True):
                stack.append(values[value])
            values.update([(carry.inside, values[carry.after]) for carry in loop.carried])
        values.update((carry.result, values[carry.inside]) for carry in loop.carried)
        values.update((result, np.stack(stack)) for stack, (_, result) in zip(stacks, loop.stacked, strict=True))

    def _step(self, step: Step, operands: list[Any], read: Collection[str]) -> list[Any]:
        """The results of a step; of what has fields, those that are read."""
        program = self.runner.program
        stage = program.stages.get(step.callee)
        if stage is not None and stage.kind == "python":
            return self._stage(stage, operands)
        if stage is not None:
            engine = self.runner.engine(stage.reference) if stage.reference else None
            pad = program.tokenizers[stage.reference].pad if stage.reference else None
            fields = {name.rpartition(".")[2] for name in step.results if name in read}
            return run_stage(stage, engine, pad, operands, fields, self.filled)
        signature = signature_of(program, step.callee)
        arrays = dict(zip((o.name for o in signature.operands), operands, strict=True))
        if step.callee in program.flows:
            outputs = self.flow(program.flows[step.callee], arrays)
        else:
            entry = self.runner.runners[step.callee]
            kept = {spec.name: self.states[spec.name] for spec in entry.optional if spec.name in self.states}
            graph = program.functions[step.callee]
            sizes = {name: size for name, size in self.sizes.items() if name in graph.symbols()}
            self._check_places(step, arrays)
            outputs = entry({**kept, **arrays}, seed=advanced(self.seed, self.calls), sizes=sizes)
            self.calls += 1
            self.states.update((i.public, outputs[i.public]) for i in graph.output_info if i.role == "state")
            outputs = {i.name: outputs[i.public] for i in graph.output_info}
        return [outputs[str(result.name)] for result in signature.results]

    def _check_places(self, step: Step, arrays: Mapping[str, Any]) -> None:
        """Raises E0905 for an integer that is no place of the table that it indexes: backends take it in different ways."""
        for value, limit in self.runner.limits(step.callee).items():
            array = arrays.get(value)
            if array is None or not array.size or (array.min() >= 0 and array.max() < limit):
                continue
            odd = int(array.min() if array.min() < 0 else array.max())
            stage = next((stage for stage, made in self.made if made is array), None)
            whose = f"what the host stage `{stage.name}` gave" if stage is not None else f"`{value}` of `{step.callee}`"
            raise Diagnostic(
                "E0905", f"{whose} has the element {odd}, but the places of the table that it indexes are 0 to {limit - 1}",
                stage.span if stage is not None else step.span,
            )  # fmt: skip

    def _stage(self, stage: Stage, operands: list[Any]) -> list[Any]:
        import numpy as np

        signature = stage.signature
        try:
            found = self.functions[stage.name](*operands)
        except (Exception, SystemExit) as error:
            raise Diagnostic(
                "E0914", f"the host stage `{stage.name}` failed: {type(error).__name__}: {error}", stage.span
            ) from error
        texts = len(signature.results) == 1 and _texts(stage, signature.results[0]) is not None
        several = isinstance(found, tuple) or (isinstance(found, list) and not texts)
        results = [np.asarray(value) for value in (found if several else [found])]
        if len(results) != len(signature.results):
            raise Diagnostic(
                "E0914", f"the host stage `{stage.name}` gave {len(results)} result(s), and declares {len(signature.results)}",
                stage.span,
            )  # fmt: skip
        specs = [_texts(stage, result) for result in signature.results]
        results = [value if spec is None else fit_texts(spec, value) for spec, value in zip(specs, results, strict=True)]
        # Operands and results together: a size that both show must be one.
        shown = [Operand(f"result {i}", result.type) for i, result in enumerate(signature.results)]
        whole = Signature(stage.name, (*signature.operands, *shown), (), ())
        try:
            whole.unify([_type(value) for value in (*operands, *results)], {}, span=stage.span)
        except Diagnostic as error:
            raise Diagnostic(
                "E0914", f"the host stage `{stage.name}` does not keep to its types: {error.message}", stage.span
            ) from error
        self.made += [(stage, result) for result in results]
        return results


def _texts(stage: Stage, result: Result) -> InputSpec | None:
    """Texts that a stage gives, as messages name them; None for others. Sizes are compared with those of its other values."""
    if not isinstance(result.type, Pattern) or result.type.dtype != TEXT:
        return None
    return InputSpec(f"what `{stage.name}` gives", TEXT.name, tuple(map(str, result.type.shape)))


def _type(value: Any) -> TensorType | None:
    import numpy as np

    array = np.asarray(value)
    if array.dtype == object:
        return TensorType.of(TEXT, array.shape)
    try:
        return TensorType.of(DType.from_numpy(array.dtype), array.shape)
    except KeyError:
        raise Diagnostic("E0914", f"an array of {array.dtype} is no tensor") from None
