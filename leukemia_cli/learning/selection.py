"""Choosing among candidates: one mechanism over cached features for widths, feature counts, rates, kernels and C.

A candidate is fitted on the training side of each holdout and scored on its other side; the scores are pooled, and the
candidate with the highest balanced accuracy is kept (of equals, the lowest calibrated log loss, then the earlier).
"""

from __future__ import annotations

import collections
import contextlib
import json
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np

from leukemia_cli.data.splits import deal_folds
from leukemia_cli.domain import HeadChoice, Sample, SvmChoice, Track, fingerprint, silent, undisturbed
from leukemia_cli.errors import DataError
from leukemia_cli.judging.calibration import fit_temperature
from leukemia_cli.learning.arrays import Labels, Scores
from leukemia_cli.learning.fitting import cross_entropy, one_thread, recall_mean

Choice = TypeVar("Choice", HeadChoice, SvmChoice)
Done = TypeVar("Done")
Fit: TypeAlias = Callable[[Choice, Callable[[], None]], tuple[Scores, int | None]]
"""Fits a candidate and gives scores (n, C) and epochs (None for an SVM); may call its second argument at any time."""


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
                except (ValueError, KeyError, TypeError, RecursionError):
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
        groups_of.setdefault(samples[i].label, set()).add(samples[i].inseparable)
    folds = min(most, min((len(groups) for groups in groups_of.values()), default=0))
    if folds < 2:
        return ()
    rows = [(samples[i].inseparable, samples[i].label) for i in positions]
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


def left_out(samples: Sequence[Sample], positions: Sequence[int], *, most: int) -> tuple[Holdout, ...]:
    """Deal whole groups of the samples at `positions`, of whatever class, into up to `most` holdouts; none of a single group.

    For what needs no class: a side may lack one.
    """
    sizes = collections.Counter(samples[i].inseparable for i in positions)
    folds = min(most, len(sizes))
    if folds < 2:
        return ()
    fold_of = {group: k % folds for k, group in enumerate(sorted(sizes, key=lambda group: (-sizes[group], group)))}
    return tuple(
        Holdout(
            fit=tuple(i for i in positions if fold_of[samples[i].inseparable] != fold),
            score=tuple(i for i in positions if fold_of[samples[i].inseparable] == fold),
        )
        for fold in range(folds)
    )


def choose(
    candidates: Sequence[Choice],
    holdouts: Sequence[Holdout],
    labels: Labels,
    prepare: Callable[[Holdout], Fit[Choice]],
    *,
    diary: Diary,
    stage: str,
    track: Track = silent,
    workers: int = 1,
) -> Selection[Choice]:
    """Score every candidate on every holdout and keep the best; `labels` (N,) are those of all samples.

    `prepare` gives, once for each holdout, the function that fits a candidate on it and scores its other side (n, C).
    With several `workers` fits run in that many threads, of one core each; nothing that is given or written in the diary
    depends on their number, but for the order of its lines.
    """
    if not candidates:
        raise ValueError("there is no candidate to choose from")
    jobs = [
        _Job(candidate=c, holdout=h, key=fingerprint([stage, candidates[c].title, holdouts[h].fit, holdouts[h].score]))
        for first in range(0, len(holdouts), workers)  # few holdouts at a time: each holds its features meanwhile
        for c in range(len(candidates))
        for h in range(first, min(first + workers, len(holdouts)))
    ]
    missing = [job for job in jobs if diary.recall(job.key) is None]
    sets = [_Prepared(prepare, holdout, sum(job.holdout == h for job in missing)) for h, holdout in enumerate(holdouts)]

    def work(job: _Job, pulse: Callable[[], None]) -> tuple[Scores, int | None]:
        with sets[job.holdout].fit() as fit:
            return fit(candidates[job.candidate], pulse)

    done: dict[tuple[int, int], tuple[Scores, int | None]] = {}
    with one_core_each(), contextlib.closing(_in_order(work, missing, workers)) as fits:
        for job in track(jobs, total=len(jobs), label=stage):
            known = diary.recall(job.key)
            if known is None:
                scores, took = next(fits)
                diary.keep(job.key, {"scores": scores.tolist(), "epochs": took})
            else:
                scores, took = np.array(known["scores"], dtype=np.float64), known["epochs"]
            done[job.candidate, job.holdout] = (scores, took)
    positions = tuple(i for holdout in holdouts for i in holdout.score)
    truth = labels[list(positions)]
    trials, pools = [], []
    for c, candidate in enumerate(candidates):
        pooled = np.concatenate([done[c, h][0] for h in range(len(holdouts))])
        epochs = [took for h in range(len(holdouts)) if (took := done[c, h][1]) is not None]
        trials.append(
            Trial(
                choice=candidate,
                balanced_accuracy=recall_mean(truth, pooled.argmax(1)),
                log_loss=cross_entropy(truth, pooled / fit_temperature(pooled, truth)),
                epochs=float(np.mean(epochs)) if epochs else None,
            )
        )
        pools.append(pooled)
    best = max(range(len(trials)), key=lambda c: (trials[c].balanced_accuracy, -trials[c].log_loss))
    return Selection(kept=trials[best], trials=tuple(trials), positions=positions, scores=pools[best])


# ------------------------------------------------------------------------------------------------ several at a time


class _Stopped(Exception):
    """Ends a fit whose result nobody waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    candidate: int
    holdout: int
    key: str


class _Prepared(Generic[Choice]):
    """What a holdout's fits share: made by the first that asks, let go after the last."""

    def __init__(self, prepare: Callable[[Holdout], Fit[Choice]], holdout: Holdout, uses: int) -> None:
        self._prepare: Callable[[Holdout], Fit[Choice]] = prepare
        self._holdout, self._left = holdout, uses
        self._fit: Fit[Choice] | None = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def fit(self) -> Iterator[Fit[Choice]]:
        with self._lock:
            if self._fit is None:
                self._fit = self._prepare(self._holdout)
            fit = self._fit
        yield fit
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._fit = None


@contextlib.contextmanager
def one_core_each() -> Iterator[None]:
    """Keep matrix products in one thread: fits beside each other would wait for each other's, and bits would differ."""
    from threadpoolctl import threadpool_limits

    with one_thread(), threadpool_limits(limits=1, user_api="blas"):
        yield


def _in_order(
    work: Callable[[_Job, Callable[[], None]], Done], jobs: Sequence[_Job], workers: int
) -> Generator[Done, None, None]:
    """Do `work` on each job, up to `workers` at a time, and yield the results in the order of the jobs.

    Closing it stops the fits that still run at their next pulse.
    """
    if workers == 1:
        for job in jobs:
            yield work(job, undisturbed)
        return
    stopped = threading.Event()

    def pulse() -> None:
        if stopped.is_set():
            raise _Stopped

    with ThreadPoolExecutor(workers, thread_name_prefix="leuk-fit") as pool:
        flying: collections.deque[Future[Done]] = collections.deque()
        try:
            for job in jobs:
                flying.append(pool.submit(work, job, pulse))
                if len(flying) >= 2 * workers:
                    yield flying.popleft().result()
            while flying:
                yield flying.popleft().result()
        finally:
            stopped.set()
            for future in flying:
                future.cancel()
