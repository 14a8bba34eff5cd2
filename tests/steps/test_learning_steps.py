"""evaluate, extract-features and fit-svm on small runs: who judges whom, what is refused, and what goes out."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from leukemia_cli.data.manifest import make_manifest, read_manifest, write_manifest
from leukemia_cli.domain import Manifest
from leukemia_cli.errors import DataError, MachineError, UsageError, WorkspaceError
from leukemia_cli.learning.batches import plain_view, read_sample
from leukemia_cli.learning.classifier import Member
from leukemia_cli.learning.features import run_backbone
from leukemia_cli.learning.loading import load_classifier
from leukemia_cli.learning.machine import choose_machine
from leukemia_cli.learning.recipes import TrainSettings, recipe_of
from leukemia_cli.learning.training import Trainer
from leukemia_cli.steps.classify import ClassifySettings, classify, open_classifier
from leukemia_cli.steps.evaluate import Evaluated, EvaluateSettings, evaluate
from leukemia_cli.steps.extract_features import ExtractSettings, extract_features
from leukemia_cli.steps.fit_svm import FitSvmSettings, fit_svm
from leukemia_cli.steps.train import train
from leukemia_cli.workspace.documents import write_json
from leukemia_cli.workspace.runs import RunFolder, read_run_folder

TINY = {"weights": "none", "input_size_px": 64, "device": "cpu"}
JUDGE = EvaluateSettings(resamples=20, device="cpu")


def trained(lab, **flags) -> RunFolder:
    flags = {
        "backbone": "timm:test_resnet",
        "variant": "base",
        "epochs": 2,
        "views": 2,
        "batch_size": 4,
        **TINY,
        **flags,
    }
    return read_run_folder(train(lab.workspace, lab.manifest, TrainSettings(**flags)).folder)


@pytest.fixture(scope="module")
def dealt(tmp_path_factory: pytest.TempPathFactory, make_lab):
    """Three folds, with a run that shares a backbone, one of tuned backbones, and one of a single tuned fold."""
    lab = make_lab(tmp_path_factory.mktemp("folds"), folds=3, groups=6, images=1)
    runs = {
        "head": trained(lab, variant="dropout"),
        "tuned": trained(lab, tune="all"),
        "one": trained(lab, tune="last-stage", fold=1),
    }
    return lab, runs


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory, make_lab):
    """A split manifest with a run on a frozen backbone and one on a tuned one."""
    lab = make_lab(tmp_path_factory.mktemp("splits"))
    return lab, {"head": trained(lab), "tuned": trained(lab, tune="last-stage", seed=0)}


def judged(lab, run: RunFolder, settings: EvaluateSettings = JUDGE) -> Evaluated:
    return evaluate(lab.workspace, lab.manifest, run, settings)


def rows_of(done: Evaluated) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((done.folder / "predictions.csv").read_text())))


# --------------------------------------------------------------------------------------------------------- evaluate


@pytest.mark.parametrize("name", ["head", "tuned", "one"])
def test_each_image_is_judged_by_the_member_that_did_not_see_it(
    name: str, dealt, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, runs = dealt
    classifier = load_classifier(runs[name], choose_machine("cpu", None))
    expected = {}
    for sample in lab.manifest.samples:
        for member in classifier.members:
            if member.fold == sample.fold:
                backbone = member.backbone or classifier.backbone
                view = plain_view(read_sample(sample, 1), classifier.preprocessing)
                features = run_backbone(backbone, [view], classifier.preprocessing, classifier.machine)
                expected[sample.path] = member.probabilities(features)[0]
    calls: list[tuple[int | None, int]] = []
    plain = Member.scores

    def spy(self: Member, features: np.ndarray) -> np.ndarray:
        calls.append((self.fold, len(features)))
        return plain(self, features)

    monkeypatch.setattr(Member, "scores", spy)
    done = judged(lab, runs[name])
    folds = [1] if name == "one" else [0, 1, 2]
    assert calls == [(fold, 4) for fold in folds]
    rows = rows_of(done)
    assert {r["path"] for r in rows} == set(expected) and len(rows) == 4 * len(folds)
    assert done.report["images"] == len(rows) and done.report["folds"] == len(folds)
    for row in rows:
        got = [float(v) for k, v in row.items() if k in ("p_ALL", "p_HTL", "ALL", "HTL", "score_ALL", "score_HTL")]
        assert len(got) == 2 and np.allclose(got, expected[row["path"]], atol=2e-6)


def test_a_report_is_whole_and_counts_its_looks(parted) -> None:
    lab, runs = parted
    told: list[str] = []
    first = judged(lab, runs["head"])
    again = evaluate(lab.workspace, lab.manifest, runs["tuned"], JUDGE, note=told.append)
    val = judged(lab, runs["head"], dataclasses.replace(JUDGE, split="val"))
    files = {"report.json", "report.md", "report.html", "predictions.csv", "confusion.svg"}
    assert {p.name for p in first.folder.iterdir()} == files
    assert json.loads((first.folder / "report.json").read_text()) == json.loads(json.dumps(first.report))
    looks = [find(done.report, "look") for done in (first, again, val)]
    assert looks == [1, 2, 1]
    assert any("looked at 2 times" in line for line in told)
    assert first.folder != again.folder != val.folder
    assert sorted(r["path"] for r in rows_of(first)) == sorted(s.path for s in lab.manifest.part("test"))
    assert val.report["split"] == "val" and val.report["images"] == 4


def find(report: object, word: str) -> object:
    """Give the first whole number whose key has `word` in it."""
    if isinstance(report, dict):
        for key, value in report.items():
            if word in key and isinstance(value, int):
                return value
            if (inner := find(value, word)) is not None:
                return inner
    return None


def test_evaluation_repeats_to_the_digit(parted) -> None:
    lab, runs = parted
    first, again = judged(lab, runs["head"]), judged(lab, runs["head"])
    assert first.report["metrics"] == again.report["metrics"]
    assert rows_of(first) == rows_of(again)


def rewritten(lab, change) -> Manifest:
    old = lab.manifest
    rows = [change(i, s) for i, s in enumerate(old.samples)]
    manifest = make_manifest(rows, task=old.task, seed=0, folds=old.folds, groups_source="given")
    write_manifest(lab.workspace, manifest, protocol="crafted")
    return manifest


@pytest.mark.parametrize("folds", [None, 3])
@pytest.mark.parametrize("leak", ["group", "picture"])
def test_a_leaking_manifest_is_refused(folds: int | None, leak: str, tmp_path: Path, make_lab) -> None:
    lab = make_lab(tmp_path, folds=folds, groups=3)
    seen, hidden = (
        next(s for s in lab.manifest.samples if s.label == "ALL" and (s.split, s.fold) in wanted)
        for wanted in ((("train", None), ("", 0)), (("test", None), ("", 1)))
    )

    def change(i: int, sample):
        if sample.path != hidden.path:
            return sample
        return (
            dataclasses.replace(sample, group=seen.group)
            if leak == "group"
            else dataclasses.replace(sample, sha256=seen.sha256)
        )

    if leak == "picture":
        Path(hidden.path).write_bytes(Path(seen.path).read_bytes())
    leaking = dataclasses.replace(lab, manifest=rewritten(lab, change))
    run = trained(leaking)
    with pytest.raises(DataError, match="cannot be judged") as caught:
        judged(leaking, run)
    assert caught.value.exit_code == 3
    assert ("group" if leak == "group" else "same picture") in caught.value.problem
    assert not list(lab.workspace.reports_folder.glob("*/report.json"))


def test_a_run_of_another_manifest_is_refused(tmp_path: Path, make_lab) -> None:
    lab = make_lab(tmp_path)
    run = trained(lab)
    other = rewritten(lab, lambda i, s: dataclasses.replace(s, split="train") if s.split == "calib" else s)
    for step in (
        lambda: evaluate(lab.workspace, other, run, JUDGE),
        lambda: fit_svm(lab.workspace, other, run, FitSvmSettings(device="cpu")),
    ):
        with pytest.raises(WorkspaceError, match="another manifest") as caught:
            step()
        assert caught.value.exit_code == 4
    assert read_manifest(lab.workspace).fingerprint == other.fingerprint


def test_parts_that_are_not_there_are_refused(dealt, tmp_path: Path, make_lab) -> None:
    lab, runs = dealt
    with pytest.raises(UsageError, match="--split val, but the manifest has folds"):
        judged(lab, runs["head"], dataclasses.replace(JUDGE, split="val"))
    small = make_lab(tmp_path, splits=("train", "val"))
    with pytest.raises(DataError, match="no test images"):
        judged(small, trained(small))
    with pytest.raises(UsageError, match="--resamples 0"):
        EvaluateSettings(resamples=0)


def test_an_image_changed_since_prepare_is_named(tmp_path: Path, make_lab) -> None:
    lab = make_lab(tmp_path)
    run = trained(lab)
    victim = lab.manifest.part("test")[0].path
    Path(victim).write_bytes(Path(lab.manifest.part("train")[0].path).read_bytes())
    with pytest.raises(DataError, match="has changed since leuk prepare"):
        judged(lab, run)


# ---------------------------------------------------------------------------------------------------------- train


def test_flags_that_mean_nothing_to_a_variant_are_refused() -> None:
    for flags, flag in (
        ({"variant": "base", "feature_sizes": ((8,),)}, "--feature-sizes"),
        ({"variant": "hidden", "dropout_rates": (0.1,)}, "--dropout-rates"),
        ({"variant": "svm", "feature_sizes": ((8,),)}, "--feature-sizes"),
        ({"variant": "dropout", "kernels": ("rbf",)}, "--kernel"),
        ({"variant": "base", "selected": (5,)}, "--select"),
    ):
        with pytest.raises(UsageError, match=flag):
            recipe_of(TrainSettings(**flags))


@pytest.mark.parametrize(
    "flags",
    [
        {"epochs": 0}, {"batch_size": 0}, {"patience": 0}, {"accumulate": 0}, {"views": 0}, {"workers": 0}, {"lr": 0.0},
        {"lr": -1.0}, {"lr": float("nan")}, {"lr": 1e38},
        {"dropout_rates": (1.0,)}, {"dropout_rates": (-0.1,)}, {"label_smoothing": 1.0},
    ],
    ids=str,
)  # fmt: skip
def test_settings_without_sense_are_refused(flags: dict) -> None:
    with pytest.raises(UsageError):
        TrainSettings(**flags)


def test_folds_that_are_not_there_are_refused(dealt, parted) -> None:
    with pytest.raises(UsageError, match="folds 0 to 2"):
        trained(dealt[0], fold=3)
    with pytest.raises(UsageError, match="has splits, not folds"):
        trained(parted[0], fold=0)


def test_candidates_too_wide_for_the_backbone_are_left_out_or_refused(parted) -> None:
    lab, _ = parted
    told: list[str] = []
    flags = {"backbone": "timm:test_resnet", "variant": "dropout", "epochs": 1, "views": 1, **TINY}
    run = train(lab.workspace, lab.manifest, TrainSettings(**flags), note=told.append)
    assert run.facts["selected_features"] is None
    assert any("gives 96 features, fewer than 512" in line for line in told)
    before = len(list(lab.workspace.runs_folder.iterdir()))
    for variant in ("dropout", "svm"):
        with pytest.raises(UsageError, match="gives 96 features, fewer than 97, 5000"):
            train(lab.workspace, lab.manifest, TrainSettings(**{**flags, "variant": variant, "selected": (97, 5000)}))
    assert len(list(lab.workspace.runs_folder.iterdir())) == before, "nothing was started"
    kept = train(lab.workspace, lab.manifest, TrainSettings(**flags, selected=(96, 10)))
    assert {c["choice"]["selected"] for c in kept.facts["choices"][0]["trials"]} == {96, 10}


def test_history_names_its_stage(tmp_path: Path, make_lab) -> None:
    lab = make_lab(tmp_path)
    for flags, stage in (
        ({}, "head"),
        ({"tune": "last-stage"}, "fine-tune"),
        ({"tune": "all", "variant": "svm"}, "fine-tune"),
    ):
        run = trained(lab, **flags)
        rows = list(csv.DictReader(io.StringIO((run.path / "history.csv").read_text())))
        assert [r["stage"] for r in rows] == [stage] * 2 and [r["epoch"] for r in rows] == ["1", "2"]


# ------------------------------------------------------------------------------------------------- extract-features


def test_features_go_out_in_every_form_and_come_back_the_same(parted, tmp_path: Path) -> None:
    lab, _ = parted
    flags = {"backbone": "timm:test_resnet", **TINY}
    paths = [s.path for s in lab.manifest.samples]
    labels = [int(s.label == "HTL") for s in lab.manifest.samples]
    forms = ["safetensors", "npz", "csv"]
    rows = {}
    for form in forms:
        out = tmp_path / f"out.{form}"
        done = extract_features(lab.workspace, lab.manifest, None, ExtractSettings(**flags, format=form, output=out))
        kept = load_file(done.folder / "features.safetensors")
        assert kept["features"].shape == (20, 96) and kept["labels"].tolist() == labels
        if form == "safetensors":
            assert out.read_bytes() == (done.folder / "features.safetensors").read_bytes()
            rows[form] = kept["features"]
        elif form == "npz":
            with np.load(out, allow_pickle=False) as stored:
                assert stored["paths"].tolist() == paths and stored["labels"].tolist() == labels
                assert stored["groups"].tolist() == [s.group for s in lab.manifest.samples]
                rows[form] = stored["features"]
        else:
            table = list(csv.DictReader(io.StringIO(out.read_text())))
            assert [r["path"] for r in table] == paths
            assert [r["label"] for r in table] == [s.label for s in lab.manifest.samples]
            rows[form] = np.array([[float(r[f"f{i}"]) for i in range(96)] for r in table], dtype=np.float32)
    assert all(np.array_equal(rows[form], rows["safetensors"]) for form in forms)
    facts = json.loads((done.folder / "features.json").read_text())
    assert facts["images"] == 20 and facts["groups"] == 10 and facts["width"] == 96
    assert [r["path"] for r in facts["rows"]] == paths and any("random" in line for line in facts["warnings"])
    assert done.as_json()["output"] == str(out) and "rows" not in done.as_json()


@pytest.mark.parametrize("name", ["head", "tuned"])
def test_features_of_a_run_are_those_it_classifies_by(name: str, parted) -> None:
    lab, runs = parted
    done = extract_features(lab.workspace, lab.manifest, runs[name], ExtractSettings(split="test", device="cpu"))
    features = load_file(done.folder / "features.safetensors")["features"]
    paths = [s.path for s in lab.manifest.part("test")]
    settings = ClassifySettings(device="cpu")
    classifier = open_classifier(runs[name], settings)
    found = [f.scores for f in classify(classifier, paths, settings)]
    assert np.allclose(classifier.members[0].probabilities(features), found, atol=1e-7)
    assert done.facts["run"] == runs[name].id and len(features) == 4


def test_features_that_cannot_be_had_are_refused(dealt, parted, tmp_path: Path) -> None:
    lab, runs = dealt
    for run, settings, kind, told in (
        (None, ExtractSettings(device="cpu"), UsageError, "either --run or --backbone"),
        (runs["head"], ExtractSettings(backbone="senet", device="cpu"), UsageError, "either --run or --backbone"),
        (runs["tuned"], ExtractSettings(device="cpu"), UsageError, "tuned 3 backbones"),
        (runs["head"], ExtractSettings(split="train", device="cpu"), DataError, "no train images"),
    ):
        with pytest.raises(kind, match=told):
            extract_features(lab.workspace, lab.manifest, run, settings)
    assert (
        extract_features(lab.workspace, lab.manifest, runs["one"], ExtractSettings(device="cpu")).facts["width"] == 96
    )
    with pytest.raises(UsageError, match="--batch-size 0"):
        ExtractSettings(batch_size=0)


def test_parquet_without_pyarrow_is_refused_before_any_work(
    parted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, runs = parted
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    settings = ExtractSettings(format="parquet", output=tmp_path / "f.parquet", device="cpu")
    with pytest.raises(MachineError, match="needs pyarrow") as caught:
        extract_features(lab.workspace, lab.manifest, runs["head"], settings)
    assert "leukemia-cli[parquet]" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_parquet_comes_back_the_same(parted, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")
    lab, runs = parted
    settings = ExtractSettings(format="parquet", output=tmp_path / "f.parquet", device="cpu")
    done = extract_features(lab.workspace, lab.manifest, runs["head"], settings)
    table = parquet.read_table(tmp_path / "f.parquet").to_pydict()
    kept = load_file(done.folder / "features.safetensors")["features"]
    assert table["path"] == [s.path for s in lab.manifest.samples]
    assert np.array_equal(np.array([table[f"f{i}"] for i in range(96)], dtype=np.float32).T, kept)


# ---------------------------------------------------------------------------------------------------------- fit-svm


def test_an_svm_comes_from_features_run_or_backbone_alike(parted) -> None:
    lab, runs = parted
    features = extract_features(
        lab.workspace, lab.manifest, None, ExtractSettings(backbone="timm:test_resnet", **TINY)
    ).folder.name
    by = {
        "features": fit_svm(lab.workspace, lab.manifest, None, FitSvmSettings(features=features, device="cpu")),
        "backbone": fit_svm(
            lab.workspace, lab.manifest, None, FitSvmSettings(backbone="timm:test_resnet", views=1, **TINY)
        ),
        "run": fit_svm(lab.workspace, lab.manifest, runs["head"], FitSvmSettings(views=1, device="cpu")),
    }
    heads = {name: (run.folder / "head.safetensors").read_bytes() for name, run in by.items()}
    assert heads["features"] == heads["backbone"] == heads["run"]
    for run in by.values():
        assert run.facts["variant"] == "svm" and run.facts["tune"] == "head" and run.facts["best_epoch"] is None
        assert judged(lab, read_run_folder(run.folder)).report["images"] == 4
    more = fit_svm(
        lab.workspace, lab.manifest, runs["head"], FitSvmSettings(device="cpu", kernels=("rbf",), name="more")
    )
    assert "rbf" in more.facts["choice"] and (more.folder / "head.safetensors").read_bytes() != heads["run"]
    assert more.as_json()["name"] == "more"


@pytest.mark.parametrize("seed", [0, 7])
def test_an_svm_on_a_tuned_fold_chooses_on_what_tuning_left_out(
    seed: int, dealt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another --seed must not deal other validation parts: their images would have been tuned on."""
    lab, _ = dealt
    parts = []
    plain = Trainer._with_parts
    monkeypatch.setattr(Trainer, "_with_parts", lambda self, part: parts.append(plain(self, part)) or parts[-1])
    tuned = trained(lab, tune="last-stage", fold=1)
    fitted = fit_svm(lab.workspace, lab.manifest, tuned, FitSvmSettings(device="cpu", seed=seed))
    assert len(parts) == 2 and parts[0] == parts[1] and parts[0].val
    assert fitted.facts["fold"] == 1 and fitted.facts["tune"] == "last-stage"
    own = load_file(fitted.folder / "model.safetensors")
    assert all(np.array_equal(v, own[k]) for k, v in load_file(tuned.path / "model.safetensors").items())


