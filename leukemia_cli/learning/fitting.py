"""Fitting a head on cached features: the same optimiser, schedule and stopping rule that fine-tuning uses."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leukemia_cli.domain import HeadChoice
from leukemia_cli.errors import MachineError
from leukemia_cli.learning.features import Features
from leukemia_cli.learning.network import Head, keep_best

Labels = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How a network is fitted; every default is our choice, none is published with the paper."""

    epochs: int = 40
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-2
    warmup_epochs: float = 2.0
    patience: int = 10
    """Epochs without a better validation score after which fitting stops."""
    label_smoothing: float = 0.05
    class_weights: bool = True
    clip_norm: float = 1.0
    accumulate: int = 1
    """Batches whose gradients are summed before a step (fine-tuning only)."""

    def as_json(self) -> dict[str, Any]:
        """Give every field as JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochScore:
    """What one epoch came to; `balanced_accuracy` and `log_loss` are those of validation, None without one."""

    epoch: int
    train_loss: float
    balanced_accuracy: float | None
    log_loss: float | None
    lr: float

    def beats(self, best: EpochScore | None) -> bool:
        """Tell whether this epoch is to be kept rather than `best`: higher balanced accuracy, or equal and lower loss."""
        if best is None or self.balanced_accuracy is None or best.balanced_accuracy is None:
            return True
        if self.balanced_accuracy != best.balanced_accuracy:
            return self.balanced_accuracy > best.balanced_accuracy
        return (self.log_loss or 0.0) < (best.log_loss or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedHead:
    """A head at its best epoch, the epochs on the way, and its validation logits (n, C) if there was a validation part."""

    head: Head
    best_epoch: int
    epochs: tuple[EpochScore, ...]
    val_scores: Scores | None


def recall_mean(labels: Labels, predicted: Labels) -> float:
    """Give the mean recall over the classes that `labels` holds: balanced accuracy."""
    return float(np.mean([np.mean(predicted[labels == k] == k) for k in np.unique(labels)]))


def cross_entropy(labels: Labels, scores: Scores) -> float:
    """Give the mean negative log-likelihood of softmax(scores) (n, C)."""
    shifted = scores - scores.max(1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]))


def class_weight(labels: Labels, class_count: int, *, balanced: bool) -> Tensor:
    """Give the loss weight of each class (C,): N / (classes present × count), or ones; 0 for an absent class."""
    counts = np.bincount(labels, minlength=class_count).astype(np.float64)
    if not balanced:
        return torch.ones(class_count)
    share = len(labels) / max(1, int(np.count_nonzero(counts)))
    weights = np.where(counts > 0, share / np.maximum(counts, 1), 0.0)
    return torch.from_numpy(weights).float()


def lr_at(step: int, *, steps: int, warmup: int, peak: float) -> float:
    """Give the learning rate of one step: a linear rise over `warmup` steps, then half a cosine down to zero.

    Source: Loshchilov and Hutter 2017 (SGDR), one cycle.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def optimiser(parameters: Any, settings: FitSettings) -> torch.optim.AdamW:
    """Give AdamW with decay on matrices and kernels only, not on biases and normalisation."""
    listed = list(parameters)
    return torch.optim.AdamW(
        [
            {"params": [p for p in listed if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in listed if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.lr,
        foreach=False,  # plain loops: bit-equal whatever the tensors' sizes
    )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: batches of vectors are too small to share, and threads that wait for each other cost more.

    It also makes a head's bits the same whatever number of cores was granted.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_loss(loss: float, epoch: int, step: int) -> None:
    """Raise MachineError for a loss that is not a number."""
    if not math.isfinite(loss):
        raise MachineError(
            f"the loss is {loss} at epoch {epoch}, step {step}: training has diverged",
            "Lower --lr, or use --precision fp32",
        )


def check_weights(state: Mapping[str, Tensor], epoch: int) -> None:
    """Raise MachineError for weights that are not numbers: the loss is looked at before a step, not after the last."""
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        check_loss(math.nan, epoch, 0)


def fit_head(
    features: Features,
    labels: Labels,
    choice: HeadChoice,
    settings: FitSettings,
    *,
    class_count: int,
    seed: int,
    validation: tuple[Features, Labels] | None,
    epochs: int | None = None,
) -> FittedHead:
    """Fit a head on features (N, V, D), each epoch on one random view of each image.

    With `validation` features (n, D) it stops early and keeps the best epoch; without, it runs `epochs` of the schedule's
    `settings.epochs` and keeps the last. The same arguments give the same head, bit for bit on one machine.
    """
    count, view_count, width = features.shape
    last = settings.epochs if epochs is None else min(epochs, settings.epochs)
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)
        draws = torch.Generator().manual_seed(seed)
        head = Head(choice, width, class_count)
        head.fit_features(features.reshape(-1, width), keep_best(features[:, 0], labels, choice.selected))
        with torch.no_grad():
            inputs = head.standardise(torch.from_numpy(features.reshape(-1, width)))
            inputs = inputs.reshape(count, view_count, -1)
            held = None if validation is None else head.standardise(torch.from_numpy(validation[0]))
        targets = torch.from_numpy(labels)
        loss_of = nn.CrossEntropyLoss(
            weight=class_weight(labels, class_count, balanced=settings.class_weights),
            label_smoothing=settings.label_smoothing,
        )
        adam = optimiser(head.parameters(), settings)
        per_epoch = math.ceil(count / settings.batch_size)
        warmup = max(1, round(settings.warmup_epochs * per_epoch))
        best: EpochScore | None = None
        best_state: dict[str, Tensor] = {}
        best_scores: Scores | None = None
        history: list[EpochScore] = []
        for epoch in range(1, last + 1):
            head.train()
            order = torch.randperm(count, generator=draws)
            views = torch.randint(view_count, (count,), generator=draws)
            summed = 0.0
            rate = 0.0
            for step, rows in enumerate(torch.split(order, settings.batch_size)):
                rate = lr_at(
                    (epoch - 1) * per_epoch + step, steps=settings.epochs * per_epoch, warmup=warmup, peak=settings.lr
                )
                for group in adam.param_groups:
                    group["lr"] = rate
                loss = loss_of(head.classify(inputs[rows, views[rows]]), targets[rows])
                check_loss(loss.item(), epoch, step)
                adam.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(head.parameters(), settings.clip_norm)
                adam.step()
                summed += loss.item() * len(rows)
            accuracy = held_loss = None
            scores: Scores | None = None
            if held is not None and validation is not None:
                head.eval()
                with torch.no_grad():
                    scores = head.classify(held).double().numpy()
                accuracy = recall_mean(validation[1], scores.argmax(1))
                held_loss = cross_entropy(validation[1], scores)
            score = EpochScore(
                epoch=epoch, train_loss=summed / count, balanced_accuracy=accuracy, log_loss=held_loss, lr=rate
            )
            history.append(score)
            if score.beats(best):
                best, best_scores = score, scores
                best_state = {name: value.detach().clone() for name, value in head.state_dict().items()}
            elif best is not None and epoch - best.epoch >= settings.patience:
                break
        check_weights(best_state, best.epoch if best else 0)
        head.load_state_dict(best_state)
        head.eval()
        return FittedHead(
            head=head, best_epoch=best.epoch if best else 0, epochs=tuple(history), val_scores=best_scores
        )
