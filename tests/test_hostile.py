"""Files that mean harm: none runs code, leads out of its folder, asks for endless memory or time, or speaks in a page."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import io
import json
import os
import pickle
import random
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from leukemia_cli.cli import app
from leukemia_cli.cli.app import run
from leukemia_cli.data.manifest import read_manifest
from leukemia_cli.data.marks import read_coco, read_voc
from leukemia_cli.data.plain_yaml import read_plain
from leukemia_cli.errors import DataError, LeukError, MachineError, UsageError, WorkspaceError
from leukemia_cli.vision.decode import BadImage, decode
from leukemia_cli.vision.records import RecordFile
from leukemia_cli.workspace.documents import check_schema, read_json, sealed, write_json
from leukemia_cli.workspace.files import disk_errors
from leukemia_cli.workspace.folders import Workspace
from leukemia_cli.workspace.looks import looks_at
from leukemia_cli.workspace.runs import read_run_folder

NETWORK = (
    "--backbone",
    "timm:test_resnet",
    "--weights",
    "none",
    "--input-size",
    "64",
    "--device",
    "cpu",
    "--workers",
    "1",
)
SCRIPT = "<script>alert(1)</script>"


def benchmark(name: str) -> ModuleType:
    """Load a script of benchmarks/ under a name of its own."""
    file = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def leuk(*arguments: object) -> tuple[int, str, str]:
    """Run a command in this process; give exit code, stdout and stderr."""
    said, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        code = run([str(argument) for argument in arguments])
    return code, said.getvalue(), told.getvalue()


class Touches:
    """An object whose pickle makes a folder when it is read."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.proof),))


# ------------------------------------------------------------------------------------------------------------ YAML


def laughs(times: int) -> str:
    """Give YAML of a few lines that stands for 9 ** times values."""
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, times)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (laughs(9), "stands for more than"),
        ("a: &a [*a]", "stands within what it names"),
        ("a: &a {<<: *a}", "stands within what it names"),
        ("[" * 60 + "]" * 60, "nested more than"),
        ("a: 0x" + "f" * 9000, "without quotes"),
        ("a: " + "b" * 2_000_000, "bytes, more than"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: !!int ''", "none of its type"),
        ("a: 2001-99-99", "month must be in"),
        ("a: [", "line 1"),
        ("a: \x00", "not allowed"),
    ],
)
def test_yaml_that_asks_for_more_than_values_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as raised:
        read_plain(text.encode())
    assert "\n" not in str(raised.value)


def test_yaml_may_repeat_itself_within_reason() -> None:
    read = read_plain(laughs(3).encode())
    assert isinstance(read, dict) and read["l1"][8] == ["x"] * 9
    assert read_plain(b"a: &a {b: 1}\nc:\n  <<: *a\n  d: 2\n") == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}
    assert read_plain(b"") is None
    assert read_plain(("a: '" + "b" * 5000 + "'").encode()) == {"a": "b" * 5000}


@pytest.mark.parametrize("text", [laughs(9), "seed: 0x" + "f" * 9000, "seed: &a [*a]", "seed: !!timestamp x"])
def test_no_yaml_ends_a_command_in_a_bug(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    assert leuk("prepare", "nothing", "--task", "binary", "--config", file)[0] == 2
    assert leuk("prepare", file, "--task", "binary", "-w", tmp_path / "ws")[0] == 2
    assert leuk("prepare", tmp_path, "--task", file, "-w", tmp_path / "ws")[0] == 2


# ------------------------------------------------------------------------------------------------------------ JSON


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, '{"a": NaN}', '{"a": 1e999}', '{"a": ' + "9" * 5000 + "}"],
)
def test_json_that_is_deep_or_no_number_is_damage(text: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(text)
    with pytest.raises(WorkspaceError, match="cannot be read"):
        read_json(file, "run")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, '{"a": ' + "9" * 5000 + "}"])
def test_annotations_that_are_deep_or_a_number_without_end_are_no_json(text: str, tmp_path: Path) -> None:
    file = tmp_path / "annotations.json"
    file.write_text(text)
    with pytest.raises(DataError, match="no JSON"):
        read_coco(str(file))


