from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from leukemia_cli.judging.predictions import Predictions
from leukemia_cli.reporting.evaluation import ReportContext


@pytest.fixture
def draw_predictions() -> Callable[..., Predictions]:
    """Draw predictions of `n` images from a seed, in pure groups."""

    def draw(
        *,
        n: int = 150,
        classes: tuple[str, ...] = ("ALL", "AML", "HTL"),
        present: tuple[int, ...] | None = None,
        groups_per_class: int = 12,
        groups_source: str = "given",
    ) -> Predictions:
        random = np.random.default_rng(0)
        labels = random.choice(np.arange(len(classes)) if present is None else np.array(present), size=n)
        scores = random.dirichlet(np.ones(len(classes)), size=n) + np.eye(len(classes))[labels] * 0.5
        numbers = random.integers(groups_per_class, size=n)
        return Predictions(
            classes=classes,
            positive=classes[0] if len(classes) == 2 else None,
            labels=labels,
            probabilities=scores / scores.sum(axis=1, keepdims=True),
            groups=tuple(f"{label}-{number}" for label, number in zip(labels, numbers, strict=True)),
            groups_source=groups_source,
        )

    return draw


@pytest.fixture
def describe() -> Callable[..., ReportContext]:
    """Describe a run of three of five classes; keywords change any field."""

    def context(**changed: Any) -> ReportContext:
        facts: dict[str, Any] = {
            "run": "senet-base-1",
            "task": "five-class",
            "classes": ("ALL", "AML", "HTL"),
            "whole_class_count": 5,
            "split": "test",
            "backbone": "senet",
            "variant": "base",
            "weights": "senet154.gluon_in1k",
            "tune": "head",
            "temperatures": (1.37,),
            "fitted_on": "calib, 40 images of 12 groups",
            "seed": 7,
            "leuk_version": "0.1.0",
            "manifest": "0123456789abcdef",
            "created": "2026-01-01T00:00:00+00:00",
        }
        return ReportContext(**{**facts, **changed})

    return context
