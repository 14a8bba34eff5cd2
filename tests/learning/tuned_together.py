"""Trains a tiny network in ways that strain the sharing of work; torchrun starts it, and tests import it.

Run as: python -m torch.distributed.run ... tuned_together.py WORKSPACE FOLDER
FOLDER holds `weights.safetensors`, and gets a file of tensors and one of facts for each case.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from leukemia_cli.data.manifest import read_manifest
from leukemia_cli.domain import HeadChoice, Manifest, Track, silent
from leukemia_cli.errors import DataError
from leukemia_cli.learning.batches import Augmentation
from leukemia_cli.learning.distributed import ALONE, Team, joined
from leukemia_cli.learning.finetuning import Tuned, TuneSettings, fine_tune
from leukemia_cli.learning.fitting import FitSettings
from leukemia_cli.learning.machine import Machine, choose_machine, granted_seat
from leukemia_cli.learning.network import Head, Network
from leukemia_cli.learning.recipes import TrainSettings
from leukemia_cli.learning.weights import load_backbone
from leukemia_cli.steps.train import train
from leukemia_cli.workspace.folders import open_workspace

NAME = "timm:test_resnet"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to fine-tune; 7 images in batches of 3 leave one of two processes nothing of the last."""

    tune: Any = "all"
    held: bool = True
    hidden: tuple[int, ...] = (8,)
    rate: float = 0.3
    accumulate: int = 1
    weighted: bool = True
    patience: int = 99
    epochs: int = 3
    lr: float = 1e-3


CASES = {
    "plain": Case(),
    "accumulated": Case(accumulate=2, hidden=()),
    "last stage, not validated": Case(tune="last-stage", held=False, weighted=False),
    "stopped early": Case(epochs=30, patience=1, lr=1e-2, rate=0.0),
    "resumed": Case(),
}


def tuned(
    case: Case, manifest: Manifest, folder: Path, machine: Machine, *, team: Team = ALONE, checkpoint: Path | None = None,
    track: Track = silent, spoil: bool = False,
) -> tuple[dict[str, torch.Tensor], Tuned]:  # fmt: skip
    """Fine-tune as a case says; with `spoil` one training image is not what the manifest says."""
    loaded = load_backbone(NAME, str(folder / "weights.safetensors"), seed=0, fit="squash", input_size_px=64)
    train = [s for s in manifest.samples if s.split in ("train", "test")][:7]
    if spoil:
        train[3] = replace(train[3], sha256="0" * 64)
    val = [s for s in manifest.samples if s.split == "val"]
    head = Head(
        HeadChoice(hidden=case.hidden, rate=case.rate), loaded.spec.feature_width, 2,
        draws=torch.Generator().manual_seed(1),
    )  # fmt: skip
    network = Network(loaded.module, head)

    def labels(samples: list) -> np.ndarray:
        return np.array([s.label == "HTL" for s in samples], dtype=np.int64)

    done = fine_tune(
        network,
        (train, labels(train)),
        (val, labels(val)) if case.held else None,
        loaded.preprocessing,
        FitSettings(
            epochs=case.epochs, batch_size=3, lr=case.lr, warmup_epochs=1.0, patience=case.patience,
            accumulate=case.accumulate, class_weights=case.weighted,
        ),
        TuneSettings(
            tune=case.tune, precision="fp32", augmentation=Augmentation(), hold_normalisation=True,
            checkpoint_every_s=0.0, max_megapixels=1,
        ),
        last_stage=loaded.last_stage,
        class_count=2,
        seed=0,
        machine=machine,
        checkpoint=checkpoint if team.leads else None,
        track=track,
        team=team,
    )  # fmt: skip
    return network.state_dict(), done


RUNS = {"head": {"variant": "dropout", "epochs": 3}, "svm": {"variant": "svm", "tune": "last-stage", "epochs": 2}}


def settings(name: str, weights: Path) -> TrainSettings:
    """Give what a whole run is trained by."""
    own: dict[str, Any] = RUNS[name]
    return TrainSettings(
        backbone=NAME, weights=str(weights), input_size_px=64, device="cpu", name=name, batch_size=3, **own
    )  # fmt: skip


def main(root: Path, folder: Path) -> None:
    """Train whole runs, then do all cases, then one that must fail."""
    seat = granted_seat()
    machine = choose_machine("cpu", 1, seat)
    workspace = open_workspace(root, create=False)
    manifest = read_manifest(workspace)
    assert seat is not None
    for name in RUNS:
        done = train(workspace, manifest, settings(name, folder / "weights.safetensors"))
        (folder / f"run-{name}.{seat.rank}.json").write_text(json.dumps(done.as_json()))
    try:
        with joined(seat, machine) as team:
            for name, case in CASES.items():
                checkpoint = folder / "begun.safetensors" if name == "resumed" else None
                state, done = tuned(case, manifest, folder, machine, team=team, checkpoint=checkpoint)
                facts = {"best": done.best_epoch, "epochs": [[e.train_loss, e.balanced_accuracy] for e in done.epochs]}
                (folder / f"{name}.{team.rank}.json").write_text(json.dumps(facts))
                save_file({k: v.contiguous() for k, v in state.items()}, folder / f"{name}.{team.rank}.safetensors")
            tuned(CASES["plain"], manifest, folder, machine, team=team, spoil=True)
    except DataError as error:
        (folder / f"fault.{team.rank}.txt").write_text(error.problem)
        raise SystemExit(3) from error


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
