"""Fine-tuning backbone and head together, so that it can be killed at any moment and go on as if it had not been.

Requirements met here:
- A checkpoint lies between two optimiser steps and holds everything the next step depends on: weights, moments, schedule,
  random state, place in the epoch, the best epoch so far. On a CPU the resumed run's weights equal those of one never
  interrupted, bit for bit.
- A view depends on its image, the seed and the epoch alone, the order of an epoch on the seed and the epoch.
- Ctrl-C and SIGTERM wait for the step in hand, then write a checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leukemia_cli.domain import Note, Preprocessing, Sample, Track, Tune, fingerprint, silent, unheard
from leukemia_cli.errors import UsageError, WorkspaceError
from leukemia_cli.learning.batches import (
    Augmentation,
    Pixels,
    augmented_view,
    batched,
    in_threads,
    plain_view,
    read_sample,
    stack,
    to_input,
    view_rng,
)
from leukemia_cli.learning.checkpoints import read_checkpoint, write_checkpoint
from leukemia_cli.learning.fitting import (
    EpochScore,
    FitSettings,
    Labels,
    Scores,
    check_loss,
    check_weights,
    class_weight,
    cross_entropy,
    lr_at,
    optimiser,
    recall_mean,
)
from leukemia_cli.learning.machine import Machine, deferred_signals, memory_errors, place
from leukemia_cli.learning.network import Network, hold_normalisation, prefixed, trained_parts, unprefixed


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneSettings:
    """What fine-tuning needs beside the fit's settings."""

    tune: Tune
    precision: str
    augmentation: Augmentation | None
    hold_normalisation: bool
    checkpoint_every_s: float
    max_megapixels: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A network at its best epoch and the way there."""

    best_epoch: int
    epochs: tuple[EpochScore, ...]


@dataclass(slots=True)
class _Progress:
    epoch: int = 1
    step: int = 0  # batches done in this epoch
    summed: float = 0.0
    spent_s: float = 0.0
    best: EpochScore | None = None
    history: tuple[EpochScore, ...] = ()


class _Checkpoint:
    """One file: tensors in safetensors, the rest as JSON in its header."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self._identity = identity

    def save(
        self,
        network: Network,
        adam: torch.optim.AdamW,
        scaler: torch.amp.GradScaler,
        at: _Progress,
        best: dict[str, Tensor],
    ) -> None:
        tensors = prefixed("network.", network.state_dict()) | prefixed("best.", best)
        parameters = [p for group in adam.param_groups for p in group["params"]]
        for i, parameter in enumerate(parameters):
            tensors |= prefixed(f"adam.{i}.", {k: torch.as_tensor(v) for k, v in adam.state.get(parameter, {}).items()})
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        facts = {
            "identity": self._identity,
            "epoch": at.epoch,
            "step": at.step,
            "summed": at.summed,
            "spent_s": at.spent_s,
            "best": None if at.best is None else asdict(at.best),
            "history": [asdict(score) for score in at.history],
            "scaler": scaler.state_dict(),
        }
        write_checkpoint(self.path, tensors, facts)

    def load(
        self, network: Network, adam: torch.optim.AdamW, scaler: torch.amp.GradScaler
    ) -> tuple[_Progress, dict[str, Tensor]] | None:
        if not self.path.exists():
            return None
        facts, tensors = read_checkpoint(self.path, "Delete it to train this run again from its start")
        if facts["identity"] != self._identity:
            raise WorkspaceError(
                f"checkpoint {self.path} belongs to other settings or images", "Train anew, without --resume"
            )
        network.load_state_dict(unprefixed("network.", tensors))
        parameters = [p for group in adam.param_groups for p in group["params"]]
        for i, parameter in enumerate(parameters):
            state = unprefixed(f"adam.{i}.", tensors)
            if state:
                adam.state[parameter] = {  # on the device and in the strides that the optimiser had made them
                    name: value if name == "step" else torch.empty_like(parameter).copy_(value)
                    for name, value in state.items()
                }
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])
        if facts["scaler"]:
            scaler.load_state_dict(facts["scaler"])
        progress = _Progress(
            epoch=facts["epoch"],
            step=facts["step"],
            summed=facts["summed"],
            spent_s=facts["spent_s"],
            best=EpochScore(**facts["best"]) if facts["best"] else None,
            history=tuple(EpochScore(**score) for score in facts["history"]),
        )
        return progress, unprefixed("best.", tensors)


