"""The images of all sources with a class of the task and, where known, a group: what is to be opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from leukemia_cli.catalog import TASKS
from leukemia_cli.data.grouping import WEAKEST_FIRST, group_images
from leukemia_cli.data.layouts import FoundImage, Layout, Mark, Reading, Source, find_layout, read_one_class
from leukemia_cli.data.sources import Holds
from leukemia_cli.data.tasks import class_of, is_ignored, nearest, plain
from leukemia_cli.domain import GroupsSource, Task, Unit, counted
from leukemia_cli.errors import DataError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An image with its class, before it is opened; `group` is None where none is known.

    `label` is "" where a data set labels cells alone. `marks` are its cells (None: not marked), each with its class, or
    "" for a body of no class of the task. `holds` says what its layout's images show.
    """

    path: str
    relative: str
    source: str
    label: str
    group: str | None = None
    split: str = ""
    marks: tuple[Mark, ...] | None = None
    holds: Holds = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The candidates of all sources, sorted by path; each path once."""

    candidates: tuple[Candidate, ...]
    groups_source: GroupsSource
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def gather(sources: Sequence[Source], task: Task, unit: Unit = "image") -> Gathered:
    """Read every source and say what each image's class and group are; raises DataError for a label of no class.

    `unit` is what is to be classified: images that have no class of their own raise DataError unless it is "cell".
    """
    candidates: list[Candidate] = []
    known: dict[str, GroupsSource] = {}
    layouts: dict[str, Layout] = {}
    warnings: list[str] = []
    notes: list[str] = []
    for source in sources:
        layout, reading, why = _read(source, task)
        notes += [f"{source.path}: {why}", *reading.notes]
        if layout is not None:
            layouts[source.name] = layout
        found, known[source.name] = _of_source(source, layout, reading, task, unit, notes)
        unknown_count = sum(candidate.group is None for candidate in found)
        if 0 < unknown_count < len(found):
            warnings.append(f"{source.name}: no group is known for {unknown_count} of {len(found)} images")
        candidates += found
    warnings += _cut_from_each_other(layouts)
    weakest = min(known.values(), key=WEAKEST_FIRST.index)
    if len(set(known.values())) > 1:
        told = ", ".join(f"{name}: {GROUPS_TOLD[how]}" for name, how in known.items())
        warnings.append(
            f"groups are known in different ways ({told}); all figures count as the weakest: {GROUPS_TOLD[weakest]}"
        )
    return Gathered(
        candidates=tuple(_each_once(candidates, warnings)),
        groups_source=weakest,
        warnings=tuple(warnings),
        notes=tuple(notes),
    )


def _of_source(
    source: Source, layout: Layout | None, reading: Reading, task: Task, unit: Unit, notes: list[str]
) -> tuple[list[Candidate], GroupsSource]:
    """Give the images of one source that are not left out, and how their groups are known; says in `notes` what is."""
    if unit == "image":
        _check_images_have_labels(source, layout, reading)
    labels = _labels(source, layout, reading, task, notes)
    marks = _marks(source, layout, reading.images, task, unit, notes)
    kept = [
        (image, label, cells)
        for image, label, cells in zip(reading.images, labels, marks, strict=True)
        if label is not None
    ]
    if not kept:
        raise DataError(
            f"{source.path} holds no image of a class of task {task.title}",
            "Name another folder, or another --task or --classes",
        )
    groups, known = group_images(source, replace(reading, images=tuple(image for image, _, _ in kept)))
    found = [
        Candidate(
            path=image.path,
            relative=image.relative,
            source=image.source or source.name,
            label=label,
            group=group,
            split=image.split,
            marks=cells,
            holds="unknown" if layout is None else layout.cells,
        )
        for (image, label, cells), group in zip(kept, groups, strict=True)
    ]
    return found, known


def _cut_from_each_other(layouts: Mapping[str, Layout]) -> list[str]:
    """Warn of sources whose images were cut from the photographs of another: no naming tells which from which."""
    return [
        f"the images of {crops} ({layout.name}) are cut from the photographs of {fields} ({layout.cut_from}), and no name "
        "tells which from which: the same cells can lie in training and test data. Use one of the two"
        for crops, layout in layouts.items()
        for fields, other in layouts.items()
        if layout.cut_from == other.name
    ]


GROUPS_TOLD: Mapping[GroupsSource, str] = {
    "given": "given as ids",
    "filename": "read from names of files or folders",
    "proposed": "proposed from appearance",
    "none": "not known for every image",
}


def _read(source: Source, task: Task) -> tuple[Layout | None, Reading, str]:
    """Give the layout (None for a folder of one class), what it found, and why it was taken."""
    if source.label is not None and source.labels is None and source.layout == "auto":
        reading = read_one_class(source, source.label)
        layout, why = None, f"every image is of class {source.label}, as was said"
    else:
        layout, because = find_layout(source, task)
        if source.only and layout.name != "csv":
            raise UsageError(
                f"`only` needs a labels file, and {source.path} has layout {layout.name}",
                "Use layout csv, or leave it out",
            )
        reading, why = layout.read(source, task), f"layout {layout.name} ({because})"
    if not reading.images:
        raise DataError(f"no image below {source.path}", "Name the folder that holds the images")
    return layout, reading, why


def _labels(source: Source, layout: Layout | None, reading: Reading, task: Task, notes: list[str]) -> list[str | None]:
    """Give the class of each image, None where it is left out; says in `notes` what is left out and why."""
    counts = Counter(image.label for image in reading.images if not _labels_cells(image))
    meant: dict[str, str | None] = {}
    strange: list[str] = []
    for raw in _unmet(source, reading):
        notes.append(f"{source.name}: nothing has the label {raw!r} of its map")
    for raw, count in counts.items():
        label, kind = _meant(source, layout, raw, task)
        meant[raw] = kind if kind in task.classes else None
        if label is None:
            notes.append(f"{source.name}: {counted(count, 'image')} labelled {raw!r} left out by its map")
        elif _is_ignored(layout, raw, label, task):
            meant[raw] = None
            notes.append(f"{source.name}: {counted(count, 'image')} labelled {raw!r} left out: the task ignores them")
        elif kind is None:
            strange.append(raw)
        elif kind not in task.classes:
            notes.append(f"{source.name}: {counted(count, 'image')} labelled {raw!r} ({kind}) left out by --classes")
    if strange:
        raise _no_class(source, layout, strange, counts, task)
    return ["" if _labels_cells(image) else meant[image.label] for image in reading.images]


def _meant(source: Source, layout: Layout | None, raw: str, task: Task) -> tuple[str | None, str | None]:
    """Give what a source's map makes of a raw label (None: left out) and the class that this means (None: none)."""
    wanted = {plain(label): kind for label, kind in source.map.items()}
    label = wanted.get(plain(raw), raw)
    if label is None:
        return None, None
    kind = class_of(task, label)
    if kind is None and layout is not None:
        kind = class_of(task, layout.meaning.get(raw, ""))
    return label, kind


