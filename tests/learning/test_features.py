"""Each image and view goes through the backbone once, and its features depend on nothing but itself."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from leukemia_cli.domain import Sample
from leukemia_cli.errors import DataError, MachineError, WorkspaceError
from leukemia_cli.learning import features as rooms
from leukemia_cli.learning.batches import Augmentation, read_sample, to_input, view_rng
from leukemia_cli.learning.batches import augmented_view as augmented
from leukemia_cli.learning.features import (
    FeatureCache,
    Features,
    Views,
    extract,
    run_backbone,
    state_digest,
    trim_caches,
)
from leukemia_cli.learning.machine import choose_machine
from leukemia_cli.learning.weights import LoadedBackbone, load_backbone

MACHINE = choose_machine("cpu", 2)


class Counting(nn.Module):
    """Counts the images that go through, and how many at a time; a lone one's copy is not counted."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.seen = module, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1 if len(x) == 2 and torch.equal(x[0], x[1]) else len(x)
        return self.module(x)


@pytest.fixture(scope="module")
def loaded() -> LoadedBackbone:
    return load_backbone("timm:resnet10t", "none", seed=0, fit="squash", input_size_px=64)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, make_lab) -> tuple[Sample, ...]:
    return make_lab(tmp_path_factory.mktemp("features"), images=1).manifest.samples


def taken(
    loaded: LoadedBackbone, samples: tuple[Sample, ...], root: Path, *, views: Views | None = None, batch_size: int = 4
) -> tuple[Features, int]:
    counting = Counting(loaded.module)
    cache = FeatureCache(root, "digest", loaded.preprocessing)
    rows = extract(
        counting, samples, loaded.preprocessing, cache=cache, views=views or Views(), machine=MACHINE,
        batch_size=batch_size, max_megapixels=1,
    )  # fmt: skip
    return rows, counting.seen


