"""The audit finds the shortcuts that were put in, names images and remedies, and its page says what its document says."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_reports import HOSTILE, drawn_picture

from leukemia_cli.judging import shortcuts
from leukemia_cli.reporting.audit import MOST_LINES, audit_document, audit_lines
from leukemia_cli.reporting.audit_findings import FIRST_IMAGES
from leukemia_cli.reporting.audit_images import AuditImages, measured
from leukemia_cli.reporting.audit_page import audit_page, audit_pictures, probes_chart
from leukemia_cli.reporting.wording import number
from leukemia_cli.vision.decode import decode
from leukemia_cli.vision.traits import BORDER_NAMES, COLOUR_NAMES, CORNER_NAMES, Traits, jpeg_quality, measure

ENOUGH, FEW = 199, 19
"""Exchanges with which nine probes can be accused, and with which none can."""


def traits(random: np.random.Generator, **changed: Any) -> Traits:
    """Traits of an image in which nothing tells anything."""

    def near(width: int) -> tuple[float, ...]:
        return tuple(random.normal(0.5, 0.1, width).tolist())

    plain = Traits(
        width=224, height=224, megapixels=0.05, format="JPEG", jpeg_quality=95.0, colour=near(len(COLOUR_NAMES)),
        background=near(len(COLOUR_NAMES)), border=near(len(BORDER_NAMES)), corners=near(len(CORNER_NAMES)),
        bodies=float(random.poisson(6)), body_px=30.0, scale_bar=0.0, scale_bar_place="", scale_bar_style="", pointer=0.0,
        pointer_place="",
    )  # fmt: skip
    return replace(plain, **changed)


def drawn(
    *, per_class: int = 60, groups: int = 20, classes: Sequence[str] = ("ALL", "HTL"), source: str = "given"
) -> AuditImages:
    random = np.random.default_rng(0)
    labels = [kind for kind in classes for _ in range(per_class)]
    return AuditImages(
        classes=tuple(classes),
        paths=[f"lab/{kind}/image{row:03d}.jpg" for row, kind in enumerate(labels)],
        labels=labels,
        groups=[f"{kind}-{row % groups}" for row, kind in enumerate(labels)],
        sources=["lab"] * len(labels),
        traits=[traits(random) for _ in labels],
        groups_source=source,
    )


def marked(images: AuditImages, label: str, **changed: Any) -> AuditImages:
    """Change the traits of all images of one class."""
    return replace(
        images,
        traits=[
            replace(t, **changed) if kind == label else t for t, kind in zip(images.traits, images.labels, strict=True)
        ],
    )


def audit(images: AuditImages, exchanges: int = FEW) -> dict[str, Any]:
    return audit_document(images, seed=0, permutations=exchanges)


def codes(document: dict[str, Any]) -> dict[str, str]:
    return {one["code"]: one["severity"] for one in document["findings"]}


def verdicts(document: dict[str, Any]) -> dict[str, str]:
    return {probe["name"]: probe["verdict"] for probe in document["probes"]}


def test_a_data_set_without_shortcuts_has_no_warning() -> None:
    document = audit(drawn(), ENOUGH)
    assert codes(document) == {}
    assert set(verdicts(document).values()) == {"clear"}
    assert audit_lines(document)[-1] == "  nothing was found, which proves nothing"
    assert "which does not prove that nothing else does" in audit_page(document)


@pytest.mark.parametrize(
    ("changed", "probe", "code", "remedy"),
    [
        ({"width": 1712, "height": 1368, "body_px": 300.0}, "size", "size-tells-class", "--unit cell"),
        ({"format": "PNG"}, "format", "format-tells-class", "one format"),
        ({"jpeg_quality": 75.0}, "JPEG quality", "jpeg-quality-tells-class", "one quality"),
        ({"colour": (0.9,) * len(COLOUR_NAMES)}, "colour", "probe-colour", "--stain-norm macenko"),
        ({"background": (0.9,) * len(COLOUR_NAMES)}, "background", "probe-background", "--stain-norm macenko"),
        (
            {"corners": (0.9,) * len(CORNER_NAMES)},
            "borders and corners",
            "probe-borders-and-corners",
            "--mask-marks",
        ),
        ({"bodies": 50.0}, "cell count", "probe-cell-count", "count-only control"),
        (
            {"scale_bar": 40.0, "scale_bar_place": "bottom right", "scale_bar_style": "fine black"},
            "marks",
            "scale-bars",
            "--mask-marks",
        ),
        ({"pointer": 0.001, "pointer_place": "middle centre"}, "marks", "pointers", "--mask-marks"),
    ],
)
def test_a_shortcut_that_was_put_in_is_accused_and_named_with_its_remedy(
    changed: dict[str, Any], probe: str, code: str, remedy: str
) -> None:
    document = audit(marked(drawn(), "ALL", **changed), ENOUGH)
    assert verdicts(document)[probe] == "accused"
    assert codes(document)[code] == "warning"
    finding = next(one for one in document["findings"] if one["code"] == code)
    assert remedy in finding["what_to_do"]
    if not code.startswith("probe-"):
        assert finding["images"]["count"] == 60
        first = [f"lab/ALL/image{row:03d}.jpg" for row in range(FIRST_IMAGES)]
        assert first in [one["images"]["first"] for one in document["findings"] if one["code"] == code]


def test_few_groups_make_it_possible_with_its_numbers() -> None:
    document = audit(marked(drawn(groups=2), "ALL", width=1712, pointer=0.001, pointer_place="top centre"), ENOUGH)
    assert verdicts(document)["size"] == "possible"
    found = codes(document)
    assert found["few-groups"] == "warning"
    assert (found["probe-size"], found["size-tells-class"]) == ("note", "note")
    finding, other = (one for one in document["findings"] if one["code"] == "pointer-tells-class")
    assert "all 60 images with no pointer are HTL" in finding["detail"]
    assert "all 60 images with a pointer are ALL" in other["detail"]
    assert "2 of 4 groups" in finding["detail"]


def test_one_group_a_class_is_told_and_breaks_nothing() -> None:
    document = audit(drawn(groups=1))
    (finding,) = (one for one in document["findings"] if one["code"] == "few-groups")
    assert "could not be dealt" in finding["detail"]
    assert set(verdicts(document).values()) <= {"untestable", "clear"}


def test_unknown_groups_are_said_and_never_counted() -> None:
    images = drawn(source="none")
    images = replace(images, groups=list(images.paths))
    document = audit(marked(images, "ALL", bodies=50.0), ENOUGH)
    assert codes(document)["groups-unknown"] == "warning"
    assert "groups unknown" in audit_lines(document)[0]
    assert "120 groups" not in audit_page(document)
    assert "120 images, each a group of its own" in audit_page(document)


def test_a_source_of_each_class_is_told_and_probed() -> None:
    images = drawn()
    document = audit(replace(images, sources=[f"lab-{label}" for label in images.labels]), ENOUGH)
    assert verdicts(document)["source"] == "accused"
    told = [one for one in document["findings"] if one["code"] == "source-tells-class"]
    assert [one["title"] for one in told] == [
        f"all 60 images with source lab-{kind} are {kind}" for kind in ("ALL", "HTL")
    ]
    assert all("every laboratory" in one["what_to_do"] for one in told)


def test_scale_bars_on_every_image_are_a_note_and_styles_of_a_class_a_warning() -> None:
    bar = {"scale_bar": 40.0, "scale_bar_place": "bottom right", "scale_bar_style": "fine black"}
    every = marked(marked(drawn(), "ALL", **bar), "HTL", **bar)
    assert codes(audit(every)) == {"scale-bars": "note"}
    assert codes(audit(marked(every, "HTL", scale_bar_style="fine red")))["scale-bars"] == "warning"
    few = drawn()
    few.traits[0:2] = [replace(t, **bar) for t in few.traits[0:2]]
    assert "scale-bars" not in codes(audit(few))


def test_whole_fields_whose_cells_vanish_are_told() -> None:
    fields = marked(drawn(), "ALL", width=2592, height=1944, body_px=100.0)
    fields = marked(fields, "HTL", width=2592, height=1944, body_px=100.0)
    document = audit(fields)
    (finding,) = (one for one in document["findings"] if one["code"] == "cells-lost-in-shrinking")
    assert "about 9 px" in finding["title"]
    assert "--unit cell" in finding["what_to_do"]
    assert "cells-lost-in-shrinking" not in codes(audit(drawn()))


def test_copies_are_named_and_those_across_classes_and_groups_warned_of() -> None:
    images = replace(
        drawn(), copies=[(3, 7)], near=[(0, 20, "whole"), (1, 2, "crop"), (5, 65, "whole")]
    )  # 0 and 20 are of one group
    document = audit(images)
    found = {one["code"]: one for one in document["findings"]}
    assert {code: one["severity"] for code, one in found.items()} == {
        "near-copies-of-two-classes": "warning",
        "near-copies-in-two-groups": "warning",
        "exact-copies": "note",
        "near-copies": "note",
    }
    assert found["near-copies-of-two-classes"]["images"]["first"] == [images.paths[5], images.paths[65]]
    assert found["near-copies-in-two-groups"]["images"]["count"] == 4
    assert found["exact-copies"]["title"].endswith("for example image003.jpg and image007.jpg")
    assert document["duplicates"]["near"][1] == {"first": images.paths[1], "second": images.paths[2], "kind": "crop"}
    assert "No copies" not in audit_page(document)
    assert "No copies" in audit_page(audit(drawn()))


def test_an_image_under_a_wrong_label_is_named() -> None:
    images = marked(drawn(), "ALL", colour=(0.95,) * len(COLOUR_NAMES))
    random = np.random.default_rng(3)
    kept = [
        replace(t, colour=tuple((np.array(t.colour) + random.normal(0, 0.03, len(t.colour))).tolist()))
        for t in images.traits
    ]
    labels = list(images.labels)
    labels[12] = "HTL"
    document = audit(replace(images, labels=labels, traits=kept, groups=[f"p{row}" for row in range(len(labels))]))
    (finding,) = (one for one in document["findings"] if one["code"] == "likely-mislabelled")
    assert finding["images"] == {"count": 1, "first": [images.paths[12]]}
    assert "HTL, more like ALL" in finding["title"]


def test_counts_add_up_whatever_the_number_of_sizes() -> None:
    images = drawn(per_class=100)
    images = replace(images, traits=[replace(t, width=200 + row) for row, t in enumerate(images.traits)])
    document = audit(images)
    assert sum(row["images"] for row in document["counts"]) == 200
    assert len(document["counts"]) < 70
    assert document["images_per_class"] == {"ALL": 100, "HTL": 100}
    assert document["groups_per_class"] == {"ALL": 20, "HTL": 20}


def test_the_document_is_json_and_the_same_each_time() -> None:
    images = marked(drawn(classes=("ALL", "AML", "HTL")), "AML", bodies=30.0)
    document = audit(images)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert audit(images) == document
    assert document["schema_version"] == 1


def test_the_manifests_own_folds_are_used() -> None:
    images = drawn()
    folds = [int(group.rpartition("-")[2]) % 3 for group in images.groups]
    assert audit(replace(images, folds=folds))["probes"] != audit(images)["probes"]
    parted = [row % 2 for row in range(len(folds))]
    parted[0] = 1 - parted[20]
    with pytest.raises(ValueError, match="several folds"):
        audit(replace(images, folds=parted))


def test_of_many_images_some_are_looked_at_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "MOST_IMAGES", 80)
    document = audit(marked(drawn(), "ALL", format="PNG"), ENOUGH)
    assert verdicts(document)["format"] == "accused"
    assert {probe["images"] for probe in document["probes"]} == {80}
    assert document["images"] == 120
    assert "80 images, 40 groups" in audit_page(document)
    tested = [probe["method"] for probe in document["probes"] if not probe["method"].startswith("not tested")]
    assert tested
    assert all(method.endswith("; 80 of 120 images, drawn by lot") for method in tested)
    assert audit_lines(document)[0].endswith("; probes on 80 of 120 images")


def test_columns_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="not of one length"):
        replace(drawn(), groups=["a"])


def test_every_probe_has_a_remedy_and_lines_stay_few() -> None:
    images = drawn()
    random = np.random.default_rng(9)
    ours = [row for row, kind in enumerate(images.labels) if kind == "ALL"]
    changed = list(images.traits)
    for row in ours:
        changed[row] = traits(
            random, width=3000, height=2000, format="PNG", jpeg_quality=None, colour=(0.9,) * len(COLOUR_NAMES),
            background=(0.9,) * len(COLOUR_NAMES), border=(0.9,) * len(BORDER_NAMES), corners=(0.9,) * len(CORNER_NAMES),
            bodies=60.0, scale_bar=40.0, scale_bar_place="top left", scale_bar_style="bold red", pointer=0.002,
            pointer_place="top left",
        )  # fmt: skip
    images = replace(
        images,
        traits=changed,
        sources=[f"lab {label}" for label in images.labels],
        near=[(0, 61, "whole")],
        copies=[(1, 2)],
    )
    document = audit(images, ENOUGH)
    assert set(verdicts(document).values()) == {"accused"}
    assert len(verdicts(document)) == len(measured(images.traits, images.sources)) == 9
    lines = audit_lines(document)
    assert len(lines) <= MOST_LINES
    assert lines[-1].startswith("  and ")
    assert all(one["what_to_do"] and one["detail"] for one in document["findings"])


# ---------------------------------------------------------------------------------------------------------- real images


def gathered(
    files: Sequence[Path], labels: Sequence[str], groups: Sequence[str], sources: Sequence[str]
) -> AuditImages:
    found = []
    for file in files:
        content = file.read_bytes()
        decoded = decode(content)
        found.append(measure(decoded.pixels, format=decoded.format, jpeg_quality=jpeg_quality(content)))
    return AuditImages(
        classes=tuple(sorted(set(labels))), paths=[str(file) for file in files], labels=labels, groups=groups,
        sources=sources, traits=found, groups_source="given",
    )  # fmt: skip


def table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_what_leaks_in_fields_of_four_sessions_is_told_as_possible(real_images: Callable[[str], Path]) -> None:
    place = real_images("ALL_IDB1")
    rows = table(place / "capture_blocks.csv")
    files = [place / "im" / row["image"] for row in rows]
    labels = ["ALL" if file.stem.endswith("_1") else "HTL" for file in files]
    document = audit(gathered(files, labels, [row["block"] for row in rows], ["lab"] * len(files)), ENOUGH)
    assert {"cell count", "colour"} <= {name for name, said in verdicts(document).items() if said == "possible"}
    assert "accused" not in verdicts(document).values()
    found = codes(document)
    assert (found["size-tells-class"], found["cells-lost-in-shrinking"]) == ("note", "warning")
    assert found["few-groups"] == "warning"


def test_two_laboratories_of_one_class_each_are_accused(real_images: Callable[[str], Path]) -> None:
    leukaemic, healthy = real_images("AML_cells"), real_images("healthy_cells")
    rows = table(leukaemic / "labels.csv")[::16]
    files = [leukaemic / row["path"] for row in rows]
    others = sorted(healthy.iterdir())[::8]
    document = audit(
        gathered(
            [*files, *others], ["AML"] * len(files) + ["HTL"] * len(others),
            [row["patient"] for row in rows] + [file.name for file in others],
            ["one"] * len(files) + ["other"] * len(others),
        ),
        ENOUGH,
    )  # fmt: skip
    accused = {name for name, said in verdicts(document).items() if said == "accused"}
    assert {"colour", "background", "source"} <= accused
    assert codes(document)["source-tells-class"] == "warning"


# ------------------------------------------------------------------------------------------------------------ the page


class Shown(HTMLParser):
    """The text of a page outside its style, its numbers by key, and its pictures."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self.data, self.pictures, self.scripts = "", {}, 0, 0
        self.feed(markup.partition("<body>")[2])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "data" and given.get("data-key"):
            self.data[str(given["data-key"])] = str(given["value"])
        self.pictures += tag == "img"
        self.scripts += tag == "script"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_says_what_the_document_says() -> None:
    document = audit(marked(drawn(), "ALL", bodies=50.0, format="PNG"), ENOUGH)
    markup = audit_page(document)
    shown = Shown(markup)
    for probe in document["probes"]:
        assert shown.data[f"probe.{probe['name']}"] == repr(probe["balanced_accuracy"])
    for finding in document["findings"]:
        assert finding["what_to_do"].rstrip(".") in shown.text
        assert finding["title"][1:] in shown.text
    assert "120 images, 40 groups" in shown.text
    assert "For research use only" in shown.text
    assert not re.search(r'(src|href)="(?!data:image/png;base64,|#)', markup)


