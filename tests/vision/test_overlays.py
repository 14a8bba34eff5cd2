"""A map lies where its view lay, its colours are ordered, and its file's name is safe and its own."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from leukemia_cli.vision.decode import fit_pixels
from leukemia_cli.vision.overlays import coloured, data_uri, heatmap_name, overlay, png_bytes, stretch

FITS = ("squash", "crop", "pad")


def lightness(colours: np.ndarray) -> np.ndarray:
    """Give CIE L* of sRGB colours (N, 3): IEC 61966-2-1 and CIE 15."""
    c = colours / 255.0
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(y > 216 / 24389, 116 * np.cbrt(y) - 16, y * 24389 / 27)


def test_colours_grow_lighter_all_the_way_and_evenly() -> None:
    colours = coloured(np.linspace(0, 1, 256, dtype=np.float32)[None])[0]
    steps = np.diff(lightness(colours.astype(float))[::16])
    assert (steps > 0).all() and steps.max() < 2.5 * steps.min()
    assert len({tuple(colour) for colour in colours}) > 200


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_heat_outside_its_range_is_refused(value: float) -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = value
    with pytest.raises(ValueError, match="not within 0 and 1"):
        coloured(heat)
    with pytest.raises(ValueError, match="not within 0 and 1"):
        overlay(np.zeros((4, 4, 3), np.uint8), heat, "squash", legend="")


def disc(height: int, width: int, y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return ((rows - y) ** 2 + (columns - x) ** 2 < radius**2).astype(np.float32)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(120, 200), (200, 120), (160, 160), (121, 200)])
def test_a_map_goes_back_to_where_its_view_came_from(fit, shape: tuple[int, int]) -> None:
    """The view of a picture with one spot is the map of that spot: stretched back, both centres are equal."""
    height, width = shape
    spot = disc(height, width, height * 0.55, width * 0.45, 14)
    picture = np.repeat((255 * spot).astype(np.uint8)[..., None], 3, 2)
    heat = fit_pixels(picture, 96, "bilinear", fit)[..., 0].astype(np.float32) / 255
    back, seen = stretch(heat, height, width, fit)
    assert back.shape == seen.shape == shape
    rows, columns = np.mgrid[:height, :width]
    for axis in (rows, columns):
        assert np.average(axis, weights=back) == pytest.approx(np.average(axis, weights=spot), abs=0.8)
    assert back.sum() == pytest.approx(spot.sum(), rel=0.05)
    side = min(shape)
    assert seen.sum() == (side * side if fit == "crop" else height * width)


def test_a_map_that_is_no_square_is_refused() -> None:
    with pytest.raises(ValueError, match="no square"):
        stretch(np.zeros((3, 4), np.float32), 10, 10, "squash")


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(90, 400), (400, 90), (17, 16), (300, 300)])
@pytest.mark.parametrize("beside", [True, False])
def test_a_picture_keeps_the_images_size_beside_a_legend(fit, shape: tuple[int, int], beside: bool) -> None:
    height, width = shape
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = overlay(pixels, np.ones((8, 8), np.float32), fit, legend="for ALL", beside=beside)
    assert picture.dtype == np.uint8 and picture.shape[0] > height
    assert np.array_equal(picture[:height, :width], pixels) == beside
    assert picture.shape[1] >= (2 * width if beside else width)
    assert len(np.unique(picture[height:].reshape(-1, 3), axis=0)) > 50, "the bar has colours"


def test_without_heat_the_picture_is_the_grey_image_and_what_crop_left_out_is_faded() -> None:
    pixels = np.random.default_rng(1).integers(0, 200, (60, 100, 3), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    cold = overlay(pixels, np.zeros((8, 8), np.float32), "crop", legend="", beside=False)[:60, :100]
    assert np.array_equal(cold[:, 20:80], np.repeat(grey[:, 20:80, None], 3, 2))
    outside = np.concatenate([cold[:, :20], cold[:, 80:]], 1)
    assert outside.min() >= 178 and np.ptp(outside, axis=2).max() == 0
    hot = overlay(pixels, np.ones((8, 8), np.float32), "squash", legend="", beside=False)[:60, :100].astype(int)
    assert (hot[..., 0] > hot[..., 2] + 80).all(), "the hottest colour is yellow"


def test_a_name_in_any_script_is_in_the_legend() -> None:
    drawn = [
        overlay(np.zeros((20, 20, 3), np.uint8), np.zeros((4, 4), np.float32), "squash", legend=legend)
        for legend in ("", "für", "für 白血病 \udcff")
    ]
    assert not np.array_equal(drawn[0], drawn[1])
    assert drawn[2].shape[1] > drawn[1].shape[1] or not np.array_equal(drawn[1], drawn[2])


def test_png_and_address_hold_the_pixels() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    content = png_bytes(pixels)
    assert content == png_bytes(pixels.copy())
    address = data_uri(content)
    head, _, tail = address.partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(tail)))), pixels)


# --------------------------------------------------------------------------------------------------------- names


@given(
    st.lists(st.one_of(st.text(max_size=300), st.sampled_from(["a.png", "/x/a.png", "../..", "a/../a.png", "é.jpg"])))
)
@settings(max_examples=60, deadline=None)
def test_names_are_safe_and_unique(paths: list[str]) -> None:
    names = [heatmap_name(index, path) for index, path in enumerate(paths)]
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        assert name.isascii() and name.endswith(".png") and len(name) <= 100
        assert not set(name) & set('/\\:*?"<>| \n\0') and not name.startswith((".", "-"))


def test_names_tell_the_input_and_sort_in_its_order() -> None:
    assert heatmap_name(7, "/slides/Im001_1.jpg") == "000007-Im001_1.png"
    assert heatmap_name(0, "C:\\slides\\blast 3.tif") == "000000-blast_3.png"
    assert heatmap_name(1, "白.png") == "000001-image.png"
    names = [heatmap_name(i, "x.png") for i in (0, 1, 9, 10, 99_999, 100_000)]
    assert names == sorted(names)
    assert heatmap_name(1, "1-a.png") != heatmap_name(11, "a.png")
    with pytest.raises(ValueError, match="negative"):
        heatmap_name(-1, "a.png")
