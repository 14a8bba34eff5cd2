"""Where artefacts lie, and how they come to lie there whole.

Requirements met here:
- A reader never sees half an artefact: files and folders are written beside their place, flushed to disk, and renamed.
- A folder from a newer leuk, or one that is no workspace, is refused by name and never written into.
- Whatever was finished stays readable after an interruption; leftovers of an interruption are ignored by readers.
- Text keeps file names that are not UTF-8 (surrogateescape); JSON is plain ASCII.
- A run, a manifest or a set of features of which a byte has changed since it was written is refused, and so is one whose
  names lead out of its folder: runs travel between laboratories.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from leukemia_cli.errors import MachineError, UsageError, WorkspaceError

SCHEMA_VERSION = 1
MARK = "workspace.json"
UNFINISHED = ".unfinished-"


@dataclass(frozen=True, slots=True)
class Workspace:
    """A folder that keeps a manifest, runs, features and reports."""

    root: Path

    @property
    def manifest_folder(self) -> Path:
        """Hold manifest.csv and manifest.json."""
        return self.root / "manifest"

    @property
    def runs_folder(self) -> Path:
        """Hold one folder a run."""
        return self.root / "runs"

    @property
    def features_folder(self) -> Path:
        """Hold one folder for each set of extracted features, and the cache."""
        return self.root / "features"

    @property
    def reports_folder(self) -> Path:
        """Hold one folder a report."""
        return self.root / "reports"

    @property
    def comparisons_folder(self) -> Path:
        """Hold one folder for each comparison of backbones and variants, and the cells that they share."""
        return self.root / "comparisons"


def open_workspace(root: Path, *, create: bool) -> Workspace:
    """Give the workspace at `root`; with `create`, make it where there is nothing or an empty folder.

    Raises WorkspaceError where there is none, or one of a newer schema, or a folder that holds something else.
    """
    mark = root / MARK
    if mark.exists():
        stored = read_json(mark, "workspace")
        check_schema(stored, mark, SCHEMA_VERSION)
        return Workspace(root)
    if root.exists() and not root.is_dir():
        raise WorkspaceError(f"workspace {root} is a file, not a folder", "Name another folder with --workspace")
    if not create:
        state = "is not a leuk workspace" if root.exists() else "does not exist"
        raise WorkspaceError(
            f"workspace {root} {state}",
            "Make one with: leuk prepare SOURCE --task binary --workspace DIR, or name another with --workspace",
        )
    if root.exists() and any(root.iterdir()):
        raise WorkspaceError(
            f"folder {root} holds other files and is not a leuk workspace",
            "Name a new or empty folder with --workspace",
        )
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    write_json(mark, {"schema_version": SCHEMA_VERSION})
    return Workspace(root)


@contextlib.contextmanager
def workspace_for(root: Path) -> Iterator[Workspace]:
    """Open or make the workspace at `root`; one made here vanishes again when the block fails before it holds anything."""
    known, there = (root / MARK).exists(), root.exists()
    workspace = open_workspace(root, create=True)
    try:
        yield workspace
    except BaseException:
        with contextlib.suppress(OSError):
            if not known and [path.name for path in root.iterdir()] == [MARK]:
                (root / MARK).unlink()
                if not there:
                    root.rmdir()
        raise


# ------------------------------------------------------------------------------------------------ atomic writing


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk into an error that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MachineError(f"no space left on the disk of {path}", "Free some space and run it again") from error
        if error.errno == errno.EFBIG:
            raise MachineError(
                f"{path} would be larger than a file may be here", "Raise the limit (ulimit -f), or use another disk"
            ) from error
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise MachineError(
                f"too many open files at {path}", "Raise the limit (ulimit -n), or use fewer --workers"
            ) from error
        if error.errno == errno.ENOMEM:
            raise MachineError(f"out of memory at {path}", "Close other programs, or use fewer --workers") from error
        if error.errno in (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ETIMEDOUT):
            raise MachineError(
                f"the disk of {path} fails: {os.strerror(error.errno)}", "Check the disk, or use another one"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise WorkspaceError(
                f"cannot write {path}: {os.strerror(error.errno)}", "Name a folder you may write to"
            ) from error
        if error.errno in (
            errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOENT, errno.ELOOP,
        ):  # fmt: skip
            raise UsageError(
                f"cannot write {path}: {os.strerror(error.errno)}", "Name another place for the output"
            ) from error
        raise


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_replaceable(path: Path) -> None:
    """Raise UsageError where `path` is there and no regular file: a rename would put a file in a device's place."""
    if path.exists() and not path.is_file():
        kind = "folder" if path.is_dir() else "device or pipe"
        raise UsageError(f"cannot write {path}: it is a {kind}, not a file", "Name a file for the output")


