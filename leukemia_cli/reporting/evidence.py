"""What stands behind the figures of a run, gathered from what its members made of the images that they judged."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leukemia_cli.judging.conformal import LabelSets
from leukemia_cli.judging.curves import reliability
from leukemia_cli.judging.evaluation import judge_abstention, judge_label_sets, trace
from leukemia_cli.judging.intervals import group_bootstrap
from leukemia_cli.learning.classifier import Classifier, Member, together
from leukemia_cli.learning.doubt import Limits, Thresholds
from leukemia_cli.learning.parts import Part, ScoredPart
from leukemia_cli.reporting.evaluation import Evidence, Mistake, Rates
from leukemia_cli.workspace.runs import RunFolder

MOST_MISTAKES = 12
HISTORY_FILE = "history.csv"


def gather_evidence(judged: ScoredPart, run: RunFolder, *, external: bool, resamples: int, seed: int) -> Evidence:
    """Gather curves, calibration before and after, doubt, choices and mistakes; `external` says where the images are from."""
    part, scored, predictions, before = judged.part, judged.scored, judged.predictions, judged.uncalibrated
    alone = part.fields is not None and all(field.alone for field in part.fields)
    members = part.members_of(judged.classifier)
    limits = [each for member in members if (each := _limits(member, alone)) is not None]
    unmeasured = "this run has no thresholds: no images were left to fit them on"
    if limits:
        bare = len(members) - len(limits)
        unmeasured = f"{bare} of {len(members)} members have no thresholds: no images were left to fit them on"
    known = scored.novel is not None and scored.uncertain is not None and bool(limits)
    # Of every image the same is promised, so that the judges of the first speak for all.
    thresholds = Thresholds.of([_limits(judges[0], alone) for _, judges in part.judged[:1]]) if known else None
    promise = None if thresholds is None else thresholds.label_sets
    label_sets = says = None
    if promise is not None and scored.sets is not None:
        says = _promise(promise, part, external=external)
        label_sets = judge_label_sets(
            predictions, scored.sets, equal_groups=promise.per == "group", resamples=resamples, seed=seed
        )
    refused = next((each.label_sets.reason for each in limits if each.label_sets.reason), None)
    nothing = np.zeros(predictions.image_count, dtype=bool)
    return Evidence(
        before=group_bootstrap(before, resamples=resamples, seed=seed),
        reliability_before=reliability(before),
        curves=trace(predictions, resamples=resamples, seed=seed),
        abstention=judge_abstention(
            predictions,
            novel=scored.novel if scored.novel is not None else nothing,
            uncertain=scored.uncertain if scored.uncertain is not None else nothing,
            few=scored.few,
            resamples=resamples,
            seed=seed,
        ),
        abstention_reason=None if known else unmeasured,
        rates=_rates(limits) if known else None,
        label_sets=label_sets,
        label_sets_reason=None if scored.sets is not None else refused or unmeasured,
        alpha=None if promise is None else promise.alpha,
        per=None if promise is None else promise.per,
        label_sets_say=says,
        choices=run.facts.get("choices", ()),
        history=_history(run.path / HISTORY_FILE),
        mistakes=_mistakes(judged),
        model=_model(run, judged.classifier),
    )


def _limits(member: Member, alone: bool) -> Limits | None:
    """Give the thresholds of what is judged: photographs in a run on cells, else images, or cells that are `alone`."""
    if member.reading is not None and not alone:
        return member.reading.limits
    return member.limits


def _rates(limits: Sequence[Limits]) -> Rates:
    sure = [each.confidence for each in limits if each.confidence is not None]
    told = [confidence.reason for confidence in sure if confidence.reason]
    if len(sure) < len(limits):
        told.append("nothing is called uncertain by members whose groups were too few to fit that on")
    return Rates(
        least_confidence=tuple(confidence.threshold for confidence in sure),
        novelty_threshold=tuple(each.novelty_threshold for each in limits),
        risk=sure[0].risk if sure else None,
        false_alarm=limits[0].false_alarm,
        fitted_on=together([each.fitted_on for each in limits]) or "",
        notes=tuple(dict.fromkeys(told)),
    )


def _promise(promised: LabelSets, part: Part, *, external: bool) -> str:
    """Say what the coverage of label sets is promised for, and what weakens the promise."""
    share = f"{100 * (1 - promised.alpha):g} %"
    if external:
        return (
            f"They were fitted to hold the true class in {share} of images like those of calibration; for "
            "images from elsewhere nothing is promised."
        )
    of = "an image of a new group, every group counting equally" if promised.per == "group" else "a new image"
    text = f"The true class is promised in at least {share} of the sets of {of}"
    if part.folds is not None:
        text += ", if out-of-fold scores of training stand for those of the final members"
    if promised.per == "image":
        text += ", if images of one patient were independent, which they are not"
    return text + "."


def _mistakes(judged: ScoredPart) -> tuple[Mistake, ...]:
    """Give the mistakes that were made most surely."""
    predictions, samples = judged.predictions, judged.part.samples
    confidence = predictions.probabilities.max(axis=1)
    wrong = np.flatnonzero(predictions.predicted != predictions.labels).tolist()
    wrong.sort(key=lambda i: (-confidence[i], samples[i].path))
    return tuple(
        Mistake(
            path=samples[i].path,
            group=samples[i].group if predictions.groups_known else "",
            label=samples[i].label,
            predicted=predictions.classes[int(predictions.predicted[i])],
            confidence=float(confidence[i]),
        )
        for i in wrong[:MOST_MISTAKES]
    )


def _history(file: Path) -> list[dict[str, Any]]:
    """Read the epochs of a run; a run without the file has none to show."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        return [
            {
                "fold": int(row["fold"]) if row["fold"] else None,
                "stage": row["stage"],
                "epoch": int(row["epoch"]),
                **{
                    key: float(row[key]) if row[key] else None
                    for key in ("train_loss", "balanced_accuracy", "log_loss", "lr")
                },
            }
            for row in csv.DictReader(lines)
        ]


def _model(run: RunFolder, classifier: Classifier) -> dict[str, Any]:
    """Give what the model was made from, for the report's card."""
    wanted = ("seed", "command", "versions", "created", "training_images", "training_groups", "groups_source")
    return {
        **classifier.spec.as_json(),
        **classifier.preprocessing.as_json(),
        "classes": list(classifier.task.classes),
        "task_title": classifier.task.title,
        "remedies_titles": list(classifier.preprocessing.remedies.titles),
        **{key: run.facts.get(key) for key in wanted},
    }
