"""`leuk compare`: the paper's whole table, backbones × variants over grouped folds × repeats, every choice nested.

Requirements met here:
- Each image and view goes through a backbone once, whatever the number of variants, folds and repeats.
- A cell that is done is never done again: the same command after an interruption, or with one variant more, goes on.
- Figures are those of the first partition, the manifest's own; further partitions show spread and nothing else.
- The optimistic protocol is never shown without its name, nor without the grouped figures beside it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.catalog import BACKBONES, VARIANTS, candidates, find_backbone, find_variant
from leukemia_cli.data.splits import deal_folds, repeat_folds
from leukemia_cli.domain import Manifest, Note, Track, counted, fingerprint, silent, unheard
from leukemia_cli.errors import MachineError, UsageError
from leukemia_cli.judging.predictions import Predictions
from leukemia_cli.learning.comparing import (
    Job,
    Judged,
    Table,
    copies_of,
    finished_cell,
    job_of,
    run_cells,
    table_of,
)
from leukemia_cli.learning.estimating import Estimated, estimate
from leukemia_cli.learning.features import Views, state_digest
from leukemia_cli.learning.machine import Machine, choose_machine
from leukemia_cli.learning.recipes import TrainSettings, plan_of, recipe_of, settled, with_remedies
from leukemia_cli.learning.runs import versions
from leukemia_cli.learning.training import SVM_ROWS, Recipe, TrainPlan, within
from leukemia_cli.learning.weights import LoadedBackbone, load_backbone
from leukemia_cli.reporting.comparison import CandidateScore, ComparisonDocument
from leukemia_cli.reporting.comparison_document import ComparisonContext, Protocol, Row, comparison_document
from leukemia_cli.reporting.comparison_latex import comparison_latex
from leukemia_cli.reporting.comparison_page import comparison_page
from leukemia_cli.reporting.comparison_text import comparison_csv, comparison_markdown
from leukemia_cli.workspace.documents import write_json
from leukemia_cli.workspace.files import fresh_folder, write_bytes, write_text
from leukemia_cli.workspace.folders import Workspace
from leukemia_cli.workspace.looks import count_look, looks_at

COPIES = 5
"""Augmented copies of each image beside it under the optimistic protocol; our choice."""
IMAGE_FOLDS = 5
"""The optimistic protocol holds one of five parts out: 80/20."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareSettings:
    """Which rows, by which protocol, how often; `training` says the rest, its backbone and variant are not read."""

    backbones: tuple[str, ...] = tuple(name for name, b in BACKBONES.items() if b.in_paper)
    variants: tuple[str, ...] = tuple(VARIANTS)
    protocol: Protocol = "grouped"
    copies: int = COPIES
    repeats: int = 3
    resamples: int = 2000
    training: TrainSettings = field(default_factory=lambda: TrainSettings(grid="quick"))

    def __post_init__(self) -> None:
        for flag, value in (("--repeats", self.repeats), ("--resamples", self.resamples), ("--copies", self.copies)):
            if value < 1:
                raise UsageError(f"{flag} {value} is too small", "Use at least 1")
        for backbone in self.backbones:
            find_backbone(backbone)
        knobs = {knob for variant in self.variants for knob in find_variant(variant).knobs}
        for knob, flag, given in (
            ("hidden", "--feature-sizes", self.training.feature_sizes),
            ("rates", "--dropout-rates", self.training.dropout_rates),
            ("selected", "--select", self.training.selected),
            ("selected", "--select-by", self.training.selectors),
            ("kernels", "--kernel", self.training.kernels),
        ):
            if given is not None and knob not in knobs:
                raise UsageError(
                    f"{flag} means nothing to --variants {','.join(self.variants)}",
                    "Leave it out, or add a variant that takes it",
                )
        if self.protocol != "paper" and self.copies != COPIES:
            raise UsageError("--copies without --protocol paper means nothing", "Leave it out, or add --protocol paper")
        if self.protocol == "paper" and self.training.tune != "head":
            raise UsageError(
                f"--protocol paper does not go with --tune {self.training.tune}",
                "It shows what the split alone is worth, on the features of a frozen backbone: leave --tune out",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A written comparison: its folder and what its compare.json holds."""

    folder: Path
    document: ComparisonDocument

    def as_json(self) -> dict[str, Any]:
        """Give compare.json's content and where it lies."""
        return {**self.document, "folder": str(self.folder)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a comparison would run: cells by row, and about how long."""

    cells: tuple[dict[str, Any], ...]
    repeats: int
    repeats_note: str | None
    estimates: tuple[Estimated, ...]

    @property
    def seconds(self) -> float:
        """Give the estimate of the whole, in seconds."""
        return sum(e.seconds for e in self.estimates)

    def as_json(self) -> dict[str, Any]:
        """Give rows, counts and seconds."""
        return {
            "dry_run": True,
            "rows": list(self.cells),
            "cells": sum(row["cells"] for row in self.cells),
            "finished": sum(row["finished"] for row in self.cells),
            "repeats": self.repeats,
            "repeats_note": self.repeats_note,
            "estimates": [asdict(e) for e in self.estimates],
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """Where a cell stands in the comparison, and the job that fills it."""

    backbone: str
    variant: str
    protocol: Protocol
    repeat: int
    job: Job


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """What is settled before hours of work: what was asked for, machine, partitions, and each backbone's weights and recipes."""

    workspace: Workspace
    manifest: Manifest
    settings: CompareSettings
    machine: Machine
    loaded: Mapping[str, LoadedBackbone]
    digests: Mapping[str, str]
    recipes: Mapping[str, Mapping[str, Recipe]]
    partitions: Sequence[tuple[int, ...]]
    repeats_note: str | None


def compare(
    workspace: Workspace,
    manifest: Manifest,
    settings: CompareSettings,
    *,
    command: Sequence[str] = (),
    track: Track = silent,
    note: Note = unheard,
) -> Compared:
    """Run every cell that is not done, and write `comparisons/<id>/`; raises UsageError for a manifest without folds."""
    begun = _begin(workspace, manifest, settings, note)
    rows: dict[Protocol, list[Row]] = {"grouped": [], "paper": []}
    new = 0
    for backbone in begun.loaded:
        table = _table(begun, backbone, track)
        for protocol in _protocols(settings):
            judged, made = _judge(list(_cells(begun, backbone, table, protocol)), note)
            new += made
            rows[protocol] += _rows(begun, backbone, protocol, judged)
    part = fingerprint(sorted(sample.sha256 for sample in manifest.samples))
    looks = looks_at(workspace, part)
    if new:  # figures that were seen before are no further look
        looks = count_look(workspace, part, split="test", run=f"comparison of {', '.join(begun.loaded)}")
    context = _context(begun, looks, command)
    document = comparison_document(manifest, rows[settings.protocol], rows["grouped"], context)
    folder = workspace.comparisons_folder / document["id"]
    with fresh_folder(folder) as beside:
        write_json(beside / "compare.json", document)
        write_bytes(beside / "compare.csv", comparison_csv(document))
        write_text(beside / "compare.md", comparison_markdown(document))
        write_text(beside / "compare.tex", comparison_latex(document))
        write_text(beside / "compare.html", comparison_page(document))
    return Compared(folder=folder, document=document)


def plan_comparison(
    workspace: Workspace, manifest: Manifest, settings: CompareSettings, *, note: Note = unheard
) -> Planned:
    """Say which cells would run, and about how long they take, from a measurement of some seconds; writes nothing."""
    begun = _begin(workspace, manifest, settings, note)
    listed: list[dict[str, Any]] = []
    estimates = []
    for backbone in begun.loaded:
        todo: list[_Cell] = []
        table = _table(begun, backbone, silent)
        for protocol in _protocols(settings):
            cells = list(_cells(begun, backbone, table, protocol))
            left = [cell for cell in cells if finished_cell(cell.job) is None]
            todo += left
            for variant in settings.variants:
                mine = [cell for cell in cells if cell.variant == variant]
                recipe = mine[0].job.recipe
                listed.append(
                    {
                        "backbone": backbone,
                        "variant": variant,
                        "protocol": protocol,
                        "candidates": len(recipe.heads) + len(recipe.svms),
                        "cells": len(mine),
                        "finished": len(mine) - sum(cell.variant == variant for cell in left),
                    }
                )
        estimates.append(estimate(backbone, [cell.job for cell in todo]))
    return Planned(
        cells=tuple(listed),
        repeats=len(begun.partitions),
        repeats_note=begun.repeats_note,
        estimates=tuple(estimates),
    )


# ---------------------------------------------------------------------------------------------------------- cells


def _protocols(settings: CompareSettings) -> tuple[Protocol, ...]:
    """Give the protocols to run: the grouped one always, since the other is nothing without it."""
    return ("grouped", "paper") if settings.protocol == "paper" else ("grouped",)


def _begin(workspace: Workspace, manifest: Manifest, settings: CompareSettings, note: Note) -> _Begun:
    """Fail before hours of work: folds, partitions, weights of every backbone, room for every kernel matrix."""
    if manifest.folds is None:
        raise UsageError(
            "the manifest has splits, and a comparison needs folds", "Prepare the same data again with --folds 5"
        )
    dealt = [-1 if sample.fold is None else sample.fold for sample in manifest.samples]
    rows = [(sample.inseparable, sample.label) for sample in manifest.samples]
    partitions = repeat_folds(rows, dealt, manifest.folds, settings.repeats, settings.training.seed)
    told = None
    if len(partitions) < settings.repeats:
        told = (
            f"{settings.repeats} repeats were asked for, and the groups gave "
            f"{counted(len(partitions), 'distinct partition')} into {manifest.folds} folds"
        )
        note(f"warning: {told}")
    machine = choose_machine(settings.training.device, settings.training.workers)
    note(f"device: {machine.description}")
    loaded = {
        backbone: _loaded(backbone, settings.training, manifest, note) for backbone in dict.fromkeys(settings.backbones)
    }
    recipes = {
        backbone: {
            variant: within(recipe_of(_settings_of(settings, backbone, variant)), weights.spec.feature_width, note)
            for variant in settings.variants
        }
        for backbone, weights in loaded.items()
    }
    if any(recipe.svms for of_backbone in recipes.values() for recipe in of_backbone.values()):
        _check_kernels(manifest, settings)
    return _Begun(
        workspace=workspace,
        manifest=manifest,
        settings=settings,
        machine=machine,
        loaded=loaded,
        digests={name: state_digest(weights.module.state_dict()) for name, weights in loaded.items()},
        recipes=recipes,
        partitions=partitions,
        repeats_note=told,
    )


def _loaded(backbone: str, training: TrainSettings, manifest: Manifest, note: Note) -> LoadedBackbone:
    loaded = load_backbone(
        backbone, training.weights, seed=training.seed, fit=training.fit, input_size_px=training.input_size_px
    )
    loaded = with_remedies(loaded, settled(training.remedies, training.background, manifest.unit))
    note(f"backbone: {backbone}, weights: {loaded.spec.weights_source}")
    if loaded.spec.is_random:
        note("warning: --weights none: the backbone is random, never trained on anything; expect poor figures")
    return loaded


def _check_kernels(manifest: Manifest, settings: CompareSettings) -> None:
    """Raise MachineError where a support vector machine of any cell would need too large a kernel matrix."""
    images = len(manifest.samples)
    held_out = min(sum(s.fold == fold for s in manifest.samples) for fold in range(manifest.folds or 1))
    rows = images - held_out
    if settings.protocol == "paper":
        rows = max(rows, images * (settings.copies + 1) * (IMAGE_FOLDS - 1) // IMAGE_FOLDS)
    if rows > SVM_ROWS:
        of = "copies" if settings.protocol == "paper" else "images"
        raise MachineError(
            f"a support vector machine on {rows} {of} needs a kernel matrix of {rows**2 * 4 / 1e9:.0f} GB",
            f"Leave svm out of --variants{', or ask for fewer --copies' if settings.protocol == 'paper' else ''}: "
            f"at most {SVM_ROWS} go in",
        )


def _settings_of(settings: CompareSettings, backbone: str, variant: str) -> TrainSettings:
    """Give the training settings of a row: flags that mean nothing to its variant are meant for the others."""
    knobs = find_variant(variant).knobs
    given = settings.training
    return replace(
        given,
        backbone=backbone,
        variant=variant,
        feature_sizes=given.feature_sizes if "hidden" in knobs else None,
        dropout_rates=given.dropout_rates if "rates" in knobs else None,
        selected=given.selected if "selected" in knobs else None,
        selectors=given.selectors if "selected" in knobs and _selects(variant, given) else None,
        kernels=given.kernels if "kernels" in knobs else None,
    )


def _selects(variant: str, given: TrainSettings) -> bool:
    """Tell whether any candidate keeps only some features: then it matters by what they are kept."""
    found = find_variant(variant)
    own = candidates(found, given.grid)
    counts = given.selected or (*(h.selected for h in own.heads), *(s.selected for s in own.svms))
    return any(count is not None for count in counts)


def _table(begun: _Begun, backbone: str, track: Track) -> Table:
    return table_of(
        begun.manifest,
        begun.loaded[backbone],
        _plan(begun, backbone),
        digest=begun.digests[backbone],
        machine=begun.machine,
        cache_root=begun.workspace.features_folder / "cache",
        cells=begun.workspace.comparisons_folder / "cells",
        track=track,
    )


def _plan(begun: _Begun, backbone: str) -> TrainPlan:
    return replace(plan_of(replace(begun.settings.training, backbone=backbone), begun.machine), doubt=None)


def _cells(begun: _Begun, backbone: str, table: Table, protocol: Protocol) -> Iterator[_Cell]:
    """Yield the cells of one backbone under one protocol, first repeat first."""
    plan, partitions = _plan(begun, backbone), begun.partitions
    folds: Sequence[int] = range(begun.manifest.folds or 0)
    if protocol == "paper":
        views = Views(count=begun.settings.copies + 1, augmentation=plan.augmentation, seed=plan.seed)
        table = copies_of(table, views)
        plan = replace(plan, views=1)
        dealt = [(s.group, s.label) for s in table.manifest.samples]
        seed = begun.settings.training.seed
        partitions = [tuple(deal_folds(dealt, IMAGE_FOLDS, seed + repeat)) for repeat in range(len(partitions))]
        folds = (0,)
    for repeat, partition in enumerate(partitions):
        dealt_table = table.dealt(partition)
        for variant, recipe in begun.recipes[backbone].items():
            for fold in folds:
                yield _Cell(
                    backbone=backbone,
                    variant=variant,
                    protocol=protocol,
                    repeat=repeat,
                    job=job_of(dealt_table, recipe, plan, fold),
                )


def _judge(cells: Sequence[_Cell], note: Note) -> tuple[list[tuple[_Cell, Judged]], int]:
    """Take the cells that are done and run the others, saying how far it is; give all, and how many were run."""
    done = {cell.job.key: finished_cell(cell.job, note) for cell in cells}
    kept = sum(judged is not None for judged in done.values())
    if kept:
        note(f"{kept} of {counted(len(cells), 'model')} done before")
    todo = [cell for cell in cells if done[cell.job.key] is None]
    if todo:
        _see_all(todo[0].job)
    started = time.monotonic()
    work_left = sum(_work(cell) for cell in todo)
    work_done = 0
    workers = todo[0].job.table.machine.workers if todo else 1
    jobs = [cell.job for cell in todo]
    judged = run_cells(jobs, workers, resume_hint="Run the same command again: what is finished is kept", note=note)
    for made, (cell, result) in enumerate(zip(todo, judged, strict=True), start=1):
        done[cell.job.key] = result
        work_done += _work(cell)
        left = (time.monotonic() - started) / work_done * (work_left - work_done)
        optimistic = " (optimistic protocol)" if cell.protocol == "paper" else ""
        note(
            f"{cell.backbone} {cell.variant}{optimistic}, repeat {cell.repeat + 1}, fold {cell.job.fold}: {result.choice}; "
            f"{made} of {counted(len(todo), 'model')}, about {left:.0f} s left for {cell.backbone}"
        )
    return [(cell, each) for cell in cells if (each := done[cell.job.key]) is not None], len(todo)


def _see_all(job: Job) -> None:
    """Send every image and view through the backbone before the first model, so that the time left can be told."""
    for views in (job.plan.training_views, Views()):
        job.table.rows(range(len(job.table.manifest.samples)), views)


def _work(cell: _Cell) -> int:
    """Weigh a cell by the fits it takes, when those of one model count alike."""
    return 1 + len(cell.job.recipe.heads) + len(cell.job.recipe.svms)


# ----------------------------------------------------------------------------------------------------------- rows


def _rows(begun: _Begun, backbone: str, protocol: Protocol, judged: Sequence[tuple[_Cell, Judged]]) -> Iterator[Row]:
    """Yield the row of each variant; nothing of it holds on to features."""
    spec = begun.loaded[backbone].spec
    for variant in begun.settings.variants:
        mine = [(cell, result) for cell, result in judged if cell.variant == variant]
        recipe = mine[0][0].job.recipe
        yield Row(
            backbone=backbone,
            variant=variant,
            weights=spec.weights if spec.is_random else spec.weights_source,
            random_weights=spec.is_random,
            candidates=len(recipe.heads) + len(recipe.svms),
            predictions=tuple(
                _predictions(begun.manifest, protocol, [(c, r) for c, r in mine if c.repeat == repeat])
                for repeat in sorted({cell.repeat for cell, _ in mine})
            ),
            choices=tuple(
                {
                    "repeat": cell.repeat,
                    "fold": cell.job.fold,
                    "choice": result.choice,
                    "trials": cast(list[CandidateScore], list(result.trials)),
                }
                for cell, result in mine
            ),
            seconds=sum(result.seconds for _, result in mine),
        )


def _predictions(manifest: Manifest, protocol: Protocol, judged: Sequence[tuple[_Cell, Judged]]) -> Predictions:
    """Pool the judgements of one partition, in the order of the images."""
    samples = judged[0][0].job.table.manifest.samples
    at: dict[int, NDArray[np.float64]] = {}
    for _, result in judged:
        at.update(zip(result.places, result.probabilities, strict=True))
    places = sorted(at)
    return Predictions(
        classes=manifest.task.classes,
        positive=manifest.task.positive,
        labels=np.array(manifest.task.indices(samples[i].label for i in places), dtype=np.int64),
        probabilities=np.stack([at[i] for i in places]),
        groups=tuple(samples[i].group for i in places),
        groups_source="none" if protocol == "paper" else manifest.groups_source,
    )


def _context(begun: _Begun, looks: int, command: Sequence[str]) -> ComparisonContext:
    settings, training = begun.settings, begun.settings.training
    optimistic = settings.protocol == "paper"
    identity = {
        "manifest": begun.manifest.fingerprint,
        "settings": asdict(replace(settings, training=replace(training, device="auto", workers=None))),
        "backbones": dict(begun.digests),
    }
    return ComparisonContext(
        id=f"{settings.protocol}-{fingerprint(identity)[:8]}",
        protocol=settings.protocol,
        copies_per_image=settings.copies if optimistic else None,
        folds=IMAGE_FOLDS if optimistic else int(begun.manifest.folds or 0),
        repeats=len(begun.partitions),
        repeats_asked=settings.repeats,
        repeats_note=begun.repeats_note,
        grid=training.grid,
        tune=training.tune,
        views=1 if optimistic else training.views,
        seed=training.seed,
        resamples=settings.resamples,
        looks=looks,
        command=tuple(command),
        versions=versions(),
    )
