"""Files that lie elsewhere: s3://, http:// and https:// through fsspec, an extra. Nothing else is ever fetched.

Requirements met here:
- A name is remote by its scheme alone; every other name means a file of this machine, as it always did.
- A file that cannot be fetched is one bad input: the library's many exceptions become one, with a plain reason.
- Keys and passwords come from where the libraries look for them (AWS_* variables, profiles); none is written or printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from leukemia_cli.errors import DataError, MachineError

SCHEMES = ("s3://", "http://", "https://")
_TIMEOUT_S = 60
_SECRET = re.compile(r"(?<=://)[^/@]*@|\?.*$", re.DOTALL)


class Unreachable(DataError):
    """A remote file or folder that cannot be had; `reason` is why, without its name."""

    def __init__(self, name: str, reason: str, hint: str) -> None:
        super().__init__(f"cannot read {shown(name)}: {reason}", hint)
        self.reason = reason


def is_remote(name: str) -> bool:
    """Say whether a name is one of a file elsewhere."""
    return name.startswith(SCHEMES)


def shown(name: str) -> str:
    """Give the name without password and without what follows a question mark, where signatures are."""
    return _SECRET.sub("", name)


def read_remote(name: str, most_bytes: int) -> bytes:
    """Fetch a file whole; raises Unreachable, also for a larger one, or MachineError where the extra is not installed."""
    try:
        content: bytes = _system(name.partition("://")[0]).cat_file(name, end=most_bytes + 1)
    except MachineError:
        raise
    except Exception as error:  # fsspec's backends raise their own libraries' exceptions
        raise _unreachable(name, error) from error
    if len(content) > most_bytes:
        raise Unreachable(name, f"it has more than {most_bytes:,} bytes", "Copy it here, and look at the copy")
    return content


def list_remote(folder: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the files below an s3:// folder whose names end in a suffix (in lower case), in sorted order.

    Raises Unreachable where it cannot be listed.
    """
    try:
        found = sorted(_system("s3").find(folder))
    except MachineError:
        raise
    except Exception as error:
        raise _unreachable(folder, error) from error
    for name in found:
        if name.lower().endswith(suffixes) and not name.rpartition("/")[2].startswith("."):
            yield f"s3://{name}"


@lru_cache(maxsize=len(SCHEMES))
def _system(scheme: str) -> Any:
    try:
        import fsspec

        if scheme == "s3":
            return fsspec.filesystem("s3", config_kwargs={"read_timeout": _TIMEOUT_S, "connect_timeout": _TIMEOUT_S})
        import aiohttp

        options = {"timeout": aiohttp.ClientTimeout(total=_TIMEOUT_S)}
        return fsspec.filesystem(scheme, client_kwargs=options)
    except ImportError as error:
        raise MachineError(
            f"{scheme}:// files need a library that is not installed ({error.name})",
            "Install the extra: pip install 'leukemia-cli[remote]'",
        ) from error


def _unreachable(name: str, error: Exception) -> Unreachable:
    if isinstance(error, FileNotFoundError):
        return Unreachable(name, "there is no such file", "Check the address")
    if isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403):
        return Unreachable(name, "it is not allowed", "Check the keys (AWS_* variables, or a profile)")
    if isinstance(error, TimeoutError):
        return Unreachable(name, f"no answer within {_TIMEOUT_S} s", "Check the network, and try again")
    said = shown(str(error)).strip().splitlines()
    return Unreachable(
        name, f"{type(error).__name__}{f': {said[0]}' if said else ''}", "Check the address and the network"
    )
