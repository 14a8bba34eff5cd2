"""The frozen values that cross borders between rooms, with the rules that hold for each of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, get_args

Item = TypeVar("Item")
GroupsSource = Literal["given", "filename", "proposed", "none"]
Fit = Literal["squash", "crop", "pad"]
Tune = Literal["head", "last-stage", "all"]
StainNorm = Literal["none", "macenko", "reinhard"]
DecodeSize = Literal["full", "scaled"]
Background = Literal["keep", "mask"]
BackgroundChoice = Literal["auto", "keep", "mask"]
"""`auto` is `mask` for cells of photographs, `keep` for images."""
TILINGS = (1, 4, 5)
"""How many tiles an image may be seen as: itself; its quadrants; its quadrants and itself."""
Unit = Literal["image", "cell"]
SPLITS = ("train", "val", "calib", "test")


class Track(Protocol):
    """Wraps an iterable so that a person can watch it pass; what it yields is what it was given."""

    def __call__(self, items: Iterable[Item], *, total: int, label: str) -> Iterable[Item]:
        """Yield `items` unchanged; `total` is their number, `label` what is being done to each."""
        ...


def silent(items: Iterable[Item], *, total: int, label: str) -> Iterable[Item]:
    """Pass items through without a word: the default `Track` of every step."""
    del total, label
    return items


class Note(Protocol):
    """Takes one line for a person: a choice made, a warning. Never a result."""

    def __call__(self, line: str) -> None:
        """Show or drop `line`."""
        ...


def unheard(line: str) -> None:
    """Drop the line: the default `Note` of every step."""
    del line


def undisturbed() -> None:
    """Let a fit go on: the default `pulse` of every fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """An ordered list of at least two distinct classes; names of labels that mean them; for two classes, the positive.

    `whole` is the class count of the task that this is a subset of, or its own.
    """

    name: str
    classes: tuple[str, ...]
    aliases: Mapping[str, str]
    ignored: tuple[str, ...] = ()
    positive: str | None = None
    whole: int = 0

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"a task needs at least two distinct classes, got {list(self.classes)}")
        if self.positive is not None and (len(self.classes) != 2 or self.positive not in self.classes):
            raise ValueError(f"positive class {self.positive!r} is not one of two classes {list(self.classes)}")
        if self.whole == 0:
            object.__setattr__(self, "whole", len(self.classes))

    @property
    def title(self) -> str:
        """Name a subset as one: 'five-class (3 of 5 classes: ALL, AML, HTL)'."""
        listed = ", ".join(self.classes)
        if self.whole == len(self.classes):
            return f"{self.name} ({listed})"
        return f"{self.name} ({len(self.classes)} of {self.whole} classes: {listed})"

    def indices(self, labels: Iterable[str]) -> list[int]:
        """Give the place of each label among the classes; raises KeyError for one that is none of them."""
        order = {name: i for i, name in enumerate(self.classes)}
        return [order[label] for label in labels]

    def as_json(self) -> dict[str, Any]:
        """Give every field as JSON types."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "aliases": dict(self.aliases),
            "ignored": list(self.ignored),
            "positive": self.positive,
            "whole": self.whole,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Task:
        """Undo `as_json`; raises KeyError or ValueError for anything else."""
        return cls(
            name=stored["name"],
            classes=tuple(stored["classes"]),
            aliases=dict(stored["aliases"]),
            ignored=tuple(stored["ignored"]),
            positive=stored["positive"],
            whole=stored["whole"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One row of a manifest: an image that was opened whole, its class, its group, and the part it belongs to.

    Exactly one of `split` and `fold` is set once parts are dealt. Images of one `group` never part. A cell that was cut
    from a photograph is an image too: `path` is that of its crop, `field` that of the photograph, and `x`, `y` say where in
    it, in px. `label` is empty for a cell, or a field, of which nobody said the class.
    """

    path: str
    label: str
    group: str
    split: str = ""
    fold: int | None = None
    unit: str = "image"
    source: str = ""
    sha256: str = ""
    width: int = 0
    height: int = 0
    field: str = ""
    x: float | None = None
    y: float | None = None
    bundle: str = ""
    """Name shared by groups that hold near copies of one another; empty where there are none."""

    @property
    def inseparable(self) -> str:
        """Give what is dealt whole: the group, or the bundle of groups that near copies tie together."""
        return self.bundle or self.group


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A cell that was found in a photograph: its nucleus's centroid and radius, px."""

    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """A cell with the file that shows it; without a spot and a file the image itself is the picture of one cell."""

    spot: Spot | None
    file: str | None
    """Relative to the folder of the manifest."""
    sha256: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The images of a task, dealt into splits or folds; `fingerprint` changes with any of it.

    Of a manifest of cells `samples` are the cells with a class, `unlabelled` those that were found but have none (nothing
    is fitted to them; they count in the finding of their photograph), `fields` the photographs, and `crops` says how cells
    were found and cut.
    """

    task: Task
    samples: tuple[Sample, ...]
    seed: int
    folds: int | None
    groups_source: GroupsSource
    warnings: tuple[str, ...]
    fingerprint: str
    unit: Unit = "image"
    unlabelled: tuple[Sample, ...] = ()
    fields: tuple[Sample, ...] = ()
    crops: Mapping[str, Any] | None = None

    @property
    def everything(self) -> tuple[Sample, ...]:
        """Give every image that has features: `samples`, then `unlabelled`."""
        return self.samples + self.unlabelled

    def part(self, split: str) -> tuple[Sample, ...]:
        """Give the samples of one split, in manifest order."""
        return tuple(s for s in self.samples if s.split == split)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedies:
    """What is done to an image so that less but its cells tells its class; nothing unless it is asked for.

    `stain_target` are the numbers that colours are brought to, as `vision.stains` reads them; `red_cell_px` is the diameter
    of a red cell in the network's input; `background` says what becomes of all that is not the one cell of a picture of one.
    `decode` "scaled" reads a JPEG at a part of its size, as small as still gives twice the network's input.
    Raises ValueError for values that cannot be.
    """

    mask_marks: bool = False
    background: Background = "keep"
    stain_norm: StainNorm = "none"
    stain_target: tuple[float, ...] = ()
    red_cell_px: float | None = None
    tiles: int = 1
    decode: DecodeSize = "full"

    def __post_init__(self) -> None:
        if self.tiles not in TILINGS:
            raise ValueError(f"{self.tiles} tiles are none of {TILINGS}")
        if self.red_cell_px is not None and not 1 <= self.red_cell_px <= 1000:
            raise ValueError(f"a red cell of {self.red_cell_px} px is not within 1 to 1000 px")
        if self.background not in ("keep", "mask"):
            raise ValueError(f"background {self.background!r} is none of keep, mask")
        if self.stain_norm not in ("none", "macenko", "reinhard"):
            raise ValueError(f"stain normalisation {self.stain_norm!r} is none of none, macenko, reinhard")
        if self.decode not in ("full", "scaled"):
            raise ValueError(f"decode {self.decode!r} is none of full, scaled")
        if self.decode == "scaled" and (self.mask_marks or self.background != "keep" or self.red_cell_px is not None):
            raise ValueError("marks, backgrounds and red cells are found in images of full size")

    def as_json(self) -> dict[str, Any]:
        """Give every field as JSON types."""
        return {**dataclasses.asdict(self), "stain_target": list(self.stain_target)}

    @property
    def titles(self) -> tuple[str, ...]:
        """Say each in words; none where nothing is done."""
        told = {
            "marks painted over": self.mask_marks,
            "background masked": self.background == "mask",
            f"colours by {self.stain_norm}": self.stain_norm != "none",
            f"red cells {self.red_cell_px or 0:g} px wide": self.red_cell_px is not None,
            f"seen in {self.tiles} tiles": self.tiles > 1,
            "JPEGs decoded at a part of their size": self.decode == "scaled",
        }
        return tuple(title for title, done in told.items() if done)

    @property
    def hide_origin(self) -> bool:
        """Tell whether they take away what tells where an image is from."""
        return self.background != "keep" or self.stain_norm != "none"

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Remedies:
        """Undo `as_json`; raises TypeError, KeyError or ValueError for anything else."""
        return cls(**{**stored, "stain_target": tuple(float(number) for number in stored["stain_target"])})


NO_REMEDIES = Remedies()


MOST_INPUT_PX = 8192
"""Far beyond every network's input: a stored size above it is damage, and would fill the memory."""


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """From decoded RGB pixels to the network's input, the same in train, evaluate, classify and every export."""

    input_size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bilinear", "bicubic"]
    fit: Fit
    version: int = 1
    remedies: Remedies = NO_REMEDIES

    def __post_init__(self) -> None:
        if not _is_whole(self.input_size_px) or not 1 <= self.input_size_px <= MOST_INPUT_PX:
            raise ValueError(f"input_size_px {self.input_size_px!r} is not within 1 to {MOST_INPUT_PX}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values):
                raise ValueError(f"{name} is not three numbers")
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std {self.std} is not above 0")
        if self.interpolation not in ("bilinear", "bicubic") or self.fit not in get_args(Fit):
            raise ValueError(f"unknown interpolation {self.interpolation!r} or fit {self.fit!r}")

    @property
    def enough_px(self) -> int | None:
        """Give the least px of a decoded image's sides, None where images are decoded at full size."""
        if self.remedies.decode == "full":
            return None
        return 2 * self.input_size_px * (2 if self.remedies.tiles > 1 else 1)

    @property
    def as_photographed(self) -> Preprocessing:
        """Give the same without the remedies that take away what tells where an image is from: what novelty is told by."""
        if not self.remedies.hide_origin:
            return self
        kept = dataclasses.replace(self.remedies, background="keep", stain_norm="none", stain_target=())
        return dataclasses.replace(self, remedies=kept)

    def as_json(self) -> dict[str, Any]:
        """Give every field as JSON types; `remedies` only where there are any, so that older artefacts stay the same."""
        stored = {**dataclasses.asdict(self), "mean": list(self.mean), "std": list(self.std)}
        del stored["remedies"]
        return stored if self.remedies == NO_REMEDIES else {**stored, "remedies": self.remedies.as_json()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Preprocessing:
        """Undo `as_json`; raises TypeError, KeyError or ValueError for anything else."""
        remedies = Remedies.from_json(stored["remedies"]) if "remedies" in stored else NO_REMEDIES
        plain = {**stored, "mean": tuple(stored["mean"]), "std": tuple(stored["std"]), "remedies": remedies}
        return cls(**plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadChoice:
    """One candidate of a network head: which features, which hidden widths, which dropout rate.

    `selected` features (None: all), the best by selector `by` → each width in `hidden`, ReLU, dropout `rate` → classes.
    """

    selected: int | None = None
    hidden: tuple[int, ...] = ()
    rate: float = 0.0
    by: str = "anova"

    @property
    def title(self) -> str:
        """Say it in one line."""
        widths = "-".join(map(str, self.hidden)) or "none"
        return f"{_features(self.selected, self.by)}, hidden {widths}, dropout {self.rate:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SvmChoice:
    """One candidate of a support vector machine on scaled features; `gamma` is relative to 1 / feature count.

    `selected` features (None: all) are the best by selector `by`.
    """

    selected: int | None = None
    kernel: Literal["linear", "rbf"] = "linear"
    c: float = 1.0
    gamma: float = 1.0
    by: str = "anova"

    @property
    def title(self) -> str:
        """Say it in one line."""
        width = f", gamma {self.gamma:g}/features" if self.kernel == "rbf" else ""
        return f"{_features(self.selected, self.by)}, {self.kernel} kernel, C {self.c:g}{width}"


def _features(selected: int | None, by: str) -> str:
    """Name kept features; two choices that can differ are never named alike, and ANOVA, the usual way, goes unsaid."""
    if selected is None:
        return "features all"
    return f"features {selected}" if by == "anova" else f"features {selected} by {by}"


def counted(count: int, noun: str, plural: str = "") -> str:
    """Say a number with its noun: '1 image', '2 images'."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


NO_GROUPS = (
    "the estimate will be optimistic: patient or group ids are not known for every image, so images of one patient can "
    "lie in training and test data alike; give the ids with --group-by"
)
"""Said by prepare, and again in every report, where groups are unknown."""

PROPOSED_GROUPS = "groups were proposed from the images, not given: where they are wrong the estimate is optimistic"
"""Said in every report and comparison where that is so."""

ENOUGH_GROUPS = 10
"""Below this many groups an interval exists but hangs on a handful of patients."""


def few_groups(groups: Mapping[str, int]) -> list[str]:
    """Warn, in one line or none, of the classes with too few groups for their figures to say much."""
    few = [f"{name} ({count})" for name, count in groups.items() if count < ENOUGH_GROUPS]
    return [f"fewer than {ENOUGH_GROUPS} groups in {', '.join(few)}: figures rest on little"] if few else []


def fingerprint(value: object) -> str:
    """Hash a JSON-ready value: equal values, equal 16 hex digits, whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
