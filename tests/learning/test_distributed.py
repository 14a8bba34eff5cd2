"""Several processes come to what one comes to; one that dies ends all; a scheduler's signal leaves a checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tuned_together import CASES, NAME, RUNS, settings, tuned

from leukemia_cli.cli.app import run
from leukemia_cli.errors import MachineError, UsageError
from leukemia_cli.learning import finetuning, training
from leukemia_cli.learning.distributed import ALONE, Dismissed, Team
from leukemia_cli.learning.finetuning import check_shareable
from leukemia_cli.learning.machine import Seat, choose_machine, granted_cores, granted_seat
from leukemia_cli.learning.recipes import TrainSettings
from leukemia_cli.learning.runs import FinishedRun
from leukemia_cli.learning.weights import load_backbone
from leukemia_cli.steps.train import resume, train
from leukemia_cli.workspace.folders import open_workspace

ROOT = Path(__file__).parents[2]
CLOSE = 1e-5
"""Largest difference of a weight: a hundredth of one step at the learning rates here. Measured below 1e-6."""
SPLITS = ("train", "train", "train", "val", "calib")


def torchrun(*arguments: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *options,
        *arguments,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((v.double() - other[k].double()).abs().max()) for k, v in one.items() if v.numel())


def write_weights(file: Path) -> None:
    save_file(load_backbone(NAME, "none", seed=5, fit="squash", input_size_px=64).module.state_dict(), file)


# --------------------------------------------------------------------------------------------------------- numbers


class Stop(BaseException):
    """Stands for a kill."""


def stopped_in_the_second_epoch(items: Iterable, *, total: int, label: str) -> Iterator:
    for place, item in enumerate(items):
        if label.startswith("epoch 2") and place == 2:
            raise Stop
        yield item


@dataclass(frozen=True, kw_only=True)
class Together:
    """What two processes came to, case by case, and one process beside them."""

    folder: Path
    alone: dict[str, tuple]
    runs: dict[str, FinishedRun]
    code: int
    told: str


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, make_lab) -> Together:
    folder = tmp_path_factory.mktemp("together")
    lab = make_lab(folder, splits=("train", "train", "val", "val", "test", "test"), images=1)
    write_weights(folder / "weights.safetensors")
    machine = choose_machine("cpu", 1)
    with pytest.raises(Stop):
        tuned(
            CASES["resumed"], lab.manifest, folder, machine, checkpoint=folder / "begun.safetensors",
            track=stopped_in_the_second_epoch,
        )  # fmt: skip
    process = torchrun(str(Path(__file__).with_name("tuned_together.py")), str(lab.workspace.root), str(folder))
    alone = {name: tuned(case, lab.manifest, folder, machine) for name, case in CASES.items()}
    other = open_workspace(folder / "other", create=True)
    runs = {name: train(other, lab.manifest, settings(name, folder / "weights.safetensors")) for name in RUNS}
    _, told = process.communicate(timeout=300)
    return Together(folder=folder, alone=alone, runs=runs, code=process.returncode, told=told)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_come_to_what_one_comes_to(name: str, together: Together) -> None:
    state, done = together.alone[name]
    files = [together.folder / f"{name}.{rank}.safetensors" for rank in (0, 1)]
    assert all(file.exists() for file in files), together.told
    found, followed = (load_file(file) for file in files)
    assert largest_difference(found, followed) == 0, "every process ends with the same bits"
    assert largest_difference(state, found) < CLOSE
    facts = json.loads((together.folder / f"{name}.0.json").read_text())
    assert facts == json.loads((together.folder / f"{name}.1.json").read_text())
    assert facts["best"] == done.best_epoch and len(facts["epochs"]) == len(done.epochs)
    for (loss, accuracy), score in zip(facts["epochs"], done.epochs, strict=True):
        assert loss == pytest.approx(score.train_loss, abs=CLOSE) and accuracy == score.balanced_accuracy


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_the_run_of_one(name: str, together: Together) -> None:
    of_one, run_folder = together.runs[name], together.folder / "ws" / "runs" / f"{name}-1"
    assert (run_folder / "run.json").exists(), together.told
    for file in ("model.safetensors", "head.safetensors"):
        assert largest_difference(load_file(run_folder / file), load_file(of_one.folder / file)) < 10 * CLOSE
    told = [json.loads((together.folder / f"run-{name}.{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1], "each process gives the same run back"
    for key in ("validation", "best_epoch", "choice", "warnings", "selected_features"):
        assert told[0][key] == pytest.approx(of_one.facts[key], abs=10 * CLOSE), key


@pytest.mark.slow
def test_features_are_computed_in_shares(together: Together) -> None:
    """The images of the first run are 12: two processes leave parts of six, one would leave one of twelve."""
    sizes = set()
    for part in (together.folder / "ws" / "features" / "cache").rglob("part-*.safetensors"):
        with safe_open(part, framework="numpy") as file:
            sizes.add(len(json.loads(file.metadata()["rows"])))
    assert sizes and max(sizes) <= 4 * 2


@pytest.mark.slow
def test_the_cases_are_told_apart(together: Together) -> None:
    states = [state for state, _ in together.alone.values()]
    assert largest_difference(states[0], states[4]) == 0, "resumed in one process it is the plain case"
    assert largest_difference(states[0], states[3]) > 100 * CLOSE
    assert len(together.alone["stopped early"][1].epochs) < 30


@pytest.mark.slow
def test_an_error_of_one_process_is_told_by_the_leader_and_ends_both(together: Together) -> None:
    assert together.code != 0
    assert "has changed since leuk prepare" in (together.folder / "fault.0.txt").read_text()
    assert not (together.folder / "fault.1.txt").exists() and "Traceback" not in together.told.split("torch/")[0]


# ------------------------------------------------------------------------------------------------ killed and stopped


EPOCHS = 12


def flags(weights: Path, workspace: Path) -> list[str]:
    return [
        *("-m", "leukemia_cli", "train", "--backbone", NAME, "--weights", str(weights), "--input-size", "64"),
        *("--variant", "base", "--tune", "all", "--epochs", str(EPOCHS), "--patience", "99", "--batch-size", "3"),
        *("--checkpoint-every", "0", "--workspace", str(workspace), "--device", "cpu", "--name", "many", "--json"),
    ]


def ranks(launcher: subprocess.Popen[str]) -> dict[int, int]:
    """Give the process id of each rank."""
    found = {}
    for child in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
        told = dict(
            part.split("=", 1) for part in Path(f"/proc/{child}/environ").read_text().split("\0") if "=" in part
        )
        if "LOCAL_RANK" in told:
            found[int(told["RANK"])] = int(child)
    return found


def wait_for(launcher: subprocess.Popen[str], folder: Path, pattern: str) -> None:
    end = time.monotonic() + 120
    while not any(folder.glob(pattern)) and launcher.poll() is None and time.monotonic() < end:
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, make_lab):
    """Give weights and a run of one process, never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    lab = make_lab(folder, splits=SPLITS)
    write_weights(folder / "weights.safetensors")
    of_one = TrainSettings(
        backbone=NAME, weights=str(folder / "weights.safetensors"), input_size_px=64, variant="base", tune="all",
        epochs=EPOCHS, patience=99, batch_size=3, device="cpu",
    )  # fmt: skip
    return folder / "weights.safetensors", train(lab.workspace, lab.manifest, of_one)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes of torchrun in /proc")
