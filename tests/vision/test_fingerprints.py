from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image

from leukemia_cli.vision.drawing import draw_field, draw_patient
from leukemia_cli.vision.fingerprints import (
    COEFFICIENTS,
    MOST_BLOBS,
    THUMBNAIL_PX,
    Fingerprint,
    capture_facts,
    describe,
)


def field(number: int = 0) -> np.ndarray:
    return np.asarray(draw_field("ALL", draw_patient("ALL", 0), np.random.default_rng(number)))


def discs(centres: list[tuple[int, int, int]], ground: int = 220, side: int = 192) -> np.ndarray:
    """Dark soft discs (x, y, radius) on a light ground."""
    y, x = np.mgrid[:side, :side]
    grey = np.full((side, side), float(ground))
    for cx, cy, radius in centres:
        grey -= 120 / (1 + np.exp((np.hypot(x - cx, y - cy) - radius) / 1.0))
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def nearest(print_: Fingerprint, x: float, y: float) -> int:
    return int(np.hypot(print_.places[:, 0] - x, print_.places[:, 1] - y).argmin())


def test_shapes_and_types() -> None:
    told = describe(field())
    count = len(told.places)
    assert 10 < count <= MOST_BLOBS
    assert (told.thumbnail.shape, told.thumbnail.dtype) == ((THUMBNAIL_PX, THUMBNAIL_PX), np.uint8)
    assert (told.places.shape, told.places.dtype) == ((count, 3), np.float32)
    assert (told.patches.shape, told.patches.dtype) == ((count, COEFFICIENTS), np.int8)
    assert (told.dark.shape, told.dark.dtype) == ((count,), np.bool_)
    size = sum(a.nbytes for a in (told.thumbnail, told.places, told.patches, told.dark))
    assert size < 3000


def test_equal_pixels_give_equal_fingerprints() -> None:
    pixels = field()
    one, other = describe(pixels), describe(np.asfortranarray(pixels))
    for name in ("thumbnail", "places", "patches", "dark"):
        assert np.array_equal(getattr(one, name), getattr(other, name))


def test_a_disc_is_a_dark_blob_at_its_place() -> None:
    # A disc of radius r answers most to the Gaussian of r / √2.
    told = describe(discs([(70, 110, 9)]))
    first = told.places[0] * 192
    assert told.dark[0]
    assert first[:2] == pytest.approx([70.5, 110.5], abs=0.7)
    assert first[2] == pytest.approx(9 / 2**0.5, rel=0.15)


def test_a_light_disc_is_no_dark_blob() -> None:
    told = describe(255 - discs([(70, 110, 9)]))
    assert not told.dark[0]


@pytest.mark.parametrize("factor", [2, 3])
def test_size_in_pixels_is_taken_out(factor: int) -> None:
    pixels = field()
    large = np.asarray(Image.fromarray(pixels).resize((224 * factor, 224 * factor), Image.Resampling.BICUBIC))
    one, other = describe(pixels), describe(large)
    distances = [np.hypot(*(other.places[:, :2] - place[:2]).T).min() for place in one.places[:20]]
    assert np.median(distances) < 0.005
    assert np.corrcoef(one.thumbnail.ravel(), other.thumbnail.ravel())[0, 1] > 0.99


def test_brightness_and_contrast_are_taken_out() -> None:
    pixels = field()
    dull = (pixels * 0.5 + 40).astype(np.uint8)
    one, other = describe(pixels), describe(dull)
    assert np.abs(one.thumbnail.astype(int) - other.thumbnail).max() <= 4
    same = nearest(other, *one.places[0, :2])
    assert np.abs(one.patches[0].astype(int) - other.patches[same]).max() <= 8


def test_a_mirrored_image_has_mirrored_blobs() -> None:
    pixels = field()
    one, other = describe(pixels), describe(pixels[:, ::-1])
    same = nearest(other, 1 - one.places[0, 0], one.places[0, 1])
    assert other.places[same] == pytest.approx([1 - one.places[0, 0], *one.places[0, 1:]], abs=0.01)
    # Mirroring changes the sign of odd horizontal frequencies only.
    odd = np.array([u % 2 == 1 for v in range(7) for u in range(7) if 1 <= u + v <= 6])
    turned = np.where(odd, -1, 1) * one.patches[0].astype(float)
    found = other.patches[same].astype(float)
    assert turned @ found / np.linalg.norm(turned) / np.linalg.norm(found) > 0.97


def test_width_and_height_keep_their_proportion() -> None:
    told = describe(np.hstack([discs([]), discs([(70, 110, 9)])]))
    assert told.aspect == 2
    assert told.thumbnail.shape == (THUMBNAIL_PX, THUMBNAIL_PX)
    assert told.places[0, :2] * 192 * 2**0.5 == pytest.approx([192 + 70.5, 110.5], abs=1)


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (16, 900), (900, 16), (33, 47)])
def test_what_holds_nothing_has_no_blobs(shape: tuple[int, int]) -> None:
    told = describe(np.full((*shape, 3), 200, dtype=np.uint8))
    assert len(told.places) == len(told.patches) == len(told.dark) == 0
    assert not told.thumbnail.any()


@pytest.mark.parametrize("shape", [(2, 2), (16, 900), (900, 16), (1, 500)])
def test_odd_shapes_are_described(shape: tuple[int, int]) -> None:
    told = describe(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    assert np.isfinite(told.places).all()
    assert told.aspect == shape[1] / shape[0]


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        describe(pixels)


# ---------------------------------------------------------------------------------- what EXIF data say


def photograph(exif: Image.Exif | None) -> bytes:
    stream = io.BytesIO()
    image = Image.new("RGB", (8, 8), (200, 180, 190))
    image.save(stream, "JPEG", **({"exif": exif} if exif is not None else {}))
    return stream.getvalue()


def exif_of(taken: str | None, maker: str | None = "Maker", model: str | None = "Model 5 ") -> Image.Exif:
    exif = Image.Exif()
    if maker is not None:
        exif[271] = maker
    if model is not None:
        exif[272] = model
    if taken is not None:
        exif.get_ifd(0x8769)[36867] = taken
    return exif


def test_time_and_camera_are_read() -> None:
    moment = time.strftime("%Y:%m:%d %H:%M:%S", time.gmtime(0))
    assert capture_facts(photograph(exif_of(moment))) == ("1970:01:01 00:00:00", "Maker Model 5")


def test_what_is_not_said_is_not_made_up() -> None:
    assert capture_facts(photograph(None)) == (None, "")
    assert capture_facts(photograph(exif_of(None))) == (None, "Maker Model 5")
    assert capture_facts(photograph(exif_of("2005:09:06 10:50:40", None, None))) == ("2005:09:06 10:50:40", "")


def test_damage_says_nothing() -> None:
    content = photograph(exif_of("2005:09:06 10:50:40"))
    assert capture_facts(b"no image") == (None, "")
    assert capture_facts(b"") == (None, "")
    spoiled = content.replace(b"II*\x00", b"IIXX", 1).replace(b"MM\x00*", b"MMXX", 1)
    assert spoiled != content
    assert capture_facts(spoiled) == (None, "")
