"""Real faults against every command: killed, out of disk, read-only, stopped, side by side, and artefacts that were damaged.

    python benchmarks/faults.py [--kills N] [--seed S] [--fork] [--work DIR] [--parts kill,disk,limit,readonly,sigterm,…]

Commands run as processes of their own on drawn pictures with a tiny network (with --fork as copies of one that has loaded its
libraries, which spares most of the time). After each fault: the workspace opens, whatever
counts as finished loads with its checksums, and the same command (or --resume, where there is one) ends with the result of
one that was never disturbed. Filling a disk and read-only folders need root and a mount of memory; without, they are skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the clone beside this script, whatever is installed

NETWORK = "--backbone timm:test_resnet --weights none --input-size 64 --device cpu --workers 1"
LONGEST_S = 60.0
"""In which time a command must have ended after SIGTERM."""
TIMES = frozenset(
    {
        "seconds",
        "created",
        "finished",
        "started",
        "time",
        "command",
        "folder",
        "path",
        "versions",
        "seal",
        "run",
        "name",
    }
)
"""Keys that differ between two runs of one command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command under test: its words, the workspace it begins from, and what its result is read from."""

    name: str
    words: str
    start: str
    """Which stage of the good workspace it begins from."""
    result: Callable[[Path], Any]
    resumes: bool = False


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts of one part, and what went wrong."""

    title: str
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, command: str, outcome: str) -> None:
        """Count one case."""
        self.counts[command, outcome] += 1
        print(f"{self.title}: {command}: {outcome}", file=sys.stderr, flush=True)

    def fail(self, command: str, why: str) -> None:
        """Count a failure and keep what it was."""
        self.counts[command, "FAILED"] += 1
        self.wrong.append(f"{command}: {why}")
        print(f"FAILED {self.title} {command}: {why}", file=sys.stderr, flush=True)

    def show(self) -> None:
        """Print a Markdown table."""
        outcomes = sorted({outcome for _, outcome in self.counts}, key=lambda o: (o == "FAILED", o))
        commands = dict.fromkeys(command for command, _ in self.counts)
        print(f"\n## {self.title}\n\n| | cases | {' | '.join(outcomes)} |\n| --- |{' --- |' * (1 + len(outcomes))}")
        for command in commands:
            cells = [self.counts[command, outcome] for outcome in outcomes]
            print(f"| {command} | {sum(cells)} | {' | '.join(map(str, cells))} |")
        for line in self.wrong:
            print(f"\nFAILED: {line[:1500]}")
        sys.stdout.flush()


# --------------------------------------------------------------------------------------------------------- results


def scrubbed(value: Any) -> Any:
    """Leave out what differs between two runs of one command."""
    if isinstance(value, dict):
        return {key: scrubbed(inner) for key, inner in value.items() if key not in TIMES}
    return [scrubbed(inner) for inner in value] if isinstance(value, list) else value


def _newest(folder: Path, pattern: str) -> Path:
    found = [path for path in folder.glob(pattern) if not path.parent.name.startswith(".")]
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def of_manifest(root: Path) -> Any:
    """Give the manifest's fingerprint and its table."""
    facts = json.loads((root / "manifest" / "manifest.json").read_bytes())
    return facts["fingerprint"], facts["tables"]


def of_run(root: Path) -> Any:
    """Give the checksums of the newest run's files and its scores."""
    facts = json.loads(_newest(root, "runs/*/run.json").read_bytes())
    return facts["files"], facts["validation"], scrubbed(facts["choices"])


def of_features(root: Path) -> Any:
    """Give the checksum of the newest set of features."""
    file = _newest(root, "features/*/features.json")
    return hashlib.sha256(file.with_name("features.safetensors").read_bytes()).hexdigest()


def of_comparison(root: Path) -> Any:
    """Give the newest comparison without its times."""
    stored = scrubbed(json.loads(_newest(root, "comparisons/*/compare.json").read_bytes()))
    for key in ("looks", "timing", "costs", "cost"):
        stored.pop(key, None)
    return stored.get("rows"), stored.get("pairs")


