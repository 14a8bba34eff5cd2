from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from leukemia_cli.vision.decode import decode
from leukemia_cli.vision.drawing import KINDS, draw_field, draw_patient
from leukemia_cli.vision.traits import (
    BORDER_NAMES,
    COLOUR_NAMES,
    CORNER_NAMES,
    MOST_SIDE_PX,
    StoredTraits,
    Traits,
    jpeg_quality,
    measure,
    packed,
)


def traits_of(image: Image.Image | np.ndarray) -> Traits:
    return measure(np.asarray(image), format="PNG", jpeg_quality=None)


def smear(kind: str = "HTL", number: int = 0) -> Image.Image:
    return draw_field(kind, draw_patient(kind, number), np.random.default_rng(number))


def discs(count: int, *, side_px: int = 400, radius_px: int = 14, also: int = 0) -> Image.Image:
    """Purple discs in rows on a light ground; `also` platelets of a third of their radius."""
    image = Image.new("RGB", (side_px, side_px), (235, 230, 235))
    pen = ImageDraw.Draw(image)
    for place in range(count + also):
        x, y = 40 + 60 * (place % 6), 40 + 60 * (place // 6)
        radius = radius_px if place < count else radius_px // 3
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(90, 30, 130))
    return image


def with_bar(image: Image.Image, fill: tuple[int, int, int] = (0, 0, 0), *, boxed: bool = True) -> Image.Image:
    marked = image.copy()
    pen = ImageDraw.Draw(marked)
    width, height = marked.size
    if boxed:
        pen.rectangle((width - 60, height - 32, width, height - 4), fill="white")
    pen.line((width - 52, height - 10, width - 8, height - 10), fill=fill, width=2)
    pen.text((width - 50, height - 28), "10 um", fill=fill, font_size=12)
    return marked


def test_colour_statistics_of_halves() -> None:
    pixels = np.zeros((40, 40, 3), dtype=np.uint8)
    pixels[:, :10], pixels[:, 10:] = (51, 102, 255), (204, 102, 0)
    named = dict(zip(COLOUR_NAMES, traits_of(pixels).colour, strict=True))
    assert named["red mean"] == pytest.approx(0.25 * 0.2 + 0.75 * 0.8)
    assert named["red spread"] == pytest.approx(0.6 * np.sqrt(0.25 * 0.75))
    assert (named["red 5th"], named["red median"], named["red 95th percentile"]) == pytest.approx((0.2, 0.8, 0.8))
    assert (named["green mean"], named["green spread"]) == pytest.approx((0.4, 0.0))
    assert named["blue mean"] == pytest.approx(0.25)


@pytest.mark.parametrize("kind", KINDS)
def test_a_smear_is_measured_whole_and_without_marks(kind: str) -> None:
    found = traits_of(smear(kind))
    assert (len(found.colour), len(found.background)) == (len(COLOUR_NAMES), len(COLOUR_NAMES))
    assert (len(found.border), len(found.corners)) == (len(BORDER_NAMES), len(CORNER_NAMES))
    assert np.isfinite([*found.colour, *found.background, *found.border, *found.corners]).all()
    assert not found.has_scale_bar
    assert not found.has_pointer
    assert (found.scale_bar_place, found.scale_bar_style, found.pointer_place) == ("", "", "")
    assert found.bodies >= 1


def test_the_background_does_not_see_the_cells() -> None:
    few, many = traits_of(discs(2)), traits_of(discs(30))
    assert few.background == pytest.approx(many.background, abs=0.005)
    assert few.colour != pytest.approx(many.colour, abs=0.02)


def test_a_background_is_found_where_cells_cover_all() -> None:
    pixels = np.random.default_rng(0).integers(20, 60, (64, 64, 3)).astype(np.uint8)
    assert np.isfinite(traits_of(pixels).background).all()


@pytest.mark.parametrize("count", [0, 1, 7, 30])
def test_bodies_are_counted_and_platelets_are_not(count: int) -> None:
    found = traits_of(discs(count, also=4 if count else 0))
    assert found.bodies == count
    if count:
        assert found.body_px == pytest.approx(29, abs=2)
    else:
        assert found.body_px is None


def test_a_clump_counts_by_its_area() -> None:
    image = discs(6)
    ImageDraw.Draw(image).ellipse((100, 200, 100 + 56, 200 + 56), fill=(90, 30, 130))  # of the area of four
    assert traits_of(image).bodies == 10


def test_sizes_are_those_of_the_stored_image() -> None:
    small, large = discs(7), discs(7).resize((1600, 1600), Image.Resampling.BICUBIC)
    one, other = traits_of(small), traits_of(large)
    assert max(large.size) > MOST_SIDE_PX
    assert (other.width, other.height, other.megapixels) == (1600, 1600, 2.56)
    assert other.bodies == one.bodies
    assert other.body_px == pytest.approx(4 * (one.body_px or 0), rel=0.1)


@pytest.mark.parametrize(
    ("fill", "boxed", "style"), [((0, 0, 0), True, "black"), ((200, 20, 30), False, "red"), ((0, 0, 0), False, "black")]
)
def test_a_scale_bar_is_found_with_its_place_and_style(fill: tuple[int, int, int], boxed: bool, style: str) -> None:
    found = traits_of(with_bar(smear(), fill, boxed=boxed))
    assert found.has_scale_bar
    assert found.scale_bar_place == "bottom right"
    assert found.scale_bar_style.endswith(style)


