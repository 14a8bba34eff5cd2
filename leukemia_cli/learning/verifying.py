"""Another engine is held against torch at fp32: the same labels and decisions on a run's own images, and how fast it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.domain import Manifest, Sample, Track, silent
from leukemia_cli.errors import DataError
from leukemia_cli.learning.arrays import Labels, Marks, Scores
from leukemia_cli.learning.batches import Look, Pixels, in_threads, look_at, read_sample
from leukemia_cli.learning.classifier import Classifier
from leukemia_cli.learning.doubt import Thresholds, doubted
from leukemia_cli.learning.engines import TOLERANCE, Verified, version_of
from leukemia_cli.learning.machine import cpu_capabilities, memory_errors
from leukemia_cli.learning.reading import BagFound, BagSeen, read_bag, see_cells

LEAST_VIEWS = 200
"""Views to compare, of as many images where there are so many. Our choice."""
ON_THE_LINE = 1e-4
"""Nearer than this to a threshold (a share of it, or a probability) the last digits decide: thresholds are the scores of
calibration images, and those may be among the views. Our choice."""
_TURNS = tuple((flip, quarter) for quarter in range(4) for flip in (False, True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The views to compare by: of `images` images first the plain ones, then turned and mirrored ones where they are few.

    `photographs` are the places of the plain views of each photograph's cells, in a run on cells.
    """

    looks: tuple[Look, ...]
    images: int
    photographs: tuple[tuple[int, ...], ...]


def shown(
    classifier: Classifier,
    manifest: Manifest,
    *,
    max_megapixels: float,
    workers: int,
    track: Track = silent,
    least: int = LEAST_VIEWS,
) -> Shown:
    """Read `least` images of the manifest, spread over its classes, or all where it has fewer, with turned views.

    Of a run on cells whole photographs are taken. Raises DataError for an image that is gone or has changed.
    """
    spec = classifier.preprocessing
    samples, photographs = _chosen(manifest, classifier.unit == "cell", least)
    if not samples:
        raise DataError("the manifest holds no images to compare engines by", "Prepare the run's data again")

    def look(sample: Sample) -> Look:
        return look_at(read_sample(sample, max_megapixels, spec.enough_px), spec)

    tracked = track(samples, total=len(samples), label="views to compare")
    looks = list(in_threads(look, tracked, workers, 2 * workers))
    tiles = spec.remedies.tiles
    for flip, quarter in _TURNS[1:]:
        if len(looks) >= least:
            break
        looks += [_turned(each, tiles, flip=flip, quarter=quarter) for each in looks[: len(samples)]]
    return Shown(looks=tuple(looks), images=len(samples), photographs=photographs)


def _chosen(manifest: Manifest, on_cells: bool, least: int) -> tuple[list[Sample], tuple[tuple[int, ...], ...]]:
    if not on_cells:
        ordered = sorted(manifest.samples, key=lambda sample: (sample.label, sample.path))
        places = np.unique(np.linspace(0, len(ordered) - 1, min(least, len(ordered))).round().astype(int))
        return [ordered[at] for at in places], ()
    by_field: dict[str, list[Sample]] = {}
    for sample in manifest.everything:
        by_field.setdefault(sample.field or sample.path, []).append(sample)
    names, rng = sorted(by_field), np.random.default_rng(0)
    samples: list[Sample] = []
    photographs = []
    for at in rng.permutation(len(names)):
        if len(samples) >= least:
            break
        cells = by_field[names[at]]
        if cells[0].field and cells[0].path != cells[0].field:
            photographs.append(tuple(range(len(samples), len(samples) + len(cells))))
        samples += cells
    return samples, tuple(photographs)


