"""What a run was trained with is done to every image it sees afterwards, and to no other run's."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from leukemia_cli.domain import Preprocessing, Remedies, Sample
from leukemia_cli.errors import UsageError
from leukemia_cli.learning.batches import Augmentation, augmented_view, plain_view, read_sample, view_rng
from leukemia_cli.learning.features import FeatureCache, Views, extract, run_backbone
from leukemia_cli.learning.heatmaps import heatmap
from leukemia_cli.learning.loading import load_classifier
from leukemia_cli.learning.machine import choose_machine
from leukemia_cli.learning.recipes import TrainSettings, augmentation_of, plan_of, settled, with_remedies
from leukemia_cli.learning.weights import LoadedBackbone, load_backbone
from leukemia_cli.steps import classify as classify_room
from leukemia_cli.steps.classify import ClassifySettings, classify, open_classifier
from leukemia_cli.steps.evaluate import EvaluateSettings, evaluate
from leukemia_cli.steps.extract_features import ExtractSettings, extract_features
from leukemia_cli.steps.fit_svm import FitSvmSettings, fit_svm
from leukemia_cli.steps.train import resume, train
from leukemia_cli.vision import remedies as room
from leukemia_cli.vision.decode import Decoded, decode
from leukemia_cli.vision.stains import TARGETS
from leukemia_cli.workspace.documents import write_json
from leukemia_cli.workspace.runs import RUN_FILE, STARTED_FILE, RunFolder, read_run_folder

MACHINE = choose_machine("cpu", 2)
ALL = Remedies(mask_marks=True, stain_norm="macenko", tiles=4)
SCALED = Preprocessing(
    input_size_px=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    interpolation="bilinear",
    fit="squash",
    remedies=Remedies(decode="scaled", tiles=4),
)


def settings(**flags) -> TrainSettings:
    return TrainSettings(
        **{
            "backbone": "timm:test_resnet", "weights": "none", "variant": "base", "input_size_px": 64, "epochs": 2, "views": 2,
            "batch_size": 4, "device": "cpu", **flags,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def loaded() -> LoadedBackbone:
    return load_backbone("timm:resnet10t", "none", seed=0, fit="squash", input_size_px=64)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, make_lab) -> tuple[Sample, ...]:
    return make_lab(tmp_path_factory.mktemp("remedied"), images=1, side_px=96).manifest.samples


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, make_lab):
    return make_lab(tmp_path_factory.mktemp("remedied-folds"), folds=2, groups=4, images=1, side_px=96)


def test_cells_are_masked_and_images_are_not_unless_it_is_said() -> None:
    assert settled(Remedies(), "auto", "cell") == Remedies(background="mask")
    assert settled(Remedies(), "auto", "image") == Remedies()
    assert settled(Remedies(), "keep", "cell") == Remedies()
    assert settled(Remedies(stain_norm="reinhard"), "mask", "image").stain_target == TARGETS["reinhard"]


def test_remedies_are_told_in_words() -> None:
    assert Remedies().titles == ()
    told = Remedies(mask_marks=True, background="mask", stain_norm="macenko", red_cell_px=20.0, tiles=4).titles
    assert told == (
        "marks painted over",
        "background masked",
        "colours by macenko",
        "red cells 20 px wide",
        "seen in 4 tiles",
    )


# ---------------------------------------------------------------------------------------------------- scaled decoding


def test_scaled_decoding_is_done_in_training_and_in_classify_alike(
    make_lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large JPEGs reach the network from a quarter of their pixels; what the run says of its own images stays the same."""
    lab = make_lab(tmp_path, folds=2, groups=4, images=1, side_px=600, suffix=".jpg")
    seen: list[tuple[int, int]] = []

    def watched(path: str, **flags) -> Decoded:
        image = decode(path, **flags)
        seen.append((image.width, image.height))
        return image

    monkeypatch.setattr(classify_room, "decode", watched)
    trained = train(lab.workspace, lab.manifest, settings(fold="all", remedies=Remedies(decode="scaled")))
    run = read_run_folder(trained.folder)
    assert run.facts["preprocessing"]["remedies"]["decode"] == "scaled"
    classifier = open_classifier(run, ClassifySettings(device="cpu"))
    assert classifier.preprocessing.enough_px == 128
    sample = lab.manifest.samples[0]
    (finding,) = classify(classifier, [sample.path], ClassifySettings(device="cpu"))
    assert seen == [(150, 150)]
    view = plain_view(read_sample(sample, 1, 128), classifier.preprocessing)
    assert np.allclose(finding.scores, classifier.probabilities([view])[0], atol=1e-9)


