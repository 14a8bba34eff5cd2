"""The sections of an evaluation's page that say how its model was chosen and trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leukemia_cli.reporting.evaluation_source import ABSENT, Source
from leukemia_cli.reporting.figures import Candidate, Series, candidates_chart, line_chart
from leukemia_cli.reporting.html import (
    Column,
    Markup,
    datum,
    details,
    escaped,
    heads,
    joined,
    panels,
    paragraph,
    table,
)
from leukemia_cli.reporting.pictures import SHAPES
from leukemia_cli.reporting.scales import Axis
from leukemia_cli.reporting.wording import NO_VALUE, counts, number

_MOST_TICKS, _MOST_MARKED = 6, 40
"""More values are not all labelled; more epochs have no mark each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Knob:
    """One thing that candidates differ in: what it is called, its value in a choice, and whether it spans magnitudes."""

    title: str
    short: str
    value: Callable[[Mapping[str, Any]], float | None]
    log: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """One candidate in one fit: what it was, how it scored, and whether it was kept."""

    choice: Mapping[str, Any]
    fold: int | None
    balanced_accuracy: float
    log_loss: float
    epochs: float | None
    kept: bool


def candidates(source: Source) -> Markup:
    """Give what was kept, and the score of everything that was tried."""
    choices = source.report.get("choices")
    if not choices:
        return ABSENT
    trials = [trial for choice in choices for trial in _trials(choice)]
    if len(trials) > len(choices):
        rule = (
            "The candidate with the highest balanced accuracy on the validation images is kept; of equals, the one "
            "with the lowest log loss. These scores chose the model and are optimistic; they are no estimate."
        )
    else:
        rule = "There was nothing to choose from."
    parts = [paragraph(escaped(f"Kept: {'; '.join(map(_choice_words, choices))}. {rule}"))]
    drawn = [
        chart
        for knob in _knobs(source.model.get("feature_width"))
        if (chart := _candidate_chart(source, knob, trials)) is not None
    ]
    if drawn:
        folds = " Each fold chose for itself: a mark for each fold and candidate." if len(choices) > 1 else ""
        caption = (
            f"Validation score of every candidate; those that were kept are filled and ringed.{folds} Training images:"
        )
        parts.append(source.figure(panels(drawn), caption, of=counts(*source.trained_on)))
    if trials:
        parts.append(details(f"All {len(trials)} trials as a table", _trial_table(source, trials)))
    return joined(parts)


def _trials(choice: Mapping[str, Any]) -> list[_Trial]:
    """Give what one fit tried; kept is the highest balanced accuracy, then the lowest log loss, then the first."""
    trials = choice.get("trials") or ()
    best = max(range(len(trials)), key=lambda i: (trials[i]["balanced_accuracy"], -trials[i]["log_loss"]), default=None)
    return [
        _Trial(
            choice=trial["choice"],
            fold=choice.get("fold"),
            balanced_accuracy=trial["balanced_accuracy"],
            log_loss=trial["log_loss"],
            epochs=trial.get("epochs"),
            kept=i == best,
        )
        for i, trial in enumerate(trials)
    ]


def _choice_words(choice: Mapping[str, Any]) -> str:
    """Say what one member kept, after how many epochs, and on which images it was scored."""
    fold, epoch, on = choice.get("fold"), choice.get("best_epoch"), choice.get("validated_on")
    return (
        ("" if fold is None else f"fold {fold}: ")
        + str(choice.get("choice"))
        + ("" if epoch is None else f", best epoch {epoch}")
        + (f", scored on {on}" if on else "")
    )


def _knobs(feature_width: float | None) -> tuple[_Knob, ...]:
    return (
        _Knob(
            title="width of the first hidden layer", short="width",
            value=lambda c: None if "hidden" not in c else float(c["hidden"][0]) if c["hidden"] else 0.0, log=True,
        ),
        _Knob(title="dropout rate", short="dropout", value=lambda c: c.get("rate"), log=False),
        _Knob(title="C", short="C", value=lambda c: c.get("c"), log=True),
        _Knob(
            title="number of features", short="features",
            value=lambda c: None if "selected" not in c else c["selected"] or feature_width, log=True,
        ),
    )  # fmt: skip


