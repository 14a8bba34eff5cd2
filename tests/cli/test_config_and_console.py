"""Flags from files and the environment, help, completion, and how a command speaks: what goes where, and how loudly."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Leuk, Trained

from leukemia_cli import __version__
from leukemia_cli.cli import console as consoles
from leukemia_cli.cli.app import app
from leukemia_cli.cli.console import Console, printable
from leukemia_cli.errors import UsageError
from leukemia_cli.steps import train as train_step

COMMANDS = [c.name or c.callback.__name__ for c in app.registered_commands if c.callback]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, prepared: Path) -> Callable[[], Any]:
    """Have `leuk train` stop where its step begins; give the settings that it was called with."""
    seen: list[Any] = []

    def stop(workspace: object, manifest: object, given: object, **more: object) -> None:
        seen.append(given)
        raise UsageError("stopped here", "by the test")

    monkeypatch.setattr(train_step, "train", stop)
    monkeypatch.setenv("LEUK_WORKSPACE", str(prepared))
    return seen.pop


# -------------------------------------------------------------------------------------------------- config files


def test_a_config_file_stands_for_flags_and_a_flag_wins(leuk: Leuk, settings: Callable[[], Any]) -> None:
    Path("c.yaml").write_text(
        "backbone: resnext\nvariant: hidden\nepochs: 7\nlr: 1e-3\nfeature-sizes: [256, 512-128]\n"
        "input_size: 64\naugment: false\nno-class-weights: true\nname: 2026-01-31\nseed: 5\nweights: none\n"
    )
    assert leuk("train", "--config", "c.yaml", "--epochs", "9", "--backbone", "senet").code == 2
    found = settings()
    assert (found.backbone, found.epochs) == ("senet", 9)
    assert (found.variant, found.lr, found.input_size_px, found.seed) == ("hidden", 0.001, 64, 5)
    assert found.feature_sizes == ((256,), (512, 128))
    assert (found.augment, found.class_weights) == (False, False)
    assert (found.name, found.weights) == ("2026-01-31", "none")
    assert leuk("train", "--config", "c.yaml", "--augment", "--class-weights").code == 2
    found = settings()
    assert (found.augment, found.class_weights) == (True, True)


def test_a_negated_flag_in_a_config_file_means_no(leuk: Leuk, settings: Callable[[], Any]) -> None:
    Path("c.yaml").write_text("no-augment: true\n")
    leuk("train", "--config", "c.yaml")
    assert settings().augment is False
    Path("c.yaml").write_text("no-augment: false\n")
    leuk("train", "--config", "c.yaml")
    assert settings().augment is True
    Path("c.yaml").write_text("")
    leuk("train", "--config", "c.yaml")
    assert settings().augment is True


@pytest.mark.parametrize(
    ("text", "code", "problem", "hint"),
    [
        ("bakbone: senet", 2, "sets 'bakbone', which is no flag", "Did you mean 'backbone'?"),
        ("batch_sise: 3", 2, "sets 'batch_sise'", "Did you mean 'batch-size'?"),
        ("config: d.yaml", 2, "sets 'config'", "Known: "),
        ("epochs: many", 2, "--epochs", "leuk train --help"),
        ("epochs: 2.5", 2, "--epochs", "leuk train --help"),
        ("epochs: true", 2, "sets 'epochs' to true", "quotes"),
        ("weights: no", 2, "sets 'weights' to false (no, off)", "quotes"),
        ("weights:", 2, "sets 'weights' to nothing", "Write a value"),
        ("epochs: {a: 1}", 2, "a mapping", "Write a value"),
        ("augment: 1", 2, "sets 'augment' to 1", "true or false"),
        ("backbone: senett", 2, "unknown backbone 'senett'", "'senet'"),
        ("- backbone", 2, "is not a list of `flag: value` lines", "backbone: senet"),
        ("a: [", 2, "is not YAML", "flag: value"),
        ("!!python/object/apply:os.system [echo]", 2, "is not YAML", "flag: value"),
    ],
)
def test_a_config_file_that_cannot_be_meant(text: str, code: int, problem: str, hint: str, leuk: Leuk) -> None:
    Path("c.yaml").write_text(text)
    done = leuk("train", "--config", "c.yaml")
    assert (done.code, done.out) == (code, "")
    assert problem in done.error_lines[0]
    assert hint in done.error_lines[1]


def test_a_config_file_that_is_not_there_is_3(leuk: Leuk) -> None:
    done = leuk("runs", "--config", "gone.yaml")
    assert (done.code, done.error_lines[0]) == (3, "error: cannot read config gone.yaml: No such file or directory")


def test_a_config_file_for_another_command(leuk: Leuk, trained: Trained) -> None:
    Path("c.yaml").write_text(f"workspace: {trained.root}\njson: true\n")
    assert set(leuk("runs", "--config", "c.yaml").json()) == {"runs", "damaged"}
    Path("c.yaml").write_text("epochs: 3\n")
    assert leuk("runs", "--config", "c.yaml").code == 2


def test_settings_of_a_resumed_run_cannot_come_from_a_file_either(leuk: Leuk) -> None:
    Path("c.yaml").write_text("kernel: linear\ninput-size: 64\nno-augment: true\n")
    done = leuk("train", "--resume", "x", "--config", "c.yaml")
    assert done.code == 2
    for flag in ("--kernel", "--input-size", "--augment"):
        assert flag in done.error_lines[0]


# --------------------------------------------------------------------------------------------- where the workspace is


def test_workspace_by_flag_environment_and_default(
    leuk: Leuk, trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "workspace leuk-workspace does not exist" in leuk("runs").err
    monkeypatch.setenv("LEUK_WORKSPACE", "from-environment")
    assert "workspace from-environment does not exist" in leuk("runs").err
    assert "workspace from-flag does not exist" in leuk("runs", "-w", "from-flag").err
    monkeypatch.setenv("LEUK_WORKSPACE", str(trained.root))
    assert trained.run in leuk("runs").out
    monkeypatch.setenv("LEUK_WORKSPACE", "")
    (tmp_path / "leuk-workspace").symlink_to(trained.root)
    assert trained.run in leuk("runs").out


# --------------------------------------------------------------------------------------------------------- help


def test_leuk_alone_shows_help(leuk: Leuk) -> None:
    done = leuk()
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Usage: leuk ")
    assert all(command in done.err for command in COMMANDS)
    assert "error:" not in done.err


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_holds_an_example_and_the_shared_flags(command: str, leuk: Leuk) -> None:
    done = leuk(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert f"Example: leuk {command}" in " ".join(done.out.split())
    for flag in (
        "--workspace",
        "-w",
        "--device",
        "--seed",
        "--workers",
        "--json",
        "--quiet",
        "--verbose",
        "--debug",
        "--config",
    ):
        assert flag in done.out, flag
    assert "\x1b" not in done.out


def test_help_lists_what_the_tables_hold(leuk: Leuk) -> None:
    from leukemia_cli.catalog import BACKBONES, VARIANTS

    shown = " ".join(leuk("train", "--help").out.split())
    assert f"{', '.join(BACKBONES)}, or timm:NAME" in shown
    assert [v.name for v in VARIANTS.values() if f"{v.name}: {v.title}" not in shown] == []


def test_version(leuk: Leuk) -> None:
    done = leuk("--version")
    assert (done.code, done.out, done.err) == (0, f"leuk {__version__}\n", "")


def test_completion(process: Callable[..., subprocess.Popen[bytes]]) -> None:
    def complete(words: str, count: int) -> list[str]:
        asked = {"_LEUK_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}
        out, err = process(env=asked).communicate(timeout=60)
        assert err == b""
        return out.decode().split()

    assert complete("leuk tr", 1) == ["train"]
    assert "--variant" in complete("leuk train --var", 2)
    assert complete("leuk train --tune ", 3) == ["head", "last-stage", "all"]
    out, _ = process(env={"_LEUK_COMPLETE": "source_bash"}).communicate(timeout=60)
    assert b"complete -o default -F _leuk_completion leuk" in out


# ---------------------------------------------------------------------------------------------------- how it speaks


def test_quiet_leaves_warnings_alone_on_stderr(leuk: Leuk, prepared: Path, trained: Trained) -> None:
    done = leuk("prepare", trained.pictures, "--task", "binary", "-w", prepared, "-q", "--json")
    assert (done.code, done.err) == (0, "")
    loud = leuk("prepare", trained.pictures, "--task", "binary", "-w", prepared)
    assert "next: leuk train" in loud.err
    assert f"--workspace {prepared}" in loud.err
    assert "next:" not in loud.out
    listed = leuk("runs", "-w", trained.root, "-q")
    assert listed.err == ""


def test_a_hint_can_be_pasted(leuk: Leuk, trained: Trained) -> None:
    done = leuk("prepare", trained.pictures, "--task", "binary", "-w", "my work space")
    assert done.code == 0
    assert "--workspace 'my work space'" in done.err


def test_what_is_printed_without_a_terminal_has_no_control_codes(
    leuk: Leuk, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consoles, "PLAIN_EVERY_S", 0.0)
    done = leuk("classify", trained.image, trained.image, "-w", trained.root, "--batch-size", "1")
    assert "\x1b" not in done.out + done.err
    assert "\r" not in done.out + done.err
    assert "classified: 1" in done.err.splitlines()


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_warnings_are_plain_where_colour_is_not_wanted(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    for wanted in (True, False):
        if not wanted:
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "stderr", Terminal())
        Console().note("warning: look")
        Console().note("plain \x1b[2J")
        said = sys.stderr.getvalue()
        assert said.endswith("plain \\x1b[2J\n")
        assert ("\x1b[33m" in said) is wanted


def test_printable_escapes_what_commands_a_terminal_and_nothing_else() -> None:
    assert printable("für Elise – µm\nnext") == "für Elise – µm\nnext"
    assert printable("a\x1b[31m\r\tb\x9b\x7f") == r"a\x1b[31m\r\tb\x9b\x7f"
    assert printable("\udcff") == "\udcff"


def test_a_locale_without_our_signs_is_no_bug(
    process: Callable[..., subprocess.Popen[bytes]], trained: Trained
) -> None:
    out, err = process("runs", "-w", trained.root, env={"PYTHONIOENCODING": "ascii"}).communicate(timeout=60)
    assert (out.isascii(), err) == (True, b"")
    assert b"\\u2013" in out  # the dash of a run without reports


def test_run_gives_back_what_it_changed(leuk: Leuk) -> None:
    import signal
    import warnings

    before = (
        list(warnings.filters),
        signal.getsignal(signal.SIGTERM),
        signal.getsignal(signal.SIGINT),
        dict(os.environ),
    )
    leuk("runs")
    assert (
        list(warnings.filters),
        signal.getsignal(signal.SIGTERM),
        signal.getsignal(signal.SIGINT),
        dict(os.environ),
    ) == before
