"""Running an ONNX artifact on NumPy arrays: what goes in is checked first, and named in every message.

session = Session("vit.onnx")
logits = session({"image": image})["logits"]
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.binding import decode_dim
from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import const, sym
from ...ir.graph import Initializer, Require
from ...ir.types import DTYPES
from ...runtime.failures import failed
from ...runtime.inputs import fit_array
from ...runtime.ports import Demands, Port, Ports

if TYPE_CHECKING:
    import numpy as np

    from ...runtime.states import Carrying
    from .carrying import CarryingSession

_ORT_TYPES = {dtype.onnx_type: dtype for dtype in DTYPES.values()}
# Bytes from which on mapping a file is worth the trouble.
_MAP_FROM = 32 << 20


class Session:
    """An artifact in ONNX Runtime's CPU provider.

    Args:
        model: the file, or its bytes.
        threads: of one operator; None leaves it to ONNX Runtime (one for each core).
        options: further session options, ``{"session.intra_op.allow_spinning": "0"}``.
        profile: write ONNX Runtime's profile to files that begin so.
        prepack: let ONNX Runtime copy weights into the layout its kernels like best: faster, but in private memory. None: only
            when they are in the model file itself; what lies in a data file beside it stays mapped.
        mapped: map the weights of a large file, too, instead of copying them: opened sooner and in little memory of its own, it
            runs some percent slower.

    Attributes:
        inputs: what a call must give.
        optional: states and random inputs, filled when they are not given.
        outputs: the names of outputs, taps and states.
        values: what each of them is called in the file, where a state's input has its name already.
        states: those that are both.
        in_place: the states whose update may be written into the buffer that it reads.
        metadata: what the file says about its making.

    Raises:
        Diagnostic: E0910 when it cannot be loaded, E0911 when ONNX Runtime has no kernel for it.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        *,
        threads: int | None = None,
        options: Mapping[str, str] | None = None,
        profile: str | None = None,
        prepack: bool | None = None,
        mapped: bool = False,
    ) -> None:
        self._session = _open(model, threads, options or {}, profile, prepack, mapped)
        self._sized: tuple[Any, dict[str, int]] | None = None
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        shown = "the artifact" if isinstance(model, bytes) else f"`{Path(model).name}`"
        try:
            self._read_metadata()
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise Diagnostic("E0910", f"what {shown} says of its inputs cannot be used: {error}") from error

    def _read_metadata(self) -> None:
        def entry(key: str, default: Any) -> Any:
            return json.loads(self.metadata[key]) if key in self.metadata else default

        rows = entry("tessera.inputs", None)
        ports = [_foreign(i) for i in self._session.get_inputs()] if rows is None else [_declared(r) for r in rows]
        values = [o.name for o in self._session.get_outputs()]
        outputs = entry("tessera.outputs", [{"name": name, "value": name} for name in values])
        self._values = [row["value"] for row in outputs]
        self.outputs: list[str] = [row["name"] for row in outputs]
        self.values: dict[str, str] = dict(zip(self.outputs, self._values, strict=True))
        self.selects: bool = entry("tessera.selects", False)
        requires = [Require(decode_dim(a), op, decode_dim(b), text) for a, op, b, text in entry("tessera.requires", [])]
        roles = {row["name"]: row.get("role", "output") for row in outputs}
        self.states = [i.name for i in ports if i.role == "state" and roles.get(i.name) == "state"]
        self.in_place = frozenset(entry("tessera.in_place", []))
        self._only_in_place = frozenset(entry("tessera.only_in_place", []))
        lets = {name: decode_dim(d) for name, d in entry("tessera.lets", {}).items()}
        model = self.metadata.get("tessera.model", "the artifact")
        # Of a file that Tessera did not write nothing is known.
        facts: dict[str, tuple[int, int | None]] | None = None if rows is None else {}
        self.ports = Ports(model, ports, [Demands(None, lets, requires)], facts, title="the artifact")
        self.inputs, self.optional = self.ports.inputs, self.ports.optional

    def __call__(
        self, arrays: Mapping[str, Any], *, seed: int = 0, sizes: Mapping[str, int] | None = None
    ) -> dict[str, np.ndarray]:
        """All outputs, taps and new states by name.

        Args:
            arrays: by input name. An array of another width of the same kind (f64 for f32) is converted.
            seed: for random inputs that are not given.
            sizes: those that no array tells, such as the capacity of states that are not given.

        Raises:
            Diagnostic: E0901 names, E0902 sizes, E0903 dtypes, E0904 a requirement of the model, E0905 an index outside its
                table, E0922 NaN where tokens are selected, E0912 when ONNX Runtime fails.
        """
        return dict(zip(self.outputs, self.run(self.feeds(arrays, seed=seed, sizes=sizes)), strict=True))

    def carrying(
        self, *, states: Mapping[str, Any] | None = None, sizes: Mapping[str, int] | None = None, seed: int = 0,
        onto: Carrying | None = None,
    ) -> CarryingSession:  # fmt: skip
        """A run that carries the states from call to call; on those of ``onto``, a run of another entry point."""
        from .carrying import CarryingSession

        return CarryingSession(self, states=states, sizes=sizes, seed=seed, onto=onto)

    def feeds(
        self, arrays: Mapping[str, Any], *, seed: int = 0, sizes: Mapping[str, int] | None = None,
        held: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """Everything that ONNX Runtime is given for these arrays: checked, states and random inputs filled. Raises as a call.

        ``held`` are states of a session, which are bound otherwise; its caches are not to be written beyond their last slot.
        """
        carried, held = held is not None, held or {}
        arrays = self.ports.public(arrays)
        self.ports.check_names(arrays)
        twice = next((name for name in arrays if name in held), None)
        if twice is not None:
            raise Diagnostic("E0901", f"`{twice}` is a state, which the session carries")
        feeds = {n: fit_array(self.ports.by_name[n].spec, array, nan=not self.selects) for n, array in arrays.items()}
        shapes = {name: array.shape for name, array in (*held.items(), *feeds.items())}
        # Steps of one text are alike: what was asked of the sizes of the last call is not asked again.
        asked = shapes, dict(sizes) if isinstance(sizes, Mapping) else sizes
        if self._sized is None or self._sized[0] != asked:
            values = self.ports.sizes(shapes, sizes)
            self.ports.check_requires(values)
            self._sized = asked, values
        values = dict(self._sized[1])
        for name, array in feeds.items():
            if self.ports.by_name[name].limits and array.size:
                self.ports.check_places(name, *_extent(array), values)
        for name, array in (*held.items(), *feeds.items()) if carried else ():
            if self.ports.by_name[name].most and array.size:
                self.ports.check_counts(name, *_extent(array), values)
        return feeds | self.ports.filled(shapes, values, seed)

    def binding(self) -> Any:
        """An empty IO binding."""
        return self._session.io_binding()

    def run_bound(self, binding: Any) -> None:
        """Run with everything bound. Raises E0912."""
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime has no common exception class
            raise failed("ONNX Runtime", _reason(error)) from error

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs in order for what :meth:`feeds` gave; nothing is checked again. Raises E0912."""
        if self._only_in_place:
            return self._run_in_place(feeds)
        try:
            results: list[np.ndarray] = self._session.run(self._values, feeds)
        except Exception as error:  # ONNX Runtime has no common exception class
            raise failed("ONNX Runtime", _reason(error)) from error
        return results

    def _run_in_place(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """As :meth:`run`, with copies of states bound in and out, of which an op writes only what is new."""
        import numpy as np
        import onnxruntime as ort

        binding = self.binding()
        copies = {name: np.array(feeds[name]) for name in self._only_in_place}
        held = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in copies.items()}
        for name, array in feeds.items():
            if name in held:
                binding.bind_ortvalue_input(name, held[name])
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(array) if array.ndim else array)
        for name, inner in self.values.items():
            if name in held:
                binding.bind_ortvalue_output(inner, held[name])
            else:
                binding.bind_output(inner, "cpu")
        self.run_bound(binding)
        made = zip(self.values, binding.get_outputs(), strict=True)
        return [copies[name] if name in held else value.numpy() for name, value in made]

    def sizes(self, shapes: Mapping[str, Sequence[int]], chosen: Mapping[str, int] | None = None) -> dict[str, int]:
        """The size of every dimension symbol, ``let`` names included, for given input shapes, and those ``chosen``. Raises E0902."""
        return self.ports.sizes(shapes, chosen)

    def holds(self, sizes: dict[str, int]) -> bool:
        """Whether the model takes these sizes of its symbols."""
        return self.ports.broken(sizes) is None


def _open(
    model: str | os.PathLike[str] | bytes,
    threads: int | None,
    options: Mapping[str, str],
    profile: str | None,
    prepack: bool | None,
    mapped: bool,
) -> Any:
    import onnxruntime as ort

    from ...runtime.files.wire import mapped_model

    # Where a build of ONNX Runtime tells its makers of each session, a model is nobody's business.
    ort.disable_telemetry_events()
    shown = "the artifact" if isinstance(model, bytes) else f"`{Path(model).name}`"
    settings = ort.SessionOptions()
    settings.log_severity_level = 4  # errors reach the user as diagnostics, and warnings are about our own graph
    if threads is not None:
        settings.intra_op_num_threads = threads
    if profile is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = profile
    if not isinstance(model, bytes):
        model = os.fspath(model)
        if not os.path.isfile(model):
            raise Diagnostic("E0910", f"there is no file `{model}`")
        large = mapped and os.path.getsize(model) >= _MAP_FROM
        if prepack is None:
            prepack = not (large or os.path.exists(model + ".data"))
        if large:
            settings.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", os.path.dirname(os.path.abspath(model))
            )
            model = mapped_model(model)
    if prepack is False:
        settings.add_session_config_entry("session.disable_prepacking", "1")
    for key, value in options.items():
        settings.add_session_config_entry(key, value)
    try:
        return ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common exception class
        if "NOT_IMPLEMENTED" in str(error):
            raise Diagnostic("E0911", f"{shown} cannot be executed here: {_reason(error)}") from error
        raise Diagnostic("E0910", f"{shown} cannot be loaded: {_reason(error)}") from error


def _extent(array: np.ndarray) -> tuple[int, int]:
    """The least and the greatest of some integers."""
    if array.size > 64:
        return int(array.min()), int(array.max())
    # Of few numbers that is sooner told by themselves.
    numbers = array.ravel().tolist()
    return min(numbers), max(numbers)


def _declared(row: Mapping[str, Any]) -> Port:
    shape = tuple(decode_dim(d) for d in row["shape"])
    init = Initializer(row["init"][0], tuple(row["init"][1:])) if "init" in row else None
    limits, most = (tuple(decode_dim(d) for d in row.get(key, ())) for key in ("below", "most"))
    role, own = row.get("role", "input"), row.get("own", "")
    return Port(row["name"], DTYPES[row["dtype"]], shape, role, init, limits=limits, own=own, most=most)


def _foreign(value: Any) -> Port:
    """An input of an ONNX file that Tessera did not write; an axis without a name may have any size."""
    shape = tuple(
        const(d) if isinstance(d, int) else sym(d or f"{value.name}.{axis}") for axis, d in enumerate(value.shape)
    )
    if value.type not in _ORT_TYPES:
        raise ValueError(f"`{value.name}` is a {value.type}")
    return Port(value.name, _ORT_TYPES[value.type], shape)


def _reason(error: Exception) -> str:
    """ONNX Runtime's message without its code prefix, shortened."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return text.rpartition(" : ")[2][:400] if text.startswith("[ONNXRuntimeError]") else text[:400]
