"""What looks at views: torch, OpenVINO or ONNX Runtime, behind one seam; what was verified of each, and which to take.

Requirements met here:
- An engine gives feature vectors and nothing else: heads, temperatures, novelty and thresholds are one implementation.
- Nothing but torch at fp32 is taken that `leuk export` has not compared with it, on the run's own images.
- Importing this loads no engine.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from leukemia_cli.errors import MachineError, UsageError, WorkspaceError
from leukemia_cli.learning.arrays import Features
from leukemia_cli.learning.batches import Pixels
from leukemia_cli.learning.machine import cpu_capabilities

if TYPE_CHECKING:
    from torch import nn

    from leukemia_cli.domain import Preprocessing
    from leukemia_cli.learning.machine import Machine

EngineName = Literal["torch", "openvino", "onnx"]
EnginePrecision = Literal["fp32", "bf16", "fp16"]
ENGINE_NAMES: tuple[EngineName, ...] = get_args(EngineName)
PACKAGES: Mapping[EngineName, str] = {"torch": "torch", "openvino": "openvino", "onnx": "onnxruntime"}
"""The package that runs each engine; its version is part of what was verified."""


class Engine(Protocol):
    """Turns n views into feature vectors; read-only once made, and used by one thread."""

    @property
    def name(self) -> EngineName:
        """Name the engine."""
        ...

    @property
    def precision(self) -> EnginePrecision:
        """Name the precision of the products inside; what comes out is float32."""
        ...

    @property
    def workers(self) -> int:
        """Count the threads that may read images beside it."""
        ...

    @property
    def description(self) -> str:
        """Say where it computes."""
        ...

    def features(
        self, views: Sequence[Pixels], spec: Preprocessing, shared: nn.Module | None, own: Sequence[nn.Module | None]
    ) -> list[Features]:
        """Give feature vectors (n, D) of n views (T·S, S, 3) for each member; equal ones may be one array.

        `shared` and `own` are the backbones of a run in torch; an exported run's engine holds its own graphs.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchEngine:
    """The run's networks themselves, on a device."""

    machine: Machine
    precision: EnginePrecision = "fp32"

    @property
    def name(self) -> EngineName:
        """Name the engine."""
        return "torch"

    @property
    def workers(self) -> int:
        """Count the threads that may read images beside it."""
        return self.machine.workers

    @property
    def description(self) -> str:
        """Say where it computes."""
        return self.machine.description

    def features(
        self, views: Sequence[Pixels], spec: Preprocessing, shared: nn.Module | None, own: Sequence[nn.Module | None]
    ) -> list[Features]:
        """Give feature vectors (n, D) for each member; a shared backbone looks once."""
        from leukemia_cli.learning.features import run_backbone

        seen = None if shared is None else run_backbone(shared, views, spec, self.machine, self.precision)
        features = []
        for backbone in own:
            rows = seen
            if backbone is not None:
                rows = run_backbone(backbone, views, spec, self.machine, self.precision)
            if rows is None:
                raise ValueError("a member without a backbone in a run without a shared one")
            features.append(rows)
        return features


# --------------------------------------------------------------------------------------------------- what was verified

TOLERANCE: Mapping[EnginePrecision, float] = {"fp32": 1e-3, "bf16": 0.05, "fp16": 0.05}
"""Largest difference of a probability to torch fp32 that still verifies; of a novelty, as a share of its threshold. Our
choice: every label and every decision has to be equal besides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """How one engine at one precision compared with torch fp32 on views of the run's own images, and how fast it was."""

    engine: EngineName
    precision: EnginePrecision
    version: str
    """Of the package that runs the engine."""
    cpu: str
    """What the processor can do, as `cpu_capabilities` gives it; results and speed may differ on another."""
    images: int
    views: int
    """Views compared: the images' plain ones and, where they are few, those turned and mirrored."""
    photographs: int
    """Of a run on cells: photographs read by those cells, and counted below beside the views."""
    labels_equal: int
    decisions_equal: int
    """Views and photographs that are novel, uncertain or neither alike in both."""
    on_the_line: int
    """Of the decisions that differ, those of a score so near to its threshold that the last digits decide: allowed."""
    score_difference: float
    """Largest, of a calibrated probability."""
    novelty_difference: float | None
    """Largest, as a share of the novelty threshold; None where the run tells no novelty."""
    tolerance: float
    images_per_s: float
    refused: str | None
    """Why it must not be used; None where it may."""

    def as_json(self) -> dict[str, Any]:
        """Give every field as JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Verified:
        """Undo `as_json`; raises KeyError, TypeError or ValueError for anything else."""
        made = cls(**stored)
        if made.engine not in ENGINE_NAMES or made.precision not in TOLERANCE:
            raise ValueError(f"engine {made.engine!r} at {made.precision!r} is unknown")
        if not float(made.images_per_s) > 0:
            raise ValueError(f"{made.images_per_s} images/s")
        return made


def version_of(engine: EngineName) -> str | None:
    """Give the version of the package that runs an engine; None where it is not installed. Loads nothing."""
    try:
        return importlib.metadata.version(PACKAGES[engine])
    except importlib.metadata.PackageNotFoundError:
        return None


def need(engine: EngineName) -> None:
    """Raise MachineError where an engine's package is not installed."""
    if version_of(engine) is None:
        raise MachineError(
            f"engine {engine} needs {PACKAGES[engine]}, which is not installed",
            f"Install it: pip install 'leukemia-cli[{engine}]'",
        )


def fastest(records: Sequence[Verified], precision: EnginePrecision | None) -> Verified | None:
    """Give the fastest of those that verified on a processor like this one, with the version installed here.

    `precision` None allows any. None where there is none.
    """
    cpu = cpu_capabilities()
    fitting = [
        record
        for record in records
        if record.refused is None
        and record.cpu == cpu
        and record.version == version_of(record.engine)
        and precision in (None, record.precision)
    ]
    return max(fitting, key=lambda record: record.images_per_s, default=None)


def check_verified(
    records: Sequence[Verified], engine: EngineName, precision: EnginePrecision, run: str
) -> Verified | None:
    """Give the record of an engine and precision that were asked for, None for torch fp32, the measure of all others.

    Of several the one of this machine's processor. Raises UsageError where it was never compared or was refused.
    """
    if (engine, precision) == ("torch", "fp32"):
        return None
    known = [record for record in records if (record.engine, record.precision) == (engine, precision)]
    here = [record for record in known if record.cpu == cpu_capabilities()] or known
    offered = sorted({f"{r.engine} {r.precision}" for r in records if r.refused is None})
    if not here:
        raise UsageError(
            f"{engine} at {precision} was never compared with torch fp32 for run {run}",
            f"Verified: {', '.join(offered) or 'nothing'}. Compare with: leuk export {run} --format openvino (or onnx)",
        )
    if here[-1].refused is not None:
        raise UsageError(
            f"{engine} at {precision} did not verify for run {run}: {here[-1].refused}",
            f"Verified: {', '.join(offered) or 'nothing but torch fp32'}",
        )
    return here[-1]


def records_from(stored: Mapping[str, Any], where: Path) -> tuple[Verified, ...]:
    """Read what was verified from JSON; raises WorkspaceError where it is damaged."""
    try:
        return tuple(Verified.from_json(each) for each in stored["verified"])
    except (KeyError, TypeError, ValueError) as error:
        raise WorkspaceError(
            f"{where} is damaged: {type(error).__name__} {error}", "Make it again with: leuk export"
        ) from error