def test_a_sealed_artefact_is_refused_once_a_value_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, sealed({"schema_version": 1, "temperature": 1.25, "classes": ("ALL", "HTL"), "n": {"1": None}}))
    stored = read_json(file, "a")
    check_schema(stored, file, 1)
    for key, value in (("temperature", 9.25), ("classes", ["HTL", "ALL"]), ("more", 1)):
        with pytest.raises(WorkspaceError, match="has changed since leuk wrote it"):
            check_schema({**stored, key: value}, file, 1)
    with pytest.raises(WorkspaceError, match="knows up to 1"):  # rather than that it was edited
        check_schema({**stored, "schema_version": 2}, file, 1)
    write_json(file, {**stored, "temperature": 2.0})  # leuk itself may change what it wrote
    check_schema(read_json(file, "a"), file, 1)
    del stored["seal"]
    check_schema(stored, file, 1)


def test_a_table_of_records_with_a_hostile_header_is_refused(tmp_path: Path) -> None:
    import numpy as np

    file = tmp_path / "x.safetensors"
    for text in (b"[" * 1016, json.dumps({"__metadata__": {}, "records": {"shape": [-1, 8]}}).encode().ljust(1016)):
        file.write_bytes(bytes(8) + text)
        with pytest.raises(WorkspaceError):
            RecordFile(file, np.dtype("<u8"))


def test_a_damaged_list_of_looks_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "looks.jsonl").write_bytes(b'\xff\xfe\n{"part": "abc"}\n{"pa')
    assert looks_at(Workspace(tmp_path), "abc") == 1


# ------------------------------------------------------------------------------------------------- out of the folder


@pytest.mark.parametrize(
    "facts",
    [
        {"run": "../../elsewhere"},
        {"run": "/etc"},
        {"run": "a/b"},
        {"run": ".."},
        {"run": 7},
        {"run": "a", "name": "../x"},
        {"run": "a", "files": {"../../x": "0"}},
        {"run": "a", "files": {"/etc/passwd": "0"}},
        {"run": "a", "files": {"fold-0/../../x": "0"}},
        {"run": "a", "files": ["x"]},
    ],
)
def test_a_run_whose_names_lead_elsewhere_is_no_run(facts: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", sealed({"schema_version": 1, **facts}))
    with pytest.raises(WorkspaceError, match="is damaged"):
        read_run_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"run": "../../elsewhere"}, "run"),
        ({"weights": None}, "weights"),
        ({"seed": "0"}, "seed"),
        ({"preprocessing": {}}, "preprocessing"),
        ({"preprocessing": {"input_size_px": 10**9}}, "preprocessing"),
    ],
)
def test_features_that_lead_elsewhere_or_nowhere_are_refused(
    change: dict[str, Any], named: str, tmp_path: Path, lab: Path
) -> None:
    root = tmp_path / "ws"
    shutil.copytree(lab / "ws", root)
    manifest = json.loads((root / "manifest" / "manifest.json").read_bytes())["fingerprint"]
    spec = {"input_size_px": 64, "mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bicubic", "fit": "squash"}
    good = {
        "features": "x",
        "run": None,
        "backbone": "timm:test_resnet",
        "weights": "none",
        "seed": 0,
        "backbone_sha256": "",
    }
    facts = {"schema_version": 1, "manifest": manifest, "preprocessing": spec, **good, **change}
    write_json(root / "features" / "x" / "features.json", facts)
    code, _, told = leuk("fit-svm", "--features", "x", "-w", root, "-q", "--device", "cpu")
    assert code == 4, told
    assert f"features.json is damaged: see {named}" in told


def test_a_run_with_its_own_names_is_one(tmp_path: Path) -> None:
    names = {"run": "a.b-1", "name": None, "files": {"model.safetensors": "0", "fold-0/model.safetensors": "0"}}
    write_json(tmp_path / "run.json", {"schema_version": 1, **names})
    assert read_run_folder(tmp_path).id == "a.b-1"


