"""Small pictures of images for a page, as addresses that need no file; an image that is gone has none, and that is said."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from leukemia_cli.domain import Note, unheard
from leukemia_cli.errors import DataError
from leukemia_cli.reporting.page import Heatmap
from leukemia_cli.vision.decode import decode
from leukemia_cli.vision.overlays import data_uri

HEATMAPS = "heatmaps"
"""Folder of a report's heat-maps."""
QUALITY = 88
SIDE_PX = 160
HEATMAP_PX = 280


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
    """Give the heat-maps that lie in a report's folder, each beside its image; those that cannot be read are left out."""
    stored = (report.get("heatmaps") or {}).get("images", ())
    found = []
    for row in stored:
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
