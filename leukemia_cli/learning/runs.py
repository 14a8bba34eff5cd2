"""A run as it is stored: what train and fit-svm write when they are done, and what they report of it."""

from __future__ import annotations

import csv
import functools
import importlib.metadata
import io
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leukemia_cli import __version__
from leukemia_cli.domain import Manifest
from leukemia_cli.learning.classifier import together
from leukemia_cli.learning.loading import save_classifier
from leukemia_cli.learning.machine import Machine
from leukemia_cli.learning.training import TrainedMember, TrainPlan
from leukemia_cli.learning.weights import LoadedBackbone
from leukemia_cli.workspace.documents import now, read_json, write_json
from leukemia_cli.workspace.files import write_text
from leukemia_cli.workspace.runs import RUN_FILE, STARTED_FILE

CHECKPOINT_FOLDER = "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """A finished run: its folder and what its run.json holds."""

    folder: Path
    facts: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Give the documented keys of `train --json` and `fit-svm --json`, and where the run lies."""
        return {key: self.facts[key] for key in REPORTED} | {"folder": str(self.folder)}


REPORTED = (
    "run", "name", "task", "backbone", "variant", "weights", "tune", "device", "precision", "epochs", "best_epoch",
    "validation", "validated_on", "feature_size", "hidden", "selected_features", "dropout", "choice", "seconds", "fold",
    "warnings",
)  # fmt: skip


def finish_run(
    folder: Path,
    manifest: Manifest,
    loaded: LoadedBackbone,
    trained: Sequence[TrainedMember],
    *,
    plan: TrainPlan,
    precision_trial: dict[str, Any] | None = None,
    machine: Machine,
    variant: str,
    tune: str,
    seconds: float,
    shared_backbone: bool,
) -> FinishedRun:
    """Write weights, history and, last, run.json, which is what makes a run finished; then drop the checkpoint."""
    started = read_json(folder / STARTED_FILE, "run")
    stored = save_classifier(folder, loaded.module if shared_backbone else None, [t.member for t in trained])
    _write_history(folder, trained)
    first = trained[0]
    warnings = list(manifest.warnings)
    readings = [t.member.reading for t in trained if t.member.reading is not None]
    if any(reading.aggregation.chosen_on is None for reading in readings):
        warnings.append(
            "too few groups to choose how a photograph is read by its cells: the first rule was taken as it is"
        )
    if any(reading.limits is None for reading in readings):
        warnings.append("the run cannot tell which photographs are novel or uncertain: none were left to fit that on")
    elif any(reading.limits is not None and reading.limits.confidence is None for reading in readings):
        warnings.append(
            "the run can tell which photographs are novel, not which are uncertain: too few groups to fit that on"
        )
    if loaded.spec.is_random:
        warnings.append("weights none: the backbone was random before this training")
    if any(t.member.calibrated_on is None for t in trained):
        warnings.append("probabilities are uncalibrated: no images were left to calibrate on")
    if any(t.member.doubt is None for t in trained):
        warnings.append("the run cannot abstain: no images were left to fit its thresholds on")
    elif any(t.member.doubt is not None and t.member.doubt.limits.confidence is None for t in trained):
        warnings.append("the run can tell what is novel, not what is uncertain: too few groups to fit that on")
    best_epochs = [t.best_epoch for t in trained if t.best_epoch is not None]
    facts = {
        **started,
        "run": folder.name,
        "name": started.get("name") or folder.name,
        "task": manifest.task.name,
        "classes": list(manifest.task.classes),
        "task_definition": manifest.task.as_json(),
        "manifest": manifest.fingerprint,
        "unit": manifest.unit,
        "crops": manifest.crops,
        "groups_source": manifest.groups_source,
        **_training_counts(manifest),
        "backbone": loaded.spec.name,
        "backbone_spec": loaded.spec.as_json(),
        "preprocessing": loaded.preprocessing.as_json(),
        "variant": variant,
        "weights": loaded.spec.weights,
        "tune": tune,
        "device": str(machine.device),
        "precision": plan.precision,
        "precision_trial": precision_trial,
        "epochs": plan.fit.epochs if any(t.history for t in trained) else 0,
        "best_epoch": round(float(np.median(best_epochs))) if best_epochs else None,
        "validation": _mean_validation(trained),
        "validated_on": together([t.validated_on for t in trained]),
        "feature_size": _common([t.feature_size for t in trained]),
        "hidden": _common([t.hidden for t in trained]),
        "selected_features": _common([t.selected for t in trained]),
        "dropout": _common([t.dropout for t in trained]),
        "choice": first.choice if len({t.choice for t in trained}) == 1 else "differs by fold: see choices in run.json",
        "fold": first.member.fold if len(trained) == 1 else "all",
        "seconds": round(seconds, 3),
        "seed": plan.seed,
        "fit": plan.fit.as_json(),
        "augmentation": None if plan.augmentation is None else plan.augmentation.as_json(),
        "views": plan.views,
        "warnings": warnings,
        "finished": now(),
        "versions": dict(versions()),
        **stored,
        "choices": [
            {
                "fold": t.member.fold,
                "choice": t.choice,
                "best_epoch": t.best_epoch,
                "validation": t.validation,
                "validated_on": t.validated_on,
                "trials": list(t.trials),
            }
            for t in trained
        ],
    }
    write_json(folder / RUN_FILE, facts)
    shutil.rmtree(folder / CHECKPOINT_FOLDER, ignore_errors=True)
    return FinishedRun(folder=folder, facts=facts)


def _training_counts(manifest: Manifest) -> dict[str, Any]:
    """Count what the run was trained on; with folds every image trained all members but one."""
    trained = [s for s in manifest.samples if manifest.folds is not None or s.split == "train"]
    return {"training_images": len(trained), "training_groups": len({s.group for s in trained})}


def _common(values: Sequence[Any]) -> Any:
    return values[0] if all(value == values[0] for value in values) else None


def _mean_validation(trained: Sequence[TrainedMember]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in trained[0].validation:
        known = [v for t in trained if (v := t.validation[name]) is not None]
        means[name] = float(np.mean(known)) if known and len(known) == len(trained) else None
    return means


def _write_history(folder: Path, trained: Sequence[TrainedMember]) -> None:
    out = io.StringIO()
    columns = ("fold", "stage", "epoch", "train_loss", "balanced_accuracy", "log_loss", "lr")
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for member in trained:
        writer.writerows({**row, "fold": "" if row["fold"] is None else row["fold"]} for row in member.history)
    write_text(folder / "history.csv", out.getvalue())


@functools.cache
def versions() -> Mapping[str, str]:
    """Give the versions that a run's figures may depend on."""
    names = ("torch", "torchvision", "timm", "scikit-learn", "numpy", "pillow", "safetensors")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"leuk": __version__, "python": platform.python_version(), "platform": sys.platform, **found}
