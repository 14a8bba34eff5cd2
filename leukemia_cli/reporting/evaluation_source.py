"""What every section of an evaluation's page asks of the report: its images and groups, its figures in tables and drawn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from leukemia_cli.reporting.evaluation_words import level_words
from leukemia_cli.reporting.html import (
    NOT_IN_REPORT,
    Footnotes,
    Markup,
    escaped,
    estimate_cells,
    figure,
    heads,
    joined,
    paragraph,
    table,
)
from leukemia_cli.reporting.wording import NO_VALUE, counts, group_count

HEADLINE = "balanced_accuracy"
ABSENT = paragraph(escaped(NOT_IN_REPORT), kind="pale")

Row = tuple[str, str, Mapping[str, Any] | None]
"""Title, key for machines, and figure of one row of a table of figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap:
    """What the model looked at in one image; `picture` and `overlay` are data URIs."""

    path: str
    label: str
    predicted: str
    picture: str
    overlay: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A report.json and the pictures that go with it; its figures are numbered in the order in which they are drawn.

    `thumbnails` are data URIs by path, none where pictures are not to be shown.
    """

    report: Mapping[str, Any]
    thumbnails: Mapping[str, str] = field(default_factory=dict)
    heatmaps: Sequence[Heatmap] = ()
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def model(self) -> Mapping[str, Any]:
        """Give what the report tells of the model, empty where it does not."""
        return self.report.get("model") or {}

    @property
    def curves(self) -> Mapping[str, Any]:
        """Give the report's curves, empty where it has none."""
        return self.report.get("curves") or {}

    @property
    def groups_known(self) -> bool:
        """Say whether groups are more than the images themselves."""
        return bool(self.report.get("groups_source") != "none")

    def known(self, groups: int | None) -> int | None:
        """Give a number of groups, None where groups are unknown."""
        return groups if self.groups_known else None

    @property
    def images(self) -> int:
        """Give how many images were judged."""
        return int(self.report["images"])

    @property
    def groups(self) -> int | None:
        """Give how many groups were judged, None where unknown."""
        return self.known(self.report["groups"])

    @property
    def of(self) -> str:
        """Say how many images and groups were judged."""
        return counts(self.images, self.groups)

    @property
    def trained_on(self) -> tuple[int | None, int | None]:
        """Give images and groups of the training data, None where not reported."""
        source = self.model.get("groups_source", self.report.get("groups_source"))
        return self.model.get("training_images"), self.model.get("training_groups") if source != "none" else None

    @property
    def level(self) -> str:
        """Say the level of the intervals."""
        return level_words((self.report.get("bootstrap") or {}).get("level", 0.95))

    @property
    def protocol(self) -> str:
        """Say which images were judged, and by which model."""
        if self.report.get("external"):
            return f"the external data set {self.report['external']}"
        if self.report.get("folds"):
            return f"pooled out-of-fold predictions of {self.report['folds']} folds"
        split = str(self.report.get("split"))
        return {"test": "the held-out test split", "val": "the validation split, on which choices were made"}.get(
            split, f"the split {split}"
        )

    def group_cell(self, groups: int | None) -> Markup:
        """Give a cell with a number of groups."""
        return escaped(group_count(groups, known=self.groups_known))

    def figure(self, drawing: Markup, caption: str, *, of: str | None = None, beside: bool = False) -> Markup:
        """Caption a drawing with the next number; it is of the images that were judged where `of` says no other."""
        number = next(self.numbers)
        return figure(drawing, number=number, caption=escaped(caption), of=of or self.of, beside=beside)

    def estimates(
        self,
        rows: Sequence[Row],
        *,
        caption: str,
        prefix: str,
        first: str = "Figure",
        kept: str | None = None,
        difference: str | None = None,
        groups_known: Mapping[str, bool] | None = None,
    ) -> Markup:
        """Give a table of figures with its notes; those that are None are left out.

        `kept` is the key of a row to be set in bold, `difference` that of a row with signs; `groups_known` is said by key
        where it is not that of the report.
        """
        notes = Footnotes(prefix=prefix)
        known = [(title, key, estimate) for title, key, estimate in rows if estimate is not None]
        # Degrees of freedom say from how many groups the width of an interval is known.
        told = any(estimate.get("freedom") is not None for _, _, estimate in known)
        cells = []
        for title, key, estimate in known:
            shown = estimate_cells(
                estimate,
                notes,
                key=key,
                groups_known=(groups_known or {}).get(key, self.groups_known),
                difference=key == difference,
            )
            freedom = estimate.get("freedom")
            last = [escaped(NO_VALUE if freedom is None else f"{freedom:.1f}")] if told else []
            cells.append((escaped(title), *shown, *last))
        columns = heads(first, "Value", f"{self.level} interval", "Images", "Groups", *(["D.f."] if told else []))
        bold = [place for place, (_, key, _) in enumerate(known) if key == kept]
        return joined([table(columns, cells, caption=caption, kept=bold), notes.listed()])
