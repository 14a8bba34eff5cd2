"""Every input is in exactly one shard, and no shard is what nobody asked for."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukemia_cli.data.shards import WHOLE, Dealt, Shard, read_shard
from leukemia_cli.errors import UsageError


def array_of(task: int, least: int, most: int, count: int) -> dict[str, str]:
    values = {"ID": task, "MIN": least, "MAX": most, "COUNT": count, "STEP": 1}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@given(st.integers(0, 40), st.integers(1, 9))
def test_shards_hold_every_input_once_and_round_robin_gives_the_order_back(inputs: int, of: int) -> None:
    paths = [f"{i}.png" for i in range(inputs)]
    shards = [Shard(number=number, of=of) for number in range(1, of + 1)]
    dealt = [Dealt(iter(paths), shard) for shard in shards]
    parts = [list(each) for each in dealt]
    turns = itertools.zip_longest(*parts)
    assert [path for turn in turns for path in turn if path is not None] == paths
    assert [len(part) for part in parts] == [shard.rows_of(inputs) for shard in shards]
    for shard, part in zip(shards, parts, strict=True):
        assert [paths[shard.place(row)] for row in range(len(part))] == part
    assert {each.inputs for each in dealt} == {inputs}
    digest = hashlib.sha256(b"".join(path.encode() + b"\0" for path in paths)).hexdigest()
    assert {each.sha256 for each in dealt} == {digest}


def test_without_a_shard_every_path_passes() -> None:
    assert list(Dealt(["b", "a", "b"])) == ["b", "a", "b"]
    assert WHOLE.rows_of(7) == 7


def test_a_shard_is_read_as_it_is_said() -> None:
    assert read_shard("2/8", {}) == Shard(number=2, of=8)
    assert read_shard("2/8", array_of(3, 1, 4, 4)) == Shard(number=2, of=8), "the environment is not asked"
    assert str(read_shard("08/8", {})) == "8/8"


@pytest.mark.parametrize(
    "text", ["", "0/3", "4/3", "1/0", "-1/3", "1", "1/", "a/b", "1/2/3", "1,3", " 1/2", "１/２", "SLURM"]
)
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="shard"):
        read_shard(text, {})


@pytest.mark.parametrize(
    ("task", "least", "most", "expected"), [(1, 1, 4, "1/4"), (4, 1, 4, "4/4"), (0, 0, 2, "1/3"), (12, 11, 12, "2/2")]
)
def test_slurm_deals_by_the_place_in_the_array(task: int, least: int, most: int, expected: str) -> None:
    assert str(read_shard("slurm", array_of(task, least, most, most - least + 1))) == expected


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "SLURM_ARRAY_TASK_ID"),
        (
            {k: v for k, v in array_of(1, 1, 4, 4).items() if not k.endswith("COUNT")},
            "SLURM_ARRAY_TASK_COUNT is not set",
        ),
        (array_of(3, 1, 7, 4), "without gaps"),
        (array_of(9, 1, 4, 4), "without gaps"),
        ({**array_of(1, 1, 4, 4), "SLURM_ARRAY_TASK_MAX": "four"}, "SLURM_ARRAY_TASK_MAX=four"),
    ],
)
def test_an_array_that_cannot_be_dealt_by_is_refused_with_a_way_out(environment: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        read_shard("slurm", environment)
    assert "I/N" in refused.value.hint
