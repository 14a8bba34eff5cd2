"""About how long cells will take, from timing one batch, one epoch of each head and one fit of each machine here and now.

Random numbers stand for features, so it is a guess: on real smears within a factor of two of what it took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from leukemia_cli.domain import HeadChoice, SvmChoice
from leukemia_cli.learning.batches import augmented_view, plain_view, read_sample, view_rng
from leukemia_cli.learning.comparing import Job, Table
from leukemia_cli.learning.features import run_backbone
from leukemia_cli.learning.fitting import FittingSet
from leukemia_cli.learning.selection import one_core_each
from leukemia_cli.learning.svm import Kernels
from leukemia_cli.learning.training import FEATURE_BATCH, INNER_FOLDS, Recipe, TrainPlan
from leukemia_cli.vision.remedies import remedied

MOST_ROWS = 400
"""Images that a timed fit sees; what more take is reckoned from it."""
IMAGES_READ = 3
BEST_EPOCH = 10
"""About the epoch at which heads on features of real smears are best; they stop `patience` epochs later."""
TIMED_EPOCHS = 3
SIGNAL = 32
"""Features that tell the classes apart, in the random numbers that fits are timed on."""
STEP_PER_VIEW = 3.0
"""A training step costs about three forward passes: one forward, and two of the same size backward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated:
    """Seconds still to be spent on one backbone, on features, on choosing and fitting, and on fine-tuning."""

    backbone: str
    views: int
    features_s: float
    fits_s: float
    tuning_s: float

    @property
    def seconds(self) -> float:
        """Give the sum."""
        return self.features_s + self.fits_s + self.tuning_s


def estimate(backbone: str, cells: Sequence[Job]) -> Estimated:
    """Reckon what cells of one backbone that are not done yet will take."""
    if not cells:
        return Estimated(backbone=backbone, views=0, features_s=0.0, fits_s=0.0, tuning_s=0.0)
    table, plan = cells[0].table, cells[0].plan
    compute_s = _forward_s(table)
    missing: dict[int, int] = {}
    for job in cells:
        missing.setdefault(id(job.table.rows), job.table.rows.missing(job.plan.training_views))
    views_left = sum(missing.values())
    features_s = views_left * max(compute_s, _read_s(table, plan) / table.machine.workers) if views_left else 0.0
    fits_s = tuning_s = 0.0
    known: dict[tuple[int, Recipe], float] = {}
    for job in cells:
        count = sum(sample.fold != job.fold for sample in job.table.manifest.samples)
        if (count, job.recipe) not in known:
            known[count, job.recipe] = _fits_s(job, count)
        fits_s += known[count, job.recipe]
        if job.recipe.tune != "head":
            tuning_s += job.plan.fit.epochs * count * compute_s * STEP_PER_VIEW
    return Estimated(backbone=backbone, views=views_left, features_s=features_s, fits_s=fits_s, tuning_s=tuning_s)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _forward_s(table: Table) -> float:
    """Time a view through the backbone, the second batch counting."""
    spec = table.loaded.preprocessing
    random = np.random.default_rng(0)
    shape = (FEATURE_BATCH, spec.remedies.tiles * spec.input_size_px, spec.input_size_px, 3)
    batch = random.integers(0, 256, shape, dtype=np.uint8)
    views = list(batch)
    run_backbone(table.loaded.module, views, spec, table.machine)
    return _timed(lambda: run_backbone(table.loaded.module, views, spec, table.machine)) / len(views)


def _read_s(table: Table, plan: TrainPlan) -> float:
    """Time reading an image, and give the seconds a view of it."""
    spec, augmentation = table.loaded.preprocessing, plan.augmentation

    def read() -> None:
        for sample in table.manifest.samples[:IMAGES_READ]:
            image = remedied(read_sample(sample, plan.max_megapixels, spec.enough_px), spec.remedies)
            plain_view(image, spec)
            for view in range(1, plan.views):
                if augmentation is not None:
                    augmented_view(image, spec, augmentation, view_rng(0, sample.sha256 or "0" * 16, view))

    return _timed(read) / (min(IMAGES_READ, len(table.manifest.samples)) * max(1, plan.views))


def _fits_s(job: Job, count: int) -> float:
    """Time the candidates of one cell on random numbers of the right shape."""
    table, recipe, plan = job.table, job.recipe, job.plan
    rows = max(2 * len(table.manifest.task.classes), min(MOST_ROWS, count))
    random = np.random.default_rng(0)
    features = random.standard_normal((rows, plan.views, table.loaded.spec.feature_width)).astype(np.float32)
    labels = np.arange(rows) % len(table.manifest.task.classes)
    # Pure noise would take a support vector machine several times as long.
    features[..., :SIGNAL] += labels[:, None, None]
    more = count / rows
    classes = len(table.manifest.task.classes)

    shared: list[FittingSet] = []
    heads_s = (
        _timed(lambda: shared.append(FittingSet(features, labels, None, balanced=True))) * more if recipe.heads else 0.0
    )

    def head(choice: HeadChoice) -> float:
        some = _timed(lambda: shared[0].fit(choice, plan.head_fit, class_count=classes, seed=0, epochs=TIMED_EPOCHS))
        return some / TIMED_EPOCHS * more * min(plan.head_fit.epochs, BEST_EPOCH + plan.head_fit.patience)

    kernels: list[Kernels] = []
    machines_s = _timed(lambda: kernels.append(Kernels(features, labels))) * more if recipe.svms else 0.0

    def machine(choice: SvmChoice) -> float:
        return _timed(lambda: kernels[0].fit(choice, classes)) * more**2

    with one_core_each():
        heads = [heads_s, *(head(choice) for choice in recipe.heads)]
        machines = [machines_s, *(machine(choice) for choice in recipe.svms)]
    candidates = sum(heads) + sum(machines)
    return (INNER_FOLDS * candidates + max([*heads, *machines], default=0.0)) / table.machine.workers
