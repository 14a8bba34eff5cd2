"""Fine-tuning backbone and head together, so that it can be killed at any moment and go on as if it had not been.

Requirements met here:
- Several processes take parts of every batch and come to what one would come to, but for the order of floating-point sums:
  the loss is the weighted mean over the whole batch, whatever falls to whom, and dropout is drawn for the whole batch.
- A checkpoint lies between two optimiser steps and holds everything the next step depends on: weights, moments, schedule,
  random state, place in the epoch, the best epoch so far. On a CPU the resumed run's weights equal those of one never
  interrupted, bit for bit.
- A view depends on its image, the seed and the epoch alone, the order of an epoch on the seed and the epoch.
- Ctrl-C, SIGTERM and SIGUSR1 wait for the step in hand, then write a checkpoint; several processes leave together.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leukemia_cli.domain import Note, Preprocessing, Sample, Track, Tune, fingerprint, silent, undisturbed, unheard
from leukemia_cli.errors import UsageError, WorkspaceError
from leukemia_cli.learning.arrays import Labels, Scores
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
from leukemia_cli.learning.distributed import ALONE, Team
from leukemia_cli.learning.fitting import (
    EpochScore,
    FitSettings,
    check_loss,
    check_weights,
    class_weight,
    cross_entropy,
    lr_at,
    recall_mean,
)
from leukemia_cli.learning.machine import STOPS, Machine, Pending, deferred_signals, memory_errors, place
from leukemia_cli.learning.network import (
    Network,
    hold_normalisation,
    learns_from_batches,
    prefixed,
    trained_parts,
    unprefixed,
)


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


def optimiser(parameters: Iterable[nn.Parameter], settings: FitSettings) -> torch.optim.AdamW:
    """Give AdamW with decay on matrices and kernels only, not on biases and normalisation; one kernel a tensor."""
    listed = list(parameters)
    return torch.optim.AdamW(
        [
            {"params": [p for p in listed if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in listed if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.lr,
        fused=True,
    )


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

    def read(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Give what was stored last, None where nothing was; raises WorkspaceError for other settings or damage."""
        if not self.path.exists():
            return None
        facts, tensors = read_checkpoint(self.path, "Delete it to train this run again from its start")
        if facts["identity"] != self._identity:
            raise WorkspaceError(
                f"checkpoint {self.path} belongs to other settings or images", "Train anew, without --resume"
            )
        return facts, tensors


def score_images(
    network: nn.Module,
    samples: Sequence[Sample],
    spec: Preprocessing,
    machine: Machine,
    batch_size: int,
    max_megapixels: float,
    pulse: Callable[[], None] = undisturbed,
) -> Scores:
    """Give the logits (n, C) of the plain views of samples, in order; `pulse` is called after each batch."""

    def view(sample: Sample) -> Pixels:
        return plain_view(read_sample(sample, max_megapixels, spec.enough_px), spec)

    network.eval()
    parts = []
    with torch.inference_mode(), memory_errors(batch_size):
        seen = in_threads(view, samples, machine.workers, 2 * batch_size)
        with contextlib.closing(seen):
            for views in batched(seen, batch_size):
                inputs = to_input(stack(views, machine.device), spec, machine.device)
                parts.append(network(inputs).double().cpu().numpy())
                pulse()
    return np.concatenate(parts)


def check_shareable(backbone: nn.Module, team: Team, *, hold_normalisation: bool) -> None:
    """Raise UsageError where several processes would each normalise by the statistics of their part of a batch."""
    if team.size > 1 and not hold_normalisation and learns_from_batches(backbone):
        raise UsageError(
            "the normalisation of a random backbone learns from whole batches, and no process sees one",
            "Train it in one process, or begin with pretrained weights",
        )


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
    team: Team = ALONE,
) -> Tuned:
    """Train `network` in place and leave it at its best epoch (by validation; the last epoch without one).

    All processes of a `team` call it with the same arguments; the leader alone has a `checkpoint`. Raises MachineError for a
    loss that is no number or lack of memory, Interrupted after a checkpoint at a signal, UsageError where several processes
    would have to share the statistics of batches.
    """
    samples, labels = train
    parts = dict(trained_parts(network, last_stage, everything=tuning.tune == "all"))
    with team.told_by_leader():
        if not parts:
            raise UsageError("this backbone has no named last stage", "Use --tune head or --tune all")
        check_shareable(network.backbone, team, hold_normalisation=tuning.hold_normalisation)
    for parameter in network.backbone.parameters():
        parameter.requires_grad_(False)
    for parameter in parts.values():
        parameter.requires_grad_(True)
    place(network, machine)
    torch.manual_seed(seed + team.rank)  # heard only by a backbone with dropout of its own
    adam = optimiser([*parts.values(), *network.head.parameters()], fit)
    adam.zero_grad()  # the head comes with the gradient of its last fit
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
    course = _Course(
        network=network,
        adam=adam,
        scaler=torch.amp.GradScaler(machine.device.type, enabled=tuning.precision == "fp16"),
        samples=samples,
        labels=labels,
        weight=class_weight(labels, class_count, balanced=fit.class_weights),
        validation=validation,
        spec=spec,
        fit=fit,
        tuning=tuning,
        seed=seed,
        machine=machine,
        keeper=_Checkpoint(checkpoint, identity) if checkpoint else None,
        resume_hint=resume_hint,
        track=track,
        note=note,
        team=team,
    )
    course.go_on()
    with deferred_signals(patient=team.size > 1) as pending:
        while not course.finished():
            course.epoch(pending)
    at = course.at
    _, best_state = team.share({}, course.best_state)
    with team.told_by_leader():
        check_weights({k: best_state[k] for k, _ in network.named_parameters()}, at.best.epoch if at.best else 0)
    network.load_state_dict(best_state)
    network.eval()
    return Tuned(best_epoch=at.best.epoch if at.best else 0, epochs=at.history)


