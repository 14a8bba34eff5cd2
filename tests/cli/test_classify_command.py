"""`leuk classify` at its door: what may be named, what comes out, and that no input spoils another."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pty
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import Leuk, Trained
from PIL import Image

Start = Callable[..., "subprocess.Popen[bytes]"]


SAME = 1e-6  # convolutions sum batches of other sizes in another order: seen up to 2e-8


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.fixture
def smears(trained: Trained, tmp_path: Path) -> list[str]:
    """Put three different images where the test stands; two of them have equal names in different folders."""
    places = ["a/field.jpg", "b/field.jpg", "b/deep/other.jpg"]
    sources = [trained.image, *sorted((trained.pictures / "HTL" / "htl-patient-01").iterdir())]
    for place, source in zip(places, sources, strict=True):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)
    return places


# ------------------------------------------------------------------------------------------- what may be named


def test_every_way_to_name_inputs_keeps_order_and_repeats(smears: list[str], leuk: Leuk, trained: Trained) -> None:
    a, b, deep = smears
    Path("list.txt").write_text(f"{b}\n\n{a}\r\n")
    Path("list.csv").write_bytes(
        b'\xef\xbb\xbfid,path,label\r\n1,"' + a.encode() + b'",ALL\r\n2,' + b.encode() + b",HTL\r\n"
    )
    Path("b/notes.md").write_text("not an image")
    given = [b, a, b, "a", "b", "b/*.jpg", "**/other.jpg", "b/**", "@list.txt", "@list.csv", "-", "gone.png"]
    done = leuk("classify", *given, "-w", trained.root, "--quiet", stdin=f"{deep}\n\n{a}\n".encode())
    assert done.code == 3
    paths = [row["path"] for row in rows_of(done.out)]
    assert paths == [
        b, a, b,
        a,
        b, deep,
        b,
        deep,
        b, deep,
        b, a,
        a, b,
        deep, a,
        "gone.png",
    ]  # fmt: skip
    scores: dict[str, list[float]] = {}
    for row in rows_of(done.out)[:-1]:
        scores.setdefault(row["path"], []).append(float(row["score_ALL"]))
    assert all(max(found) - min(found) < SAME for found in scores.values()), "one image, one score"
    assert len({round(found[0], 4) for found in scores.values()}) == 3
    assert done.error_lines[0] == f"error: 1 of {len(paths)} inputs could not be used"


def test_find_pipes_into_classify(smears: list[str], process: Start, trained: Trained, tmp_path: Path) -> None:
    """And what comes out bears no control codes, a reader that leaves early is no error, and bytes of names survive."""
    odd = os.fsdecode(b'a/caf\xe9, \r "x".jpg')
    shutil.copy(smears[0], odd)
    running = process("classify", "-", "--run", trained.run_folder, "--batch-size", "1", cwd=tmp_path)
    assert running.stdin and running.stdout and running.stderr
    running.stdin.write(b"".join(os.fsencode(path) + b"\n" for path in [odd, *smears] * 12))
    running.stdin.close()
    out = b"".join(running.stdout.readline() for _ in range(5))
    running.stdout.close()  # as `head -5` does
    err = running.stderr.read()
    running.stderr.close()
    assert running.wait(timeout=120) == 0, err
    assert b"\x1b" not in out + err and b"Traceback" not in err
    text = out.decode("utf-8", errors="surrogateescape")
    assert [ascii(row["path"]) for row in rows_of(text)] == [ascii(path) for path in (odd, *smears)]
    assert os.fsencode(odd) in out.replace(b'""', b'"')
    assert b"\r" not in out.replace(os.fsencode(odd).replace(b'"', b'""'), b"")


def test_head_leaves_no_traceback(smears: list[str], trained: Trained, tmp_path: Path, leuk: Leuk) -> None:
    """In this process: a stdout that breaks on the second write."""
    import sys

    class Breaks(io.StringIO):
        def write(self, text: str) -> int:
            if self.tell():
                raise BrokenPipeError
            return super().write(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", Breaks())
        done = leuk("classify", *smears, "-w", trained.root, "--quiet")
    assert (done.code, done.out) == (0, "")
    assert "Traceback" not in done.err


def test_a_name_that_is_not_utf8_is_valid_json(smears: list[str], leuk: Leuk, trained: Trained) -> None:
    odd = os.fsdecode(b"a/\xff\xfe.jpg")
    shutil.copy(smears[0], odd)
    done = leuk("classify", odd, "-w", trained.root, "--json", "--quiet")
    assert done.out.isascii()
    assert ascii(done.json()[0]["path"]) == ascii(odd)
    table = leuk("classify", odd, "a/\x1b]0;title\x07.jpg", "-w", trained.root, "--format", "table", "-q")
    assert table.code == 3
    assert "\x1b" not in table.out + table.err, "a name cannot command the terminal"
    assert "a/\\x1b]0;title\\x07.jpg" in table.out
    assert "\\xff\\xfe.jpg" in table.out


# ------------------------------------------------------------------------------------------------ broken inputs


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and ends: it is a few bytes long, whatever it claims."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def test_each_broken_input_is_one_row_and_the_rest_go_on(
    smears: list[str], leuk: Leuk, trained: Trained, tmp_path: Path
) -> None:
    good = smears[0]
    whole = Path(good).read_bytes()
    frames = [Image.new("L", (32, 32), shade) for shade in (0, 128, 255)]
    frames[0].save("moving.gif", save_all=True, append_images=frames[1:])
    Path("zero.png").write_bytes(b"")
    Path("cut.jpg").write_bytes(whole[: len(whole) // 2])
    Path("text.jpg").write_text("not a picture")
    Image.new("RGB", (1, 1)).save("dot.png")
    Path("bomb.png").write_bytes(_png_header(40_000, 40_000))
    Path("folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("nothing")
    broken = {
        "zero.png": "0 bytes",
        "cut.jpg": "truncated",
        "text.jpg": "looks like text",
        "dot.png": "too few",
        "moving.gif": "frames",
        "bomb.png": "--max-megapixels",
        "folder.png": "folder",
        "link.png": "link",
        "gone.png": "no such file",
        "n" * 300 + ".png": "name too long",
    }
    given = [word for name in broken for word in (name, good)]
    done = leuk("classify", *given, "-w", trained.root, "--batch-size", "3", "--json", "-v")
    assert done.code == 3
    rows = done.json()
    assert [row["path"] for row in rows] == given
    for row in rows[::2]:
        assert (row["decision"], row["label"], row["confidence"], row["score_ALL"]) == ("error", None, None, None)
        assert broken[row["path"]] in row["error"], row
        assert row["path"] in row["error"]
    assert not {row["decision"] for row in rows[1::2]} - {"label", "abstain"}
    scores = [row["score_ALL"] for row in rows[1::2]]
    assert max(scores) - min(scores) < SAME, "a broken neighbour changes no score"
    assert done.error_lines[0] == f"error: {len(broken)} of {len(given)} inputs could not be used"


def test_a_file_that_may_not_be_read_is_a_row(smears: list[str], leuk: Leuk, trained: Trained) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    Path(smears[0]).chmod(0)
    done = leuk("classify", *smears, "-w", trained.root)
    assert done.code == 3
    assert [row["decision"] == "error" for row in rows_of(done.out)] == [True, False, False]
    assert "permission" in rows_of(done.out)[0]["error"]


def test_one_picture_in_many_forms(smears: list[str], leuk: Leuk, trained: Trained) -> None:
    """The same pixels give the same scores; forms that cannot hold the same pixels still give a row."""
    with Image.open(smears[0]) as opened:
        plain = opened.convert("RGB")
    plain.save("plain.png")
    plain.convert("RGBA").save("rgba.png")
    plain.save("plain.bmp")
    plain.save("plain.tif")
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned a quarter clockwise
    plain.transpose(Image.Transpose.ROTATE_90).save("turned.png", exif=turned)
    plain.convert("P", palette=Image.Palette.ADAPTIVE).save("palette.png")
    plain.convert("CMYK").save("cmyk.jpg", quality=95)
    grey = np.asarray(plain.convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save("grey16.png")
    plain.convert("L").save("grey8.png")
    names = ["plain.png", "rgba.png", "plain.bmp", "plain.tif", "turned.png"]
    others = ["palette.png", "cmyk.jpg", "grey16.png", "grey8.png"]
    done = leuk("classify", *names, *others, "-w", trained.root, "--json", "-v")
    assert done.code == 0
    scores = {row["path"]: row["score_ALL"] for row in done.json()}
    assert max(scores[name] for name in names) - min(scores[name] for name in names) < SAME, scores
    assert scores["grey16.png"] == pytest.approx(scores["grey8.png"], abs=SAME)
    assert all(0 < scores[name] < 1 for name in others)


def test_neighbours_batches_and_threads_change_no_score(smears: list[str], leuk: Leuk, trained: Trained) -> None:
    seen: dict[str, list[float]] = {path: [] for path in smears}
    for given, flags in (
        (smears, ()),
        (smears[::-1], ("--batch-size", "1", "--workers", "1")),
        (smears + smears[:1], ("--batch-size", "2", "--workers", "3")),
        (smears[1:2], ()),
    ):
        for row in leuk("classify", *given, *flags, "-w", trained.root, "--json", "-q").json():
            seen[row["path"]].append(row["score_ALL"])
    for scores in seen.values():
        assert max(scores) - min(scores) < SAME, seen


# ------------------------------------------------------------------------------------------------- where it goes


def test_output_takes_its_name_when_all_rows_are_there(smears: list[str], leuk: Leuk, trained: Trained) -> None:
    Path("found.csv").write_text("old")
    done = leuk("classify", *smears, "-w", trained.root, "--output", "found.csv", "--quiet")
    assert (done.code, done.out) == (0, "")
    assert [row["path"] for row in rows_of(Path("found.csv").read_text())] == smears
    assert not Path("found.csv.partial").exists()
    done = leuk(
        "classify", smears[0], "gone.png", "-w", trained.root, "--output", "new/found.jsonl", "--format", "jsonl"
    )
    assert (done.code, done.out) == (3, "")
    lines = Path("new/found.jsonl").read_text().splitlines()
    assert [json.loads(line)["decision"] == "error" for line in lines] == [False, True]


def test_output_that_fails_keeps_what_was_there(
    smears: list[str], leuk: Leuk, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    from leukemia_cli.learning.classifier import Classifier

    Path("found.csv").write_text("old")

    def fails(self: Classifier, views: object) -> Any:
        raise RuntimeError("planted")

    monkeypatch.setattr(Classifier, "look", fails)
    done = leuk("classify", *smears, "-w", trained.root, "--output", "found.csv", "--quiet")
    assert done.code == 1
    assert Path("found.csv").read_text() == "old"
    assert Path("found.csv.partial").exists()


def test_table_on_a_terminal(smears: list[str], trained: Trained, process: Start, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    environment = {"TERM": "xterm", "COLUMNS": "160", "NO_COLOR": "1"}
    arguments = ("classify", smears[0], "--run", trained.run_folder, "--quiet")
    running = process(*arguments, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is gone when the process is
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    assert running.wait(timeout=60) == 0
    text = shown.decode()
    assert "┃ image" in text.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert "score_ALL" not in text
    assert "research use only" in " ".join(text.split())
    assert not [code for code in ("\x1b[3", "\x1b[4", "\x1b[9") if code + "1m" in text or code + "3m" in text], (
        "no colour"
    )


def test_table_by_flag_without_a_terminal(smears: list[str], leuk: Leuk, trained: Trained) -> None:
    run = ("-w", trained.root, "--run", trained.run)
    done = leuk("classify", *smears, "gone.png", *run, "--format", "table", "--quiet")
    assert done.code == 3
    lines = done.out.splitlines()
    assert lines[0] == f"run {trained.run} (research use only)"
    assert lines[1].split() == ["image", "label", "confidence", "decision"]
    assert [line.split()[0] for line in lines[2:]] == [*smears, "gone.png"]
    assert "error: " in lines[-1] and "gone.png" in lines[-1]
    assert "\x1b" not in done.out


# ----------------------------------------------------------------------------------------------------- which run


def test_a_run_by_path_needs_no_workspace_and_may_be_moved(
    smears: list[str], leuk: Leuk, trained: Trained, tmp_path: Path
) -> None:
    here = leuk("classify", *smears, "-w", trained.root, "--run", trained.run, "--json", "-q").json()
    moved = tmp_path / "elsewhere"
    shutil.copytree(trained.run_folder, moved)
    assert (
        leuk("classify", *smears, "--run", "elsewhere", "--json", "-q").json() == here
    )  # same batches: to the last bit
    assert leuk("classify", *smears, "--run", moved / "run.json", "--json", "-q").json() == here


def test_where_no_run_is_named_it_is_the_best_and_that_is_said(smears: list[str], leuk: Leuk, trained: Trained) -> None:
    made = [trained.documents[name] for name in ("train", "fit-svm")]
    best = max(enumerate(made), key=lambda run: (run[1]["validation"]["balanced_accuracy"], run[0]))[1]
    score = best["validation"]["balanced_accuracy"]
    done = leuk("classify", smears[0], "-w", trained.root)
    assert f"run {best['run']} (best of this manifest; validation balanced accuracy {score:.3f})" in done.err
    assert {row["run"] for row in rows_of(done.out)} == {best["run"]}
    silent = leuk("classify", smears[0], "-w", trained.root, "-q")
    assert silent.out == done.out
    assert all(line.startswith("warning:") for line in silent.err.splitlines())
