"""Painted marks are found and painted over; what is not paint is left alone, bit for bit."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from leukemia_cli.vision.decode import decode
from leukemia_cli.vision.drawing import KINDS, draw_field, draw_patient
from leukemia_cli.vision.marks import CORNER_BLOCKS, Mark, find_marks, mask_marks

SIDE = 224
FONT = ImageFont.load_default(10)


def smear(kind: str = "ALL", number: int = 0, side: int = SIDE) -> np.ndarray:
    field = draw_field(kind, draw_patient(kind, number), np.random.default_rng(number))
    return np.array(Image.fromarray(np.asarray(field)).convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


def painted(pixels: np.ndarray, style: str, at: tuple[int, int]) -> np.ndarray:
    """Paint a mark with its upper left corner at (x, y)."""
    image = Image.fromarray(pixels)
    pen, (x, y) = ImageDraw.Draw(image), at
    if style == "box":
        pen.rectangle((x, y, x + 34, y + 18), fill="white")
        pen.text((x + 4, y + 1), "20 um", fill="black", font=FONT)
        pen.line((x + 3, y + 15, x + 31, y + 15), fill="black", width=2)
    elif style == "red":
        pen.text((x, y), "20 um", fill=(205, 30, 40), font=FONT)
    elif style == "bar":
        pen.line((x, y, x + 40, y), fill="black", width=2)
    elif style == "pointer":
        pen.polygon(((x, y), (x + 8, y + 12), (x - 8, y + 12)), fill=(255, 190, 90))
        pen.rectangle((x - 3, y + 12, x + 3, y + 30), fill=(255, 190, 90))
    elif style == "green":
        pen.rectangle((x, y, x + 12, y + 12), fill=(20, 220, 40))
    return np.asarray(image)


def covers(marks: tuple[Mark, ...], changed: np.ndarray) -> bool:
    rows, columns = np.nonzero(changed)
    return any(
        m.left <= columns.min() and m.right > columns.max() and m.top <= rows.min() and m.bottom > rows.max()
        for m in marks
    )


@pytest.mark.parametrize(
    ("style", "at", "kind"),
    [
        ("box", (185, 200), "lettering"),
        ("box", (4, 203), "lettering"),
        ("box", (100, 3), "lettering"),
        ("red", (8, 4), "lettering"),
        ("bar", (20, 215), "lettering"),
        ("pointer", (110, 90), "paint"),
        ("green", (60, 150), "paint"),
    ],
)
def test_a_mark_is_found_and_gone_once_masked(style: str, at: tuple[int, int], kind: str) -> None:
    plain = smear()
    plain = np.maximum(plain, 90) if style == "pointer" else plain
    plain = (
        (plain * 0.85).astype(np.uint8) if style == "pointer" else plain
    )  # a lit pointer is brighter than the ground
    marked = painted(plain, style, at)
    marks = find_marks(marked)
    assert [m.kind for m in marks] == [kind]
    changed = (marked != plain).any(axis=2)
    ink = changed & (marked.astype(int).max(axis=2) < 250) if style == "box" else changed
    assert covers(marks, ink)
    masked = mask_marks(marked)
    assert find_marks(masked) == () and masked.shape == marked.shape and masked.dtype == np.uint8
    rows, columns = np.nonzero(ink)
    filled = masked[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].reshape(-1, 3).astype(int)
    assert np.ptp(filled, axis=0).max() <= 1, "one colour"
    ground = np.percentile(plain.reshape(-1, 3), 90, axis=0)
    assert np.abs(filled[0] - ground).max() < 45, "that of the ground"


@pytest.mark.parametrize("kind", KINDS)
def test_a_smear_without_marks_stays_as_it_is(kind: str) -> None:
    for number in range(4):
        pixels = smear(kind, number)
        before = pixels.copy()
        assert mask_marks(pixels) is pixels and np.array_equal(pixels, before)


def test_styles_of_one_corner_come_out_alike() -> None:
    plain = smear(number=2)
    plain[-45:, -45:] = np.percentile(plain.reshape(-1, 3), 90, axis=0)  # red on red cells is not told from them
    results = [mask_marks(painted(plain, style, at)) for style, at in (("box", (188, 202)), ("red", (190, 207)))]
    block = round(CORNER_BLOCKS[0] * SIDE)
    assert np.array_equal(results[0], results[1])
    corner = results[0][-block:, -block:]
    assert np.ptp(corner.reshape(-1, 3).astype(int), axis=0).max() <= 1
    assert np.array_equal(results[0][: SIDE // 2], plain[: SIDE // 2]), "the rest is left alone"


def test_marks_of_large_images_are_found_at_their_size() -> None:
    small = painted(smear(), "box", (185, 200))
    large = np.asarray(Image.fromarray(small).resize((1792, 1344), Image.Resampling.NEAREST))
    (one,), (other,) = find_marks(small), find_marks(large)
    for side, scale in (("left", 8), ("right", 8), ("top", 6), ("bottom", 6)):
        assert abs(getattr(other, side) - scale * getattr(one, side)) <= 3 * scale
    assert find_marks(mask_marks(large)) == ()


def test_a_nucleus_at_the_edge_is_no_lettering() -> None:
    pixels = smear()
    image = Image.fromarray(pixels)
    ImageDraw.Draw(image).ellipse((150, 196, 190, 222), fill=(60, 40, 90))
    assert find_marks(np.asarray(image)) == ()


@pytest.mark.parametrize("pixels", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)])
def test_what_is_no_image_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        find_marks(pixels)


@pytest.mark.parametrize("colour", [0, 128, 255])
def test_uniform_images_hold_no_mark(colour: int) -> None:
    for shape in ((1, 1, 3), (3, 200, 3), (64, 64, 3)):
        assert find_marks(np.full(shape, colour, np.uint8)) == ()


# ------------------------------------------------------------------------------------------------------ real images


def test_every_scale_bar_is_found(real_images: Callable[[str], Path]) -> None:
    place = real_images("Taleqani")
    with (place / "appearance_groups.csv").open(newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)][::10]
    missed = []
    for path in paths:
        pixels = decode(str(place / path)).pixels
        if not any(m.right > 187 and m.bottom > 187 for m in find_marks(pixels)) or find_marks(mask_marks(pixels)):
            missed.append(path)
    assert missed == [] and len(paths) >= 50


def test_pointers_are_found_and_cells_are_not(real_images: Callable[[str], Path]) -> None:
    place = real_images("ALL_IDB1")
    pointed = {f"Im{number:03}_1.jpg" for number in (2, 3, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 19)}
    every = sorted((place / "im").glob("*.jpg"))
    paths = [path for i, path in enumerate(every) if path.name in pointed or i % 6 == 0]
    found = {path.name for path in paths if any(m.kind == "paint" for m in find_marks(decode(str(path)).pixels))}
    assert found == pointed & {path.name for path in paths}
    cells = sorted((real_images("BCCD") / "JPEGImages").iterdir())[::6]
    assert sum(bool(find_marks(decode(str(path)).pixels)) for path in cells) <= 1
