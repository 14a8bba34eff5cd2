from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from leukemia_cli.data.grouping import find_copies, join_groups, name_groups


def test_images_without_a_group_are_named_by_their_path_and_never_share_one() -> None:
    images = [("s", "a.png", None), ("t", "a.png", None), ("t", "b.png", None), ("t", "c.png", "b.png")]
    assert name_groups(images) == ["s/a.png", "t/a.png", "./b.png", "b.png"]


def test_joined_groups_have_the_smallest_name() -> None:
    assert join_groups(["c", "b", "a", "d"], [(0, 1), (1, 2)]) == ["a", "a", "a", "d"]
    assert find_copies(["x", "y", "x", "z", "y", "x"]) == [(0, 2, 5), (1, 4)]


@given(
    groups=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=20),
    pairs=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=10),
)
def test_joining_is_the_finest_partition_that_keeps_groups_and_copies_together(
    groups: list[str], pairs: list[tuple[int, int]]
) -> None:
    together = [pair for pair in pairs if max(pair) < len(groups)]
    joined = join_groups(groups, together)
    links = [(i, j) for i in range(len(groups)) for j in range(i) if groups[i] == groups[j]] + together
    expected = list(range(len(groups)))
    for _ in groups:
        for i, j in links:
            expected[i] = expected[j] = min(expected[i], expected[j])
    assert all((joined[i] == joined[j]) == (expected[i] == expected[j]) for i in range(len(groups)) for j in range(i))