@pytest.mark.parametrize("name", ["head", "tuned"])
def test_an_svm_on_a_run_of_folds_has_a_member_for_each(name: str, dealt) -> None:
    lab, runs = dealt
    done = fit_svm(lab.workspace, lab.manifest, runs[name], FitSvmSettings(device="cpu"))
    assert [m["fold"] for m in done.facts["members"]] == [0, 1, 2]
    assert [m["own_backbone"] for m in done.facts["members"]] == [name == "tuned"] * 3
    assert judged(lab, read_run_folder(done.folder)).report["images"] == 12


def test_features_that_are_missing_or_of_other_data_or_weights_are_refused(parted, tmp_path: Path, make_lab) -> None:
    lab, _ = parted
    with pytest.raises(UsageError, match="name one of"):
        fit_svm(lab.workspace, lab.manifest, None, FitSvmSettings(device="cpu"))
    with pytest.raises(WorkspaceError, match="no features 'nothing'") as caught:
        fit_svm(lab.workspace, lab.manifest, None, FitSvmSettings(features="nothing", device="cpu"))
    assert caught.value.exit_code == 4
    small = make_lab(tmp_path)
    done = extract_features(small.workspace, small.manifest, None, ExtractSettings(backbone="timm:test_resnet", **TINY))
    flags = FitSvmSettings(features=done.folder.name, device="cpu")
    file = done.folder / "features.json"
    facts = json.loads(file.read_text())
    for change, told in (
        ({"seed": 9}, "other weights"),
        ({"schema_version": 2}, "schema 2"),
        ({"manifest": "x"}, "another manifest"),
    ):
        write_json(file, facts | change)
        with pytest.raises(WorkspaceError, match=told):
            fit_svm(small.workspace, small.manifest, None, flags)
    write_json(file, facts)
    assert fit_svm(small.workspace, small.manifest, None, flags).facts["variant"] == "svm"
