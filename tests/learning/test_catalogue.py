"""Every entry of the tables of backbones and variants goes through the same tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from leukemia_cli.catalog import BACKBONES, VARIANTS, Backbone, Variant, find_backbone, find_variant
from leukemia_cli.errors import UsageError
from leukemia_cli.learning import finetuning, runs, training
from leukemia_cli.learning.loading import load_classifier
from leukemia_cli.learning.machine import choose_machine
from leukemia_cli.learning.recipes import TrainSettings
from leukemia_cli.learning.weights import LoadedBackbone, load_backbone
from leukemia_cli.steps.classify import ClassifySettings, classify, open_classifier
from leukemia_cli.steps.train import train
from leukemia_cli.workspace.runs import read_run_folder

every_backbone = pytest.mark.parametrize("backbone", BACKBONES.values(), ids=lambda b: b.name)


@every_backbone
def test_timm_knows_the_weights_and_expects_of_the_input_what_the_table_says(backbone: Backbone) -> None:
    assert timm.is_model(backbone.timm_name.split(".")[0])
    config = timm.get_pretrained_cfg(backbone.timm_name)
    assert config is not None and config.has_weights
    assert tuple(config.mean) == backbone.mean
    assert tuple(config.std) == backbone.std
    assert config.interpolation == backbone.interpolation
    assert config.input_size == (3, backbone.input_size_px, backbone.input_size_px)
    assert "nc" not in backbone.licence.lower()


@every_backbone
def test_feature_width_and_last_stage_are_those_of_the_network(backbone: Backbone) -> None:
    with torch.device("meta"):
        module = timm.create_model(backbone.timm_name, pretrained=False, num_classes=0).eval()
        for size in (backbone.least_input_px, backbone.input_size_px):
            assert module(torch.zeros(2, 3, size, size)).shape == (2, backbone.feature_width)
    names = [name for name, _ in module.named_parameters()]
    trained = [n for n in names if any(n == p or n.startswith(f"{p}.") for p in backbone.last_stage)]
    for part in backbone.last_stage:
        assert any(name.startswith(f"{part}.") for name in names), part
    assert trained == names[-len(trained) :], "the last stage is the end of the network, with nothing after it left out"
    assert 0 < len(trained) < len(names)


@pytest.mark.parametrize("backbone", [b for b in BACKBONES.values() if b.in_paper], ids=lambda b: b.name)
def test_the_paper_backbones_train_save_load_and_classify(
    backbone: Backbone, tmp_path: Path, make_lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        finetuning._Checkpoint, "save", lambda *_: None
    )  # two gigabytes for senet, and tested elsewhere
    monkeypatch.setattr(training.Trainer, "_write_member", lambda *_: None)
    kept: list[LoadedBackbone] = []
    monkeypatch.setattr(
        "leukemia_cli.steps.train.load_backbone", lambda *a, **k: kept.append(load_backbone(*a, **k)) or kept[-1]
    )
    assert backbone.feature_width == 2048
    lab = make_lab(tmp_path, splits=("train", "test"), images=1)
    size = max(64, backbone.least_input_px)
    settings = TrainSettings(
        backbone=backbone.name, weights="none", variant="base", tune="all", epochs=1, batch_size=2, input_size_px=size,
        views=1, device="cpu",
    )  # fmt: skip
    run = train(lab.workspace, lab.manifest, settings)
    assert run.facts["epochs"] == 1 and run.facts["backbone_spec"]["feature_width"] == 2048
    assert run.facts["preprocessing"]["input_size_px"] == size
    stored = load_file(run.folder / "model.safetensors")
    fresh = kept[0].module.state_dict()
    moved = [k for k, v in fresh.items() if v.ndim == 4 and not torch.equal(v, stored[k])]
    assert len(moved) == sum(v.ndim == 4 for v in fresh.values()), "the one step moved every convolution"
    classifier = open_classifier(read_run_folder(run.folder), ClassifySettings(device="cpu"))
    findings = list(classify(classifier, [s.path for s in lab.manifest.samples], ClassifySettings(device="cpu")))
    assert [f.error for f in findings] == [None] * 4
    assert np.allclose([sum(f.scores or ()) for f in findings], 1)
    for file in run.folder.glob("*.safetensors"):
        file.unlink()  # half a gigabyte that pytest would keep


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda v: v.name)
@pytest.mark.parametrize("folds", [None, 3])
def test_every_variant_trains_saves_loads_and_gives_equal_scores(
    variant: Variant, folds: int | None, tmp_path: Path, make_lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []

    def spy(folder: Path, backbone: torch.nn.Module | None, members: list) -> dict:
        kept.append((backbone, members))
        return runs_save(folder, backbone, members)

    runs_save = runs.save_classifier
    monkeypatch.setattr(runs, "save_classifier", spy)
    lab = make_lab(tmp_path, folds=folds, groups=3, images=1)
    settings = TrainSettings(
        backbone="timm:test_resnet",
        weights="none",
        variant=variant.name,
        input_size_px=64,
        epochs=3,
        views=2,
        device="cpu",
    )
    run = train(lab.workspace, lab.manifest, settings)
    loaded = load_classifier(read_run_folder(run.folder), choose_machine("cpu", None))
    [(backbone, members)] = kept
    features = np.random.default_rng(0).normal(size=(5, 96)).astype(np.float32)
    assert len(members) == len(loaded.members) == (folds or 1)
    for before, after in zip(members, loaded.members, strict=True):
        assert before.fold == after.fold and before.temperature == after.temperature
        assert np.array_equal(before.scores(features), after.scores(features))
        assert before.scores(features).shape == (5, 2)
    assert all(torch.equal(v, loaded.backbone.state_dict()[k]) for k, v in backbone.state_dict().items())


def test_unknown_names_name_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'resnext'"):
        find_backbone("resnxt")
    with pytest.raises(UsageError, match="Did you mean 'dropout'"):
        find_variant("dropuot")
    with pytest.raises(UsageError, match="names no network"):
        find_backbone("timm:")
    assert find_backbone("timm:test_resnet") is None
