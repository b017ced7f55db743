"""Fuzzing the ONNX importer: whatever the bytes, a program or one diagnostic comes out, soon and within bounds.

    python tests/fuzz/onnx_fuzz.py --seconds 3600 --seed 1 --keep /tmp/crashes

Each case is a file of the corpus with changed bytes, or with changed fields of its message. What imports must be legal IR and
print as source that reads back. The last line says how many cases there were; the exit status is 1 when one failed.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message

from tessera.frontends import source
from tessera.frontends.onnx import load
from tessera.ir.diagnostics import Diagnostic
from tessera.ir.verifier import verify

CORPUS = Path(__file__).parent / "corpus"
# Numbers at which programs go wrong.
NUMBERS = [0, 1, -1, 2, 3, 4, 7, 8, 64, 127, 128, 255, 256, 1000, 4097, 65536, 2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**62,
           2**63 - 1, -(2**63)]  # fmt: skip
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, float("inf"), float("-inf"), float("nan")]


class Hang(Exception):
    """A case took too long."""


# Changing bytes ----------------------------------------------------------------------------------------------------------


def change_bytes(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    buffer = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(len(buffer) + 1)
        size = rng.choice([1, 1, 2, 4, 8, 32])
        kind = rng.randrange(6)
        if kind == 0 and at < len(buffer):
            buffer[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            buffer[at:at] = rng.randbytes(size)
        elif kind == 2:
            del buffer[at : at + size]
        elif kind == 3:
            buffer[at : at + size] = rng.choice([b"\x00", b"\xff", b"\x7f", b"\x80"]) * size
        elif kind == 4:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            buffer[at:at] = other[start : start + size * 4]
        elif rng.random() < 0.2:
            del buffer[at:]
        if not buffer:
            break
    return bytes(buffer)


# Changing fields ---------------------------------------------------------------------------------------------------------


def messages(root: Message) -> list[Message]:
    """The message and all within it, without looking into any twice."""
    found, stack = [], [root]
    while stack:
        message = stack.pop()
        found.append(message)
        for field, value in message.ListFields():
            if field.message_type is not None:
                stack += list(value) if field.is_repeated else [value]
    return found


def names(model: onnx.ModelProto) -> list[str]:
    found = [name for n in model.graph.node for name in (*n.input, *n.output)]
    return [*found, *(v.name for v in model.graph.initializer), "", "?"]


def change_fields(model: onnx.ModelProto, others: list[onnx.ModelProto], rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 2, 3, 6])):
        every = messages(model)
        message = rng.choice(every)
        if rng.random() < 0.5:
            nodes = [m for m in every if isinstance(m, (onnx.NodeProto, onnx.AttributeProto, onnx.TensorProto))]
            message = rng.choice(nodes) if nodes else message
        fields = [f for f, _ in message.ListFields()] if rng.random() < 0.9 else list(message.DESCRIPTOR.fields)
        if fields:
            change_field(message, rng.choice(fields), model, others, rng)


def change_field(message: Any, field: Any, model: onnx.ModelProto, others: list[onnx.ModelProto], rng: random.Random) -> None:
    if field.is_repeated:
        change_list(getattr(message, field.name), field, model, others, rng)
    elif field.message_type is not None:
        twins = [m for o in [model, rng.choice(others)] for m in messages(o) if type(m) is type(getattr(message, field.name))]
        if twins and rng.random() < 0.8:
            copy = type(twins[0])()
            copy.CopyFrom(rng.choice(twins))
            getattr(message, field.name).CopyFrom(copy)
        else:
            message.ClearField(field.name)
    elif rng.random() < 0.15:
        message.ClearField(field.name)
    else:
        put(lambda value: setattr(message, field.name, value), fresh(field, getattr(message, field.name), model, others, rng))


def change_list(rows: Any, field: Any, model: onnx.ModelProto, others: list[onnx.ModelProto], rng: random.Random) -> None:
    kind = rng.randrange(5)
    if kind == 0 and len(rows):
        del rows[rng.randrange(len(rows))]
    elif kind == 1 and len(rows) > 1:
        i, j = rng.randrange(len(rows)), rng.randrange(len(rows))
        if field.message_type is None:
            rows[i], rows[j] = rows[j], rows[i]
        else:
            copy = type(rows[i])()
            copy.CopyFrom(rows[j])
            rows[i].CopyFrom(copy)
    elif kind == 2 and field.message_type is not None:
        twins = [m for m in messages(rng.choice(others)) if m.DESCRIPTOR is field.message_type] or list(rows)
        if twins:
            rows.add().CopyFrom(rng.choice(twins))
    elif field.message_type is None:
        value = fresh(field, rows[0] if len(rows) else None, model, others, rng)
        if len(rows) and rng.random() < 0.7:
            put(lambda v: rows.__setitem__(rng.randrange(len(rows)), v), value)
        else:
            put(rows.append, value)


def put(assign: Callable[[Any], None], value: Any) -> None:
    """Assign, unless the field does not take the value."""
    try:
        assign(value)
    except (ValueError, TypeError):
        return


def fresh(field: Any, old: Any, model: onnx.ModelProto, others: list[onnx.ModelProto], rng: random.Random) -> Any:
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice(FLOATS)
    if field.type == field.TYPE_BYTES:
        return change_bytes(bytes(old or b"a"), [b"abc"], rng)
    if field.cpp_type == field.CPPTYPE_STRING:
        pool = [n.op_type for o in others for n in o.graph.node] if field.name == "op_type" else names(model)
        return rng.choice([rng.choice(pool), str(old or "")[:-1], "a" * 3000])
    return rng.choice([rng.choice(NUMBERS), (old or 0) + rng.choice([-1, 1])])


# Running -----------------------------------------------------------------------------------------------------------------


class Fuzzer:
    """Makes cases from the corpus and runs them; ``failures`` holds what went wrong."""

    def __init__(self, seed: int, keep: Path | None = None, limit: int = 30) -> None:
        self.rng = random.Random(seed)
        self.files = [path.read_bytes() for path in sorted(CORPUS.glob("*.onnx"))]
        self.models = [onnx.ModelProto.FromString(data) for data in self.files]
        self.keep = keep
        self.limit = limit
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    def prepare(self, folder: Path) -> None:
        """External data of the corpus, beside the cases."""
        for path in CORPUS.glob("*.bin"):
            shutil.copy(path, folder)

    def case(self) -> bytes:
        rng = self.rng
        if rng.random() < 0.35:
            return change_bytes(rng.choice(self.files), self.files, rng)
        model = onnx.ModelProto()
        model.CopyFrom(rng.choice(self.models))
        change_fields(model, self.models, rng)
        data = model.SerializeToString()
        return change_bytes(data, self.files, rng) if rng.random() < 0.05 and data else data

    def run(self, data: bytes, folder: Path) -> None:
        """Import one file; a program, or a diagnostic of the importer, is all that may come out."""
        path = folder / "case.onnx"
        path.write_bytes(data)
        # Seconds of its own: how busy the machine is must not decide.
        signal.signal(signal.SIGPROF, hang)
        signal.setitimer(signal.ITIMER_PROF, self.limit)
        try:
            self.counts[self.outcome(path)] += 1
        except Exception:
            self.counts["FAILED"] += 1
            self.failures.append(traceback.format_exc())
            if self.keep is not None:
                self.keep.mkdir(exist_ok=True, parents=True)
                (self.keep / f"case{len(self.failures)}.onnx").write_bytes(data)
                (self.keep / f"case{len(self.failures)}.txt").write_text(self.failures[-1])
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    @staticmethod
    def outcome(path: Path) -> str:
        try:
            imported = load(path)
        except Diagnostic as error:
            error.render()
            return error.code
        verify(imported.module.graph)
        again = source.loads(source.print_module(imported.module))
        difference = imported.module.difference(again)
        if difference is not None:
            raise AssertionError(difference)
        for weight in imported.weights.values():
            if weight.numpy().shape != weight.shape:
                raise AssertionError(f"{weight.name} is not of its shape")
        return "imported"


def hang(signum: int, frame: Any) -> None:
    raise Hang


def arguments(about: str | None) -> argparse.Namespace:
    """What a command that fuzzes is told."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the files that fail")
    return parser.parse_args()


def run_for(seconds: float, run: Callable[[], None], counts: Counter[str], failures: list[str]) -> int:
    """Run again and again, telling every minute how far it is, and what failed at the end; the exit status."""
    end = time.monotonic() + seconds
    shown = time.monotonic()
    while time.monotonic() < end:
        run()
        if time.monotonic() > shown + 60:
            shown = time.monotonic()
            print(f"{counts.total()} cases, {len(failures)} failed", flush=True)
    for text, count in Counter(text.strip().splitlines()[-1] for text in failures).most_common():
        print(f"{count} x {text}")
    print(f"{counts.total()} cases: {dict(counts.most_common())}")
    return 1 if failures else 0


def main() -> int:
    options = arguments(__doc__)
    fuzzer = Fuzzer(options.seed, options.keep)
    with tempfile.TemporaryDirectory() as name:
        fuzzer.prepare(Path(name))
        return run_for(options.seconds, lambda: fuzzer.run(fuzzer.case(), Path(name)), fuzzer.counts, fuzzer.failures)


if __name__ == "__main__":
    sys.exit(main())