def test_a_manifest_names_no_crop_outside_its_folder(tmp_path: Path, make_lab: Any) -> None:
    lab = make_lab(tmp_path)
    folder = lab.workspace.manifest_folder
    head = "path,label,group,split,fold,unit,source,sha256,width,height,field,x,y\n"
    row = "ALL,g,train,,cell,s,0,9,9,f.png,1.0,1.0\n"
    for path in ("../../../secret.png", "crops/../../../secret.png"):
        rows = (head + f"{path},{row}").encode()
        (folder / "manifest.csv").write_bytes(rows)
        facts = json.loads((folder / "manifest.json").read_bytes())
        tables = {"manifest.csv": hashlib.sha256(rows).hexdigest()}
        write_json(folder / "manifest.json", {**facts, "unit": "cell", "tables": tables})
        with pytest.raises(WorkspaceError, match="does not lie in the manifest's folder"):
            read_manifest(lab.workspace)
    tables = {"../../secret.csv": "0"}
    write_json(folder / "manifest.json", {**facts, "tables": tables})
    with pytest.raises(WorkspaceError, match="unknown table"):
        read_manifest(lab.workspace)


def test_a_report_shows_no_heatmap_from_outside_its_folder(tmp_path: Path) -> None:
    from leukemia_cli.reporting.thumbnails import read_heatmaps

    Image.new("RGB", (32, 32)).save(tmp_path / "secret.png")
    (tmp_path / "report").mkdir()
    row = {"path": str(tmp_path / "secret.png"), "label": "ALL", "predicted": "HTL"}
    for name in ("../secret.png", str(tmp_path / "secret.png")):
        with pytest.raises(ValueError, match="does not lie in the report's folder"):
            read_heatmaps(tmp_path / "report", {"heatmaps": {"images": [{**row, "file": name}]}}, max_megapixels=1)
    Image.new("RGB", (32, 32)).save(tmp_path / "report" / "a.png")
    found = read_heatmaps(tmp_path / "report", {"heatmaps": {"images": [{**row, "file": "a.png"}]}}, max_megapixels=1)
    assert len(found) == 1


def test_a_link_in_place_of_an_image_is_known_by_what_it_leads_to(tmp_path: Path, make_lab: Any) -> None:
    lab = make_lab(tmp_path)
    one, other = sorted(lab.pictures.rglob("*.png"))[:2]
    one.unlink()
    one.symlink_to(other)
    code, _, told = leuk("extract-features", *NETWORK, "-w", lab.workspace.root, "-q")
    assert code == 3, told
    assert "has changed since leuk prepare" in told


# ----------------------------------------------------------------------------------------------------------- images


def test_a_jpeg_of_endless_scans_is_refused_at_once() -> None:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 100, 150)).save(out, "JPEG", progressive=True)
    whole = out.getvalue()
    assert decode(whole).width == 64
    at = whole.index(b"\xff\xda")
    with pytest.raises(BadImage, match="more than 500 scans"):
        decode(whole[:-2] + whole[at : at + 20] * 2000 + whole[-2:])


def test_a_file_that_no_image_could_fill_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "huge.tif"
    with file.open("wb") as opened:
        opened.write(b"II*\0")
        opened.truncate(1 << 40)  # holes alone: a terabyte that takes no room
    with pytest.raises(BadImage, match="more than an image of the megapixels allowed"):
        decode(str(file))


@pytest.mark.parametrize("target", ["decode", "marks", "config", "slide"])
def test_a_short_run_of_the_fuzzer_finds_nothing(target: str, tmp_path: Path) -> None:
    fuzz = benchmark("fuzz")
    (tmp_path / "base").mkdir()
    counts = {"decode": 100, "marks": 60, "config": 20, "slide": 20}
    for number in range(counts[target]):
        found, trace = fuzz.run_case(target, number, 1, tmp_path / "base")
        assert not trace, trace
        assert found


def test_the_fuzzer_sees_what_is_no_error_for_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz = benchmark("fuzz")

    def broken(case: Any) -> str:
        raise KeyError(case.dice.random())

    monkeypatch.setitem(fuzz.TARGETS, "decode", (broken, 1.0))
    found, trace = fuzz.run_case("decode", 0, 1, tmp_path / "base")
    assert found == "FAILED KeyError"
    assert "KeyError" in trace


# -------------------------------------------------------------------------------------------------------------- XML


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<!DOCTYPE a [<!ENTITY l "x">]><annotation>&l;</annotation>', "entities"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>', "entities"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "encoding"),
    ],
)
def test_xml_that_is_more_than_an_annotation_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "x.xml"
    file.write_text(text)
    with pytest.raises(DataError, match=reason):
        read_voc(str(file))


