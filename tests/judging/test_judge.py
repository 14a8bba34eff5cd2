from __future__ import annotations

from collections.abc import Callable

import pytest

from leukemia_cli.judging.evaluation import judge
from leukemia_cli.judging.intervals import group_bootstrap
from leukemia_cli.judging.metrics import confusion, per_class
from leukemia_cli.judging.predictions import Predictions

Draw = Callable[..., Predictions]


def test_an_evaluation_gathers_what_the_parts_say(draw_predictions: Draw) -> None:
    predictions = draw_predictions(n=300, class_count=3)
    evaluation = judge(predictions, resamples=200, seed=9)
    assert evaluation.metrics == group_bootstrap(predictions, resamples=200, seed=9)
    assert evaluation.per_class == per_class(predictions)
    assert evaluation.confusion == tuple(map(tuple, confusion(predictions).tolist()))
    assert (evaluation.images, evaluation.groups) == (300, 36)
    assert sum(figures.groups for figures in evaluation.per_class.values()) == 36
    assert (evaluation.resamples, evaluation.level, evaluation.seed) == (200, 0.95, 9)
    assert evaluation.warnings == ()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"groups_source": "none"}, "the estimate will be optimistic"),
        ({"groups_source": "proposed"}, "proposed"),
        ({"groups_per_class": 9}, "fewer than 10 groups in A (9), B (9)"),
        ({"class_count": 3, "present": [0, 2]}, "class B has no images here"),
        ({"present": [1]}, "every image is of class B"),
    ],
)
def test_every_doubt_is_said(draw_predictions: Draw, settings: dict[str, object], said: str) -> None:
    evaluation = judge(draw_predictions(n=400, **settings), resamples=50)
    assert any(said in warning for warning in evaluation.warnings), evaluation.warnings