def check_writable(folder: Path) -> None:
    """Make the folder where it is not there; raises where it cannot be made or written into, before hours of work."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, replacing what was there; raises UsageError where that is no regular file."""
    with disk_errors(path):
        check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{UNFINISHED}{secrets.token_hex(4)}-{path.name}")
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        _flush_folder(path.parent)


def put_in_place(whole: Path, final: Path) -> None:
    """Give a file that is whole and flushed its own name, in place of what had it, and flush that to disk too."""
    with disk_errors(final):
        whole.replace(final)
        _flush_folder(final.parent)


def write_text(path: Path, text: str) -> None:
    """Write text whole or not at all; bytes of file names that are not UTF-8 come out as they went in."""
    write_bytes(path, text.encode("utf-8", errors="surrogateescape"))


def to_json(value: object) -> str:
    """Give JSON text: indented, ASCII, no NaN, newline at the end."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


SEAL = "seal"
"""Key of an artefact's own checksum."""


def sealed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Give the same facts with a seal, last, that `check_schema` breaks on when any of them has changed since."""
    rest = {key: value for key, value in facts.items() if key != SEAL}
    return {**rest, SEAL: _seal_of(json.loads(to_json(rest)))}


def _seal_of(read: Mapping[str, Any]) -> str:
    """Hash facts as JSON gives them back, but for the seal itself."""
    rest = {key: value for key, value in read.items() if key != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, allow_nan=False).encode()).hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write JSON whole or not at all, facts that have a seal with a new one; raises ValueError for NaN."""
    known = sealed(value) if isinstance(value, Mapping) and SEAL in value else value
    write_bytes(path, to_json(known).encode())


@contextlib.contextmanager
def destination(final: Path | None, out: Callable[[str, str], None]) -> Iterator[Callable[[str], None]]:
    """Give what takes rows as they are known: `final`.partial, which becomes `final` when the block ends well; else `out`.

    After an interruption the partial file stays, with the rows so far. `out` takes a text and its end.
    """
    if final is None:
        yield lambda text: out(text, "")
        return
    partial = final.with_name(f"{final.name}.partial")
    with disk_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        # A line goes out as it is written: whatever ends the process, the rows so far are there.
        with partial.open("w", buffering=1, encoding="utf-8", errors="surrogateescape", newline="") as file:

            def write(text: str) -> None:
                file.write(text)

            yield write
            file.flush()
            os.fsync(file.fileno())
        partial.replace(final)


@contextlib.contextmanager
def fresh_folder(final: Path) -> Iterator[Path]:
    """Give an empty folder that becomes `final`, replacing it, when the block ends well, and vanishes when it does not."""
    with disk_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        beside = final.with_name(f"{UNFINISHED}{secrets.token_hex(4)}-{final.name}")
        beside.mkdir()
        try:
            yield beside
            for file in (*beside.rglob("*"), beside):
                if file.is_dir():
                    _flush_folder(file)
                else:
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
            _put_in_place(beside, final)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise


