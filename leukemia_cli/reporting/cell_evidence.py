"""How photographs were read by their cells: figures of cells and of patients, and what the number of cells alone would say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from leukemia_cli.csv_rows import csv_line
from leukemia_cli.domain import counted
from leukemia_cli.judging.aggregation import RULES, steady_share
from leukemia_cli.judging.intervals import group_bootstrap
from leukemia_cli.judging.predictions import Predictions
from leukemia_cli.learning.classifier import Member, together
from leukemia_cli.learning.parts import ScoredPart
from leukemia_cli.learning.reading import pooled, read_bag
from leukemia_cli.learning.scoring import FieldSeen
from leukemia_cli.reporting.evaluation import CellEvidence, Level

CONTROL = "count only"
"""The level at which photographs are judged by the number of their cells."""
STEADY_CELLS = 5


def gather_cell_evidence(judged: ScoredPart, *, resamples: int, seed: int) -> CellEvidence:
    """Judge cells and patients too, and the control, of a part of which photographs were seen by their cells."""
    fields = judged.part.fields or ()
    levels, missing = [], {}
    for name, (told, says) in {
        CONTROL: _by_count(judged),
        "cell": _by_cell(judged, fields),
        "patient": _by_patient(judged, fields),
    }.items():
        if told is None:
            missing[name] = says
        else:
            levels.append(Level(name=name, says=says, metrics=group_bootstrap(told, resamples=resamples, seed=seed)))
    counts = [each.counted.cells for each in judged.found]
    readings = [member.reading for member in _members(fields) if member.reading is not None]
    return CellEvidence(
        found=sum(counts),
        median=float(np.median(counts)),
        least_cells=max(reading.least_cells for reading in readings),
        few_cells=sum(each.few_cells for each in judged.found),
        rules=tuple(dict.fromkeys(RULES[reading.aggregation.rule][0] for reading in readings)),
        chosen_on=together([reading.aggregation.chosen_on for reading in readings]),
        steady=_steady(fields, seed),
        steady_cells=STEADY_CELLS,
        levels=tuple(levels),
        missing=missing,
    )


def beside_control(cells: CellEvidence, metric: str, value: float | None) -> list[str]:
    """Warn where the number of cells alone does as well as the run, whose `metric` is `value`."""
    control = next((level for level in cells.levels if level.name == CONTROL), None)
    beside = None if control is None else control.metrics[metric].value
    if value is None or beside is None or value > beside:
        return []
    return [
        f"the number of cells alone reaches a balanced accuracy of {beside:.3f}, this run {value:.3f}: that it has learnt more "
        "than to count is not shown"
    ]


def _by_count(judged: ScoredPart) -> tuple[Predictions | None, str]:
    by_count = [each.by_count for each in judged.found]
    if any(told is None for told in by_count):
        return None, "some images show one cell each, or there were too few photographs to fit it to"
    return judged.part.predictions(judged.classifier.task, np.array(by_count)), (
        "the control: photographs judged by the logarithm of their number of cells alone, fitted on training photographs"
    )


def _by_cell(judged: ScoredPart, fields: Sequence[FieldSeen]) -> tuple[Predictions | None, str]:
    cells = [(each, i) for each in fields for i, cell in enumerate(each.cells) if cell.label]
    if not cells:
        return None, "no cell of these photographs is labelled"
    chosen = replace(judged.part, judged=tuple((each.cells[i], each.judges) for each, i in cells))
    told = chosen.predictions(judged.classifier.task, np.array([each.seen.cells[i] for each, i in cells]))
    return told, f"{len(cells)} labelled cells of these photographs, each by itself"


def _by_patient(judged: ScoredPart, fields: Sequence[FieldSeen]) -> tuple[Predictions | None, str]:
    """Give the findings of patients, all cells of their photographs in one bag, and what they are; or None and why not."""
    part = judged.part
    if part.groups_source not in ("given", "filename"):
        return None, "which photographs are of one patient is not known"
    of_group: dict[str, list[FieldSeen]] = {}
    for each in fields:
        of_group.setdefault(each.field.group, []).append(each)
    whole = [mine for mine in of_group.values() if len({each.field.label for each in mine}) == 1]
    if len(whole) == len(part.judged):
        return None, "every group has one photograph"
    if not whole:
        return None, "every group holds photographs of several classes"
    chosen = replace(part, judged=tuple((mine[0].field, mine[0].judges) for mine in whole))
    told = [read_bag(mine[0].judges, pooled([each.seen for each in mine])).probabilities for mine in whole]
    mixed = len(of_group) - len(whole)
    says = f"{counted(len(whole), 'group')} of photographs, the cells of each in one bag, read by the same rule"
    if mixed:
        says += f"; {counted(mixed, 'group')} with photographs of several classes left out"
    return chosen.predictions(judged.classifier.task, np.array(told)), says


def _members(fields: Sequence[FieldSeen]) -> list[Member]:
    """Give each judge once; they hold arrays and have no hash."""
    return list({id(member): member for each in fields for member in each.judges}.values())


def _steady(fields: Sequence[FieldSeen], seed: int) -> float | None:
    """Give the share of decisions that stay with few cells of each photograph, each member judging its own photographs."""
    total = kept = 0.0
    for member in _members(fields):
        if member.reading is None:
            continue
        bags = [each.seen.by_member[0] for each in fields if each.judges[0] is member and len(each.seen.by_member[0])]
        if bags:
            total += len(bags)
            kept += len(bags) * steady_share(member.reading.aggregation, bags, most=STEADY_CELLS, seed=seed)
    return kept / total if total else None


def cells_csv(classes: Sequence[str], fields: Sequence[FieldSeen]) -> str:
    """Give every cell with its scores; `label` is empty for a cell of which nobody said the class."""
    lines = [csv_line(["path", "cell", "x", "y", "label", *(f"score_{name}" for name in classes), "novelty"])]
    for each in fields:
        for i, scores in enumerate(each.seen.cells):
            x, y, label = (each.cells[i].x, each.cells[i].y, each.cells[i].label) if each.cells else (None, None, None)
            novelty = None if each.seen.novelty is None else float(each.seen.novelty[i])
            lines.append(csv_line([each.field.path, i + 1, x, y, label, *scores.tolist(), novelty]))
    return "".join(lines)
