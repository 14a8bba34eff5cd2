from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from leukemia_cli.data import hypotheses, patch_tables
from leukemia_cli.data.duplicates import SURE_LIKENESS, capture_bursts, clusters, find_near
from leukemia_cli.data.likeness import LEAST_LIKENESS, NearPair
from leukemia_cli.vision.decode import decode
from leukemia_cli.vision.drawing import KINDS, draw_field, draw_patient
from leukemia_cli.vision.fingerprints import RECORD, Fingerprint, capture_facts, describe, packed
from leukemia_cli.vision.records import RecordFile, RecordWriter

FIELDS = 8


def drawn(number: int) -> Image.Image:
    """Fields of few patients: equal stain and alike cells."""
    kind = KINDS[number % 5]
    return draw_field(kind, draw_patient(kind, 0), np.random.default_rng([3, number]))


def told(image: Image.Image) -> Fingerprint:
    return describe(np.asarray(image.convert("RGB")))


def near_in(prints: list[Fingerprint]) -> list[NearPair]:
    return find_near(packed(prints))


@dataclass(frozen=True)
class Album:
    images: list[Image.Image]
    prints: list[Fingerprint]


@pytest.fixture(scope="module")
def album() -> Album:
    images = [drawn(number) for number in range(FIELDS)]
    return Album(images, [told(image) for image in images])


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def crop(image: Image.Image, share: float, left: float = 0.5, top: float = 0.5) -> Image.Image:
    side = round(224 * share**0.5)
    x, y = round((224 - side) * left), round((224 - side) * top)
    return image.crop((x, y, x + side, y + side))