def test_scaled_decoding_does_not_go_with_what_needs_every_pixel() -> None:
    for other in ({"mask_marks": True}, {"red_cell_px": 20.0}, {"background": "mask"}):
        with pytest.raises(ValueError, match="full size"):
            Remedies(decode="scaled", **other)
    assert settled(Remedies(decode="scaled"), "auto", "image").decode == "scaled"
    with pytest.raises(UsageError, match="of no use for cells"):
        settled(Remedies(decode="scaled"), "keep", "cell")
    assert Preprocessing.from_json(SCALED.as_json()) == SCALED and SCALED.enough_px == 256


# ------------------------------------------------------------------------------------------------------------- tiles


def test_the_features_of_an_image_are_the_mean_over_its_tiles(
    loaded: LoadedBackbone, samples: tuple[Sample, ...]
) -> None:
    for count in (4, 5):
        spec = replace(loaded.preprocessing, remedies=Remedies(tiles=count))
        views = [plain_view(read_sample(s, 1), spec) for s in samples]
        assert {v.shape for v in views} == {(count * 64, 64, 3)}
        rows = run_backbone(loaded.module, views, spec, MACHINE)
        for row, view in zip(rows, views, strict=True):
            apart = run_backbone(loaded.module, list(view.reshape(count, 64, 64, 3)), loaded.preprocessing, MACHINE)
            assert np.allclose(row, apart.mean(axis=0), rtol=1e-5, atol=1e-6) and not np.allclose(apart[0], apart[1])


def test_the_company_in_a_batch_does_not_matter_to_tiles(loaded: LoadedBackbone, samples: tuple[Sample, ...]) -> None:
    spec = replace(loaded.preprocessing, remedies=Remedies(tiles=4))
    views = [plain_view(read_sample(s, 1), spec) for s in samples]
    together = run_backbone(loaded.module, views, spec, MACHINE)
    alone = np.concatenate([run_backbone(loaded.module, [v], spec, MACHINE) for v in views])
    assert np.array_equal(together, alone)


