"""Parsing and type-checking files of 1,000 to 10,000 lines, and how long `tessera check` and `--help` take.

python -m benchmarks.frontend
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from tessera.frontends.source import check_text
from tessera.frontends.source.syntax.parser import parse

from .common import write

BLOCK = """
## Block {k}.
layer block{k}(x: float[B, T, D], mask: bool[B, 1, 1, T], *, heads: int = 8, hidden: int = 256) -> float[B, T, D] {{
    param wq: float[D, D] = normal(0.02)
    param wk: float[D, D] = normal(0.02)
    param wo: float[D, D] = normal(0.02)
    param up: float[hidden, D] = normal(0.02)
    param down: float[D, hidden] = normal(0.02)
    h = x - mean(x, axis=-1, keepdims=true)
    h = h * rsqrt(mean(h * h, axis=-1, keepdims=true) + 1e-5)
    q = rearrange(einsum("b t d, o d -> b t o", h, wq), "b t (h k) -> b h t k", h=heads)
    k = rearrange(einsum("b t d, o d -> b t o", h, wk), "b t (h k) -> b h t k", h=heads)
    s = einsum("b h t k, b h s k -> b h t s", q, k) * (D // heads) ** -0.5
    s = where(mask, s, -1e9)
    s = exp(s - max(s, axis=-1, keepdims=true))
    p = s / sum(s, axis=-1, keepdims=true)
    o = einsum("b h t s, b h s k -> b t h k", p, k)
    x = x + einsum("b t d, o d -> b t o", rearrange(o, "b t h k -> b t (h k)"), wo)
    h = einsum("b t d, f d -> b t f", x, up)
    h = h * sigmoid(h * 1.702)
    return x + einsum("b t f, d f -> b t d", h, down)
}}
"""


def program(lines: int) -> str:
    """A program of about ``lines`` lines, every one of which is elaborated: blocks, and a model that stacks them."""
    count = max(1, lines // (BLOCK.count("\n") + 1))
    calls = "\n".join(f"    x = block{k}(x, mask, heads=4) as b{k}" for k in range(count))
    model = (
        "model big(x: float[B, T, 64], mask: bool[B, 1, 1, T]) -> float[B, T, 64] {\n" + calls + "\n    return x\n}\n"
    )
    return "".join(BLOCK.format(k=k) for k in range(count)) + "\n" + model


def seconds(run: object, repeat: int = 3) -> float:
    """The median of a few runs."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()  # type: ignore[operator]
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def command(*args: str) -> float:
    """Seconds of one `tessera` process, the median of five after one to warm up."""
    run = lambda: subprocess.run([sys.executable, "-m", "tessera", *args], check=True, capture_output=True)  # noqa: E731
    run()
    return seconds(run, 5)


def main() -> None:
    rows = {}
    for lines in (1000, 3000, 10000):
        text = program(lines)
        actual = text.count("\n")
        parsing = seconds(lambda text=text: parse(text, "program"))
        both = seconds(lambda text=text: check_text(text, "program"))
        rows[str(actual)] = {
            "parse_s": round(parsing, 3),
            "parse_and_check_s": round(both, 3),
            "ms_per_line": round(both / actual * 1e3, 4),
        }
    zoo = Path(__file__).resolve().parents[1] / "specs" / "zoo" / "vit.tess"
    commands = {"check zoo/vit.tess": round(command("check", str(zoo)), 3), "--help": round(command("--help"), 3)}
    write("frontend", {"lines": rows, "command_s": commands})


if __name__ == "__main__":
    main()