def test_one_killed_ends_both_and_stopped_by_a_scheduler_they_go_on_as_one(whole, tmp_path: Path, make_lab) -> None:
    weights, of_one = whole
    lab = make_lab(tmp_path, splits=SPLITS)
    launcher = torchrun(*flags(weights, lab.workspace.root))
    folder = lab.workspace.runs_folder / "many-1"
    wait_for(launcher, folder, "checkpoint/*.state.safetensors")
    both = ranks(launcher)
    os.kill(both[1], signal.SIGKILL)
    out, told = launcher.communicate(timeout=60)
    assert launcher.returncode != 0 and "leuk train --resume many-1" in told, told
    assert "has died or does not answer" in told or "stopped by SIGTERM" in told
    assert '"run"' not in out and not (folder / "run.json").exists() and not list(folder.rglob(".unfinished-*"))
    for pid in both.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    before = (folder / "checkpoint" / "whole.state.safetensors").stat().st_mtime_ns
    arguments = ("-m", "leukemia_cli", "train", "--resume", "many-1", "--json", "--workspace", str(lab.workspace.root))
    again = torchrun(*arguments, options=("--signals-to-handle=SIGTERM,SIGINT,SIGUSR1",))
    state = folder / "checkpoint" / "whole.state.safetensors"
    while again.poll() is None and state.exists() and state.stat().st_mtime_ns == before:
        time.sleep(0.005)
    again.send_signal(signal.SIGUSR1)
    out, told = again.communicate(timeout=60)
    assert again.returncode != 0 and told.count("error: stopped by SIGUSR1") == 1, told
    assert told.count("(resumed)") == 1 and "resuming at epoch" in told and "leuk train --resume many-1" in told
    assert json.loads(out)["error"]["exit_code"] == 143, "one document, by the leader"
    assert not (folder / "lock.json").exists() and not (folder / "run.json").exists()

    resume(lab.workspace, lab.manifest, "many-1")
    for file in ("model.safetensors", "head.safetensors"):
        assert largest_difference(load_file(folder / file), load_file(of_one.folder / file)) < CLOSE
    facts = json.loads((folder / "run.json").read_text())
    assert facts["validation"] == pytest.approx(of_one.facts["validation"], abs=CLOSE)
    assert facts["best_epoch"] == of_one.facts["best_epoch"]
    assert not (folder / "checkpoint").exists() and not (folder / "lock.json").exists()