def test_no_more_tiles_than_a_batch_go_through_at_once(
    loaded: LoadedBackbone, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    spec = replace(loaded.preprocessing, remedies=Remedies(tiles=5))
    counts: list[int] = []

    class Counting(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            counts.append(len(x))
            return loaded.module(x)

    cache = FeatureCache(tmp_path, "digest", spec)
    rows = extract(
        Counting(), samples, spec, cache=cache, views=Views(), machine=MACHINE, batch_size=3, max_megapixels=1
    )
    assert rows.shape == (len(samples), 1, 512) and sum(counts) == 5 * len(samples) and max(counts) <= 5


# -------------------------------------------------------------------------------------------------------------- views


def test_remedies_change_views_and_their_features_have_a_place_of_their_own(
    loaded: LoadedBackbone, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    folders, seen = set(), []
    for remedies in (Remedies(), Remedies(mask_marks=True), Remedies(stain_norm="reinhard"), Remedies(tiles=4)):
        spec = with_remedies(loaded, remedies).preprocessing
        folders.add(FeatureCache(tmp_path, "digest", spec).folder)
        seen.append(plain_view(read_sample(samples[0], 1), spec))
    assert len(folders) == 4
    assert np.array_equal(seen[0], seen[1]), "no mark, no change"
    assert not np.array_equal(seen[0], seen[2]) and seen[3].shape == (256, 64, 3)


@pytest.mark.parametrize("tiles", [1, 4])
def test_an_augmentation_of_nothing_is_the_plain_view_with_remedies(
    tiles: int, loaded: LoadedBackbone, samples: tuple[Sample, ...]
) -> None:
    still = Augmentation(flips=False, quarter_turns=False, least_side=1.0, stain=0.0, light=0.0, blur_chance=0.0)
    spec = with_remedies(loaded, Remedies(mask_marks=True, stain_norm="macenko", tiles=tiles)).preprocessing
    pixels = read_sample(samples[0], 1)
    view = augmented_view(pixels, spec, still, view_rng(0, samples[0].sha256, 1))
    assert np.array_equal(view, plain_view(pixels, spec))


def test_a_stronger_jitter_moves_colours_further(loaded: LoadedBackbone, samples: tuple[Sample, ...]) -> None:
    moved = []
    for jitter in (None, 0.0, 0.3):
        augmentation = replace(
            augmentation_of(jitter), flips=False, quarter_turns=False, least_side=1.0, light=0.0, blur_chance=0.0
        )
        pixels = read_sample(samples[0], 1)
        views = [
            augmented_view(pixels, loaded.preprocessing, augmentation, view_rng(0, samples[0].sha256, k))
            for k in range(1, 6)
        ]
        plain = plain_view(pixels, loaded.preprocessing).astype(int)
        moved.append(np.mean([np.abs(view - plain).mean() for view in views]))
    assert moved[1] < 1 < moved[0] < moved[2]
    assert plan_of(settings(stain_jitter=0.3), MACHINE).augmentation == Augmentation(stain=0.3)


# --------------------------------------------------------------------------------------------------------------- runs


def test_train_evaluate_and_classify_see_the_same(lab) -> None:
    done = train(lab.workspace, lab.manifest, settings(remedies=ALL))
    run = read_run_folder(done.folder)
    stored = Preprocessing.from_json(run.facts["preprocessing"]).remedies
    assert stored == replace(ALL, stain_target=TARGETS["macenko"])
    judged = evaluate(lab.workspace, lab.manifest, run, EvaluateSettings(device="cpu", resamples=20, pictures=False))
    with (judged.folder / "predictions.csv").open() as file:
        told = {row["path"]: row for row in csv.DictReader(file)}
    classifier = load_classifier(run, MACHINE)
    for sample in lab.manifest.samples:
        view = plain_view(read_sample(sample, 1), classifier.preprocessing)
        rows = run_backbone(classifier.backbone, [view], classifier.preprocessing, MACHINE)
        expected = classifier.member_of(sample.fold).probabilities(rows)[0]
        found = [float(v) for k, v in told[sample.path].items() if k.endswith(("_ALL", "_HTL"))]
        assert np.allclose(found, expected, atol=2e-6)
    paths = [sample.path for sample in lab.manifest.samples]
    findings = list(
        classify(open_classifier(run, ClassifySettings(device="cpu")), paths, ClassifySettings(device="cpu"))
    )
    views = [plain_view(read_sample(sample, 1), classifier.preprocessing) for sample in lab.manifest.samples]
    assert np.allclose([f.scores for f in findings], classifier.probabilities(views), atol=1e-9)


def test_a_run_without_remedies_stores_none(lab) -> None:
    done = train(lab.workspace, lab.manifest, settings(fold=0))
    assert "remedies" not in done.facts["preprocessing"]


def test_a_run_from_before_there_were_remedies_can_be_resumed(lab) -> None:
    run = train(lab.workspace, lab.manifest, settings(fold=0, views=1)).folder
    started = json.loads((run / STARTED_FILE).read_text())
    assert started["settings"]["remedies"]["tiles"] == 1
    for name in ("remedies", "stain_jitter"):
        del started["settings"][name]
    write_json(run / STARTED_FILE, started)
    (run / RUN_FILE).unlink()
    assert "remedies" not in resume(lab.workspace, lab.manifest, run.name).facts["preprocessing"]


def test_a_resumed_run_keeps_its_remedies(lab) -> None:
    run = train(lab.workspace, lab.manifest, settings(fold=0, views=1, remedies=ALL)).folder
    before = json.loads((run / RUN_FILE).read_text())
    (run / RUN_FILE).unlink()
    again = resume(lab.workspace, lab.manifest, run.name).facts
    assert again["preprocessing"] == before["preprocessing"]
    assert json.dumps(again["choices"]) == json.dumps(before["choices"])


def test_kept_features_and_the_machine_on_them_have_the_same_remedies(lab) -> None:
    flags = {"backbone": "timm:test_resnet", "weights": "none", "input_size_px": 64, "device": "cpu"}
    kept = extract_features(lab.workspace, lab.manifest, None, ExtractSettings(remedies=ALL, **flags))
    assert kept.facts["preprocessing"]["remedies"]["tiles"] == 4
    named = fit_svm(
        lab.workspace, lab.manifest, None, FitSvmSettings(features=kept.facts["features"], device="cpu", views=1)
    )
    assert named.facts["preprocessing"] == kept.facts["preprocessing"]
    direct = fit_svm(lab.workspace, lab.manifest, None, FitSvmSettings(remedies=ALL, views=1, **flags))
    of_run = fit_svm(lab.workspace, lab.manifest, read_run_folder(direct.folder), FitSvmSettings(device="cpu", views=1))
    assert of_run.facts["preprocessing"] == direct.facts["preprocessing"] == kept.facts["preprocessing"]


def test_images_without_a_ruler_are_counted_and_said(lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said of the images concerned, again when their features are kept already, and once a run."""
    monkeypatch.setattr(room, "red_cell_diameter", lambda pixels: 20.0 if pixels[0, 0, 0] % 2 else None)
    without = sum(read_sample(s, 1).pixels[0, 0, 0] % 2 == 0 for s in lab.manifest.samples)
    assert 0 < without < len(lab.manifest.samples)
    asked = Remedies(red_cell_px=10)
    for _ in range(2):
        told: list[str] = []
        train(lab.workspace, lab.manifest, settings(remedies=asked), note=told.append)
        counts = [int(line.split()[1]) for line in told if "not at --resolution" in line]
        assert sum(counts) == without
    flags = {"backbone": "timm:test_resnet", "weights": "none", "input_size_px": 64, "device": "cpu"}
    told = []
    extract_features(lab.workspace, lab.manifest, None, ExtractSettings(remedies=asked, **flags), note=told.append)
    (line,) = [line for line in told if "not at --resolution" in line]
    assert int(line.split()[1]) == without


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"remedies": Remedies(tiles=4), "tune": "all"}, "--tiles 4 does not go with --tune all"),
        ({"stain_jitter": -0.1}, "--stain-jitter -0.1"),
        ({"stain_jitter": float("nan")}, "--stain-jitter nan"),
        ({"stain_jitter": 0.2, "augment": False}, "--no-augment"),
        ({"stain_jitter": 0.2, "views": 1}, "--views 1"),
    ],
)
def test_what_means_nothing_is_refused(flags: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        settings(**flags)


def test_jitter_for_a_machine_that_sees_one_view_is_refused() -> None:
    for flags, told in (({"features": "x"}, "--features"), ({"backbone": "b", "views": 1}, "--views 1")):
        with pytest.raises(UsageError, match=told):
            FitSvmSettings(stain_jitter=0.2, **flags)
    with pytest.raises(UsageError, match="no number"):
        FitSvmSettings(backbone="b", stain_jitter=-1.0)


@pytest.mark.parametrize("remedies", [Remedies(tiles=4), Remedies(red_cell_px=20)])
def test_there_is_no_heat_map_where_no_view_shows_the_image(remedies: Remedies, lab) -> None:
    done = train(lab.workspace, lab.manifest, settings(fold=0, views=1))
    run = RunFolder(path=done.folder, facts=done.facts, finished=True)
    classifier = load_classifier(run, MACHINE)
    changed = replace(classifier, preprocessing=replace(classifier.preprocessing, remedies=remedies))
    with pytest.raises(UsageError, match="no map"):
        heatmap(changed, [np.zeros((64, 64, 3), np.uint8)], [0])
