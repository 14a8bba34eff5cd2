"""Shared by every room: a small workspace made without the prepare step, so that each image's part is known."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from PIL import Image

from leukemia_cli.catalog import TASKS
from leukemia_cli.data.manifest import make_manifest, write_manifest
from leukemia_cli.domain import Manifest, Sample, Task
from leukemia_cli.workspace.folders import Workspace, open_workspace


def pytest_configure(config: pytest.Config) -> None:
    """Keep each process of tests to one core of its own, before torch counts them.

    Tiny networks gain nothing from two threads, and on a busy machine each of their thousands of barriers waits for a
    thread that is not running (minutes instead of seconds).
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    spreads = worker is None and config.getoption("numprocesses", default=None)
    if not spreads and hasattr(os, "sched_setaffinity"):
        granted = sorted(os.sched_getaffinity(0))
        place = random.randrange(len(granted)) if worker is None else int(worker.removeprefix("gw"))
        os.sched_setaffinity(0, {granted[place % len(granted)]})


# The files that take longest, longest first: begun last, one of them would keep one process busy while all others wait.
LONGEST = (
    "test_training_interrupted.py", "test_cell_runs.py", "test_compare.py", "test_export.py", "test_docs.py",
    "test_json_contract.py", "test_classify_command.py", "test_catalogue.py", "test_exit_codes.py", "test_finetuning.py",
    "test_prepare.py", "test_classify_interrupted.py", "test_drawing.py", "test_compare_and_report_commands.py",
    "test_audit_page.py", "test_doubt_on_real_images.py",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark `real` every test that takes `real_images`, before `-m` chooses among them; put the longest files first."""
    for item in items:
        if "real_images" in getattr(item, "fixturenames", ()):
            item.add_marker("real")
    gone = set(LONGEST) - {path.name for path in Path(__file__).parent.rglob("test_*.py")}
    if gone:
        raise pytest.UsageError(f"LONGEST in tests/conftest.py names files that are not there: {sorted(gone)}")
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


# How fast examples are drawn is the machine's affair: on a busy one it says nothing about the code.
hypothesis.settings.register_profile("any-machine", suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("any-machine")

SPLITS = ("train", "train", "val", "calib", "test")


def paint(path: Path, label: int, seed: int, side_px: int) -> str:
    """Paint a disc whose size tells the class on a ground whose colour does not; give the file's SHA-256."""
    rng = np.random.default_rng([seed, label])
    y, x = np.mgrid[:side_px, :side_px] / side_px - 0.5
    disc = x**2 + y**2 < (0.15 + 0.12 * label) ** 2
    ground = rng.uniform(170, 230, 3)
    pixels = np.where(disc[..., None], ground * rng.uniform(0.3, 0.5), ground) + rng.normal(0, 6, (side_px, side_px, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class Lab:
    """A workspace with its manifest and the folder of its pictures."""

    workspace: Workspace
    manifest: Manifest
    pictures: Path


MakeLab = Callable[..., Lab]


@pytest.fixture(scope="session")
def painter() -> Callable[[Path, int, int, int], str]:
    """Give `paint`."""
    return paint


@pytest.fixture(scope="session")
def make_lab() -> MakeLab:
    """Make a workspace of painted pictures under `root`: one group a class for each of `splits`, or `groups` in folds."""

    def make(
        root: Path,
        *,
        classes: Sequence[str] = ("ALL", "HTL"),
        splits: Sequence[str] = SPLITS,
        folds: int | None = None,
        groups: int = 4,
        images: int = 2,
        side_px: int = 48,
        suffix: str = ".png",
        warnings: Sequence[str] = (),
    ) -> Lab:
        rows = []
        for label, name in enumerate(classes):
            for number in range(groups if folds else len(splits)):
                for image in range(images):
                    path = root / "pictures" / name / f"{name}-{number}" / f"{image}{suffix}"
                    digest = paint(path, label, 100 * number + image, side_px)
                    rows.append(
                        Sample(
                            path=str(path),
                            label=name,
                            group=f"{name}-{number}",
                            split="" if folds else splits[number],
                            fold=number % folds if folds else None,
                            sha256=digest,
                            width=side_px,
                            height=side_px,
                        )
                    )
        task = (
            TASKS["binary"] if tuple(classes) == ("ALL", "HTL") else Task(name="t", classes=tuple(classes), aliases={})
        )
        manifest = make_manifest(rows, task=task, seed=0, folds=folds, groups_source="given", warnings=warnings)
        workspace = open_workspace(root / "ws", create=True)
        write_manifest(workspace, manifest, protocol="folds" if folds else "splits")
        return Lab(workspace=workspace, manifest=manifest, pictures=root / "pictures")

    return make


@pytest.fixture(scope="session")
def real_images() -> Callable[[str], Path]:
    """Give a function that gives a folder of the real images, absolute, and skips the test where there is none."""

    def folder(name: str) -> Path:
        root = os.environ.get("LEUK_TEST_DATA")
        if not root:
            pytest.skip("LEUK_TEST_DATA is not set: it names the folder of the real images")
        place = Path(root, name).absolute()
        if not place.is_dir():
            pytest.skip(f"LEUK_TEST_DATA, {root}, has no folder {name}")
        return place

    return folder


@pytest.fixture(scope="module")
def without_a_disk() -> Iterator[None]:
    """Wait for no disk: what is flushed shows only after a power cut, and some tests write hundreds of files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield
