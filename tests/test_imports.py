"""The package's public names: each resolves, lies where its table says, and is the step behind a command."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import leukemia_cli


@pytest.mark.parametrize("name", leukemia_cli.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(leukemia_cli, name) is not None
    assert name in dir(leukemia_cli)


def test_names_are_what_their_modules_hold() -> None:
    homes = leukemia_cli._HOMES
    assert set(homes) == set(leukemia_cli.__all__) - {"__version__", "errors"}
    for name, home in homes.items():
        module = importlib.import_module(f"leukemia_cli.{home}")
        assert getattr(leukemia_cli, name) is getattr(module, name)
        assert (
            getattr(module, name).__module__ == f"leukemia_cli.{home}"
        )  # where it is made, not where it passes through
    assert leukemia_cli.errors.LeukError is leukemia_cli.LeukError


def test_the_table_and_the_typed_imports_agree() -> None:
    """What mypy believes and what runs are two lists in one file: they must not part."""
    text = Path(leukemia_cli.__file__).read_text(encoding="utf-8")
    typed = text.split("if TYPE_CHECKING:")[1].split("\nelse:")[0]
    words = set(typed.replace("(", " ").replace(")", " ").replace(",", " ").split())
    for name, home in leukemia_cli._HOMES.items():
        assert f"leukemia_cli.{home} import" in typed
        assert name in words


def test_a_name_that_is_none_raises_attribute_error() -> None:
    misspelt = "clasify"
    with pytest.raises(AttributeError, match="no attribute 'clasify'"):
        getattr(leukemia_cli, misspelt)
    assert not hasattr(leukemia_cli, "torch")


def test_star_import_and_submodules_work_beside_lazy_names() -> None:
    code = "from leukemia_cli import *; import leukemia_cli.steps.train as t; assert t.train is train; print(errors.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "leukemia_cli.errors", done.stderr