@dataclass(slots=True, kw_only=True)
class _Course:
    """One fine-tuning on its way: what stays, and where it stands."""

    network: Network
    adam: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    samples: Sequence[Sample]
    labels: Labels
    weight: Tensor
    """Loss weight of each class (C,)."""
    validation: tuple[Sequence[Sample], Labels] | None
    spec: Preprocessing
    fit: FitSettings
    tuning: TuneSettings
    seed: int
    machine: Machine
    keeper: _Checkpoint | None
    resume_hint: str
    track: Track
    note: Note
    team: Team
    at: _Progress = field(default_factory=_Progress)
    best_state: dict[str, Tensor] = field(default_factory=dict)
    """The leader's alone: the others never write it."""
    started: float = field(default_factory=time.monotonic)
    written: float = field(default_factory=time.monotonic)
    gained: float = 0.0
    """Summed loss of the images since the optimiser's last step, as far as they are this process's."""

    @property
    def per_epoch(self) -> int:
        """Count the batches of an epoch."""
        return math.ceil(len(self.samples) / self.fit.batch_size)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """List what moves."""
        return [p for group in self.adam.param_groups for p in group["params"]]

    def finished(self) -> bool:
        """Tell whether all epochs are done, or the last ones were without gain."""
        at = self.at
        return at.epoch > self.fit.epochs or (at.best is not None and at.epoch - 1 - at.best.epoch >= self.fit.patience)

    def rate_at(self, step: int) -> float:
        """Give the learning rate of a batch, counted from the start."""
        warmup = max(1, round(self.fit.warmup_epochs * self.per_epoch))
        return lr_at(step, steps=self.fit.epochs * self.per_epoch, warmup=warmup, peak=self.fit.lr)

    # ---------------------------------------------------------------------------------------------- checkpoints

    def go_on(self) -> None:
        """Stand where the last checkpoint stands, if there is one; the leader's is every process's."""
        facts, tensors = self.team.share(*((self.keeper.read() if self.keeper else None) or (None, {})))
        if facts is None:
            return
        self.network.load_state_dict(unprefixed("network.", tensors))
        for i, parameter in enumerate(self.parameters):
            state = unprefixed(f"adam.{i}.", tensors)
            if state:
                self.adam.state[parameter] = {  # on the device and in the strides that the optimiser had made them
                    name: value if name == "step" else torch.empty_like(parameter).copy_(value)
                    for name, value in state.items()
                }
        if self.team.leads:
            self.best_state = unprefixed("best.", tensors)
            torch.set_rng_state(tensors["random.cpu"])
            if "random.cuda" in tensors and torch.cuda.is_available():
                torch.cuda.set_rng_state(tensors["random.cuda"])
        if facts["scaler"]:
            self.scaler.load_state_dict(facts["scaler"])
        self.at = _Progress(
            epoch=facts["epoch"],
            step=facts["step"],
            summed=facts["summed"],
            spent_s=facts["spent_s"],
            best=EpochScore(**facts["best"]) if facts["best"] else None,
            history=tuple(EpochScore(**score) for score in facts["history"]),
        )
        self.started -= self.at.spent_s
        self.note(f"resuming at epoch {self.at.epoch}, batch {self.at.step}")

    def keep(self) -> None:
        """Write a checkpoint, where this process writes any."""
        self.at.spent_s = time.monotonic() - self.started
        if self.keeper is not None:
            self.keeper.save(self.network, self.adam, self.scaler, self.at, self.best_state)
            self.written = time.monotonic()

    def meet(
        self, pending: Pending, values: Sequence[float] = (), fault: Exception | None = None
    ) -> tuple[Pending, list[float]]:
        """Add up `values` over the processes; give also the signal that any of them has heard, the same on each."""
        if self.team.size == 1 and fault is None:
            return pending, list(values)
        heard = [float(pending.number == number) for number in STOPS]
        summed = self.team.total([*heard, *values], fault)
        known = [number for number, count in zip(STOPS, summed, strict=False) if count > 0]
        return Pending(known[0] if known else None), summed[len(STOPS) :]

    def keep_and_leave_if(self, asked: Pending) -> None:
        """At a signal that every process knows of, write a checkpoint and end."""
        if asked.number is not None:
            self.keep()
        self.leave_if(asked)

    def leave_if(self, asked: Pending) -> None:
        """End at a signal that every process knows of."""
        with self.team.told_by_leader():
            asked.leave(self.resume_hint)

    # ---------------------------------------------------------------------------------------------------- epochs

    def epoch(self, pending: Pending) -> None:
        """Go to the end of the epoch in hand and judge it."""
        at, fit = self.at, self.fit
        draws = torch.Generator().manual_seed(self.seed * 1_000_003 + at.epoch)
        order = torch.randperm(len(self.samples), generator=draws).tolist()
        batches = list(batched(order[at.step * fit.batch_size :], fit.batch_size))
        fault: Exception | None = None
        with contextlib.closing(self.views(batches)) as views:
            for batch, made in self.track(views, total=len(batches), label=f"epoch {at.epoch}/{fit.epochs}"):
                if fault is None:
                    fault = self.gradients(batch, made)
                between_steps = (at.step + 1) % fit.accumulate == 0 or at.step + 1 == self.per_epoch
                asked = self.step(pending, fault) if between_steps else pending
                at.step += 1
                if between_steps and self.keeper:
                    due = time.monotonic() - self.written >= self.tuning.checkpoint_every_s
                    if due or asked.number is not None:
                        self.keep()
                if between_steps:
                    self.leave_if(asked)
        score = self.judge(pending)
        if score.beats(at.best):
            at.best = score
            if self.team.leads:
                self.best_state = {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}
        at.history = (*at.history, score)
        self.note(_line(score, fit.epochs))
        at.epoch, at.step, at.summed = at.epoch + 1, 0, 0.0
        self.team.check_alike(torch.stack([p.detach().double().sum() for p in self.parameters]))
        asked, _ = self.meet(pending)
        self.keep()
        self.leave_if(asked)

    def views(self, batches: Sequence[list[int]]) -> Generator[tuple[list[int], Tensor | Exception | None]]:
        """Give each batch of places and this process's part of its views: None for an empty part.

        Among several processes an error takes the place of views, from the first that it strikes.
        """

        def view(row: int) -> Pixels:
            sample = self.samples[row]
            pixels = read_sample(sample, self.tuning.max_megapixels)
            if self.tuning.augmentation is None:
                return plain_view(pixels, self.spec)
            rng = view_rng(self.seed, sample.sha256, self.at.epoch)
            return augmented_view(pixels, self.spec, self.tuning.augmentation, rng)

        own = [batch[self.team.part(len(batch))] for batch in batches]
        in_turn = [row for rows in own for row in rows]
        fault: Exception | None = None
        with contextlib.closing(in_threads(view, in_turn, self.machine.workers, 2 * self.fit.batch_size)) as threaded:
            for batch, rows in zip(batches, own, strict=True):
                made = None
                if rows and fault is None:
                    try:
                        made = stack([next(threaded) for _ in rows], self.machine.device)
                    except Exception as error:
                        if self.team.size == 1:
                            raise
                        fault = error
                yield batch, fault or made

    def gradients(self, batch: list[int], made: Tensor | Exception | None) -> Exception | None:
        """Add the gradients of this process's part of a batch; give the error that came instead, among several processes."""
        try:
            if isinstance(made, Exception):
                raise made
            if made is not None:
                self._gradients(batch, made)
        except Exception as error:
            if self.team.size == 1:
                raise
            return error
        return None

    def _gradients(self, batch: list[int], views: Tensor) -> None:
        at, fit, device = self.at, self.fit, self.machine.device
        network, part = self.network, self.team.part(len(batch))
        network.train()
        if self.tuning.hold_normalisation or len(batch) == 1:  # one image has no batch statistics
            hold_normalisation(network.backbone)
        masks = None
        if network.head.rate > 0:
            draws = torch.Generator().manual_seed(_mixed(self.seed, at.epoch, at.step))
            masks = [mask[part].to(device) for mask in network.head.dropout_masks(len(batch), draws)]
        lower = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.tuning.precision)
        mixed = torch.autocast(device.type, dtype=lower, enabled=lower is not None)
        labels = torch.from_numpy(self.labels[batch])
        divisor = self.weight[labels].sum()  # of the whole batch: the weighted mean, as torch's own loss has it
        with memory_errors(fit.batch_size):
            with mixed:
                features = network.backbone(to_input(views, self.spec, device))
                logits = network.head.classify(network.head.standardise(features), masks)
            loss = nn.functional.cross_entropy(
                logits.float(),
                labels[part].to(device),
                self.weight.to(device),
                reduction="sum",
                label_smoothing=fit.label_smoothing,
            ) / divisor.to(device)
            summed = loss.item()
            check_loss(summed, at.epoch, at.step)
            self.scaler.scale(loss / fit.accumulate).backward()  # type: ignore[no-untyped-call]  # untyped in torch
        self.gained += summed * len(batch)

    def step(self, pending: Pending, fault: Exception | None) -> Pending:
        """Move along the gradients of all processes; give the signal that any of them has heard."""
        parameters, several = self.parameters, self.team.size > 1
        # A parameter that nothing hangs on has no gradient and stays; an empty part has none either, and does not count.
        reached = [float(p.grad is not None) for p in parameters] if several else []
        asked, summed = self.meet(pending, [self.gained, *reached], fault)
        self.at.summed += summed[0]
        self.gained = 0.0
        if several:
            moved = [p for p, count in zip(parameters, summed[1:], strict=True) if count > 0]
            self.team.add_up([_gradient(p) for p in moved])
        rate = self.rate_at((self.at.epoch - 1) * self.per_epoch + self.at.step)
        for group in self.adam.param_groups:
            group["lr"] = rate
        with memory_errors(self.fit.batch_size):
            self.scaler.unscale_(self.adam)
            nn.utils.clip_grad_norm_(parameters, self.fit.clip_norm)
            self.scaler.step(self.adam)
            self.scaler.update()
            self.adam.zero_grad()
        return asked

    # ----------------------------------------------------------------------------------------------- validation

    def judge(self, pending: Pending) -> EpochScore:
        """Score the epoch: its loss, and the validation part as the network now sees it."""
        accuracy = loss = None
        if self.validation is not None:
            scores = self.validation_scores(pending, *self.validation)
            with self.team.told_by_leader():
                if not np.isfinite(scores).all():
                    check_loss(math.nan, self.at.epoch, self.at.step)
            accuracy = recall_mean(self.validation[1], scores.argmax(1))
            loss = cross_entropy(self.validation[1], scores)
        return EpochScore(
            epoch=self.at.epoch,
            train_loss=self.at.summed / len(self.samples),
            balanced_accuracy=accuracy,
            log_loss=loss,
            lr=self.rate_at(self.at.epoch * self.per_epoch - 1),
        )

    def validation_scores(self, pending: Pending, samples: Sequence[Sample], labels: Labels) -> Scores:
        """Give logits (n, C): whole batches in turn to each process, so that each batch is what it is to one process."""
        size, team = self.fit.batch_size, self.team
        starts = range(0, len(samples), size)
        own = [at for start in starts[team.rank :: team.size] for at in range(start, min(start + size, len(samples)))]
        rounds, met, inside = math.ceil(len(starts) / team.size), 0, False

        def pulse(fault: Exception | None = None) -> None:
            nonlocal met, inside
            met, inside = met + 1, True
            asked, _ = self.meet(pending, (), fault)
            self.keep_and_leave_if(asked)
            inside = False

        table = torch.zeros(len(samples), len(self.weight), dtype=torch.float64)
        try:
            if own:
                scored = score_images(
                    self.network, [samples[at] for at in own], self.spec, self.machine, size,
                    self.tuning.max_megapixels, pulse,
                )  # fmt: skip
                table[own] = torch.from_numpy(scored)
        except Exception as error:
            if team.size == 1 or inside:
                raise
            pulse(error)
        while met < rounds and team.size > 1:
            pulse()
        team.add_up([table])
        scores: Scores = table.numpy()
        return scores


def _line(score: EpochScore, epochs: int) -> str:
    told = "" if score.balanced_accuracy is None else f", validation balanced accuracy {score.balanced_accuracy:.3f}"
    return f"epoch {score.epoch}/{epochs}: loss {score.train_loss:.4f}{told}"


def _mixed(seed: int, epoch: int, step: int) -> int:
    """Make one seed of three numbers, below 2^63."""
    return ((seed * 1_000_003 + epoch) * 1_000_003 + step) % 2**63


def _gradient(parameter: nn.Parameter) -> Tensor:
    """Give a parameter's gradient, zeros where this process's part reached it not at all."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def facts_of(epochs: Sequence[EpochScore]) -> list[dict[str, Any]]:
    """Give epochs as JSON types."""
    return [asdict(score) for score in epochs]