def of_rows(root: Path) -> Any:
    """Give the rows that classify wrote."""
    return (root / "rows.jsonl").read_bytes()


COMMANDS = (
    Command(name="prepare", words="prepare {pictures} --task binary --folds 2 --near-copies warn --workers 1", start="empty",
            result=of_manifest),
    Command(name="train --tune head", words=f"train {NETWORK} --variant base --views 2 --epochs 20", start="prepared",
            result=of_run, resumes=True),
    Command(name="train --tune all", start="prepared", result=of_run, resumes=True,
            words=f"train {NETWORK} --variant base --tune all --epochs 2 --patience 99 --batch-size 4 --checkpoint-every 0"),
    Command(name="extract-features", words=f"extract-features {NETWORK}", start="prepared", result=of_features),
    Command(name="fit-svm", words=f"fit-svm {NETWORK} --kernel linear --views 2", start="prepared", result=of_run),
    Command(name="compare", start="prepared", result=of_comparison,
            words=f"compare --backbones timm:test_resnet --variants base,svm --repeats 1 --resamples 20 --epochs 10 --views 2 "
            f"{NETWORK.partition(' ')[2].partition(' ')[2]}"),
    Command(name="classify", start="trained", result=of_rows,
            words="classify {pictures} {pictures} {pictures} --format jsonl --output {root}/rows.jsonl --device cpu "
            "--workers 1 --batch-size 2"),
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------- processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a process ended."""

    code: int
    told: str
    seconds: float


class Forked:
    """A command in a copy of this process, which has its libraries already: seconds less than a process from its start."""

    def __init__(self, words: list[str], before: Callable[[], None] | None) -> None:
        pipes = [os.pipe() for _ in range(2)]
        self._read = [read for read, _ in pipes]
        write = [write for _, write in pipes]
        self._process = multiprocessing.get_context("fork").Process(target=_in_copy, args=(words, *write, before))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nothing runs in this process beside this thread
            self._process.start()
        for end in write:
            os.close(end)

    @property
    def returncode(self) -> int | None:
        """Give the exit code, that of a signal negative; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the end; raises TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("leuk", timeout or 0.0)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end and give stdout and stderr, which must fit into a pipe."""
        self.wait(timeout)
        texts = []
        for end in self._read:
            with os.fdopen(end, errors="replace") as said:
                texts.append(said.read())
        return texts[0], texts[1]


def _in_copy(words: list[str], out: int, err: int, before: Callable[[], None] | None) -> None:
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout, sys.stderr = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(2), "w")
    from leukemia_cli.cli.app import run

    if before is not None:
        before()
    code = run(words)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


class Bench:
    """The pictures, the good workspaces, and how long each command takes when nothing disturbs it."""

    def __init__(self, work: Path, seed: int, *, fork: bool = False) -> None:
        self.work, self.dice, self.fork = work, random.Random(seed), fork
        self.pictures = work / "pictures"
        self.seconds: dict[str, float] = {}
        self.expected: dict[str, Any] = {}
        self._number = 0

    def words(self, command: Command, root: Path) -> list[str]:
        """Give the words of a command in a workspace."""
        return [*command.words.format(pictures=self.pictures, root=root).split(), "-w", str(root), "--quiet"]

    def start(self, words: list[str], before: Callable[[], None] | None = None) -> subprocess.Popen[str] | Forked:
        """Start leuk with these words; `before` is called in its process first."""
        if self.fork:
            return Forked(words, before)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
                       "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "leukemia_cli", *words],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=before,  # noqa: PLW1509 - no thread is running when commands are started
        )

    def whole(self, words: list[str], before: Callable[[], None] | None = None) -> Ended:
        """Run leuk to its end."""
        begun = time.monotonic()
        process = self.start(words, before)
        _, told = process.communicate(timeout=600)
        return Ended(code=process.returncode, told=told, seconds=time.monotonic() - begun)

    def again(self, words: list[str]) -> Ended:
        """Run leuk where its libraries are loaded: in this process, or in a copy, for a copy of one that has trained hangs."""
        if self.fork:
            begun = time.monotonic()
            process = Forked(words, None)
            out, err = process.communicate(600)
            return Ended(code=process.returncode or 0, told=err + out[-2000:], seconds=time.monotonic() - begun)
        from leukemia_cli.cli.app import run

        said, told = io.StringIO(), io.StringIO()
        begun = time.monotonic()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
            code = run(words)
        return Ended(code=code, told=told.getvalue() + said.getvalue()[-2000:], seconds=time.monotonic() - begun)

    def fresh(self, stage: str, into: Path | None = None) -> Path:
        """Copy the workspace of a stage to a place of its own."""
        self._number += 1
        place = (into or self.work / "tries") / f"ws-{self._number}"
        place.parent.mkdir(parents=True, exist_ok=True)
        source = self.work / "good" / stage
        if source.exists():
            shutil.copytree(source, place)
        return place

    def make(self, commands: tuple[Command, ...] = COMMANDS) -> None:
        """Draw the pictures, make the good workspaces, and run each command once for its time and its result."""
        import numpy as np
        from PIL import Image

        for name in ("prepare", "train", "extract_features", "fit_svm", "compare", "classify"):
            importlib.import_module(f"leukemia_cli.steps.{name}")  # copies of this process are to have them
        for library in ("timm", "sklearn.svm", "skimage.measure"):
            importlib.import_module(library)
        for label, name in enumerate(("ALL", "HTL")):
            for number in range(8):
                rng = np.random.default_rng([label, number])
                y, x = np.mgrid[:64, :64] / 64 - 0.5
                disc = x**2 + y**2 < (0.15 + 0.12 * label) ** 2
                ground = rng.uniform(170, 230, 3)
                pixels = np.where(disc[..., None], ground * 0.4, ground) + rng.normal(0, 6, (64, 64, 3))
                file = self.pictures / name / f"p{number // 2}" / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
        good = self.work / "good"
        by_name = {command.name: command for command in COMMANDS}
        for stage, name, before in (("prepared", "prepare", "empty"), ("trained", "train --tune head", "prepared")):
            shutil.rmtree(good / stage, ignore_errors=True)
            place = self.fresh(before)
            done = self.again(self.words(by_name[name], place))
            if done.code:
                raise SystemExit(f"{name}: exit code {done.code}\n{done.told}")
            good.mkdir(exist_ok=True)
            place.rename(good / stage)
        for command in commands:
            root = self.fresh(command.start)
            done = self.whole(self.words(command, root))
            if done.code:
                raise SystemExit(f"{command.name}: exit code {done.code}\n{done.told}")
            self.seconds[command.name], self.expected[command.name] = done.seconds, command.result(root)
            repeated = self.fresh(command.start)
            self.again(self.words(command, repeated))
            if command.result(repeated) != self.expected[command.name]:
                raise SystemExit(f"{command.name} gives two results for one input")
            print(f"{command.name}: {done.seconds:.1f} s", file=sys.stderr, flush=True)
            for place in (root, repeated):
                shutil.rmtree(place)

    # ------------------------------------------------------------------------------------------------- checks

    def faults_of(self, command: Command, root: Path) -> str | None:
        """Say what is wrong with a workspace after a fault, before anything mends it; None where nothing is."""
        from leukemia_cli.data.manifest import read_manifest
        from leukemia_cli.errors import LeukError
        from leukemia_cli.learning.machine import choose_machine
        from leukemia_cli.workspace.folders import Workspace
        from leukemia_cli.workspace.runs import list_runs

        if not (root / "workspace.json").exists():
            return None if command.start == "empty" else "the workspace is gone"
        listed = self.again(["runs", "-w", str(root), "--json"])
        if listed.code:
            return f"leuk runs: exit code {listed.code}: {listed.told}"
        workspace = Workspace(root)
        runs, damaged = list_runs(workspace)
        # A folder whose first file was not yet written is damaged, and is said to be; a finished one never is.
        if any((path / "run.json").exists() for path, _ in damaged):
            return f"damaged: {damaged}"
        try:
            if command.start != "empty" or workspace.manifest_folder.exists():
                read_manifest(workspace)
            for run in runs:
                if run.finished and self.fork:  # a copy of a process that has loaded a network hangs
                    for name, digest in run.facts["files"].items():
                        if hashlib.sha256((run.path / name).read_bytes()).hexdigest() != digest:
                            return f"{run.path / name} is not the file that the run was saved with"
                elif run.finished:
                    _loaded(run, choose_machine("cpu", 1))
        except LeukError as error:
            return f"{error.problem}"
        for facts in root.glob("features/*/features.json"):
            if not facts.with_name("features.safetensors").exists():
                return f"{facts} without its features"
        return self._rows_wrong(command, root)

    def _rows_wrong(self, command: Command, root: Path) -> str | None:
        """Hold the rows that were written so far against those of the undisturbed run."""
        if command.name != "classify":
            return None
        final, partial = root / "rows.jsonl", root / "rows.jsonl.partial"
        expected: bytes = self.expected[command.name]
        if final.exists() and final.read_bytes() != expected:
            return "the finished output is not whole"
        if partial.exists():
            content = partial.read_bytes()
            if not expected.startswith(content[: content.rfind(b"\n") + 1]):
                return "the partial output holds other rows"
        return None

    def mended(self, command: Command, root: Path) -> str | None:
        """Go on after a fault as the hints say; say what is wrong with the result, None where nothing is."""
        from leukemia_cli.workspace.folders import Workspace
        from leukemia_cli.workspace.runs import list_runs

        words = self.words(command, root)
        waiting = [run for run in list_runs(Workspace(root))[0] if not run.finished] if command.resumes else []
        if waiting:
            words = [
                "train",
                "--resume",
                waiting[-1].id,
                "-w",
                str(root),
                "--quiet",
                "--device",
                "cpu",
                "--workers",
                "1",
            ]
        done = self.again(words)
        if done.code:
            return f"{' '.join(words)}: exit code {done.code}: {done.told}"
        if command.result(root) != self.expected[command.name]:
            return "another result than that of a command never disturbed"
        return None


def _loaded(run: Any, machine: Any) -> Any:
    """Load a run, wherever the function lies that does it."""
    try:
        from leukemia_cli.learning.loading import load_classifier
    except ImportError:
        from leukemia_cli.learning.classifier import load_classifier
    return load_classifier(run, machine)


# ----------------------------------------------------------------------------------------------------------- parts


def killed(bench: Bench, kills: int, commands: tuple[Command, ...] = COMMANDS) -> Tally:
    """Kill each command with SIGKILL at moments spread over the time it takes."""
    tally = Tally(title="kill -9 at random moments")
    for number in range(kills):
        command = commands[number % len(commands)]
        rounds = -(-kills // len(commands))
        moment = bench.seconds[command.name] * (number // len(commands) + bench.dice.random()) / rounds
        root = bench.fresh(command.start)
        process = bench.start(bench.words(command, root))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        process.kill()
        process.communicate()
        struck = "killed" if process.returncode == -signal.SIGKILL else "done before"
        wrong = bench.faults_of(command, root) or bench.mended(command, root)
        if wrong:
            tally.fail(command.name, f"after {moment:.2f} s: {wrong}")
        else:
            tally.add(command.name, f"{struck}, then the same result")
            shutil.rmtree(root)
    return tally


def stopped(bench: Bench, each: int, commands: tuple[Command, ...] = COMMANDS) -> Tally:
    """Send SIGTERM at random moments: exit code 143, soon, and nothing half written."""
    tally = Tally(title="SIGTERM")
    longest = 0.0
    for command in commands:
        for number in range(each):
            moment = bench.seconds[command.name] * (number + bench.dice.random()) / each
            root = bench.fresh(command.start)
            process = bench.start(bench.words(command, root))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment)
            process.terminate()
            begun = time.monotonic()
            try:
                _, told = process.communicate(timeout=LONGEST_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                tally.fail(command.name, f"alive {LONGEST_S:.0f} s after SIGTERM at {moment:.2f} s")
                continue
            longest = max(longest, time.monotonic() - begun)
            wrong = bench.faults_of(command, root) or bench.mended(command, root)
            if "Traceback" in told or "Exception ignored" in told:
                wrong = wrong or f"a traceback: {told[-600:]}"
            if process.returncode not in (143, -signal.SIGTERM, 0):
                wrong = f"exit code {process.returncode} at {moment:.2f} s: {told[-600:]}"
            if wrong:
                tally.fail(command.name, f"{moment:.2f} s: {wrong}")
                continue
            how = {143: "143", 0: "done before"}.get(process.returncode, "ended by the signal before Python was up")
            tally.add(command.name, f"{how}, then the same result")
            shutil.rmtree(root)
    tally.title += f" (the longest end took {longest:.1f} s)"
    return tally


@contextlib.contextmanager
def mounted(place: Path, *words: str) -> Iterator[bool]:
    """Mount something at a folder while the block runs; False where this user may not."""
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *words, str(place)], capture_output=True, check=False)
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", str(place)], check=False)


def _size(root: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in root.rglob("*")) if root.exists() else 0


def disk_full(bench: Bench) -> Tally:
    """Run each command on a disk that has room for nothing, for half and for nearly all of what it writes."""
    tally = Tally(title="disk full")
    for command in COMMANDS:
        alone = bench.fresh(command.start)
        before = _size(alone)
        bench.again(bench.words(command, alone))
        growth = _size(alone) - before
        shutil.rmtree(alone)
        for share in (0.0, 0.5, 0.9):
            with mounted(bench.work / "small", "-t", "tmpfs", "-o", "size=512m", "none") as there:
                if not there:
                    tally.add(command.name, "skipped: no mount for this user")
                    break
                root = bench.fresh(command.start, bench.work / "small")
                used = shutil.disk_usage(bench.work / "small").used
                room = max(4096, used + int(growth * share)) // 4096 * 4096
                _remount(bench.work / "small", f"size={room}")
                done = bench.whole(bench.words(command, root))
                if done.code == 0:
                    tally.add(command.name, "had room enough")
                    continue
                wrong = None
                if done.code != 5 or "Traceback" in done.told or "no space left" not in done.told:
                    wrong = f"exit code {done.code}: {done.told[-800:]}"
                wrong = wrong or bench.faults_of(command, root)
                _remount(bench.work / "small", "size=512m")
                wrong = wrong or bench.mended(command, root)
                if wrong:
                    tally.fail(command.name, f"room for {share:.0%}: {wrong}")
                else:
                    tally.add(command.name, "exit 5, then the same result")
    return tally


def _remount(place: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(place)], check=True)


def file_limit(bench: Bench, commands: tuple[Command, ...] = COMMANDS, limits: tuple[int, ...] = (64, 2_000)) -> Tally:
    """Run each command under a limit on the size of a file (ulimit -f), which is no full disk but like one."""
    tally = Tally(title="limit on the size of a file")
    for command in commands:
        for limit in limits:

            def limited(limit: int = limit) -> None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

            root = bench.fresh(command.start)
            done = bench.whole(bench.words(command, root), limited)
            if done.code == 0:
                tally.add(command.name, "wrote no file so large")
                shutil.rmtree(root)
                continue
            wrong = None
            if done.code != 5 or "Traceback" in done.told or "ulimit -f" not in done.told:
                wrong = f"exit code {done.code}: {done.told[-800:]}"
            wrong = wrong or bench.faults_of(command, root) or bench.mended(command, root)
            if wrong:
                tally.fail(command.name, f"{limit} bytes: {wrong}")
            else:
                tally.add(command.name, "exit 5, then the same result")
                shutil.rmtree(root)
    return tally


def read_only(bench: Bench) -> Tally:
    """Run each command in a workspace that cannot be written: exit code 4 where it has to write, else as ever."""
    tally = Tally(title="read-only workspace")
    for command in COMMANDS:
        root = bench.fresh(command.start)
        root.mkdir(exist_ok=True)
        with mounted(root, "--bind", str(root)) as there:
            if not there:
                tally.add(command.name, "skipped: no mount for this user")
                continue
            subprocess.run(["mount", "-o", "remount,ro,bind", str(root)], check=True)
            done = bench.whole(bench.words(command, root))
            if done.code != 4 or "Traceback" in done.told or "cannot write" not in done.told:
                tally.fail(command.name, f"exit code {done.code}: {done.told[-800:]}")
            else:
                tally.add(command.name, "exit 4")
            if command.name == "classify":
                words = [
                    "classify",
                    str(bench.pictures),
                    "--format",
                    "jsonl",
                    "-w",
                    str(root),
                    "--quiet",
                    "--device",
                    "cpu",
                ]
                done = bench.whole(words)
                if done.code:
                    tally.fail("classify to stdout", f"exit code {done.code}: {done.told[-800:]}")
                else:
                    tally.add("classify to stdout", "works")
        shutil.rmtree(root)
    return tally


def side_by_side(bench: Bench, processes: int = 6) -> Tally:
    """Train in one workspace by several processes at once, half of them under one name."""
    from leukemia_cli.learning.machine import choose_machine
    from leukemia_cli.workspace.folders import Workspace
    from leukemia_cli.workspace.runs import list_runs

    tally = Tally(title=f"{processes} array tasks training in one workspace")
    root = bench.fresh("prepared")
    [command] = [c for c in COMMANDS if c.name == "train --tune head"]
    started = []
    for number in range(processes):
        name = "same" if number % 2 else f"own-{number}"
        started.append(bench.start([*bench.words(command, root), "--name", name]))
    ends = [(process.communicate()[1], process.returncode) for process in started]
    for told, code in ends:
        if code:
            tally.fail("train", f"exit code {code}: {told[-600:]}")
    runs, damaged = list_runs(Workspace(root))
    if damaged or len(runs) != processes or not all(run.finished for run in runs):
        tally.fail("train", f"{len(runs)} runs, damaged: {damaged}")
    for run in runs:
        if not bench.fork:
            _loaded(run, choose_machine("cpu", 1))
        facts = json.loads((run.path / "run.json").read_bytes())
        if (facts["files"], facts["validation"]) != bench.expected[command.name][:2]:
            tally.fail("train", f"run {run.id} has another result")
        else:
            tally.add("train", "finished, same result")
    return tally


def damaged(bench: Bench, flips: int) -> Tally:
    """Damage artefacts of a trained workspace; each must be refused by exit code 4, or change nothing."""
    tally = Tally(title="damaged artefacts")
    [image] = list((bench.pictures / "ALL" / "p0").glob("0.png"))
    start = bench.fresh("trained")
    [run] = (start / "runs").iterdir()
    other = bench.fresh("prepared")
    # Another network of the same shape, trained otherwise: its files fit in all but their content.
    words = f"train {NETWORK} --variant base --views 1 --epochs 3 --seed 7 --quiet --name {run.name}"
    done = bench.again([*words.split(), "-w", str(other)])
    if done.code:
        raise SystemExit(done.told)
    [other_run] = (other / "runs").iterdir()

    def used(root: Path) -> Ended:
        folder = next(path for path in (root / "runs").iterdir() if path.is_dir())
        return bench.again(
            ["classify", str(image), "--run", str(folder), "--format", "jsonl", "--device", "cpu", "--quiet"]
        )

    def trained(root: Path) -> Ended:
        return bench.again(["extract-features", *NETWORK.split(), "-w", str(root), "--quiet", "--json"])

    good = used(start)
    if good.code:
        raise SystemExit(good.told)

    def look(kind: str, change: Callable[[Path], None], read: Callable[[Path], Ended] = used) -> None:
        root = bench.fresh("trained")
        change(root)
        done = read(root)
        if done.code == 4 and "Traceback" not in done.told:
            tally.add(kind, "exit 4")
        elif done.code == 0 and (read is not used or done.told == good.told):
            tally.add(kind, "same result")
        else:
            tally.fail(kind, f"exit code {done.code}: {done.told[-800:]}")
        shutil.rmtree(root)

    names = sorted(path.relative_to(start).as_posix() for path in run.rglob("*") if path.is_file())
    for number in range(flips):
        name = names[number % len(names)]
        look(f"a bit flipped in {Path(name).name}", lambda root, name=name: _flip(root / name, bench.dice))
        look(f"{Path(name).name} cut off", lambda root, name=name: _cut(root / name, bench.dice))
    for name in ("manifest/manifest.csv", "manifest/manifest.json"):
        for _ in range(max(1, flips // 4)):
            look(f"a bit flipped in {Path(name).name}", lambda root, name=name: _flip(root / name, bench.dice), _same_or(
                trained, start, name))  # fmt: skip
    for name in ("run.json", "model.safetensors", "head.safetensors", "doubt.safetensors"):
        if (other_run / name).exists():
            look(f"{name} of another run", lambda root, name=name: shutil.copy(
                other_run / name, root / "runs" / run.name / name))  # fmt: skip
    look("newer schema", lambda root: _edit(root / "runs" / run.name / "run.json", schema_version=99))
    look("another class order", lambda root: _edit(root / "runs" / run.name / "run.json", task_definition=_turned))
    look("another class order in the manifest",
         lambda root: _edit(root / "manifest" / "manifest.json", task=_turned), trained)  # fmt: skip
    for place in (start, other):
        shutil.rmtree(place)
    return tally


def _same_or(read: Callable[[Path], Ended], start: Path, name: str) -> Callable[[Path], Ended]:
    """Read a workspace; a change that JSON does not see is no change."""

    def reading(root: Path) -> Ended:
        done = read(root)
        if done.code == 0:
            same = json.loads((root / name).read_bytes()) == json.loads((start / name).read_bytes())
            return done if same else Ended(code=-1, told="altered, and taken for good", seconds=0.0)
        return done

    return reading


def _flip(file: Path, dice: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    file.write_bytes(data)


def _cut(file: Path, dice: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: dice.randrange(len(content))])


def _turned(task: dict[str, Any]) -> dict[str, Any]:
    return {**task, "classes": task["classes"][::-1]}


def _edit(file: Path, **changes: Any) -> None:
    stored = json.loads(file.read_bytes())
    for key, value in changes.items():
        stored[key] = value(stored[key]) if callable(value) else value
    file.write_text(json.dumps(stored))


# ------------------------------------------------------------------------------------------------------------ main


PARTS: dict[str, Callable[[Bench, int], Tally]] = {
    "kill": killed,
    "disk": lambda bench, _: disk_full(bench),
    "limit": lambda bench, _: file_limit(bench),
    "readonly": lambda bench, _: read_only(bench),
    "sigterm": lambda bench, kills: stopped(bench, max(1, kills // 8)),
    "array": lambda bench, _: side_by_side(bench),
    "damage": damaged,
}


def main() -> int:
    """Run the parts and print a table for each; exit code 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=None, help="default: a new temporary folder")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument(
        "--fork", action="store_true", help="copy a process that has its libraries, rather than start one"
    )
    chosen = parser.parse_args()
    work = (chosen.work or Path(tempfile.mkdtemp(prefix="leuk-faults-"))).absolute()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    bench = Bench(work, chosen.seed, fork=chosen.fork)
    bench.make()
    failed = 0
    for part in chosen.parts.split(","):
        tally = PARTS[part](bench, chosen.kills)
        tally.show()
        failed += len(tally.wrong)
    print(f"\nseed {chosen.seed}: {failed} failed" + (f" (kept in {work})" if failed else ""))
    if not failed and chosen.work is None:
        shutil.rmtree(work)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
