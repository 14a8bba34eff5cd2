"""`leuk prepare`: open every image, group them, deal the groups to splits or folds, and write the manifest.

Requirements met here:
- Nothing is written unless all went well: an earlier manifest stays as it was.
- Every image is decoded whole, once, in a few threads, and only as many are held as there are threads.
- Exact copies, by file or by pixels, lie in one group; under two classes they are an error.
- What makes the later figures less true is said as a warning, and kept in the manifest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from leukemia_cli.data.datasets import (
    GROUPS_TOLD,
    Candidate,
    Gathered,
    SourceDefaults,
    gather,
    read_sources,
    settle_task,
)
from leukemia_cli.data.grouping import find_copies, join_groups, name_groups
from leukemia_cli.data.manifest import count_parts, make_manifest, manifest_fingerprint, write_manifest
from leukemia_cli.data.splits import deal_folds, deal_splits, missing_classes, split_fractions
from leukemia_cli.domain import (
    NO_GROUPS,
    SPLITS,
    Manifest,
    Note,
    Sample,
    Task,
    Track,
    counted,
    few_groups,
    silent,
    unheard,
)
from leukemia_cli.errors import DataError, UsageError
from leukemia_cli.vision.decode import MAX_MEGAPIXELS, ImageFacts, Unusable, inspect_each
from leukemia_cli.workspace import Workspace, list_runs

_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareSettings:
    """What the flags of `leuk prepare` say; a fraction of None means the default, `folds` of None means splits."""

    sources: tuple[str, ...]
    task: str | None = None
    classes: tuple[str, ...] | None = None
    positive: str | None = None
    layout: str = "auto"
    labels: str | None = None
    label_column: str | None = None
    group_by: str = "auto"
    val: float | None = None
    calib: float | None = None
    test: float | None = None
    folds: int | None = None
    seed: int = 0
    skip_bad: bool = False
    workers: int = 1
    max_megapixels: float = MAX_MEGAPIXELS
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The manifest that was written; images left out as (path, reason); sets of paths that hold the same picture."""

    manifest: Manifest
    skipped: tuple[tuple[str, str], ...]
    duplicates: tuple[tuple[str, ...], ...]

    def as_json(self) -> dict[str, Any]:
        """Give the document of `leuk prepare --json`; `duplicates` counts the images that are copies of another."""
        manifest = self.manifest
        return {
            "task": manifest.task.name,
            "title": manifest.task.title,
            "classes": list(manifest.task.classes),
            "positive": manifest.task.positive,
            "unit": "image",
            "images": len(manifest.samples),
            "groups": len({sample.group for sample in manifest.samples}),
            "groups_source": manifest.groups_source,
            "splits": count_parts(manifest),
            "folds": manifest.folds,
            "seed": manifest.seed,
            "fingerprint": manifest.fingerprint,
            "skipped": [{"path": path, "reason": reason} for path, reason in self.skipped],
            "duplicates": sum(len(paths) - 1 for paths in self.duplicates),
            "warnings": list(manifest.warnings),
        }


def prepare(workspace: Workspace, settings: PrepareSettings, track: Track = silent, note: Note = unheard) -> Prepared:
    """Make the workspace's manifest; raises UsageError or DataError, with nothing written, where that cannot be."""
    fractions = _fractions(settings)
    defaults = SourceDefaults(
        layout=settings.layout, labels=settings.labels, label_column=settings.label_column, group_by=settings.group_by
    )
    sources, listed_task = read_sources(settings.sources, defaults)
    task = settle_task(settings.task, listed_task, settings.classes, settings.positive)
    note(f"task {task.title}")
    gathered = gather(sources, task)
    for line in gathered.notes:
        note(line)
    _check_classes(task, gathered.candidates)
    _deal(
        gathered, gathered.candidates, _rows(gathered.candidates), settings, fractions
    )  # fails before hours of opening
    opened, skipped = _open_all(gathered.candidates, settings, track, note)
    candidates = [candidate for candidate, _ in opened]
    _check_classes(task, candidates)
    copies = find_copies([facts.pixels_digest for _, facts in opened])
    _check_copies(candidates, copies)
    rows = _rows(candidates, copies)
    splits, folds, protocol, deal_warnings = _deal(gathered, candidates, rows, settings, fractions)
    group_warnings = _group_warnings(task, gathered, rows, copies)
    warnings = [*gathered.warnings, *_skip_warnings(skipped), *group_warnings, *deal_warnings]
    samples = [
        Sample(
            path=candidate.path,
            label=candidate.label,
            group=group,
            split=split,
            fold=fold,
            source=candidate.source,
            sha256=facts.sha256,
            width=facts.width,
            height=facts.height,
        )
        for (candidate, facts), (group, _), split, fold in zip(opened, rows, splits, folds, strict=True)
    ]
    manifest = make_manifest(
        samples,
        task=task,
        seed=settings.seed,
        folds=settings.folds,
        groups_source=gathered.groups_source,
        warnings=[*warnings, *_run_warnings(workspace, task, samples)],
    )
    write_manifest(workspace, manifest, protocol=protocol, command=settings.command)
    return Prepared(
        manifest=manifest,
        skipped=tuple(skipped),
        duplicates=tuple(tuple(candidates[row].path for row in rows_) for rows_ in copies),
    )


