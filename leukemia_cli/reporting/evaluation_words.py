"""What is said of an evaluation alike in report.md and on its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LEVEL_METRICS = ("balanced_accuracy", "auroc", "accuracy", "macro_f1")
"""What is shown of each level; report.json has all."""


def level_words(level: float) -> str:
    """Say the level of intervals: '95 %'."""
    return f"{100 * level:g} %"


def calibration_words(calibration: Mapping[str, Any]) -> str:
    """Say how scores became probabilities."""
    if calibration.get("fitted_on") is None:
        return "Scores are not calibrated"
    shown = ", ".join(f"{value:.3g}" for value in dict.fromkeys(calibration.get("temperatures") or ()))
    return f"Temperature {shown}, fitted on {calibration['fitted_on']}"


def cell_words(cells: Mapping[str, Any], images: int) -> list[str]:
    """Say how photographs were read: the rule, what it was chosen on, and what became of photographs with few cells."""
    rules = ", or ".join(cells["rules"])
    chosen = f"chosen on {cells['chosen_on']}" if cells["chosen_on"] else "taken as it is: too few groups to choose by"
    lines = [
        f"Photographs are judged by the white cells that were found in them, labelled or not: {cells['found']} in {images} "
        f"photographs, in the median one {cells['median']:g}. What is taken of them is {rules} ({chosen}).",
        f"{cells['few_cells']} of {images} photographs have fewer than {cells['least_cells']} cells and get no answer when "
        "classified; in the figures they count all the same.",
    ]
    if cells["steady"] is not None:
        lines.append(
            f"With only {cells['steady_cells']} cells of each photograph kept, drawn at random, {100 * cells['steady']:.0f} % "
            "of the decisions stay as they are: the decision hardly hangs on the number of cells where this is near 100 %."
        )
    return lines + [f"No figures for level {name}: {why}." for name, why in cells["missing"].items()]