def test_borders_and_corners_see_a_mark_and_not_the_middle() -> None:
    plain, marked = traits_of(smear()), traits_of(with_bar(smear()))
    changed = {name for name, a, b in zip(CORNER_NAMES, plain.corners, marked.corners, strict=True) if a != b}
    assert {"bottom right: ink", "bottom right: white"} <= changed
    assert all(name.startswith("bottom right") for name in changed)
    middle = np.array(smear())
    middle[100:120, 100:120] = 0
    assert traits_of(middle).border == plain.border
    assert traits_of(middle).corners == plain.corners


def test_a_pointer_is_found_and_a_red_cell_is_not() -> None:
    image = discs(6)
    pen = ImageDraw.Draw(image)
    pen.ellipse((300, 300, 340, 340), fill=(205, 150, 140))
    assert not traits_of(image).has_pointer
    pen.polygon([(200, 180), (190, 210), (210, 210)], fill=(255, 190, 90))
    found = traits_of(image)
    assert found.has_pointer
    assert found.pointer_place == "middle centre"


@pytest.mark.parametrize("quality", [30, 50, 75, 90, 95])
def test_jpeg_quality_is_that_it_was_saved_with(quality: int) -> None:
    encoded = io.BytesIO()
    smear().save(encoded, format="JPEG", quality=quality)
    assert jpeg_quality(encoded.getvalue()) == pytest.approx(quality, abs=1)


def test_what_is_no_jpeg_or_cut_short_has_no_quality() -> None:
    encoded = io.BytesIO()
    smear().save(encoded, format="PNG")
    assert jpeg_quality(encoded.getvalue()) is None
    assert jpeg_quality(b"") is None
    whole = io.BytesIO()
    smear().save(whole, format="JPEG", quality=75)
    found = [jpeg_quality(whole.getvalue()[:length]) for length in range(0, 400)]
    assert {round(one) for one in found if one is not None} == {75}
    assert found[10] is None
    assert jpeg_quality(b"\xff\xd8\xff\xda\x00\x04ab" + whole.getvalue()) is None


def test_an_image_is_kept_in_about_a_kilobyte() -> None:
    found = traits_of(with_bar(smear()))
    parts = [getattr(found, name) for name in Traits.__slots__]
    assert sum(map(sys.getsizeof, parts)) + sys.getsizeof(found) < 1400


def test_any_array_of_colours_is_measured() -> None:
    random = np.random.default_rng(1)
    for pixels in (
        np.zeros((16, 16, 3), np.uint8),
        np.full((16, 700, 3), 255, np.uint8),
        random.integers(0, 256, (33, 57, 3)).astype(np.uint8),
    ):
        found = traits_of(pixels)
        assert np.isfinite([*found.colour, *found.background, *found.border, *found.corners]).all()


@pytest.mark.parametrize(
    "pixels", [np.zeros((20, 20)), np.zeros((20, 20, 4), np.uint8), np.zeros((8, 40, 3), np.uint8)]
)
def test_other_arrays_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        measure(pixels, format="PNG", jpeg_quality=None)


def traits_in(folder: Path, pattern: str, step: int) -> list[Traits]:
    return [traits_of(decode(str(file)).pixels) for file in sorted(folder.glob(pattern))[::step]]


def test_scale_bars_are_found_where_every_image_holds_one(real_images: Callable[[str], Path]) -> None:
    found = traits_in(real_images("Taleqani"), "Original/*/*.jpg", 25)
    assert np.mean([t.has_scale_bar for t in found]) > 0.95
    assert {t.scale_bar_place for t in found} <= {"bottom right", ""}


@pytest.mark.parametrize(("folder", "pattern"), [("AML_cells", "images/*"), ("BCCD", "JPEGImages/*")])
def test_marks_are_not_found_where_there_are_none(
    folder: str, pattern: str, real_images: Callable[[str], Path]
) -> None:
    found = traits_in(real_images(folder), pattern, 40 if folder == "AML_cells" else 6)
    assert np.mean([t.has_scale_bar or t.has_pointer for t in found]) < 0.03


def test_pointers_and_the_number_of_cells_are_seen_in_whole_fields(real_images: Callable[[str], Path]) -> None:
    fields = real_images("ALL_IDB1")
    leukaemic, healthy = traits_in(fields, "im/*_1.jpg", 4), traits_in(fields, "im/*_0.jpg", 4)
    assert sum(t.has_pointer for t in leukaemic) >= 2
    assert not any(t.has_pointer for t in healthy)
    assert np.median([t.bodies for t in leukaemic]) > 5 * np.median([t.bodies for t in healthy])


def test_traits_come_back_from_rows_as_they_were() -> None:
    plain = traits_of(discs(0, also=0))
    marked = measure(np.asarray(with_bar(smear())), format="JPEG", jpeg_quality=90.5)
    assert (plain.jpeg_quality, plain.body_px) == (None, None)
    assert marked.scale_bar_place
    told = [plain, marked, traits_of(smear("ALL"))]
    stored = StoredTraits(packed(told))
    for one, other in zip(stored, told, strict=True):
        assert {name: _plain(getattr(one, name)) for name in Traits.__slots__} == {
            name: _plain(getattr(other, name)) for name in Traits.__slots__
        }
    assert [each.bodies for each in stored[1:]] == [each.bodies for each in told[1:]]
    chosen = StoredTraits(packed(told), np.array([2, 0]))
    assert [each.bodies for each in chosen] == [told[2].bodies, told[0].bodies]
    assert chosen[-1].bodies == told[0].bodies
    with pytest.raises(IndexError):
        chosen[2]


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | None) else list(value)
