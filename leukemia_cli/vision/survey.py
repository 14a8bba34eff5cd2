"""Every image of a data set opened once: what identifies it, what it looks like, and its white cells cut out.

Requirements met here:
- Every image is decoded whole, once, in a few threads, and only as many are held as there are threads.
- What was measured of it goes to files, in rows of one size; of a million images little else is held.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.domain import Crop, Spot, Track
from leukemia_cli.vision.cutting import Cut, CutCell, Cutting, cut
from leukemia_cli.vision.decode import Decoded, ImageFacts, Unusable, decode_each, facts_of
from leukemia_cli.vision.fingerprints import RECORD as PRINT_RECORD
from leukemia_cli.vision.fingerprints import VERSION as PRINT_VERSION
from leukemia_cli.vision.fingerprints import capture_facts, describe
from leukemia_cli.vision.fingerprints import packed as pack_prints
from leukemia_cli.vision.overlays import png_bytes
from leukemia_cli.vision.records import RecordFile, RecordWriter, in_parts
from leukemia_cli.vision.traits import RECORD as TRAITS_RECORD
from leukemia_cli.vision.traits import jpeg_quality, measure
from leukemia_cli.vision.traits import packed as pack_traits

FACTS = np.dtype([("sha256", "S64"), ("pixels", "S32"), ("width", "<u4"), ("height", "<u4")])
"""What identifies an image, as `ImageFacts` gives it."""
_FIELDS_A_FOLDER = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyFiles:
    """Where a survey puts what it finds: fingerprints in a file, crops below `root`, and what is not kept in `scratch`."""

    root: Path
    crops: str
    """Folder below `root`."""
    prints: Path
    scratch: Path


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Look:
    """What one opening of an image shows; rows are of `FACTS`, and of the types of traits and of fingerprints, one each."""

    facts: NDArray[np.void]
    traits: NDArray[np.void]
    print: NDArray[np.void]
    taken: str | None
    camera: str
    unit: Literal["field", "cell"] = "field"
    crops: tuple[Crop, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Survey:
    """What was seen of the images that could be opened, in columns of equal length; what is large lies in files.

    `units` and `crops` are empty where no cells are cut.
    """

    facts: RecordFile
    traits: RecordFile
    prints: RecordFile
    taken: Sequence[str | None]
    cameras: Sequence[str]
    units: Sequence[Literal["field", "cell"]]
    crops: Sequence[tuple[Crop, ...]]
    unusable: Mapping[int, Unusable]
    """Why images are in no column, by their place among all."""

    def sizes(self) -> Iterator[tuple[int, int, str]]:
        """Yield width, height and sha256 of each image."""
        known: dict[int, int] = {}  # few numbers, many images
        for part in in_parts(self.facts):
            for width, height, sha256 in part[["width", "height", "sha256"]].tolist():
                yield known.setdefault(width, width), known.setdefault(height, height), sha256.decode("ascii")

    def digests(self) -> list[bytes]:
        """Give the digest of each image's pixels."""
        return [digest for part in in_parts(self.facts) for digest in part["pixels"].tolist()]


@contextlib.contextmanager
def survey(
    paths: Sequence[str],
    files: SurveyFiles,
    *,
    cutting: Cutting | None,
    single: Collection[int],
    workers: int,
    max_megapixels: float,
    track: Track,
) -> Iterator[Survey]:
    """Open every image, and cut its cells where `cutting` says how; what lies in files can be read while the block runs.

    `single` are the places of images that are known to be the crop of a cell.
    """

    def look(place: int, decoded: Decoded) -> Look:
        facts = facts_of(decoded)
        seen = _look(decoded, facts)
        if cutting is None:
            return seen
        found = cut(decoded.pixels, cutting, "cell" if place in single else None)
        return replace(seen, unit=found.unit, crops=tuple(_keep(found, facts, files, place)))

    outcomes = decode_each(paths, look, workers=workers, max_megapixels=max_megapixels)
    taken: list[str | None] = []
    cameras: list[str] = []
    units: list[Literal["field", "cell"]] = []
    crops: list[tuple[Crop, ...]] = []
    unusable: dict[int, Unusable] = {}
    known_cameras: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        facts = stack.enter_context(RecordWriter(files.scratch / "facts", FACTS))
        traits = stack.enter_context(RecordWriter(files.scratch / "traits", TRAITS_RECORD))
        prints = stack.enter_context(RecordWriter(files.prints, PRINT_RECORD, {"version": PRINT_VERSION}))
        for place, outcome in enumerate(track(outcomes, total=len(paths), label="opening images")):
            if isinstance(outcome, Unusable):
                unusable[place] = outcome
                continue
            facts.add(outcome.facts)
            traits.add(outcome.traits)
            prints.add(outcome.print)
            taken.append(outcome.taken)
            cameras.append(known_cameras.setdefault(outcome.camera, outcome.camera))
            if cutting is not None:
                units.append(outcome.unit)
                crops.append(outcome.crops)
    with (
        RecordFile(facts.path, FACTS) as read_facts,
        RecordFile(traits.path, TRAITS_RECORD) as read_traits,
        RecordFile(prints.path, PRINT_RECORD) as read_prints,
    ):
        yield Survey(
            facts=read_facts,
            traits=read_traits,
            prints=read_prints,
            taken=taken,
            cameras=cameras,
            units=units,
            crops=crops,
            unusable=unusable,
        )


def _look(decoded: Decoded, facts: ImageFacts) -> Look:
    taken, camera = capture_facts(decoded.content)
    traits = measure(decoded.pixels, format=decoded.format, jpeg_quality=jpeg_quality(decoded.content))
    return Look(
        facts=np.array([(facts.sha256, facts.pixels_digest, facts.width, facts.height)], dtype=FACTS),
        traits=pack_traits([traits]),
        print=pack_prints([describe(decoded.pixels)]),
        taken=taken,
        camera=camera,
    )


def _keep(found: Cut, facts: ImageFacts, files: SurveyFiles, place: int) -> Iterator[Crop]:
    """Write the crops of one photograph; its place in the list names them."""
    if found.unit == "cell":
        yield Crop(spot=None, file=None, sha256=facts.sha256, width=facts.width, height=facts.height)
        return
    inside = files.root / files.crops / f"{place // _FIELDS_A_FOLDER:04d}"
    if found.cells:
        inside.mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(found.cells):
        content = png_bytes(each.seen)
        file = inside / f"{place:07d}-{number:04d}.png"
        file.write_bytes(content)
        yield Crop(
            spot=_spot(each),
            file=file.relative_to(files.root).as_posix(),
            sha256=hashlib.sha256(content).hexdigest(),
            width=each.pixels.shape[1],
            height=each.pixels.shape[0],
        )


def _spot(each: CutCell) -> Spot | None:
    if each.cell is None:
        return None
    return Spot(x=each.cell.x, y=each.cell.y, radius=math.sqrt(each.cell.nucleus_area_px / math.pi))
