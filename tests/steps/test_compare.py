"""compare: every choice inside training, features once, nothing done twice, and the optimistic protocol called by its name."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leukemia_cli.catalog import find_variant
from leukemia_cli.data.splits import repeat_folds
from leukemia_cli.errors import MachineError, UsageError
from leukemia_cli.learning import comparing, features
from leukemia_cli.learning.recipes import TrainSettings
from leukemia_cli.steps import compare as compare_step
from leukemia_cli.steps.compare import CompareSettings, compare, plan_comparison
from leukemia_cli.workspace.files import UNFINISHED

TINY = TrainSettings(
    grid="quick", weights="none", input_size_px=64, device="cpu", workers=1, epochs=3, views=2, batch_size=8,
    feature_sizes=((8,), (6, 4)), dropout_rates=(0.2, 0.5), selected=(None, 32), kernels=("linear",),
)  # fmt: skip
SMALL = CompareSettings(
    backbones=("timm:test_resnet",),
    variants=("base", "svm", "hidden", "dropout"),
    repeats=2,
    resamples=40,
    training=TINY,
)


def only(*variants: str, **changed) -> CompareSettings:
    """Give SMALL with these variants and the flags that one of them takes."""
    knobs = {knob for variant in variants for knob in find_variant(variant).knobs}
    flags = {"hidden": "feature_sizes", "rates": "dropout_rates", "selected": "selected", "kernels": "kernels"}
    training = dataclasses.replace(TINY, **{flag: None for knob, flag in flags.items() if knob not in knobs})
    training = dataclasses.replace(training, **changed.pop("training", {}))
    return dataclasses.replace(SMALL, variants=variants, training=training, **changed)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, make_lab):
    return make_lab(tmp_path_factory.mktemp("compare"), folds=3, groups=6, images=2)


@pytest.fixture(scope="module")
def done(lab):
    return compare(lab.workspace, lab.manifest, SMALL)


def cells(lab) -> set[str]:
    """Name the finished cells; a kill in the middle of a write leaves an unfinished one beside them."""
    folder = lab.workspace.comparisons_folder / "cells"
    return {path.name for path in folder.glob("*.safetensors") if not path.name.startswith(UNFINISHED)}


def test_every_backbone_and_variant_is_a_row_with_counts_at_each_figure(done, lab) -> None:
    document = done.document
    assert [(row["backbone"], row["variant"]) for row in document["rows"]] == [
        ("timm:test_resnet", variant) for variant in SMALL.variants
    ]
    for row in document["rows"]:
        for figure in row["metrics"].values():
            assert figure["n"] == len(lab.manifest.samples) == 24
            assert figure["groups"] == 12
            assert (figure["low"] is None) == (figure["high"] is None)
            assert figure["method"]
        assert len(row["repeats"]["balanced_accuracy"]) == document["repeats"] == 2
        assert row["random_weights"]
    assert any("RANDOM WEIGHTS" in warning for warning in document["warnings"])


def test_the_first_repeat_is_the_manifests_own_folds_and_its_figures_are_the_headline(done, lab) -> None:
    for row in done.document["rows"]:
        for name, figure in row["metrics"].items():
            assert row["repeats"][name][0] == (
                figure["value"] if figure["value"] is None else pytest.approx(figure["value"])
            )
    manifest_folds = [sample.fold for sample in lab.manifest.samples]
    assert {choice["fold"] for choice in done.document["rows"][0]["choices"]} == set(manifest_folds)


def test_no_cell_is_trained_or_chosen_with_an_image_of_a_group_it_is_judged_on(lab, monkeypatch) -> None:
    seen: list[tuple[set[str], set[str]]] = []
    true_judge = comparing.Trainer.judge
    true_rows = features.FrozenRows.__call__
    asked: set[int] = set()

    def rows(self, places, views):
        asked.update(places)
        return true_rows(self, places, views)

    def judge(self, trained, places):
        group = {at: sample.group for at, sample in enumerate(self.manifest.samples)}
        seen.append(({group[at] for at in asked}, {group[at] for at in places}))
        asked.clear()
        result = true_judge(self, trained, places)
        asked.clear()
        return result

    monkeypatch.setattr(compare_step, "_see_all", lambda cell: None)  # features alone teach nothing
    monkeypatch.setattr(features.FrozenRows, "__call__", rows)
    monkeypatch.setattr(comparing.Trainer, "judge", judge)
    compare(lab.workspace, lab.manifest, dataclasses.replace(SMALL, training=dataclasses.replace(TINY, seed=3)))
    assert len(seen) == 2 * 4 * 3
    for trained_on, judged_on in seen:
        assert trained_on
        assert judged_on
        assert not trained_on & judged_on


def test_each_image_and_view_goes_through_the_backbone_once(make_lab, tmp_path, monkeypatch) -> None:
    lab = make_lab(tmp_path, folds=3, groups=4, images=1)
    through = 0
    true_run = features.run_backbone

    def run(backbone, views, spec, machine):
        nonlocal through
        through += len(views)
        return true_run(backbone, views, spec, machine)

    monkeypatch.setattr(features, "run_backbone", run)
    compare(lab.workspace, lab.manifest, SMALL)
    assert through == len(lab.manifest.samples) * TINY.views


def test_finished_cells_are_not_done_again_and_a_further_variant_only_adds_its_own(lab, done, monkeypatch) -> None:
    known = cells(lab)

    def refuse(*_, **__):
        raise AssertionError("a finished cell was run again")

    monkeypatch.setattr(comparing, "run_cell", refuse)
    again = compare(lab.workspace, lab.manifest, SMALL)
    told, before = (
        json.loads(json.dumps({**document, "created": "", "looks": 0})) for document in (again.document, done.document)
    )
    assert told == before
    one = compare(lab.workspace, lab.manifest, only("svm"))
    assert one.folder != done.folder
    assert cells(lab) == known


def test_a_damaged_cell_is_computed_again_and_said_to_be(make_lab, tmp_path) -> None:
    lab = make_lab(tmp_path, folds=2, groups=4, images=1)
    settings = only("base", repeats=1)
    first = compare(lab.workspace, lab.manifest, settings)
    cell = next((lab.workspace.comparisons_folder / "cells").glob("*.safetensors"))
    assert compare(lab.workspace, lab.manifest, settings).document["looks"] == 1, "nothing new was seen"
    whole = cell.read_bytes()
    for spoilt in (whole[:-5], whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:], b""):
        cell.write_bytes(spoilt)
        told: list[str] = []
        second = compare(lab.workspace, lab.manifest, settings, note=told.append)
        assert any("damaged" in line and cell.name in line for line in told), told
        assert second.document["rows"][0]["metrics"] == first.document["rows"][0]["metrics"]


def test_a_cell_of_other_settings_or_images_is_never_taken(make_lab, tmp_path) -> None:
    lab = make_lab(tmp_path, folds=2, groups=4, images=1)
    settings = only("base", repeats=1)
    compare(lab.workspace, lab.manifest, settings)
    first = cells(lab)
    compare(lab.workspace, lab.manifest, only("base", repeats=1, training={"epochs": 2}))
    assert len(cells(lab)) == 2 * len(first)
    other = dataclasses.replace(lab.manifest, fingerprint="0" * 16)
    compare(lab.workspace, other, settings)
    assert len(cells(lab)) == 3 * len(first)


def test_candidates_are_all_kept_with_their_scores(done) -> None:
    for row in done.document["rows"]:
        expected = {"base": 1, "hidden": 2, "dropout": 8}.get(row["variant"])
        for choice in row["choices"]:
            if expected is not None:
                assert len(choice["trials"]) == expected
            assert all(0 <= trial["balanced_accuracy"] <= 1 for trial in choice["trials"])


def test_differences_are_between_rows_that_differ_in_one_thing_and_holm_never_lowers_p(done) -> None:
    differences = done.document["differences"]
    assert len(differences) == 6 * 2
    for one in differences:
        assert (one["a"]["backbone"] == one["b"]["backbone"]) != (one["a"]["variant"] == one["b"]["variant"])
        assert one["n"] == 24
        assert one["p"] is None or one["p"] <= one["p_holm"] <= 1
    by_name = {row["variant"]: row["metrics"]["balanced_accuracy"]["value"] for row in done.document["rows"]}
    first = differences[0]
    assert first["value"] == pytest.approx(by_name[first["a"]["variant"]] - by_name[first["b"]["variant"]])


def test_every_format_lies_in_the_folder_and_says_the_same(done) -> None:
    stored = json.loads((done.folder / "compare.json").read_text())
    assert {**stored, "created": "", "looks": 0} == json.loads(json.dumps({**done.document, "created": "", "looks": 0}))
    rows = list(csv.DictReader(io.StringIO((done.folder / "compare.csv").read_text())))
    values = {(r["variant"], r["metric"]): r["value"] for r in rows}
    for row in stored["rows"]:
        value = row["metrics"]["balanced_accuracy"]["value"]
        assert float(values[row["variant"], "balanced_accuracy"]) == pytest.approx(value)
        assert f"{value:.3f}" in (done.folder / "compare.md").read_text()
        assert f"{value:.3f}" in (done.folder / "compare.tex").read_text()
        assert f"{value:.3f}" in (done.folder / "compare.html").read_text()


def test_the_papers_protocol_is_called_optimistic_everywhere_and_shown_against_the_grouped_one(lab, done) -> None:
    settings = only("base", "svm", protocol="paper", copies=2, repeats=1)
    paper = compare(lab.workspace, lab.manifest, settings)
    document = paper.document
    assert document["optimistic"]
    assert document["copies"] == 24 * 3
    grouped = {row["variant"]: row["metrics"] for row in done.document["rows"]}
    for row in document["rows"]:
        assert row["metrics"]["accuracy"]["n"] == pytest.approx(24 * 3 / 5, abs=1)  # one of five parts of the copies
    assert {(o["variant"], o["metric"]) for o in document["optimism"]} >= {("base", "accuracy"), ("svm", "accuracy")}
    for one in document["optimism"]:
        assert one["grouped"]["value"] == pytest.approx(grouped[one["variant"]][one["metric"]]["value"])
        assert one["difference"] == pytest.approx(one["optimistic"]["value"] - one["grouped"]["value"])
    for name in ("compare.csv", "compare.md", "compare.tex", "compare.html"):
        assert "optimistic protocol" in (paper.folder / name).read_text().lower()


def test_the_papers_protocol_refuses_fine_tuning() -> None:
    with pytest.raises(UsageError, match="--tune last-stage"):
        CompareSettings(protocol="paper", training=dataclasses.replace(TINY, tune="last-stage"))


def test_fine_tuned_runs_go_through_the_same_table(make_lab, tmp_path) -> None:
    lab = make_lab(tmp_path, folds=2, groups=6, images=1)
    settings = only("base", "dropout", repeats=1, training={"tune": "last-stage", "epochs": 1, "kernels": None})
    document = compare(lab.workspace, lab.manifest, settings).document
    assert document["tune"] == "last-stage"
    assert [row["metrics"]["accuracy"]["n"] for row in document["rows"]] == [12, 12]


def test_a_flag_that_no_row_takes_is_refused() -> None:
    with pytest.raises(UsageError, match="--kernel means nothing to --variants base,hidden"):
        CompareSettings(
            variants=("base", "hidden"), training=dataclasses.replace(TINY, selected=None, dropout_rates=None)
        )


def test_a_kernel_matrix_without_room_is_refused_before_anything_is_computed(lab, monkeypatch) -> None:
    monkeypatch.setattr(compare_step, "SVM_ROWS", 20)  # 16 images are trained on in a fold, 57 copies of the 72
    known = cells(lab)
    settings = only("base", "svm", protocol="paper", copies=2, repeats=1, training={"seed": 9})
    with pytest.raises(MachineError, match="57 copies"):
        compare(lab.workspace, lab.manifest, settings)
    assert cells(lab) == known


def test_candidates_of_every_backbone_are_checked_before_anything_is_computed(lab) -> None:
    known = cells(lab)
    settings = only(
        "svm", backbones=("timm:test_resnet", "timm:test_vit"), repeats=1, training={"selected": (80,), "seed": 9}
    )
    with pytest.raises(UsageError, match="fewer than 80"):
        compare(lab.workspace, lab.manifest, settings)
    assert cells(lab) == known


def test_two_processes_share_the_work_and_neither_fails(make_lab, tmp_path) -> None:
    lab = make_lab(tmp_path, folds=3, groups=6, images=1)
    script = SCRIPT.format(tests=str(Path(__file__).parent), root=str(lab.workspace.root))
    children = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [child.communicate(timeout=240) for child in children]
    assert [child.returncode for child in children] == [0, 0], told
    assert len(cells(lab)) == 24
    assert not list((lab.workspace.comparisons_folder / "cells").glob("*.work"))


def test_a_manifest_of_splits_is_refused_with_the_way_out(make_lab, tmp_path) -> None:
    lab = make_lab(tmp_path)
    with pytest.raises(UsageError, match="needs folds") as caught:
        compare(lab.workspace, lab.manifest, SMALL)
    assert "--folds" in caught.value.hint


def test_fewer_repeats_than_asked_are_said(make_lab, tmp_path) -> None:
    lab = make_lab(tmp_path, folds=2, groups=2, images=1)
    settings = only("base", repeats=9)
    document = compare(lab.workspace, lab.manifest, settings).document
    rows = [(s.group, s.label) for s in lab.manifest.samples]
    expected = len(repeat_folds(rows, [s.fold for s in lab.manifest.samples], 2, 9, 0))
    assert expected < 9
    assert document["repeats"] == expected
    assert "9 repeats were asked for" in document["repeats_note"]
    assert document["repeats_note"] in document["warnings"]


def test_a_dry_run_says_what_would_run_and_writes_nothing(make_lab, tmp_path) -> None:
    lab = make_lab(tmp_path, folds=2, groups=4, images=1)
    settings = only("base", "svm", repeats=2)
    before = sorted(path for path in lab.workspace.root.rglob("*"))
    plan = plan_comparison(lab.workspace, lab.manifest, settings).as_json()
    assert sorted(path for path in lab.workspace.root.rglob("*")) == before
    assert (plan["cells"], plan["finished"]) == (2 * 2 * 2, 0)
    assert plan["seconds"] > 0
    assert sum(e["views"] for e in plan["estimates"]) == len(lab.manifest.samples) * TINY.views
    compare(lab.workspace, lab.manifest, settings)
    after = plan_comparison(lab.workspace, lab.manifest, settings).as_json()
    assert (after["finished"], after["seconds"]) == (8, 0)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_compare import SMALL
from leukemia_cli.data.manifest import read_manifest
from leukemia_cli.steps.compare import compare
from leukemia_cli.workspace.folders import open_workspace
workspace = open_workspace(Path({root!r}), create=False)
compare(workspace, read_manifest(workspace), SMALL, note=lambda line: print(line, flush=True))
"""


