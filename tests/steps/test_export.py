"""A run exported for another engine says what it says in torch, alone, without torch; a damaged file says nothing."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from leukemia_cli.domain import Remedies
from leukemia_cli.errors import LeukError, MachineError, UsageError, WorkspaceError
from leukemia_cli.learning import graphs
from leukemia_cli.learning.engines import Verified, version_of
from leukemia_cli.learning.exported import FACTS_FILE, read_exported, read_exported_run
from leukemia_cli.learning.exporting import graph_parts
from leukemia_cli.learning.loading import load_classifier
from leukemia_cli.learning.machine import choose_machine, cpu_capabilities
from leukemia_cli.learning.opening import verified_for
from leukemia_cli.learning.recipes import TrainSettings
from leukemia_cli.reporting.findings import Finding
from leukemia_cli.steps import export as steps
from leukemia_cli.steps.classify import ClassifySettings, classify, open_classifier
from leukemia_cli.steps.export import ExportDone, ExportSettings, export
from leukemia_cli.steps.prepare import PrepareSettings, prepare
from leukemia_cli.steps.train import train
from leukemia_cli.vision.drawing import draw_field, draw_patient
from leukemia_cli.workspace.documents import sealed, to_json, write_json
from leukemia_cli.workspace.folders import open_workspace
from leukemia_cli.workspace.runs import find_run, read_run_folder

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("openvino", "onnxruntime", "onnxscript")),
    reason="the extras onnx and openvino are not installed",
)

FORMATS = ("openvino", "onnx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exports:
    """A finished run, its images, and its exports by format."""

    folder: Path
    images: tuple[str, ...]
    done: dict[str, ExportDone]


def settings(**flags) -> TrainSettings:
    return TrainSettings(
        **{
            "backbone": "timm:test_resnet", "weights": "none", "input_size_px": 64, "epochs": 2, "views": 2, "batch_size": 4,
            "device": "cpu", **flags,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory, make_lab) -> Exports:
    lab = make_lab(tmp_path_factory.mktemp("exports"), images=4)
    run = train(lab.workspace, lab.manifest, settings(variant="hidden", feature_sizes=((8,),))).folder
    done = {form: export(read_run_folder(run), ExportSettings(format=form)) for form in FORMATS}
    return Exports(folder=run, images=tuple(s.path for s in lab.manifest.samples), done=done)


def findings(run: Path, images: tuple[str, ...], **flags) -> list[Finding]:
    chosen = ClassifySettings(device="cpu", **flags)
    opened = read_exported_run(run) if run.suffix == ".leuk" else read_run_folder(run)
    return list(classify(open_classifier(opened, chosen), images, chosen))


def alike(ours: list[Finding], reference: list[Finding], within: float = 1e-5) -> None:
    for one, other in zip(ours, reference, strict=True):
        assert one.error is None
        assert (one.path, one.label, one.cells) == (other.path, other.label, other.cells)
        assert np.allclose(one.scores, other.scores, atol=within)
        assert (one.novelty is None) == (other.novelty is None)
        if one.novelty is not None:
            assert one.novelty == pytest.approx(other.novelty, rel=1e-4)
        # A threshold is the novelty of a calibration image: for that image itself the last digits decide.
        if other.novelty is None or abs(other.novelty / (other.novelty_threshold or 1) - 1) > 1e-4:
            assert (one.decision, one.reason) == (other.decision, other.reason)
        assert (one.novelty_threshold, one.label_set, one.run) == (other.novelty_threshold, other.label_set, other.run)


@pytest.mark.parametrize("form", FORMATS)
def test_an_exported_run_says_what_the_run_says(form: str, exports: Exports, tmp_path: Path) -> None:
    alone = tmp_path / "carried.leuk"
    shutil.copy(exports.done[form].file, alone)
    reference = findings(exports.folder, exports.images)
    assert len({f.label for f in reference}) == 2 and all(f.novelty is not None for f in reference)
    assert {(f.engine, f.precision) for f in reference} == {("torch", "fp32")}
    for ours in (findings(alone, exports.images), findings(exports.folder, exports.images, engine=form)):
        assert {(f.engine, f.precision) for f in ours} == {(form, "fp32")}
        alike(ours, reference)


@pytest.mark.parametrize("form", FORMATS)
def test_features_do_not_depend_on_the_neighbours(form: str, exports: Exports) -> None:
    together = [f.scores for f in findings(exports.done[form].file, exports.images, batch_size=16)]
    assert [f.scores for f in findings(exports.done[form].file, exports.images[::-1], batch_size=3)] == together[::-1]


def test_what_was_compared_is_written_down(exports: Exports) -> None:
    by_kind = {(r.engine, r.precision): r for form in FORMATS for r in exports.done[form].verified}
    assert {("torch", "fp32"), ("torch", "bf16"), ("openvino", "fp32"), ("onnx", "fp32")} <= set(by_kind)
    for record in by_kind.values():
        assert (record.images, record.photographs) == (len(exports.images), 0)
        assert record.views >= min(200, 8 * record.images) and record.images_per_s > 0
        if record.precision == "fp32":
            assert record.refused is None and record.labels_equal == record.views
            assert record.score_difference <= record.tolerance == 1e-3
        assert record.version == version_of(record.engine) and record.cpu == cpu_capabilities()
    recorded = verified_for(read_run_folder(exports.folder))
    assert {(r.engine, r.precision) for r in recorded} == set(by_kind), "the second format keeps what the first found"
    inside = read_exported(exports.done["onnx"].file)
    assert {r.engine for r in inside.verified} == {"onnx"}
    assert "command" not in inside.facts, "it would tell of the machine it was trained on"


def test_auto_takes_the_fastest_that_was_verified_here(exports: Exports, tmp_path: Path) -> None:
    shutil.copytree(exports.folder.parents[1], tmp_path / "ws")
    folder = tmp_path / "ws" / "runs" / exports.folder.name
    facts = json.loads((folder / "engines.json").read_bytes())

    def opened(change: Callable[[dict], dict], **flags) -> tuple[str, str, str]:
        write_json(folder / "engines.json", sealed({**facts, "verified": [change(dict(r)) for r in facts["verified"]]}))
        said: list[str] = []
        chosen = ClassifySettings(device="cpu", **{"engine": "auto", **flags})
        engine = open_classifier(read_run_folder(folder), chosen, said.append).engine
        return engine.name, engine.precision, "\n".join(said)

    def fast(engine: str, **more) -> Callable[[dict], dict]:
        return lambda r: {**r, "images_per_s": 1e6, **more} if (r["engine"], r["precision"]) == (engine, "fp32") else r

    for engine in ("onnx", "openvino", "torch"):
        name, precision, said = opened(fast(engine))
        assert (name, precision) == (engine, "fp32")
        assert f"engine: {engine} fp32 (auto: the fastest verified" in said
    for spoilt in ({"refused": "why"}, {"cpu": "another"}, {"version": "0"}):
        assert opened(fast("onnx", **spoilt))[0] != "onnx"
    name, _, said = opened(lambda r: {**r, "cpu": "another"})
    assert name == "torch" and "nothing was verified" in said
    with pytest.raises(UsageError, match="nothing at fp16"):
        opened(lambda r: r, precision="fp16")


def test_what_is_not_there_or_did_not_verify_is_refused_by_name(exports: Exports, tmp_path: Path) -> None:
    shutil.copytree(exports.folder.parents[1], tmp_path / "ws")
    folder = tmp_path / "ws" / "runs" / exports.folder.name
    run = read_run_folder(folder)
    shutil.rmtree(folder / "exports")

    def refused(kind: type[LeukError], said: str, run=run, **flags) -> None:
        with pytest.raises(kind, match=said) as caught:
            open_classifier(run, ClassifySettings(**{"device": "cpu", **flags}))
        assert caught.value.hint

    refused(WorkspaceError, "not been exported for openvino", engine="openvino")
    refused(UsageError, "torch at fp16 was never compared", precision="fp16")
    file = read_exported_run(exports.done["onnx"].file)
    refused(UsageError, "exported for onnx", run=file, engine="torch")
    refused(UsageError, "onnx at bf16 was never compared", run=file, precision="bf16")
    refused(UsageError, "--device cuda does not go with engine onnx", run=file, device="cuda")
    refused(UsageError, "needs run .* in torch", run=file, heatmaps=tmp_path / "maps")
    with pytest.raises(UsageError, match="it can classify images, and nothing else"):
        load_classifier(file, choose_machine("cpu", 1))
    with pytest.raises(UsageError, match="can classify images, and nothing else"):
        find_run(open_workspace(tmp_path / "ws", create=False), str(exports.done["onnx"].file), manifest=None)
    facts = json.loads((folder / "engines.json").read_bytes())
    facts["verified"] = [{**r, "refused": "3 labels differ"} for r in facts["verified"]]
    write_json(folder / "engines.json", sealed(facts))
    refused(UsageError, "torch at bf16 did not verify .* 3 labels differ", precision="bf16")
    write_json(folder / "engines.json", sealed({**facts, "files": {}}))
    refused(WorkspaceError, "another training", precision="bf16")


def test_a_missing_package_is_named_with_its_extra(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leukemia_cli.learning.engines.version_of", lambda engine: None)
    with pytest.raises(MachineError, match="onnxruntime, which is not installed") as caught:
        open_classifier(read_exported_run(exports.done["onnx"].file), ClassifySettings(device="cpu"))
    assert caught.value.hint == "Install it: pip install 'leukemia-cli[onnx]'"


def test_an_engine_that_says_something_else_is_not_exported(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(exports.folder.parents[1], tmp_path / "ws")
    run = read_run_folder(tmp_path / "ws" / "runs" / exports.folder.name)
    shutil.rmtree(run.path / "exports")
    stored = read_exported(exports.done["onnx"].file)
    monkeypatch.setattr(steps, "graph_parts", lambda classifier, form: (
        {name: content for name, content in stored.parts.items() if name.startswith("graph-")}, stored.of_member,
    ))  # fmt: skip
    honest = graphs._OnnxGraph.features
    monkeypatch.setattr(graphs._OnnxGraph, "features", lambda graph, views: honest(graph, views)[::-1].copy())
    with pytest.raises(MachineError, match=r"onnx does not verify .* differ"):
        export(run, ExportSettings(format="onnx"))
    assert not list((run.path / "exports").iterdir())
    record = next(r for r in verified_for(run) if r.engine == "onnx")
    assert record.refused is not None and record.labels_equal < record.views


def test_images_that_are_gone_and_other_manifests_are_said(exports: Exports, tmp_path: Path) -> None:
    run = read_run_folder(exports.folder)
    moved = tmp_path / "elsewhere" / run.id
    shutil.copytree(exports.folder, moved)
    with pytest.raises(WorkspaceError, match="cannot be compared"):
        export(read_run_folder(moved), ExportSettings(format="onnx"))
    with pytest.raises(WorkspaceError, match="another manifest"):
        export(replace(run, facts={**run.facts, "manifest": "0" * 16}), ExportSettings(format="onnx"))
    with pytest.raises(UsageError, match="another ending than"):
        export(run, ExportSettings(format="onnx", output=tmp_path / "run.zip"))


# ----------------------------------------------------------------------------------------------------------- the file


def rewritten(file: Path, change: Callable[[dict[str, bytes]], None], **how) -> None:
    """Write the zip again with other parts; export.json as `change` left it."""
    with zipfile.ZipFile(file) as opened:
        parts = {name: opened.read(name) for name in opened.namelist()}
    change(parts)
    with zipfile.ZipFile(file, "w", **how) as out:
        for name, content in parts.items():
            out.writestr(name, content)


def flip(parts: dict[str, bytes], name: str) -> None:
    content = bytearray(parts[name])
    content[len(content) // 2] ^= 1
    parts[name] = bytes(content)


def forged(parts: dict[str, bytes]) -> None:
    """Change a threshold, with no regard to the seal."""
    parts[FACTS_FILE] = parts[FACTS_FILE].replace(b'"temperature": ', b'"temperature": 1', 1)


def resealed(parts: dict[str, bytes]) -> None:
    """A head for another number of classes, with digest and seal in order."""
    from safetensors.numpy import load, save

    arrays = load(parts["head.safetensors"])
    arrays["0.out.bias"] = np.zeros(7, dtype=np.float32)
    parts["head.safetensors"] = save(arrays)
    facts = json.loads(parts[FACTS_FILE])
    facts["files"]["head.safetensors"] = {
        "bytes": len(parts["head.safetensors"]), "sha256": hashlib.sha256(parts["head.safetensors"]).hexdigest(),
    }  # fmt: skip
    parts[FACTS_FILE] = to_json(sealed(facts)).encode()


DAMAGE: dict[str, Callable[[Path], None]] = {
    "flipped head": lambda f: rewritten(f, lambda p: flip(p, "head.safetensors")),
    "flipped doubt": lambda f: rewritten(f, lambda p: flip(p, "doubt.safetensors")),
    "flipped graph": lambda f: rewritten(f, lambda p: flip(p, "graph-0.onnx")),
    "flipped facts": lambda f: rewritten(f, lambda p: flip(p, FACTS_FILE)),
    "forged facts": lambda f: rewritten(f, forged),
    "another head": lambda f: rewritten(f, resealed),
    "missing graph": lambda f: rewritten(f, lambda p: p.pop("graph-0.onnx")),
    "missing facts": lambda f: rewritten(f, lambda p: p.pop(FACTS_FILE)),
    "a part too many": lambda f: rewritten(f, lambda p: p.update({"graph-1.onnx": b"x"})),
    "a path": lambda f: rewritten(f, lambda p: p.update({"../x": b"x"})),
    "an absolute path": lambda f: rewritten(f, lambda p: p.update({"/tmp/x": b"x"})),
    "a folder": lambda f: rewritten(f, lambda p: p.update({"graphs/": b""})),
    "compressed": lambda f: rewritten(f, lambda p: None, compression=zipfile.ZIP_DEFLATED),
    "a bomb": lambda f: rewritten(f, lambda p: p.update({"graph-0.onnx": bytes(10**7)}), compression=zipfile.ZIP_DEFLATED),
    "truncated": lambda f: f.write_bytes(f.read_bytes()[:-100]),
    "half": lambda f: f.write_bytes(f.read_bytes()[: f.stat().st_size // 2]),
    "emptied": lambda f: f.write_bytes(b""),
    "text": lambda f: f.write_text("no zip"),
    "missing": Path.unlink,
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_by_name(damage: str, exports: Exports, tmp_path: Path) -> None:
    file = tmp_path / "run.leuk"
    shutil.copy(exports.done["onnx"].file, file)
    assert findings(file, exports.images[:1])[0].error is None
    DAMAGE[damage](file)
    with pytest.raises(WorkspaceError, match=r"run\.leuk") as caught:
        findings(file, exports.images[:1])
    assert caught.value.exit_code == 4 and caught.value.hint


def test_parts_that_are_there_twice_are_refused(exports: Exports, tmp_path: Path) -> None:
    file = tmp_path / "run.leuk"
    shutil.copy(exports.done["onnx"].file, file)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(file, "a") as out:
        out.writestr("head.safetensors", b"other")
    with pytest.raises(WorkspaceError, match="twice"):
        read_exported(file)


def test_equal_runs_make_equal_graphs(exports: Exports) -> None:
    classifier = load_classifier(read_run_folder(exports.folder), choose_machine("cpu", 1))
    stored = read_exported(exports.done["onnx"].file)
    again, of_member = graph_parts(classifier, "onnx")
    assert again == {name: content for name, content in stored.parts.items() if name.startswith("graph-")}
    assert of_member == stored.of_member


# ------------------------------------------------------------------------------------------------ without torch, quiet

WATCHED = """
import json, sys
from leukemia_cli.cli.app import run
code = run(json.loads(sys.argv[1]))
heavy = ("torch", "torchvision", "timm", "sklearn", "scipy", "openvino_telemetry", "onnxscript", "onnx")
print(json.dumps({"code": code, "heavy": [name for name in heavy if name in sys.modules]}), file=sys.stderr)
"""


@pytest.mark.parametrize("form", FORMATS)
def test_an_exported_run_loads_neither_torch_nor_telemetry(form: str, exports: Exports, tmp_path: Path) -> None:
    by_file = ["--run", str(exports.done[form].file)]
    by_name = ["--run", exports.folder.name, "--engine", form, "--workspace", str(exports.folder.parents[1])]
    for how in (by_file, by_name):
        done = subprocess.run(
            [sys.executable, "-c", WATCHED, json.dumps(["classify", *exports.images[:2], "--format", "jsonl", *how])],
            env={"PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path)}, cwd=tmp_path, capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        assert json.loads(done.stderr.splitlines()[-1]) == {"code": 0, "heavy": []}, done.stderr
        rows = [json.loads(line) for line in io.StringIO(done.stdout)]
        assert [row["engine"] for row in rows] == [form, form]
        assert not list(tmp_path.iterdir()), "nothing is written into the home folder"


# ------------------------------------------------------------------------------------------------- other kinds of runs


KINDS = {
    "own backbones": ({"variant": "svm", "tune": "all", "epochs": 1}, (0, 1)),
    "tiles, two looks": ({"variant": "base", "remedies": Remedies(tiles=4, stain_norm="reinhard")}, (0, 0)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_member_is_carried(kind: str, tmp_path: Path, make_lab) -> None:
    flags, graphs_of_members = KINDS[kind]
    lab = make_lab(tmp_path, folds=2, groups=2, images=1, side_px=64)
    run = train(lab.workspace, lab.manifest, settings(input_size_px=32, **flags)).folder
    done = export(read_run_folder(run), ExportSettings(format="openvino"))
    assert read_exported(done.file).of_member == graphs_of_members
    images = tuple(s.path for s in lab.manifest.samples)
    alike(findings(done.file, images), findings(run, images))


def test_a_run_on_cells_reads_photographs_alike(cell_run: tuple[Path, tuple[str, ...]]) -> None:
    run, images, form = *cell_run, "openvino"
    done = export(read_run_folder(run), ExportSettings(format=form))
    record = next(r for r in done.verified if (r.engine, r.precision) == (form, "fp32"))
    assert record.photographs == len(images) and record.labels_equal == record.views + record.photographs
    ours, reference = findings(done.file, images), findings(run, images)
    assert sum(f.cells or 0 for f in reference) > len(images)
    assert [f.cells_by_class for f in ours] == [f.cells_by_class for f in reference]
    alike(ours, reference)


@pytest.fixture(scope="module")
def cell_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    """Train on the cells of drawn fields; give the run's folder and the fields."""
    root = tmp_path_factory.mktemp("cells")
    images = []
    for name in ("ALL", "HTL"):
        for number in range(3):
            file = root / "fields" / name / f"{name}-{number}" / "0.png"
            file.parent.mkdir(parents=True)
            draw_field(name, draw_patient(name, number), np.random.default_rng(number), 480, 360).save(file)
            images.append(str(file))
    flags = {"task": "binary", "unit": "cell", "input_unit": "field", "unmarked": "as-image", "folds": 3, "workers": 1}
    workspace = open_workspace(root / "ws", create=True)
    made = prepare(workspace, PrepareSettings(sources=(str(root / "fields"),), pictures=False, **flags))
    return train(workspace, made.manifest, settings(variant="base", views=1)).folder, tuple(images)


def test_verified_survives_json() -> None:
    record = Verified(
        engine="onnx", precision="fp32", version="1", cpu="x", images=3, views=24, photographs=0, labels_equal=24,
        decisions_equal=23, on_the_line=1, score_difference=1e-7, novelty_difference=None, tolerance=1e-3, images_per_s=2.5,
        refused=None,
    )  # fmt: skip
    assert Verified.from_json(json.loads(json.dumps(record.as_json()))) == record
    for spoilt in ({"engine": "tvm"}, {"precision": "int8"}, {"images_per_s": 0}):
        with pytest.raises(ValueError, match=r".+"):
            Verified.from_json({**record.as_json(), **spoilt})
