"""Opening, renaming, checking and binding weights; every way in which a file can be wrong is one clear diagnostic."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tessera.frontends.source import loads
from tessera.ir.builder import Builder
from tessera.ir.codes import all_codes
from tessera.ir.diagnostics import Diagnostic, Span
from tessera.ir.graph import Graph, Initializer
from tessera.ir.types import TensorType, bf16, f16, f32, i64
from tessera.runtime.weights.bind import bind, initialise
from tessera.runtime.weights.initialise import INITIALISERS, fill
from tessera.runtime.weights.open import open_weights


def graph_of(**params: str) -> Graph:
    """``graph_of(a__w="f32[2,3]")``: a graph with the parameter ``a.w``."""
    b = Builder(Graph("model"))
    for name, text in params.items():
        dtype, _, dims = text.rstrip("]").partition("[")
        b.param(name.replace("__", "."), TensorType.of(dtype, [int(d) for d in dims.split(",") if d]))
    return b.graph


def raw_file(path: Path, header: Any, data: bytes = b"", *, claim: int | None = None) -> Path:
    """A file with any header at all; ``claim`` is the header length it states."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if claim is None else claim) + text + data)
    return path


def row(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


# Reading -------------------------------------------------------------------------------------------------------------


def test_reads_what_the_safetensors_library_wrote(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "a.weight": rng.standard_normal((3, 4)).astype(np.float32),
        "b": rng.integers(0, 99, (5,)),
        "half": rng.standard_normal(7).astype(np.float16),
        "flag": rng.random((2, 2)) < 0.5,
        "scalar": np.array(3.5, np.float64),
        "none": np.zeros((0, 4), np.float32),
    }
    save_file(arrays, tmp_path / "w.safetensors", metadata={"format": "pt"})
    weights = open_weights(tmp_path / "w.safetensors")
    assert set(weights) == set(arrays)
    for name, array in load_file(tmp_path / "w.safetensors").items():
        assert weights[name].dtype == array.dtype
        np.testing.assert_array_equal(weights[name], array)


def test_bfloat16_is_read_as_bfloat16(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 3.140625], ml_dtypes.bfloat16)
    raw_file(tmp_path / "w.safetensors", {"w": row("BF16", (3,), (0, 6))}, values.tobytes())
    array = open_weights(tmp_path / "w.safetensors")["w"]
    assert array.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(array, values)


def test_arrays_are_views_of_the_file(tmp_path: Path) -> None:
    save_file({"w": np.arange(1 << 20, dtype=np.float32)}, tmp_path / "w.safetensors")
    weights = open_weights(tmp_path / "w.safetensors")
    first, second = weights["w"], weights["w"]
    assert first.__array_interface__["data"][0] == second.__array_interface__["data"][0]
    assert not first.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_a_header_of_odd_length_is_read_too(tmp_path: Path) -> None:
    text = json.dumps({"w": row("F64", (2,), (0, 16))}).encode()
    text += b" " * (1 - len(text) % 2)  # odd, so that the data is not aligned
    raw_file(tmp_path / "w.safetensors", text, np.array([1.5, 2.5]).tobytes())
    array = open_weights(tmp_path / "w.safetensors")["w"]
    assert array.flags.aligned
    assert array.tolist() == [1.5, 2.5]


