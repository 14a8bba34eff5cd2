"""A run is written by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from leukemia_cli.errors import WorkspaceError
from leukemia_cli.workspace.documents import now
from leukemia_cli.workspace.files import disk_errors

LOCK_FILE = "lock.json"


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run for this process alone; raises WorkspaceError where another process holds it.

    What a process of this host left behind when it died holds nothing. Of another host nobody can tell: its name and what
    to delete are in the error.
    """
    path = folder / LOCK_FILE
    pid = os.getpid()
    own = json.dumps({"host": socket.gethostname(), "pid": pid, "began": _began(pid), "since": now()})
    with disk_errors(path):
        with _guarded(path) as handle:
            held = os.pread(handle, 4096, 0).decode(errors="replace")
            if held:  # an empty one is of a process that died before it had written
                _check_gone(held, path)
            os.ftruncate(handle, 0)
            os.pwrite(handle, own.encode(), 0)
            os.fsync(handle)
        try:
            yield
        finally:
            with contextlib.suppress(OSError), _guarded(path) as handle:
                if os.pread(handle, 4096, 0) in (own.encode(), b""):
                    path.unlink(missing_ok=True)


def _check_gone(held: str, path: Path) -> None:
    try:
        holder = json.loads(held)
        host, pid, began, since = str(holder["host"]), int(holder["pid"]), holder["began"], str(holder["since"])
    except (KeyError, TypeError, ValueError, RecursionError):
        raise WorkspaceError(
            f"{path} cannot be read: another process may hold this run", f"If none does, delete {path}"
        ) from None
    if host != socket.gethostname():
        raise WorkspaceError(
            f"run {path.parent.name} is held by process {pid} on {host}, since {since}",
            f"Wait for it or stop it there. If {host} went down, delete {path}",
        )
    if _runs(pid, began):
        raise WorkspaceError(
            f"run {path.parent.name} is held by process {pid} on this machine, since {since}",
            f"Wait for it, or stop it with: kill {pid}",
        )


def _runs(pid: int, began: object) -> bool:
    """Tell whether the process `pid` that began at `began` still runs; a later one may have got its number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return _began(pid) == began


def _began(pid: int) -> str | None:
    """Give when a process began, in ticks since the machine did; "ended" for one that nobody has buried, None where unknown.

    Source: proc_pid_stat(5), fields 3 and 22.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:  # not Linux
        return None
    return "ended" if fields[0] in "ZX" else fields[19]


@contextlib.contextmanager
def _guarded(path: Path) -> Iterator[int]:
    """Open a file that no other process looks into meanwhile, new where there is none; give its handle."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: two at the very same moment may collide
                fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                same = os.path.samestat(os.fstat(handle), path.stat())
            except FileNotFoundError:
                same = False
            if same:  # else its holder removed it just now
                yield handle
                return
        finally:
            os.close(handle)