def test_killed_in_the_middle_and_run_again_gives_the_same_table(make_lab, tmp_path) -> None:
    lab = make_lab(tmp_path / "killed", folds=3, groups=6, images=1)
    whole = make_lab(tmp_path / "whole", folds=3, groups=6, images=1)
    script = SCRIPT.format(tests=str(Path(__file__).parent), root=str(lab.workspace.root))
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=os.environ)
    assert child.stdout is not None
    for line in child.stdout:
        if "test_resnet hidden," in line:
            break
    time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    kept = cells(lab)
    assert 0 < len(kept) < 24
    folder = lab.workspace.comparisons_folder / "cells"
    killed_in_a_write = sorted({path.stem for path in folder.glob("*.lock")} - {Path(name).stem for name in kept})
    for key in killed_in_a_write:
        (folder / f"{UNFINISHED}0-{key}.safetensors").write_bytes(b"half")
    told: list[str] = []
    again = compare(lab.workspace, lab.manifest, SMALL, note=told.append).document
    assert f"{len(kept)} of 24 models done before" in told, told
    assert not list(folder.glob(f"{UNFINISHED}*"))
    never = compare(whole.workspace, whole.manifest, SMALL).document
    assert [row["metrics"] for row in again["rows"]] == [row["metrics"] for row in never["rows"]]
    assert again["differences"] == never["differences"]


