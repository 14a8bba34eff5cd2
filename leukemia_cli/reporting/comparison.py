"""The whole of compare.json, from which every file and page of a comparison is made."""

from __future__ import annotations

from typing import TypedDict, final

from leukemia_cli.reporting.evaluation import Figure


@final
class HeadCandidate(TypedDict):
    """A candidate of a network head; `selected` features by the method `by`, None: all."""

    selected: int | None
    by: str | None
    hidden: list[int]
    rate: float


@final
class SvmCandidate(TypedDict):
    """A candidate of a support vector machine; `gamma` times the number of features."""

    selected: int | None
    by: str | None
    kernel: str
    c: float
    gamma: float


class CandidateScore(TypedDict):
    """One candidate's score on the images it was not fitted on, inside a training part."""

    choice: HeadCandidate | SvmCandidate
    balanced_accuracy: float
    log_loss: float
    epochs: float | None


class FoldChoice(TypedDict):
    """What one training part of one partition chose, and among what."""

    repeat: int
    fold: int | None
    choice: str
    trials: list[CandidateScore]


class ComparisonRow(TypedDict):
    """One model of the table; `metrics` are of the first partition, `repeats` has the value of every partition."""

    backbone: str
    variant: str
    weights: str
    random_weights: bool
    metrics: dict[str, Figure]
    repeats: dict[str, list[float | None]]
    choices: list[FoldChoice]
    seconds: float


class ModelName(TypedDict):
    """Which row of the table."""

    backbone: str
    variant: str


class PairedDifference(TypedDict):
    """A metric of a minus that of b on the same images; `test` says how p came about, or why there is none."""

    a: ModelName
    b: ModelName
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    groups: int
    method: str
    freedom: float | None
    p: float | None
    p_holm: float | None
    test: str


class PaperFigure(TypedDict):
    """A figure published by the paper, of its own images; `value` is a share."""

    task: str
    model: str
    metric: str
    value: float


class Optimism(TypedDict):
    """One metric of one model under both protocols; `difference` is optimistic minus grouped."""

    backbone: str
    variant: str
    metric: str
    optimistic: Figure
    grouped: Figure
    difference: float | None


class ComparisonDocument(TypedDict):
    """The whole of compare.json; `copies` counts what the optimistic protocol dealt in place of `images`: n counts these."""

    schema_version: int
    id: str
    protocol: str
    protocol_title: str
    optimistic: bool
    task: str
    subset: str | None
    classes: list[str]
    positive: str | None
    images: int
    groups: int
    groups_source: str
    groups_per_class: dict[str, int]
    folds: int
    repeats: int
    repeats_asked: int
    repeats_note: str | None
    grid: str
    tune: str
    views: int
    copies: int | None
    copies_per_image: int | None
    seed: int
    manifest: str
    created: str
    leuk_version: str
    command: list[str]
    looks: int
    resamples: int
    versions: dict[str, str]
    headline_metric: str
    rows: list[ComparisonRow]
    differences: list[PairedDifference]
    paper: list[PaperFigure]
    protocol_differences: list[str]
    optimism: list[Optimism]
    warnings: list[str]