def _turned(look: Look, tiles: int, *, flip: bool, quarter: int) -> Look:
    def turn(view: Pixels) -> Pixels:
        apart = view.reshape(tiles, view.shape[0] // tiles, *view.shape[1:])
        moved = np.rot90(apart[:, :, ::-1] if flip else apart, quarter, axes=(1, 2))
        return np.ascontiguousarray(moved).reshape(view.shape)

    view = turn(look.view)
    return Look(view=view, as_photographed=view if look.as_photographed is look.view else turn(look.as_photographed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What one engine makes of the views (n): probabilities (n, C), novelty (n,) if it tells it, decisions, and speed.

    A decision is 0 for the label, 1 for novel, 2 for uncertain, 3 for too few cells; those of photographs come last.
    """

    probabilities: Scores
    novelty: Scores | None
    decisions: Labels
    labels: Labels
    on_the_line: Marks
    """Which decisions hang on the last digits."""
    novelty_threshold: float | None
    images_per_s: float


def judge(classifier: Classifier, views: Shown, batch_size: int) -> Judged:
    """Look at all views with a classifier's engine, after a batch to warm up."""
    with memory_errors(batch_size):
        see_cells(classifier, views.looks[:batch_size], batch_size)
        begun = time.perf_counter()
        seen = see_cells(classifier, views.looks, batch_size)
        elapsed = time.perf_counter() - begun
    probabilities, thresholds = seen.cells, classifier.thresholds
    labels, decisions = probabilities.argmax(1), np.zeros(len(probabilities), dtype=np.int64)
    line = np.zeros(len(probabilities), dtype=bool)
    if thresholds is not None and seen.novelty is not None:
        told = doubted(probabilities, seen.novelty, thresholds)
        decisions = np.where(told.novel, 1, np.where(told.uncertain, 2, 0))
        line = _on_the_line(probabilities.max(axis=1), seen.novelty, thresholds)
    if all(member.reading is not None for member in classifier.members):
        bags = [read_bag(classifier.members, _part(seen, places)) for places in views.photographs]
        reasons = (None, "novel", "uncertain", "few_cells")
        labels = np.concatenate([labels, _ints([int(bag.probabilities.argmax()) for bag in bags])])
        decisions = np.concatenate([decisions, _ints([reasons.index(bag.reason) for bag in bags])])
        line = np.concatenate([line, np.array([_bag_on_the_line(bag) for bag in bags], dtype=bool)])
    return Judged(
        probabilities=probabilities,
        novelty=seen.novelty,
        decisions=decisions,
        labels=labels,
        on_the_line=line,
        novelty_threshold=None if thresholds is None else thresholds.novelty,
        images_per_s=len(views.looks) / elapsed,
    )


def _on_the_line(sure: Scores, novelty: Scores, thresholds: Thresholds) -> Marks:
    strange = np.abs(novelty - thresholds.novelty) <= ON_THE_LINE * abs(thresholds.novelty)
    marks: Marks = strange | (np.abs(sure - thresholds.confidence) <= ON_THE_LINE)
    return marks


def _bag_on_the_line(bag: BagFound) -> bool:
    if bag.thresholds is None or bag.novelty is None:
        return False
    return bool(_on_the_line(bag.probabilities.max(keepdims=True), np.array([bag.novelty]), bag.thresholds)[0])


def _ints(values: Sequence[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def _part(seen: BagSeen, places: Sequence[int]) -> BagSeen:
    at = list(places)
    return BagSeen(
        by_member=tuple(rows[at] for rows in seen.by_member),
        raw_by_member=tuple(rows[at] for rows in seen.raw_by_member),
        novelty=None if seen.novelty is None else seen.novelty[at],
    )


def held_against(reference: Judged, other: Judged, classifier: Classifier, views: Shown) -> Verified:
    """Compare what a classifier's engine made of the views with what torch at fp32 did."""
    engine = classifier.engine
    tolerance = TOLERANCE[engine.precision]
    labels, decisions = other.labels == reference.labels, other.decisions == reference.decisions
    finite = bool(np.isfinite(other.probabilities).all())
    scores = float(np.abs(other.probabilities - reference.probabilities).max()) if finite else float("inf")
    strange = None
    if reference.novelty is not None and other.novelty is not None and reference.novelty_threshold:
        # A stranger far beyond the threshold may differ by more: nothing is decided there.
        near = np.minimum(reference.novelty, other.novelty) <= 2 * reference.novelty_threshold
        apart = np.abs(other.novelty - reference.novelty)[near]
        strange = float(apart.max() / abs(reference.novelty_threshold)) if len(apart) else 0.0
    count = len(labels)
    wrong = []
    if not finite:
        wrong.append("scores are not finite")
    if not labels.all():
        wrong.append(f"{count - int(labels.sum())} of {count} labels differ from torch fp32")
    astray = int((~decisions & ~reference.on_the_line).sum())
    if astray:
        wrong.append(f"{astray} of {count} decisions differ from torch fp32")
    if scores > tolerance:
        wrong.append(f"a score differs by {scores:.3g}, more than {tolerance:g}")
    if strange is not None and not strange <= tolerance:
        wrong.append(f"a novelty differs by {strange:.3g} of its threshold, more than {tolerance:g}")
    return Verified(
        engine=engine.name,
        precision=engine.precision,
        version=version_of(engine.name) or "",
        cpu=cpu_capabilities(),
        images=views.images,
        views=len(views.looks),
        photographs=len(views.photographs),
        labels_equal=int(labels.sum()),
        decisions_equal=int(decisions.sum()),
        on_the_line=int((~decisions & reference.on_the_line).sum()),
        score_difference=scores if finite else 1.0,
        novelty_difference=strange if strange is None or np.isfinite(strange) else None,
        tolerance=tolerance,
        images_per_s=other.images_per_s,
        refused="; ".join(wrong) or None,
    )
