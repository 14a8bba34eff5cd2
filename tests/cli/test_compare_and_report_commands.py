"""compare, report, bars and doubt on the command line: flags, exit codes, and one document with --json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import Leuk, Trained

TINY = (
    "--backbones", "timm:test_resnet", "--weights", "none", "--input-size", "64", "--epochs", "1", "--views", "1",
    "--device", "cpu",
)  # fmt: skip


def test_a_comparison_prints_its_document_and_leaves_every_format(folded: Path, leuk: Leuk) -> None:
    done = leuk(
        "compare", *TINY, "--variants", "base,svm", "--kernel", "linear", "--repeats", "1", "-w", folded, "--json"
    )
    assert done.code == 0, done.err
    found = done.json()
    folder = Path(found.pop("folder"))
    assert found == json.loads((folder / "compare.json").read_text())
    assert {path.name for path in folder.iterdir()} == {
        "compare.json", "compare.csv", "compare.md", "compare.tex", "compare.html",
    }  # fmt: skip
    assert [(row["backbone"], row["variant"]) for row in found["rows"]] == [
        ("timm:test_resnet", "base"), ("timm:test_resnet", "svm"),
    ]  # fmt: skip
    again = leuk("compare", *TINY, "--variants", "base,svm", "--kernel", "linear", "--repeats", "1", "-w", folded)
    assert again.code == 0
    assert "4 of 4 models done before" in again.err
    assert f"comparison: {folder / 'compare.html'}" in again.out
    assert "RANDOM WEIGHTS" in again.err
    longer = len("timm:test_resnet") - len("inception")  # than the longest of the paper's backbones
    assert max(len(line) for line in again.out.splitlines()[1:4]) <= 80 + longer


def test_a_dry_run_is_one_document_and_leaves_nothing(folded: Path, leuk: Leuk) -> None:
    before = sorted(folded.rglob("*"))
    found = leuk("compare", *TINY, "--repeats", "2", "--dry-run", "-w", folded, "--json").json()
    assert sorted(folded.rglob("*")) == before
    assert (found["cells"], found["finished"], found["repeats"]) == (16, 0, 2)
    plain = leuk("compare", *TINY, "--repeats", "2", "--dry-run", "-w", folded)
    assert "16 models to train, 0 finished; nothing was run" in plain.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--backbones", "senett"), 2, "Did you mean 'senet'"),
        (("--variants", "base,dropuot"), 2, "Did you mean 'dropout'"),
        (("--select-by", "anovva"), 2, "Did you mean 'anova'"),
        (("--backbones", ","), 2, "--backbones is empty"),
        (("--protocol", "paper", "--tune", "all"), 2, "leave --tune out"),
        (("--protocol", "honest"), 2, "grouped"),
    ],
)
def test_what_a_comparison_cannot_do_is_refused(folded: Path, leuk: Leuk, arguments, code: int, said: str) -> None:
    done = leuk("compare", *arguments, "-w", folded)
    assert done.code == code
    assert said in " ".join(done.error_lines)


def test_a_comparison_of_a_manifest_of_splits_names_the_way_out(trained: Trained, leuk: Leuk) -> None:
    done = leuk("compare", *TINY, "-w", trained.root)
    assert done.code == 2
    assert "--folds 5" in done.error_lines[1]


def test_a_bar_that_is_missed_ends_in_6_after_the_whole_report(trained: Trained, leuk: Leuk) -> None:
    given = ("evaluate", trained.run, "-w", trained.root, "--resamples", "20")
    value = leuk(*given, "--json").json()["metrics"]["balanced_accuracy"]["value"]
    reached = leuk(*given, "--min", f"balanced_accuracy={value}", "--max", "brier=1", "--json")
    assert reached.code == 0
    missed = leuk(*given, "--min", "balanced_accuracy.low=0.01", "--json")
    assert missed.code == 6  # four images: there is no interval, so its lower end is not known to be as high
    assert missed.json()["metrics"]["balanced_accuracy"]["low"] is None
    assert "balanced_accuracy.low is not known" in missed.error_lines[0]
    assert leuk(*given, "--min", "balanced=1").code == 2


def test_the_page_is_made_again_without_pictures(trained: Trained, leuk: Leuk) -> None:
    leuk("evaluate", trained.run, "-w", trained.root, "--resamples", "20")
    done = leuk("report", trained.run, "--no-images", "-w", trained.root, "--json")
    assert done.code == 0
    (page,) = (Path(page) for page in done.json()["pages"])
    assert page.name == "report.html"
    assert "data:image" not in page.read_text()
    assert leuk("report", trained.run, "--of", "external-x", "-w", trained.root).code == 4


def test_no_abstain_gives_every_readable_image_a_label(trained: Trained, leuk: Leuk) -> None:
    folder = trained.pictures / "HTL"
    plain, forced = (
        leuk("classify", folder, "--run", trained.run, "-w", trained.root, *more, "--json").json()
        for more in ((), ("--no-abstain",))
    )
    assert {row["decision"] for row in forced} == {"label"}
    assert [(row["label"], row["confidence"], row["novelty"]) for row in forced] == [
        (row["label"], row["confidence"], row["novelty"]) for row in plain
    ]


def test_heat_maps_are_drawn_where_they_are_wanted(trained: Trained, leuk: Leuk, tmp_path: Path) -> None:
    done = leuk(
        "classify", trained.image, "--run", trained.run, "-w", trained.root, "--heatmaps", tmp_path / "heat", "--json"
    )
    assert done.code == 0, done.err
    (picture,) = (tmp_path / "heat").iterdir()
    assert picture.read_bytes()[:4] == b"\x89PNG"