def test_deep_xml_costs_no_more_than_its_length(tmp_path: Path) -> None:
    file = tmp_path / "x.xml"
    box = "<name>a</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>"
    deep = "<a>" * 100_000 + "</a>" * 100_000  # with the square of it this would take minutes and gigabytes
    file.write_text(f"<annotation><object>{deep}{box}</object></annotation>")
    assert [mark.label for mark in read_voc(str(file))] == ["a"]


# -------------------------------------------------------------------------------------------------- one trained run


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, painter: Any) -> Path:
    """Prepare, train, judge and compare on pictures whose classes, files and folders are named like markup."""
    root = tmp_path_factory.mktemp("hostile")
    for label in range(2):
        for number in range(8):
            name = f"{SCRIPT if number == 0 else number}".replace("/", "_")
            painter(root / "pics" / f"<b>{'AB'[label]}" / f"<i>p{number // 2}" / f"{name}.png", label, number, 48)
    (root / "task.yaml").write_text("name: '<u>'\nclasses: ['<b>A', '<b>B']\npositive: '<b>A'\n")
    (root / "set.yaml").write_text(f"sources:\n  - path: pics\n    name: '{SCRIPT}'\n")
    place = ["-w", root / "ws", "-q"]
    for words in (
        ["prepare", root / "set.yaml", "--task", root / "task.yaml", "--folds", "2", "--near-copies", "warn"],
        ["train", *NETWORK, "--variant", "base", "--views", "1", "--epochs", "2"],
        ["evaluate", "--resamples", "10", "--device", "cpu"],
        ["compare", "--backbones", *NETWORK[1:], "--variants", "base", "--repeats", "1", "--resamples", "10", "--epochs", "2",
         "--views", "1"],
    ):  # fmt: skip
        code, _, told = leuk(*words, *place)
        assert code == 0, told
    return root


def test_names_do_not_speak_in_pages(lab: Path) -> None:
    pages = [
        *lab.glob("ws/manifest/audit.html"),
        *lab.glob("ws/reports/*/report.html"),
        *lab.glob("ws/**/compare.html"),
    ]
    assert len(pages) == 3
    for page in pages:
        text = page.read_text()
        assert "&lt;b&gt;A" in text, page
        for markup in ("<script>alert", "<b>A", "<b>B", "<i>p"):
            assert markup not in text, f"{page}: …{text[max(0, text.find(markup) - 90) : text.find(markup) + 60]}…"


def _run_of(lab: Path) -> Path:
    [folder] = (lab / "ws" / "runs").iterdir()
    return folder


def _image(lab: Path) -> Path:
    return next((lab / "pics").rglob("*.png"))


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors", ""])
def test_a_pickle_for_weights_is_never_run(suffix: str, tmp_path: Path, lab: Path) -> None:
    proof, file = tmp_path / "proof", tmp_path / f"weights{suffix}"
    file.write_bytes(pickle.dumps({"state_dict": Touches(proof)}))
    pickle.loads(file.read_bytes())
    assert proof.exists(), "a reader of pickles would have made it"
    proof.rmdir()
    words = [word if word != "none" else str(file) for word in NETWORK]
    code, _, told = leuk("train", *words, "-w", lab / "ws", "-q")
    assert (code, proof.exists()) == (3, False), told
    assert "cannot be read" in told


def test_a_pickle_for_a_file_of_a_run_is_never_run(tmp_path: Path, lab: Path) -> None:
    proof = tmp_path / "proof"
    evil = pickle.dumps({"state_dict": Touches(proof)})
    names = [path.name for path in _run_of(lab).glob("*.safetensors")]
    assert {"model.safetensors", "head.safetensors"} <= set(names)
    for name in names:
        folder = tmp_path / name / _run_of(lab).name
        shutil.copytree(_run_of(lab), folder)
        (folder / name).write_bytes(evil)
        stored = json.loads((folder / "run.json").read_bytes())
        stored["files"][name] = hashlib.sha256(evil).hexdigest()
        write_json(folder / "run.json", stored)
        code, _, told = leuk("classify", _image(lab), "--run", folder, "-q", "--device", "cpu")
        assert (code, proof.exists()) == (4, False), told