def test_pictures_are_shown_where_they_are_handed_in_and_nowhere_else() -> None:
    document = audit(marked(drawn(), "ALL", format="PNG"))
    wanted = audit_pictures(document)
    assert set(wanted) == {f"lab/ALL/image{row:03d}.jpg" for row in range(4)} | {
        f"lab/HTL/image{row:03d}.jpg" for row in range(60, 64)
    }
    small = {path: drawn_picture(seed) for seed, path in enumerate(wanted[:3])}
    assert Shown(audit_page(document, small)).pictures == 3
    assert Shown(audit_page(document)).pictures == 0
    with pytest.raises(ValueError, match="not a picture"):
        audit_page(document, {wanted[0]: "https://example.org/x.png"})


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(name: str) -> None:
    images = drawn(classes=("ALL", name))
    paths = [f"{name}/{row}" for row in range(len(images.paths))]
    images = replace(images, paths=paths, sources=[name] * 60 + ["lab"] * 60, copies=[(0, 1)], near=[(2, 70, name)])
    document = audit(images)
    markup = audit_page(document)
    assert Shown(markup).scripts == 0
    assert "<script" not in markup
    markup.encode("utf-8")
    assert all(isinstance(line, str) for line in audit_lines(document))


def test_the_chart_says_each_probe_in_words() -> None:
    probed = audit(marked(drawn(), "ALL", bodies=50.0))["probes"]
    probed[0]["null"], probed[0]["balanced_accuracy"], probed[0]["verdict"] = None, None, "untestable"
    chart = probes_chart(probed, chance=0.5, of="120 images, 40 groups")
    words = chart.partition("<desc")[2].partition("</desc>")[0]
    count = next(probe for probe in probed if probe["name"] == "cell count")
    assert f"cell count: {number(count['balanced_accuracy'])}" in words
    assert "size: –, exchanged labels not known, could not be tested." in words
    assert chart.count("<circle") == sum(probe["verdict"] in ("accused", "clear") for probe in probed)
