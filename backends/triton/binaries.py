"""Kernels of a program compiled ahead of time, beside its weights, so that a GPU of one of these kinds need not compile them.

What would be launched is found by one run at sizes that are known, in which definitions compute and nothing is launched. Triton takes
a binary where it would compile the very same (:mod:`tessera.kernels.shipped`), and compiles where it would not.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic, Note, did_you_mean
from ...ir.types import DTYPES

if TYPE_CHECKING:
    import numpy as np

    from ...ir.graph import Graph, Module
    from ...runtime.weights.bind import Bound

# In a file's metadata: which binaries there are, and the hashes of their files, which are tensors called `tessera.binary/KEY/FILE`.
BINARIES = "tessera.kernels"
_TENSOR = "tessera.binary"
GPUS = ("sm_80", "sm_90", "gfx942")


def parse_gpus(text: str) -> list[str]:
    """``sm_80,sm_90`` as names; of all for ``all``."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    return list(GPUS) if names == ["all"] else names


def wrong_gpus(text: str) -> str | None:
    """What is wrong with such a text."""
    unknown = [name for name in parse_gpus(text) if name not in GPUS]
    return f"names GPUs among {', '.join(GPUS)}, or `all`, but `{unknown[0]}` is none of them" if unknown else None


def parse_sizes(text: str) -> dict[str, int]:
    """``B=1,T=128`` as sizes."""
    pairs = (part.partition("=") for part in text.split(",") if part.strip())
    return {name.strip(): int(value) for name, _, value in pairs}


def wrong_sizes(text: str) -> str | None:
    """What is wrong with such a text."""
    for part in text.split(","):
        name, _, value = part.partition("=")
        if part.strip() and not (name.strip() and value.strip().isdigit() and int(value)):
            return f"is written NAME=SIZE, as in B=1,T=128, but has `{part}`"
    return None


# Writing ---------------------------------------------------------------------------------------------------------------


def compiled_ahead(
    modules: Sequence[Module], weights: Bound, gpus: Sequence[str], sizes: Mapping[str, int]
) -> tuple[dict[str, str], Bound]:
    """Binaries of all that some entry points launch at these sizes: what is to be said of them, and the tensors that they are.

    Raises:
        Diagnostic: E0012 for a size that is not known, or of no entry point; what the model or the compiler says otherwise.
    """
    known = list(dict.fromkeys(s for module in modules for s in module.graph.symbols()))
    for name in sizes:
        if name not in known:
            help = did_you_mean(name, known) or f"its sizes are {', '.join(known)}" if known else "all of its sizes are fixed"
            raise Diagnostic("E0012", f"the program has no size `{name}` to compile kernels for", help=help)
    missing = [name for name in known if name not in sizes]
    if missing:
        shown = ",".join(f"{name}={sizes.get(name, 1)}" for name in known)
        raise Diagnostic(
            "E0012", f"kernels are compiled for known sizes, and nothing says what `{missing[0]}` is", help=f"--at {shown}, or others"
        )
    from hashlib import sha256

    from triton import __version__

    from ...runtime.files.aside import Scratch
    from ...runtime.weights.bind import Bound, LazyTensor

    rows: list[dict[str, Any]] = []
    for module in modules:
        rows += [row for row in _planned(module, weights, sizes) if row not in rows]
    with Scratch() as folder:
        made = _compiled(rows, gpus, Path(folder))
        tensors = Bound()
        listed = []
        for each in made:
            files = {}
            for path in sorted(Path(folder, each["key"]).iterdir()):
                data = path.read_bytes()
                name = f"{_TENSOR}/{each['key']}/{path.name}"
                tensors[name] = LazyTensor(name, DTYPES["u8"], (len(data),), _as_array(data))
                files[path.name] = sha256(data).hexdigest()
            listed.append({**each, "sha256": files})
    return {BINARIES: json.dumps({"triton": __version__, "sizes": dict(sizes), "binaries": listed})}, tensors


def _as_array(data: bytes) -> Any:
    def load() -> np.ndarray:
        import numpy as np

        return np.frombuffer(data, np.uint8)

    return load


def _planned(module: Module, weights: Bound, sizes: Mapping[str, int]) -> list[dict[str, Any]]:
    """What an entry point would launch."""
    import numpy as np

    from ...kernels.launch import planning
    from ..torch.runner import TorchRunner
    from . import build

    graph: Graph = module.graph
    own = {name: size for name, size in sizes.items() if name in graph.symbols()}
    values = graph.sizes(own)
    given = [v for v in graph.inputs if v.role == "input"]
    told = {s for v in given for d in v.type.shape for s in graph.expand_lets(d).symbols}
    # Zeros are indices that every table has.
    feeds = {
        v.public: (np.ones if v.type.dtype.kind == "bool" else np.zeros)([d.evaluate(values) for d in v.type.shape], v.type.dtype.numpy)
        for v in given
    }
    runner = TorchRunner(module, build(module, {name: weights[name] for name in graph.params}), {})
    with planning() as rows:
        runner(feeds, sizes={name: size for name, size in own.items() if name not in told} or None)
    return rows


