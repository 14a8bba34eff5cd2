"""A run gives the same scores wherever its folder lies, and a damaged one gives none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from leukemia_cli.domain import Sample
from leukemia_cli.errors import WorkspaceError
from leukemia_cli.learning.batches import plain_view, read_sample
from leukemia_cli.learning.classifier import Classifier, together
from leukemia_cli.learning.loading import load_classifier
from leukemia_cli.learning.machine import choose_machine
from leukemia_cli.learning.recipes import TrainSettings
from leukemia_cli.learning.training import LEFT_OUT
from leukemia_cli.steps.classify import ClassifySettings, classify, open_classifier
from leukemia_cli.steps.train import train
from leukemia_cli.workspace.folders import open_workspace
from leukemia_cli.workspace.runs import find_run, read_run_folder

RUNS = {
    "splits-head": {"variant": "dropout", "tune": "head"},
    "splits-svm-tuned": {"variant": "svm", "tune": "last-stage"},
    "folds-head": {"variant": "base", "tune": "head", "folds": 3},
    "folds-tuned": {"variant": "hidden", "tune": "all", "folds": 3, "feature_sizes": ((8,),)},
    "one-fold-tuned": {"variant": "base", "tune": "all", "folds": 3, "fold": 1},
}


def settings(**flags) -> TrainSettings:
    return TrainSettings(
        **{
            "backbone": "timm:test_resnet", "weights": "none", "input_size_px": 64, "epochs": 2, "views": 2, "batch_size": 4,
            "device": "cpu", **flags,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_lab) -> Callable[[str], tuple[Path, tuple[Sample, ...]]]:
    """Give the folder of a run of RUNS and the images of its manifest."""
    made: dict[str, tuple[Path, tuple[Sample, ...]]] = {}

    def get(name: str) -> tuple[Path, tuple[Sample, ...]]:
        if name not in made:
            flags = dict(RUNS[name])
            lab = make_lab(tmp_path_factory.mktemp(name), folds=flags.pop("folds", None), groups=3, images=1)
            made[name] = train(lab.workspace, lab.manifest, settings(**flags)).folder, lab.manifest.samples
        return made[name]

    return get


def scores(folder: Path, samples: tuple[Sample, ...], batch_size: int = 16) -> np.ndarray:
    flags = ClassifySettings(device="cpu", batch_size=batch_size)
    classifier = open_classifier(read_run_folder(folder), flags)
    findings = list(classify(classifier, [s.path for s in samples], flags))
    assert [f.path for f in findings] == [s.path for s in samples] and not any(f.error for f in findings)
    return np.array([f.scores for f in findings])


@pytest.mark.parametrize("name", RUNS)
def test_moved_elsewhere_it_gives_the_same_scores(name: str, trained, tmp_path: Path) -> None:
    folder, samples = trained(name)
    before = scores(folder, samples)
    assert np.allclose(before.sum(1), 1) and len(np.unique(before)) > 2
    shutil.copytree(folder.parent.parent, tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / "runs" / folder.name
    assert np.array_equal(scores(moved, samples), before)
    assert np.allclose(scores(moved, samples, batch_size=1), before, rtol=1e-6), "one by one as all at once"
    alone = tmp_path / "alone"
    shutil.copytree(moved, alone)
    shutil.rmtree(tmp_path / "moved")
    assert np.array_equal(
        scores(find_run(open_workspace(folder.parents[1], create=False), str(alone), manifest=None).path, samples),
        before,
    )


@pytest.mark.parametrize("name", ["folds-head", "folds-tuned"])
def test_of_several_members_the_mean_counts(name: str, trained) -> None:
    folder, samples = trained(name)
    classifier = load_classifier(read_run_folder(folder), choose_machine("cpu", None))
    assert [m.fold for m in classifier.members] == [0, 1, 2]
    assert (classifier.backbone is None) == (name == "folds-tuned")
    views = [plain_view(read_sample(s, 1), classifier.preprocessing) for s in samples]
    alone = []
    for member in classifier.members:
        one = Classifier(
            run="r", task=classifier.task, spec=classifier.spec, preprocessing=classifier.preprocessing,
            backbone=classifier.backbone, members=(member,), engine=classifier.engine,
        )  # fmt: skip
        alone.append(one.probabilities(views))
        assert classifier.member_of(member.fold or 0) is member
    assert not np.array_equal(alone[0], alone[1])
    assert np.array_equal(classifier.probabilities(views), np.mean(alone, axis=0))
    with pytest.raises(WorkspaceError, match="no member for fold 7"):
        classifier.member_of(7)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-64])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGE: dict[str, Callable[[Path], None]] = {
    "flipped bit": flip,
    "truncated": truncate,
    "emptied": empty,
    "missing": Path.unlink,
    "a folder": replace_by_folder,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", ["model.safetensors", "head.safetensors"])
def test_a_damaged_file_is_refused_by_name(damage: str, file: str, trained, tmp_path: Path) -> None:
    shutil.copytree(trained("splits-head")[0], tmp_path / "run")
    DAMAGE[damage](tmp_path / "run" / file)
    with pytest.raises(WorkspaceError, match=file) as caught:
        open_classifier(read_run_folder(tmp_path / "run"), ClassifySettings(device="cpu"))
    assert caught.value.exit_code == 4 and str(tmp_path) in caught.value.problem


def test_every_file_of_a_tuned_run_is_checked(trained, tmp_path: Path) -> None:
    shutil.copytree(trained("folds-tuned")[0], tmp_path / "run")
    flip(tmp_path / "run" / "fold-2" / "model.safetensors")
    with pytest.raises(WorkspaceError, match=r"fold-2/model\.safetensors"):
        load_classifier(read_run_folder(tmp_path / "run"), choose_machine("cpu", None))


def edited(**change: object) -> Callable[[Path], None]:
    def edit(file: Path) -> None:
        facts = json.loads(file.read_text())
        for key, value in change.items():
            if value is ...:
                del facts[key]
            else:
                facts[key] = value
        file.write_text(json.dumps(facts))

    return edit


@pytest.mark.parametrize(
    "change",
    [
        edited(schema_version=99), edited(schema_version=...), edited(schema_version="1"), edited(members=...),
        edited(files=[]), edited(files={}), edited(task_definition={}), edited(preprocessing={"mean": [1, 2, 3]}),
        edited(backbone_spec=None), lambda file: file.write_text("{ torn"), lambda file: file.write_text("[]"),
        lambda file: file.write_bytes(b"\xff\xfe\x00"),
    ],
)  # fmt: skip
def test_a_newer_or_damaged_run_json_is_refused_by_name(
    change: Callable[[Path], None], trained, tmp_path: Path
) -> None:
    shutil.copytree(trained("splits-head")[0], tmp_path / "run")
    change(tmp_path / "run" / "run.json")
    with pytest.raises(WorkspaceError, match=str(tmp_path / "run")) as caught:
        load_classifier(read_run_folder(tmp_path / "run"), choose_machine("cpu", None))
    assert caught.value.exit_code == 4 and caught.value.hint


def test_nothing_is_unpickled(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    for name in RUNS:
        folder, _ = trained(name)
        load_classifier(read_run_folder(folder), choose_machine("cpu", None))
        suffixes = {p.suffix for p in folder.rglob("*") if p.is_file()}
        assert suffixes == {".json", ".safetensors", ".csv"}


def test_phrases_of_members_are_said_once() -> None:
    assert together([None, None]) is None and together(["a, 1 x", "a, 1 x"]) == "a, 1 x"
    assert together(["a, 12 x", "a, 3 x"]) == "a of each fold, 3 x to 12 x"
    assert together(["a, 12 x", "b, 3 x"]) == "a, 12 x; b, 3 x"


def test_what_members_were_fitted_on_is_said_once() -> None:
    kinds = [f"{LEFT_OUT}, {images} images of 3 groups" for images in (12, 7, 12)]
    assert together(kinds) == f"{LEFT_OUT} of each fold, 7 images of 3 groups to 12 images of 3 groups"
    assert together([*kinds, "calibration part, 9 images of 4 groups"]) == "; ".join(
        [kinds[0], kinds[1], "calibration part, 9 images of 4 groups"]
    )
    assert together([None, None]) is None