def _put_in_place(beside: Path, final: Path) -> None:
    """Rename `beside` to `final`; of processes that put the same folder in place at once, the last one wins."""
    replaced: list[Path] = []
    try:
        while True:
            old = final.with_name(f"{UNFINISHED}{secrets.token_hex(4)}-old-{final.name}")
            with contextlib.suppress(FileNotFoundError):
                final.rename(old)
                replaced.append(old)
            try:
                beside.rename(final)
                break
            except OSError as error:  # another process put its own in place since
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
    except BaseException:
        if replaced and not final.exists():
            replaced.pop().rename(final)
        raise
    finally:
        for old in replaced:
            shutil.rmtree(old, ignore_errors=True)
    _flush_folder(final.parent)


def clear_unfinished(folder: Path, name: str = "*") -> None:
    """Remove what a killed process left half written in `folder`, of files called `name`, which nobody else may be writing."""
    for leftover in folder.glob(f"{UNFINISHED}*-{name}"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------- reading


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object; raises WorkspaceError, naming `what` it was to be, where it is missing or damaged."""
    try:
        stored = json.loads(path.read_bytes(), parse_constant=_finite, parse_float=_finite)
    except FileNotFoundError:
        raise WorkspaceError(f"there is no {what} at {path}", "Check the path, or make it again") from None
    except (OSError, ValueError, RecursionError) as error:
        raise WorkspaceError(
            f"{what} {path} cannot be read: {error}", "It is damaged: restore it from a copy, or make it again"
        ) from error
    if not isinstance(stored, dict):
        raise WorkspaceError(f"{what} {path} is not a JSON object", "It is damaged: make it again")
    return stored


def _finite(text: str) -> float:
    """Read a number; raises ValueError for NaN and what is beyond all floats, which no artefact holds."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def check_schema(stored: Mapping[str, Any], path: Path, newest: int) -> None:
    """Raise WorkspaceError for an artefact without a schema version, with one newer than `newest`, or with a broken seal.

    One without a seal is of a leuk that made none.
    """
    version = stored.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise WorkspaceError(f"{path} has no schema version", "It is damaged or no artefact of leuk: make it again")
    if version > newest:
        raise WorkspaceError(
            f"{path} has schema {version}, and this leuk knows up to {newest}",
            "Update leuk: pip install -U leukemia-cli",
        )
    try:
        broken = SEAL in stored and stored[SEAL] != _seal_of(stored)
    except RecursionError:
        broken = True
    if broken:
        raise WorkspaceError(
            f"{path} has changed since leuk wrote it",
            "It was edited or is damaged: restore it from a copy, or make it again",
        )


def now() -> str:
    """Give the time in UTC to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


# ---------------------------------------------------------------------------------------------------------- runs

RUN_FILE = "run.json"
STARTED_FILE = "started.json"
FEATURES_JSON = "features.json"
EXPORT_SUFFIX = ".leuk"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """A run that is finished (`facts` is its run.json) or was started (`facts` is its started.json)."""

    path: Path
    finished: bool
    facts: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Give the run's id: the name of its folder when it was made."""
        return str(self.facts.get("run", self.path.name))

    @property
    def name(self) -> str:
        """Give the name the user gave, or the id."""
        return str(self.facts.get("name") or self.id)


def read_run_folder(path: Path) -> RunFolder:
    """Read what a run says of itself; raises WorkspaceError where it is no run or a damaged one."""
    finished = (path / RUN_FILE).exists()
    file = path / (RUN_FILE if finished else STARTED_FILE)
    facts = read_json(file, "run")
    check_schema(facts, file, SCHEMA_VERSION)
    for key in ("run", "name"):
        # They become names of folders and files: an id such as ../../x would have a report replace a folder anywhere.
        if facts.get(key) is not None and not _is_name(facts[key]):
            raise WorkspaceError(f"{file} is damaged: {key} {str(facts[key])[:80]!r} is no name of a run", _COPY)
    files = facts.get("files", {})
    if not isinstance(files, dict) or not all(_stays_inside(name) for name in files):
        raise WorkspaceError(f"{file} is damaged: it lists files that do not lie in its folder", _COPY)
    return RunFolder(path=path, finished=finished, facts=facts)


_COPY = "Restore it from a copy, or train it again"


def _is_name(name: object) -> bool:
    try:
        check_run_name(str(name))
    except UsageError:
        return False
    return isinstance(name, str)


def _stays_inside(name: str) -> bool:
    """Tell whether a relative path, joined to a folder, stays below it."""
    return bool(name) and "\0" not in name and not Path(name).is_absolute() and ".." not in Path(name).parts


def list_runs(workspace: Workspace) -> tuple[list[RunFolder], list[tuple[Path, str]]]:
    """Give the runs from oldest to newest, and the folders that cannot be read with the reason."""
    runs, damaged = [], []
    if workspace.runs_folder.is_dir():
        for path in sorted(workspace.runs_folder.iterdir()):
            if path.name.startswith(".") or not path.is_dir():
                continue
            try:
                runs.append(read_run_folder(path))
            except WorkspaceError as error:
                damaged.append((path, error.problem))
    runs.sort(key=lambda run: (str(run.facts.get("created", "")), run.id))
    return runs, damaged


def check_run_name(name: str) -> None:
    """Raise UsageError for a name that cannot be a folder's, or that means something else where a run is named."""
    if not name.strip() or name.startswith((".", "-")) or not name.isprintable() or set(name) & set("/\\"):
        raise UsageError(
            f"a run cannot be named {name!r}", "Use letters, digits, dots, - and _, beginning with a letter or digit"
        )
    if name in ("best", "latest", "all"):
        raise UsageError(f"a run cannot be named {name!r}: that word means another run", "Choose another --name")


def new_run_folder(workspace: Workspace, stem: str, facts: Mapping[str, Any]) -> Path:
    """Make `runs/<id>/` with its started.json; the id is `stem` with a number that is free, safe beside other makers.

    Raises UsageError for a stem that cannot be a folder's name.
    """
    check_run_name(stem)
    with disk_errors(workspace.runs_folder):
        workspace.runs_folder.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = workspace.runs_folder / f"{stem}-{number}"
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
                continue
            break
    write_json(path / STARTED_FILE, sealed({**facts, "run": path.name}))
    return path


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


def validation_score(run: RunFolder) -> float | None:
    """Give the validation balanced accuracy that a run says of itself; None where it says none."""
    validation = run.facts.get("validation")
    score = validation.get("balanced_accuracy") if isinstance(validation, Mapping) else None
    return float(score) if isinstance(score, (int, float)) and math.isfinite(score) else None


def _known(runs: Sequence[RunFolder]) -> str:
    if not runs:
        return "There are none yet; make one with: leuk train"
    listed = ", ".join(run.id for run in runs[-8:])
    return f"Known: {listed}{' and older ones' if len(runs) > 8 else ''}. See: leuk runs"


def is_export(path: Path) -> bool:
    """Tell whether a run lies in an exported file rather than in a folder."""
    return path.suffix == EXPORT_SUFFIX and not path.is_dir()


def run_at(wanted: str) -> RunFolder | None:
    """Give the run at a path: a run's folder or its run.json; None where `wanted` can only be an id or a name.

    Raises WorkspaceError where it is a path and there is no run, UsageError where it is an exported file.
    """
    path = Path(wanted)
    if is_export(path) and path.exists():
        raise UsageError(
            f"{wanted} is an exported run: it can classify images, and nothing else",
            "Name the run that it was made from; or use: leuk classify --run FILE.leuk",
        )
    if path.name == RUN_FILE and path.is_file():
        path = path.parent
    if (path / RUN_FILE).is_file() or (path / STARTED_FILE).is_file():
        return read_run_folder(path)
    if os.sep not in wanted:
        return None
    if not path.is_dir():
        raise WorkspaceError(f"there is no run at {wanted}", "Check the path; runs lie in WORKSPACE/runs/")
    raise WorkspaceError(f"folder {wanted} holds no {RUN_FILE}: it is no run", "Runs lie in WORKSPACE/runs/")


def find_run(workspace: Workspace, wanted: str | None, *, manifest: str | None, finished: bool = True) -> RunFolder:
    """Give the run that `wanted` means: an id, a name, a unique prefix, `latest`, `best`, or a path; None means `best`.

    `best` has the highest validation balanced accuracy among finished runs made from the manifest of this fingerprint
    (from any, where None); of equals the newest. `finished` chooses between finished runs and those still to be resumed;
    a path, id or name finds either. Raises WorkspaceError where there is no such run or it is damaged, UsageError where
    several match.
    """
    wanted = wanted or "best"
    at_path = run_at(wanted)
    if at_path is not None:
        return at_path
    every, damaged = list_runs(workspace)
    runs = [run for run in every if run.finished == finished]
    if wanted == "latest":
        if not runs:
            state = "finished run" if finished else "interrupted run to resume"
            raise WorkspaceError(f"no {state} in {workspace.root}", _known(every))
        return runs[-1]
    if wanted == "best":
        return _best(workspace, runs, manifest)
    exact = [run for run in every if run.id == wanted] or [run for run in every if run.name == wanted]
    if exact:
        return exact[-1]
    for path, reason in damaged:
        if path.name == wanted:
            raise WorkspaceError(reason, "It is damaged: restore it from a copy, or train it again")
    matches = [run for run in every if run.id.startswith(wanted) or run.name.startswith(wanted)]
    if not matches:
        raise WorkspaceError(f"no run {wanted!r} in {workspace.root}", _known(every))
    if len(matches) > 1:
        listed = ", ".join(run.id for run in matches)
        raise UsageError(f"{wanted!r} begins several runs: {listed}", "Write more of the id")
    return matches[0]


def _best(workspace: Workspace, runs: Sequence[RunFolder], manifest: str | None) -> RunFolder:
    fitting = [run for run in runs if manifest is None or run.facts.get("manifest") == manifest]
    if not fitting:
        other = f" ({len(runs)} from another manifest)" if runs else ""
        raise WorkspaceError(
            f"no finished run made from the manifest of {workspace.root}{other}",
            "Train one with: leuk train" if not runs else "Name a run, or train one with: leuk train",
        )
    scored = [(score, i) for i, run in enumerate(fitting) if (score := validation_score(run)) is not None]
    return fitting[max(scored)[1]] if scored else fitting[-1]


def check_own(workspace: Workspace, run: RunFolder) -> None:
    """Raise UsageError for a run from elsewhere whose reports would take the place of those of a run of this workspace."""
    own = workspace.runs_folder / run.id
    if own.exists() and own.resolve() != run.path.resolve():
        raise UsageError(
            f"run {run.path} lies outside workspace {workspace.root}, which has another run of that name",
            "Name the run's own workspace with --workspace, or an empty folder",
        )


def reports_of(workspace: Workspace, run: str) -> list[str]:
    """Name the reports of a run; `a-1` does not claim those of another run `a-1-2`."""
    parts = ("test", "val")
    if not workspace.reports_folder.is_dir():
        return []
    return sorted(
        folder.name
        for folder in workspace.reports_folder.iterdir()
        if folder.name.startswith(f"{run}-")
        and ((part := folder.name.removeprefix(f"{run}-")) in parts or part.startswith("external-"))
        and (folder / "report.json").is_file()
    )


# ---------------------------------------------------------------------------------------------------------- looks

LOOKS_FILE = "looks.jsonl"


def looks_at(workspace: Workspace, part: str) -> int:
    """Count how often the images of fingerprint `part` have been looked at."""
    path = workspace.reports_folder / LOOKS_FILE
    known = path.read_text(encoding="ascii", errors="replace").splitlines() if path.exists() else []
    return sum(f'"part": "{part}"' in line for line in known)


def count_look(workspace: Workspace, part: str, *, split: str, run: str) -> int:
    """Write down that the images of fingerprint `part` were looked at, and give how often they have been."""
    path = workspace.reports_folder / LOOKS_FILE
    line = json.dumps({"part": part, "split": split, "run": run, "time": now()})
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="ascii") as file:
            file.write(line + "\n")
    return looks_at(workspace, part)
