"""Every box is to be seen where its cell is, its class is told without colour, and the legend counts it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from leukemia_cli.vision.overviews import CLASS_COLOURS, class_colour, gallery, overview

GREY = 120


def ground(height: int = 200, width: int = 300) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def coloured(pixels: np.ndarray, index: int) -> np.ndarray:
    return (pixels == np.array(class_colour(index))).all(axis=2)


def test_a_box_is_drawn_round_its_cell_in_the_colour_of_its_class() -> None:
    before = ground()
    drawn = overview(before, [(1000, 400, 400, 300, 1)], 0.1, ("a", "b"))
    marked = np.argwhere(coloured(drawn[:200], 1))
    assert marked.min(axis=0) == pytest.approx([40, 100], abs=2)
    assert marked.max(axis=0) == pytest.approx([70, 140], abs=2)
    assert (drawn[44:66, 104:136] == GREY).all()
    assert (before == GREY).all()


def test_a_white_line_lies_under_every_colour() -> None:
    for level in (0, 128):
        dark = np.full((100, 100, 3), level, np.uint8)
        drawn = overview(dark, [(20, 20, 60, 60, 0)], 1.0, ("a",))[:100]
        white = (drawn == 255).all(axis=2)
        for row, column in np.argwhere(coloured(drawn, 0)):
            assert white[max(0, row - 3) : row + 4, max(0, column - 3) : column + 4].any()


@pytest.mark.parametrize("place", [(0, 0), (39_990, 19_990), (39_990, 0), (20_000, 10_000)])
def test_the_cell_of_a_gigapixel_slide_is_seen_and_stays_on_the_picture(place: tuple[int, int]) -> None:
    drawn = overview(ground(), [(*place, 10, 10, 0)], 300 / 40_000, ("a",))[:200]
    marked = np.argwhere(coloured(drawn, 0))
    assert len(marked) >= 20
    centre = marked.mean(axis=0)
    assert np.abs(centre - np.array([place[1], place[0]]) * 300 / 40_000).max() < 6


def test_classes_differ_by_their_line_alone() -> None:
    """Of each class's box, the drawn part of one side is another pattern."""
    patterns = []
    for index in range(7):
        names = [str(number) for number in range(7)]
        drawn = overview(ground(), [(50, 50, 200, 100, index)], 1.0, names)[:200]
        patterns.append(tuple(coloured(drawn, index)[50:53, 60:240].any(axis=0)))
    assert all(one != other for one, other in itertools.combinations(patterns, 2))
    assert all(patterns[0])


def test_colours_are_apart_also_for_those_who_see_two_primaries_less_well() -> None:
    """Colours are simulated as deuteranopes and protanopes see them. Source: Viénot, Brettel and Mollon 1999."""
    linear = (np.array(CLASS_COLOURS) / 255.0) ** 2.2
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    protan = np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]])
    deutan = np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])
    for kind in (protan, deutan):
        seen = (linear @ (np.linalg.inv(to_lms) @ kind @ to_lms).T).clip(0, 1) ** (1 / 2.2) * 255
        for (one, a), (other, b) in itertools.combinations(enumerate(seen), 2):
            distance = np.linalg.norm(a - b)
            assert distance > 35, (one, other, distance)


def test_the_legend_lies_below_and_grows_with_the_classes() -> None:
    names = [f"class {number}" for number in range(9)]
    few = overview(ground(), [(10, 10, 50, 50, 0)], 1.0, names[:1])
    many = overview(ground(), [(10, 10, 50, 50, 0)], 1.0, names)
    assert 200 < len(few) < len(many) and few.shape[1] == many.shape[1] == 300
    assert coloured(few[200:], 0).any()
    other = overview(ground(), [(10, 10, 50, 50, 0)] * 2, 1.0, names[:1])
    assert not np.array_equal(few[200:], other[200:])
    assert overview(ground(), [], 1.0, ()).shape == (200, 300, 3)
    assert overview(ground(40, 20), [], 1.0, ("a very long name of a class",)).shape[1] > 100


def test_names_in_any_script_are_drawn_or_replaced() -> None:
    assert overview(ground(), [], 1.0, ("白血病", "ünreif\n")).shape[2] == 3


@pytest.mark.parametrize("index", [-1, 2])
def test_a_class_without_a_name_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="named are 2"):
        overview(ground(), [(0, 0, 5, 5, index)], 1.0, ("a", "b"))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="is no scale"):
        overview(ground(), [], scale, ())


def test_many_boxes_leave_the_same_bytes_each_time() -> None:
    rng = np.random.default_rng(0)
    boxes = [(*map(float, rng.uniform(0, 250, 4)), int(rng.integers(3))) for _ in range(2_000)]
    first = overview(ground(), boxes, 1.0, ("a", "b", "c"))
    assert np.array_equal(first, overview(ground(), boxes, 1.0, ("a", "b", "c")))


# ----------------------------------------------------------------------------------------------------------- gallery


def test_each_crop_lies_in_its_place_in_its_shape() -> None:
    colours = ((200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0))
    crops = [np.full((50, 100, 3), colour, np.uint8) for colour in colours]
    sheet = gallery(crops, ["one", "two", "three", "four"], columns=3, side_px=80)
    corners = []
    for colour in colours:
        marked = np.argwhere((sheet == np.array(colour)).all(axis=2))
        height, width = np.ptp(marked, axis=0) + 1
        assert (height, width) == (40, 80)
        corners.append(tuple(marked.min(axis=0)))
    assert len({row for row, _ in corners[:3]}) == 1 and corners[3][0] > corners[0][0] + 80
    assert corners[0][1] < corners[1][1] < corners[2][1] and corners[3][1] == corners[0][1]


def test_captions_are_written_below_and_kept_within_their_crop() -> None:
    crop = np.full((80, 80, 3), 255, np.uint8)
    long = gallery([crop, crop], ["a caption that is far too long for it " * 3, ""], columns=2, side_px=80)
    assert (long[8:88] == 255).all()
    written = (long[90:] < 200).any(axis=(0, 2))
    assert written[8:88].any() and not written[90:].any()
    two = gallery([crop], ["ALL\n0.98\nlost"], side_px=80)
    assert (two[90:104] < 200).any() and (two[106:118] < 200).any()


@pytest.mark.parametrize(("count", "captions", "columns"), [(0, 0, 3), (2, 1, 3), (1, 1, 0)])
def test_a_gallery_of_nothing_is_refused(count: int, captions: int, columns: int) -> None:
    with pytest.raises(ValueError, match="make no gallery"):
        gallery([ground()] * count, ["a"] * captions, columns=columns)


def test_a_colour_belongs_to_a_place_and_not_to_a_number_of_classes() -> None:
    assert class_colour(1) == class_colour(1 + len(CLASS_COLOURS)) != class_colour(2)
    with pytest.raises(ValueError, match="no place -1"):
        class_colour(-1)