@pytest.mark.parametrize("tune", ["all", "head"])
def test_sigusr1_ends_one_process_with_143(
    tune: str, whole, tmp_path: Path, make_lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, _ = whole
    lab = make_lab(tmp_path, splits=SPLITS)
    arguments = flags(weights, lab.workspace.root)[2:]
    arguments[arguments.index("all")] = tune
    if tune == "head":  # struck while it fits heads, which is not fine-tuning
        monkeypatch.setattr(training, "fit_head", lambda *_, **__: signal.raise_signal(signal.SIGUSR1))
    else:
        monkeypatch.setattr(finetuning, "score_images", lambda *_: signal.raise_signal(signal.SIGUSR1) or _[-1]())
    before = signal.getsignal(signal.SIGUSR1)
    assert run(arguments) == 143
    told = capsys.readouterr().err
    assert "error: stopped by SIGUSR1" in told and "leuk train --resume many-1" in told
    assert signal.getsignal(signal.SIGUSR1) is before
    written = list((lab.workspace.runs_folder / "many-1").glob("checkpoint/*.state.safetensors"))
    assert len(written) == (tune == "all")


# ------------------------------------------------------------------------------------------------------------ seats


def seated(patch: pytest.MonkeyPatch, **told: str) -> None:
    usual = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
    for name, value in {**usual, **told}.items():
        patch.setenv(name, value)


def test_only_torchrun_gives_a_seat(monkeypatch: pytest.MonkeyPatch) -> None:
    assert granted_seat() is None
    for name, value in {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert granted_seat() is None, "a scheduler's job alone never turns it on"
    seated(monkeypatch)
    assert granted_seat() == Seat(rank=1, size=2, local_rank=1, local_size=2)
    seated(monkeypatch, WORLD_SIZE="1", RANK="0", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
    assert granted_seat() is None
    for wrong in ({"RANK": "2"}, {"RANK": "one"}, {"LOCAL_WORLD_SIZE": "3"}):
        with monkeypatch.context() as patch:
            seated(patch, **wrong)
            with pytest.raises(MachineError, match="torchrun's variables"):
                granted_seat()


@pytest.mark.parametrize(
    "command", [["compare"], ["fit-svm", "--backbone", "senet"], ["extract-features", "--backbone", "senet"], ["runs"]]
)
def test_other_commands_refuse_several_processes(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seated(monkeypatch, RANK="0", LOCAL_RANK="0")
    assert run(command) == 2
    assert f"leuk {command[0]} works in one process, and torchrun started 2" in capfd.readouterr().err
    with pytest.raises(UsageError, match="one process"):
        choose_machine("cpu", None)


def test_processes_share_cores_and_each_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seat = Seat(rank=3, size=4, local_rank=1, local_size=2)
    before = torch.get_num_threads()
    try:
        machine = choose_machine("cpu", None, seat)
        assert machine.workers == torch.get_num_threads() == max(1, granted_cores() // 2)
        assert "in each of 4 processes" in machine.description
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    with contextlib.ExitStack() as after:
        after.callback(torch.set_num_threads, before)
        for device in ("auto", "cuda"):
            assert choose_machine(device, 1, seat).device == torch.device("cuda:1")
        assert taken == [torch.device("cuda:1")] * 2
        with pytest.raises(UsageError, match="names one GPU for 4 processes"):
            choose_machine("cuda:1", 1, seat)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        with pytest.raises(MachineError, match="torch sees 1 GPU"):
            choose_machine("cuda", 1, seat)


def test_parts_cover_every_batch_once_and_differ_by_one_at_most() -> None:
    for size in (1, 2, 3, 8):
        teams = [Team(Seat(rank=rank, size=size, local_rank=rank, local_size=size)) for rank in range(size)]
        for count in (1, 2, 3, 7, 16):
            parts = [list(range(count))[team.part(count)] for team in teams]
            assert [place for part in parts for place in part] == list(range(count))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_normalisation_that_learns_from_batches_is_not_shared() -> None:
    two = Team(Seat(rank=0, size=2, local_rank=0, local_size=2))
    with_batches, without = torch.nn.Sequential(torch.nn.BatchNorm2d(3)), torch.nn.Sequential(torch.nn.LayerNorm(3))
    with pytest.raises(UsageError, match="learns from whole batches"):
        check_shareable(with_batches, two, hold_normalisation=False)
    check_shareable(with_batches, two, hold_normalisation=True)
    check_shareable(without, two, hold_normalisation=False)
    check_shareable(with_batches, ALONE, hold_normalisation=False)


def test_alone_nothing_is_shared_and_errors_are_as_ever() -> None:
    value = torch.ones(3)
    ALONE.add_up([value])
    assert ALONE.total([1.5, 2.0]) == [1.5, 2.0] and torch.equal(value, torch.ones(3)) and ALONE.leads
    assert ALONE.share({"a": 1}, {"b": value})[1]["b"] is value
    with pytest.raises(UsageError, match="wrong"), ALONE.told_by_leader():
        raise UsageError("wrong", "")
    second = Team(Seat(rank=1, size=2, local_rank=1, local_size=2))
    with pytest.raises(Dismissed) as caught, second.told_by_leader():
        raise UsageError("wrong", "")
    assert caught.value.code == 2
    with pytest.raises(MachineError):
        ALONE.total([], MachineError("x", ""))
