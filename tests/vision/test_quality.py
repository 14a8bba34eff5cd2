"""Fields are usable as they are, and not once they are blurred, darkened or blank; magnification changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from leukemia_cli.vision.decode import decode
from leukemia_cli.vision.drawing import KINDS, draw_field, draw_patient
from leukemia_cli.vision.quality import sharpness, tile_quality

REAL = (("ALL_IDB1", 6), ("Taleqani", 24), ("BCCD", 10), ("odd_inputs/rgba_png", 10))
"""Folders and how many of their fields are looked at, evenly spread."""


def field(kind: str = "HTL", number: int = 0, side_px: int = 320) -> np.ndarray:
    return np.asarray(draw_field(kind, draw_patient(kind, number), np.random.default_rng(number), side_px, side_px))


def blurred(pixels: np.ndarray, sigma_px: float) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma_px)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [0, 3])
def test_drawn_fields_are_usable_and_their_spoilt_copies_are_not(kind: str, number: int) -> None:
    pixels = field(kind, number)
    product, slope = sharpness(pixels)
    assert tile_quality(pixels) == "usable"
    assert tile_quality(blurred(pixels, 0.35 * product / slope)) == "blurred"
    assert tile_quality((pixels * 0.4).astype(np.uint8)) == "overstained"


@pytest.mark.parametrize("level", [0, 90, 200, 255])
def test_a_blank_tile_is_empty_with_and_without_the_grain_of_a_camera(level: int) -> None:
    blank = np.full((256, 256, 3), level, np.uint8)
    assert tile_quality(blank) == "empty"
    grain = np.random.default_rng(0).normal(0, 2, blank.shape)
    assert tile_quality((blank + grain).clip(0, 255).astype(np.uint8)) == "empty"


def test_bare_ground_with_a_speck_is_empty_and_with_cells_is_not() -> None:
    ground = np.full((400, 400, 3), 235, np.uint8)
    ground[200:212, 200:212] = (110, 60, 140)
    assert tile_quality(ground) == "empty"
    rows, columns = np.mgrid[:400, :400]
    cells = ((rows % 80) - 40) ** 2 + ((columns % 80) - 40) ** 2 < 15**2
    ground[cells] = (205, 150, 160)
    assert tile_quality(ground) == "usable"


def test_a_sheet_of_stain_without_ground_is_overstained() -> None:
    rng = np.random.default_rng(0)
    dark = np.clip(np.array([95, 45, 110]) + rng.normal(0, 12, (300, 300, 1)), 0, 255).astype(np.uint8)
    assert tile_quality(dark) == "overstained"


@pytest.mark.parametrize("times", [2, 3])
def test_magnification_changes_neither_the_verdict_nor_much_of_the_product(times: int) -> None:
    pixels = field(side_px=240)
    large = np.asarray(Image.fromarray(pixels).resize((240 * times,) * 2, Image.Resampling.NEAREST))
    assert tile_quality(large) == tile_quality(pixels) == "usable"
    assert sharpness(large)[0] > 0.8 * sharpness(pixels)[0]
    # Blurred as strongly against its cells, it is as blurred.
    sigma_px = sharpness(pixels)[0] / sharpness(pixels)[1] * 0.35
    assert tile_quality(blurred(pixels, sigma_px)) == tile_quality(blurred(large, sigma_px * times)) == "blurred"


def test_the_product_falls_as_the_blur_grows() -> None:
    pixels = field()
    found = [sharpness(blurred(pixels, sigma_px))[1] for sigma_px in (0.0, 1.0, 2.0, 4.0, 8.0)]
    assert found == sorted(found, reverse=True) and found[0] > 3 * found[-1]


@pytest.mark.parametrize(
    "pixels", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((2, 8, 3), np.uint8)]
)
def test_other_arrays_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        tile_quality(pixels)


@pytest.mark.parametrize(("folder", "count"), REAL)
def test_nearly_all_real_fields_are_usable_and_few_of_their_blurred_copies(
    folder: str, count: int, real_images: Callable[[str], Path]
) -> None:
    paths = sorted(path for path in real_images(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    fields = [decode(path).pixels for path in paths[:: max(1, len(paths) // count)][:count]]
    assert sum(tile_quality(pixels) == "usable" for pixels in fields) >= len(fields) - 1
    assert all(tile_quality((pixels * 0.4).astype(np.uint8)) == "overstained" for pixels in fields)
    spoilt = []
    for pixels in fields:
        part = pixels[:800, :800]
        product, slope = sharpness(part)
        spoilt.append(tile_quality(blurred(part, 0.3 * product / slope)))
    assert spoilt.count("blurred") >= 0.75 * len(spoilt)
