"""`leuk doctor`: what this machine and workspace offer, and what is missing; it looks and changes nothing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leukemia_cli import __version__
from leukemia_cli.catalog import BACKBONES, Backbone
from leukemia_cli.data.manifest import read_manifest
from leukemia_cli.errors import LeukError
from leukemia_cli.learning.machine import granted_cores
from leukemia_cli.learning.weight_store import find_weights
from leukemia_cli.workspace.folders import open_workspace
from leukemia_cli.workspace.runs import list_runs

State = Literal["ok", "note", "problem"]
_IN_WORKSPACE = {"workspace", "manifest", "runs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at."""

    name: str
    state: State
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Everything looked at, in order."""

    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """Tell whether no check is a problem."""
        return all(check.state != "problem" for check in self.checks)

    @property
    def exit_code(self) -> int:
        """Give 0 for health, 4 where only the workspace is ill, 5 where the machine is."""
        ill = {check.name for check in self.checks if check.state == "problem"}
        return 0 if not ill else 4 if ill <= _IN_WORKSPACE else 5

    def as_json(self) -> dict[str, Any]:
        """Give the checks and the verdict."""
        return {
            "healthy": self.healthy,
            "checks": [{"name": c.name, "state": c.state, "says": c.says} for c in self.checks],
        }


def doctor(root: Path) -> Diagnosis:
    """Look at versions, device, cores, disk, weights and the workspace at `root`."""
    return Diagnosis(
        checks=(
            Check(
                name="leuk",
                state="ok",
                says=f"{__version__}, Python {platform.python_version()}, {platform.platform()}",
            ),
            *(_package(name) for name in ("torch", "torchvision", "timm", "scikit-learn", "numpy", "pillow")),
            _device(),
            Check(name="cores granted", state="ok", says=str(granted_cores())),
            _disk(root),
            *(_weights(backbone) for backbone in BACKBONES.values()),
            *_workspace(root),
        )
    )


def _package(name: str) -> Check:
    try:
        return Check(name=name, state="ok", says=importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name=name, state="problem", says="not installed; reinstall with: pip install leukemia-cli")


def _device() -> Check:
    from leukemia_cli.learning.machine import choose_machine

    try:
        return Check(name="device", state="ok", says=choose_machine("auto", None).description)
    except (LeukError, ImportError, OSError) as error:
        return Check(name="device", state="problem", says=str(error))


def _disk(root: Path) -> Check:
    place = root.absolute()
    while not place.exists():
        place = place.parent
    free_gb = shutil.disk_usage(place).free / 1e9
    return Check(name="disk", state="ok" if free_gb > 2 else "note", says=f"{free_gb:.1f} GB free at {place}")


def _weights(backbone: Backbone) -> Check:
    place = find_weights(backbone)
    return Check(name=f"weights of {backbone.name}", state="ok" if place.here else "note", says=place.says)


def _workspace(root: Path) -> tuple[Check, ...]:
    if not root.exists():
        return (Check(name="workspace", state="note", says=f"{root} does not exist yet; leuk prepare makes it"),)
    try:
        workspace = open_workspace(root, create=False)
    except LeukError as error:
        return (Check(name="workspace", state="problem", says=error.problem),)
    checks = [Check(name="workspace", state="ok", says=str(root))]
    try:
        manifest = read_manifest(workspace)
        missing = sum(not Path(sample.path).exists() for sample in manifest.samples)
        says = f"{manifest.task.title}, {len(manifest.samples)} images"
        checks.append(
            Check(
                name="manifest",
                state="problem" if missing else "ok",
                says=f"{says}, {missing} of them gone from where they were" if missing else says,
            )
        )
    except LeukError as error:
        checks.append(Check(name="manifest", state="problem", says=error.problem))
    runs, damaged = list_runs(workspace)
    open_runs = [run.id for run in runs if not run.finished]
    checks.append(Check(name="runs", state="ok", says=f"{len(runs) - len(open_runs)} finished"))
    if open_runs:
        checks.append(Check(name="runs", state="note", says=f"not finished: {', '.join(open_runs)}"))
    checks.extend(Check(name="runs", state="problem", says=f"{path}: {reason}") for path, reason in damaged)
    return tuple(checks)
