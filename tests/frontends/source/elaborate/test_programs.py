"""Programs: several entry points over one set of weights, host stages, flows; printed, they read back equal."""

from __future__ import annotations

from pathlib import Path

import pytest

import tessera as ts
from tessera.frontends import source
from tessera.frontends.source.format.fmt import format_file
from tessera.frontends.source.syntax.parser import parse
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.graph import Initializer, Parameter
from tessera.ir.program import Program
from tessera.ir.types import TensorType
from tessera.ir.verifier import VerifyError, verify_program
from tessera.passes.engine import run_pipeline

CHAT = (Path(__file__).parent / "programs" / "chat.tess").read_text(encoding="utf-8")


@pytest.fixture
def chat() -> Program:
    return source.loads(CHAT)


def read_back(program: Program) -> Program:
    text = source.print_module(program)
    again = source.loads(text)
    assert program.difference(again) is None, text
    return again


def test_a_program_is_elaborated_whole(chat: Program) -> None:
    verify_program(chat)
    assert list(chat.functions) == ["prefill", "step"]
    assert [g.name for g in chat.functions.values()] == ["prefill", "step"]
    assert chat.functions["prefill"].params.keys() == chat.functions["step"].params.keys()
    assert chat.stages["sample"].reference == "chat_sampling:greedy"
    assert [step.callee for step in chat.flows["answer"].steps] == ["first", "step", "sample"]
    assert chat.doc == "One set of weights, two entry points."
    assert chat.docs["step"] == "Reads one token."
    assert chat.compile is not None


def test_it_reads_back_equal(chat: Program) -> None:
    again = read_back(chat)
    assert source.print_module(again) == source.print_module(chat)
    assert again.docs == chat.docs
    assert again.doc == chat.doc


def test_it_reads_back_equal_after_passes(chat: Program) -> None:
    for passes in (["dce"], ["inline"], ["fold_constants", "cse", "dce"], ["raise", "inline"]):
        found, _ = run_pipeline(chat, [source.parse_pass(p) for p in passes], verify_each=True)
        verify_program(found)
        read_back(found)


def test_one_function_changed_is_a_difference(chat: Program) -> None:
    other = ts.apply(chat, "inline", entry="step")
    assert (chat.difference(other) or "").startswith("in `step`: ")
    read_back(other)


def test_a_static_parameter_reaches_every_entry() -> None:
    program = source.loads(CHAT, params={"layers": 3})
    for graph in program.functions.values():
        assert "blocks.2.fc.weight" in graph.params
    with pytest.raises(Diagnostic, match=r"E0403.*the program `chat` has no static parameter `depth`"):
        source.loads(CHAT, params={"depth": 3})


def test_the_program_of_a_file_goes_before_its_models() -> None:
    assert source.loads(CHAT.split("compile chat")[0]).name == "chat"
    assert source.loads(CHAT, model="one").plain
    with pytest.raises(Diagnostic, match=r"E0207(.|\n)*decoder, one, p, q"):
        source.loads(CHAT.split("\n## One set")[0] + "program p { entry a = one }\nprogram q { entry a = one }")


def test_checking_a_file_checks_its_programs(tmp_path: Path) -> None:
    file = tmp_path / "chat.tess"
    file.write_text(CHAT)
    assert [m.name for m in ts.check(file)] == ["one", "chat"]
    assert ts.models(file) == ["decoder", "one", "chat"]


def test_a_program_of_its_one_model_is_that_model() -> None:
    text = "model m(x: f32[B]) -> f32[B] { return x + 1 }\n"
    program = source.loads(text + "program m2 { entry m2 = m }")
    assert program.plain
    assert program.difference(source.loads(text.replace(" m(", " m2("))) is None


def test_names_that_would_clash_in_one_file() -> None:
    program = source.loads(
        """
        use std.nn (gelu, silu as attend)
        op step(x: float[B]) -> float[B] { return x + 1 }
        model a(x: f32[B]) -> f32[B] { return gelu(step(x)) }
        model b(x: f32[B]) -> f32[B] { return attend(x) }
        program p {
            entry step = a
            entry gelu = b
            entry p = a
            flow silu(x: f32[B]) -> f32[B] { return p(gelu(step(x))) }
        }
        """
    )
    text = source.print_module(read_back(program))
    assert "entry step = step_1" in text
    assert "entry p = p_1" in text


def test_a_loop_in_each_function_reads_back() -> None:
    program = source.loads(
        """
        fn plus(a: float[...], b: float[...]) -> float[...] { return a + b }
        model a(x: f32[B, 4]) -> f32[B, 4] {
            y = x
            fold i in 3 from (y) { y = y + 1 }
            return scan(plus, y, axis=1)
        }
        model b(combine: f32[B, 4]) -> f32[B, 4] { return scan(plus, combine, axis=1) }
        program p {
            entry one = a
            entry two = b
        }
        """
    )
    read_back(program)


def test_records_lets_and_merging_read_back() -> None:
    model = ts.load("bert", params={"depth": 2})
    merged = ts.apply(model, "merge_tokens", r=2, protect=1)
    assert merged.graph.lets
    read_back(Program("pair", {"plain": model.graph, "merged": merged.graph}, locals=merged.locals, uses=merged.uses))
    program = Program("pair", {"one": model.graph, "two": model.graph.clone()}, locals=model.locals, uses=model.uses)
    changed = ts.apply(program, "merge_tokens", r=2, protect=1, entry="two")
    assert [bool(graph.lets) for graph in changed.functions.values()] == [False, True]
    read_back(changed)


