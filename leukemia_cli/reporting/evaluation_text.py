"""One evaluation as report.md, made from report.json, and its predictions.csv; no figure stands without its counts.

The Markdown is made from the JSON, so that a stored report can be shown again and both always say the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leukemia_cli.csv_rows import csv_line
from leukemia_cli.judging.predictions import Predictions
from leukemia_cli.reporting import markdown
from leukemia_cli.reporting.caveats import RESEARCH_USE
from leukemia_cli.reporting.evaluation import Figure, Report
from leukemia_cli.reporting.evaluation_words import LEVEL_METRICS, calibration_words, cell_words, level_words
from leukemia_cli.reporting.wording import NO_VALUE, Notes, group_count, metric_title

# ---------------------------------------------------------------------------------- report.md


def as_markdown(report: Report) -> str:
    """Give report.md: warnings on top, then tables in which every row of figures has its images and groups."""
    level = level_words(report["bootstrap"]["level"])
    notes = Notes()
    blocks = [
        f"# Report of {markdown.text(report['run'])}",
        f"**{RESEARCH_USE}**",
        markdown.warnings_block([markdown.text(warning) for warning in report["warnings"]]),
        _about(report),
        *_drop_lines(report),
        "## Figures",
        markdown.table(
            ("Metric", "Value", f"{level} interval", "Images", "Groups", "How"),
            [
                (markdown.text(metric_title(name)), *_figure_cells(report, figure, notes))
                for name, figure in report["metrics"].items()
            ],
        ),
        markdown.numbered(map(markdown.text, notes.listed)),
        *_level_lines(report),
        "## Classes",
        _class_table(report),
        "## Confusion matrix",
        f"Counts of {_counts_of(report)}; true class in rows, predicted class in columns.",
        _confusion_table(report),
        "## Calibration and abstention",
        _calibration_line(report),
        *_abstention_lines(report),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _class_table(report: Report) -> str:
    return markdown.table(
        ("Class", "Precision", "Recall", "F1", "AUROC", "Images", "Groups"),
        [
            (
                markdown.text(name) + (" (positive)" if name == report["positive"] else ""),
                *(_number(figure) for figure in (row["precision"], row["recall"], row["f1"], row["auroc"])),
                str(row["support"]),
                group_count(report["groups_per_class"][name], known=_groups_known(report)),
            )
            for name, row in report["per_class"].items()
        ],
    )


def _confusion_table(report: Report) -> str:
    classes, matrix = report["confusion"]["classes"], report["confusion"]["matrix"]
    groups = {name: group_count(report["groups_per_class"][name], known=_groups_known(report)) for name in classes}
    return markdown.table(
        ("True \\ predicted", *map(markdown.text, classes), "Images", "Groups"),
        [
            (markdown.text(name), *map(str, row), str(sum(row)), groups[name])
            for name, row in zip(classes, matrix, strict=True)
        ],
    )


def _level_lines(report: Report) -> list[str]:
    cells = report["cells"]
    if cells is None:
        return []
    notes = Notes()
    rows = [
        (markdown.text(name), metric_title(metric), *_figure_cells(report, level["metrics"][metric], notes))
        for name, level in cells["levels"].items()
        for metric in LEVEL_METRICS
    ]
    return [
        "## Cells, photographs, patients",
        *map(markdown.text, cell_words(cells, report["images"])),
        markdown.table(("Level", "Metric", "Value", "Interval", "Judged", "Groups", "How"), rows),
        markdown.numbered(map(markdown.text, notes.listed)),
        *(f"{markdown.text(name)}: {markdown.text(level['says'])}." for name, level in cells["levels"].items()),
    ]


def _counts_of(report: Report) -> str:
    """Say '260 images of 31 groups', or that groups are unknown."""
    images = f"{report['images']} {'image' if report['images'] == 1 else 'images'}"
    if not _groups_known(report):
        return f"{images}, groups unknown"
    return f"{images} of {report['groups']} {'group' if report['groups'] == 1 else 'groups'}"


def _about(report: Report) -> str:
    task = markdown.text(report["task"])
    classes = ", ".join(map(markdown.text, report["confusion"]["classes"]))
    where = (
        f"external data {markdown.text(report['external'])}"
        if report["external"]
        else f"split {markdown.text(report['split'])}"
    )
    if report["folds"]:
        where += f", out-of-fold predictions of {report['folds']} folds pooled"
    lines = [
        f"- Task: {task}, {report['subset']}: {classes}" if report["subset"] else f"- Task: {task}: {classes}",
        f"- Images: {_counts_of(report)} (groups: {report['groups_source']}), {where}",
        f"- Model: {markdown.text(report['backbone'])}, variant {markdown.text(report['variant'])}, "
        f"weights {markdown.text(report['weights'])}, trained: {markdown.text(report['tune'])}",
    ]
    if report["split"] == "test" and not report["external"]:
        times = "once" if report["test_looks"] == 1 else f"{report['test_looks']} times"
        lines.append(f"- The test split has been looked at {times}")
    origin = [
        f"{title} {markdown.text(str(value))}"
        for title, value in (
            ("leuk", report["leuk_version"]),
            ("seed", report["seed"]),
            ("manifest", report["manifest"]),
            ("created", report["created"]),
        )
        if value is not None
    ]
    lines += [f"- Made with: {', '.join(origin)}"] if origin else []
    lines += [f"- {markdown.text(key)}: {markdown.text(str(value))}" for key, value in report["facts"].items()]
    return "\n".join(lines)


def _figure_cells(report: Report, figure: Figure, notes: Notes) -> tuple[str, ...]:
    """Give the cells of one figure; its method becomes a numbered note, shared by figures of the same method."""
    interval = NO_VALUE if figure["low"] is None else f"{_number(figure['low'])} to {_number(figure['high'])}"
    groups = group_count(figure["groups"], known=_groups_known(report))
    return _number(figure["value"]), interval, str(figure["n"]), groups, f"({notes.mark(figure['method'])})"


def _calibration_line(report: Report) -> str:
    calibration = report["calibration"]
    figures = ", ".join(
        f"{title} {_number(value)}"
        for title, value in (
            ("expected calibration error", calibration["ece"]),
            ("Brier score", calibration["brier"]),
            ("log loss", calibration["log_loss"]),
        )
    )
    return f"{markdown.text(calibration_words(calibration))}. On these {_counts_of(report)}: {figures}."


def _drop_lines(report: Report) -> list[str]:
    drop = report["drop"]
    if drop is None:
        return []
    title = metric_title(drop["metric"])
    over = ""
    if set(drop["classes"]) != set(report["confusion"]["classes"]):
        over = f" over {', '.join(map(markdown.text, drop['classes']))}, the classes that both have,"
    known = drop["internal_groups_source"] != "none"
    return [
        f"**{title}{over} here {_said(report, drop['external'])}; on the run's own test images "
        f"{_said(report, drop['internal'], groups_known=known)}. "
        f"Difference {_said(report, drop['difference'], sign=True)}.**"
    ]


def _said(report: Report, figure: Mapping[str, Any], *, sign: bool = False, groups_known: bool | None = None) -> str:
    """Say a figure with its interval and counts in running text."""
    known = _groups_known(report) if groups_known is None else groups_known
    form = "+.3f" if sign else ".3f"
    value = NO_VALUE if figure["value"] is None else f"{figure['value']:{form}}"
    if figure["low"] is None:
        ends = f" (no interval: {markdown.text(figure['method'].removeprefix('no interval: '))})"
    else:
        level = level_words(report["bootstrap"]["level"])
        ends = f" ({level} interval {figure['low']:{form}} to {figure['high']:{form}})"
    counted_in = "" if sign else f", {figure['n']} images, {figure['groups'] if known else 'unknown'} groups"
    return f"{value}{ends}{counted_in}"


def _abstention_lines(report: Report) -> list[str]:
    a, sets = report["abstention"], report["label_sets"]
    lines = ["The figures above count every image: no abstention."]
    if a["measured"] and a["coverage"] is not None and a["accuracy_answered"] is not None:
        lines.append(
            f"With abstention {a['answered']} images are answered, {a['novel']} are novel and {a['uncertain']} uncertain"
            + (f", {a['few_cells']} have too few cells: " if a["few_cells"] else ": ")
            + f"share answered {_said(report, a['coverage'])}; accuracy of the answers "
            f"{_said(report, a['accuracy_answered'])}. Thresholds: fitted on {markdown.text(a['fitted_on'] or '')}."
        )
        lines += [f"Note: {markdown.text(note)}." for note in a["notes"]]
    else:
        lines.append(f"Abstention: {markdown.text(a['reason'] or 'not measured')}.")
    if a["accuracy_at_80"] is not None:
        lines.append(f"Accuracy of the most confident 80 %: {_said(report, a['accuracy_at_80'])}.")
    if sets["measured"] and sets["coverage"] is not None and sets["alpha"] is not None:
        lines.append(
            f"Label sets at an error rate of {100 * sets['alpha']:g} %: coverage {_said(report, sets['coverage'])}, "
            f"mean size {_number(sets['mean_size'])}. {markdown.text(sets['says'] or '')}"
        )
    else:
        lines.append(f"Label sets: {markdown.text(sets['reason'] or 'not measured')}.")
    return ["\n\n".join(lines)]


def _groups_known(report: Report) -> bool:
    return report["groups_source"] != "none"


def _number(value: float | None) -> str:
    """Give three decimals, with the minus of ASCII, or a dash where there is no value."""
    return NO_VALUE if value is None else f"{value:.3f}"


# ---------------------------------------------------------------------------------- predictions.csv


def predictions_csv(paths: Sequence[str], predictions: Predictions, folds: Sequence[int | None] | None = None) -> bytes:
    """Give predictions.csv: one row an image, in order; scores read back to the same number.

    Columns: path, group, fold, label, predicted, correct (1 or 0), score_<class>…; `group` is empty where groups are
    unknown, `fold` where there is none. Names that were not UTF-8 come out as the bytes they were.
    Raises ValueError where paths or folds are not as many as predictions.
    """
    n = predictions.image_count
    folds = [None] * n if folds is None else folds
    if len(paths) != n or len(folds) != n:
        raise ValueError(f"{len(paths)} paths and {len(folds)} folds for {n} predictions")
    groups = predictions.groups if predictions.groups_known else ("",) * n
    classes, labels, called = predictions.classes, predictions.labels.tolist(), predictions.predicted.tolist()
    lines: list[list[str | float | int | None]] = [
        ["path", "group", "fold", "label", "predicted", "correct", *(f"score_{name}" for name in classes)]
    ]
    for i, scores in enumerate(predictions.probabilities.tolist()):
        fold = "" if folds[i] is None else folds[i]
        right = int(labels[i] == called[i])
        lines.append([paths[i], groups[i], fold, classes[labels[i]], classes[called[i]], right, *scores])
    return "".join(map(csv_line, lines)).encode("utf-8", errors="surrogateescape")
