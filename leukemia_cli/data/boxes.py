"""Layouts in which boxes say what cells are, and nothing says what an image is: Pascal VOC, YOLO and COCO.

Their images have the label "" and marks. What boxes are called is up to a data set: a task file says what it means.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable

from leukemia_cli.data.discovery import FoundFiles, find_folders, find_images
from leukemia_cli.data.marks import read_class_names, read_coco, read_voc, read_yolo
from leukemia_cli.data.sources import FoundImage, Mark, Reading, Source, listed, other_formats, relative_path
from leukemia_cli.domain import Task, counted
from leukemia_cli.errors import DataError

_SPLIT_FOLDERS = frozenset({"train", "val", "valid", "validation", "test"})
_VOC_FOLDERS = {"JPEGImages": "Annotations", "images": "annotations"}


def _marked(source: Source, path: str, marks: tuple[Mark, ...]) -> FoundImage:
    relative = relative_path(path, source.path)
    return FoundImage(path=path, relative=relative, inner=relative, label="", marks=marks)


def _reading(source: Source, found: FoundFiles, images: list[FoundImage], notes: Iterable[str]) -> Reading:
    cells = sum(len(image.marks or ()) for image in images)
    told = [f"{source.name}: {counted(cells, 'box', 'boxes')} in {counted(len(images), 'image')}"]
    told += [*notes, *other_formats(source.path, found)]
    return Reading(images=tuple(images), groups_source="none", notes=tuple(told))


def _beside(path: str, folder: str, other: str) -> str:
    """Give a path with the last `folder` among its folders replaced by `other`; unchanged where it has none."""
    parts = path.split(os.sep)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == folder:
            return os.sep.join((*parts[:place], other, *parts[place + 1 :]))
    return path


# ----------------------------------------------------------------------------------------------------------- VOC


def _voc_file(path: str) -> str | None:
    """Give the annotation of an image: Annotations/x.xml for JPEGImages/x.jpg, or x.xml beside it; None for none."""
    stem = os.path.splitext(path)[0]
    tried = [_beside(stem, *pair) + ".xml" for pair in _VOC_FOLDERS.items()]
    return next((file for file in (*tried, stem + ".xml") if os.path.isfile(file)), None)


def recognise_voc(source: Source, task: Task) -> str | None:
    """Recognise JPEGImages and Annotations, or annotations beside images that lie in no class folder."""
    del task
    places = [source.path]
    for name in find_folders(source.path):
        if name in _VOC_FOLDERS or name.lower() in _SPLIT_FOLDERS:
            places.append(os.path.join(source.path, name))
    for place in places:
        found = find_images(place, deep=False)
        apart = _VOC_FOLDERS.get(os.path.basename(place), "")
        if ".xml" not in found.others and not (apart and os.path.isdir(os.path.join(os.path.dirname(place), apart))):
            continue
        for path in found.images:
            file = _voc_file(path)
            if file is not None and _begins(file, b"<annotation"):
                return f"{relative_path(path, source.path)} has the annotation {file}"
    return None


def read_voc_set(source: Source, task: Task) -> Reading:
    """Read every image that has an annotation; one without is left out, for nothing says that it has no cells."""
    del task
    found = find_images(source.path)
    annotations = [(path, _voc_file(path)) for path in found.images]
    images = [_marked(source, path, read_voc(file)) for path, file in annotations if file is not None]
    without = [relative_path(path, source.path) for path, file in annotations if file is None]
    return _reading(source, found, images, _left_out(source, without, "annotation (.xml)", images))


def _left_out(source: Source, without: list[str], what: str, images: list[FoundImage]) -> list[str]:
    if not images:
        raise DataError(
            f"no image below {source.path} has an {what}",
            "VOC: Annotations/x.xml for JPEGImages/x.jpg, or x.xml beside x.jpg"
            if what.startswith("annotation")
            else "Name the folder that holds both the images and the file",
        )
    if not without:
        return []
    return [f"{source.name}: {counted(len(without), 'image')} without {what} left out: {listed(without)}"]


def _begins(file: str, mark: bytes) -> bool:
    try:
        with open(file, "rb") as opened:
            return mark in opened.read(2048)
    except OSError:
        return False


# ---------------------------------------------------------------------------------------------------------- YOLO

_NAME_FILES = ("data.yaml", "data.yml", "classes.txt", "obj.names", os.path.join("labels", "classes.txt"))


def _names_file(source: Source) -> str | None:
    """Give the file of class names; the YAML of Ultralytics goes before the lists of other tools."""
    places = (os.path.join(source.path, name) for name in _NAME_FILES)
    return next((place for place in places if os.path.isfile(place)), None)


def _yolo_file(path: str) -> str | None:
    """Give the label file of an image: labels/x.txt for images/x.jpg, or x.txt beside it; None for none.

    Source: `img2label_paths` of Ultralytics; beside the image as in Darknet's obj_train_data.
    """
    stem = os.path.splitext(path)[0]
    tried = (_beside(stem, "images", "labels") + ".txt", stem + ".txt")
    return next((file for file in tried if os.path.isfile(file)), None)


def recognise_yolo(source: Source, task: Task) -> str | None:
    """Recognise a file of class names together with a label file for at least one image."""
    del task
    names = _names_file(source)
    if names is None:
        return None
    file = next((file for path in find_images(source.path).images if (file := _yolo_file(path))), None)
    return None if file is None else f"{names} names classes and {file} holds boxes"


def read_yolo_set(source: Source, task: Task) -> Reading:
    """Read every image; one without a label file has no cells of the named classes, as Ultralytics has it."""
    del task
    names_file = _names_file(source)
    if names_file is None:
        raise DataError(
            f"{source.path} names no classes for its YOLO labels", f"Put one of these into it: {', '.join(_NAME_FILES)}"
        )
    names = read_class_names(names_file)
    found = find_images(source.path)
    files = [(path, _yolo_file(path)) for path in found.images]
    images = [_marked(source, path, read_yolo(file, names) if file else ()) for path, file in files]
    without = [relative_path(path, source.path) for path, file in files if file is None]
    if images and len(without) == len(images):
        raise DataError(
            f"no image below {source.path} has a label file (.txt)",
            "YOLO: labels/x.txt for images/x.jpg, or x.txt beside x.jpg",
        )
    notes = [f"{source.name}: classes of boxes are named by {names_file}"]
    if without:
        notes.append(
            f"{source.name}: {counted(len(without), 'image')} without a label file, so without cells: {listed(without)}"
        )
    return _reading(source, found, images, notes)


# ---------------------------------------------------------------------------------------------------------- COCO


def _coco_files(source: Source) -> list[str]:
    """Give the COCO files in a source, in annotations/ or in another folder right below it."""
    folders = [source.path, *(os.path.join(source.path, name) for name in find_folders(source.path))]
    files = [os.path.join(folder, name) for folder in folders for name in _json_names(folder)]
    return [file for file in files if _is_coco(file)]


def _json_names(folder: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(name for name in names if name.lower().endswith(".json") and not name.startswith("."))


def _is_coco(file: str) -> bool:
    try:
        with open(file, "rb") as opened:
            content = opened.read()
    except OSError:
        return False
    return all(b'"%s"' % key in content for key in (b"images", b"annotations", b"categories", b"bbox"))


def recognise_coco(source: Source, task: Task) -> str | None:
    """Recognise a JSON file that has images, annotations with boxes, and categories."""
    del task
    files = _coco_files(source)
    return (
        f"{listed(files)} {'hold' if len(files) > 1 else 'holds'} images, annotations and categories" if files else None
    )


def read_coco_set(source: Source, task: Task) -> Reading:
    """Read every image that a COCO file lists; raises DataError where a file name fits none or several on disk."""
    del task
    files = _coco_files(source)
    found = find_images(source.path)
    if not files:
        raise DataError(f"no COCO file in {source.path}", "It is a JSON with images, annotations and categories")
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in found.images:
        by_name[os.path.basename(path)].append(path)
    images: dict[str, tuple[str, FoundImage]] = {}
    notes = []
    for file in files:
        stored = read_coco(file)
        for name, marks in stored.images:
            path = _listed_image(file, name, by_name)
            if path in images:
                raise DataError(f"{path} is listed in {images[path][0]} and again in {file}", "Keep one of the two")
            images[path] = (file, _marked(source, path, marks))
        if stored.crowds:
            notes.append(f"{source.name}: {counted(stored.crowds, 'box', 'boxes')} of crowds in {file} passed over")
    without = [relative_path(path, source.path) for path in found.images if path not in images]
    kept = [image for _, image in images.values()]
    return _reading(source, found, kept, [*notes, *_left_out(source, without, "entry in a COCO file", kept)])


def _listed_image(file: str, name: str, by_name: dict[str, list[str]]) -> str:
    """Give the image on disk that a COCO file means: the one beside it, or the only one whose path ends so."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    tail = os.sep.join(parts)
    fitting = [path for path in by_name.get(parts[-1] if parts else "", ()) if path.endswith(os.sep + tail)]
    beside = os.path.join(os.path.dirname(file), tail)
    if beside in fitting:
        return beside
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise DataError(f"{file} lists {name}, and {counted(len(fitting), 'image')} are so named", "Move one elsewhere")
    raise DataError(f"{file} lists {name}, which is not there", "Put the images below the same folder")
