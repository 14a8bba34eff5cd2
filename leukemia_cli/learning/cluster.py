"""Rows of many inputs made on a Ray cluster, and given back in the order of the inputs: as if one process had made them.

Requirements met here:
- Workers are given blocks of paths and give back blocks of rows; a worker that dies costs its block, which Ray makes again.
- A worker compares each row with the path that it is for, and the one who asked compares that with the path at its place: none
  is left out, there twice, or another's.
- Nothing is written by the workers: what becomes of the rows is the affair of whoever asked.
- Ray's reports to its makers are off; no page of it is served.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leukemia_cli.domain import Note, unheard
from leukemia_cli.errors import LeukError, MachineError, UsageError
from leukemia_cli.learning.machine import granted_cores, limit_cores
from leukemia_cli.remote import is_remote

if TYPE_CHECKING:
    import pyarrow

Predict = Callable[[Sequence[str]], "pyarrow.Table"]
"""Rows of some paths, in their order; the column `path` is among them."""

ROWS_PER_BLOCK = 256
_EXTRA = "Install the extra: pip install 'leukemia-cli[ray]'"
_GO_ON = "Say the same with --resume: what is done stays"
_PATH, _ASKED = "path", "asked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How work is spread over a cluster.

    `address` is `ray` (this machine's cores, or the cluster of RAY_ADDRESS), `ray://auto` (the cluster that this machine is part
    of) or `ray://HOST:PORT` (of a client server). Each worker takes `cores_each` cores, and a GPU where `gpu` says so.
    """

    address: str
    cores_each: int = 1
    gpu: bool = False

    def __post_init__(self) -> None:
        scheme, _, host = self.address.partition("://")
        if scheme != "ray" or (self.address != "ray" and not host):
            raise UsageError(f"--cluster {self.address} is no cluster", "Say ray, ray://auto or ray://HOST:PORT")


class _Worker:
    """One process of the cluster with the model loaded; Ray makes it, and calls it with a block of paths."""

    def __init__(self, opened: Callable[[], Predict], cores: int) -> None:
        limit_cores(cores)
        self._predict = opened()

    def __call__(self, block: pyarrow.Table) -> pyarrow.Table:
        paths = [os.fsdecode(path) for path in block[_PATH].to_pylist()]
        rows = self._predict(paths)
        if rows[_PATH].to_pylist() != list(map(_as_text, paths)):
            raise ValueError(f"rows of other paths than the {len(paths)} from {paths[0]!r} on")
        return rows.append_column(_ASKED, block[_ASKED])


def _as_text(path: str) -> str:
    """Write a path as a table of texts has it: bytes that are not UTF-8 as `\\xff`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def rows_from_cluster(
    paths: Iterable[str],
    opened: Callable[[], Predict],
    spread: Spread,
    *,
    group: int = 1,
    note: Note = unheard,
) -> Iterator[dict[str, Any]]:
    """Yield the row of each path, in order; blocks hold whole groups of `group` paths. Each row has its path as it was given.

    `opened` is called once in each worker, and must be picklable. Raises MachineError where Ray is not installed, there is no
    cluster, or it fails, and UsageError where no worker would ever get its cores.
    """
    try:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import pyarrow
        import ray
        import ray.data
    except ImportError as error:
        raise MachineError(f"--cluster needs Ray, which is not installed ({error.name})", _EXTRA) from error
    if _is_own(spread) and spread.cores_each > granted_cores():
        raise UsageError(
            f"--workers {spread.cores_each} is the cores of each process of the cluster, and there are {granted_cores()} here",
            "Ask for fewer, or leave it out",
        )
    size = -(-ROWS_PER_BLOCK // group) * group
    given = iter(paths)
    blocks, asked = [], 0
    while some := list(itertools.islice(given, size)):
        asked += len(some)
        full = [path if is_remote(path) else str(Path(path).absolute()) for path in some]  # workers may lie elsewhere
        columns = {_PATH: full, _ASKED: some}
        blocks.append(
            pyarrow.table({k: pyarrow.array(map(os.fsencode, v), pyarrow.binary()) for k, v in columns.items()})
        )
    if not blocks:
        return
    with _connected(spread, note):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cores = sum(int(node.get("CPU", 0)) for node in nodes)
        room = sum(int(node.get("CPU", 0)) // spread.cores_each for node in nodes)
        most = max(1, min(room, len(blocks)))
        note(f"cluster: {len(nodes)} nodes, {cores} cores, up to {most} workers of {spread.cores_each}")
        if room == 0:
            note(f"warning: no node has {spread.cores_each} cores: nothing is done until one joins the cluster")
        made = ray.data.from_arrow(blocks).map_batches(
            _Worker,
            fn_constructor_kwargs={"opened": opened, "cores": spread.cores_each},
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=spread.cores_each,
            num_gpus=1 if spread.gpu else 0,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
        )
        wanted = (path for block in blocks for path in block[_ASKED].to_pylist())
        try:
            for table in made.iter_batches(batch_size=None, batch_format="pyarrow"):
                for row in table.to_pylist():
                    if row[_ASKED] != next(wanted, None):
                        raise MachineError(
                            f"the cluster gave a row of {os.fsdecode(row[_ASKED])} out of its place", _GO_ON
                        )
                    yield _as_asked(row)
        except ray.exceptions.RayError as error:
            raise _failed(error) from error
        missing = sum(1 for _ in wanted)
        if missing:
            raise MachineError(f"the cluster gave {asked - missing:,} rows for {asked:,} inputs", _GO_ON)


def _as_asked(row: dict[str, Any]) -> dict[str, Any]:
    """Put the path as it was given in the place of the one that the worker was told, in what an error says as well."""
    full, path = row[_PATH], os.fsdecode(row.pop(_ASKED))
    said = row["error"]
    return {**row, _PATH: path, "error": said if said is None else said.replace(full, path)}


def _is_own(spread: Spread) -> bool:
    """Tell whether the cluster is one of this machine alone, which is started and ended here."""
    return spread.address == "ray" and "RAY_ADDRESS" not in os.environ


@contextlib.contextmanager
def _connected(spread: Spread, note: Note) -> Iterator[None]:
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    if _is_own(spread):
        options |= {"num_cpus": granted_cores(), "include_dashboard": False}
        note("a cluster of this machine's cores alone is started; --cluster ray://auto joins one that runs")
    elif spread.address in ("ray", "ray://auto"):
        options["address"] = os.environ.get("RAY_ADDRESS", "auto")
    else:
        options["address"] = spread.address
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, about its future defaults
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise MachineError(
                f"no Ray cluster at {options.get('address', 'this machine')}: {_last_line(error)}",
                "Start one with: ray start --head, and name it with --cluster ray://HOST:10001",
            ) from error
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # it would tell its plans on our stderr, with -q too
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        try:
            yield
        finally:
            ray.shutdown()


def _failed(error: Exception) -> LeukError:
    """Give the error that a worker raised where it is one of ours, else one that says what Ray said."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LeukError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    return MachineError(f"the cluster failed: {_last_line(error)}", _GO_ON)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
