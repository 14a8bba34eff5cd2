"""`leuk weights` says where weights lie, fetches only when told, and loads what it calls good."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import huggingface_hub
import pytest
from safetensors.torch import save_file

from leukemia_cli.catalog import BACKBONES
from leukemia_cli.cli.app import run
from leukemia_cli.errors import MachineError, UsageError
from leukemia_cli.learning import weight_store
from leukemia_cli.learning.weights import build_module
from leukemia_cli.steps.weights import check, fetch, list_weights


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(weight_store, "probe_hub", refused)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refused)


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)


@pytest.mark.usefixtures("no_network", "empty_cache")
def test_every_backbone_is_listed_with_its_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["weights", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["backbone"] for row in listed] == list(BACKBONES)
    assert all(row["licence"] for row in listed)
    assert {row["state"] for row in listed if row["backbone"] != "efficientnet-lite0"} == {"absent"}


def test_what_is_fetched_lies_in_the_cache_afterwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache: dict[tuple[str, str], str] = {}

    def download(repository: str, file: str) -> str:
        return cache.setdefault((repository, file), str(tmp_path / "model.safetensors"))

    monkeypatch.setattr(weight_store, "probe_hub", lambda: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *key, **_: cache.get(key))
    assert not list_weights(["senet"])[0].here
    (place,) = fetch(["senet"])
    assert place.state == "cache" and list(cache) == [("timm/senet154.gluon_in1k", "model.safetensors")]


@pytest.mark.usefixtures("empty_cache")
def test_an_unreachable_hub_is_an_error_with_the_way_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise OSError("no route")

    monkeypatch.setattr(weight_store, "probe_hub", refused)
    with pytest.raises(MachineError, match="no route") as caught:
        fetch(["senet"])
    assert "hf download timm/senet154.gluon_in1k" in caught.value.hint


def test_packaged_weights_are_not_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_store.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        fetch(["efficientnet-lite0"])
    assert "offline-weights" in caught.value.hint


@pytest.mark.usefixtures("no_network")
def test_nothing_named_is_nothing_fetched() -> None:
    with pytest.raises(UsageError, match="no backbone"):
        fetch([])
    with pytest.raises(UsageError, match="unknown backbone"):
        list_weights(["senett"])


@pytest.mark.usefixtures("no_network", "empty_cache")
def test_a_check_fetches_nothing_and_loads_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (absent,) = check(["senet"], None)
    assert absent.error is not None and absent.error.hint == "leuk weights fetch senet"
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    state = build_module("tf_efficientnet_lite0.in1k").state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, good)
    bad.write_bytes(b"\x00" * 100)
    (loaded,) = check(["efficientnet-lite0"], good)
    assert loaded.error is None and loaded.sha256 is not None and "100.0%" in str(loaded.source)
    assert run(["weights", "check", "efficientnet-lite0", "--weights", str(bad), "--json"]) == 3
    (told,) = json.loads(capsys.readouterr().out)
    assert "bad.safetensors" in told["error"]["problem"]
    assert run(["weights", "check", "--weights", str(good)]) == 2
    assert run(["weights", "list", "--weights", str(good)]) == 2


def test_a_list_loads_no_torch(tmp_path: Path) -> None:
    import subprocess

    code = "import sys; from leukemia_cli.steps.weights import list_weights; list_weights(()); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "False\n"
