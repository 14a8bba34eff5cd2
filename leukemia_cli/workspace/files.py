"""Files and folders that are written whole or not at all.

Requirements met here:
- A reader never sees half an artefact: files and folders are written beside their place, flushed to disk, and renamed.
- Whatever was finished stays readable after an interruption; leftovers of an interruption are ignored by readers.
- Text keeps file names that are not UTF-8 (surrogateescape).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from leukemia_cli.errors import MachineError, UsageError, WorkspaceError

UNFINISHED = ".unfinished-"


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


# ---------------------------------------------------------------------------------------------------------- files


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


def write_text(path: Path, text: str) -> None:
    """Write text whole or not at all; bytes of file names that are not UTF-8 come out as they went in."""
    write_bytes(path, text.encode("utf-8", errors="surrogateescape"))


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


def put_in_place(whole: Path, final: Path) -> None:
    """Give a file that is whole and flushed its own name, in place of what had it, and flush that to disk too."""
    with disk_errors(final):
        whole.replace(final)
        _flush_folder(final.parent)


# -------------------------------------------------------------------------------------------------------- folders


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


def numbered_folder(parent: Path, stem: str) -> Path:
    """Make the folder `stem` with the first number that is free, safe beside other makers."""
    number = 1
    with disk_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            folder = parent / f"{stem}-{number}"
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
            else:
                return folder


def clear_unfinished(folder: Path, name: str = "*") -> None:
    """Remove what a killed process left half written in `folder`, of files called `name`, which nobody else may be writing."""
    for leftover in folder.glob(f"{UNFINISHED}*-{name}"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