# ------------------------------------------------------------------------------------------------------- settings


def _fractions(settings: PrepareSettings) -> dict[str, float]:
    asked = [name for name in ("val", "calib", "test") if getattr(settings, name) is not None]
    if settings.folds is not None:
        if asked:
            raise UsageError(
                f"--folds {settings.folds} does not go with --{asked[0]}", "Choose between folds and splits"
            )
        if settings.folds < 2:
            raise UsageError(f"--folds {settings.folds} is too few", "Ask for at least 2 folds")
    return split_fractions(settings.val, settings.calib, settings.test)


# --------------------------------------------------------------------------------------------------------- images


def _open_all(
    candidates: Sequence[Candidate], settings: PrepareSettings, track: Track, note: Note
) -> tuple[list[tuple[Candidate, ImageFacts]], list[tuple[str, str]]]:
    """Open every image; notes the unusable ones and raises DataError, unless they are to be skipped."""
    opened: list[tuple[Candidate, ImageFacts]] = []
    bad: list[tuple[Candidate, Unusable]] = []
    outcomes = inspect_each([c.path for c in candidates], settings.workers, settings.max_megapixels)
    watched = track(zip(candidates, outcomes, strict=True), total=len(candidates), label="opening images")
    for candidate, outcome in watched:
        if isinstance(outcome, Unusable):
            bad.append((candidate, outcome))
        else:
            opened.append((candidate, outcome))
    if bad and not (settings.skip_bad and opened):
        for candidate, why in bad[:_SHOWN]:
            note(f"unusable: {candidate.path}: {why.reason}")
        if len(bad) > _SHOWN:
            note(f"and {len(bad) - _SHOWN} more")
        first = f"{bad[0][0].path}: {bad[0][1].reason}"
        told = first if len(bad) == 1 else f"the first is {first}"
        cause = f"{bad[0][1].hint}. " if len({why.hint for _, why in bad}) == 1 else ""
        way_out = "Mend or remove them, or leave them out with --skip-bad" if opened else "Not one image is left"
        raise DataError(f"{len(bad)} of {len(candidates)} images cannot be used: {told}", cause + way_out)
    return opened, [(candidate.path, why.reason) for candidate, why in bad]


def _rows(candidates: Sequence[Candidate], copies: Iterable[Sequence[int]] = ()) -> list[tuple[str, str]]:
    """Give group and class of each candidate, the groups of copies joined."""
    groups = join_groups(name_groups([(c.source, c.relative, c.group) for c in candidates]), copies)
    return [(group, candidate.label) for group, candidate in zip(groups, candidates, strict=True)]


# --------------------------------------------------------------------------------------------------------- checks


def _check_classes(task: Task, candidates: Sequence[Candidate]) -> None:
    there = {candidate.label for candidate in candidates}
    missing = [kind for kind in task.classes if kind not in there]
    if not missing:
        return
    left = [kind for kind in task.classes if kind in there]
    hint = f"Leave out what has no images: --classes {','.join(left)}"
    if len(left) < 2:
        hint = f"Add images of {', '.join(missing)}: one class alone cannot be told from anything"
    elif len(left) == 2:
        hint += f" --positive {left[0]}"
    raise DataError(f"there is no image of class {', '.join(missing)} of task {task.title}", hint)


def _check_copies(candidates: Sequence[Candidate], copies: Iterable[Sequence[int]]) -> None:
    for rows in copies:
        first = candidates[rows[0]]
        for row in rows[1:]:
            other = candidates[row]
            if other.label != first.label:
                raise DataError(
                    f"{first.path} ({first.label}) and {other.path} ({other.label}) are one image under two classes",
                    "Find out which is right, and remove the other",
                )


