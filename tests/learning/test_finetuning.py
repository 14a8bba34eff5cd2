"""Fine-tuning moves what it was told to, and a run stopped at any step ends with the bits of one never stopped."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from leukemia_cli.domain import HeadChoice, Track, silent
from leukemia_cli.errors import Interrupted, MachineError, UsageError, WorkspaceError
from leukemia_cli.learning import finetuning, weights
from leukemia_cli.learning.batches import Augmentation
from leukemia_cli.learning.finetuning import TuneSettings, fine_tune
from leukemia_cli.learning.fitting import FitSettings, fit_head
from leukemia_cli.learning.machine import Pending, choose_machine, deferred_signals, granted_cores, memory_errors
from leukemia_cli.learning.network import Head, Network
from leukemia_cli.learning.weights import load_backbone

MACHINE = choose_machine("cpu", 2)
NAME = "timm:test_resnet"


class Stop(BaseException):
    """Stands for a kill: nothing in the code catches it."""


def stopping_after(batches: int) -> Track:
    seen = 0

    def track(items: Iterable, *, total: int, label: str) -> Iterator:
        nonlocal seen
        for item in items:
            if seen == batches:
                raise Stop
            seen += 1
            yield item

    return track


class Bench:
    """Fine-tunes a tiny network on 10 images anew each time it is asked."""

    def __init__(self, manifest, *, name: str = NAME, rate: float = 0.0) -> None:
        self.samples = [s for s in manifest.samples if s.split in ("train", "test")]
        self.val = [s for s in manifest.samples if s.split == "val"]
        self.name, self.rate = name, rate
        self.start: dict[str, torch.Tensor] = {}

    def labels(self, samples) -> np.ndarray:
        return np.array([s.label == "HTL" for s in samples], dtype=np.int64)

    def tune(
        self, *, tune: str = "all", checkpoint: Path | None = None, every_s: float = 0.0, track: Track = silent,
        hold: bool = True, augment: bool = True, held: bool = True, seed: int = 0, **fit,
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        loaded = load_backbone(self.name, "none", seed=3, fit="squash", input_size_px=64)
        rng = np.random.default_rng(0)
        first = fit_head(
            rng.normal(size=(8, 1, loaded.spec.feature_width)).astype(np.float32), np.arange(8) % 2,
            HeadChoice(hidden=(8,), rate=self.rate), FitSettings(epochs=2), class_count=2, seed=0, validation=None,
        )  # fmt: skip
        network = Network(loaded.module, first.head)
        self.start = {k: v.clone() for k, v in network.state_dict().items()}
        self.done = fine_tune(
            network,
            (self.samples, self.labels(self.samples)),
            (self.val, self.labels(self.val)) if held else None,
            loaded.preprocessing,
            FitSettings(**{"epochs": 3, "batch_size": 3, "lr": 1e-3, "warmup_epochs": 1.0, **fit}),
            TuneSettings(
                tune=tune, precision="fp32", augmentation=Augmentation() if augment else None, hold_normalisation=hold,
                checkpoint_every_s=every_s, max_megapixels=1,
            ),
            last_stage=loaded.last_stage,
            class_count=2,
            seed=seed,
            machine=MACHINE,
            checkpoint=checkpoint,
            resume_hint="go on",
            track=track,
        )  # fmt: skip
        assert not network.training
        return network.state_dict()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, make_lab) -> Bench:
    lab = make_lab(tmp_path_factory.mktemp("bench"), splits=("train", "train", "val", "test", "test"), images=1)
    return Bench(lab.manifest, rate=0.3)  # 8 images: batches of 3, 3, 2; dropout draws random numbers at every step


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


# ----------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize(("held", "accumulate", "hold"), [(True, 1, False), (True, 2, True), (False, 2, False)])
def test_stopped_at_any_step_it_ends_with_the_same_bits(
    held: bool, accumulate: int, hold: bool, bench: Bench, tmp_path: Path
) -> None:
    options = {"held": held, "accumulate": accumulate, "hold": hold, "patience": 9}
    whole, history = bench.tune(**options), bench.done
    for stop in (0, 1, 2, 3, 4, 8):
        file = tmp_path / f"{stop}.safetensors"
        with pytest.raises(Stop):
            bench.tune(**options, checkpoint=file, track=stopping_after(stop))
        assert file.exists() == (stop >= accumulate)
        assert equal(bench.tune(**options, checkpoint=file), whole), f"stopped after {stop} batches"
        assert bench.done == history
    assert len(history.epochs) == 3


def test_stopped_while_an_epoch_is_judged_it_ends_with_the_same_bits(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, history = bench.tune(), bench.done

    def stop(*_: object) -> None:
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(finetuning, "score_images", stop)
        bench.tune(checkpoint=tmp_path / "c")
    assert equal(bench.tune(checkpoint=tmp_path / "c"), whole) and bench.done == history


def test_stopped_again_and_again_it_ends_with_the_same_bits(bench: Bench, tmp_path: Path) -> None:
    whole = bench.tune()
    for _ in range(20):
        try:
            resumed = bench.tune(checkpoint=tmp_path / "c", track=stopping_after(2))
            break
        except Stop:
            continue
    assert equal(resumed, whole)
    assert equal(bench.tune(checkpoint=tmp_path / "c", track=stopping_after(0)), whole), "a finished one does no step"


def test_a_checkpoint_waits_for_its_time_and_for_the_end_of_the_epoch(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        bench.tune(checkpoint=tmp_path / "c", every_s=1e9, track=stopping_after(2))
    assert not (tmp_path / "c").exists()
    with pytest.raises(Stop):
        bench.tune(checkpoint=tmp_path / "c", every_s=1e9, track=stopping_after(4))
    assert (tmp_path / "c").exists()


def test_a_checkpoint_of_other_settings_or_damaged_is_refused(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    with pytest.raises(Stop):
        bench.tune(checkpoint=file, track=stopping_after(2))
    for other in ({"lr": 2e-3}, {"seed": 1}, {"tune": "last-stage"}, {"augment": False}):
        with pytest.raises(WorkspaceError, match="other settings"):
            bench.tune(checkpoint=file, **other)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WorkspaceError, match=r"c\.safetensors is damaged") as caught:
        bench.tune(checkpoint=file)
    assert caught.value.exit_code == 4


def test_one_seed_gives_one_network_and_another_another(bench: Bench) -> None:
    whole = bench.tune()
    assert equal(bench.tune(), whole) and not equal(bench.tune(seed=1), whole)


def test_accumulated_batches_are_one_large_batch(bench: Bench) -> None:
    """With held normalisation and no clipping, 2 × 2 images accumulate to the gradient of 4."""
    calm = {"augment": False, "clip_norm": 1e9, "epochs": 1, "held": False, "class_weights": False, "lr": 1e-4}
    quiet = Bench.__new__(Bench)
    quiet.__dict__ |= {**bench.__dict__, "rate": 0.0}
    large = quiet.tune(batch_size=4, warmup_epochs=0.1, **calm)
    small = quiet.tune(batch_size=2, accumulate=2, warmup_epochs=0.1, **calm)
    plain = quiet.tune(batch_size=2, warmup_epochs=0.1, **calm)
    name = "head.out.bias"
    moved = (large[name] - quiet.start[name]).abs().max()
    assert (large[name] - small[name]).abs().max() < 0.5 * moved
    assert (large[name] - plain[name]).abs().max() > (large[name] - small[name]).abs().max()


# ------------------------------------------------------------------------------------------------------ what moves


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def test_last_stage_moves_the_last_stage_and_the_head_alone(bench: Bench) -> None:
    after = bench.tune(tune="last-stage", held=False)
    changed = moved(bench.start, after)
    assert {name.split(".")[1] for name in changed if name.startswith("backbone.")} == {"layer4"}
    assert {"head.out.weight", "head.hidden.0.weight", "backbone.layer4.0.conv1.weight"} <= changed
    assert not changed & {"head.mean", "head.scale", "head.kept"}


@pytest.mark.parametrize("hold", [True, False])
def test_all_moves_the_first_convolution_and_statistics_only_of_random_networks(hold: bool, bench: Bench) -> None:
    changed = moved(bench.start, bench.tune(hold=hold, held=False))
    assert "backbone.conv1.0.weight" in changed and "backbone.layer4.0.conv1.weight" in changed
    statistics = {name for name in bench.start if "running_" in name or "num_batches" in name}
    assert statistics and changed & statistics == (set() if hold else statistics)


def test_a_network_without_a_known_last_stage_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_last_stage", lambda entry, module: ())
    with pytest.raises(UsageError, match="no named last stage"):
        bench.tune(tune="last-stage")


@pytest.mark.parametrize(
    "name",
    [
        "timm:mobilenetv3_small_050",
        "timm:convnext_atto",
        "timm:vit_tiny_patch16_224",
        "timm:regnetx_002",
        "timm:test_byobnet",
    ],
)
def test_the_last_stage_of_any_timm_network_is_its_end(name: str) -> None:
    loaded = load_backbone(name, "none", seed=0, fit="squash", input_size_px=None)
    names = [n for n, _ in loaded.module.named_parameters()]
    trained = [n for n in names if any(n == p or n.startswith(f"{p}.") for p in loaded.last_stage)]
    assert trained and trained == names[-len(trained) :]
    sizes = {n: p.numel() for n, p in loaded.module.named_parameters()}
    assert 0.02 < sum(sizes[n] for n in trained) / sum(sizes.values()) < 0.95


def test_a_loss_that_is_no_number_stops_the_run(bench: Bench) -> None:
    with pytest.raises(MachineError, match="diverged"):
        bench.tune(lr=1e36, clip_norm=1e9)


def test_it_stops_early_at_the_best_epoch(bench: Bench) -> None:
    after = bench.tune(epochs=30, patience=1, lr=1e-2)
    assert len(bench.done.epochs) == bench.done.best_epoch + 1 < 30
    again = bench.tune(epochs=30, patience=1, lr=1e-2, checkpoint=None)
    assert equal(after, again)


# ---------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_the_step_and_leaves_a_checkpoint(
    number: signal.Signals, bench: Bench, tmp_path: Path
) -> None:
    file = tmp_path / "c"

    def struck(items: Iterable, *, total: int, label: str) -> Iterator:
        for place, item in enumerate(items):
            if place == 1:
                signal.raise_signal(number)
            yield item

    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        bench.tune(checkpoint=file, every_s=1e9, track=struck)
    assert caught.value.exit_code == 128 + number and caught.value.hint == "go on"
    assert signal.getsignal(number) is before and file.exists()
    assert {"at": load_file(file)["network.head.out.weight"].shape} == {"at": (2, 8)}
    assert equal(bench.tune(checkpoint=file), bench.tune())


def test_a_second_signal_strikes_at_once_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="at once by SIGINT") as caught, deferred_signals() as pending:
        signal.raise_signal(signal.SIGTERM)
        assert pending.number == signal.SIGTERM
        signal.raise_signal(signal.SIGINT)
    assert caught.value.exit_code == 130 and signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_nothing_is_held_back() -> None:
    found: list[Pending] = []

    def work() -> None:
        with deferred_signals() as pending:
            found.append(pending)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [Pending()]


# ---------------------------------------------------------------------------------------------------------- machine


def test_lack_of_memory_names_the_batch_size_to_try() -> None:
    for error in (
        torch.OutOfMemoryError("x"),
        MemoryError(),
        RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory"),
    ):
        with pytest.raises(MachineError, match="out of memory with batches of 16") as caught, memory_errors(16):
            raise error
        assert "--batch-size 8" in caught.value.hint and caught.value.exit_code == 5
    with pytest.raises(MachineError, match="one image"), memory_errors(1):
        raise MemoryError
    with pytest.raises(RuntimeError, match="other"), memory_errors(4):
        raise RuntimeError("other")


def test_a_device_that_is_not_there_is_an_error_and_auto_says_its_choice() -> None:
    machine = choose_machine("auto", None)
    assert machine.device.type in machine.description and "(auto)" in machine.description
    assert machine.workers == granted_cores() == torch.get_num_threads() == len(os.sched_getaffinity(0))
    assert choose_machine("cpu", 3).workers == 3
    for device, kind in (("cuda:99", MachineError), ("gpu", UsageError), ("xla", UsageError), ("meta", UsageError)):
        with pytest.raises(kind, match=device):
            choose_machine(device, None)


def test_dropout_acts_in_training_alone() -> None:
    head = Head(HeadChoice(rate=0.5), 64, 2)
    x = torch.ones(4, 64)
    assert torch.equal(head.eval()(x)[0], head(x)[1])
    assert not torch.equal(head.train()(x)[0], head(x)[1])
