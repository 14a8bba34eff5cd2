"""Images from elsewhere, to be judged by a run as it stands: no threshold, temperature or class order moves.

Requirements met here:
- None of them is an image that the run was made from, and what is nearly one is named.
- A run on cells finds and cuts cells by its own settings, never by marks; what is too large to be decoded is seen in tiles.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.data.candidates import Candidate, Gathered, gather
from leukemia_cli.data.datasets import SourceDefaults, read_sources
from leukemia_cli.data.duplicates import find_near
from leukemia_cli.data.grouping import copies_said, join_copies
from leukemia_cli.domain import GroupsSource, Manifest, Note, Sample, counted
from leukemia_cli.errors import DataError, UsageError, WorkspaceError
from leukemia_cli.learning.batches import Look
from leukemia_cli.learning.classifier import Classifier
from leukemia_cli.learning.parts import Looking, Part
from leukemia_cli.learning.reading import BagSeen, see_cells
from leukemia_cli.learning.scoring import FieldSeen
from leukemia_cli.learning.sighting import looks_of, sight_slide
from leukemia_cli.vision.cutting import cut
from leukemia_cli.vision.decode import BadImage, Decoded, ImageFacts, Unusable, decode_each, facts_of
from leukemia_cli.vision.fingerprints import RECORD, VERSION, describe, packed
from leukemia_cli.vision.records import RecordFile, Stacked
from leukemia_cli.vision.slides import needs_slide, open_slide
from leukemia_cli.workspace.runs import RunFolder

_PAIRS_NAMED = 10
_PRINT_PX = 2048
"""Longer side of the thumbnail by which near copies of a slide are looked for."""

PrintRows = NDArray[np.void]


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """Data from outside, under the name that the report gives it; whether images that cannot be used are left out."""

    name: str
    source: str
    defaults: SourceDefaults
    skip_bad: bool

    @classmethod
    def read(cls, text: str, defaults: SourceDefaults, *, skip_bad: bool) -> Elsewhere:
        """Take NAME=SOURCE apart; raises UsageError for anything else, or a name that cannot be part of a folder's."""
        name, equals, source = text.partition("=")
        if not equals or not name or not source:
            raise UsageError(f"--external {text!r} is not NAME=SOURCE", "Write for example --external clinic=FOLDER")
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is None:
            raise UsageError(
                f"external data cannot be named {name!r}",
                "Use letters, digits, dots, - and _, beginning with a letter or digit",
            )
        return cls(name=name, source=source, defaults=defaults, skip_bad=skip_bad)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a run was made from: its manifest, and the file of the fingerprints of its images."""

    manifest: Manifest
    prints: Path


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Opened:
    """An image that could be used: what identifies it, its fingerprint, and what a run on cells saw in it."""

    candidate: Candidate
    facts: ImageFacts
    print: PrintRows | None
    bag: BagSeen | None
    alone: bool = False


def external_part(
    elsewhere: Elsewhere, classifier: Classifier, run: RunFolder, origin: Origin | None, looking: Looking
) -> Part:
    """Read images with the classes of the run's task; every member judges each of them. Without `origin` it is not at hand.

    Raises DataError for images that cannot be used, unless they are skipped, and for one that the run was made from.
    """
    sources, _ = read_sources((elsewhere.source,), elsewhere.defaults)
    gathered = gather(sources, classifier.task)
    for line in gathered.notes:
        looking.note(line)
    if classifier.unit == "cell" and any(member.reading is None for member in classifier.members):
        raise WorkspaceError(f"run {run.id} has no rule for photographs", "Its manifest had cells alone")
    opened, bad = _open_all(gathered, classifier, looking, skip_bad=elsewhere.skip_bad, to_print=origin is not None)
    candidates = [each.candidate for each in opened]
    groups, copies = join_copies(
        [(c.source, c.relative, c.group) for c in candidates], [each.facts.pixels_digest for each in opened]
    )
    samples = [
        Sample(
            path=each.candidate.path,
            label=each.candidate.label,
            group=group,
            source=each.candidate.source,
            sha256=each.facts.sha256,
            width=each.facts.width,
            height=each.facts.height,
        )
        for each, group in zip(opened, groups, strict=True)
    ]
    about_training = set() if origin is None else set(origin.manifest.warnings)
    warnings = [w for w in run.facts.get("warnings", ()) if w not in about_training]
    warnings += [*gathered.warnings, *(line for line in gathered.notes if "left out" in line)]
    if bad:
        warnings.append(f"{counted(len(bad), 'image')} left out as unusable, the first: {bad[0]}")
    warnings += copies_said(copies)
    near_copies = None
    if origin is None:
        warnings.append("the images the run was trained on are not at hand: whether any is among these was not checked")
    else:
        _check_no_own(origin.manifest, samples)
        prints = [each.print for each in opened if each.print is not None]
        near_copies, said = _near_own(origin, samples, prints, looking.note)
        warnings += [*said, *_named_alike(origin.manifest, samples, gathered.groups_source)]
    if len(classifier.members) > 1:
        warnings.append(
            f"here the mean of all {len(classifier.members)} members answers, on the run's own test images one member alone: "
            "part of a drop may be hidden by that"
        )
    return Part(
        judged=tuple((sample, classifier.members) for sample in samples),
        groups_source=gathered.groups_source,
        folds=None,
        warnings=tuple(warnings),
        near_copies=near_copies,
        fields=None if classifier.cutting is None else _fields(classifier, samples, opened),
    )


def _fields(classifier: Classifier, samples: Sequence[Sample], opened: Sequence[_Opened]) -> tuple[FieldSeen, ...]:
    return tuple(
        FieldSeen(field=sample, judges=classifier.members, cells=(), seen=each.bag, alone=each.alone)
        for sample, each in zip(samples, opened, strict=True)
        if each.bag is not None
    )


# ---------------------------------------------------------------------------------------------------------- opening


def _open_all(
    gathered: Gathered, classifier: Classifier, looking: Looking, *, skip_bad: bool, to_print: bool
) -> tuple[list[_Opened], list[str]]:
    """Open every image; give also what is wrong with those that cannot be used."""
    opened: list[_Opened] = []
    bad: list[tuple[str, str]] = []
    for candidate, outcome in _outcomes(gathered.candidates, classifier, looking, to_print):
        if isinstance(outcome, Unusable):
            bad.append((f"{candidate.path}: {outcome.reason}", outcome.hint))
        else:
            opened.append(outcome)
    if bad and not (skip_bad and opened):
        raise DataError(
            f"{len(bad)} of {len(gathered.candidates)} images cannot be used, the first: {bad[0][0]}",
            f"{bad[0][1]}; or leave out what cannot be used with --skip-bad" if opened else bad[0][1],
        )
    return opened, [told for told, _ in bad]


def _outcomes(
    candidates: Sequence[Candidate], classifier: Classifier, looking: Looking, to_print: bool
) -> Iterator[tuple[Candidate, _Opened | Unusable]]:
    """Yield what became of each image, in order: decoded in threads, or seen in tiles one after the other."""
    cutting = classifier.cutting
    in_tiles = [cutting is not None and needs_slide(c.path, looking.max_megapixels) for c in candidates]
    whole = [candidate for candidate, tiled in zip(candidates, in_tiles, strict=True) if not tiled]

    def look(place: int, decoded: Decoded) -> tuple[ImageFacts, PrintRows | None, list[Look], bool]:
        told = packed([describe(decoded.pixels)]) if to_print else None
        if cutting is None:
            return facts_of(decoded), told, [], False
        found = cut(decoded.pixels, cutting, "cell" if whole[place].holds == "crops" else None)
        return facts_of(decoded), told, looks_of(found.cells, classifier), found.unit == "cell"

    decoded = decode_each(
        [candidate.path for candidate in whole],
        look,
        workers=classifier.machine.workers,
        max_megapixels=looking.max_megapixels,
    )
    watched = zip(candidates, in_tiles, strict=True)
    for candidate, tiled in looking.track(watched, total=len(candidates), label="opening images"):
        if tiled:
            try:
                yield candidate, _in_tiles(candidate, classifier, looking, to_print)
            except BadImage as error:
                yield candidate, Unusable(error.reason, error.hint)
            continue
        outcome = next(decoded)
        if isinstance(outcome, Unusable):
            yield candidate, outcome
            continue
        facts, told, looks, alone = outcome
        bag = None if cutting is None else see_cells(classifier, looks, looking.batch_size)
        yield candidate, _Opened(candidate=candidate, facts=facts, print=told, bag=bag, alone=alone)


def _in_tiles(candidate: Candidate, classifier: Classifier, looking: Looking, to_print: bool) -> _Opened:
    """Look in tiles, as classify does, at an image that is too large to be decoded whole; raises BadImage.

    It is the copy of another only where the files are the same; near copies are looked for by its thumbnail.
    """
    if classifier.cutting is None or candidate.holds == "crops":
        raise BadImage(candidate.path, "it is too large for the crop of one cell", "Raise --max-megapixels")
    workers = classifier.machine.workers
    with open_slide(candidate.path, max_megapixels=looking.max_megapixels, workers=workers) as slide:
        sighting = sight_slide(classifier, slide, classifier.cutting, looking.batch_size, outlines=False)
        told = packed([describe(slide.thumbnail(_PRINT_PX))]) if to_print else None
        width, height, reader = slide.width, slide.height, slide.reader
    with Path(candidate.path).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    passed = ", ".join(f"{count} {what}" for what, count in sorted(sighting.tiles.items()))
    looking.note(f"{candidate.path}: read in {counted(sum(sighting.tiles.values()), 'tile')} ({passed})")
    facts = ImageFacts(sha256=sha256, pixels_digest=sha256, width=width, height=height, format=reader, mode="RGB")
    return _Opened(candidate=candidate, facts=facts, print=told, bag=sighting.seen)


# -------------------------------------------------------------------------------------------- beside the run's own


def _check_no_own(manifest: Manifest, samples: Sequence[Sample]) -> None:
    own = {sample.sha256 for sample in (*manifest.samples, *manifest.fields)}
    shared = [sample.path for sample in samples if sample.sha256 in own]
    if shared:
        raise DataError(
            f"{shared[0]} is also among the images that the run was made from"
            + (f", and {len(shared) - 1} more" if len(shared) > 1 else ""),
            "Leave them out of the external data: figures on them would not be external",
        )


def _near_own(
    origin: Origin, samples: Sequence[Sample], prints: Sequence[PrintRows], note: Note
) -> tuple[int | None, list[str]]:
    """Count the samples that are nearly images of the manifest, and name them; None where fingerprints are not kept.

    Raises WorkspaceError where they are damaged or not those of the manifest.
    """
    file, own = origin.prints, origin.manifest.fields or origin.manifest.samples
    if not file.is_file():
        return None, [f"near copies of the images that the run was made from were not looked for: {file} is not there"]
    note(f"comparing {counted(len(samples), 'image')} with {counted(len(own), 'image')} that the run was made from")
    with RecordFile(file, RECORD) as kept:
        if kept.facts.get("version") != VERSION:
            return None, [
                "near copies of the images that the run was made from were not looked for: their fingerprints are of another "
                "version of leuk; prepare again, and train again, to have them found"
            ]
        if len(kept) != len(own):
            raise WorkspaceError(f"{file} is not of this manifest", "Make both again with: leuk prepare")
        pairs = find_near(Stacked(kept, np.concatenate(prints)), own=len(kept))
    near = {pair.second for pair in pairs}
    if not near:
        return 0, []
    named = [f"{samples[pair.second - len(own)].path} and {own[pair.first].path}" for pair in pairs[:_PAIRS_NAMED]]
    more = f"; and {counted(len(pairs) - len(named), 'more pair')}" if len(pairs) > len(named) else ""
    return len(near), [
        f"{counted(len(near), 'image')} here nearly the same as one that the run was made from (a crop, turned, brightened or "
        f"saved again, or two photographs of one place): {'; '.join(named)}{more}: on these the figures are not external"
    ]


def _named_alike(manifest: Manifest, samples: Sequence[Sample], groups_source: GroupsSource) -> list[str]:
    """Warn where a group bears the name of one of the run's own: it may be the same patient."""
    if "none" in (groups_source, manifest.groups_source):
        return []
    common = sorted({sample.group for sample in manifest.samples} & {sample.group for sample in samples})
    if not common:
        return []
    return [
        f"{counted(len(common), 'group')} here bear the name of a group of the run's own images, the first "
        f"{common[0]!r}: if they are the same patients, these figures are not external"
    ]
