from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from leukemia_cli.vision.decode import decode
from leukemia_cli.vision.drawing import KINDS, draw_field, draw_patient
from leukemia_cli.vision.smear import smear_colours


def ground(colour: tuple[int, int, int], spots: tuple[int, int, int]) -> np.ndarray:
    """A ground with a quarter of it in another colour."""
    pixels = np.full((64, 64, 3), colour, dtype=np.uint8)
    pixels[:32, :32] = spots
    return pixels


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_smears_have_a_smears_colours(kind: str) -> None:
    for number in range(4):
        field = draw_field(kind, draw_patient(kind, number), np.random.default_rng(number))
        colours = smear_colours(np.asarray(field))
        assert colours.like_a_smear, colours


def test_figures_on_paper() -> None:
    # A quarter absorbs ln 2 in green and none else: mean density ln 2 / 4, all of it green.
    colours = smear_colours(ground((255, 255, 255), (255, 127, 255)))
    assert colours.ground == 255
    assert colours.absorbance == pytest.approx(np.log(2) / 4)
    assert colours.cover == 0.25
    assert colours.stained == 0  # of one channel alone: no stain is so pure
    purple = smear_colours(ground((250, 248, 245), (120, 70, 150)))
    assert (purple.stained, purple.like_a_smear) == (1, True)


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("blank", np.full((64, 64, 3), 240, dtype=np.uint8)),
        ("black", np.zeros((64, 64, 3), dtype=np.uint8)),
        ("grey print", ground((250, 250, 250), (20, 20, 20))),
        ("green spots", ground((250, 250, 250), (60, 180, 60))),
        ("yellow spots", ground((250, 250, 250), (230, 220, 60))),
        ("stain on a dark ground", ground((80, 80, 80), (40, 20, 50))),
        ("noise", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)),
        ("one pixel", np.full((1, 1, 3), 200, dtype=np.uint8)),
    ],
)
def test_what_is_no_smear_is_told(name: str, pixels: np.ndarray) -> None:
    colours = smear_colours(pixels)
    assert not colours.like_a_smear, (name, colours)
    assert all(np.isfinite([colours.ground, colours.absorbance, colours.cover, colours.stained]))


def test_a_page_of_text_is_told() -> None:
    page = Image.new("RGB", (400, 300), "white")
    pen = ImageDraw.Draw(page)
    for line in range(10):
        pen.text((10, 10 + 28 * line), "Nothing on this page was ever stained.", fill="black", font_size=18)
    assert not smear_colours(np.asarray(page)).like_a_smear


def test_size_does_not_matter() -> None:
    field = draw_field("ALL", draw_patient("ALL", 0), np.random.default_rng(0))
    large = np.asarray(field.resize((1344, 1344), Image.Resampling.NEAREST))
    one, other = smear_colours(np.asarray(field)), smear_colours(large)
    assert other.stained == pytest.approx(one.stained, abs=0.02)
    assert other.cover == pytest.approx(one.cover, abs=0.02)


@pytest.mark.parametrize("pixels", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_other_arrays_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        smear_colours(pixels)


@pytest.mark.parametrize(
    ("folder", "pattern", "step"),
    [
        ("Taleqani", "Original/*/*.jpg", 10),
        ("ALL_IDB1", "im/*.jpg", 8),
        ("AML_cells", "images/*", 20),
        ("healthy_cells", "*", 10),
        ("BCCD", "JPEGImages/*", 4),
        ("odd_inputs", "*/*", 1),
    ],
)
def test_real_smears_have_a_smears_colours(
    folder: str, pattern: str, step: int, real_images: Callable[[str], Path]
) -> None:
    files = sorted(real_images(folder).glob(pattern))[::step]
    told = [smear_colours(decode(str(file)).pixels).like_a_smear for file in files]
    assert len(files) > 5
    assert np.mean(told) >= 0.98