def test_a_large_file_costs_no_private_memory(tmp_path: Path) -> None:
    size = 256 << 20
    path = raw_file(tmp_path / "w.safetensors", {"w": row("F32", (size // 4,), (0, size))})
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size)  # a hole in the file: it takes no space on the disk
    before = anonymous_memory()
    bound = bind(graph_of(w=f"f32[{size // 4}]"), open_weights(path))
    assert float(bound["w"].numpy().sum()) == 0
    assert anonymous_memory() - before < size // 8


def anonymous_memory() -> int:
    """Bytes of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


# Several files -------------------------------------------------------------------------------------------------------


def shard(folder: Path, table: dict[str, str] | None = None) -> Path:
    save_file({"a": np.ones(2, np.float32)}, folder / "m-1.safetensors")
    save_file({"b": np.zeros(3, np.float32)}, folder / "m-2.safetensors")
    index = folder / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table or {"a": "m-1.safetensors", "b": "m-2.safetensors"}}))
    return index


def test_a_sharded_checkpoint_opens_by_its_index_and_by_its_folder(tmp_path: Path) -> None:
    index = shard(tmp_path)
    for path in (index, tmp_path, str(tmp_path)):
        assert {k: v.tolist() for k, v in open_weights(path).items()} == {"a": [1, 1], "b": [0, 0, 0]}


def test_shards_may_be_links_into_a_cache(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    index = shard(tmp_path / "snapshot")
    target = tmp_path / "blobs" / "abc123"
    (tmp_path / "snapshot" / "m-2.safetensors").rename(target)
    (tmp_path / "snapshot" / "m-2.safetensors").symlink_to(target)
    assert set(open_weights(index)) == {"a", "b"}


def test_several_files_are_one_mapping(tmp_path: Path) -> None:
    shard(tmp_path)
    assert set(open_weights([tmp_path / "m-1.safetensors", tmp_path / "m-2.safetensors"])) == {"a", "b"}


# Renaming ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "name", "expected"),
    [
        ([("bert.*", "*")], "bert.encoder.layer.0.w", "encoder.layer.0.w"),
        ([("bert.*", "*")], "cls.w", "cls.w"),
        ([("h.*.attn.*", "blocks.*.self.*")], "h.11.attn.proj.bias", "blocks.11.self.proj.bias"),
        ([("a", "b"), ("*", "c.*")], "a", "b"),  # the first that fits
        ([("a.*", "b.*"), ("b.*", "c.*")], "a.w", "b.w"),  # once
        ([("a.w", "x.w")], "a_w", "a_w"),  # a dot is a dot
    ],
)
def test_renames(tmp_path: Path, rules: list[tuple[str, str]], name: str, expected: str) -> None:
    save_file({name: np.ones(1, np.float32)}, tmp_path / "w.safetensors")
    assert list(open_weights(tmp_path / "w.safetensors", rules)) == [expected]


# Binding -------------------------------------------------------------------------------------------------------------


def test_binding_converts_floats_lazily_and_says_so(tmp_path: Path) -> None:
    save_file({"w": np.ones((2, 3), np.float32), "n": np.arange(4, dtype=np.int32)}, tmp_path / "w.safetensors")
    bound = bind(graph_of(w="bf16[2,3]", n="i64[4]"), open_weights(tmp_path / "w.safetensors"))
    assert bound["w"].numpy().dtype == ml_dtypes.bfloat16
    assert bound["n"].numpy().dtype == np.int64
    assert bound["w"].nbytes == 12
    assert bound.converted[(f32, bf16)] == 1
    assert "1 tensor(s) converted from f32 to bf16" in bound.notes()
    assert np.asarray(bound["w"]).shape == (2, 3)


def test_a_matching_dtype_is_not_copied(tmp_path: Path) -> None:
    save_file({"w": np.ones((2, 3), np.float32)}, tmp_path / "w.safetensors")
    weights = open_weights(tmp_path / "w.safetensors")
    assert np.shares_memory(bind(graph_of(w="f32[2,3]"), weights)["w"].numpy(), weights["w"])


def test_unexpected_names_are_a_note_unless_strict() -> None:
    weights = {"w": np.ones(2, np.float32), "head.bias": np.ones(1, np.float32)}
    bound = bind(graph_of(w="f32[2]"), weights)
    assert bound.unexpected == ["head.bias"]
    assert bound.notes() == ["not used by the model: head.bias"]
    error = refused(lambda: bind(graph_of(w="f32[2]"), weights, strict=True))
    assert error.code == "E0606"
    assert "1 not used" in error.message


def test_torch_tensors_bind() -> None:
    torch = pytest.importorskip("torch")
    weights = {"a": torch.tensor([1.5, 2.5], dtype=torch.bfloat16, requires_grad=True), "b": torch.arange(3)}
    bound = bind(graph_of(a="bf16[2]", b="i64[3]"), weights)
    assert bound["a"].numpy().astype(np.float32).tolist() == [1.5, 2.5]
    assert bound["b"].numpy().tolist() == [0, 1, 2]


def test_a_misfit_lists_everything_at_once() -> None:
    graph = graph_of(**{f"layer__{i}__w": "f32[2]" for i in range(20)}, head="f32[3,2]", tail="f32[2]")
    weights = {f"model.layer.{i}.w": np.ones(2, np.float32) for i in range(20)} | {
        "head": np.ones((2, 3), np.float32),
        "tail": np.ones(2, np.float32),
    }
    error = refused(lambda: bind(graph, weights))
    assert error.code == "E0606"
    assert error.message == "the weights do not fit `model`: 20 missing, 1 of another shape, 20 not used"
    missing, misshaped, unexpected = [note.message for note in error.notes]
    assert missing.startswith("missing: layer.0.w, layer.1.w")
    assert missing.endswith("… and 8 more")
    assert misshaped == "of another shape: head is f32[2, 3], but the model has f32[3, 2]"
    assert unexpected.startswith("not used: model.layer.0.w")
    assert error.help == 'the names in the file begin with `model.`: write `weights "…" { "model.*" => "*" }`'


def test_a_lacking_prefix_is_suggested() -> None:
    graph = graph_of(bert__a="f32[1]", bert__b="f32[1]")
    error = refused(lambda: bind(graph, {"a": np.ones(1, np.float32), "b": np.ones(1, np.float32)}))
    assert error.help == 'the names in the file lack `bert.`: write `weights "…" { "*" => "bert.*" }`'


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (np.ones(2, np.int8), "f32[2]"),
        (np.ones(2, np.float32), "i64[2]"),
        (np.ones(2, np.int64), "i32[2]"),
        (np.ones(2, bool), "u8[2]"),
    ],
)
def test_another_kind_of_number_is_refused(value: np.ndarray, wanted: str) -> None:
    error = refused(lambda: bind(graph_of(w=wanted), {"w": value}))
    assert error.code == "E0607"
    assert "w is " in error.message


def test_a_parameter_without_a_fixed_size_is_refused() -> None:
    b = Builder(Graph("model"))
    b.param("pos", TensorType.of("f32", ["T", 4]))
    for action in (lambda: initialise(b.graph, 0), lambda: bind(b.graph, {"pos": np.ones((3, 4), np.float32)})):
        assert refused(action).code == "E0612"


# Files that lie ------------------------------------------------------------------------------------------------------


def refused(action: Callable[[], Any]) -> Diagnostic:
    with pytest.raises(Diagnostic) as caught:
        action()
    assert caught.value.code in all_codes()
    assert len(caught.value.render()) < 4000
    return caught.value


EIGHT = bytes(8)
LIES: list[tuple[str, str, Callable[[Path], Any]]] = [
    ("E0603", "too short", lambda p: p.write_bytes(b"abc")),
    ("E0603", "too short", lambda p: p.write_bytes(b"")),
    ("E0602", "claims a header of 9223372036854775807 bytes", lambda p: raw_file(p, {}, claim=2**63 - 1)),
    ("E0603", "claims a header of 5000 bytes, but only 2 follow", lambda p: raw_file(p, {}, claim=5000)),
    ("E0602", "not JSON", lambda p: raw_file(p, b"{'a': 1}")),
    ("E0602", "not JSON", lambda p: raw_file(p, b"\xff\xfe{}")),
    ("E0602", "not JSON", lambda p: raw_file(p, b"[" * 200_000)),
    ("E0602", "not a JSON object", lambda p: raw_file(p, [1, 2])),
    ("E0602", "the name 'w' occurs twice", lambda p: raw_file(p, b'{"w": 1, "w": 2}')),
    ("E0602", "lacks dtype, shape or data_offsets", lambda p: raw_file(p, {"w": {"dtype": "F32"}})),
    ("E0602", "lacks dtype, shape or data_offsets", lambda p: raw_file(p, {"w": 7})),
    ("E0602", "the shape [-1]", lambda p: raw_file(p, {"w": row(shape=[-1])}, EIGHT)),
    ("E0602", "the shape [True]", lambda p: raw_file(p, {"w": row(shape=[True])}, EIGHT)),
    ("E0602", "the dtype 7", lambda p: raw_file(p, {"w": row(dtype=7)}, EIGHT)),  # type: ignore[arg-type]
    ("E0602", "the offsets [8, 0]", lambda p: raw_file(p, {"w": row(offsets=[8, 0])}, EIGHT)),
    ("E0602", "the offsets [0]", lambda p: raw_file(p, {"w": row(offsets=[0])}, EIGHT)),
    ("E0604", "`w` is F32[3], 12 bytes, but has 8", lambda p: raw_file(p, {"w": row(shape=[3])}, EIGHT)),
    ("E0603", "`w` should end at byte 8", lambda p: raw_file(p, {"w": row()}, EIGHT[:5])),
    ("E0604", "`v` and `w` overlap", lambda p: raw_file(p, {"v": row(), "w": row(offsets=[4, 12])}, bytes(12))),
    ("E0604", "a hole of 4 bytes in front of `w`", lambda p: raw_file(p, {"w": row(offsets=[4, 12])}, bytes(12))),
    ("E0604", "accounts for 8 bytes", lambda p: raw_file(p, {"w": row()}, bytes(12))),
    ("E0601", "PyTorch pickle", lambda p: p.write_bytes(b"PK\x03\x04" + bytes(40))),
    ("E0601", "PyTorch pickle", lambda p: p.write_bytes(b"\x80\x04\x95" + bytes(40))),
]


@pytest.mark.parametrize(("code", "text", "write"), LIES, ids=[f"{c}-{i}" for i, (c, _, _) in enumerate(LIES)])
def test_a_lying_file_is_refused(tmp_path: Path, code: str, text: str, write: Callable[[Path], Any]) -> None:
    path = tmp_path / "w.safetensors"
    write(path)
    error = refused(lambda: open_weights(path, span=Span("m.tess", 3, 1, 3, 8)))
    assert error.code == code
    assert text in error.message
    assert error.span is not None


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "last.CKPT"])
def test_pickles_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"anything")
    assert refused(lambda: open_weights(tmp_path / name)).code == "E0601"
    error = refused(lambda: open_weights(tmp_path))  # the folder that holds nothing else
    assert error.code == "E0601"
    assert name in error.message


def test_missing_files(tmp_path: Path) -> None:
    assert refused(lambda: open_weights(tmp_path / "no.safetensors")).code == "E0001"
    assert refused(lambda: open_weights(tmp_path / "no.safetensors.index.json")).code == "E0001"
    (tmp_path / "empty").mkdir()
    assert refused(lambda: open_weights(tmp_path / "empty")).code == "E0001"


def test_a_name_twice_after_renaming(tmp_path: Path) -> None:
    save_file({"a.w": np.ones(1, np.float32), "b.w": np.ones(1, np.float32)}, tmp_path / "w.safetensors")
    error = refused(lambda: open_weights(tmp_path / "w.safetensors", [("a.*", "*"), ("b.*", "*")]))
    assert error.code == "E0608"
    assert "both called `w`" in error.message


@pytest.mark.parametrize("rule", [("a.*.b.*", "c.*"), ("a", "*"), ("", "x"), ("x", "")])
def test_malformed_renames(tmp_path: Path, rule: tuple[str, str]) -> None:
    save_file({"a": np.ones(1, np.float32)}, tmp_path / "w.safetensors")
    assert refused(lambda: open_weights(tmp_path / "w.safetensors", [rule])).code == "E0609"


@pytest.mark.parametrize(
    "table",
    [
        {"a": "../secret.safetensors"},
        {"a": "/etc/passwd"},
        {"a": "..\\secret.safetensors"},
        {"a": ".."},
        {"zzz": "m-1.safetensors"},
        {"a": 3},
    ],
)
def test_bad_indices(tmp_path: Path, table: dict[str, Any]) -> None:
    assert refused(lambda: open_weights(shard(tmp_path, table))).code == "E0610"


def test_an_index_that_is_not_json(tmp_path: Path) -> None:
    index = shard(tmp_path)
    index.write_text("{")
    assert refused(lambda: open_weights(index)).code == "E0610"


def test_unknown_dtypes_matter_only_when_used(tmp_path: Path) -> None:
    header = {"a": row("F32", (1,), (0, 4)), "q": row("F8_E4M3", (4,), (4, 8)), "z": row("F4", (2,), (8, 9))}
    path = raw_file(tmp_path / "w.safetensors", header, bytes(9))
    weights = open_weights(path)
    assert bind(graph_of(a="f32[1]"), weights)["a"].numpy().tolist() == [0]
    assert refused(lambda: bind(graph_of(q="f32[4]"), weights)).code == "E0605"
    assert refused(lambda: weights["q"]).code == "E0605"
    assert refused(lambda: bind(graph_of(c="f32[1]"), {"c": np.ones(1, np.complex64)})).code == "E0605"


# First values --------------------------------------------------------------------------------------------------------


def test_initialise_is_deterministic_by_seed_and_name() -> None:
    b = Builder(Graph("model"))
    for name in ("a", "b"):
        b.param(name, TensorType.of("f32", [64, 32]), Initializer("normal", (0.02,)))
    first, again, other = initialise(b.graph, 1), initialise(b.graph, 1), initialise(b.graph, 2)
    np.testing.assert_array_equal(first["a"].numpy(), again["a"].numpy())
    assert not np.array_equal(first["a"].numpy(), first["b"].numpy())
    assert not np.array_equal(first["a"].numpy(), other["a"].numpy())


@pytest.mark.parametrize(
    ("init", "low", "high", "std"),
    [
        (Initializer("zeros"), 0, 0, 0),
        (Initializer("ones"), 1, 1, 0),
        (Initializer("constant", (2.5,)), 2.5, 2.5, 0),
        (Initializer("normal", (0.02,)), -0.12, 0.12, 0.02),
        (Initializer("trunc_normal", (0.02,)), -0.04, 0.04, 0.0176),
        (Initializer("uniform", (-1, 3)), -1, 3, 1.1547),
        (Initializer("xavier_uniform"), -0.1531, 0.1531, 0.0884),  # sqrt(6 / (200 + 56))
        (Initializer("kaiming_uniform"), -0.3273, 0.3273, 0.189),  # sqrt(6 / 56)
        (Initializer("kaiming_uniform", (5**0.5,)), -0.13363, 0.13363, 0.07715),  # 1 / sqrt(56)
    ],
    ids=str,
)
def test_initialisers(init: Initializer, low: float, high: float, std: float) -> None:
    values = fill(init, (200, 56), f32, seed=0, name="w")
    assert values.dtype == np.float32
    assert values.shape == (200, 56)
    assert values.min() >= low - 1e-4
    assert values.max() <= high + 1e-4
    assert values.std() == pytest.approx(std, rel=0.03)


def test_every_initialiser_fills_every_rank() -> None:
    for name, known in INITIALISERS.items():
        if known.texts:
            # What it fills has the shape of the file's table.
            continue
        args = (0.5,) if name == "constant" else ()
        for shape in ((), (5,), (4, 3, 2)):
            assert fill(Initializer(name, args), shape, f16).shape == shape
    assert fill(Initializer("constant", (((1, 2), (3, 4)),)), (2, 2), i64).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("normal(-1.0)", "`normal` takes a std of at least 0, not -1.0"),
        ("trunc_normal(-0.02)", "at least 0"),
        ("normal", "`normal` takes 1 number(s): std"),
        ("zeros(1.0)", "`zeros` takes 0 number(s)"),
        ("uniform(1.0, -1.0)", "a low that is not above its high"),
        ("uniform(-inf, 0.0)", "a finite low"),
        ("constant(true)", "`constant` takes numbers, not the bool true"),
        ("gauss(1.0)", "`gauss` does not say how to fill a"),
    ],
)
@pytest.mark.parametrize(
    "program",
    [
        "model m(x: f32[4]) -> f32[4] {{ param w: f32[4] = {}\n return x + w }}",
        "model m(x: f32[4]) -> f32[4] {{ state s: f32[4] = {}\n s = s + x\n return s }}",
        'model m(x: f32[4]) -> f32[4] {{ param w: f32[4]\n return x + w }}\ncompile m {{ weights {{ "w" = {} }} }}',
    ],
    ids=["parameter", "state", "recipe"],
)
def test_what_an_initialiser_takes_is_checked_where_it_is_written(program: str, text: str, message: str) -> None:
    error = refused(lambda: loads(program.format(text)))
    assert error.code in ("E0405", "E0614")
    assert error.span is not None
    # A recipe knows no initialiser of that name, and says what it knows.
    assert message in error.message or ("weights" in program and "gauss" in text)


@pytest.mark.parametrize(
    "init", [Initializer("gauss"), Initializer("normal", (1, 2, 3)), Initializer("constant", ((1, 2),))], ids=str
)
def test_bad_initialisers(init: Initializer) -> None:
    assert refused(lambda: fill(init, (3,), f32)).code == "E0611"


def test_more_than_memory_holds() -> None:
    error = refused(lambda: fill(Initializer("normal"), (1 << 40, 1 << 10), f32, name="head.weight"))
    assert error.code == "E0618"
    assert error.message.startswith("`head.weight`, f32[1099511627776, 1024], takes 4194304 GiB, and ")


@pytest.mark.parametrize("name", ["w.npz", "w.npy"])
def test_numpy_arrays_are_no_pickle(tmp_path: Path, name: str) -> None:
    """They are refused as what they are, with the line that converts them."""
    array = np.ones((2, 3), np.float32)
    np.savez(tmp_path / name, w=array) if name.endswith("z") else np.save(tmp_path / name, array)
    error = refused(lambda: open_weights(tmp_path / name))
    assert error.code == "E0602"
    assert "NumPy arrays" in error.message
    assert "save_file" in (error.help or "")