def test_rebinding_a_name_in_a_flow() -> None:
    program = source.loads(
        """
        model m(x: f32[B, 2]) -> (f32[B, 2], f32[B, 2]) { return x, x + 1 }
        program p {
            entry run = m
            host top = "m:f"(x: float[B, K]) -> (float[B, S], i64[S])
            flow f(x: f32[B, 2]) -> (f32[B, S], i64[S], f32[B, 2]) {
                x, y = run(x)
                x, y = run(x=y)
                values, kept = top(x)
                return values, kept, y
            }
        }
        """
    )
    steps = program.flows["f"].steps
    assert [step.results for step in steps] == [("x_1", "y"), ("x_2", "y_1"), ("values", "kept")]
    assert steps[1].operands == ("y",)
    read_back(program)


def test_formatting_keeps_comments() -> None:
    text = (
        "# before\n"
        "program chat(*, layers: int = 2) {  # head\n"
        "    entry prefill = decoder(layers=layers)  # one\n"
        "\n"
        "    # two\n"
        '    host sample = "mypackage.sampling:greedy"(logits: float[B, V]) -> i64[B, 1]\n'
        "    flow answer(ids: i64[B, T]) -> (out: i64[B, 1]) {\n"
        "        # in it\n"
        "        return sample(prefill(ids))\n"
        "    }\n"
        "    # end\n"
        "}\n"
    )
    tree = parse(text, "f.tess")
    assert format_file(tree) == text
    assert parse(format_file(tree), "f.tess") == tree


def test_words_of_a_program_are_names_elsewhere() -> None:
    text = "model m(entry: f32[B], host: f32[B]) -> f32[B] { flow = entry + host return flow }"
    assert [v.name for v in source.loads(text).graph.inputs] == ["entry", "host"]


def test_program_is_a_name_where_it_opens_no_declaration() -> None:
    model = (
        "model program(program: f32[B]) -> f32[B] { program = program + 1\n program = program x = program return x }"
    )
    assert read_back(source.loads(model)).name == "program"
    whole = source.loads(model + "\nprogram whole { entry program = program entry run = program }")
    assert list(read_back(whole).functions) == ["program", "run"]
    whole.name = "program"
    assert "program program {" in source.print_module(read_back(whole))


# The verifier -----------------------------------------------------------------------------------------------------------


def test_the_verifier_looks_at_what_is_shared(chat: Program) -> None:
    graph = chat.functions["step"]
    graph.params["head.weight"].init = Initializer("ones")
    with pytest.raises(VerifyError, match=r"`head.weight` is .* = ones in `step`"):
        verify_program(chat)


def test_the_verifier_looks_at_edges(chat: Program) -> None:
    value = chat.functions["step"].inputs[0]
    value.type = TensorType.of("i32", ["B", 1])
    with pytest.raises(VerifyError):
        verify_program(chat)


# Passes -----------------------------------------------------------------------------------------------------------------


def test_a_pass_runs_on_every_entry_or_on_those_chosen(chat: Program) -> None:
    _, reports = run_pipeline(chat, [source.parse_pass("inline")])
    assert [r.entry for r in reports] == ["prefill", "step"]
    assert str(reports[1]).startswith("inline of step (exact): ")
    assert reports[0].to_dict()["entry"] == "prefill"
    _, reports = run_pipeline(chat, [source.parse_pass("inline(entry=[step])")])
    assert [r.entry for r in reports] == ["step"]


def test_a_pass_names_an_entry_that_there_is_not(chat: Program) -> None:
    with pytest.raises(Diagnostic, match=r"E0521.*`stepp`(.|\n)*did you mean `step`"):
        run_pipeline(chat, [source.parse_pass("inline(entry=stepp)")])
    with pytest.raises(Diagnostic, match="E0521"):
        ts.apply(ts.load("vit_s16"), "inline", entry="step")


def test_a_shared_parameter_changes_everywhere(chat: Program) -> None:
    from dataclasses import dataclass

    from tessera.passes.engine import Pass
    from tessera.passes.report import Report

    @dataclass(frozen=True)
    class Freeze(Pass):
        """Starts the head from ones. Only for tests."""

        name = "freeze"
        contract = "approximate"
        only: str = ""

        def run(self, module: Program) -> Report:
            if self.only in ("", module.name):
                old = module.graph.params["head.weight"]
                module.graph.params["head.weight"] = new = Parameter(old.type, old.full_name, Initializer("ones"))
                old.replace_uses(new)
            return Report.of(self, 1)

    changed, _ = run_pipeline(chat, [Freeze()], verify_each=True)
    assert changed.parameters()["head.weight"].init == Initializer("ones")
    with pytest.raises(
        Diagnostic, match=r"E0526.*`freeze` changed what entry points share: the parameter `head.weight`"
    ):
        run_pipeline(chat, [Freeze(only="step")])


def test_record_states_regions_and_recipes_read_back() -> None:
    program = source.load(Path(__file__).parent / "programs" / "everything.tess")
    verify_program(program)
    assert list(program.recipes) == ["fc.weight"]
    assert list(read_back(program).recipes) == ["fc.weight"]
    for name in ("inline", "cse", "dce"):
        read_back(ts.apply(program, name))
