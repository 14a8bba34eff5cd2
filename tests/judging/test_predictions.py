from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from leukemia_cli.judging.predictions import Predictions


def facts(**changed: Any) -> dict[str, Any]:
    return {
        "classes": ("ALL", "HTL"),
        "positive": "ALL",
        "labels": np.array([0, 1, 1]),
        "probabilities": np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]),
        "groups": ("b", "a", "b"),
        "groups_source": "given",
        **changed,
    }


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"classes": ("ALL",), "positive": None}, "at least two distinct"),
        ({"classes": ("ALL", "ALL"), "positive": None}, "at least two distinct"),
        ({"positive": "AML"}, "'AML'"),
        ({"groups_source": "guessed"}, "'guessed'"),
        ({"labels": np.array([], dtype=int), "probabilities": np.zeros((0, 2)), "groups": ()}, "N ≥ 1"),
        ({"labels": np.array([0, 2, 1])}, "label 2"),
        ({"labels": np.array([0, -1, 1])}, "label -1"),
        ({"labels": np.array([0.0, 1.0, 1.0])}, "float64"),
        ({"probabilities": np.full((3, 3), 1 / 3)}, r"\(3, 3\)"),
        ({"probabilities": np.array([[0.9, 0.1], [np.nan, 0.5], [0.2, 0.8]])}, "image 1 are not finite"),
        ({"probabilities": np.array([[0.9, 0.1], [np.inf, 0.5], [0.2, 0.8]])}, "image 1 are not finite"),
        ({"probabilities": np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.9]])}, "image 2 sum to 1.1"),
        ({"probabilities": np.array([[0.9, 0.1], [0.5, 0.5], [-0.2, 1.2]])}, "image 2 lie outside"),
        ({"groups": ("a", "b")}, "2 groups for 3 images"),
    ],
)
def test_broken_predictions_are_refused_with_the_value(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Predictions(**facts(**changed))


def test_positive_class_beyond_two_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="not one of two classes"):
        Predictions(
            **facts(
                classes=("ALL", "AML", "HTL"),
                probabilities=np.full((3, 3), 1 / 3),
            )
        )


def test_arrays_are_copies_that_cannot_be_written_to() -> None:
    given = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    predictions = Predictions(**facts(probabilities=given))
    given[0] = [0.1, 0.9]
    assert predictions.probabilities[0, 0] == 0.9
    with pytest.raises(ValueError, match="read-only"):
        predictions.labels[0] = 1


def test_the_first_of_equally_probable_classes_is_predicted() -> None:
    assert Predictions(**facts()).predicted.tolist() == [0, 0, 1]


def test_single_precision_softmax_is_taken() -> None:
    scores = np.exp(np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32))
    predictions = Predictions(**facts(probabilities=scores / scores.sum(axis=1, keepdims=True)))
    assert predictions.probabilities.dtype == np.float64


def test_groups_are_indexed_by_sorted_name_and_each_image_is_its_own_where_unknown() -> None:
    indices, count = Predictions(**facts()).group_indices()
    assert (indices.tolist(), count) == ([1, 0, 1], 2)
    indices, count = Predictions(**facts(groups_source="none", groups=())).group_indices()
    assert (indices.tolist(), count) == ([0, 1, 2], 3)


@pytest.mark.parametrize(("source", "groups"), [("given", ("a", "b")), ("none", ())])
def test_of_some_classes_the_images_alone_are_kept(source: str, groups: tuple[str, ...]) -> None:
    kept = Predictions(**facts(groups_source=source)).of_classes(np.array([1]))
    assert kept.classes == ("ALL", "HTL")
    assert kept.labels.tolist() == [1, 1]
    assert kept.probabilities.tolist() == [[0.5, 0.5], [0.2, 0.8]]
    assert (kept.groups, kept.groups_source) == (groups, source)
