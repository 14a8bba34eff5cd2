"""Two tints of one smear come closer together, and what cannot be fitted stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from leukemia_cli.vision.drawing import KINDS, draw_field, draw_patient
from leukemia_cli.vision.stains import GROUND, TARGETS, fit_stain

METHODS = ("macenko", "reinhard")


def smear(kind: str = "ALL", number: int = 0) -> np.ndarray:
    field = draw_field(kind, draw_patient(kind, number), np.random.default_rng(number))
    return np.array(Image.fromarray(np.asarray(field)).convert("RGB").resize((160, 160)))


def tinted(pixels: np.ndarray, strength: tuple[float, float, float], light: tuple[float, float, float]) -> np.ndarray:
    """Change density and light of each channel, as another stain and lamp do."""
    density = -np.log((pixels.astype(float) + 1) / 256) * strength
    return (256 * np.exp(-density) * light - 1).clip(0, 255).round().astype(np.uint8)


def normalised(pixels: np.ndarray, method: str) -> np.ndarray:
    shift = fit_stain(pixels, method, TARGETS[method])
    assert shift is not None
    return shift.apply(pixels)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_tints_come_closer(method: str, kind: str) -> None:
    plain = smear(kind)
    other = tinted(plain, (1.25, 0.8, 1.1), (0.95, 0.9, 0.8))
    before = apart(plain, other)
    after = apart(normalised(plain, method), normalised(other, method))
    assert before > 10 and after < 0.5 * before


@pytest.mark.parametrize("method", METHODS)
def test_twice_is_about_once(method: str) -> None:
    for number in range(3):
        pixels = tinted(smear("HTL", number), (1.2, 0.9, 1.0), (0.9, 0.95, 0.85))
        once = normalised(pixels, method)
        assert apart(normalised(once, method), once) < 0.35 * apart(once, pixels)


def test_the_ground_comes_to_its_number() -> None:
    shifted = normalised(tinted(smear(), (1, 1, 1), (0.9, 0.8, 0.7)), "macenko")
    assert np.abs(np.percentile(shifted.reshape(-1, 3), 95, axis=0) - GROUND).max() <= 6


def test_statistics_come_to_their_numbers() -> None:
    """The means and spreads of the result, measured anew by the published matrices, are the target's."""
    shifted = normalised(tinted(smear(), (0.9, 1, 1), (0.97, 0.9, 0.9)), "reinhard").reshape(-1, 3)
    lms = (shifted + 1) / 256 @ np.array([[0.3811, 0.1967, 0.0241], [0.5783, 0.7244, 0.1288], [0.0402, 0.0782, 0.8444]])
    long, medium, short = np.log10(lms).T
    axes = [(long + medium + short) / 3**0.5, (long + medium - 2 * short) / 6**0.5, (long - medium) / 2**0.5]
    assert np.allclose([a.mean() for a in axes], TARGETS["reinhard"][:3], atol=0.02)
    assert np.allclose([a.std() for a in axes], TARGETS["reinhard"][3:], atol=0.02)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("colour", [(0, 0, 0), (240, 236, 230), (255, 255, 255), (120, 60, 150)])
def test_an_image_of_one_colour_has_no_way(method: str, colour: tuple[int, int, int]) -> None:
    assert fit_stain(np.full((50, 40, 3), colour, np.uint8), method, TARGETS[method]) is None


def test_a_stain_alone_has_only_its_ground_set() -> None:
    """Where all that absorbs is of one direction, Macenko has nothing to take apart."""
    pixels = np.full((64, 64, 3), (230, 220, 210), np.uint8)
    amount = np.random.default_rng(0).uniform(0.3, 1.5, (20, 64, 1))
    pixels[:20] = (pixels[:20] * np.exp(-amount * [0.6, 0.7, 0.3])).round()
    shifted = normalised(pixels, "macenko")
    expected = (pixels.astype(float) + 1) / (np.array([230, 220, 210]) + 1) * (GROUND + 1) - 1
    assert np.abs(shifted - expected).max() <= 1


def test_nothing_is_asked_for() -> None:
    assert fit_stain(smear(), "none", ()) is None


@pytest.mark.parametrize("method", METHODS)
def test_what_does_not_fit_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="numbers"):
        fit_stain(smear(), method, (1.0, 2.0))
    with pytest.raises(ValueError, match="uint8"):
        fit_stain(np.zeros((4, 4, 3)), method, TARGETS[method])


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24), st.just(3))), st.sampled_from(METHODS))
def test_any_image_gives_an_image_and_the_same_one_each_time(pixels: np.ndarray, method: str) -> None:
    shift = fit_stain(pixels, method, TARGETS[method])
    if shift is not None:
        shifted = shift.apply(pixels)
        assert shifted.shape == pixels.shape and shifted.dtype == np.uint8
        again = fit_stain(pixels.copy(), method, TARGETS[method])
        assert again is not None and np.array_equal(again.apply(pixels), shifted)