def test_a_pickle_for_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    from leukemia_cli.learning.checkpoints import read_checkpoint

    proof, file = tmp_path / "proof", tmp_path / "member.safetensors"
    file.write_bytes(pickle.dumps(Touches(proof)))
    with pytest.raises(WorkspaceError, match="is damaged"):
        read_checkpoint(file, "Delete it")
    assert not proof.exists()


def test_an_altered_run_is_refused_by_classify(tmp_path: Path, lab: Path) -> None:
    dice = random.Random(3)
    good = leuk("classify", _image(lab), "--run", _run_of(lab), "--json", "-q", "--device", "cpu")
    assert good[0] == 0, good[2]
    names = ["run.json"] * 12 + ["model.safetensors", "head.safetensors"] * 2
    outcomes = []
    for number, name in enumerate(names):
        folder = tmp_path / str(number) / _run_of(lab).name
        shutil.copytree(_run_of(lab), folder)
        content = bytearray((folder / name).read_bytes())
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        (folder / name).write_bytes(content)
        code, said, told = leuk("classify", _image(lab), "--run", folder, "--json", "-q", "--device", "cpu")
        assert code == 4 or (code == 0 and said == good[1]), told
        outcomes.append(code)
    assert outcomes.count(4) >= len(names) - 2, "a bit of white space may change unseen, of numbers none"


# -------------------------------------------------------------------------------------------------------- the machine


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EFBIG, MachineError, "ulimit -f"),
        (errno.EMFILE, MachineError, "ulimit -n"),
        (errno.ENOMEM, MachineError, "memory"),
        (errno.ESTALE, MachineError, "disk"),
        (errno.ENOSPC, MachineError, "space"),
        (errno.ELOOP, UsageError, "place"),
    ],
)
def test_what_the_machine_refuses_is_told(number: int, kind: type[LeukError], words: str) -> None:
    with pytest.raises(kind) as raised, disk_errors(Path("x")):
        raise OSError(number, os.strerror(number), "x")
    assert words in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad row in /data/Jane Doe/smear.png"),
        ValueError("cannot use 'C:\\patients\\Jane Doe\\1.tif' so"),
        KeyError("/data/Jane Doe/1.tif"),
        OSError(errno.EBADMSG, "Bad message", "/data/Jane Doe/1.tif"),
        RuntimeError('no "data/Jane Doe.png" here'),
    ],
)
def test_a_bug_is_told_without_paths(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(app, "open_workspace", fails)
    assert run(["runs"]) == 1
    told = capsys.readouterr().err
    assert "This is a bug in leuk" in told
    assert type(error).__name__ in told
    for word in ("Jane", "Traceback", "patients", "/data"):
        assert word not in told


def test_a_forged_run_with_numbers_that_are_none_is_refused(tmp_path: Path, lab: Path) -> None:
    """Digests and seals that fit do not make NaN a weight, nor a feature that is not there one that is kept."""
    from safetensors.numpy import load_file, save_file

    for name, tensor, value in (
        ("model.safetensors", "", np.nan),
        ("head.safetensors", "0.out.weight", np.inf),
        ("head.safetensors", "0.kept", 10**6),
    ):
        folder = tmp_path / f"{name}-{tensor}" / _run_of(lab).name
        shutil.copytree(_run_of(lab), folder)
        arrays = load_file(folder / name)
        chosen = tensor or next(key for key, array in arrays.items() if array.dtype == np.float32)
        arrays[chosen].reshape(-1)[0] = value
        save_file(arrays, folder / name)
        stored = json.loads((folder / "run.json").read_bytes())
        stored["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        write_json(folder / "run.json", stored)
        code, _, told = leuk("classify", _image(lab), "--run", folder, "-q", "--device", "cpu")
        assert code == 4, told


def test_a_flipped_bit_in_a_checkpoint_is_not_trained_on(tmp_path: Path) -> None:
    import torch

    from leukemia_cli.learning.checkpoints import read_checkpoint, write_checkpoint

    file = tmp_path / "member.safetensors"
    facts, tensors = {"epoch": 3}, {"weight": torch.arange(64.0)}
    write_checkpoint(file, tensors, facts)
    assert read_checkpoint(file, "")[0] == facts
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(WorkspaceError, match="have changed"):
        read_checkpoint(file, "Delete it")