WHOLE = {
    "jpeg": lambda i: jpeg(i, 30),
    "mirrored": lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "upside down": lambda i: i.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    "turned": lambda i: i.transpose(Image.Transpose.ROTATE_90),
    "turned back": lambda i: i.transpose(Image.Transpose.ROTATE_270),
    "half turned": lambda i: i.transpose(Image.Transpose.ROTATE_180),
    "transposed": lambda i: i.transpose(Image.Transpose.TRANSPOSE),
    "transversed": lambda i: i.transpose(Image.Transpose.TRANSVERSE),
    "darker": lambda i: ImageEnhance.Brightness(i).enhance(0.8),
    "flatter": lambda i: ImageEnhance.Contrast(i).enhance(0.8),
    "smaller": lambda i: i.resize((112, 112), Image.Resampling.BICUBIC),
    "wider": lambda i: i.resize((300, 224), Image.Resampling.BICUBIC),
}
PARTS = {
    "75 %": lambda i: crop(i, 0.75),
    "75 % in a corner, resized": lambda i: crop(i, 0.75, 1, 0).resize((224, 224), Image.Resampling.BICUBIC),
    "50 % at a side": lambda i: crop(i, 0.5, 0.2, 0.9),
    "60 %, mirrored, jpeg": lambda i: jpeg(crop(i, 0.6, 0, 0.3).transpose(Image.Transpose.FLIP_LEFT_RIGHT), 60),
    "60 %, turned": lambda i: crop(i, 0.6, 0.8, 0.3).transpose(Image.Transpose.ROTATE_90),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_copy_of_the_whole_is_found_and_nothing_else(album: Album, kind: str) -> None:
    pairs = near_in(album.prints + [told(WHOLE[kind](image)) for image in album.images])
    assert [(pair.first, pair.second) for pair in pairs] == [(row, row + FIELDS) for row in range(FIELDS)]
    assert {pair.kind for pair in pairs} == {"whole"}


@pytest.mark.parametrize("kind", PARTS)
def test_a_crop_is_found_and_nothing_else(album: Album, kind: str) -> None:
    pairs = near_in(album.prints + [told(PARTS[kind](image)) for image in album.images])
    found = {(pair.first, pair.second) for pair in pairs}
    true = {(row, row + FIELDS) for row in range(FIELDS)}
    assert found <= true
    assert len(found) >= FIELDS - 1
    assert {pair.kind for pair in pairs} == {"crop"}


def test_fields_that_overlap_are_found(album: Album) -> None:
    left = [told(image.crop((0, 0, 160, 224))) for image in album.images]
    right = [told(image.crop((64, 0, 224, 224))) for image in album.images]
    found = {(pair.first, pair.second, pair.kind) for pair in near_in(left + right)}
    assert found <= {(row, row + FIELDS, "crop") for row in range(FIELDS)}
    assert len(found) >= FIELDS - 1


def test_files_and_buckets_change_nothing(album: Album, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = [told(crop(image, 0.7)) for image in album.images]
    prints = packed(album.prints + copies + [told(drawn(number)) for number in range(100, 140)])
    held = find_near(prints)
    assert len(held) >= FIELDS - 1
    with RecordWriter(tmp_path / "prints", RECORD) as writer:
        writer.add(prints)
    monkeypatch.setattr(patch_tables, "_BUCKET", 500)
    monkeypatch.setattr(patch_tables, "_CHUNK", 50)
    monkeypatch.setattr(hypotheses, "_IMAGES_AT_ONCE", 7)
    monkeypatch.setattr(hypotheses, "_SQUARES_AT_ONCE", 50)
    (tmp_path / "scratch").mkdir()
    with RecordFile(tmp_path / "prints", RECORD) as kept:
        assert find_near(kept, scratch=tmp_path / "scratch") == held
    assert list((tmp_path / "scratch").iterdir()) == []


def test_of_two_sides_only_pairs_across_are_told(album: Album) -> None:
    copies = [told(WHOLE["mirrored"](image)) for image in album.images]
    own = packed([*album.prints, copies[0]])
    pairs = find_near(np.concatenate([own, packed(copies)]), own=len(own))
    told_pairs = {(pair.first, pair.second) for pair in pairs}
    assert told_pairs == {(row, row + len(own)) for row in range(FIELDS)} | {(FIELDS, len(own))}


def test_rows_to_skip_are_in_no_pair(album: Album) -> None:
    copies = [told(WHOLE["mirrored"](image)) for image in album.images]
    pairs = find_near(packed(album.prints + copies), skip=(0, FIELDS + 3))
    assert {pair.first for pair in pairs} == set(range(FIELDS)) - {0, 3}


def clipped(image: Image.Image, white: int) -> Image.Image:
    """Brighten till all above `white` is one white."""
    return image.point([min(255, round(value * 255 / white)) for value in range(256)] * 3)


def test_a_copy_whose_ground_is_driven_to_white_is_found_and_its_neighbours_are_not() -> None:
    patient = draw_patient("ALL", 0)
    images = [draw_field("ALL", patient, np.random.default_rng([9, number])) for number in range(12)]
    for image in images:
        green = np.asarray(image)[..., 1]
        assert (green >= np.quantile(green, 0.45)).mean() >= 0.5
    bright = [told(clipped(image, int(np.quantile(np.asarray(image)[..., 1], 0.45)))) for image in images]
    pairs = find_near(packed([told(image) for image in images] + bright))
    assert [(pair.first, pair.second) for pair in pairs] == [(row, row + 12) for row in range(12)]


def test_different_fields_of_one_patient_are_no_copies() -> None:
    patient = draw_patient("ALL", 0)
    fields = [draw_field("ALL", patient, np.random.default_rng([9, number])) for number in range(20)]
    assert near_in([told(field) for field in fields]) == []


def cell(number: int) -> Image.Image:
    """One cell in the middle of an empty ground, its outline and grain its own."""
    rng = np.random.default_rng([5, number])
    y, x = np.mgrid[:96, :96] - 47.5
    angle = np.arctan2(y, x)
    outline = 24 + sum(rng.normal(0, 1.2) * np.cos(k * angle + rng.uniform(0, 6.28)) for k in range(1, 6))
    inside = 1 / (1 + np.exp(np.hypot(x, y) - outline))
    grain = np.asarray(Image.fromarray(rng.normal(0, 1, (24, 24)).astype(np.float32)).resize((96, 96)))
    grey = 225 - inside * (110 + 12 * grain) + rng.normal(0, 2, (96, 96))
    return Image.fromarray(np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2))


def test_cells_in_the_middle_of_an_empty_ground_are_no_copies() -> None:
    cells = [cell(number) for number in range(40)]
    copies = [jpeg(one, 70).transpose(Image.Transpose.ROTATE_90) for one in cells[:10]]
    pairs = near_in([told(one) for one in cells + copies])
    assert [(pair.first, pair.second) for pair in pairs] == [(row, row + 40) for row in range(10)]


def test_empty_images_are_no_copies(album: Album) -> None:
    blank = told(Image.new("RGB", (224, 224), (230, 225, 220)))
    assert near_in([blank, blank, album.prints[0], blank]) == []
    assert near_in([]) == near_in([blank]) == []


def test_every_copy_of_many_is_in_one_set(album: Album) -> None:
    copies = [told(jpeg(album.images[0], quality)) for quality in range(30, 90, 3)]
    assert clusters(near_in(album.prints + copies), FIELDS + 20) == [(0, *range(FIELDS, FIELDS + 20))]


def test_the_same_images_give_the_same_pairs_in_any_company(album: Album) -> None:
    prints = [*album.prints, told(crop(album.images[2], 0.6)), told(jpeg(album.images[4], 40))]
    pairs = near_in(prints)
    assert near_in(prints) == pairs
    alone = near_in([prints[2], prints[FIELDS]])
    assert [(p.kind, p.likeness) for p in alone] == [(p.kind, p.likeness) for p in pairs if p.first == 2]
    assert [(p.first, p.second) for p in pairs] == [(2, FIELDS), (4, FIELDS + 1)]


def test_likeness_falls_with_damage_and_is_at_most_one(album: Album) -> None:
    image = album.images[0]
    clean, spoiled = (
        near_in([album.prints[0], told(copy)])[0].likeness
        for copy in (image.copy(), jpeg(ImageEnhance.Contrast(image).enhance(0.3), 20))
    )
    assert LEAST_LIKENESS <= spoiled < clean <= 1


# ---------------------------------------------------------------------------------- sets


def pair(first: int, second: int, likeness: float = 0.99) -> NearPair:
    return NearPair(first=first, second=second, kind="whole", likeness=likeness)


def test_sets_on_paper() -> None:
    assert clusters([pair(1, 2), pair(2, 5), pair(3, 4)], 7) == [(1, 2, 5), (3, 4)]
    assert clusters([], 3) == []


def test_one_unsure_pair_does_not_chain_two_sets() -> None:
    triples = [pair(0, 1), pair(1, 2), pair(3, 4), pair(4, 5)]
    unsure = SURE_LIKENESS - 0.01
    assert clusters([*triples, pair(2, 3, unsure)], 6) == [(0, 1, 2), (3, 4, 5)]
    assert clusters([*triples, pair(2, 3, unsure), pair(1, 4, unsure)], 6) == [(0, 1, 2, 3, 4, 5)]
    assert clusters([*triples, pair(2, 3, SURE_LIKENESS)], 6) == [(0, 1, 2, 3, 4, 5)]
    assert clusters([*triples[:3], pair(2, 3, unsure)], 6) == [(0, 1, 2, 3, 4)]


def test_unsure_pairs_count_between_sets_that_grew_meanwhile() -> None:
    unsure = [pair(2, 3, 0.85), pair(6, 8, 0.84), pair(0, 8, 0.82)]
    sets = [pair(0, 1), pair(1, 2), pair(3, 4), pair(4, 5), pair(6, 7), pair(3, 6, 0.86)]
    assert clusters([*sets, *unsure], 9) == [(0, 1, 2, 3, 4, 5, 6, 7, 8)]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.floats(LEAST_LIKENESS, 1)), max_size=20),
    st.randoms(use_true_random=False),
)
def test_sets_do_not_depend_on_the_order_of_pairs(drawn_pairs: list[tuple[int, int, float]], random: object) -> None:
    pairs = [pair(min(a, b), max(a, b), likeness) for a, b, likeness in drawn_pairs if a != b]
    shuffled = list(pairs)
    random.shuffle(shuffled)
    sets = clusters(pairs, 10)
    assert clusters(shuffled, 10) == sets
    rows = [row for one in sets for row in one]
    assert len(rows) == len(set(rows))
    assert all(len(one) > 1 and list(one) == sorted(one) for one in sets)
    sure = [p for p in pairs if p.likeness >= SURE_LIKENESS]
    assert all(any(p.first in one and p.second in one for one in sets) for p in sure)