def test_caches_that_nobody_opened_for_longest_go_first(tmp_path: Path, loaded: LoadedBackbone) -> None:
    """Of four caches of 1,000 bytes two fit; what was opened today stays though it is over the bound, the kept one always."""
    ages_d = {"old": 30, "older": 40, "today": 0.5, "kept": 50}
    for name, age in ages_d.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "part-1.safetensors").write_bytes(b"x" * 1000)
        os.utime(tmp_path / name, (time.time() - age * 86_400,) * 2)
    assert trim_caches(tmp_path, tmp_path / "kept", most_bytes=4000) == []
    assert trim_caches(tmp_path, tmp_path / "kept", most_bytes=3500) == [tmp_path / "older"]
    assert trim_caches(tmp_path, tmp_path / "kept", most_bytes=10) == [tmp_path / "old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "today"]
    assert trim_caches(tmp_path / "none", tmp_path) == []


def test_opening_a_cache_marks_it_as_used(tmp_path: Path, loaded: LoadedBackbone) -> None:
    first = FeatureCache(tmp_path, "d", loaded.preprocessing)
    first.add([("a", "plain")], np.ones((1, 4), dtype=np.float32))
    os.utime(first.folder, (1, 1))
    FeatureCache(tmp_path, "d", loaded.preprocessing)
    assert time.time() - first.folder.stat().st_mtime < 3600


def test_each_image_and_view_is_computed_once(
    loaded: LoadedBackbone, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    first, computed = taken(loaded, samples[:4], tmp_path)
    assert computed == 4 and first.shape == (4, 1, 512) and first.dtype == np.float32
    again, computed = taken(loaded, samples, tmp_path)
    assert computed == len(samples) - 4 and np.array_equal(again[:4], first)
    three = Views(count=3, augmentation=Augmentation(), seed=5)
    views, computed = taken(loaded, samples, tmp_path, views=three)
    assert computed == 2 * len(samples) and np.array_equal(views[:, :1], again)
    assert not np.array_equal(views[:, 1], views[:, 2])
    assert taken(loaded, samples, tmp_path, views=three)[1] == 0
    backwards, computed = taken(loaded, samples[::-1], tmp_path, views=three)
    assert computed == 0 and np.array_equal(backwards[::-1], views)
    assert taken(loaded, samples, tmp_path, views=dataclasses.replace(three, seed=6))[1] == 2 * len(samples)


def test_copies_of_one_image_are_computed_once(
    loaded: LoadedBackbone, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    copy = tmp_path / "copy.png"
    shutil.copy(samples[0].path, copy)
    rows, computed = taken(loaded, (samples[0], dataclasses.replace(samples[0], path=str(copy))), tmp_path / "c")
    assert computed == 1 and np.array_equal(rows[0], rows[1])


@pytest.mark.parametrize("name", ["timm:resnet10t", "efficientnet-lite0"])
def test_the_company_in_a_batch_does_not_matter(name: str, samples: tuple[Sample, ...]) -> None:
    loaded = load_backbone(name, "auto" if name.startswith("eff") else "none", seed=0, fit="squash", input_size_px=64)
    pictures = [np.ascontiguousarray(read_sample(s, 1).pixels[:64, :64]) for s in samples]
    pictures = [np.resize(p, (64, 64, 3)) for p in pictures]
    spec = loaded.preprocessing
    together = run_backbone(loaded.module, pictures, spec, MACHINE)
    alone = np.concatenate([run_backbone(loaded.module, [p], spec, MACHINE) for p in pictures])
    threes = np.concatenate([run_backbone(loaded.module, pictures[i : i + 3], spec, MACHINE) for i in range(0, 10, 3)])
    assert np.allclose(together, alone, rtol=1e-5, atol=1e-5 * np.abs(together).max())
    assert np.array_equal(together, alone), "not one bit"
    assert np.array_equal(together, threes)


def test_two_may_fill_one_cache_side_by_side(
    loaded: LoadedBackbone, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    spec = loaded.preprocessing
    one, other = FeatureCache(tmp_path, "d", spec), FeatureCache(tmp_path, "d", spec)
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    one.add([("a", "plain"), ("b", "plain")], rows[:2])
    other.add([("b", "plain"), ("c", "plain")], rows[1:])
    assert ("c", "plain") not in one and ("a", "plain") not in other
    both = FeatureCache(tmp_path, "d", spec)
    assert np.array_equal(both.gather([("c", "plain"), ("a", "plain"), ("b", "plain")]), rows[[2, 0, 1]])
    assert ("a", "plain") not in FeatureCache(tmp_path, "of other weights", spec)
    assert ("a", "plain") not in FeatureCache(tmp_path, "d", dataclasses.replace(spec, fit="crop"))
    with pytest.raises(KeyError):
        both.gather([("d", "plain")])


@pytest.mark.parametrize("damage", ["truncated", "emptied", "other bytes", "removed"])
def test_a_damaged_part_is_computed_again(
    damage: str, loaded: LoadedBackbone, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    whole, _ = taken(loaded, samples, tmp_path)
    [part] = tmp_path.rglob("part-*.safetensors")
    content = part.read_bytes()
    if damage == "removed":
        part.unlink()
    else:
        part.write_bytes({"truncated": content[:-9], "emptied": b"", "other bytes": b"x" * 200}[damage])
    again, computed = taken(loaded, samples, tmp_path)
    assert computed == len(samples) and np.array_equal(again, whole)


def test_a_part_whose_values_changed_is_refused_by_name(
    loaded: LoadedBackbone, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    taken(loaded, samples, tmp_path)
    [part] = tmp_path.rglob("part-*.safetensors")
    content = bytearray(part.read_bytes())
    content[-5] ^= 4
    part.write_bytes(content)
    with pytest.raises(WorkspaceError, match=part.name):
        taken(loaded, samples, tmp_path)


def test_an_interrupted_extraction_goes_on_and_gives_the_same_bits(
    loaded: LoadedBackbone, samples: tuple[Sample, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = taken(loaded, samples, tmp_path / "whole")
    monkeypatch.setattr(rooms, "IMAGES_PER_PART", 3)

    class Stopping(Counting):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.seen >= 5:
                raise KeyboardInterrupt
            return super().forward(x)

    cache = FeatureCache(tmp_path / "cut", "digest", loaded.preprocessing)
    with pytest.raises(KeyboardInterrupt):
        extract(
            Stopping(loaded.module), samples, loaded.preprocessing, cache=cache, views=Views(), machine=MACHINE,
            batch_size=3, max_megapixels=1,
        )  # fmt: skip
    resumed, computed = taken(loaded, samples, tmp_path / "cut", batch_size=2)
    assert computed == len(samples) - 6, "two parts of three were kept"
    assert np.array_equal(resumed, whole)


def test_a_changed_or_missing_image_is_named(loaded: LoadedBackbone, tmp_path: Path, make_lab) -> None:
    samples = make_lab(tmp_path).manifest.samples
    Path(samples[1].path).write_bytes(Path(samples[0].path).read_bytes())
    with pytest.raises(DataError, match=r"1\.png has changed since leuk prepare") as caught:
        taken(loaded, samples, tmp_path / "cache")
    assert caught.value.exit_code == 3 and samples[1].path in caught.value.problem
    Path(samples[1].path).unlink()
    with pytest.raises(DataError, match=samples[1].path):
        taken(loaded, samples, tmp_path / "cache")


def test_features_that_are_not_finite_stop_the_run(
    loaded: LoadedBackbone, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) / 0

    with pytest.raises(MachineError, match="not finite"):
        extract(
            Broken(), samples, loaded.preprocessing, cache=FeatureCache(tmp_path, "d", loaded.preprocessing), views=Views(),
            machine=MACHINE, batch_size=4, max_megapixels=1,
        )  # fmt: skip
    assert not list(tmp_path.rglob("part-*"))


def test_the_digest_changes_with_any_value_name_or_shape(loaded: LoadedBackbone) -> None:
    state = {"a": torch.arange(4.0), "b": torch.ones(2, 2)}
    known = state_digest(state)
    assert known == state_digest({"b": torch.ones(2, 2), "a": torch.arange(4.0)})
    assert known == state_digest({**state, "b": torch.ones(2, 2).t()})
    for other in (
        {**state, "a": torch.arange(4.0) + 1e-7},
        {"a": state["a"], "c": state["b"]},
        {**state, "b": torch.ones(4)},
    ):
        assert state_digest(other) != known


# ----------------------------------------------------------------------------------------------------------- views


def test_a_view_depends_on_image_seed_and_number_alone(samples: tuple[Sample, ...], loaded: LoadedBackbone) -> None:
    pixels, spec = read_sample(samples[0], 1), loaded.preprocessing

    def view(seed: int = 1, number: int = 2, sha256: str = samples[0].sha256) -> np.ndarray:
        return augmented(pixels, spec, Augmentation(), view_rng(seed, sha256, number))

    assert np.array_equal(view(), view())
    assert view().shape == (64, 64, 3) and view().dtype == np.uint8
    for other in (view(seed=2), view(number=3), view(sha256=samples[1].sha256)):
        assert not np.array_equal(view(), other)


def test_an_augmentation_of_nothing_is_the_plain_view(samples: tuple[Sample, ...], loaded: LoadedBackbone) -> None:
    still = Augmentation(flips=False, quarter_turns=False, least_side=1.0, stain=0.0, light=0.0, blur_chance=0.0)
    pixels, spec = read_sample(samples[0], 1), loaded.preprocessing
    assert np.array_equal(
        augmented(pixels, spec, still, view_rng(0, samples[0].sha256, 1)), rooms.plain_view(pixels, spec)
    )
    jittered = augmented(
        pixels, spec, dataclasses.replace(still, stain=1e-6), view_rng(0, samples[0].sha256, 1)
    ).astype(int)
    assert np.abs(jittered - rooms.plain_view(pixels, spec)).max() <= 1, "unmixing stains and mixing them again"


def test_input_is_normalised_as_torchvision_does(loaded: LoadedBackbone) -> None:
    from torchvision.transforms.v2.functional import normalize

    views = torch.randint(256, (3, 8, 8, 3), dtype=torch.uint8)
    ours = to_input(views, loaded.preprocessing, torch.device("cpu"))
    theirs = normalize(views.permute(0, 3, 1, 2) / 255, list(loaded.preprocessing.mean), list(loaded.preprocessing.std))
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert ours.is_contiguous(memory_format=torch.channels_last)
