"""One cell of a comparison: a backbone with a variant, trained without one fold and judged on it; kept once it is done.

Requirements met here:
- A cell is known by everything that its figures depend on, so that a comparison that asks for it again, after an
  interruption or beside other variants, takes it from disk; and one made from anything else is never taken for it.
- A cell lies on disk whole or not at all; one that is damaged is computed again, and that is said.
- Inside a cell, finished fits and checkpoints outlive an interruption as they do in training.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from leukemia_cli.domain import Manifest, Note, Sample, Track, fingerprint, silent, unheard
from leukemia_cli.errors import WorkspaceError
from leukemia_cli.learning.arrays import Scores
from leukemia_cli.learning.batches import in_threads
from leukemia_cli.learning.checkpoints import read_checkpoint, write_checkpoint
from leukemia_cli.learning.features import CopyRows, FrozenRows, Means, Rows, Views
from leukemia_cli.learning.machine import Machine
from leukemia_cli.learning.runs import versions
from leukemia_cli.learning.selection import one_core_each
from leukemia_cli.learning.training import FEATURE_BATCH, Recipe, Trainer, TrainPlan
from leukemia_cli.learning.weights import LoadedBackbone
from leukemia_cli.workspace.files import clear_unfinished, disk_errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a cell came to: probabilities (n, C) of the images at `places`, and how its model was chosen."""

    places: tuple[int, ...]
    probabilities: Scores
    choice: str
    best_epoch: int | None
    temperature: float
    calibrated_on: str | None
    trials: tuple[dict[str, Any], ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Everything that the cells of one backbone share: images dealt into folds, features, machine, and where cells lie."""

    manifest: Manifest
    loaded: LoadedBackbone
    digest: str
    """SHA-256 of the backbone's values."""
    rows: Rows
    machine: Machine
    cells: Path

    def dealt(self, folds: Sequence[int]) -> Table:
        """Give the same table with its images dealt otherwise: `folds` (N,) has the fold of each."""
        samples = tuple(replace(s, fold=fold) for s, fold in zip(self.manifest.samples, folds, strict=True))
        return replace(self, manifest=replace(self.manifest, samples=samples))


def table_of(
    manifest: Manifest,
    loaded: LoadedBackbone,
    plan: TrainPlan,
    *,
    digest: str,
    machine: Machine,
    cache_root: Path,
    cells: Path,
    track: Track = silent,
) -> Table:
    """Give the table of a manifest's images seen by one backbone; features are computed when first asked for."""
    rows = FrozenRows(
        manifest.samples,
        loaded.module,
        loaded.preprocessing,
        Means(
            machine=machine,
            cache_root=cache_root,
            batch_size=min(FEATURE_BATCH, plan.fit.batch_size),
            max_megapixels=plan.max_megapixels,
            track=track,
        ),
    )
    return Table(
        manifest=manifest,
        loaded=loaded,
        digest=digest,
        rows=rows,
        machine=machine,
        cells=cells,
    )


def copies_of(table: Table, views: Views) -> Table:
    """Give the table of every view as if it were an image of its own, belonging to nobody: the optimistic protocol.

    Copy `i` is view `i % count` of image `i // count`; each is a group of one.
    """
    copies = tuple(
        Sample(
            path=sample.path,
            label=sample.label,
            group=f"{place}-{view}",
            fold=0,
            source=sample.source,
            sha256=sample.sha256,
            width=sample.width,
            height=sample.height,
        )
        for place, sample in enumerate(table.manifest.samples)
        for view in range(views.count)
    )
    manifest = replace(table.manifest, samples=copies, groups_source="none")
    return replace(table, manifest=manifest, rows=CopyRows(table.rows, views))


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A cell to be run: images and features, candidates, plan, the fold that is held out, and its key."""

    table: Table
    recipe: Recipe
    plan: TrainPlan
    fold: int
    key: str

    @property
    def path(self) -> Path:
        """Name the file that the cell is kept in."""
        return self.table.cells / f"{self.key}.safetensors"


def job_of(table: Table, recipe: Recipe, plan: TrainPlan, fold: int) -> Job:
    """Give the job of a cell, with the key that all its figures depend on."""
    return Job(table=table, recipe=recipe, plan=plan, fold=fold, key=cell_key(table, recipe, plan, fold))


def run_cells(jobs: Sequence[Job], workers: int, *, resume_hint: str = "", note: Note = unheard) -> Iterator[Judged]:
    """Run cells and yield what they came to, in order; on frozen features as many at a time as there are workers.

    A cell that is one of several has one core, so that nothing in it waits for another; its figures are the same. When it is
    left early, cells that have begun are finished first: seconds on frozen features, which is why tuned ones go one by one.
    """
    side_by_side = workers > 1 and len(jobs) > 1 and all(job.recipe.tune == "head" for job in jobs)

    def run(job: Job) -> Judged:
        if side_by_side:
            job = replace(job, table=replace(job.table, machine=replace(job.table.machine, workers=1)))
        return run_cell(job, resume_hint=resume_hint, note=note)

    if not side_by_side:
        yield from map(run, jobs)
        return
    with one_core_each(), contextlib.closing(in_threads(run, jobs, workers, workers)) as judged:
        yield from judged


def cell_key(table: Table, recipe: Recipe, plan: TrainPlan, fold: int) -> str:
    """Hash all that a cell's figures depend on."""
    held_out = [at for at, sample in enumerate(table.manifest.samples) if sample.fold == fold]
    settings, known = asdict(replace(plan, checkpoint_every_s=0.0)), versions()
    return fingerprint(
        {
            "versions": {name: known[name] for name in ("leuk", "torch", "timm", "scikit-learn", "numpy")},
            "device": table.machine.device.type,
            "manifest": table.manifest.fingerprint,
            "images": len(table.manifest.samples),
            "held_out": held_out,
            "backbone": table.digest,
            "preprocessing": table.loaded.preprocessing.as_json(),
            "recipe": asdict(recipe),
            "plan": settings,
        }
    )


def finished_cell(job: Job, note: Note = unheard) -> Judged | None:
    """Give a cell that was done before, or None; of a damaged one it is said that it is computed again."""
    path = job.path
    if not path.exists():
        return None
    try:
        facts, tensors = read_checkpoint(path, "")
        probabilities = tensors["probabilities"].numpy()
        if _digest(probabilities) != facts["sha256"] or len(probabilities) != len(facts["places"]):
            raise ValueError("its probabilities are not those that were written")
        return Judged(
            places=tuple(facts["places"]),
            probabilities=probabilities,
            choice=facts["choice"],
            best_epoch=facts["best_epoch"],
            temperature=facts["temperature"],
            calibrated_on=facts["calibrated_on"],
            trials=tuple(facts["trials"]),
            seconds=facts["seconds"],
        )
    except (WorkspaceError, KeyError, TypeError, ValueError) as error:
        note(f"warning: {path} is damaged and is computed again ({error!r})")
        return None


def _digest(probabilities: Scores) -> str:
    return hashlib.sha256(probabilities.tobytes()).hexdigest()


def run_cell(job: Job, *, resume_hint: str = "", note: Note = unheard) -> Judged:
    """Train without a fold, judge the fold's images, and keep the cell.

    A second process that comes to the same cell waits for the first and takes what it made.
    """
    with _alone(job.table.cells, job.key, note):
        clear_unfinished(job.table.cells, job.path.name)
        return finished_cell(job) or _run_cell(job, resume_hint, note)


@contextlib.contextmanager
def _alone(cells: Path, key: str, note: Note) -> Iterator[None]:
    """Keep other processes of this machine from the same cell; the system lets go of the lock of one that dies."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with disk_errors(cells):
        cells.mkdir(parents=True, exist_ok=True)
        held = (cells / f"{key}.lock").open("a")
    with held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note("another process computes this cell: waiting for it")
            fcntl.flock(held, fcntl.LOCK_EX)
        except OSError as error:  # a file system without locks
            note(f"warning: {cells} cannot be locked ({error.strerror}): start no second comparison in it")
        yield
        # Whoever waits for this file finds the finished cell; whoever comes later does not ask for the lock.
        (cells / f"{key}.lock").unlink(missing_ok=True)


def _run_cell(job: Job, resume_hint: str, note: Note) -> Judged:
    started, table = time.monotonic(), job.table
    work = table.cells / f"{job.key}.work"
    trainer = Trainer(
        table.manifest,
        table.loaded,
        job.recipe,
        job.plan,
        machine=table.machine,
        cache_root=work / "features",  # of a backbone tuned for this cell alone: nobody asks for them again
        checkpoints=work,
        rows=table.rows,
        resume_hint=resume_hint,
        note=note,
    )
    trained = trainer.member(job.fold)
    places = tuple(at for at, sample in enumerate(table.manifest.samples) if sample.fold == job.fold)
    judged = Judged(
        places=places,
        probabilities=trainer.judge(trained, places),
        choice=trained.choice,
        best_epoch=trained.best_epoch,
        temperature=trained.member.temperature,
        calibrated_on=trained.member.calibrated_on,
        trials=trained.trials,
        seconds=time.monotonic() - started,
    )
    facts = {slot: getattr(judged, slot) for slot in judged.__slots__ if slot != "probabilities"}
    facts["sha256"] = _digest(judged.probabilities)
    write_checkpoint(job.path, {"probabilities": torch.from_numpy(judged.probabilities)}, facts)
    shutil.rmtree(work, ignore_errors=True)
    return judged