# ---------------------------------------------------------------------------------- bursts


def test_bursts_on_paper() -> None:
    times = ["2005:09:06 10:00:00", "2005:09:06 10:04:00", "2005:09:06 10:02:00", "2005:09:06 10:06:01", None, "soon"]
    assert capture_bursts(times, ["a"] * 6) == [(0, 2, 1)]
    assert capture_bursts(times, ["a"] * 6, gap_s=121) == [(0, 2, 1, 3)]
    assert capture_bursts(times, ["a", "a", "b", "a", "", ""], gap_s=121) == [(1, 3)]
    assert capture_bursts(times, ["a"] * 6, gap_s=60) == []


def test_bursts_need_a_camera_each() -> None:
    with pytest.raises(ValueError, match="zip"):
        capture_bursts(["2005:09:06 10:00:00"], [])


# ---------------------------------------------------------------------------------- real images


def test_real_cells_of_different_patients_are_no_copies(real_images: Callable[[str], Path]) -> None:
    place = real_images("AML_cells")
    with (place / "labels.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))[::10]
    prints = [describe(decode(place / row["path"]).pixels) for row in rows]
    copies = [told(crop_of(place / row["path"])) for row in rows[::12]]
    pairs = near_in(prints + copies)
    assert {(12 * n, len(rows) + n) for n in range(len(copies))} <= {(p.first, p.second) for p in pairs}
    patients = [row["patient"] for row in rows + rows[::12]]
    assert all(patients[p.first] == patients[p.second] for p in pairs)


def crop_of(path: Path) -> Image.Image:
    image = Image.fromarray(decode(path).pixels)
    return jpeg(image.crop((30, 10, 330, 320)).transpose(Image.Transpose.ROTATE_90), 60)


def test_the_file_that_is_twice_in_all_idb1_is_found(real_images: Callable[[str], Path]) -> None:
    names = ["Im092_0.jpg", "Im093_0.jpg", "Im108_0.jpg", "Im036_0.jpg"]
    contents = [(real_images("ALL_IDB1") / "im" / name).read_bytes() for name in names]
    pairs = near_in([describe(decode(content).pixels) for content in contents])
    assert [(p.first, p.second, p.kind, p.likeness) for p in pairs] == [(1, 2, "whole", 1)]
    facts = [capture_facts(content) for content in contents]
    assert capture_bursts([taken for taken, _ in facts], [camera for _, camera in facts]) == [(0, 1, 2)]
