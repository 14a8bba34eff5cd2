"""Exported backbones, run by OpenVINO or ONNX Runtime on the processor's cores; importing this loads neither.

Requirements met here:
- Images go through one at a time, as many beside one another as cores are granted: an image's features are the same bit for
  bit whatever its neighbours are, and measured faster than batches on all cores at once.
- No engine sends anything anywhere.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from leukemia_cli.domain import counted
from leukemia_cli.errors import MachineError, WorkspaceError
from leukemia_cli.learning.arrays import Features
from leukemia_cli.learning.batches import Pixels
from leukemia_cli.learning.engines import EngineName, EnginePrecision, need

if TYPE_CHECKING:
    from torch import nn

    from leukemia_cli.domain import Preprocessing


class Graph(Protocol):
    """One backbone, compiled: n views (T·S, S, 3) to feature vectors (n, D)."""

    def features(self, views: Sequence[Pixels]) -> Features:
        """Give the feature vectors (n, D); that of a view of several tiles is the mean of theirs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphEngine:
    """The backbones of an exported run; `of_member` tells which graph each member looks through."""

    name: EngineName
    precision: EnginePrecision
    graphs: tuple[Graph, ...]
    of_member: tuple[int, ...]
    cores: int
    workers: int

    @property
    def description(self) -> str:
        """Say where it computes."""
        return f"cpu, {counted(self.cores, 'core')}"

    def features(
        self, views: Sequence[Pixels], spec: Preprocessing, shared: nn.Module | None, own: Sequence[nn.Module | None]
    ) -> list[Features]:
        """Give feature vectors (n, D) for each member; each graph looks once."""
        del spec, shared, own  # tiles and normalisation are part of the graphs
        seen = [graph.features(views) for graph in self.graphs]
        return [seen[graph] for graph in self.of_member]


def offered(engine: EngineName) -> tuple[EnginePrecision, ...]:
    """Name the precisions at which an exported graph runs on this processor; raises MachineError without the package."""
    need(engine)
    if engine != "openvino":
        return ("fp32",)
    capable = openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("fp32", "bf16") if "BF16" in capable else ("fp32",)


def compile_graph(
    engine: EngineName, precision: EnginePrecision, files: Mapping[str, bytes], *, tiles: int, cores: int
) -> Graph:
    """Make a graph ready from its files by suffix (onnx, or xml and bin); raises WorkspaceError where it cannot be read.

    Raises MachineError for a precision that this processor has no instructions for.
    """
    if precision not in offered(engine):
        raise MachineError(
            f"engine {engine} has no {precision} on this processor", f"Use --precision {' or '.join(offered(engine))}"
        )
    try:
        if engine == "openvino":
            return _OpenVinoGraph(files["xml"], files["bin"], precision=precision, tiles=tiles, cores=cores)
        return _OnnxGraph(files["onnx"], tiles=tiles, cores=cores)
    except Exception as error:  # each engine has its own kinds, none of them documented
        if isinstance(error, MemoryError):
            raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise WorkspaceError(
            f"{engine} cannot read the exported network: {said[:200]}", "Export the run again with: leuk export"
        ) from error


# ---------------------------------------------------------------------------------------------------------- OpenVINO

_OPENVINO_PRECISION: Mapping[EnginePrecision, str] = {"fp32": "f32", "bf16": "bf16"}


def openvino() -> Any:
    """Import OpenVINO without its telemetry, which would tell of every import to a server abroad; raises MachineError."""
    need("openvino")
    with _kept_out("openvino_telemetry"):
        import openvino as loaded
    return loaded


def onnxruntime() -> Any:
    """Import ONNX Runtime without its telemetry, which would keep an id of this machine and send it abroad.

    Raises MachineError where it is not installed.
    """
    need("onnx")
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import; there is no other way
    import onnxruntime as loaded

    return loaded


@contextlib.contextmanager
def _kept_out(name: str) -> Iterator[None]:
    """Have `import name` fail inside the block, unless it was imported before: OpenVINO then takes its own stand-in."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # what Python documents to make an import fail
    try:
        yield
    finally:
        del sys.modules[name]


class _OpenVinoGraph:
    def __init__(self, xml: bytes, weights: bytes, *, precision: EnginePrecision, tiles: int, cores: int) -> None:
        runtime = openvino()
        core = runtime.Core()
        model = core.read_model(model=xml, weights=weights)
        _, *sides = model.inputs[0].get_partial_shape()
        model.reshape([tiles, *sides])  # fixed shapes are faster
        # Said in full: the default precision is bf16 where the processor has it, the default threads all of the machine.
        options = {
            "INFERENCE_PRECISION_HINT": _OPENVINO_PRECISION[precision],
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": str(cores),
            "INFERENCE_NUM_THREADS": str(cores),
        }
        compiled = core.compile_model(model, "CPU", options)
        self._width = int(compiled.outputs[0].get_partial_shape()[1].get_length())
        self._sides = tuple(int(side.get_length()) for side in sides)
        self._tiles = tiles
        self._queue = runtime.AsyncInferQueue(compiled, cores)
        self._out: Features = np.empty((0, self._width), dtype=np.float32)
        self._queue.set_callback(self._keep)

    def _keep(self, request: Any, place: int) -> None:
        self._out[place] = _mean(request.get_output_tensor(0).data)

    def features(self, views: Sequence[Pixels]) -> Features:
        """Give the feature vectors (n, D) of n views."""
        self._out = np.empty((len(views), self._width), dtype=np.float32)
        for place, view in enumerate(views):
            self._queue.start_async({0: _tiles_of(view, self._tiles, self._sides)}, place)
        self._queue.wait_all()
        return self._out


# ------------------------------------------------------------------------------------------------------ ONNX Runtime


class _OnnxGraph:
    def __init__(self, model: bytes, *, tiles: int, cores: int) -> None:
        runtime = onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # warnings about the machine's devices are none of the reader's
        self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._tiles = tiles
        self._sides = tuple(self._session.get_inputs()[0].shape[1:])
        self._name = self._session.get_inputs()[0].name
        self._pool = ThreadPoolExecutor(cores, thread_name_prefix="leuk-onnx")

    def _one(self, view: Pixels) -> Features:
        return _mean(self._session.run(None, {self._name: _tiles_of(view, self._tiles, self._sides)})[0])

    def features(self, views: Sequence[Pixels]) -> Features:
        """Give the feature vectors (n, D) of n views."""
        return np.stack(list(self._pool.map(self._one, views)))


def _tiles_of(view: Pixels, tiles: int, sides: tuple[int, ...]) -> Pixels:
    """Take a view (T·S, S, 3) apart into (T, S, S, 3); raises ValueError where the graph wants another size."""
    apart = np.ascontiguousarray(view).reshape(tiles, view.shape[0] // tiles, *view.shape[1:])
    if apart.shape[1:] != sides:
        raise ValueError(f"a view of {view.shape} does not fit a network for {tiles} tiles of {sides}")
    return apart


def _mean(rows: Features) -> Features:
    """Give the mean (D,) of the tiles' vectors (T, D)."""
    mean: Features = rows[0] if len(rows) == 1 else rows.mean(axis=0)
    return mean
