"""A run is one process's at a time; what a dead one left behind binds nobody on its own machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from leukemia_cli.errors import WorkspaceError
from leukemia_cli.workspace.locks import LOCK_FILE, run_lock


def hold(folder: Path, **told: object) -> Path:
    facts = {"host": socket.gethostname(), "pid": os.getpid(), "began": None, "since": "2026-01-01", **told}
    (folder / LOCK_FILE).write_text(json.dumps(facts))
    return folder / LOCK_FILE


def test_it_is_held_while_the_block_runs_and_gone_after(tmp_path: Path) -> None:
    for error in (None, KeyError("x")):
        try:
            with run_lock(tmp_path):
                assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
                said = f"held by process {os.getpid()} on this machine"
                with pytest.raises(WorkspaceError, match=said) as caught, run_lock(tmp_path):
                    pytest.fail("held twice")
                assert caught.value.exit_code == 4 and (tmp_path / LOCK_FILE).exists()
                if error:
                    raise error
        except KeyError:
            pass
        assert list(tmp_path.iterdir()) == []


def test_another_process_that_lives_holds_it_and_a_dead_one_does_not(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from leukemia_cli.workspace.locks import run_lock\n"
        "with run_lock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(WorkspaceError, match=f"held by process {other.pid}"), run_lock(tmp_path):
            pytest.fail("held twice")
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet buried
        assert (tmp_path / LOCK_FILE).exists()
        with run_lock(tmp_path):
            assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_a_number_that_another_process_has_got_since_holds_nothing(tmp_path: Path) -> None:
    for told in ({"pid": os.getppid()}, {}):  # without a pid our own: a container begun anew with an equal host name
        before = hold(tmp_path, began="1", **told).read_text()
        with run_lock(tmp_path):
            assert (tmp_path / LOCK_FILE).read_text() != before
        assert list(tmp_path.iterdir()) == []


def test_one_of_another_host_is_never_taken_and_the_error_says_what_to_delete(tmp_path: Path) -> None:
    path = hold(tmp_path, host="node17", pid=2**22 + 1)
    with pytest.raises(WorkspaceError, match=r"on node17, since 2026-01-01") as caught, run_lock(tmp_path):
        pytest.fail("taken")
    assert f"delete {path}" in caught.value.hint and path.exists()
    for damaged in ("{", "[1]", '{"host": 1}', "[" * 3000):
        path.write_text(damaged)
        with pytest.raises(WorkspaceError, match="cannot be read") as caught, run_lock(tmp_path):
            pytest.fail("taken")
        assert str(path) in caught.value.hint
    path.write_text("")
    with run_lock(tmp_path):
        pass


def test_of_many_that_ask_at_once_one_at_a_time_gets_it(tmp_path: Path) -> None:
    hold(tmp_path, began="1")
    inside, most, refused = 0, 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most, refused
        for _ in range(40):
            try:
                with run_lock(tmp_path):
                    with guard:
                        inside += 1
                        most = max(most, inside)
                    time.sleep(0.0005)  # so that another which was let in as well is seen
                    with guard:
                        inside -= 1
            except WorkspaceError:
                with guard:
                    refused += 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and refused < 6 * 40 and not (tmp_path / LOCK_FILE).exists()
