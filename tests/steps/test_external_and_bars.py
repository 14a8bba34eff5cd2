"""evaluate on images from elsewhere, with bars, doubt, curves and pages; and the pages made again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukemia_cli.data.manifest import PRINTS
from leukemia_cli.errors import DataError, UsageError, WorkspaceError
from leukemia_cli.judging.bars import Bar
from leukemia_cli.learning.loading import load_classifier
from leukemia_cli.learning.machine import choose_machine
from leukemia_cli.learning.recipes import TrainSettings
from leukemia_cli.steps.classify import ClassifySettings, classify, open_classifier
from leukemia_cli.steps.evaluate import EvaluateSettings, evaluate, some_missed
from leukemia_cli.steps.prepare import PrepareSettings, prepare
from leukemia_cli.steps.report import report
from leukemia_cli.steps.train import train
from leukemia_cli.vision.drawing import draw_field, draw_patient
from leukemia_cli.vision.fingerprints import RECORD
from leukemia_cli.vision.records import RecordFile, RecordWriter
from leukemia_cli.workspace.folders import open_workspace
from leukemia_cli.workspace.runs import RunFolder, read_run_folder

TINY = TrainSettings(
    backbone="timm:test_resnet", variant="base", weights="none", input_size_px=64, device="cpu", workers=1, epochs=4,
    views=2, batch_size=8,
)  # fmt: skip
JUDGE = EvaluateSettings(resamples=40, device="cpu", workers=1)


@pytest.fixture(scope="module")
def dealt(tmp_path_factory: pytest.TempPathFactory, make_lab):
    lab = make_lab(tmp_path_factory.mktemp("dealt"), folds=3, groups=12, images=2)
    return lab, read_run_folder(train(lab.workspace, lab.manifest, TINY).folder)


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory, make_lab):
    splits = ("train", "train", "train", "val", "val", *["calib"] * 10, "test", "test")
    lab = make_lab(tmp_path_factory.mktemp("parted"), splits=splits)
    return lab, read_run_folder(train(lab.workspace, lab.manifest, TINY).folder)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory, painter) -> Path:
    """Another clinic's pictures: six patients a class, two pictures each."""
    root = tmp_path_factory.mktemp("clinic")
    for label, name in enumerate(("ALL", "HTL")):
        for patient in range(6):
            for image in range(2):
                painter(root / name / f"p{name}{patient}" / f"{image}.png", label, 9000 + 10 * patient + image, 48)
    return root


def test_images_from_elsewhere_are_judged_by_all_members_and_held_against_the_own_test(dealt, clinic) -> None:
    lab, run = dealt
    settings = dataclasses.replace(JUDGE, external=f"clinic={clinic}", group_by="parent")
    done = evaluate(lab.workspace, lab.manifest, run, settings)
    assert done.folder.name == f"{run.id}-external-clinic"
    facts = done.report
    assert (facts["external"], facts["images"], facts["groups"], facts["groups_source"]) == (
        "clinic",
        24,
        12,
        "filename",
    )
    assert facts["folds"] is None
    drop = facts["drop"]
    assert drop["external"] == facts["metrics"]["balanced_accuracy"]
    assert drop["internal"]["n"] == len(lab.manifest.samples)
    assert drop["difference"]["value"] == pytest.approx(drop["external"]["value"] - drop["internal"]["value"])
    classifier = load_classifier(run, choose_machine("cpu", 1))
    paths = [line.split(",")[0] for line in (done.folder / "predictions.csv").read_text().splitlines()[1:]]
    rows = list(classify(classifier, paths, ClassifySettings(device="cpu", workers=1)))
    stored = np.loadtxt(done.folder / "predictions.csv", delimiter=",", skiprows=1, usecols=(6, 7))
    assert np.allclose(stored, [row.scores for row in rows], atol=1e-6)
    page = (done.folder / "report.html").read_text()
    assert "clinic" in page


