"""Read what data sets say of single cells: files of points and of boxes, each in the form its authors chose.

Whatever is damaged raises DataError with the file and the line; a cell is never passed over in silence.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

from leukemia_cli.data.plain_yaml import read_plain
from leukemia_cli.data.sources import Mark
from leukemia_cli.errors import DataError

_MEND = "Mend or delete the line"
_DEEPEST = 5
"""How deep an annotation's elements can mean anything: annotation/object/part/bndbox/xmin."""
_ROUNDING = 1e-5  # tools write boxes at the edge of an image with six decimals, rounded outwards


# -------------------------------------------------------------------------------------------------------- points


def read_xyc(path: str, label: str) -> tuple[Mark, ...]:
    """Read a file of centroids, x and y in px on each line; blank lines say nothing. Raises DataError for other lines.

    Source: ALL-IDB1's own files (Donida Labati, Piuri, Scotti, ICIP 2011); a healthy image's holds white space alone.
    """
    marks = []
    for place, words in _lines(path):
        if len(words) != 2:
            raise DataError(f"{place} holds {' '.join(words)!r}, not the x and y of a cell", _MEND)
        x, y = _point(words, place)
        marks.append(Mark(x=x, y=y, label=label))
    return tuple(marks)


def read_typed_points(path: str) -> tuple[Mark, ...]:
    """Read a file of points, x and y in px and a kind on each line; raises DataError for a line of another form.

    Source: README of Chula-PIC-Lab/Chula-RBC-12-Dataset (x coordinate, y coordinate, type of RBC in number).
    """
    marks = []
    for place, words in _lines(path):
        if len(words) != 3:
            raise DataError(f"{place} holds {' '.join(words)!r}, not the x, y and kind of a cell", _MEND)
        x, y = _point(words[:2], place)
        marks.append(Mark(x=x, y=y, label=words[2]))
    return tuple(marks)


def _point(words: Sequence[str], place: str) -> tuple[float, float]:
    x, y = (_number(word, place) for word in words)
    if x < 0 or y < 0:
        raise DataError(f"{place} lies outside its image: {' '.join(words)}", _MEND)
    return x, y


# ----------------------------------------------------------------------------------------------------------- VOC


def read_voc(path: str) -> tuple[Mark, ...]:
    """Read the boxes of one Pascal VOC annotation; the flags `difficult` and `truncated` change nothing.

    Corners are taken as written: VOC counts pixels from 1 and most tools from 0, and one px is nothing beside a cell.
    Raises DataError for what is no XML, no annotation, or a box without a name or with corners that are none.
    Source: Everingham et al.: The PASCAL Visual Object Classes Challenge 2012, development kit.
    """
    reader = _VocReader(path=path)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = lambda name, _: reader.start(name, parser.CurrentLineNumber)
    parser.EndElementHandler = lambda _: reader.end(parser.CurrentLineNumber)
    parser.CharacterDataHandler = reader.text
    parser.EntityDeclHandler = reader.entity
    try:
        parser.Parse(_bytes(path), True)
    except expat.ExpatError as error:
        raise DataError(
            f"{path} line {error.lineno} is no XML: {expat.ErrorString(error.code)}", "Fetch it again, or leave it out"
        ) from error
    except (LookupError, ValueError) as error:
        raise DataError(f"{path} is in an encoding that is not known: {error}", "Save it in UTF-8") from error
    return tuple(reader.marks)


@dataclass(slots=True, kw_only=True)
class _VocReader:
    """Gather the objects of an annotation while it is parsed; `found` are the texts of the object that is open."""

    path: str
    marks: list[Mark] = field(default_factory=list)
    stack: list[str] = field(default_factory=list)
    found: dict[str, tuple[str, str]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)

    def start(self, name: str, line: int) -> None:
        self.stack.append(name)
        self.words.clear()
        if self.stack == ["annotation", "object"]:
            self.found = {}
        elif len(self.stack) == 1 and name != "annotation":
            raise DataError(f"{self.path} line {line} begins {name!r}, not a VOC annotation", "Move it elsewhere")

    def text(self, words: str) -> None:
        self.words.append(words)

    def end(self, line: int) -> None:
        place = f"{self.path} line {line}"
        if self.stack[:2] == ["annotation", "object"]:
            if len(self.stack) <= _DEEPEST:  # below it nothing is looked for, and paths would grow with the square
                self.found["/".join(self.stack[2:])] = ("".join(self.words).strip(), place)
            if len(self.stack) == 2:
                self.marks.append(self._mark(place))
        self.stack.pop()
        self.words.clear()

    def entity(self, *told: object) -> None:
        del told
        raise DataError(
            f"{self.path} defines XML entities, which no annotation needs", "Fetch it again from its source"
        )

    def _mark(self, place: str) -> Mark:
        label = self.found.get("name", ("", place))[0]
        if not label:
            raise DataError(f"{place} ends an object without a name", "Name it, or delete the object")
        corners = []
        for corner in ("xmin", "ymin", "xmax", "ymax"):
            if (found := self.found.get(f"bndbox/{corner}")) is None:
                raise DataError(f"{place} ends an object ({label}) without {corner}", "Give its box, or delete it")
            corners.append(_number(*found))
        left, top, right, bottom = corners
        if right < left or bottom < top or right < 0 or bottom < 0:
            box = ", ".join(f"{corner:g}" for corner in corners)
            raise DataError(f"{place} ends an object ({label}) whose box is none: {box}", "Mend or delete the object")
        return _boxed(left, top, right - left, bottom - top, label)


