"""Choosing among candidates: one mechanism over cached features for widths, feature counts, rates, kernels and C.

A candidate is fitted on the training side of each holdout and scored on its other side; the scores are pooled, and the
candidate with the highest balanced accuracy is kept (of equals, the lowest calibrated log loss, then the earlier).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from leukemia_cli.data.splits import deal_folds
from leukemia_cli.domain import HeadChoice, Sample, SvmChoice, Track, fingerprint, silent
from leukemia_cli.errors import DataError
from leukemia_cli.judging.calibration import fit_temperature
from leukemia_cli.learning.fitting import Labels, Scores, cross_entropy, recall_mean

Choice = TypeVar("Choice", HeadChoice, SvmChoice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdout:
    """Two disjoint lists of sample positions that share no group: to fit on and to score on."""

    fit: tuple[int, ...]
    score: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial(Generic[Choice]):
    """One candidate's pooled score on the holdouts, and the epochs it took (mean over holdouts; None for an SVM)."""

    choice: Choice
    balanced_accuracy: float
    log_loss: float
    epochs: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection(Generic[Choice]):
    """The candidate kept, every trial in the order tried, and the kept one's pooled scores (n, C) at `positions`."""

    kept: Trial[Choice]
    trials: tuple[Trial[Choice], ...]
    positions: tuple[int, ...]
    scores: Scores


class Diary:
    """Finished fits on disk, one JSON line each: what an interrupted run need not do again. A torn last line is ignored."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="ascii", errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                    self._known[entry["key"]] = entry["value"]
                except (ValueError, KeyError, TypeError):
                    continue

    def recall(self, key: str) -> Any:
        """Give what was kept under `key`, or None."""
        return self._known.get(key)

    def keep(self, key: str, value: Any) -> None:
        """Write `value` down; floats come back bit for bit."""
        self._known[key] = value
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="ascii") as file:
                file.write("\n" + json.dumps({"key": key, "value": value}))


def inner_holdouts(samples: Sequence[Sample], positions: Sequence[int], *, most: int, seed: int) -> tuple[Holdout, ...]:
    """Deal the samples at `positions` into up to `most` grouped folds and give each as a holdout.

    Every class is on both sides of the pooled folds; fewer folds where a class has fewer groups, none where one has a
    single group: then nothing can be chosen, and defaults are to be taken.
    """
    groups_of: dict[str, set[str]] = {}
    for i in positions:
        groups_of.setdefault(samples[i].label, set()).add(samples[i].group)
    folds = min(most, min((len(groups) for groups in groups_of.values()), default=0))
    if folds < 2:
        return ()
    rows = [(samples[i].group, samples[i].label) for i in positions]
    try:
        dealt = deal_folds(rows, folds, seed)
    except DataError:
        return ()  # groups of several classes can leave one side without a class
    return tuple(
        Holdout(
            fit=tuple(i for i, f in zip(positions, dealt, strict=True) if f != fold),
            score=tuple(i for i, f in zip(positions, dealt, strict=True) if f == fold),
        )
        for fold in range(folds)
    )


def choose(
    candidates: Sequence[Choice],
    holdouts: Sequence[Holdout],
    labels: Labels,
    fit: Callable[[Choice, Holdout], tuple[Scores, int | None]],
    *,
    diary: Diary,
    stage: str,
    track: Track = silent,
) -> Selection[Choice]:
    """Score every candidate on every holdout and keep the best; `fit` gives the scores (n, C) of a holdout's other side.

    `labels` (N,) are those of all samples, which holdouts index.
    """
    positions = tuple(i for holdout in holdouts for i in holdout.score)
    truth = labels[list(positions)]
    trials: list[Trial[Choice]] = []
    kept: tuple[Trial[Choice], Scores] | None = None
    for candidate in track(candidates, total=len(candidates), label=stage):
        parts, epochs = [], []
        for holdout in holdouts:
            key = fingerprint([stage, candidate.title, holdout.fit, holdout.score])
            known = diary.recall(key)
            if known is None:
                scores, took = fit(candidate, holdout)
                diary.keep(key, {"scores": scores.tolist(), "epochs": took})
            else:
                scores, took = np.array(known["scores"], dtype=np.float64), known["epochs"]
            parts.append(scores)
            epochs.append(took)
        pooled = np.concatenate(parts)
        temperature = fit_temperature(pooled, truth)
        trial = Trial(
            choice=candidate,
            balanced_accuracy=recall_mean(truth, pooled.argmax(1)),
            log_loss=cross_entropy(truth, pooled / temperature),
            epochs=None if epochs[0] is None else float(np.mean([e for e in epochs if e is not None])),
        )
        trials.append(trial)
        rank = (trial.balanced_accuracy, -trial.log_loss)
        if kept is None or rank > (kept[0].balanced_accuracy, -kept[0].log_loss):
            kept = (trial, pooled)
    if kept is None:
        raise ValueError("there is no candidate to choose from")
    return Selection(kept=kept[0], trials=tuple(trials), positions=positions, scores=kept[1])
