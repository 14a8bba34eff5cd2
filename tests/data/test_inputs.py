"""What was named becomes paths: in order, none dropped, and what cannot be meant fails before the first."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from leukemia_cli.data import inputs as inputs_room
from leukemia_cli.data.inputs import expand_inputs
from leukemia_cli.errors import DataError, LeukError, UsageError

SUFFIXES = (".png", ".jpg")


@pytest.fixture(autouse=True)
def _laid_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.png", "b/10.JPG", "b/notes.txt", "b/.hidden.png", "b/.git/x.png", "b/__MACOSX/x.png", "a/2.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("none").mkdir()
    Path("empty.png").mkdir()
    Path("named.png").mkdir()
    Path("named.png/in.png").touch()


def expand(*inputs: str, stdin: Iterable[bytes] = ()) -> list[str]:
    return list(expand_inputs(inputs, SUFFIXES, stdin))


@pytest.mark.parametrize(
    ("inputs", "paths"),
    [
        (("b/2.png", "a/2.png", "b/2.png"), ["b/2.png", "a/2.png", "b/2.png"]),
        (("b",), ["b/10.JPG", "b/2.png"]),
        (("b/",), ["b/10.JPG", "b/2.png"]),
        (("./b",), ["./b/10.JPG", "./b/2.png"]),
        (("?/2.png",), ["a/2.png", "b/2.png"]),
        (("b/*",), ["b/10.JPG", "b/2.png", "b/notes.txt"]),  # what a pattern names is named
        (("**/2.png",), ["a/2.png", "b/2.png"]),
        (("b/**",), ["b/10.JPG", "b/2.png"]),  # the folder: not each file once for every folder above it
        (("**/*.png",), ["a/2.png", "b/2.png", "named.png/in.png"]),
        (("[ab]",), ["a/2.png", "b/10.JPG", "b/2.png"]),
        (("missing.png", "a/2.png"), ["missing.png", "a/2.png"]),
        (("named.png",), ["named.png/in.png"]),
        (("empty.png", "a/2.png"), ["empty.png", "a/2.png"]),  # to become an error row: it looks like an image
        (("b/notes.txt",), ["b/notes.txt"]),
        (("n" * 5000,), ["n" * 5000]),
    ],
)
def test_names(inputs: tuple[str, ...], paths: list[str]) -> None:
    assert expand(*inputs) == paths


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ("", UsageError, "empty word"),
        ("none", DataError, "no images in folder none"),
        ("*.tif", DataError, "nothing matches *.tif"),
        ("non[e]", DataError, "nothing matches non[e]"),
        ("none/**", DataError, "no images in folder none"),
        ("@gone.txt", DataError, "cannot read the list gone.txt: No such file"),
        ("@none", DataError, "cannot read the list none: Is a directory"),
        ("@b/notes.txt", DataError, "names no file"),
        ("@wrong.csv", DataError, "has no column 'path', but id, file"),
        ("@huge.csv", DataError, "is no CSV"),
    ],
)
def test_what_cannot_be_meant_fails_before_the_first_path(given: str, kind: type[LeukError], said: str) -> None:
    Path("wrong.csv").write_text("id,file\n1,a/2.png\n")
    Path("huge.csv").write_text("id,path\n1," + "x" * 200_000 + "\n")
    with pytest.raises(kind) as caught:
        expand_inputs(["a/2.png", given], SUFFIXES)  # not a path of it was asked for
    assert said in caught.value.problem
    assert caught.value.hint


def test_a_name_that_exists_is_no_pattern_and_no_list() -> None:
    for name in ("img[1].png", "@list.txt", "a*.png"):
        Path(name).touch()
        assert expand(name) == [name]


def test_lists() -> None:
    Path("plain.txt").write_bytes(b"\xef\xbb\xbfa/2.png\r\n\r\n  \nb/x y.png\nlast.png")
    assert expand("@plain.txt") == ["a/2.png", "b/x y.png", "last.png"]
    Path("table.csv").write_bytes(
        b'\xef\xbb\xbfid,"path",label\r\n1,"a, b.png",ALL\r\n2,,HTL\r\n3,caf\xe9.png,ALL\r\n4\r\n'
    )
    assert [ascii(path) for path in expand("@table.csv")] == [ascii("a, b.png"), ascii("caf\udce9.png")]
    Path("one.csv").write_text("a/2.png\nb/2.png\n")
    assert expand("@one.csv") == ["a/2.png", "b/2.png"]
    Path("own.csv").write_text("path,label,decision,reason\n'=x.png,,error,\n''-y.png,,error,\n'z.png,,error,\n")
    assert expand("@own.csv") == ["=x.png", "'-y.png", "'z.png"], "what classify wrote, it reads"
    Path("theirs.csv").write_text("path,label\n'=x.png,ALL\n")
    assert expand("@theirs.csv") == ["'=x.png"]
    Path("comma.txt").write_text("a,b.png\n")
    assert expand("@comma.txt") == ["a,b.png"]


def test_stdin_is_read_as_it_is_asked_for_and_keeps_bytes() -> None:
    taken = []

    def lines() -> Iterator[bytes]:
        for line in (b"a.png\n", b"\n", b"caf\xe9.png\r\n", b" lead.png"):
            taken.append(line)
            yield line

    paths = expand_inputs(["-"], SUFFIXES, lines())
    assert taken == []
    assert next(paths) == "a.png"
    assert len(taken) == 1
    assert [os.fsencode(path) for path in paths] == [b"caf\xe9.png", b" lead.png"]
    assert expand("-") == []


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    (tmp_path / "a" / "up").symlink_to("..")
    Path("links").mkdir()
    Path("links/to-b").symlink_to("../b")
    Path("links/dead.png").symlink_to("nothing")
    assert expand("links") == ["links/dead.png", "links/to-b/10.JPG", "links/to-b/2.png"]
    found = expand("a")
    assert found.count("a/2.png") == 1
    assert len(found) == len({os.path.realpath(path) for path in found})


def test_a_folder_below_that_cannot_be_read_becomes_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not passed over in silence: as a path it turns into an error row."""
    Path("b/locked").mkdir()
    whole = os.scandir

    def locked(path: str) -> Iterator[os.DirEntry[str]]:
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return whole(path)

    monkeypatch.setattr(os, "scandir", locked)
    assert expand("b") == ["b/10.JPG", "b/2.png", "b/locked"]


def test_a_large_folder_is_not_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        Path(f"many/{number}").mkdir(parents=True)
        Path(f"many/{number}/x.png").touch()
    seen = []
    whole = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: seen.append(path) or whole(path))
    paths = expand_inputs(["many"], SUFFIXES)
    assert next(paths) == "many/0/x.png"
    assert len(seen) < 4


def test_addresses_are_taken_as_they_are_and_s3_folders_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs_room, "list_remote", lambda folder, endings: iter([f"{folder}a.png", f"{folder}b.png"]))
    given = ["https://host/x.png", "s3://bucket/one.png", "s3://bucket/in/"]
    assert list(expand_inputs(given, (".png",))) == [
        "https://host/x.png", "s3://bucket/one.png", "s3://bucket/in/a.png", "s3://bucket/in/b.png"
    ]  # fmt: skip
    monkeypatch.setattr(inputs_room, "list_remote", lambda folder, endings: iter(()))
    with pytest.raises(DataError, match="no images in folder s3://bucket/in/"):
        expand_inputs(["s3://bucket/in/"], (".png",))
    with pytest.raises(UsageError, match="only s3://"):
        expand_inputs(["https://host/in/"], (".png",))
