"""What was predicted, for which image, of which class and group: the one input of every figure in this room."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukemia_cli.domain import GroupsSource

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# A softmax in 16-bit arithmetic misses one by up to about 5e-4; anything further off is no distribution.
_SUM_TOLERANCE = 1e-3
_GROUPS_SOURCES = ("given", "filename", "proposed", "none")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """Probabilities that are finite, lie in [0, 1] and sum to one in each row, beside the true class of N ≥ 1 images.

    `labels` (N,) are indices into `classes` (C ≥ 2); `probabilities` (N, C) has its columns in the order of `classes`;
    `groups` (N,) names the patient or parent of each image, and is not read where `groups_source` is "none".
    `positive` may be set for two classes only. Arrays are copied and cannot be written to.
    Raises ValueError, with the value in it, for anything else.
    """

    classes: tuple[str, ...]
    positive: str | None
    labels: IntArray
    probabilities: FloatArray
    groups: tuple[str, ...]
    groups_source: GroupsSource

    def __post_init__(self) -> None:
        classes = tuple(self.classes)
        count = len(classes)
        if count < 2 or len(set(classes)) != count:
            raise ValueError(f"classes must be at least two distinct names, got {list(classes)}")
        if self.positive is not None and (count != 2 or self.positive not in classes):
            raise ValueError(f"positive class {self.positive!r} is not one of two classes {list(classes)}")
        if self.groups_source not in _GROUPS_SOURCES:
            raise ValueError(f"groups_source {self.groups_source!r} is none of {', '.join(_GROUPS_SOURCES)}")

        labels = np.asarray(self.labels)
        if labels.ndim != 1 or labels.size == 0 or labels.dtype.kind not in "iu":
            raise ValueError(f"labels must be (N,) integers with N ≥ 1, got {labels.dtype} of shape {labels.shape}")
        outside = labels[(labels < 0) | (labels >= count)]
        if outside.size:
            raise ValueError(f"label {int(outside[0])} is no index into {count} classes")

        probabilities = np.array(self.probabilities, dtype=np.float64)
        if probabilities.shape != (labels.size, count):
            raise ValueError(f"probabilities must be {(labels.size, count)}, got shape {probabilities.shape}")
        for row in np.flatnonzero(~np.isfinite(probabilities).all(axis=1))[:1]:
            raise ValueError(f"probabilities of image {row} are not finite: {probabilities[row].tolist()}")
        for row in np.flatnonzero((probabilities < 0).any(axis=1) | (probabilities > 1 + _SUM_TOLERANCE).any(axis=1))[
            :1
        ]:
            raise ValueError(f"probabilities of image {row} lie outside 0 to 1: {probabilities[row].tolist()}")
        sums = probabilities.sum(axis=1)
        for row in np.flatnonzero(np.abs(sums - 1) > _SUM_TOLERANCE)[:1]:
            raise ValueError(f"probabilities of image {row} sum to {sums[row]:g}, not 1")

        groups = tuple(str(group) for group in self.groups)
        if len(groups) != labels.size and self.groups_source != "none":
            raise ValueError(f"{len(groups)} groups for {labels.size} images")

        kept_labels = np.array(labels, dtype=np.int64)
        kept_labels.setflags(write=False)
        probabilities.setflags(write=False)
        for name, value in (
            ("classes", classes),
            ("labels", kept_labels),
            ("probabilities", probabilities),
            ("groups", groups),
        ):
            object.__setattr__(self, name, value)

    @property
    def image_count(self) -> int:
        """Give N."""
        return int(self.labels.size)

    @property
    def predicted(self) -> IntArray:
        """Give the index (N,) of the most probable class; of equals the first in class order."""
        predicted: IntArray = self.probabilities.argmax(axis=1).astype(np.int64)
        return predicted

    @property
    def groups_known(self) -> bool:
        """Say whether images of one patient can be told to belong together."""
        return self.groups_source != "none"

    def of_classes(self, classes: IntArray) -> Predictions:
        """Give the images of these classes alone, with probabilities of all classes as they are."""
        kept = np.flatnonzero(np.isin(self.labels, classes))
        return Predictions(
            classes=self.classes,
            positive=self.positive,
            labels=self.labels[kept],
            probabilities=self.probabilities[kept],
            groups=tuple(self.groups[i] for i in kept) if self.groups_known else (),
            groups_source=self.groups_source,
        )

    def group_indices(self) -> tuple[IntArray, int]:
        """Give the group (N,) of each image as an index, and the number G of groups.

        Indices follow the sorted names, so that they do not depend on the order of images. Where groups are unknown
        every image is its own group.
        """
        if not self.groups_known:
            return np.arange(self.image_count, dtype=np.int64), self.image_count
        index = {name: i for i, name in enumerate(sorted(set(self.groups)))}
        return np.array([index[name] for name in self.groups], dtype=np.int64), len(index)