# ---------------------------------------------------------------------------------------------------------- YOLO


def read_yolo(path: str, names: Mapping[int, str]) -> tuple[Mark, ...]:
    """Read a YOLO label file: class, then centre and size of a box in parts of the image; raises DataError else.

    Source: docs.ultralytics.com/datasets/detect, "Ultralytics YOLO format".
    """
    marks = []
    for place, words in _lines(path):
        if len(words) != 5:
            raise DataError(
                f"{place} has {len(words)} numbers, not the 5 of a box", "Only boxes are read, no outlines or points"
            )
        if not words[0].isdecimal() or int(words[0]) not in names:
            raise DataError(f"{place} has the class {words[0]!r}; {len(names)} classes are named", _MEND)
        x, y, width, height = (_number(word, place) for word in words[1:])
        if min(x, y, width, height) < 0 or max(x, y, width, height) > 1 + _ROUNDING:
            raise DataError(
                f"{place} lies outside its image: {' '.join(words[1:])}", "Numbers must be parts of the image, 0 to 1"
            )
        marks.append(Mark(x=x, y=y, label=names[int(words[0])], width=width, height=height, relative=True))
    return tuple(marks)


def read_class_names(path: str) -> dict[int, str]:
    """Read the class names of a YOLO data set, from the `names` of a YAML or a line each of another file.

    Raises DataError where there are none.
    """
    if not path.lower().endswith((".yaml", ".yml")):
        return dict(enumerate(words for line in _text(path).splitlines() if (words := line.strip())))
    try:
        stored = read_plain(_text(path).encode())
    except ValueError as error:
        raise DataError(f"{path} is not valid YAML: {error}", "Mend it") from error
    names = stored.get("names") if isinstance(stored, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(isinstance(number, int) for number in names):
        raise DataError(f"{path} names no classes", "Write, for example, `names: [WBC, RBC]`")
    return {number: str(name) for number, name in names.items()}


# ---------------------------------------------------------------------------------------------------------- COCO


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoFile:
    """The images of a COCO file: each one's file name as written, and its cells; `crowds` boxes of many were passed."""

    images: tuple[tuple[str, tuple[Mark, ...]], ...]
    crowds: int


def read_coco(path: str) -> CocoFile:
    """Read the boxes of a COCO file of objects; a box of a crowd (`iscrowd`) is no cell. Raises DataError if damaged.

    Source: cocodataset.org/#format-data, "Object Detection": bbox is x, y of the upper left corner, width, height.
    """
    try:
        stored = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} line {error.lineno} is no JSON: {error.msg}", "Fetch it again") from error
    except (RecursionError, ValueError) as error:  # nested without end, or a number of thousands of digits
        raise DataError(f"{path} is no JSON of boxes: {error}", "Fetch it again") from error
    parts = {
        part: _entries(stored, part, keys, path)
        for part, keys in (
            ("images", ("id", "file_name")),
            ("annotations", ("image_id", "category_id", "bbox")),
            ("categories", ("id", "name")),
        )
    }
    kinds = {entry["id"]: str(entry["name"]) for entry in parts["categories"]}
    marks: dict[Any, list[Mark]] = {entry["id"]: [] for entry in parts["images"]}
    crowds = 0
    for number, entry in enumerate(parts["annotations"]):
        place = f"{path}, annotations[{number}],"
        if entry["image_id"] not in marks or entry["category_id"] not in kinds:
            raise DataError(
                f"{place} is of image {entry['image_id']!r} and category {entry['category_id']!r}, and one of them is "
                "not listed",
                "Fetch the file again",
            )
        if entry.get("iscrowd"):
            crowds += 1
            continue
        box = entry["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(_is_size(value) for value in box[2:]):
            raise DataError(f"{place} has the box {box!r}, not x, y, width and height", "Mend or delete it")
        left, top, width, height = (_number(str(value), place) for value in box)
        marks[entry["image_id"]].append(_boxed(left, top, width, height, kinds[entry["category_id"]]))
    return CocoFile(
        images=tuple((str(entry["file_name"]), tuple(marks[entry["id"]])) for entry in parts["images"]), crowds=crowds
    )


def _entries(stored: object, part: str, keys: Sequence[str], path: str) -> list[dict[str, Any]]:
    entries = stored.get(part) if isinstance(stored, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{path} has no list of {part}", "Is it a COCO file of objects?")
    for number, entry in enumerate(entries):
        lacking = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        if lacking:
            raise DataError(f"{path}, {part}[{number}], has no {lacking[0]}", "Fetch the file again")
        if any(isinstance(entry[key], list | dict) for key in keys if key != "bbox"):
            raise DataError(f"{path}, {part}[{number}], has a list where a number must stand", "Fetch the file again")
    return entries


def _is_size(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


# -------------------------------------------------------------------------------------------------------- shared


def _boxed(left: float, top: float, width: float, height: float, label: str) -> Mark:
    return Mark(x=left + width / 2, y=top + height / 2, label=label, width=width, height=height)


def _lines(path: str) -> list[tuple[str, list[str]]]:
    """Give each line that is not blank: where it stands, and its words."""
    numbered = ((number, line.split()) for number, line in enumerate(_text(path).splitlines(), start=1))
    return [(f"{path} line {number}", words) for number, words in numbered if words]


def _bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DataError(f"cannot read {path}: {os.strerror(error.errno or 0)}", "Make it readable") from error


def _text(path: str) -> str:
    try:
        return _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text", "Fetch it again, or leave it out") from error


def _number(word: str, place: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{place} has {word!r} where a number must stand", _MEND)
    return value
