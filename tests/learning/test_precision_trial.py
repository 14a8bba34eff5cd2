"""Mixed precision is taken where a trial of the run itself says so, once for a run, and the trial leaves no trace in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from leukemia_cli.errors import WorkspaceError
from leukemia_cli.learning import machine as machines
from leukemia_cli.learning import precision_trial, training
from leukemia_cli.learning.fitting import FitSettings
from leukemia_cli.learning.machine import choose_precision
from leukemia_cli.learning.precision_trial import STEPS, PrecisionTrial, worth_trying
from leukemia_cli.learning.recipes import TrainSettings
from leukemia_cli.steps.train import resume, train

FASTER = PrecisionTrial(
    fp32_step_s=2.0, bf16_step_s=1.0, fp32_losses=(1.0, 0.5, 0.4, 0.3, 0.2), bf16_losses=(1.01, 0.5, 0.4, 0.3, 0.2)
)


def test_bf16_is_taken_only_where_it_is_clearly_faster_and_loses_alike() -> None:
    assert FASTER.taken == "bf16" and "2.0 s" not in str(FASTER) and "precision: bf16" in str(FASTER)
    assert replace(FASTER, bf16_step_s=1.9).taken == "fp32"
    assert replace(FASTER, bf16_losses=(1.0, 0.5, 0.4, 0.3, 0.26)).taken == "fp32"
    assert replace(FASTER, bf16_losses=(1.0, 0.5, float("nan"), 0.3, 0.2)).taken == "fp32"
    assert replace(FASTER, fp32_losses=(40.0, 9, 8, 7, 6), bf16_losses=(41.0, 9, 8, 7, 6)).taken == "bf16"


@pytest.mark.parametrize(
    ("images", "epochs", "accumulate", "worth"), [(107, 15, 1, True), (96, 15, 1, False), (107, 15, 2, False)]
)
def test_a_trial_is_made_only_where_many_steps_are_planned(
    images: int, epochs: int, accumulate: int, worth: bool
) -> None:
    assert worth_trying(images, FitSettings(epochs=epochs, batch_size=16, accumulate=accumulate)) is worth


def test_auto_is_left_to_a_trial_where_the_processor_has_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(machines, "cpu_capabilities", lambda: "x86_64 avx2 avx512f avx512_bf16")
    assert choose_precision("auto", cpu) == "auto" and choose_precision("fp32", cpu) == "fp32"
    monkeypatch.setattr(machines, "cpu_capabilities", lambda: "x86_64 avx2 avx512f")
    assert choose_precision("auto", cpu) == "fp32" and choose_precision("bf16", cpu) == "bf16"


TINY = {
    "backbone": "timm:test_resnet", "weights": "none", "variant": "base", "tune": "all", "epochs": 2, "batch_size": 4,
    "input_size_px": 32, "device": "cpu", "workers": 1, "checkpoint_every_s": 0.0,
}  # fmt: skip


def test_the_trial_takes_the_same_steps_twice_and_leaves_no_trace(
    make_lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab(tmp_path)
    monkeypatch.setattr(machines, "cpu_capabilities", lambda: "x86_64 avx512_bf16")
    monkeypatch.setattr(precision_trial, "LEAST_PLANNED", 1)
    monkeypatch.setattr(precision_trial, "LEAST_GAIN", 1e9)
    plain, tried = (
        train(lab.workspace, lab.manifest, TrainSettings(**TINY, precision=precision)) for precision in ("fp32", "auto")
    )
    assert (plain.folder / "model.safetensors").read_bytes() == (tried.folder / "model.safetensors").read_bytes()
    trial = tried.facts["precision_trial"]
    full, half = trial["fp32_losses"], trial["bf16_losses"]
    assert len(full) == len(half) == STEPS and len(set(full)) == STEPS, "no step moved the network"
    assert full != half, "both were computed in one precision"
    assert np.allclose(full, half, rtol=0.2) and trial["fp32_step_s"] > 0 and trial["bf16_step_s"] > 0
    assert tried.facts["precision"] == trial["taken"] == "fp32" and plain.facts["precision_trial"] is None


def test_what_a_trial_found_holds_for_the_run_and_for_its_resumption(
    make_lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab(tmp_path)
    asked = []

    def trial(*_: object, **__: object) -> PrecisionTrial:
        asked.append(1)
        return FASTER

    monkeypatch.setattr(machines, "cpu_capabilities", lambda: "x86_64 avx512_bf16")
    monkeypatch.setattr(precision_trial, "LEAST_PLANNED", 1)
    monkeypatch.setattr(training, "try_precisions", trial)
    settings = TrainSettings(**TINY)
    told: list[str] = []
    whole = train(lab.workspace, lab.manifest, settings, note=told.append).facts
    assert whole["precision"] == "bf16" and whole["precision_trial"]["taken"] == "bf16" and len(asked) == 1
    assert str(FASTER) in told

    class Stop(BaseException):
        pass

    def stopping(line: str) -> None:
        if line.startswith("epoch 1/2"):
            raise Stop

    with pytest.raises(Stop):
        train(lab.workspace, lab.manifest, replace(settings, name="stopped"), note=stopping)
    assert len(asked) == 2
    folder = next(path for path in lab.workspace.runs_folder.iterdir() if path.name.startswith("stopped"))
    assert json.loads((folder / "checkpoint" / "precision.json").read_text())["taken"] == "bf16"
    kept = folder / "checkpoint" / "precision.json"
    stored = kept.read_text()
    for damaged, told_so in ((stored.replace("bf16", "fp32", 1), "has changed"), ('{"schema_version": 1}', "damaged")):
        kept.write_text(damaged)
        with pytest.raises(WorkspaceError, match=told_so):
            resume(lab.workspace, lab.manifest, folder.name)
    kept.write_text(stored)
    # On another machine, where the trial would find something else:
    monkeypatch.setattr(training, "try_precisions", lambda *_, **__: replace(FASTER, bf16_step_s=9.0))
    done = resume(lab.workspace, lab.manifest, folder.name).facts
    assert done["precision"] == "bf16" and done["precision_trial"] == whole["precision_trial"] and len(asked) == 2
    assert done["validation"] == whole["validation"]


def test_a_short_run_is_in_full_precision_without_a_trial(
    make_lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab(tmp_path)
    monkeypatch.setattr(machines, "cpu_capabilities", lambda: "x86_64 avx512_bf16")
    facts = train(lab.workspace, lab.manifest, TrainSettings(**TINY)).facts
    assert facts["precision"] == "fp32" and facts["precision_trial"] is None