def test_without_the_runs_manifest_there_is_no_drop_and_that_is_said(dealt, clinic) -> None:
    lab, run = dealt
    settings = dataclasses.replace(JUDGE, external=f"elsewhere={clinic}", group_by="parent")
    facts = evaluate(lab.workspace, None, run, settings).report
    assert facts["drop"] is None
    assert any("not at hand" in warning for warning in facts["warnings"])


def test_an_external_image_that_the_run_was_made_from_is_refused(dealt) -> None:
    lab, run = dealt
    settings = dataclasses.replace(JUDGE, external=f"own={lab.pictures}", group_by="parent")
    with pytest.raises(DataError, match="also among the images that the run was made from"):
        evaluate(lab.workspace, lab.manifest, run, settings)


@pytest.fixture(scope="module")
def smears(tmp_path_factory: pytest.TempPathFactory):
    """A run made from drawn smears that were prepared as a user does; and another hospital's, one of them a copy."""
    root = tmp_path_factory.mktemp("smears")
    for kind in ("ALL", "HTL"):
        for number in range(8):
            place = root / ("other" if number >= 6 else "own") / kind / f"p{kind}{number}" / "1.png"
            place.parent.mkdir(parents=True)
            draw_field(kind, draw_patient(kind, number), np.random.default_rng(number)).save(place)
    copied = Image.open(root / "own" / "ALL" / "pALL2" / "1.png").convert("RGB")
    part = copied.crop((20, 10, 210, 200)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    part.save(root / "other" / "ALL" / "pALL6" / "2.jpg", quality=80)
    workspace = open_workspace(root / "w", create=True)
    settings = PrepareSettings(sources=(str(root / "own"),), task="binary", group_by="parent", folds=2, pictures=False)
    manifest = prepare(workspace, settings).manifest
    return root, workspace, manifest, read_run_folder(train(workspace, manifest, TINY).folder)


def test_an_external_image_that_is_nearly_one_of_the_runs_own_is_named_and_counted(smears) -> None:
    root, workspace, manifest, run = smears
    settings = dataclasses.replace(JUDGE, external=f"other={root / 'other'}", group_by="parent")
    facts = evaluate(workspace, manifest, run, settings).report
    assert facts["facts"]["near_copies"] == 1
    (said,) = [
        warning for warning in facts["warnings"] if "nearly the same as one that the run was made from" in warning
    ]
    assert said.startswith("1 image here")
    assert f"{root / 'other/ALL/pALL6/2.jpg'} and {root / 'own/ALL/pALL2/1.png'}" in said
    (root / "other" / "ALL" / "pALL6" / "2.jpg").unlink()
    again = evaluate(workspace, manifest, run, settings).report
    assert again["facts"]["near_copies"] == 0
    assert not any("nearly the same" in warning for warning in again["warnings"])


def test_without_kept_fingerprints_near_copies_are_said_not_to_have_been_looked_for(smears) -> None:
    root, workspace, manifest, run = smears
    kept = workspace.manifest_folder / PRINTS
    content = kept.read_bytes()
    settings = dataclasses.replace(JUDGE, external=f"other={root / 'other'}", group_by="parent")
    kept.unlink()
    facts = evaluate(workspace, manifest, run, settings).report
    assert facts["facts"]["near_copies"] is None
    assert any("were not looked for" in warning for warning in facts["warnings"])
    kept.write_bytes(content[:-1])
    with pytest.raises(WorkspaceError, match="cut off"):
        evaluate(workspace, manifest, run, settings)
    with rows_of(content, kept) as whole, RecordWriter(kept.with_name("fewer"), RECORD, whole.facts) as fewer:
        fewer.add(whole[0 : len(whole) - 1])
    kept.with_name("fewer").replace(kept)
    with pytest.raises(WorkspaceError, match="is not of this manifest"):
        evaluate(workspace, manifest, run, settings)
    kept.write_bytes(content)


def rows_of(content: bytes, path: Path) -> RecordFile:
    path.write_bytes(content)
    return RecordFile(path, RECORD)


@pytest.mark.parametrize("text", ["clinic", "=folder", "clinic=", "a/b=folder"])
def test_an_external_source_without_a_fit_name_is_refused(dealt, text: str) -> None:
    lab, run = dealt
    with pytest.raises(UsageError):
        evaluate(lab.workspace, lab.manifest, run, dataclasses.replace(JUDGE, external=text))


def test_a_broken_external_image_is_named_and_can_be_left_out(dealt, clinic, tmp_path) -> None:
    lab, run = dealt
    broken = tmp_path / "clinic"
    for name in ("ALL", "HTL"):
        (broken / name / "p1").mkdir(parents=True)
        source = next((clinic / name).rglob("*.png"))
        (broken / name / "p1" / "good.png").write_bytes(source.read_bytes())
    (broken / "ALL" / "p1" / "bad.png").write_bytes(b"no image")
    settings = dataclasses.replace(JUDGE, external=f"b={broken}", group_by="parent")
    with pytest.raises(DataError, match=r"bad\.png"):
        evaluate(lab.workspace, lab.manifest, run, settings)
    facts = evaluate(lab.workspace, lab.manifest, run, dataclasses.replace(settings, skip_bad=True)).report
    assert facts["images"] == 2
    assert any("left out as unusable" in warning for warning in facts["warnings"])


# ------------------------------------------------------------------------------------------------------------- bars


@pytest.mark.parametrize(
    ("text", "flag", "said"),
    [
        ("balanced_accuracy", "--min", "cannot be read"),
        ("balanced=0.9", "--min", "no metric"),
        ("balanced_accuracy=1.5", "--min", "no value"),
        ("balanced_accuracy=nan", "--min", "no value"),
        ("ece=0.1", "--min", "less is better"),
        ("accuracy=0.1", "--max", "more is better"),
        ("accuracy.middle=0.5", "--min", "cannot be read"),
    ],
)
def test_a_bar_that_makes_no_sense_is_refused(text: str, flag, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Bar.read(text, flag)


def test_a_missed_bar_is_told_with_its_figure_and_the_report_is_written_all_the_same(dealt) -> None:
    lab, run = dealt
    first = evaluate(lab.workspace, lab.manifest, run, JUDGE)
    value, low = (first.report["metrics"]["balanced_accuracy"][key] for key in ("value", "low"))
    assert low is not None
    bars = tuple(
        Bar.read(text, "--min")
        for text in (
            f"balanced_accuracy={value}",
            f"balanced_accuracy.low={low}",
            f"balanced_accuracy.low={low + 1e-6}",
        )
    )
    done = evaluate(lab.workspace, lab.manifest, run, dataclasses.replace(JUDGE, bars=bars))
    assert len(done.missed) == 1
    assert "balanced_accuracy.low" in done.missed[0]
    assert "48 images, 24 groups" in done.missed[0]
    assert some_missed(done.missed).exit_code == 6
    assert (done.folder / "report.json").is_file()


def test_a_bar_on_a_figure_that_is_not_known_is_missed(parted) -> None:
    lab, run = parted
    done = evaluate(
        lab.workspace, lab.manifest, run, dataclasses.replace(JUDGE, bars=(Bar.read("accuracy.low=0.1", "--min"),))
    )
    assert done.report["metrics"]["accuracy"]["low"] is None  # two groups a class
    assert "not known" in done.missed[0]


# ------------------------------------------------------------------------------------------------------------ doubt


@pytest.mark.parametrize("name", ["dealt", "parted"])
def test_doubt_is_measured_and_adds_up(name: str, request: pytest.FixtureRequest) -> None:
    lab, run = request.getfixturevalue(name)
    facts = evaluate(lab.workspace, lab.manifest, run, JUDGE).report
    doubt, sets = facts["abstention"], facts["label_sets"]
    assert doubt["measured"], doubt["reason"]
    assert doubt["answered"] + doubt["novel"] + doubt["uncertain"] == facts["images"]
    assert doubt["coverage"]["value"] == pytest.approx(doubt["answered"] / facts["images"])
    assert len(doubt["least_confidence"]) == (3 if name == "dealt" else 1)
    assert ("calibration part" in doubt["fitted_on"]) == (name == "parted")
    assert sets["measured"], sets["reason"]
    assert sum(sets["sizes"].values()) == facts["images"]
    assert sets["per"] == "group"
    assert facts["metrics"]["accuracy"]["n"] == facts["images"], "headline figures count every image"


def test_uncalibrated_figures_are_those_of_temperature_one(parted) -> None:
    lab, run = parted
    facts = evaluate(lab.workspace, lab.manifest, run, JUDGE).report
    classifier = load_classifier(run, choose_machine("cpu", 1))
    plain = dataclasses.replace(
        classifier, members=tuple(dataclasses.replace(m, temperature=1.0) for m in classifier.members)
    )
    samples = lab.manifest.part("test")
    rows = list(classify(plain, [s.path for s in samples], ClassifySettings(device="cpu", workers=1)))
    losses = [-np.log(row.scores[("ALL", "HTL").index(s.label)]) for row, s in zip(rows, samples, strict=True)]
    assert facts["calibration"]["before"]["log_loss"]["value"] == pytest.approx(float(np.mean(losses)), abs=1e-6)
    assert facts["calibration"]["after"]["log_loss"] == facts["metrics"]["log_loss"]


def test_classify_abstains_by_default_still_guesses_and_can_be_told_not_to(parted, tmp_path) -> None:
    lab, run = parted
    strange = tmp_path / "strange.png"
    rng = np.random.default_rng(0)
    from PIL import Image

    Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(strange)
    paths = [str(strange), *(s.path for s in lab.manifest.part("test"))]
    settings = ClassifySettings(device="cpu", workers=1)
    rows = list(classify(open_classifier(run, settings), paths, settings))
    assert (rows[0].decision, rows[0].reason) == ("abstain", "novel")
    assert rows[0].novelty > rows[0].novelty_threshold
    for row in rows:
        assert row.label == row.classes[int(np.argmax(row.scores))]
        assert (row.decision == "abstain") == (row.reason is not None)
        assert (row.reason == "novel") == (row.novelty > row.novelty_threshold)
        assert row.label in row.label_set
    plain = dataclasses.replace(settings, abstain=False)
    answered = list(classify(open_classifier(run, plain), paths, plain))
    assert {row.decision for row in answered} == {"label"}
    assert [(row.label, row.scores, row.novelty) for row in answered] == [(r.label, r.scores, r.novelty) for r in rows]


def test_a_run_without_thresholds_says_so_and_labels_everything(make_lab, tmp_path) -> None:
    """A backbone that was tuned on all groups of training knows each: none can be left out for what is novel."""
    lab = make_lab(tmp_path, splits=("train", "train", "val", "test"))
    settings = dataclasses.replace(TINY, tune="all", epochs=1)
    run = read_run_folder(train(lab.workspace, lab.manifest, settings).folder)
    told: list[str] = []
    settings = ClassifySettings(device="cpu", workers=1)
    classifier = open_classifier(run, settings, told.append)
    assert any("cannot tell what is novel or uncertain" in line for line in told)
    rows = list(classify(classifier, [lab.manifest.samples[0].path], settings))
    assert (rows[0].decision, rows[0].novelty, rows[0].label_set) == ("label", None, None)
    facts = evaluate(lab.workspace, lab.manifest, run, JUDGE).report
    assert not facts["abstention"]["measured"]
    assert facts["abstention"]["reason"]
    assert any("cannot abstain" in warning for warning in facts["warnings"])


def test_with_few_groups_what_is_novel_is_still_told(make_lab, tmp_path) -> None:
    """A fold leaves one group a class: no choice can be made, and the two are left out in turn."""
    lab = make_lab(tmp_path, folds=2, groups=2, images=6)
    settings = dataclasses.replace(TINY, weights="none", variant="base")
    run = read_run_folder(train(lab.workspace, lab.manifest, settings).folder)
    for member in run.facts["members"]:
        limits = member["doubt"]
        assert limits["confidence"] is None
        assert limits["label_sets"]["threshold"] is None
        assert limits["novelty_threshold"] > 0
        assert "left out in turn" in limits["fitted_on"]
    assert any("not what is uncertain" in warning for warning in run.facts["warnings"])
    facts = evaluate(lab.workspace, lab.manifest, run, JUDGE).report
    abstention = facts["abstention"]
    assert abstention["measured"]
    assert (abstention["uncertain"], abstention["least_confidence"], abstention["risk"]) == (0, [], None)
    assert any("nothing is called uncertain" in note for note in abstention["notes"])
    assert not facts["label_sets"]["measured"]
    strange = tmp_path / "strange.png"
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    noise[:24] = 255
    from PIL import Image

    Image.fromarray(noise).save(strange)
    asked = ClassifySettings(device="cpu", workers=1)
    [row] = classify(open_classifier(run, asked), [str(strange)], asked)
    assert (row.decision, row.reason) == ("abstain", "novel")


def test_thresholds_survive_saving_bit_for_bit(dealt) -> None:
    _, run = dealt
    one, two = (load_classifier(run, choose_machine("cpu", 1)) for _ in range(2))
    stored = json.loads((run.path / "run.json").read_text())["members"]
    for a, b, facts in zip(one.members, two.members, stored, strict=True):
        assert a.doubt is not None
        assert b.doubt is not None
        assert a.doubt.as_json() == b.doubt.as_json() == facts["doubt"]
        for name, value in a.doubt.novelty.arrays().items():
            assert np.array_equal(value, b.doubt.novelty.arrays()[name])


# ------------------------------------------------------------------------------------------------- heat-maps and pages


def test_heat_maps_lie_beside_the_report_with_their_faithfulness(parted) -> None:
    lab, run = parted
    done = evaluate(lab.workspace, lab.manifest, run, dataclasses.replace(JUDGE, heatmaps=2))
    heats = done.report["heatmaps"]
    assert len(heats["images"]) == heats["faithfulness"]["images"] == 2
    for row in heats["images"]:
        assert (done.folder / row["file"]).is_file()
    assert 0 <= heats["faithfulness"]["deletion"] <= 1


def test_classify_draws_a_heat_map_for_each_image_that_could_be_read(parted, tmp_path) -> None:
    lab, run = parted
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    settings = ClassifySettings(device="cpu", workers=1, heatmaps=tmp_path / "heat")
    paths = [lab.manifest.samples[0].path, str(bad), lab.manifest.samples[1].path]
    assert [row.decision == "error" for row in classify(open_classifier(run, settings), paths, settings)] == [
        False, True, False,
    ]  # fmt: skip
    assert sorted(path.name[:6] for path in (tmp_path / "heat").iterdir()) == ["000000", "000002"]


def test_pages_are_made_again_from_what_is_stored(parted) -> None:
    lab, run = parted
    done = evaluate(lab.workspace, lab.manifest, run, JUDGE)
    page = done.folder / "report.html"
    first = page.read_text()
    page.unlink()
    assert page in report(lab.workspace, run, None)
    assert page.read_text() == first
    stored = (done.folder / "report.json").read_bytes()
    report(lab.workspace, run, "test", pictures=False)
    assert "data:image" not in page.read_text()
    assert (done.folder / "report.json").read_bytes() == stored
    with pytest.raises(WorkspaceError, match="no report 'val'"):
        report(lab.workspace, run, "val")
    (done.folder / "report.json").write_text(json.dumps({**json.loads(stored), "images": 400}))
    with pytest.raises(WorkspaceError, match=r"report\.json has changed since leuk wrote it"):
        report(lab.workspace, run, "test")
    (done.folder / "report.json").write_bytes(stored)


def test_a_run_without_a_report_is_named_with_the_way_out(parted) -> None:
    lab, run = parted
    other = RunFolder(path=run.path, finished=True, facts={**run.facts, "run": "never-1"})
    with pytest.raises(WorkspaceError, match="never-1 has no report") as caught:
        report(lab.workspace, other, None)
    assert "leuk evaluate" in caught.value.hint