def test_models_trained_side_by_side_are_those_trained_one_by_one(lab, done, make_lab, tmp_path) -> None:
    other = make_lab(tmp_path, folds=3, groups=6, images=2)
    beside = compare(
        other.workspace, other.manifest, dataclasses.replace(SMALL, training=dataclasses.replace(TINY, workers=2))
    )
    assert [row["metrics"] for row in beside.document["rows"]] == [row["metrics"] for row in done.document["rows"]]
    assert beside.document["differences"] == done.document["differences"]


def test_a_model_that_fails_beside_others_ends_the_comparison_and_keeps_what_is_done(
    make_lab, tmp_path, monkeypatch
) -> None:
    lab = make_lab(tmp_path, folds=3, groups=6, images=1)
    true_member = comparing.Trainer.member

    def member(self, fold):
        if fold == 2:
            raise MachineError("planted", "none")
        return true_member(self, fold)

    monkeypatch.setattr(comparing.Trainer, "member", member)
    settings = only("base", repeats=1, training={"workers": 2})
    with pytest.raises(MachineError, match="planted"):
        compare(lab.workspace, lab.manifest, settings)
    assert len(cells(lab)) == 2
    monkeypatch.setattr(comparing.Trainer, "member", true_member)
    assert len(compare(lab.workspace, lab.manifest, settings).document["rows"]) == 1
