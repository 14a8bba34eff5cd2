"""Remedies are done in one order, once an image, and leave an image alone that none is asked for."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from leukemia_cli.domain import NO_REMEDIES, Preprocessing, Remedies
from leukemia_cli.vision import remedies as room
from leukemia_cli.vision.decode import decode, fit_pixels
from leukemia_cli.vision.drawing import draw_field, draw_patient
from leukemia_cli.vision.marks import mask_marks
from leukemia_cli.vision.remedies import Remedied, cut, remedied, targeted
from leukemia_cli.vision.stains import TARGETS, fit_stain

SPEC = Preprocessing(
    input_size_px=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), interpolation="bilinear", fit="squash"
)


def smear(size: tuple[int, int] = (160, 120)) -> np.ndarray:
    field = draw_field("ALL", draw_patient("ALL", 0), np.random.default_rng(0))
    return np.array(Image.fromarray(np.asarray(field)).convert("RGB").resize(size))


def test_without_remedies_nothing_is_done() -> None:
    pixels = smear()
    image = remedied(pixels, NO_REMEDIES)
    assert image.pixels is pixels and image.stain is None and image.scale is None
    (view,) = cut(image, SPEC)
    assert np.array_equal(view, fit_pixels(pixels, 32, "bilinear", "squash"))


def test_marks_go_before_colours_are_fitted() -> None:
    image = Image.fromarray(smear((224, 224)))
    pen = ImageDraw.Draw(image)
    pen.rectangle((180, 200, 222, 222), fill="white")
    pen.line((184, 216, 216, 216), fill="black", width=2)
    pixels = np.asarray(image)
    both = targeted(Remedies(mask_marks=True, stain_norm="macenko"))
    done = remedied(pixels, both)
    masked = mask_marks(pixels)
    assert not np.array_equal(masked, pixels) and np.array_equal(done.pixels, masked)
    shift = fit_stain(masked, "macenko", TARGETS["macenko"])
    assert shift is not None
    (view,) = cut(done, SPEC)
    assert np.array_equal(view, shift.apply(fit_pixels(masked, 32, "bilinear", "squash")))


def test_tiles_are_the_quadrants_and_the_whole() -> None:
    pixels = smear((160, 120))
    spec = replace(SPEC, remedies=Remedies(tiles=5))
    tiles = cut(remedied(pixels, spec.remedies), spec)
    expected = [pixels[:60, :80], pixels[:60, 80:], pixels[60:, :80], pixels[60:, 80:], pixels]
    assert len(tiles) == 5
    for tile, part in zip(tiles[4:], expected[4:], strict=True):
        assert np.array_equal(tile, fit_pixels(part, 32, "bilinear", "squash"))
    for tile, part in zip(tiles, expected, strict=True):  # at a cut, the filter sees the neighbour
        assert np.abs(tile.astype(int) - fit_pixels(part, 32, "bilinear", "squash")).mean() < 2
    four = replace(spec, remedies=Remedies(tiles=4))
    assert all(np.array_equal(a, b) for a, b in zip(cut(remedied(pixels, four.remedies), four), tiles, strict=False))


def test_a_region_has_tiles_of_its_own() -> None:
    pixels = smear((160, 120))
    spec = replace(SPEC, remedies=Remedies(tiles=4))
    tiles = cut(remedied(pixels, spec.remedies), spec, (20.0, 10.0, 100.0, 90.0))
    assert np.array_equal(tiles[3], fit_pixels(pixels, 32, "bilinear", "squash", box=(60.0, 50.0, 100.0, 90.0)))


# ------------------------------------------------------------------------------------------------------------- scale


@pytest.mark.parametrize(("diameter", "side"), [(8.0, 16), (4.0, 8), (16.0, 32)])
def test_a_red_cell_has_the_pixels_asked_for(monkeypatch: pytest.MonkeyPatch, diameter: float, side: int) -> None:
    """A square as wide as a red cell, amid the image, is 16 px wide in the view, whatever its width was."""
    monkeypatch.setattr(room, "red_cell_diameter", lambda pixels: diameter)
    pixels = np.full((200, 300, 3), 220, np.uint8)
    half = int(diameter / 2)
    pixels[100 - half : 100 + half, 150 - half : 150 + half] = 40
    spec = replace(SPEC, input_size_px=64, remedies=Remedies(red_cell_px=16))
    (view,) = cut(remedied(pixels, spec.remedies), spec)
    dark = view[..., 0] < 130
    assert dark.any(axis=0).sum() == 16 and dark.any(axis=1).sum() == 16
    assert abs(np.nonzero(dark)[0].mean() - 31.5) <= 1


def test_a_stated_size_of_a_pixel_goes_before_the_ruler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 0.375 µm a pixel a red cell is 20 px wide; what the ruler would say is not asked for."""
    monkeypatch.setattr(room, "red_cell_diameter", lambda pixels: pytest.fail("measured"))
    file = io.BytesIO()
    Image.fromarray(smear()).save(file, "PNG", dpi=(25_400 / 0.375, 25_400 / 0.375))
    image = remedied(decode(file.getvalue()), Remedies(red_cell_px=10))
    assert image.scale == pytest.approx(0.5, rel=1e-3)


