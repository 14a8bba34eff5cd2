"""Which class a cell has: nearest marks first, healthy photographs as a whole, and no class where nobody said one."""

from __future__ import annotations

from dataclasses import replace

from leukemia_cli.catalog import TASKS
from leukemia_cli.data.marking import healthy_class, in_pixels, label_cells, match_marks
from leukemia_cli.data.sources import Mark
from leukemia_cli.domain import Spot

SPOTS = [Spot(x=10, y=10, radius=8), Spot(x=22, y=10, radius=8), Spot(x=80, y=80, radius=8)]


def blast(x: float, y: float) -> Mark:
    return Mark(x=x, y=y, label="ALL")


def test_of_two_cells_near_a_mark_the_nearer_has_it_and_each_mark_counts_once() -> None:
    assert match_marks(SPOTS, [blast(17, 10)]) == [None, 0, None]
    assert match_marks(SPOTS, [blast(17, 10), blast(12, 10)]) == [1, 0, None]
    assert match_marks(SPOTS, [blast(80, 91)]) == [None, None, None]  # beyond 1.25 radii
    assert match_marks(SPOTS, [blast(80, 89.9)]) == [None, None, 0]
    assert match_marks([], [blast(1, 1)]) == []


def test_a_box_marks_what_has_its_centre_inside() -> None:
    box = Mark(x=70, y=80, width=22, height=10, label="ALL")
    assert match_marks(SPOTS, [box]) == [None, None, 0]
    assert match_marks(SPOTS, [replace(box, width=18)]) == [None, None, None]
    relative = Mark(x=0.7, y=0.8, width=0.22, height=0.1, label="ALL", relative=True)
    assert match_marks(SPOTS, in_pixels([relative, box], 100, 100)) == [None, None, 0]
    assert in_pixels([relative], 100, 100) == [Mark(x=70, y=80, width=22, height=10, label="ALL")]


def test_who_says_what_a_cell_is() -> None:
    def told(image_label: str, marks: list[Mark] | None, unmarked: str = "leave-out") -> list[str]:
        labelled = label_cells(SPOTS, image_label=image_label, marks=marks, healthy="HTL", unmarked=unmarked)
        return [label for label, _ in labelled]

    assert told("HTL", []) == told("HTL", None) == ["HTL"] * 3
    assert told("ALL", [blast(10, 10)]) == ["ALL", "", ""]
    assert told("ALL", [blast(10, 10)], "healthy") == ["ALL", "HTL", "HTL"]
    assert told("ALL", [blast(10, 10)], "as-image") == ["ALL", "", ""]
    assert told("ALL", None) == told("ALL", None, "healthy") == ["", "", ""]
    assert told("ALL", None, "as-image") == ["ALL"] * 3
    assert told("", [blast(10, 10), replace(blast(80, 80), label="")]) == ["ALL", "", ""]


def test_each_task_knows_its_healthy_class() -> None:
    assert {name: healthy_class(task) for name, task in TASKS.items()} == {"binary": "HTL", "five-class": "HTL"}
    bare = replace(TASKS["binary"], classes=("blast", "promyelocyte"), aliases={}, positive=None)
    assert healthy_class(bare) is None