def _candidate_chart(source: Source, knob: _Knob, trials: Sequence[_Trial]) -> Markup | None:
    """Draw scores over one knob; None where the candidates do not differ in it."""
    placed = [(value, trial) for trial in trials if (value := knob.value(trial.choice)) is not None]
    values = sorted({value for value, _ in placed})
    if len(values) < 2:
        return None
    # More kinds than there are shapes would not be told apart: then a mark is a candidate, no more.
    told_apart = len({_told(trial.choice, without=knob) for trial in trials}) <= len(SHAPES)
    images, groups = source.trained_on
    return candidates_chart(
        [
            Candidate(
                series=_told(trial.choice, without=knob) if told_apart else "",
                x=value,
                y=trial.balanced_accuracy,
                kept=trial.kept,
            )
            for value, trial in placed
        ],
        title=f"Score by {knob.title}",
        x=Axis(title=knob.title, log=knob.log and values[0] > 0, ticks=values if len(values) <= _MOST_TICKS else None),
        y=Axis(title="balanced accuracy"),
        images=images,
        groups=groups,
    )


def _told(choice: Mapping[str, Any], *, without: _Knob | None = None) -> str:
    """Say a choice in words, leaving out what one knob says."""
    short = without.short if without else ""
    parts = []
    if short != "features" and choice.get("selected") is not None:
        parts.append(f"{choice['selected']} features")
    if "hidden" in choice:
        widths = "–".join(map(str, choice["hidden"])) or "none"
        if short != "width":
            parts.append(f"hidden {widths}")
        elif len(choice["hidden"]) > 1:
            parts.append(f"hidden …–{'–'.join(map(str, choice['hidden'][1:]))}")
    if "rate" in choice and short != "dropout":
        parts.append(f"dropout {choice['rate']:g}")
    if "kernel" in choice:
        parts.append(f"{choice['kernel']} kernel")
        if short != "C" and choice.get("c") is not None:
            parts.append(f"C {choice['c']:g}")
        if choice["kernel"] == "rbf" and choice.get("gamma") is not None:
            parts.append(f"γ {choice['gamma']:g}")
    return ", ".join(parts) or "all features"


def _trial_table(source: Source, trials: Sequence[_Trial]) -> Markup:
    images, groups = source.trained_on
    columns = [
        *heads("Candidate", "Fold", "Balanced accuracy", "Log loss", "Epochs", "Images", "Groups"),
        Column(title="Kept", numeric=False),
    ]
    rows = [
        (
            escaped(_told(trial.choice)),
            escaped(NO_VALUE if trial.fold is None else str(trial.fold)),
            datum(trial.balanced_accuracy, number(trial.balanced_accuracy)),
            datum(trial.log_loss, number(trial.log_loss)),
            escaped(NO_VALUE if trial.epochs is None else f"{trial.epochs:g}"),
            escaped(NO_VALUE if images is None else str(images)),
            source.group_cell(groups),
            escaped("kept" if trial.kept else ""),
        )
        for trial in trials
    ]
    caption = f"Validation scores of all candidates; training images: {counts(images, groups)}"
    return table(columns, rows, caption=caption, kept=[i for i, trial in enumerate(trials) if trial.kept])


# ---------------------------------------------------------------------------------- training


def training(source: Source) -> Markup:
    """Draw loss and validation scores by epoch."""
    history = source.report.get("history")
    if not history:
        trials = [trial for choice in source.report.get("choices") or () for trial in choice.get("trials") or ()]
        svm = any("kernel" in trial["choice"] for trial in trials)
        return paragraph(escaped("No epochs: a support vector machine is fitted in one go.")) if svm else ABSENT
    images, groups = source.trained_on
    runs: dict[object, list[Mapping[str, Any]]] = {}
    for row in history:
        runs.setdefault(row.get("fold"), []).append(row)
    drawn = []
    for key, name, y in (
        ("train_loss", "Training loss", "cross-entropy"),
        ("log_loss", "Validation log loss", "log loss"),
        ("balanced_accuracy", "Validation balanced accuracy", "balanced accuracy"),
    ):
        series = [
            Series(
                name="" if fold is None else f"fold {fold}",
                # Counted through: where there are two stages, the epochs of the second begin again.
                x=[float(i) for i in range(1, len(rows) + 1)],
                y=[row.get(key) for row in rows],
            )
            for fold, rows in runs.items()
        ]
        if any(value is not None for one in series for value in one.y):
            drawn.append(
                line_chart(
                    series,
                    title=name,
                    x=Axis(title="epoch", low=0, whole=True),
                    y=Axis(title=y),
                    images=images,
                    groups=groups,
                    marked=max(map(len, runs.values())) <= _MOST_MARKED,
                    height=190,
                )
            )
    stages = " then ".join(dict.fromkeys(str(row.get("stage")) for row in history))
    caption = f"Training by epoch ({stages}); each line is one training. Training images:"
    return source.figure(panels(drawn), caption, of=counts(images, groups))
