"""A cell is seen without what lies around it: on ground of one level, the same however its photograph was lit."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from leukemia_cli.domain import Preprocessing, Remedies
from leukemia_cli.learning.batches import look_at, plain_view
from leukemia_cli.vision.cutting import Cutting, cut
from leukemia_cli.vision.drawing import draw_field, draw_patient
from leukemia_cli.vision.masking import GROUND_LEVEL, central_cell, inside_outline, level_ground, painted_over
from leukemia_cli.vision.remedies import remedied

SPEC = Preprocessing(
    input_size_px=64, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear", fit="pad",
    remedies=Remedies(background="mask"),
)  # fmt: skip


def picture_of_one(around: tuple[int, int, int] = (230, 190, 180)) -> np.ndarray:
    """Draw one nucleus in its cytoplasm at the centre, with something red in each corner."""
    image = Image.new("RGB", (160, 160), (240, 238, 232))
    pen = ImageDraw.Draw(image)
    for x in (10, 150):
        for y in (10, 150):
            pen.ellipse((x - 32, y - 32, x + 32, y + 32), fill=around)
    pen.ellipse((42, 42, 118, 118), fill=(190, 180, 225))
    pen.ellipse((52, 50, 112, 112), fill=(90, 40, 140))
    return np.asarray(image)


def test_the_ground_has_one_level_however_the_photograph_was_lit() -> None:
    dark = np.full((8, 8, 3), (120, 160, 200), dtype=np.uint8)
    dark[0, 0] = (60, 80, 100)
    levelled = level_ground(dark, (120, 160, 200))
    assert (levelled[1:] == GROUND_LEVEL).all()
    assert np.abs(levelled[0, 0].astype(int) - GROUND_LEVEL / 2).max() <= 1
    assert (level_ground(np.full((2, 2, 3), 255, dtype=np.uint8), (100, 100, 100)) == 255).all(), "nothing wraps round"


def test_what_lies_within_an_outline_is_kept_and_a_rim_around_it() -> None:
    inside = inside_outline([(20, 20), (60, 20), (60, 60), (20, 60)], (100, 80))
    assert inside.shape == (80, 100)
    assert inside[20:61, 20:61].all()
    assert inside[19, 40]
    assert not inside[:16].any()
    assert not inside[:, 66:].any()
    assert inside_outline([(1, 1), (2, 2)], (5, 4)).all()


def test_only_the_cell_nearest_to_the_centre_is_kept() -> None:
    pixels = picture_of_one()
    inside = central_cell(pixels)
    assert inside[55:108, 55:108].mean() > 0.95
    assert not inside[:20, :20].any()
    assert not inside[-20:, -20:].any()
    painted = painted_over(pixels, inside)
    assert (painted[~inside] == GROUND_LEVEL).all()
    assert np.array_equal(painted[inside], pixels[inside])
    assert central_cell(np.full((50, 70, 3), 240, dtype=np.uint8)).all(), "where there is no cell all of it is kept"


def test_what_lies_around_a_cell_does_not_reach_the_network() -> None:
    place = central_cell(picture_of_one()).astype(np.uint8) * 255
    images = [np.dstack([picture_of_one(around), place]) for around in ((230, 190, 180), (250, 120, 120))]
    assert np.array_equal(*(plain_view(image, SPEC) for image in images))
    assert not np.array_equal(*(plain_view(image, SPEC.as_photographed) for image in images))
    found = [plain_view(image[..., :3], SPEC).astype(int) for image in images]  # the cell is sought in each for itself
    assert np.abs(found[0] - found[1]).mean() < 3


def test_the_fourth_channel_says_where_the_cell_is() -> None:
    pixels = np.dstack([picture_of_one(), np.zeros((160, 160), dtype=np.uint8)])
    pixels[40:80, 40:80, 3] = 255
    masked = remedied(pixels, Remedies(background="mask")).pixels
    assert np.array_equal(masked[40:80, 40:80], pixels[40:80, 40:80, :3])
    assert (masked[:40] == GROUND_LEVEL).all()
    plain = remedied(pixels, Remedies())
    assert np.array_equal(plain.pixels, pixels[..., :3])


@pytest.mark.parametrize("norm", ["macenko", "reinhard"])
def test_the_background_has_its_level_whatever_is_done_to_colours(norm) -> None:
    masked = remedied(picture_of_one(), Remedies(background="mask", stain_norm=norm, stain_target=_target(norm)))
    assert masked.stain is None
    assert (masked.pixels[:20, :20] == GROUND_LEVEL).all()
    assert not (masked.pixels[80, 80] == picture_of_one()[80, 80]).all()


def _target(norm: str) -> tuple[float, ...]:
    from leukemia_cli.vision.stains import TARGETS

    return TARGETS[norm]


def test_novelty_is_told_by_the_image_as_it_was_photographed() -> None:
    assert SPEC.as_photographed.remedies == Remedies()
    look = look_at(picture_of_one(), SPEC)
    assert not np.array_equal(look.view, look.as_photographed)
    assert np.array_equal(look.as_photographed, plain_view(picture_of_one(), SPEC.as_photographed))
    open_spec = SPEC.as_photographed
    same = look_at(picture_of_one(), open_spec)
    assert same.view is same.as_photographed
    marks = Preprocessing(
        input_size_px=64, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear", fit="pad",
        remedies=Remedies(mask_marks=True, stain_norm="reinhard", tiles=4),
    )  # fmt: skip
    assert marks.as_photographed.remedies == Remedies(mask_marks=True, tiles=4)


def test_crops_of_a_photograph_know_where_their_cell_is_and_survive_a_file() -> None:
    field = draw_field("ALL", draw_patient("ALL", 0), np.random.default_rng(0), 500, 400)
    pixels = np.asarray(field.convert("RGB"))
    found = cut(pixels, Cutting(), "field")
    assert found.cells
    for each in found.cells:
        assert each.seen.shape == (160, 160, 4)
        share = (each.seen[..., 3] > 127).mean()
        assert 0.02 < share < 0.9
        buffer = io.BytesIO()
        Image.fromarray(each.seen).save(buffer, format="PNG")
        assert np.array_equal(np.asarray(Image.open(buffer)), each.seen), "what is transparent keeps its colours"
    centres = [each.seen[80, 80, 3] for each in found.cells if each.cell is not None and not each.cell.at_border]
    assert np.mean(np.array(centres) > 127) > 0.8