def _deal(
    gathered: Gathered,
    candidates: Sequence[Candidate],
    rows: Sequence[tuple[str, str]],
    settings: PrepareSettings,
    fractions: dict[str, float],
) -> tuple[Sequence[str], Sequence[int | None], str, list[str]]:
    """Give split and fold of each row (one of them empty), how they came about, and what to warn of."""
    nothing: list[int | None] = [None] * len(rows)
    given = [candidate.split for candidate in candidates]
    warnings: list[str] = []
    if any(given) and settings.folds is None and all(given):
        asked = [name for name in ("val", "calib", "test") if getattr(settings, name) is not None]
        if asked:
            raise UsageError(
                f"--{asked[0]} does not go with labels that name the split of every image",
                f"Leave out --{asked[0]}, or the column split",
            )
        return given, nothing, "given", _check_given_splits(candidates, rows)
    if any(given):
        why = "--folds was asked for" if settings.folds else f"{given.count('')} of {len(given)} images have none"
        warnings.append(f"the splits that the labels name are not used: {why}")
    try:
        if settings.folds is None:
            return deal_splits(rows, fractions, settings.seed), nothing, "grouped", warnings
        dealt = deal_folds(rows, settings.folds, settings.seed)
    except DataError as error:
        example = min(group for group, _ in rows)
        told = f"groups are {GROUPS_TOLD[gathered.groups_source]}, for example {example!r}"
        raise DataError(f"{error.problem} ({told})", error.hint) from error
    lacking = missing_classes(rows, [f"fold {fold} lacks" for fold in dealt])
    if lacking:
        told = "; ".join(f"{fold} {', '.join(kinds)}" for fold, kinds in lacking.items())
        warnings.append(f"not every fold has every class ({told}): judge the folds pooled, never one alone")
    return [""] * len(rows), list(dealt), "grouped", warnings


def _check_given_splits(candidates: Sequence[Candidate], rows: Sequence[tuple[str, str]]) -> list[str]:
    """Raise DataError where a group is in two splits or train lacks a class; warn where another split does."""
    first: dict[str, Candidate] = {}
    for candidate, (group, _) in zip(candidates, rows, strict=True):
        before = first.setdefault(group, candidate)
        if before.split != candidate.split:
            raise DataError(
                f"group {group} is in two splits: {before.path} in {before.split}, "
                f"{candidate.path} in {candidate.split}",
                "Put all images of a group, and all copies of an image, into one split; or leave out the column split",
            )
    lacking = missing_classes(rows, [candidate.split for candidate in candidates])
    if "train" in lacking or not any(candidate.split == "train" for candidate in candidates):
        raise DataError(
            f"the split train that the labels name has no image of class {', '.join(lacking.get('train', ['any']))}",
            "Mend the column split, or leave it out",
        )
    return [f"split {split} has no image of class {', '.join(lacking[split])}" for split in SPLITS if split in lacking]


# ------------------------------------------------------------------------------------------------------- warnings


def _skip_warnings(skipped: Sequence[tuple[str, str]]) -> list[str]:
    if not skipped:
        return []
    return [f"{counted(len(skipped), 'image')} left out as unusable, the first: {skipped[0][0]}: {skipped[0][1]}"]


def _group_warnings(
    task: Task, gathered: Gathered, rows: Sequence[tuple[str, str]], copies: Sequence[Sequence[int]]
) -> list[str]:
    warnings = []
    if copies:
        more = sum(len(same) - 1 for same in copies)
        warnings.append(
            f"{counted(more, 'exact copy', 'exact copies')} of other images: each lies in the group of its original"
        )
    if gathered.groups_source == "none":
        warnings.append(NO_GROUPS)
    groups = Counter(label for _, label in set(rows))
    return warnings + few_groups({kind: groups[kind] for kind in task.classes})


def _run_warnings(workspace: Workspace, task: Task, samples: Sequence[Sample]) -> list[str]:
    runs, _ = list_runs(workspace)
    current = manifest_fingerprint(task, samples)
    other = [run.id for run in runs if run.facts.get("manifest") not in (None, current)]
    if not other:
        return []
    listed = ", ".join(other[-3:])
    return [
        f"{counted(len(other), 'run')} in this workspace made from another manifest ({listed}): `best` passes them over"
    ]
