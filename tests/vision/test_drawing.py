"""Drawn smears are reproducible, small, honest about what they are, and tell the class by shape and not by colour."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from leukemia_cli.errors import UsageError
from leukemia_cli.vision.drawing import draw_field, draw_patient
from leukemia_cli.vision.drawn_kinds import KINDS
from leukemia_cli.vision.sample_set import SampleSet, write_sample_images

COMMITTED = Path(__file__).parents[2] / "sample_images"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pixels(path: Path) -> NDArray[np.float64]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float64)


@pytest.fixture(scope="module")
def default_set(tmp_path_factory: pytest.TempPathFactory) -> SampleSet:
    return write_sample_images(tmp_path_factory.mktemp("drawn") / "set")


@pytest.fixture
def no_slide(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slide costs more than twenty fields; the tests of files need none of its pixels."""
    monkeypatch.setattr("leukemia_cli.vision.sample_set._draw_slide", lambda seed: b"slide %d" % seed)


def test_default_set_has_its_layout_and_fits_three_megabytes(default_set: SampleSet) -> None:
    files = contents(default_set.root)
    expected = {
        f"{kind}/{kind.lower()}-patient-{patient:02}/field-{image:02}.jpg"
        for kind in KINDS
        for patient in range(1, 7)
        for image in range(1, 5)
    }
    assert set(files) == expected | {"slide.png", "README.md"}
    assert {path.relative_to(default_set.root).as_posix() for path in default_set.images} == expected
    assert sum(len(content) for content in files.values()) <= 3_000_000
    assert len(files["slide.png"]) <= 700_000


def test_nothing_but_pixels_differs_between_fields(default_set: SampleSet) -> None:
    seen = set()
    for path in default_set.images:
        with Image.open(path) as image:
            tables = tuple(tuple(table) for table in image.quantization.values())
            seen.add((image.size, image.mode, image.format, tables))
    assert len(seen) == 1
    assert next(iter(seen))[:3] == ((224, 224), "RGB", "JPEG")


def test_readme_says_that_they_are_drawn(default_set: SampleSet) -> None:
    text = default_set.readme.read_text(encoding="utf-8")
    assert "drawn by a program, not photographed" in text
    assert "leuk sample-images OUT --patients 6 --seed 0" in text


def test_committed_images_are_what_is_drawn_today(default_set: SampleSet) -> None:
    committed = {path.relative_to(COMMITTED) for path in COMMITTED.rglob("*") if path.is_file()}
    assert committed == {Path(name) for name in contents(default_set.root)}
    assert (COMMITTED / "README.md").read_text(encoding="utf-8") == default_set.readme.read_text(encoding="utf-8")
    for path in (*default_set.images, default_set.slide):
        # Another build of Pillow's coder or of numpy's exp may round a pixel otherwise; a changed drawing moves edges.
        difference = np.abs(pixels(path) - pixels(COMMITTED / path.relative_to(default_set.root)))
        assert difference.mean() < 1.0, path.name


@pytest.mark.usefixtures("no_slide")
def test_same_seed_same_bytes_however_many_patients(tmp_path: Path, default_set: SampleSet) -> None:
    write_sample_images(tmp_path / "few", patients_per_class=1, images_per_patient=2, seed=0)
    many = contents(default_set.root)
    few = {name: content for name, content in contents(tmp_path / "few").items() if name.endswith(".jpg")}
    assert len(few) == 2 * len(KINDS)
    assert all(many[name] == content for name, content in few.items())


def test_another_seed_draws_other_patients() -> None:
    assert draw_patient("ALL", 1, seed=0) == draw_patient("ALL", 1, seed=0)
    assert draw_patient("ALL", 1, seed=0) != draw_patient("ALL", 1, seed=1)
    assert draw_patient("ALL", 1, seed=0) != draw_patient("AML", 1, seed=0)


@pytest.mark.usefixtures("no_slide")
def test_drawing_again_into_its_own_folder_changes_nothing(tmp_path: Path) -> None:
    first = write_sample_images(tmp_path, patients_per_class=1, images_per_patient=1)
    before = contents(tmp_path)
    first.images[0].unlink()
    write_sample_images(tmp_path, patients_per_class=1, images_per_patient=1)
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("no_slide")
@pytest.mark.parametrize("name", ["notes.txt", "ALL/all-patient-01/mine.jpg", "README.md", "slide.png"])
def test_refuses_a_folder_with_files_that_it_did_not_draw(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"mine")
    with pytest.raises(UsageError) as refusal:
        write_sample_images(tmp_path, patients_per_class=1, images_per_patient=1)
    assert Path(name).name in refusal.value.problem
    assert contents(tmp_path) == {name: b"mine"}


def test_refuses_a_file_as_folder_and_senseless_numbers(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(UsageError, match="is a file"):
        write_sample_images(tmp_path / "file")
    with pytest.raises(UsageError, match="0 patients"):
        write_sample_images(tmp_path / "new", patients_per_class=0)
    with pytest.raises(UsageError, match="seed -1"):
        write_sample_images(tmp_path / "new", seed=-1)
    with pytest.raises(UsageError, match="'APL'"):
        draw_patient("APL", 1)
    assert not (tmp_path / "new").exists()


def test_any_width_and_height_can_be_drawn() -> None:
    patient = dataclasses.replace(draw_patient("CML", 3), jpeg_quality=None)
    field = draw_field("CML", patient, np.random.default_rng(0), 70, 45)
    assert (field.size, field.mode) == ((70, 45), "RGB")


def colour_statistics(image: Image.Image) -> NDArray[np.float64]:
    """Mean, deviation and seven percentiles of each channel: (27,)."""
    channels = np.asarray(image, np.float64).reshape(-1, 3)
    percentiles = np.percentile(channels, [1, 5, 25, 50, 75, 95, 99], axis=0)
    return np.concatenate([channels.mean(axis=0), channels.std(axis=0), percentiles.ravel()])


def test_colour_statistics_hardly_tell_the_class() -> None:
    # 12 patients a class, 2 fields each. The bounds are chance plus two standard errors where the patient is the unit:
    # five classes 0.20 + 2 * sqrt(0.2 * 0.8 / 60) = 0.30; two classes 0.50 + 2 * sqrt(0.25 / 24) = 0.70.
    statistics, labels, groups = [], [], []
    for kind in KINDS:
        for number in range(1, 13):
            patient = draw_patient(kind, number)
            for image in range(2):
                field = draw_field(kind, patient, np.random.default_rng([KINDS.index(kind), number, image]))
                statistics.append(colour_statistics(field))
                labels.append(kind)
                groups.append(f"{kind} {number}")
    x, y, g = np.array(statistics), np.array(labels), np.array(groups)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    for kinds, bound in ((KINDS, 0.30), (("ALL", "HTL"), 0.70)):
        kept = np.isin(y, kinds)
        scores = []
        for repeat in range(3):
            folds = StratifiedGroupKFold(4, shuffle=True, random_state=repeat)
            guessed = cross_val_predict(model, x[kept], y[kept], groups=g[kept], cv=folds)
            scores.append(balanced_accuracy_score(y[kept], guessed))
        assert np.mean(scores) < bound, (kinds, scores)