def test_beyond_a_small_image_lies_its_border(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "red_cell_diameter", lambda pixels: 10.0)
    pixels = np.full((30, 40, 3), (200, 190, 180), np.uint8)
    pixels[10:20, 10:30] = 50
    spec = replace(SPEC, input_size_px=64, remedies=Remedies(red_cell_px=10))
    (view,) = cut(remedied(pixels, spec.remedies), spec)
    assert np.array_equal(view[17:47, 12:52], pixels), "as it is, in the middle"
    assert (view[:17] == (200, 190, 180)).all() and (view[:, 52:] == (200, 190, 180)).all()


def test_without_a_ruler_the_image_is_seen_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "red_cell_diameter", lambda pixels: None)
    pixels, spec = smear(), replace(SPEC, remedies=Remedies(red_cell_px=20))
    image = remedied(pixels, spec.remedies)
    assert image.scale is None
    assert np.array_equal(cut(image, spec)[0], fit_pixels(pixels, 32, "bilinear", "squash"))


def test_two_sizes_of_one_smear_are_seen_alike() -> None:
    """The finder's own ruler: a field and its copy of two thirds the size give nearly the same view."""
    field = draw_field("HTL", draw_patient("HTL", 1), np.random.default_rng(3))
    pixels = np.array(Image.fromarray(np.asarray(field)).convert("RGB"))
    smaller = np.array(Image.fromarray(pixels).resize((pixels.shape[1] * 2 // 3, pixels.shape[0] * 2 // 3)))
    spec = replace(SPEC, input_size_px=96, remedies=Remedies(red_cell_px=16))
    images = [remedied(p, spec.remedies) for p in (pixels, smaller)]
    assert all(image.scale is not None for image in images)
    one, other = (cut(image, spec)[0].astype(int) for image in images)
    whole = [cut(Remedied(pixels=p, stain=None, scale=0.5), spec)[0].astype(int) for p in (pixels, smaller)]
    assert np.abs(one - other).mean() < 0.6 * np.abs(whole[0] - whole[1]).mean()


# -------------------------------------------------------------------------------------------------------------- JSON


def test_remedies_outlive_json() -> None:
    asked = targeted(Remedies(mask_marks=True, stain_norm="reinhard", red_cell_px=20.5, tiles=5))
    spec = replace(SPEC, remedies=asked)
    assert asked.stain_target == TARGETS["reinhard"]
    assert Preprocessing.from_json(json.loads(json.dumps(spec.as_json()))) == spec


def test_what_was_stored_before_there_were_remedies_is_read() -> None:
    stored = {
        "input_size_px": 32,
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
        "interpolation": "bilinear",
        "fit": "squash",
        "version": 1,
    }
    assert Preprocessing.from_json(stored) == SPEC
    assert SPEC.as_json() == stored, "and nothing changes where there are none: kept features stay valid"


@pytest.mark.parametrize(
    "wrong", [{"tiles": 3}, {"red_cell_px": 0.0}, {"red_cell_px": float("nan")}, {"stain_norm": "x"}]
)
def test_values_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"tiles|red cell|normalisation"):
        Remedies(**wrong)


def test_a_target_that_is_given_stays() -> None:
    given = Remedies(stain_norm="macenko", stain_target=(1.0,) * 8)
    assert targeted(given) is given and targeted(NO_REMEDIES) is NO_REMEDIES
