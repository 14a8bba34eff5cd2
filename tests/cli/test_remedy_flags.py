"""The flags that change images reach the step as one value, and what cannot be is refused before anything heavy loads."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Leuk

from leukemia_cli.domain import Remedies
from leukemia_cli.errors import UsageError
from leukemia_cli.learning.recipes import TrainSettings
from leukemia_cli.steps import compare, extract_features, fit_svm, train

FLAGS = ("--mask-marks", "--stain-norm", "reinhard", "--resolution", "20", "--tiles", "5")
MEANT = Remedies(mask_marks=True, stain_norm="reinhard", red_cell_px=20.0, tiles=5)


class Stopped(UsageError):
    """Ends a step once its settings are seen."""


@pytest.mark.parametrize(
    ("command", "module", "name"),
    [
        (("train",), train, "train"),
        (("fit-svm", "--backbone", "efficientnet-lite0"), fit_svm, "fit_svm"),
        (("extract-features", "--backbone", "efficientnet-lite0"), extract_features, "extract_features"),
        (("compare",), compare, "compare"),
    ],
)
def test_flags_reach_the_step(
    command: tuple[str, ...], module: object, name: str, leuk: Leuk, folded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    def step(*values: object, **named: object) -> None:
        del named
        seen.extend(values)
        raise Stopped("seen", "enough")

    monkeypatch.setattr(module, name, step)
    jitter = () if name == "extract_features" else ("--stain-jitter", "0.25")
    assert leuk(*command, *FLAGS, *jitter, "-w", folded).error_lines[0] == "error: seen"
    settings = seen[-1]
    told = settings.training if name == "compare" else settings
    assert told.remedies == MEANT
    if jitter:
        assert told.stain_jitter == 0.25
    assert TrainSettings().remedies == Remedies()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("train", "--tiles", "3"), "--tiles 3 is none of 1, 4 and 5"),
        (("train", "--resolution", "0"), "--resolution 0 is not within 1 to 1000 px"),
        (("compare", "--resolution", "nan"), "--resolution nan is not within 1 to 1000 px"),
        (("fit-svm", "--run", "x", "--tiles", "4"), "--tiles without --backbone"),
        (("extract-features", "--mask-marks"), "--mask-marks without --backbone"),
    ],
)
def test_what_cannot_be_is_refused(flags: tuple[str, ...], told: str, leuk: Leuk) -> None:
    done = leuk(*flags)
    assert done.code == 2 and told in done.error_lines[0]
