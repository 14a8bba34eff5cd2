"""Maps mark what the score comes from, for every backbone and head; their test tells a true map from a false one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leukemia_cli.catalog import BACKBONES
from leukemia_cli.domain import HeadChoice, Preprocessing, SvmChoice, Task
from leukemia_cli.errors import UsageError
from leukemia_cli.learning import heatmaps
from leukemia_cli.learning.classifier import Classifier, Member
from leukemia_cli.learning.engines import TorchEngine
from leukemia_cli.learning.features import run_backbone
from leukemia_cli.learning.heatmaps import Faithfulness, faithfulness, heatmap
from leukemia_cli.learning.machine import choose_machine, place
from leukemia_cli.learning.network import Head
from leukemia_cli.learning.svm import Kernels
from leukemia_cli.learning.weights import BackboneSpec, build_module

SIZE = 64


class Colours(nn.Module):
    """A backbone whose three features are the mean red, green and blue, over a map of 16 × 16 places."""

    def __init__(self, output_fmt: str = "NCHW") -> None:
        super().__init__()
        self.output_fmt = output_fmt
        self.gain = nn.Parameter(torch.ones(1))

    def forward_features(self, images: Tensor) -> Tensor:
        places = nn.functional.avg_pool2d(images, 4) * self.gain
        return places.permute(0, 2, 3, 1) if self.output_fmt == "NHWC" else places

    def forward_head(self, features: Tensor) -> Tensor:
        return features.mean((1, 2) if self.output_fmt == "NHWC" else (2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))


def classifier_of(*members: Member, backbone: nn.Module | None, size: int = SIZE, classes: int = 2) -> Classifier:
    names = tuple(f"c{k}" for k in range(classes))
    return Classifier(
        run="r",
        task=Task(name="t", classes=names, aliases={}),
        spec=BackboneSpec(
            name="timm:x", timm_name="x", feature_width=3, licence="", weights="none", weights_source="", weights_sha256=None
        ),
        preprocessing=Preprocessing(
            input_size_px=size, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), interpolation="bilinear", fit="squash"
        ),
        backbone=backbone,
        members=members,
        engine=TorchEngine(machine=choose_machine("cpu", 1)),
    )  # fmt: skip


def member(head: object, backbone: nn.Module | None = None, temperature: float = 1.5) -> Member:
    return Member(fold=None, head=head, temperature=temperature, calibrated_on="", backbone=backbone)


def network(width: int, classes: int = 2, hidden: tuple[int, ...] = (), seed: int = 0) -> Head:
    torch.manual_seed(seed)
    return Head(HeadChoice(hidden=hidden, rate=0.5 if hidden else 0.0), width, classes).eval()


def red_head() -> Head:
    """Class 1 is red (more than green), class 0 the contrary."""
    head = network(3)
    with torch.no_grad():
        head.out.weight.copy_(torch.tensor([[-3.0, 3.0, 0.0], [3.0, -3.0, 0.0]]))
        head.out.bias.copy_(torch.tensor([0.3, -0.3]))
    return head


def machine_of(width: int, kernel: str, classes: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, width)).astype(np.float32)
    y = np.arange(60) % classes
    x[np.arange(60), y % width] += 2
    return Kernels(x[:, None], y.astype(np.int64)).fit(SvmChoice(kernel=kernel, c=1.0, gamma=0.02), classes)


def untrained(timm_name: str, size: int = SIZE) -> nn.Module:
    """Build a random backbone whose normalisation fits its input, so that its last features are not all alike."""
    torch.manual_seed(0)
    backbone = place(build_module(timm_name), choose_machine("cpu", 1))
    for part in backbone.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
    with torch.no_grad():
        backbone.train()(torch.randn(2, 3, size, size))
    return backbone.eval()


def noise(count: int, size: int = SIZE, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return list(coarse.repeat(-(-size // 8), 1).repeat(-(-size // 8), 2)[:, :size, :size])


def spotted(row: int, column: int) -> np.ndarray:
    """Green ground with one red spot of 16 × 16 px."""
    view = np.full((SIZE, SIZE, 3), (60, 120, 120), np.uint8)
    view[row : row + 16, column : column + 16] = (250, 20, 120)
    return view


HEADS = {
    "linear network": network,
    "hidden network": lambda width, classes: network(width, classes, hidden=(8,)),
    "linear svm": lambda width, classes: machine_of(width, "linear", classes),
    "rbf svm": lambda width, classes: machine_of(width, "rbf", classes),
}


# ------------------------------------------------------------------------------------------------------- what is marked


@pytest.mark.parametrize("fmt", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("row", "column"), [(4, 8), (40, 8), (24, 44)])
def test_a_map_marks_what_the_class_comes_from(row: int, column: int, fmt: str) -> None:
    classifier = classifier_of(member(red_head()), backbone=Colours(fmt))
    (heat,) = heatmap(classifier, [spotted(row, column)], [1])
    assert heat.dtype == np.float32 and heat.shape == (SIZE, SIZE) and heat.min() == 0 and heat.max() == 1
    inside = heat[row + 4 : row + 12, column + 4 : column + 12]
    assert inside.min() > 0.95
    heat[row - 4 : row + 20, column - 4 : column + 20] = 0
    assert heat.max() == 0, "green speaks against red"
    (against,) = heatmap(classifier, [spotted(row, column)], [0])
    assert against[row + 4 : row + 12, column + 4 : column + 12].max() == 0 and against.max() == 1


def test_where_nothing_speaks_for_the_class_the_map_is_zero() -> None:
    classifier = classifier_of(member(red_head()), backbone=Colours())
    red = np.full((SIZE, SIZE, 3), (250, 20, 120), np.uint8)
    assert not heatmap(classifier, [red], [0]).any()


@pytest.mark.parametrize("kind", ["linear network", "linear svm"])
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_with_a_linear_head_the_last_map_splits_the_log_odds_exactly(kind: str, name: str) -> None:
    """Draelos and Carin 2020, section 3: the sum over places is the log-odds but for what no feature makes."""
    backbone = untrained(name)
    width = int(backbone.num_features)
    head = HEADS[kind](width, 2)
    if isinstance(head, Head):
        head.within = 1e9  # a head that holds features within bounds is not linear beyond them
    else:
        head = dataclasses.replace(head, within=1e9)
    one = member(head)
    classifier = classifier_of(one, backbone=backbone)
    images = torch.randn(8, 3, SIZE, SIZE)
    with torch.no_grad():
        given, nothing = heatmaps._log_odds(one, backbone(images), 1), heatmaps._log_odds(one, torch.zeros(8, width), 1)
    earlier, last = heatmaps._signed(classifier, backbone, [one], images, 1)
    assert torch.allclose(last.sum((1, 2)), given - nothing, rtol=1e-3, atol=1e-5)
    assert earlier.shape == (8, 4, 4) and last.shape == (8, 2, 2)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("kind", HEADS)
def test_log_odds_are_those_of_the_members_probability(kind: str, classes: int) -> None:
    one = member(HEADS[kind](6, classes), temperature=2.5)
    features = np.random.default_rng(3).normal(size=(9, 6)).astype(np.float32) * 5
    probability = one.probabilities(features)
    for target in range(classes):
        odds = heatmaps._log_odds(one, torch.from_numpy(features), target).detach().numpy()
        p = probability[:, target]
        assert np.allclose(odds, np.log(p) - np.log1p(-p), atol=1e-4)


@pytest.mark.parametrize("kind", HEADS)
def test_slopes_are_those_of_differences(kind: str) -> None:
    one = member(HEADS[kind](6, 3))
    if isinstance(one.head, Head):
        one.head.double()
    at = torch.randn(1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: heatmaps._log_odds(one, x, 1), (at,), eps=1e-5, atol=1e-4)


def test_a_map_turns_with_its_view() -> None:
    backbone = untrained("test_efficientnet")
    classifier = classifier_of(member(network(256)), backbone=backbone)
    (view,) = noise(1)
    (heat,) = heatmap(classifier, [view], [1])
    (turned,) = heatmap(classifier, [np.rot90(view[:, ::-1])], [1])
    assert np.ptp(heat) > 0 and np.allclose(turned, np.rot90(heat[:, ::-1]), atol=1e-4)


def test_members_are_added_wherever_their_backbone_lies() -> None:
    first, second = red_head(), network(3, seed=5)
    shared = classifier_of(member(first), member(second), backbone=Colours())
    own = classifier_of(member(first, Colours()), member(second, Colours()), backbone=None)
    views = [*noise(2), spotted(8, 8)]
    together = heatmap(shared, views, [1, 0, 1])
    assert np.allclose(heatmap(own, views, [1, 0, 1]), together, atol=1e-5)
    alone = heatmap(classifier_of(member(first), backbone=Colours()), views, [1, 0, 1])
    assert not np.allclose(alone, together, atol=0.01)
    with pytest.raises(ValueError, match="without a backbone"):
        heatmap(classifier_of(member(first), backbone=None), views, [1, 0, 1])


# --------------------------------------------------------------------------------------------- every backbone and head


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("classes", [2, 3])
def test_every_head_has_maps_that_differ_by_class(kind: str, classes: int) -> None:
    backbone = untrained("test_resnet")
    head = HEADS[kind](96, classes)
    classifier = classifier_of(member(head), backbone=backbone, classes=classes)
    views = noise(1)
    found = [heatmap(classifier, views, [k])[0] for k in range(classes)]
    assert all(np.isfinite(heat).all() and heat.min() >= 0 and heat.max() in (0, 1) for heat in found)
    assert any(heat.any() for heat in found) and not np.array_equal(found[0], found[1])


CHEAP = {name: entry.timm_name for name, entry in BACKBONES.items()} | {
    f"timm:{name}": name for name in ("test_byobnet", "test_convnext", "mobilenetv3_small_100", "densenet121")
}


@pytest.mark.parametrize("name", CHEAP)
def test_every_backbone_has_two_maps_and_stays_as_it_was(name: str) -> None:
    """One image through each: what is slow is to build the network, so nothing of it is trained or repeated."""
    size = max(SIZE, 107 if name == "inception" else 0)
    backbone = untrained(CHEAP[name], size)
    one = member(network(int(backbone.head_hidden_size)))
    classifier = classifier_of(one, backbone=backbone, size=size)
    before = {key: value.clone() for key, value in backbone.state_dict().items() if value.numel() < 5000}
    maps = heatmaps._signed(classifier, backbone, [one], torch.randn(2, 3, size, size), 0)
    assert len(maps) == 2 and all(torch.isfinite(m).all() and m.any() for m in maps)
    assert maps[0].shape[1] >= maps[1].shape[1] >= 2
    after = backbone.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert all(p.grad is None and p.requires_grad for p in backbone.parameters())
    assert not any(part._forward_hooks for part in backbone.modules())


def test_a_backbone_without_a_feature_map_is_refused_by_name() -> None:
    backbone = build_module("test_vit").eval()
    classifier = classifier_of(member(network(64)), backbone=backbone, size=160)
    with pytest.raises(UsageError, match=r"timm:x has no feature map") as caught:
        heatmap(classifier, noise(1, 160))
    assert caught.value.hint and torch.is_grad_enabled()


def test_a_feature_map_of_one_place_is_refused() -> None:
    classifier = classifier_of(member(network(96)), backbone=build_module("test_resnet").eval(), size=32)
    with pytest.raises(UsageError, match="single place"):
        heatmap(classifier, noise(1, 32))


# ------------------------------------------------------------------------------------------------- side effects


def test_a_map_depends_on_its_view_alone_and_nothing_stays_changed() -> None:
    backbone = untrained("test_resnet")
    head = network(96, hidden=(8,))
    backbone.train(), head.train()  # a caller's mode, which must not reach the map
    classifier = classifier_of(member(head), backbone=backbone)
    views = noise(5)
    targets = [0, 1, 0, 1, 1]
    state = {key: value.clone() for key, value in backbone.state_dict().items()}
    together = heatmap(classifier, views, targets)
    with torch.no_grad():
        alone = np.concatenate([heatmap(classifier, [view], [k]) for view, k in zip(views, targets, strict=True)])
    assert np.array_equal(together, alone)
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())
    assert all(part.training for module in (backbone, head) for part in module.modules())
    assert all(p.grad is None and p.requires_grad for p in backbone.parameters())
    backbone.eval(), head.eval()
    assert np.array_equal(heatmap(classifier, views, targets), together)


def test_without_targets_the_called_class_is_explained() -> None:
    classifier = classifier_of(member(network(3, classes=3)), backbone=Colours(), classes=3)
    shades = np.random.default_rng(0).integers(0, 256, (20, 3))
    views = [(view // 4 + shade * 3 // 4).astype(np.uint8) for view, shade in zip(noise(20), shades, strict=True)]
    called = classifier.probabilities(views).argmax(1)
    assert len(set(called)) > 1
    assert np.array_equal(heatmap(classifier, views), heatmap(classifier, views, called))
    assert heatmap(classifier, []).shape == (0, SIZE, SIZE)


@pytest.mark.parametrize("targets", [[0], [0, 2], [0, -1]])
def test_targets_that_do_not_fit_are_refused(targets: Sequence[int]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        heatmap(classifier_of(member(red_head()), backbone=Colours()), noise(2), targets)


# --------------------------------------------------------------------------------------------------- faithfulness


class Texture(Colours):
    """A backbone that sees only what stands out red, green or blue: a blurred texture is gone for it."""

    def forward_features(self, images: Tensor) -> Tensor:
        return torch.relu(super().forward_features(images) - 0.5)


def checked(row: int, column: int) -> np.ndarray:
    """Dark ground with a patch of 24 × 24 px of red and dark squares."""
    view = np.full((SIZE, SIZE, 3), 60, np.uint8)
    squares = (np.indices((6, 6)).sum(0) % 2).repeat(4, 0).repeat(4, 1)
    view[row : row + 24, column : column + 24, 0] = 60 + 190 * squares
    return view


def test_a_true_map_is_told_from_random_ones_and_from_its_contrary() -> None:
    head = network(3)
    with torch.no_grad():
        head.out.weight.copy_(torch.tensor([[-30.0, 0, 0], [30.0, 0, 0]]))
        head.out.bias.copy_(torch.tensor([1.5, -1.5]))
    classifier = classifier_of(member(head, temperature=1.0), backbone=Texture())
    views = [checked(r, c) for r, c in ((0, 0), (8, 36), (40, 20))]
    assert (classifier.probabilities(views)[:, 1] > 0.9).all()
    maps = heatmap(classifier, views)
    true = faithfulness(classifier, views, maps, seed=3)
    assert true.images == 3
    assert true.deletion < true.random_deletion - 0.2 and true.insertion > true.random_insertion + 0.2
    false = faithfulness(classifier, views, 1 - maps, seed=3)
    assert false.deletion > false.random_deletion + 0.2 and false.insertion < false.random_insertion - 0.2
    assert faithfulness(classifier, views, maps, seed=3) == true != faithfulness(classifier, views, maps, seed=4)


def test_areas_are_those_of_hand_made_curves() -> None:
    """Two steps of a map that splits the view in halves: the one point between is the view with that half blurred."""
    classifier = classifier_of(member(network(3)), backbone=Colours())
    (view,) = noise(1, seed=4)
    left = np.zeros((1, SIZE, SIZE), np.float32)
    cells = heatmaps._cell_of(SIZE) < heatmaps.GRID // 2
    left[0, :, cells] = 1
    found = faithfulness(classifier, [view], left, steps=2)
    blurred = heatmaps._blurred(view)
    half, other = np.where(cells[None, :, None], blurred, view), np.where(cells[None, :, None], view, blurred)
    p = run_and_score(classifier, [view, half, blurred, other])
    p = p[:, int(p[0].argmax())]
    assert found.deletion == pytest.approx(p[0] / 4 + p[1] / 2 + p[2] / 4, abs=1e-6)
    assert found.insertion == pytest.approx(p[2] / 4 + p[3] / 2 + p[0] / 4, abs=1e-6)


def run_and_score(classifier: Classifier, views: list[np.ndarray]) -> np.ndarray:
    assert classifier.backbone is not None
    features = run_backbone(classifier.backbone, views, classifier.preprocessing, classifier.machine)
    return classifier.members[0].probabilities(features)


def test_a_map_without_order_scores_as_random_ones_do() -> None:
    classifier = classifier_of(member(network(3)), backbone=Colours())
    views = noise(30)
    flat = faithfulness(classifier, views, np.zeros((30, SIZE, SIZE), np.float32), steps=4)
    assert flat.deletion == pytest.approx(flat.random_deletion, abs=0.01)
    assert flat.insertion == pytest.approx(flat.random_insertion, abs=0.01)
    assert isinstance(flat, Faithfulness)


@pytest.mark.parametrize(("count", "size", "steps"), [(1, SIZE, 4), (2, SIZE - 1, 4), (2, SIZE, 1)])
def test_maps_that_do_not_fit_are_refused(count: int, size: int, steps: int) -> None:
    classifier = classifier_of(member(red_head()), backbone=Colours())
    with pytest.raises(ValueError, match="do not fit"):
        faithfulness(classifier, noise(2), np.zeros((count, size, size), np.float32), steps=steps)
    with pytest.raises(ValueError, match="do not fit"):
        faithfulness(classifier, [], np.zeros((0, SIZE, SIZE), np.float32))
