"""The engine: the registry, options, pipelines, contracts, and which pass failed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from tessera.frontends.source import load, loads, parse_pass
from tessera.frontends.source.elaborate.library import SPECS
from tessera.ir.analysis.table import Table, human
from tessera.ir.codes.passes import CODES
from tessera.ir.compiling import PassSpec
from tessera.ir.diagnostics import Diagnostic, Span
from tessera.ir.graph import Module
from tessera.passes import engine
from tessera.passes.engine import BrokenContract, Pass, PassFailed, apply, find, registry, run_pipeline
from tessera.passes.options import describe, option, options_of
from tessera.passes.report import Report

HERE = Span("model.tess", 3, 5, 3, 20)


def small() -> Module:
    return loads("model m(x: f32[B, 4]) -> f32[B, 4] { return exp(x * 1.0) }")


@dataclass(frozen=True)
class Probe(Pass):
    """Does what its options say. Only for tests."""

    name = "probe"
    contract = "exact"

    count: int = option(1, "a number", least=0, most=9)
    share: float | None = option(None, "a share", least=0, most=1)
    mode: Literal["plain", "broken", "crash", "renames", "refuses", "types"] = option("plain", "what to do")
    items: tuple[int, ...] = option((), "numbers", least=1)
    flag: bool = option(False, "a flag")
    even: int = option(0, "even", check=lambda v: None if v % 2 == 0 else "must be even")

    def run(self, module: Module) -> Report:
        graph = module.graph
        if self.mode == "crash":
            raise ZeroDivisionError("nothing by nothing")
        if self.mode == "refuses":
            raise Diagnostic("E0705", "not today", HERE)
        if self.mode == "renames":
            graph.output_info = []
            graph.end.clear_inputs()
        if self.mode == "types":
            graph.inputs[0].type = graph.outputs[0].type.__class__.of("f16", [3])
        return Report.of(self, self.count)

    def ensures(self, before: Module, after: Module) -> None:
        if self.mode == "broken":
            raise BrokenContract("it is not what was promised")


@pytest.fixture(autouse=True)
def _probe(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {**registry(), "probe": Probe}
    monkeypatch.setattr(engine, "registry", lambda: known)


def refused(what: Any, **options: Any) -> Diagnostic:
    with pytest.raises(Diagnostic) as caught:
        apply(small(), what, **options)
    return caught.value


# Registry --------------------------------------------------------------------------------------------------------------


def test_passes_are_found_by_scanning() -> None:
    names = set(registry()) - {"probe"}
    assert {"cse", "dce", "fold_constants", "inline", "merge_tokens", "rewrite"} <= names


def test_every_pass_says_what_it_is() -> None:
    for name, cls in registry().items():
        assert cls.name == name
        assert cls.contract in ("exact", "approximate")
        assert cls.summary().endswith((".", ":"))
        assert all(o.doc for o in options_of(cls).values())


def test_passes_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        def load(self) -> type[Pass]:
            return Probe

    monkeypatch.undo()
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Point()] if group == "tessera.passes" else [])
    engine.registry.cache_clear()
    try:
        assert find("probe") is Probe
    finally:
        monkeypatch.undo()
        engine.registry.cache_clear()


def test_an_alias_is_another_name_of_the_same_pass() -> None:
    block = "model m(x: f32[B, 4]) -> f32[B, 4] {{ return x * (1.0 / (1.0 + exp(-x))) }}\ncompile m {{ pass {} }}"
    short, long = (loads(block.format(name)) for name in ("raise", "raise_composites"))
    assert find("raise") is find("raise_composites")
    assert short.compile is not None
    assert long.compile is not None
    results = [run_pipeline(m, m.compile.passes) for m in (short, long) if m.compile is not None]
    results.append(run_pipeline(short, [PassSpec("raise", {"layout": True})]))
    for module, reports in results:
        assert [n.op.name for n in module.graph.nodes()] == ["silu"]
        assert [r.name for r in reports] == ["raise_composites"]
    assert apply(short, "raise")[0] == results[0][0]
    known = registry()
    assert not {alias for cls in known.values() for alias in cls.aliases} & set(known)


def test_unknown_pass() -> None:
    error = refused(PassSpec("merge_token", {}, HERE))
    assert (error.code, error.help, error.span) == ("E0701", "did you mean `merge_tokens`?", HERE)


# Options -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({"cuont": 1}, "E0702", "the pass `probe` has no option `cuont`"),
        ({"count": 1.0}, "E0703", "`count` of the pass `probe` must be int, but is 1.0"),
        ({"count": True}, "E0703", "must be int, but is true"),
        ({"count": "1"}, "E0703", 'must be int, but is "1"'),
        ({"share": "much"}, "E0703", 'must be real | none, but is "much"'),
        ({"mode": "fancy"}, "E0703", "must be plain | broken | crash | renames | refuses | types"),
        ({"items": [1, "a"]}, "E0703", 'must be list of int, but is [1, "a"]'),
        ({"flag": 1}, "E0703", "must be bool, but is 1"),
        ({"count": 10}, "E0704", "must be from 0 to 9, but is 10"),
        ({"share": float("nan")}, "E0704", "must be from 0 to 1, but is nan"),
        ({"items": (3, 0)}, "E0704", "must be at least 1, but is 0"),
        ({"even": 3}, "E0704", "`even` of the pass `probe` must be even"),
    ],
)
def test_wrong_options(options: dict[str, Any], code: str, message: str) -> None:
    error = refused(PassSpec("probe", options, HERE))
    assert error.code == code
    assert message in error.message
    assert error.span == HERE


def test_options_in_the_types_of_the_fields() -> None:
    made = engine.make(PassSpec("probe", {"share": 1, "items": [1, 2], "count": 3}))
    assert made == Probe(count=3, share=1.0, items=(1, 2))
    assert isinstance(made.share, float)  # type: ignore[attr-defined]


def test_every_option_is_checked_before_any_pass_runs() -> None:
    ran: list[str] = []
    with pytest.raises(Diagnostic, match="cuont"):
        run_pipeline(
            small(),
            [PassSpec("probe"), PassSpec("probe", {"cuont": 1})],
            after=lambda step, r, m: ran.append(step.name),
        )
    assert ran == []


def test_the_text_of_the_command_line() -> None:
    spec = parse_pass("merge_tokens(r=[8, 4], metric=keys, keep=none, restore=true, inflect=-0.5)")
    assert spec.options == {"r": (8, 4), "metric": "keys", "keep": None, "restore": True, "inflect": -0.5}


@pytest.mark.parametrize(
    ("hint", "text"),
    [(int, "int"), (float | None, "real | none"), (tuple[str, ...], "list of str"), (Literal[0, 1], "0 | 1")],
)
def test_types_in_words(hint: Any, text: str) -> None:
    assert describe(hint) == text


# Running -------------------------------------------------------------------------------------------------------------------


def test_the_given_module_stays_as_it_is() -> None:
    module = small()
    untouched = module.clone()
    after, report = apply(module, "fold_constants")
    assert report.modified == 1
    assert module == untouched
    assert after != module


def test_the_callback_sees_every_stage() -> None:
    seen: list[tuple[str, int]] = []
    run_pipeline(
        small(), [PassSpec("fold_constants"), PassSpec("dce")],
        after=lambda step, report, module: seen.append((step.name, len(module.graph))),
    )  # fmt: skip
    assert seen == [("fold_constants", 2), ("dce", 1)]


def test_a_pass_object_carries_its_own_options() -> None:
    assert apply(small(), Probe(count=4))[1].modified == 4
    with pytest.raises(TypeError, match="carries its own"):
        apply(small(), Probe(), count=4)


def test_a_mistake_names_the_pass_and_those_before() -> None:
    with pytest.raises(Diagnostic) as caught:
        run_pipeline(small(), [PassSpec("dce"), PassSpec("cse"), PassSpec("probe", {"mode": "refuses"}, HERE)])
    note = caught.value.notes[-1]
    assert note.message == "while running the pass `probe`, after dce, cse"
    assert note.span == HERE


def test_a_crash_names_the_pass_and_those_before() -> None:
    with pytest.raises(PassFailed) as caught:
        run_pipeline(small(), [PassSpec("dce"), PassSpec("probe", {"mode": "crash"}, HERE)])
    error = caught.value
    assert (error.code, error.name, error.ran, error.span) == ("E0706", "probe", ["dce"], HERE)
    assert error.message == "the pass `probe` broke down after `dce`: ZeroDivisionError: nothing by nothing"
    assert isinstance(error.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("mode", "message"),
    [("broken", "not what was promised"), ("renames", "other names"), ("types", "VerifyError")],
)
def test_broken_contracts_show_under_verify_each(mode: str, message: str) -> None:
    run_pipeline(small(), [PassSpec("probe", {"mode": mode})])
    with pytest.raises(PassFailed, match=message):
        run_pipeline(small(), [PassSpec("probe", {"mode": mode})], verify_each=True)


# Reports ---------------------------------------------------------------------------------------------------------------------


def test_reports_are_text_and_json() -> None:
    module = load(SPECS / "zoo" / "vit.tess", "vit_s16", {"depth": 1})
    for name, options in (("fold_constants", {}), ("merge_tokens", {"r": 8, "protect": 1})):
        _, report = apply(module, name, **options)
        assert json.loads(json.dumps(report.to_dict()))["pass"] == name
        assert str(report).startswith(f"{name} (")


def test_tables_are_aligned() -> None:
    text = str(Table(("block", "flops"), (("stem", 1_500_000), ("0", 12))))
    assert text == "block  flops\nstem   1.5 M\n0         12"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (999, "999"),
        (9_999, "9999"),
        (12_345, "12.3 k"),
        (1.5e9, "1.5 G"),
        (0.12345, "0.123"),
        (True, "True"),
        ("a", "a"),
    ],
)
def test_numbers_for_people(value: Any, text: str) -> None:
    assert human(value) == text


def test_every_code_is_explained() -> None:
    for code, entry in CODES.items():
        assert code.startswith("E07")
        assert entry.title
        assert entry.text.endswith("\n")


def test_finding_a_pass_imports_no_other() -> None:
    code = "import sys; from tessera.passes.engine import find; find('dce'); print(*sys.modules, sep='\\n')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    passes = {name.removeprefix("tessera.passes.") for name in run.stdout.split() if name.startswith("tessera.passes.")}
    assert "tidy.dce" in passes
    assert not passes & {"tidy.cse", "tokens.merge_tokens", "experts.upcycle", "memory.add_cache", "recover.composites"}