def _unmet(source: Source, reading: Reading) -> list[str]:
    """Give the labels of a source's map that neither an image nor a cell has."""
    met = {plain(image.label) for image in reading.images}
    met |= {plain(mark.label) for image in reading.images for mark in image.marks or ()}
    return sorted({plain(raw) for raw in source.map} - met)


def _labels_cells(image: FoundImage) -> bool:
    """Tell whether a data set says what this image's cells are, and not what the image is."""
    return not image.label and image.marks is not None


def _check_images_have_labels(source: Source, layout: Layout | None, reading: Reading) -> None:
    bare = sum(map(_labels_cells, reading.images))
    if bare and layout is not None:
        raise DataError(
            f"{source.path} has layout {layout.name}, whose boxes label cells, and no class for "
            f"{counted(bare, 'image')}",
            "Use --unit cell with a task file whose aliases name the box labels, or give the images' classes in a CSV "
            "with --labels",
        )


def _marks(
    source: Source, layout: Layout | None, images: Sequence[FoundImage], task: Task, unit: Unit, notes: list[str]
) -> list[tuple[Mark, ...] | None]:
    """Give each image's marks with the task's classes; says in `notes` which are of none, where cells are classified.

    Raises DataError where cells are all that is labelled, and none of them is of a class.
    """
    counts = Counter(mark.label for image in images for mark in image.marks or ())
    meant = {}
    for raw in counts:
        label, kind = _meant(source, layout, raw, task)
        left_out = label is None or _is_ignored(layout, raw, label, task)
        meant[raw] = kind if kind in task.classes and not left_out else ""
    of_none = [f"{counts[raw]:,} {raw!r}" for raw, kind in meant.items() if not kind]
    if unit == "cell":
        if any(map(_labels_cells, images)) and not any(meant.values()):
            raise DataError(
                f"no cell marked in {source.path} is of a class of task {task.title}: {', '.join(of_none) or 'none'}",
                "Write a task file whose aliases name the labels of the boxes, and give it with --task FILE.yaml",
            )
        if of_none:
            notes.append(f"{source.name}: cells of no class of the task: {', '.join(of_none)}")
    return [
        None if image.marks is None else tuple(replace(mark, label=meant[mark.label]) for mark in image.marks)
        for image in images
    ]


