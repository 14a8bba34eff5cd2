"""A short form of the faults of benchmarks/faults.py, with real processes, real signals and real limits."""

from __future__ import annotations

import random
import shutil
from types import ModuleType
from typing import Any

import pytest
from test_hostile import benchmark

SHORT = ("prepare", "classify")


@pytest.fixture(scope="module")
def faults() -> ModuleType:
    """Give the script."""
    return benchmark("faults")


@pytest.fixture(scope="module")
def bench(faults: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give pictures, good workspaces, and the commands of the short form run once."""
    made = faults.Bench(tmp_path_factory.mktemp("faults"), 5)
    made.make(short(faults))
    return made


def short(faults: ModuleType) -> tuple[Any, ...]:
    """Give the commands of the short form."""
    return tuple(command for command in faults.COMMANDS if command.name in SHORT)


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_result(faults: ModuleType, bench: Any) -> None:
    tally = faults.killed(bench, 2, short(faults))
    assert not tally.wrong, tally.wrong
    assert tally.counts.total() == 2


@pytest.mark.slow
def test_stopped_at_any_moment_nothing_is_half_written(faults: ModuleType, bench: Any) -> None:
    tally = faults.stopped(bench, 1, short(faults)[1:])
    assert not tally.wrong, tally.wrong
    assert tally.counts.total() == 1


@pytest.mark.slow
def test_a_limit_on_files_is_told_as_one(faults: ModuleType, bench: Any) -> None:
    tally = faults.file_limit(bench, short(faults)[:1], (64,))
    assert not tally.wrong, tally.wrong
    assert {outcome for _, outcome in tally.counts} == {"exit 5, then the same result"}


@pytest.mark.slow
def test_a_damaged_file_of_a_run_or_manifest_is_refused(faults: ModuleType, bench: Any) -> None:
    tally = faults.damaged(bench, 6)
    assert not tally.wrong, tally.wrong
    refused = sum(count for (_, outcome), count in tally.counts.items() if outcome == "exit 4")
    assert refused > 10


@pytest.mark.slow
def test_what_is_looked_for_after_a_fault_would_be_seen(faults: ModuleType, bench: Any) -> None:
    prepare, classify = short(faults)
    root = bench.fresh("trained")
    assert bench.faults_of(prepare, root) is None
    [run] = (root / "runs").iterdir()
    faults._cut(run / "head.safetensors", random.Random(1))
    assert "head.safetensors" in bench.faults_of(prepare, root)
    shutil.rmtree(run)
    (root / "rows.jsonl").write_text("{}\n")
    assert "not whole" in bench.faults_of(classify, root)
    (root / "manifest" / "manifest.csv").unlink()
    assert "manifest.csv" in bench.faults_of(prepare, root)