def score_images(
    network: nn.Module,
    samples: Sequence[Sample],
    spec: Preprocessing,
    machine: Machine,
    batch_size: int,
    max_megapixels: float,
) -> Scores:
    """Give the logits (n, C) of the plain views of samples, in order."""

    def view(sample: Sample) -> Pixels:
        return plain_view(read_sample(sample, max_megapixels), spec)

    network.eval()
    parts = []
    with torch.inference_mode(), memory_errors(batch_size):
        for views in batched(in_threads(view, samples, machine.workers, 2 * batch_size), batch_size):
            parts.append(network(to_input(stack(views, machine.device), spec, machine.device)).double().cpu().numpy())
    return np.concatenate(parts)


def fine_tune(
    network: Network,
    train: tuple[Sequence[Sample], Labels],
    validation: tuple[Sequence[Sample], Labels] | None,
    spec: Preprocessing,
    fit: FitSettings,
    tuning: TuneSettings,
    *,
    last_stage: tuple[str, ...],
    class_count: int,
    seed: int,
    machine: Machine,
    checkpoint: Path | None,
    resume_hint: str = "",
    track: Track = silent,
    note: Note = unheard,
) -> Tuned:
    """Train `network` in place and leave it at its best epoch (by validation; the last epoch without one).

    Raises MachineError for a loss that is no number or lack of memory, Interrupted after a checkpoint at a signal.
    """
    samples, labels = train
    parts = dict(trained_parts(network, last_stage, everything=tuning.tune == "all"))
    if not parts:
        raise UsageError("this backbone has no named last stage", "Use --tune head or --tune all")
    for parameter in network.backbone.parameters():
        parameter.requires_grad_(False)
    for parameter in parts.values():
        parameter.requires_grad_(True)
    place(network, machine)
    torch.manual_seed(seed)
    adam = optimiser([*parts.values(), *network.head.parameters()], fit)
    adam.zero_grad()  # the head comes with the gradient of its last fit
    scaler = torch.amp.GradScaler(machine.device.type, enabled=tuning.precision == "fp16")
    loss_of = nn.CrossEntropyLoss(
        weight=class_weight(labels, class_count, balanced=fit.class_weights).to(machine.device),
        label_smoothing=fit.label_smoothing,
    )
    identity = fingerprint(
        [
            [s.sha256 for s in samples],
            labels.tolist(),
            spec.as_json(),
            fit.as_json(),
            tuning.tune,
            tuning.precision,
            seed,
            tuning.augmentation.as_json() if tuning.augmentation else None,
        ]
    )
    keeper = _Checkpoint(checkpoint, identity) if checkpoint else None
    stored = keeper.load(network, adam, scaler) if keeper else None
    at, best_state = stored or (_Progress(), {})
    if stored:
        note(f"resuming at epoch {at.epoch}, batch {at.step}")
    per_epoch = math.ceil(len(samples) / fit.batch_size)
    warmup = max(1, round(fit.warmup_epochs * per_epoch))
    started = time.monotonic() - at.spent_s
    written = time.monotonic()

    def rate_at(step: int) -> float:
        return lr_at(step, steps=fit.epochs * per_epoch, warmup=warmup, peak=fit.lr)

    def finished() -> bool:
        return at.epoch > fit.epochs or (at.best is not None and at.epoch - 1 - at.best.epoch >= fit.patience)

    with deferred_signals() as pending:
        while not finished():
            order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed * 1_000_003 + at.epoch))
            rows = order.tolist()[at.step * fit.batch_size :]
            batches = _views(samples, rows, spec, tuning, seed, at.epoch, machine, fit.batch_size)
            with contextlib.closing(batches):
                watched = track(
                    batches, total=math.ceil(len(rows) / fit.batch_size), label=f"epoch {at.epoch}/{fit.epochs}"
                )
                for batch_rows, views in watched:
                    at.summed += _step(
                        network,
                        adam,
                        scaler,
                        loss_of,
                        views,
                        labels[batch_rows],
                        spec,
                        fit,
                        tuning,
                        machine,
                        at,
                        rate_at((at.epoch - 1) * per_epoch + at.step),
                        last=at.step + 1 == per_epoch,
                    )
                    at.step += 1
                    between_steps = at.step % fit.accumulate == 0 or at.step == per_epoch
                    if between_steps and keeper:
                        due = time.monotonic() - written >= tuning.checkpoint_every_s
                        if due or pending.number is not None:
                            at.spent_s = time.monotonic() - started
                            keeper.save(network, adam, scaler, at, best_state)
                            written = time.monotonic()
                    if between_steps:
                        pending.leave(resume_hint)
            rate = rate_at(at.epoch * per_epoch - 1)
            score = _judge_epoch(network, validation, spec, fit, tuning, machine, at, len(samples), rate)
            if score.beats(at.best):
                at.best = score
                best_state = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
            at.history = (*at.history, score)
            note(_line(score, fit.epochs))
            at.epoch, at.step, at.summed = at.epoch + 1, 0, 0.0
            at.spent_s = time.monotonic() - started
            if keeper:
                keeper.save(network, adam, scaler, at, best_state)
                written = time.monotonic()
            pending.leave(resume_hint)
    check_weights({k: best_state[k] for k, _ in network.named_parameters()}, at.best.epoch if at.best else 0)
    network.load_state_dict(best_state)
    network.eval()
    return Tuned(best_epoch=at.best.epoch if at.best else 0, epochs=at.history)


