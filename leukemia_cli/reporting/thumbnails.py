"""Small pictures of images for a page, as addresses that need no file; an image that is gone has none, and that is said."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from leukemia_cli.domain import Note, unheard
from leukemia_cli.errors import DataError
from leukemia_cli.reporting.evaluation_page import report_page
from leukemia_cli.reporting.evaluation_source import Heatmap
from leukemia_cli.vision.decode import decode
from leukemia_cli.vision.overlays import data_uri

HEATMAPS = "heatmaps"
"""Folder of a report's heat-maps."""
QUALITY = 88
SIDE_PX = 160
HEATMAP_PX = 280


@dataclass(frozen=True, slots=True, kw_only=True)
class Illustrated:
    """A report's page, how many images it was to show of mistakes, and how many of these could be read."""

    page: str
    wanted: int
    shown: int


def illustrated(
    folder: Path, report: Mapping[str, Any], *, pictures: bool, max_megapixels: float, note: Note = unheard
) -> Illustrated:
    """Make the page of the report that lies in `folder`, with its mistakes and heat-maps where pictures are wanted."""
    paths = [mistake["path"] for mistake in report.get("mistakes", ())] if pictures else []
    small = thumbnails(paths, max_megapixels=max_megapixels, note=note)
    heats = read_heatmaps(folder, report, max_megapixels=max_megapixels, note=note) if pictures else ()
    return Illustrated(page=report_page(report, thumbnails=small, heatmaps=heats), wanted=len(paths), shown=len(small))


def thumbnails(paths: Sequence[str], *, max_megapixels: float, note: Note = unheard) -> dict[str, str]:
    """Give a small picture of each image, by path; those that cannot be read are left out."""
    made = {}
    for path in dict.fromkeys(paths):
        small = _small(path, SIDE_PX, max_megapixels, note)
        if small is not None:
            made[path] = small
    return made


def read_heatmaps(
    folder: Path, report: Mapping[str, Any], *, max_megapixels: float, note: Note = unheard
) -> tuple[Heatmap, ...]:
    """Give the heat-maps that lie in a report's folder, each beside its image; those that cannot be read are left out.

    Raises ValueError for a name that leads out of that folder: what it shows would stand in the page.
    """
    stored = (report.get("heatmaps") or {}).get("images", ())
    found = []
    for row in stored:
        if Path(row["file"]).is_absolute() or ".." in Path(row["file"]).parts:
            raise ValueError(f"the heat-map {row['file']!r} does not lie in the report's folder")
        picture = _small(row["path"], HEATMAP_PX, max_megapixels, note)
        painted = _small(str(folder / row["file"]), HEATMAP_PX, max_megapixels, note)
        if picture is not None and painted is not None:
            found.append(
                Heatmap(
                    path=row["path"], label=row["label"], predicted=row["predicted"], picture=picture, overlay=painted
                )
            )
    return tuple(found)


def _small(path: str, side_px: int, max_megapixels: float, note: Note) -> str | None:
    try:
        pixels = decode(path, max_megapixels=max_megapixels).pixels
    except DataError as error:
        note(f"warning: no picture of {path}: {error.problem}")
        return None
    image = Image.fromarray(pixels)
    image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, format="JPEG", quality=QUALITY)  # a tenth of a PNG: a page of many pictures stays small
    return data_uri(encoded.getvalue(), "image/jpeg")
