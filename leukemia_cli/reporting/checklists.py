"""Items of two reporting guidelines, in the words of this package, each with the fact of a report that can answer it.

An item without a fact is one that only the authors of a study can answer; it is listed as such and never guessed.
Sources: Collins et al. 2024, TRIPOD+AI statement, BMJ 385:e078378 (27 items, 52 with their parts);
Tejani et al. 2024, Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 update, Radiology: Artificial
Intelligence 6(4):e240300 (44 items). Neither is quoted: the published tables are what counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Fact = Literal[
    "abstention",
    "architecture",
    "balance",
    "calculation",
    "candidates",
    "code",
    "counts",
    "data",
    "disjoint",
    "external",
    "failures",
    "heatmaps",
    "initial",
    "internal",
    "measures",
    "output",
    "partition",
    "performance",
    "preprocessing",
    "software",
    "technology",
    "training",
    "uncertainty",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item: its number in the guideline, what it asks for, and the fact that answers it, if a report knows one."""

    number: str
    asks: str
    fact: Fact | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checklist:
    """One guideline with its items in order."""

    name: str
    citation: str
    items: tuple[Item, ...]


def _items(*rows: tuple[str, str] | tuple[str, str, Fact]) -> tuple[Item, ...]:
    return tuple(Item(number=row[0], asks=row[1], fact=row[2] if len(row) == 3 else None) for row in rows)


TRIPOD_AI = Checklist(
    name="TRIPOD+AI",
    citation="Collins et al. 2024, BMJ 385:e078378",
    items=_items(
        ("1", "Title: development or evaluation, population and outcome"),
        ("2", "Abstract"),
        ("3a", "Health-care context and rationale"),
        ("3b", "Target population, intended purpose and users"),
        ("3c", "Known health inequalities"),
        ("4", "Objectives"),
        ("5a", "Sources of data", "data"),
        ("5b", "Dates of the data"),
        ("6a", "Setting, number and place of centres"),
        ("6b", "Eligibility criteria"),
        ("6c", "Treatments received"),
        ("7", "Data preparation", "preprocessing"),
        ("8a", "Outcome and how it was assessed"),
        ("8b", "Who assessed the outcome"),
        ("8c", "Blinding of the outcome's assessment"),
        ("9a", "Choice of the first predictors"),
        ("9b", "Definition of all predictors"),
        ("9c", "Who assessed the predictors"),
        ("10", "How the study size came about"),
        ("11", "Missing data"),
        ("12a", "How data were used and divided", "partition"),
        ("12b", "How predictors entered the model", "preprocessing"),
        ("12c", "Kind of model, building, tuning, internal validation", "candidates"),
        ("12d", "Differences between clusters, such as hospitals"),
        ("12e", "Measures and plots of performance", "measures"),
        ("12f", "Updating of the model, such as recalibration"),
        ("12g", "How predictions were calculated in the evaluation", "calculation"),
        ("13", "Class imbalance", "balance"),
        ("14", "Fairness"),
        ("15", "What the model gives out, and thresholds", "output"),
        ("16", "Differences between training and evaluation data"),
        ("17", "Ethical approval"),
        ("18a", "Funding"),
        ("18b", "Conflicts of interest"),
        ("18c", "Protocol"),
        ("18d", "Registration"),
        ("18e", "Sharing of data"),
        ("18f", "Sharing of code", "code"),
        ("19", "Involvement of patients and the public"),
        ("20a", "Flow of participants"),
        ("20b", "Characteristics of participants"),
        ("20c", "Comparison with the development data"),
        ("21", "Numbers in each analysis", "counts"),
        ("22", "The model in full", "architecture"),
        ("23a", "Performance with intervals", "performance"),
        ("23b", "Performance between clusters"),
        ("24", "Results of updating"),
        ("25", "Interpretation"),
        ("26", "Limitations"),
        ("27a", "Poor or missing input at use", "abstention"),
        ("27b", "Interaction and expertise needed of users"),
        ("27c", "Next steps, applicability, generalisability"),
    ),
)

CLAIM = Checklist(
    name="CLAIM, 2024 update",
    citation="Tejani et al. 2024, Radiology: Artificial Intelligence 6(4):e240300",
    items=_items(
        ("1", "Title: artificial intelligence and its kind", "technology"),
        ("2", "Abstract"),
        ("3", "Background, intended use and clinical role"),
        ("4", "Aims and hypotheses"),
        ("5", "Prospective or retrospective"),
        ("6", "Goal of the study"),
        ("7", "Sources of data", "data"),
        ("8", "Inclusion and exclusion criteria"),
        ("9", "Preprocessing", "preprocessing"),
        ("10", "Selection of subsets of the data"),
        ("11", "De-identification"),
        ("12", "Missing data"),
        ("13", "Image acquisition"),
        ("14", "Definition of the reference standard"),
        ("15", "Rationale for the reference standard"),
        ("16", "Source of the annotations"),
        ("17", "Annotation of the test set"),
        ("18", "Variability between and within raters"),
        ("19", "How data were assigned to partitions", "partition"),
        ("20", "Level at which partitions are disjoint", "disjoint"),
        ("21", "Intended sample size"),
        ("22", "The model in detail", "architecture"),
        ("23", "Software and versions", "software"),
        ("24", "Initial parameters", "initial"),
        ("25", "Training", "training"),
        ("26", "How the final model was selected", "candidates"),
        ("27", "Ensembling", "calculation"),
        ("28", "Measures of performance", "measures"),
        ("29", "Significance and uncertainty", "uncertainty"),
        ("30", "Robustness or sensitivity"),
        ("31", "Explanation of decisions", "heatmaps"),
        ("32", "Evaluation on internal data", "internal"),
        ("33", "Testing on external data", "external"),
        ("34", "Registration of a clinical trial"),
        ("35", "Patients or examinations included and excluded"),
        ("36", "Demographic and clinical characteristics"),
        ("37", "Performance and benchmark", "performance"),
        ("38", "Diagnostic performance and its precision", "performance"),
        ("39", "Failures", "failures"),
        ("40", "Limitations"),
        ("41", "Implications for practice"),
        ("42", "Full protocol"),
        ("43", "Availability of software, model and data", "code"),
        ("44", "Funding"),
    ),
)
