from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from leukemia_cli.judging.predictions import Predictions

Draw = Callable[..., Predictions]


@pytest.fixture
def draw_predictions() -> Draw:
    """Draw predictions of `n` images from a seed; `steps` rounds scores so that ties are frequent."""

    def draw(
        *,
        seed: int = 0,
        n: int = 120,
        class_count: int = 2,
        groups_per_class: int = 12,
        present: Sequence[int] | None = None,
        steps: int | None = None,
        signal: float = 1.0,
        pure_groups: bool = True,
        groups_source: str = "given",
    ) -> Predictions:
        random = np.random.default_rng(seed)
        classes = tuple("ABCDEFGHIJ"[:class_count])
        labels = random.choice(np.arange(class_count) if present is None else np.array(present), size=n)
        scores = random.normal(size=(n, class_count))
        scores[np.arange(n), labels] += signal
        if steps is not None:
            scores = np.round(scores * steps) / steps
        probabilities = np.exp(scores)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        numbers = random.integers(groups_per_class, size=n)
        groups = tuple(
            f"{classes[label]}{number}" if pure_groups else f"p{number}"
            for label, number in zip(labels, numbers, strict=True)
        )
        return Predictions(
            classes=classes,
            positive=classes[0] if class_count == 2 else None,
            labels=labels,
            probabilities=probabilities,
            groups=groups,
            groups_source=groups_source,
        )

    return draw
