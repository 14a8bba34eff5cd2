"""A sheet of the largest groups, a row each, so that a person can see whether their photographs belong together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from leukemia_cli.domain import Sample
from leukemia_cli.vision.decode import decode
from leukemia_cli.vision.overviews import Pixels, gallery

SHEET_GROUPS, SHEET_IMAGES, SHEET_PX = 12, 6, 320


def group_sheet(photographs: Sequence[Sample], max_megapixels: float) -> Pixels | None:
    """Draw the groups of two photographs and more, the largest first; None where there are none."""
    members: dict[str, list[Sample]] = {}
    for photograph in photographs:
        members.setdefault(photograph.group, []).append(photograph)
    largest = sorted(
        (group for group in members.values() if len(group) > 1), key=lambda group: (-len(group), group[0].path)
    )
    if not largest:
        return None
    tiles, captions = [], []
    for number, group in enumerate(largest[:SHEET_GROUPS], start=1):
        for photograph in group[:SHEET_IMAGES]:
            pixels = decode(photograph.path, max_megapixels=max_megapixels).pixels
            step = max(1, min(pixels.shape[:2]) // SHEET_PX)
            tiles.append(pixels[::step, ::step].copy())  # the photograph itself is let go
            captions.append(f"group {number} of {len(largest)}: {len(group)} images")
        for _ in range(SHEET_IMAGES - len(group)):
            tiles.append(np.full((16, 16, 3), 255, dtype=np.uint8))
            captions.append("")
    return gallery(tiles, captions, columns=SHEET_IMAGES)