def _line(score: EpochScore, epochs: int) -> str:
    told = "" if score.balanced_accuracy is None else f", validation balanced accuracy {score.balanced_accuracy:.3f}"
    return f"epoch {score.epoch}/{epochs}: loss {score.train_loss:.4f}{told}"


def _views(
    samples: Sequence[Sample],
    rows: Sequence[int],
    spec: Preprocessing,
    tuning: TuneSettings,
    seed: int,
    epoch: int,
    machine: Machine,
    batch_size: int,
) -> Generator[tuple[list[int], Tensor]]:
    def view(row: int) -> tuple[int, Pixels]:
        sample = samples[row]
        pixels = read_sample(sample, tuning.max_megapixels)
        if tuning.augmentation is None:
            return row, plain_view(pixels, spec)
        return row, augmented_view(pixels, spec, tuning.augmentation, view_rng(seed, sample.sha256, epoch))

    threaded = in_threads(view, rows, machine.workers, 2 * batch_size)
    with contextlib.closing(threaded):
        for batch in batched(threaded, batch_size):
            yield [row for row, _ in batch], stack([pixels for _, pixels in batch], machine.device)


def _step(
    network: Network,
    adam: torch.optim.AdamW,
    scaler: torch.amp.GradScaler,
    loss_of: nn.Module,
    views: Tensor,
    labels: Labels,
    spec: Preprocessing,
    fit: FitSettings,
    tuning: TuneSettings,
    machine: Machine,
    at: _Progress,
    rate: float,
    *,
    last: bool,
) -> float:
    """Do one batch, and an optimiser step where enough are gathered; give the summed loss of its images."""
    network.train()
    if tuning.hold_normalisation or len(labels) == 1:  # one image has no batch statistics
        hold_normalisation(network.backbone)
    for group in adam.param_groups:
        group["lr"] = rate
    lower = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(tuning.precision)
    mixed = torch.autocast(machine.device.type, dtype=lower, enabled=lower is not None)
    with memory_errors(fit.batch_size):
        with mixed:
            logits = network(to_input(views, spec, machine.device))
        loss = loss_of(logits.float(), torch.from_numpy(labels).to(machine.device))
        check_loss(loss.item(), at.epoch, at.step)
        scaler.scale(loss / fit.accumulate).backward()
        if (at.step + 1) % fit.accumulate == 0 or last:
            scaler.unscale_(adam)
            nn.utils.clip_grad_norm_([p for group in adam.param_groups for p in group["params"]], fit.clip_norm)
            scaler.step(adam)
            scaler.update()
            adam.zero_grad()
    return float(loss.item()) * len(labels)


def _judge_epoch(
    network: Network,
    validation: tuple[Sequence[Sample], Labels] | None,
    spec: Preprocessing,
    fit: FitSettings,
    tuning: TuneSettings,
    machine: Machine,
    at: _Progress,
    count: int,
    rate: float,
) -> EpochScore:
    accuracy = loss = None
    if validation is not None:
        scores = score_images(network, validation[0], spec, machine, fit.batch_size, tuning.max_megapixels)
        if not np.isfinite(scores).all():
            check_loss(float("nan"), at.epoch, at.step)
        accuracy, loss = recall_mean(validation[1], scores.argmax(1)), cross_entropy(validation[1], scores)
    return EpochScore(epoch=at.epoch, train_loss=at.summed / count, balanced_accuracy=accuracy, log_loss=loss, lr=rate)


def facts_of(epochs: Sequence[EpochScore]) -> list[dict[str, Any]]:
    """Give epochs as JSON types."""
    return [asdict(score) for score in epochs]
