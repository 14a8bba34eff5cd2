"""Which part each image of a data set comes to lie in: as its labels name it, or dealt; and whether a model can be trained so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from leukemia_cli.data.candidates import GROUPS_TOLD, Candidate
from leukemia_cli.data.marking import healthy_class
from leukemia_cli.data.splits import deal_folds, deal_splits, missing_classes, split_fractions
from leukemia_cli.domain import SPLITS, GroupsSource, Sample, Task, Unit
from leukemia_cli.errors import DataError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealing:
    """How groups are to be dealt: to folds, or to splits of these fractions; `named` are the splits a flag was given for."""

    folds: int | None
    fractions: Mapping[str, float]
    named: tuple[str, ...]
    seed: int

    @classmethod
    def asked(
        cls, *, val: float | None, calib: float | None, test: float | None, folds: int | None, seed: int
    ) -> Dealing:
        """Take the flags of prepare, None where one is not given; raises UsageError where they do not go together."""
        named = tuple(name for name, share in (("val", val), ("calib", calib), ("test", test)) if share is not None)
        if folds is not None:
            if named:
                raise UsageError(f"--folds {folds} does not go with --{named[0]}", "Choose between folds and splits")
            if folds < 2:
                raise UsageError(f"--folds {folds} is too few", "Ask for at least 2 folds")
        return cls(folds=folds, fractions=split_fractions(val, calib, test), named=named, seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealt:
    """The split or the fold of each row (the other is empty), how they came about, and what to warn of."""

    splits: Sequence[str]
    folds: Sequence[int | None]
    protocol: str
    warnings: tuple[str, ...]


def deal(
    candidates: Sequence[Candidate],
    rows: Sequence[tuple[str, str]],
    dealing: Dealing,
    groups_source: GroupsSource,
    bundles: Sequence[str] | None = None,
) -> Dealt:
    """Take the splits that labels name, or deal rows of (group, class); what is in one of `bundles` is not parted either.

    Raises DataError where groups are too few, or where named splits part a group; UsageError for a flag beside named splits.
    """
    nothing: list[int | None] = [None] * len(rows)
    given = [candidate.split for candidate in candidates]
    warnings: list[str] = []
    if any(given) and dealing.folds is None and all(given):
        if dealing.named:
            raise UsageError(
                f"--{dealing.named[0]} does not go with labels that name the split of every image",
                f"Leave out --{dealing.named[0]}, or the column split",
            )
        told = tuple(_check_given(candidates, rows))
        return Dealt(splits=given, folds=nothing, protocol="given", warnings=told)
    if any(given):
        why = "--folds was asked for" if dealing.folds else f"{given.count('')} of {len(given)} images have none"
        warnings.append(f"the splits that the labels name are not used: {why}")
    if bundles is not None:
        rows = [(bundle, kind) for bundle, (_, kind) in zip(bundles, rows, strict=True)]
    try:
        if dealing.folds is None:
            splits = deal_splits(rows, dealing.fractions, dealing.seed)
            return Dealt(splits=splits, folds=nothing, protocol="grouped", warnings=tuple(warnings))
        folds = deal_folds(rows, dealing.folds, dealing.seed)
    except DataError as error:
        example = min(group for group, _ in rows)
        known = f"groups are {GROUPS_TOLD[groups_source]}, for example {example!r}"
        raise DataError(f"{error.problem} ({known})", error.hint) from error
    lacking = missing_classes(rows, [f"fold {fold} lacks" for fold in folds])
    if lacking:
        each = "; ".join(f"{fold} {', '.join(kinds)}" for fold, kinds in lacking.items())
        warnings.append(f"not every fold has every class ({each}): judge the folds pooled, never one alone")
    return Dealt(splits=[""] * len(rows), folds=list(folds), protocol="grouped", warnings=tuple(warnings))


def _check_given(candidates: Sequence[Candidate], rows: Sequence[tuple[str, str]]) -> list[str]:
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


def check_classes(task: Task, labels: Iterable[str], unit: Unit = "image") -> None:
    """Raise DataError where a class of the task has nothing of it, with what can be done about that."""
    there = set(labels)
    missing = [kind for kind in task.classes if kind not in there]
    if not missing:
        return
    if unit == "cell" and healthy_class(task) not in missing:
        raise DataError(
            f"there is no cell of class {', '.join(missing)}: nobody marked one in photographs of that class",
            "Give marks (a layout with centroids or boxes), or take every cell of them with --unmarked as-image, normal "
            "cells too",
        )
    left = [kind for kind in task.classes if kind in there]
    hint = f"Leave out what has no images: --classes {','.join(left)}"
    if len(left) < 2:
        hint = f"Add images of {', '.join(missing)}: one class alone cannot be told from anything"
    elif len(left) == 2:
        hint += f" --positive {left[0]}"
    raise DataError(f"there is no {unit} of class {', '.join(missing)} of task {task.title}", hint)


def check_trainable(samples: Sequence[Sample]) -> None:
    """Raise DataError where the split train has no sample of a class, which cells alone can bring about."""
    lacking = missing_classes([("", sample.label) for sample in samples], [sample.split for sample in samples])
    if "train" in lacking:
        raise DataError(
            f"the split train has no cell of class {', '.join(lacking['train'])}",
            "Prepare with another --seed or with --folds, or mark more cells",
        )
