"""A Ray cluster of several nodes gives the rows that one process gives, whatever happens to its workers."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from leukemia_cli.cli.app import run
from leukemia_cli.errors import MachineError, UsageError
from leukemia_cli.learning import cluster, machine
from leukemia_cli.learning.cluster import Spread, rows_from_cluster
from leukemia_cli.learning.recipes import TrainSettings
from leukemia_cli.reporting.row_stores import parquet_schema, parquet_table
from leukemia_cli.steps.train import train

ON_NODES = """
import os, signal, sys, threading, time
from pathlib import Path

from ray.cluster_utils import Cluster

nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100_000_000})
for _ in range(2):
    nodes.add_node(num_cpus=1, object_store_memory=100_000_000)
os.environ["RAY_ADDRESS"] = nodes.address

from leukemia_cli.cli.app import run
from leukemia_cli.learning import cluster

cluster.ROWS_PER_BLOCK = 8


def kill_one():
    while True:
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                title = process.read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::MapWorker") and b"submit" in title:
                os.kill(int(process.parent.name), signal.SIGKILL)
                print("killed", flush=True)
                return
        time.sleep(0.01)


killer = threading.Thread(target=kill_one, daemon=True)
killer.start()
code = run(sys.argv[1:])
killer.join(timeout=1)
nodes.shutdown()
sys.exit(code)
"""


def test_an_address_is_a_cluster_or_refused() -> None:
    for address in ("ray", "ray://auto", "ray://host:10001"):
        assert Spread(address=address).address == address
    for address in ("", "slurm", "ray://", "http://host", "rays"):
        with pytest.raises(UsageError, match="--cluster"):
            Spread(address=address)


def test_a_worker_takes_no_more_cores_than_the_cluster_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_most_cores", None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    seen: list[int] = []
    cluster._Worker(lambda: seen.append(machine.granted_cores()), 3)
    assert seen == [3]
    machine.limit_cores(99)
    assert machine.granted_cores() == 16


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MachineError) as caught:
        list(rows_from_cluster(["a.png"], lambda: pytest.fail("opened"), Spread(address="ray")))
    assert "leukemia-cli[ray]" in caught.value.hint


def test_of_no_paths_there_are_no_rows_and_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    monkeypatch.setattr(cluster, "_connected", lambda *_: pytest.fail("connected"))
    assert list(rows_from_cluster([], lambda: pytest.fail("opened"), Spread(address="ray"))) == []


def test_a_process_that_never_gets_its_cores_is_refused_before_it_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "granted_cores", lambda: 2)
    monkeypatch.setattr(cluster, "_connected", lambda *_: pytest.fail("connected"))
    with pytest.raises(UsageError, match=r"--workers 3 .* there are 2 here"):
        list(rows_from_cluster(["a.png"], lambda: pytest.fail("opened"), Spread(address="ray", cores_each=3)))


def rows_of(paths: Sequence[str]) -> Any:
    """Give a table as a worker makes it."""
    return parquet_table(
        [{"path": path, "error": None} for path in paths], parquet_schema({"path": str, "error": str}, {})
    )


def block_of(paths: Sequence[str]) -> Any:
    """Give a table as a worker is given it."""
    import pyarrow

    full = pyarrow.array([os.fsencode(f"/in/{path}") for path in paths], pyarrow.binary())
    return pyarrow.table({"path": full, "asked": pyarrow.array(map(os.fsencode, paths), pyarrow.binary())})


def test_a_worker_refuses_rows_of_other_paths_than_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_most_cores", None)
    paths = ["a.png", os.fsdecode(b"caf\xe9.png"), "c.png"]
    told = cluster._Worker(lambda: rows_of, 1)(block_of(paths))
    assert told["asked"].to_pylist() == [os.fsencode(path) for path in paths]
    for wrong in (lambda given: rows_of(given[::-1]), lambda given: rows_of([given[0], *given[:-1]])):
        with pytest.raises(ValueError, match=r"rows of other paths than the 3 from '/in/a\.png' on"):
            cluster._Worker(lambda wrong=wrong: wrong, 1)(block_of(paths))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (["b", "a", "c"], "a row of b out of its place"),
        (["a", "b"], "2 rows for 3 inputs"),
        (list("abcc"), "row of c out"),
    ],
)
def test_rows_out_of_their_place_are_refused_whatever_ray_says(
    answer: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray, data = (pytest.importorskip(name, reason="the extra `ray` is not installed") for name in ("ray", "ray.data"))

    class Made:
        def map_batches(self, *_: object, **more: object) -> Made:
            return self

        def iter_batches(self, **more: object) -> Iterator[Any]:
            rows = rows_of([f"/in/{path}" for path in answer])
            yield rows.append_column("asked", block_of(answer)["asked"])

    monkeypatch.setattr(cluster, "_connected", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    monkeypatch.setattr(data, "from_arrow", lambda blocks: Made())
    with pytest.raises(MachineError, match=said):
        list(rows_from_cluster(["a", "b", "c"], lambda: pytest.fail("opened"), Spread(address="ray://auto")))


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory, make_lab: Callable[..., Any]) -> tuple[Path, Path]:
    """A run of a tiny network, and a list of 60 images of which three are broken or missing."""
    root = tmp_path_factory.mktemp("cluster")
    lab = make_lab(root, splits=("train", "train", "val", "calib"))
    settings = TrainSettings(
        backbone="timm:test_resnet", weights="none", input_size_px=64, device="cpu", variant="base", epochs=1, views=1
    )
    run_folder = train(lab.workspace, lab.manifest, settings).folder
    sources = sorted(lab.pictures.rglob("*.png"))
    images = root / "in"
    images.mkdir()
    for place in range(60):
        if place in (7, 41):
            (images / f"{place:02}.png").write_bytes(b"broken")
        elif place != 20:
            shutil.copy(sources[place % len(sources)], images / f"{place:02}.png")
    listed = root / "list.txt"
    listed.write_text("".join(f"in/{place:02}.png\n" for place in range(60)))
    return run_folder, listed


def test_what_a_cluster_cannot_do_is_refused_before_it_starts(
    trained_run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, problem in (
        ([], "--cluster needs --output"),
        (["--format", "json", "--output", str(tmp_path / "a.json")], "--cluster needs --output"),
        (["--format", "csv", "--output", str(tmp_path / "a.csv"), "--heatmaps", str(tmp_path / "h")], "one process"),
    ):
        assert run(["classify", "x.png", "--run", str(trained_run[0]), "--cluster", "ray", *more]) == 2
        assert problem in capsys.readouterr().err


@pytest.mark.slow
def test_two_nodes_with_a_worker_killed_give_what_one_process_gives(
    trained_run: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every row once, in order, with the same scores to the last digit; relative paths stay as they were given."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    run_folder, listed = trained_run
    monkeypatch.chdir(listed.parent)
    line = [
        "classify",
        "@list.txt",
        "--run",
        str(run_folder),
        "--device",
        "cpu",
        "--format",
        "csv",
        "--batch-size",
        "4",
        "-q",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    alone, spread = tmp_path / "alone.csv", tmp_path / "spread.csv"
    leuk = [sys.executable, "-m", "leukemia_cli"]
    assert subprocess.run([*leuk, *line, "--output", str(alone)], env=env, check=False).returncode == 3
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ON_NODES, *line, "--cluster", "ray://auto", "--output", str(spread)],
        env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr[-3000:]
    assert "killed" in done.stdout
    assert spread.read_bytes() == alone.read_bytes()
    assert len(alone.read_text().splitlines()) == 61


@pytest.mark.slow
def test_a_cluster_of_this_machine_alone_gives_the_parts_that_one_process_gives(
    trained_run: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    run_folder, listed = trained_run
    monkeypatch.chdir(listed.parent)
    leuk = [sys.executable, "-W", "ignore", "-m", "leukemia_cli", "classify", "@list.txt", "--run", str(run_folder)]
    flags = ["--device", "cpu", "--batch-size", "4", "--rows-per-part", "25", "-q"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    env.pop("RAY_ADDRESS", None)
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    for more in (["--output", f"{alone}/"], ["--output", f"{spread}/", "--cluster", "ray", "--workers", "1"]):
        done = subprocess.run([*leuk, *flags, *more], env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 3, done.stderr[-3000:]
        assert "streaming_executor" not in done.stderr, "Ray's own reports"
    content = {folder: {file.name: file.read_bytes() for file in folder.iterdir()} for folder in (alone, spread)}
    assert content[spread] == content[alone]
    assert sorted(content[alone]) == ["_leuk.json", *(f"part-00000{i}.parquet" for i in range(3))]