def _compiled(rows: Sequence[Mapping[str, Any]], gpus: Iterable[str], folder: Path) -> list[dict[str, Any]]:
    """Have launches compiled into a folder, in a process of its own: Triton compiles nothing in one that interprets."""
    from subprocess import run as start

    file = folder / "planned.json"
    file.write_text(json.dumps(rows), "utf-8")
    package = __name__.split(".")[0]
    call = [sys.executable, "-m", f"{package}.kernels.ahead", str(file), "--into", str(folder)]
    call += [word for gpu in gpus for word in ("--target", gpu)]
    home = str(Path(__file__).parents[3])
    paths = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), home)))
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": paths}
    run = start(call, capture_output=True, text=True, env=environment, check=False)
    if run.returncode:
        lines = run.stderr.strip().splitlines() or ["nothing"]
        raise Diagnostic(
            "E0012", "the program's kernels cannot be compiled ahead of time here", notes=[Note(f"Triton says: {lines[-1][:400]}")],
            help="without `--binaries` they are compiled where they run",
        )  # fmt: skip
    made: list[dict[str, Any]] = json.loads(run.stdout)
    return list({each["key"]: each for each in made}.values())


# Reading ---------------------------------------------------------------------------------------------------------------


def _said(text: str, shown: str) -> dict[str, Any]:
    """What :data:`BINARIES` says. Raises E0528 for what was not written so: names of files are none of paths."""
    try:
        said: dict[str, Any] = json.loads(text)
        for each in said["binaries"]:
            bytes.fromhex(each["key"])
            if not all(isinstance(each[fact], str) for fact in ("kernel", "target")) or not each["sha256"] \
                    or not all(Path(name).name == name and isinstance(digest, str) for name, digest in each["sha256"].items()):
                raise ValueError
        if not isinstance(said["triton"], str) or not isinstance(said["sizes"], dict):
            raise ValueError
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise Diagnostic(
            "E0528", f"`{shown}` says of its kernels what was not written so", help="compile the program again"
        ) from None
    return said


def summary(text: str, shown: str) -> str:
    """What :data:`BINARIES` says, in words."""
    said = _said(text, shown)
    gpus = dict.fromkeys(each["target"] for each in said["binaries"])
    kernels = len({each["kernel"] for each in said["binaries"]})
    at = ", ".join(f"{name} = {size}" for name, size in said["sizes"].items())
    return f"{len(said['binaries'])} binaries of {kernels} kernels for {', '.join(gpus)}{f' at {at}' if at else ''}, Triton {said['triton']}"


def offered(text: str | None, tensors: Mapping[str, Any], shown: str) -> int:
    """Let Triton take the binaries of an artifact that are for this machine. Gives how many there are of them.

    Raises:
        Diagnostic: E0528 for a binary that is another one than was written, whatever machine it is for.
    """
    if text is None:
        return 0
    said = _said(text, shown)
    held: dict[str, dict[str, bytes]] = {}
    for each in said["binaries"]:
        files = {name: _checked(f"{_TENSOR}/{each['key']}/{name}", digest, tensors, shown) for name, digest in each["sha256"].items()}
        if each["target"] == _machine():
            held[each["key"]] = files
    from ...kernels.shipped import offer

    offer(held)
    return len(held)


def _checked(name: str, digest: str, tensors: Mapping[str, Any], shown: str) -> bytes:
    from hashlib import sha256

    import numpy as np

    data = np.asarray(tensors[name]).tobytes() if name in tensors else b""
    found = sha256(data).hexdigest()
    if found != digest:
        raise Diagnostic(
            "E0528", f"the kernel `{name.rsplit('/', 1)[1]}` in `{shown}` is another one than was compiled: its hash is {found[:12]}…, "
            f"not {digest[:12]}…", help="compile the program again",
        )  # fmt: skip
    return data


def _machine() -> str | None:
    """What binaries this machine's GPU takes, by the names of :data:`GPUS`; None where there is no GPU."""
    import torch

    from ...kernels.launch import INTERPRETED

    if INTERPRETED or not torch.cuda.is_available():
        return None
    facts = torch.cuda.get_device_properties(0)
    hip = getattr(facts, "gcnArchName", "").split(":")[0] if torch.version.hip else ""
    return hip or f"sm_{facts.major}{facts.minor}"