def _is_ignored(layout: Layout | None, raw: str, label: str, task: Task) -> bool:
    """Tell whether the task leaves out a label, by what it is mapped to or by what the layout knows that it means."""
    meaning = "" if layout is None or label != raw else layout.meaning.get(raw, "")
    return is_ignored(task, label) or bool(meaning and is_ignored(task, meaning))


def _no_class(
    source: Source, layout: Layout | None, strange: Sequence[str], counts: Mapping[str, int], task: Task
) -> DataError:
    listed = ", ".join(f"{raw!r} ({counted(counts[raw], 'image')})" for raw in strange[:8])
    more = f" and {len(strange) - 8} more" if len(strange) > 8 else ""
    guesses = [f"{near!r} for {raw!r}" for raw in strange[:3] if (near := nearest(task, raw))]
    guess = f"Did you mean {', '.join(guesses)}? " if guesses else ""
    wider = next(
        (name for name, other in TASKS.items() if other.name != task.name and all(class_of(other, r) for r in strange)),
        None,
    )
    other = f"; or use --task {wider}" if wider else ""
    what = "labels" if len(strange) > 1 else "label"
    if layout is not None and layout.labels == "cells":
        told = ", ".join(layout.meaning.get(raw, raw) for raw in strange[:3])
        return DataError(
            f"{source.path} has {what} of no class of task {task.title}: {listed}{more}",
            f"Layout {layout.name} tells kinds of cells, not diseases: write a task file of classes of cells, whose "
            f"aliases or `ignored` name them ({told}, …), and give it with --task FILE.yaml",
        )
    return DataError(
        f"{source.path} has {what} of no class of task {task.title}: {listed}{more}",
        f"{guess}Leave images out with `ignored: [{', '.join(strange[:3])}]` in a task file, or give them a class with "
        f"`map:` in a dataset YAML{other}",
    )


def _each_once(candidates: Sequence[Candidate], warnings: list[str]) -> list[Candidate]:
    """Sort by path and drop a file that is named twice; raises DataError where the two tellings differ."""
    kept: dict[str, Candidate] = {}
    repeated = 0
    for candidate in candidates:
        before = kept.setdefault(candidate.path, candidate)
        if before is candidate:
            continue
        repeated += 1
        told = [(c.label, c.group, c.split) for c in (before, candidate)]
        if told[0] != told[1]:
            what = next(w for w, a, b in zip(("class", "group", "split"), *told, strict=True) if a != b)
            one, other = (getattr(c, "label" if what == "class" else what) for c in (before, candidate))
            raise DataError(
                f"{candidate.path} is named twice, with {what} {one!r} and {other!r}", "Name each image once"
            )
        if before.marks is None:
            kept[candidate.path] = candidate
        elif candidate.marks not in (None, before.marks):
            raise DataError(f"{candidate.path} is named twice, with different cells", "Name each image once")
    if repeated:
        warnings.append(f"{counted(repeated, 'image')} named more than once, counted once")
    return sorted(kept.values(), key=lambda candidate: candidate.path)
