"""What prepare finds out about the data itself: near copies, groups nobody gave, and what else than cells tells the class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukemia_cli.data.manifest import PRINTS, read_manifest
from leukemia_cli.steps.prepare import Prepared, PrepareSettings, prepare
from leukemia_cli.vision.decode import decode
from leukemia_cli.vision.fingerprints import RECORD, VERSION, describe, packed
from leukemia_cli.vision.records import RecordFile
from leukemia_cli.workspace.folders import open_workspace

SAMPLES = Path(__file__).parents[2] / "sample_images"


def fields(kind: str, patients: int, each: int = 2) -> list[Path]:
    folders = sorted((SAMPLES / kind).iterdir())[:patients]
    return [field for folder in folders for field in sorted(folder.iterdir())[:each]]


def lay_out(root: Path, images: Sequence[tuple[str, str, Image.Image]], taken: Sequence[str] = ()) -> Path:
    """Save (class, name, picture) as JPEG in class folders; `taken` are EXIF times."""
    for place, (kind, name, picture) in enumerate(images):
        (root / kind).mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if taken:
            exif.get_ifd(0x8769)[36867] = taken[place]
            exif[272] = "camera"
        picture.save(root / kind / name, quality=92, exif=exif)
    return root


def run(root: Path, source: Path, **changed: object) -> Prepared:
    settings = PrepareSettings(sources=(str(source),), task="binary", folds=2, **changed)
    return prepare(open_workspace(root / "ws", create=True), settings)


def test_a_turned_brighter_copy_lies_in_the_group_of_its_original(tmp_path: Path) -> None:
    images = [
        (kind, f"{field.parent.name}-{field.name}", Image.open(field).convert("RGB"))
        for kind in ("ALL", "HTL")
        for field in fields(kind, 3, 1)
    ]
    turned = images[0][2].transpose(Image.Transpose.ROTATE_90).point([min(255, round(v * 1.1)) for v in range(256)] * 3)
    done = run(tmp_path, lay_out(tmp_path / "in", [*images, ("ALL", "zz-other.jpg", turned)]))
    group_of = {Path(s.path).name: s.group for s in done.manifest.samples}
    assert group_of["zz-other.jpg"] == group_of[images[0][1]]
    assert len(set(group_of.values())) == 6
    assert [{Path(path).name for path in pair} for pair in done.near] == [{"zz-other.jpg", images[0][1]}]
    assert done.as_json()["near_duplicates"] == 2
    assert any("nearly the same as another" in line for line in done.manifest.warnings)
    assert done.manifest.groups_source == "proposed"
    kept = run(tmp_path, tmp_path / "in", group_by="none")
    assert kept.manifest.groups_source == "none"
    assert len({s.group for s in kept.manifest.samples}) == 6


def test_photographs_taken_in_one_go_are_proposed_as_groups_and_drawn(tmp_path: Path) -> None:
    pictures = [(kind, field) for kind in ("ALL", "HTL") for field in fields(kind, 4, 1)]
    images = [(kind, f"{i}.jpg", Image.open(field).convert("RGB")) for i, (kind, field) in enumerate(pictures)]
    taken = [f"2020:01:0{1 + i // 2} 10:00:{i % 2 * 30:02d}" for i in range(len(images))]
    source = lay_out(tmp_path / "in", images, taken)
    done = run(tmp_path, source)
    folder = tmp_path / "ws" / "manifest"
    assert done.manifest.groups_source == "proposed"
    assert [s.group for s in done.manifest.samples] == [f"{k}/{i}.jpg" for k, i in
                                                       (("ALL", 0), ("ALL", 0), ("ALL", 2), ("ALL", 2),
                                                        ("HTL", 4), ("HTL", 4), ("HTL", 6), ("HTL", 6))]  # fmt: skip
    assert (folder / "groups.png").is_file()
    assert any("groups were proposed" in line for line in done.manifest.warnings)
    bare = run(tmp_path, source, pictures=False)
    assert bare.manifest.groups_source == "proposed"
    assert not (folder / "groups.png").exists()


@pytest.fixture(scope="module")
def small_all(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Prepared]:
    """Prepare a data set of which every ALL image is smaller than every HTL image."""
    root = tmp_path_factory.mktemp("trap")
    images = []
    for kind in ("ALL", "HTL"):
        for field in fields(kind, 6, 2):
            picture = Image.open(field).convert("RGB")
            images.append(
                (kind, f"{field.parent.name}-{field.name}", picture.resize((160, 120)) if kind == "ALL" else picture)
            )
    return root, run(root, lay_out(root / "in", images), group_by="regex:(patient-\\d+|[a-z]+-patient-\\d+)")


def test_the_audit_accuses_the_size_and_names_its_images(small_all: tuple[Path, Prepared]) -> None:
    root, done = small_all
    document = json.loads((root / "ws" / "manifest" / "audit.json").read_text())
    assert document == json.loads(json.dumps(done.audit))
    verdicts = {probe["name"]: probe["verdict"] for probe in document["probes"]}
    assert verdicts["size"] == "accused"
    told = [one for one in document["findings"] if "160×120" in one["title"]]
    assert told
    assert told[0]["images"]["count"] == 12
    assert all("/ALL/" in path for path in told[0]["images"]["first"])
    assert told[0]["what_to_do"]
    assert done.as_json()["audit"]["probes"]["size"] == "accused"


def test_the_page_shows_images_only_where_it_may(small_all: tuple[Path, Prepared]) -> None:
    root, _ = small_all
    page = (root / "ws" / "manifest" / "audit.html").read_text()
    assert "data:image/jpeg" in page
    run(root, root / "in", pictures=False)
    page = (root / "ws" / "manifest" / "audit.html").read_text()
    assert "160×120" in page
    assert "data:image" not in page


def test_of_images_without_any_trap_no_probe_is_accused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(90, 230, (64, 64, 3), dtype=np.uint8) for _ in range(24)]
    images = [("ALL" if i % 2 else "HTL", f"{i}.jpg", Image.fromarray(p)) for i, p in enumerate(pixels)]
    done = run(tmp_path, lay_out(tmp_path / "in", images))
    assert "accused" not in {probe["verdict"] for probe in done.audit["probes"]}
    assert not done.near


def test_groups_that_were_given_stay_and_near_copies_are_dealt_together(tmp_path: Path) -> None:
    images = [
        (kind, f"{field.parent.name}.{field.name}", Image.open(field).convert("RGB"))
        for kind in ("ALL", "HTL")
        for field in fields(kind, 4, 1)
    ]
    mirrored = images[0][2].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    source = lay_out(tmp_path / "in", [*images, ("ALL", "all-patient-99.field-01.jpg", mirrored)])
    done = run(tmp_path, source, group_by="regex:(patient-[0-9]+)")
    by_name = {Path(s.path).name: s for s in done.manifest.samples}
    one, other = by_name[images[0][1]], by_name["all-patient-99.field-01.jpg"]
    assert (one.group, other.group) == ("patient-01", "patient-99")
    assert one.inseparable == other.inseparable == one.bundle
    assert one.fold == other.fold
    assert done.manifest.groups_source == "filename"
    assert any("they tie 2 groups together" in line for line in done.manifest.warnings)
    apart = run(tmp_path / "apart", source, group_by="regex:(patient-[0-9]+)", near_copies="warn").manifest
    assert {s.bundle for s in apart.samples} == {""}
    parted = len({s.fold for s in apart.samples if s.group in ("patient-01", "patient-99")}) > 1
    assert parted == any("near copies lie in different" in line for line in apart.warnings)
    assert {s.bundle for s in done.manifest.samples if s.group not in ("patient-01", "patient-99")} == {""}
    again = read_manifest(open_workspace(tmp_path / "ws", create=False))
    assert again == done.manifest
    labels = tmp_path / "labels.csv"
    splits = {one.path: "train", other.path: "test"}
    rows = [f"{s.path},{s.label},{s.group},{splits.get(s.path, 'train')}" for s in done.manifest.samples]
    labels.write_text("path,label,group,split\n" + "\n".join(rows) + "\n")
    settings = PrepareSettings(sources=(str(source),), task="binary", labels=str(labels))
    told = prepare(open_workspace(tmp_path / "given", create=True), settings).manifest.warnings
    assert any("1 pair of near copies lie in different splits or folds" in line for line in told)
    labels.write_text(labels.read_text().replace(",group,", ",patient,"))  # now nobody gives groups
    bare = prepare(open_workspace(tmp_path / "bare", create=True), settings).manifest
    assert bare.groups_source == "none"
    assert {s.split for s in bare.samples} == {"train", "test"}


def test_fingerprints_are_kept_in_the_order_of_the_photographs_and_nothing_else_is_left(tmp_path: Path) -> None:
    images = [
        (kind, f"{field.parent.name}-{field.name}", Image.open(field).convert("RGB"))
        for kind in ("ALL", "HTL")
        for field in fields(kind, 3, 1)
    ]
    source = lay_out(tmp_path / "in", images)
    (source / "ALL" / "a-broken.jpg").write_bytes(b"no image")
    done = run(tmp_path, source, skip_bad=True, pictures=False)
    folder = tmp_path / "ws" / "manifest"
    assert sorted(path.name for path in folder.rglob("*")) == [
        "audit.html",
        "audit.json",
        PRINTS,
        "manifest.csv",
        "manifest.json",
    ]
    with RecordFile(folder / PRINTS, RECORD) as kept:
        told = packed([describe(decode(sample.path).pixels) for sample in done.manifest.samples])
        assert kept[0:99].tobytes() == told.tobytes()
        assert dict(kept.facts) == {"version": VERSION}


def test_many_exact_copies_are_compared_once(tmp_path: Path) -> None:
    pictures = {kind: [Image.open(field).convert("RGB") for field in fields(kind, 3, 1)] for kind in ("ALL", "HTL")}
    images = [(kind, f"{n}-{again}.png", picture) for kind, held in pictures.items() for n, picture in enumerate(held)
              for again in range(4 if n == 0 else 1)]  # fmt: skip
    for kind, name, picture in images:
        (tmp_path / "in" / kind).mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "in" / kind / name)
    done = run(tmp_path, tmp_path / "in", pictures=False)
    assert sorted(len(same) for same in done.duplicates) == [4, 4]
    assert done.near == ()
    assert len({sample.group for sample in done.manifest.samples}) == 6
    assert "6 exact copies of other images: each lies in the group of its original" in done.manifest.warnings
